//! The mapped memory: every access that the protocol makes, and nothing else. (`model.rs` offers
//! the same to the protocol when loom checks it.)
//!
//! Accesses to words and headers are bound to the mapping by masking whatever position is asked
//! for, so that no value found in a scribbled file leads outside.

use super::layout::sync::Ordering;
use super::layout::{Fields, HEADER_LEN, Header, RECORD_HEADER_LEN, RecordHeader, Shared};
use super::layout::{Word, to_lap_end};

/// A mapping of `HEADER_LEN + capacity` bytes.
pub(super) struct Memory {
    base: *mut u8,
    capacity: u64,
}

// SAFETY: the pointer is to memory shared by processes, of which this one is made of any number of
// threads; all access follows the protocol, which takes no notice of threads.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// # Safety
    ///
    /// `base` is aligned to 8 at least and points to `HEADER_LEN + capacity` bytes that can be read
    /// and written for as long as the `Memory` lives, and that nothing accesses but rings.
    /// `capacity` is a power of two, and a multiple of 8.
    pub unsafe fn new(base: *mut u8, capacity: u64) -> Memory {
        Memory { base, capacity }
    }

    /// Where the mapping goes on behind the records.
    pub fn behind(&self) -> *mut u8 {
        // SAFETY: one past the records at most.
        unsafe { self.base.add(HEADER_LEN + self.capacity as usize) }
    }

    pub fn shared(&self) -> &Shared {
        // SAFETY: within the header page (const assertions in layout.rs); all of it are atomics,
        // for which any bytes are a value. 128 bytes of alignment come from the page's.
        unsafe { &(*self.base.cast::<Header>()).shared }
    }

    /// The place of a position, forced to be one of a record.
    fn place(&self, position: u64) -> *mut u8 {
        let offset = position & (self.capacity - 1) & !7;
        // SAFETY: offset < capacity, and the mapping is HEADER_LEN + capacity long.
        unsafe { self.base.add(HEADER_LEN + offset as usize) }
    }

    /// The word at a position.
    ///
    /// `order` is Acquire to see what the producer wrote before it published, else Relaxed.
    pub fn load_word(&self, position: u64, order: Ordering) -> Word {
        let place = self.place(position).cast::<super::AtomicU32>();
        // SAFETY: in bounds and aligned (`place`); an atomic for which any bytes are a value.
        Word::unpack(unsafe { &*place }.load(order))
    }

    pub fn store_word(&self, position: u64, word: Word, order: Ordering) {
        let place = self.place(position).cast::<super::AtomicU32>();
        // SAFETY: as above.
        unsafe { &*place }.store(word.pack(), order);
    }

    /// # Safety
    ///
    /// `position` is aligned, and its lap does not end within a record's header.
    unsafe fn header(&self, position: u64) -> &RecordHeader {
        debug_assert!(to_lap_end(position, self.capacity) >= RECORD_HEADER_LEN as u64);
        // SAFETY: in bounds by the caller's promise, aligned by `place`, nothing but atomics.
        unsafe { &*self.place(position).cast::<RecordHeader>() }
    }

    /// Writes a header, but its word.
    ///
    /// # Safety
    ///
    /// The caller has reserved the record at `position`.
    pub unsafe fn put_fields(&self, position: u64, fields: &Fields) {
        // SAFETY: a reserved record does not straddle the end.
        let header = unsafe { self.header(position) };
        // Relaxed: the word that publishes the record is what orders them.
        header.pid.store(fields.pid, Ordering::Relaxed);
        header.tag.store(fields.tag, Ordering::Relaxed);
        header.position.store(fields.position, Ordering::Relaxed);
        header.crc.store(fields.crc, Ordering::Relaxed);
    }

    /// Reads the header of a published record, but its word.
    ///
    /// # Safety
    ///
    /// As [`Memory::header`].
    pub unsafe fn fields(&self, position: u64) -> Fields {
        // SAFETY: the caller's promise.
        let header = unsafe { self.header(position) };
        // Relaxed: the caller's Acquire load of the word has ordered them.
        Fields {
            crc: header.crc.load(Ordering::Relaxed),
            position: header.position.load(Ordering::Relaxed),
            pid: header.pid.load(Ordering::Relaxed),
            tag: header.tag.load(Ordering::Relaxed),
        }
    }

    /// Reads a header that may be being written, or be none at all: a hint, never proof.
    ///
    /// # Safety
    ///
    /// As [`Memory::header`].
    pub unsafe fn peek_fields(&self, position: u64) -> Fields {
        // SAFETY: the caller's promise.
        unsafe { self.fields(position) }
    }

    /// Writes the pieces of a payload one after the other.
    ///
    /// # Safety
    ///
    /// The caller has reserved the record at `position` for all that `parts` hold together.
    pub unsafe fn put_payload(&self, position: u64, parts: &[&[u8]]) {
        // SAFETY: the header and `parts` lie within the reserved record, which does not straddle
        // the end and which nobody else accesses; `parts` are Rust's, never in the mapping.
        unsafe {
            let mut to = self.place(position).add(RECORD_HEADER_LEN);
            for part in parts {
                to.copy_from_nonoverlapping(part.as_ptr(), part.len());
                to = to.add(part.len());
            }
        }
    }

    /// Copies a payload into `out`.
    ///
    /// # Safety
    ///
    /// The record at `position` with a payload of `len` does not straddle the end. No producer
    /// writes there: its word was seen COMMITTED with Acquire. (One that scribbles nevertheless
    /// makes the copy's bytes wrong, which their CRC tells.)
    pub unsafe fn copy_payload(&self, position: u64, len: u32, out: &mut Vec<u8>) {
        out.clear();
        out.reserve(len as usize);
        // SAFETY: in bounds by the caller's promise; `out` has room and is no part of the mapping;
        // all `len` bytes are initialised by the copy.
        unsafe {
            let from = self.place(position).add(RECORD_HEADER_LEN);
            from.copy_to_nonoverlapping(out.as_mut_ptr(), len as usize);
            out.set_len(len as usize);
        }
    }

    /// Zeroes `len` bytes from `position`, over the end of the lap if it comes to that.
    ///
    /// # Safety
    ///
    /// The bytes are the consumer's (read, or given up), both multiples of 8, `len` at most the
    /// capacity.
    pub unsafe fn zero(&self, position: u64, len: u64) {
        let first = len.min(to_lap_end(position, self.capacity));
        // SAFETY: the first piece ends with the lap, the second begins with it and is shorter than
        // the capacity.
        unsafe {
            self.place(position).write_bytes(0, first as usize);
            self.place(position.wrapping_add(first))
                .write_bytes(0, (len - first) as usize);
        }
    }
}
