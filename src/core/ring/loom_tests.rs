//! The protocol under all interleavings and all reorderings that its orderings allow.

use loom::sync::Arc;
use loom::thread;

use super::layout::sync::Ordering;
use super::*;

const CAPACITY: u64 = 128;
const ID: [u8; 16] = *b"a ring for loom!";

fn ring(start: u64) -> Arc<Ring> {
    let memory = Memory::new(CAPACITY, start);
    Arc::new(Ring::new(memory, CAPACITY, 0, ID, 0))
}

fn check(preemptions: usize, scenario: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(scenario);
}

/// Longer than 8 bytes, and its later words look like words: the trap for a stale payload.
fn payload(producer: u8, number: u8) -> [u8; 12] {
    let mut bytes = [0xBF; 12];
    bytes[0] = producer;
    bytes[1] = number;
    bytes
}

/// Reads what is there, at most `times`, then gives it back: as in the worker the cursor is ahead
/// of tail, up to a ring that is full of what was read.
fn drain(ring: &Ring, cursor: &mut u64, times: usize, got: &mut Vec<(u8, u8)>) {
    // SAFETY: only one thread drains at a time.
    let consumer = unsafe { ring.consumer() };
    let mut out = Vec::new();
    for _ in 0..times {
        match consumer.read(*cursor, &mut out) {
            Read::Record { next, pid, .. } => {
                assert_eq!(out, payload(pid as u8, out[1]));
                got.push((out[0], out[1]));
                *cursor = next;
            }
            // No yield_now: loom would let the producers run to their end first.
            Read::Empty | Read::Pending { .. } => {}
            Read::Corrupt { at, why } => panic!("at {at}: {why}"),
        }
    }
    consumer
        .release(*cursor)
        .expect("what was read can be released");
}

/// What each producer managed to push, in order.
fn produce(ring: &Ring, producer: u8, records: u8) -> Vec<(u8, u8)> {
    (0..records)
        .filter(|number| {
            let bytes = payload(producer, *number);
            let (a, b) = bytes.split_at(3);
            match ring.try_push(&[a, b], producer.into(), Limit::Whole) {
                Ok(_) => true,
                Err(PushError::Full) => false,
                Err(e) => panic!("{e}"),
            }
        })
        .map(|number| (producer, number))
        .collect()
}

/// Two producers and a consumer; everything that was accepted arrives once, in order.
fn two_producers(start: u64, first: u8, second: u8, reads: usize) {
    let ring = ring(start);
    let a = {
        let ring = ring.clone();
        thread::spawn(move || produce(&ring, 1, first))
    };
    let b = {
        let ring = ring.clone();
        thread::spawn(move || produce(&ring, 2, second))
    };
    let (mut cursor, mut got) = (start, Vec::new());
    drain(&ring, &mut cursor, reads, &mut got);
    let pushed = [a.join().unwrap(), b.join().unwrap()];
    drain(&ring, &mut cursor, 5, &mut got);
    for (producer, pushed) in (1..).zip(pushed) {
        let arrived = got.iter().filter(|r| r.0 == producer).copied();
        assert_eq!(arrived.collect::<Vec<_>>(), pushed);
    }
    assert_eq!((ring.head(), ring.tail()), (cursor, cursor));
    for place in (0..CAPACITY).step_by(8) {
        let word = ring.memory.load_word(place, Ordering::Relaxed);
        assert_eq!(word, layout::Word::Empty);
    }
}

/// Records of 40 bytes in 128: the second straddles the end and takes a PAD of 8; the fourth finds
/// the ring full unless the consumer was there.
#[test]
fn loom_wrap_pad_and_full() {
    check(2, || two_producers(80, 2, 2, 2));
}

/// Begins at the place where the very first reservation has to pad.
#[test]
fn loom_race_for_the_pad() {
    check(3, || two_producers(120, 1, 1, 2));
}

/// A payload of the last lap lies where the words of the next one will be.
#[test]
fn loom_second_lap_over_payload() {
    check(2, || two_producers(0, 3, 1, 3));
}

/// Drops are counted exactly while the consumer takes them, also when it takes them again.
#[test]
fn loom_drops_are_exact() {
    check(3, || {
        let ring = ring(0);
        let threads = [10, 20].map(|now| {
            let ring = ring.clone();
            thread::spawn(move || ring.count_drop(now))
        });
        // SAFETY: one consumer at a time.
        let consumer = unsafe { ring.consumer() };
        let lost = consumer.take_dropped(0); // its transaction is rolled back
        let taken = consumer.take_dropped(0);
        assert!(lost.map_or(0, |d| d.count) <= taken.map_or(0, |d| d.count));
        for thread in threads {
            thread.join().unwrap();
        }
        let told = taken.map_or(0, |d| d.total);
        let rest = consumer.take_dropped(told);
        let takes = || taken.iter().chain(&rest);
        assert_eq!(takes().map(|d| d.count).sum::<u64>(), 2);
        assert_eq!(takes().map(|d| d.first).min(), Some(10));
        assert_eq!(takes().map(|d| d.last).max(), Some(20));
        assert!(takes().all(|d| d.first <= d.last));
        assert_eq!(consumer.take_dropped(2), None);
    });
}
