//! Processes that push, drain and are killed, over a real mapped file.
//!
//! Several producers push numbered records; they are SIGKILLed at random and replaced. One
//! consumer stores them in a file that plays the trail, and is SIGKILLed and restarted from the
//! position that the trail holds. At the end every record that was acknowledged is in the trail
//! exactly once and in its producer's order, and nothing else is, but perhaps the one that a killed
//! producer was pushing.
//!
//! `SOAK_SECONDS` (10): for both rounds together; `cargo test ... -- --nocapture` shows counts.

mod child;
mod files;

use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use audit_core::ring::{Found, HEADER_LEN, Leftover, Ring};
use files::{Board, Mapping, Random, Record, Trail};

const CAPACITY: usize = 256 * 1024;
const PRODUCERS_AT_ONCE: usize = 3;

const ROLE: &str = "SOAK_ROLE";
const DIRECTORY: &str = "SOAK_DIRECTORY";
const NUMBER: &str = "SOAK_NUMBER";

/// Not a test of its own: what the processes of the soak run.
#[test]
fn child_process() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let directory = std::env::var(DIRECTORY).expect("set with the role");
    let number = std::env::var(NUMBER).expect("set with the role");
    let number = number.parse().expect("a number");
    match role.as_str() {
        "producer" => child::produce(Path::new(&directory), number),
        "consumer" => child::consume(Path::new(&directory)),
        other => panic!("unknown role {other}"),
    }
}

fn spawn(directory: &Path, role: &str, number: usize) -> Child {
    Command::new(std::env::current_exe().expect("this test"))
        .args(["child_process", "--exact", "--nocapture"])
        .env(ROLE, role)
        .env(DIRECTORY, directory)
        .env(NUMBER, number.to_string())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("the test starts itself")
}

/// Whatever fails in the parent, no process stays behind.
impl Drop for Players<'_> {
    fn drop(&mut self) {
        for child in self.producers.iter_mut().chain([&mut self.consumer]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Kills a process that must still be running.
fn kill(child: &mut Child) {
    if let Some(status) = child.try_wait().expect("own child") {
        panic!("a child ended by itself: {status}");
    }
    child.kill().expect("own child");
    child.wait().expect("own child");
}

/// Producers and their consumer.
struct Players<'d> {
    directory: &'d Path,
    producers: Vec<Child>,
    started: usize,
    consumer: Child,
    random: Random,
}

impl<'d> Players<'d> {
    fn start(directory: &'d Path, seed: u64) -> Self {
        Players {
            directory,
            producers: (0..PRODUCERS_AT_ONCE)
                .map(|number| spawn(directory, "producer", number))
                .collect(),
            started: PRODUCERS_AT_ONCE,
            consumer: spawn(directory, "consumer", 0),
            random: Random(seed),
        }
    }

    /// Kills one of them, a producer mostly, and starts another one.
    fn disturb(&mut self) {
        if self.random.below(4) == 0 {
            kill(&mut self.consumer);
            self.consumer = spawn(self.directory, "consumer", 0);
        } else if self.started < Board::PLACES {
            let victim = self.random.below(self.producers.len() as u64) as usize;
            kill(&mut self.producers[victim]);
            self.producers[victim] = spawn(self.directory, "producer", self.started);
            self.started += 1;
        }
    }

    /// All come to their end by themselves.
    fn finish(mut self, board: &Board) {
        board.stop.store(1, Ordering::SeqCst);
        for producer in &mut self.producers {
            assert!(producer.wait().expect("own child").success());
        }
        board.stop.store(2, Ordering::SeqCst);
        assert!(self.consumer.wait().expect("own child").success());
    }

    /// All are killed, the consumer last so that there is something it did not come to.
    fn kill_all(mut self) {
        kill(&mut self.consumer);
        std::thread::sleep(Duration::from_millis(20));
        self.producers.iter_mut().for_each(kill);
    }
}

/// Each producer's records are 0, 1, 2... up to what was acknowledged, or one more.
fn check(records: &[Record], board: &Board) {
    let mut next = vec![0; Board::PLACES];
    for record in records {
        let expected = &mut next[record.producer as usize];
        assert_eq!(record.number, *expected, "of producer {}", record.producer);
        *expected += 1;
    }
    let mut acknowledged = 0;
    for (arrived, place) in next.iter().zip(board.places) {
        let told = place.acknowledged.load(Ordering::SeqCst);
        assert!(*arrived == told || *arrived == told + 1);
        acknowledged += told;
    }
    println!(
        "{} records arrived, {acknowledged} acknowledged, {} holes",
        records.len(),
        board.holes.load(Ordering::SeqCst)
    );
    assert!(acknowledged > 1000, "too slow to tell anything");
}

/// What the trail tells as dropped is what was counted, and perhaps one more per producer.
fn check_drops(told: u64, total: u64, board: &Board) {
    let counted = board
        .places
        .iter()
        .map(|p| p.dropped.load(Ordering::SeqCst));
    let counted = counted.sum::<u64>();
    println!("{told} drops told, {counted} acknowledged");
    assert_eq!(told, total);
    assert!((counted..=counted + Board::PLACES as u64).contains(&told));
}

fn play(directory: &Path, seconds: f64) -> (Board<'static>, Players<'_>) {
    let id = *b"a ring to soak..";
    let mapping = Mapping::create(&directory.join("ring"), HEADER_LEN + CAPACITY);
    // SAFETY: a new file, zero, mapped until the process ends.
    unsafe { Ring::create(mapping.base, mapping.len, id, 0) }.expect("a right capacity");
    let board = Board::create(directory);
    let mut players = Players::start(directory, std::process::id().into());
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    while Instant::now() < end {
        let pause = players.random.below(25_000);
        std::thread::sleep(Duration::from_micros(pause));
        players.disturb();
    }
    println!("{} producers", players.started);
    (board, players)
}

fn seconds_per_round() -> f64 {
    let seconds = std::env::var("SOAK_SECONDS").ok();
    seconds.and_then(|s| s.parse().ok()).unwrap_or(10.0) / 2.0
}

#[test]
fn all_arrives_through_a_consumer_that_is_killed() {
    let directory = tempfile::tempdir().expect("a directory");
    let (board, players) = play(directory.path(), seconds_per_round());
    players.finish(&board);

    let mapping = Mapping::open(&directory.path().join("ring"));
    // SAFETY: mapped until the process ends; all others have ended.
    let ring = unsafe { Ring::attach(mapping.base, mapping.len) }.expect("still a ring");
    let trail = Trail::open(directory.path());
    assert_eq!(trail.position, ring.head());
    assert_eq!(ring.fill(), 0);
    check(&trail.records, &board);
    check_drops(trail.dropped, trail.told, &board);
    let file = std::fs::read(directory.path().join("ring")).expect("the ring's file");
    assert!(file[HEADER_LEN..].iter().all(|b| *b == 0));
}

#[test]
fn all_is_recovered_after_everybody_was_killed() {
    let directory = tempfile::tempdir().expect("a directory");
    let (board, players) = play(directory.path(), seconds_per_round());
    players.kill_all();

    let trail = Trail::open(directory.path());
    let file = std::fs::read(directory.path().join("ring")).expect("the ring's file");
    let left = Leftover::open(&file).expect("still a ring");
    let mut records = trail.records;
    for found in left.recover(trail.position) {
        match found {
            Found::Record { payload, .. } => records.push(Record::of_payload(payload)),
            Found::Gap { start, next } => assert!(next - start < CAPACITY as u64 / 2),
        }
    }
    check(&records, &board);
    let dropped = left.dropped(trail.told);
    let total = dropped.map_or(trail.told, |d| d.total);
    let told = trail.dropped + dropped.map_or(0, |d| d.count);
    check_drops(told, total, &board);
}
