//! Transactions: what their end decides for the events before it.
//!
//! Callbacks of the commit run where an ERROR would be a PANIC: they call nothing that throws.

use audit_core::event::Fate;
use core::ffi::c_void;
use pgrx::pg_sys;

use super::engine::with;
use super::{capture, checks, guard_utility, session as sessions};
use crate::pg::{home, session, unlock};

/// Registers the callbacks; children of the postmaster inherit them.
///
/// # Safety
/// From `_PG_init` only.
pub unsafe fn install() {
    unsafe {
        pg_sys::RegisterXactCallback(Some(transaction), core::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(subtransaction), core::ptr::null_mut());
    }
}

unsafe extern "C-unwind" fn transaction(event: pg_sys::XactEvent::Type, _arg: *mut c_void) {
    use pg_sys::XactEvent::*;
    match event {
        XACT_EVENT_PRE_COMMIT => unsafe { before_commit() },
        XACT_EVENT_COMMIT => {
            home::committed();
            end(Fate::Committed);
        }
        XACT_EVENT_ABORT => {
            home::aborted();
            aborted();
            end(Fate::RolledBack);
        }
        XACT_EVENT_PREPARE => end(Fate::Prepared),
        _ => {}
    }
}

/// The first commit of a session is that of its start-up: role and database settings are loaded,
/// catalogs can still be read. Throws.
unsafe fn before_commit() {
    if !session::known() && capture::on() {
        unsafe { sessions::connected() };
    }
}

/// No end of a statement was seen: what was noted for its time is over.
fn aborted() {
    guard_utility::aborted();
    unlock::aborted();
}

fn end(fate: Fate) {
    if capture::on_quietly() && session::known() {
        with(|engine| engine.end_transaction(fate));
    }
}

unsafe extern "C-unwind" fn subtransaction(
    event: pg_sys::SubXactEvent::Type,
    id: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _arg: *mut c_void,
) {
    use pg_sys::SubXactEvent::*;
    if event == SUBXACT_EVENT_ABORT_SUB {
        aborted();
    }
    if !capture::on_quietly() {
        return;
    }
    // What ran in the subtransaction around shall not share its fate.
    with(|engine| {
        checks::flush(engine);
        match event {
            SUBXACT_EVENT_START_SUB => engine.fates.start_sub(id),
            SUBXACT_EVENT_COMMIT_SUB => engine.fates.commit_sub(id),
            SUBXACT_EVENT_ABORT_SUB => engine.abort_sub(id),
            _ => {}
        }
    });
}
