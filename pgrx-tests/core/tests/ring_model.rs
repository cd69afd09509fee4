//! The ring against a queue that does the same with no cleverness.

use std::collections::VecDeque;

use audit_core::ring::{
    Found, Leftover, Limit, MIN_CAPACITY, PushError, Pushed, RECORD_HEADER_LEN, Read,
};
use audit_core_tests::OwnedRing;
use proptest::prelude::*;

const CAPACITY: u64 = MIN_CAPACITY;

#[derive(Clone, Debug)]
enum Step {
    Push {
        payload: Vec<u8>,
        pid: u32,
        cut: usize,
        limit: Limit,
    },
    /// To the last byte.
    FillUp,
    /// Read this many records.
    Read(usize),
    /// Give back this share (of 4) of what was read.
    Release(usize),
    /// A new consumer, that knows only the position given back.
    Restart,
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    let len = prop_oneof![
        4 => 0usize..300,
        2 => 300usize..4000,
        1 => 4000usize..=CAPACITY as usize / 8 + 2,
    ];
    (len, any::<u8>()).prop_map(|(len, seed)| {
        let byte = |i: usize| (i as u8).wrapping_mul(31).wrapping_add(seed);
        (0..len).map(byte).collect()
    })
}

fn step() -> impl Strategy<Value = Step> {
    let limit = prop_oneof![Just(Limit::Whole), Just(Limit::ThreeQuarters)];
    prop_oneof![
        8 => (payload(), 1u32.., any::<prop::sample::Index>(), limit).prop_map(
            |(payload, pid, cut, limit)| Step::Push {
                cut: cut.index(payload.len() + 1),
                payload,
                pid,
                limit,
            }
        ),
        1 => Just(Step::FillUp),
        3 => prop_oneof![1usize..20, Just(10_000)].prop_map(Step::Read),
        2 => (1usize..=4).prop_map(Step::Release),
        1 => Just(Step::Restart),
    ]
}

/// Where the next record goes: what the layout rules say, computed the plain way.
fn expected_place(head: u64, len: usize) -> (u64, u64) {
    let need = (RECORD_HEADER_LEN + len.next_multiple_of(8)) as u64;
    let to_end = CAPACITY - head % CAPACITY;
    let start = if need > to_end { head + to_end } else { head };
    (start, start + need)
}

struct Record {
    payload: Vec<u8>,
    pid: u32,
    at: Pushed,
}

/// All records not yet given back; the first `read` of them were read.
#[derive(Default)]
struct Model {
    records: VecDeque<Record>,
    read: usize,
    head: u64,
    tail: u64,
    cursor: u64,
}

impl Model {
    fn push(&mut self, owned: &OwnedRing, step: &Step) -> Result<(), TestCaseError> {
        let Step::Push {
            payload,
            pid,
            cut,
            limit,
        } = step
        else {
            return Ok(());
        };
        let (a, b) = payload.split_at(*cut);
        let got = owned.ring().try_push(&[a, &[], b], *pid, *limit);
        let (start, end) = expected_place(self.head, payload.len());
        let expected = if payload.len() as u64 > CAPACITY / 8 {
            let (len, max) = (payload.len(), CAPACITY / 8);
            Err(PushError::TooLarge { len, max })
        } else if end - self.tail > limit.of(CAPACITY) {
            Err(PushError::Full)
        } else {
            let (from, fill) = (self.head, end - self.tail);
            Ok(Pushed {
                from,
                start,
                end,
                fill,
            })
        };
        prop_assert_eq!(got, expected);
        if let Ok(at) = got {
            self.head = end;
            let payload = payload.clone();
            self.records.push_back(Record {
                payload,
                pid: *pid,
                at,
            });
        }
        Ok(())
    }

    fn fill_up(&mut self, owned: &OwnedRing) -> Result<(), TestCaseError> {
        while self.head < self.tail + CAPACITY {
            let to_end = CAPACITY - self.head % CAPACITY;
            let room = (self.tail + CAPACITY - self.head)
                .min(to_end)
                .min(CAPACITY / 8);
            // Where no record fits before the end of the lap, an empty one pads over it.
            let len = (room as usize).saturating_sub(RECORD_HEADER_LEN);
            let push = Step::Push {
                payload: vec![1; len],
                pid: 1,
                cut: 0,
                limit: Limit::Whole,
            };
            let before = self.head;
            self.push(owned, &push)?;
            if self.head == before {
                break; // what is left is too small for a record
            }
        }
        Ok(())
    }

    fn read(&mut self, owned: &OwnedRing) -> Result<(), TestCaseError> {
        let mut out = vec![9; 3];
        let got = owned.consumer().read(self.cursor, &mut out);
        let Some(record) = self.records.get(self.read) else {
            prop_assert_eq!(got, Read::Empty);
            return Ok(());
        };
        let Pushed {
            start, end: next, ..
        } = record.at;
        let pid = record.pid;
        prop_assert_eq!(got, Read::Record { start, next, pid });
        prop_assert_eq!(&out, &record.payload);
        self.cursor = next;
        self.read += 1;
        Ok(())
    }

    fn release(&mut self, owned: &OwnedRing, share: usize) -> Result<(), TestCaseError> {
        let count = self.read * share / 4;
        if let Some(last) = self.records.drain(..count).next_back() {
            self.read -= count;
            self.tail = last.at.end;
            prop_assert_eq!(owned.consumer().release(self.tail), Ok(()));
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn ring_does_what_a_queue_does(steps in prop::collection::vec(step(), 1..400)) {
        let owned = OwnedRing::new(CAPACITY as usize, *b"ring for a model");
        let mut model = Model::default();
        for step in &steps {
            match step {
                Step::Push { .. } => model.push(&owned, step)?,
                Step::FillUp => model.fill_up(&owned)?,
                Step::Read(times) => {
                    for _ in 0..(*times).min(model.records.len() - model.read + 1) {
                        model.read(&owned)?;
                    }
                }
                Step::Release(share) => model.release(&owned, *share)?,
                Step::Restart => {
                    model.cursor = model.tail;
                    model.read = 0;
                }
            }
            prop_assert_eq!(owned.ring().head(), model.head);
            prop_assert_eq!(owned.ring().fill(), model.head - model.tail);
        }
        // The same records are recovered from the bytes of the file alone.
        let left = Leftover::open(owned.bytes()).unwrap();
        let mut recovered = left.recover(model.tail);
        for Record { payload, pid, at } in &model.records {
            let Pushed { start, end: next, .. } = *at;
            let expected = Found::Record { start, next, pid: *pid, payload };
            prop_assert_eq!(recovered.next(), Some(expected));
        }
        prop_assert_eq!(recovered.next(), None);
        // All given back: no byte of it is left.
        let cursor = model.head;
        prop_assert_eq!(owned.consumer().release(cursor), Ok(()));
        prop_assert!(owned.bytes()[4096..].iter().all(|b| *b == 0));
    }
}
