//! Who may let somebody into audit_reader and audit_admin, or put him out: superusers, and who has ADMIN OPTION. Until
//! 15 the server itself lets anybody with CREATEROLE do that, by several ways: membership in either
//! role or in a member of it, and LOGIN or a password for such a role.

use core::ffi::{CStr, c_char};
use pgrx::pg_sys::{self, NodeTag::*, Oid};

use super::{guard, guard_utility};
use crate::pg::{acl, compat, raw};

const ROLES: [&CStr; 2] = [c"audit_reader", c"audit_admin"];

/// Whether the running user would pass something on that isn't his. Throws.
unsafe fn is_guarded_from_user(role: Oid) -> bool {
    unsafe {
        let user = raw::GetUserId();
        role != pg_sys::InvalidOid
            && leads_to_trail(role)
            && !raw::superuser_arg(user)
            && !raw::is_admin_of_role(user, role)
    }
}

/// Whether members of a role are members of ours.
unsafe fn leads_to_trail(role: Oid) -> bool {
    ROLES.iter().any(|name| unsafe {
        let ours = raw::get_role_oid(name.as_ptr(), true);
        ours != pg_sys::InvalidOid && raw::is_member_of_role_nosuper(role, ours)
    })
}

unsafe fn refuse_unless_admin(role: Oid) {
    unsafe {
        if is_guarded_from_user(role) {
            guard::refuse(guard_utility::command(), pg_sys::AuthIdRelationId, role);
        }
    }
}

/// GRANT and REVOKE of a role, ALTER GROUP, CREATE ROLE … IN ROLE. Throws.
///
/// # Safety
/// `node` is a utility statement; in a transaction that is not aborted.
#[inline]
pub unsafe fn check(node: *mut pg_sys::Node) {
    if !compat::CREATEROLE_GRANTS_ANY {
        return;
    }
    unsafe {
        match (*node).type_ {
            T_GrantRoleStmt => compat::for_each_pointer(
                field!(node as GrantRoleStmt.granted_roles),
                |granted: *mut pg_sys::AccessPriv| check_name((*granted).priv_name),
            ),
            T_AlterRoleStmt => {
                let role = field!(node as AlterRoleStmt.role);
                // One's own password is one's own business.
                let role = raw::get_rolespec_oid(role, true);
                if role != raw::GetUserId() {
                    refuse_unless_admin(role);
                }
            }
            T_CreateRoleStmt => compat::for_each_pointer(
                field!(node as CreateRoleStmt.options),
                |option: *mut pg_sys::DefElem| {
                    if raw::bytes((*option).defname) == b"addroleto" {
                        compat::for_each_pointer(
                            (*option).arg.cast(),
                            |role: *mut pg_sys::RoleSpec| {
                                refuse_unless_admin(raw::get_rolespec_oid(role, true));
                            },
                        );
                    }
                },
            ),
            _ => {}
        }
    }
}

unsafe fn check_name(name: *const c_char) {
    unsafe { refuse_unless_admin(raw::get_role_oid(name, true)) };
}

/// A role was renamed or is being dropped: under another name it would be granted unseen, and that of `audit.role` audit
/// nothing. Throws.
///
/// # Safety
/// In a transaction that is not aborted.
pub unsafe fn check_changed(role: Oid, access: pg_sys::ObjectAccessType::Type) {
    let renamed = guard_utility::running() == T_RenameStmt
        && access == pg_sys::ObjectAccessType::OAT_POST_ALTER;
    if !renamed && access != pg_sys::ObjectAccessType::OAT_DROP {
        return;
    }
    // The catalog cache still has the old name: the command's changes aren't visible yet.
    unsafe {
        if compat::CREATEROLE_GRANTS_ANY {
            refuse_unless_admin(role);
        }
        if acl::is_audit_role(role) && !raw::superuser_arg(raw::GetUserId()) {
            guard::refuse(guard_utility::command(), pg_sys::AuthIdRelationId, role);
        }
    }
}
