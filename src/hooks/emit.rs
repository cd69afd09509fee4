//! From a frame to a record in the ring. Nothing here throws, waits or allocates, so it may run in
//! error paths, transaction callbacks and at the end of the process.

use audit_core::codec::{Encoded, FIXED_LEN, SECTIONS, ShapeWriter};
use audit_core::event::{Class, Classes, Fate, Numbers, Outcome};
use audit_core::fate::{FateTracker, MOST_BYTES};
use audit_core::fit;
use audit_core::repeat::encode_repeat;
use audit_core::ring::{Limit, PushError, Pushed, Ring};
use core::hint::cold_path;
use core::mem::MaybeUninit;
use core::sync::atomic::{Ordering, fence};

use super::begin;
use super::engine::{Engine, Id};
use super::frame::Frame;
use super::{repeats, room};
use crate::pg::names::Relation;
use crate::pg::shared::Shared;
use crate::pg::{durability, near, raw, report, ring_file, session, shared, slot};
use pgrx::pg_sys;

/// A record is at most an eighth of the ring and 1 MB (spec/capture.md, rule 15).
const MOST: usize = 1 << 20;

/// Room for the shape of an event without a statement.
const SMALL_SHAPE: usize = 64;

/// Sends a statement's event. `known` is the transaction's fate as far as it is decided; with
/// `tracked`, an open fate is decided by a later event.
#[inline(never)]
#[unsafe(link_section = "audit_session")]
pub fn push(engine: &mut Engine, id: Id, known: Fate, tracked: bool) {
    let fate = engine.frame(id).fate(known);
    let event_no = engine.fates.number_event(tracked && fate == Fate::Open);
    let frame = engine.frame(id);
    frame.numbers.fate = fate;
    frame.numbers.event_no = event_no;
    if engine.fates.has_pending() {
        push_deciding(engine, id);
    } else {
        push_with(engine, id, None);
    }
}

/// [`push_with`] what waits to be told. Apart: most events decide nothing, and need no room for it.
#[inline(never)]
fn push_deciding(engine: &mut Engine, id: Id) {
    let mut decisions = [0; MOST_BYTES];
    let decided = engine.fates.take_pending(&mut decisions);
    push_with(engine, id, Some(&decisions[..decided]));
}

/// Sends a numbered event with these decisions, encoded.
#[inline(always)]
fn push_with(engine: &mut Engine, id: Id, decisions: Option<&[u8]>) {
    let undecided_from = engine.fates.undecided_from();
    let frame = engine.frame(id);
    let numbers = frame.numbers;
    slot::begin_push(numbers.event_no, undecided_from, numbers.started_at);
    let repeats = decisions.is_none()
        && frame.is_plain()
        && repeats::of(frame).is_some_and(|of| send_repeat(&numbers, of));
    if !repeats {
        send_whole(frame, decisions.unwrap_or_default());
    }
    sent(engine, id);
}

/// A statement's event is in the ring, or counts as dropped.
#[inline(always)]
fn sent(engine: &mut Engine, id: Id) {
    slot::keep_fates(&engine.fates);
    engine.frame(id).unprotect();
    slot::end_push();
}

/// As [`push`], of a statement without a frame: it repeats the record at `of` and has this entry in the
/// slot. `false`: it has to be told in full, by [`whole`].
#[inline(always)]
pub fn repeat(fates: &FateTracker, numbers: &Numbers, of: u64, entry: u8) -> bool {
    slot::begin_push(numbers.event_no, fates.undecided_from(), numbers.started_at);
    if !send_repeat(numbers, of) {
        cold_path();
        return false;
    }
    slot::keep_fates(fates);
    slot::close(entry);
    slot::end_push();
    true
}

/// What [`repeat`] has begun.
pub fn whole(engine: &mut Engine, id: Id) {
    send_whole(engine.frame(id), &[]);
    sent(engine, id);
}

/// Sends an event with all that belongs to it.
#[inline(never)]
#[unsafe(link_section = "audit_session")]
fn send_whole(frame: &mut Frame, decisions: &[u8]) {
    finish(frame, decisions.len());
    let frame = &*frame;
    let numbers = frame.numbers;
    let details = frame.details.bytes();
    let sections = [
        Some(frame.session.as_slice()),
        Some(frame.shape.as_slice()),
        (!frame.text.is_empty()).then_some(frame.text.as_slice()),
        frame.sha256.as_ref().map(|sha| sha.as_slice()),
        frame.with_parameters.then_some(frame.parameters.as_slice()),
        (!frame.error.is_empty() || numbers.sqlstate != 0).then_some(frame.error.as_slice()),
        (details.len() > 2).then_some(details),
        (!decisions.is_empty()).then_some(decisions),
        (!frame.gid.is_empty()).then_some(frame.gid.as_slice()),
    ];
    if let Some(position) = send(&numbers, sections)
        && frame.sha256.is_none()
    {
        repeats::keep(frame, position);
    }
}

/// Completes the details and lays out the shape; cuts what would make the record too long.
fn finish(frame: &mut Frame, decided: usize) {
    frame.end_drops();
    if session::context_left_out() != 0 {
        cold_path();
        frame
            .truncated
            .number("context", session::context_left_out());
    }
    frame.write_shape();
    let most = ring_file::ring().map_or(MOST, |ring| MOST.min(ring.capacity() as usize / 8));
    let len = FIXED_LEN
        + frame.session.len()
        + frame.shape.len()
        + frame.text.len()
        + frame.gid.len()
        + frame.parameters.len()
        + frame.error.len()
        + frame.details.len()
        + frame.truncated.len()
        + frame.sha256.map_or(0, |sha| sha.len())
        + decided
        + fit::NOTES;
    if len > most {
        cut(frame, len - most);
    }
    if !frame.truncated.is_empty() {
        let Frame {
            details, truncated, ..
        } = frame;
        details.raw("truncated", truncated.close().bytes());
    }
    frame.details.close();
}

#[cold]
fn cut(frame: &mut Frame, over: usize) {
    let state = &mut frame.state;
    state.same = None;
    fit::Parts {
        details: &mut frame.details,
        truncated: &mut frame.truncated,
        parameters: &mut frame.parameters,
        statement: &mut frame.text,
        statement_length: &mut state.numbers.statement_length,
        sha256: &mut state.sha256,
        error: &mut frame.error,
        relations: &mut frame.relations,
    }
    .cut(over);
    frame.write_shape();
}

/// Sends an AUDIT event `FATE`: decisions that no statement carries.
#[inline(never)]
pub fn fate_event(engine: &mut Engine) {
    let now = unsafe { raw::GetCurrentTimestamp() };
    let mut decisions = [0; MOST_BYTES];
    let decided = engine.fates.take_pending(&mut decisions);
    let failed = core::mem::take(&mut engine.commit_failed);
    let numbers = Numbers {
        started_at: now,
        duration: 0,
        event_no: engine.fates.number_event(false),
        // Why a statement was rolled back that had succeeded, and was told of, before its commit.
        sqlstate: if failed { engine.error.sqlstate } else { 0 },
        outcome: if failed {
            Outcome::Failed
        } else {
            Outcome::Success
        },
        ..Numbers::default()
    };
    small(
        engine,
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
        engine,
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
        frame.details.text("command", command).text("object", what);
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
#[unsafe(link_section = "audit_session")]
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
        engine,
        &numbers,
        Classes::of(Class::Session),
        command,
        None,
        (!details.is_empty()).then_some(details),
        (decided > 0).then_some(&decisions[..decided]),
    );
}

/// Sends AUTHENTICATE: a session that never began, so it has no event numbers.
pub fn logon_failed(
    session: &[u8],
    shape: &mut Vec<u8>,
    sqlstate: u32,
    error: &[u8],
    details: &[u8],
) {
    let started_at = unsafe { pg_sys::MyStartTimestamp };
    let numbers = Numbers {
        started_at,
        duration: (unsafe { raw::GetCurrentTimestamp() } - started_at).max(0),
        sqlstate,
        outcome: Outcome::Failed,
        ..Numbers::default()
    };
    ShapeWriter::new(shape, Classes::of(Class::Session), 0, b"AUTHENTICATE", None);
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
#[unsafe(link_section = "audit_session")]
fn small(
    engine: &Engine,
    numbers: &Numbers,
    classes: Classes,
    command: &[u8],
    object: Option<(&[u8], &[u8])>,
    details: Option<&[u8]>,
    decisions: Option<&[u8]>,
) {
    let shape = small_shape();
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
    slot::begin_push(
        numbers.event_no,
        engine.fates.undecided_from(),
        numbers.started_at,
    );
    send(numbers, sections);
    slot::keep_fates(&engine.fates);
    slot::end_push();
}

/// A payload in one piece is copied and checked in one go; it is put together on the stack. Longer ones go in
/// pieces.
const STAGE: usize = 2048;

/// The shape of an event without a statement. Allocated by [`make_room`].
#[unsafe(link_section = "audit_data")]
static mut SHAPE: Vec<u8> = Vec::new();

fn small_shape() -> &'static mut Vec<u8> {
    // SAFETY: one thread; used by `small` only, which calls nothing that could come back there.
    unsafe { &mut *(&raw mut SHAPE) }
}

/// Sets aside what pushing needs, in the postmaster.
pub fn make_room() {
    small_shape().reserve(SMALL_SHAPE);
}

/// Sends an event as the repeat of an earlier one. `false`: it has to be told in full, as that one is
/// too far away, or lost.
#[unsafe(link_section = "audit_hot")]
#[inline(never)]
fn send_repeat(numbers: &Numbers, of: u64) -> bool {
    let (Some(ring), Some(shared)) = (ring_file::ring(), shared::shared()) else {
        return false;
    };
    if repeats::are_lost(shared.originals_lost.load(Ordering::Relaxed)) {
        return false;
    }
    let encoded = encode_repeat(of, numbers);
    let pid = near::MyProcPid() as u32;
    let pushed = ring.try_push_referring(&[&encoded], pid, Limit::Whole, of);
    if let Err(PushError::TooFar { .. }) = pushed {
        cold_path();
        return false;
    }
    pushed_or_dropped(ring, shared, numbers, pushed, Some(of));
    true
}

/// Puts the record into the ring and wakes the worker if it sleeps. What doesn't fit is counted. The
/// record's position, if it is there.
#[unsafe(link_section = "audit_session")]
fn send(numbers: &Numbers, sections: [Option<&[u8]>; SECTIONS]) -> Option<u64> {
    let (ring, shared) = (ring_file::ring()?, shared::shared()?);
    let encoded = Encoded::new(numbers, sections);
    let pid = near::MyProcPid() as u32;
    let mut staged = [MaybeUninit::uninit(); STAGE];
    let pushed = match encoded.write_to(&mut staged) {
        Some(payload) => ring.try_push(&[payload], pid, Limit::Whole),
        None => ring.try_push(&encoded.parts(), pid, Limit::Whole),
    };
    pushed_or_dropped(ring, shared, numbers, pushed, None)
}

/// What follows a push: it counts for the next sync, or as lost. The record's position.
fn pushed_or_dropped(
    ring: &Ring,
    shared: &Shared,
    numbers: &Numbers,
    pushed: Result<Pushed, PushError>,
    refers_to: Option<u64>,
) -> Option<u64> {
    match pushed {
        Ok(pushed) => {
            durability::pushed(refers_to.unwrap_or(pushed.from), pushed.end);
            room::pushed(shared, pushed.fill, ring.capacity());
        }
        Err(why) => {
            cold_path();
            durability::dropped();
            ring.count_drop(numbers.started_at);
            // No head was moved: see Shared::wake_worker.
            fence(Ordering::SeqCst);
            if why != PushError::Full {
                shared.panics.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
    shared.wake_worker();
    let pushed = pushed.ok()?;
    ring_file::pushed(pushed.end); // The worker need not wait for it.
    Some(pushed.start)
}
