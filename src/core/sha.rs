//! SHA-256 of short messages, without the buffering of the general interface: a leaf of the tree
//! has two blocks, and hashing it is a visible part of what an event costs.

use sha2::digest::generic_array::GenericArray;
use sha2::{Digest, Sha256, compress256};

/// A SHA-256 digest.
pub type Hash = [u8; 32];

const BLOCK: usize = 64;
/// Room for seven blocks; longer messages take the general interface.
const ROOM: usize = 7 * BLOCK;
/// The padding's end: one byte 0x80 and the length in bits.
const TAIL: usize = 9;

/// First 32 bits of the fractional parts of the square roots of the first eight primes (FIPS 180-4,
/// 5.3.3).
const START: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// A message being written that is hashed at its end.
pub struct Message {
    bytes: [u8; ROOM],
    len: usize,
    /// What is longer than [`ROOM`].
    long: Option<Sha256>,
}

impl Message {
    /// Begins with a byte that says what the message is.
    pub fn new(prefix: u8) -> Message {
        let mut message = Message {
            bytes: [0; ROOM],
            len: 1,
            long: None,
        };
        message.bytes[0] = prefix;
        message
    }

    pub fn put(&mut self, bytes: &[u8]) {
        if let Some(long) = &mut self.long {
            long.update(bytes);
            return;
        }
        match self.bytes.get_mut(self.len..self.len + bytes.len()) {
            Some(room) if self.len + bytes.len() + TAIL <= ROOM => {
                room.copy_from_slice(bytes);
                self.len += bytes.len();
            }
            _ => {
                let mut long = Sha256::new();
                long.update(&self.bytes[..self.len]);
                long.update(bytes);
                self.long = Some(long);
            }
        }
    }

    /// A number as eight bytes, big-endian.
    pub fn put_i64(&mut self, value: i64) {
        self.put(&value.to_be_bytes());
    }

    pub fn finish(mut self) -> Hash {
        if let Some(long) = self.long {
            return long.finalize().into();
        }
        let blocks = (self.len + TAIL).div_ceil(BLOCK);
        let bits = (self.len as u64) * 8;
        self.bytes[self.len] = 0x80;
        let end = blocks * BLOCK;
        self.bytes[end - 8..end].copy_from_slice(&bits.to_be_bytes());
        compress(&self.bytes[..end])
    }
}

/// Hashes whole blocks that carry their padding.
fn compress(padded: &[u8]) -> Hash {
    let mut state = START;
    for block in padded.chunks_exact(BLOCK) {
        compress256(
            &mut state,
            core::slice::from_ref(GenericArray::from_slice(block)),
        );
    }
    let mut hash = [0; 32];
    for (to, word) in hash.chunks_exact_mut(4).zip(state) {
        to.copy_from_slice(&word.to_be_bytes());
    }
    hash
}

/// SHA-256 of a prefix byte and two hashes: a message of 65 bytes.
pub fn hash_pair(prefix: u8, left: &Hash, right: &Hash) -> Hash {
    let mut padded = [0; 2 * BLOCK];
    padded[0] = prefix;
    padded[1..33].copy_from_slice(left);
    padded[33..65].copy_from_slice(right);
    padded[65] = 0x80;
    padded[126..].copy_from_slice(&(65u16 * 8).to_be_bytes());
    compress(&padded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_general_interface_at_every_length() {
        let bytes: Vec<u8> = (0..1000u32).map(|i| (i * 7) as u8).collect();
        for len in (0..600).chain([999]) {
            let mut whole = Message::new(3);
            whole.put(&bytes[..len]);
            let mut pieces = Message::new(3);
            for piece in bytes[..len].chunks(13) {
                pieces.put(piece);
            }
            let mut expected = Sha256::new();
            expected.update([3]);
            expected.update(&bytes[..len]);
            let expected: Hash = expected.finalize().into();
            assert_eq!(whole.finish(), expected, "{len} bytes");
            assert_eq!(pieces.finish(), expected, "{len} bytes in pieces");
        }
        let mut expected = Sha256::new();
        expected.update([1]);
        expected.update([5; 32]);
        expected.update([6; 32]);
        let expected: Hash = expected.finalize().into();
        assert_eq!(hash_pair(1, &[5; 32], &[6; 32]), expected);
    }
}
