//! What `details` says of a utility statement beyond its object: who gets which privileges, which
//! roles are granted to whom, what a setting is set to, the new name, owner or place of an object.
//!
//! Throws (names of roles, values of settings); all is written to what was found, so that nothing has
//! to be dropped.

use audit_core::json::Object;
use audit_core::sql::cut::whole_characters;
use audit_core::sql::redact::redact_setting;
use core::ffi::c_char;
use pgrx::pg_sys::{self, NodeTag::*};

use super::found::found;
use super::objects::role;
use crate::pg::compat::{self, Constant};
use crate::pg::raw;

/// Longer values of settings are cut, in bytes.
const MOST: usize = 8 * 1024;

fn details() -> &'static mut Object {
    &mut found().details
}

/// Finds out the details.
///
/// # Safety
/// `node` is a utility statement; in a transaction that is not aborted.
pub unsafe fn look_up(node: *mut pg_sys::Node) {
    unsafe {
        match (*node).type_ {
            T_GrantStmt => grant(&*node.cast()),
            T_AlterDefaultPrivilegesStmt => default_privileges(node),
            T_GrantRoleStmt => grant_role(node),
            T_CreateRoleStmt => memberships(field!(node as CreateRoleStmt.options)),
            T_AlterRoleStmt => memberships(field!(node as AlterRoleStmt.options)),
            T_VariableSetStmt => setting(&*node.cast(), true),
            T_AlterSystemStmt => setting(&*field!(node as AlterSystemStmt.setstmt), true),
            T_AlterRoleSetStmt => {
                text("database", field!(node as AlterRoleSetStmt.database));
                setting(&*field!(node as AlterRoleSetStmt.setstmt), false);
            }
            T_AlterDatabaseSetStmt => {
                setting(&*field!(node as AlterDatabaseSetStmt.setstmt), false);
            }
            T_CreatedbStmt => options(field!(node as CreatedbStmt.options)),
            T_AlterDatabaseStmt => options(field!(node as AlterDatabaseStmt.options)),
            T_CreateTableSpaceStmt => {
                text("owner", role(field!(node as CreateTableSpaceStmt.owner)));
                text("location", field!(node as CreateTableSpaceStmt.location));
            }
            T_CreateSchemaStmt => text("owner", role(field!(node as CreateSchemaStmt.authrole))),
            T_RenameStmt => text("new_name", field!(node as RenameStmt.newname)),
            T_AlterOwnerStmt => text("new_owner", role(field!(node as AlterOwnerStmt.newowner))),
            T_ReassignOwnedStmt => {
                text("new_owner", role(field!(node as ReassignOwnedStmt.newrole)));
            }
            T_AlterObjectSchemaStmt => {
                text(
                    "new_schema",
                    field!(node as AlterObjectSchemaStmt.newschema),
                );
            }
            T_AlterTableMoveAllStmt => {
                let place = field!(node as AlterTableMoveAllStmt.new_tablespacename);
                text("tablespace", place);
            }
            T_AlterTableStmt => altered(field!(node as AlterTableStmt.cmds)),
            T_CreateStmt | T_CreateForeignTableStmt => {
                text("tablespace", field!(node as CreateStmt.tablespacename));
            }
            T_IndexStmt => {
                text("index", field!(node as IndexStmt.idxname));
                text("tablespace", field!(node as IndexStmt.tableSpace));
            }
            _ => {}
        }
    }
}

/// A text, where there is one. Never throws.
unsafe fn text(key: &str, value: *const c_char) {
    if !value.is_null() {
        details().text(key, unsafe { raw::bytes(value) });
    }
}

/// Grantees, privileges and columns of GRANT and REVOKE.
unsafe fn grant(stmt: &pg_sys::GrantStmt) {
    unsafe {
        roles("grantees", stmt.grantees);
        privileges("privileges", stmt.privileges);
        columns(stmt.privileges);
        if stmt.grant_option {
            details().raw("grant_option", b"true");
        }
    }
}

/// For whom, where and on what kind of objects, besides what GRANT says.
unsafe fn default_privileges(node: *mut pg_sys::Node) {
    unsafe {
        let action = field!(node as AlterDefaultPrivilegesStmt.action);
        if let Some(action) = action.as_ref() {
            grant(action);
        }
        compat::for_each_pointer(
            field!(node as AlterDefaultPrivilegesStmt.options),
            |option: *mut pg_sys::DefElem| {
                let list = (*option).arg.cast::<pg_sys::List>();
                match raw::bytes((*option).defname) {
                    b"roles" => roles("for_roles", list),
                    b"schemas" => names("schemas", list),
                    _ => {}
                }
            },
        );
    }
}

unsafe fn grant_role(node: *mut pg_sys::Node) {
    unsafe {
        privileges("roles", field!(node as GrantRoleStmt.granted_roles));
        roles("members", field!(node as GrantRoleStmt.grantee_roles));
        if compat::admin_option(node.cast()) {
            details().raw("admin_option", b"true");
        }
    }
}

/// Memberships that come with CREATE ROLE and ALTER GROUP.
unsafe fn memberships(options: *const pg_sys::List) {
    unsafe {
        compat::for_each_pointer(options, |option: *mut pg_sys::DefElem| {
            let list = (*option).arg.cast::<pg_sys::List>();
            match raw::bytes((*option).defname) {
                b"addroleto" => roles("roles", list),
                b"rolemembers" => roles("members", list),
                b"adminmembers" => roles("admins", list),
                _ => {}
            }
        });
    }
}

/// A list of AccessPriv: names of privileges, as the parser spells them, or of roles. No list stands
/// for ALL. Never throws.
unsafe fn privileges(key: &str, list: *const pg_sys::List) {
    unsafe {
        details().begin_list(key);
        if list.is_null() {
            details().item(b"ALL");
        }
        compat::for_each_pointer(list, |privilege: *mut pg_sys::AccessPriv| {
            details().item(privilege_name(privilege));
        });
        details().end_list();
    }
}

unsafe fn privilege_name<'a>(privilege: *const pg_sys::AccessPriv) -> &'a [u8] {
    match unsafe { raw::bytes((*privilege).priv_name) } {
        b"" => b"ALL",
        name => name,
    }
}

/// The columns of privileges: all of them, and, where there are several privileges, which privilege
/// is on which. Never throws.
unsafe fn columns(list: *const pg_sys::List) {
    unsafe {
        let (mut count, mut any) = (0, false);
        compat::for_each_pointer(list, |privilege: *mut pg_sys::AccessPriv| {
            count += 1;
            any |= !(*privilege).cols.is_null();
        });
        if !any {
            return;
        }
        details().begin_list("columns");
        compat::for_each_pointer(list, |privilege: *mut pg_sys::AccessPriv| {
            items((*privilege).cols);
        });
        details().end_list();
        if count == 1 {
            return;
        }
        details().begin_object("column_privileges");
        compat::for_each_pointer(list, |privilege: *mut pg_sys::AccessPriv| {
            if !(*privilege).cols.is_null() {
                let name = String::from_utf8_lossy(privilege_name(privilege));
                details().begin_list(&name);
                items((*privilege).cols);
                details().end_list();
            }
        });
        details().end_object();
    }
}

/// A list of names. Never throws.
unsafe fn names(key: &str, list: *const pg_sys::List) {
    details().begin_list(key);
    unsafe { items(list) };
    details().end_list();
}

unsafe fn items(list: *const pg_sys::List) {
    unsafe {
        compat::for_each_pointer(list, |name: *mut pg_sys::Node| {
            details().item(raw::bytes(compat::string(name.cast())));
        });
    }
}

/// A list of RoleSpec.
unsafe fn roles(key: &str, list: *const pg_sys::List) {
    unsafe {
        details().begin_list(key);
        compat::for_each_pointer(list, |spec: *mut pg_sys::RoleSpec| {
            let name = role(spec);
            details().item(raw::bytes(name));
        });
        details().end_list();
    }
}

/// Options of CREATE and ALTER DATABASE that are texts: owner, template, tablespace, …
unsafe fn options(list: *const pg_sys::List) {
    unsafe {
        compat::for_each_pointer(list, |option: *mut pg_sys::DefElem| {
            let value = compat::constant((*option).arg);
            let name = core::str::from_utf8(raw::bytes((*option).defname));
            if let (Constant::Text(value), Ok(name)) = (value, name) {
                text(name, value);
            }
        });
    }
}

/// What ALTER TABLE makes of the table as a whole.
unsafe fn altered(commands: *const pg_sys::List) {
    use pg_sys::AlterTableType;
    unsafe {
        compat::for_each_pointer(
            commands,
            |command: *mut pg_sys::AlterTableCmd| match (*command).subtype {
                AlterTableType::AT_ChangeOwner => text("new_owner", role((*command).newowner)),
                AlterTableType::AT_SetTableSpace => text("tablespace", (*command).name),
                _ => {}
            },
        );
    }
}

/// SET, RESET and the like: setting, old and new value, without their secrets. A new value of null is
/// the default. `audit.context`, which changes with each request, is in the statement's text already.
unsafe fn setting(stmt: &pg_sys::VariableSetStmt, effective: bool) {
    use pg_sys::VariableSetKind::*;
    unsafe {
        if stmt.name.is_null() {
            return;
        }
        let name = raw::bytes(stmt.name);
        text("setting", stmt.name);
        if name == b"audit.context" {
            return;
        }
        if effective {
            let old = effective_value(stmt.name);
            if !old.is_null() {
                value("old", name, raw::bytes(old));
            }
        }
        match stmt.kind {
            VAR_SET_VALUE | VAR_SET_MULTI => {
                found().name.clear();
                compat::for_each_pointer(stmt.args, |argument: *mut pg_sys::Node| {
                    append_value(argument);
                });
                let new = core::mem::take(&mut found().name);
                value("new", name, &new);
                found().name = new;
            }
            VAR_SET_CURRENT => {}
            _ => {
                details().raw("new", b"null");
            }
        }
        if stmt.is_local {
            details().raw("local", b"true");
        }
    }
}

/// The value of a setting as SHOW prints it; NULL where there is none.
unsafe fn effective_value(name: *const c_char) -> *const c_char {
    unsafe {
        // SHOW refuses these to most: they are read as they are kept.
        let hidden = raw::GetConfigOptionFlags(name, true) as u32 & pg_sys::GUC_SUPERUSER_ONLY != 0;
        if hidden {
            raw::GetConfigOption(name, true, false)
        } else {
            raw::GetConfigOptionByName(name, core::ptr::null_mut(), true)
        }
    }
}

/// Never throws.
unsafe fn append_value(argument: *mut pg_sys::Node) {
    use std::io::Write;
    unsafe {
        let out = &mut found().name;
        if !out.is_empty() {
            out.extend_from_slice(b", ");
        }
        let mut constant = argument.cast_const();
        if !argument.is_null() && (*argument).type_ == T_DefElem {
            // SET TRANSACTION: several settings at once.
            let option = argument.cast::<pg_sys::DefElem>();
            out.extend_from_slice(raw::bytes((*option).defname));
            out.push(b'=');
            constant = (*option).arg;
        }
        match compat::constant(constant) {
            Constant::Text(value) => out.extend_from_slice(raw::bytes(value)),
            Constant::Integer(value) => {
                let _ = write!(out, "{value}");
            }
            Constant::None => out.extend_from_slice(b"?"),
        }
    }
}

/// Never throws.
fn value(key: &str, name: &[u8], value: &[u8]) {
    let found = found();
    let mut redacted = Vec::new();
    redact_setting(name, value, &mut redacted);
    if redacted.len() > MOST {
        found.truncated.number(key, redacted.len());
        redacted.truncate(MOST);
        redacted.truncate(whole_characters(&redacted));
    }
    found.details.text(key, &redacted);
}
