//! Sessions that were found dead: their in-flight slots become their last events
//! (audit_core::slot), once, whatever happens to the worker meanwhile.
//!
//! A slot is read only when everything that its session pushed is in the trail, and given back only
//! when its last events are. A worker that dies in between leaves the slot as it was; the next one
//! asks the trail what is there already.

use super::run::Worker;
use super::source::{Live, Source};
use crate::pg::spi::{Failure, query, transaction};
use audit_core::calendar::rfc3339;
use audit_core::event::Fate;
use audit_core::ring::Ring;
use audit_core::slot::{Known, Orphan};
use hashbrown::HashMap;

/// What the clock may have been set back by, at most, for a look into the trail to find all.
const CLOCK_SLACK: i64 = 600_000_000;

/// Ends the sessions that died in a crash restart of this server. `false`: the worker has to end
/// before it is done.
pub fn end_all(worker: &mut Worker, ring: &'static Ring, live: &mut Live, before: u64) -> bool {
    let found = ring.slots().orphans();
    if found.is_empty() {
        return true;
    }
    if !worker.drain_up_to(live, before) {
        return false;
    }
    let (slots, orphans): (Vec<_>, Vec<_>) = found.into_iter().unzip();
    let horizon = worker.first_xid();
    if !end(worker, live, &orphans, horizon, "crash restart") {
        return false;
    }
    slots.iter().for_each(|slot| slot.release());
    true
}

/// Stores the last events of these sessions; all that they pushed is in the trail. `horizon`: the
/// first transaction id after their death where their slots don't tell. `false`: the worker has to
/// end before.
pub fn end(
    worker: &mut Worker,
    source: &mut dyn Source,
    orphans: &[Orphan],
    horizon: u64,
    reason: &str,
) -> bool {
    if orphans.is_empty() {
        return true;
    }
    let looked_up = worker.insist(|_| match look_up(orphans, horizon) {
        Err(failure) if failure.is_about_content() => look_up_each(orphans, horizon),
        looked_up => looked_up,
    });
    let Some(looked_up) = looked_up else {
        return false;
    };
    let now = super::now();
    for (orphan, (known, fates)) in orphans.iter().zip(&looked_up) {
        // Without an id it was not about to commit. (Or the operating system was lost with what the
        // slot knew, and its writes are not recorded.)
        let fate_of = |xid: Option<u64>| {
            xid.map_or(Fate::RolledBack, |xid| {
                fates.get(&xid).copied().unwrap_or(Fate::Open)
            })
        };
        let events = orphan.events(known, fate_of, now, reason);
        worker.queue_all(events, first_after(orphan, horizon));
    }
    worker.store_queued(source)
}

/// What the trail and the server know of a dead session.
type LookedUp = (Known, HashMap<u64, Fate>);

fn look_up(orphans: &[Orphan], horizon: u64) -> Result<Vec<LookedUp>, Failure> {
    transaction(|| {
        let known = known(orphans).into_iter();
        let both = orphans.iter().zip(known);
        both.map(|(orphan, known)| {
            let fates = fates(orphan, &known, horizon);
            (known, fates)
        })
        .collect()
    })
}

/// One by one: of a session whose look-up fails, by what was scribbled over or is damaged, nothing is known
/// but what its slot says. Better something told twice than a trail that stands still.
fn look_up_each(orphans: &[Orphan], horizon: u64) -> Result<Vec<LookedUp>, Failure> {
    let mut all = Vec::with_capacity(orphans.len());
    for orphan in orphans {
        match look_up(core::slice::from_ref(orphan), horizon) {
            Ok(one) => all.extend(one),
            Err(failure) if failure.is_about_content() => {
                pgrx::warning!(
                    "audit_ext cannot find what the trail has of the session of process {}: {}",
                    orphan.pid,
                    failure.message
                );
                all.push(LookedUp::default());
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(all)
}

/// What became of a dead session's last transactions, by id. In a transaction; throws.
fn fates(orphan: &Orphan, known: &Known, horizon: u64) -> HashMap<u64, Fate> {
    let horizon = first_after(orphan, horizon);
    let commits = orphan.commits.iter().map(|(_, _, xid)| *xid);
    commits
        .chain(orphan.xid)
        .chain(known.transaction_id)
        .map(|xid| (xid, fate(xid, horizon)))
        .collect()
}

/// The first transaction id that was given out after a session's death, and `horizon` at the latest.
fn first_after(orphan: &Orphan, horizon: u64) -> u64 {
    // What the slot says is not later, unless somebody scribbled over it.
    orphan.horizon.map_or(horizon, |own| own.min(horizon))
}

/// What became of a transaction, `horizon` being the first id that was given out after its session's
/// death. In a transaction; throws.
pub fn fate(xid: u64, horizon: u64) -> Fate {
    // An id that was given out again after the session's death: nothing of its own had reached the
    // disk.
    if xid >= horizon {
        return Fate::RolledBack;
    }
    let mut status = None;
    query(
        &format!("SELECT pg_catalog.pg_xact_status('{xid}'::pg_catalog.xid8)"),
        |row| status = row.text(1),
    );
    match status.as_deref() {
        Some("committed") => Fate::Committed,
        Some("aborted") => Fate::RolledBack,
        // Nobody else can still be working on it.
        Some(_) => Fate::Prepared,
        // So old that the server has forgotten.
        None => Fate::Open,
    }
}

/// What the trail holds of each session. In a transaction; throws.
fn known(orphans: &[Orphan]) -> Vec<Known> {
    let mut known = vec![Known::default(); orphans.len()];
    let sessions: Vec<_> = orphans
        .iter()
        .enumerate()
        .map(|(i, o)| {
            // No number of an event is that large.
            const NONE: u64 = i64::MAX as u64;
            let oldest = o.oldest_open().unwrap_or(NONE).min(NONE);
            let open = o.undecided_from.unwrap_or(NONE);
            let numbers = o.open.iter().map(|open| &open.numbers);
            let begun: Vec<_> = numbers
                .map(|n| format!("'{}.{}'", n.statement_id, n.substatement_id))
                .collect();
            format!(
                "({i}, '{}'::timestamptz, {}, {oldest}::bigint, {open}::bigint, ARRAY[{}]::text[])",
                rfc3339(o.started_at),
                o.pid,
                begun.join(", ")
            )
        })
        .collect();
    let since = orphans.iter().map(|o| o.last_event_at).min().unwrap_or(0);
    let sql = format!(
        "SELECT o.i::bigint, max(audit.event_no(e.numbers)), \
                bool_or(t.class = 'SESSION' AND t.command = 'DISCONNECT' \
                        OR t.class = 'AUDIT' AND t.command = 'FATE' AND e.details ? 'reason'), \
                string_agg(DISTINCT audit.event_statement_id(e.numbers) || '.' \
                           || audit.event_substatement_id(e.numbers), ',') \
                FILTER (WHERE audit.event_statement_id(e.numbers) >= o.oldest \
                        AND audit.event_statement_id(e.numbers) || '.' \
                            || audit.event_substatement_id(e.numbers) = ANY (o.begun)), \
                max(audit.event_statement_id(e.numbers)), \
                max(audit.event_transaction_id(e.numbers)::text::bigint) \
                FILTER (WHERE audit.event_no(e.numbers) >= o.open) \
         FROM (VALUES {}) AS o (i, started_at, pid, oldest, open, begun) \
         JOIN audit.session s ON s.started_at = o.started_at AND s.pid = o.pid \
         JOIN audit.event e ON e.session = s.ref \
         LEFT JOIN audit.statement t ON t.ref = e.statement \
         WHERE e.recorded_at >= '{}' GROUP BY o.i",
        sessions.join(", "),
        rfc3339(since.saturating_sub(CLOCK_SLACK))
    );
    query(&sql, |row| {
        let Some(known) = known.get_mut(row.number(1).unwrap_or(-1) as usize) else {
            return;
        };
        known.last_event = row.number(2).unwrap_or(0) as u64;
        known.ended = row.number(3).unwrap_or(0) & 1 != 0;
        known.statements = row
            .text(4)
            .iter()
            .flat_map(|all| all.split(','))
            .filter_map(|pair| pair.split_once('.'))
            .filter_map(|(id, sub)| Some((id.parse().ok()?, sub.parse().ok()?)))
            .collect();
        // The last one, whichever part of it: a session that has got there was not killed before.
        known
            .statements
            .extend(row.number(5).map(|id| (id as u64, 0)));
        known.transaction_id = row.number(6).map(|xid| xid as u64);
    });
    known
}
