//! In-flight slots: what a session is doing right now, in the ring's file, so that it survives the
//! session however that ends.
//!
//! Behind the ring's bytes lie slots of [`SLOT_LEN`] bytes, one per session: who it is, its event
//! counter, its transaction, and up to [`ENTRIES`] statements that have begun and whose records are
//! not in the ring yet. An entry is written *before* its statement runs and emptied after its record
//! was pushed. What is found in the slot of a session that is dead becomes its last events
//! ([`Orphan::events`]).
//!
//! # Invariants
//!
//! * One process writes to a slot: the session that claimed it. Others read it only when that
//!   session is certainly dead, so all that a reader must expect is that the writer stopped between
//!   two stores. Hence: content first, then the word that makes it valid, each with a compiler fence
//!   and Release (a dead writer's stores are all visible; the order between them is what counts).
//! * A free slot is full of zeros behind its head. A session writes to as few of its pages as it can, as
//!   each is a page fault: what it has not written to is not emptied, either.
//! * Texts are sealed with a CRC-32C: after a loss of the operating system pages may be of any age. Nobody
//!   syncs slots then, so a slot may be older than what the trail holds of its session, or of a session
//!   before; what it says of a transaction is a fact of its time, and the trail's own events come first.
//! * Who is dead is not found out by process ids. The embedder calls [`Slots::orphan_all`] where
//!   nobody else can live (a crash restart); in a left-over file nobody lives anyway.
//!
//! Writing is plain stores and memcpy: no lock, no allocation, nothing that panics.

mod ending;
mod open;
mod read;
#[cfg(test)]
mod tests;

pub use ending::Known;
pub(crate) use ending::closing;
pub use read::{Open, Orphan, is_free};

use crate::crc;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Length of a slot: three pages.
pub const SLOT_LEN: usize = 12 * 1024;

/// Most slots of a file.
pub const MAX_SLOTS: u32 = 1 << 20;

/// Statements that a slot holds; those that begin while it is full are not protected.
pub const ENTRIES: usize = 8;

/// Bytes of an entry, its head included.
const ENTRY_LEN: usize = 1280;
const ENTRIES_AT: usize = 2048;

/// Bytes of an entry for names and text.
pub const ENTRY_ROOM: usize = ENTRY_LEN - entry::BYTES;

/// Longest encoded session that fits.
pub const SESSION_ROOM: usize = 624;
const SESSIONS_AT: [usize; 2] = [800, 800 + SESSION_ROOM];

/// Room for decisions that wait for an event to carry them.
pub const DECISIONS_ROOM: usize = crate::fate::MOST_BYTES;

/// Offsets in the head of a slot.
mod head {
    /// u32: process id of the session; 0: the slot is free.
    pub const OWNER: usize = 0;
    /// u32: [`super::LIVE`] or [`super::ORPHAN`] once the numbers are valid.
    pub const STATE: usize = 4;
    pub const STARTED_AT: usize = 8;
    /// u64: number of the event that is being pushed, 0 for none.
    pub const PUSHING: usize = 16;
    /// u64: number of the last event that was numbered.
    pub const LAST_EVENT: usize = 24;
    /// u64: first event of the open transaction that waits for its fate, 0 for none.
    pub const UNDECIDED_FROM: usize = 32;
    /// u64: full transaction id from just before the commit on, else 0.
    pub const XID: usize = 40;
    /// i64: start of the last event.
    pub const LAST_EVENT_AT: usize = 48;
    /// u64: number of the last top-level statement.
    pub const STATEMENT_ID: usize = 56;
    /// u32: 1 where the level asks for the end of the session.
    pub const WANTS_SESSION: usize = 64;
    /// u32: length of the current session section, with [`super::SECOND`] if it is the second.
    pub const SESSION: usize = 68;
    /// u32 each: CRC of the two session sections.
    pub const SESSION_CRC: usize = 72;
    /// u32: bytes of decisions.
    pub const DECISIONS_LEN: usize = 80;
    /// u32: which of the two commits is written next.
    pub const NEXT_COMMIT: usize = 84;
    /// u64: the first transaction id of the run of the server after the one that it died in, 0 while
    /// that isn't known.
    pub const HORIZON: usize = 88;
    /// Twice: u64 first event, u64 last event, u64 full transaction id (0: not valid).
    pub const COMMITS: [usize; 2] = [96, 120];
    /// u32: which entries were written to since the slot was free, a bit each.
    pub const WRITTEN: usize = 144;
    pub const DECISIONS: usize = 256;
}

/// Offsets in an entry.
mod entry {
    /// u32: [`super::OPEN`] or [`super::FINISHED`], 0 for an empty entry.
    pub const STATE: usize = 0;
    /// u32: CRC of [NUMBERS, CONTENT), combined with the session's identity.
    pub const CRC: usize = 4;
    /// i64 each, once it is finished; no part of a CRC.
    pub const DURATION: usize = 8;
    pub const ROWS: usize = 16;
    /// What differs from one time that a statement runs to the next.
    pub const NUMBERS: usize = 24;
    pub const STATEMENT_ID: usize = 24;
    pub const STARTED_AT: usize = 32;
    pub const SUBSTATEMENT_ID: usize = 40;
    pub const DEPTH: usize = 44;
    /// u32: CRC of [CONTENT, BYTES) and the bytes in use.
    pub const CONTENT_CRC: usize = 48;
    /// What stays the same.
    pub const CONTENT: usize = 52;
    /// u32: length of the full text where the entry holds less.
    pub const FULL_LENGTH: usize = 52;
    pub const QUERY_ID: usize = 56;
    /// u16 each.
    pub const CLASSES: usize = 64;
    pub const COMMAND_LEN: usize = 66;
    pub const TYPE_LEN: usize = 68;
    pub const OBJECT_LEN: usize = 70;
    pub const RELATIONS_LEN: usize = 72;
    pub const GID_LEN: usize = 74;
    pub const TEXT_LEN: usize = 76;
    pub const BYTES: usize = 80;
}

const LIVE: u32 = 1;
const ORPHAN: u32 = 2;
const SECOND: u32 = 1 << 31;
const OPEN: u32 = 1;
const FINISHED: u32 = 2;

// The pieces keep to their places.
const _: () = {
    assert!(ENTRIES_AT + ENTRIES * ENTRY_LEN == SLOT_LEN);
    assert!(head::DECISIONS + DECISIONS_ROOM <= SESSIONS_AT[0]);
    assert!(SESSIONS_AT[1] + SESSION_ROOM <= ENTRIES_AT);
    assert!(SLOT_LEN.is_multiple_of(4096) && ENTRY_LEN.is_multiple_of(8));
};

/// A statement that begins, as its entry keeps it. Texts are in the session's encoding.
#[derive(Clone, Copy, Debug, Default)]
pub struct Statement<'a> {
    pub statement_id: u64,
    pub substatement_id: u32,
    pub depth: u32,
    pub started_at: i64,
    pub query_id: i64,
    pub classes: u16,
    /// Length of the full text where `text` was cut already, else 0.
    pub full_length: u32,
    pub command: &'a [u8],
    pub object_type: &'a [u8],
    pub object_name: &'a [u8],
    /// Qualified names, each ended by NUL.
    pub relations: &'a [u8],
    pub gid: &'a [u8],
    /// Redacted.
    pub text: &'a [u8],
}

/// What tells one time that a statement runs from the next.
#[derive(Clone, Copy, Debug, Default)]
pub struct Begun {
    pub statement_id: u64,
    pub substatement_id: u32,
    pub depth: u32,
    pub started_at: i64,
}

/// The slots of a mapped ring file.
#[derive(Clone, Copy)]
pub struct Slots {
    base: *mut u8,
    count: u32,
}

/// One slot of a mapping.
#[derive(Clone, Copy)]
pub struct Slot {
    base: *mut u8,
}

// SAFETY: memory that processes share; access follows the rules above, which know no threads.
unsafe impl Send for Slots {}
// SAFETY: as above.
unsafe impl Sync for Slots {}

impl Slots {
    /// # Safety
    ///
    /// `base` is aligned to a page and points to `count * SLOT_LEN` bytes that can be read and
    /// written for as long as the result or a [`Slot`] of it lives.
    pub unsafe fn new(base: *mut u8, count: u32) -> Slots {
        Slots { base, count }
    }

    pub fn iter(self) -> impl Iterator<Item = Slot> {
        // SAFETY: within the mapping by the promise of `new`.
        (0..self.count as usize).map(move |i| Slot {
            base: unsafe { self.base.add(i * SLOT_LEN) },
        })
    }

    /// Takes a free slot for this process; `None` if there is none.
    #[unsafe(link_section = "audit_session")]
    pub fn claim(self, pid: u32, started_at: i64) -> Option<Slot> {
        // Spread by pid: neighbours are mostly taken by others that begin at the same time.
        let begin = pid as usize % (self.count.max(1) as usize);
        let (last, first) = (self.iter().skip(begin), self.iter().take(begin));
        let slot = last.chain(first).find(|slot| slot.try_claim(pid))?;
        slot.begin(started_at);
        Some(slot)
    }

    /// Says of all sessions that they are dead.
    ///
    /// For whoever knows that no other process uses the mapping.
    pub fn orphan_all(self) {
        for slot in self.iter() {
            if slot.word(head::OWNER).load(Ordering::Relaxed) == 0 {
                continue;
            }
            match slot.word(head::STATE).load(Ordering::Relaxed) {
                // It was killed before it had anything to lose, or after.
                0 => slot.release(),
                _ => slot.word(head::STATE).store(ORPHAN, Ordering::Relaxed),
            }
        }
    }

    /// The first transaction id that is given out after the sessions died that are dead now: an id
    /// from there on belongs to somebody else. (One that reached no disk is given out again.)
    pub fn set_horizon(self, xid: u64) {
        for slot in self.iter() {
            if slot.word(head::STATE).load(Ordering::Acquire) == ORPHAN {
                let horizon = slot.long(head::HORIZON);
                let _ = horizon.compare_exchange(0, xid, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }

    /// The slots of dead sessions, read.
    pub fn orphans(self) -> Vec<(Slot, Orphan)> {
        self.iter()
            .filter(|slot| slot.word(head::STATE).load(Ordering::Acquire) == ORPHAN)
            .filter_map(|slot| {
                // SAFETY: within the mapping; its writer is dead.
                let bytes = unsafe { core::slice::from_raw_parts(slot.base, SLOT_LEN) };
                Some((slot, Orphan::read(bytes)?))
            })
            .collect()
    }

    /// Who is between reserving and publishing a record: pid and event number of each.
    pub fn pushing(self) -> Vec<(u32, u64)> {
        self.iter()
            .filter(|slot| slot.word(head::STATE).load(Ordering::Acquire) == LIVE)
            .map(|slot| {
                let pushing = slot.long(head::PUSHING).load(Ordering::Relaxed);
                (slot.word(head::OWNER).load(Ordering::Relaxed), pushing)
            })
            .filter(|(_, event)| *event != 0)
            .collect()
    }
}

impl Slot {
    fn word(&self, at: usize) -> &AtomicU32 {
        // SAFETY: within the slot and aligned (constants), mapped by the promise of `Slots::new`.
        unsafe { &*self.base.add(at).cast::<AtomicU32>() }
    }

    fn long(&self, at: usize) -> &AtomicU64 {
        // SAFETY: as above.
        unsafe { &*self.base.add(at).cast::<AtomicU64>() }
    }

    /// Writes bytes of the slot's own.
    fn put(&self, at: usize, bytes: &[u8]) {
        debug_assert!(at + bytes.len() <= SLOT_LEN);
        // SAFETY: callers keep within their piece of the slot; the source is never in the mapping.
        unsafe {
            self.base
                .add(at)
                .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len())
        };
    }

    /// Without a look before: that would be a page fault more, as the page is mapped for reading first.
    fn try_claim(&self, pid: u32) -> bool {
        self.word(head::OWNER)
            .compare_exchange(0, pid, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    #[unsafe(link_section = "audit_session")]
    fn begin(&self, started_at: i64) {
        for at in [
            head::PUSHING,
            head::LAST_EVENT,
            head::UNDECIDED_FROM,
            head::XID,
            head::LAST_EVENT_AT,
            head::STATEMENT_ID,
            head::HORIZON,
        ] {
            self.long(at).store(0, Ordering::Relaxed);
        }
        for at in head::COMMITS {
            self.long(at + 16).store(0, Ordering::Relaxed);
        }
        for at in [
            head::WANTS_SESSION,
            head::SESSION,
            head::DECISIONS_LEN,
            head::WRITTEN,
        ] {
            self.word(at).store(0, Ordering::Relaxed);
        }
        self.long(head::STARTED_AT)
            .store(started_at as u64, Ordering::Relaxed);
        self.long(head::LAST_EVENT_AT)
            .store(started_at as u64, Ordering::Relaxed);
        self.word(head::STATE).store(LIVE, Ordering::Release);
    }

    /// Gives the slot back: the session has ended in order, or its end is in the trail.
    #[unsafe(link_section = "audit_session")]
    pub fn release(&self) {
        self.word(head::STATE).store(0, Ordering::Release);
        // No secret outlives its session here.
        self.empty(head::DECISIONS, ENTRIES_AT - head::DECISIONS);
        let written = self.word(head::WRITTEN).load(Ordering::Relaxed);
        for at in (0..ENTRIES).filter(|at| written >> at & 1 != 0) {
            self.empty(ENTRIES_AT + at * ENTRY_LEN, ENTRY_LEN);
        }
        self.word(head::OWNER).store(0, Ordering::Release);
    }

    fn empty(&self, at: usize, len: usize) {
        debug_assert!(at + len <= SLOT_LEN);
        // SAFETY: callers keep within the slot.
        unsafe { self.base.add(at).write_bytes(0, len) };
    }

    /// Keeps the session's attributes, encoded; at most [`SESSION_ROOM`] bytes.
    #[unsafe(link_section = "audit_session")]
    pub fn set_session(&self, encoded: &[u8]) {
        if encoded.len() > SESSION_ROOM {
            return;
        }
        let now = self.word(head::SESSION).load(Ordering::Relaxed);
        let (mark, at) = if now & SECOND == 0 {
            (SECOND, 1)
        } else {
            (0, 0)
        };
        self.put(SESSIONS_AT[at], encoded);
        self.word(head::SESSION_CRC + 4 * at)
            .store(crc::crc32c(encoded), Ordering::Relaxed);
        self.word(head::SESSION)
            .store(mark | encoded.len() as u32, Ordering::Release);
    }

    /// The statement has ended well; only its transaction's end is missing.
    #[inline]
    pub fn finish(&self, at: usize, duration: i64, rows: i64) {
        let base = ENTRIES_AT + (at % ENTRIES) * ENTRY_LEN;
        self.long(base + entry::DURATION)
            .store(duration as u64, Ordering::Relaxed);
        self.long(base + entry::ROWS)
            .store(rows as u64, Ordering::Relaxed);
        self.word(base + entry::STATE)
            .store(FINISHED, Ordering::Release);
    }

    /// The statement's record is in the ring, or nobody wants it.
    #[inline]
    pub fn close(&self, at: usize) {
        let base = ENTRIES_AT + (at % ENTRIES) * ENTRY_LEN;
        self.word(base + entry::STATE).store(0, Ordering::Release);
    }

    /// An event is about to be pushed.
    #[inline]
    pub fn begin_push(&self, event_no: u64, undecided_from: u64, at: i64) {
        self.long(head::UNDECIDED_FROM)
            .store(undecided_from, Ordering::Relaxed);
        self.long(head::LAST_EVENT_AT)
            .store(at as u64, Ordering::Relaxed);
        self.long(head::PUSHING).store(event_no, Ordering::Relaxed);
        self.long(head::LAST_EVENT)
            .store(event_no, Ordering::Release);
    }

    /// It was pushed, or counted as dropped.
    #[inline]
    pub fn end_push(&self) {
        self.long(head::PUSHING).store(0, Ordering::Release);
    }

    /// The transaction is about to commit as `xid`; 0: it has ended.
    #[inline]
    pub fn set_xid(&self, xid: u64) {
        self.long(head::XID).store(xid, Ordering::Release);
    }

    /// A transaction is about to commit whose events were sent ahead of it. Kept until the second
    /// one after it: by then what told its fate is on disk, too.
    pub fn add_commit(&self, first: u64, last: u64, xid: u64) {
        let next = self.word(head::NEXT_COMMIT).load(Ordering::Relaxed) & 1;
        let at = head::COMMITS[next as usize];
        self.long(at + 16).store(0, Ordering::Release);
        self.long(at).store(first, Ordering::Relaxed);
        self.long(at + 8).store(last, Ordering::Relaxed);
        self.long(at + 16).store(xid, Ordering::Release);
        self.word(head::NEXT_COMMIT)
            .store(next ^ 1, Ordering::Relaxed);
    }

    /// The last event that was numbered.
    pub fn last_event(&self) -> u64 {
        self.long(head::LAST_EVENT).load(Ordering::Relaxed)
    }

    /// First event that waits for its fate, 0 for none.
    #[inline]
    pub fn set_undecided(&self, undecided_from: u64) {
        self.long(head::UNDECIDED_FROM)
            .store(undecided_from, Ordering::Release);
    }

    /// The decisions that wait for an event to carry them, encoded. What is there already is
    /// written again with the same bytes, so that at no moment one is missing.
    pub fn set_decisions(&self, encoded: &[u8]) {
        let encoded = &encoded[..encoded.len().min(DECISIONS_ROOM)];
        self.put(head::DECISIONS, encoded);
        self.word(head::DECISIONS_LEN)
            .store(encoded.len() as u32, Ordering::Release);
    }
}

/// What an entry's CRC is combined with, so that it counts for one session only: after the operating
/// system's end its page may be older or newer than the head, and of whoever had the slot then.
fn owned(pid: u32, started_at: u64) -> u32 {
    pid ^ started_at as u32 ^ (started_at >> 32) as u32
}
