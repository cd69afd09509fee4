//! Whether this backend captures at all. Asked by every hook before it takes anything down, so it must
//! cost next to nothing when the answer is no.

use core::sync::atomic::{AtomicU8, Ordering};
use pgrx::pg_sys;

use super::engine::{Lone, engine, engine_as_it_is};
use crate::pg::shared::{HOME_NONE, HOME_UNKNOWN};
use crate::pg::{home, parallel, raw, ring_file, session, shared, slot};

const UNKNOWN: u8 = 0;
const NO: u8 = 1;
const YES: u8 = 2;
/// A parallel worker: its copy of the query is told by who leads it, what that runs inside itself is not.
const HELPS: u8 = 3;

/// Whether this kind of process is recorded; found out at its first statement. (An atomic only to
/// be a safe static; a backend is one thread.)
#[unsafe(link_section = "audit_data")]
static ELIGIBLE: AtomicU8 = AtomicU8::new(UNKNOWN);

/// Whether statements of this process are captured now. May look for the home in the catalog, once
/// per server start; throws only then.
#[inline]
pub fn on() -> bool {
    let Some(shared) = shared::shared() else {
        return false;
    };
    match shared.home() {
        HOME_NONE => false,
        HOME_UNKNOWN => look_for_home(shared) && eligible(),
        _ => eligible(),
    }
}

/// Whether there is a home, and it is known where.
#[inline]
fn knows_home() -> bool {
    shared::shared().is_some_and(|s| !matches!(s.home(), HOME_NONE | HOME_UNKNOWN))
}

/// As [`on`], but never throws: a home that is not known yet counts as none.
#[inline]
pub fn on_quietly() -> bool {
    knows_home() && eligible()
}

/// As [`on_quietly`], but `false` also where that would have to find out: calls nothing.
#[inline]
pub fn on_surely() -> bool {
    knows_home() && ELIGIBLE.load(Ordering::Relaxed) == YES
}

/// Whether errors and the ends of transactions are of interest: statements are captured, or one that was
/// is still under way as the trail goes. Never throws.
#[inline]
pub fn follows() -> bool {
    on_quietly() || has_left_some()
}

#[cold]
#[inline(never)]
fn has_left_some() -> bool {
    ELIGIBLE.load(Ordering::Relaxed) == YES && !engine().is_at_rest()
}

#[inline]
fn eligible() -> bool {
    let known = ELIGIBLE.load(Ordering::Relaxed);
    known == YES || (known != NO && (known == HELPS || decide()))
}

/// Whether this process helps with a query of another session, and is recorded as far as that needs it.
#[inline]
pub fn helps() -> bool {
    ELIGIBLE.load(Ordering::Relaxed) == HELPS
}

#[cold]
#[unsafe(link_section = "audit_session")]
fn decide() -> bool {
    // Nothing can be stored while the server is a standby; a session may outlive its promotion, so
    // that is no lasting answer.
    // SAFETY: reads shared memory; doesn't throw.
    if unsafe { raw::RecoveryInProgress() } {
        return false;
    }
    // SAFETY: a plain global; without a PGPROC (before authentication) locks can't be waited for.
    if let Some(shared) = shared::shared().filter(|_| !unsafe { pg_sys::MyProc }.is_null()) {
        shared.note_first_xid();
    }
    // SAFETY: plain globals of this process.
    let skip = unsafe {
        session::is_worker()
            || pg_sys::MyBackendType == pg_sys::BackendType::B_AUTOVAC_WORKER
            || pg_sys::IsBinaryUpgrade
            || ring_file::ring().is_none()
    };
    let kind = match skip {
        true => NO,
        false if parallel::is_worker() => HELPS,
        false => YES,
    };
    ELIGIBLE.store(kind, Ordering::Relaxed);
    !skip
}

/// Whether this session would be recorded if the server had a ring. Never throws.
pub fn wants_ring() -> bool {
    knows_home() && ring_file::ring().is_none() && session::has_client()
}

/// Something in this backend's capture has gone wrong: it stops, and the loss is counted, so that the
/// trail tells of it.
#[cold]
pub fn give_up() {
    ELIGIBLE.store(NO, Ordering::Relaxed);
    engine_as_it_is().lone = Lone::NONE;
    engine_as_it_is().serve(false);
    slot::freeze();
    if let Some(shared) = shared::shared() {
        shared.panics.fetch_add(1, Ordering::Relaxed);
    }
    if let Some(ring) = ring_file::ring() {
        // SAFETY: reads the clock; doesn't throw.
        ring.count_drop(unsafe { raw::GetCurrentTimestamp() });
    }
}

/// After a server start nobody may know yet whether there is a home: whoever comes first looks.
#[cold]
fn look_for_home(shared: &shared::Shared) -> bool {
    // SAFETY: only in a transaction that can read the catalog.
    unsafe {
        if session::is_worker()
            || raw::RecoveryInProgress()
            || !raw::IsTransactionState()
            || pg_sys::MyDatabaseId == pg_sys::InvalidOid
        {
            return false;
        }
        let home = home::look_for_in_hook();
        shared.settle_home(if home == pg_sys::InvalidOid {
            HOME_NONE
        } else {
            home.to_u32()
        });
    }
    !matches!(shared.home(), HOME_NONE | HOME_UNKNOWN)
}
