//! Where everything lies: the header page, a record's header, the word.

/// The atomics of the machine, or loom's when the protocol is being model-checked.
pub(super) mod sync {
    #[cfg(not(loom))]
    pub use core::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
    #[cfg(loom)]
    pub use loom::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
}

use sync::{AtomicI64, AtomicU32, AtomicU64, Ordering};

/// Version of everything in this file, in the header and in each record.
pub const RING_FORMAT: u32 = 3;

/// Length of the header: one page, so that the data begins on a page.
pub const HEADER_LEN: usize = 4096;

/// Length of a record's header.
pub const RECORD_HEADER_LEN: usize = 24;

/// Smallest capacity. Below it the largest record (an eighth) would be too small to be useful.
pub const MIN_CAPACITY: u64 = 64 * 1024;

/// Largest capacity: keeps the largest record and the largest PAD within a word's 30 bits.
pub const MAX_CAPACITY: u64 = 1 << 32;

/// Places of records are multiples of it.
pub(super) const ALIGN: u64 = 8;

/// Longest payload for a capacity.
pub(super) const fn max_payload(capacity: u64) -> u64 {
    capacity / 8
}

/// How far before a record may lie what it refers to: a sixteenth of the capacity.
pub(super) const fn reach(capacity: u64) -> u64 {
    capacity / 16
}

/// Bytes that a record with a payload of `len` takes.
pub(super) const fn footprint(len: u32) -> u64 {
    RECORD_HEADER_LEN as u64 + (len as u64).next_multiple_of(ALIGN)
}

/// Bytes from `position` to the end of its lap: 8 at least, the capacity at most.
pub(super) const fn to_lap_end(position: u64, capacity: u64) -> u64 {
    capacity - (position & (capacity - 1))
}

/// What a record's word says: 2 bits of state, 30 bits of length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// Not yet stored, or zeroed.
    Empty,
    /// A producer is copying a payload of this length.
    Reserved(u32),
    /// A payload of this length is there.
    Committed(u32),
    /// Nothing for this many bytes, its word included, up to the end of the lap.
    Pad(u32),
    /// Length without a state: no producer stores that.
    Invalid,
}

const LENGTH_BITS: u32 = 30;
const LENGTH_MASK: u32 = (1 << LENGTH_BITS) - 1;

impl Word {
    /// The word's bits. Lengths are below 2^30 (proof at the end of the file).
    pub const fn pack(self) -> u32 {
        match self {
            Word::Empty | Word::Invalid => 0,
            Word::Reserved(len) => 1 << LENGTH_BITS | len & LENGTH_MASK,
            Word::Committed(len) => 2 << LENGTH_BITS | len & LENGTH_MASK,
            Word::Pad(len) => 3 << LENGTH_BITS | len & LENGTH_MASK,
        }
    }

    pub const fn unpack(bits: u32) -> Word {
        let len = bits & LENGTH_MASK;
        match bits >> LENGTH_BITS {
            0 if len == 0 => Word::Empty,
            0 => Word::Invalid,
            1 => Word::Reserved(len),
            2 => Word::Committed(len),
            _ => Word::Pad(len),
        }
    }
}

/// A record's header without its word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fields {
    /// CRC-32C over all that [`super::seal`] lists.
    pub crc: u32,
    /// The record's own position.
    pub position: u64,
    pub pid: u32,
    /// Format in the low half, check of the header alone in the high half.
    pub tag: u32,
}

/// A cache line of its own. 128 bytes: x86 prefetches lines in pairs, some ARM have lines of 128.
#[repr(C, align(128))]
pub(super) struct Line<T>(pub T);

impl<T> core::ops::Deref for Line<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// The changing part of the header, after the line of the constant part.
#[repr(C)]
pub(super) struct Shared {
    /// The embedder's.
    pub mark: Line<AtomicU64>,
    /// Written by producers.
    pub head: Line<AtomicU64>,
    /// Written by the consumer.
    pub tail: Line<AtomicU64>,
    /// Written by producers that had to drop.
    pub drops: Line<Drops>,
    /// Written by the consumer when it takes drops.
    pub taken: Line<Taken>,
    /// The embedder's: see [`super::Ring::drained`].
    pub drained: Line<AtomicU64>,
}

/// What producers count.
#[repr(C)]
pub(super) struct Drops {
    /// Drops since the ring was made; never reset.
    pub count: AtomicU64,
    /// Earliest time not yet taken, or [`NO_FIRST`].
    pub first: AtomicI64,
    /// Latest time ever, or [`NO_LAST`].
    pub last: AtomicI64,
}

/// What the consumer took last and may not yet have made durable.
#[repr(C)]
pub(super) struct Taken {
    /// [`Drops::count`] at that time.
    pub count: AtomicU64,
    /// Earliest time of these drops, or [`NO_FIRST`].
    pub first: AtomicI64,
}

pub(super) const NO_FIRST: i64 = i64::MAX;
pub(super) const NO_LAST: i64 = i64::MIN;

impl Shared {
    /// What a new ring has that is not zero.
    pub fn begin(&self) {
        // Relaxed: nobody else knows of this memory yet.
        self.drops.first.store(NO_FIRST, Ordering::Relaxed);
        self.drops.last.store(NO_LAST, Ordering::Relaxed);
        self.taken.first.store(NO_FIRST, Ordering::Relaxed);
    }
}

/// The first bytes of the file.
#[cfg(not(loom))]
pub(super) const MAGIC: [u8; 8] = *b"AUDITRNG";

/// The constant part as bytes: what is at which offset, and its CRC at the end.
///
/// ```text
/// 0 magic  8 u32 format  12 u32 header length  16 u64 capacity  24 id  40 i64 created_at
/// 48 u32 number of in-flight slots behind the records  52 u32 CRC
/// ```
#[cfg(not(loom))]
pub(super) const CONSTANT_LEN: usize = 56;

/// The header page as it lies in the file.
#[cfg(not(loom))]
#[repr(C, align(4096))]
pub(super) struct Header {
    pub constant: Line<[u8; CONSTANT_LEN]>,
    pub shared: Shared,
}

/// A record's header as it lies in the file. Atomics, because a reader may look at a header while
/// it is being written (`peek`); all but the word are only ever accessed relaxed.
#[cfg(not(loom))]
#[repr(C)]
pub(super) struct RecordHeader {
    pub word: AtomicU32,
    pub crc: AtomicU32,
    pub position: AtomicU64,
    pub pid: AtomicU32,
    pub tag: AtomicU32,
}

#[cfg(not(loom))]
pub(super) mod offsets {
    //! Offsets for those who read the file as bytes.
    use super::{Drops, Header, RecordHeader, Shared, Taken};
    use core::mem::offset_of;

    const SHARED: usize = offset_of!(Header, shared);
    pub const MARK: usize = SHARED + offset_of!(Shared, mark);
    pub const HEAD: usize = SHARED + offset_of!(Shared, head);
    pub const DROPS: usize = SHARED + offset_of!(Shared, drops);
    pub const DROPS_COUNT: usize = DROPS + offset_of!(Drops, count);
    pub const DROPS_FIRST: usize = DROPS + offset_of!(Drops, first);
    pub const DROPS_LAST: usize = DROPS + offset_of!(Drops, last);
    pub const TAKEN: usize = SHARED + offset_of!(Shared, taken);
    pub const TAKEN_COUNT: usize = TAKEN + offset_of!(Taken, count);
    pub const TAKEN_FIRST: usize = TAKEN + offset_of!(Taken, first);
    pub const DRAINED: usize = SHARED + offset_of!(Shared, drained);
    pub const CRC: usize = offset_of!(RecordHeader, crc);
    pub const POSITION: usize = offset_of!(RecordHeader, position);
    pub const PID: usize = offset_of!(RecordHeader, pid);
    pub const TAG: usize = offset_of!(RecordHeader, tag);
}

// The file's layout is what is written here, not what a compiler makes of it.
#[cfg(not(loom))]
const _: () = {
    use core::mem::{align_of, offset_of, size_of};
    assert!(size_of::<usize>() == 8, "positions are used as offsets");
    assert!(size_of::<Header>() == HEADER_LEN && align_of::<Header>() == HEADER_LEN);
    assert!(offset_of!(Header, constant) == 0 && offset_of!(Header, shared) == 128);
    assert!(offset_of!(Shared, mark) == 0);
    assert!(offset_of!(Shared, head) == 128);
    assert!(offset_of!(Shared, tail) == 256);
    assert!(offset_of!(Shared, drops) == 384);
    assert!(offset_of!(Shared, taken) == 512);
    assert!(offset_of!(Shared, drained) == 640);
    assert!(size_of::<Shared>() == 768);
    assert!(offset_of!(Drops, count) == 0);
    assert!(offset_of!(Drops, first) == 8);
    assert!(offset_of!(Drops, last) == 16);
    assert!(offset_of!(Taken, count) == 0 && offset_of!(Taken, first) == 8);
    assert!(size_of::<RecordHeader>() == RECORD_HEADER_LEN);
    assert!(align_of::<RecordHeader>() == ALIGN as usize);
    assert!(offset_of!(RecordHeader, word) == 0 && offset_of!(RecordHeader, crc) == 4);
    assert!(offset_of!(RecordHeader, position) == 8);
    assert!(offset_of!(RecordHeader, pid) == 16 && offset_of!(RecordHeader, tag) == 20);
};

// A word holds every length; a record with its PAD always fits into an empty ring.
const _: () = {
    assert!(footprint(max_payload(MAX_CAPACITY) as u32) <= LENGTH_MASK as u64);
    assert!(2 * footprint(max_payload(MIN_CAPACITY) as u32) <= MIN_CAPACITY);
    assert!(MIN_CAPACITY.is_power_of_two() && MAX_CAPACITY.is_power_of_two());
};
