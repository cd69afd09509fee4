//! The values of the settings as last seen: what a change is told by.
//!
//! The postmaster takes them down, for its children to inherit, until it assigns one itself: a reload.
//!
//! A client may ask for settings when it connects, which the server assigns before anything of ours runs
//! in the session. So the first assignment in a process that serves one takes down what was there before,
//! where that isn't known.

use super::NAMES;
use crate::pg::raw;
use core::ffi::CStr;
use pgrx::pg_sys;

/// In the order of [`NAMES`]; empty where they are not known.
static mut SEEN: Vec<Vec<u8>> = Vec::new();

/// No reference that it returns may outlive a call of [`take`].
pub fn values() -> &'static mut Vec<Vec<u8>> {
    // SAFETY: one thread; see above.
    unsafe { &mut *(&raw mut SEEN) }
}

/// Whether values were taken down, and only this process can have assigned others since.
pub fn known() -> bool {
    !values().is_empty()
}

/// A setting as it is now. Never throws: the names are known.
pub fn value(name: &CStr) -> &'static [u8] {
    unsafe { raw::bytes(raw::GetConfigOption(name.as_ptr(), true, false)) }
}

/// Takes all values down.
pub fn take() {
    *values() = NAMES.iter().map(|name| value(name).to_vec()).collect();
}

/// A setting is about to be assigned: the server calls before it writes the value.
pub fn about_to_assign() {
    // SAFETY: plain globals; the postmaster, and processes without a client, have no port.
    unsafe {
        if pg_sys::IsPostmasterEnvironment && !pg_sys::IsUnderPostmaster {
            values().clear();
        } else if !known() && !pg_sys::libpq::be::MyProcPort.is_null() {
            take();
        }
    }
}
