//! Functions of somebody else inside our own processes. An event trigger, or an operator that a
//! superuser has redefined, would run in the worker, whom the guard lets do everything. While such a
//! function runs, it is not let: what it tries is refused, and the worker's statement fails with it.
//!
//! The server asks a hook about every function that is not built in, whoever calls it (fmgr.c).

use pgrx::pg_sys;

/// The server tells of each end, by an ERROR as well.
static mut DEPTH: u32 = 0;
static mut NEXT_NEEDED: pg_sys::needs_fmgr_hook_type = None;
static mut NEXT: pg_sys::fmgr_hook_type = None;

/// Watches over this process from now on. Doesn't throw; once, in a process of ours.
pub fn watch() {
    // SAFETY: plain globals of a process with one thread.
    unsafe {
        NEXT_NEEDED = pg_sys::needs_fmgr_hook;
        NEXT = pg_sys::fmgr_hook;
        pg_sys::needs_fmgr_hook = Some(needed);
        pg_sys::fmgr_hook = Some(called);
    }
}

/// Whether a function of somebody else is running.
#[inline]
pub fn is_running() -> bool {
    unsafe { DEPTH != 0 }
}

unsafe extern "C-unwind" fn needed(function: pg_sys::Oid) -> bool {
    unsafe {
        function.to_u32() >= pg_sys::FirstNormalObjectId
            || NEXT_NEEDED.is_some_and(|next| next(function))
    }
}

unsafe extern "C-unwind" fn called(
    event: pg_sys::FmgrHookEventType::Type,
    function: *mut pg_sys::FmgrInfo,
    arg: *mut pg_sys::Datum,
) {
    unsafe {
        // The triggers on the trail's own tables.
        if !is_own_trigger(function) {
            DEPTH = match event {
                pg_sys::FmgrHookEventType::FHET_START => DEPTH + 1,
                _ => DEPTH.saturating_sub(1),
            };
        }
        if let Some(next) = NEXT {
            next(event, function, arg);
        }
    }
}

unsafe extern "C-unwind" {
    /// In hooks/guard_trigger.rs.
    fn audit_guard_trigger(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum;
}

unsafe fn is_own_trigger(function: *const pg_sys::FmgrInfo) -> bool {
    let own: unsafe extern "C-unwind" fn(pg_sys::FunctionCallInfo) -> pg_sys::Datum =
        audit_guard_trigger;
    unsafe { (*function).fn_addr.map(|address| address as usize) == Some(own as usize) }
}
