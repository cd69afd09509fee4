//! The two roles.

use std::os::unix::process::parent_id;
use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;
use std::thread::sleep;
use std::time::Duration;

use audit_core::ring::{Consumer, Limit, PushError, Read, Ring};

use super::files::{Board, Mapping, Place, Random, Record, Trail};

const BATCH: usize = 200;

fn attach(directory: &Path) -> Ring {
    let mapping = Mapping::open(&directory.join("ring"));
    // SAFETY: mapped until the process ends.
    unsafe { Ring::attach(mapping.base, mapping.len) }.expect("a ring")
}

/// Pushes records 0, 1, 2... until told to stop, or killed.
pub fn produce(directory: &Path, number: usize) {
    let ring = attach(directory);
    let board = Board::open(directory);
    let place = &board.places[number];
    let pid = std::process::id();
    place.pid.store(pid, SeqCst);
    let mut random = Random(number as u64);
    let mut record = Record {
        producer: number as u64,
        number: 0,
    };
    let parent = parent_id();
    while board.stop.load(SeqCst) == 0 && parent_id() == parent {
        let size = match random.below(10) {
            0 => random.below(ring.capacity() / 8 - 16),
            1..3 => random.below(4000),
            _ => random.below(500),
        };
        let filler = vec![record.filler(); size as usize];
        place.calls.fetch_add(1, SeqCst);
        let pushed = ring.try_push(&[&record.to_bytes(), &filler], pid, Limit::Whole);
        place.calls.fetch_add(1, SeqCst);
        match pushed {
            Ok(_) => {
                record.number += 1;
                place.acknowledged.store(record.number, SeqCst);
            }
            Err(PushError::Full) => on_full(&ring, place, &mut random),
            Err(error) => panic!("{error}"),
        }
    }
}

fn on_full(ring: &Ring, place: &Place, random: &mut Random) {
    if random.below(4) == 0 {
        ring.count_drop(random.below(1000) as i64);
        place.dropped.fetch_add(1, SeqCst);
    }
    sleep(Duration::from_micros(random.below(200)));
}

/// Stores what comes until told to stop, or killed.
pub fn consume(directory: &Path) {
    let ring = attach(directory);
    let board = Board::open(directory);
    let mut trail = Trail::open(directory);
    // SAFETY: the parent starts a consumer only when the last one is dead.
    let consumer = unsafe { ring.consumer() };
    // What the last one stored but did not come to give back.
    consumer
        .release(trail.position)
        .expect("the trail's position");
    let mut random = Random(std::process::id().into());
    let parent = parent_id();
    while parent_id() == parent {
        let stop = board.stop.load(SeqCst);
        let (records, position) = batch(&ring, &consumer, &board, trail.position);
        let dropped = consumer.take_dropped(trail.told);
        if position == trail.position && dropped.is_none() {
            if stop == 2 {
                return;
            }
            sleep(Duration::from_micros(100));
            continue;
        }
        let (count, told) = dropped.map_or((0, trail.told), |d| (d.count, d.total));
        trail.append(&records, position, count, told);
        consumer.release(position).expect("what was read");
        if random.below(50) == 0 {
            sleep(Duration::from_millis(3)); // so that the ring fills up
        }
    }
}

fn batch(ring: &Ring, consumer: &Consumer, board: &Board, from: u64) -> (Vec<Record>, u64) {
    let mut out = Vec::new();
    let mut records = Vec::new();
    let mut cursor = from;
    while records.len() < BATCH {
        match consumer.read(cursor, &mut out) {
            Read::Empty => break,
            Read::Record { next, .. } => {
                records.push(Record::of_payload(&out));
                cursor = next;
            }
            Read::Corrupt { at, why } => {
                panic!(
                    "at {at}: {why}; cursor {cursor}, tail {}, head {}",
                    ring.tail(),
                    ring.head()
                )
            }
            Read::Pending { .. } => match over_hole(ring, consumer, board, cursor) {
                Some(next) => cursor = next,
                None => break,
            },
        }
    }
    (records, cursor)
}

/// Waits a while for a record to be published, and where its producer is dead gives where to go on.
fn over_hole(ring: &Ring, consumer: &Consumer, board: &Board, cursor: u64) -> Option<u64> {
    let head = ring.head();
    let before = calls(board);
    for _ in 0..50 {
        sleep(Duration::from_micros(100));
        // After all who could own the hole are known to be dead or gone on, it can't change.
        let settled = board.places.iter().zip(&before).all(|(place, calls)| {
            calls.is_multiple_of(2) || place.calls.load(SeqCst) != *calls || is_dead(place)
        });
        match consumer.read(cursor, &mut Vec::new()) {
            Read::Pending { at, next, .. } if settled => {
                board.holes.fetch_add(1, SeqCst);
                return Some(next.unwrap_or_else(|| consumer.resync(at, head)));
            }
            Read::Pending { .. } => {}
            _ => return Some(cursor),
        }
    }
    None
}

fn calls(board: &Board) -> Vec<u64> {
    board.places.iter().map(|p| p.calls.load(SeqCst)).collect()
}

fn is_dead(place: &Place) -> bool {
    let pid = rustix::process::Pid::from_raw(place.pid.load(SeqCst) as i32);
    pid.is_none_or(|pid| rustix::process::test_kill_process(pid).is_err())
}
