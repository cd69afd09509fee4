//! What `details` says of a utility statement beyond its object: who gets which privileges, which
//! roles are granted to whom, what a setting is set to. Never throws, except for lack of memory.

use audit_core::json::{self, Object};
use core::ffi::c_char;
use pgrx::pg_sys::{self, NodeTag::*};

use super::frame::Frame;
use super::objects::role;
use crate::pg::{compat, raw};

/// Fills in `frame.details`.
///
/// # Safety
/// `node` is a utility statement.
pub unsafe fn describe(node: *mut pg_sys::Node, frame: &mut Frame) {
    unsafe {
        match (*node).type_ {
            T_GrantStmt => frame.details = grant(&*node.cast()),
            T_AlterDefaultPrivilegesStmt => {
                let action = field!(node as AlterDefaultPrivilegesStmt.action);
                if let Some(action) = action.as_ref() {
                    frame.details = grant(action);
                }
            }
            T_GrantRoleStmt => {
                let mut details = Object::new();
                details.raw(
                    "roles",
                    &privileges(field!(node as GrantRoleStmt.granted_roles)).names,
                );
                details.raw(
                    "members",
                    &roles(field!(node as GrantRoleStmt.grantee_roles)),
                );
                if compat::admin_option(node.cast()) {
                    details.raw("admin_option", b"true");
                }
                frame.details = details.finish();
            }
            _ => {}
        }
    }
}

/// Grantees, privileges and columns of GRANT and REVOKE.
unsafe fn grant(stmt: &pg_sys::GrantStmt) -> Vec<u8> {
    unsafe {
        let mut details = Object::new();
        details.raw("grantees", &roles(stmt.grantees));
        let privileges = privileges(stmt.privileges);
        details.raw("privileges", &privileges.names);
        if privileges.any_columns {
            details.raw("columns", &privileges.columns);
        }
        if stmt.grant_option {
            details.raw("grant_option", b"true");
        }
        details.finish()
    }
}

struct Privileges {
    /// JSON arrays.
    names: Vec<u8>,
    columns: Vec<u8>,
    any_columns: bool,
}

/// A JSON array of texts being written.
struct Texts(Vec<u8>);

impl Texts {
    fn new() -> Self {
        Texts(b"[".to_vec())
    }

    unsafe fn add(&mut self, text: *const c_char) {
        if self.0.len() > 1 {
            self.0.push(b',');
        }
        json::string(&mut self.0, unsafe { raw::bytes(text) });
    }

    fn finish(mut self) -> Vec<u8> {
        self.0.push(b']');
        self.0
    }
}

/// A list of AccessPriv: names of privileges, as the parser spells them (or of roles) and of columns. No list stands for ALL.
unsafe fn privileges(list: *const pg_sys::List) -> Privileges {
    let (mut names, mut columns, mut any_columns) = (Texts::new(), Texts::new(), false);
    unsafe {
        if list.is_null() {
            names.add(c"ALL".as_ptr());
        }
        compat::for_each_pointer(list, |privilege: *mut pg_sys::AccessPriv| {
            let name = (*privilege).priv_name.cast_const();
            names.add(if name.is_null() {
                c"ALL".as_ptr()
            } else {
                name
            });
            compat::for_each_pointer((*privilege).cols, |column: *mut pg_sys::Node| {
                any_columns = true;
                columns.add(compat::string(column.cast()));
            });
        });
    }
    Privileges {
        names: names.finish(),
        columns: columns.finish(),
        any_columns,
    }
}

/// A list of RoleSpec as a JSON array of names.
unsafe fn roles(list: *const pg_sys::List) -> Vec<u8> {
    let mut names = Texts::new();
    unsafe {
        compat::for_each_pointer(list, |spec: *mut pg_sys::RoleSpec| names.add(role(spec)));
    }
    names.finish()
}
