//! Foreign-key checks: an INSERT of 10,000 rows runs 10,000 of them. Those of one constraint in one
//! statement become one event with `details.calls` (spec/capture.md, rule 7); one that fails has its
//! own, as any failed statement.

use audit_core::event::Fate;

use super::emit;
use super::engine::{Engine, Id};
use crate::pg::raw;

/// More constraints than that in one statement are told in several events each.
const MOST: usize = 16;

/// Whether a statement that ends now is a check: anybody can write one like it, but only the server's own have row
/// security not forced on whom they run as.
fn is_check(text: &[u8]) -> bool {
    // SAFETY: reads a variable of this process; doesn't throw.
    looks_like_check(text) && unsafe { raw::InNoForceRLSOperation() }
}

/// Whether the server writes a check so (ri_triggers.c): ONLY isn't there for a partitioned table, and PERIOD
/// puts a query around it.
fn looks_like_check(text: &[u8]) -> bool {
    let Some(from) = text.strip_prefix(b"SELECT 1 FROM ") else {
        return false;
    };
    let table = from.strip_prefix(b"ONLY ").unwrap_or(from);
    let plain = table.starts_with(b"\"") && text.ends_with(b" FOR KEY SHARE OF x");
    plain || (from.starts_with(b"(SELECT \"") && text.ends_with(b"(x1.r)"))
}

/// Whether a nested statement that succeeded is a check and was put with its like.
pub fn joined(engine: &mut Engine, id: Id) -> bool {
    if !is_check(&engine.frame(id).text) {
        return false;
    }
    for at in 0..engine.checks.len() {
        let other = engine.checks[at];
        if join(engine, other, id) {
            engine.give_back(id);
            return true;
        }
    }
    if engine.checks.len() == MOST {
        flush(engine);
    }
    engine.frame(id).calls = 1;
    engine.park(id);
    true
}

/// Adds check `id` to `other` if it is the same one: text, place, tables, and who it runs as.
fn join(engine: &mut Engine, other: Id, id: Id) -> bool {
    let Ok([frame, new]) = engine.pool.get_disjoint_mut([other, id]) else {
        return false;
    };
    let same = frame.numbers.depth == new.numbers.depth
        && frame.numbers.statement_id == new.numbers.statement_id
        && frame.session_version == new.session_version
        && frame.relations == new.relations
        && frame.text == new.text;
    if same {
        frame.calls += 1;
        frame.numbers.rows += new.numbers.rows.max(0);
        frame.numbers.duration += new.numbers.duration.max(0);
    }
    same
}

/// Sends the checks that were run inside a statement of this depth, which ends.
#[inline]
pub fn flush_below(engine: &mut Engine, depth: u32) {
    if !engine.checks.is_empty() {
        flush_deeper(engine, depth);
    }
}

#[cold]
#[inline(never)]
fn flush_deeper(engine: &mut Engine, depth: u32) {
    let first = engine.checks[0];
    if engine.frame(first).numbers.depth > depth {
        flush(engine);
    }
}

/// Sends all checks. Never throws or waits.
pub fn flush(engine: &mut Engine) {
    for at in 0..engine.checks.len() {
        let id = engine.checks[at];
        let frame = engine.frame(id);
        if frame.calls > 1 {
            let calls = frame.calls;
            frame.details.number("calls", calls);
        }
        emit::push(engine, id, Fate::Open, true);
        engine.give_back(id);
    }
    engine.checks.clear();
}
