//! The process that erases a value: what it does must not depend on the transaction that asked for
//! it, and the old row version can be overwritten only when the new one is committed.

use super::lifecycle::{definition, pin_settings};
use crate::pg::scrub::scrub;
use crate::pg::shared::{Shared, shared};
use crate::pg::spi::{Failure, transaction};
use crate::pg::trail::erase::Target;
use crate::pg::{schedule, session, signal};
use core::ffi::c_int;
use core::sync::atomic::Ordering;
use pgrx::pg_sys;

/// Length of an order in `bgw_extra`.
const ORDER: usize = 9;

/// Starts the process and waits for its end. `false`: there was no room for it. Throws (a cancel;
/// the process goes on).
pub fn run(seq: i64, fields: u8) -> bool {
    let mut worker = definition(c"audit_ext erase", c"audit_ext_erase_main");
    worker.bgw_start_time = pg_sys::BgWorkerStartTime::BgWorkerStart_RecoveryFinished;
    worker.bgw_restart_time = pg_sys::BGW_NEVER_RESTART;
    worker.bgw_main_arg = unsafe { pg_sys::Datum::from(pg_sys::MyDatabaseId) };
    worker.bgw_notify_pid = unsafe { pg_sys::MyProcPid };
    let mut order = [0; ORDER];
    order[..8].copy_from_slice(&seq.to_le_bytes());
    order[8] = fields;
    for (to, from) in worker.bgw_extra.iter_mut().zip(order) {
        *to = from as core::ffi::c_char;
    }
    unsafe {
        let mut handle = core::ptr::null_mut();
        if !pg_sys::RegisterDynamicBackgroundWorker(&mut worker, &mut handle) {
            return false;
        }
        pg_sys::WaitForBackgroundWorkerShutdown(handle);
        pg_sys::pfree(handle.cast());
    }
    true
}

/// Entry point of the process.
#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn audit_ext_erase_main(database: pg_sys::Datum) {
    session::set_worker();
    schedule::give_way();
    signal::die_on_terminate();
    signal::on_reload();
    let mut order = [0; ORDER];
    unsafe {
        for (to, from) in order.iter_mut().zip((*pg_sys::MyBgworkerEntry).bgw_extra) {
            *to = from as u8;
        }
        pg_sys::BackgroundWorkerUnblockSignals();
        pg_sys::BackgroundWorkerInitializeConnectionByOid(
            pg_sys::Oid::from(database.value() as u32),
            pg_sys::InvalidOid,
            pg_sys::BGWORKER_BYPASS_ALLOWCONN,
        );
    }
    pin_settings();
    let seq = i64::from_le_bytes([
        order[0], order[1], order[2], order[3], order[4], order[5], order[6], order[7],
    ]);
    if let Err(failure) = erase(seq, order[8]) {
        pgrx::warning!("audit_ext could not erase: {}", failure.message);
    }
}

fn erase(seq: i64, fields: u8) -> Result<(), Failure> {
    if let Some(shared) = shared() {
        let taken = transaction(|| Target::find(seq))?;
        if taken.is_some_and(|t| t.takes_kept_text(fields) || t.takes_kept_context(fields)) {
            make_worker_forget(shared);
        }
    }
    let tables = transaction(|| {
        let Some(target) = Target::find(seq) else {
            return Vec::new();
        };
        let tables = target.to_wipe();
        lock(&tables);
        // As it is behind the lock.
        if let Some(target) = Target::find(seq) {
            target.erase(fields);
        }
        tables
    })?;
    transaction(|| {
        lock(&tables);
        for (table, wipe) in &tables {
            // SAFETY: a table of ours or its TOAST table, locked; see `Target::to_wipe`.
            unsafe { scrub(*table, *wipe, false) };
        }
    })
}

/// Against others that erase, and VACUUM. Throws after lock_timeout.
fn lock(tables: &[(pg_sys::Oid, crate::pg::scrub::Wipe)]) {
    for (table, _) in tables {
        unsafe {
            pg_sys::LockRelationOid(*table, pg_sys::ShareUpdateExclusiveLock as c_int);
        }
    }
}

/// The worker refers to rows that it has stored: from here on to new ones, or it would go on to use
/// the row that is about to lose its text.
fn make_worker_forget(shared: &Shared) {
    let wanted = shared.forget_wanted.fetch_add(1, Ordering::SeqCst) + 1;
    while shared.forgotten.load(Ordering::SeqCst) < wanted {
        // A new one knows nothing yet.
        if shared.worker_pid.load(Ordering::SeqCst) == 0 {
            return;
        }
        shared.set_worker_latch();
        pgrx::check_for_interrupts!();
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
