//! SHA-256 of short messages, without the buffering of the general interface: a leaf of the tree
//! has two blocks, and hashing it is a visible part of what an event costs.

#[cfg(target_arch = "x86_64")]
mod lanes;

use sha2::digest::generic_array::{GenericArray, typenum::U64};
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

/// What a message is written to, piece by piece.
pub trait Put {
    fn put(&mut self, bytes: &[u8]);
}

impl Put for Message {
    fn put(&mut self, bytes: &[u8]) {
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
}

/// Messages that are written first and hashed together: two side by side where the processor can, and a
/// message that was written just now it has to wait for.
#[derive(Default)]
pub struct Messages {
    /// Whole blocks, with their padding; behind them the message being written.
    bytes: Vec<u8>,
    /// Where each message ends.
    ends: Vec<usize>,
}

impl Messages {
    /// Begins a message with a byte that says what it is.
    #[inline]
    pub fn begin(&mut self, prefix: u8) {
        self.bytes.push(prefix);
    }

    /// Ends the message.
    #[inline]
    pub fn end(&mut self) {
        let start = self.ends.last().copied().unwrap_or(0);
        let len = self.bytes.len() - start;
        let end = start + (len + TAIL).div_ceil(BLOCK) * BLOCK;
        self.bytes.push(0x80);
        self.bytes.resize(end - 8, 0);
        let bits = (len as u64) * 8;
        self.bytes.extend_from_slice(&bits.to_be_bytes());
        self.ends.push(end);
    }

    /// Hashes all messages in their order, `into` being emptied first, and forgets them.
    pub fn hash(&mut self, into: &mut Vec<Hash>) {
        into.clear();
        #[cfg(target_arch = "x86_64")]
        match lanes::Lanes::find() {
            Some(lanes) => self.hash_by_twos(lanes, into),
            None => self.hash_one_by_one(into),
        }
        #[cfg(not(target_arch = "x86_64"))]
        self.hash_one_by_one(into);
        self.bytes.clear();
        self.ends.clear();
    }

    /// Neighbours side by side; the blocks that the longer one has more are done alone.
    #[cfg(target_arch = "x86_64")]
    fn hash_by_twos(&self, lanes: lanes::Lanes, into: &mut Vec<Hash>) {
        let mut start = 0;
        let (pairs, last) = self.ends.as_chunks();
        for [middle, end] in pairs {
            let blocks =
                [start..*middle, *middle..*end].map(|range| self.bytes[range].as_chunks().0);
            let common = blocks[0].len().min(blocks[1].len());
            for (state, blocks) in lanes.compress(blocks).into_iter().zip(blocks) {
                into.push(finish(state, &blocks[common..]));
            }
            start = *end;
        }
        if !last.is_empty() {
            into.push(compress(&self.bytes[start..]));
        }
    }

    /// For processors without the instructions.
    fn hash_one_by_one(&self, into: &mut Vec<Hash>) {
        let mut start = 0;
        for end in &self.ends {
            into.push(compress(&self.bytes[start..*end]));
            start = *end;
        }
    }
}

impl Put for Messages {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }
}

/// Hashes whole blocks that carry their padding.
fn compress(padded: &[u8]) -> Hash {
    finish(START, padded.as_chunks().0)
}

/// Takes the last blocks, if any, into the state, which is the hash then.
fn finish(mut state: [u32; 8], blocks: &[[u8; BLOCK]]) -> Hash {
    // SAFETY: GenericArray<u8, U64> is [u8; 64] by another name (repr(transparent)).
    let blocks = unsafe {
        core::slice::from_raw_parts(
            blocks.as_ptr().cast::<GenericArray<u8, U64>>(),
            blocks.len(),
        )
    };
    if !blocks.is_empty() {
        compress256(&mut state, blocks);
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
    fn together_as_one_by_one() {
        let bytes: Vec<u8> = (0..700u32).map(|i| (i * 11) as u8).collect();
        let mut together = Messages::default();
        let mut hashes = vec![[0; 32]];
        for _ in 0..2 {
            let mut expected = Vec::new();
            for len in 0..bytes.len() {
                let mut message = Message::new(7);
                message.put(&bytes[..len]);
                expected.push(message.finish());
                together.begin(7);
                together.put(&bytes[..len / 2]);
                together.put(&bytes[len / 2..len]);
                together.end();
            }
            together.hash(&mut hashes);
            assert_eq!(hashes, expected);
        }
        together.hash(&mut hashes);
        assert!(hashes.is_empty());
    }

    /// Lengths of messages put together, hashed in both ways and by the general interface.
    fn assert_together(bytes: &[u8], lens: &[usize]) {
        let mut together = Messages::default();
        let mut expected = Vec::new();
        for (i, len) in lens.iter().enumerate() {
            let bytes = &bytes[i..i + len];
            together.begin(9);
            together.put(bytes);
            together.end();
            expected.push(Hash::from(
                Sha256::new()
                    .chain_update([9])
                    .chain_update(bytes)
                    .finalize(),
            ));
        }
        let mut hashes = Vec::new();
        together.hash_one_by_one(&mut hashes);
        assert_eq!(hashes, expected, "one by one: {lens:?}");
        together.hash(&mut hashes);
        assert_eq!(hashes, expected, "together: {lens:?}");
    }

    #[test]
    fn any_two_lengths_together() {
        let bytes: Vec<u8> = (0..1000u32).map(|i| (i * 13 + i / 256) as u8).collect();
        for one in 0..200 {
            for other in (0..200).chain([318, 319, 700]) {
                assert_together(&bytes, &[one, other]);
            }
            assert_together(&bytes, &[700, one]);
        }
    }

    #[test]
    fn any_number_of_messages_together() {
        let bytes: Vec<u8> = (0..1000u32).map(|i| (i * 17 + i / 256) as u8).collect();
        for count in 0..20 {
            assert_together(&bytes, &vec![64; count]);
            for lens in [[64, 128], [130, 70], [10, 300], [119, 118]] {
                assert_together(&bytes, &lens.repeat(10)[..count]);
            }
            let rising: Vec<usize> = (0..count).map(|i| i * 37).collect();
            assert_together(&bytes, &rising);
        }
    }

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
