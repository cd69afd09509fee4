//! What CREATE EXTENSION's script asks of the library.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode, function_name, pg_extern, pg_sys};

use crate::pg::{home, ring_file, unlock};

/// Makes this database the home of the trail. Only for the script of CREATE EXTENSION: at any other
/// time it would move the trail behind its back.
#[pg_extern(sql = false)]
fn claim_home() {
    // SAFETY: plain globals; a function runs in a transaction.
    unsafe {
        let own = pg_sys::get_extension_oid(c"audit_ext".as_ptr(), true);
        if !(unlock::in_script() && pg_sys::CurrentExtensionObject == own) {
            ErrorReport::new(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "audit.claim_home() can only be called by CREATE EXTENSION audit_ext",
                function_name!(),
            )
            .set_hint("Run CREATE EXTENSION audit_ext in the database that shall hold the trail.")
            .report(PgLogLevel::ERROR);
        }
        if ring_file::ring().is_none() {
            ErrorReport::new(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "audit_ext has no ring, so that nothing could be recorded",
                function_name!(),
            )
            .set_detail("The server could not make the ring's file when it started; its log says why.")
            .set_hint("Set audit.ring_directory to a directory that the server may write to, and restart it.")
            .report(PgLogLevel::ERROR);
        }
        home::mark();
    }
}
