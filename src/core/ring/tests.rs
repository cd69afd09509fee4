//! One process, one thread: each rule by itself. Random and concurrent use is in
//! `pgrx-tests/core` and `loom_tests.rs`.

use std::alloc::{Layout, alloc_zeroed, dealloc};

use super::layout::{Word, footprint, offsets};
use super::*;

mod references;

const ID: [u8; 16] = *b"0123456789abcdef";
const CAPACITY: usize = MIN_CAPACITY as usize;
const LEN: usize = HEADER_LEN + CAPACITY;

/// Memory as a mapping would be: zeroed and aligned to a page.
struct Pages(*mut u8, Layout);

impl Pages {
    fn new(len: usize) -> Pages {
        let layout = Layout::from_size_align(len, HEADER_LEN).unwrap();
        // SAFETY: the layout is not empty.
        Pages(unsafe { alloc_zeroed(layout) }, layout)
    }

    fn create(&self) -> Ring {
        // SAFETY: zeroed, and each test drops its rings before its pages.
        unsafe { Ring::create(self.0, self.1.size(), ID, 7) }.unwrap()
    }

    fn attach(&self) -> Result<Ring, AttachError> {
        // SAFETY: as above.
        unsafe { Ring::attach(self.0, self.1.size()) }
    }

    /// All bytes, between uses of the ring.
    #[allow(clippy::mut_from_ref)]
    fn bytes(&self) -> &mut [u8] {
        // SAFETY: one thread, and no test keeps them over a use of the ring.
        unsafe { std::slice::from_raw_parts_mut(self.0, self.1.size()) }
    }

    fn put_word(&self, position: u64, word: Word) {
        let at = HEADER_LEN + position as usize % CAPACITY;
        self.bytes()[at..at + 4].copy_from_slice(&word.pack().to_ne_bytes());
    }

    fn set_head(&self, head: u64) {
        self.bytes()[offsets::HEAD..offsets::HEAD + 8].copy_from_slice(&head.to_ne_bytes());
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: from `new`.
        unsafe { dealloc(self.0, self.1) }
    }
}

fn consumer(ring: &Ring) -> Consumer<'_> {
    // SAFETY: one thread.
    unsafe { ring.consumer() }
}

fn push(ring: &Ring, payload: &[u8]) -> Pushed {
    ring.try_push(&[payload], 42, Limit::Whole).unwrap()
}

/// The payload at a cursor, and the next cursor.
fn take(ring: &Ring, cursor: u64) -> (Vec<u8>, u64) {
    let mut out = Vec::new();
    match consumer(ring).read(cursor, &mut out) {
        Read::Record { next, pid: 42, .. } => (out, next),
        other => panic!("{other:?}"),
    }
}

/// A ring whose head and tail are 64 bytes before the end of the lap.
fn near_the_end(pages: &Pages) -> (Ring, u64) {
    let ring = pages.create();
    while ring.head() < (CAPACITY - 2048) as u64 {
        push(&ring, &[1; 1000]);
    }
    let rest = CAPACITY as u64 - ring.head() - 64;
    push(&ring, &vec![1; rest as usize - RECORD_HEADER_LEN]);
    consumer(&ring).release(ring.head()).unwrap();
    let head = ring.head();
    assert_eq!(head, CAPACITY as u64 - 64);
    (ring, head)
}

#[test]
fn what_goes_in_comes_out() {
    let pages = Pages::new(LEN);
    let ring = pages.create();
    assert_eq!(consumer(&ring).read(0, &mut Vec::new()), Read::Empty);
    let parts: [&[u8]; 4] = [b"fixed", b"", b" and ", b"sections"];
    let pushed = ring.try_push(&parts, 42, Limit::Whole).unwrap();
    assert_eq!(
        pushed,
        Pushed {
            from: 0,
            start: 0,
            end: 24 + 24,
            fill: 48
        }
    );
    let empty = push(&ring, b"");
    assert_eq!(
        empty,
        Pushed {
            from: 48,
            start: 48,
            end: 72,
            fill: 72
        }
    );
    assert_eq!(take(&ring, 0), (b"fixed and sections".to_vec(), 48));
    assert_eq!(take(&ring, 48), (Vec::new(), 72));
    assert_eq!(consumer(&ring).read(72, &mut Vec::new()), Read::Empty);
    assert_eq!(ring.fill(), 72);
    consumer(&ring).release(72).unwrap();
    assert_eq!((ring.fill(), ring.tail(), ring.head()), (0, 72, 72));
    assert!(pages.bytes()[HEADER_LEN..].iter().all(|b| *b == 0));
}

#[test]
fn attach_finds_what_create_made() {
    let pages = Pages::new(LEN);
    pages.create().mark().store(5, Ordering::Relaxed);
    push(&pages.create(), b"x");
    let ring = pages.attach().unwrap();
    assert_eq!(ring.id(), ID);
    assert_eq!(ring.created_at(), 7);
    assert_eq!(ring.capacity(), MIN_CAPACITY);
    assert_eq!(take(&ring, 0).0, b"x");
}

#[test]
fn a_header_says_whether_anything_was_put_in() {
    for put in [
        |ring: &Ring| _ = push(ring, b""),
        |ring: &Ring| ring.count_drop(1),
    ] {
        let pages = Pages::new(LEN);
        let ring = pages.create();
        let unused = || Leftover::check(pages.bytes(), LEN as u64).unwrap().unused;
        assert!(unused());
        put(&ring);
        assert!(!unused());
    }
}

#[test]
fn a_pad_leads_over_the_end() {
    let pages = Pages::new(LEN);
    let (ring, at) = near_the_end(&pages);
    let pushed = push(&ring, &[2; 100]);
    assert_eq!(pushed.start, CAPACITY as u64);
    assert_eq!(ring.memory.load_word(at, Ordering::Relaxed), Word::Pad(64));
    assert_eq!(take(&ring, at), (vec![2; 100], pushed.end));
    consumer(&ring).release(pushed.end).unwrap();
    assert!(pages.bytes()[HEADER_LEN..].iter().all(|b| *b == 0));
}

#[test]
fn a_pad_of_eight_bytes_and_a_record_that_just_fits() {
    let pages = Pages::new(LEN);
    let (ring, at) = near_the_end(&pages);
    let first = push(&ring, &[3; 32]);
    assert_eq!(first.end, CAPACITY as u64 - 8);
    let second = push(&ring, b"");
    assert_eq!(second.start, CAPACITY as u64);
    assert_eq!(take(&ring, at), (vec![3; 32], first.end));
    assert_eq!(take(&ring, first.end), (Vec::new(), second.end));

    let pages = Pages::new(LEN);
    let (ring, at) = near_the_end(&pages);
    assert_eq!(push(&ring, &[3; 40]).end, CAPACITY as u64);
    assert_eq!(take(&ring, at), (vec![3; 40], CAPACITY as u64));
}

#[test]
fn full_is_refused_and_nothing_is_written() {
    let pages = Pages::new(LEN);
    let ring = pages.create();
    let record = [4; 1001];
    while ring.try_push(&[&record], 42, Limit::ThreeQuarters).is_ok() {}
    assert!(ring.fill() <= MIN_CAPACITY * 3 / 4);
    assert!(ring.fill() > MIN_CAPACITY * 3 / 4 - 1032);
    assert!(!ring.is_filled_to(Limit::ThreeQuarters));
    while ring.try_push(&[&record], 42, Limit::Whole).is_ok() {}
    assert!(ring.is_filled_to(Limit::ThreeQuarters));
    let before = pages.bytes().to_vec();
    let refused = ring.try_push(&[&record], 42, Limit::Whole);
    assert_eq!(refused, Err(PushError::Full));
    assert_eq!(pages.bytes(), before);
    // To the last byte.
    let rest = (MIN_CAPACITY - ring.fill()) as usize;
    push(&ring, &vec![5; rest - RECORD_HEADER_LEN]);
    assert_eq!(ring.fill(), MIN_CAPACITY);
    let refused = ring.try_push(&[], 42, Limit::Whole);
    assert_eq!(refused, Err(PushError::Full));
}

/// In a ring that is full to the last byte, head and tail are one place: what lies there is the
/// oldest record, not one that comes after the newest. (Found by the soak.)
#[test]
fn nothing_follows_the_newest_record_of_a_full_ring() {
    let pages = Pages::new(LEN);
    let (ring, from) = near_the_end(&pages);
    let mut cursor = from;
    push(&ring, &[6; 100]); // after a PAD, which is now at tail
    while ring.fill() < MIN_CAPACITY {
        let rest = (MIN_CAPACITY - ring.fill()) as usize;
        push(&ring, &vec![6; rest.min(1024) - RECORD_HEADER_LEN]);
    }
    while cursor < ring.head() {
        cursor = take(&ring, cursor).1;
    }
    assert_eq!(consumer(&ring).read(cursor, &mut Vec::new()), Read::Empty);
    consumer(&ring).release(cursor).unwrap();
    assert_eq!(consumer(&ring).read(cursor, &mut Vec::new()), Read::Empty);
}

#[test]
fn an_eighth_is_the_largest() {
    let pages = Pages::new(LEN);
    let ring = pages.create();
    let payload = vec![6; CAPACITY / 8 + 1];
    let too_large = ring.try_push(&[&payload[..10], &payload[10..]], 42, Limit::Whole);
    let (len, max) = (CAPACITY / 8 + 1, MIN_CAPACITY / 8);
    assert_eq!(too_large, Err(PushError::TooLarge { len, max }));
    push(&ring, &payload[1..]);
    assert_eq!(take(&ring, 0).0, payload[1..]);
}

#[test]
fn a_producer_that_died_is_seen_and_skipped() {
    let pages = Pages::new(LEN);
    let ring = pages.create();
    let dead = push(&ring, &[7; 50]);
    push(&ring, b"after");
    let mut out = Vec::new();
    let pending = |len, pid, next| Read::Pending {
        at: 0,
        len,
        pid,
        next,
    };

    // Died while copying.
    pages.put_word(0, Word::Reserved(50));
    let seen = consumer(&ring).read(0, &mut out);
    assert_eq!(seen, pending(Some(50), Some(42), Some(dead.end)));
    // Died after the word.
    pages.bytes()[HEADER_LEN + 4..HEADER_LEN + dead.end as usize].fill(0);
    let seen = consumer(&ring).read(0, &mut out);
    assert_eq!(seen, pending(Some(50), None, Some(dead.end)));
    // Died before the word.
    pages.put_word(0, Word::Empty);
    let seen = consumer(&ring).read(0, &mut out);
    assert_eq!(seen, pending(None, None, None));
    assert_eq!(consumer(&ring).resync(0, ring.head()), dead.end);
    assert_eq!(take(&ring, dead.end).0, b"after");
}

#[test]
fn resync_stops_at_a_record_that_is_still_being_copied() {
    let pages = Pages::new(LEN);
    let ring = pages.create();
    push(&ring, &[8; 50]);
    let copying = push(&ring, b"is being copied");
    push(&ring, b"done");
    pages.put_word(copying.start, Word::Reserved(15));
    // After garbage, because its header is right...
    pages.bytes()[HEADER_LEN + 30] ^= 1;
    assert_eq!(consumer(&ring).resync(0, ring.head()), copying.start);
    // ...and after a hole, because a hole is zero.
    pages.bytes()[HEADER_LEN..HEADER_LEN + copying.start as usize].fill(0);
    pages.bytes()[HEADER_LEN + copying.start as usize + 4..][..20].fill(0);
    assert_eq!(consumer(&ring).resync(0, ring.head()), copying.start);
}

#[test]
fn resync_without_anything_to_find_ends_at_the_limit() {
    let pages = Pages::new(LEN);
    let ring = pages.create();
    push(&ring, &[9; 500]);
    pages.bytes()[HEADER_LEN + 8] ^= 1;
    assert_eq!(consumer(&ring).resync(0, ring.head()), ring.head());
    assert_eq!(consumer(&ring).resync(u64::MAX, u64::MAX), u64::MAX);
    assert_eq!(consumer(&ring).resync(800, 8), 800);
}

#[test]
fn resync_is_not_led_astray_by_a_payload() {
    let pages = Pages::new(LEN);
    let ring = pages.create();
    // A payload that holds a whole record of this ring, but of another place.
    push(&ring, b"the original");
    let copy = pages.bytes()[HEADER_LEN..][..ring.head() as usize].to_vec();
    let bait = push(&ring, &copy);
    let after = push(&ring, b"after");
    pages.bytes()[HEADER_LEN + bait.start as usize + 4] ^= 1;
    let at = bait.start;
    let why = Corruption::Checksum;
    let read = consumer(&ring).read(at, &mut Vec::new());
    assert_eq!(read, Read::Corrupt { at, why });
    assert_eq!(consumer(&ring).resync(at, ring.head()), after.start);
}

#[test]
fn every_kind_of_damage_is_named() {
    let damage = |at: usize, value: u8| {
        let pages = Pages::new(LEN);
        let ring = pages.create();
        push(&ring, b"a record");
        pages.bytes()[HEADER_LEN + at] ^= value;
        match consumer(&ring).read(0, &mut Vec::new()) {
            Read::Corrupt { at: 0, why } => why,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(damage(0, 16), Corruption::Length(24));
    assert_eq!(damage(1, 16), Corruption::Length(4096 + 8));
    assert_eq!(damage(3, 0b0100_0000), Corruption::Length(8)); // a PAD
    assert_eq!(damage(3, 0b1000_0000), Corruption::Word);
    assert_eq!(damage(4, 1), Corruption::Checksum);
    assert_eq!(damage(8, 8), Corruption::Position(8));
    assert_eq!(damage(16, 1), Corruption::Header);
    assert_eq!(damage(20, 4), Corruption::Format(7));
    assert_eq!(damage(22, 1), Corruption::Header);
    assert_eq!(damage(24, 1), Corruption::Checksum);
}

#[test]
fn a_cursor_outside_is_refused() {
    let pages = Pages::new(LEN);
    let ring = pages.create();
    push(&ring, b"first");
    push(&ring, b"second");
    consumer(&ring).release(32).unwrap();
    let why = Corruption::Cursor { tail: 32, head: 64 };
    for at in [0, 33, 72, u64::MAX] {
        let read = consumer(&ring).read(at, &mut Vec::new());
        assert_eq!(read, Read::Corrupt { at, why });
    }
    for upto in [0, 33, 72, u64::MAX] {
        let (tail, head) = (32, 64);
        let refused = consumer(&ring).release(upto);
        assert_eq!(refused, Err(Misplaced { upto, tail, head }));
    }
    assert_eq!(take(&ring, 32), (b"second".to_vec(), 64));
}

#[test]
fn impossible_positions_are_refused() {
    let pages = Pages::new(LEN);
    let ring = pages.create();
    for head in [4, MIN_CAPACITY + 8, u64::MAX, u64::MAX - 7] {
        pages.set_head(head);
        let broken = PushError::Broken { head, tail: 0 };
        assert_eq!(ring.try_push(&[b"x"], 1, Limit::Whole), Err(broken));
        let capacity = MIN_CAPACITY;
        let positions = AttachError::Positions {
            head,
            tail: 0,
            capacity,
        };
        assert_eq!(pages.attach().err(), Some(positions));
        assert!(consumer(&ring).release(head).is_err());
        assert!(ring.fill() <= MIN_CAPACITY);
    }
}

#[test]
fn a_damaged_header_is_named() {
    let fresh = || {
        let pages = Pages::new(LEN);
        pages.create();
        pages
    };
    let text = |pages: &Pages| pages.attach().err().unwrap().to_string();
    let pages = fresh();
    pages.bytes()[0] = b'\n';
    assert_eq!(text(&pages), "it begins with \"\\nUDITRNG\"");
    let pages = fresh();
    pages.bytes()[8] = 4;
    assert_eq!(text(&pages), "format 4 is unknown, 3 is expected");
    for at in 12..56 {
        let pages = fresh();
        pages.bytes()[at] ^= 1;
        assert!(text(&pages).starts_with("the header's CRC is "));
    }
    let short = Pages::new(LEN - HEADER_LEN);
    short.bytes()[..HEADER_LEN].copy_from_slice(&fresh().bytes()[..HEADER_LEN]);
    assert_eq!(text(&short), "65536 bytes, 69632 are expected");
    let pages = fresh();
    // SAFETY: within the pages.
    let error = unsafe { Ring::attach(pages.0, 100) }.err().unwrap();
    assert_eq!(error, AttachError::TooShort { len: 100 });
    // SAFETY: within the pages.
    let error = unsafe { Ring::attach(pages.0.add(8), LEN - 8) };
    assert!(matches!(error, Err(AttachError::Unaligned { .. })));
    let zero = Pages::new(LEN);
    assert!(matches!(zero.attach(), Err(AttachError::Magic { .. })));
    for len in [0, 1, HEADER_LEN - 1, HEADER_LEN, LEN - 1] {
        assert!(Leftover::open(&fresh().bytes()[..len]).is_err());
    }
    let odd = Pages::new(HEADER_LEN + 3 * CAPACITY);
    // SAFETY: as `create`.
    let error = unsafe { Ring::create(odd.0, odd.1.size(), ID, 0) }.err();
    let found = 3 * MIN_CAPACITY;
    assert_eq!(error, Some(AttachError::Capacity { found }));
}

#[test]
fn drops_are_taken_once_and_again_only_after_a_rollback() {
    let pages = Pages::new(LEN);
    let ring = pages.create();
    let consumer = consumer(&ring);
    assert_eq!(consumer.take_dropped(0), None);
    let dropped = |count, first, last, total| {
        Some(Dropped {
            count,
            first,
            last,
            total,
        })
    };
    ring.count_drop(20);
    ring.count_drop(10);
    assert_eq!(consumer.take_dropped(0), dropped(2, 10, 20, 2));
    ring.count_drop(30);
    // Rolled back: the same ones and the new one.
    assert_eq!(consumer.take_dropped(0), dropped(3, 10, 30, 3));
    // Committed.
    assert_eq!(consumer.take_dropped(3), None);
    ring.count_drop(40);
    let left = Leftover::open(pages.bytes()).unwrap();
    assert_eq!(left.dropped(3), dropped(1, 40, 40, 4));
    assert_eq!(left.dropped(0), dropped(4, 10, 40, 4));
    assert_eq!(consumer.take_dropped(3), dropped(1, 40, 40, 4));
    let left = Leftover::open(pages.bytes()).unwrap();
    assert_eq!(left.dropped(3), dropped(1, 40, 40, 4));
    // A trail that knows more than the file: nothing new.
    assert_eq!(consumer.take_dropped(9), None);
    assert_eq!(ring.dropped_total(), 4);
}

#[test]
fn a_leftover_gives_records_and_gaps_in_order() {
    let pages = Pages::new(LEN);
    let (ring, from) = near_the_end(&pages);
    let lost = push(&ring, &[1; 8]);
    let kept = push(&ring, b"");
    assert_eq!(lost.end, kept.start);
    let over = push(&ring, &[2; 300]); // after a PAD
    assert_eq!(over.start, kept.end + 8);
    let unpublished = push(&ring, b"never published");
    pages.bytes()[HEADER_LEN + lost.start as usize + 24] ^= 1;
    pages.put_word(unpublished.start, Word::Reserved(15));
    let record = |pushed: Pushed, payload| Found::Record {
        start: pushed.start,
        next: pushed.end,
        pid: 42,
        payload,
    };
    let gap = |pushed: Pushed| Found::Gap {
        start: pushed.start,
        next: pushed.end,
    };
    let expected = [
        gap(lost),
        record(kept, b""),
        record(over, &[2; 300]),
        gap(unpublished),
    ];
    let left = Leftover::open(pages.bytes()).unwrap();
    assert_eq!(left.recover(from).collect::<Vec<_>>(), expected);
    assert_eq!(left.recover(kept.start).collect::<Vec<_>>(), expected[1..]);
    // From long ago: all that is there, after a gap.
    let all = left.recover(0).collect::<Vec<_>>();
    assert_eq!(all[1..], expected[1..]);
    assert!(matches!(all[0], Found::Gap { start: 0, next } if next == kept.start));
    // A stale head: nothing of what is there depends on it.
    pages.set_head(from);
    let left = Leftover::open(pages.bytes()).unwrap();
    assert_eq!(left.recover(from).collect::<Vec<_>>(), expected[..3]);
    assert_eq!(left.recover(u64::MAX).next(), None);
}

#[test]
fn footprints() {
    assert_eq!([0, 1, 8, 9].map(footprint), [24, 32, 32, 40]);
}

#[test]
fn positions_lie_where_records_of_them_do() {
    let pages = Pages::new(LEN);
    let ring = pages.create();
    let capacity = ring.capacity();
    let laps = 3 * capacity;
    let places = |from, to| ring.places(from..to);
    assert_eq!(places(laps + 8, laps + 72), [8..72, 0..0]);
    assert_eq!(places(laps - 8, laps), [capacity - 8..capacity, 0..0]);
    assert_eq!(places(laps - 8, laps + 64), [capacity - 8..capacity, 0..64]);
    // From somewhere in one lap to just before it in the next: nearly all, in two pieces.
    assert_eq!(
        places(laps + 64, laps + 56 + capacity),
        [64..capacity, 0..56]
    );
    // As much as the ring holds, or more.
    assert_eq!(places(laps + 64, laps + 64 + capacity), [0..capacity, 0..0]);
    assert_eq!(places(0, 5 * capacity), [0..capacity, 0..0]);
    // Nothing.
    assert_eq!(places(laps + 64, laps + 64), [64..64, 0..0]);
    assert_eq!(places(laps + 64, laps), [64..64, 0..0]);
}
