//! The objects of utility statements, read from their trees before they run: names as they are at
//! that time, without relying on event triggers or on the statement's success.
//!
//! [`look_up`] throws and owns nothing; what it found waits in a static for [`describe`], which
//! doesn't throw.

use core::ffi::c_char;
use pgrx::pg_sys::{self, NodeTag::*, ObjectType::*};

use super::frame::Frame;
use super::objects;
use crate::pg::{acl, compat, names, raw};

/// What [`look_up`] found apart from the relations.
pub struct Object {
    /// Schema in which a new relation will be made; NULL where none is.
    schema: *const c_char,
}

impl Object {
    pub const NONE: Object = Object {
        schema: core::ptr::null(),
    };
}

/// Relations of the statement that is beginning, in its order. Cleared by each [`look_up`].
static mut RELATIONS: Vec<pg_sys::Oid> = Vec::new();

fn relations() -> &'static mut Vec<pg_sys::Oid> {
    // SAFETY: one thread; no reference outlives a function of this file.
    unsafe { &mut *(&raw mut RELATIONS) }
}

/// Looks up the relations that a statement names. Throws (as any catalog look-up may); reports no
/// missing name and checks no privilege, which is the statement's own business.
///
/// # Safety
/// `node` is a utility statement; in a transaction that is not aborted.
pub unsafe fn look_up(node: *mut pg_sys::Node) -> Object {
    unsafe {
        relations().clear();
        for_each_relation(node, |schema, name| {
            let relid = relation_named(schema, name);
            if relid != pg_sys::InvalidOid {
                names::learn_relation(relid);
                relations().push(relid);
            }
        });
        let new = new_relation(node);
        if new.is_null() {
            return Object::NONE;
        }
        Object {
            schema: creation_schema(new),
        }
    }
}

/// The relation of a name as the server would find it, InvalidOid where there is none. Throws.
///
/// # Safety
/// `schema` is NULL or a C string, `name` a C string; in a transaction that is not aborted.
pub unsafe fn relation_named(schema: *const c_char, name: *const c_char) -> pg_sys::Oid {
    unsafe {
        if schema.is_null() {
            raw::RelnameGetRelid(name)
        } else if raw::bytes(schema) == b"pg_temp" {
            let (mut temporary, mut toast) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
            raw::GetTempNamespaceState(&mut temporary, &mut toast);
            raw::get_relname_relid(name, temporary)
        } else {
            raw::get_relname_relid(name, raw::get_namespace_oid(schema, true))
        }
    }
}

/// Whether the statement uses a privilege granted to `audit.role` on a relation that [`look_up`] has
/// found: TRUNCATE, and COPY of a table. Throws.
///
/// # Safety
/// Right after [`look_up`] of the same statement.
pub unsafe fn is_audited(node: *mut pg_sys::Node) -> bool {
    unsafe {
        let privileges = match (*node).type_ {
            T_TruncateStmt => pg_sys::ACL_TRUNCATE,
            T_CopyStmt if field!(node as CopyStmt.is_from) => pg_sys::ACL_INSERT,
            T_CopyStmt => pg_sys::ACL_SELECT,
            _ => return false,
        };
        let copy = (*node).type_ == T_CopyStmt;
        (0..relations().len()).any(|i| {
            let relid = relations()[i];
            acl::relation_is_audited(relid, privileges)
                || (copy && columns_of_copy_are_audited(node, relid, privileges))
        })
    }
}

/// The columns that COPY names, or all of them. Throws.
unsafe fn columns_of_copy_are_audited(
    node: *mut pg_sys::Node,
    relid: pg_sys::Oid,
    privilege: u32,
) -> bool {
    unsafe {
        let columns = field!(node as CopyStmt.attlist);
        if columns.is_null() {
            return acl::some_column_is_audited(relid, privilege);
        }
        let mut found = false;
        compat::for_each_pointer(columns, |column: *mut pg_sys::Node| {
            let name = compat::string(column.cast());
            found = found || acl::named_column_is_audited(relid, name, privilege);
        });
        found
    }
}

/// The text of the prepared statement that EXECUTE runs; NULL where there is none. Throws.
///
/// # Safety
/// `stmt` is a valid node.
pub unsafe fn prepared_text(stmt: *const pg_sys::ExecuteStmt) -> *const c_char {
    unsafe {
        let prepared = raw::FetchPreparedStatement((*stmt).name, false);
        if prepared.is_null() {
            return core::ptr::null();
        }
        (*(*prepared).plansource).query_string
    }
}

/// The schema in which a relation will be made. Throws.
unsafe fn creation_schema(new: *const pg_sys::RangeVar) -> *const c_char {
    unsafe {
        if !(*new).schemaname.is_null() {
            return (*new).schemaname;
        }
        if (*new).relpersistence == pg_sys::RELPERSISTENCE_TEMP as c_char {
            return c"pg_temp".as_ptr();
        }
        let path = raw::fetch_search_path(false);
        if path.is_null() || (*path).length == 0 {
            return core::ptr::null();
        }
        raw::get_namespace_name((*(*path).elements).oid_value)
    }
}

/// Fills in object and relations. Never throws, except for lack of memory.
///
/// # Safety
/// Right after [`look_up`] of the same statement.
pub unsafe fn describe(node: *mut pg_sys::Node, object: &Object, frame: &mut Frame) {
    unsafe {
        for relid in relations().iter() {
            if let Some(relation) = names::relation(*relid) {
                frame.add_relation(&relation.name);
            }
        }
        let new = new_relation(node);
        if !new.is_null() {
            let kind = new_kind(node);
            set_qualified(frame, kind, object.schema, (*new).relname);
            let name = frame.object_name.clone();
            frame.add_relation(&name);
            return;
        }
        if let Some((kind, name)) = objects::named(node) {
            frame.object_type = kind;
            frame.object_name.extend_from_slice(raw::bytes(name));
            return;
        }
        if let Some(relation) = relations()
            .first()
            .and_then(|relid| names::relation(*relid))
        {
            frame.object_type = relation.kind;
            frame.object_name.extend_from_slice(&relation.name);
        }
    }
}

unsafe fn set_qualified(
    frame: &mut Frame,
    kind: &'static str,
    schema: *const c_char,
    name: *const c_char,
) {
    unsafe {
        frame.object_type = kind;
        if !schema.is_null() {
            let schema = raw::quote_identifier(schema);
            frame.object_name.extend_from_slice(raw::bytes(schema));
            frame.object_name.push(b'.');
        }
        let name = raw::quote_identifier(name);
        frame.object_name.extend_from_slice(raw::bytes(name));
    }
}

/// What a statement of transaction control does to the transaction.
///
/// # Safety
/// `node` is a TransactionStmt.
pub unsafe fn transaction(node: *mut pg_sys::Node, frame: &mut Frame) {
    use pg_sys::TransactionStmtKind::*;
    let stmt = node.cast::<pg_sys::TransactionStmt>();
    frame
        .gid
        .extend_from_slice(unsafe { raw::bytes((*stmt).gid) });
    match unsafe { (*stmt).kind } {
        _ if unsafe { begins_transaction(node) } => frame.begins_transaction = true,
        TRANS_STMT_COMMIT | TRANS_STMT_ROLLBACK | TRANS_STMT_PREPARE => {
            frame.ends_transaction = true;
        }
        TRANS_STMT_ROLLBACK_TO => {
            frame.ends_transaction = true;
            frame.to_savepoint = true;
        }
        _ => {}
    }
}

/// Whether this transaction statement is BEGIN. Never throws.
///
/// # Safety
/// `node` is a TransactionStmt.
pub unsafe fn begins_transaction(node: *mut pg_sys::Node) -> bool {
    use pg_sys::TransactionStmtKind::{TRANS_STMT_BEGIN, TRANS_STMT_START};
    let kind = unsafe { (*node.cast::<pg_sys::TransactionStmt>()).kind };
    matches!(kind, TRANS_STMT_BEGIN | TRANS_STMT_START)
}

/// Statements that must go through however full the ring is (spec/delivery.md, "Full ring").
///
/// # Safety
/// `node` is a utility statement.
pub unsafe fn never_waits(node: *mut pg_sys::Node) -> bool {
    unsafe {
        match (*node).type_ {
            T_TransactionStmt => !begins_transaction(node),
            T_VariableSetStmt => {
                let name = (*node.cast::<pg_sys::VariableSetStmt>()).name;
                raw::bytes(name).starts_with(b"audit.")
            }
            _ => false,
        }
    }
}

/// The relation that a statement makes; NULL for others.
unsafe fn new_relation(node: *mut pg_sys::Node) -> *const pg_sys::RangeVar {
    unsafe {
        match (*node).type_ {
            T_CreateStmt => field!(node as CreateStmt.relation),
            T_CreateForeignTableStmt => field!(node as CreateForeignTableStmt.base).relation,
            T_CreateTableAsStmt => (*field!(node as CreateTableAsStmt.into)).rel,
            T_ViewStmt => field!(node as ViewStmt.view),
            T_CreateSeqStmt => field!(node as CreateSeqStmt.sequence),
            T_CompositeTypeStmt => field!(node as CompositeTypeStmt.typevar),
            _ => core::ptr::null(),
        }
    }
}

unsafe fn new_kind(node: *mut pg_sys::Node) -> &'static str {
    unsafe {
        match (*node).type_ {
            T_CreateForeignTableStmt => "FOREIGN TABLE",
            T_ViewStmt => "VIEW",
            T_CreateSeqStmt => "SEQUENCE",
            T_CompositeTypeStmt => "COMPOSITE TYPE",
            T_CreateTableAsStmt if field!(node as CreateTableAsStmt.objtype) == OBJECT_MATVIEW => {
                "MATERIALIZED VIEW"
            }
            _ => "TABLE",
        }
    }
}

/// Calls `f(schema or NULL, name)` for each existing relation that a statement names.
pub unsafe fn for_each_relation(
    node: *mut pg_sys::Node,
    mut f: impl FnMut(*const c_char, *const c_char),
) {
    unsafe {
        let mut one = |rv: *const pg_sys::RangeVar| {
            if !rv.is_null() {
                f((*rv).schemaname, (*rv).relname);
            }
        };
        match (*node).type_ {
            T_CopyStmt => one(field!(node as CopyStmt.relation)),
            T_AlterTableStmt => one(field!(node as AlterTableStmt.relation)),
            T_RenameStmt => one(field!(node as RenameStmt.relation)),
            T_AlterObjectSchemaStmt => one(field!(node as AlterObjectSchemaStmt.relation)),
            T_IndexStmt => one(field!(node as IndexStmt.relation)),
            T_RefreshMatViewStmt => one(field!(node as RefreshMatViewStmt.relation)),
            T_ClusterStmt => one(field!(node as ClusterStmt.relation)),
            T_ReindexStmt => one(field!(node as ReindexStmt.relation)),
            T_CreateTrigStmt => one(field!(node as CreateTrigStmt.relation)),
            T_RuleStmt => one(field!(node as RuleStmt.relation)),
            T_CreatePolicyStmt => one(field!(node as CreatePolicyStmt.table)),
            T_AlterPolicyStmt => one(field!(node as AlterPolicyStmt.table)),
            T_AlterSeqStmt => one(field!(node as AlterSeqStmt.sequence)),
            T_TruncateStmt => compat::for_each_pointer(
                field!(node as TruncateStmt.relations),
                |r: *mut pg_sys::RangeVar| one(r),
            ),
            T_LockStmt => compat::for_each_pointer(
                field!(node as LockStmt.relations),
                |r: *mut pg_sys::RangeVar| one(r),
            ),
            T_VacuumStmt => compat::for_each_pointer(
                field!(node as VacuumStmt.rels),
                |r: *mut pg_sys::VacuumRelation| one((*r).relation),
            ),
            T_GrantStmt if grants_on_relations(node) => {
                compat::for_each_pointer(
                    field!(node as GrantStmt.objects),
                    |r: *mut pg_sys::RangeVar| one(r),
                );
            }
            T_DropStmt if drops_relations(node) => {
                compat::for_each_pointer(
                    field!(node as DropStmt.objects),
                    |names: *mut pg_sys::List| {
                        let (schema, name) = last_two(names);
                        f(schema, name);
                    },
                );
            }
            _ => {}
        }
    }
}

unsafe fn grants_on_relations(node: *mut pg_sys::Node) -> bool {
    unsafe {
        field!(node as GrantStmt.targtype) == pg_sys::GrantTargetType::ACL_TARGET_OBJECT
            && matches!(
                field!(node as GrantStmt.objtype),
                OBJECT_TABLE | OBJECT_SEQUENCE
            )
    }
}

pub unsafe fn drops_relations(node: *mut pg_sys::Node) -> bool {
    matches!(
        unsafe { field!(node as DropStmt.removeType) },
        OBJECT_TABLE
            | OBJECT_SEQUENCE
            | OBJECT_VIEW
            | OBJECT_MATVIEW
            | OBJECT_INDEX
            | OBJECT_FOREIGN_TABLE
    )
}

/// Schema (or NULL) and name of a dotted name.
unsafe fn last_two(names: *const pg_sys::List) -> (*const c_char, *const c_char) {
    unsafe {
        let len = (*names).length as usize;
        let part = |i: usize| compat::string((*(*names).elements.add(i)).ptr_value.cast());
        match len {
            0 => (core::ptr::null(), c"".as_ptr()),
            1 => (core::ptr::null(), part(0)),
            _ => (part(len - 2), part(len - 1)),
        }
    }
}
