//! ExecutorRun and its hooks, whose arguments differ.

use pgrx::pg_sys;

/// `standard_ExecutorRun` and its hooks: 18 has no `execute_once`.
#[cfg(not(feature = "pg18"))]
pub type ExecutorRun =
    unsafe extern "C-unwind" fn(*mut pg_sys::QueryDesc, pg_sys::ScanDirection::Type, u64, bool);

/// As above.
#[cfg(feature = "pg18")]
pub type ExecutorRun =
    unsafe extern "C-unwind" fn(*mut pg_sys::QueryDesc, pg_sys::ScanDirection::Type, u64);

/// A hook of ExecutorRun; `$call!()` calls `$next` with its arguments. In a `$case`, the first that holds, the hook is `$other`, and nothing of it
/// has run.
#[macro_export]
#[cfg(not(feature = "pg18"))]
macro_rules! executor_run_fn {
    ($(#[$meta:meta])* $vis:vis $name:ident, $qd:ident, $call:ident => $body:block, $next:expr
     $(, if $case:expr => $other:expr)*) => {
        $(#[$meta])*
        $vis unsafe extern "C-unwind" fn $name(
            $qd: *mut pg_sys::QueryDesc,
            direction: pg_sys::ScanDirection::Type,
            count: u64,
            execute_once: bool,
        ) {
            macro_rules! $call {
                () => {
                    ($next)($qd, direction, count, execute_once)
                };
            }
            $(if $case {
                let other: $crate::pg::compat::ExecutorRun = $other;
                return unsafe { other($qd, direction, count, execute_once) };
            })*
            $body
        }
    };
}

/// As above.
#[macro_export]
#[cfg(feature = "pg18")]
macro_rules! executor_run_fn {
    ($(#[$meta:meta])* $vis:vis $name:ident, $qd:ident, $call:ident => $body:block, $next:expr
     $(, if $case:expr => $other:expr)*) => {
        $(#[$meta])*
        $vis unsafe extern "C-unwind" fn $name(
            $qd: *mut pg_sys::QueryDesc,
            direction: pg_sys::ScanDirection::Type,
            count: u64,
        ) {
            macro_rules! $call {
                () => {
                    ($next)($qd, direction, count)
                };
            }
            $(if $case {
                let other: $crate::pg::compat::ExecutorRun = $other;
                return unsafe { other($qd, direction, count) };
            })*
            $body
        }
    };
}
