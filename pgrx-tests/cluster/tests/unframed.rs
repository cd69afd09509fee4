//! A query that a client repeats has no frame unless something happens in it (hooks/engine/repeat.rs): all
//! that is recorded of it, in it, after it and beside it is as if it had. Where `audit.role` is set, every
//! statement has one.

use audit_cluster_tests::Cluster;
use postgres::{Client, Statement};

use crate::load::check_event_numbers;

const OBJECTS: &str = "
    CREATE ROLE nobody; CREATE ROLE other; GRANT ALL ON SCHEMA public TO other;
    CREATE TABLE w (x int CHECK (x < 100)); CREATE TABLE r (x int PRIMARY KEY); INSERT INTO r VALUES (1);
    CREATE TABLE child (x int REFERENCES r DEFERRABLE INITIALLY DEFERRED);
    CREATE SEQUENCE q; CREATE VIEW v AS SELECT x FROM r;
    GRANT ALL ON ALL TABLES IN SCHEMA public TO other; GRANT ALL ON SEQUENCE q TO other;
    CREATE FUNCTION note(v int) RETURNS int LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO w VALUES (v); RETURN v; END $$;
    CREATE FUNCTION deep(v int) RETURNS int LANGUAGE plpgsql AS
        $$ DECLARE n int; BEGIN SELECT note(v) + count(*) INTO n FROM r; RETURN n; END $$;
    CREATE FUNCTION caught(v int) RETURNS int LANGUAGE plpgsql AS
        $$ BEGIN PERFORM note(v); PERFORM note(v + 200); RETURN 0;
           EXCEPTION WHEN check_violation THEN RETURN note(v + 1); END $$;
    CREATE FUNCTION orphan(v int) RETURNS int LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO child VALUES (v); RETURN v; END $$;
    CREATE FUNCTION lowered() RETURNS int LANGUAGE sql VOLATILE SET audit.level = 'write' AS 'SELECT 7';";

/// Those that read, and a few that don't; the ones that can't be run or that fail among them.
const QUERIES: &[&str] = &[
    "SELECT 1",
    "SELECT x FROM r",
    "SELECT x FROM generate_series(1, 9) x",
    "SELECT count(*) FROM v WHERE x > 0",
    "SELECT relname FROM pg_class WHERE relname = 'r'",
    "SELECT x FROM r FOR UPDATE",
    "SELECT txid_current() > 0",
    "SELECT nextval('q') > 0",
    "SELECT note(2)",
    "SELECT note(x) FROM generate_series(1, 4) x",
    "SELECT deep(3)",
    "SELECT caught(8)",
    "SELECT orphan(1)",
    "SELECT orphan(99)",
    "SELECT lowered()",
    "SELECT 1 / (x - 1) FROM r",
    "SELECT note(200)",
    "SELECT note(5), 1 / (x - 1) FROM r",
    "SELECT set_config('application_name', 'else', true)",
    "SELECT set_config('audit.level', 'write', true), x FROM r",
    "SELECT set_config('audit.context', '{\"a\": 1}', true)",
    "SELECT set_config('role', 'other', true)",
    "SELECT set_config('search_path', 'pg_catalog, public', true)",
    "SELECT audit_missing()",
    "VALUES (1), (2)",
    "WITH i AS (INSERT INTO w VALUES (3) RETURNING x) SELECT x FROM i",
    "INSERT INTO w SELECT x FROM r",
    "UPDATE r SET x = x",
];

const EVENTS: &str = "statement_id - min(statement_id) OVER (), substatement_id, depth, class, command, statement,
    object_type, object_name, relations, rows, outcome, sqlstate, error, transaction_outcome,
    transaction_id IS NOT NULL, user_name, role_name, application_name, context, details, duration >= '0'";

/// A small source of numbers that come again.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % most
    }
}

/// A client, what it has prepared, and what came of all that it ran.
struct Run {
    client: Client,
    prepared: Vec<Statement>,
    results: Vec<String>,
}

fn result(what: Result<u64, postgres::Error>) -> String {
    match what {
        Ok(rows) => rows.to_string(),
        Err(error) => error.as_db_error().expect("an answer").message().to_owned(),
    }
}

impl Run {
    fn simple(&mut self, sql: &str) {
        let done = self.client.batch_execute(sql).map(|()| 0);
        self.results.push(result(done));
    }

    /// One of the prepared queries, some of them far more often than others.
    fn one(&mut self, dice: &mut Dice) {
        let few = [self.prepared.len(), 6][dice.below(2)];
        let at = dice.below(few);
        for _ in 0..1 + dice.below(3) {
            let done = self.client.execute(&self.prepared[at], &[]);
            self.results.push(result(done));
        }
    }

    fn in_transaction(&mut self, dice: &mut Dice) {
        self.simple("BEGIN");
        for _ in 0..dice.below(8) {
            match dice.below(8) {
                0 => self.simple("SAVEPOINT s"),
                1 => self.simple("ROLLBACK TO s"),
                2 => self.simple("RELEASE s"),
                _ => self.one(dice),
            }
        }
        self.simple(["COMMIT", "COMMIT", "ROLLBACK"][dice.below(3)]);
    }

    /// Queries that are suspended while others run, and some of which never end.
    fn with_portals(&mut self, dice: &mut Dice) {
        let Run {
            client,
            prepared,
            results,
        } = self;
        let rows = |done: Result<Vec<_>, _>| result(done.map(|rows| rows.len() as u64));
        let mut tx = client.transaction().expect("begins");
        let suspended = [2, 2, 9, 10, 1];
        let mut portals = Vec::new();
        for _ in 0..2 + dice.below(8) {
            match dice.below(6) {
                0 | 1 => {
                    let query = &prepared[suspended[dice.below(suspended.len())]];
                    if let Ok(portal) = tx.bind(query, &[]) {
                        results.push(rows(tx.query_portal(&portal, 1)));
                        portals.push(portal);
                    }
                }
                2 => {
                    let mut inner = match tx.savepoint("p") {
                        Ok(inner) => inner,
                        Err(_) => continue,
                    };
                    if let Ok(portal) = inner.bind(&prepared[2], &[]) {
                        results.push(rows(inner.query_portal(&portal, 2)));
                    }
                    let at = dice.below(prepared.len());
                    results.push(result(inner.execute(&prepared[at], &[])));
                    let _ = match dice.below(2) {
                        0 => inner.commit(),
                        _ => inner.rollback(),
                    };
                }
                3 => {
                    let at = dice.below(prepared.len());
                    results.push(result(tx.execute(&prepared[at], &[])));
                }
                _ if portals.is_empty() => {}
                _ => {
                    let portal = &portals[dice.below(portals.len())];
                    results.push(rows(tx.query_portal(portal, 2 * dice.below(3) as i32)));
                }
            }
        }
        let _ = match dice.below(2) {
            0 => tx.commit(),
            _ => tx.rollback(),
        };
    }
}

/// What is recorded, and what the client sees, of `steps` random steps with this `audit.role`.
fn run(cluster: &Cluster, role: &str, seed: u64, steps: usize) -> (Vec<String>, Vec<String>) {
    cluster
        .psql()
        .run("TRUNCATE w, child; ALTER SEQUENCE q RESTART")
        .ok();
    let before = cluster.flush();
    let mut client = cluster.app();
    client
        .batch_execute(&format!("SET audit.role = '{role}'"))
        .expect("sets");
    let prepared = QUERIES
        .iter()
        .filter_map(|sql| client.prepare(sql).ok())
        .collect();
    let mut run = Run {
        client,
        prepared,
        results: Vec::new(),
    };
    let mut dice = Dice(seed);
    for _ in 0..steps {
        match dice.below(8) {
            0 | 1 => run.in_transaction(&mut dice),
            2 => run.with_portals(&mut dice),
            3 => run.simple("SELECT 1; SELECT x FROM r; SELECT note(4)"),
            4 => run.simple("SELECT x FROM r; SELECT 1 / (x - 1) FROM r"),
            _ => run.one(&mut dice),
        }
    }
    drop(run.client);
    let mut events = cluster.trail_of(
        EVENTS,
        &format!(
            "database_name = 'app' AND seq > {before} AND class <> 'SESSION' AND command <> 'SET'
             AND NOT (command = 'SETTING' AND object_name = 'audit.role')"
        ),
    );
    // Which of those that a rollback throws away together comes first is nobody's business.
    events.sort();
    (events, run.results)
}

#[test]
fn what_is_repeated_is_recorded_as_if_it_had_a_frame() {
    let cluster = Cluster::start();
    cluster.psql().run(OBJECTS).ok();
    for seed in [1, 20, 300, 4_000, 50_000, 600_000] {
        let seed = 0x9e37_79b9_7f4a_7c15 ^ seed;
        let (framed, their_results) = run(&cluster, "nobody", seed, 120);
        let (events, results) = run(&cluster, "", seed, 120);
        assert_eq!(results, their_results, "seed {seed}");
        assert!(events.len() > 300, "{}", events.len());
        let missing: Vec<_> = framed.iter().filter(|e| !events.contains(e)).collect();
        let too_many: Vec<_> = events.iter().filter(|e| !framed.contains(e)).collect();
        assert!(
            missing.is_empty() && too_many.is_empty() && events.len() == framed.len(),
            "seed {seed}: with frames alone: {missing:#?}\nwithout alone: {too_many:#?}"
        );
        check_event_numbers(&cluster, "true");
    }
}

/// Several messages before the one that ends their transaction: none of them is a part of another.
#[test]
fn a_pipeline_of_them() {
    let cluster = Cluster::start();
    cluster.psql().run(OBJECTS).ok();
    cluster
        .psql()
        .run(
            "CREATE TABLE noted (x int);
             CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN INSERT INTO noted VALUES (1); PERFORM note(6); RETURN NULL; END $$;
             CREATE CONSTRAINT TRIGGER late AFTER INSERT ON noted DEFERRABLE INITIALLY DEFERRED
                FOR EACH ROW WHEN (new.x = 0) EXECUTE FUNCTION late();",
        )
        .ok();
    let pipelines = [
        "SELECT 1",
        "SELECT x FROM r",
        "SELECT 1",
        "INSERT INTO w VALUES (1)",
        "INSERT INTO w VALUES (1)",
        "INSERT INTO noted VALUES (0)", // The trigger runs in the commit of the last one.
        "SELECT deep(3)",
        "SELECT x FROM r",
        "BEGIN",
        "SELECT x FROM r",
        "SELECT 1",
        "COMMIT",
        "SELECT 1",
        "INSERT INTO w VALUES (1)",
        "INSERT INTO noted VALUES (0)",
    ];
    let script = cluster.data_dir().join("script");
    std::fs::write(
        &script,
        format!(
            "\\startpipeline\n{};\n\\endpipeline\nSELECT x FROM r;\nSELECT 1;\n",
            pipelines.join(";\n")
        ),
    )
    .expect("writes");
    let run = |settings: &str| {
        let before = cluster.flush();
        let output = cluster
            .program("pgbench")
            .env("PGOPTIONS", settings)
            .args(["-n", "-M", "prepared", "-t", "6", "-f"])
            .arg(&script)
            .output()
            .expect("pgbench");
        assert!(output.status.success(), "{output:?}");
        let mine = format!("seq > {before}");
        let top = cluster.trail("statement", &format!("{mine} AND depth = 0"));
        let mut ids = cluster.trail("statement_id", &format!("{mine} AND depth = 0"));
        let clients: Vec<_> = pipelines
            .into_iter()
            .chain(["SELECT x FROM r", "SELECT 1"])
            .collect();
        assert_eq!(top, clients.repeat(6), "{settings}");
        ids.dedup();
        assert_eq!(ids.len(), top.len(), "each has a number of its own");
        let mut events = cluster.trail(EVENTS, &mine);
        events.sort();
        events
    };
    let framed = run("-c audit.role=nobody");
    // What deep() and the trigger call.
    assert_eq!(framed.len(), 6 * (17 + 4 + 2 * 4), "{framed:#?}");
    assert_eq!(run(""), framed);
    assert_eq!(run("-c audit.nested=off").len(), 6 * 17);
}

/// How often it runs well first: more often than it takes to be known.
const WELL: usize = 6;

/// What comes of one that has run well so often, and now waits until something ends it.
fn ended(cluster: &Cluster, level: &str, how: impl Fn(u32)) -> Vec<String> {
    let mut client = cluster.app();
    client
        .batch_execute(&format!("SET audit.level = '{level}'"))
        .expect("sets");
    let pid = crate::inflight::pid(&mut client);
    let waits = client
        .prepare("SELECT count(pg_sleep(n)) FROM naps")
        .expect("prepares");
    cluster.psql().run("UPDATE naps SET n = 0").ok();
    for _ in 0..WELL {
        client.execute(&waits, &[]).expect("runs");
    }
    cluster.psql().run("UPDATE naps SET n = 60").ok();
    let nap = std::thread::spawn(move || client.execute(&waits, &[]).is_err());
    audit_cluster_tests::eventually("it sleeps", || {
        cluster.value(&format!(
            "SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'PgSleep'"
        )) == "1"
    });
    how(pid);
    assert!(nap.join().expect("ends"), "it is told");
    cluster.trail(
        "outcome, coalesce(sqlstate, '~'), transaction_outcome, coalesce(rows::text, '~'), object_name, relations::text, \
         duration > '0'",
        &format!("pid = {pid} AND statement LIKE '%pg_sleep%'"),
    )
}

#[test]
fn one_that_comes_to_a_bad_end() {
    let cluster = Cluster::builder().durable().start();
    cluster
        .psql()
        .run("CREATE TABLE naps (n float8); INSERT INTO naps VALUES (0)")
        .ok();
    let names = "public.naps | {public.naps}";
    let well = format!("success | ~ | committed | 1 | {names} | t");
    let failed = |state| format!("failed | {state} | rolled back | ~ | {names} | t");
    let call = |function: &'static str| {
        let cluster = &cluster;
        move |pid| {
            cluster.value(&format!("SELECT {function}({pid})"));
        }
    };
    let all = ended(&cluster, "all", call("pg_cancel_backend"));
    assert_eq!(all[..WELL], [&*well; WELL]);
    assert_eq!(all[WELL..], [failed("57014")]);
    let all = ended(&cluster, "failed", call("pg_cancel_backend"));
    assert_eq!(all, [failed("57014")]);
    let all = ended(&cluster, "all", call("pg_terminate_backend"));
    assert_eq!(all[..WELL], [&*well; WELL]);
    assert_eq!(all[WELL..], [failed("57P01")]);
    let kill = |pid| assert!(cluster.kill_child(pid));
    let all = ended(&cluster, "all", kill);
    assert_eq!(all[..WELL], [&*well; WELL]);
    // Nobody was there to say when it ended.
    assert_eq!(
        all[WELL..],
        [format!("unfinished | ~ | rolled back | ~ | {names} | ~")]
    );
    check_event_numbers(&cluster, "true");
}

/// The server looks at what was put off before it ends a portal's query.
#[test]
fn one_whose_commit_fails() {
    let cluster = Cluster::start();
    cluster.psql().run(OBJECTS).ok();
    let mut client = cluster.app();
    let queries = ["SELECT orphan(x) FROM r", "SELECT x FROM r"];
    let [orphan, plain] = queries.map(|sql| client.prepare(sql).expect("prepares"));
    for prepared in [&orphan, &plain].repeat(4) {
        client.execute(prepared, &[]).expect("runs");
    }
    cluster
        .psql()
        .run(
            "CREATE OR REPLACE FUNCTION orphan(v int) RETURNS int LANGUAGE plpgsql AS
                $$ BEGIN INSERT INTO child VALUES (v + 97); RETURN v; END $$",
        )
        .ok();
    let before = cluster.flush();
    client.execute(&orphan, &[]).expect_err("its commit fails");
    client.execute(&plain, &[]).expect("goes on");
    let all = cluster.trail(
        "substr(statement, 1, 24), outcome, coalesce(sqlstate, '~'), transaction_outcome",
        &format!("seq > {before} AND depth = 0"),
    );
    assert_eq!(
        all,
        [
            "SELECT orphan(x) FROM r | failed | 23503 | rolled back",
            "SELECT x FROM r | success | ~ | committed",
        ]
    );
    check_event_numbers(&cluster, "true");
}
