//! Every difference between PostgreSQL 14 and 18 that the extension meets.

use pgrx::pg_sys;

use super::raw;

mod nodes;
mod query;
mod run;

pub use nodes::*;
pub use query::{Told, for_each_named_relation};
pub use run::ExecutorRun;

/// The number of the running transaction in this process, until its end is decided; 0: there is none. Never throws.
pub fn local_transaction() -> u32 {
    // SAFETY: NULL, or this process's own.
    unsafe {
        let Some(me) = pg_sys::MyProc.as_ref() else {
            return 0;
        };
        #[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16"))]
        return me.lxid;
        #[cfg(not(any(feature = "pg14", feature = "pg15", feature = "pg16")))]
        return me.vxid.lxid;
    }
}

/// How a statement uses a relation: the privileges (`ACL_*`) that it needs, and the columns.
pub struct Use {
    pub relid: pg_sys::Oid,
    pub privileges: u64,
    pub selected: *mut pg_sys::Bitmapset,
    pub inserted: *mut pg_sys::Bitmapset,
    pub updated: *mut pg_sys::Bitmapset,
}

/// Calls `f` with each relation that the statement needs a privilege on, in range-table order.
/// Relations reached through a parent (partitions, inheritance children) need none and are left
/// out. Never throws itself.
///
/// # Safety
/// `stmt` is a valid planned statement.
#[cfg(any(feature = "pg14", feature = "pg15"))]
#[inline(always)]
pub unsafe fn for_each_use(stmt: *const pg_sys::PlannedStmt, mut f: impl FnMut(Use)) {
    unsafe {
        for_each_pointer((*stmt).rtable, |node: *mut pg_sys::RangeTblEntry| {
            if (*node).rtekind == pg_sys::RTEKind::RTE_RELATION && (*node).requiredPerms != 0 {
                f(Use {
                    relid: (*node).relid,
                    privileges: (*node).requiredPerms as u64,
                    selected: (*node).selectedCols,
                    inserted: (*node).insertedCols,
                    updated: (*node).updatedCols,
                });
            }
        });
    }
}

/// As above: from 16 on, privileges have a list of their own.
///
/// # Safety
/// `stmt` is a valid planned statement.
#[cfg(not(any(feature = "pg14", feature = "pg15")))]
#[inline(always)]
pub unsafe fn for_each_use(stmt: *const pg_sys::PlannedStmt, mut f: impl FnMut(Use)) {
    unsafe {
        for_each_pointer((*stmt).permInfos, |info: *mut pg_sys::RTEPermissionInfo| {
            if (*info).requiredPerms != 0 {
                f(Use {
                    relid: (*info).relid,
                    privileges: (*info).requiredPerms as u64,
                    selected: (*info).selectedCols,
                    inserted: (*info).insertedCols,
                    updated: (*info).updatedCols,
                });
            }
        });
    }
}

/// What the entries of a range table refer to for their privileges, from 16 on; before, they have them.
#[cfg(any(feature = "pg14", feature = "pg15"))]
#[derive(Clone, Copy)]
struct Privileges;
#[cfg(not(any(feature = "pg14", feature = "pg15")))]
type Privileges = *const pg_sys::List;

/// Whether a range-table entry stands for a relation that the statement needs a privilege on.
#[cfg(any(feature = "pg14", feature = "pg15"))]
unsafe fn needs_privilege(entry: *const pg_sys::RangeTblEntry) -> bool {
    unsafe { (*entry).requiredPerms != 0 }
}

/// As above: from 16 on, the entry refers to its privileges.
#[cfg(not(any(feature = "pg14", feature = "pg15")))]
unsafe fn needs_privilege(entry: *const pg_sys::RangeTblEntry) -> bool {
    unsafe { (*entry).perminfoindex != 0 }
}

const WRITES: u32 = pg_sys::ACL_INSERT | pg_sys::ACL_UPDATE | pg_sys::ACL_DELETE;

/// Whether it needs one to write to it.
#[cfg(any(feature = "pg14", feature = "pg15"))]
unsafe fn is_written(entry: *const pg_sys::RangeTblEntry, _: Privileges) -> bool {
    unsafe { (*entry).requiredPerms & WRITES != 0 }
}

/// As above.
#[cfg(not(any(feature = "pg14", feature = "pg15")))]
unsafe fn is_written(entry: *const pg_sys::RangeTblEntry, all: Privileges) -> bool {
    unsafe {
        let its: *const pg_sys::RTEPermissionInfo =
            element_of(all, (*entry).perminfoindex as core::ffi::c_int);
        !its.is_null() && (*its).requiredPerms & u64::from(WRITES) != 0
    }
}

/// The element of number `index` (from 1) of a list of pointers; NULL where there is none.
unsafe fn element_of<T>(list: *const pg_sys::List, index: core::ffi::c_int) -> *const T {
    unsafe {
        if list.is_null() || index < 1 || index > (*list).length {
            return core::ptr::null();
        }
        (*(*list).elements.add(index as usize - 1)).ptr_value.cast()
    }
}

/// What a statement that writes writes to.
#[derive(Clone, Copy)]
pub struct Target {
    /// The table as it was named: not its partitions, and under a view the table below.
    pub relid: pg_sys::Oid,
    rtable: *const pg_sys::List,
    privileges: Privileges,
}

impl Target {
    pub const NONE: Target = Target {
        relid: pg_sys::InvalidOid,
        rtable: core::ptr::null(),
        #[cfg(any(feature = "pg14", feature = "pg15"))]
        privileges: Privileges,
        #[cfg(not(any(feature = "pg14", feature = "pg15")))]
        privileges: core::ptr::null(),
    };

    /// Whether the statement is the action of a rule of this view: the rewriter leaves the entries `old` and
    /// `new` of it in the action's range table (PRS2_OLD_VARNO). From 16 on they need the right to read it.
    /// Never throws.
    pub fn is_of_rule(&self, relid: pg_sys::Oid) -> bool {
        let mut found = false;
        // SAFETY: the statement that the target was read from outlives it.
        unsafe {
            for_each_pointer(self.rtable, |entry: *mut pg_sys::RangeTblEntry| {
                found = found
                    || ((*entry).rtekind == pg_sys::RTEKind::RTE_RELATION
                        && (*entry).relid == relid
                        && !(*entry).alias.is_null()
                        && !is_written(entry, self.privileges)
                        && matches!(
                            super::raw::bytes((*(*entry).alias).aliasname),
                            b"old" | b"new"
                        ));
            });
        }
        found
    }
}

/// What a planned statement writes to. Never throws.
///
/// # Safety
/// `stmt` is a valid planned statement.
#[inline]
pub unsafe fn target_of_plan(stmt: *const pg_sys::PlannedStmt) -> Target {
    unsafe {
        if (*stmt).resultRelations.is_null() {
            Target::NONE
        } else {
            written_by_plan(stmt)
        }
    }
}

#[inline(never)]
unsafe fn written_by_plan(stmt: *const pg_sys::PlannedStmt) -> Target {
    unsafe {
        let results = (*stmt).resultRelations;
        #[cfg(any(feature = "pg14", feature = "pg15"))]
        let privileges = Privileges;
        #[cfg(not(any(feature = "pg14", feature = "pg15")))]
        let privileges = (*stmt).permInfos;
        // Partitions come first, then their parent: it alone needs a privilege.
        for i in 0..(*results).length {
            let index = (*(*results).elements.add(i as usize)).int_value;
            let entry: *const pg_sys::RangeTblEntry = element_of((*stmt).rtable, index);
            if !entry.is_null() && needs_privilege(entry) {
                return Target {
                    relid: (*entry).relid,
                    rtable: (*stmt).rtable,
                    privileges,
                };
            }
        }
        Target::NONE
    }
}

/// As [`target_of_plan`], before the statement is planned. Never throws.
///
/// # Safety
/// `query` is a valid rewritten query.
pub unsafe fn target_of_query(query: *const pg_sys::Query) -> Target {
    unsafe {
        let entry: *const pg_sys::RangeTblEntry =
            element_of((*query).rtable, (*query).resultRelation);
        if entry.is_null() {
            return Target::NONE;
        }
        Target {
            relid: (*entry).relid,
            rtable: (*query).rtable,
            #[cfg(any(feature = "pg14", feature = "pg15"))]
            privileges: Privileges,
            #[cfg(not(any(feature = "pg14", feature = "pg15")))]
            privileges: (*query).rteperminfos,
        }
    }
}

/// Calls `f` with each table that the transaction has changed so far, and how many rows; `false` where
/// that isn't to be had: the server keeps it to itself.
#[cfg(feature = "pg14")]
pub unsafe fn for_each_written(_f: impl FnMut(pg_sys::Oid, i64)) -> bool {
    false
}

/// Calls `f` with each table that the transaction has changed so far, and how many rows; `false` where
/// nothing is counted (track_counts is off). Throws only what `f` does, or for lack of memory.
///
/// # Safety
/// In a transaction, outside of subtransactions.
#[cfg(not(feature = "pg14"))]
pub unsafe fn for_each_written(mut f: impl FnMut(pg_sys::Oid, i64)) -> bool {
    /// utils/pgstat_internal.h, which pgrx doesn't bind; the same from 15 to 18 but for names.
    #[repr(C)]
    struct SubXact {
        nest_level: core::ffi::c_int,
        previous: *mut SubXact,
        dropped: [*mut core::ffi::c_void; 2],
        dropped_count: core::ffi::c_int,
        first: *mut pg_sys::PgStat_TableXactStatus,
    }
    unsafe extern "C-unwind" {
        fn pgstat_get_xact_stack_level(nest_level: core::ffi::c_int) -> *mut SubXact;
    }
    unsafe {
        if !pg_sys::pgstat_track_counts {
            return false;
        }
        let mut table = (*pgstat_get_xact_stack_level(1)).first;
        while let Some(counts) = table.as_ref() {
            let rows = counts.tuples_inserted + counts.tuples_updated + counts.tuples_deleted;
            // PgStat_TableStatus begins with the relation's OID.
            let relid = *counts.parent.cast::<pg_sys::Oid>();
            if rows > 0 || counts.truncdropped {
                f(relid, rows);
            }
            table = counts.next;
        }
        true
    }
}

/// Takes the rows that a query has counted back. Never throws.
///
/// # Safety
/// `estate` is that of a query that has just run.
pub unsafe fn forget_rows(estate: *mut pg_sys::EState) {
    unsafe {
        // What runs of one portal before this one came to, since 16.
        #[cfg(not(any(feature = "pg14", feature = "pg15")))]
        {
            (*estate).es_total_processed -= (*estate).es_processed;
        }
        (*estate).es_processed = 0;
    }
}

/// Whether a yes-or-no option of a utility statement says yes (as defGetBoolean reads it). Never
/// throws: what is neither is the statement's own error.
///
/// # Safety
/// `option` is a valid node.
pub unsafe fn option_is_on(option: *const pg_sys::DefElem) -> bool {
    use pg_sys::NodeTag::*;
    unsafe {
        let argument = (*option).arg;
        if argument.is_null() {
            return true;
        }
        match (*argument).type_ {
            T_Integer => integer(argument) != 0,
            T_String => {
                let text = super::raw::bytes(string(argument.cast()));
                text.eq_ignore_ascii_case(b"true") || text.eq_ignore_ascii_case(b"on")
            }
            #[cfg(not(feature = "pg14"))]
            T_Boolean => (*argument.cast::<pg_sys::Boolean>()).boolval,
            _ => false,
        }
    }
}

#[cfg(feature = "pg14")]
unsafe fn integer(node: *const pg_sys::Node) -> i32 {
    unsafe { (*node.cast::<pg_sys::Value>()).val.ival }
}

#[cfg(not(feature = "pg14"))]
unsafe fn integer(node: *const pg_sys::Node) -> i32 {
    unsafe { (*node.cast::<pg_sys::Integer>()).ival }
}

/// [`for_each_use`] without the columns.
///
/// # Safety
/// `stmt` is a valid planned statement.
#[inline(always)]
pub unsafe fn for_each_used_relation(
    stmt: *const pg_sys::PlannedStmt,
    mut f: impl FnMut(pg_sys::Oid, u64),
) {
    unsafe { for_each_use(stmt, |usage| f(usage.relid, usage.privileges)) };
}

/// As [`for_each_used_relation`], for a statement that is not planned yet: subqueries in FROM and CTEs
/// are walked too, and expressions where the parser says that there are subqueries in them. Throws as
/// [`for_each_named_relation`] does.
///
/// # Safety
/// `query` is a valid rewritten query.
#[unsafe(link_section = "audit_session")]
pub unsafe fn for_each_query_relation(query: *const pg_sys::Query, told: &mut dyn Told) {
    unsafe {
        if (*query).hasSubLinks {
            return for_each_named_relation(query, told);
        }
        query_relations(query, told);
        for_each_pointer((*query).rtable, |node: *mut pg_sys::RangeTblEntry| {
            if (*node).rtekind == pg_sys::RTEKind::RTE_SUBQUERY && !(*node).subquery.is_null() {
                for_each_query_relation((*node).subquery, told);
            }
        });
        for_each_pointer((*query).cteList, |cte: *mut pg_sys::CommonTableExpr| {
            let inner = (*cte).ctequery;
            if !inner.is_null() && (*inner).type_ == pg_sys::NodeTag::T_Query {
                for_each_query_relation(inner.cast(), told);
            }
        });
    }
}

#[cfg(any(feature = "pg14", feature = "pg15"))]
#[unsafe(link_section = "audit_session")]
unsafe fn query_relations(query: *const pg_sys::Query, told: &mut dyn Told) {
    unsafe {
        for_each_pointer((*query).rtable, |node: *mut pg_sys::RangeTblEntry| {
            if (*node).rtekind == pg_sys::RTEKind::RTE_RELATION && (*node).requiredPerms != 0 {
                told.relation((*node).relid, (*node).requiredPerms as u64);
            }
        });
    }
}

#[cfg(not(any(feature = "pg14", feature = "pg15")))]
#[unsafe(link_section = "audit_session")]
unsafe fn query_relations(query: *const pg_sys::Query, told: &mut dyn Told) {
    unsafe {
        for_each_pointer(
            (*query).rteperminfos,
            |info: *mut pg_sys::RTEPermissionInfo| {
                if (*info).requiredPerms != 0 {
                    told.relation((*info).relid, (*info).requiredPerms as u64);
                }
            },
        );
    }
}

/// Calls `f` with each pointer of a list. Never throws itself.
///
/// # Safety
/// `list` is NULL or a list of pointers to `T`.
#[inline(always)]
pub unsafe fn for_each_pointer<T>(list: *const pg_sys::List, mut f: impl FnMut(*mut T)) {
    unsafe {
        if list.is_null() {
            return;
        }
        for i in 0..(*list).length {
            f((*(*list).elements.add(i as usize)).ptr_value.cast::<T>());
        }
    }
}

/// Who the session authenticated as: only 16 and later know. Never throws.
#[cfg(any(feature = "pg14", feature = "pg15"))]
pub fn system_user() -> *const core::ffi::c_char {
    core::ptr::null()
}

/// Who the session authenticated as (`system_user`). Never throws.
#[cfg(not(any(feature = "pg14", feature = "pg15")))]
pub fn system_user() -> *const core::ffi::c_char {
    // SAFETY: returns a pointer to process-local state or NULL.
    unsafe { super::raw::GetSystemUser() }
}

/// Memory that a GUC check hook hands over as `extra`: the server frees it.
#[cfg(any(feature = "pg14", feature = "pg15"))]
pub unsafe fn guc_alloc(size: usize) -> *mut core::ffi::c_void {
    unsafe extern "C" {
        fn malloc(size: usize) -> *mut core::ffi::c_void;
    }
    unsafe { malloc(size) }
}

/// Memory that a GUC check hook hands over as `extra`: the server frees it.
#[cfg(not(any(feature = "pg14", feature = "pg15")))]
pub unsafe fn guc_alloc(size: usize) -> *mut core::ffi::c_void {
    unsafe extern "C-unwind" {
        fn guc_malloc(elevel: core::ffi::c_int, size: usize) -> *mut core::ffi::c_void;
    }
    unsafe { guc_malloc(pg_sys::LOG as core::ffi::c_int, size) }
}

/// The text of a string node. Never throws.
///
/// # Safety
/// `node` is a string node.
#[cfg(feature = "pg14")]
pub unsafe fn string(node: *const pg_sys::Value) -> *const core::ffi::c_char {
    unsafe { (*node).val.str_ }
}

/// The text of a string node. Never throws.
///
/// # Safety
/// `node` is a string node.
#[cfg(not(feature = "pg14"))]
pub unsafe fn string(node: *const pg_sys::String) -> *const core::ffi::c_char {
    unsafe { (*node).sval }
}

/// Whether GRANT role … WITH ADMIN OPTION, or REVOKE ADMIN OPTION FOR. Never throws.
///
/// # Safety
/// `stmt` is a valid node.
#[cfg(any(feature = "pg14", feature = "pg15"))]
pub unsafe fn admin_option(stmt: *const pg_sys::GrantRoleStmt) -> bool {
    unsafe { (*stmt).admin_opt }
}

/// As above: from 16 on the options are a list.
///
/// # Safety
/// `stmt` is a valid node.
#[cfg(not(any(feature = "pg14", feature = "pg15")))]
pub unsafe fn admin_option(stmt: *const pg_sys::GrantRoleStmt) -> bool {
    let mut found = false;
    unsafe {
        for_each_pointer((*stmt).opt, |option: *mut pg_sys::DefElem| {
            found |= super::raw::bytes((*option).defname) == b"admin";
        });
    }
    found
}

/// Columns conrelid and confrelid of pg_constraint (catalog/pg_constraint.h): 18 has conenforced
/// before them.
pub const CONSTRAINT_RELATIONS: [core::ffi::c_int; 2] = if cfg!(feature = "pg18") {
    [9, 13]
} else {
    [8, 12]
};

/// Whether CREATEROLE is enough to grant any role that is no superuser's (until 15).
pub const CREATEROLE_GRANTS_ANY: bool = cfg!(any(feature = "pg14", feature = "pg15"));

/// Whether this process holds just this lock. Never throws.
#[cfg(not(any(feature = "pg17", feature = "pg18")))]
pub unsafe fn holds_lock(tag: &pg_sys::LOCKTAG, mode: pg_sys::LOCKMODE) -> bool {
    unsafe extern "C-unwind" {
        fn LockHeldByMe(tag: *const pg_sys::LOCKTAG, mode: pg_sys::LOCKMODE) -> bool;
    }
    unsafe { LockHeldByMe(tag, mode) }
}

/// Whether this process holds just this lock. Never throws.
#[cfg(any(feature = "pg17", feature = "pg18"))]
pub unsafe fn holds_lock(tag: &pg_sys::LOCKTAG, mode: pg_sys::LOCKMODE) -> bool {
    unsafe extern "C-unwind" {
        fn LockHeldByMe(
            tag: *const pg_sys::LOCKTAG,
            mode: pg_sys::LOCKMODE,
            or_stronger: bool,
        ) -> bool;
    }
    unsafe { LockHeldByMe(tag, mode, false) }
}

/// The timeline that this server writes; outside of recovery. Doesn't throw.
#[cfg(feature = "pg14")]
pub fn timeline() -> u32 {
    // SAFETY: RecoveryInProgress() sets the variable where it isn't yet.
    unsafe {
        pg_sys::RecoveryInProgress();
        pg_sys::ThisTimeLineID
    }
}

/// The timeline that this server writes; outside of recovery. Doesn't throw.
#[cfg(not(feature = "pg14"))]
pub fn timeline() -> u32 {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::GetWALInsertionTimeLine() }
}

/// Whether the role owns the database, as superusers do. Throws (there is none).
///
/// # Safety
/// Where catalogs can be read.
pub unsafe fn owns_database(database: pg_sys::Oid, role: pg_sys::Oid) -> bool {
    #[cfg(any(feature = "pg14", feature = "pg15"))]
    unsafe {
        raw::pg_database_ownercheck(database, role)
    }
    #[cfg(not(any(feature = "pg14", feature = "pg15")))]
    unsafe {
        raw::object_ownercheck(pg_sys::DatabaseRelationId, database, role)
    }
}
