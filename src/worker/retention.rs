//! How long and how large the trail may become: whole periods are dropped when they are older than
//! `audit.retention`, or the oldest ones where the trail exceeds `audit.max_size`.
//!
//! The worker only looks ([`Watch`]); dropping is for the maintenance process ([`drop_due`]). A drop
//! is one transaction that leaves a row in audit.dropped, of which the worker makes a RETENTION event
//! in the transaction that marks it as told: once, whatever dies.
//!
//! Never dropped: what a legal hold covers, and the period of the last batch, from which a worker
//! that starts learns where the trail ends.

use super::period::TABLES;
use crate::pg::limits::{self, OnMaxSize};
use crate::pg::shared::Shared;
use crate::pg::spi::{Failure, current, execute, query, transaction};
use crate::pg::trail::retain::retain;
use audit_core::calendar::rfc3339;
use audit_core::event::Timestamp;
use core::sync::atomic::Ordering;
use pgrx::PgSqlErrorCode;
use std::time::{Duration, Instant};

/// Between two looks of the worker while events come.
const LOOK: Duration = Duration::from_secs(5);
/// Tries to get all locks at once, and the pause between them.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);
/// Percent of `audit.max_size` from which on the server log warns.
const WARN_AT: u64 = 75;

/// What the worker knows of the limits.
#[derive(Default)]
pub struct Watch {
    settings: Option<(u64, u64, OnMaxSize)>,
    next_look: Option<Instant>,
    /// A drop was begun and not told of since: none is due before.
    not_before: Option<Instant>,
    /// When the oldest period that may go becomes too old.
    due_at: Option<Timestamp>,
    /// What the log was told of the size: 0, [`WARN_AT`], 100.
    warned: u64,
}

impl Watch {
    /// Whether something is to be dropped. Looks seldom; a failure is another look's business. Called
    /// by the worker outside of transactions.
    pub fn is_due(&mut self, shared: &Shared) -> bool {
        let settings = (
            limits::retention_seconds(),
            limits::max_size(),
            limits::on_max_size(),
        );
        let changed = self.settings.replace(settings) != Some(settings);
        if settings.0 == 0 && settings.1 == 0 {
            self.due_at = None;
            shared.trail_full.store(0, Ordering::Relaxed);
            return false;
        }
        if !changed && self.next_look.is_some_and(|at| Instant::now() < at) {
            return false;
        }
        self.next_look = Some(Instant::now() + LOOK);
        let Ok((size, due, due_at)) = transaction(|| {
            let size = if settings.1 > 0 { trail_size() } else { 0 };
            let last = last_batch(shared);
            // Of no period's events: somebody may have locked them, and the worker has others to store.
            let due = candidates(size, last).iter().any(|c| !is_held_itself(c).1);
            (size, due, oldest_end(last))
        }) else {
            return false;
        };
        let retention = settings.0 as i64 * 1_000_000;
        self.due_at = due_at.filter(|_| retention > 0).map(|end| end + retention);
        self.judge(size, settings.1, shared);
        due && self.not_before.is_none_or(|at| Instant::now() >= at)
    }

    /// How long an idle worker may sleep; `None`: until it is woken.
    pub fn sleep(&self) -> Option<Duration> {
        let left = self.due_at? - super::now();
        Some(Duration::from_micros(left.max(0) as u64).max(LOOK))
    }

    /// Dropping was begun: where it fails, it is tried again after this time.
    pub fn rest(&mut self, time: Duration) {
        self.not_before = Some(Instant::now() + time);
    }

    /// Looks again at once: something was dropped.
    pub fn look_again(&mut self) {
        self.next_look = None;
        self.not_before = None;
    }

    /// Tells the log and the backends how full the trail is.
    fn judge(&mut self, size: u64, max: u64, shared: &Shared) {
        let percent = (size * 100).checked_div(max).unwrap_or(0);
        let full = percent >= 100 && limits::on_max_size() == OnMaxSize::Refuse;
        shared.trail_full.store(full.into(), Ordering::Relaxed);
        let level = match percent {
            100.. => 100,
            WARN_AT.. => WARN_AT,
            _ => 0,
        };
        if level > self.warned {
            pgrx::warning!(
                "audit_ext: the trail has {size} bytes, {percent} % of audit.max_size (audit.on_max_size = {:?})",
                limits::on_max_size()
            );
        }
        // Said again only after it was well below.
        if level > self.warned || percent + 5 < self.warned {
            self.warned = level;
        }
    }
}

/// Bytes of the trail. Those of frozen periods don't change and are kept, as long as all their tables are there: a
/// superuser may have taken some away. Throws; in a transaction.
fn trail_size() -> u64 {
    let mut size = 0;
    query(
        &format!(
            "SELECT coalesce(sum(CASE WHEN NOT p.size IS NULL AND n.there = {} THEN p.size \
               ELSE (SELECT sum(pg_total_relation_size(oid)) FROM unnest(n.tables) oid) END), 0)::bigint \
             FROM audit.period p, LATERAL (SELECT count(oid) AS there, array_agg(oid) AS tables \
               FROM unnest(ARRAY['{}']) t, to_regclass('audit.' || t || '_' || p.suffix) oid) n",
            TABLES.len(),
            TABLES.join("', '")
        ),
        |row| size = row.number(1).unwrap_or(0) as u64,
    );
    size
}

/// A period that may be dropped.
struct Candidate {
    suffix: String,
    starts_at: Timestamp,
    ends_at: Timestamp,
    /// The trail's.
    last_batch: Timestamp,
    reason: &'static str,
}

/// When the trail's last batch was stored: neither the period that holds it nor one after it is dropped or closed. As the
/// worker says it: who asks audit.batch has a lock of each of its partitions.
pub fn last_batch(shared: &Shared) -> Timestamp {
    shared.last_recorded_at.load(Ordering::SeqCst)
}

/// Periods before the last batch that the limits condemn, the oldest first. `size`: of the trail. Throws; in a
/// transaction.
fn candidates(size: u64, last_batch: Timestamp) -> Vec<Candidate> {
    let retention = limits::retention_seconds();
    let max = limits::max_size();
    let too_large = max > 0 && size > max && limits::on_max_size() == OnMaxSize::DropOldest;
    if retention == 0 && !too_large {
        return Vec::new();
    }
    let too_old = super::now() - retention as i64 * 1_000_000;
    let mut found = Vec::new();
    query(
        &format!(
            "SELECT p.suffix, p.starts_at, p.ends_at FROM audit.period p \
             WHERE p.ends_at <= '{}' ORDER BY p.starts_at",
            rfc3339(last_batch)
        ),
        |row| {
            let ends_at = row.number(3).unwrap_or(i64::MAX);
            let old = retention > 0 && ends_at <= too_old;
            if let Some(suffix) = row.text(1).filter(|_| old || too_large) {
                found.push(Candidate {
                    suffix,
                    starts_at: row.number(2).unwrap_or(0),
                    ends_at,
                    last_batch,
                    reason: if old { "retention" } else { "max_size" },
                });
            }
        },
    );
    found
}

/// A partition of a period that is there: a superuser may have taken some away.
struct Partition {
    /// One of [`TABLES`].
    of: &'static str,
    is_member: bool,
}

/// Throws; in a transaction.
fn partitions(suffix: &str) -> Vec<Partition> {
    let mut found = Vec::new();
    current(
        &format!(
            "SELECT t.name, EXISTS (SELECT FROM pg_depend d JOIN pg_extension x ON x.oid = d.refobjid \
               WHERE d.classid = 'pg_class'::regclass AND d.objid = t.oid AND d.deptype = 'e' \
                 AND d.refclassid = 'pg_extension'::regclass AND x.extname = 'audit_ext')::int::bigint \
             FROM (SELECT name, to_regclass('audit.' || name || '_{suffix}') AS oid \
                   FROM unnest(ARRAY['{}']) name) t WHERE t.oid IS NOT NULL",
            TABLES.join("', '")
        ),
        |row| {
            let name = row.text(1).unwrap_or_default();
            found.extend(TABLES.iter().filter(|of| **of == name).map(|of| Partition {
                of,
                is_member: row.number(2) == Some(1),
            }));
        },
    );
    found
}

fn has(partitions: &[Partition], table: &str) -> bool {
    partitions.iter().any(|partition| partition.of == table)
}

/// Whether a legal hold covers a time that the period is about: when events were stored, or began. As of
/// now: holds may have been made since the transaction began.
fn is_held(candidate: &Candidate, partitions: &[Partition]) -> bool {
    let (any, mut held) = is_held_itself(candidate);
    if any && !held && has(partitions, "event") {
        current(
            &format!(
                "SELECT 1 FROM audit.hold h WHERE h.released_at IS NULL \
                 AND EXISTS (SELECT FROM audit.event_{} e \
                             WHERE e.started_at >= h.held_from AND e.started_at <= h.held_to) LIMIT 1",
                candidate.suffix
            ),
            |_| held = true,
        );
    }
    held
}

/// Whether there are holds; whether one covers the time of the period itself, when its events were stored.
fn is_held_itself(candidate: &Candidate) -> (bool, bool) {
    let (mut any, mut held) = (false, false);
    current(
        &format!(
            "SELECT (held_from < '{}' AND held_to >= '{}')::int::bigint FROM audit.hold WHERE released_at IS NULL",
            rfc3339(candidate.ends_at),
            rfc3339(candidate.starts_at)
        ),
        |row| {
            any = true;
            held |= row.number(1) == Some(1);
        },
    );
    (any, held)
}

/// When the oldest period that no hold on its own time keeps has ended. Throws; in a transaction.
fn oldest_end(last_batch: Timestamp) -> Option<Timestamp> {
    let mut end = None;
    query(
        &format!(
            "SELECT min(p.ends_at) FROM audit.period p WHERE p.ends_at <= '{}' \
             AND NOT EXISTS (SELECT FROM audit.hold h WHERE h.released_at IS NULL \
                             AND h.held_from < p.ends_at AND h.held_to >= p.starts_at)",
            rfc3339(last_batch)
        ),
        |row| end = row.number(1),
    );
    end
}

/// Drops what is due, in the maintenance process. A period that can't be dropped, as somebody uses it or has damaged
/// it, keeps no other, and is tried again when the worker starts this process the next time.
pub fn drop_due(shared: &Shared) -> Result<(), Failure> {
    // Those that stay, and why the first of them does that no hold keeps.
    let (mut kept, mut failed) = (Vec::new(), Ok(()));
    // Who is in the way of one may be in the way of all, and is waited for once.
    let mut patient = true;
    loop {
        let next = transaction(|| {
            let size = if limits::max_size() > 0 {
                trail_size()
            } else {
                0
            };
            let mut due = candidates(size, last_batch(shared)).into_iter();
            due.find(|period| !kept.contains(&period.suffix))
        })?;
        let Some(candidate) = next else { return failed };
        match try_to_drop(&candidate, patient) {
            Ok(false) => kept.push(candidate.suffix),
            Ok(true) => {
                shared.news.store(1, Ordering::SeqCst);
                shared.set_worker_latch();
            }
            Err(failure) => {
                patient &= !is_locked(&failure);
                kept.push(candidate.suffix);
                failed = failed.and(Err(failure));
            }
        }
    }
}

/// Whether somebody else has a lock of it.
fn is_locked(failure: &Failure) -> bool {
    failure.code == PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE
}

/// Tries for the locks, once or patiently. `false`: a hold keeps it.
fn try_to_drop(candidate: &Candidate, patient: bool) -> Result<bool, Failure> {
    let mut tries = if patient { TRIES } else { 1 };
    loop {
        tries -= 1;
        match transaction(|| drop_period(candidate, patient && tries == 0)) {
            Err(failure) if is_locked(&failure) && tries > 0 => {
                std::thread::sleep(PAUSE);
                pgrx::check_for_interrupts!();
            }
            done => return done,
        }
    }
}

/// One transaction; throws. `false`: a hold keeps it.
fn drop_period(candidate: &Candidate, patiently: bool) -> bool {
    let suffix = &candidate.suffix;
    // From here on nobody can make a hold.
    execute("LOCK TABLE audit.hold IN SHARE MODE NOWAIT");
    let partitions = partitions(suffix);
    if is_held(candidate, &partitions) {
        return false;
    }
    // What takes time comes before the locks that others would wait for.
    leave_a_row(candidate, &partitions);
    lock_tables(suffix, &partitions, patiently);
    if has(&partitions, "fate") {
        keep_fates(candidate);
    }
    for partition in partitions.iter().filter(|partition| partition.is_member) {
        execute(&format!(
            "ALTER EXTENSION audit_ext DROP TABLE audit.{}_{suffix}",
            partition.of
        ));
    }
    if !partitions.is_empty() {
        // CASCADE: a view that somebody made on a partition must not keep what has to go.
        execute(&format!(
            "DROP TABLE {} CASCADE",
            of_each(&partitions, ", ", |table| format!("audit.{table}_{suffix}"))
        ));
    }
    execute(&format!(
        "DELETE FROM audit.period WHERE suffix = '{suffix}'"
    ));
    true
}

/// SQL made of each partition.
fn of_each(
    partitions: &[Partition],
    between: &str,
    sql: impl Fn(&'static str) -> String,
) -> String {
    let all: Vec<_> = partitions.iter().map(|p| sql(p.of)).collect();
    all.join(between)
}

/// All locks that a drop needs, without waiting: a wait for a reader who idles in his transaction
/// would stop the drain behind it. The last try waits for the table that readers have most, for less
/// than the worker's own patience, and while it holds nothing that anybody waits for.
fn lock_tables(suffix: &str, partitions: &[Partition], patiently: bool) {
    let mut nowait = " NOWAIT";
    if patiently {
        execute("SET LOCAL lock_timeout = '500ms'");
        nowait = "";
    }
    for table in TABLES {
        // ONLY: the server may not have room for locks on all partitions that stay.
        execute(&format!(
            "LOCK TABLE ONLY audit.{table} IN ACCESS EXCLUSIVE MODE{nowait}"
        ));
        nowait = " NOWAIT";
        if has(partitions, table) {
            execute(&format!(
                "LOCK TABLE audit.{table}_{suffix} IN ACCESS EXCLUSIVE MODE NOWAIT"
            ));
        }
    }
}

/// Fates decided in this period may be those of events in an earlier one that is kept: they move to
/// the period of the last batch, which is later and never dropped. (For now there may be none: the clock was
/// set back, or nothing was recorded for long.)
fn keep_fates(candidate: &Candidate) {
    execute(&format!(
        "INSERT INTO audit.fate (recorded_at, session_started, pid, first_event, last_event, outcome, decided_by, gid) \
         SELECT '{}'::timestamptz, session_started, pid, first_event, last_event, outcome, decided_by, gid FROM audit.fate_{} \
         WHERE EXISTS (SELECT FROM audit.period WHERE starts_at < '{}')",
        rfc3339(candidate.last_batch),
        candidate.suffix,
        rfc3339(candidate.starts_at)
    ));
}

/// What the trail keeps of a dropped period: a row, and the subtrees that later proofs need. Without its batches nobody
/// knows which events it had: audit.verify() goes on to miss them.
fn leave_a_row(candidate: &Candidate, partitions: &[Partition]) {
    let suffix = &candidate.suffix;
    let mut range = None;
    if has(partitions, "batch") {
        query(
            &format!(
                "SELECT min(first_seq), max(last_seq), sum(last_seq - first_seq + 1)::bigint FROM audit.batch_{suffix} WHERE last_seq >= first_seq"
            ),
            |row| range = row.number(1).zip(row.number(2)).zip(row.number(3)),
        );
    }
    let (first, last, events) = match range {
        Some(((first, last), events)) => (first.to_string(), last.to_string(), events),
        None => ("NULL".into(), "NULL".into(), 0),
    };
    execute(&format!(
        "INSERT INTO audit.dropped (starts_at, ends_at, first_seq, last_seq, events, size, reason, dropped_at) \
         VALUES ('{}', '{}', {first}, {last}, {events}, 0{}, '{}', now())",
        rfc3339(candidate.starts_at),
        rfc3339(candidate.ends_at),
        of_each(partitions, "", |table| format!(
            " + pg_total_relation_size('audit.{table}_{suffix}')"
        )),
        candidate.reason,
    ));
    if let Some(((first, last), _)) = range {
        retain(
            first as u64,
            last as u64,
            (candidate.starts_at, candidate.ends_at),
        );
    }
}

/// A drop that the trail doesn't tell of yet.
pub struct Dropped {
    pub starts_at: Timestamp,
    pub ends_at: Timestamp,
    pub first_seq: Option<i64>,
    pub last_seq: Option<i64>,
    pub events: i64,
    pub size: i64,
    pub reason: String,
}

/// Drops without a RETENTION event. Throws; in a transaction.
pub fn untold() -> Vec<Dropped> {
    let mut found = Vec::new();
    query(
        "SELECT starts_at, ends_at, first_seq, last_seq, events, size, reason FROM audit.dropped \
         WHERE told_by IS NULL ORDER BY starts_at",
        |row| {
            found.push(Dropped {
                starts_at: row.number(1).unwrap_or(0),
                ends_at: row.number(2).unwrap_or(0),
                first_seq: row.number(3),
                last_seq: row.number(4),
                events: row.number(5).unwrap_or(0),
                size: row.number(6).unwrap_or(0),
                reason: row.text(7).unwrap_or_default(),
            });
        },
    );
    found
}

/// The event `seq` of the same transaction tells of a drop. Throws.
pub fn tell(starts_at: Timestamp, seq: u64) {
    execute(&format!(
        "UPDATE audit.dropped SET told_by = {seq} WHERE starts_at = '{}'",
        rfc3339(starts_at)
    ));
}
