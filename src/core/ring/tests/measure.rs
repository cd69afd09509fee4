//! What a push costs, uncontended.

use super::*;

/// `cargo test -p audit_core --release --lib ns_per_push -- --ignored --nocapture`
#[test]
#[ignore = "prints a measurement"]
fn ns_per_push() {
    const PUSHES: u32 = 100_000;
    for (ring_size, name) in [(16 << 20, "16 MB"), (MIN_CAPACITY as usize, "64 kB")] {
        let pages = Pages::new(HEADER_LEN + ring_size);
        let ring = pages.create();
        let mut out = Vec::new();
        let mut cursor = 0;
        for size in [100, 300, 1000, 4000] {
            let payload = vec![7u8; size];
            // As the codec's: a fixed part, session, shape, text, and absent sections.
            let parts = [
                &payload[..50],
                &payload[50..80],
                &[],
                &payload[80..],
                &[],
                &[],
            ];
            let (mut pushing, mut draining) = (Vec::new(), Vec::new());
            for _ in 0..31 {
                let mut pushed = 0;
                let begin = std::time::Instant::now();
                while pushed < PUSHES && ring.try_push(&parts, 1, Limit::ThreeQuarters).is_ok() {
                    pushed += 1;
                }
                pushing.push(begin.elapsed().as_nanos() as f64 / f64::from(pushed));
                let begin = std::time::Instant::now();
                while let Read::Record { next, .. } = consumer(&ring).read(cursor, &mut out) {
                    cursor = next;
                }
                consumer(&ring).release(cursor).unwrap();
                draining.push(begin.elapsed().as_nanos() as f64 / f64::from(pushed));
            }
            for times in [&mut pushing, &mut draining] {
                times.sort_by(f64::total_cmp);
            }
            println!(
                "ring of {name}, {size:5} bytes: {:6.1} ns per push (median; best {:.1}), {:6.1} ns per read and release",
                pushing[15], pushing[0], draining[15]
            );
        }
    }
}
