//! The guard over utility statements: those that name something of ours are refused before they take
//! a lock; those that the object access hook doesn't tell of are refused here only.

use core::ffi::{CStr, c_char, c_int};
use pgrx::pg_sys::{self, NodeTag::*, ObjectType::*, Oid};

use super::engine::engine_as_it_is;
use super::{guard, guard_names, guard_roles, guard_session};
use crate::pg::{compat, foreign, guarded, raw, report, unlock};

/// A utility statement that runs.
#[derive(Clone, Copy)]
struct Running {
    kind: pg_sys::NodeTag,
    command: Option<&'static CStr>,
    /// The subtransaction that it began in.
    subxact: u32,
}

const NONE: Running = Running {
    kind: T_Invalid,
    command: None,
    subxact: 0,
};

/// More than any stack but a very large one has room for.
const MOST: usize = 4096;

/// The utility statements that run, the outermost first, and how many. (Memory that nobody has written to takes none.)
static mut RUNNING: [Running; MOST] = [NONE; MOST];
static mut DEPTH: usize = 0;

/// SAFETY of all uses: a backend is one thread.
fn innermost() -> Running {
    let running = unsafe { &*(&raw const RUNNING) };
    let last = unsafe { DEPTH }.checked_sub(1);
    last.and_then(|at| running.get(at)).copied().unwrap_or(NONE)
}

/// The statement that is now this deep is this one.
fn set(depth: usize, innermost: Running) {
    let running = unsafe { &mut *(&raw mut RUNNING) };
    if let Some(place) = depth.checked_sub(1).and_then(|at| running.get_mut(at)) {
        *place = innermost;
    }
    unsafe { DEPTH = depth };
}

/// The innermost utility statement that runs; T_Invalid: none, or the guard has no home.
pub fn running() -> pg_sys::NodeTag {
    innermost().kind
}

/// Its command tag, or nothing.
pub fn command() -> &'static CStr {
    innermost().command.unwrap_or_default()
}

/// A subtransaction was rolled back (the first: the transaction): nothing told that the statements which began in it
/// have ended.
pub fn aborted(subxact: u32) {
    unsafe {
        while DEPTH > 0 && innermost().subxact >= subxact {
            DEPTH -= 1;
        }
    }
}

/// What [`leave`] needs, copied before the statement runs: its tree may be gone then.
#[derive(Clone, Copy)]
pub struct Outer {
    depth: usize,
    running: Running,
    /// The mode of LOCK TABLE, else 0.
    lock: c_int,
    /// See [`written_by`].
    written: Oid,
    /// SECURITY LABEL, whose tree stays: it ends no transaction. Else NULL.
    labels: *mut pg_sys::SecLabelStmt,
}

/// A utility statement begins. Throws.
///
/// # Safety
/// `node` is a utility statement.
#[inline]
pub unsafe fn enter(node: *mut pg_sys::Node) -> Outer {
    unsafe {
        let mut outer = Outer {
            depth: DEPTH,
            running: innermost(),
            lock: 0,
            written: pg_sys::InvalidOid,
            labels: core::ptr::null_mut(),
        };
        let kind = (*node).type_;
        if matches!(kind, T_CreateExtensionStmt | T_AlterExtensionStmt) {
            foreign::script_begins();
        }
        if kind == T_TransactionStmt || guard::home().is_none() {
            return outer;
        }
        let running = Running {
            kind,
            command: Some(CStr::from_ptr(raw::GetCommandTagName(
                raw::CreateCommandTag(node),
            ))),
            subxact: engine_as_it_is().subxact,
        };
        if DEPTH == MOST {
            report::too_deep(); // What runs inside could not be told from what it runs in.
        }
        set(DEPTH + 1, running);
        if raw::IsTransactionState() && !raw::IsAbortedTransactionBlockState() {
            outer.written = written_by(node);
            outer.lock = check(node);
            if kind == T_SecLabelStmt && guard::active() {
                outer.labels = node.cast();
            }
        }
        outer
    }
}

/// It has come back. Throws: LOCK TABLE of a view may have locked what is guarded; and SECURITY LABEL fails, without
/// a look at its object, unless somebody provides labels.
///
/// # Safety
/// What [`enter`] returned.
#[inline]
pub unsafe fn leave(outer: Outer) {
    unsafe {
        if outer.lock != 0 {
            check_locks(outer.lock);
        }
        if !outer.labels.is_null() {
            check_address((*outer.labels).objtype, (*outer.labels).object, false);
        }
        if outer.written != pg_sys::InvalidOid {
            guard::check_catalog(command(), outer.written);
        }
        set(outer.depth, outer.running);
    }
}

/// What COPY FROM writes to, and what a subscription is told of; InvalidOid for others. Throws: the catalog with
/// the home's label is nobody's.
unsafe fn written_by(node: *mut pg_sys::Node) -> Oid {
    unsafe {
        let name = match (*node).type_ {
            T_CreateSubscriptionStmt | T_AlterSubscriptionStmt => return guarded::SUBSCRIBED,
            T_CopyStmt if field!(node as CopyStmt.is_from) => field!(node as CopyStmt.relation),
            _ => core::ptr::null_mut(),
        };
        if name.is_null() {
            return pg_sys::InvalidOid;
        }
        let relid = guard_names::relation_named((*name).schemaname, (*name).relname);
        if guarded::is_shared_labels(relid) && guard::may_not_write(relid) {
            guard::refuse(command(), pg_sys::RelationRelationId, relid);
        }
        relid
    }
}

/// Returns the lock mode to look for afterwards.
unsafe fn check(node: *mut pg_sys::Node) -> c_int {
    unsafe {
        guard_roles::check(node);
        check_database(node);
        guard_session::check(node);
        if !guard::active() {
            return 0;
        }
        if is_change(node) {
            guard_names::for_each(node, |schema, name| {
                let mut relid = guard_names::relation_named(schema, name);
                if reindexes_index(node) {
                    relid = raw::IndexGetRelation(relid, true);
                }
                if guarded::has_relation(relid) {
                    guard::refuse(command(), pg_sys::RelationRelationId, relid);
                }
                if (*node).type_ == T_CopyStmt
                    && guarded::is_catalog(relid, true)
                    && guard::may_not_write(relid)
                {
                    guard::refuse(command(), pg_sys::RelationRelationId, relid);
                }
            });
        }
        check_others(node);
        match (*node).type_ {
            T_LockStmt => match field!(node as LockStmt.mode) {
                mode if mode > pg_sys::AccessShareLock as c_int => mode,
                _ => 0,
            },
            // ANALYZE keeps its locks to the end of a block, and with them the worker from making periods. (That
            // of all tables is let be: clients open blocks by themselves, and don't mean the trail.)
            T_VacuumStmt
                if raw::IsTransactionBlock() && !field!(node as VacuumStmt.rels).is_null() =>
            {
                pg_sys::ShareUpdateExclusiveLock as c_int
            }
            _ => 0,
        }
    }
}

/// Whether a statement changes, or locks, the relations that it names.
unsafe fn is_change(node: *mut pg_sys::Node) -> bool {
    unsafe {
        match (*node).type_ {
            T_CopyStmt => field!(node as CopyStmt.is_from),
            T_LockStmt => field!(node as LockStmt.mode) > pg_sys::AccessShareLock as c_int,
            T_VacuumStmt => has_option(field!(node as VacuumStmt.options), c"full"),
            T_ReindexStmt => !has_option(field!(node as ReindexStmt.params), c"concurrently"),
            _ => true,
        }
    }
}

unsafe fn reindexes_index(node: *mut pg_sys::Node) -> bool {
    unsafe {
        (*node).type_ == T_ReindexStmt
            && field!(node as ReindexStmt.kind) == pg_sys::ReindexObjectType::REINDEX_OBJECT_INDEX
    }
}

/// Whether an option is given and not switched off.
unsafe fn has_option(options: *const pg_sys::List, name: &CStr) -> bool {
    let mut found = false;
    unsafe {
        compat::for_each_pointer(options, |option: *mut pg_sys::DefElem| {
            if raw::bytes((*option).defname) == name.to_bytes() {
                found = (*option).arg.is_null() || raw::defGetBoolean(option);
            }
        });
    }
    found
}

/// Objects that are no relations named by a RangeVar. Throws.
unsafe fn check_others(node: *mut pg_sys::Node) {
    unsafe {
        match (*node).type_ {
            // All tables, so the trail's as well.
            T_VacuumStmt if field!(node as VacuumStmt.rels).is_null() && is_change(node) => {
                refuse_schema();
            }
            T_ReindexStmt if is_change(node) => {
                let schema = pg_sys::ReindexObjectType::REINDEX_OBJECT_SCHEMA;
                if field!(node as ReindexStmt.kind) == schema {
                    check_schema(field!(node as ReindexStmt.name));
                }
            }
            T_CommentStmt => check_address(
                field!(node as CommentStmt.objtype),
                field!(node as CommentStmt.object),
                false,
            ),
            T_GrantStmt => check_grant(node.cast()),
            T_AlterDefaultPrivilegesStmt => compat::for_each_pointer(
                field!(node as AlterDefaultPrivilegesStmt.options),
                |option: *mut pg_sys::DefElem| {
                    if raw::bytes((*option).defname) == b"schemas" {
                        check_schemas((*option).arg.cast());
                    }
                },
            ),
            T_DropOwnedStmt => compat::for_each_pointer(
                field!(node as DropOwnedStmt.roles),
                |role: *mut pg_sys::RoleSpec| {
                    let role = raw::get_rolespec_oid(role, true);
                    if let Some((class, object)) = guarded::granted_to(role) {
                        guard::refuse(command(), class, object);
                    }
                },
            ),
            // The server refuses members by themselves before it drops anything.
            T_DropStmt if !guard_names::drops_relations(node) => {
                let kind = field!(node as DropStmt.removeType);
                compat::for_each_pointer(
                    field!(node as DropStmt.objects),
                    |object: *mut pg_sys::Node| check_address(kind, object, true),
                );
            }
            T_AlterExtensionContentsStmt => {
                let name = field!(node as AlterExtensionContentsStmt.extname);
                let extension = raw::get_extension_oid(name, true);
                if guarded::contains(pg_sys::ExtensionRelationId, extension) {
                    guard::refuse(command(), pg_sys::ExtensionRelationId, extension);
                }
            }
            _ => {}
        }
    }
}

unsafe fn refuse_schema() {
    unsafe {
        let schema = raw::get_namespace_oid(c"audit".as_ptr(), true);
        guard::refuse(command(), pg_sys::NamespaceRelationId, schema);
    }
}

unsafe fn check_schema(name: *const c_char) {
    unsafe {
        let schema = raw::get_namespace_oid(name, true);
        if guarded::contains(pg_sys::NamespaceRelationId, schema) {
            guard::refuse(command(), pg_sys::NamespaceRelationId, schema);
        }
    }
}

unsafe fn check_schemas(names: *const pg_sys::List) {
    unsafe {
        compat::for_each_pointer(names, |name: *mut pg_sys::Node| {
            check_schema(compat::string(name.cast()));
        });
    }
}

/// The object of COMMENT, SECURITY LABEL and DROP, looked up as they do it: same lock, same errors.
unsafe fn check_address(kind: pg_sys::ObjectType::Type, object: *mut pg_sys::Node, drop: bool) {
    unsafe {
        // These look up differently, and name nothing of ours.
        if matches!(kind, OBJECT_DATABASE | OBJECT_LARGEOBJECT | OBJECT_ROLE) {
            return;
        }
        let mut relation = core::ptr::null_mut();
        let lock = if drop {
            pg_sys::AccessExclusiveLock
        } else {
            pg_sys::ShareUpdateExclusiveLock
        };
        let lock = lock as c_int;
        let found = raw::get_object_address(kind, object, &mut relation, lock, drop);
        if !relation.is_null() {
            raw::relation_close(relation, pg_sys::NoLock as c_int);
        }
        if let Some((class, object)) = guarded::owner(found.classId, found.objectId) {
            guard::refuse(command(), class, object);
        }
    }
}

/// What GRANT and REVOKE name that is no relation.
unsafe fn check_grant(stmt: *const pg_sys::GrantStmt) {
    unsafe {
        let objects = (*stmt).objects;
        if (*stmt).targtype == pg_sys::GrantTargetType::ACL_TARGET_ALL_IN_SCHEMA
            || (*stmt).objtype == OBJECT_SCHEMA
        {
            check_schemas(objects);
        } else if matches!(
            (*stmt).objtype,
            OBJECT_FUNCTION | OBJECT_PROCEDURE | OBJECT_ROUTINE
        ) {
            compat::for_each_pointer(objects, |function: *mut pg_sys::ObjectWithArgs| {
                let function = raw::LookupFuncWithArgs((*stmt).objtype, function, true);
                if guarded::contains(pg_sys::ProcedureRelationId, function) {
                    guard::refuse(command(), pg_sys::ProcedureRelationId, function);
                }
            });
        }
    }
}

/// ALTER DATABASE that closes the home, or lets it be copied by anybody. From any database.
unsafe fn check_database(node: *mut pg_sys::Node) {
    unsafe {
        if (*node).type_ != T_AlterDatabaseStmt || unlock::is_exempt() {
            return;
        }
        let options = field!(node as AlterDatabaseStmt.options);
        if !has_option_named(options, &[b"is_template", b"allow_connections"]) {
            return;
        }
        let Some(home) = guard::home() else { return };
        let name = raw::get_database_name(home);
        if raw::bytes(name) == raw::bytes(field!(node as AlterDatabaseStmt.dbname)) {
            guard::refuse(command(), pg_sys::DatabaseRelationId, home);
        }
    }
}

unsafe fn has_option_named(options: *const pg_sys::List, names: &[&[u8]]) -> bool {
    let mut found = false;
    unsafe {
        compat::for_each_pointer(options, |option: *mut pg_sys::DefElem| {
            found |= names.contains(&raw::bytes((*option).defname));
        });
    }
    found
}

/// LOCK TABLE reaches tables behind views, and children. Throws.
unsafe fn check_locks(mode: c_int) {
    unsafe {
        if !guard::active() {
            return;
        }
        for relid in guarded::relations() {
            let tag = pg_sys::LOCKTAG {
                locktag_field1: pg_sys::MyDatabaseId.to_u32(),
                locktag_field2: relid.to_u32(),
                locktag_field3: 0,
                locktag_field4: 0,
                locktag_type: pg_sys::LockTagType::LOCKTAG_RELATION as u8,
                locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
            };
            if compat::holds_lock(&tag, mode) {
                guard::refuse(command(), pg_sys::RelationRelationId, relid);
            }
        }
    }
}
