//! Counting what was dropped, exactly, although any process may die in between.
//!
//! The count only grows and is never reset, so nothing can be lost or doubled: the trail holds up
//! to which count it has told (like a position), and a take is the difference. Times can't be
//! changed together with the count; they are brought over in steps that each may be the last one,
//! and so that a time is rather told twice than lost.

use super::layout::NO_FIRST;
use super::layout::sync::Ordering;
use super::{Consumer, Ring};

/// Drops that the trail does not tell of yet.
///
/// A drop that is being counted at this very moment may have its time in this take and its count
/// in the next one; the intervals of all takes together cover the times of all drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// How many. At least 1.
    pub count: u64,
    /// Time of the first and of the last one.
    pub first: i64,
    pub last: i64,
    /// All drops of this ring so far: `told` of the next take once these are in the trail.
    pub total: u64,
}

impl Dropped {
    /// The difference between `told` and `total`; a `told` beyond it (a stale file) is no drop.
    pub(super) fn between(told: u64, total: u64, first: i64, last: i64) -> Option<Dropped> {
        let count = total.checked_sub(told).filter(|count| *count > 0)?;
        Some(if first == NO_FIRST {
            // Its first time was in the take before this one.
            Dropped {
                count,
                first: last,
                last,
                total,
            }
        } else {
            Dropped {
                count,
                first,
                last: last.max(first), // a drop being counted brings its first time first
                total,
            }
        })
    }
}

impl Ring {
    /// Counts one event that was dropped at time `now`.
    pub fn count_drop(&self, now: i64) {
        let drops = &self.memory.shared().drops;
        // The times before the count: what is counted has its times. Relaxed, as the count's
        // Release orders them for whoever acquires the count.
        drops.first.fetch_min(now, Ordering::Relaxed);
        drops.last.fetch_max(now, Ordering::Relaxed);
        drops.count.fetch_add(1, Ordering::Release);
    }

    /// Drops since the ring was made.
    pub fn dropped_total(&self) -> u64 {
        // Relaxed: a snapshot of one number.
        self.memory.shared().drops.count.load(Ordering::Relaxed)
    }
}

impl Consumer<'_> {
    /// The drops beyond `told`, the total up to which the trail tells of this ring's drops (0 at
    /// first). To be stored in the trail together with the new [`Dropped::total`]; as long as that
    /// is not durable, taking again with the old `told` gives the same drops, and those since.
    pub fn take_dropped(&self, told: u64) -> Option<Dropped> {
        let drops = &self.ring.memory.shared().drops;
        let taken = &self.ring.memory.shared().taken;
        // Acquire: the times of all drops in the total are to be seen. It must come before the
        // swap of `first` for the same reason.
        let total = drops.count.load(Ordering::Acquire);
        let last = drops.last.load(Ordering::Relaxed);
        if total <= told {
            return None;
        }
        // Relaxed, here and below: `taken` is the consumer's alone, and an earlier consumer is
        // another process, or the same thread.
        if told >= taken.count.load(Ordering::Relaxed) {
            taken.first.store(NO_FIRST, Ordering::Relaxed); // the trail has it
        }
        // First, so that a first time which is moved now is not taken for one that was told.
        taken.count.store(total, Ordering::Relaxed);
        let first = self.move_first();
        Dropped::between(told, total, first, last)
    }

    /// Moves the first time from the producers' side to the consumer's, never losing it.
    fn move_first(&self) -> i64 {
        let drops = &self.ring.memory.shared().drops;
        let taken = &self.ring.memory.shared().taken;
        loop {
            let found = drops.first.load(Ordering::Relaxed);
            let first = found.min(taken.first.load(Ordering::Relaxed));
            taken.first.store(first, Ordering::Relaxed);
            // Only what was stored on our side is removed from theirs; an earlier time that came
            // in between goes another round. Release: not before that store.
            let moved = found == NO_FIRST
                || drops
                    .first
                    .compare_exchange(found, NO_FIRST, Ordering::Release, Ordering::Relaxed)
                    .is_ok();
            if moved {
                return first;
            }
        }
    }
}
