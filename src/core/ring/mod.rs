//! The shared ring: many backends push records, one worker drains them, through a mapped file.
//!
//! All state lives in the mapped memory, so that any process may die at any instant and the rest
//! goes on. No I/O happens here: whoever maps the file hands over an address and a length.
//!
//! # Protocol
//!
//! Positions are absolute: bytes since the ring was made, monotone, multiples of 8; a position's
//! place in the file is its remainder by the capacity. `head` is where the next record will be
//! reserved, `tail` is up to where the consumer gave the bytes back.
//!
//! A producer ([`Ring::try_push`])
//! 1. checks lengths and computes the CRC of the payload, all that could take long or fail;
//! 2. reserves by compare-and-swap on `head`; a record never straddles the end, so it may take a
//!    PAD before it;
//! 3. stores `PAD | length` where it needs one, then `RESERVED | length` into the record's word;
//! 4. copies header and payload;
//! 5. publishes with one release store of `COMMITTED | length`.
//!
//! Between 2 and 5 there are only plain stores and memcpy: no allocation, nothing that panics, no
//! callback, no check for interrupts. A process leaves that window only by being killed.
//!
//! The consumer ([`Consumer`]) walks from word to word with a cursor of its own, and gives bytes
//! back with [`Consumer::release`] when what it read is safe: it zeroes them, then moves `tail`.
//!
//! # Invariants
//!
//! * `tail <= head <= tail + capacity`; both only grow.
//! * All bytes of `[head, tail + capacity)` are zero. So a word that was reserved but not yet
//!   stored reads 0, and no stale payload (text chosen by a user) is taken for a word. In a full
//!   ring that range is empty: the word at `head` is then the oldest record's.
//! * The bytes of a reserved span are written by its producer alone until it is published, read by
//!   the consumer alone until it is released.
//! * A record is trusted when its position is its place and its CRC-32C is right. The CRC covers
//!   ring id, payload, position, length, pid and format, so no record of another ring, another lap
//!   or another place passes.
//!
//! # References
//!
//! A record may need an earlier one to be read: its payload names that position, and it was pushed
//! with [`Ring::try_push_referring`], which refuses a distance above [`Ring::reach`]. So whoever
//! drains lets the last `reach` bytes before its own position stand ([`Consumer::release`] up to
//! there, and no further): every record from that position on finds what it refers to, whoever
//! was killed meanwhile. How far it has come itself is kept in [`Ring::drained`].
//!
//! # Failures
//!
//! | what | how it shows | what the consumer does |
//! |---|---|---|
//! | producer killed after 3 | [`Read::Pending`] with `next`, mostly with `pid` | once that pid is dead: goes on at `next`, records a GAP |
//! | producer killed between 2 and 3 | [`Read::Pending`] without `next` | once sure that no live process is there (below): [`Consumer::resync`], GAP |
//! | producer stopped (SIGSTOP, scheduler) | the same | waits: it may go on any time |
//! | consumer killed | nothing | the next one starts at the position that the trail holds; [`Consumer::release`], as far before it as references reach, repeats the zeroing |
//! | bytes scribbled over | [`Read::Corrupt`] | [`Consumer::resync`], GAP |
//! | operating system lost: pages torn, `head` stale | the ring is left over | [`Leftover::recover`] looks at every place, trusts position and CRC alone |
//!
//! # Not guaranteed
//!
//! * To skip a span whose producer is *alive* is a mistake that the ring can't prevent: the
//!   producer would later write into bytes that others own. That costs records (found by their
//!   CRC, never delivered wrong). For a span without pid the embedder needs its own evidence: a
//!   counter per backend, incremented before and after each [`Ring::try_push`]. Once the hole was
//!   seen, note all counters; a backend whose counter was even then, has changed since, or that is
//!   dead does not own the hole (`over_hole` in `pgrx-tests/core/tests/ring_soak/child.rs`).
//! * A CRC is no signature. Whoever may write to the mapping can forge records.
//! * Order between producers is the order of their reservations, nothing else.
//! * The memory behind the mapping must stay there: truncating the file under a process is SIGBUS.
//! * The file is in the machine's own byte order and only for machines of that order.
//!
//! # How it is checked
//!
//! Unit tests here; `cfg(loom)` runs this very protocol code over a model of the memory through all
//! interleavings (`RUSTFLAGS="--cfg loom" cargo test -p audit_core --release --lib loom`);
//! property tests and a soak of processes being killed are in `pgrx-tests/core`.

// `loom` is set by hand for the model check; this package's manifest shares the workspace's lints,
// which know no such name.
#![allow(unexpected_cfgs)]
#![deny(clippy::undocumented_unsafe_blocks)]

mod ahead;
mod consume;
mod drops;
mod layout;
mod produce;
mod seal;

#[cfg(not(loom))]
mod attach;
#[cfg(not(loom))]
mod leftover;
#[cfg(not(loom))]
mod memory;
#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(loom)]
#[path = "model.rs"]
mod memory;

pub use ahead::{Ahead, PIECE};
pub use consume::{Consumer, Corruption, Misplaced, Read};
pub use drops::Dropped;
pub use layout::{HEADER_LEN, MAX_CAPACITY, MIN_CAPACITY, RECORD_HEADER_LEN, RING_FORMAT};
pub use produce::{Limit, PushError, Pushed};

#[cfg(not(loom))]
pub use attach::AttachError;
#[cfg(not(loom))]
pub use leftover::{Found, Head, Leftover, Recovered};

use core::ops::Range;
use layout::sync::{AtomicU32, AtomicU64, Ordering};
use memory::Memory;
use seal::Seal;

/// A ring that is mapped into this process: to push, and to look at.
///
/// Made by [`Ring::create`] or [`Ring::attach`]. Reading and giving back is [`Consumer`]'s.
pub struct Ring {
    memory: Memory,
    capacity: u64,
    /// In-flight slots behind the records.
    #[cfg_attr(loom, allow(dead_code))]
    slot_count: u32,
    id: [u8; 16],
    created_at: i64,
    seal: Seal,
}

impl Ring {
    fn new(memory: Memory, capacity: u64, slot_count: u32, id: [u8; 16], created_at: i64) -> Ring {
        Ring {
            memory,
            capacity,
            slot_count,
            id,
            created_at,
            seal: Seal::new(&id),
        }
    }

    /// Bytes for records.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// The ring's random id.
    pub fn id(&self) -> [u8; 16] {
        self.id
    }

    /// When the ring was made: what [`Ring::create`] was given.
    pub fn created_at(&self) -> i64 {
        self.created_at
    }

    /// A word for the embedder, 0 when the ring is made. The ring itself never looks at it.
    pub fn mark(&self) -> &AtomicU64 {
        &self.memory.shared().mark
    }

    /// How far before a record may lie what it refers to, in bytes.
    pub fn reach(&self) -> u64 {
        layout::reach(self.capacity)
    }

    /// Up to where the records were drained, as the embedder has said: not before the tail, whose bytes
    /// may stand a while longer for what refers to them.
    pub fn drained(&self) -> u64 {
        // Relaxed: a snapshot, no byte is touched because of it.
        let drained = self.memory.shared().drained.load(Ordering::Relaxed);
        let tail = self.tail();
        // What somebody scribbled there counts for nothing.
        if drained.is_multiple_of(layout::ALIGN) && drained <= self.head() {
            drained.max(tail)
        } else {
            tail
        }
    }

    /// Says that everything before `position` was drained.
    pub fn set_drained(&self, position: u64) {
        self.memory
            .shared()
            .drained
            .store(position, Ordering::Relaxed);
    }

    /// Bytes that wait to be drained.
    pub fn waiting(&self) -> u64 {
        // Drained first, as in `fill`.
        let drained = self.drained();
        self.head().saturating_sub(drained).min(self.capacity)
    }

    /// Position after the newest reservation.
    pub fn head(&self) -> u64 {
        // Relaxed: a snapshot; whoever follows it to a record synchronises on that record's word.
        self.memory.shared().head.load(Ordering::Relaxed)
    }

    /// Position up to which bytes were given back.
    pub fn tail(&self) -> u64 {
        // Relaxed: a snapshot, no byte is touched because of it.
        self.memory.shared().tail.load(Ordering::Relaxed)
    }

    /// Bytes reserved and not yet given back, at most the capacity.
    pub fn fill(&self) -> u64 {
        // Tail first: head read later is never before it, so that the difference can't be negative.
        let tail = self.tail();
        self.head().saturating_sub(tail).min(self.capacity)
    }

    /// Whether the ring is filled up to `limit`.
    pub fn is_filled_to(&self, limit: Limit) -> bool {
        self.fill() >= limit.of(self.capacity)
    }

    /// Where these positions lie among the bytes for records: one span, and another where they go
    /// on at the beginning (else an empty one). All of them where they are more than the ring holds.
    pub fn places(&self, positions: Range<u64>) -> [Range<u64>; 2] {
        let capacity = self.capacity;
        let len = positions.end.saturating_sub(positions.start);
        if len >= capacity {
            return [0..capacity, 0..0];
        }
        let from = positions.start % capacity;
        let end = from + len; // each below the capacity: no overflow
        [from..end.min(capacity), 0..end.saturating_sub(capacity)]
    }

    /// The reading side.
    ///
    /// # Safety
    ///
    /// At most one `Consumer` of a ring may be in use at a time, over all processes: `release`
    /// overwrites bytes that a second one might be copying.
    pub unsafe fn consumer(&self) -> Consumer<'_> {
        Consumer::new(self)
    }
}
