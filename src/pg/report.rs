//! Errors that the extension raises in a user's statement.

use pgrx::{PgSqlErrorCode, ereport};

/// The refusal of `audit.on_full = refuse`. Throws.
///
/// # Safety
/// Where a statement may fail: before it has begun.
#[pgrx::pg_guard]
pub unsafe extern "C-unwind" fn ring_full() {
    ereport!(
        ERROR,
        PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES,
        "statement refused: the audit ring is full",
        "audit.on_full is \"refuse\": the trail's worker does not keep up. SELECT * FROM audit.status tells why; then retry."
    );
}
