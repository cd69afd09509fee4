//! The memory as loom sees it: what `memory.rs` offers, with every access tracked.
//!
//! Each 8 bytes are a unit: an atomic word, and a cell that loom watches for access without
//! order. Payload and zeroing go through both, so that a stale payload is seen as a word if the
//! protocol ever allows it, and a write or read that the protocol does not order is a failure.

use loom::cell::UnsafeCell;

use super::layout::sync::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use super::layout::{Drops, Fields, Line, Shared, Taken, Word};

struct Unit {
    word: AtomicU32,
    bytes: UnsafeCell<[u8; 8]>,
}

/// A ring's memory in the model.
pub(super) struct Memory {
    shared: Shared,
    units: Vec<Unit>,
}

// SAFETY: loom runs its threads one at a time, and reports unordered access to the cells.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

fn pieces(bytes: [u8; 8]) -> (u32, u32) {
    let bytes = u64::from_le_bytes(bytes);
    (bytes as u32, (bytes >> 32) as u32)
}

impl Memory {
    /// An empty ring of any power of two, whose first record will be at `start`.
    pub fn new(capacity: u64, start: u64) -> Memory {
        let unit = |_| Unit {
            word: AtomicU32::new(0),
            bytes: UnsafeCell::new([0; 8]),
        };
        let shared = Shared {
            mark: Line(AtomicU64::new(0)),
            head: Line(AtomicU64::new(start)),
            tail: Line(AtomicU64::new(start)),
            drops: Line(Drops {
                count: AtomicU64::new(0),
                first: AtomicI64::new(0),
                last: AtomicI64::new(0),
            }),
            taken: Line(Taken {
                count: AtomicU64::new(0),
                first: AtomicI64::new(0),
            }),
            drained: Line(AtomicU64::new(start)),
        };
        shared.begin();
        Memory {
            shared,
            units: (0..capacity / 8).map(unit).collect(),
        }
    }

    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    fn unit(&self, position: u64) -> &Unit {
        &self.units[(position / 8) as usize % self.units.len()]
    }

    /// A plain write of a unit.
    fn put(&self, position: u64, bytes: [u8; 8]) {
        let unit = self.unit(position);
        // SAFETY: the pointer is valid; loom checks that nobody else has it.
        unit.bytes.with_mut(|cell| unsafe { *cell = bytes });
    }

    /// A plain read of a unit.
    fn get(&self, position: u64) -> [u8; 8] {
        // SAFETY: as in `put`.
        self.unit(position).bytes.with(|cell| unsafe { *cell })
    }

    pub fn load_word(&self, position: u64, order: Ordering) -> Word {
        Word::unpack(self.unit(position).word.load(order))
    }

    pub fn store_word(&self, position: u64, word: Word, order: Ordering) {
        self.unit(position).word.store(word.pack(), order);
    }

    /// # Safety
    ///
    /// None in the model; the signature is that of `memory.rs`, as with all below.
    pub unsafe fn put_fields(&self, position: u64, fields: &Fields) {
        let tail = u64::from(fields.pid) | u64::from(fields.tag) << 32;
        self.put(position, (u64::from(fields.crc) << 32).to_le_bytes());
        self.put(position + 8, fields.position.to_le_bytes());
        self.put(position + 16, tail.to_le_bytes());
    }

    /// # Safety
    ///
    /// See `put_fields`.
    pub unsafe fn fields(&self, position: u64) -> Fields {
        let (pid, tag) = pieces(self.get(position + 16));
        Fields {
            crc: pieces(self.get(position)).1,
            position: u64::from_le_bytes(self.get(position + 8)),
            pid,
            tag,
        }
    }

    /// A look without order is a race by intention: it gives a hint. The model has none to give.
    ///
    /// # Safety
    ///
    /// See `put_fields`.
    pub unsafe fn peek_fields(&self, _position: u64) -> Fields {
        Fields::default()
    }

    /// # Safety
    ///
    /// See `put_fields`.
    pub unsafe fn put_payload(&self, position: u64, parts: &[&[u8]]) {
        for (i, chunk) in parts.concat().chunks(8).enumerate() {
            let mut bytes = [0; 8];
            bytes[..chunk.len()].copy_from_slice(chunk);
            let at = position + 24 + 8 * i as u64;
            self.put(at, bytes);
            // In the real memory these bytes and the word are the same ones.
            let word = &self.unit(at).word;
            word.store(pieces(bytes).0, Ordering::Relaxed);
        }
    }

    /// # Safety
    ///
    /// See `put_fields`.
    pub unsafe fn copy_payload(&self, position: u64, len: u32, out: &mut Vec<u8>) {
        out.clear();
        for i in 0..u64::from(len).div_ceil(8) {
            out.extend_from_slice(&self.get(position + 24 + 8 * i));
        }
        out.truncate(len as usize);
    }

    /// # Safety
    ///
    /// See `put_fields`.
    pub unsafe fn zero(&self, position: u64, len: u64) {
        for at in (position..position + len).step_by(8) {
            self.put(at, [0; 8]);
            self.unit(at).word.store(0, Ordering::Relaxed);
        }
    }
}
