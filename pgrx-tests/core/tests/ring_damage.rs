//! Whatever happens to the bytes: no panic, no access outside, nothing delivered that was not
//! pushed, and what was not touched is found again.

use std::collections::BTreeMap;

use audit_core::ring::{Found, HEADER_LEN, Leftover, Limit, MIN_CAPACITY, Read};
use audit_core_tests::OwnedRing;
use proptest::prelude::*;

const ID: [u8; 16] = *b"ring for damages";

#[derive(Clone, Debug)]
enum Damage {
    FlipBit {
        at: usize,
        bit: u8,
    },
    /// As a page that was not written: of an older age, or zero.
    Fill {
        at: usize,
        len: usize,
        value: u8,
    },
    /// Bytes of elsewhere in the ring, at an aligned place: the best forgery.
    Copy {
        from: usize,
        to: usize,
        len: usize,
    },
    Number {
        at: usize,
        value: u64,
    },
}

/// Half of it in the part where the records are, a good part in the header.
fn place() -> impl Strategy<Value = usize> {
    prop_oneof![
        1 => 0usize..1024,
        4 => HEADER_LEN..HEADER_LEN + 8000,
        2 => HEADER_LEN..HEADER_LEN + MIN_CAPACITY as usize,
    ]
}

fn interesting() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        0u64..200_000,
        Just(u64::MAX),
        Just(u64::MAX - 7),
        (0u64..40_000).prop_map(|n| n * 8),
        (0u64..4, 0u64..10_000).prop_map(|(state, len)| state << 30 | len),
    ]
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (place(), 0u8..8).prop_map(|(at, bit)| Damage::FlipBit { at, bit }),
        (place(), 1usize..5000, prop_oneof![Just(0), any::<u8>()])
            .prop_map(|(at, len, value)| Damage::Fill { at, len, value }),
        (place(), place(), 1usize..3000).prop_map(|(from, to, len)| {
            let (from, to) = (from & !7, to & !7);
            Damage::Copy { from, to, len }
        }),
        (place(), interesting()).prop_map(|(at, value)| Damage::Number { at: at & !7, value }),
    ]
}

/// Applies it; gives the range of bytes that may differ.
fn apply(bytes: &mut [u8], damage: &Damage) -> std::ops::Range<usize> {
    let end = bytes.len();
    match *damage {
        Damage::FlipBit { at, bit } => {
            bytes[at] ^= 1 << bit;
            at..at + 1
        }
        Damage::Fill { at, len, value } => {
            let range = at..(at + len).min(end);
            bytes[range.clone()].fill(value);
            range
        }
        Damage::Copy { from, to, len } => {
            let len = len.min(end - from).min(end - to);
            bytes.copy_within(from..from + len, to);
            to..to + len
        }
        Damage::Number { at, value } => {
            bytes[at..at + 8].copy_from_slice(&value.to_ne_bytes());
            at..at + 8
        }
    }
}

type Pushed = BTreeMap<u64, (u64, u32, Vec<u8>)>;

/// A ring with an older lap drained if `laps`, and records by position.
fn filled(laps: usize, sizes: &[usize]) -> (OwnedRing, Pushed) {
    let owned = OwnedRing::new(MIN_CAPACITY as usize, ID);
    let ring = owned.ring();
    for _ in 0..laps * 12 {
        ring.try_push(&[&[1; 6000]], 5, Limit::Whole).unwrap();
        owned.consumer().release(ring.head()).unwrap();
    }
    let mut pushed = Pushed::new();
    for (number, size) in (1u32..).zip(sizes) {
        let payload = vec![number as u8; *size];
        if let Ok(at) = ring.try_push(&[&payload], number, Limit::Whole) {
            pushed.insert(at.start, (at.end, number, payload));
        }
    }
    (owned, pushed)
}

/// Walks as the worker does: records, and over damage by resync.
fn walk(owned: &OwnedRing, from: u64, pushed: &Pushed) -> Result<Vec<u64>, TestCaseError> {
    let (ring, consumer) = (owned.ring(), owned.consumer());
    let mut cursor = from;
    let mut out = Vec::new();
    let mut found = Vec::new();
    for _ in 0..100_000 {
        let after = match consumer.read(cursor, &mut out) {
            Read::Empty => return Ok(found),
            Read::Record { start, next, pid } => {
                prop_assert_eq!(pushed.get(&start), Some(&(next, pid, out.clone())));
                found.push(start);
                next
            }
            Read::Pending {
                next: Some(next), ..
            } => next,
            Read::Pending { at, next: None, .. } | Read::Corrupt { at, .. } => {
                consumer.resync(at, ring.head())
            }
        };
        if after <= cursor {
            // Only where nothing can be expected to go on: head itself is damaged.
            prop_assert!(ring.head() <= cursor, "no progress at {}", cursor);
            return Ok(found);
        }
        // Giving back must be safe with whatever positions are there.
        let _ = consumer.release(after);
        cursor = after;
    }
    Err(TestCaseError::fail("no end"))
}

fn recovered(file: &[u8], from: u64, pushed: &Pushed) -> Result<Vec<u64>, TestCaseError> {
    let Ok(left) = Leftover::open(file) else {
        return Ok(Vec::new());
    };
    let _ = left.dropped(0);
    let mut found = Vec::new();
    let mut cursor = from;
    for item in left.recover(from) {
        let (start, next) = match item {
            Found::Gap { start, next } => (start, next),
            Found::Record {
                start,
                next,
                pid,
                payload,
            } => {
                let expected = Some(&(next, pid, payload.to_vec()));
                prop_assert_eq!(pushed.get(&start), expected);
                found.push(start);
                (start, next)
            }
        };
        prop_assert!(cursor <= start && start < next);
        cursor = next;
    }
    Ok(found)
}

fn untouched(pushed: &Pushed, damaged: &[std::ops::Range<usize>]) -> Vec<u64> {
    let place = |position: u64| HEADER_LEN + (position % MIN_CAPACITY) as usize;
    let whole = |(start, (end, ..)): (&u64, &(u64, u32, Vec<u8>))| {
        let from = place(*start);
        let upto = from + (end - start) as usize;
        let hit = damaged.iter().any(|d| d.start < upto && from < d.end);
        (!hit).then_some(*start)
    };
    pushed.iter().filter_map(whole).collect()
}

proptest! {
    #[test]
    fn damage_is_survived_and_nothing_false_is_delivered(
        laps in 0usize..3,
        sizes in prop::collection::vec(0usize..2000, 1..40),
        damages in prop::collection::vec(damage(), 1..6),
    ) {
        let (mut owned, pushed) = filled(laps, &sizes);
        let from = owned.ring().tail();
        let ranges = damages.iter().map(|d| apply(owned.bytes_mut(), d)).collect::<Vec<_>>();
        let constant_is_whole = ranges.iter().all(|r| r.start >= 128);
        let header_is_whole = ranges.iter().all(|r| r.start >= HEADER_LEN);
        let expected = untouched(&pushed, &ranges);

        let found = recovered(owned.bytes(), from, &pushed)?;
        if constant_is_whole {
            prop_assert!(expected.iter().all(|start| found.contains(start)));
        }
        // From anywhere, too.
        recovered(owned.bytes(), 0, &pushed)?;
        recovered(owned.bytes(), u64::MAX - 7, &pushed)?;

        // The live ring goes on in damaged memory.
        owned.ring().count_drop(1);
        let mut pushed = pushed;
        if let Ok(at) = owned.ring().try_push(&[b"later"], 9, Limit::Whole) {
            pushed.insert(at.start, (at.end, 9, b"later".to_vec()));
        }
        if header_is_whole {
            walk(&owned, from, &pushed)?;
        }
        call_everything(&owned, from);
    }

    #[test]
    fn a_hostile_header_never_panics(
        header in prop::collection::vec(any::<u8>(), HEADER_LEN),
        constant_is_right in any::<bool>(),
        numbers in prop::collection::vec((0usize..100, interesting()), 0..12),
        cut in prop_oneof![3 => Just(0usize), 1 => 0usize..70_000],
    ) {
        let owned = OwnedRing::new(MIN_CAPACITY as usize, ID);
        let mut file = owned.bytes().to_vec();
        let kept = if constant_is_right { 128 } else { 0 };
        file[kept..HEADER_LEN].copy_from_slice(&header[kept..]);
        for (at, value) in numbers {
            let at = (kept + 8 * at).min(HEADER_LEN - 8);
            file[at..at + 8].copy_from_slice(&value.to_ne_bytes());
        }
        file.truncate(file.len() - cut.min(file.len()));
        recovered(&file, 0, &Pushed::new())?;
        match OwnedRing::attach(&file) {
            Ok(owned) => call_everything(&owned, owned.ring().tail()),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}

/// All calls with whatever comes; only that they return matters.
fn call_everything(owned: &OwnedRing, from: u64) {
    let (ring, consumer) = (owned.ring(), owned.consumer());
    let mut out = Vec::new();
    for cursor in [from, 0, ring.tail(), ring.head(), u64::MAX - 7] {
        let _ = consumer.read(cursor, &mut out);
        let _ = consumer.resync(cursor, ring.head());
        let _ = consumer.release(cursor);
        let _ = ring.try_push(&[b"x"], 1, Limit::Whole);
        let _ = (ring.fill(), consumer.take_dropped(cursor));
    }
}
