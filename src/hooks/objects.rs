//! The objects of utility statements that are no relations, as their trees name them.
//!
//! NameListToString allocates and so may throw; the callers have nothing to drop.

use core::ffi::{CStr, c_char};
use pgrx::pg_sys::{self, NodeTag::*, ObjectType::*};

use super::describe;
use crate::pg::{compat, raw};

/// Objects that are no relations: their type and name.
pub unsafe fn named(node: *mut pg_sys::Node) -> Option<(&'static str, *const c_char)> {
    unsafe {
        let found = match (*node).type_ {
            T_CreateRoleStmt => ("ROLE", field!(node as CreateRoleStmt.role).cast_const()),
            T_AlterRoleStmt => ("ROLE", role(field!(node as AlterRoleStmt.role))),
            T_AlterRoleSetStmt => ("ROLE", role(field!(node as AlterRoleSetStmt.role))),
            T_DropRoleStmt => ("ROLE", role(first(field!(node as DropRoleStmt.roles)))),
            T_GrantRoleStmt => {
                let granted: *mut pg_sys::AccessPriv =
                    first(field!(node as GrantRoleStmt.granted_roles));
                let name = granted
                    .as_ref()
                    .map_or(core::ptr::null_mut(), |g| g.priv_name);
                ("ROLE", name.cast_const())
            }
            T_CreatedbStmt => ("DATABASE", field!(node as CreatedbStmt.dbname).cast_const()),
            T_DropdbStmt => ("DATABASE", field!(node as DropdbStmt.dbname).cast_const()),
            T_AlterDatabaseStmt => (
                "DATABASE",
                field!(node as AlterDatabaseStmt.dbname).cast_const(),
            ),
            T_AlterDatabaseSetStmt => (
                "DATABASE",
                field!(node as AlterDatabaseSetStmt.dbname).cast_const(),
            ),
            T_CreateSchemaStmt => (
                "SCHEMA",
                field!(node as CreateSchemaStmt.schemaname).cast_const(),
            ),
            T_CreateExtensionStmt => (
                "EXTENSION",
                field!(node as CreateExtensionStmt.extname).cast_const(),
            ),
            T_CreateTableSpaceStmt => (
                "TABLESPACE",
                field!(node as CreateTableSpaceStmt.tablespacename).cast_const(),
            ),
            T_VariableSetStmt => ("SETTING", field!(node as VariableSetStmt.name).cast_const()),
            T_VariableShowStmt => (
                "SETTING",
                field!(node as VariableShowStmt.name).cast_const(),
            ),
            T_AlterSystemStmt => (
                "SETTING",
                (*field!(node as AlterSystemStmt.setstmt)).name.cast_const(),
            ),
            T_PrepareStmt => (
                "PREPARED STATEMENT",
                field!(node as PrepareStmt.name).cast_const(),
            ),
            T_ExecuteStmt => (
                "PREPARED STATEMENT",
                field!(node as ExecuteStmt.name).cast_const(),
            ),
            T_DeclareCursorStmt => (
                "CURSOR",
                field!(node as DeclareCursorStmt.portalname).cast_const(),
            ),
            T_FetchStmt => ("CURSOR", field!(node as FetchStmt.portalname).cast_const()),
            T_ClosePortalStmt => (
                "CURSOR",
                field!(node as ClosePortalStmt.portalname).cast_const(),
            ),
            T_ListenStmt => (
                "CHANNEL",
                field!(node as ListenStmt.conditionname).cast_const(),
            ),
            T_NotifyStmt => (
                "CHANNEL",
                field!(node as NotifyStmt.conditionname).cast_const(),
            ),
            T_CreateFunctionStmt => {
                let procedure = field!(node as CreateFunctionStmt.is_procedure);
                let names = field!(node as CreateFunctionStmt.funcname);
                (
                    if procedure { "PROCEDURE" } else { "FUNCTION" },
                    raw::NameListToString(names).cast_const(),
                )
            }
            T_UnlistenStmt => (
                "CHANNEL",
                field!(node as UnlistenStmt.conditionname).cast_const(),
            ),
            T_AlterFunctionStmt => (
                "FUNCTION",
                raw::NameListToString((*field!(node as AlterFunctionStmt.func)).objname)
                    .cast_const(),
            ),
            T_CreateDomainStmt => (
                "DOMAIN",
                raw::NameListToString(field!(node as CreateDomainStmt.domainname)).cast_const(),
            ),
            T_AlterDomainStmt => (
                "DOMAIN",
                raw::NameListToString(field!(node as AlterDomainStmt.typeName)).cast_const(),
            ),
            T_CreateEnumStmt => (
                "TYPE",
                raw::NameListToString(field!(node as CreateEnumStmt.typeName)).cast_const(),
            ),
            T_AlterEnumStmt => (
                "TYPE",
                raw::NameListToString(field!(node as AlterEnumStmt.typeName)).cast_const(),
            ),
            T_AlterTypeStmt => (
                "TYPE",
                raw::NameListToString(field!(node as AlterTypeStmt.typeName)).cast_const(),
            ),
            T_CreateFdwStmt => (
                "FOREIGN DATA WRAPPER",
                field!(node as CreateFdwStmt.fdwname).cast_const(),
            ),
            T_CreateForeignServerStmt => (
                "FOREIGN SERVER",
                field!(node as CreateForeignServerStmt.servername).cast_const(),
            ),
            T_AlterForeignServerStmt => (
                "FOREIGN SERVER",
                field!(node as AlterForeignServerStmt.servername).cast_const(),
            ),
            T_CreateUserMappingStmt => (
                "USER MAPPING",
                field!(node as CreateUserMappingStmt.servername).cast_const(),
            ),
            T_AlterUserMappingStmt => (
                "USER MAPPING",
                field!(node as AlterUserMappingStmt.servername).cast_const(),
            ),
            T_DropUserMappingStmt => (
                "USER MAPPING",
                field!(node as DropUserMappingStmt.servername).cast_const(),
            ),
            T_CreatePublicationStmt => (
                "PUBLICATION",
                field!(node as CreatePublicationStmt.pubname).cast_const(),
            ),
            T_AlterPublicationStmt => (
                "PUBLICATION",
                field!(node as AlterPublicationStmt.pubname).cast_const(),
            ),
            T_CreateSubscriptionStmt => (
                "SUBSCRIPTION",
                field!(node as CreateSubscriptionStmt.subname).cast_const(),
            ),
            T_AlterSubscriptionStmt => (
                "SUBSCRIPTION",
                field!(node as AlterSubscriptionStmt.subname).cast_const(),
            ),
            T_DropSubscriptionStmt => (
                "SUBSCRIPTION",
                field!(node as DropSubscriptionStmt.subname).cast_const(),
            ),
            T_DropTableSpaceStmt => (
                "TABLESPACE",
                field!(node as DropTableSpaceStmt.tablespacename).cast_const(),
            ),
            T_CreateEventTrigStmt => (
                "EVENT TRIGGER",
                field!(node as CreateEventTrigStmt.trigname).cast_const(),
            ),
            T_CreateStatsStmt => {
                let names = field!(node as CreateStatsStmt.defnames);
                if names.is_null() {
                    return None;
                }
                ("STATISTICS", raw::NameListToString(names).cast_const())
            }
            T_CallStmt => (
                "PROCEDURE",
                raw::NameListToString((*field!(node as CallStmt.funccall)).funcname).cast_const(),
            ),
            T_DropStmt if !describe::drops_relations(node) => return dropped(node),
            _ => return None,
        };
        (!found.1.is_null()).then_some(found)
    }
}

/// The first object of a DROP that drops no relation.
unsafe fn dropped(node: *mut pg_sys::Node) -> Option<(&'static str, *const c_char)> {
    unsafe {
        let kind = match field!(node as DropStmt.removeType) {
            OBJECT_SCHEMA => "SCHEMA",
            OBJECT_EXTENSION => "EXTENSION",
            OBJECT_FUNCTION => "FUNCTION",
            OBJECT_PROCEDURE => "PROCEDURE",
            OBJECT_ROUTINE => "ROUTINE",
            OBJECT_AGGREGATE => "AGGREGATE",
            OBJECT_FOREIGN_SERVER => "FOREIGN SERVER",
            OBJECT_FDW => "FOREIGN DATA WRAPPER",
            OBJECT_PUBLICATION => "PUBLICATION",
            OBJECT_EVENT_TRIGGER => "EVENT TRIGGER",
            OBJECT_LANGUAGE => "LANGUAGE",
            OBJECT_TYPE => "TYPE",
            OBJECT_DOMAIN => "DOMAIN",
            _ => return None,
        };
        let object: *mut pg_sys::Node = first(field!(node as DropStmt.objects));
        if object.is_null() {
            return None;
        }
        let name = match (*object).type_ {
            T_List => raw::NameListToString(object.cast()).cast_const(),
            T_TypeName => {
                raw::NameListToString((*object.cast::<pg_sys::TypeName>()).names).cast_const()
            }
            T_ObjectWithArgs => {
                raw::NameListToString((*object.cast::<pg_sys::ObjectWithArgs>()).objname)
                    .cast_const()
            }
            _ => compat::string(object.cast()),
        };
        (!name.is_null()).then_some((kind, name))
    }
}

unsafe fn first<T>(list: *const pg_sys::List) -> *mut T {
    unsafe {
        if list.is_null() || (*list).length == 0 {
            return core::ptr::null_mut();
        }
        (*(*list).elements).ptr_value.cast()
    }
}

/// The name in a role specification, as CURRENT_USER and its kin are written where there is none.
pub unsafe fn role(spec: *const pg_sys::RoleSpec) -> *const c_char {
    use pg_sys::RoleSpecType::*;
    unsafe {
        let Some(spec) = spec.as_ref() else {
            return core::ptr::null();
        };
        let keyword: &CStr = match spec.roletype {
            ROLESPEC_CSTRING => return spec.rolename,
            ROLESPEC_CURRENT_USER => c"CURRENT_USER",
            ROLESPEC_SESSION_USER => c"SESSION_USER",
            ROLESPEC_PUBLIC => c"PUBLIC",
            _ => c"CURRENT_ROLE",
        };
        keyword.as_ptr()
    }
}
