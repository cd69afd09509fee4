//! The settings that say how long and how large the trail may be (spec/interface.md, "Settings").

use core::ffi::c_int;
use core::ptr::null;
use pgrx::pg_sys::{self, GucContext::PGC_SIGHUP};

use super::guc;

static mut RETENTION: c_int = 0;
static mut MAX_SIZE: c_int = 0;
static mut ON_MAX_SIZE: c_int = OnMaxSize::Warn as c_int;

/// What happens when the trail has reached `audit.max_size` (`audit.on_max_size`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum OnMaxSize {
    /// The server log says so.
    Warn = 0,
    /// The oldest periods are dropped.
    DropOldest = 1,
    /// Statements that would be recorded fail, but for those of superusers.
    Refuse = 2,
}

/// A NUL-terminated array that `DefineCustomEnumVariable` keeps a pointer to.
struct Options([pg_sys::config_enum_entry; 4]);
// SAFETY: only ever read.
unsafe impl Sync for Options {}

static OPTIONS: Options = Options([
    entry(c"warn", OnMaxSize::Warn),
    entry(c"drop_oldest", OnMaxSize::DropOldest),
    entry(c"refuse", OnMaxSize::Refuse),
    pg_sys::config_enum_entry {
        name: null(),
        val: 0,
        hidden: false,
    },
]);

const fn entry(name: &'static core::ffi::CStr, value: OnMaxSize) -> pg_sys::config_enum_entry {
    pg_sys::config_enum_entry {
        name: name.as_ptr(),
        val: value as c_int,
        hidden: false,
    }
}

// The getters: none of them throws. SAFETY of each: a backend is one thread, and the statics are
// written by the GUC machinery of the same thread only.

/// `audit.retention` in seconds; 0: for ever.
pub fn retention_seconds() -> u64 {
    unsafe { RETENTION as u64 }
}

/// `audit.max_size` in bytes; 0: no limit.
pub fn max_size() -> u64 {
    unsafe { MAX_SIZE as u64 * 1024 * 1024 }
}

/// `audit.on_max_size`
pub fn on_max_size() -> OnMaxSize {
    match unsafe { ON_MAX_SIZE } {
        1 => OnMaxSize::DropOldest,
        2 => OnMaxSize::Refuse,
        _ => OnMaxSize::Warn,
    }
}

/// Defines them. Throws (FATAL at server start) for a bad value.
///
/// # Safety
/// From [`guc::define`] only.
pub unsafe fn define() {
    unsafe {
        guc::define_int(guc::Int {
            name: c"audit.retention",
            short: c"Age at which partitions of the trail are dropped; 0: never.",
            value: &raw mut RETENTION,
            range: 0..=c_int::MAX,
            context: PGC_SIGHUP,
            unit: pg_sys::GUC_UNIT_S,
            check: None,
        });
        guc::define_int(guc::Int {
            name: c"audit.max_size",
            short: c"Largest size of the trail; 0: no limit.",
            value: &raw mut MAX_SIZE,
            range: 0..=c_int::MAX,
            context: PGC_SIGHUP,
            unit: pg_sys::GUC_UNIT_MB,
            check: None,
        });
        super::raw::DefineCustomEnumVariable(
            c"audit.on_max_size".as_ptr(),
            c"What happens when the trail has reached audit.max_size.".as_ptr(),
            null(),
            &raw mut ON_MAX_SIZE,
            OnMaxSize::Warn as c_int,
            OPTIONS.0.as_ptr(),
            PGC_SIGHUP,
            0,
            None,
            Some(guc::assigned_int),
            None,
        );
    }
}
