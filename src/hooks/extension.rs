//! CREATE EXTENSION and DROP EXTENSION of ourselves: from the commit on everybody knows where the
//! home is, or that there is none.

use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicU32, Ordering};
use pgrx::pg_sys;

use crate::pg::shared::{HOME_NONE, shared};
use crate::pg::{home, raw};

static mut NEXT: pg_sys::object_access_hook_type = None;

const NOTHING: u32 = 0;
/// What the running transaction does to the home: [`NOTHING`], [`HOME_NONE`], or its new OID.
static CHANGE: AtomicU32 = AtomicU32::new(NOTHING);

/// # Safety
/// From `_PG_init` only.
pub unsafe fn install() {
    unsafe {
        NEXT = pg_sys::object_access_hook;
        pg_sys::object_access_hook = Some(object_access);
    }
}

/// The script of CREATE EXTENSION has marked this database as the home.
pub fn created() {
    CHANGE.store(
        unsafe { pg_sys::MyDatabaseId }.to_u32(),
        Ordering::Relaxed,
    );
}

/// Never throws: runs in a commit callback.
pub fn committed() {
    let change = CHANGE.swap(NOTHING, Ordering::Relaxed);
    if change == NOTHING {
        return;
    }
    if let Some(shared) = shared() {
        shared.set_home(change);
        shared.set_worker_latch();
    }
}

/// Never throws.
pub fn aborted() {
    CHANGE.store(NOTHING, Ordering::Relaxed);
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
        let database = pg_sys::ObjectAddress {
            classId: pg_sys::DatabaseRelationId,
            objectId: pg_sys::MyDatabaseId,
            objectSubId: 0,
        };
        raw::SetSecurityLabel(&database, home::PROVIDER.as_ptr(), core::ptr::null());
        CHANGE.store(HOME_NONE, Ordering::Relaxed);
    }
}

/// DROP DATABASE takes the label with it.
unsafe fn database_dropped(database: pg_sys::Oid) {
    if shared().is_some_and(|shared| shared.home() == database.to_u32()) {
        CHANGE.store(HOME_NONE, Ordering::Relaxed);
    }
}
