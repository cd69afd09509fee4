//! Numbered writes under faults, and what must be true of the trail afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use audit_cluster_tests::{Cluster, wait_until};
use postgres::NoTls;

/// Clients that write numbered rows and remember which ones the server acknowledged.
#[derive(Default)]
pub struct Load {
    next: AtomicU32,
    stop: AtomicBool,
    sent: Mutex<BTreeSet<u32>>,
    acknowledged: Mutex<BTreeSet<u32>>,
}

impl Load {
    /// Runs until told to stop; a lost connection is opened again.
    fn client(&self, cluster: &Cluster) {
        while !self.stop.load(Ordering::Relaxed) {
            let Ok(mut client) = cluster.config("postgres", "app").connect(NoTls) else {
                thread::sleep(Duration::from_millis(20));
                continue;
            };
            while !self.stop.load(Ordering::Relaxed) {
                let n = self.next.fetch_add(1, Ordering::Relaxed);
                self.sent.lock().expect("lock").insert(n);
                // Every third one in a block: its fate comes with another event.
                let sql = if n.is_multiple_of(3) {
                    format!("BEGIN; /* n{n} */ INSERT INTO load VALUES ({n}); COMMIT")
                } else {
                    format!("/* n{n} */ INSERT INTO load VALUES ({n})")
                };
                if client.batch_execute(&sql).is_err() {
                    break;
                }
                self.acknowledged.lock().expect("lock").insert(n);
            }
        }
    }

    fn acknowledged(&self) -> usize {
        self.acknowledged.lock().expect("lock").len()
    }

    /// Plays the load with four clients while `fault` does its worst.
    pub fn during(cluster: &Cluster, fault: impl FnOnce(&Load)) -> Load {
        cluster.psql().run("CREATE TABLE load (n int)").ok();
        let load = Load::default();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| load.client(cluster));
            }
            // Also where the fault panics: or the clients would never end.
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                load.more(300);
                fault(&load);
            }));
            load.stop.store(true, Ordering::Relaxed);
            if let Err(panic) = result {
                std::panic::resume_unwind(panic);
            }
        });
        load
    }

    /// Waits for so many further acknowledgements.
    #[track_caller]
    pub fn more(&self, count: usize) {
        let goal = self.acknowledged() + count;
        wait_until("the load goes on", Duration::from_secs(60), || {
            self.acknowledged() >= goal
        });
    }

    /// Every acknowledged number is on record exactly once, as a success that committed; no number
    /// twice; none that was never sent; and what is recorded as committed is what is in the table.
    #[track_caller]
    pub fn check(&self, cluster: &Cluster) {
        let number = "(regexp_match(statement, '^/\\* n(\\d+) \\*/'))[1]";
        let mut recorded: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for line in cluster.trail(
            &format!("{number}, outcome, transaction_outcome"),
            "command = 'INSERT' AND statement LIKE '/* n%'",
        ) {
            let (n, end) = line.split_once(" | ").expect("columns");
            recorded
                .entry(n.parse().expect("a number"))
                .or_default()
                .push(end.to_owned());
        }
        let sent = self.sent.lock().expect("lock");
        let acknowledged = self.acknowledged.lock().expect("lock");
        let rows: BTreeSet<u32> = cluster
            .query("app", "SELECT n FROM load")
            .iter()
            .map(|n| n.parse().expect("a number"))
            .collect();
        let twice: Vec<_> = recorded.iter().filter(|(_, ends)| ends.len() > 1).collect();
        assert!(twice.is_empty(), "twice on record: {twice:?}");
        let foreign: Vec<_> = recorded.keys().filter(|n| !sent.contains(n)).collect();
        assert!(foreign.is_empty(), "never sent: {foreign:?}");
        let lost: Vec<_> = acknowledged
            .iter()
            .filter(|n| !recorded.contains_key(n))
            .collect();
        assert!(
            lost.is_empty(),
            "{} of {} lost: {lost:?}",
            lost.len(),
            acknowledged.len()
        );
        let wrong: Vec<_> = acknowledged
            .iter()
            .filter(|n| recorded[n] != ["success | committed"])
            .map(|n| (n, &recorded[n]))
            .collect();
        assert!(
            wrong.is_empty(),
            "with another end than they had: {wrong:?}"
        );
        let committed: BTreeSet<u32> = recorded
            .iter()
            .filter(|(_, ends)| ends[0].ends_with("| committed"))
            .map(|(n, _)| *n)
            .collect();
        let invented: Vec<_> = committed.difference(&rows).collect();
        assert!(
            invented.is_empty(),
            "on record as committed, and not in the table: {invented:?}"
        );
        let denied: Vec<_> = rows
            .iter()
            .filter(|n| {
                recorded
                    .get(n)
                    .is_some_and(|ends| ends[0].ends_with("rolled back"))
            })
            .collect();
        assert!(
            denied.is_empty(),
            "in the table, and on record as rolled back: {denied:?}"
        );
        // Also of a backend that died between its commit and its answer: its slot told.
        let unrecorded: Vec<_> = rows.difference(&committed).collect();
        assert!(
            unrecorded.is_empty(),
            "in the table, and not on record as committed: {unrecorded:?}"
        );
        assert!(
            acknowledged.len() > 300,
            "the load was no load: {}",
            acknowledged.len()
        );
        check_order(cluster);
    }
}

/// seq is dense from 1 and recorded_at never decreases with it.
#[track_caller]
pub fn check_order(cluster: &Cluster) {
    cluster.flush();
    assert_eq!(
        cluster.query(
            "postgres",
            "SELECT min(seq), count(*) - max(seq), count(DISTINCT seq) - count(*),
                    count(*) FILTER (WHERE backwards)
             FROM (SELECT seq, recorded_at < lag(recorded_at) OVER (ORDER BY seq) AS backwards
                   FROM audit.log) AS log"
        ),
        ["1 | 0 | 0 | 0"],
        "first seq | holes | doubles | steps back in recorded_at"
    );
}

/// event_no is dense from 1 in every session that has ended, or `sessions` where given.
#[track_caller]
pub fn check_event_numbers(cluster: &Cluster, sessions: &str) {
    cluster.flush();
    assert_eq!(
        cluster.query(
            "postgres",
            &format!(
                "SELECT session_id, count(*), min(event_no), max(event_no) FROM audit.log
                 WHERE event_no IS NOT NULL AND {sessions} GROUP BY session_id
                 HAVING min(event_no) <> 1 OR count(*) <> max(event_no)
                     OR count(DISTINCT event_no) <> count(*)"
            )
        ),
        Vec::<String>::new(),
        "sessions with holes or doubles: session | events | first | last"
    );
}
