//! From a frame to a record in the ring. Nothing here throws, waits or allocates, so it may run in
//! error paths, transaction callbacks and at the end of the process.

use audit_core::codec::{Encoded, FIXED_LEN, SECTIONS, ShapeWriter};
use audit_core::event::{Class, Classes, Fate, Numbers, Outcome};
use audit_core::fate::MOST_BYTES;
use audit_core::json::Object;
use audit_core::ring::{Limit, PushError};
use core::sync::atomic::Ordering;

use super::begin;
use super::engine::{Engine, Id};
use super::frame::Frame;
use crate::pg::names::Relation;
use crate::pg::{raw, report, ring_file, session, shared};
use pgrx::pg_sys;

/// A record is at most an eighth of the ring and 1 MB (spec/capture.md, rule 15).
const MOST: usize = 1 << 20;

/// Room for the shape of an event without a statement.
const SMALL_SHAPE: usize = 64;

/// Sends a statement's event. `known` is the transaction's fate as far as it is decided; with
/// `tracked`, an open fate is decided by a later event.
pub fn push(engine: &mut Engine, id: Id, known: Fate, tracked: bool) {
    let fate = engine.frame(id).fate(known);
    let event_no = engine.fates.number_event(tracked && fate == Fate::Open);
    let mut decisions = [0; MOST_BYTES];
    let decided = engine.fates.take_pending(&mut decisions);
    let frame = engine.frame(id);
    frame.write_shape();
    frame.numbers.fate = fate;
    frame.numbers.event_no = event_no;
    let mut numbers = frame.numbers;
    let mut sections = [
        Some(frame.session.as_slice()),
        Some(frame.shape.as_slice()),
        (!frame.text.is_empty()).then_some(frame.text.as_slice()),
        frame.sha256.as_ref().map(|sha| sha.as_slice()),
        frame.with_parameters.then_some(frame.parameters.as_slice()),
        (!frame.error.is_empty() || numbers.sqlstate != 0).then_some(frame.error.as_slice()),
        (!frame.details.is_empty()).then_some(frame.details.as_slice()),
        (decided > 0).then_some(&decisions[..decided]),
        (!frame.gid.is_empty()).then_some(frame.gid.as_slice()),
    ];
    fit(&mut numbers, &mut sections);
    send(&numbers, sections);
}

/// Index of the statement's text among the sections.
const STATEMENT: usize = 2;

/// Cuts the text of a record that would be too long.
fn fit(numbers: &mut Numbers, sections: &mut [Option<&[u8]>; SECTIONS]) {
    let Some(ring) = ring_file::ring() else {
        return;
    };
    let most = MOST.min(ring.capacity() as usize / 8);
    let len = FIXED_LEN + sections.iter().flatten().map(|s| s.len()).sum::<usize>();
    let Some(over) = len.checked_sub(most).filter(|over| *over > 0) else {
        return;
    };
    if let Some(text) = sections[STATEMENT] {
        if numbers.statement_length == 0 {
            numbers.statement_length = text.len() as u32;
        }
        let mut keep = text.len().saturating_sub(over);
        // Not inside a character of UTF-8.
        while keep > 0 && text[keep] & 0xc0 == 0x80 {
            keep -= 1;
        }
        sections[STATEMENT] = Some(&text[..keep]);
    }
}

/// Sends an AUDIT event `FATE`: decisions that no statement carries.
pub fn fate_event(engine: &mut Engine) {
    let now = unsafe { raw::GetCurrentTimestamp() };
    let mut decisions = [0; MOST_BYTES];
    let decided = engine.fates.take_pending(&mut decisions);
    let numbers = Numbers {
        started_at: now,
        duration: 0,
        event_no: engine.fates.number_event(false),
        ..Numbers::default()
    };
    small(
        &numbers,
        Classes::of(Class::Audit),
        b"FATE",
        None,
        None,
        Some(&decisions[..decided]),
    );
}

/// Sends an AUDIT event `SETTING` of the running top-level statement.
pub fn setting_event(engine: &mut Engine, setting: &[u8], details: &[u8]) {
    let mut decisions = [0; MOST_BYTES];
    let decided = engine.fates.take_pending(&mut decisions);
    let numbers = Numbers {
        started_at: unsafe { raw::GetCurrentTimestamp() },
        duration: 0,
        event_no: engine.fates.number_event(false),
        statement_id: engine.statement_id,
        ..Numbers::default()
    };
    small(
        &numbers,
        Classes::of(Class::Audit),
        b"SETTING",
        Some((b"SETTING", setting)),
        Some(details),
        (decided > 0).then_some(&decisions[..decided]),
    );
}

/// Sends an AUDIT event that `fill` completes. With `tracked` it takes the fate of the transaction.
pub fn audit_event(
    engine: &mut Engine,
    command: &[u8],
    tracked: bool,
    fill: impl FnOnce(&mut Frame),
) {
    let id = engine.take_frame();
    let statement_id = engine.statement_id;
    let frame = engine.frame(id);
    frame.classes = Classes::of(Class::Audit);
    frame.command.extend_from_slice(command);
    frame.session.extend_from_slice(session::encoded());
    frame.numbers.started_at = unsafe { raw::GetCurrentTimestamp() };
    frame.numbers.duration = 0;
    frame.numbers.statement_id = statement_id;
    fill(frame);
    push(engine, id, Fate::Open, tracked);
    engine.give_back(id);
}

/// Sends an AUDIT event `REFUSED`: an attempt that the guard stopped, with the text that the client
/// sent.
pub fn refused_event(
    engine: &mut Engine,
    command: &[u8],
    what: &[u8],
    relation: Option<&Relation>,
) {
    audit_event(engine, b"REFUSED", false, |frame| {
        frame.numbers.outcome = Outcome::Failed;
        frame.numbers.sqlstate = report::GUARDED as i32 as u32;
        let message = report::guarded_message(command, what);
        frame.error.extend_from_slice(message.as_bytes());
        let mut details = Object::new();
        details.text("command", command).text("object", what);
        frame.details = details.finish();
        if let Some(relation) = relation {
            frame.object_type = relation.kind;
            frame.object_name.extend_from_slice(&relation.name);
            frame.add_relation(&relation.name);
        }
        // SAFETY: NULL or the string of the client's message.
        begin::take_text(frame, unsafe { raw::bytes(pg_sys::debug_query_string) });
    });
}

/// Sends an event of the session itself. It carries the decisions that wait.
pub fn session_event(engine: &mut Engine, command: &[u8], started_at: i64, details: &[u8]) {
    let now = unsafe { raw::GetCurrentTimestamp() };
    let mut decisions = [0; MOST_BYTES];
    let decided = engine.fates.take_pending(&mut decisions);
    let numbers = Numbers {
        started_at,
        duration: (now - started_at).max(0),
        event_no: engine.fates.number_event(false),
        ..Numbers::default()
    };
    small(
        &numbers,
        Classes::of(Class::Session),
        command,
        None,
        (!details.is_empty()).then_some(details),
        (decided > 0).then_some(&decisions[..decided]),
    );
}

/// Sends AUTHENTICATE: a session that never began, so it has no event numbers.
pub fn logon_failed(session: &[u8], sqlstate: u32, error: &[u8], details: &[u8]) {
    let started_at = unsafe { pg_sys::MyStartTimestamp };
    let numbers = Numbers {
        started_at,
        duration: (unsafe { raw::GetCurrentTimestamp() } - started_at).max(0),
        sqlstate,
        outcome: Outcome::Failed,
        ..Numbers::default()
    };
    let mut shape = Vec::with_capacity(SMALL_SHAPE);
    ShapeWriter::new(
        &mut shape,
        Classes::of(Class::Session),
        0,
        b"AUTHENTICATE",
        None,
    );
    let sections = [
        Some(session),
        Some(shape.as_slice()),
        None,
        None,
        None,
        Some(error),
        Some(details),
        None,
        None,
    ];
    send(&numbers, sections);
}

/// Sends an event without a statement.
fn small(
    numbers: &Numbers,
    classes: Classes,
    command: &[u8],
    object: Option<(&[u8], &[u8])>,
    details: Option<&[u8]>,
    decisions: Option<&[u8]>,
) {
    static mut SHAPE: Vec<u8> = Vec::new();
    // SAFETY: one thread; the buffer is used by this function only, which calls nothing that could
    // come back here. It is allocated at its first use, at the session's start.
    let shape = unsafe { &mut *(&raw mut SHAPE) };
    shape.reserve(SMALL_SHAPE);
    ShapeWriter::new(shape, classes, 0, command, object);
    let sections = [
        Some(session::encoded()),
        Some(shape.as_slice()),
        None,
        None,
        None,
        None,
        details,
        decisions,
        None,
    ];
    send(numbers, sections);
}

/// A payload in one piece is copied and checked in one go. Longer ones go in pieces.
const STAGE: usize = 16 * 1024;

/// Where a payload is put together. Allocated by [`begin`].
static mut STAGED: Vec<u8> = Vec::new();

fn staged() -> &'static mut Vec<u8> {
    // SAFETY: one thread; no reference outlives `begin` or `send`, which call nothing of ours.
    unsafe { &mut *(&raw mut STAGED) }
}

/// A session begins: sets aside what pushing needs.
pub fn begin() {
    staged().reserve(STAGE);
}

/// Puts the record into the ring and wakes the worker if it sleeps. What doesn't fit is counted.
fn send(numbers: &Numbers, sections: [Option<&[u8]>; SECTIONS]) {
    let (Some(ring), Some(shared)) = (ring_file::ring(), shared::shared()) else {
        return;
    };
    let encoded = Encoded::new(numbers, sections);
    let pid = unsafe { pg_sys::MyProcPid } as u32;
    let staged = staged();
    let pushed = if encoded.len() <= staged.capacity() {
        staged.clear();
        for part in encoded.parts() {
            staged.extend_from_slice(part);
        }
        ring.try_push(&[staged.as_slice()], pid, Limit::Whole)
    } else {
        ring.try_push(&encoded.parts(), pid, Limit::Whole)
    };
    match pushed {
        Ok(_) => {}
        Err(PushError::Full) => ring.count_drop(numbers.started_at),
        Err(_) => {
            ring.count_drop(numbers.started_at);
            shared.panics.fetch_add(1, Ordering::Relaxed);
        }
    }
    shared.wake_worker();
}
