//! What a ring file still holds after the server that used it is gone.
//!
//! After a loss of the operating system any page of the file may be of any age: head, tail and
//! words prove nothing, and old laps may shine through. So recovery trusts only what proves
//! itself, wherever it lies: a record whose position is its place and whose CRC is right.

use super::attach::{AttachError, Constant};
use super::consume::{fits, is_pad};
use super::drops::Dropped;
use super::layout::{
    ALIGN, CONSTANT_LEN, Fields, HEADER_LEN, RECORD_HEADER_LEN, Word, footprint, offsets,
    to_lap_end,
};
use super::seal::Seal;
use crate::slot::{Orphan, SLOT_LEN};

/// A ring file that nobody uses any more, as bytes (mapped or read).
pub struct Leftover<'a> {
    constant: Constant,
    header: &'a [u8],
    data: &'a [u8],
    slots: &'a [u8],
    seal: Seal,
}

/// What the header of a ring file says of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// When the ring was made.
    pub created_at: i64,
    /// See [`super::Ring::mark`].
    pub mark: u64,
    /// Bytes for records.
    pub capacity: u64,
    /// Nothing was ever pushed, or dropped, as far as this page of the file knows.
    pub unused: bool,
}

/// A piece of what is left, in the order of positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// A record, as it was pushed.
    Record {
        start: u64,
        next: u64,
        pid: u32,
        payload: &'a [u8],
    },
    /// Something was, or may have been, in `start..next` and is not there: never published, torn,
    /// given back already, or not written before the operating system was lost.
    Gap { start: u64, next: u64 },
}

fn bytes<const N: usize>(from: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(found) = from.get(at..).and_then(|rest| rest.first_chunk::<N>()) {
        out = *found;
    }
    out
}

impl<'a> Leftover<'a> {
    /// Whether a file of `len` bytes that begins with `header` is a ring, before all of it is read.
    pub fn check(header: &[u8], len: u64) -> Result<Head, AttachError> {
        if header.len() < HEADER_LEN {
            return Err(AttachError::TooShort { len: header.len() });
        }
        let constant = Constant::parse(&bytes::<CONSTANT_LEN>(header, 0), len)?;
        let number = |at| u64::from_ne_bytes(bytes(header, at));
        Ok(Head {
            created_at: constant.created_at,
            mark: number(offsets::MARK),
            capacity: constant.capacity,
            unused: [offsets::HEAD, offsets::DROPS_COUNT].map(number) == [0, 0],
        })
    }

    /// Checks the constant part of the header; the rest is not trusted anyway.
    pub fn open(file: &'a [u8]) -> Result<Leftover<'a>, AttachError> {
        let too_short = AttachError::TooShort { len: file.len() };
        let (header, data) = file.split_at_checked(HEADER_LEN).ok_or(too_short)?;
        let constant = Constant::parse(&bytes::<CONSTANT_LEN>(header, 0), file.len() as u64)?;
        let (data, slots) = data
            .split_at_checked(constant.capacity as usize)
            .ok_or(too_short)?;
        Ok(Leftover {
            constant,
            header,
            data,
            slots,
            seal: Seal::new(&constant.id),
        })
    }

    /// Bytes for records.
    pub fn capacity(&self) -> u64 {
        self.constant.capacity
    }

    /// The ring's random id: the trail holds a position for it, or knows nothing of it.
    pub fn id(&self) -> [u8; 16] {
        self.constant.id
    }

    /// See [`super::Ring::drained`]; 0 where the header holds nothing that could be it.
    pub fn drained(&self) -> u64 {
        let drained = u64::from_ne_bytes(bytes(self.header, offsets::DRAINED));
        let head = u64::from_ne_bytes(bytes(self.header, offsets::HEAD));
        let plausible = drained.is_multiple_of(ALIGN)
            && head
                .checked_sub(drained)
                .is_some_and(|waiting| waiting <= self.capacity());
        if plausible { drained } else { 0 }
    }

    /// The payload of the record at a position, if it is there and proves itself.
    pub fn payload_at(&self, position: u64) -> Option<&'a [u8]> {
        let (fields, payload) = self.record_at(position & (self.capacity() - 1))?;
        (fields.position == position).then_some(payload)
    }

    /// The sessions that were alive when the ring was left: all of them are dead.
    pub fn orphans(&self) -> Vec<Orphan> {
        self.slots
            .chunks_exact(SLOT_LEN)
            .filter_map(Orphan::read)
            .collect()
    }

    /// Drops beyond `told`, as [`super::Consumer::take_dropped`]; possibly stale.
    pub fn dropped(&self, told: u64) -> Option<Dropped> {
        let number = |at| u64::from_ne_bytes(bytes(self.header, at));
        let first = number(offsets::DROPS_FIRST) as i64;
        let first = if number(offsets::TAKEN_COUNT) > told {
            first.min(number(offsets::TAKEN_FIRST) as i64)
        } else {
            first
        };
        let last = number(offsets::DROPS_LAST) as i64;
        Dropped::between(told, number(offsets::DROPS_COUNT), first, last)
    }

    /// All records from position `from` on (the trail's position for this ring, else 0), with the
    /// gaps between them. Reads the whole ring once.
    pub fn recover(&self, from: u64) -> Recovered<'_> {
        let mut starts = self.scan(from);
        // By place a lap may begin anywhere; by position is the order in which they were reserved.
        starts.sort_unstable();
        Recovered {
            ring: self,
            starts: starts.into_iter().peekable(),
            cursor: from,
        }
    }

    /// Positions of all records that prove themselves, by place.
    fn scan(&self, from: u64) -> Vec<u64> {
        let capacity = self.capacity();
        let mut starts = Vec::new();
        let mut place = 0; // a record begins here in every lap, as none straddles the end
        while place < capacity {
            match self.record_at(place) {
                Some((fields, payload)) => {
                    if fields.position >= from {
                        starts.push(fields.position);
                    }
                    // Whatever looks like a record within a trusted one is its payload.
                    place += footprint(payload.len() as u32);
                }
                None => place += ALIGN,
            }
        }
        starts
    }

    fn word_at(&self, place: u64) -> Word {
        Word::unpack(u32::from_ne_bytes(bytes(self.data, place as usize)))
    }

    /// Header and payload of the record at a place, if it proves itself.
    fn record_at(&self, place: u64) -> Option<(Fields, &'a [u8])> {
        let Word::Committed(len) = self.word_at(place) else {
            return None;
        };
        let at = place as usize;
        let fields = self.fields_at(at);
        let right = fits(place, len, self.capacity())
            && fields.position & (self.capacity() - 1) == place
            && self.seal.header_is_right(&fields, fields.position, len);
        if !right {
            return None;
        }
        let begin = at + RECORD_HEADER_LEN;
        let payload = self.data.get(begin..begin + len as usize)?;
        let right = self.seal.payload_is_right(&fields, payload);
        right.then_some((fields, payload))
    }

    fn fields_at(&self, at: usize) -> Fields {
        Fields {
            crc: u32::from_ne_bytes(bytes(self.data, at + offsets::CRC)),
            position: u64::from_ne_bytes(bytes(self.data, at + offsets::POSITION)),
            pid: u32::from_ne_bytes(bytes(self.data, at + offsets::PID)),
            tag: u32::from_ne_bytes(bytes(self.data, at + offsets::TAG)),
        }
    }

    /// Skips a PAD that explains why there is no record from `cursor` to the end of the lap.
    fn after_pad(&self, cursor: u64) -> u64 {
        let capacity = self.capacity();
        let pad = to_lap_end(cursor, capacity);
        let there = match self.word_at(cursor & (capacity - 1)) {
            Word::Pad(len) => u64::from(len) == pad && is_pad(cursor, len, capacity),
            _ => false,
        };
        if there {
            cursor.saturating_add(pad)
        } else {
            cursor
        }
    }

    /// Head as the file has it, if it can be the end of what begins at `cursor`.
    fn plausible_head(&self, cursor: u64) -> Option<u64> {
        let head = u64::from_ne_bytes(bytes(self.header, offsets::HEAD));
        let ahead = head.checked_sub(cursor)?;
        (ahead > 0 && ahead <= self.capacity() && head.is_multiple_of(ALIGN)).then_some(head)
    }
}

/// The records and gaps of a [`Leftover`] from a position on: [`Leftover::recover`].
pub struct Recovered<'l> {
    ring: &'l Leftover<'l>,
    starts: std::iter::Peekable<std::vec::IntoIter<u64>>,
    cursor: u64,
}

impl<'l> Iterator for Recovered<'l> {
    type Item = Found<'l>;

    fn next(&mut self) -> Option<Found<'l>> {
        while let Some(start) = self.starts.peek().copied() {
            if start != self.cursor {
                let gap = self.ring.after_pad(self.cursor);
                self.cursor = start;
                if gap != start {
                    return Some(Found::Gap {
                        start: gap,
                        next: start,
                    });
                }
            }
            self.starts.next();
            let place = start & (self.ring.capacity() - 1);
            // It proved itself in the scan. Should the file have changed since, it becomes a gap.
            let Some((fields, payload)) = self.ring.record_at(place) else {
                continue;
            };
            let next = start.saturating_add(footprint(payload.len() as u32));
            self.cursor = next;
            return Some(Found::Record {
                start,
                next,
                pid: fields.pid,
                payload,
            });
        }
        self.last_gap()
    }
}

impl<'l> Recovered<'l> {
    /// What was reserved after the last record, as far as the file's head can be believed.
    fn last_gap(&mut self) -> Option<Found<'l>> {
        let start = self.ring.after_pad(self.cursor);
        let next = self.ring.plausible_head(start)?;
        self.cursor = next;
        Some(Found::Gap { start, next })
    }
}
