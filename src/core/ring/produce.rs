//! The writing side: reserve, copy, publish.

use core::hint::cold_path;
use core::sync::atomic::{Ordering as CompilerOrdering, compiler_fence};

use super::Ring;
use super::layout::sync::Ordering;
use super::layout::{ALIGN, Word, footprint, max_payload, reach, to_lap_end};

/// How far a push may fill the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// To three quarters: for what may still be refused, so that the ends of what was admitted
    /// find room.
    ThreeQuarters,
    /// To the last byte.
    Whole,
}

impl Limit {
    /// The limit in bytes.
    pub const fn of(self, capacity: u64) -> u64 {
        match self {
            Limit::ThreeQuarters => capacity - capacity / 4,
            Limit::Whole => capacity,
        }
    }
}

/// Where a record went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Where the push began: at the PAD before the record, if there is one.
    pub from: u64,
    /// The record's position (a PAD before it is not counted).
    pub start: u64,
    /// Position after it. Durable up to here is durable with this record.
    pub end: u64,
    /// How many bytes of the ring were in use with it.
    pub fill: u64,
}

/// Why a record was not pushed. Nothing was written then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushError {
    /// It would fill the ring beyond the limit.
    Full,
    /// The payload is longer than an eighth of the capacity, `max`.
    TooLarge { len: usize, max: u64 },
    /// It would lie further behind the record that it refers to than [`Ring::reach`].
    TooFar { refers_to: u64 },
    /// The positions in the header can't be: something scribbled over it.
    Broken { head: u64, tail: u64 },
}

impl std::fmt::Display for PushError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PushError::Full => f.write_str("the ring is full"),
            PushError::TooLarge { len, max } => {
                write!(f, "a record of {len} bytes is larger than {max}")
            }
            PushError::TooFar { refers_to } => {
                write!(
                    f,
                    "the record at {refers_to} is too far away to be referred to"
                )
            }
            PushError::Broken { head, tail } => {
                write!(f, "impossible positions: head {head}, tail {tail}")
            }
        }
    }
}

impl std::error::Error for PushError {}

/// A span that belongs to this producer until it publishes.
struct Reserved {
    /// Where the PAD begins, the record itself where there is none.
    pad_start: u64,
    fields: super::layout::Fields,
    fill: u64,
}

impl Ring {
    /// A process that is about to push has its first look at the positions: by what may write, though it
    /// never does, as they would be mapped for reading first, at the price of a page fault more.
    pub fn meet(&self) {
        const NO_POSITION: u64 = u64::MAX;
        let head = &self.memory.shared().head;
        let order = Ordering::Relaxed;
        let _ = head.compare_exchange(NO_POSITION, NO_POSITION, order, order);
    }

    /// Pushes one record whose payload is `parts` one after the other.
    ///
    /// Waits for nobody and allocates nothing. `pid` is what the consumer is told: who to look for
    /// if the record is never published; not 0.
    #[unsafe(link_section = "audit_session")]
    pub fn try_push(&self, parts: &[&[u8]], pid: u32, limit: Limit) -> Result<Pushed, PushError> {
        self.push(parts, pid, limit, None)
    }

    /// [`Ring::try_push`] of a record that can't be read without an earlier one, `refers_to`, which
    /// this process has pushed. It is refused where the two would lie further apart than
    /// [`Ring::reach`], as whoever drains gives the earlier one back then.
    #[inline(always)]
    pub fn try_push_referring(
        &self,
        parts: &[&[u8]],
        pid: u32,
        limit: Limit,
        refers_to: u64,
    ) -> Result<Pushed, PushError> {
        self.push(parts, pid, limit, Some(refers_to))
    }

    #[inline(always)]
    fn push(
        &self,
        parts: &[&[u8]],
        pid: u32,
        limit: Limit,
        refers_to: Option<u64>,
    ) -> Result<Pushed, PushError> {
        let len = self.payload_len(parts)?;
        let payload_crc = self.seal.payload(parts);
        let reserved = self.reserve(len, payload_crc, pid, limit, refers_to)?;

        // From here to the last line the process must not stop: plain stores and memcpy only.
        let start = reserved.fields.position;
        if reserved.pad_start != start {
            cold_path();
            let pad = start.wrapping_sub(reserved.pad_start) as u32;
            // Release: the consumer overwrites the PAD after it saw it, so it must be ordered
            // after this store even if the record behind it never comes.
            self.memory
                .store_word(reserved.pad_start, Word::Pad(pad), Ordering::Release);
        }
        // It tells how much to skip if this process is killed now. Release: who sees it (Acquire)
        // sees the head that was moved for it, and so does not take its length for damage. (With
        // Relaxed loom finds just that.)
        self.memory
            .store_word(start, Word::Reserved(len), Ordering::Release);
        // Keeps the compiler from moving the copy before that store, or dropping it as overwritten.
        compiler_fence(CompilerOrdering::SeqCst);
        // SAFETY: `reserve` made [start, start + footprint(len)) ours, not straddling the end, and
        // `parts` hold `len` bytes together.
        unsafe {
            self.memory.put_fields(start, &reserved.fields);
            self.memory.put_payload(start, parts);
        }
        // Release: who sees COMMITTED (Acquire) sees header and payload.
        self.memory
            .store_word(start, Word::Committed(len), Ordering::Release);

        Ok(Pushed {
            from: reserved.pad_start,
            start,
            end: start.wrapping_add(footprint(len)),
            fill: reserved.fill,
        })
    }

    /// Length of the payload, if a record may be that long.
    #[inline]
    fn payload_len(&self, parts: &[&[u8]]) -> Result<u32, PushError> {
        let len = parts
            .iter()
            .fold(0usize, |sum, part| sum.saturating_add(part.len()));
        let max = max_payload(self.capacity);
        if len as u64 > max {
            cold_path();
            return Err(PushError::TooLarge { len, max });
        }
        Ok(len as u32) // max_payload < 2^30
    }

    /// Takes the bytes for a record, and for a PAD where the record would straddle the end.
    #[inline(always)]
    fn reserve(
        &self,
        len: u32,
        payload_crc: u32,
        pid: u32,
        limit: Limit,
        refers_to: Option<u64>,
    ) -> Result<Reserved, PushError> {
        let shared = self.memory.shared();
        let need = footprint(len);
        let limit = limit.of(self.capacity);
        // Relaxed: nothing is published through head. It only divides the bytes among producers, and
        // for that the order of its own values is enough.
        let mut head = shared.head.load(Ordering::Relaxed);
        loop {
            // Acquire: bytes that tail gives back are zeroed before we write into them. A stale
            // tail only makes us refuse too early.
            let tail = shared.tail.load(Ordering::Acquire);
            let used = head.wrapping_sub(tail);
            if used > self.capacity || !head.is_multiple_of(ALIGN) {
                cold_path();
                head = self.head_after(head, tail)?;
                continue;
            }
            let room = to_lap_end(head, self.capacity);
            let pad = if need <= room { 0 } else { room };
            let fill = used + pad + need;
            if fill > limit {
                cold_path();
                return Err(PushError::Full);
            }
            let start = head.wrapping_add(pad);
            if let Some(refers_to) = refers_to
                && start.wrapping_sub(refers_to) > reach(self.capacity)
            {
                cold_path();
                return Err(PushError::TooFar { refers_to });
            }
            // Before the swap, so that nothing is left to compute after it.
            let fields = self.seal.header(payload_crc, start, len, pid);
            let next = start.wrapping_add(need);
            // SeqCst, for a consumer that sleeps, not for the record: what the producer reads with
            // SeqCst after its push, it reads after this in the order of all such operations.
            match shared
                .head
                .compare_exchange_weak(head, next, Ordering::SeqCst, Ordering::Relaxed)
            {
                Ok(_) => {
                    return Ok(Reserved {
                        pad_start: head,
                        fields,
                        fill,
                    });
                }
                Err(now) => {
                    cold_path();
                    head = now;
                }
            }
        }
    }

    /// A newer head, after `head` and `tail` did not fit together: head was read before tail, and
    /// since then others may have pushed and the consumer may have followed them.
    ///
    /// Having acquired this tail, we must see the head that the consumer saw before it stored it
    /// (read-read coherence). So what still does not fit is broken, and the loop ends.
    #[cold]
    fn head_after(&self, head: u64, tail: u64) -> Result<u64, PushError> {
        let now = self.memory.shared().head.load(Ordering::Relaxed);
        if now == head {
            return Err(PushError::Broken { head, tail });
        }
        Ok(now)
    }
}
