//! FUNCTION events: one for each function that a statement is about to call (the server asks for the
//! right to when it prepares the call, once per place in a plan and not per row), and the client's own
//! fast-path calls, which no other hook sees.
//!
//! As with pgaudit, functions of pg_catalog leave no event, unless the client calls one by itself; nor
//! do those of audit_ext, which its views call by the dozen. A procedure's CALL is its event.

use audit_core::event::{Class, Classes};
use core::hint::cold_path;
use pgrx::pg_sys;

use super::begin::{self, Text};
use super::capture;
use super::engine::{Engine, Id, engine, engine_as_it_is, with};
use super::frame::Frame;
use super::room;
use crate::pg::{asks, guc, names, raw};

/// The command of these events.
pub const COMMAND: &[u8] = b"EXECUTE";
pub const CLASSES: Classes = Classes::of(Class::Function);

const NO_TEXT: Text = Text {
    source: core::ptr::null(),
    location: -1,
    len: 0,
};

/// A parallel worker makes its copy of a query ready. (An ERROR meanwhile is its end.)
static mut COPY_STARTS: bool = false;

/// See [`COPY_STARTS`].
pub fn copy_starts(starts: bool) {
    // SAFETY of all uses: a backend is one thread.
    unsafe { COPY_STARTS = starts };
}

/// Whether a call, of a function that is about to run, leaves nothing, as far as a look tells. Never throws.
#[inline]
pub fn are_surely_left_out(function: pg_sys::Oid) -> bool {
    (is_built_in(function) && engine_as_it_is().runs_any()) || asks::for_nothing()
}

/// Whether it does. Never throws.
#[inline]
fn are_left_out(function: pg_sys::Oid) -> bool {
    let level = guc::level();
    level.is_none()
        || engine_as_it_is().runs_any() && (is_built_in(function) || !level.records(CLASSES, false))
}

#[inline]
fn is_built_in(function: pg_sys::Oid) -> bool {
    function.to_u32() < pg_sys::FirstNormalObjectId
}

/// A function is about to be called. Throws.
///
/// # Safety
/// From the object access hook; in a transaction that is not aborted.
pub unsafe fn called(function: pg_sys::Oid) {
    // The object access hook of an operator's function comes here too: nothing may be looked up.
    if are_left_out(function) || !capture::on_quietly() {
        return;
    }
    // Who leads has told of what the query itself calls.
    if unsafe { COPY_STARTS } {
        return;
    }
    unsafe {
        if engine().running.is_empty() && is_fast_path() && !engine().holds_fast_path() {
            fast_path(function);
        } else if !is_built_in(function) && guc::level().records(CLASSES, false) {
            nested(function);
        }
    }
}

/// Whether the client's message is a fast-path call. Never throws.
pub fn is_fast_path() -> bool {
    use pg_sys::BackendState::{STATE_DISABLED, STATE_FASTPATH};
    // SAFETY: plain globals; MyBEEntry is NULL or this backend's own entry in shared memory.
    unsafe {
        let Some(entry) = pg_sys::MyBEEntry.as_ref() else {
            return false;
        };
        // Without track_activities a message without a text of its own is all there is to go by.
        let untold = entry.st_state == STATE_DISABLED
            && pg_sys::debug_query_string.is_null()
            && engine().held().is_none();
        pg_sys::MyBackendType == pg_sys::BackendType::B_BACKEND
            && (entry.st_state == STATE_FASTPATH || untold)
    }
}

/// A function of a statement that runs: its event leaves at once. Throws.
unsafe fn nested(function: pg_sys::Oid) {
    let marker = 0u8;
    let address = &raw const marker as usize;
    unsafe {
        begin::session();
        names::learn_function(function);
        with(|engine| engine.enter(address));
        let Some(found) = names::function(function) else {
            return;
        };
        if found.internal || found.kind == "PROCEDURE" {
            return;
        }
        with(|engine| {
            // EXPLAIN without ANALYZE gets everything ready, and runs nothing.
            if engine.innermost().is_some_and(|frame| frame.explains_only) {
                return;
            }
            engine.commit_runs(true);
            let depth = engine.depth();
            if !begin::possible(depth.max(1)) {
                return;
            }
            let id = begin::statement(engine, NO_TEXT, CLASSES, true, address);
            let frame = engine.frame(id);
            frame.command.extend_from_slice(COMMAND);
            frame.object_type = found.kind;
            frame.object_name.extend_from_slice(&found.name);
            engine.pause(id);
            engine.succeed(id);
        });
    }
}

/// The client calls a function by its own message. The call has no hook at its end: it is held, as a
/// finished statement is, until its transaction ends or the next statement begins; what it runs is
/// nested in it, as in a commit. Throws.
unsafe fn fast_path(function: pg_sys::Oid) {
    let marker = 0u8;
    let address = &raw const marker as usize;
    unsafe {
        begin::session();
        with(|engine| engine.enter(address));
        let wanted = begin::wanted(0, CLASSES);
        if wanted {
            room::wait_for(|| false);
            names::learn_function(function);
        }
        with(|engine| {
            let id = begin::statement(engine, NO_TEXT, CLASSES, wanted, address);
            let frame = engine.frame(id);
            frame.fast_path = true;
            if wanted {
                frame.command.extend_from_slice(COMMAND);
                if let Some(found) = names::function(function) {
                    frame.object_type = found.kind;
                    frame.object_name.extend_from_slice(&found.name);
                }
                frame.protect();
            }
            engine.pause(id);
            engine.hold(id);
        });
    }
}

fn is_of_this_message(frame: &Frame) -> bool {
    frame.message_at == unsafe { raw::GetCurrentStatementStartTimestamp() }
}

impl Engine {
    /// Keeps a fast-path call until its transaction ends or another statement begins.
    pub fn hold(&mut self, id: Id) {
        self.release_held();
        self.held = Some(id);
    }

    /// Whether the held statement is the fast-path call that is being carried out.
    pub fn holds_fast_path(&mut self) -> bool {
        self.held()
            .is_some_and(|held| held.fast_path && is_of_this_message(held))
    }

    /// A new message begins: a fast-path call of an earlier one is over, in a block that goes on.
    #[cold]
    pub fn end_fast_path(&mut self) {
        if self
            .held()
            .is_some_and(|held| held.fast_path && !is_of_this_message(held))
        {
            self.committing = false;
            self.release_held();
        }
    }

    /// Takes the held statement; a fast-path call ends with that, `ended` if it ends just now.
    #[inline(always)]
    pub fn take_held(&mut self, ended: bool) -> Option<Id> {
        let id = self.held.take()?;
        if !self.frame(id).sent && !self.complete(id, ended) {
            cold_path();
            self.give_back(id);
            return None;
        }
        Some(id)
    }

    /// What a fast-path call knows only at its end; whether the statement, which has not failed, is recorded.
    #[inline]
    pub fn complete(&mut self, id: Id, ended: bool) -> bool {
        if self.frame(id).fast_path {
            self.complete_fast_path(id, ended);
        }
        self.frame(id).recorded(false)
    }

    #[cold]
    fn complete_fast_path(&mut self, id: Id, ended: bool) {
        let frame = self.frame(id);
        frame.numbers.transaction_id = unsafe { raw::GetTopFullTransactionIdIfAny() }.value;
        if ended {
            let now = unsafe { raw::GetCurrentTimestamp() };
            frame.numbers.duration = (now - frame.numbers.started_at).max(0);
        }
    }
}
