//! How the trail keeps the numbers of an event: one short byte string instead of a dozen columns.
//!
//! A typical event needs 8 to 13 bytes, where columns would take 70. Columns that a query filters
//! on in bulk (`seq`, `recorded_at`, `started_at`, the references) stay columns; `started_at` is
//! therefore not part of this encoding.
//!
//! ```text
//! byte 0   bits 0-1 outcome, 2-3 fate
//!          bit 4 usual: event_no and statement_id present, substatement_id 1, depth 0
//!          bit 5 duration, bit 6 rows, bit 7 a second byte of flags follows
//! byte 1   bit 0 transaction_id, 1 sqlstate, 2 statement_length,
//!          3 event_no, 4 statement_id, 5 substatement_id, 6 depth; bit 7 is zero
//! then     the fields that are present, in this order, each a LEB128 number:
//!          event_no, statement_id, substatement_id, depth, duration, rows, transaction_id,
//!          sqlstate, statement_length
//! ```
//!
//! Where bit 4 is set, statement_id is kept as its zigzag difference to event_no. A field that is
//! absent has the value that [`Numbers::default`] gives it. Equal numbers are always written as
//! equal bytes.

use crate::event::{Fate, Numbers, Outcome};

const USUAL: u8 = 1 << 4;
const DURATION: u8 = 1 << 5;
const ROWS: u8 = 1 << 6;
const MORE: u8 = 1 << 7;

const TRANSACTION_ID: u8 = 1 << 0;
const SQLSTATE: u8 = 1 << 1;
const STATEMENT_LENGTH: u8 = 1 << 2;
const EVENT_NO: u8 = 1 << 3;
const STATEMENT_ID: u8 = 1 << 4;
const SUBSTATEMENT_ID: u8 = 1 << 5;
const DEPTH: u8 = 1 << 6;

/// The longest encoding: two bytes of flags, six 64-bit and three or four 32-bit numbers.
pub const MAX_LEN: usize = 2 + 6 * 10 + 4 * 5;

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// Appends the encoding of `n` to `out`. A negative duration or number of rows is "unknown".
pub fn encode(n: &Numbers, out: &mut Vec<u8>) {
    let usual = n.event_no != 0 && n.statement_id != 0 && n.substatement_id == 1 && n.depth == 0;
    let flag = |present: bool, bit: u8| if present { bit } else { 0 };
    let mut more = flag(n.transaction_id != 0, TRANSACTION_ID)
        | flag(n.sqlstate != 0, SQLSTATE)
        | flag(n.statement_length != 0, STATEMENT_LENGTH);
    if !usual {
        more |= flag(n.event_no != 0, EVENT_NO)
            | flag(n.statement_id != 0, STATEMENT_ID)
            | flag(n.substatement_id != 0, SUBSTATEMENT_ID)
            | flag(n.depth != 0, DEPTH);
    }
    out.push(
        n.outcome as u8
            | (n.fate as u8) << 2
            | flag(usual, USUAL)
            | flag(n.duration >= 0, DURATION)
            | flag(n.rows >= 0, ROWS)
            | flag(more != 0, MORE),
    );
    if more != 0 {
        out.push(more);
    }
    if usual {
        put(out, n.event_no);
        put(out, zigzag(n.statement_id.wrapping_sub(n.event_no) as i64));
    } else {
        for (bit, value) in [
            (EVENT_NO, n.event_no),
            (STATEMENT_ID, n.statement_id),
            (SUBSTATEMENT_ID, u64::from(n.substatement_id)),
            (DEPTH, u64::from(n.depth)),
        ] {
            if more & bit != 0 {
                put(out, value);
            }
        }
    }
    if n.duration >= 0 {
        put(out, n.duration as u64);
    }
    if n.rows >= 0 {
        put(out, n.rows as u64);
    }
    for (bit, value) in [
        (TRANSACTION_ID, n.transaction_id),
        (SQLSTATE, u64::from(n.sqlstate)),
        (STATEMENT_LENGTH, u64::from(n.statement_length)),
    ] {
        if more & bit != 0 {
            put(out, value);
        }
    }
}

/// Takes LEB128 numbers off the front of a byte string.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            let part = u64::from(byte & 0x7f);
            // The tenth byte holds the last bit; a zero byte at the end isn't canonical.
            if (shift == 63 && part > 1) || (shift > 0 && byte == 0) {
                return None;
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn number_if(&mut self, present: bool) -> Option<u64> {
        if present { self.number() } else { Some(0) }
    }

    fn signed_if(&mut self, present: bool) -> Option<i64> {
        if present {
            i64::try_from(self.number()?).ok()
        } else {
            Some(-1)
        }
    }
}

/// Reads what [`encode`] wrote; `None` for anything else. `started_at` is left 0.
pub fn decode(bytes: &[u8]) -> Option<Numbers> {
    let mut r = Reader(bytes);
    let flags = r.byte()?;
    let more = if flags & MORE != 0 { r.byte()? } else { 0 };
    if more & 0x80 != 0 || (flags & MORE != 0 && more == 0) {
        return None;
    }
    let mut n = Numbers {
        outcome: Outcome::from_u8(flags & 3)?,
        fate: Fate::from_u8(flags >> 2 & 3)?,
        ..Numbers::default()
    };
    if flags & USUAL != 0 {
        n.event_no = r.number()?;
        n.statement_id = n.event_no.wrapping_add(unzigzag(r.number()?) as u64);
        n.substatement_id = 1;
    } else {
        n.event_no = r.number_if(more & EVENT_NO != 0)?;
        n.statement_id = r.number_if(more & STATEMENT_ID != 0)?;
        n.substatement_id = u32::try_from(r.number_if(more & SUBSTATEMENT_ID != 0)?).ok()?;
        n.depth = u32::try_from(r.number_if(more & DEPTH != 0)?).ok()?;
    }
    n.duration = r.signed_if(flags & DURATION != 0)?;
    n.rows = r.signed_if(flags & ROWS != 0)?;
    n.transaction_id = r.number_if(more & TRANSACTION_ID != 0)?;
    n.sqlstate = u32::try_from(r.number_if(more & SQLSTATE != 0)?).ok()?;
    n.statement_length = u32::try_from(r.number_if(more & STATEMENT_LENGTH != 0)?).ok()?;
    r.0.is_empty().then_some(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(n: &Numbers) -> Vec<u8> {
        let mut out = Vec::new();
        encode(n, &mut out);
        out
    }

    fn usual() -> Numbers {
        Numbers {
            duration: 180,
            event_no: 1_000_000,
            statement_id: 1_000_001,
            substatement_id: 1,
            rows: 1,
            fate: Fate::Committed,
            ..Numbers::default()
        }
    }

    #[test]
    fn a_plain_statement_is_short() {
        let n = usual();
        assert_eq!(bytes(&n).len(), 8);
        assert_eq!(decode(&bytes(&n)), Some(n));
    }

    #[test]
    fn extremes_come_back() {
        let n = Numbers {
            started_at: 0,
            duration: i64::MAX,
            event_no: u64::MAX,
            statement_id: 1,
            substatement_id: u32::MAX,
            depth: u32::MAX,
            transaction_id: u64::MAX,
            rows: i64::MAX,
            sqlstate: u32::MAX,
            statement_length: u32::MAX,
            outcome: Outcome::Unfinished,
            fate: Fate::Prepared,
        };
        assert!(bytes(&n).len() <= MAX_LEN);
        assert_eq!(decode(&bytes(&n)), Some(n));
        let n = Numbers {
            substatement_id: 1,
            depth: 0,
            ..n
        };
        assert_eq!(decode(&bytes(&n)), Some(n));
        let n = Numbers::default();
        assert_eq!(bytes(&n), [0]);
        assert_eq!(decode(&[0]), Some(n));
    }

    #[test]
    fn garbage_is_refused() {
        assert_eq!(decode(b""), None);
        assert_eq!(decode(&[0, 0]), None, "bytes left over");
        assert_eq!(decode(&[MORE, 0]), None, "an empty second byte");
        assert_eq!(decode(&[ROWS, 0x81, 0x00]), None, "not the shortest form");
        let mut long = vec![ROWS];
        long.extend([0xff; 10]);
        assert_eq!(decode(&long), None, "more than 64 bits");
        let whole = bytes(&usual());
        for cut in 0..whole.len() {
            assert_eq!(decode(&whole[..cut]), None, "cut at {cut}");
        }
    }
}
