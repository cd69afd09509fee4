//! CONNECT, DISCONNECT, and AUTHENTICATE for a logon that failed.

use audit_core::codec::encode_session;
use audit_core::event::{Class, Classes, Session, sqlstate_text};
use audit_core::json::{Object, Short};
use audit_core::sql::redact;
use core::ffi::c_int;
use pgrx::pg_sys;

use super::engine::{Engine, engine, engine_as_it_is, with};
use super::{apply, capture, emit, error, guard_session, replication, settings};
use crate::pg::{connection, guc, raw, ring_file, session, slot};

/// The session has started: its attributes are read and CONNECT is recorded. Throws.
///
/// # Safety
/// Where catalogs can be read.
#[unsafe(link_section = "audit_session")]
pub unsafe fn connected() {
    unsafe {
        if apply::is_worker() {
            session::begin();
            session::learn();
            begun();
            return;
        }
        // Physical replication runs without a database.
        let replication = replication::is_walsender();
        if !session::has_client() || (pg_sys::MyDatabaseId == pg_sys::InvalidOid && !replication) {
            return;
        }
        session::begin();
        session::learn();
        begun();
        replication::listen();
        let session = Classes::of(Class::Session);
        let before = settings::level_before();
        if before.records(session, false) || guc::level().records(session, false) {
            if let Some(ring) = ring_file::ring() {
                ring.meet();
            }
            let mut details = Object::with_room(CONNECT_DETAILS);
            connect_details(&mut details);
            let started_at = pg_sys::MyStartTimestamp;
            emit::session_event(engine(), b"CONNECT", started_at, &details.finish());
        }
        settings::check(engine());
    }
}

/// Room for method, and version and cipher of TLS.
const CONNECT_DETAILS: usize = 256;

/// How the client was let in.
#[unsafe(link_section = "audit_session")]
fn connect_details(details: &mut Object) {
    if let Some(method) = connection::method() {
        details.text("method", method);
    }
    if let Some((version, cipher)) = connection::tls() {
        details.begin_object("tls");
        details.text("version", version).text("cipher", cipher);
        details.end_object();
    }
}

/// What a failed logon is put together in, made in the postmaster: its children inherit it.
struct Logon {
    session: Vec<u8>,
    shape: Vec<u8>,
    details: Object,
}

static mut LOGON: Option<Logon> = None;

/// Sets aside what a failed logon needs. A startup packet has 10,000 bytes at most.
///
/// # Safety
/// From `_PG_init` only.
pub unsafe fn install() {
    let mut logon = Logon {
        session: Vec::with_capacity(12 * 1024),
        shape: Vec::with_capacity(256),
        details: Object::new(),
    };
    logon.details.reserve(1024);
    unsafe { LOGON = Some(logon) };
}

/// The server turned a client away, or could not start its session. Runs while a FATAL is being
/// reported: throws nothing, and allocates no more than the text of an address.
pub fn logon_failed(sqlstate: u32, message: &[u8]) {
    let Some(request) = connection::request().filter(|_| session::has_client()) else {
        return;
    };
    if !guc::level().records(Classes::of(Class::Session), true) {
        return;
    }
    // SAFETY: one thread; the reference ends with this function, which nothing here calls again.
    let Some(logon) = (unsafe { (*(&raw mut LOGON)).as_mut() }) else {
        return;
    };
    encode_session(
        &Session {
            started_at: unsafe { pg_sys::MyStartTimestamp },
            pid: unsafe { pg_sys::MyProcPid } as u32,
            encoding: pg_sys::pg_enc::PG_SQL_ASCII as u8,
            user_name: Some(request.user),
            database_name: Some(request.database),
            client_addr: request.peer.address.as_deref().map(str::as_bytes),
            client_port: request.peer.port,
            application_name: Some(shown(request.application)),
            backend_type: Some(b"client backend"),
            ..Session::default()
        },
        &mut logon.session,
    );
    connect_details(&mut logon.details);
    logon.details.close();
    emit::logon_failed(
        &logon.session,
        &mut logon.shape,
        sqlstate,
        message,
        logon.details.bytes(),
    );
}

/// What a client said of itself, where nothing may be allocated.
fn shown(value: &[u8]) -> &[u8] {
    let assigns = value.contains(&b'=') || value.contains(&b':');
    match assigns && redact::may_hold_secret(value) {
        true => b"<REDACTED>",
        false => value,
    }
}

/// Watches for errors, changed settings and the session's end. Throws (FATAL: no slot left).
///
/// # Safety
/// Once per backend.
#[unsafe(link_section = "audit_session")]
pub unsafe fn begun() {
    error::watch();
    settings::begin();
    // After the abort of an open transaction (a before_shmem_exit callback), before the backend
    // gives its PGPROC back.
    unsafe { raw::on_shmem_exit(Some(disconnected), pg_sys::Datum::from(0)) };
    slot::claim();
    engine_as_it_is().serve(session::has_client() && capture::on_surely());
}

#[unsafe(link_section = "audit_session")]
unsafe extern "C-unwind" fn disconnected(code: c_int, _arg: pg_sys::Datum) {
    if !session::known() {
        return;
    }
    if !capture::on_quietly() {
        slot::release();
        return;
    }
    with(|engine| disconnect(engine, code));
    // Behind the last record of the session.
    slot::release();
}

#[unsafe(link_section = "audit_session")]
fn disconnect(engine: &mut Engine, code: c_int) {
    guard_session::close(engine, "end of session");
    engine.release_held();
    if !session::has_client() || !guc::level().records(Classes::of(Class::Session), false) {
        if engine.fates.has_pending() {
            emit::fate_event(engine);
        }
        return;
    }
    // Fits whatever the numbers: on a stack buffer, nothing is allocated. (Nor formatted: that is code all
    // over the library, which this session would meet for the first time.)
    let mut details = Short::new();
    details
        .add(b"{\"statements\": ")
        .number(engine.statement_id);
    details
        .add(b", \"events\": ")
        .number(engine.fates.last_event() + 1);
    details.add(b", \"reason\": \"");
    if code == 0 {
        details.add(b"client");
    } else {
        let sqlstate = sqlstate_text(engine.error.sqlstate);
        details.add(reason(&sqlstate).as_bytes());
        details.add(b"\", \"sqlstate\": \"").add(&sqlstate);
    }
    details.add(b"\"}");
    let now = unsafe { raw::GetCurrentTimestamp() };
    emit::session_event(engine, b"DISCONNECT", now, details.bytes());
}

/// Why the server ended a session, by the error it ended with.
fn reason(sqlstate: &[u8; 5]) -> &'static str {
    match sqlstate {
        // pg_terminate_backend and the server's stop say the same.
        b"57P01" => "terminated",
        b"57P02" => "crash of another process",
        b"57P04" => "database dropped",
        b"57P05" => "idle_session_timeout",
        b"25P03" => "idle_in_transaction_session_timeout",
        b"25P04" => "transaction_timeout",
        [b'0', b'8', ..] => "connection lost",
        _ => "error",
    }
}
