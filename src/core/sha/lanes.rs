//! SHA-256 of two messages side by side in one thread, with the instructions that x86-64 has for it.
//!
//! Every two rounds wait for the two before, so that a message alone leaves the unit idle half of the time;
//! a second one fills the gaps, and two take a fifth longer than one. The processor finds only a part of this
//! by itself, as the next message lies too far ahead. Own code, since no crate offers it, and hashing is a
//! fifth of what an event costs the worker.
//!
//! Written from FIPS 180-4, section 6.2, and Intel's description of SHA256RNDS2, SHA256MSG1 and SHA256MSG2.

use core::arch::x86_64::*;
use core::mem::transmute;

use super::{BLOCK, START};

/// First 32 bits of the fractional parts of the cube roots of the first 64 primes (FIPS 180-4, 4.2.2), by fours.
#[rustfmt::skip]
// SAFETY: both are 256 bytes of which every pattern is valid.
static K: [__m128i; 16] = unsafe {
    transmute::<[u32; 64], _>([
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
    ])
};

/// Says that the processor has the instructions: only [`Lanes::find`] makes one, and that is what the unsafe
/// call below rests on.
#[derive(Clone, Copy)]
pub struct Lanes(());

impl Lanes {
    /// None where the processor lacks the instructions.
    pub fn find() -> Option<Lanes> {
        let found = is_x86_feature_detected!("sha")
            && is_x86_feature_detected!("ssse3")
            && is_x86_feature_detected!("sse4.1");
        found.then_some(Lanes(()))
    }

    /// The states of both messages after as many blocks as the shorter one has.
    #[inline]
    pub fn compress(self, blocks: [&[[u8; BLOCK]]; 2]) -> [[u32; 8]; 2] {
        // SAFETY: a `Lanes` exists only where the processor has what the function is compiled for.
        unsafe { compress(blocks) }
    }
}

#[target_feature(enable = "sha,ssse3,sse4.1")]
fn compress(blocks: [&[[u8; BLOCK]]; 2]) -> [[u32; 8]; 2] {
    let mut lanes = [Lane::new(START); 2];
    for (one, other) in blocks[0].iter().zip(blocks[1]) {
        let before = lanes;
        let mut words = [load(one), load(other)];
        for (sixteen, k) in K.as_chunks::<4>().0.iter().enumerate() {
            for i in 0..4 {
                for (lane, w) in lanes.iter_mut().zip(&mut words) {
                    // The first sixteen words are the block's.
                    if sixteen > 0 {
                        w[i] = next(w[i], w[(i + 1) % 4], w[(i + 2) % 4], w[(i + 3) % 4]);
                    }
                    lane.rounds(_mm_add_epi32(w[i], k[i]));
                }
            }
        }
        for (lane, before) in lanes.iter_mut().zip(before) {
            lane.abef = _mm_add_epi32(lane.abef, before.abef);
            lane.cdgh = _mm_add_epi32(lane.cdgh, before.cdgh);
        }
    }
    lanes.map(|lane| lane.state())
}

/// A state as SHA256RNDS2 wants it; the first letter is the highest word.
#[derive(Clone, Copy)]
struct Lane {
    abef: __m128i,
    cdgh: __m128i,
}

impl Lane {
    #[inline]
    fn new([a, b, c, d, e, f, g, h]: [u32; 8]) -> Lane {
        // SAFETY: both are 32 bytes of which every pattern is valid.
        let [abef, cdgh] = unsafe { transmute::<[u32; 8], [__m128i; 2]>([f, e, b, a, h, g, d, c]) };
        Lane { abef, cdgh }
    }

    /// Four rounds, from the sums of their words and constants.
    #[inline]
    #[target_feature(enable = "sha")]
    fn rounds(&mut self, sums: __m128i) {
        // Two rounds leave a, b, e, f as c, d, g, h, so that the two take turns.
        self.cdgh = _mm_sha256rnds2_epu32(self.cdgh, self.abef, sums);
        self.abef = _mm_sha256rnds2_epu32(self.abef, self.cdgh, _mm_shuffle_epi32::<0x0e>(sums));
    }

    #[inline]
    fn state(self) -> [u32; 8] {
        let vectors = [self.abef, self.cdgh];
        // SAFETY: as in `new`.
        let [f, e, b, a, h, g, d, c] = unsafe { transmute::<[__m128i; 2], [u32; 8]>(vectors) };
        [a, b, c, d, e, f, g, h]
    }
}

/// The sixteen words of a block, which are big-endian.
#[inline]
#[target_feature(enable = "ssse3")]
fn load(block: &[u8; BLOCK]) -> [__m128i; 4] {
    let swap = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    let at = block.as_ptr().cast::<__m128i>();
    // SAFETY: a block is four times 16 bytes; they need no alignment.
    [0, 1, 2, 3].map(|i| _mm_shuffle_epi8(unsafe { _mm_loadu_si128(at.add(i)) }, swap))
}

/// Four words of the message schedule, from the sixteen before them.
#[inline]
#[target_feature(enable = "sha,ssse3")]
fn next(w0: __m128i, w4: __m128i, w8: __m128i, w12: __m128i) -> __m128i {
    let sum = _mm_add_epi32(_mm_sha256msg1_epu32(w0, w4), _mm_alignr_epi8::<4>(w12, w8));
    _mm_sha256msg2_epu32(sum, w12)
}
