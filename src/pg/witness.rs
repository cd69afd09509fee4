//! Whether the server has run without the library since the library last saw it stop: such a run leaves
//! no trace in the trail (spec/capture.md, rule 9).
//!
//! When the postmaster exits after a clean stop it notes the place of the last checkpoint, which is the
//! end of the WAL, in the ring's directory. If the next start with the library finds another place in
//! pg_control, somebody has written WAL in between. After a crash there is no note: then only a clean
//! stop of somebody else can be told.

use core::ffi::c_int;
use pgrx::pg_sys;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{raw, ring_file};

/// The note, inside the ring's directory.
const NOTE: &str = "stopped_at";

/// The last stop as this start finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum LastStop {
    /// There was none: the library is new here.
    None = 0,
    /// The server stopped cleanly, and nothing was written since.
    Clean = 1,
    /// It crashed, or was killed.
    Crash = 2,
    /// It ran without the library since.
    Unwatched = 3,
}

impl LastStop {
    pub fn from_u32(value: u32) -> LastStop {
        match value {
            1 => LastStop::Clean,
            2 => LastStop::Crash,
            3 => LastStop::Unwatched,
            _ => LastStop::None,
        }
    }
}

/// What is found at a server start.
pub struct Found {
    pub last_stop: LastStop,
    /// The end of the WAL when the library last saw it, 0 where unknown, and now.
    pub from: u64,
    pub to: u64,
}

/// State and last checkpoint in pg_control: the head of ControlFileData (catalog/pg_control.h), the
/// same since 9.
fn control() -> Option<(u32, u64)> {
    let bytes = std::fs::read("global/pg_control").ok()?;
    let state = u32::from_ne_bytes(bytes.get(16..20)?.try_into().ok()?);
    let checkpoint = u64::from_ne_bytes(bytes.get(32..40)?.try_into().ok()?);
    Some((state, checkpoint))
}

fn note() -> PathBuf {
    ring_file::directory().join(NOTE)
}

fn is_shut_down(state: u32) -> bool {
    use pg_sys::DBState::{DB_SHUTDOWNED, DB_SHUTDOWNED_IN_RECOVERY};
    state == DB_SHUTDOWNED || state == DB_SHUTDOWNED_IN_RECOVERY
}

/// Looks at how the server last stopped, and makes sure that the next stop is noted. In the postmaster,
/// before it recovers; `None` at a crash restart. `new`: the ring's directory has just been made.
pub fn startup(new: bool) -> Option<Found> {
    static DONE: AtomicBool = AtomicBool::new(false);
    if DONE.swap(true, Ordering::Relaxed) {
        return None;
    }
    let before = std::fs::read_to_string(note());
    let before = before.ok().and_then(|text| text.trim().parse().ok());
    let _ = std::fs::remove_file(note());
    // SAFETY: in the postmaster; children forget its callbacks.
    unsafe { raw::on_proc_exit(Some(stopped), pg_sys::Datum::null()) };
    let (state, to) = control()?;
    let last_stop = match before {
        Some(from) if from == to && is_shut_down(state) => LastStop::Clean,
        Some(_) => LastStop::Unwatched,
        None if new => LastStop::None,
        None if is_shut_down(state) => LastStop::Unwatched,
        None => LastStop::Crash,
    };
    Some(Found {
        last_stop,
        from: before.unwrap_or(0),
        to,
    })
}

/// The postmaster exits, after all others. Doesn't throw.
unsafe extern "C-unwind" fn stopped(_code: c_int, _argument: pg_sys::Datum) {
    if let Some((state, checkpoint)) = control()
        && is_shut_down(state)
    {
        let _ = std::fs::write(note(), format!("{checkpoint}\n"));
    }
}
