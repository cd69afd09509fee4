//! Records that refer to earlier ones, and how long these stand.

use super::*;

#[test]
fn a_reference_reaches_a_sixteenth_of_the_ring() {
    let pages = Pages::new(LEN);
    let ring = pages.create();
    let reach = ring.reach();
    assert_eq!(reach, CAPACITY as u64 / 16);
    let first = ring.try_push(&[b"first"], 1, Limit::Whole).unwrap();
    let mut last = first.end;
    while last <= first.start + reach {
        let near = ring.try_push_referring(&[b"near"], 1, Limit::Whole, first.start);
        last = near.unwrap().end;
    }
    let head = ring.head();
    let far = ring.try_push_referring(&[b"far"], 1, Limit::Whole, first.start);
    assert_eq!(
        far,
        Err(PushError::TooFar {
            refers_to: first.start
        })
    );
    assert_eq!(ring.head(), head, "nothing was reserved");
    // What it refers to can be read for as long as it is not given back.
    let mut out = Vec::new();
    let read = consumer(&ring).read(first.start, &mut out);
    assert!(matches!(read, Read::Record { start, .. } if start == first.start) && out == b"first");
}

#[test]
fn the_drained_position_lies_between_tail_and_head() {
    let pages = Pages::new(LEN);
    let ring = pages.create();
    let one = ring.try_push(&[b"one"], 1, Limit::Whole).unwrap();
    let two = ring.try_push(&[b"two"], 1, Limit::Whole).unwrap();
    assert_eq!((ring.drained(), ring.waiting()), (0, two.end));
    ring.set_drained(two.start);
    assert_eq!(
        (ring.drained(), ring.waiting()),
        (two.start, two.end - two.start)
    );
    assert_eq!(ring.fill(), two.end, "its bytes stand");
    // What was scribbled over counts for nothing.
    for wrong in [two.end + 8, two.start + 1, u64::MAX] {
        ring.set_drained(wrong);
        assert_eq!(ring.drained(), 0);
    }
    // Nor is it ever behind the tail.
    consumer(&ring).release(one.end).unwrap();
    ring.set_drained(0);
    assert_eq!(
        (ring.drained(), ring.waiting()),
        (one.end, two.end - one.end)
    );
    ring.set_drained(two.end);
    let leftover = Leftover::open(pages.bytes()).unwrap();
    assert_eq!(leftover.drained(), two.end);
    assert_eq!(leftover.payload_at(two.start), Some(&b"two"[..]));
    assert_eq!(leftover.payload_at(one.start), None, "given back");
    assert_eq!(
        leftover.payload_at(two.start + CAPACITY as u64),
        None,
        "another lap"
    );
}
