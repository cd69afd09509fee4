//! Which events of a session still wait for their transaction's fate, and who tells it.
//!
//! An event that is pushed before its transaction ends has an open fate. What decides it later, the
//! end of the transaction or the abort of a subtransaction, becomes a [`Decision`] over a range of
//! event numbers, carried by the session's next event (spec/delivery.md, "Fate"). Where ranges
//! overlap a rollback wins, so the order in which they are told doesn't matter.

use crate::codec::{DECISION_LEN, encode_decision};
use crate::event::{Decision, Fate};

/// Most decisions that wait for an event to carry them; more make an event of their own due.
pub const MOST_PENDING: usize = 32;

/// Length of the longest encoded list of decisions.
pub const MOST_BYTES: usize = MOST_PENDING * DECISION_LEN;

/// A subtransaction: its id, and the last event before it began.
#[derive(Clone, Copy, Debug)]
struct Sub {
    id: u32,
    last_before: u64,
}

/// The event counter of a session with its undecided events.
#[derive(Debug)]
#[repr(C)] // First what each transaction looks at.
pub struct FateTracker {
    last_event: u64,
    /// First event of the running transaction with an open fate; 0 if there is none.
    undecided_from: u64,
    subs: Vec<Sub>,
    /// The last subtransaction of the running transaction that began while nobody listened; 0: none did.
    unheard: u32,
    pending_len: usize,
    pending: [Decision; MOST_PENDING],
}

impl Default for FateTracker {
    fn default() -> Self {
        Self::new()
    }
}

impl FateTracker {
    /// A session without events. (`const`: a backend has one in a static, without a first use to
    /// look out for.)
    pub const fn new() -> Self {
        const NONE: Decision = Decision {
            first: 0,
            last: 0,
            fate: Fate::Open,
        };
        FateTracker {
            last_event: 0,
            undecided_from: 0,
            // Grows where a subtransaction starts, never where one aborts.
            subs: Vec::new(),
            unheard: 0,
            pending_len: 0,
            pending: [NONE; MOST_PENDING],
        }
    }

    /// The number of the session's last event, 0 before the first.
    pub fn last_event(&self) -> u64 {
        self.last_event
    }

    /// Numbers the next event. With `open`, its fate is told later.
    pub fn number_event(&mut self, open: bool) -> u64 {
        self.last_event += 1;
        if open && self.undecided_from == 0 {
            self.undecided_from = self.last_event;
        }
        self.last_event
    }

    /// Whether events of the running transaction wait for their fate.
    pub fn undecided(&self) -> bool {
        self.undecided_from != 0
    }

    /// Whether the end of the transaction, or of a subtransaction, would change nothing.
    #[inline]
    pub fn is_at_rest(&self) -> bool {
        self.undecided_from | self.subs.len() as u64 == 0
    }

    /// First event of the running transaction that waits for its fate, 0 if there is none.
    pub fn undecided_from(&self) -> u64 {
        self.undecided_from
    }

    /// Writes the decisions that wait to `out`, without forgetting them; returns the bytes used.
    pub fn write_pending(&self, out: &mut [u8; MOST_BYTES]) -> usize {
        let mut at = 0;
        for decision in &self.pending[..self.pending_len] {
            out[at..at + DECISION_LEN].copy_from_slice(&encode_decision(decision));
            at += DECISION_LEN;
        }
        at
    }

    /// Whether decisions wait for an event to carry them.
    #[inline]
    pub fn has_pending(&self) -> bool {
        self.pending_len > 0
    }

    /// Whether the next decision would find no room: an event that carries them is due.
    pub fn pending_full(&self) -> bool {
        self.pending_len == MOST_PENDING
    }

    /// A subtransaction begins.
    pub fn start_sub(&mut self, id: u32) {
        self.subs.push(Sub {
            id,
            last_before: self.last_event,
        });
    }

    /// A subtransaction is merged into its parent.
    pub fn commit_sub(&mut self, id: u32) {
        self.leave(id);
    }

    /// Forgets it and those inside it, which have higher ids and stand behind it: nesting may be deep.
    fn leave(&mut self, id: u32) {
        while self.subs.last().is_some_and(|sub| sub.id >= id) {
            self.subs.pop();
        }
    }

    /// A subtransaction begins while there is no trail, and none that waits for its fate. (The ids of those
    /// that begin later are higher.)
    #[inline]
    pub fn start_unheard(&mut self, id: u32) {
        self.unheard = id;
    }

    /// The transaction has ended, whether or not [`Self::end`] was told.
    #[inline]
    pub fn forget_unheard(&mut self) {
        self.unheard = 0;
    }

    /// A subtransaction is rolled back, with all inside it: if it began unheard, that is all that is undecided.
    pub fn abort_sub(&mut self, id: u32) {
        let known = self.subs.binary_search_by_key(&id, |sub| sub.id);
        let first = match known {
            Ok(at) => self.subs[at].last_before + 1,
            Err(_) if id <= self.unheard && self.undecided_from != 0 => self.undecided_from,
            Err(_) => return,
        };
        self.leave(id);
        self.tell(first, Fate::RolledBack);
    }

    /// The transaction ends: what is still undecided gets `fate`.
    pub fn end(&mut self, fate: Fate) {
        self.subs.clear();
        if self.undecided_from != 0 {
            self.tell(self.undecided_from, fate);
            self.undecided_from = 0;
        }
    }

    /// Notes a decision over `first..=last_event`. With no room left it is merged into the last one
    /// of the same fate; callers avoid that by looking at [`Self::pending_full`] first.
    #[inline(never)]
    fn tell(&mut self, first: u64, fate: Fate) {
        if first > self.last_event {
            return;
        }
        let last = self.last_event;
        if let Some(previous) = self.pending[..self.pending_len].last_mut()
            && previous.fate == fate
            && (first <= previous.first || self.pending_len == MOST_PENDING)
        {
            // The same subtransaction tree, from further out.
            *previous = Decision {
                first: first.min(previous.first),
                last,
                fate,
            };
            return;
        }
        if let Some(free) = self.pending.get_mut(self.pending_len) {
            *free = Decision { first, last, fate };
            self.pending_len += 1;
        }
    }

    /// Writes the pending decisions to `out` and forgets them; returns the bytes used.
    pub fn take_pending(&mut self, out: &mut [u8; MOST_BYTES]) -> usize {
        let used = self.write_pending(out);
        self.pending_len = 0;
        used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(tracker: &mut FateTracker) -> Vec<(u64, u64, Fate)> {
        let all = tracker.pending[..tracker.pending_len]
            .iter()
            .map(|d| (d.first, d.last, d.fate))
            .collect();
        tracker.take_pending(&mut [0; MOST_BYTES]);
        all
    }

    #[test]
    fn commit_decides_what_was_open() {
        let mut t = FateTracker::default();
        t.number_event(false);
        t.number_event(true);
        t.number_event(true);
        t.end(Fate::Committed);
        assert_eq!(taken(&mut t), [(2, 3, Fate::Committed)]);
        assert!(!t.undecided());
        t.end(Fate::Committed);
        assert_eq!(taken(&mut t), []);
    }

    #[test]
    fn savepoint_rollback_covers_only_what_came_after_it() {
        let mut t = FateTracker::default();
        t.number_event(true);
        t.start_sub(2);
        t.number_event(true);
        t.start_sub(3);
        t.number_event(true);
        t.abort_sub(3);
        assert_eq!(taken(&mut t), [(3, 3, Fate::RolledBack)]);
        t.number_event(true);
        t.abort_sub(2);
        assert_eq!(taken(&mut t), [(2, 4, Fate::RolledBack)]);
        t.end(Fate::Committed);
        assert_eq!(taken(&mut t), [(1, 4, Fate::Committed)]);
    }

    #[test]
    fn released_savepoint_follows_its_parent() {
        let mut t = FateTracker::default();
        t.start_sub(2);
        t.number_event(true);
        t.commit_sub(2);
        t.abort_sub(2);
        assert_eq!(taken(&mut t), []);
        t.end(Fate::RolledBack);
        assert_eq!(taken(&mut t), [(1, 1, Fate::RolledBack)]);
    }

    #[test]
    fn rollback_of_what_began_unheard_covers_all_since_somebody_listens() {
        let mut t = FateTracker::default();
        t.number_event(false);
        t.start_unheard(2);
        t.start_unheard(3);
        t.number_event(true);
        t.start_sub(4);
        t.number_event(true);
        t.abort_sub(4);
        assert_eq!(taken(&mut t), [(3, 3, Fate::RolledBack)]);
        t.abort_sub(3);
        assert_eq!(taken(&mut t), [(2, 3, Fate::RolledBack)]);
        t.end(Fate::Committed);
        assert_eq!(taken(&mut t), [(2, 3, Fate::Committed)]);
        // The ids begin anew.
        t.forget_unheard();
        t.number_event(true);
        t.start_sub(2);
        t.commit_sub(2);
        t.abort_sub(2);
        assert_eq!(taken(&mut t), []);
    }

    #[test]
    fn nested_rollbacks_merge_outwards() {
        let mut t = FateTracker::default();
        t.start_sub(2);
        t.start_sub(3);
        t.number_event(true);
        t.abort_sub(3);
        t.abort_sub(2);
        assert_eq!(taken(&mut t), [(1, 1, Fate::RolledBack)]);
    }

    #[test]
    fn encoded_decisions_can_be_read_back() {
        let mut t = FateTracker::default();
        t.number_event(true);
        t.end(Fate::Prepared);
        let mut out = [0; MOST_BYTES];
        assert_eq!(t.take_pending(&mut out), DECISION_LEN);
        assert!(!t.has_pending());
    }
}
