//! Periods of the trail, each with a partition of every table that grows.
//!
//! Partitions are made ahead by CREATE TABLE and ATTACH, in transactions of their own: ATTACH takes
//! SHARE UPDATE EXCLUSIVE on the parent, where CREATE TABLE … PARTITION OF would take ACCESS
//! EXCLUSIVE and wait for every reader that idles in a transaction.

use super::dictionary::first_ref;
use crate::pg::spi::{current, execute, execute_bytes, query};
use audit_core::calendar::{rfc3339, suffix};
use audit_core::event::Timestamp;
use pgrx::pg_sys;

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;

/// Pages that the BRIN of a hot partition summarises together: about 5,800 short events.
pub const PAGES_PER_RANGE: u32 = 64;

/// Tables that are partitioned by recorded_at, and those partitioned by reference.
const BY_TIME: [&str; 3] = ["event", "fate", "batch"];
const BY_REF: [&str; 2] = ["session", "statement"];

/// All of them: `audit.<table>_<suffix>` are the partitions of a period.
pub const TABLES: [&str; 5] = ["event", "fate", "batch", "session", "statement"];

/// A period that can be written to.
#[derive(Clone, Debug)]
pub struct Period {
    /// Inclusive.
    pub starts_at: Timestamp,
    /// Exclusive.
    pub ends_at: Timestamp,
    pub event_table: pg_sys::Oid,
}

impl Period {
    pub fn holds(&self, at: Timestamp) -> bool {
        (self.starts_at..self.ends_at).contains(&at)
    }
}

/// The period that holds `at`, if it was made. Throws; in a transaction.
pub fn find(at: Timestamp) -> Option<Period> {
    let mut found = None;
    query(
        &format!(
            "SELECT starts_at, ends_at, \
                    ('audit.event_' || suffix)::regclass::oid \
             FROM audit.period WHERE starts_at <= '{at}' AND ends_at > '{at}'",
            at = rfc3339(at)
        ),
        |row| {
            found = Some(Period {
                starts_at: row.number(1).unwrap_or(0),
                ends_at: row.number(2).unwrap_or(0),
                event_table: pg_sys::Oid::from(row.number(3).unwrap_or(0) as u32),
            });
        },
    );
    found
}

/// The period that holds `at`, made if need be. Throws; in a transaction of its own.
pub fn find_or_make(at: Timestamp, interval_seconds: u64) -> Period {
    if let Some(found) = find(at) {
        return found;
    }
    make(at, interval_seconds);
    // The rows and tables made in this transaction are visible from the next command on.
    unsafe {
        pg_sys::CommandCounterIncrement();
        pg_sys::PopActiveSnapshot();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
    }
    match find(at) {
        Some(made) => made,
        None => pgrx::error!("audit_ext: the partitions for {} are missing", rfc3339(at)),
    }
}

fn make(at: Timestamp, interval_seconds: u64) {
    let (starts_at, ends_at) = bounds(at, interval_seconds);
    let suffix = suffix(starts_at);
    let (from, to) = (rfc3339(starts_at), rfc3339(ends_at));
    for table in BY_TIME {
        attach(table, &suffix, &format!("'{from}'"), &format!("'{to}'"));
    }
    for table in BY_REF {
        let (from, to) = (first_ref(starts_at), first_ref(ends_at));
        attach(table, &suffix, &format!("'{from}'"), &format!("'{to}'"));
    }
    execute(&format!(
        "INSERT INTO audit.period (starts_at, ends_at, suffix) VALUES ('{from}', '{to}', '{suffix}')"
    ));
}

/// Makes one partition and puts it under its parent and the extension.
fn attach(table: &str, suffix: &str, from: &str, to: &str) {
    let name = format!("audit.{table}_{suffix}");
    // Rows are only ever added, and frozen once when the period is closed.
    execute(&format!(
        "CREATE TABLE {name} (LIKE audit.{table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES INCLUDING STORAGE INCLUDING COMPRESSION INCLUDING COMMENTS) \
         WITH (autovacuum_vacuum_insert_threshold = -1)"
    ));
    revoke_defaults(&name);
    // LIKE doesn't copy these: of what can be erased no samples are kept.
    let unsampled: &[&str] = match table {
        "event" => &[
            "text",
            "error",
            "statement_sha256",
            "parameters",
            "details",
            "salt",
        ],
        "session" => &["context", "salt"],
        "statement" => &["text", "salt"],
        "batch" => &["frontier", "checks"],
        _ => &[],
    };
    for column in unsampled {
        execute(&format!(
            "ALTER TABLE {name} ALTER COLUMN {column} SET STATISTICS 0"
        ));
    }
    if table == "event" {
        execute(&format!(
            "CREATE INDEX event_{suffix}_brin ON {name} USING brin (seq, recorded_at, started_at) \
             WITH (pages_per_range = {PAGES_PER_RANGE})"
        ));
    }
    execute(&format!(
        "COMMENT ON TABLE {name} IS 'Partition of audit.{table}'"
    ));
    execute(&format!(
        "ALTER TABLE audit.{table} ATTACH PARTITION {name} FOR VALUES FROM ({from}) TO ({to})"
    ));
    // Triggers of rows come from the parent; those of statements don't.
    execute(&format!(
        "CREATE TRIGGER guard_truncate BEFORE TRUNCATE ON {name} FOR EACH STATEMENT EXECUTE FUNCTION audit.guard()"
    ));
    execute(&format!(
        "ALTER TABLE {name} ENABLE ALWAYS TRIGGER guard_truncate"
    ));
    execute(&format!("ALTER EXTENSION audit_ext ADD TABLE {name}"));
}

/// Takes back what default privileges gave on a table that was just made. Throws.
fn revoke_defaults(name: &str) {
    let mut revoke = None;
    current(
        &format!(
            "SELECT 'REVOKE ALL ON {name} FROM ' || string_agg(DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' \
                 ELSE quote_ident(pg_get_userbyid(a.grantee)) END, ', ') \
             FROM pg_class c, aclexplode(c.relacl) a WHERE c.oid = '{name}'::regclass AND a.grantee <> c.relowner"
        ),
        |row| revoke = row.bytes(1),
    );
    if let Some(revoke) = revoke {
        execute_bytes(&revoke);
    }
}

/// Begin and end of the period to be made for `at`: a multiple of the interval since 2000-01-01
/// UTC, cut where it would overlap with a period that exists (made with another interval).
fn bounds(at: Timestamp, interval_seconds: u64) -> (Timestamp, Timestamp) {
    // References need full minutes.
    let interval = (interval_seconds as i64 * SECOND).max(MINUTE) / MINUTE * MINUTE;
    let mut starts_at = at.div_euclid(interval) * interval;
    let mut ends_at = starts_at + interval;
    query("SELECT starts_at, ends_at FROM audit.period", |row| {
        let (begin, end) = (row.number(1).unwrap_or(0), row.number(2).unwrap_or(0));
        if end <= at {
            starts_at = starts_at.max(end);
        } else if begin > at {
            ends_at = ends_at.min(begin);
        }
    });
    (starts_at, ends_at)
}

/// The next reference of a dictionary within a period. Throws; in a transaction.
pub fn next_ref(table: &str, period: &Period) -> i64 {
    let first = first_ref(period.starts_at);
    let mut next = first;
    query(
        &format!(
            "SELECT max(ref) FROM audit.{table} WHERE ref >= {first} AND ref < {}",
            first_ref(period.ends_at)
        ),
        |row| next = row.number(1).map_or(first, |last| last + 1),
    );
    next
}
