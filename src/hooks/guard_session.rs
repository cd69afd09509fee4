//! A session that has unlocked the trail: what opens and closes it, and the AUDIT events that tell
//! (UNLOCK, LOCK). `audit.unlock()` and `audit.lock()` themselves are in `api::guard`.

use pgrx::pg_sys::{self, NodeTag::*};

use super::engine::{Engine, with};
use super::{begin, capture, emit};
use crate::pg::{announce, unlock};

/// Lends the SQL functions what they record with.
pub fn install() {
    announce::install(event);
}

/// An AUDIT event of this session. Throws.
unsafe fn event(command: &'static str, details: announce::Details, tracked: bool) {
    if !capture::on() {
        return;
    }
    unsafe { begin::session() };
    with(|engine| {
        emit::audit_event(engine, command.as_bytes(), tracked, |frame| {
            details(&mut frame.details);
        });
    });
}

/// DISCARD ALL and RESET ALL close the trail: a pooler hands the session to the next client.
///
/// # Safety
/// `node` is a utility statement.
#[inline]
pub unsafe fn check(node: *mut pg_sys::Node) {
    if !unlock::is_open() {
        return;
    }
    let by = unsafe {
        match (*node).type_ {
            T_DiscardStmt
                if field!(node as DiscardStmt.target) == pg_sys::DiscardMode::DISCARD_ALL =>
            {
                "DISCARD ALL"
            }
            T_VariableSetStmt
                if field!(node as VariableSetStmt.kind)
                    == pg_sys::VariableSetKind::VAR_RESET_ALL =>
            {
                "RESET ALL"
            }
            _ => return,
        }
    };
    with(|engine| close(engine, by));
}

/// Closes the trail and records by what. Never throws.
pub fn close(engine: &mut Engine, by: &str) {
    if !unlock::is_open() {
        return;
    }
    unlock::close();
    emit::audit_event(engine, b"LOCK", false, |frame| {
        frame.details.text("by", by.as_bytes());
    });
}
