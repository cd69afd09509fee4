//! Whether the trail is open to this process (spec/integrity.md, point 1): plain flags of the
//! process, which no setting and no SQL but `audit.unlock()` reaches. Not transactional: a rollback
//! neither opens nor closes. Nothing here throws.

use pgrx::pg_sys;

use super::asks::{self, Asker};
use super::shared::shared;
use super::{foreign, session};

/// Inside a statement of the extension's own functions on its own tables.
static mut OWN: bool = false;

/// The trail that was opened: its number.
static mut OPENED: u32 = 0;

/// Whether `audit.unlock()` has opened the trail for this session, and that is still the same.
#[inline]
pub fn is_open() -> bool {
    asks::has(Asker::Unlocked) && is_same()
}

#[cold]
#[inline(never)]
fn is_same() -> bool {
    // SAFETY of all uses: a backend is one thread.
    let same = shared().is_some_and(|shared| shared.trail() == unsafe { OPENED });
    if !same {
        close();
    }
    same
}

/// Opens the trail that had this number to this session.
pub fn open(trail: u32) {
    unsafe { OPENED = trail };
    asks::set(Asker::Unlocked, true);
}

/// Closes it again.
pub fn close() {
    asks::set(Asker::Unlocked, false);
}

/// While `on`, this process writes the extension's own tables (`audit.hold()` and the like). Ended by
/// [`aborted`] where an ERROR jumps over the end.
pub fn set_own(on: bool) {
    unsafe { OWN = on };
}

/// A transaction or subtransaction was rolled back.
pub fn aborted() {
    unsafe { OWN = false };
}

/// Whether such a statement is running.
#[inline]
pub fn is_own() -> bool {
    unsafe { OWN }
}

/// Whether this process may write the trail whatever it does: the worker, one of our own functions (not
/// what is somebody else's in them), an open session.
#[inline]
pub fn is_exempt() -> bool {
    ((session::is_worker() || is_own()) && !foreign::is_running()) || is_open()
}

/// Whether the script of an extension is being run, and no function of somebody else inside of it.
#[inline]
pub fn in_script() -> bool {
    // SAFETY: a plain global.
    unsafe { pg_sys::creating_extension && !foreign::is_running() }
}

/// Whether that script may do what users may not.
pub fn in_trusted_script() -> bool {
    in_script() && foreign::trusts_script()
}
