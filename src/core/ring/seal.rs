//! What makes a record trustworthy: two checks that bind it to its ring and its place.
//!
//! * `crc`: CRC-32C of ring id, payload, position, length, pid, format.
//! * `tag`: the format, and 16 bits of the CRC-32C of ring id, position, length, pid, format. It
//!   makes a header recognisable before its payload is there, so that a search through garbage
//!   does not run past a record that a live producer is still copying, and it spares that search
//!   the CRC of a payload that someone filled with things looking like headers.

use super::layout::{Fields, RING_FORMAT};

/// The ring id's share of every check.
#[derive(Clone, Copy)]
pub(super) struct Seal {
    seed: u32,
}

/// The fixed-size rest that every check ends with; aligned for the CRC's 8-byte steps.
#[repr(C, align(8))]
struct Rest([u8; 24]);

impl Rest {
    fn new(position: u64, len: u32, pid: u32) -> Rest {
        let mut rest = [0; 24];
        rest[..8].copy_from_slice(&position.to_le_bytes());
        rest[8..12].copy_from_slice(&len.to_le_bytes());
        rest[12..16].copy_from_slice(&pid.to_le_bytes());
        rest[16..20].copy_from_slice(&RING_FORMAT.to_le_bytes());
        Rest(rest)
    }
}

impl Seal {
    pub fn new(ring_id: &[u8; 16]) -> Seal {
        Seal {
            seed: crc32c::crc32c(ring_id),
        }
    }

    /// CRC of ring id and payload: the part that takes long, known before the position is.
    pub fn payload(&self, parts: &[&[u8]]) -> u32 {
        parts
            .iter()
            .filter(|part| !part.is_empty())
            .fold(self.seed, |crc, part| crc32c::crc32c_append(crc, part))
    }

    /// The header of a record; `payload_crc` from [`Seal::payload`].
    pub fn header(&self, payload_crc: u32, position: u64, len: u32, pid: u32) -> Fields {
        let rest = Rest::new(position, len, pid);
        Fields {
            crc: crc32c::crc32c_append(payload_crc, &rest.0),
            position,
            pid,
            tag: self.tag(&rest),
        }
    }

    fn tag(&self, rest: &Rest) -> u32 {
        let check = crc32c::crc32c_append(self.seed, &rest.0);
        (check ^ check << 16) & 0xffff_0000 | RING_FORMAT
    }

    /// Whether a header belongs where it was found: position, format and tag.
    pub fn header_is_right(&self, found: &Fields, position: u64, len: u32) -> bool {
        found.position == position && found.tag == self.tag(&Rest::new(position, len, found.pid))
    }

    /// Whether header and payload are those that were pushed. The caller checked the header.
    pub fn payload_is_right(&self, found: &Fields, payload: &[u8]) -> bool {
        let rest = Rest::new(found.position, payload.len() as u32, found.pid);
        crc32c::crc32c_append(self.payload(&[payload]), &rest.0) == found.crc
    }
}

// The tag keeps the format in 16 bits.
const _: () = assert!(RING_FORMAT > 0 && RING_FORMAT <= 0xffff);
