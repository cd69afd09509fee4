//! CONNECT and DISCONNECT.

use audit_core::event::{Class, Classes, sqlstate_text};
use core::ffi::c_int;
use pgrx::pg_sys;
use std::io::Write;

use super::engine::engine;
use super::{capture, emit, error};
use crate::pg::{guc, raw, session};

/// The session has started: its attributes are read and CONNECT is recorded. Throws.
///
/// # Safety
/// Where catalogs can be read.
pub unsafe fn connected() {
    unsafe {
        if pg_sys::MyBackendType != pg_sys::BackendType::B_BACKEND
            || pg_sys::MyDatabaseId == pg_sys::InvalidOid
        {
            return;
        }
        session::begin();
        session::learn();
        watch_exit();
        if guc::level().records(Classes::of(Class::Session), false) {
            emit::session_event(engine(), b"CONNECT", pg_sys::MyStartTimestamp, b"");
        }
    }
}

/// Watches for errors and for the session's end. Throws (FATAL: no slot left).
///
/// # Safety
/// Once per backend.
pub unsafe fn watch_exit() {
    unsafe {
        error::begin();
        // After the abort of an open transaction (a before_shmem_exit callback), before the
        // backend gives its PGPROC back.
        raw::on_shmem_exit(Some(disconnected), pg_sys::Datum::from(0));
    }
}

unsafe extern "C-unwind" fn disconnected(code: c_int, _arg: pg_sys::Datum) {
    if !capture::on_quietly() || !session::known() {
        return;
    }
    let engine = engine();
    engine.release_held();
    // SAFETY: a plain global.
    if unsafe { pg_sys::MyBackendType } != pg_sys::BackendType::B_BACKEND
        || !guc::level().records(Classes::of(Class::Session), false)
    {
        if engine.fates.has_pending() {
            emit::fate_event(engine);
        }
        return;
    }
    let mut details = [0u8; 160];
    let mut rest = &mut details[..];
    let room = rest.len();
    // Fits whatever the numbers: on a stack buffer, nothing is allocated.
    let _ = write!(
        rest,
        "{{\"statements\": {}, \"events\": {}, \"reason\": ",
        engine.statement_id,
        engine.fates.last_event() + 1
    );
    let _ = if code == 0 {
        write!(rest, "\"client\"}}")
    } else {
        let sqlstate = sqlstate_text(engine.error.sqlstate);
        write!(
            rest,
            "\"error\", \"sqlstate\": \"{}\"}}",
            core::str::from_utf8(&sqlstate).unwrap_or("")
        )
    };
    let len = room - rest.len();
    let now = unsafe { raw::GetCurrentTimestamp() };
    emit::session_event(engine, b"DISCONNECT", now, &details[..len]);
}
