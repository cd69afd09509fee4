//! Each change of an effective audit.* value becomes an AUDIT event, however it was made: SET, RESET,
//! set_config, a function's SET clause, ALTER ROLE or DATABASE SET, a reload, a rollback
//! (spec/capture.md, rule 9). The server tells of assignments; values are compared only after one.

use audit_core::json::Object;
use core::ffi::CStr;
use core::hint::cold_path;

use super::emit;
use super::engine::Engine;
use crate::pg::{guc, raw};

/// The values as last seen, in the order of [`guc::NAMES`].
static mut SEEN: Vec<Vec<u8>> = Vec::new();

fn seen() -> &'static mut Vec<Vec<u8>> {
    // SAFETY: one thread; no reference outlives a function of this file.
    unsafe { &mut *(&raw mut SEEN) }
}

/// Never throws: the names are known.
fn value(name: &CStr) -> &'static [u8] {
    unsafe { raw::bytes(raw::GetConfigOption(name.as_ptr(), true, false)) }
}

/// Looks at the values in the postmaster, whose children inherit what was seen.
pub fn install() {
    *seen() = guc::NAMES.iter().map(|name| value(name).to_vec()).collect();
    guc::take_assigned();
}

/// A session begins with the values that it finds.
pub fn begin() {
    if guc::assigned() {
        cold_path();
        look_again();
    }
}

/// Some were assigned since: by a reload, for this role, by the client.
#[cold]
fn look_again() {
    guc::take_assigned();
    for (name, seen) in guc::NAMES.iter().zip(seen().iter_mut()) {
        let now = value(name);
        if seen != now {
            seen.clear();
            seen.extend_from_slice(now);
        }
    }
}

/// Called where statements begin and end.
#[inline]
pub fn check(engine: &mut Engine) {
    if guc::assigned() {
        compare(engine);
    }
}

#[cold]
fn compare(engine: &mut Engine) {
    guc::take_assigned();
    for (name, old) in guc::NAMES.iter().zip(seen().iter_mut()) {
        let new = value(name);
        if old == new {
            continue;
        }
        let mut details = Object::new();
        details
            .text("setting", name.to_bytes())
            .text("old", old)
            .text("new", new);
        emit::setting_event(engine, name.to_bytes(), &details.finish());
        old.clear();
        old.extend_from_slice(new);
    }
}
