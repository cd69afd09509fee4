//! The worker as a process: where it attaches, its signals, its settings, its end.
//!
//! A process can connect to one database only, once. So the worker starts without a database, looks
//! for the home's label, notes it in shared memory and ends; the postmaster starts it again and it
//! attaches. If that fails (the home was dropped) the next start looks again.

use super::run::{End, Worker};
use crate::pg::shared::{HOME_NONE, Shared, shared};
use crate::pg::{guc, home, schedule, session, signal, spi};
use core::ffi::{CStr, c_int};
use core::sync::atomic::{AtomicBool, Ordering};
use pgrx::pg_sys;
use std::time::Duration;

/// Before another try to attach where the last one failed.
const RETRY: Duration = Duration::from_secs(5);

/// In `Shared::attach`: a process is about to attach, or failed to.
const ATTACHING: u32 = u32::MAX;

/// SIGTERM came.
static TERMINATED: AtomicBool = AtomicBool::new(false);

/// What a background worker of ours has in common with the others.
pub fn definition(name: &CStr, function: &CStr) -> pg_sys::BackgroundWorker {
    fn set(field: &mut [core::ffi::c_char], text: &CStr) {
        for (to, from) in field.iter_mut().zip(text.to_bytes_with_nul()) {
            *to = *from as core::ffi::c_char;
        }
    }
    let mut worker = pg_sys::BackgroundWorker {
        bgw_flags: (pg_sys::BGWORKER_SHMEM_ACCESS | pg_sys::BGWORKER_BACKEND_DATABASE_CONNECTION)
            as c_int,
        ..Default::default()
    };
    set(&mut worker.bgw_name, name);
    set(&mut worker.bgw_type, name);
    set(&mut worker.bgw_library_name, c"audit_ext");
    set(&mut worker.bgw_function_name, function);
    worker
}

/// Whether the process was asked to end.
pub fn terminated() -> bool {
    TERMINATED.load(Ordering::Relaxed)
}

/// Only notes it: a batch under way is finished, which takes no longer than its lock_timeout.
unsafe extern "C-unwind" fn on_sigterm(_signal: c_int) {
    TERMINATED.store(true, Ordering::Relaxed);
    unsafe { crate::pg::raw::SetLatch(pg_sys::MyLatch) };
}

/// The worker's entry point.
#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn audit_ext_worker_main(_argument: pg_sys::Datum) {
    session::set_worker();
    schedule::give_way();
    unsafe {
        signal::on_terminate(on_sigterm);
        signal::on_reload();
        pg_sys::BackgroundWorkerUnblockSignals();
    }
    let Some(shared) = shared() else {
        return; // not preloaded: cannot be
    };
    shared.note_first_xid();
    publish(shared);
    // A connection that fails ends the process without further ado; the mark then tells the next.
    let attach = shared.attach.swap(ATTACHING, Ordering::SeqCst);
    let ended = spi::catch(|| match attach {
        0 => look_for_home(shared, true),
        ATTACHING => look_for_home(shared, false),
        database => attached(shared, pg_sys::Oid::from(database)),
    });
    if let Err(failure) = ended {
        shared.set_last_error(&failure.message);
        pgrx::warning!("audit_ext worker has to start again: {}", failure.message);
        unsafe { pg_sys::AbortCurrentTransaction() };
        let _ = spi::catch(|| sleep(RETRY));
    }
    // 0 would mean "never again" to the postmaster.
    unsafe { pg_sys::proc_exit(1) };
}

/// Makes the worker known to backends for as long as it lives.
fn publish(shared: &Shared) {
    unsafe {
        shared
            .worker_latch
            .store(pg_sys::MyLatch, Ordering::Release);
        shared
            .worker_pid
            .store(pg_sys::MyProcPid, Ordering::Release);
        pg_sys::before_shmem_exit(Some(withdraw), pg_sys::Datum::null());
    }
}

/// Runs while the process ends; doesn't throw.
unsafe extern "C-unwind" fn withdraw(_code: c_int, _argument: pg_sys::Datum) {
    if let Some(shared) = shared() {
        shared
            .worker_latch
            .store(core::ptr::null_mut(), Ordering::Release);
        shared.worker_sleeping.store(0, Ordering::SeqCst);
        shared.worker_pid.store(0, Ordering::Release);
    }
}

/// Without a database: waits until there is a home, then ends to be started again, attached.
fn look_for_home(shared: &Shared, at_once: bool) {
    shared.attach.store(0, Ordering::SeqCst);
    unsafe {
        pg_sys::BackgroundWorkerInitializeConnection(core::ptr::null(), core::ptr::null(), 0);
        // So that pg_stat_activity and logs say something meaningful.
        pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_IDLE, core::ptr::null());
    }
    loop {
        if terminated() {
            return;
        }
        if shared.detach_wanted() {
            // Until that transaction ends, which sets the latch; or its backend dies.
            wait(Some(RETRY));
            continue;
        }
        let before = shared.home();
        let found = find_home();
        if found != pg_sys::InvalidOid {
            if !at_once {
                sleep(RETRY);
            }
            shared.replace_home(before, found.to_u32());
            shared.attach.store(found.to_u32(), Ordering::SeqCst);
            return;
        }
        shared.replace_home(before, HOME_NONE);
        wait(None);
    }
}

/// The database to attach to; InvalidOid if there is none. Throws.
fn find_home() -> pg_sys::Oid {
    spi::bare_transaction(|| unsafe { home::look_for() })
        .unwrap_or_else(|failure| pgrx::error!("{}", failure.message))
}

/// Whether this database still is the home, and has the extension: the one that the worker is
/// attached to, where it is already.
pub fn is_home() -> Result<bool, spi::Failure> {
    spi::bare_transaction(|| unsafe { home::is_here(spi::is_attached) })
}

/// Attached to the home: works until asked to end, or until this is the home no more.
fn attached(shared: &'static Shared, database: pg_sys::Oid) {
    unsafe {
        // Also where ALLOW_CONNECTIONS is off for users.
        pg_sys::BackgroundWorkerInitializeConnectionByOid(
            database,
            pg_sys::InvalidOid,
            pg_sys::BGWORKER_BYPASS_ALLOWCONN,
        );
    }
    shared.attach.store(0, Ordering::SeqCst);
    pin_settings();
    // Whoever commits a change of the home after the look says so after it, too.
    let before = shared.home();
    if !is_home().unwrap_or_else(|failure| pgrx::error!("{}", failure.message)) {
        // What was believed of this one may be true of another.
        let found = find_home();
        if found != pg_sys::InvalidOid && found != database {
            shared.replace_home(database.to_u32(), found.to_u32());
            shared.attach.store(found.to_u32(), Ordering::SeqCst);
            return;
        }
        shared.replace_home(database.to_u32(), HOME_NONE);
        sleep(RETRY);
        return;
    }
    shared.replace_home(before, database.to_u32());
    match Worker::new(shared).run() {
        // The next process is to go on here, without a look around first.
        End::Terminated => shared.attach.store(database.to_u32(), Ordering::SeqCst),
        // The next one looks around.
        End::HomeLost => {}
    }
}

/// Settings that ALTER SYSTEM, DATABASE or ROLE could have changed to the trail's harm.
pub fn pin_settings() {
    // Its owner may set session_authorization for the database, too, which nothing but this takes back.
    unsafe {
        let first = pg_sys::Oid::from(pg_sys::BOOTSTRAP_SUPERUSERID);
        pg_sys::SetSessionAuthorization(first, true);
    }
    const SETTINGS: &[(&CStr, &CStr)] = &[
        (c"role", c"none"),
        (c"exit_on_error", c"off"),
        #[cfg(not(any(feature = "pg14", feature = "pg15", feature = "pg16")))]
        (c"transaction_timeout", c"0"),
        // The ring is freed after a commit, so a commit has to mean "on this disk". It must not
        // mean "on a standby": a standby that is gone would stop the trail, and gain nothing, as
        // the ring isn't there either.
        (c"synchronous_commit", c"local"),
        (c"default_transaction_isolation", c"read committed"),
        (c"default_transaction_read_only", c"off"),
        (c"default_transaction_deferrable", c"off"),
        (c"statement_timeout", c"0"),
        (c"idle_in_transaction_session_timeout", c"0"),
        (c"idle_session_timeout", c"0"),
        (c"lock_timeout", c"1s"),
        (c"search_path", c"pg_catalog, pg_temp"),
        (c"default_tablespace", c""),
        (c"temp_tablespaces", c""),
        (c"default_table_access_method", c"heap"),
        (c"default_toast_compression", c"pglz"),
        (c"row_security", c"off"),
        // Event triggers of somebody else would run in here, on each partition that is made.
        (c"session_replication_role", c"replica"),
        (c"check_function_bodies", c"off"),
        (c"client_min_messages", c"error"),
        (c"log_min_duration_statement", c"-1"),
        (c"log_statement", c"none"),
        (c"jit", c"off"),
        // With it nothing of VACUUM's other cost settings counts.
        (c"vacuum_cost_delay", c"0"),
        (c"default_statistics_target", c"100"),
        // A plan without the trail's indexes reads all of it for each batch.
        (c"enable_bitmapscan", c"on"),
        (c"enable_hashagg", c"on"),
        (c"enable_hashjoin", c"on"),
        (c"enable_indexonlyscan", c"on"),
        (c"enable_indexscan", c"on"),
        (c"enable_material", c"on"),
        (c"enable_mergejoin", c"on"),
        (c"enable_nestloop", c"on"),
        (c"enable_partition_pruning", c"on"),
        (c"enable_seqscan", c"on"),
        (c"enable_sort", c"on"),
        (c"enable_tidscan", c"on"),
        (c"seq_page_cost", c"1"),
        (c"random_page_cost", c"4"),
        (c"cpu_tuple_cost", c"0.01"),
        (c"cpu_index_tuple_cost", c"0.005"),
        (c"cpu_operator_cost", c"0.0025"),
        (c"effective_cache_size", c"4GB"),
        (c"constraint_exclusion", c"partition"),
        (c"plan_cache_mode", c"auto"),
        // Also what may force parallel plans.
        (c"max_parallel_workers_per_gather", c"0"),
        // They would fill the server's log.
        (c"debug_print_parse", c"off"),
        (c"debug_print_rewritten", c"off"),
        (c"debug_print_plan", c"off"),
        (c"bytea_output", c"hex"),
        // What the worker's own statements are written in.
        (c"standard_conforming_strings", c"on"),
        (c"DateStyle", c"ISO, YMD"),
        (c"IntervalStyle", c"postgres"),
    ];
    for (name, value) in SETTINGS {
        unsafe {
            pg_sys::SetConfigOption(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_SUSET,
                pg_sys::GucSource::PGC_S_OVERRIDE,
            );
        }
    }
}

/// Waits for the latch, at most for `timeout`; no timeout: idle, without wake-ups. Handles what
/// interrupts ask for and re-reads the configuration. May throw (a cancel).
/// `true`: the latch was set.
pub fn wait(timeout: Option<Duration>) -> bool {
    let events = pg_sys::WL_LATCH_SET
        | pg_sys::WL_EXIT_ON_PM_DEATH
        | if timeout.is_some() {
            pg_sys::WL_TIMEOUT
        } else {
            0
        };
    let milliseconds = timeout.map_or(-1, |t| (t.as_millis() as i64).max(1));
    let woken = unsafe {
        let woken = pg_sys::WaitLatch(
            pg_sys::MyLatch,
            events as c_int,
            milliseconds,
            pg_sys::PG_WAIT_EXTENSION,
        );
        pg_sys::ResetLatch(pg_sys::MyLatch);
        woken
    };
    service();
    woken as u32 & pg_sys::WL_LATCH_SET != 0
}

/// What signals asked for, but the end.
pub fn service() {
    pgrx::check_for_interrupts!();
    unsafe {
        if pg_sys::ConfigReloadPending != 0 {
            pg_sys::ConfigReloadPending = 0;
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        }
    }
}

/// Sleeps; ends early when asked to end.
pub fn sleep(time: Duration) {
    let end = std::time::Instant::now() + time;
    while !terminated() {
        let Some(rest) = end.checked_duration_since(std::time::Instant::now()) else {
            return;
        };
        wait(Some(rest.max(Duration::from_millis(1))));
    }
}

/// `audit.flush_interval`
pub fn flush_interval() -> Duration {
    Duration::from_millis(guc::flush_interval_ms())
}
