//! Errors that the extension raises in a user's statement.

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
