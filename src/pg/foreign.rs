//! Functions of somebody else where we, or the script of an extension, trust what runs. An event trigger, or
//! an operator that a superuser has redefined, would run in the worker, whom the guard lets do everything; a
//! trigger on what a script does, in that script. While such a function runs, neither is trusted.
//!
//! The server asks a hook about every function that is not built in, whoever calls it (fmgr.c).

use pgrx::pg_sys;

use super::raw;

/// This process is one of ours.
static mut OURS: bool = false;
/// The server tells of each end, by an ERROR as well.
static mut DEPTH: u32 = 0;
static mut NEXT_NEEDED: pg_sys::needs_fmgr_hook_type = None;
static mut NEXT: pg_sys::fmgr_hook_type = None;

/// # Safety
/// From `_PG_init` only.
pub unsafe fn install() {
    unsafe {
        NEXT_NEEDED = pg_sys::needs_fmgr_hook;
        NEXT = pg_sys::fmgr_hook;
        pg_sys::needs_fmgr_hook = Some(needed);
        pg_sys::fmgr_hook = Some(called);
    }
}

/// In a process of ours all functions but the server's are somebody else's, from now on. Doesn't throw.
pub fn watch() {
    // SAFETY of all uses: a process with one thread.
    unsafe { OURS = true };
}

/// Whether a function of somebody else is running.
#[inline]
pub fn is_running() -> bool {
    unsafe { DEPTH != 0 }
}

/// A plain frame. Throws in the script of an extension.
unsafe extern "C-unwind" fn needed(function: pg_sys::Oid) -> bool {
    unsafe { is_foreign(function) || NEXT_NEEDED.is_some_and(|next| next(function)) }
}

/// In a script: whether the function is none of that extension.
unsafe fn is_foreign(function: pg_sys::Oid) -> bool {
    unsafe {
        function.to_u32() >= pg_sys::FirstNormalObjectId
            && (OURS
                || (pg_sys::creating_extension
                    && raw::getExtensionOfObject(pg_sys::ProcedureRelationId, function)
                        != pg_sys::CurrentExtensionObject))
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
