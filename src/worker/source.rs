//! Where records come from: the ring in use, or one that an earlier server run left behind.

use audit_core::ring::{Consumer, Corruption, Dropped, Found, Leftover, Read, Recovered, Ring};
use rustix::process::{Pid, test_kill_process};
use std::time::{Duration, Instant};

use super::store::Progress;

/// How long an unfinished record may stand before its producer is looked for.
const SUSPICIOUS: Duration = Duration::from_millis(100);
/// How long a process may keep an unfinished record that is no child of this server: somebody else
/// got the number of a dead backend.
const FOREIGN: Duration = Duration::from_secs(1);
/// How long a span may stand of which nobody has said how long it is, before those are asked who
/// could have reserved it. A producer leaves that state after two instructions.
const NAMELESS: Duration = Duration::from_secs(5);

/// The next piece of a source.
pub enum Step {
    /// A record; its payload was copied out.
    Record { start: u64, next: u64 },
    /// Bytes that hold no readable record.
    Gap { from: u64, to: u64, reason: String },
    /// Nothing more now.
    Empty,
    /// A producer is still writing the next record.
    Pending,
}

pub trait Source {
    fn next(&mut self, payload: &mut Vec<u8>) -> Step;
    /// Copies the payload of the record at a position that a record read so far refers to; `false`:
    /// it can't be read.
    fn look_up(&self, position: u64, payload: &mut Vec<u8>) -> bool;
    /// Drops that the trail doesn't tell of; they count as told from then on.
    fn take_dropped(&mut self) -> Option<Dropped>;
    /// What a batch ends at that holds all that was read so far.
    fn progress(&self) -> Progress;
    /// What was read so far is in the trail, and flushed.
    fn stored(&mut self);
    /// What was read since the last [`Source::stored`] isn't in the trail and is to be read again.
    fn rewind(&mut self);
}

/// The ring in use.
pub struct Live {
    ring: &'static Ring,
    consumer: Consumer<'static>,
    cursor: u64,
    told: u64,
    done: Progress,
    /// The unfinished record at the cursor, and since when it was seen.
    pending: Option<Hole>,
    /// Producers before that position are dead.
    dead_before: u64,
}

/// A span that a producer has reserved and not published.
struct Hole {
    at: u64,
    since: Instant,
    /// Who was in the middle of a push when it was first seen: pid and event number.
    suspects: Vec<(u32, u64)>,
}

impl Live {
    /// # Safety
    /// This process is the ring's only consumer.
    pub unsafe fn new(ring: &'static Ring, done: Progress, dead_before: u64) -> Live {
        Live {
            ring,
            consumer: unsafe { ring.consumer() },
            cursor: done.position,
            told: done.dropped,
            done,
            pending: None,
            dead_before,
        }
    }

    /// Gives back what no record from the drained position on can refer to. The last record of that
    /// may be cut in two: nobody reads it any more.
    fn release(&mut self) {
        let upto = self.done.position.saturating_sub(self.ring.reach());
        if upto > self.ring.tail() {
            // It can only be misplaced if somebody scribbled over the ring's header; the next read
            // then says so.
            let _ = self.consumer.release(upto);
        }
    }

    /// Whether there may be something to read.
    pub fn has_news(&self) -> bool {
        // SeqCst: pairs with what Shared::wake_worker speaks of, see run.rs.
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        self.ring.head() != self.cursor || self.ring.dropped_total() != self.told
    }

    /// The span that a producer has not finished: given up if that producer can't be alive.
    fn unfinished(&mut self, at: u64, pid: Option<u32>, next: Option<u64>) -> Step {
        let slots = self.ring.slots();
        if self.pending.as_ref().is_none_or(|hole| hole.at != at) {
            self.pending = Some(Hole {
                at,
                since: Instant::now(),
                suspects: slots.pushing(),
            });
        }
        let Some(hole) = &self.pending else {
            return Step::Pending;
        };
        let waited = hole.since.elapsed();
        let dead = at < self.dead_before
            || match pid {
                Some(pid) => waited > SUSPICIOUS && is_gone(pid, waited > FOREIGN),
                // Whoever was pushing then has come out of it since.
                None => {
                    waited > NAMELESS
                        && !slots
                            .pushing()
                            .iter()
                            .any(|now| hole.suspects.contains(now))
                }
            };
        if !dead {
            return Step::Pending;
        }
        let to = next.unwrap_or_else(|| self.consumer.resync(at, self.ring.head()));
        self.skip(at, to, "a process died while it wrote this record".into())
    }

    fn skip(&mut self, from: u64, to: u64, reason: String) -> Step {
        self.cursor = to;
        Step::Gap { from, to, reason }
    }

    fn corrupt(&mut self, at: u64, why: Corruption) -> Step {
        let to = match why {
            // Not a place in the ring at all: only what is between tail and head can be read.
            Corruption::Cursor { tail, head } => {
                if at < tail {
                    tail
                } else {
                    head
                }
            }
            _ => self.consumer.resync(at, self.ring.head()),
        };
        self.skip(at, to, why.to_string())
    }
}

impl Source for Live {
    fn next(&mut self, payload: &mut Vec<u8>) -> Step {
        match self.consumer.read(self.cursor, payload) {
            Read::Record { start, next, .. } => {
                self.cursor = next;
                Step::Record { start, next }
            }
            Read::Empty => Step::Empty,
            Read::Pending { at, pid, next, .. } => self.unfinished(at, pid, next),
            Read::Corrupt { at, why } => self.corrupt(at, why),
        }
    }

    fn look_up(&self, position: u64, payload: &mut Vec<u8>) -> bool {
        let found = self.consumer.read(position, payload);
        matches!(found, Read::Record { start, .. } if start == position)
    }

    fn take_dropped(&mut self) -> Option<Dropped> {
        let dropped = self.consumer.take_dropped(self.told)?;
        self.told = dropped.total;
        Some(dropped)
    }

    fn progress(&self) -> Progress {
        Progress {
            position: self.cursor,
            dropped: self.told,
            ..self.done
        }
    }

    fn stored(&mut self) {
        self.done = self.progress();
        self.ring.set_drained(self.done.position);
        self.release();
    }

    fn rewind(&mut self) {
        self.cursor = self.done.position;
        self.told = self.done.dropped;
    }
}

/// Whether a process can't be a backend that still writes. `or_foreign`: a process that is no child
/// of this server counts as gone, too.
fn is_gone(pid: u32, or_foreign: bool) -> bool {
    let Some(process) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return true;
    };
    if test_kill_process(process) == Err(rustix::io::Errno::SRCH) {
        return true;
    }
    or_foreign && parent_of(pid).is_some_and(|parent| Some(parent) != rustix::process::getppid())
}

/// The parent of a process, where the system has /proc.
fn parent_of(pid: u32) -> Option<Pid> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // "pid (command) state ppid …", and the command may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    Pid::from_raw(rest.split_whitespace().nth(1)?.parse().ok()?)
}

/// A ring that nobody writes to any more.
pub struct Left<'l> {
    ring: &'l Leftover<'l>,
    items: Recovered<'l>,
    cursor: u64,
    told: u64,
    done: Progress,
    /// The trail holds no position of this ring, nor does the ring itself: what was given back before
    /// is no gap.
    unknown: bool,
    /// `unknown` is still so while nothing of it was stored.
    began_unknown: bool,
}

impl<'l> Left<'l> {
    /// `known`: what the trail holds of this ring.
    pub fn new(ring: &'l Leftover<'l>, known: Option<Progress>) -> Left<'l> {
        let done = known.unwrap_or(Progress {
            ring_id: ring.id(),
            position: ring.drained(),
            dropped: 0,
        });
        let unknown = known.is_none() && done.position == 0;
        Left {
            ring,
            items: ring.recover(done.position),
            cursor: done.position,
            told: done.dropped,
            done,
            unknown,
            began_unknown: unknown,
        }
    }
}

impl Source for Left<'_> {
    fn next(&mut self, payload: &mut Vec<u8>) -> Step {
        loop {
            return match self.items.next() {
                None => Step::Empty,
                Some(Found::Gap { start, next }) => {
                    let first = core::mem::replace(&mut self.unknown, false);
                    self.cursor = next;
                    if first && start == 0 {
                        continue;
                    }
                    let reason = "not written, or lost with the operating system".into();
                    Step::Gap {
                        from: start,
                        to: next,
                        reason,
                    }
                }
                Some(Found::Record {
                    start,
                    next,
                    payload: found,
                    ..
                }) => {
                    self.unknown = false;
                    self.cursor = next;
                    payload.clear();
                    payload.extend_from_slice(found);
                    Step::Record { start, next }
                }
            };
        }
    }

    fn look_up(&self, position: u64, payload: &mut Vec<u8>) -> bool {
        payload.clear();
        let found = self.ring.payload_at(position);
        payload.extend_from_slice(found.unwrap_or_default());
        found.is_some()
    }

    fn take_dropped(&mut self) -> Option<Dropped> {
        let dropped = self.ring.dropped(self.told)?;
        self.told = dropped.total;
        Some(dropped)
    }

    fn progress(&self) -> Progress {
        Progress {
            position: self.cursor,
            dropped: self.told,
            ..self.done
        }
    }

    fn stored(&mut self) {
        self.done = self.progress();
    }

    fn rewind(&mut self) {
        let unknown = self.began_unknown && self.done.position == 0;
        self.items = self.ring.recover(self.done.position);
        self.cursor = self.done.position;
        self.told = self.done.dropped;
        self.unknown = unknown;
    }
}
