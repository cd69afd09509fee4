//! What makes a record trustworthy: two checks that bind it to its ring and its place.
//!
//! * The header's CRC: CRC-32C of ring id, position, length, pid and format. 16 bits of it are in
//!   the header as `tag`, beside the format. It makes a header recognisable before its payload is
//!   there, so that a search through garbage does not run past a record that a live producer is
//!   still copying; and it spares that search the CRC of a payload that someone filled with things
//!   looking like headers.
//! * `crc`: CRC-32C of ring id, payload and the header's CRC.

use super::layout::{Fields, RING_FORMAT};
use crate::crc;

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
            seed: crc::crc32c(ring_id),
        }
    }

    /// CRC of ring id and payload: the part that takes long, known before the position is.
    #[inline]
    pub fn payload(&self, parts: &[&[u8]]) -> u32 {
        parts
            .iter()
            .filter(|part| !part.is_empty())
            .fold(self.seed, |crc, part| crc::append(crc, part))
    }

    /// The header of a record; `payload_crc` from [`Seal::payload`].
    #[inline]
    pub fn header(&self, payload_crc: u32, position: u64, len: u32, pid: u32) -> Fields {
        let header_crc = self.header_crc(position, len, pid);
        Fields {
            crc: whole(payload_crc, header_crc),
            position,
            pid,
            tag: tag(header_crc),
        }
    }

    #[inline]
    fn header_crc(&self, position: u64, len: u32, pid: u32) -> u32 {
        crc::append(self.seed, &Rest::new(position, len, pid).0)
    }

    /// Whether a header belongs where it was found: position, format and tag.
    pub fn header_is_right(&self, found: &Fields, position: u64, len: u32) -> bool {
        found.position == position && found.tag == tag(self.header_crc(position, len, found.pid))
    }

    /// Whether header and payload are those that were pushed.
    pub fn payload_is_right(&self, found: &Fields, payload: &[u8]) -> bool {
        let header_crc = self.header_crc(found.position, payload.len() as u32, found.pid);
        found.crc == whole(self.payload(&[payload]), header_crc)
    }
}

fn tag(header_crc: u32) -> u32 {
    (header_crc ^ header_crc << 16) & 0xffff_0000 | RING_FORMAT
}

#[inline]
fn whole(payload_crc: u32, header_crc: u32) -> u32 {
    crc::append(payload_crc, &u64::from(header_crc).to_le_bytes())
}

// The tag keeps the format in 16 bits.
const _: () = assert!(RING_FORMAT > 0 && RING_FORMAT <= 0xffff);
