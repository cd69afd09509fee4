//! How long faults are played: once each in `make test`, many times in `make soak`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| {
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is {value:?}, and must be a number"))
    })
}

/// Plays `fault` so often: AUDIT_SOAK times, or `short` times.
pub fn rounds(short: u64, mut fault: impl FnMut()) {
    for round in 1..=number("AUDIT_SOAK", short) {
        if round > short {
            eprintln!("{} round {round}", thread::current().name().unwrap_or(""));
        }
        fault();
    }
}

/// As [`rounds`] with faults that one cluster can take one after the other: `play` is told how many.
pub fn series(short: u64, mut play: impl FnMut(u64)) {
    const MOST: u64 = 10;
    let mut left = number("AUDIT_SOAK", short);
    while left > 0 {
        let faults = left.min(MOST);
        play(faults);
        left -= faults;
        if left > 0 {
            eprintln!(
                "{}: {left} faults more",
                thread::current().name().unwrap_or("")
            );
        }
    }
}

/// How long the mixed run is: AUDIT_SOAK_MINUTES, or some seconds.
pub fn mixed_run() -> Duration {
    match number("AUDIT_SOAK_MINUTES", 0) {
        0 => Duration::from_secs(12),
        minutes => Duration::from_secs(60 * minutes),
    }
}

/// A number below `bound`, another one at each call. The first seed is printed with a failure's
/// output, as all of the run follows from it and from the scheduler.
pub fn random(bound: u64) -> u64 {
    static STATE: AtomicU64 = AtomicU64::new(0);
    let mut state = STATE.load(Ordering::Relaxed);
    if state == 0 {
        state = number("AUDIT_SEED", u64::from(std::process::id())) | 1;
        eprintln!("AUDIT_SEED={state}");
    }
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    STATE.store(state, Ordering::Relaxed);
    state % bound.max(1)
}

/// Waits a random while, at most `most` milliseconds: faults come at any moment.
pub fn a_while(most: u64) {
    thread::sleep(Duration::from_micros(random(most * 1000)));
}
