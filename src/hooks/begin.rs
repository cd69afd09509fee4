//! What is taken down when a statement begins: who, when, where, its number and its text.

use audit_core::event::{Classes, Numbers};
use audit_core::level::Level;
use audit_core::slot::Begun;
use audit_core::sql::cut::CutSink;
use audit_core::sql::redact::{self, Options};
use audit_core::sql::split;
use core::ffi::{c_char, c_int};
use core::hint::cold_path;
use pgrx::pg_sys;

use super::engine::{self, Engine, Id, Repeat, Source};
use super::frame::{Frame, State};
use super::repeats::{self, Known, Plan};
use super::{capture, settings};
use crate::pg::{guc, lexis, near, parallel, raw, session, slot, unlock};

/// Where a statement stands in the string that the server parsed.
#[derive(Clone, Copy)]
pub struct Text {
    pub source: *const c_char,
    /// Bytes from the start; -1 where unknown.
    pub location: c_int,
    /// Bytes; 0 for "to the end of the string".
    pub len: c_int,
}

impl Text {
    /// Whether nothing else is in the string, but for a semicolon at its end. Never throws.
    ///
    /// # Safety
    /// `source` is the string.
    #[inline(always)]
    pub unsafe fn is_all(&self) -> bool {
        // A length is that up to a semicolon.
        self.location | self.len == 0
            || (self.location == 0
                && self.len > 0
                && unsafe { *self.source.add(self.len as usize + 1) } == 0)
    }
}

/// Makes sure that the session's attributes and the names of its roles are known. Throws.
///
/// # Safety
/// In a hook of the executor or of utility statements.
#[inline]
pub unsafe fn session() {
    unsafe {
        if raw::IsTransactionState() && !raw::IsAbortedTransactionBlockState() {
            session_of_query();
        }
    }
}

/// As [`session`], where a query is about to start: catalogs can be read there. Throws.
///
/// # Safety
/// In a transaction that is not aborted.
#[inline]
pub unsafe fn session_of_query() {
    unsafe {
        if !session::known() {
            cold_path();
            session::begin();
            super::session::begun();
        }
        session::learn();
    }
}

/// Whether a statement of these classes that begins at this depth may be recorded.
#[inline]
pub fn wanted(depth: u32, classes: Classes) -> bool {
    level().could_record(classes) && possible(depth)
}

/// Whether a statement that begins at this depth may be recorded, whatever the level says of it.
#[inline]
pub fn possible(depth: u32) -> bool {
    depth == 0 || nested_possible()
}

#[inline(never)]
fn nested_possible() -> bool {
    (!unlock::in_script() && guc::nested()) || unlock::is_open()
}

/// `audit.level`; all while the session has unlocked the trail.
#[inline]
pub fn level() -> Level {
    if unlock::is_open() {
        cold_path();
        Level::ALL
    } else {
        guc::level()
    }
}

/// Takes a frame for a statement that begins now, and lets it run. Never throws.
///
/// # Safety
/// `text.source` is the string that `text` speaks of.
#[unsafe(link_section = "audit_session")]
pub unsafe fn statement(
    engine: &mut Engine,
    text: Text,
    classes: Classes,
    wanted: bool,
    address: usize,
) -> Id {
    unsafe { query(engine, text, classes, wanted, None, address).0 }
}

/// As [`statement`], for a planned query: where a record says all of it that this one shares, the
/// frame has it from there, and its `same` is set.
///
/// # Safety
/// As for [`statement`].
#[inline(always)]
pub unsafe fn query<'e>(
    engine: &'e mut Engine,
    text: Text,
    classes: Classes,
    wanted: bool,
    plan: Option<&Plan>,
    address: usize,
) -> (Id, &'e mut Frame) {
    settings::check(engine);
    let depth = unsafe { depth(engine, text.source) };
    let helps = depth != 0 && capture::helps();
    let message_at = unsafe { raw::GetCurrentStatementStartTimestamp() };
    let mut started_at = message_at;
    let location = text.location; // The planner's hook saw the same.
    let text = placed(engine, text, message_at);
    let mut text_from = text.location.max(0) as usize;
    let (mut substatement_id, mut last_sub) = (1, 1);
    let statement_id;
    if depth == 0 {
        engine.passing.clear();
        (started_at, text_from, last_sub) = begin_top_level(engine, text, location, message_at);
        statement_id = engine.statement_id;
    } else {
        cold_path();
        (statement_id, substatement_id) = engine.number_nested();
        if wanted {
            started_at = unsafe { raw::GetCurrentTimestamp() };
        }
    }
    // In this order: the version is that of what is said here.
    let (session, session_version) = if wanted {
        (session::encoded(), session::version())
    } else {
        (&[][..], 0)
    };
    let id = engine.free_frame();
    let source_end = engine.last_source.end();
    let frame = &mut *engine.pool[id];
    let held = frame.renew(State {
        level: level(),
        classes,
        captured: wanted,
        in_aborted: unsafe { raw::IsAbortedTransactionBlockState() },
        source: text.source as usize,
        location,
        text_from,
        last_sub,
        message_at,
        source_end,
        portal: near::ActivePortal() as usize,
        address,
        catcher: engine::catcher(),
        subxact: engine.subxact,
        numbers: Numbers {
            started_at,
            statement_id,
            substatement_id,
            depth,
            ..Numbers::default()
        },
        session_version,
        ..State::default()
    });
    if wanted {
        let own = unsafe { own_text(text, text_from) };
        let found = look_for(own);
        let again = match (plan, found.known) {
            (Some(plan), Some(known)) if !helps => {
                repeats::again(known, session_version, classes, plan)
            }
            _ => None,
        };
        match again {
            Some(again) => frame.remember(&again, session, held),
            None => {
                cold_path();
                frame.forget();
                frame.session.extend_from_slice(session);
                keep_text(frame, own, found);
            }
        }
    } else {
        cold_path();
        frame.forget();
    }
    if helps && wanted {
        cold_path();
        frame.details.number("leader_pid", parallel::leader_pid());
    }
    // Last: what fails before leaves no statement that runs.
    engine.running.push(id);
    (id, frame)
}

/// Depth at which a statement runs that begins now, as a part of this string. Where none runs, and it
/// isn't the client's, the held statement's commit has begun, and this is inside of that.
///
/// # Safety
/// `source` is NULL or a string.
#[inline]
pub unsafe fn depth(engine: &mut Engine, source: *const c_char) -> u32 {
    if engine.held().is_some() || (engine.undisturbed() && !engine.has_no_query()) {
        cold_path();
        if engine.committing() {
            engine.end_fast_path();
        }
        // A function without a text is for its caller to tell.
        if !source.is_null() {
            let inside = unsafe { runs_in_commit(source) } && may_commit(engine);
            engine.commit_runs(inside);
        }
    }
    let depth = engine.depth();
    if depth == 0 && capture::helps() {
        cold_path();
        engine.help();
        return 1;
    }
    depth
}

/// Whether a statement that begins where none runs can't be the client's: it isn't a part of the
/// string that the client's message holds.
unsafe fn runs_in_commit(source: *const c_char) -> bool {
    unsafe {
        let message = pg_sys::debug_query_string;
        if source == message || !session::has_client() {
            return false;
        }
        // A message of the extended protocol speaks of a portal, which has a copy of the string.
        message.is_null() || !is_portals(source) || raw::bytes(source) != raw::bytes(message)
    }
}

/// Whether the held statement's commit can run now: not while the message of a later one is dealt with, or a
/// later one of its own string is planned. Never throws.
fn may_commit(engine: &mut Engine) -> bool {
    let message = unsafe { pg_sys::debug_query_string };
    let committing = engine.committing();
    let Some(held) = engine.held().filter(|held| held.message_at != 0) else {
        return true;
    };
    if message.is_null() || committing || held.ends_transaction {
        return true;
    }
    let message = unsafe { raw::bytes(message) };
    held.message_at == unsafe { raw::GetCurrentStatementStartTimestamp() }
        && split::is_rest_empty(message, held.source_end.min(message.len()))
}

/// Whether the active portal runs this string: that of a client's message, or a cursor's. Never throws.
///
/// # Safety
/// Where the server's `ActivePortal` is valid: in a hook.
#[inline]
pub unsafe fn is_portals(source: *const c_char) -> bool {
    unsafe {
        let portal = near::ActivePortal();
        !portal.is_null() && (*portal).sourceText == source
    }
}

/// Numbers a top-level statement and says when it began. What the planner has just seen keeps its
/// number; the first statement of a message began with the message, at no cost of a clock. `location` is the
/// server's.
#[inline]
fn begin_top_level(
    engine: &mut Engine,
    text: Text,
    location: c_int,
    message_at: i64,
) -> (i64, usize, u32) {
    let source = text.source as usize;
    if engine.plan.is_some()
        && let Some(planned) = take_planned(engine, (source, location, message_at))
    {
        return planned;
    }
    engine.release_held();
    let last = number_top_level(engine, text, message_at);
    let later_part = (last.string == source) & (last.message_at == message_at);
    let client = session::has_client();
    let started_at = if later_part | !client {
        cold_path();
        unsafe { raw::GetCurrentTimestamp() }
    } else {
        message_at
    };
    let last_end = if later_part { last.end() } else { 0 };
    (started_at, begin_of_text(text, last_end), 1)
}

/// Where a statement's text begins in its string, comments before it included, if another ended there.
#[inline]
fn begin_of_text(text: Text, last_end: usize) -> usize {
    let location = text.location.max(0) as usize;
    // From 18 on the server's location is that of the first word; comments before it belong to
    // the statement, as applications put identifiers in them.
    if cfg!(feature = "pg18") {
        last_end.min(location)
    } else {
        location
    }
}

/// Where a statement stands; what a rule does, which the server knows no place of, where the statement that the
/// rule is applied to does.
#[inline]
fn placed(engine: &Engine, text: Text, message_at: i64) -> Text {
    let ruled = &engine.ruled;
    if text.location >= 0 || (ruled.string, ruled.message_at) != (text.source as usize, message_at)
    {
        return text;
    }
    cold_path();
    Text {
        source: text.source,
        location: ruled.location,
        len: ruled.len,
    }
}

/// Notes where a statement stands that rules are applied to. Never throws.
pub fn note_ruled(text: Text) {
    engine::engine_as_it_is().ruled = Source {
        string: text.source as usize,
        message_at: unsafe { raw::GetCurrentStatementStartTimestamp() },
        location: text.location,
        len: text.len,
    };
}

/// The number of a new top-level statement, and where it was found; the result is where the last one was.
#[inline]
fn number_top_level(engine: &mut Engine, text: Text, message_at: i64) -> Source {
    engine.statement_id += 1;
    let source = Source {
        string: text.source as usize,
        message_at,
        location: text.location,
        len: text.len,
    };
    core::mem::replace(&mut engine.last_source, source)
}

/// A client's query begins that goes without a frame: see `engine::lone`. Never throws.
///
/// # Safety
/// `text.source` is the string that `text` speaks of.
#[inline]
pub unsafe fn lone(engine: &mut Engine, text: Text, query: usize, address: usize) {
    unsafe { number_left_out(engine, text) };
    engine.begin_lone(query, address, true);
}

/// The number of a client's statement that has no frame. Never throws.
///
/// # Safety
/// As for [`lone`].
#[inline]
pub unsafe fn number_left_out(engine: &mut Engine, text: Text) {
    if unsafe { text.is_all() } {
        engine.statement_id += 1; // So nothing comes after it there.
    } else {
        number_part(engine, text);
    }
}

#[cold]
#[inline(never)]
fn number_part(engine: &mut Engine, text: Text) {
    let message_at = unsafe { raw::GetCurrentStatementStartTimestamp() };
    number_top_level(engine, placed(engine, text, message_at), message_at);
}

/// A client's query begins; where it is the first of its message and repeats a record, it goes without a
/// frame. `false`: it isn't, and nothing has happened. Never throws.
///
/// # Safety
/// As for [`statement`].
#[inline(always)]
pub unsafe fn repeat(
    engine: &mut Engine,
    text: Text,
    classes: Classes,
    plan: &Plan,
    query: usize,
    address: usize,
) -> bool {
    let message_at = unsafe { raw::GetCurrentStatementStartTimestamp() };
    let last = &engine.last_source;
    let later_part = (last.string == text.source as usize) & (last.message_at == message_at);
    if later_part | !session::has_client() {
        cold_path();
        return false;
    }
    let text_from = begin_of_text(text, 0);
    let own = unsafe { own_text(text, text_from) };
    if own.len() > guc::statement_max_size() {
        cold_path();
        return false;
    }
    session::encoded(); // Brings its version up to date.
    let session = session::version();
    let again = repeats::known(own).and_then(|known| repeats::again(known, session, classes, plan));
    let Some(again) = again else {
        cold_path();
        return false;
    };
    let Some(entry) = slot::entry_of(again.number) else {
        cold_path();
        return false;
    };
    number_top_level(engine, text, message_at);
    let repeat = Repeat {
        known: again.known,
        position: again.position,
        session,
        level: guc::level(),
        classes,
        portal: near::ActivePortal() as usize,
        text_from,
        entry,
        ..Repeat::NONE
    };
    engine.begin_repeat(query, address, repeat);
    let begun = Begun {
        statement_id: engine.statement_id,
        substatement_id: 1,
        depth: 0,
        started_at: message_at,
    };
    slot::reopen(entry, &begun);
    true
}

/// [`begin_top_level`] of what the planner has just seen.
#[inline(never)]
#[unsafe(link_section = "audit_session")]
fn take_planned(engine: &mut Engine, found: (usize, c_int, i64)) -> Option<(i64, usize, u32)> {
    let plan = engine.plan.take()?;
    ((plan.source, plan.location, plan.message_at) == found).then_some((
        plan.started_at,
        plan.text_from,
        plan.last_sub,
    ))
}

/// The bytes of the statement itself, which begins at byte `from`.
///
/// # Safety
/// `text.source` is the string that `text` speaks of, or NULL.
#[inline]
pub unsafe fn own_text<'a>(text: Text, from: usize) -> &'a [u8] {
    if text.source.is_null() {
        cold_path();
        return &[];
    }
    let before = text.location.max(0) as usize - from;
    unsafe {
        let start = text.source.add(from);
        let bytes = if text.len > 0 {
            core::slice::from_raw_parts(start.cast::<u8>(), before + text.len as usize)
        } else {
            raw::bytes(start)
        };
        // What ended the statement before.
        split::trim(bytes.strip_prefix(b";").unwrap_or(bytes))
    }
}

/// What is known of a text before it is kept.
#[derive(Clone, Copy, Default)]
struct Found {
    /// It can be kept as it is.
    harmless: bool,
    known: Option<Known>,
}

#[inline(always)]
fn look_for(text: &[u8]) -> Found {
    if text.len() > guc::statement_max_size() {
        cold_path();
        return Found::default();
    }
    let (harmless, known) = repeats::find(text);
    Found { harmless, known }
}

/// Keeps a statement's text: redacted, cut to `audit.statement_max_size`.
pub fn take_text(frame: &mut Frame, text: &[u8]) {
    keep_text(frame, text, look_for(text));
}

#[inline(always)]
fn keep_text(frame: &mut Frame, text: &[u8], found: Found) {
    if found.harmless {
        frame.text.clear();
        frame.text.extend_from_slice(text);
        frame.known = found.known;
    } else {
        take_text_as(frame, text, false, guc::statement_max_size());
    }
}

/// As [`take_text`], cut to `most` bytes; `unparsed` where the server could not parse the text.
#[unsafe(link_section = "audit_session")]
pub fn take_text_as(frame: &mut Frame, text: &[u8], unparsed: bool, most: usize) {
    frame.text.clear();
    frame.known = None;
    if text.len() <= most && !unparsed && !redact::may_hold_secret(text) {
        frame.text.extend_from_slice(text);
        return;
    }
    let options = Options {
        standard_conforming_strings: lexis::plain(),
        unparsed: unparsed || (lexis::is_unsure() && redact::reads_two_ways(text)),
    };
    let mut sink = CutSink::new(&mut frame.text, most);
    redact::redact_into(text, options, &mut sink);
    let cut = sink.finish();
    if cut.sha256.is_some() {
        frame.state.sha256 = cut.sha256;
        frame.state.numbers.statement_length = cut.full_len.min(u64::from(u32::MAX)) as u32;
    }
}
