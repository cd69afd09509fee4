//! Which relations a utility statement names: those it is about, those it names on the side (parents,
//! LIKE, REFERENCES, partitions, OWNED BY), and those it makes. What a query inside of it reads is
//! found when the server analyzes the query: `hooks::analyze`, `hooks::executor`.
//!
//! Throws (catalog look-ups); the callers have nothing to drop.

use core::ffi::c_char;
use pgrx::pg_sys::{self, NodeTag::*, ObjectType::*};

use super::found::{dotted, found, relation};
use super::objects;
use crate::pg::{compat, lookup, raw};

/// Adds the relations of a statement to what was found, and the one it makes as its object.
///
/// # Safety
/// `node` is a utility statement; in a transaction that is not aborted.
pub unsafe fn look_up(node: *mut pg_sys::Node) {
    unsafe {
        if (*node).type_ == T_CreateSchemaStmt {
            look_up_schema(node);
            return;
        }
        for_each_relation(node, &mut |schema, name| {
            relation(schema, name);
        });
        let new = new_relation(node);
        if new.is_null() {
            return;
        }
        let kind = new_kind(node);
        let schema = if !(*new).schemaname.is_null() {
            (*new).schemaname
        } else if (*new).relpersistence == pg_sys::RELPERSISTENCE_TEMP as c_char {
            c"pg_temp".as_ptr()
        } else {
            lookup::creation_schema()
        };
        dotted(schema, (*new).relname);
        found().object_name = found().name.clone();
        found().object_type = kind;
        found().end_relation(kind);
    }
}

/// CREATE SCHEMA: what is made in it goes there unless it says otherwise.
unsafe fn look_up_schema(node: *mut pg_sys::Node) {
    unsafe {
        let elements = field!(node as CreateSchemaStmt.schemaElts);
        let its_name = objects::schema_of(node.cast());
        compat::for_each_pointer(elements, |element: *mut pg_sys::Node| {
            let new = new_relation(element);
            if !new.is_null() {
                let typed = (*new).schemaname.cast_const();
                dotted(
                    if typed.is_null() { its_name } else { typed },
                    (*new).relname,
                );
                found().end_relation(new_kind(element));
            }
        });
        compat::for_each_pointer(elements, |element: *mut pg_sys::Node| {
            for_each_relation(element, &mut |schema, name| {
                found().name.clear();
                dotted(if schema.is_null() { its_name } else { schema }, name);
                let found = found();
                let made_here = found.relations.split(|b| *b == 0).any(|n| n == found.name);
                found.name.clear();
                if !made_here {
                    relation(schema, name);
                }
            });
        });
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

type Visit<'f> = &'f mut dyn FnMut(*const c_char, *const c_char);

unsafe fn one(rv: *const pg_sys::RangeVar, f: Visit) {
    unsafe {
        if !rv.is_null() {
            f((*rv).schemaname, (*rv).relname);
        }
    }
}

unsafe fn all(list: *const pg_sys::List, f: Visit) {
    unsafe { compat::for_each_pointer(list, |rv: *mut pg_sys::RangeVar| one(rv, f)) };
}

/// Calls `f(schema or NULL, name)` for each existing relation that a statement names.
unsafe fn for_each_relation(node: *mut pg_sys::Node, f: Visit) {
    unsafe {
        match (*node).type_ {
            T_CopyStmt => one(field!(node as CopyStmt.relation), f),
            T_AlterTableStmt => {
                one(field!(node as AlterTableStmt.relation), f);
                sides(field!(node as AlterTableStmt.cmds), f);
            }
            T_CreateStmt | T_CreateForeignTableStmt => {
                // The foreign table's statement begins with a table's.
                all(field!(node as CreateStmt.inhRelations), f);
                sides(field!(node as CreateStmt.tableElts), f);
            }
            T_RenameStmt => one(field!(node as RenameStmt.relation), f),
            T_AlterObjectSchemaStmt => one(field!(node as AlterObjectSchemaStmt.relation), f),
            T_AlterObjectDependsStmt => one(field!(node as AlterObjectDependsStmt.relation), f),
            T_IndexStmt => one(field!(node as IndexStmt.relation), f),
            T_RefreshMatViewStmt => one(field!(node as RefreshMatViewStmt.relation), f),
            T_ClusterStmt => one(field!(node as ClusterStmt.relation), f),
            T_ReindexStmt => one(field!(node as ReindexStmt.relation), f),
            T_CreateTrigStmt => {
                one(field!(node as CreateTrigStmt.relation), f);
                one(field!(node as CreateTrigStmt.constrrel), f);
            }
            T_RuleStmt => {
                one(field!(node as RuleStmt.relation), f);
                written_by(field!(node as RuleStmt.actions), f);
            }
            T_CreatePolicyStmt => one(field!(node as CreatePolicyStmt.table), f),
            T_AlterPolicyStmt => one(field!(node as AlterPolicyStmt.table), f),
            T_CreateSeqStmt => owner_of_sequence(field!(node as CreateSeqStmt.options), f),
            T_AlterSeqStmt => {
                one(field!(node as AlterSeqStmt.sequence), f);
                owner_of_sequence(field!(node as AlterSeqStmt.options), f);
            }
            T_CreateStatsStmt => {
                compat::for_each_pointer(
                    field!(node as CreateStatsStmt.relations),
                    |of: *mut pg_sys::Node| side(of, f),
                );
            }
            T_CreatePublicationStmt | T_AlterPublicationStmt => {
                compat::for_each_published(node, &mut |rv| one(rv, f));
            }
            T_TruncateStmt => all(field!(node as TruncateStmt.relations), f),
            T_LockStmt => all(field!(node as LockStmt.relations), f),
            T_ConstraintsSetStmt => {}
            T_VacuumStmt => compat::for_each_pointer(
                field!(node as VacuumStmt.rels),
                |r: *mut pg_sys::VacuumRelation| one((*r).relation, f),
            ),
            T_GrantStmt if grants_on_relations(node) => {
                all(field!(node as GrantStmt.objects), f);
            }
            _ => {}
        }
    }
}

/// Relations that the elements of CREATE TABLE, or the commands of ALTER TABLE, name.
unsafe fn sides(list: *const pg_sys::List, f: Visit) {
    unsafe { compat::for_each_pointer(list, |node: *mut pg_sys::Node| side(node, f)) };
}

unsafe fn side(node: *mut pg_sys::Node, f: Visit) {
    unsafe {
        if node.is_null() {
            return;
        }
        match (*node).type_ {
            T_AlterTableCmd => side(field!(node as AlterTableCmd.def), f),
            T_ColumnDef => sides(field!(node as ColumnDef.constraints), f),
            T_Constraint => one(field!(node as Constraint.pktable), f),
            T_TableLikeClause => one(field!(node as TableLikeClause.relation), f),
            T_PartitionCmd => one(field!(node as PartitionCmd.name), f),
            T_RangeVar => one(node.cast(), f),
            _ => {}
        }
    }
}

/// What the actions of a rule write to.
unsafe fn written_by(actions: *const pg_sys::List, f: Visit) {
    unsafe {
        compat::for_each_pointer(actions, |action: *mut pg_sys::Node| match (*action).type_ {
            T_InsertStmt => one(field!(action as InsertStmt.relation), f),
            T_UpdateStmt => one(field!(action as UpdateStmt.relation), f),
            T_DeleteStmt => one(field!(action as DeleteStmt.relation), f),
            _ => {}
        });
    }
}

/// OWNED BY table.column
unsafe fn owner_of_sequence(options: *const pg_sys::List, f: Visit) {
    unsafe {
        compat::for_each_pointer(options, |option: *mut pg_sys::DefElem| {
            let names = (*option).arg.cast::<pg_sys::List>();
            if raw::bytes((*option).defname) != b"owned_by" || names.is_null() {
                return;
            }
            let (schema, name) = objects::before_last(names);
            if !name.is_null() {
                f(schema, name);
            }
        });
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
