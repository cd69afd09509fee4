//! audit.flush(): until everything recorded before is in the trail.

use crate::pg::shared::{HOME_NONE, HOME_UNKNOWN, Shared, shared};
use crate::pg::{report, ring_file};
use core::sync::atomic::Ordering;
use pgrx::{PgSqlErrorCode, pg_extern, pg_sys};
use std::time::{Duration, Instant};

/// How long a missing worker is waited for: it may just be starting again.
const WORKER: Duration = Duration::from_secs(15);
/// Between looks, in milliseconds, should a wake-up get lost.
const LOOK: core::ffi::c_long = 100;

/// Waits until everything recorded before the call is in the trail and flushed to disk; returns
/// the trail's last seq. Can be cancelled.
#[pg_extern(sql = false)]
pub fn flush() -> i64 {
    let (Some(shared), Some(ring)) = (shared(), ring_file::ring()) else {
        report::refuse(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "audit_ext is not recording: it is not loaded via shared_preload_libraries, or has no ring",
            "Add audit_ext to shared_preload_libraries and restart the server; its log says why a ring could not be made.",
        );
    };
    refuse_where_nothing_is_stored(shared);
    let target = ring.head();
    shared.flush_wanted.fetch_max(target, Ordering::SeqCst);
    shared.set_worker_latch();
    let cv = (&raw const shared.flush_cv).cast_mut();
    let mut absent: Option<Instant> = None;
    // Guarded calls: a cancel unwinds through here; the transaction's end cancels the sleep.
    unsafe { pg_sys::ConditionVariablePrepareToSleep(cv) };
    while shared.flushed.load(Ordering::SeqCst) < target
        || shared.leftover_rings.load(Ordering::SeqCst) > 0
    {
        unsafe {
            pg_sys::ConditionVariableTimedSleep(cv, LOOK, pg_sys::PG_WAIT_EXTENSION);
        }
        pgrx::check_for_interrupts!();
        shared.remind_postmaster();
        if shared.worker_pid.load(Ordering::Acquire) != 0 {
            absent = None;
        } else if absent.get_or_insert_with(Instant::now).elapsed() > WORKER {
            report::refuse(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "the audit_ext worker is not running",
                "Recorded events wait in the ring. The server log says why the worker does not start; it needs a slot of max_worker_processes.",
            );
        }
    }
    unsafe { pg_sys::ConditionVariableCancelSleep() };
    shared.last_seq.load(Ordering::Relaxed) as i64
}

/// Waits until a checkpoint of the first `seq` events is in the file of checkpoints and in the server
/// log. `Err`: the worker can't publish any; why. Can be cancelled.
pub fn publish(seq: i64) -> Result<(), String> {
    let Some(shared) = shared() else {
        return Err("audit_ext is not loaded via shared_preload_libraries".into());
    };
    let wanted = seq.max(0) as u64;
    let cv = (&raw const shared.flush_cv).cast_mut();
    let begun = Instant::now();
    unsafe { pg_sys::ConditionVariablePrepareToSleep(cv) };
    let done = loop {
        if shared.checkpointed.load(Ordering::SeqCst) >= wanted {
            break Ok(());
        }
        // Each time: the worker forgets what it can't be asked for.
        if shared.checkpoint_wanted.fetch_max(wanted, Ordering::SeqCst) < wanted {
            shared.set_worker_latch();
        }
        if shared.checkpoints_fail.load(Ordering::SeqCst) != 0 {
            break Err(shared.last_error());
        }
        if begun.elapsed() > WORKER {
            break Err("the audit_ext worker does not answer".into());
        }
        unsafe {
            pg_sys::ConditionVariableTimedSleep(cv, LOOK, pg_sys::PG_WAIT_EXTENSION);
        }
        pgrx::check_for_interrupts!();
        shared.remind_postmaster();
    };
    unsafe { pg_sys::ConditionVariableCancelSleep() };
    done
}

fn refuse_where_nothing_is_stored(shared: &Shared) {
    if unsafe { pg_sys::RecoveryInProgress() } {
        report::refuse(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "audit.flush() cannot run during recovery",
            "Call it on the primary.",
        );
    }
    if matches!(shared.home(), HOME_NONE | HOME_UNKNOWN) {
        report::refuse(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "the audit trail has no home",
            "Run CREATE EXTENSION audit_ext in the database that is to hold it.",
        );
    }
}
