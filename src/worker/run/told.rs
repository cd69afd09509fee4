//! Own events that wait for the next batch, and what is done when they are in the trail: not before, or
//! whoever comes after a death in between would know nothing of what they tell.
//!
//! Where the death comes right after the commit, what was told is in the trail's last batch: the next
//! process looks there before it tells of anything again.

use super::*;
use crate::pg::witness::Stop;
use audit_core::calendar::{SECONDS_BEFORE_2000, rfc3339};
use std::path::{Path, PathBuf};

/// An own event that waits for the next batch.
pub(super) struct Queued {
    pub payload: Vec<u8>,
    /// audit.origin keeps a copy of it.
    pub landmark: bool,
    /// Of a session that died: what it holds may make the batch fail, which the worker's own doesn't. The first
    /// transaction id that was given out after its death.
    pub of_session: Option<u64>,
    pub told: Option<Told>,
}

impl Queued {
    pub fn new(payload: Vec<u8>) -> Queued {
        Queued {
            payload,
            landmark: false,
            of_session: None,
            told: None,
        }
    }
}

/// What an event tells that is to be told once.
pub(super) enum Told {
    /// How the server had stopped.
    LastStop,
    /// The key that signs from now on.
    Key,
    /// A file that should be a ring and is none.
    Unreadable(PathBuf),
}

impl Worker {
    /// How the server had stopped, where the trail doesn't tell of it yet. `ring`: the one in use, which
    /// each start of the server makes anew.
    pub(super) fn last_stop(&self, ring: &[u8]) -> Option<Stop> {
        let stop = witness::untold()?;
        if self.last_batch.tells_last_stop(ring) {
            witness::told();
            return None;
        }
        Some(stop)
    }

    /// A file that should be a ring and is none would be met again and again: a GAP of the next batch
    /// says so, and then it is kept under another name.
    pub fn set_aside(&mut self, path: &Path, reason: &str) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // With the time, as names are used again.
        let written = std::fs::symlink_metadata(path).and_then(|file| file.modified());
        let reason = format!(
            "the left-over ring \"{name}\"{} cannot be read: {reason}",
            written.map_or(String::new(), |at| {
                format!(" (last written {})", rfc3339(from_system_time(at)))
            })
        );
        if self.last_batch.tells_gap(&reason) {
            rename(path);
            return;
        }
        let gap = self.own.unreadable(&[], 0, 0, &reason).to_vec();
        self.queued.push(Queued {
            told: Some(Told::Unreadable(path.to_owned())),
            ..Queued::new(gap)
        });
        self.shared.gaps.fetch_add(1, Ordering::Relaxed);
    }

    /// What the last batch tells of. That it can't be read is no reason to stand still: something is told
    /// twice then. `None`: the worker has to end.
    pub(super) fn read_last_batch(&mut self) -> Option<trail::LastBatch> {
        self.insist(|_| match transaction(trail::LastBatch::read) {
            Err(failure) if failure.is_about_content() => {
                pgrx::warning!(
                    "audit_ext cannot read the last batch of the trail: {}",
                    failure.message
                );
                Ok(trail::LastBatch::default())
            }
            read => read,
        })
    }

    /// Nothing of what is queued can be stored, as somebody has scribbled over it: a GAP says so.
    pub(super) fn give_up_queued(&mut self) {
        let events = self.queued.len();
        self.queued.clear();
        let reason = format!("{events} events of sessions that had died cannot be read");
        let gap = self.own.unreadable(&[], 0, 0, &reason).to_vec();
        self.queue(gap);
        self.shared.gaps.fetch_add(1, Ordering::Relaxed);
    }

    /// All that was queued is in the trail.
    pub(super) fn all_told(&mut self) {
        for told in self.queued.drain(..).filter_map(|own| own.told) {
            match told {
                Told::LastStop => witness::told(),
                Told::Key => {
                    if let Some(publisher) = &mut self.publisher {
                        publisher.key_told();
                    }
                }
                Told::Unreadable(path) => rename(&path),
            }
        }
    }
}

fn rename(path: &Path) {
    let named = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    // Numbers of rings are used again.
    let name = std::iter::once(named(".unreadable"))
        .chain((2..1000).map(|number| named(&format!(".unreadable.{number}"))))
        .find(|name| name.symlink_metadata().is_err());
    let renamed = name.map_or(Ok(()), |name| std::fs::rename(path, name));
    if let Err(error) = renamed {
        pgrx::warning!(
            "audit_ext cannot rename the unreadable ring \"{}\": {error}",
            path.display()
        );
    }
}

fn from_system_time(at: std::time::SystemTime) -> Timestamp {
    let since_1970 = at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    since_1970.as_micros() as i64 - SECONDS_BEFORE_2000 * 1_000_000
}
