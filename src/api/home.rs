//! What CREATE EXTENSION's script asks of the library.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode, function_name, pg_extern, pg_sys};

use crate::pg::home;

/// Makes this database the home of the trail. Only for the script of CREATE EXTENSION: at any other
/// time it would move the trail behind its back.
#[pg_extern(sql = false)]
fn claim_home() {
    // SAFETY: a plain global; a function runs in a transaction.
    unsafe {
        if !pg_sys::creating_extension {
            ErrorReport::new(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "audit.claim_home() can only be called by CREATE EXTENSION audit_ext",
                function_name!(),
            )
            .set_hint("Run CREATE EXTENSION audit_ext in the database that shall hold the trail.")
            .report(PgLogLevel::ERROR);
        }
        home::mark();
    }
}
