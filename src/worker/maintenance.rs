//! What keeps the trail in shape besides storing: the next period made ahead, the BRIN of the hot
//! partition summarised, ended periods closed.
//!
//! Closing builds indexes and freezes, which takes long: it runs in a process of its own, so that
//! the drain goes on.

use super::lifecycle::{definition, pin_settings};
use super::period::{PAGES_PER_RANGE, Period, TABLES, find_or_make};
use super::retention;
use super::store::LEADING;
use crate::pg::shared::{Shared, shared};
use crate::pg::spi::{Failure, bare_transaction, execute, query, transaction};
use crate::pg::{guc, heap, schedule, session, signal};
use core::ffi::{CStr, c_int};
use pgrx::{PgSqlErrorCode, pg_sys};
use std::time::{Duration, Instant};

/// Before another try at what failed.
const RETRY: Duration = Duration::from_secs(30);
/// Events between two looks at whether all ranges are summarised: some ranges.
const SUMMARISE_EVERY: u64 = 20_000;

/// What the worker has to see to after a batch.
#[derive(Default)]
pub struct Upkeep {
    next_is_made: bool,
    /// Ended periods may be waiting to be closed.
    closing_due: bool,
    not_before: Option<Instant>,
    unsummarised: u64,
    /// First page of the hot partition that isn't known to be summarised.
    summarised_to: u32,
    closer: Closer,
    limits: retention::Watch,
}

impl Upkeep {
    /// How long an idle worker may sleep; `None`: until it is woken.
    pub fn sleep(&self) -> Option<Duration> {
        self.limits.sleep()
    }

    /// Has what the limits condemn dropped. Called after each batch, after each that could not be stored
    /// (a drop makes room on a full disk), and when the worker wakes.
    pub fn keep_limits(&mut self, shared: &Shared) {
        if self.limits.is_due(shared) && self.closer.start() {
            self.limits.rest(RETRY);
        }
    }

    /// A drop was told of: there may be more to drop now.
    pub fn dropped(&mut self) {
        self.limits.look_again();
    }

    pub fn period_changed(&mut self) {
        *self = Upkeep {
            closing_due: true,
            closer: core::mem::take(&mut self.closer),
            limits: core::mem::take(&mut self.limits),
            ..Upkeep::default()
        };
    }

    pub fn stored(&mut self, events: u64) {
        self.unsummarised += events;
    }

    /// Does what is due. Failures are tried again later: none of it is needed to store events.
    pub fn run(&mut self, period: &Period, now: i64) {
        if self.unsummarised >= SUMMARISE_EVERY {
            self.unsummarised = 0;
            let from = self.summarised_to;
            if let Ok(to) = transaction(|| summarise(period, from)) {
                self.summarised_to = to;
            }
        }
        if (self.next_is_made && !self.closing_due)
            || self.not_before.is_some_and(|at| Instant::now() < at)
        {
            return;
        }
        self.not_before = Some(Instant::now() + RETRY);
        if !self.next_is_made {
            let interval = guc::partition_interval_seconds();
            match transaction(|| find_or_make(period.ends_at.max(now), interval)) {
                Ok(_) => self.next_is_made = true,
                // Nothing is late yet, but it will be if somebody's lock stays.
                Err(failure) => pgrx::warning!(
                    "audit_ext: the trail's next period can't be made yet: {}",
                    failure.message
                ),
            }
        }
        if self.closing_due {
            match transaction(|| ended_periods(period.starts_at)) {
                Ok(ended) if ended.is_empty() => self.closing_due = false,
                Ok(_) => {
                    self.closer.start();
                }
                Err(_) => {}
            }
        }
    }
}

/// Makes sure that the full ranges of the hot partition are summarised: those that somebody was in
/// the way of when they began. Returns the page up to which they are. Throws; in a transaction.
fn summarise(period: &Period, from: u32) -> u32 {
    unsafe {
        let table = pg_sys::table_open(period.event_table, pg_sys::AccessShareLock as c_int);
        let pages =
            pg_sys::RelationGetNumberOfBlocksInFork(table, pg_sys::ForkNumber::MAIN_FORKNUM);
        let brins = heap::brins(table, LEADING.keys);
        pg_sys::table_close(table, pg_sys::AccessShareLock as c_int);
        let mut page = from;
        while page + PAGES_PER_RANGE <= pages
            && brins
                .iter()
                .all(|brin| heap::summarise(period.event_table, *brin, page))
        {
            page += PAGES_PER_RANGE;
        }
        page
    }
}

/// Suffixes of periods that ended before `current` and aren't closed. Throws; in a transaction.
fn ended_periods(current: i64) -> Vec<String> {
    let mut suffixes = Vec::new();
    query(
        &format!(
            "SELECT p.suffix FROM audit.period p \
             WHERE p.ends_at <= '{}' AND p.frozen_at IS NULL ORDER BY p.starts_at",
            audit_core::calendar::rfc3339(current)
        ),
        |row| suffixes.extend(row.text(1)),
    );
    suffixes
}

/// The process that closes periods, as seen by the worker that started it.
struct Closer(*mut pg_sys::BackgroundWorkerHandle);

impl Default for Closer {
    fn default() -> Self {
        Closer(core::ptr::null_mut())
    }
}

impl Closer {
    /// Starts the process unless it runs; whether it did. Where there is no slot for it
    /// (max_worker_processes), it is tried again later. May throw (memory).
    fn start(&mut self) -> bool {
        unsafe {
            let mut pid = 0;
            if !self.0.is_null() {
                let status = pg_sys::GetBackgroundWorkerPid(self.0, &mut pid);
                if status != pg_sys::BgwHandleStatus::BGWH_STOPPED {
                    return false;
                }
                pg_sys::pfree(self.0.cast());
                self.0 = core::ptr::null_mut();
            }
            let mut worker = definition(c"audit_ext maintenance", c"audit_ext_maintenance_main");
            worker.bgw_start_time = pg_sys::BgWorkerStartTime::BgWorkerStart_RecoveryFinished;
            worker.bgw_restart_time = pg_sys::BGW_NEVER_RESTART;
            worker.bgw_main_arg = pg_sys::Datum::from(pg_sys::MyDatabaseId);
            let old = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
            let mut handle = core::ptr::null_mut();
            if pg_sys::RegisterDynamicBackgroundWorker(&mut worker, &mut handle) {
                self.0 = handle;
            }
            pg_sys::MemoryContextSwitchTo(old);
            !self.0.is_null()
        }
    }
}

/// Entry point of the process that closes periods; it ends when it is done.
#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn audit_ext_maintenance_main(database: pg_sys::Datum) {
    session::set_worker();
    schedule::give_way();
    signal::die_on_terminate();
    signal::on_reload();
    unsafe {
        pg_sys::BackgroundWorkerUnblockSignals();
        pg_sys::BackgroundWorkerInitializeConnectionByOid(
            pg_sys::Oid::from(database.value() as u32),
            pg_sys::InvalidOid,
            pg_sys::BGWORKER_BYPASS_ALLOWCONN,
        );
        // VACUUM keeps what has to outlive its transactions there.
        pg_sys::PortalContext = pg_sys::TopMemoryContext;
    }
    pin_settings();
    // Either is done where the other fails. Dropping comes first: it may make the room that closing needs.
    let dropped = shared().map_or(Ok(()), retention::drop_due);
    let closed = shared().map_or(Ok(()), close_all);
    unsafe { pg_sys::pgstat_report_stat(true) };
    // The worker starts this process again in a while. A reader's lock is nothing to speak of.
    for failure in [dropped, closed].into_iter().filter_map(Result::err) {
        if failure.code != PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE {
            pgrx::log!(
                "audit_ext could not close or drop a period yet: {}",
                failure.message
            );
        }
    }
}

fn close_all(shared: &Shared) -> Result<(), Failure> {
    // What is not written to any more, whatever the clock says.
    let current = super::now().min(retention::last_batch(shared));
    let ended = transaction(|| ended_periods(current))?;
    if ended.is_empty() {
        return Ok(());
    }
    // One that can't be closed keeps no other.
    let (done, mut failed): (Vec<_>, Vec<_>) = ended
        .iter()
        .map(|suffix| close(suffix))
        .partition(Result::is_ok);
    if !done.is_empty() {
        failed.extend(TABLES.map(analyze).into_iter().filter(Result::is_err));
    }
    failed.into_iter().next().unwrap_or(Ok(()))
}

/// Closes a period that is never written to again. Each step is a transaction of its own, and each
/// may have been done by a predecessor.
fn close(suffix: &str) -> Result<(), Failure> {
    for column in ["session", "statement"] {
        transaction(|| {
            execute(&format!(
                "CREATE INDEX IF NOT EXISTS event_{suffix}_{column} ON audit.event_{suffix} ({column}) WITH (fillfactor = 100)"
            ));
        })?;
    }
    transaction(|| bound(suffix))?;
    transaction(|| {
        execute(&format!(
            "UPDATE audit.period SET closed_at = now() WHERE suffix = '{suffix}' AND closed_at IS NULL"
        ));
    })?;
    for table in TABLES {
        freeze(&format!("{table}_{suffix}"))?;
    }
    let sizes = TABLES.map(|table| format!("pg_total_relation_size('audit.{table}_{suffix}')"));
    transaction(|| {
        execute(&format!(
            "UPDATE audit.period SET frozen_at = now(), size = {} WHERE suffix = '{suffix}'",
            sizes.join(" + ")
        ));
    })
}

/// Tells the planner between which times the statements of a partition began, so that a query on
/// started_at leaves it out. NOT VALID first: the scan then needs no lock that stops readers.
fn bound(suffix: &str) {
    let name = format!("event_{suffix}_started_at");
    let mut known = false;
    query(
        &format!(
            "SELECT 1 FROM pg_constraint WHERE conname = '{name}' AND conrelid = 'audit.event_{suffix}'::regclass"
        ),
        |_| known = true,
    );
    if !known {
        let mut range = None;
        query(
            &format!("SELECT min(started_at), max(started_at) FROM audit.event_{suffix}"),
            |row| range = row.number(1).zip(row.number(2)),
        );
        let Some((min, max)) = range else {
            return;
        };
        execute(&format!(
            "ALTER TABLE audit.event_{suffix} ADD CONSTRAINT {name} CHECK (started_at >= '{}' AND started_at <= '{}') NOT VALID",
            audit_core::calendar::rfc3339(min),
            audit_core::calendar::rfc3339(max)
        ));
    }
    execute(&format!(
        "ALTER TABLE audit.event_{suffix} VALIDATE CONSTRAINT {name}"
    ));
}

/// VACUUM (FREEZE, ANALYZE) of a partition: visible to everybody, so that nothing ever writes to it
/// again.
fn freeze(table: &str) -> Result<(), Failure> {
    let oid = transaction(|| relation(table))?;
    bare_transaction(|| unsafe { vacuum(oid, &[c"freeze", c"analyze"]) })
}

/// ANALYZE of a partitioned table, whose partitions have statistics of their own from when they were frozen: as a
/// statement it would make those anew, too. It reads all of them, so it fails where somebody has locked one, until the next
/// period is closed.
fn analyze(table: &str) -> Result<(), Failure> {
    transaction(|| unsafe { vacuum(relation(table), &[]) })
}

/// Throws where there is none: VACUUM would take it for a relation that is given by its name.
fn relation(table: &str) -> pg_sys::Oid {
    let name = std::ffi::CString::new(table).unwrap_or_default();
    let oid = unsafe {
        let schema = pg_sys::get_namespace_oid(c"audit".as_ptr(), false);
        pg_sys::get_relname_relid(name.as_ptr(), schema)
    };
    if oid == pg_sys::InvalidOid {
        pgrx::error!("the partition audit.{table} is gone");
    }
    oid
}

/// VACUUM of one relation with options; ANALYZE without, inside a transaction. Throws.
unsafe fn vacuum(oid: pg_sys::Oid, options: &[&CStr]) {
    unsafe {
        // VACUUM commits in between, so its arguments live longer than a transaction.
        let old = pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
        let stmt = pg_sys::palloc0(size_of::<pg_sys::VacuumStmt>()).cast::<pg_sys::VacuumStmt>();
        (*stmt).type_ = pg_sys::NodeTag::T_VacuumStmt;
        (*stmt).is_vacuumcmd = !options.is_empty();
        for option in options {
            let option = pg_sys::makeDefElem(option.as_ptr().cast_mut(), core::ptr::null_mut(), -1);
            (*stmt).options = pg_sys::lappend((*stmt).options, option.cast());
        }
        // By its OID: of a partitioned one only itself.
        let relation =
            pg_sys::makeVacuumRelation(core::ptr::null_mut(), oid, core::ptr::null_mut());
        (*stmt).rels = pg_sys::lappend(core::ptr::null_mut(), relation.cast());
        pg_sys::MemoryContextSwitchTo(old);
        let state = pg_sys::make_parsestate(core::ptr::null_mut());
        pg_sys::ExecVacuum(state, stmt, true);
    }
}
