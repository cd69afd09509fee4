//! What became of a dead session's transactions where nobody was left to tell.
//!
//! With `audit.durability = commit` a transaction's events are on disk before it commits; its fate is
//! pushed after that and synced by nobody, and neither is the session's in-flight slot. If the
//! operating system is lost then, the trail has events of a transaction id without a fate. The
//! server knows what became of that id.
//!
//! Done once per left-over ring, behind its sessions' last events, for the sessions whose events went
//! through that ring: nobody of them lives. A FATE event of the session tells; what was settled is
//! found decided by whoever comes after, so that doing it twice does it once.
//!
//! # How far back
//! A fate is pushed right after the commit, and stored with what was pushed beside it. So one that is
//! missing belongs to a transaction of which an event was stored shortly before the last batch of
//! the ring's own time ([`SLACK`], [`MOST`]), or after it, from what was left in the ring, or where the ring came
//! with a copy of a server that went on with its own. Only these are looked at, and not what lies between: a
//! standby may be promoted long after its rings were made. Every start of a server does so, since nothing tells a
//! loss of the operating system from a stop for certain (the disk of a server that had stopped in order may have
//! lost the last FATE, too). Where one is found the search goes back to where the transaction began.
//!
//! # What stays open
//! An event of a transaction of which no event has an id, as its writes are not recorded; an id so old
//! that the server has forgotten.

use super::orphans;
use super::run::Worker;
use super::source::Source;
use crate::pg::spi::{Cursor, execute, query, transaction};
use audit_core::calendar::rfc3339;
use audit_core::event::{Decision, Fate, Session, Timestamp};
use audit_core::json::hex;
use audit_core::settle::{Search, Seen, Teller};

/// How long a commit may take, and what the clock may have been set back by, at most, for all to be
/// found.
const SLACK: i64 = 600_000_000;

/// Events that are looked at, at most, of the ring's own time and of what came after it: new ones wait in the ring
/// meanwhile.
const MOST: i64 = 500_000;

/// A left-over ring.
pub struct Ring {
    pub id: [u8; 16],
    /// When the run of the server after its own began.
    pub until: Timestamp,
    /// The first transaction id of that run.
    pub horizon: u64,
}

/// A session with a transaction of which the trail doesn't know what became.
struct Doubtful {
    started_at: Timestamp,
    pid: i64,
    /// Everything of the transaction was recorded since.
    since: Timestamp,
}

/// What the trail holds of such a session.
#[derive(Default)]
struct Found {
    search: Search,
    /// Its attributes at the last event.
    attributes: i64,
}

/// Tells what became of transactions whose end nobody could tell. All of the ring is in the trail.
/// `false`: the worker has to end before it is done.
pub fn settle(worker: &mut Worker, source: &mut dyn Source, ring: &Ring) -> bool {
    let encoding = worker.encoding();
    let looked_up = worker.insist(|_| match transaction(|| events(ring, encoding)) {
        // Better a fate that stays open than a trail that stands still.
        Err(failure) if failure.is_about_content() => {
            pgrx::warning!(
                "audit_ext cannot settle what became of earlier transactions: {}",
                failure.message
            );
            Ok(Vec::new())
        }
        looked_up => looked_up,
    });
    let Some(events) = looked_up else {
        return false;
    };
    worker.queue_all(events, ring.horizon);
    worker.store_queued(source)
}

/// The events that tell. In a transaction; throws.
fn events(ring: &Ring, encoding: u8) -> Vec<Vec<u8>> {
    // The period that is written to may have no statistics yet; few of its pages are looked for.
    execute("SET LOCAL enable_seqscan = off");
    let windows = windows(ring);
    let Some((_, last)) = windows.last().copied() else {
        return Vec::new();
    };
    let doubtful = doubtful(ring, &windows);
    if doubtful.is_empty() {
        return Vec::new();
    }
    let now = super::now();
    let mut events = Vec::new();
    for (session, found) in doubtful.iter().zip(search(&doubtful, last)) {
        let mut ended = Vec::new();
        let mut prepared = Vec::new();
        for undecided in found.search.found() {
            let xid = undecided.transaction_id;
            let decision = Decision {
                first: undecided.first,
                last: undecided.last,
                fate: orphans::fate(xid, ring.horizon),
            };
            match decision.fate {
                Fate::Committed | Fate::RolledBack => ended.push(decision),
                Fate::Prepared => prepared.extend(gid(xid).map(|gid| (decision, gid, xid))),
                Fate::Open => {}
            }
        }
        with_attributes(session, found.attributes, encoding, |session| {
            let teller = Teller::new(session, now, "the server ended before it was told");
            events.extend(teller.ended(&ended));
            let all = prepared.iter();
            events.extend(all.map(|(decision, gid, xid)| teller.prepared(*decision, gid, *xid)));
        });
    }
    events
}

/// The identifier of a prepared transaction. In a transaction; throws.
fn gid(xid: u64) -> Option<Vec<u8>> {
    let mut gid = None;
    let sql = format!(
        "SELECT gid FROM pg_catalog.pg_prepared_xacts WHERE transaction = '{}'::xid",
        xid as u32
    );
    query(&sql, |row| gid = row.bytes(1));
    gid
}

/// What audit.log takes for the fate of event `e` of session `s` that the event itself doesn't have.
/// A subquery, not a join: ranges of one session nest, so the first one in the order of the index is
/// the one, and mostly there is none.
fn told_since(since: Timestamp) -> String {
    format!(
        "(SELECT f.outcome FROM audit.fate f \
          WHERE f.session_started = s.started_at AND f.pid = s.pid \
            AND f.recorded_at >= '{}' \
            AND f.last_event >= audit.event_no(e.numbers) \
            AND f.first_event <= audit.event_no(e.numbers) \
          ORDER BY f.last_event, f.outcome = 3 LIMIT 1)",
        rfc3339(since)
    )
}

/// When what is looked at was stored, first and last: in the ring's own time, and after it. Empty: nothing ever came
/// from this ring. In a transaction; throws.
fn windows(ring: &Ring) -> Vec<(Timestamp, Timestamp)> {
    let (id, until) = (hex(&ring.id), rfc3339(ring.until));
    let batch = |time: &str, order: &str| {
        let mut found = None;
        query(
            &format!(
                "SELECT recorded_at, last_seq FROM audit.batch \
                 WHERE ring_id = '\\x{id}' AND recorded_at {time} '{until}' \
                 ORDER BY position {order}, last_seq {order} LIMIT 1"
            ),
            |row| found = row.number(1).zip(row.number(2)),
        );
        found
    };
    let own = batch("<", "DESC").map(|(last, seq)| (last.saturating_sub(SLACK), last, seq));
    let left = batch(">=", "ASC").zip(batch(">=", "DESC"));
    let left = left.map(|((first, _), (last, seq))| (first, last, seq));
    let both = own.into_iter().chain(left);
    both.map(|(mut from, to, last_seq)| {
        query(
            &format!(
                "SELECT recorded_at FROM audit.batch WHERE recorded_at >= '{}' AND last_seq <= {} \
                 ORDER BY last_seq DESC LIMIT 1",
                rfc3339(from),
                last_seq - MOST
            ),
            |row| from = row.number(1).unwrap_or(from),
        );
        (from, to)
    })
    .collect()
}

/// Sessions of the ring with events that have a transaction id and no fate. In a transaction; throws.
fn doubtful(ring: &Ring, windows: &[(Timestamp, Timestamp)]) -> Vec<Doubtful> {
    let since = windows.first().map_or(0, |(from, _)| *from);
    let within: Vec<_> = windows
        .iter()
        .map(|(from, to)| {
            let (from, to) = (rfc3339(*from), rfc3339(*to));
            format!("e.recorded_at BETWEEN '{from}' AND '{to}'")
        })
        .collect();
    // Where the session itself had told of a commit, all of its next transaction came later.
    let sql = format!(
        "SELECT d.started_at, d.pid::bigint, \
                (SELECT f.recorded_at FROM audit.fate f \
                 WHERE f.session_started = d.started_at AND f.pid = d.pid \
                   AND f.last_event < d.first AND f.recorded_at < d.recorded_at AND f.outcome = 1 \
                 ORDER BY f.last_event DESC LIMIT 1) \
         FROM (SELECT s.started_at, s.pid, min(audit.event_no(e.numbers)) AS first, \
                      min(e.recorded_at) AS recorded_at \
               FROM audit.event e JOIN audit.session s ON s.ref = e.session \
               WHERE ({within}) \
                 AND audit.event_fate(e.numbers) = 0 \
                 AND audit.event_transaction_id(e.numbers) IS NOT NULL \
                 AND audit.event_no(e.numbers) IS NOT NULL \
                 AND {told} IS NULL \
                 AND (SELECT b.ring_id FROM audit.batch b \
                      WHERE b.recorded_at >= '{at}' AND b.last_seq >= e.seq \
                      ORDER BY b.last_seq LIMIT 1) = '\\x{id}' \
               GROUP BY 1, 2) d",
        within = within.join(" OR "),
        id = hex(&ring.id),
        at = rfc3339(since),
        told = told_since(since),
    );
    let mut doubtful = Vec::new();
    query(&sql, |row| {
        if let (Some(started_at), Some(pid)) = (row.number(1), row.number(2)) {
            doubtful.push(Doubtful {
                started_at,
                pid,
                since: row.number(3).unwrap_or(started_at.saturating_sub(SLACK)),
            });
        }
    });
    doubtful
}

/// Looks for the transactions without a fate; `last`: of the ring's events. In a transaction; throws.
fn search(sessions: &[Doubtful], last: Timestamp) -> Vec<Found> {
    let mut found: Vec<_> = sessions.iter().map(|_| Found::default()).collect();
    let values: Vec<_> = (0..)
        .zip(sessions)
        .map(|(i, s)| {
            let times = (rfc3339(s.started_at), rfc3339(s.since));
            let (i, pid): (i64, _) = (i, s.pid);
            format!(
                "({i}::bigint, '{}'::timestamptz, {pid}, '{}'::timestamptz)",
                times.0, times.1
            )
        })
        .collect();
    let since = sessions.iter().map(|s| s.since).min().unwrap_or(0);
    let sql = format!(
        "SELECT o.i, audit.event_no(e.numbers), s.ref, \
                audit.event_transaction_id(e.numbers)::text::bigint, \
                CASE audit.event_fate(e.numbers) WHEN 0 THEN coalesce({told}, 0::smallint) \
                     ELSE audit.event_fate(e.numbers) END::bigint, \
                (t.command IN ('BEGIN', 'START TRANSACTION'))::int::bigint, \
                (t.class <> 'SESSION' AND (t.class <> 'AUDIT' \
                     OR t.command NOT IN ('FATE', 'SETTING', 'REFUSED', 'LOCK')))::int::bigint \
         FROM (VALUES {values}) AS o (i, started_at, pid, since) \
         JOIN audit.session s ON s.started_at = o.started_at AND s.pid = o.pid \
         JOIN audit.event e ON e.session = s.ref \
         LEFT JOIN audit.statement t ON t.ref = e.statement \
         WHERE e.recorded_at BETWEEN '{at}' AND '{last}' AND e.recorded_at >= o.since \
           AND audit.event_no(e.numbers) IS NOT NULL \
         ORDER BY 1, 2",
        told = told_since(since),
        values = values.join(", "),
        at = rfc3339(since),
        last = rfc3339(last),
    );
    let mut events = Cursor::open(&sql);
    while let Some(row) = events.next() {
        let number = |column| row.number(column);
        let Some(found) = found.get_mut(number(1).unwrap_or(-1) as usize) else {
            continue;
        };
        found.attributes = number(3).unwrap_or(0);
        found.search.see(Seen {
            event_no: number(2).unwrap_or(0) as u64,
            transaction_id: number(4).map(|id| id as u64),
            fate: Fate::from_u8(number(5).unwrap_or(0) as u8).unwrap_or_default(),
            begins: number(6) == Some(1),
            belongs: number(7) == Some(1),
        });
    }
    found
}

/// Calls `f` with the session's attributes as the trail has them. In a transaction; throws.
fn with_attributes(session: &Doubtful, reference: i64, encoding: u8, f: impl FnOnce(&Session)) {
    let sql = format!(
        "SELECT user_name, role_name, auth_identity, session_user_name, database_name, branch, \
                pg_catalog.host(client_addr), application_name, backend_type, context::text, \
                client_port::bigint \
         FROM audit.session WHERE ref = {reference}"
    );
    let mut texts: [Option<Vec<u8>>; 10] = Default::default();
    let mut port = None;
    query(&sql, |row| {
        for (text, column) in texts.iter_mut().zip(1..) {
            *text = row.bytes(column);
        }
        port = row.number(11).map(|port| port as u16);
    });
    let text = |column: usize| texts[column - 1].as_deref();
    f(&Session {
        started_at: session.started_at,
        pid: session.pid as u32,
        encoding,
        client_port: port,
        user_name: text(1),
        role_name: text(2),
        auth_identity: text(3),
        session_user: text(4),
        database_name: text(5),
        branch: text(6),
        client_addr: text(7),
        application_name: text(8),
        backend_type: text(9),
        context: text(10),
    });
}
