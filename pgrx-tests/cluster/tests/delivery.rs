//! Nothing lost, nothing twice (spec/delivery.md): under load, across stops, kills and crashes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use audit_cluster_tests::{
    Cluster, Shutdown, children, eventually, kill, voluntary_switches, wait_until,
};
use postgres::NoTls;

/// Clients that write numbered rows and remember which ones the server acknowledged.
#[derive(Default)]
struct Load {
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
    fn during(cluster: &Cluster, fault: impl FnOnce(&Load)) -> Load {
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
    fn more(&self, count: usize) {
        let goal = self.acknowledged() + count;
        wait_until("the load goes on", Duration::from_secs(60), || {
            self.acknowledged() >= goal
        });
    }

    /// Every acknowledged number is on record exactly once, as a success that committed; no number
    /// twice; none that was never sent; and what is recorded as committed is what is in the table.
    #[track_caller]
    fn check(&self, cluster: &Cluster) {
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
fn check_order(cluster: &Cluster) {
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
fn check_event_numbers(cluster: &Cluster, sessions: &str) {
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

#[test]
fn a_hundred_thousand_transactions_of_eight_clients_are_a_hundred_thousand_rows() {
    let cluster = Cluster::start();
    let pgbench = |args: &[&str]| {
        let output = cluster
            .program("pgbench")
            .env("PGAPPNAME", "pgbench")
            .args(args)
            .output()
            .expect("pgbench runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    pgbench(&["-i", "-s", "1", "-q"]);
    let before = cluster.flush();
    let report = pgbench(&[
        "-n", "-S", "-M", "prepared", "-c", "8", "-j", "2", "-t", "12500",
    ]);
    assert!(report.contains("100000/100000"), "{report}");
    cluster.flush();
    assert_eq!(
        cluster.query(
            "postgres",
            &format!(
                "SELECT count(*), count(DISTINCT session_id), min(rows), max(rows),
                        count(*) FILTER (WHERE outcome = 'success' AND transaction_outcome = 'committed')
                 FROM audit.log WHERE seq > {before} AND command = 'SELECT'
                     AND relations = '{{public.pgbench_accounts}}' AND application_name = 'pgbench'"
            )
        ),
        ["100000 | 8 | 1 | 1 | 100000"]
    );
    check_order(&cluster);
    check_event_numbers(&cluster, "application_name = 'pgbench'");
}

#[test]
fn writers_of_two_databases_and_a_reader_at_once() {
    let cluster = Cluster::start();
    cluster.psql().run("CREATE DATABASE other").ok();
    thread::scope(|scope| {
        for database in ["app", "other", "app", "other"] {
            let cluster = &cluster;
            scope.spawn(move || {
                let mut client = cluster.connect("postgres", database);
                for i in 0..500 {
                    client
                        .batch_execute(&format!("SELECT {i} /* mine */"))
                        .expect("selects");
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..10 {
                check_order(&cluster);
            }
        });
    });
    for database in ["app", "other"] {
        assert_eq!(
            cluster
                .trail_of(
                    "seq",
                    &format!("database_name = '{database}' AND statement LIKE '%/* mine */'")
                )
                .len(),
            1000,
            "{database}"
        );
    }
}

#[test]
fn fast_and_immediate_restarts_under_load() {
    let cluster = Cluster::builder().durable().start();
    let load = Load::during(&cluster, |load| {
        for how in [Shutdown::Fast, Shutdown::Immediate, Shutdown::Fast] {
            cluster.restart(how);
            load.more(200);
        }
    });
    load.check(&cluster);
}

#[test]
fn a_killed_postmaster_under_load() {
    let cluster = Cluster::builder().durable().start();
    let load = Load::during(&cluster, |load| {
        for _ in 0..2 {
            cluster.kill_postmaster();
            cluster.start_again();
            load.more(200);
        }
    });
    load.check(&cluster);
}

#[test]
fn a_killed_backend_under_load() {
    let cluster = Cluster::builder().durable().start();
    let load = Load::during(&cluster, |load| {
        for _ in 0..2 {
            // Crash-restart: everybody is thrown out, shared memory is made anew.
            let victim = cluster
                .query(
                    "postgres",
                    "SELECT pid FROM pg_stat_activity WHERE datname = 'app' AND query LIKE '%/* n%' LIMIT 1",
                )
                .pop()
                .expect("a client of the load");
            assert!(kill(victim.parse().expect("a pid"), "KILL"));
            thread::sleep(Duration::from_millis(200));
            load.more(200);
        }
    });
    load.check(&cluster);
}

#[test]
fn a_killed_worker_under_load() {
    let cluster = Cluster::builder().durable().start();
    let load = Load::during(&cluster, |load| {
        for _ in 0..2 {
            eventually("the worker runs", || cluster.worker_pid().is_some());
            assert!(kill(cluster.worker_pid().expect("runs"), "KILL"));
            thread::sleep(Duration::from_millis(200));
            load.more(200);
        }
    });
    load.check(&cluster);
}

#[test]
fn a_terminated_worker_under_load_comes_back() {
    let cluster = Cluster::start();
    let load = Load::during(&cluster, |load| {
        for _ in 0..3 {
            eventually("the worker runs", || cluster.worker_pid().is_some());
            let old = cluster.worker_pid().expect("runs");
            assert_eq!(
                cluster.value(&format!("SELECT pg_terminate_backend({old})")),
                "t"
            );
            load.more(200);
            eventually("another worker runs", || {
                cluster.worker_pid().is_some_and(|new| new != old)
            });
        }
    });
    load.check(&cluster);
}

#[test]
fn nothing_is_stored_twice_when_the_commit_of_the_worker_is_not_durable() {
    let cluster = Cluster::builder()
        .durable()
        .setting("synchronous_commit", "off")
        .start();
    cluster
        .psql()
        .db("postgres")
        .run("ALTER DATABASE postgres SET synchronous_commit = off")
        .ok();
    cluster.psql().run("CREATE TABLE load (n int)").ok();
    let mut client = cluster.app();
    // The numbers themselves may be lost with synchronous_commit off: their records may not.
    client
        .batch_execute("SET synchronous_commit = on")
        .expect("sets");
    for n in 0..500 {
        client
            .batch_execute(&format!("/* n{n} */ INSERT INTO load VALUES ({n})"))
            .expect("inserts");
    }
    cluster.flush();
    for pid in children(cluster.postmaster_pid()) {
        kill(pid, "KILL");
    }
    cluster.kill_postmaster();
    cluster.start_again();
    assert_eq!(
        cluster
            .trail(
                "count(*) OVER (), count(*)",
                "command = 'INSERT' GROUP BY statement HAVING true"
            )
            .len(),
        500
    );
    check_order(&cluster);
}

#[test]
fn what_is_in_the_ring_at_a_stop_is_in_the_trail_after_the_start() {
    let cluster = Cluster::builder().durable().start();
    cluster.flush();
    // A worker that can't drain: everything stays in the file.
    let worker = cluster.worker_pid().expect("runs");
    assert!(kill(worker, "STOP"));
    for n in 0..200 {
        cluster
            .psql()
            .run(format!("SELECT {n} /* in the ring */"))
            .ok();
    }
    let everybody = children(cluster.postmaster_pid());
    for pid in everybody {
        kill(pid, "KILL");
    }
    cluster.kill_postmaster();
    cluster.start_again();
    assert_eq!(cluster.count("statement LIKE '%in the ring%'"), 200);
    check_order(&cluster);
}

#[test]
fn an_idle_server_wakes_nobody() {
    let cluster = Cluster::builder().setting("autovacuum", "off").start();
    cluster.psql().run("SELECT 1").ok();
    cluster.flush();
    let worker = cluster.worker_pid().expect("runs");
    // Whatever flush and this question left to do is done.
    thread::sleep(Duration::from_secs(2));
    let before = voluntary_switches(worker);
    thread::sleep(Duration::from_secs(5));
    let wakeups = voluntary_switches(worker) - before;
    assert!(wakeups <= 1, "{wakeups} wake-ups in 5 idle seconds");
    // And it still notices the first record: without flush, within flush_interval and some.
    cluster.psql().run("SELECT 'after the silence'").ok();
    eventually("the record is stored", || {
        cluster.value(
            "SELECT count(*) FROM audit.log WHERE statement LIKE 'SELECT ''after the silence%'",
        ) == "1"
    });
}

#[test]
fn records_turn_up_within_the_flush_interval_without_any_flush() {
    let cluster = Cluster::start();
    cluster.flush();
    let mut client = cluster.app();
    for n in 0..5 {
        client
            .batch_execute(&format!("SELECT {n} AS unasked"))
            .expect("selects");
        wait_until("the record is stored", Duration::from_secs(3), || {
            cluster.value(&format!(
                "SELECT count(*) FROM audit.log WHERE statement LIKE 'SELECT {n} AS unasked%'"
            )) == "1"
        });
    }
}

#[test]
fn an_idle_reader_across_a_change_of_partition_stalls_nobody() {
    let cluster = Cluster::builder()
        .setting("audit.partition_interval", "'2s'")
        .start();
    cluster.psql().run("SELECT 'first'").ok();
    cluster.flush();
    let mut reader = cluster.connect("postgres", "postgres");
    reader
        .batch_execute("BEGIN; SELECT count(*) FROM audit.log")
        .expect("reads");
    for n in 0..8 {
        cluster
            .psql()
            .run(format!("SELECT {n} /* meanwhile */"))
            .ok();
        thread::sleep(Duration::from_millis(1000));
    }
    assert_eq!(cluster.count("statement LIKE '%meanwhile%'"), 8);
    reader.batch_execute("COMMIT").expect("ends");
    check_order(&cluster);
}

#[test]
fn a_reader_in_a_transaction_does_not_keep_others_from_dropping_tables() {
    let cluster = Cluster::start();
    let mut idle = cluster.app();
    idle.batch_execute("BEGIN; SELECT 1").expect("begins");
    cluster
        .psql()
        .run("CREATE TABLE t (x int); INSERT INTO t VALUES (1); VACUUM FULL t; DROP TABLE t")
        .ok();
    cluster
        .psql()
        .db("postgres")
        .run("VACUUM; VACUUM FULL pg_class")
        .ok();
    cluster
        .psql()
        .run("CREATE DATABASE d2; DROP DATABASE d2")
        .ok();
    assert_eq!(cluster.count("command = 'DROP DATABASE'"), 1);
    idle.batch_execute("COMMIT").expect("ends");
}

#[test]
fn texts_that_repeat_are_stored_once() {
    let cluster = Cluster::start();
    // 4 kB that don't compress, 3,000 times: 12 MB if each event held its own copy.
    let noise = cluster
        .value("SELECT string_agg(md5(i::text || random()), '') FROM generate_series(1, 128) AS i");
    let size = || -> i64 {
        cluster.flush();
        cluster
            .value(
                "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c
                 JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = 'audit' AND relkind = 'r'",
            )
            .parse()
            .expect("bytes")
    };
    let mut client = cluster.app();
    let repeated = format!("SELECT length('{noise}')");
    client.simple_query(&repeated).expect("selects");
    let before = size();
    for _ in 0..3_000 {
        client.simple_query(&repeated).expect("selects");
    }
    let grown = size() - before;
    assert!(
        grown < 2_000_000,
        "{grown} bytes for 3,000 events of one text"
    );
    assert_eq!(
        cluster.count(&format!("statement = $$").replace("$$", &format!("$q${repeated}$q$"))),
        3_001
    );
}

#[test]
fn short_sessions() {
    let cluster = Cluster::start();
    let output = cluster
        .program("pgbench")
        .env("PGAPPNAME", "short")
        .args([
            "-n",
            "-C",
            "-c",
            "4",
            "-j",
            "2",
            "-t",
            "250",
            "-f",
            "/dev/stdin",
        ])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .and_then(|mut child| {
            use std::io::Write;
            child
                .stdin
                .take()
                .expect("piped")
                .write_all(b"SELECT 1 AS short;\n")?;
            child.wait_with_output()
        })
        .expect("pgbench runs");
    assert!(output.status.success());
    assert_eq!(cluster.count("statement LIKE 'SELECT 1 AS short%'"), 1_000);
    check_event_numbers(&cluster, "application_name = 'short'");
    check_order(&cluster);
}

#[test]
fn parallel_queries_are_recorded_once() {
    let cluster = Cluster::start();
    let mut client = cluster.app();
    client
        .batch_execute(
            "CREATE TABLE big AS SELECT i FROM generate_series(1, 100000) AS i;
             SET max_parallel_workers_per_gather = 2; SET parallel_setup_cost = 0;
             SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0",
        )
        .expect("prepares");
    let plan = client
        .query("EXPLAIN SELECT sum(i) FROM big", &[])
        .expect("explains");
    assert!(
        plan.iter()
            .any(|line| line.get::<_, String>(0).contains("Gather")),
        "a parallel plan"
    );
    client
        .batch_execute("SELECT sum(i) FROM big")
        .expect("selects");
    assert_eq!(
        cluster.trail("rows, backend_type", "statement = 'SELECT sum(i) FROM big'"),
        ["1 | client backend"]
    );
}
