//! CRC-32C of records and slots.
//!
//! The crate is made for long inputs: three interleaved streams, tables, cuts at aligned addresses.
//! A record has some hundred bytes, a header 24, and each is checked on the path of a statement.
//! There one stream of the same instruction is half the work, and little code to have in the cache.

/// From here on three streams are worth their tables.
const LONG: usize = 1024;

/// CRC-32C of `bytes`.
#[inline]
pub fn crc32c(bytes: &[u8]) -> u32 {
    append(0, bytes)
}

/// CRC-32C of what `crc` is the CRC-32C of, followed by `bytes`. One copy of it: the look
/// for the instruction at each call would be more code than the loop.
#[unsafe(link_section = "audit_hot")]
#[inline(never)]
pub fn append(crc: u32, bytes: &[u8]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if bytes.len() < LONG && has_instruction() {
        // SAFETY: the processor has the instruction.
        return unsafe { short(crc, bytes) };
    }
    long(crc, bytes)
}

/// Whether the processor has the instruction. (The standard library knows, in a place that nothing else on the path of
/// a statement looks at.)
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn has_instruction() -> bool {
    use std::sync::atomic::{AtomicU8, Ordering};
    const UNKNOWN: u8 = 2;
    #[unsafe(link_section = "audit_data")]
    static KNOWN: AtomicU8 = AtomicU8::new(UNKNOWN);

    #[cold]
    fn ask() -> u8 {
        let known = std::arch::is_x86_feature_detected!("sse4.2").into();
        KNOWN.store(known, Ordering::Relaxed);
        known
    }
    let known = KNOWN.load(Ordering::Relaxed);
    (if known == UNKNOWN { ask() } else { known }) == 1
}

#[cold]
#[inline(never)]
fn long(crc: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc, bytes)
}

/// # Safety
/// The processor has SSE 4.2.
#[cfg(target_arch = "x86_64")]
#[unsafe(link_section = "audit_hot")]
#[target_feature(enable = "sse4.2")]
unsafe fn short(crc: u32, bytes: &[u8]) -> u32 {
    use std::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u64};
    let mut rest = bytes;
    let mut crc = !crc;
    // One loop for words and bytes: of two the compiler would unroll the first.
    while let Some(byte) = rest.first() {
        if let Some((word, behind)) = rest.split_first_chunk::<8>() {
            crc = _mm_crc32_u64(u64::from(crc), u64::from_le_bytes(*word)) as u32;
            rest = behind;
        } else {
            crc = _mm_crc32_u8(crc, *byte);
            rest = &rest[1..];
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720, B.4.
    #[test]
    fn the_published_examples() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn every_length_and_place_as_the_crate_has_it() {
        let bytes: Vec<u8> = (0..LONG + 40).map(|i| (i * 7 + i / 3) as u8).collect();
        for from in 0..9 {
            for to in from..bytes.len() {
                let piece = &bytes[from..to];
                assert_eq!(
                    append(0x1234_5678, piece),
                    crc32c::crc32c_append(0x1234_5678, piece),
                    "{from}..{to}"
                );
            }
        }
    }
}
