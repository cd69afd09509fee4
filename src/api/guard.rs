//! audit.unlock() and audit.lock() (spec/integrity.md, point 1).

use audit_core::json::Object;
use pgrx::{PgSqlErrorCode, pg_extern, pg_sys};

use super::flush::flush;
use crate::pg::report::refuse;
use crate::pg::shared::{HOME_NONE, Shared, shared};
use crate::pg::{announce, raw, ring_file, unlock};

/// Opens the trail for this session: until audit.lock(), RESET ALL, DISCARD ALL or its end. Comes
/// back when the UNLOCK event is in the trail and on disk, and a checkpoint of it is in the server log. Not
/// transactional: a rollback doesn't close it.
#[pg_extern(sql = false)]
fn unlock(reason: Option<&str>) {
    let reason = required_reason(reason, "audit.unlock('what for')");
    require_superuser();
    // Before the look: should the trail be another by the end, it stays closed.
    let trail = shared().map_or(0, Shared::trail);
    require_home();
    let details = |details: &mut Object| {
        details.text("reason", reason.as_bytes());
    };
    // SAFETY: a function runs in a transaction.
    unsafe { announce::event("UNLOCK", &details, false) };
    let seq = flush();
    if let Err(why) = super::flush::publish(seq) {
        refuse(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!(
                "the audit trail stays locked, as no checkpoint of it could be published: {why}"
            ),
            "Mend what keeps the worker from signing, then call audit.unlock() again.",
        );
    }
    pgrx::log!(
        "audit_ext: the trail is unlocked for this session after event {seq}; reason: {reason}"
    );
    unlock::open(trail);
}

/// Closes the trail again.
#[pg_extern(sql = false)]
fn lock() {
    if !unlock::is_open() {
        return;
    }
    unlock::close();
    let details = |details: &mut Object| {
        details.text("by", b"audit.lock()");
    };
    // SAFETY: a function runs in a transaction.
    unsafe { announce::event("LOCK", &details, false) };
}

/// A reason that says something.
pub fn required_reason<'a>(reason: Option<&'a str>, example: &str) -> &'a str {
    let reason = reason.map(str::trim).unwrap_or_default();
    if reason.is_empty() {
        refuse(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "a reason is required",
            &format!("It is recorded; write SELECT {example}."),
        );
    }
    reason
}

/// Both the running user and the one that the session belongs to: a SECURITY DEFINER function of a
/// superuser must not open the trail for others.
fn require_superuser() {
    // SAFETY: reads the session's user ids and the catalog; guarded calls.
    let allowed =
        unsafe { pg_sys::superuser() && pg_sys::superuser_arg(pg_sys::GetSessionUserId()) };
    if !allowed {
        refuse(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            "only a superuser may unlock the audit trail",
            "Both the session's user and the current one must be superusers.",
        );
    }
}

/// Where the trail can't tell of it nothing is opened, changed or signed: in a copy of the home, say.
pub fn require_home() {
    let home = shared().map_or(HOME_NONE, Shared::home);
    // SAFETY: plain globals.
    let recording =
        unsafe { home == pg_sys::MyDatabaseId.to_u32() && !pg_sys::RecoveryInProgress() };
    if recording && ring_file::ring().is_some() {
        return;
    }
    // SAFETY: a function runs in a transaction; there may be no such database.
    let name = unsafe { pg_sys::get_database_name(pg_sys::Oid::from(home)) };
    let name = String::from_utf8_lossy(unsafe { raw::bytes(name) });
    let home = match &*name {
        "" => "SELECT home FROM audit.status".to_owned(),
        name => format!("database \"{name}\""),
    };
    refuse(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "this database is not the home of a trail that records",
        &format!(
            "Call it in the home ({home}), on the primary, with audit_ext in shared_preload_libraries."
        ),
    );
}
