//! DROP EXTENSION of ourselves and DROP DATABASE of the home: from the commit on everybody knows that
//! there is no home any more.

use core::ffi::{c_int, c_void};
use pgrx::pg_sys;

use crate::pg::shared::{HOME_NONE, shared};
use crate::pg::{home, raw};

static mut NEXT: pg_sys::object_access_hook_type = None;

/// # Safety
/// From `_PG_init` only.
pub unsafe fn install() {
    unsafe {
        NEXT = pg_sys::object_access_hook;
        pg_sys::object_access_hook = Some(object_access);
    }
}

/// A plain frame; only the drop of an extension or of a database is looked at.
unsafe extern "C-unwind" fn object_access(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    sub: c_int,
    arg: *mut c_void,
) {
    unsafe {
        if access == pg_sys::ObjectAccessType::OAT_DROP {
            if class == pg_sys::ExtensionRelationId {
                extension_dropped(object);
            } else if class == pg_sys::DatabaseRelationId {
                database_dropped(object);
            }
        }
        if let Some(next) = NEXT {
            next(access, class, object, sub, arg);
        }
    }
}

/// Takes the label away in the transaction that drops the extension. Throws.
unsafe fn extension_dropped(extension: pg_sys::Oid) {
    unsafe {
        if extension != raw::get_extension_oid(c"audit_ext".as_ptr(), true) {
            return;
        }
        home::unmark_in_hook();
    }
}

/// DROP DATABASE takes the label with it.
unsafe fn database_dropped(database: pg_sys::Oid) {
    if shared().is_some_and(|shared| shared.home() == database.to_u32()) {
        home::will_be(HOME_NONE);
    }
}
