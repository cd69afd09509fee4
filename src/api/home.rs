//! What CREATE EXTENSION does that SQL can't: marking this database as the home.

use crate::pg::home;
use crate::pg::shared::shared;
use pgrx::{PgSqlErrorCode, ereport, pg_extern, pg_sys};

/// Whether the server loaded the library at start.
#[pg_extern(sql = false)]
fn is_preloaded() -> bool {
    shared().is_some()
}

/// Makes this database the home when the transaction commits. Only for the extension's script.
#[pg_extern(sql = false)]
fn make_home() {
    if !unsafe { pg_sys::creating_extension } {
        ereport!(
            ERROR,
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "the home of the audit trail cannot be chosen by hand",
            "Run CREATE EXTENSION audit_ext in the database that is to hold the trail."
        );
    }
    // SAFETY: in the transaction of CREATE EXTENSION; guarded calls, so an ERROR unwinds.
    unsafe { home::mark() };
}
