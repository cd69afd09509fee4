//! Whether the server has run without the library since the library last saw it stop: such a run leaves
//! no trace in the trail (spec/capture.md, rule 9).
//!
//! When the postmaster exits after a clean stop it notes the place of the last checkpoint, which is the
//! end of the WAL, in the ring's directory. If the next start with the library finds another place in
//! pg_control, somebody has written WAL in between. After a crash there is no note: then only a clean
//! stop of somebody else can be told.
//!
//! What was found waits in another file until the trail tells of it, whatever dies meanwhile.

use core::ffi::c_int;
use pgrx::pg_sys;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::ring_file::STOPPED_AT;
use super::{raw, ring_file};

/// What the trail doesn't tell of yet, in the same place: [`Stop`] as three numbers.
const UNTOLD: &str = "last_stop";

/// The last stop as this start finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum LastStop {
    /// The server stopped cleanly, and nothing was written since.
    Clean = 1,
    /// It crashed, or was killed.
    Crash = 2,
    /// It ran without the library since.
    Unwatched = 3,
}

/// What a server start finds, for the trail to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    pub last_stop: LastStop,
    /// WAL that was written without the library: its end when the library last saw it, 0 where unknown;
    /// and when it saw it again, 0 where there is none.
    pub from: u64,
    pub to: u64,
}

impl Stop {
    fn parse(text: &str) -> Option<Stop> {
        let mut numbers = text.split_whitespace().map(|number| number.parse().ok());
        let last_stop = match numbers.next()?? {
            1 => LastStop::Clean,
            2 => LastStop::Crash,
            3 => LastStop::Unwatched,
            _ => return None,
        };
        let (from, to) = (numbers.next()??, numbers.next()??);
        Some(Stop {
            last_stop,
            from,
            to,
        })
    }

    /// With WAL that an earlier start found, and that the trail was not told of.
    fn with_earlier(mut self, earlier: &Stop) -> Stop {
        if earlier.to != 0 {
            self.from = earlier.from;
            self.to = self.to.max(earlier.to);
        }
        self
    }
}

/// State and last checkpoint in pg_control: the head of ControlFileData (catalog/pg_control.h), the
/// same since 9.
fn control() -> Option<(u32, u64)> {
    let bytes = std::fs::read("global/pg_control").ok()?;
    let state = u32::from_ne_bytes(bytes.get(16..20)?.try_into().ok()?);
    let checkpoint = u64::from_ne_bytes(bytes.get(32..40)?.try_into().ok()?);
    Some((state, checkpoint))
}

fn is_shut_down(state: u32) -> bool {
    use pg_sys::DBState::{DB_SHUTDOWNED, DB_SHUTDOWNED_IN_RECOVERY};
    state == DB_SHUTDOWNED || state == DB_SHUTDOWNED_IN_RECOVERY
}

/// Looks at how the server last stopped, and makes sure that the next stop is noted. In the postmaster,
/// before it recovers; at a crash restart again, where nothing new is found. `new`: the ring's directory
/// has just been made.
pub fn startup(new: bool) {
    static FOUND: OnceLock<Option<Stop>> = OnceLock::new();
    static WRITTEN: AtomicBool = AtomicBool::new(false);
    let first = FOUND.get().is_none();
    let found = FOUND.get_or_init(|| find(new));
    // Where the disk was full the next restart tries again.
    if let Some(stop) = found
        && !WRITTEN.load(Ordering::Relaxed)
    {
        let text = format!("{} {} {}\n", stop.last_stop as u32, stop.from, stop.to);
        let written = ring_file::write_note(UNTOLD, &text).is_ok();
        WRITTEN.store(written, Ordering::Relaxed);
    }
    if first {
        // Only now, and only then: whoever starts after a death in between, or where the disk is full, finds
        // the same.
        if found.is_none() || WRITTEN.load(Ordering::Relaxed) {
            let _ = ring_file::remove_note(STOPPED_AT);
        }
        // SAFETY: in the postmaster; children forget its callbacks.
        unsafe { raw::on_proc_exit(Some(stopped), pg_sys::Datum::null()) };
    }
}

fn find(new: bool) -> Option<Stop> {
    let before = ring_file::read_note(STOPPED_AT).and_then(|text| text.trim().parse().ok());
    let (state, to) = control()?;
    let last_stop = match before {
        Some(from) if from == to && is_shut_down(state) => LastStop::Clean,
        Some(_) => LastStop::Unwatched,
        None if new => return None,
        None if is_shut_down(state) => LastStop::Unwatched,
        None => LastStop::Crash,
    };
    let (from, to) = match last_stop {
        LastStop::Unwatched => (before.unwrap_or(0), to),
        _ => (0, 0),
    };
    let stop = Stop {
        last_stop,
        from,
        to,
    };
    Some(untold().map_or(stop, |earlier| stop.with_earlier(&earlier)))
}

/// What the trail is to tell of; `None`: it has, or there is nothing.
pub fn untold() -> Option<Stop> {
    Stop::parse(&ring_file::read_note(UNTOLD)?)
}

/// The trail tells of it.
pub fn told() {
    if let Err(error) = ring_file::remove_note(UNTOLD) {
        pgrx::warning!("audit_ext cannot remove \"{UNTOLD}\" from the ring's directory: {error}");
    }
}

/// The postmaster exits, after all others. Doesn't throw.
unsafe extern "C-unwind" fn stopped(_code: c_int, _argument: pg_sys::Datum) {
    if let Some((state, checkpoint)) = control()
        && is_shut_down(state)
    {
        // The note says that the ring is as it was left (`ring_file::unused`).
        if ring_file::sync(None).is_ok() {
            let _ = ring_file::write_note(STOPPED_AT, &format!("{checkpoint}\n"));
        }
    }
}
