//! audit.hold() and audit.release(): legal holds, which keep periods from being dropped.

use audit_core::json::Object;
use pgrx::prelude::*;

use super::guard::required_reason;
use crate::pg::report::refuse;
use crate::pg::{announce, unlock};

/// Keeps all periods that overlap with a range of time, both ends included, until it is released;
/// returns the hold's id.
#[pg_extern(sql = false)]
fn hold(
    from: Option<TimestampWithTimeZone>,
    to: Option<TimestampWithTimeZone>,
    reason: Option<&str>,
) -> i64 {
    let (Some(from), Some(to)) = (from, to) else {
        refuse(
            PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            "a hold has a beginning and an end",
            "Write '-infinity' or 'infinity' for an open one.",
        );
    };
    if from > to {
        refuse(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "the hold would end before it begins",
            "The first argument is its beginning, the second its end.",
        );
    }
    let reason = required_reason(reason, "audit.hold('2026-01-01', '2026-02-01', 'what for')");
    let row = own(
        "WITH new AS (INSERT INTO audit.hold (id, held_from, held_to, reason, held_by, held_at) \
             SELECT coalesce(max(id), 0) + 1, $1, $2, $3, session_user, clock_timestamp() FROM audit.hold \
             RETURNING *) \
         SELECT id, jsonb_build_object('id', id, 'from', held_from, 'to', held_to, 'reason', reason)::text FROM new",
        &[from.into(), to.into(), reason.into()],
    );
    let Some((id, details)) = row else {
        error!("audit_ext: the hold was not stored");
    };
    tell("HOLD", &details);
    id
}

/// Ends a hold.
#[pg_extern(sql = false)]
fn release(id: Option<i64>, reason: Option<&str>) {
    let reason = required_reason(reason, "audit.release(1, 'what for')");
    let row = own(
        "UPDATE audit.hold SET released_at = clock_timestamp(), released_by = session_user, release_reason = $2 \
         WHERE id = $1 AND released_at IS NULL \
         RETURNING id, jsonb_build_object('id', id, 'from', held_from, 'to', held_to, 'reason', release_reason)::text",
        &[id.into(), reason.into()],
    );
    let Some((_, details)) = row else {
        let shown = id.map_or("NULL".to_owned(), |id| id.to_string());
        refuse(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("there is no hold {shown} that could be released"),
            "SELECT * FROM audit.holds lists them.",
        );
    };
    tell("RELEASE", &details);
}

/// The event shows what becomes of the transaction: rolled back, the hold doesn't hold.
fn tell(command: &'static str, details: &str) {
    let details = |object: &mut Object| {
        object.raw("hold", details.as_bytes());
    };
    // SAFETY: a function runs in a transaction.
    unsafe { announce::event(command, &details, true) };
}

/// Runs a statement on our own table, which the guard lets pass while it runs; id and details of its
/// row. Two at once wait for each other.
fn own(sql: &str, arguments: &[pgrx::datum::DatumWithOid]) -> Option<(i64, String)> {
    unlock::set_own(true);
    let row = Spi::connect_mut(|client| {
        client.update(
            "LOCK TABLE audit.hold IN SHARE ROW EXCLUSIVE MODE",
            None,
            &[],
        )?;
        let table = client.update(sql, Some(1), arguments)?;
        if table.is_empty() {
            return Ok(None);
        }
        let first = table.first();
        Ok::<_, pgrx::spi::SpiError>(first.get::<i64>(1)?.zip(first.get::<String>(2)?))
    });
    unlock::set_own(false);
    row.unwrap_or_else(|error| error!("audit_ext: {error}"))
}
