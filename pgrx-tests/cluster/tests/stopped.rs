//! The worker stopped (SIGSTOP) at any moment, until the ring is full, under load: each `audit.on_full`
//! does what it says, and a GAP tells exactly what was lost (spec/delivery.md, failure matrix).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::{Duration, Instant};

use audit_cluster_tests::{Cluster, eventually, kill};

use crate::load::Load;
use crate::soak::{a_while, series};

const RING: u64 = 1 << 20;

/// `audit.on_full`.
#[derive(Clone, Copy)]
enum Full {
    Wait,
    Drop,
    Refuse,
}

impl Full {
    fn setting(self) -> &'static str {
        match self {
            Full::Wait => "'wait'",
            Full::Drop => "'drop'",
            Full::Refuse => "'refuse'",
        }
    }

    /// How far the ring fills: only with `drop` beyond the last quarter, which is for ends.
    fn quarters(self) -> u64 {
        match self {
            Full::Wait | Full::Refuse => 3,
            Full::Drop => 4,
        }
    }
}

/// The ring as its file shows it: nobody has to be asked while the server may hang.
struct Ring(File);

impl Ring {
    fn of(cluster: &Cluster) -> Ring {
        Ring(File::open(cluster.data_dir().join("pg_audit/ring")).expect("a ring"))
    }

    fn word(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.read_exact_at(&mut bytes, at).expect("reads");
        u64::from_ne_bytes(bytes)
    }

    /// Head, and bytes between tail and head: src/core/ring/layout.rs.
    fn head_and_fill(&self) -> (u64, u64) {
        let tail = self.word(128 + 256);
        let head = self.word(128 + 128);
        (head, head - tail)
    }
}

/// Stops the worker wherever it is until the ring is filled so far, the load has felt it, and some more.
/// A worker that held a lock of the server's has stopped everybody else, too: it goes on, and is
/// stopped again.
fn stop_until_filled(cluster: &Cluster, load: &Load, full: Full) {
    let ring = Ring::of(cluster);
    let refused = load.refused();
    for _ in 0..50 {
        eventually("the worker runs", || cluster.worker_pid().is_some());
        let worker = cluster.worker_pid().expect("runs");
        a_while(200);
        assert!(kill(worker, "STOP"));
        let mut moved = (Instant::now(), (0, 0));
        let mut filled_at = None;
        let felt = loop {
            let (head, fill) = ring.head_and_fill();
            if fill >= RING / 4 * full.quarters() - RING / 16 {
                let filled_at = *filled_at.get_or_insert(load.answered());
                let felt = match full {
                    Full::Wait => true,
                    // More than fits into what was left.
                    Full::Drop => load.answered() >= filled_at + 300,
                    Full::Refuse => load.refused() > refused,
                };
                if felt {
                    break true;
                }
            }
            let now = (head, load.answered());
            if now != moved.1 {
                moved = (Instant::now(), now);
            } else if moved.0.elapsed() > Duration::from_secs(1) {
                break false;
            }
            thread::sleep(Duration::from_millis(5));
        };
        if felt {
            a_while(1000);
        }
        assert!(kill(worker, "CONT"));
        // Sessions that begin and end now may leave no trace but in a GAP's count.
        eventually("the worker has caught up", || {
            ring.head_and_fill().1 < RING / 8
        });
        if felt {
            return;
        }
    }
    panic!("the ring is never filled");
}

/// Plays it so often; the number of events that GAPs tell of, and of holes in the sessions' numbers.
fn played(faults: u64, full: Full) -> (Cluster, Load, usize) {
    let cluster = Cluster::builder()
        .setting("audit.ring_size", "'1MB'")
        .setting("audit.on_full", full.setting())
        .setting("audit.full_timeout", "'60s'")
        .start();
    let load = Load::during(&cluster, |load| {
        for _ in 0..faults {
            stop_until_filled(&cluster, load, full);
            load.more(50);
        }
    });
    cluster.flush();
    // Sessions have ended since, in a ring with room: every hole has something behind it.
    let count = |sql: &str| -> usize { cluster.value(sql).parse().expect("a number") };
    let told = count(
        "SELECT coalesce(sum((details->>'count')::int), 0) FROM audit.log WHERE command = 'GAP'",
    );
    let holes = count(
        "SELECT sum(holes) FROM (SELECT max(event_no) - count(*) AS holes FROM audit.log WHERE event_no IS NOT NULL GROUP BY session_id) s",
    );
    assert_eq!(told, holes, "told | lost");
    assert_eq!(
        cluster.value(&format!(
            "SELECT dropped = {told}, panics FROM audit.status"
        )),
        "t | 0"
    );
    (cluster, load, told)
}

#[test]
fn with_wait_nothing_is_lost() {
    series(1, |faults| {
        let (cluster, load, told) = played(faults, Full::Wait);
        assert_eq!(told, 0);
        load.check(&cluster);
    });
}

#[test]
fn with_drop_everybody_goes_on_and_the_gap_is_exact() {
    series(1, |faults| {
        let (cluster, load, told) = played(faults, Full::Drop);
        assert!(told > 0, "the ring was full");
        load.check_but(&cluster, told);
    });
}

#[test]
fn with_refuse_what_was_let_in_is_on_record() {
    series(1, |faults| {
        let (cluster, load, told) = played(faults, Full::Refuse);
        load.check_but(&cluster, told);
        assert!(cluster.count("sqlstate = '53000'") > 0, "some were refused");
    });
}
