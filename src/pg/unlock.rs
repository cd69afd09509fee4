//! Whether the trail is open to this process (spec/integrity.md, point 1): plain flags of the
//! process, which no setting and no SQL but `audit.unlock()` reaches. Not transactional: a rollback
//! neither opens nor closes. Nothing here throws.

use pgrx::pg_sys;

use super::asks::{self, Asker};
use super::{foreign, session};

/// Inside a statement of the extension's own functions on its own tables.
static mut OWN: bool = false;

/// Whether `audit.unlock()` has opened the trail for this session.
#[inline]
pub fn is_open() -> bool {
    asks::has(Asker::Unlocked)
}

/// Opens the trail for this session, or closes it.
pub fn set_open(open: bool) {
    asks::set(Asker::Unlocked, open);
}

/// While `on`, this process writes the extension's own tables (`audit.hold()` and the like). Ended by
/// [`aborted`] where an ERROR jumps over the end.
pub fn set_own(on: bool) {
    // SAFETY of all uses: a backend is one thread.
    unsafe { OWN = on };
}

/// A transaction or subtransaction was rolled back.
pub fn aborted() {
    unsafe { OWN = false };
}

/// Whether this process may write the trail whatever it does: the worker, an open session, one of
/// our own functions.
#[inline]
pub fn is_exempt() -> bool {
    (session::is_worker() && !foreign::is_running()) || is_open() || unsafe { OWN }
}

/// Whether the script of an extension is being run.
#[inline]
pub fn in_script() -> bool {
    unsafe { pg_sys::creating_extension }
}
