//! Columns of audit.log that are kept packed (audit_core::numbers).

use audit_core::event::{Numbers, sqlstate_text};
use audit_core::numbers;
use pgrx::{PgSqlErrorCode, ereport, pg_extern};

/// Unpacks. What can't be unpacked was not written by the worker.
fn unpack(bytes: &[u8]) -> Numbers {
    let Some(numbers) = numbers::decode(bytes) else {
        ereport!(
            ERROR,
            PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
            "the numbers of an audit event are damaged",
            format!("Found {} bytes: {:02x?}.", bytes.len(), bytes)
        );
    };
    numbers
}

fn positive(value: u64) -> Option<i64> {
    i64::try_from(value).ok().filter(|v| *v != 0)
}

#[pg_extern(sql = false)]
fn event_outcome(numbers: &[u8]) -> &'static str {
    unpack(numbers).outcome.name()
}

#[pg_extern(sql = false)]
fn event_fate(numbers: &[u8]) -> i16 {
    unpack(numbers).fate as i16
}

#[pg_extern(sql = false)]
fn event_no(numbers: &[u8]) -> Option<i64> {
    positive(unpack(numbers).event_no)
}

#[pg_extern(sql = false)]
fn event_statement_id(numbers: &[u8]) -> Option<i64> {
    positive(unpack(numbers).statement_id)
}

#[pg_extern(sql = false)]
fn event_substatement_id(numbers: &[u8]) -> Option<i32> {
    positive(u64::from(unpack(numbers).substatement_id)).map(|n| n as i32)
}

#[pg_extern(sql = false)]
fn event_depth(numbers: &[u8]) -> i32 {
    unpack(numbers).depth as i32
}

/// Microseconds.
#[pg_extern(sql = false)]
fn event_duration(numbers: &[u8]) -> Option<i64> {
    Some(unpack(numbers).duration).filter(|d| *d >= 0)
}

#[pg_extern(sql = false)]
fn event_rows(numbers: &[u8]) -> Option<i64> {
    Some(unpack(numbers).rows).filter(|rows| *rows >= 0)
}

/// An xid8 has the form of a bigint.
#[pg_extern(sql = false)]
fn event_transaction_id(numbers: &[u8]) -> Option<i64> {
    Some(unpack(numbers).transaction_id as i64).filter(|id| *id != 0)
}

#[pg_extern(sql = false)]
fn event_sqlstate(numbers: &[u8]) -> Option<String> {
    let packed = unpack(numbers).sqlstate;
    (packed != 0).then(|| String::from_utf8_lossy(&sqlstate_text(packed)).into_owned())
}

#[pg_extern(sql = false)]
fn event_statement_length(numbers: &[u8]) -> Option<i32> {
    positive(u64::from(unpack(numbers).statement_length)).map(|n| n as i32)
}
