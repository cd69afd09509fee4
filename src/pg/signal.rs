//! Signal handlers of background workers. Nothing here throws.

use core::ffi::c_int;
use rustix::process::Signal;

type Handler = unsafe extern "C-unwind" fn(c_int);

unsafe extern "C-unwind" {
    #[cfg(not(feature = "pg18"))]
    fn pqsignal(signal: c_int, handler: Option<Handler>) -> Option<Handler>;
    /// 18 keeps `pqsignal` for clients.
    #[cfg(feature = "pg18")]
    fn pqsignal_be(signal: c_int, handler: Option<Handler>);
}

unsafe fn set(signal: Signal, handler: Handler) {
    unsafe {
        #[cfg(not(feature = "pg18"))]
        pqsignal(signal.as_raw(), Some(handler));
        #[cfg(feature = "pg18")]
        pqsignal_be(signal.as_raw(), Some(handler));
    }
}

/// What SIGTERM does from now on.
///
/// # Safety
/// `handler` does only what a signal handler may.
pub unsafe fn on_terminate(handler: Handler) {
    unsafe { set(Signal::TERM, handler) };
}

/// SIGTERM ends the process at its next check for interrupts, as in a backend.
pub fn die_on_terminate() {
    unsafe { set(Signal::TERM, raw_die) };
}

/// SIGHUP sets `ConfigReloadPending`.
pub fn on_reload() {
    unsafe { set(Signal::HUP, raw_reload) };
}

// pgrx's wrappers around the handlers would run Rust code that isn't meant for signals.
unsafe extern "C-unwind" {
    #[link_name = "die"]
    fn raw_die(signal: c_int);
    #[link_name = "SignalHandlerForConfigReload"]
    fn raw_reload(signal: c_int);
}
