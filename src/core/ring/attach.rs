//! The header: made once, then believed only after every part of it was checked.

use super::Ring;
use super::layout::sync::Ordering;
use super::layout::{
    ALIGN, CONSTANT_LEN, HEADER_LEN, Header, MAGIC, MAX_CAPACITY, MIN_CAPACITY, RING_FORMAT, Shared,
};
use super::memory::Memory;
use crate::crc;
use crate::slot::{MAX_SLOTS, SLOT_LEN, Slots};

/// Why a mapping is no ring, with the value that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachError {
    /// Shorter than a header.
    TooShort { len: usize },
    /// The address is not aligned to the header's size.
    Unaligned { address: usize },
    /// It does not begin with `AUDITRNG`.
    Magic { found: [u8; 8] },
    /// Made by another version.
    Format { found: u32 },
    /// The constant part of the header is damaged.
    Checksum { stored: u32, computed: u32 },
    /// Not a power of two, too small or too large.
    Capacity { found: u64 },
    /// The header is of another length than this version's.
    HeaderLength { found: u32 },
    /// More in-flight slots than there can be.
    Slots { found: u32 },
    /// The file is longer or shorter than its header says.
    Length { expected: u64, found: u64 },
    /// Not `tail <= head <= tail + capacity`, or no positions at all.
    Positions { head: u64, tail: u64, capacity: u64 },
}

impl std::fmt::Display for AttachError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            AttachError::TooShort { len } => {
                write!(f, "{len} bytes are too few for a header of {HEADER_LEN}")
            }
            AttachError::Unaligned { address } => {
                write!(f, "address {address:#x} is not at a page")
            }
            AttachError::Magic { found } => {
                write!(f, "it begins with \"{}\"", found.escape_ascii())
            }
            AttachError::Format { found } => {
                write!(f, "format {found} is unknown, {RING_FORMAT} is expected")
            }
            AttachError::Checksum { stored, computed } => write!(
                f,
                "the header's CRC is {stored:08x}, of its content {computed:08x}"
            ),
            AttachError::Capacity { found } => write!(
                f,
                "capacity {found} is no power of two from {MIN_CAPACITY} to {MAX_CAPACITY}"
            ),
            AttachError::HeaderLength { found } => {
                write!(f, "header length {found}, {HEADER_LEN} is expected")
            }
            AttachError::Slots { found } => write!(f, "{found} in-flight slots are too many"),
            AttachError::Length { expected, found } => {
                write!(f, "{found} bytes, {expected} are expected")
            }
            AttachError::Positions {
                head,
                tail,
                capacity,
            } => write!(
                f,
                "impossible positions: head {head}, tail {tail}, capacity {capacity}"
            ),
        }
    }
}

impl std::error::Error for AttachError {}

/// The part of the header that never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Constant {
    pub capacity: u64,
    pub id: [u8; 16],
    pub created_at: i64,
    pub slots: u32,
}

const CRC_AT: usize = CONSTANT_LEN - 4;

fn array<const N: usize>(bytes: &[u8; CONSTANT_LEN], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

fn capacity_is_right(capacity: u64) -> bool {
    capacity.is_power_of_two() && (MIN_CAPACITY..=MAX_CAPACITY).contains(&capacity)
}

impl Constant {
    fn to_bytes(self) -> [u8; CONSTANT_LEN] {
        let mut bytes = [0; CONSTANT_LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&RING_FORMAT.to_ne_bytes());
        bytes[12..16].copy_from_slice(&(HEADER_LEN as u32).to_ne_bytes());
        bytes[16..24].copy_from_slice(&self.capacity.to_ne_bytes());
        bytes[24..40].copy_from_slice(&self.id);
        bytes[40..48].copy_from_slice(&self.created_at.to_ne_bytes());
        bytes[48..52].copy_from_slice(&self.slots.to_ne_bytes());
        let crc = crc::crc32c(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_ne_bytes());
        bytes
    }

    /// Reads the constant part of a mapping or file of `len` bytes. In the order in which a wrong
    /// part is most telling: what it is, which version, whether it is damaged, whether it is whole.
    pub fn parse(bytes: &[u8; CONSTANT_LEN], len: u64) -> Result<Constant, AttachError> {
        let magic = array(bytes, 0);
        if magic != MAGIC {
            return Err(AttachError::Magic { found: magic });
        }
        let format = u32::from_ne_bytes(array(bytes, 8));
        if format != RING_FORMAT {
            return Err(AttachError::Format { found: format });
        }
        let stored = u32::from_ne_bytes(array(bytes, CRC_AT));
        let computed = crc::crc32c(&bytes[..CRC_AT]);
        if stored != computed {
            return Err(AttachError::Checksum { stored, computed });
        }
        let header_len = u32::from_ne_bytes(array(bytes, 12));
        if header_len as usize != HEADER_LEN {
            return Err(AttachError::HeaderLength { found: header_len });
        }
        let capacity = u64::from_ne_bytes(array(bytes, 16));
        if !capacity_is_right(capacity) {
            return Err(AttachError::Capacity { found: capacity });
        }
        let slots = u32::from_ne_bytes(array(bytes, 48));
        if slots > MAX_SLOTS {
            return Err(AttachError::Slots { found: slots });
        }
        let expected = file_len(capacity, slots);
        if len != expected {
            return Err(AttachError::Length {
                expected,
                found: len,
            });
        }
        Ok(Constant {
            capacity,
            id: array(bytes, 24),
            created_at: i64::from_ne_bytes(array(bytes, 40)),
            slots,
        })
    }
}

/// Bytes of a ring file.
pub(super) fn file_len(capacity: u64, slots: u32) -> u64 {
    HEADER_LEN as u64 + capacity + u64::from(slots) * SLOT_LEN as u64
}

fn check_place(base: *mut u8, len: usize) -> Result<(), AttachError> {
    if len < HEADER_LEN {
        return Err(AttachError::TooShort { len });
    }
    let address = base.addr();
    if base.is_null() || !address.is_multiple_of(align_of::<Header>()) {
        return Err(AttachError::Unaligned { address });
    }
    Ok(())
}

/// Tail and head that belong together, although the ring may be in use: head as it was while tail
/// stayed the same. Gives up after a while, and then takes them as they are.
fn positions(shared: &Shared) -> (u64, u64) {
    let mut tail = shared.tail.load(Ordering::Acquire);
    for _ in 0..1000 {
        // Acquire: the second look at tail is not before the look at head.
        let head = shared.head.load(Ordering::Acquire);
        let again = shared.tail.load(Ordering::Acquire);
        if again == tail {
            return (tail, head);
        }
        tail = again;
    }
    (tail, shared.head.load(Ordering::Relaxed))
}

impl Ring {
    /// [`Ring::create_with_slots`] without slots.
    ///
    /// # Safety
    ///
    /// As there.
    pub unsafe fn create(
        base: *mut u8,
        len: usize,
        id: [u8; 16],
        created_at: i64,
    ) -> Result<Ring, AttachError> {
        // SAFETY: the caller's promise.
        unsafe { Ring::create_with_slots(base, len, 0, id, created_at) }
    }

    /// Makes a ring of a mapping of `HEADER_LEN + capacity + slots * SLOT_LEN` bytes.
    ///
    /// `id` is random and never used twice; `created_at` is the caller's clock.
    ///
    /// # Safety
    ///
    /// `base` points to `len` bytes that are all zero and can be read and written for as long as
    /// the ring lives. Nobody else accesses them before this returns, and afterwards only rings do.
    pub unsafe fn create_with_slots(
        base: *mut u8,
        len: usize,
        slots: u32,
        id: [u8; 16],
        created_at: i64,
    ) -> Result<Ring, AttachError> {
        check_place(base, len)?;
        let capacity = (len as u64).saturating_sub(file_len(0, slots));
        if !capacity_is_right(capacity) {
            return Err(AttachError::Capacity { found: capacity });
        }
        let constant = Constant {
            capacity,
            id,
            created_at,
            slots,
        };
        // SAFETY: `len` is HEADER_LEN + capacity + slots, and capacity a power of two.
        let memory = unsafe { Memory::new(base, capacity) };
        memory.shared().begin();
        // The constant part comes last: without it the mapping is no ring.
        // SAFETY: aligned and long enough (`check_place`), ours alone by the caller's promise.
        unsafe { (&raw mut (*base.cast::<Header>()).constant.0).write(constant.to_bytes()) };
        Ok(Ring::new(memory, capacity, slots, id, created_at))
    }

    /// The in-flight slots behind the records.
    pub fn slots(&self) -> Slots {
        // SAFETY: the mapping is as long as the header says, and lives as long as the ring.
        unsafe { Slots::new(self.memory.behind(), self.slot_count) }
    }

    /// Takes part in a ring that another process made, or an earlier life of this one.
    ///
    /// For the file of a server that ended in an unknown way, [`super::Leftover`] asks for less.
    ///
    /// # Safety
    ///
    /// `base` points to `len` bytes that can be read and written for as long as the ring lives,
    /// and that nothing accesses but rings. What they hold does not matter.
    pub unsafe fn attach(base: *mut u8, len: usize) -> Result<Ring, AttachError> {
        check_place(base, len)?;
        // SAFETY: aligned and long enough (`check_place`). Copied first, so that what is checked
        // is what is used.
        let bytes = unsafe { (&raw const (*base.cast::<Header>()).constant.0).read_volatile() };
        let Constant {
            capacity,
            id,
            created_at,
            slots,
        } = Constant::parse(&bytes, len as u64)?;
        // SAFETY: `parse` found `len` to be at least HEADER_LEN + capacity, and capacity a power of two.
        let memory = unsafe { Memory::new(base, capacity) };
        let (tail, head) = positions(memory.shared());
        let plausible = [head, tail].iter().all(|p| p.is_multiple_of(ALIGN))
            && head.checked_sub(tail).is_some_and(|used| used <= capacity);
        if !plausible {
            return Err(AttachError::Positions {
                head,
                tail,
                capacity,
            });
        }
        Ok(Ring::new(memory, capacity, slots, id, created_at))
    }
}
