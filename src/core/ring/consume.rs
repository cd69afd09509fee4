//! The reading side: walk from record to record, find the way after damage, give bytes back.

use super::Ring;
use super::layout::sync::Ordering;
use super::layout::{ALIGN, Fields, RING_FORMAT, Word, footprint, max_payload, to_lap_end};

/// The reading side of a ring, from [`Ring::consumer`].
///
/// It keeps no position: the cursor is the caller's, who keeps it in the trail.
pub struct Consumer<'r> {
    pub(super) ring: &'r Ring,
}

/// What is at a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// A record; its payload was copied. `start` is its position, `next` the cursor after it.
    Record { start: u64, next: u64, pid: u32 },
    /// Everything reserved was read.
    Empty,
    /// Reserved at position `at`, not yet published.
    Pending {
        at: u64,
        /// Length of the payload; `None` if the producer has not come to tell it.
        len: Option<u32>,
        /// Who reserved it; `None` if the producer has not come to tell it.
        pid: Option<u32>,
        /// Where to go on if that producer is dead; known with `len`.
        next: Option<u64>,
    },
    /// No producer leaves this at `at`: see [`Consumer::resync`].
    Corrupt { at: u64, why: Corruption },
}

/// What is wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corruption {
    /// The cursor is no position of a record, or outside of `tail..=head`.
    Cursor { tail: u64, head: u64 },
    /// A word that no producer stores: a length without a state.
    Word,
    /// A length that no record or PAD can have there.
    Length(u32),
    /// Written in a format that this version does not know.
    Format(u32),
    /// The record says that it belongs to another position.
    Position(u64),
    /// The check of the header is wrong.
    Header,
    /// The CRC is wrong.
    Checksum,
}

impl std::fmt::Display for Corruption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Corruption::Cursor { tail, head } => {
                write!(f, "not a position of {tail}..={head}")
            }
            Corruption::Word => f.write_str("a word that is none"),
            Corruption::Length(len) => write!(f, "impossible length {len}"),
            Corruption::Format(format) => write!(f, "unknown record format {format}"),
            Corruption::Position(position) => write!(f, "a record of position {position}"),
            Corruption::Header => f.write_str("the header's check is wrong"),
            Corruption::Checksum => f.write_str("the CRC is wrong"),
        }
    }
}

/// [`Consumer::release`] was asked for a position that it can't release up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Misplaced {
    pub upto: u64,
    pub tail: u64,
    pub head: u64,
}

impl std::fmt::Display for Misplaced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Misplaced { upto, tail, head } = self;
        write!(
            f,
            "cannot release up to {upto}: not a position of {tail}..={head}"
        )
    }
}

impl std::error::Error for Misplaced {}

/// Whether a record with this payload, beginning at `position`, keeps to its lap and to the
/// longest length.
pub(super) fn fits(position: u64, len: u32, capacity: u64) -> bool {
    u64::from(len) <= max_payload(capacity) && footprint(len) <= to_lap_end(position, capacity)
}

/// A PAD goes exactly to the end of its lap, and is shorter than a record that did not fit there.
pub(super) fn is_pad(position: u64, len: u32, capacity: u64) -> bool {
    u64::from(len) == to_lap_end(position, capacity)
        && u64::from(len) < footprint(max_payload(capacity) as u32)
}

impl<'r> Consumer<'r> {
    pub(super) fn new(ring: &'r Ring) -> Self {
        Consumer { ring }
    }

    /// Looks at `cursor`; a record's payload is copied to `out` (overwritten in any case).
    ///
    /// Total: whatever the mapping holds gives one of the answers. The payload is checked after it
    /// was copied, so what is delivered is what was checked.
    pub fn read(&self, cursor: u64, out: &mut Vec<u8>) -> Read {
        let memory = &self.ring.memory;
        // Acquire, here and below: pairs with the producer's Release, so that the PAD or the record
        // is complete, and our zeroing it later comes after its writing.
        let word = memory.load_word(cursor, Ordering::Acquire);
        // Head after the word: if the word is a newer record's, this head is beyond that record.
        let head = self.ring.head();
        let tail = self.ring.tail();
        if !cursor.is_multiple_of(ALIGN) || cursor < tail || cursor > head {
            let why = Corruption::Cursor { tail, head };
            return Read::Corrupt { at: cursor, why };
        }
        if cursor == head {
            // Whatever the word is: in a ring full to the last byte it is the oldest record's.
            return Read::Empty;
        }
        match word {
            Word::Pad(len) if is_pad(cursor, len, self.ring.capacity) => {
                // Behind a PAD there is always a record: both are reserved at once. Its word may
                // be stored after `head` was read; head itself was moved before.
                let at = cursor.wrapping_add(u64::from(len));
                let word = memory.load_word(at, Ordering::Acquire);
                self.read_record(at, word, head, out)
            }
            word => self.read_record(cursor, word, head, out),
        }
    }

    fn read_record(&self, at: u64, word: Word, head: u64, out: &mut Vec<u8>) -> Read {
        let corrupt = |why| Read::Corrupt { at, why };
        let (Word::Reserved(len) | Word::Committed(len)) = word else {
            return match word {
                Word::Empty => Read::Pending {
                    at,
                    len: None,
                    pid: None,
                    next: None,
                },
                Word::Pad(len) => corrupt(Corruption::Length(len)),
                _ => corrupt(Corruption::Word),
            };
        };
        let next = at.wrapping_add(footprint(len));
        if !fits(at, len, self.ring.capacity) || next > head {
            return corrupt(Corruption::Length(len));
        }
        if word == Word::Reserved(len) {
            return self.pending(at, len, next);
        }
        // SAFETY: published (Acquire), within its lap (`fits`).
        let fields = unsafe { self.ring.memory.fields(at) };
        if let Err(why) = self.check_header(&fields, at, len) {
            return corrupt(why);
        }
        // SAFETY: as above.
        unsafe { self.ring.memory.copy_payload(at, len, out) };
        if !self.ring.seal.payload_is_right(&fields, out) {
            return corrupt(Corruption::Checksum);
        }
        Read::Record {
            start: at,
            next,
            pid: fields.pid,
        }
    }

    fn pending(&self, at: u64, len: u32, next: u64) -> Read {
        // SAFETY: within its lap (`fits`).
        let pid = unsafe { self.ring.memory.peek_fields(at) }.pid;
        Read::Pending {
            at,
            len: Some(len),
            pid: (pid != 0).then_some(pid),
            next: Some(next),
        }
    }

    /// The reason is only for the message; the tag alone would do.
    fn check_header(&self, fields: &Fields, at: u64, len: u32) -> Result<(), Corruption> {
        if self.ring.seal.header_is_right(fields, at, len) {
            Ok(())
        } else if fields.position != at {
            Err(Corruption::Position(fields.position))
        } else if fields.tag & 0xffff != RING_FORMAT {
            Err(Corruption::Format(fields.tag & 0xffff))
        } else {
            Err(Corruption::Header)
        }
    }

    /// The next place from `cursor` (the `at` that was read there) on where reading can go on, at
    /// most `limit` (a [`Ring::head`]).
    ///
    /// Meant for [`Read::Corrupt`], and for [`Read::Pending`] without `next` whose producer is
    /// surely dead. Both after a while of waiting: a live producer may be a few instructions
    /// before making its own record recognisable.
    ///
    /// Bytes that are all zero were reserved and never touched, so the first word behind them is
    /// a word. Else this is garbage, and the next place is a record whose header is right and
    /// which either is published with a right CRC or is still being copied.
    pub fn resync(&self, cursor: u64, limit: u64) -> u64 {
        let capacity = self.ring.capacity;
        let limit = limit.min(cursor.saturating_add(capacity));
        let mut scratch = Vec::new();
        let mut untouched = true;
        let mut at = cursor.saturating_add(ALIGN - 1) & !(ALIGN - 1);
        while at < limit {
            let word = self.ring.memory.load_word(at, Ordering::Acquire);
            if untouched && word != Word::Empty {
                if at > cursor {
                    return at;
                }
                untouched = false;
            }
            if self.is_trustworthy(at, word, limit, &mut scratch) {
                return at;
            }
            at = at.saturating_add(ALIGN);
        }
        limit.max(cursor)
    }

    fn is_trustworthy(&self, at: u64, word: Word, limit: u64, scratch: &mut Vec<u8>) -> bool {
        let (Word::Reserved(len) | Word::Committed(len)) = word else {
            return false;
        };
        if !fits(at, len, self.ring.capacity) || at.saturating_add(footprint(len)) > limit {
            return false;
        }
        // SAFETY: within its lap (`fits`). What is read may be anything, and is only compared.
        let fields = unsafe { self.ring.memory.peek_fields(at) };
        if !self.ring.seal.header_is_right(&fields, at, len) {
            return false;
        }
        if word == Word::Reserved(len) {
            return true;
        }
        // SAFETY: within its lap; COMMITTED was seen with Acquire, by whoever wrote a header with
        // the right tag.
        unsafe { self.ring.memory.copy_payload(at, len, scratch) };
        self.ring.seal.payload_is_right(&fields, scratch)
    }

    /// Gives the bytes up to `upto` back to the producers; secrets in them are gone after that.
    ///
    /// To be called when what was read up to there is durable, and nothing that is not refers to it
    /// ([`Ring::reach`]). Any place will do; a record that is cut in two can't be read any more. After a
    /// restart of the consumer the same position is right again: an interrupted release is finished.
    pub fn release(&self, upto: u64) -> Result<(), Misplaced> {
        let tail = self.ring.tail();
        // Relaxed is enough for producers to see a head that is not before the tail stored below:
        // read-read coherence (see `head_after` in produce.rs).
        let head = self.ring.head();
        let ok = [upto, tail].iter().all(|p| p.is_multiple_of(ALIGN))
            && tail <= upto
            && upto <= head
            && upto - tail <= self.ring.capacity;
        if !ok {
            return Err(Misplaced { upto, tail, head });
        }
        // SAFETY: up to head everything is reserved, and the consumer has read it or given it up.
        unsafe { self.ring.memory.zero(tail, upto - tail) };
        // Release: a producer that sees this tail (Acquire) writes after the zeroing.
        self.ring
            .memory
            .shared()
            .tail
            .store(upto, Ordering::Release);
        Ok(())
    }
}
