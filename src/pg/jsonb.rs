//! jsonb's own parser, as the judge of what is valid.

use core::ffi::c_char;
use core::ptr::null_mut;
use pgrx::{IntoDatum, PgTryBuilder, direct_function_call, pg_sys};

/// Parses `text` as jsonb does. `Ok(true)` for an object, `Ok(false)` for another kind of value,
/// the parser's message for what is no JSON. Doesn't throw: the parser touches neither catalog nor
/// transaction, so its ERROR can be caught and dropped without a subtransaction.
pub fn is_object(text: *const c_char) -> Result<bool, String> {
    /// JB_FOBJECT in the header word of a jsonb's root container (utils/jsonb.h).
    const ROOT_IS_OBJECT: u32 = 0x2000_0000;
    // What is caught here is nobody's error (`hooks::error`).
    let watching = unsafe { core::ptr::replace(&raw mut pg_sys::error_context_stack, null_mut()) };
    // SAFETY: `text` is NUL-terminated; jsonb_in returns a plain varlena with a 4-byte header.
    let is_object = PgTryBuilder::new(|| unsafe {
        let parsed: Option<pg_sys::Datum> = direct_function_call(
            pg_sys::jsonb_in,
            &[core::ffi::CStr::from_ptr(text).into_datum()],
        );
        let Some(parsed) = parsed else {
            return Ok(false);
        };
        let root = parsed.cast_mut_ptr::<u8>().add(4).cast::<u32>().read();
        pg_sys::pfree(parsed.cast_mut_ptr());
        Ok(root & ROOT_IS_OBJECT != 0)
    })
    .catch_others(|error| {
        Err(match error {
            pg_sys::panic::CaughtError::PostgresError(report)
            | pg_sys::panic::CaughtError::ErrorReport(report)
            | pg_sys::panic::CaughtError::RustPanic {
                ereport: report, ..
            } => match report.detail() {
                Some(detail) => format!("{}: {}", report.message(), detail.trim_end_matches('.')),
                None => report.message().to_string(),
            },
        })
    })
    .execute();
    unsafe { pg_sys::error_context_stack = watching };
    is_object
}
