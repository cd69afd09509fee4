//! How SQL functions tell the trail of what they do (AUDIT events): the hooks, which own the
//! session's event numbers, lend them a function. It keeps `api` from importing `hooks`.

use audit_core::json::Object;
use std::sync::OnceLock;

/// Writes the details of an event.
pub type Details<'d> = &'d dyn Fn(&mut Object);

/// An AUDIT event: its command and its details. With `tracked` its row shows what became of the
/// transaction. Throws.
pub type Announce = unsafe fn(command: &'static str, details: Details, tracked: bool);

static ANNOUNCE: OnceLock<Announce> = OnceLock::new();

/// Called once, in the postmaster.
pub fn install(announce: Announce) {
    let _ = ANNOUNCE.set(announce);
}

/// Records an AUDIT event of this session. Nothing where the library was not preloaded. Throws.
///
/// # Safety
/// In a transaction that is not aborted.
pub unsafe fn event(command: &'static str, details: Details, tracked: bool) {
    if let Some(announce) = ANNOUNCE.get() {
        // The hooks call the server without a guard: here an ERROR becomes a panic, as in all of
        // pgrx's functions, so that the caller's values are dropped.
        unsafe {
            pgrx::pg_sys::ffi::pg_guard_ffi_boundary(|| announce(command, details, tracked));
        }
    }
}
