//! Replication commands of a walsender, recorded when they start (spec/capture.md, rule 1).
//!
//! No hook sees them: the server parses and runs them by itself. It does announce each to the log, if
//! `log_replication_commands` is on. So a walsender has it on for itself, and what the administrator
//! hasn't asked for is kept from the log. (With log_min_messages = fatal or panic the server doesn't
//! announce them.) A command that fails has a second event, under the same statement_id.

use audit_core::event::{Class, Classes, Fate};
use core::ffi::CStr;
use pgrx::pg_sys;

use super::engine::{engine, shield};
use super::{begin, capture, emit};
use crate::pg::{guc, raw, session};

static mut NEXT: pg_sys::emit_log_hook_type = None;

/// The message of the command under way: when it came. 0 for none yet.
static mut STARTED: i64 = 0;

const SETTING: &CStr = c"log_replication_commands";
const ANNOUNCEMENT: &[u8] = b"received replication command: %s";

/// # Safety
/// From `_PG_init` only.
pub unsafe fn install() {
    unsafe {
        NEXT = pg_sys::emit_log_hook;
        pg_sys::emit_log_hook = Some(emit_log);
    }
}

/// Whether this process serves a client of the replication protocol.
#[inline]
pub fn is_walsender() -> bool {
    unsafe { pg_sys::MyBackendType == pg_sys::BackendType::B_WAL_SENDER }
}

/// Has the server announce the commands of this walsender. Throws.
///
/// # Safety
/// In a transaction; also after each statement, as RESET ALL takes it back.
#[inline]
pub unsafe fn listen() {
    unsafe {
        if is_walsender() && !pg_sys::log_replication_commands {
            raw::SetConfigOption(
                SETTING.as_ptr(),
                c"on".as_ptr(),
                pg_sys::GucContext::PGC_SUSET,
                pg_sys::GucSource::PGC_S_SESSION,
            );
        }
    }
}

unsafe extern "C-unwind" fn emit_log(error: *mut pg_sys::ErrorData) {
    unsafe {
        if is_walsender()
            && !(*error).message_id.is_null()
            && raw::bytes((*error).message_id) == ANNOUNCEMENT
        {
            if session::known() && capture::on_quietly() {
                shield(started);
            }
            as_configured(error);
        }
        if let Some(next) = NEXT
            && (*error).output_to_server
        {
            next(error);
        }
    }
}

/// Makes the announcement what it would be without us: at DEBUG1, unless it was asked for.
unsafe fn as_configured(error: *mut pg_sys::ErrorData) {
    unsafe {
        if raw::bytes(raw::GetConfigOptionResetString(SETTING.as_ptr())) == b"on" {
            return;
        }
        let level = pg_sys::DEBUG1 as i32;
        (*error).elevel = level;
        (*error).output_to_server = pg_sys::log_min_messages <= level;
        (*error).output_to_client =
            (*error).output_to_client && pg_sys::client_min_messages <= level;
    }
}

/// A command starts: its event leaves at once. Allocates nothing once the pool is warm.
fn started() {
    // SAFETY: plain globals; the server has set debug_query_string to the command.
    let text = unsafe {
        STARTED = raw::GetCurrentStatementStartTimestamp();
        raw::bytes(pg_sys::debug_query_string)
    };
    let engine = engine();
    engine.release_held();
    engine.statement_id += 1;
    let statement_id = engine.statement_id;
    let (command, class) = command_of(text);
    let classes = Classes::of(class);
    if !guc::level().records(classes, false) {
        return;
    }
    let id = engine.take_frame();
    let frame = engine.frame(id);
    frame.level = guc::level();
    frame.classes = classes;
    frame.captured = true;
    frame.command.extend_from_slice(command);
    frame.session.extend_from_slice(session::encoded());
    frame.numbers.started_at = unsafe { STARTED };
    frame.numbers.statement_id = statement_id;
    frame.numbers.substatement_id = 1;
    begin::take_text_as(frame, text, false, guc::statement_max_size());
    emit::push(engine, id, Fate::Open, false);
    engine.give_back(id);
}

/// Whether the client's message is a replication command that has its first event. Never throws.
pub fn is_under_way() -> bool {
    is_walsender() && unsafe { STARTED == raw::GetCurrentStatementStartTimestamp() }
}

/// Command tag and class, by the first word. The server's tags are those words (walsender.c).
pub fn command_of(text: &[u8]) -> (&'static [u8], Class) {
    const COMMANDS: [(&[u8], Class); 10] = [
        (b"BASE_BACKUP", Class::Read),
        (b"START_REPLICATION", Class::Read),
        (b"CREATE_REPLICATION_SLOT", Class::Ddl),
        (b"ALTER_REPLICATION_SLOT", Class::Ddl),
        (b"DROP_REPLICATION_SLOT", Class::Ddl),
        (b"IDENTIFY_SYSTEM", Class::Misc),
        (b"READ_REPLICATION_SLOT", Class::Misc),
        (b"TIMELINE_HISTORY", Class::Misc),
        (b"UPLOAD_MANIFEST", Class::Misc),
        (b"SHOW", Class::Misc),
    ];
    let text = text.trim_ascii_start();
    let word = text
        .split(|b| !b.is_ascii_alphanumeric() && *b != b'_')
        .next()
        .unwrap_or_default();
    COMMANDS
        .into_iter()
        .find(|(command, _)| word.eq_ignore_ascii_case(command))
        .unwrap_or((b"UNKNOWN", Class::Misc))
}
