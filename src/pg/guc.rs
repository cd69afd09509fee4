//! The settings `audit.*` (spec/interface.md). Strings are parsed once, when they are set; hooks
//! read plain statics.
//!
//! The prefix is deliberately not reserved: applications that `SET audit.user_id` keep working.

use audit_core::level::Level;
use core::ffi::{c_char, c_int, c_void};
use core::ptr::null_mut;
use pgrx::pg_sys;

use super::asks::{self, Asker};

mod define;
pub mod seen;
pub use define::{END, EnumOptions, Int, define, define_int, entry};

static mut LEVEL_TEXT: *mut c_char = null_mut();
static mut ROLE: *mut c_char = null_mut();
#[unsafe(link_section = "audit_data")]
static mut CATALOG: bool = true;
static mut NESTED: bool = true;
#[unsafe(link_section = "audit_data")]
static mut PARAMETERS: bool = false;
static mut PARAMETER_MAX_SIZE: c_int = 1024;
#[unsafe(link_section = "audit_data")]
static mut STATEMENT_MAX_SIZE: c_int = 64 * 1024;
static mut CONTEXT: *mut c_char = null_mut();
static mut BRANCH: *mut c_char = null_mut();
static mut ON_FULL: c_int = OnFull::Wait as c_int;
static mut FULL_TIMEOUT: c_int = 30_000;
static mut FLUSH_INTERVAL: c_int = 200;
static mut PARTITION_INTERVAL: c_int = 86_400;
static mut DATABASE: *mut c_char = null_mut();
static mut RING_SIZE: c_int = 16 * 1024;
static mut RING_DIRECTORY: *mut c_char = null_mut();
static mut KEY_FILE: *mut c_char = null_mut();
static mut CHECKPOINT_INTERVAL: c_int = 3600;

/// What a statement does that starts while the ring is nearly full (`audit.on_full`).
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum OnFull {
    /// Waits, at most `audit.full_timeout`; then it runs unrecorded and the loss is counted.
    Wait = 0,
    /// Runs; what doesn't fit is counted and becomes a GAP event.
    Drop = 1,
    /// Fails.
    Refuse = 2,
}

/// Settings whose changes are recorded. `audit.context` is not among them: it changes with each
/// request of an application and is on every event anyway.
pub const NAMES: &[&core::ffi::CStr] = &[
    c"audit.level",
    c"audit.role",
    c"audit.catalog",
    c"audit.nested",
    c"audit.parameters",
    c"audit.parameter_max_size",
    c"audit.statement_max_size",
    c"audit.branch",
    c"audit.on_full",
    c"audit.full_timeout",
    c"audit.durability",
    c"audit.flush_interval",
    c"audit.partition_interval",
    c"audit.retention",
    c"audit.max_size",
    c"audit.on_max_size",
    c"audit.database",
    c"audit.ring_size",
    c"audit.ring_directory",
    c"audit.key_file",
    c"audit.checkpoint_interval",
];

/// Counts assignments of what every event of the session carries: `audit.context`, `audit.branch`.
#[unsafe(link_section = "audit_data")]
static mut ATTRIBUTES_VERSION: u32 = 0;

/// Changes when `audit.context` or `audit.branch` may have changed.
#[inline]
pub fn attributes_version() -> u32 {
    unsafe { ATTRIBUTES_VERSION }
}

/// Whether a setting was assigned since [`take_assigned`]: a value may have changed.
#[inline]
pub fn assigned() -> bool {
    asks::has(Asker::Assigned)
}

/// Forgets that a value may have changed.
pub fn take_assigned() {
    asks::set(Asker::Assigned, false);
}

fn assigned_any() {
    seen::about_to_assign();
    asks::set(Asker::Assigned, true);
}

unsafe extern "C-unwind" fn assigned_context(_value: *const c_char, _extra: *mut c_void) {
    unsafe { ATTRIBUTES_VERSION = ATTRIBUTES_VERSION.wrapping_add(1) };
}

unsafe extern "C-unwind" fn assigned_branch(_value: *const c_char, _extra: *mut c_void) {
    unsafe {
        assigned_any();
        ATTRIBUTES_VERSION = ATTRIBUTES_VERSION.wrapping_add(1);
    }
}

unsafe extern "C-unwind" fn assigned_role(value: *const c_char, _extra: *mut c_void) {
    assigned_any();
    asks::set(Asker::Role, !value.is_null() && unsafe { *value } != 0);
}

unsafe extern "C-unwind" fn assigned_text(_value: *const c_char, _extra: *mut c_void) {
    assigned_any();
}

pub unsafe extern "C-unwind" fn assigned_int(_value: c_int, _extra: *mut c_void) {
    assigned_any();
}

unsafe extern "C-unwind" fn assigned_bool(_value: bool, _extra: *mut c_void) {
    assigned_any();
}

// The getters: none of them throws. SAFETY of each: a backend is one thread, and the statics are
// written by the GUC machinery of the same thread only.

/// `audit.level`, parsed.
#[inline]
pub fn level() -> Level {
    asks::level()
}

/// `audit.role` as the server keeps it; never NULL once defined.
pub fn role() -> *const c_char {
    unsafe { ROLE }
}

/// Whether `audit.role` is set.
#[inline]
pub fn has_role() -> bool {
    asks::has(Asker::Role)
}

/// `audit.catalog`
#[inline]
pub fn catalog() -> bool {
    unsafe { CATALOG }
}

/// `audit.nested`
#[inline]
pub fn nested() -> bool {
    unsafe { NESTED }
}

/// `audit.parameters`
#[inline]
pub fn parameters() -> bool {
    unsafe { PARAMETERS }
}

/// `audit.parameter_max_size` in bytes.
pub fn parameter_max_size() -> usize {
    unsafe { PARAMETER_MAX_SIZE as usize }
}

/// `audit.statement_max_size` in bytes.
#[inline]
pub fn statement_max_size() -> usize {
    unsafe { STATEMENT_MAX_SIZE as usize }
}

/// `audit.context`; empty where not set.
#[inline]
pub fn context() -> &'static [u8] {
    unsafe { super::raw::bytes(CONTEXT) }
}

/// Whether `audit.branch` is set.
#[inline]
pub fn has_branch() -> bool {
    unsafe { !BRANCH.is_null() && *BRANCH != 0 }
}

/// `audit.branch`; empty where not set.
pub fn branch() -> &'static [u8] {
    unsafe { super::raw::bytes(BRANCH) }
}

/// `audit.on_full`
pub fn on_full() -> OnFull {
    match unsafe { ON_FULL } {
        1 => OnFull::Drop,
        2 => OnFull::Refuse,
        _ => OnFull::Wait,
    }
}

/// `audit.full_timeout` in milliseconds.
pub fn full_timeout_ms() -> u64 {
    unsafe { FULL_TIMEOUT as u64 }
}

/// `audit.flush_interval` in milliseconds.
pub fn flush_interval_ms() -> u64 {
    unsafe { FLUSH_INTERVAL as u64 }
}

/// `audit.partition_interval` in seconds.
pub fn partition_interval_seconds() -> u64 {
    unsafe { PARTITION_INTERVAL as u64 }
}

/// `audit.ring_size` in bytes.
pub fn ring_size() -> usize {
    unsafe { RING_SIZE as usize * 1024 }
}

/// `audit.ring_directory`, relative to the data directory unless absolute.
pub fn ring_directory() -> &'static [u8] {
    unsafe { super::raw::bytes(RING_DIRECTORY) }
}

/// `audit.key_file`, relative to the data directory unless absolute.
pub fn key_file() -> &'static [u8] {
    unsafe { super::raw::bytes(KEY_FILE) }
}

/// `audit.checkpoint_interval` in seconds.
pub fn checkpoint_interval_seconds() -> u64 {
    unsafe { CHECKPOINT_INTERVAL as u64 }
}
