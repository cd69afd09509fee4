//! The relations that a utility statement changes or locks, as it names them. (What it only mentions,
//! as LIKE does, is in `hooks::relations`.)

use core::ffi::c_char;
use pgrx::pg_sys::{self, NodeTag::*, ObjectType::*, Oid};

use crate::pg::{compat, raw};

/// The relation of a name as the server would find it, InvalidOid where there is none. Throws.
///
/// # Safety
/// `schema` is NULL or a C string, `name` a C string; in a transaction that is not aborted.
pub unsafe fn relation_named(schema: *const c_char, name: *const c_char) -> Oid {
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

/// Calls `f(schema or NULL, name)` for each of them. Never throws itself.
///
/// # Safety
/// `node` is a utility statement.
pub unsafe fn for_each(node: *mut pg_sys::Node, mut f: impl FnMut(*const c_char, *const c_char)) {
    unsafe {
        let mut one = |rv: *const pg_sys::RangeVar| {
            // CREATE STATISTICS may name what is none; the server refuses that.
            if !rv.is_null() && (*rv).type_ == T_RangeVar {
                f((*rv).schemaname, (*rv).relname);
            }
        };
        let list = match (*node).type_ {
            T_TruncateStmt => field!(node as TruncateStmt.relations),
            T_LockStmt => field!(node as LockStmt.relations),
            T_CreateStatsStmt => field!(node as CreateStatsStmt.relations),
            T_GrantStmt if grants_on_relations(node) => field!(node as GrantStmt.objects),
            // The statement of a foreign table begins with that of a table.
            T_CreateStmt | T_CreateForeignTableStmt => field!(node as CreateStmt.inhRelations),
            T_VacuumStmt => {
                let relations = field!(node as VacuumStmt.rels);
                compat::for_each_pointer(relations, |r: *mut pg_sys::VacuumRelation| {
                    one((*r).relation);
                });
                return;
            }
            T_CreatePublicationStmt | T_AlterPublicationStmt => {
                compat::for_each_published(node, &mut |relation| one(relation));
                return;
            }
            T_DropStmt if drops_relations(node) => {
                let objects = field!(node as DropStmt.objects);
                compat::for_each_pointer(objects, |names: *mut pg_sys::List| {
                    let (schema, name) = last_two(names);
                    f(schema, name);
                });
                return;
            }
            _ => return one(the_one(node)),
        };
        compat::for_each_pointer(list, |r: *mut pg_sys::RangeVar| one(r));
    }
}

/// The one relation that a statement is about; NULL for others.
unsafe fn the_one(node: *mut pg_sys::Node) -> *const pg_sys::RangeVar {
    unsafe {
        match (*node).type_ {
            T_CopyStmt => field!(node as CopyStmt.relation),
            T_AlterTableStmt => field!(node as AlterTableStmt.relation),
            T_RenameStmt => field!(node as RenameStmt.relation),
            T_AlterObjectSchemaStmt => field!(node as AlterObjectSchemaStmt.relation),
            T_IndexStmt => field!(node as IndexStmt.relation),
            T_ClusterStmt => field!(node as ClusterStmt.relation),
            T_ReindexStmt => field!(node as ReindexStmt.relation),
            T_CreateTrigStmt => field!(node as CreateTrigStmt.relation),
            T_RuleStmt => field!(node as RuleStmt.relation),
            T_CreatePolicyStmt => field!(node as CreatePolicyStmt.table),
            T_AlterPolicyStmt => field!(node as AlterPolicyStmt.table),
            T_AlterSeqStmt => field!(node as AlterSeqStmt.sequence),
            _ => core::ptr::null(),
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

/// Whether a DROP names relations.
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
