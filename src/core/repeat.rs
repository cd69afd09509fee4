//! The encoding in the ring of an event that repeats another one.
//!
//! The same session runs the same text again: such an event is a [`Repeat`],
//! which names the record that holds session, shape and text:
//!
//! ```text
//! 0   u8  format version 2     1  u8 outcome    2  u8 fate      3  5 bytes zero
//! 8   u64 position of that record in the same ring
//! 16  i64 started_at           24 i64 duration
//! 32  u64 event_no             40 u64 statement_id
//! 48  u32 substatement_id      52 u32 depth
//! 56  u64 transaction_id       64 i64 rows
//! ```
//!
//! The ring sees to it that this record can still be read (crate::ring, "References").

use crate::codec::{Corrupt, u32_at, u64_at};
use crate::event::{Fate, Numbers, Outcome};

/// The first byte of such a payload; the others begin with [`crate::codec::FORMAT_VERSION`].
pub const REPEAT_VERSION: u8 = 2;

/// An event that differs in its numbers alone from one that the same session pushed before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeat {
    /// Position of the record that holds session, shape and text.
    pub of: u64,
    pub numbers: Numbers,
}

/// Length of an encoded [`Repeat`].
pub const REPEAT_LEN: usize = 72;

/// Encodes a repeat: of a statement that did not fail and whose text was not cut.
#[inline]
pub fn encode_repeat(of: u64, numbers: &Numbers) -> [u8; REPEAT_LEN] {
    let head = u64::from_le_bytes([
        REPEAT_VERSION,
        numbers.outcome as u8,
        numbers.fate as u8,
        0,
        0,
        0,
        0,
        0,
    ]);
    let words = [
        head,
        of,
        numbers.started_at as u64,
        numbers.duration as u64,
        numbers.event_no,
        numbers.statement_id,
        u64::from(numbers.depth) << 32 | u64::from(numbers.substatement_id),
        numbers.transaction_id,
        numbers.rows as u64,
    ];
    let mut out = [0; REPEAT_LEN];
    for (to, word) in out.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    out
}

/// Reads what [`encode_repeat`] wrote; `None`: it is a payload of the other kind, for [`decode`].
pub fn decode_repeat(payload: &[u8]) -> Option<Result<Repeat, Corrupt>> {
    if payload.first() != Some(&REPEAT_VERSION) {
        return None;
    }
    if payload.len() != REPEAT_LEN {
        return Some(Err(Corrupt::Length));
    }
    let (Some(outcome), Some(fate)) = (Outcome::from_u8(payload[1]), Fate::from_u8(payload[2]))
    else {
        return Some(Err(Corrupt::Value));
    };
    Some(Ok(Repeat {
        of: u64_at(payload, 8),
        numbers: Numbers {
            outcome,
            fate,
            started_at: u64_at(payload, 16) as i64,
            duration: u64_at(payload, 24) as i64,
            event_no: u64_at(payload, 32),
            statement_id: u64_at(payload, 40),
            substatement_id: u32_at(payload, 48),
            depth: u32_at(payload, 52),
            transaction_id: u64_at(payload, 56),
            rows: u64_at(payload, 64) as i64,
            ..Numbers::default()
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Encoded, FORMAT_VERSION, SECTIONS, Section, decode};

    #[test]
    fn a_repeat_comes_back() {
        let numbers = Numbers {
            started_at: -5,
            duration: 7,
            event_no: u64::MAX,
            statement_id: 3,
            substatement_id: u32::MAX,
            depth: 2,
            transaction_id: 9,
            rows: -1,
            outcome: Outcome::Unfinished,
            fate: Fate::Committed,
            ..Numbers::default()
        };
        let encoded = encode_repeat(4096, &numbers);
        assert_eq!(
            decode_repeat(&encoded),
            Some(Ok(Repeat { of: 4096, numbers }))
        );
        assert!(decode(&encoded).is_err());
        for cut in 1..REPEAT_LEN {
            assert_eq!(decode_repeat(&encoded[..cut]), Some(Err(Corrupt::Length)));
        }
        for wrong in [1, 2] {
            let mut other = encoded;
            other[wrong] = 9;
            assert_eq!(decode_repeat(&other), Some(Err(Corrupt::Value)));
        }
        assert_eq!(decode_repeat(&[]), None);
        assert_eq!(decode_repeat(&[FORMAT_VERSION; 200]), None);
    }

    #[test]
    fn a_repeated_event_has_its_own_numbers_and_nothing_else_of_its_own() {
        let mut sections = [None; SECTIONS];
        sections[..3].fill(Some(&b"kept"[..]));
        sections[Section::Error as usize] = Some(b"not");
        sections[Section::Decisions as usize] = Some(b"not");
        let payload = Encoded::new(&Numbers::default(), sections).parts().concat();
        let numbers = Numbers {
            event_no: 8,
            ..Numbers::default()
        };
        let repeated = decode(&payload).unwrap().repeated(numbers);
        assert_eq!(repeated.numbers, numbers);
        assert_eq!(repeated.section(Section::Statement), Some(&b"kept"[..]));
        assert_eq!(repeated.section(Section::Error), None);
        assert_eq!(repeated.decisions().count(), 0);
    }
}
