//! Each change of an effective audit.* value becomes an AUDIT event, however it was made: SET, RESET,
//! set_config, a function's SET clause, ALTER ROLE or DATABASE SET, a reload, a rollback
//! (spec/capture.md, rule 9). The server tells of assignments; values are compared only after one.

use audit_core::json::Object;
use audit_core::level::Level;
use core::ffi::CStr;
use core::hint::cold_path;

use super::emit;
use super::engine::Engine;
use crate::pg::connection;
use crate::pg::guc::{self, seen};

/// Looks at the values; in the postmaster first, whose children inherit what was seen.
pub fn take_down() {
    seen::take();
    guc::take_assigned();
}

/// A session begins with the values that it finds, be they its role's or its database's. What its client
/// asked for when it connected is a change like any other, which the next [`check`] tells of.
#[inline]
pub fn begin() {
    if !seen::known() || guc::assigned() {
        cold_path();
        look();
    }
}

/// Values were assigned since the postmaster looked at them, in it or in this process.
#[cold]
fn look() {
    let asked = |name: &CStr| connection::asks_for(name.to_bytes());
    if !(seen::known() && guc::NAMES.iter().any(|name| asked(name))) {
        return take_down();
    }
    for (name, old) in guc::NAMES.iter().zip(seen::values()) {
        if !asked(name) {
            *old = seen::value(name).to_vec();
        }
    }
}

/// `audit.level` as it was before a change that [`check`] has still to tell of.
pub fn level_before() -> Level {
    match seen::values().first() {
        Some(text) if guc::assigned() => {
            Level::parse(&String::from_utf8_lossy(text)).unwrap_or(guc::level())
        }
        _ => guc::level(),
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
    for (name, old) in guc::NAMES.iter().zip(seen::values().iter_mut()) {
        let new = seen::value(name);
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
