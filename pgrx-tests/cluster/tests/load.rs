//! Numbered statements under faults, and what must be true of the trail afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use audit_cluster_tests::{Cluster, wait_until};
use postgres::NoTls;
use postgres::error::SqlState;

/// What a client does with a number, and how that must be on record once the server has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Block,
    Savepoint,
    RolledBack,
    Failed,
    Nested,
    Read,
}

impl Kind {
    fn of(n: u32) -> Kind {
        match n % 10 {
            0 | 3 | 6 => Kind::Block,
            1 => Kind::RolledBack,
            2 => Kind::Failed,
            5 => Kind::Nested,
            7 => Kind::Savepoint,
            8 => Kind::Read,
            _ => Kind::Plain,
        }
    }

    fn sql(self, n: u32) -> String {
        let insert = format!("INSERT /* n{n} */ INTO load VALUES ({n})");
        match self {
            Kind::Plain => insert,
            Kind::Block => format!("BEGIN; {insert}; COMMIT"),
            Kind::Savepoint => {
                format!("BEGIN; SAVEPOINT s; SELECT 1; ROLLBACK TO s; {insert}; RELEASE s; COMMIT")
            }
            Kind::RolledBack => format!("BEGIN; {insert}; ROLLBACK"),
            Kind::Failed => format!("INSERT /* n{n} */ INTO load VALUES ({n} / (SELECT 0))"),
            Kind::Nested => format!("DO $$ BEGIN {insert}; END $$"),
            Kind::Read => format!("SELECT /* n{n} */ count(*) FROM load WHERE n = {n}"),
        }
    }

    /// outcome and transaction_outcome of what was acknowledged.
    fn end(self) -> &'static str {
        match self {
            Kind::RolledBack => "success | rolled back",
            Kind::Failed => "failed | rolled back",
            _ => "success | committed",
        }
    }
}

/// What each client runs after each number: a text that repeats, in a table of its own.
const AGAIN: &str = "INSERT INTO again VALUES (1)";

/// Clients that write numbered rows and remember which ones the server acknowledged.
#[derive(Default)]
pub struct Load {
    next: AtomicU32,
    /// Numbers below are of a trail that is no more.
    from: AtomicU32,
    stop: AtomicBool,
    sent: Mutex<BTreeSet<u32>>,
    acknowledged: Mutex<BTreeSet<u32>>,
    answered: AtomicU32,
    refused: AtomicU32,
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
                let kind = Kind::of(n);
                let answer = client.batch_execute(&kind.sql(n));
                let expected = match &answer {
                    Ok(()) => kind != Kind::Failed,
                    Err(error) => {
                        // An error is sent before its transaction is aborted: the answer is
                        // whole when the server is ready again.
                        kind == Kind::Failed
                            && error.code() == Some(&SqlState::DIVISION_BY_ZERO)
                            && client.simple_query("").is_ok()
                    }
                };
                self.answered.fetch_add(1, Ordering::Relaxed);
                if let Err(error) = &answer
                    && error.code() == Some(&SqlState::INSUFFICIENT_RESOURCES)
                {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                }
                if expected {
                    self.acknowledged.lock().expect("lock").insert(n);
                }
                if expected {
                    let _ = client.batch_execute(AGAIN);
                }
                if client.is_closed() {
                    break;
                }
                if !expected {
                    // Refused, or cancelled: whatever is open ends.
                    let _ = client.batch_execute("ROLLBACK");
                }
            }
        }
    }

    /// Numbers that were answered, however.
    pub fn answered(&self) -> u32 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Numbers that a full ring has refused.
    pub fn refused(&self) -> u32 {
        self.refused.load(Ordering::Relaxed)
    }

    pub fn acknowledged(&self) -> usize {
        self.acknowledged.lock().expect("lock").len()
    }

    /// Plays the load with four clients while `fault` does its worst.
    pub fn during(cluster: &Cluster, fault: impl FnOnce(&Load)) -> Load {
        cluster
            .psql()
            .run(
                "CREATE TABLE IF NOT EXISTS load (n int); CREATE TABLE IF NOT EXISTS again (n int)",
            )
            .ok();
        let load = Load::default();
        load.go_on(cluster, fault);
        load
    }

    /// Goes on with the same numbers.
    pub fn go_on(&self, cluster: &Cluster, fault: impl FnOnce(&Load)) {
        self.stop.store(false, Ordering::Relaxed);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| self.client(cluster));
            }
            // Also where the fault panics: or the clients would never end.
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                self.more(100);
                fault(self);
            }));
            self.stop.store(true, Ordering::Relaxed);
            if let Err(panic) = result {
                std::panic::resume_unwind(panic);
            }
        });
    }

    /// The trail begins anew: what is checked is what is sent from now on.
    pub fn start_over(&self) {
        let next = self.next.load(Ordering::Relaxed);
        self.from.store(next, Ordering::Relaxed);
    }

    /// Waits for so many further acknowledgements.
    #[track_caller]
    pub fn more(&self, count: usize) {
        let goal = self.acknowledged() + count;
        wait_until("the load goes on", Duration::from_secs(90), || {
            self.acknowledged() >= goal
        });
    }

    /// Every acknowledged number is on record exactly once, with the end that it had; no number
    /// twice; none that was never sent; and what is recorded as committed is what is in the table.
    #[track_caller]
    pub fn check(&self, cluster: &Cluster) {
        self.check_but(cluster, 0);
    }

    /// [`Load::check`] of what has committed a write; of the rest there may be no record.
    #[track_caller]
    pub fn check_commits(&self, cluster: &Cluster) {
        self.check_kinds(cluster, 0, |kind| {
            !matches!(kind, Kind::Read | Kind::Failed | Kind::RolledBack)
        });
    }

    /// [`Load::check`], with exactly `lost` events lost (a GAP said how many). Among them may be
    /// others than the load's, so that fewer of its own are missing.
    #[track_caller]
    pub fn check_but(&self, cluster: &Cluster, lost: usize) {
        self.check_kinds(cluster, lost, |_| true);
        if lost == 0 && self.from.load(Ordering::Relaxed) == 0 {
            check_event_numbers(cluster, "true");
        }
    }

    #[track_caller]
    fn check_kinds(&self, cluster: &Cluster, lost: usize, promised: fn(Kind) -> bool) {
        let mut recorded = recorded(cluster);
        let sent = self.sent.lock().expect("lock");
        let twice: Vec<_> = recorded.iter().filter(|(_, ends)| ends.len() > 1).collect();
        assert!(twice.is_empty(), "twice on record: {twice:?}");
        let foreign: Vec<_> = recorded.keys().filter(|n| !sent.contains(n)).collect();
        assert!(foreign.is_empty(), "never sent: {foreign:?}");
        let from = self.from.load(Ordering::Relaxed);
        recorded.retain(|n, _| *n >= from);
        let mut acknowledged = self.acknowledged.lock().expect("lock").clone();
        acknowledged.retain(|n| *n >= from && promised(Kind::of(*n)));
        let rows: BTreeSet<u32> = cluster
            .query("app", &format!("SELECT n FROM load WHERE n >= {from}"))
            .iter()
            .map(|n| n.parse().expect("a number"))
            .collect();
        let missing: Vec<_> = acknowledged
            .iter()
            .filter(|n| !recorded.contains_key(n))
            .collect();
        assert!(
            missing.len() <= lost,
            "{} of {} lost, and {lost} were announced: {missing:?}",
            missing.len(),
            acknowledged.len()
        );
        let wrong: Vec<_> = acknowledged
            .iter()
            .filter_map(|n| Some((n, recorded.get(n)?)))
            .filter(|(n, ends)| ends[0] != Kind::of(**n).end())
            // The event that told its fate was among those that were lost.
            .filter(|(_, ends)| lost == 0 || !ends[0].ends_with("~"))
            .collect();
        assert!(
            wrong.is_empty(),
            "with another end than they had: {wrong:?}"
        );
        let committed: BTreeSet<u32> = recorded
            .iter()
            .filter(|(n, ends)| ends[0].ends_with("| committed") && Kind::of(**n) != Kind::Read)
            .map(|(n, _)| *n)
            .collect();
        let invented: Vec<_> = committed.difference(&rows).collect();
        assert!(
            invented.is_empty(),
            "on record as committed, and not in the table: {invented:?}"
        );
        // Also of a backend that died between its commit and its answer: its slot told.
        let unrecorded: Vec<_> = rows.difference(&committed).collect();
        assert!(
            unrecorded.len() <= lost,
            "in the table, and not on record as committed: {unrecorded:?} {:?}",
            unrecorded
                .iter()
                .map(|n| recorded.get(n))
                .collect::<Vec<_>>()
        );
        assert!(
            acknowledged.len() > 100,
            "the load was no load: {}",
            acknowledged.len()
        );
        if from == 0 {
            check_repeats(cluster, lost);
        }
        check_order(cluster);
    }
}

/// Of the text that repeats as many are on record as committed as there are rows.
#[track_caller]
fn check_repeats(cluster: &Cluster, lost: usize) {
    let committed = format!(
        "statement = '{AGAIN}' AND command = 'INSERT' AND outcome IN ('success', 'unfinished') \
         AND transaction_outcome = 'committed' AND relations = '{{public.again}}'"
    );
    let recorded = cluster.count(&committed);
    let rows = cluster.query("app", "SELECT count(*) FROM again");
    let rows: usize = rows[0].parse().expect("a number");
    assert!(
        recorded <= rows && rows <= recorded + lost,
        "{recorded} repeats on record as committed, {rows} in the table, {lost} lost"
    );
    assert!(rows > 100, "{rows} repeats are no load");
}

/// The ends of the numbers on record.
fn recorded(cluster: &Cluster) -> BTreeMap<u32, Vec<String>> {
    let mut recorded: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for line in cluster.trail(
        "(regexp_match(statement, '^[A-Z]+ /\\* n(\\d+) \\*/'))[1], outcome, transaction_outcome",
        "statement ~ '^(INSERT|SELECT) /\\* n'",
    ) {
        let (n, end) = line.split_once(" | ").expect("columns");
        recorded
            .entry(n.parse().expect("a number"))
            .or_default()
            .push(end.to_owned());
    }
    recorded
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

/// event_no is dense from 1 in every session, or `sessions` where given.
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
