//! Processes that help with a query of another session: the server's parallel workers.

use pgrx::pg_sys;

use super::raw;

/// Whether this process is one. Never throws.
pub fn is_worker() -> bool {
    // SAFETY: a plain global.
    unsafe { pg_sys::ParallelWorkerNumber >= 0 }
}

/// The process that it helps; `None` where it doesn't, or is about to end.
fn leader() -> Option<&'static pg_sys::PGPROC> {
    // SAFETY: MyProc is NULL or valid. Members leave the group before its leader does, and a PGPROC is
    // never unmapped.
    unsafe { pg_sys::MyProc.as_ref()?.lockGroupLeader.as_ref() }
}

/// The leader's process id, 0 where there is none. Never throws.
pub fn leader_pid() -> i32 {
    leader().map_or(0, |leader| leader.pid)
}

/// What pg_stat_activity knows of the leader; NULL for nothing. Throws.
///
/// # Safety
/// In a transaction.
pub unsafe fn leader_status() -> *const pg_sys::PgBackendStatus {
    let leader = leader_pid();
    unsafe {
        for number in 1..=raw::pgstat_fetch_stat_numbackends() {
            let entry = nth_status(number);
            if !entry.is_null() && (*entry).backendStatus.st_procpid == leader {
                return &raw const (*entry).backendStatus;
            }
        }
    }
    core::ptr::null()
}

#[cfg(any(feature = "pg14", feature = "pg15"))]
use raw::pgstat_fetch_stat_local_beentry as nth_status;
#[cfg(not(any(feature = "pg14", feature = "pg15")))]
use raw::pgstat_get_local_beentry_by_index as nth_status;
