//! A long session of mixed statements: what it and the worker hold in memory stays what it was.
//!
//! `AUDIT_TEST_STATEMENTS` says how many statements (default 100,000; the contract's word is
//! 1,000,000, about five minutes).

use std::env;
use std::fs;

use audit_cluster_tests::Cluster;
use postgres::{Client, Statement};

/// Statements on record per round, nested ones included.
const PER_ROUND: usize = 108;
/// After so many tenths of the session its memory has reached its size.
const WARM: usize = 4;
/// What may come on top of that, more than on a server without the extension. The same for every
/// length: a leak of a byte per four statements is seen at a million, of two per statement at 100,000.
const GROWTH_ANON: u64 = 128 * 1024;
const GROWTH_CONTEXTS: u64 = 64 * 1024;
/// The contract's bounds (spec/performance.md).
const BACKEND: u64 = 256 * 1024;
const WORKER: u64 = 64 * 1024 * 1024;

/// A line of /proc/PID/status, in bytes.
fn status(pid: u32, name: &str) -> u64 {
    fs::read_to_string(format!("/proc/{pid}/status"))
        .expect("the process runs")
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|kilobytes| kilobytes.parse::<u64>().ok())
        .unwrap_or_else(|| panic!("no {name} of {pid}"))
        * 1024
}

/// What a backend holds: its own pages (malloc's and Rust's included), the server's contexts.
#[derive(Clone, Copy, Debug)]
struct Held {
    anon: u64,
    contexts: u64,
}

struct Session {
    client: Client,
    pid: u32,
    read: Statement,
    write: Statement,
    rounds: usize,
    /// Statements this session ran that are no part of a round.
    others: usize,
}

impl Session {
    fn begin(cluster: &Cluster) -> Self {
        cluster
            .psql()
            .run(
                "CREATE TABLE t (id int PRIMARY KEY, x text);
                 INSERT INTO t SELECT i, 'row ' || i FROM generate_series(1, 100) i;
                 CREATE TABLE w (x int); CREATE TABLE v (x int);
                 CREATE RULE also AS ON INSERT TO v DO ALSO INSERT INTO w VALUES (new.x);
                 CREATE FUNCTION twice(x int) RETURNS int LANGUAGE plpgsql AS
                     $$ BEGIN RETURN 2 * x; END $$;",
            )
            .ok();
        let mut client = cluster.app();
        client
            .batch_execute("SET client_min_messages = error")
            .expect("sets");
        let pid: i32 = client
            .query_one("SELECT pg_backend_pid()", &[])
            .expect("a pid")
            .get(0);
        let prepare = |client: &mut Client, sql| client.prepare(sql).expect("prepares");
        Session {
            read: prepare(&mut client, "SELECT x FROM t WHERE id = $1"),
            write: prepare(&mut client, "UPDATE t SET x = $1 WHERE id = $2"),
            client,
            pid: pid as u32,
            rounds: 0,
            others: 2,
        }
    }

    fn run(&mut self, sql: &str) {
        self.client.batch_execute(sql).expect("runs");
    }

    /// [`PER_ROUND`] statements of every kind.
    fn round(&mut self) {
        let round = self.rounds;
        // 20: text that never repeats, of changing length, and the application's say.
        for i in 0..19 {
            let padding = "x".repeat((round * 19 + i) % 300);
            self.run(&format!("SELECT {i}, '{round} {padding}'"));
        }
        self.run(&format!(
            "SET audit.context = '{{\"round\": {}}}'",
            round % 7
        ));
        // 30: prepared.
        for i in 0..20_i32 {
            let (read, id) = (self.read.clone(), i % 100 + 1);
            self.client.query_one(&read, &[&id]).expect("reads");
        }
        for i in 0..10_i32 {
            let (write, text) = (self.write.clone(), format!("{round} {i}"));
            self.client.execute(&write, &[&text, &i]).expect("writes");
        }
        // 10: errors of the parser, the analyzer, the executor, a constraint, a cast.
        for _ in 0..2 {
            for sql in [
                "SELECT FROM WHERE",
                "SELECT * FROM no_such_table",
                "SELECT 1 / (id - 50) FROM t",
                "INSERT INTO t VALUES (1, 'again')",
                "SELECT 'a'::text::int",
            ] {
                self.client.batch_execute(sql).expect_err(sql);
            }
        }
        // 13: errors that are caught, with what their blocks undid.
        self.run(
            "DO $$ BEGIN FOR i IN 1 .. 4 LOOP
                 BEGIN INSERT INTO w VALUES (i); INSERT INTO t VALUES (1, 'again');
                 EXCEPTION WHEN unique_violation THEN PERFORM i; END;
             END LOOP; END $$",
        );
        // 10: cursors, read in pieces, one left open.
        self.run("BEGIN");
        self.run("DECLARE a CURSOR FOR SELECT x FROM t ORDER BY id");
        self.run("DECLARE b CURSOR FOR SELECT x FROM t");
        self.run("FETCH 3 FROM a");
        self.run("FETCH 7 FROM b");
        self.run("CLOSE a");
        self.run("SAVEPOINT s");
        self.run("INSERT INTO w VALUES (1)");
        self.run("ROLLBACK TO s");
        self.run("COMMIT");
        // 4: a portal read in pieces, and one never read to its end.
        let mut tx = self.client.transaction().expect("begins");
        let a = tx.bind("SELECT x FROM t", &[]).expect("binds");
        let b = tx.bind("SELECT id FROM t", &[]).expect("binds");
        tx.query_portal(&a, 40).expect("reads");
        tx.query_portal(&b, 10).expect("reads");
        tx.query_portal(&a, 0).expect("reads");
        tx.commit().expect("commits");
        // 9: a loop.
        self.run(
            "DO $$ BEGIN FOR i IN 1 .. 8 LOOP UPDATE t SET x = 'd' WHERE id = i; END LOOP; END $$",
        );
        // 4: tables that come and go.
        self.run("CREATE TEMP TABLE tmp (id serial PRIMARY KEY, x text)");
        self.run("INSERT INTO tmp (x) VALUES ('a'), ('b')");
        self.run("ALTER TABLE tmp ADD y int DEFAULT 1");
        self.run("DROP TABLE tmp");
        // 8: functions, a rule, names that are nowhere.
        self.run("SELECT twice(id) FROM t");
        self.run("SELECT twice(1), twice(2)");
        self.run("INSERT INTO v VALUES (1)");
        let missing = format!("SELECT nosuch{round}(1) FROM gone{round}");
        self.client.batch_execute(&missing).expect_err("missing");
        self.rounds += 1;
        // So that the tables stay small; on record with `others`.
        if self.rounds.is_multiple_of(50) {
            self.run("TRUNCATE w, v");
            self.run("VACUUM t");
            self.others += 2;
        }
    }

    fn held(&mut self) -> Held {
        self.others += 1;
        let contexts: i64 = self
            .client
            .query_one(
                "SELECT sum(total_bytes)::bigint FROM pg_backend_memory_contexts",
                &[],
            )
            .expect("contexts")
            .get(0);
        Held {
            anon: status(self.pid, "RssAnon"),
            contexts: contexts as u64,
        }
    }
}

/// Runs the rounds; what was held after each tenth of them.
fn course(session: &mut Session, rounds: usize) -> Vec<Held> {
    let mut course = Vec::new();
    for round in 1..=rounds {
        session.round();
        if round.is_multiple_of(rounds / 10) {
            course.push(session.held());
        }
    }
    course
}

/// What was added after the warm-up.
fn growth(course: &[Held], part: impl Fn(&Held) -> u64) -> u64 {
    let warm = part(&course[WARM - 1]);
    part(course.last().expect("ten of them")).saturating_sub(warm)
}

#[test]
fn a_long_session_of_mixed_statements_holds_no_more_than_at_its_start() {
    let statements: usize = env::var("AUDIT_TEST_STATEMENTS").map_or(100_000, |count| {
        count.parse().expect("AUDIT_TEST_STATEMENTS is a number")
    });
    let rounds = statements / PER_ROUND;
    assert!(rounds >= 100, "too few statements to tell: {statements}");

    // The server's own caches grow for long with tables that come and go: the measure is the same
    // session on a server without the extension.
    let cluster = Cluster::builder().without_library().start();
    let plain = course(&mut Session::begin(&cluster), rounds);
    drop(cluster);
    let cluster = Cluster::start();
    let mut session = Session::begin(&cluster);
    let audited = course(&mut session, rounds);
    let both = format!(
        "after each tenth of {statements} statements:\nplain   {plain:?}\naudited {audited:?}"
    );
    println!("{both}");
    for (what, limit, part) in [
        (
            "own pages",
            GROWTH_ANON,
            (|held| held.anon) as fn(&Held) -> u64,
        ),
        ("contexts", GROWTH_CONTEXTS, |held| held.contexts),
    ] {
        let more = growth(&audited, part).saturating_sub(growth(&plain, part));
        assert!(
            more <= limit,
            "the session leaks: {what} grew by {more} bytes more, {both}"
        );
    }

    // Nothing is flat by not being recorded.
    let recorded = cluster.count(&format!("pid = {}", session.pid));
    assert_eq!(recorded, session.rounds * PER_ROUND + session.others);
    assert_eq!(
        cluster.value("SELECT dropped, gaps, panics, last_error FROM audit.worker_status()"),
        "0 | 0 | 0 | ~"
    );
    let worker = cluster.worker_pid().expect("the worker runs");
    let peak = status(worker, "VmHWM");
    println!(
        "the worker's peak: {peak} bytes, of its own now: {}",
        status(worker, "RssAnon")
    );
    assert!(peak <= WORKER, "the worker had {peak} bytes");
}

#[test]
fn a_backend_holds_little_more_than_without_the_extension() {
    // The same session in both; the pool and the caches have their size after some rounds.
    let after = |cluster: &Cluster| {
        let mut session = Session::begin(cluster);
        for _ in 0..40 {
            session.round();
        }
        session.held()
    };
    let plain = after(&Cluster::builder().without_library().start());
    let audited = after(&Cluster::start());
    println!("plain {plain:?}, audited {audited:?}");
    let more = audited.anon.saturating_sub(plain.anon);
    assert!(more <= BACKEND, "{more} bytes more: {plain:?}, {audited:?}");
}
