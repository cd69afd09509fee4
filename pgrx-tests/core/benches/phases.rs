//! What each phase of an event costs, as far as it is pure code: ns per statement, everything in
//! the processor's caches. `make microbench`; figures are to be read, not judged by a machine.
//! (What the hooks do beside that is counted on a real server: `make instructions`.)

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use audit_core::codec::{Encoded, SECTIONS, ShapeWriter, decode, encode_session, put_parameter};
use audit_core::event::{Class, Classes, Numbers, Session};
use audit_core::level::Level;
use audit_core::numbers;
use audit_core::record::{Field, Record, field_digest, field_salt};
use audit_core::repeat::{decode_repeat, encode_repeat};
use audit_core::ring::{HEADER_LEN, Limit, Read, Ring};
use audit_core::sha::Messages;
use audit_core::slot::{Begun, SLOT_LEN, Slots, Statement};
use audit_core::sql::cut::CutSink;
use audit_core::sql::redact::{Options, may_hold_secret, redact_into};
use audit_core::sql::split::statement_at;
use audit_core::tree::Frontier;

const TEXT: &[u8] = b"SELECT abalance FROM pgbench_accounts WHERE aid = $1;";
const SECRET: &[u8] = b"ALTER ROLE application_user WITH LOGIN ENCRYPTED PASSWORD 'a secret of some length' VALID UNTIL 'now'";
const CAPACITY: usize = 16 << 20;

/// Median and best ns of a round, over 31 of them.
fn time(title: &str, per_run: usize, mut work: impl FnMut()) {
    const RUN: Duration = Duration::from_millis(10);
    let begin = Instant::now();
    let mut rounds = 0u32;
    while begin.elapsed() < RUN {
        work();
        rounds += 1;
    }
    let mut times: Vec<_> = (0..31)
        .map(|_| {
            let begin = Instant::now();
            for _ in 0..rounds {
                work();
            }
            begin.elapsed().as_nanos() as f64 / f64::from(rounds) / per_run as f64
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!("{title:62} {:9.1} ns (best {:.1})", times[15], times[0]);
}

/// Memory for a ring, or for slots: zeroes, aligned to pages, never given back.
fn pages(len: usize) -> *mut u8 {
    let layout = std::alloc::Layout::from_size_align(len, 4096).expect("a size");
    // SAFETY: the size isn't 0.
    let base = unsafe { std::alloc::alloc_zeroed(layout) };
    assert!(!base.is_null());
    base
}

fn ring() -> Ring {
    let base = pages(HEADER_LEN + CAPACITY);
    // SAFETY: that long, zeroed, used by this ring only.
    unsafe { Ring::create(base, HEADER_LEN + CAPACITY, [7; 16], 0) }.expect("a ring")
}

/// What a prepared SELECT of pgbench puts into the ring.
struct Sample {
    session: Vec<u8>,
    shape: Vec<u8>,
    parameters: Vec<u8>,
    payload: Vec<u8>,
}

fn session() -> Session<'static> {
    Session {
        started_at: 800_000_000_000_000,
        pid: 4711,
        encoding: 6,
        user_name: Some(b"postgres"),
        role_name: Some(b"postgres"),
        database_name: Some(b"postgres"),
        application_name: Some(b"pgbench"),
        backend_type: Some(b"client backend"),
        ..Session::default()
    }
}

fn sample_numbers() -> Numbers {
    Numbers {
        started_at: 800_000_123_456_789,
        duration: 23,
        event_no: 123_456,
        statement_id: 123_456,
        substatement_id: 1,
        rows: 1,
        ..Numbers::default()
    }
}

fn write_shape(out: &mut Vec<u8>) {
    let object = Some((&b"TABLE"[..], &b"public.pgbench_accounts"[..]));
    ShapeWriter::new(out, Classes::of(Class::Read), 0, b"SELECT", object)
        .relation(b"public.pgbench_accounts");
}

impl Sample {
    fn new() -> Sample {
        let mut sample = Sample {
            session: Vec::new(),
            shape: Vec::new(),
            parameters: Vec::new(),
            payload: Vec::new(),
        };
        encode_session(&session(), &mut sample.session);
        write_shape(&mut sample.shape);
        put_parameter(&mut sample.parameters, Some(b"123456"));
        let parts = Encoded::new(&sample_numbers(), sample.sections())
            .parts()
            .concat();
        sample.payload = parts;
        sample
    }

    fn sections(&self) -> [Option<&[u8]>; SECTIONS] {
        let mut sections = [None; SECTIONS];
        sections[0] = Some(&self.session[..]);
        sections[1] = Some(&self.shape[..]);
        sections[2] = Some(TEXT);
        sections[4] = Some(&self.parameters[..]);
        sections
    }
}

fn backend(sample: &Sample) {
    println!("-- in the backend");
    let (level, read) = (
        Level::parse("write").expect("a level"),
        Classes::of(Class::Read),
    );
    time("selection: does the level ask for it", 1, || {
        black_box(black_box(level).could_record(black_box(read)));
    });
    let mut out = Vec::with_capacity(1 << 16);
    time("names: the shape laid out", 1, || {
        write_shape(black_box(&mut out));
    });
    time("session's attributes encoded (once per change)", 1, || {
        out.clear();
        encode_session(black_box(&session()), &mut out);
    });
    let long = [TEXT, b" "].concat().repeat(76);
    let long_secret = [SECRET, b"; ", &long].concat();
    for (what, text) in [("short", TEXT), ("4 kB", &long)] {
        time(&format!("text, {what}, new: where it ends"), 1, || {
            black_box(statement_at(black_box(text), 0));
        });
        time(
            &format!("text, {what}, new: may it hold a secret"),
            1,
            || {
                black_box(may_hold_secret(black_box(text)));
            },
        );
    }
    for (what, text) in [("short", SECRET), ("4 kB", &long_secret)] {
        time(&format!("redaction, {what}, with a password"), 1, || {
            out.clear();
            let mut sink = CutSink::new(&mut out, 1 << 16);
            redact_into(black_box(text), Options::default(), &mut sink);
            black_box(sink.finish());
        });
    }
    // SAFETY: one slot, in memory that stays.
    let slots = unsafe { Slots::new(pages(SLOT_LEN), 1) };
    let slot = slots.claim(42, 7).expect("one is free");
    slot.set_session(&sample.session);
    let mut number = 0;
    time(
        "in-flight slot: opened, finished, pushed, closed",
        1,
        || {
            number += 1;
            let statement = Statement {
                statement_id: number,
                command: b"SELECT",
                object_type: b"TABLE",
                object_name: b"public.pgbench_accounts",
                relations: b"public.pgbench_accounts\0",
                text: black_box(TEXT),
                ..Statement::default()
            };
            slot.open(0, &statement, false);
            slot.finish(0, 1, 1);
            slot.begin_push(number, 0, number as i64);
            slot.close(0);
            slot.end_push();
        },
    );
    time(
        "in-flight slot: the same, held by the entry before",
        1,
        || {
            number += 1;
            let begun = Begun {
                statement_id: number,
                ..Begun::default()
            };
            slot.reopen(0, black_box(&begun), false);
            slot.finish(0, 1, 1);
            slot.begin_push(number, 0, number as i64);
            slot.close(0);
            slot.end_push();
        },
    );
    time("encode: a repeat", 1, || {
        black_box(encode_repeat(black_box(4096), black_box(&sample_numbers())));
    });
    time("encode: put together in one piece", 1, || {
        out.clear();
        let encoded = Encoded::new(black_box(&sample_numbers()), sample.sections());
        for part in encoded.parts() {
            out.extend_from_slice(part);
        }
    });
}

/// How many records fit into three quarters of the ring.
const PUSHES: usize = 20_000;

fn through_the_ring(payload: &[u8]) {
    let ring = ring();
    let mut cursor = 0;
    let mut out = Vec::new();
    let mut drain = |ring: &Ring| {
        // SAFETY: the only consumer.
        let consumer = unsafe { ring.consumer() };
        while let Read::Record { next, .. } = consumer.read(cursor, &mut out) {
            cursor = next;
        }
        consumer.release(cursor).expect("what was read");
    };
    let (mut pushing, mut draining) = (Vec::new(), Vec::new());
    for _ in 0..31 {
        let begin = Instant::now();
        for _ in 0..PUSHES {
            ring.try_push(&[payload], 1, Limit::Whole).expect("room");
        }
        pushing.push(begin.elapsed().as_nanos() as f64 / PUSHES as f64);
        let begin = Instant::now();
        drain(&ring);
        draining.push(begin.elapsed().as_nanos() as f64 / PUSHES as f64);
    }
    for (title, times) in [
        ("push", &mut pushing),
        ("read, checked, zeroed", &mut draining),
    ] {
        times.sort_by(f64::total_cmp);
        let title = format!("ring: {title} ({} bytes, one at a time)", payload.len());
        println!("{title:62} {:9.1} ns (best {:.1})", times[15], times[0]);
    }
}

/// The push as producers see it who compete with another one and with the consumer.
fn percentiles(payload: &[u8]) {
    const SAMPLES: usize = 2_000_000;
    let ring = ring();
    let done = AtomicBool::new(false);
    let mut taken = std::thread::scope(|scope| {
        let (ring, done) = (&ring, &done);
        scope.spawn(move || {
            let (mut cursor, mut out) = (0, Vec::new());
            // SAFETY: the only consumer.
            let consumer = unsafe { ring.consumer() };
            while !done.load(Ordering::Relaxed) {
                while let Read::Record { next, .. } = consumer.read(cursor, &mut out) {
                    cursor = next;
                }
                consumer.release(cursor).expect("what was read");
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let producers: Vec<_> = (1..=2)
            .map(|pid| {
                scope.spawn(move || {
                    let mut taken = Vec::with_capacity(SAMPLES);
                    while taken.len() < SAMPLES {
                        let begin = Instant::now();
                        let pushed = ring.try_push(&[payload], pid, Limit::Whole);
                        let took = begin.elapsed();
                        match pushed {
                            Ok(_) => taken.push(took.as_nanos() as u32),
                            Err(_) => std::thread::sleep(Duration::from_millis(1)),
                        }
                    }
                    taken
                })
            })
            .collect();
        let taken: Vec<_> = producers
            .into_iter()
            .flat_map(|p| p.join().expect("a producer"))
            .collect();
        done.store(true, Ordering::Relaxed);
        taken
    });
    taken.sort_unstable();
    let at = |share: f64| taken[(share * (taken.len() - 1) as f64) as usize];
    println!(
        "ring: push beside another producer and the consumer, with the clock: p50 {} ns, p99 {} ns, p99.99 {} ns",
        at(0.5),
        at(0.99),
        at(0.9999)
    );
}

fn worker(sample: &Sample) {
    println!("-- in the worker");
    time("decode", 1, || {
        black_box(decode(black_box(&sample.payload)).expect("what was encoded"));
    });
    let mut out = Vec::new();
    let repeat = encode_repeat(4096, &sample_numbers());
    time("decode: a repeat", 1, || {
        let decoded = decode_repeat(black_box(&repeat)).expect("a repeat");
        black_box(decoded.expect("what was encoded"));
    });
    time("numbers packed", 1, || {
        out.clear();
        numbers::encode(black_box(&sample_numbers()), &mut out);
    });
    let salt = [7; 16];
    time(
        "digest of the parameters, with the salt of the field",
        1,
        || {
            let salt = field_salt(black_box(&salt), Field::Parameters);
            black_box(field_digest(Field::Parameters, &salt, b"{123456}"));
        },
    );
    let digest = [3; 32];
    let record = Record {
        seq: 1,
        recorded_at: 2,
        started_at: 3,
        session: digest,
        statement: digest,
        fields: [None, None, None, Some(digest), None],
        fates: None,
        batch: None,
        numbers: &out,
    };
    time("leaf of the tree", 1, || {
        black_box(black_box(&record).leaf());
    });
    let (mut messages, mut leaves) = (Messages::default(), Vec::new());
    time("256 leaves together, each", 256, || {
        for _ in 0..256 {
            black_box(&record).add_to(&mut messages);
        }
        messages.hash(&mut leaves);
    });
    let mut tree = Frontier::default();
    time("leaf added to the tree", 1, || {
        tree.push(black_box(digest));
    });
    time("256 leaves added together, each", 256, || {
        tree.extend(black_box(&leaves));
    });
}

fn large() {
    println!("-- large texts");
    let text = [SECRET, b"; SELECT '", &b"x'' \n".repeat(20_000_000), b"'"].concat();
    let mut out = Vec::with_capacity(1 << 16);
    let begin = Instant::now();
    let mut sink = CutSink::new(&mut out, 1 << 16);
    redact_into(&text, Options::default(), &mut sink);
    assert!(sink.finish().sha256.is_some());
    println!("100 MB redacted, cut and hashed: {:.0?}", begin.elapsed());
}

fn main() {
    let sample = Sample::new();
    backend(&sample);
    println!("-- through the ring");
    let repeat = encode_repeat(4096, &sample_numbers());
    through_the_ring(&sample.payload);
    through_the_ring(&repeat);
    percentiles(&repeat);
    worker(&sample);
    large();
}
