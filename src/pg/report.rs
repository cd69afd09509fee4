//! Errors and warnings with a HINT: those that the extension raises in a user's statement, and at server start.

use super::raw;
use core::ffi::c_char;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode, function_name};

/// The refusal of `audit.on_full = refuse`. Throws.
///
/// # Safety
/// Where a statement may fail: before it has begun.
#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn ring_full() {
    ErrorReport::new(
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES,
        "statement refused: the audit ring is full",
        function_name!(),
    )
    .set_detail("audit.on_full is \"refuse\", and the worker of the trail does not keep up.")
    .set_hint("SELECT * FROM audit.status tells why; retry when the ring has room again.")
    .report(PgLogLevel::ERROR);
}

/// Says that the ring is filling up. Throws as any report may.
///
/// # Safety
/// Where a statement may fail: before it has begun.
#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn ring_nearly_full(fill: u64, capacity: u64) {
    ErrorReport::new(
        PgSqlErrorCode::ERRCODE_WARNING,
        format!(
            "the audit ring is {} % full",
            fill.saturating_mul(100) / capacity.max(1)
        ),
        function_name!(),
    )
    .set_detail("The worker of the trail does not keep up; audit.on_full decides what becomes of statements that start now.")
    .set_hint("SELECT * FROM audit.status tells why.")
    .report(PgLogLevel::WARNING);
}

/// Says at server start why nothing is recorded; `ours`: the directory is no other server's. Throws as any report may.
pub fn no_ring(message: String, ours: bool) {
    let (code, hint) = if ours {
        (
            PgSqlErrorCode::ERRCODE_IO_ERROR,
            "Mend it and restart the server.",
        )
    } else {
        (
            PgSqlErrorCode::ERRCODE_OBJECT_IN_USE,
            "Give each server an audit.ring_directory of its own, and restart.",
        )
    };
    ErrorReport::new(code, message, function_name!())
        .set_hint(hint)
        .report(PgLogLevel::WARNING);
}

/// The refusal of `audit.on_max_size = refuse`. Throws.
///
/// # Safety
/// Where a statement may fail: before it has begun.
#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn trail_full() {
    ErrorReport::new(
        PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
        "statement refused: the audit trail has reached audit.max_size",
        function_name!(),
    )
    .set_detail("audit.on_max_size is \"refuse\"; superusers are let through.")
    .set_hint("Raise audit.max_size, set audit.retention, or set audit.on_max_size to drop_oldest, and reload.")
    .report(PgLogLevel::ERROR);
}

/// The refusal of a utility statement inside of so many others that the guard lost count. Throws.
///
/// # Safety
/// Where a statement may fail: before it has begun.
#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn too_deep() {
    ErrorReport::new(
        PgSqlErrorCode::ERRCODE_STATEMENT_TOO_COMPLEX,
        "utility statements are nested too deeply",
        function_name!(),
    )
    .set_hint("audit_ext guards its objects in 4096 at most.")
    .report(PgLogLevel::ERROR);
}

/// How somebody who may gets past the guard.
#[derive(Clone, Copy)]
#[repr(C)]
pub enum Way {
    Unlock,
    DropExtension,
    Admin,
    Preload,
}

/// SQLSTATE of what the guard refuses.
pub const GUARDED: PgSqlErrorCode = PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE;

/// The message of [`guarded`].
pub fn guarded_message(command: &[u8], what: &[u8]) -> String {
    format!(
        "{} of {} is refused: the audit trail is guarded",
        String::from_utf8_lossy(command),
        String::from_utf8_lossy(what)
    )
}

/// The refusal of the guard. Throws.
///
/// # Safety
/// Two C strings; where a statement may fail.
#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn guarded(command: *const c_char, what: *const c_char, way: Way) {
    let (command, what) = unsafe { (raw::bytes(command), raw::bytes(what)) };
    let hint = match way {
        Way::Unlock => {
            "A superuser opens the trail for a session with SELECT audit.unlock('reason') in its home; that is recorded, and so is all that follows."
        }
        Way::DropExtension => {
            "It is the home of the audit trail. There, as superuser: SELECT audit.unlock('reason'); DROP EXTENSION audit_ext; both are recorded."
        }
        Way::Admin => "A superuser, or a role that has ADMIN OPTION on it, may do this.",
        Way::Preload => {
            "The server was started without audit_ext in shared_preload_libraries: add it and restart."
        }
    };
    ErrorReport::new(GUARDED, guarded_message(command, what), function_name!())
        .set_detail(match way {
            Way::Admin => {
                "Members of this role can read the audit trail. The attempt is on record."
            }
            Way::Preload => "Nobody changes the trail, superusers included.",
            _ => "Nobody changes the trail, superusers included. The attempt is on record.",
        })
        .set_hint(hint)
        .report(PgLogLevel::ERROR);
}

/// The trigger function was called otherwise. Throws.
///
/// # Safety
/// Where a statement may fail.
#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn not_a_trigger() {
    ErrorReport::new(
        PgSqlErrorCode::ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
        "audit.guard() can only be called as a trigger",
        function_name!(),
    )
    .report(PgLogLevel::ERROR);
}

/// Ends the statement of a function of ours with an error; `hint` may be empty. Throws, always.
/// (pgrx's `ereport!` has no place for a HINT.)
pub fn refuse(code: PgSqlErrorCode, message: impl Into<String>, hint: &str) -> ! {
    let report = ErrorReport::new(code, message.into(), function_name!());
    let report = match hint {
        "" => report,
        hint => report.set_hint(hint),
    };
    report.report(PgLogLevel::ERROR);
    unreachable!("the report is an ERROR")
}
