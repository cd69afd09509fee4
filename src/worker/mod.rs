//! The background worker: from the ring to the trail.
//!
//! ```text
//! lifecycle   finds the home, attaches to it, ends                      (process)
//! run         the loop: sleep, gather, drain, back off                  (Worker)
//! source      records and gaps, from the ring in use or a left-over one
//! batch       rows put together; dictionary: what repeats; fates: who decided what
//! orphans     last events of sessions that were found dead; settle: fates that nobody could tell
//! store       a batch into the tables, and its leaves into the tree; decided: its fates; period: partitions made ahead; trail: where it stands
//! provenance  whether the trail was forked or restored; publish: key and checkpoints
//! maintenance closes periods, in a process of its own; retention: and drops those that are too old
//! erase       destroys a value, in a process of its own
//! ```
//!
//! # Exactly once
//! A batch's events and the ring position where it ends are one transaction. What isn't committed
//! is read again from the position that the trail holds; the ring's bytes are given back only
//! after the commit is flushed. So the worker may die at any instant.
//!
//! # Never in the way
//! The worker holds no lock for longer than a batch; it waits for locks a second at most; it makes
//! partitions in ways that readers don't stop. Idle, it sleeps without a timeout.

mod arena;
mod batch;
mod decided;
mod dictionary;
mod erase;
mod fates;
mod leftover;
mod lifecycle;
mod maintenance;
mod orphans;
mod own_events;
mod period;
mod provenance;
mod publish;
mod retention;
mod run;
mod settle;
mod source;
mod store;
mod text;
mod trail;

use pgrx::pg_sys;

pub use erase::run as erase;

/// Name and type of the worker, in pg_stat_activity and in its own events.
pub const NAME: &core::ffi::CStr = c"audit_ext worker";

/// Registers the worker. Called by `_PG_init`.
///
/// # Safety
/// In the postmaster, while shared_preload_libraries are loaded.
pub unsafe fn register() {
    let mut worker = lifecycle::definition(NAME, c"audit_ext_worker_main");
    // After recovery: on a standby there is nothing to write to. Restarted at once: whatever ends
    // the process for a reason of its own has waited before.
    worker.bgw_start_time = pg_sys::BgWorkerStartTime::BgWorkerStart_RecoveryFinished;
    worker.bgw_restart_time = 0;
    unsafe { crate::pg::raw::RegisterBackgroundWorker(&mut worker) };
}

/// Doesn't throw.
fn now() -> i64 {
    unsafe { crate::pg::raw::GetCurrentTimestamp() }
}
