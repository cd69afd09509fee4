//! How long the redactor takes; to be read, not judged by a machine:
//! `cargo test --release -p audit_core_tests --test sql_speed -- --ignored --nocapture`

use std::hint::black_box;
use std::time::Instant;

use audit_core::sql::cut::CutSink;
use audit_core::sql::redact::{Options, may_hold_secret, redact_into};
use audit_core::sql::split::statement_at;

fn measure(name: &str, text: &[u8], mut work: impl FnMut(&[u8])) {
    let rounds = 50_000_000 / (text.len() + 100);
    let start = Instant::now();
    for _ in 0..rounds {
        work(black_box(text));
    }
    let spent = start.elapsed().as_nanos() as f64 / rounds as f64;
    println!("{name:40} {:5} bytes {spent:9.0} ns", text.len());
}

#[test]
#[ignore = "a measurement"]
fn speed() {
    let short = b"SELECT o.id, o.created_at, c.address FROM orders o JOIN customers c USING (cid) WHERE o.id = $1 LIMIT 9";
    let role = b"ALTER ROLE application_user WITH LOGIN ENCRYPTED PASSWORD 'a secret of some length' VALID UNTIL 'now'";
    let pad = |text: &[u8]| [text, b"; ", &short.repeat(40)].concat()[..4096].to_vec();
    let long = pad(short);
    let long_role = pad(role);
    let mut out = Vec::with_capacity(1 << 16);
    for text in [&short[..], &long] {
        measure("may_hold_secret: no", text, |text| {
            black_box(may_hold_secret(text));
        });
        measure("statement_at", text, |text| {
            black_box(statement_at(text, 0));
        });
    }
    for text in [&short[..], &role[..], &long, &long_role] {
        measure("redact_into", text, |text| {
            out.clear();
            let mut sink = CutSink::new(&mut out, 1 << 16);
            redact_into(text, Options::default(), &mut sink);
            black_box(sink.finish());
        });
    }
    let huge = [
        &role[..],
        b"; SELECT '",
        &b"x'' \n".repeat(20_000_000),
        b"'",
    ]
    .concat();
    let start = Instant::now();
    let mut sink = CutSink::new(&mut out, 1 << 16);
    redact_into(&huge, Options::default(), &mut sink);
    assert_eq!(sink.finish().full_len, huge.len() as u64 - 13);
    println!("100 MB, cut and hashed: {:?}", start.elapsed());
}
