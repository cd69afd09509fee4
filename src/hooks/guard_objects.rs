//! The guard by OID: what DDL does, whatever statement or function leads there. The server tells of
//! each object that it makes, changes, truncates or drops, cascades included.

use core::ffi::{CStr, c_int, c_void};
use pgrx::pg_sys::{self, ObjectAccessType::*, Oid};

use super::{guard, guard_roles, guard_utility};
use crate::pg::guarded::{self, INHERITS};
use crate::pg::unlock;

/// Called by the object access hook. Throws.
///
/// # Safety
/// The arguments of the hook.
#[inline]
pub unsafe fn check(
    access: pg_sys::ObjectAccessType::Type,
    class: Oid,
    object: Oid,
    sub: c_int,
    arg: *mut c_void,
) {
    // The others are searches of a schema and calls of functions: many, and no changes.
    if matches!(
        access,
        OAT_DROP | OAT_TRUNCATE | OAT_POST_CREATE | OAT_POST_ALTER
    ) {
        unsafe { check_change(access, class, object, sub, arg) };
    }
}

#[inline(never)]
unsafe fn check_change(
    access: pg_sys::ObjectAccessType::Type,
    class: Oid,
    object: Oid,
    _sub: c_int,
    arg: *mut c_void,
) {
    unsafe {
        let Some(home) = guard::home() else { return };
        if class == pg_sys::DatabaseRelationId {
            if access == OAT_DROP && object == home && !unlock::is_exempt() {
                guard::refuse(guard_utility::command(), class, object);
            }
            return;
        }
        if class == pg_sys::AuthIdRelationId {
            guard_roles::check_changed(object, access);
            return;
        }
        if access == OAT_TRUNCATE && guarded::is_shared_labels(object) && !unlock::is_exempt() {
            guard::refuse(c"TRUNCATE", pg_sys::RelationRelationId, object);
        }
        // pg_inherits: told of when a relation gets a parent, or loses it.
        if class == INHERITS
            && let Some(catalog) = relatives(object, arg).find(|relid| guarded::is_pinned(*relid))
            && !unlock::is_exempt()
        {
            guard::refuse(command(access), pg_sys::RelationRelationId, catalog);
        }
        if home != pg_sys::MyDatabaseId || !guard::active() {
            return;
        }
        if access == OAT_TRUNCATE && guarded::is_catalog(object, true) {
            guard::refuse(c"TRUNCATE", pg_sys::RelationRelationId, object);
        }
        // A query that reads the trail would run it in place of the server's own (the planner inlines what is SQL).
        if class == pg_sys::ProcedureRelationId
            && object.to_u32() < pg_sys::FirstNormalObjectId
            && !pg_sys::IsBinaryUpgrade
        {
            guard::refuse(command(access), class, object);
        }
        if let Some(catalog) = guarded::hung_on_catalog(class, object) {
            guard::refuse(command(access), pg_sys::RelationRelationId, catalog);
        }
        let owner = if class == INHERITS {
            inherits(object, arg)
        } else {
            guarded::owner(class, object)
        };
        if let Some((owner_class, owner)) = owner
            && !allowed(class, (owner_class, owner) == (class, object))
        {
            guard::refuse(command(access), owner_class, owner);
        }
    }
}

/// A relation gets or loses a parent, which comes beside it.
unsafe fn inherits(child: Oid, arg: *mut c_void) -> Option<(Oid, Oid)> {
    unsafe { relatives(child, arg) }
        .find(|relid| guarded::has_relation(*relid))
        .map(|relid| (pg_sys::RelationRelationId, relid))
}

/// Child and parent, if both are told.
unsafe fn relatives(child: Oid, arg: *mut c_void) -> impl Iterator<Item = Oid> {
    let parent = if arg.is_null() {
        child
    } else {
        unsafe { (*arg.cast::<pg_sys::ObjectAccessPostAlter>()).auxiliary_id }
    };
    [child, parent].into_iter()
}

/// REINDEX makes and drops indexes; ALTER EXTENSION … UPDATE changes the extension's row before its
/// script runs.
fn allowed(class: Oid, itself: bool) -> bool {
    match guard_utility::running() {
        pg_sys::NodeTag::T_ReindexStmt => class == pg_sys::RelationRelationId && !itself,
        pg_sys::NodeTag::T_AlterExtensionStmt => class == pg_sys::ExtensionRelationId,
        _ => false,
    }
}

/// The statement that runs, or what is being done where none does.
fn command(access: pg_sys::ObjectAccessType::Type) -> &'static CStr {
    let command = guard_utility::command();
    if !command.is_empty() {
        return command;
    }
    match access {
        OAT_DROP => c"DROP",
        OAT_TRUNCATE => c"TRUNCATE",
        OAT_POST_CREATE => c"CREATE",
        _ => c"ALTER",
    }
}
