//! audit.hold() and audit.release(): legal holds, which keep periods from being dropped.

use audit_core::calendar::rfc3339;
use audit_core::json::Object;
use pgrx::prelude::*;

use super::guard::{require_home, required_reason};
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
    require_home();
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
        "INSERT INTO audit.hold (id, held_from, held_to, reason, held_by, held_at) \
             SELECT coalesce(max(id), 0) + 1, $1, $2, $3, session_user, clock_timestamp() FROM audit.hold \
         RETURNING id, held_from, held_to",
        &[from.into(), to.into(), reason.into()],
    );
    let Some(held) = row else {
        error!("audit_ext: the hold was not stored");
    };
    tell("HOLD", &held, reason);
    held.id
}

/// Ends a hold.
#[pg_extern(sql = false)]
fn release(id: Option<i64>, reason: Option<&str>) {
    require_home();
    let reason = required_reason(reason, "audit.release(1, 'what for')");
    let row = own(
        "UPDATE audit.hold SET released_at = clock_timestamp(), released_by = session_user, release_reason = $2 \
         WHERE id = $1 AND released_at IS NULL RETURNING id, held_from, held_to",
        &[id.into(), reason.into()],
    );
    let Some(held) = row else {
        let shown = id.map_or("NULL".to_owned(), |id| id.to_string());
        refuse(
            PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            format!("there is no hold {shown} that could be released"),
            "SELECT * FROM audit.holds lists them.",
        );
    };
    tell("RELEASE", &held, reason);
}

/// A row of audit.hold.
struct Held {
    id: i64,
    from: TimestampWithTimeZone,
    to: TimestampWithTimeZone,
}

/// The event shows what becomes of the transaction: rolled back, the hold doesn't hold.
fn tell(command: &'static str, held: &Held, reason: &str) {
    let details = |object: &mut Object| {
        object.begin_object("hold");
        object
            .number("id", held.id)
            .text("from", shown(held.from).as_bytes())
            .text("to", shown(held.to).as_bytes())
            .text("reason", reason.as_bytes());
        object.end_object();
    };
    // SAFETY: a function runs in a transaction.
    unsafe { announce::event(command, &details, true) };
}

fn shown(at: TimestampWithTimeZone) -> String {
    if at.is_infinity() {
        "infinity".to_owned()
    } else if at.is_neg_infinity() {
        "-infinity".to_owned()
    } else {
        rfc3339(at.into_inner())
    }
}

/// Runs a statement on our own table, which the guard lets pass while it runs and calls nothing of others;
/// its row. Two at once wait for each other. Nothing in it may depend on what others can make: what a name
/// means is the better match, also in pg_catalog.
fn own(sql: &str, arguments: &[pgrx::datum::DatumWithOid]) -> Option<Held> {
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
        let columns = (first.get(1)?, first.get(2)?, first.get(3)?);
        Ok::<_, pgrx::spi::SpiError>(match columns {
            (Some(id), Some(from), Some(to)) => Some(Held { id, from, to }),
            _ => None,
        })
    });
    unlock::set_own(false);
    row.unwrap_or_else(|error| error!("audit_ext: {error}"))
}
