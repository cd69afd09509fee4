//! What nearly each statement looks at, in three lines of the processor's cache: who asks for statements
//! ([`super::asks`]), what the executor's hooks call, and where variables and functions of the server are. The linker has
//! a table of these (GOT), too, but there what one statement needs lies in a dozen lines and a page of its own,
//! and the server drives each of them out before the next statement.
//!
//! Nothing here throws, but what the hooks call.

use core::ffi::{c_char, c_int};
use core::hint::black_box;
use pgrx::pg_sys;

use super::{asks, compat, raw};

pub type Start = unsafe extern "C-unwind" fn(*mut pg_sys::QueryDesc, c_int);
pub type Stop = unsafe extern "C-unwind" fn(*mut pg_sys::QueryDesc);

/// Of a variable or a function of the server: the type of its address; the address; what hands it out.
macro_rules! of {
    (type static $type:ty) => { *const $type };
    (type fn $result:ty) => { unsafe extern "C-unwind" fn() -> $result };
    (address static $name:ident $type:ty) => { &raw const pg_sys::$name };
    (address fn $name:ident $result:ty) => {{
        unsafe extern "C-unwind" {
            fn $name() -> $result;
        }
        $name
    }};
    (access static $name:ident $type:ty) => {
        /// The value of the server's variable.
        #[allow(non_snake_case)]
        #[inline(always)]
        pub fn $name() -> $type {
            // SAFETY: it is always there, can be copied, and is used by one thread.
            unsafe { *NEAR.$name }
        }
    };
    (access fn $name:ident $result:ty) => {
        /// The server's function, of those that never throw.
        ///
        /// # Safety
        /// As of an import.
        #[allow(non_snake_case)]
        #[inline(always)]
        pub unsafe fn $name() -> $result {
            unsafe { (NEAR.$name)() }
        }
    };
}

macro_rules! near {
    ($($kind:tt $name:ident: $type:ty;)*) => {
        /// Its first line is all that a statement needs which is left out.
        #[repr(C, align(64))]
        #[allow(non_snake_case)]
        pub struct Near {
            pub(super) asks: asks::Asks,
            // What was there before us, or the server's own.
            pub start: Start,
            pub run: compat::ExecutorRun,
            pub finish: Stop,
            pub end: Stop,
            $($name: of!(type $kind $type),)*
        }

        /// But for `asks` written to in `_PG_init` alone.
        #[unsafe(link_section = "audit_data")]
        pub static mut NEAR: Near = Near {
            asks: asks::Asks::FOR_NOTHING,
            start: raw::standard_ExecutorStart,
            run: raw::standard_ExecutorRun,
            finish: raw::standard_ExecutorFinish,
            end: raw::standard_ExecutorEnd,
            $($name: of!(address $kind $name $type),)*
        };

        /// Lets the compiler think that they could be others: addresses that it knows it takes from the linker's table.
        ///
        /// # Safety
        /// From `_PG_init` only.
        pub unsafe fn install() {
            unsafe { $(NEAR.$name = black_box(NEAR.$name);)* }
        }

        $(of!(access $kind $name $type);)*
    };
}

near! {
    static PG_exception_stack: *mut pg_sys::sigjmp_buf;
    fn GetUserId: pg_sys::Oid;
    static ActivePortal: pg_sys::Portal;
    static MyBackendType: pg_sys::BackendType::Type;
    static application_name: *mut c_char;
    static MyProcPid: c_int;
    fn GetSessionUserId: pg_sys::Oid;
    fn GetCurrentTimestamp: pg_sys::TimestampTz;
    fn GetCurrentStatementStartTimestamp: pg_sys::TimestampTz;
    fn GetTopFullTransactionIdIfAny: pg_sys::FullTransactionId;
}
