//! Every ERROR of the backend, with its SQLSTATE, whatever the log settings: an error context
//! callback at the bottom of the server's stack of them (research/tested.md, "Errors").
//!
//! The server forgets that stack when it returns to its main loop after an error; the end of
//! ErrorContext's contents, which marks just that, puts ours back. Callbacks run while an error is
//! being reported: they keep what they need in memory that is there already and must not fail.

use core::ffi::c_void;
use pgrx::pg_sys;

use super::attempted::{Attempted, Place};
use super::begin::{self, take_text_as};
use super::engine::{Id, Planned, engine, shield, with};
use super::frame::Aside;
use super::{apply, capture, emit, functions, guard, replication, session as sessions};
use crate::pg::{guc, lexis, raw, session};
use audit_core::classify::classes_of_command;
use audit_core::event::{Classes, pack_sqlstate};
use audit_core::sql::command::{command_of_first_keyword, declares_cursor};
use audit_core::sql::redact;
use audit_core::sql::{cut::CutSink, split};

static mut CONTEXT: pg_sys::ErrorContextCallback = pg_sys::ErrorContextCallback {
    previous: core::ptr::null_mut(),
    callback: Some(reported),
    arg: core::ptr::null_mut(),
};

static mut FLUSHED: pg_sys::MemoryContextCallback = pg_sys::MemoryContextCallback {
    func: Some(flushed),
    arg: core::ptr::null_mut(),
    next: core::ptr::null_mut(),
};
static mut FLUSHED_REGISTERED: bool = false;

/// Where the copy of an error lives for a moment.
static mut MEMORY: pg_sys::MemoryContext = core::ptr::null_mut();

/// Room that is set aside for the text of a statement that failed before any hook saw it. A longer one
/// is kept as far as `audit.statement_max_size` and the memory that is free allow.
const UNSEEN_TEXT_MAX: usize = 64 * 1024;

const SYNTAX_ERROR: u32 = pack_sqlstate(b"42601");
/// What else the server's lexer and grammar may refuse a text with: then it isn't known how to read it.
const UNREADABLE: [u32; 4] = [
    pack_sqlstate(b"22025"), // invalid_escape_sequence
    pack_sqlstate(b"22P06"), // nonstandard_use_of_escape_character
    pack_sqlstate(b"22021"), // character_not_in_repertoire
    pack_sqlstate(b"0A000"), // feature_not_supported
];
const NO_PRIVILEGE: u32 = pack_sqlstate(b"42501");

/// The last error reported in this backend. Its buffers are allocated once, by [`install`].
pub struct LastError {
    pub sqlstate: u32,
    pub message: Vec<u8>,
    pub at: i64,
    pub attempted: Attempted,
    /// 42501 from the server itself. What such a statement was aimed at the trail with is on record
    /// whatever the level, as is whom the guard refuses.
    no_privilege: bool,
}

/// Longer messages are cut.
pub const ERROR_MAX: usize = 8 * 1024;

impl LastError {
    pub const fn new() -> Self {
        LastError {
            sqlstate: 0,
            message: Vec::new(),
            at: 0,
            attempted: Attempted::new(),
            no_privilege: false,
        }
    }

    fn reserve(&mut self) {
        self.message.reserve(ERROR_MAX);
        self.attempted.reserve();
    }
}

/// Makes the callback the outermost one, unless others are there (ours is then among them).
#[inline]
pub fn watch() {
    // SAFETY: the struct is static; a backend is one thread.
    unsafe {
        if pg_sys::error_context_stack.is_null() {
            CONTEXT.previous = core::ptr::null_mut();
            pg_sys::error_context_stack = &raw mut CONTEXT;
        }
    }
}

/// Sets memory aside and begins to watch, in the postmaster: its children inherit both, so that
/// nothing is missed before a session has begun, and no session pays for what it does not use.
/// Throws (out of memory).
///
/// # Safety
/// From `_PG_init` only.
pub unsafe fn install() {
    unsafe {
        MEMORY = raw::AllocSetContextCreateInternal(
            pg_sys::TopMemoryContext,
            c"audit_ext error".as_ptr(),
            8 * 1024,
            8 * 1024,
            64 * 1024,
        );
    }
    engine()
        .set_aside(Aside::Failure)
        .make_room_for_failure(UNSEEN_TEXT_MAX, ERROR_MAX);
    engine().set_aside(Aside::Lone);
    engine().error.reserve();
    emit::make_room();
    watch();
}

/// The server reports something: an ERROR and worse is kept.
unsafe extern "C-unwind" fn reported(_arg: *mut c_void) {
    unsafe {
        // No error has the code of success, which most of what passes here are; RAISE can give it any other,
        // that of a warning, too.
        if raw::geterrcode() == 0 || MEMORY.is_null() || !pg_sys::IsUnderPostmaster {
            return;
        }
        // Whether or not it is of interest: the next one may be.
        if !FLUSHED_REGISTERED {
            FLUSHED_REGISTERED = true;
            raw::MemoryContextRegisterResetCallback(pg_sys::ErrorContext, &raw mut FLUSHED);
        }
        if !capture::follows() {
            return;
        }
        let before = pg_sys::CurrentMemoryContext;
        pg_sys::CurrentMemoryContext = MEMORY;
        let error = raw::CopyErrorData();
        pg_sys::CurrentMemoryContext = before;
        if session::known() {
            if (*error).elevel >= pgrx::PgLogLevel::ERROR as i32 {
                shield(|| keep(error));
            }
        } else if (*error).elevel >= pgrx::PgLogLevel::FATAL as i32
            && pg_sys::Mode == pg_sys::ProcessingMode::InitProcessing
        {
            let message = raw::bytes((*error).message);
            shield(|| sessions::logon_failed((*error).sqlerrcode as u32, message));
        }
        raw::MemoryContextReset(MEMORY);
    }
}

unsafe fn keep(error: *const pg_sys::ErrorData) {
    unsafe {
        let sqlstate = (*error).sqlerrcode as u32;
        let message = raw::bytes((*error).message);
        let refused = guard::take_refused();
        engine().before_error();
        let unseen = engine().running.is_empty() && !belongs_to_held();
        let fatal = (*error).elevel >= pgrx::PgLogLevel::FATAL as i32;
        // Without a trail none begins; what began before may still fail. A parallel worker's leader gets the same
        // error, and tells.
        let statement = if capture::on_quietly() && !capture::helps() {
            let nested = nested_unseen((*error).internalquery);
            nested.or_else(|| unseen_statement(unseen, sqlstate, fatal))
        } else {
            None
        };
        let told = (statement.is_some() && !is_left_out(sqlstate)) || engine().records_any();
        remember(sqlstate, message, statement, told);
        engine().error.no_privilege = sqlstate == NO_PRIVILEGE && !refused;
        match statement {
            Some(text) => {
                let unparsed = sqlstate == SYNTAX_ERROR || UNREADABLE.contains(&sqlstate);
                let id = unseen_frame(text, unparsed);
                if sqlstate != SYNTAX_ERROR {
                    attempted(error, id, true);
                }
                engine().died_unseen(id);
            }
            None if engine().running.is_empty() && !unseen => engine().commit_fails(),
            // The error is that of a statement of which nothing is kept.
            None if engine().passes() => {}
            None => {
                if let Some(id) = engine().running.last().copied() {
                    let engine = engine();
                    let tried = engine.error.no_privilege;
                    let frame = engine.frame(id);
                    frame.audited_object |= tried && guard::is_named_in(&frame.text);
                    attempted(error, id, false);
                }
            }
        }
    }
}

/// Notes what the statement that the error came up in was aimed at.
unsafe fn attempted(error: *const pg_sys::ErrorData, id: Id, unseen: bool) {
    unsafe {
        let nested = !(*error).internalquery.is_null();
        let place = Place {
            sqlstate: (*error).sqlerrcode as u32,
            source: if nested {
                raw::bytes((*error).internalquery)
            } else if (*error).cursorpos > 0 {
                clients_string().0
            } else {
                &[]
            },
            position: if nested {
                (*error).internalpos
            } else {
                (*error).cursorpos
            },
        };
        engine().attempted(id, &place, unseen);
    }
}

/// The client's string, which each error of a statement asks for again.
struct Clients {
    /// Which it is: the string, when its message came, and the statement in it.
    of: (usize, i64, u64),
    len: usize,
    seen: redact::Seen,
}

static mut CLIENTS: Clients = Clients {
    of: (0, 0, 0),
    len: 0,
    seen: redact::Seen::NOTHING,
};

/// The string that the client's message holds, and what its errors were found to quote. (A process without a
/// client may put another in the same place.)
fn clients_string() -> (&'static [u8], &'static mut redact::Seen) {
    // SAFETY: one thread; the string ends with NUL and stays as it is while its message is under way, which is
    // as long as what is returned is used.
    unsafe {
        let string = pg_sys::debug_query_string;
        let message_at = raw::GetCurrentStatementStartTimestamp();
        let of = (string as usize, message_at, engine().statement_id);
        let clients = &mut *(&raw mut CLIENTS);
        if string.is_null() || clients.of != of || !session::has_client() {
            (clients.of, clients.len) = (of, raw::bytes(string).len());
            clients.seen.forget();
        }
        let text = if string.is_null() {
            &[]
        } else {
            core::slice::from_raw_parts(string.cast(), clients.len)
        };
        (text, &mut clients.seen)
    }
}

/// Whether no statement that fails now, before any hook has seen it, is recorded.
fn is_left_out(sqlstate: u32) -> bool {
    begin::level().is_none() && sqlstate != NO_PRIVILEGE
}

/// Keeps the error for the statements that die of it; `told`: one of them is recorded.
fn remember(sqlstate: u32, message: &[u8], statement: Option<&[u8]>, told: bool) {
    let error = &mut engine().error;
    error.sqlstate = sqlstate;
    error.at = unsafe { raw::GetCurrentTimestamp() };
    error.attempted.clear();
    error.message.clear();
    if !told {
        return;
    }
    // What is behind is cut anyway, and may be of any length.
    let message = &message[..message.len().min(ERROR_MAX + ERROR_MAX / 8)];
    let mut nothing = redact::Seen::NOTHING;
    let (text, seen) = match statement {
        Some(text) => (text, &mut nothing),
        None => clients_string(),
    };
    let mut sink = CutSink::new(&mut engine().error.message, ERROR_MAX);
    redact::redact_next_error_message(message, text, seen, &mut sink);
}

/// Whether an error that comes while no statement runs is the failure of the held one's commit, and
/// not of a next statement that the client has already sent.
fn belongs_to_held() -> bool {
    let message_at = unsafe { raw::GetCurrentStatementStartTimestamp() };
    let source = unsafe { pg_sys::debug_query_string };
    let committing = engine().committing();
    let Some(frame) = engine().held() else {
        return false;
    };
    // A remote transaction's own, whatever its triggers have run.
    if apply::is_worker() {
        return false;
    }
    let ends_it = frame.ends_transaction && frame.message_at == message_at;
    // A frame that is only there for what its commit runs takes no other failure.
    if !committing && !ends_it && !frame.fast_path && !frame.recorded(true) {
        return false;
    }
    if committing || ends_it || source.is_null() {
        // The message of a portal that ran came before its statement ended. One behind that has no text
        // either, where it can't be read; nor a snapshot, as what the commit checks has.
        let ended = frame.numbers.started_at + frame.numbers.duration;
        let commits = committing || message_at < ended || unsafe { raw::ActiveSnapshotSet() };
        return frame.message_at == message_at || (!frame.fast_path && commits);
    }
    frame.message_at == message_at
        && unsafe {
            split::is_rest_empty(
                raw::bytes(source),
                frame.source_end.min(raw::bytes(source).len()),
            )
        }
}

/// The text of a statement that failed before any hook saw it: it did not parse, a name in it is
/// unknown, or the transaction had failed before.
unsafe fn unseen_statement<'a>(unseen: bool, sqlstate: u32, fatal: bool) -> Option<&'a [u8]> {
    let source = unsafe { pg_sys::debug_query_string };
    if !unseen {
        return None;
    }
    if source.is_null() {
        // The message itself could not be read (invalid bytes, an unknown prepared statement): its
        // text is not to be had. Without a client's message there is no statement.
        return ((session::has_client() && !fatal) || apply::is_failing()).then_some(&[]);
    }
    if is_left_out(sqlstate) {
        return Some(&[]); // Counted, and its text, which may be of any length, not looked at.
    }
    let all = unsafe { raw::bytes(source) };
    let last = engine().last_source;
    let end = last.end();
    if let Some(plan) = planned() {
        let own = all.get(plan.text_from..end.min(all.len()));
        return own.map(split::trim);
    }
    let same = last.string == source as usize
        && last.message_at == unsafe { raw::GetCurrentStatementStartTimestamp() };
    let mut from = if same { end.min(all.len()) } else { 0 };
    from += all[from..]
        .iter()
        .take_while(|b| **b == b';' || b.is_ascii_whitespace())
        .count();
    if from == 0 && sqlstate == SYNTAX_ERROR {
        return Some(split::trim(all));
    }
    Some(&all[split::statement_in(all, from, lexis::plain())])
}

/// The text of a statement inside a function that no hook has seen: it did not parse, or a name in
/// it is unknown. The server keeps the text of just those (`internalquery`); a function's own body,
/// which it keeps likewise, is no statement.
unsafe fn nested_unseen<'a>(internal: *const core::ffi::c_char) -> Option<&'a [u8]> {
    if internal.is_null() {
        return None;
    }
    let text = split::trim(unsafe { raw::bytes(internal) });
    let frame = engine().innermost()?;
    let creates = matches!(
        frame.command.as_slice(),
        b"CREATE FUNCTION" | b"CREATE PROCEDURE"
    );
    let body = creates || starts_like_body(text);
    // As far as it is neither redacted nor cut (between two characters).
    let kept = redact::kept_at_least(text).min(guc::statement_max_size());
    let seen = frame.numbers.depth > 0
        && match kept == text.len() {
            true => frame.text == text,
            false => kept > 4 && frame.text.starts_with(&text[..kept - 4]),
        };
    (!body && !seen).then_some(text)
}

/// Whether a text begins as the body of a PL/pgSQL function does, and no statement that a function can run. (Of a body
/// whose first variable is a cursor that can't be told.)
fn starts_like_body(text: &[u8]) -> bool {
    let word = |word: &[u8]| {
        text.get(..word.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(word))
    };
    let declares = word(b"declare") && !declares_cursor(text);
    word(b"begin") || declares || text.starts_with(b"<<") || text.starts_with(b"#")
}

/// The statement that was planned and not begun, in the message that is under way: it failed between
/// the two, as one that is refused does. It has its number.
fn planned() -> Option<Planned> {
    let engine = engine();
    let plan = engine.plan.filter(|_| engine.running.is_empty())?;
    let source = unsafe { pg_sys::debug_query_string } as usize;
    let message_at = unsafe { raw::GetCurrentStatementStartTimestamp() };
    ((plan.source, plan.message_at) == (source, message_at)).then_some(plan)
}

/// A frame for such a statement. Allocates nothing that was not set aside.
fn unseen_frame(text: &[u8], unparsed: bool) -> Id {
    let planned = planned().is_some();
    let engine = engine();
    let depth = engine.depth();
    let mut started_at = engine.error.at;
    let (statement_id, substatement_id);
    if depth == 0 {
        if planned {
            engine.plan = None;
        } else {
            engine.release_held();
            if !replication::is_under_way() {
                engine.statement_id += 1;
            }
        }
        (statement_id, substatement_id) = (engine.statement_id, 1);
        started_at = unsafe { raw::GetCurrentStatementStartTimestamp() };
    } else {
        (statement_id, substatement_id) = engine.number_nested();
    }
    let (command, classes) = if depth == 0 && text.is_empty() && functions::is_fast_path() {
        (functions::COMMAND, functions::CLASSES)
    } else if text.is_empty() && apply::is_worker() {
        (apply::COMMAND, apply::CLASSES)
    } else if replication::is_walsender() && command_of_first_keyword(text) == "UNKNOWN" {
        let (command, class) = replication::command_of(text);
        (command, Classes::of(class))
    } else {
        let command = command_of_first_keyword(text);
        (command.as_bytes(), classes_of_command(command))
    };
    let at_the_trail = engine.error.no_privilege && guard::is_named_in(text);
    let wanted = begin::wanted(depth, classes) || (at_the_trail && begin::possible(depth));
    let id = engine.take_aside(Aside::Failure);
    let in_aborted = unsafe { raw::IsAbortedTransactionBlockState() };
    let subxact = engine.subxact;
    let frame = engine.frame(id);
    frame.level = begin::level();
    frame.classes = classes;
    frame.captured = wanted;
    frame.audited_object = at_the_trail;
    frame.in_aborted = in_aborted;
    frame.command.extend_from_slice(command);
    frame.session.extend_from_slice(session::encoded());
    frame.numbers.started_at = started_at;
    frame.numbers.statement_id = statement_id;
    frame.numbers.substatement_id = substatement_id;
    frame.numbers.depth = depth;
    frame.subxact = subxact;
    let most = guc::statement_max_size();
    // Redacted it may be longer.
    let room = UNSEEN_TEXT_MAX.max(text.len().saturating_mul(2)).min(most);
    let _ = frame.text.try_reserve(room);
    let most = most.min(frame.text.capacity());
    take_text_as(frame, text, unparsed, most);
    id
}

/// What was kept of errors is thrown away: the error has been handled, or the client has it.
unsafe extern "C-unwind" fn flushed(_arg: *mut c_void) {
    unsafe { FLUSHED_REGISTERED = false };
    watch();
    if capture::follows() {
        with(|engine| engine.error_flushed());
    }
}
