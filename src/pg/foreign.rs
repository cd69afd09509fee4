//! Functions of somebody else where we, or the script of an extension, trust what runs. An event trigger, or
//! an operator that a superuser has redefined, would run in the worker, or in a statement of our own functions,
//! whom the guard lets do everything; a trigger on what a script does, in that script. While such a function
//! runs, none of them is trusted.
//!
//! The server asks a hook about every function that is not built in, whoever calls it (fmgr.c).

use pgrx::pg_sys;

use super::{raw, unlock};

/// This process is one of ours.
static mut OURS: bool = false;
/// Calls that the hook was told of and that haven't come back. The server tells of each end, by an ERROR as well.
static mut CALLS: u32 = 0;
/// The outermost of them that is of a function of somebody else, from 1; 0: none.
static mut FOREIGN: u32 = 0;
/// `extension_control_path` as the server started with it.
static mut CONTROL_PATH: Vec<u8> = Vec::new();
/// The script that runs is not trusted: such a function has made or changed something in it, which it may call;
/// or it was looked for where the session said.
static mut TAINTED: bool = false;
static mut NEXT_NEEDED: pg_sys::needs_fmgr_hook_type = None;
static mut NEXT: pg_sys::fmgr_hook_type = None;

/// # Safety
/// From `_PG_init` only.
pub unsafe fn install() {
    unsafe {
        NEXT_NEEDED = pg_sys::needs_fmgr_hook;
        NEXT = pg_sys::fmgr_hook;
        CONTROL_PATH = control_path().to_vec();
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
    unsafe { FOREIGN != 0 }
}

/// Whether the script that runs is what its extension says.
pub fn trusts_script() -> bool {
    unsafe { !TAINTED }
}

/// CREATE or ALTER EXTENSION begins. Never throws.
pub fn script_begins() {
    unsafe {
        if !pg_sys::creating_extension {
            TAINTED = control_path() != (*(&raw const CONTROL_PATH)).as_slice();
        }
    }
}

/// Where the server looks for scripts, from 18 on: a session may set that. Never throws.
fn control_path() -> &'static [u8] {
    unsafe {
        raw::bytes(raw::GetConfigOption(
            c"extension_control_path".as_ptr(),
            true,
            false,
        ))
    }
}

/// An object was made or changed. Never throws.
pub fn object_changed() {
    unsafe { TAINTED |= pg_sys::creating_extension && is_running() };
}

/// A plain frame. Throws in the script of an extension, and where we run.
unsafe extern "C-unwind" fn needed(function: pg_sys::Oid) -> bool {
    unsafe { is_foreign(function) || NEXT_NEEDED.is_some_and(|next| next(function)) }
}

/// Whether a function is somebody else's: in a script, none of that extension. What fires by itself is never
/// the script's.
unsafe fn is_foreign(function: pg_sys::Oid) -> bool {
    unsafe {
        if OURS || unlock::is_own() {
            return !is_servers(function);
        }
        pg_sys::creating_extension
            && !is_servers(function)
            && (matches!(
                raw::get_func_rettype(function),
                pg_sys::TRIGGEROID | pg_sys::EVENT_TRIGGEROID
            ) || raw::getExtensionOfObject(pg_sys::ProcedureRelationId, function)
                != pg_sys::CurrentExtensionObject)
    }
}

/// Whether a function is the server's own: one in C. (Others a superuser can replace, or give such an OID.)
unsafe fn is_servers(function: pg_sys::Oid) -> bool {
    /// OIDs of the languages internal and C (catalog/pg_language.dat).
    const COMPILED: [u32; 2] = [12, 13];
    const PROLANG: pg_sys::AttrNumber = pg_sys::Anum_pg_proc_prolang as pg_sys::AttrNumber;
    let none = pg_sys::Datum::null();
    function.to_u32() < pg_sys::FirstNormalObjectId && {
        let cache = pg_sys::SysCacheIdentifier::PROCOID as i32;
        let language =
            unsafe { raw::GetSysCacheOid(cache, PROLANG, function.into(), none, none, none) };
        COMPILED.contains(&language.to_u32())
    }
}

/// A plain frame. Also called for functions that are SECURITY DEFINER, or have settings of their own.
unsafe extern "C-unwind" fn called(
    event: pg_sys::FmgrHookEventType::Type,
    function: *mut pg_sys::FmgrInfo,
    arg: *mut pg_sys::Datum,
) {
    unsafe {
        if event == pg_sys::FmgrHookEventType::FHET_START {
            if let Some(next) = NEXT {
                next(event, function, arg);
            }
            // The triggers on the trail's own tables are ours.
            let foreign = !is_own_trigger(function) && is_foreign((*function).fn_oid);
            // From here on nothing throws.
            CALLS += 1;
            if foreign && FOREIGN == 0 {
                FOREIGN = CALLS;
            }
            return;
        }
        if FOREIGN == CALLS {
            FOREIGN = 0;
        }
        CALLS = CALLS.saturating_sub(1);
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
