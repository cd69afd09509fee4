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
