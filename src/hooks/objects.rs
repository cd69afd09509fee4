//! The main object of a utility statement that is about no relation, as the server would name it:
//! qualified, quoted where needed, functions with the types of their arguments. By the statement's
//! kind; `hooks::object` writes the names.
//!
//! Throws (catalog look-ups); the callers have nothing to drop.

use core::ffi::{CStr, c_char};
use pgrx::pg_sys::{self, NodeTag::*, ObjectType::*};

use super::found::{dotted, existing, found, identifier, new, relation_name};
use super::object::{self, kind_text};
use crate::pg::lookup::Kind;
use crate::pg::{compat, raw};

/// Finds the main object, where it is no relation; several of them are listed in the details.
///
/// # Safety
/// `node` is a utility statement; in a transaction that is not aborted.
pub unsafe fn look_up(node: *mut pg_sys::Node) {
    unsafe {
        found().name.clear();
        let kind = match (*node).type_ {
            T_DropStmt => {
                let kind = field!(node as DropStmt.removeType);
                return several(kind, field!(node as DropStmt.objects));
            }
            T_GrantStmt => return granted(node),
            T_DropRoleStmt => return roles(field!(node as DropRoleStmt.roles)),
            T_DropOwnedStmt => return roles(field!(node as DropOwnedStmt.roles)),
            T_ReassignOwnedStmt => return roles(field!(node as ReassignOwnedStmt.roles)),
            T_RenameStmt => renamed(node),
            T_AlterOwnerStmt => object::write(
                field!(node as AlterOwnerStmt.objectType),
                field!(node as AlterOwnerStmt.object),
            ),
            T_AlterObjectSchemaStmt => object::write(
                field!(node as AlterObjectSchemaStmt.objectType),
                field!(node as AlterObjectSchemaStmt.object),
            ),
            T_AlterObjectDependsStmt
                if field!(node as AlterObjectDependsStmt.relation).is_null() =>
            {
                object::write(
                    field!(node as AlterObjectDependsStmt.objectType),
                    field!(node as AlterObjectDependsStmt.object),
                )
            }
            T_CommentStmt => object::write(
                field!(node as CommentStmt.objtype),
                field!(node as CommentStmt.object),
            ),
            T_SecLabelStmt => object::write(
                field!(node as SecLabelStmt.objtype),
                field!(node as SecLabelStmt.object),
            ),
            _ => match made(node) {
                "" => match named(node) {
                    "" => listed(node),
                    kind => kind,
                },
                kind => kind,
            },
        };
        if !kind.is_empty() {
            found().end_object(kind);
        }
    }
}

/// Several objects of a kind: the first is the main one.
unsafe fn several(kind: pg_sys::ObjectType::Type, objects: *const pg_sys::List) {
    unsafe {
        let many = !objects.is_null() && (*objects).length > 1;
        let list = many && !object::is_relation(kind);
        if list {
            found().details.begin_list("objects");
        }
        compat::for_each_pointer(objects, |node: *mut pg_sys::Node| {
            found().name.clear();
            one_of_several(object::write(kind, node), list);
        });
        if list {
            found().details.end_list();
        }
    }
}

/// What was written is one of several objects. Never throws.
fn one_of_several(kind: &'static str, list: bool) {
    let found = found();
    if kind.is_empty() {
        return;
    }
    if list {
        found.details.item(&found.name);
    }
    if found.object_type.is_empty() {
        found.end_object(kind);
    }
}

unsafe fn roles(list: *const pg_sys::List) {
    unsafe {
        let many = !list.is_null() && (*list).length > 1;
        if many {
            found().details.begin_list("objects");
        }
        compat::for_each_pointer(list, |spec: *mut pg_sys::RoleSpec| {
            found().name.clear();
            identifier(role(spec));
            one_of_several("ROLE", many);
        });
        if many {
            found().details.end_list();
        }
    }
}

/// GRANT and REVOKE on what is no relation.
unsafe fn granted(node: *mut pg_sys::Node) {
    unsafe {
        let objects = field!(node as GrantStmt.objects);
        let kind = field!(node as GrantStmt.objtype);
        match field!(node as GrantStmt.targtype) {
            pg_sys::GrantTargetType::ACL_TARGET_ALL_IN_SCHEMA => several(OBJECT_SCHEMA, objects),
            pg_sys::GrantTargetType::ACL_TARGET_OBJECT
                if !matches!(kind, OBJECT_TABLE | OBJECT_SEQUENCE) =>
            {
                several(kind, objects);
            }
            _ => {}
        }
    }
}

/// RENAME: most of what belongs to a relation is that relation's affair.
unsafe fn renamed(node: *mut pg_sys::Node) -> &'static str {
    unsafe {
        let kind = field!(node as RenameStmt.renameType);
        let rv = field!(node as RenameStmt.relation);
        let name = field!(node as RenameStmt.subname);
        match kind {
            OBJECT_ROLE | OBJECT_DATABASE | OBJECT_SCHEMA | OBJECT_TABLESPACE => {
                identifier(name);
                kind_text(kind)
            }
            OBJECT_POLICY | OBJECT_TRIGGER | OBJECT_RULE => on_relation(name, rv, kind_text(kind)),
            // The domain's constraint: its name stands beside it.
            OBJECT_DOMCONSTRAINT => object::write(OBJECT_DOMAIN, field!(node as RenameStmt.object)),
            _ if !rv.is_null() => "",
            _ => object::write(kind, field!(node as RenameStmt.object)),
        }
    }
}

/// `name on schema.table`
unsafe fn on_relation(
    name: *const c_char,
    rv: *const pg_sys::RangeVar,
    kind: &'static str,
) -> &'static str {
    unsafe {
        identifier(name);
        found().name.extend_from_slice(b" on ");
        relation_name((*rv).schemaname, (*rv).relname);
        kind
    }
}

/// Objects of several parts that are made or changed.
unsafe fn made(node: *mut pg_sys::Node) -> &'static str {
    unsafe {
        match (*node).type_ {
            T_CreateFunctionStmt => {
                new(field!(node as CreateFunctionStmt.funcname));
                object::parameters(field!(node as CreateFunctionStmt.parameters));
                if field!(node as CreateFunctionStmt.is_procedure) {
                    "PROCEDURE"
                } else {
                    "FUNCTION"
                }
            }
            T_AlterFunctionStmt => object::write(
                field!(node as AlterFunctionStmt.objtype),
                field!(node as AlterFunctionStmt.func).cast(),
            ),
            T_DefineStmt => object::defined(&*node.cast()),
            T_AlterOperatorStmt => object::write(
                OBJECT_OPERATOR,
                field!(node as AlterOperatorStmt.opername).cast(),
            ),
            T_CallStmt => called(node),
            T_CreateCastStmt => {
                let source = field!(node as CreateCastStmt.sourcetype);
                object::cast(source, field!(node as CreateCastStmt.targettype))
            }
            T_CreateTransformStmt => {
                let of = field!(node as CreateTransformStmt.type_name);
                object::transform(of, field!(node as CreateTransformStmt.lang))
            }
            T_CreateOpClassStmt => {
                let method = field!(node as CreateOpClassStmt.amname);
                new(field!(node as CreateOpClassStmt.opclassname));
                object::using(method, "OPERATOR CLASS")
            }
            T_CreateOpFamilyStmt => {
                let method = field!(node as CreateOpFamilyStmt.amname);
                new(field!(node as CreateOpFamilyStmt.opfamilyname));
                object::using(method, "OPERATOR FAMILY")
            }
            T_AlterOpFamilyStmt => {
                let method = field!(node as AlterOpFamilyStmt.amname);
                let names = field!(node as AlterOpFamilyStmt.opfamilyname);
                existing(Kind::OperatorFamily(method), names);
                object::using(method, "OPERATOR FAMILY")
            }
            T_CreatePolicyStmt => {
                let name = field!(node as CreatePolicyStmt.policy_name);
                on_relation(name, field!(node as CreatePolicyStmt.table), "POLICY")
            }
            T_AlterPolicyStmt => {
                let name = field!(node as AlterPolicyStmt.policy_name);
                on_relation(name, field!(node as AlterPolicyStmt.table), "POLICY")
            }
            T_CreateTrigStmt => {
                let name = field!(node as CreateTrigStmt.trigname);
                on_relation(name, field!(node as CreateTrigStmt.relation), "TRIGGER")
            }
            T_RuleStmt => {
                let name = field!(node as RuleStmt.rulename);
                on_relation(name, field!(node as RuleStmt.relation), "RULE")
            }
            T_CreateUserMappingStmt => mapping(
                field!(node as CreateUserMappingStmt.user),
                field!(node as CreateUserMappingStmt.servername),
            ),
            T_AlterUserMappingStmt => mapping(
                field!(node as AlterUserMappingStmt.user),
                field!(node as AlterUserMappingStmt.servername),
            ),
            T_DropUserMappingStmt => mapping(
                field!(node as DropUserMappingStmt.user),
                field!(node as DropUserMappingStmt.servername),
            ),
            _ => "",
        }
    }
}

/// CALL: the procedure that the server has found, with the types of its arguments.
unsafe fn called(node: *mut pg_sys::Node) -> &'static str {
    unsafe {
        let call = field!(node as CallStmt.funcexpr);
        if call.is_null() {
            let (schema, name) = compat::last_two((*field!(node as CallStmt.funccall)).funcname);
            dotted(schema, name);
        } else {
            let name = raw::format_procedure_qualified((*call).funcid);
            found().name.extend_from_slice(raw::bytes(name));
        }
        "PROCEDURE"
    }
}

/// `role on server s`
unsafe fn mapping(user: *const pg_sys::RoleSpec, server: *const c_char) -> &'static str {
    unsafe {
        if !user.is_null() && (*user).roletype == pg_sys::RoleSpecType::ROLESPEC_PUBLIC {
            found().name.extend_from_slice(b"PUBLIC");
        } else {
            identifier(role(user));
        }
        found().name.extend_from_slice(b" on server ");
        identifier(server);
        "USER MAPPING"
    }
}

/// Objects with a dotted name.
unsafe fn listed(node: *mut pg_sys::Node) -> &'static str {
    unsafe {
        match (*node).type_ {
            T_CreateDomainStmt => {
                new(field!(node as CreateDomainStmt.domainname));
                "DOMAIN"
            }
            T_AlterDomainStmt => {
                existing(Kind::Type, field!(node as AlterDomainStmt.typeName));
                "DOMAIN"
            }
            T_CreateEnumStmt => {
                new(field!(node as CreateEnumStmt.typeName));
                "TYPE"
            }
            T_CreateRangeStmt => {
                new(field!(node as CreateRangeStmt.typeName));
                "TYPE"
            }
            T_AlterEnumStmt => {
                existing(Kind::Type, field!(node as AlterEnumStmt.typeName));
                "TYPE"
            }
            T_AlterTypeStmt => {
                existing(Kind::Type, field!(node as AlterTypeStmt.typeName));
                "TYPE"
            }
            T_CreateConversionStmt => {
                new(field!(node as CreateConversionStmt.conversion_name));
                "CONVERSION"
            }
            T_AlterCollationStmt => {
                existing(Kind::Collation, field!(node as AlterCollationStmt.collname));
                "COLLATION"
            }
            T_CreateStatsStmt => {
                let names = field!(node as CreateStatsStmt.defnames);
                if names.is_null() {
                    return "";
                }
                new(names);
                "STATISTICS"
            }
            T_AlterStatsStmt => {
                existing(Kind::Statistics, field!(node as AlterStatsStmt.defnames));
                "STATISTICS"
            }
            T_AlterTSDictionaryStmt => {
                let names = field!(node as AlterTSDictionaryStmt.dictname);
                existing(Kind::TextSearchDictionary, names);
                "TEXT SEARCH DICTIONARY"
            }
            T_AlterTSConfigurationStmt => {
                let names = field!(node as AlterTSConfigurationStmt.cfgname);
                existing(Kind::TextSearchConfiguration, names);
                "TEXT SEARCH CONFIGURATION"
            }
            _ => "",
        }
    }
}

/// Objects with a name of one part.
unsafe fn named(node: *mut pg_sys::Node) -> &'static str {
    unsafe {
        let (kind, name): (&str, *const c_char) = match (*node).type_ {
            T_CreateRoleStmt => ("ROLE", field!(node as CreateRoleStmt.role)),
            T_AlterRoleStmt => ("ROLE", role(field!(node as AlterRoleStmt.role))),
            T_AlterRoleSetStmt => ("ROLE", role(field!(node as AlterRoleSetStmt.role))),
            T_GrantRoleStmt => {
                let granted: *mut pg_sys::AccessPriv =
                    first(field!(node as GrantRoleStmt.granted_roles));
                if granted.is_null() {
                    return "";
                }
                ("ROLE", (*granted).priv_name)
            }
            T_CreatedbStmt => ("DATABASE", field!(node as CreatedbStmt.dbname)),
            T_DropdbStmt => ("DATABASE", field!(node as DropdbStmt.dbname)),
            T_AlterDatabaseStmt => ("DATABASE", field!(node as AlterDatabaseStmt.dbname)),
            T_AlterDatabaseSetStmt => ("DATABASE", field!(node as AlterDatabaseSetStmt.dbname)),
            T_CreateSchemaStmt => ("SCHEMA", schema_of(node.cast())),
            T_CreateExtensionStmt => ("EXTENSION", field!(node as CreateExtensionStmt.extname)),
            T_AlterExtensionStmt => ("EXTENSION", field!(node as AlterExtensionStmt.extname)),
            T_AlterExtensionContentsStmt => (
                "EXTENSION",
                field!(node as AlterExtensionContentsStmt.extname),
            ),
            T_CreateTableSpaceStmt => (
                "TABLESPACE",
                field!(node as CreateTableSpaceStmt.tablespacename),
            ),
            T_DropTableSpaceStmt => (
                "TABLESPACE",
                field!(node as DropTableSpaceStmt.tablespacename),
            ),
            T_AlterTableSpaceOptionsStmt => (
                "TABLESPACE",
                field!(node as AlterTableSpaceOptionsStmt.tablespacename),
            ),
            T_AlterTableMoveAllStmt => (
                "TABLESPACE",
                field!(node as AlterTableMoveAllStmt.orig_tablespacename),
            ),
            T_PrepareStmt => ("PREPARED STATEMENT", field!(node as PrepareStmt.name)),
            T_ExecuteStmt => ("PREPARED STATEMENT", field!(node as ExecuteStmt.name)),
            T_DeallocateStmt => ("PREPARED STATEMENT", field!(node as DeallocateStmt.name)),
            T_DeclareCursorStmt => ("CURSOR", field!(node as DeclareCursorStmt.portalname)),
            T_FetchStmt => ("CURSOR", field!(node as FetchStmt.portalname)),
            T_ClosePortalStmt => ("CURSOR", field!(node as ClosePortalStmt.portalname)),
            T_ListenStmt => ("CHANNEL", field!(node as ListenStmt.conditionname)),
            T_NotifyStmt => ("CHANNEL", field!(node as NotifyStmt.conditionname)),
            T_UnlistenStmt => ("CHANNEL", field!(node as UnlistenStmt.conditionname)),
            T_CreateFdwStmt => (
                "FOREIGN DATA WRAPPER",
                field!(node as CreateFdwStmt.fdwname),
            ),
            T_AlterFdwStmt => ("FOREIGN DATA WRAPPER", field!(node as AlterFdwStmt.fdwname)),
            T_CreateForeignServerStmt => (
                "FOREIGN SERVER",
                field!(node as CreateForeignServerStmt.servername),
            ),
            T_AlterForeignServerStmt => (
                "FOREIGN SERVER",
                field!(node as AlterForeignServerStmt.servername),
            ),
            T_ImportForeignSchemaStmt => (
                "FOREIGN SERVER",
                field!(node as ImportForeignSchemaStmt.server_name),
            ),
            T_CreatePublicationStmt => {
                ("PUBLICATION", field!(node as CreatePublicationStmt.pubname))
            }
            T_AlterPublicationStmt => ("PUBLICATION", field!(node as AlterPublicationStmt.pubname)),
            T_CreateSubscriptionStmt => (
                "SUBSCRIPTION",
                field!(node as CreateSubscriptionStmt.subname),
            ),
            T_AlterSubscriptionStmt => (
                "SUBSCRIPTION",
                field!(node as AlterSubscriptionStmt.subname),
            ),
            T_DropSubscriptionStmt => {
                ("SUBSCRIPTION", field!(node as DropSubscriptionStmt.subname))
            }
            T_CreateEventTrigStmt => (
                "EVENT TRIGGER",
                field!(node as CreateEventTrigStmt.trigname),
            ),
            T_AlterEventTrigStmt => ("EVENT TRIGGER", field!(node as AlterEventTrigStmt.trigname)),
            T_CreateAmStmt => ("ACCESS METHOD", field!(node as CreateAmStmt.amname)),
            T_CreatePLangStmt => ("LANGUAGE", field!(node as CreatePLangStmt.plname)),
            T_ReindexStmt => match field!(node as ReindexStmt.kind) {
                pg_sys::ReindexObjectType::REINDEX_OBJECT_SCHEMA => {
                    ("SCHEMA", field!(node as ReindexStmt.name))
                }
                pg_sys::ReindexObjectType::REINDEX_OBJECT_DATABASE
                | pg_sys::ReindexObjectType::REINDEX_OBJECT_SYSTEM => {
                    ("DATABASE", field!(node as ReindexStmt.name))
                }
                _ => return "",
            },
            T_VariableSetStmt => return setting(field!(node as VariableSetStmt.name)),
            T_VariableShowStmt => return setting(field!(node as VariableShowStmt.name)),
            T_AlterSystemStmt => return setting((*field!(node as AlterSystemStmt.setstmt)).name),
            _ => ("DATABASE", compat::refreshed_database(node)),
        };
        if name.is_null() {
            return "";
        }
        identifier(name);
        kind
    }
}

/// A setting is written without quotes: its dots are its own.
unsafe fn setting(name: *const c_char) -> &'static str {
    if name.is_null() {
        return "";
    }
    found().name.extend_from_slice(unsafe { raw::bytes(name) });
    "SETTING"
}

unsafe fn first<T>(list: *const pg_sys::List) -> *mut T {
    unsafe {
        if list.is_null() || (*list).length == 0 {
            return core::ptr::null_mut();
        }
        (*(*list).elements).ptr_value.cast()
    }
}

/// The name of the schema that CREATE SCHEMA makes: that of its owner where it has none.
pub unsafe fn schema_of(stmt: *const pg_sys::CreateSchemaStmt) -> *const c_char {
    unsafe {
        if (*stmt).schemaname.is_null() {
            role((*stmt).authrole)
        } else {
            (*stmt).schemaname
        }
    }
}

/// Schema (or NULL) and name of what stands before the last part of a dotted name: `s.t` of `s.t.x`.
/// NULL where there is nothing before it. Never throws.
pub unsafe fn before_last(names: *const pg_sys::List) -> (*const c_char, *const c_char) {
    unsafe {
        let len = (*names).length as usize;
        let part = |i: usize| compat::string((*(*names).elements.add(i)).ptr_value.cast());
        match len {
            0 | 1 => (core::ptr::null(), core::ptr::null()),
            2 => (core::ptr::null(), part(0)),
            _ => (part(len - 3), part(len - 2)),
        }
    }
}

/// The name of a role in a statement: of the current or session user where it says so.
pub unsafe fn role(spec: *const pg_sys::RoleSpec) -> *const c_char {
    use pg_sys::RoleSpecType::*;
    unsafe {
        let Some(spec) = spec.as_ref() else {
            return core::ptr::null();
        };
        let user = match spec.roletype {
            ROLESPEC_CSTRING => return spec.rolename,
            ROLESPEC_PUBLIC => return c"PUBLIC".as_ptr(),
            ROLESPEC_SESSION_USER => raw::GetSessionUserId(),
            _ => raw::GetUserId(),
        };
        let name = raw::GetUserNameFromId(user, true);
        let unknown: &CStr = c"CURRENT_USER";
        if name.is_null() {
            unknown.as_ptr()
        } else {
            name
        }
    }
}
