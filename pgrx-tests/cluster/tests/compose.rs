//! With other owners of the same hooks, in every order of loading: the trail is the same, the
//! server's answers are the same, and the others do their work as without audit_ext.
//!
//! Needs pgaudit in the server under test (Debian: postgresql-15-pgaudit; `make setup`).

use audit_cluster_tests::{Cluster, Shutdown};

const OTHERS: [&str; 3] = ["pg_stat_statements", "auto_explain", "pgaudit"];

/// What the others are told: all of their work, and nothing that changes from run to run.
const SETTINGS: [(&str, &str); 10] = [
    ("autovacuum", "off"),
    ("pg_stat_statements.track", "'all'"),
    ("auto_explain.log_min_duration", "0"),
    ("auto_explain.log_nested_statements", "on"),
    ("auto_explain.log_analyze", "on"),
    ("auto_explain.log_timing", "off"),
    ("pgaudit.log", "'all'"),
    ("pgaudit.log_relation", "on"),
    ("pgaudit.log_rows", "on"),
    ("pgaudit.log_parameter", "on"),
];

/// All ways there are to reach a hook, with errors of each kind in between. Leaves nothing behind.
const SCRIPT: &str = r#"
\set VERBOSITY verbose
\set SHOW_CONTEXT always
CREATE TABLE t (id int PRIMARY KEY, x int CHECK (x < 100));
CREATE TABLE log_of_t (id int);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO log_of_t VALUES (NEW.id); RETURN NEW; END $$;
CREATE TRIGGER note AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION note();
CREATE FUNCTION double(x int) RETURNS int LANGUAGE sql AS $$ SELECT x * 2 FROM t WHERE id = 1 $$;
INSERT INTO t VALUES (1, 10), (2, 20), (3, 30);
INSERT INTO t VALUES (1, 1);
INSERT INTO t VALUES (4, 100);
SELECT /* marker */ count(*), sum(x) FROM t;
SELECT id, double(x) FROM t WHERE x > 15 ORDER BY id;
SELECT 1 / (id - 2) FROM t ORDER BY id;
SELECT FROM WHERE;
SELECT * FROM no_such_table;
WITH gone AS (DELETE FROM t WHERE id = 3 RETURNING *) SELECT count(*) FROM gone;
DO $$ BEGIN UPDATE t SET x = x + 1; INSERT INTO t VALUES (1, 1);
      EXCEPTION WHEN unique_violation THEN PERFORM count(*) FROM t; END $$;
DO $$ BEGIN PERFORM 1 / (count(*) - count(*)) FROM t; END $$;
PREPARE p (int) AS SELECT x FROM t WHERE id = $1;
EXECUTE p (1);
EXECUTE p (2);
EXECUTE p ('x');
DEALLOCATE p;
EXPLAIN (COSTS off) SELECT x FROM t;
EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) SELECT x FROM t;
CREATE TABLE t2 AS SELECT * FROM t;
CREATE MATERIALIZED VIEW m AS SELECT count(*) FROM t2;
REFRESH MATERIALIZED VIEW m;
COPY t2 FROM STDIN;
7	70
8	80
\.
COPY (SELECT * FROM t2 ORDER BY id) TO STDOUT;
BEGIN;
DECLARE c CURSOR FOR SELECT x FROM t2 ORDER BY id;
FETCH 2 FROM c;
SAVEPOINT s;
UPDATE t2 SET x = 1 / 0;
ROLLBACK TO s;
FETCH 2 FROM c;
CLOSE c;
COMMIT;
BEGIN;
SELECT * FROM nothing_here;
SELECT 1;
ROLLBACK;
CREATE ROLE composer;
GRANT SELECT ON t TO composer;
SET ROLE composer;
DELETE FROM t;
RESET ROLE;
DROP OWNED BY composer;
DROP ROLE composer;
TRUNCATE t2;
VACUUM t2;
DROP MATERIALIZED VIEW m;
DROP TABLE t, t2, log_of_t;
DROP FUNCTION note(), double(int);
"#;

/// What came of one run of the script.
#[derive(Debug, PartialEq)]
struct Run {
    /// psql's output, errors included.
    answers: (String, String),
    /// pgaudit's lines, without time and process.
    pgaudit: Vec<String>,
    /// auto_explain's plans, each with its query.
    plans: Vec<String>,
    /// pg_stat_statements: calls and rows by query.
    statements: Vec<String>,
}

fn run(cluster: &Cluster) -> Run {
    cluster.query("app", "SELECT pg_stat_statements_reset()");
    let before = cluster.log().len();
    let output = cluster.psql().run(SCRIPT);
    let statements = cluster.query(
        "app",
        "SELECT calls, rows, toplevel, query FROM pg_stat_statements
         WHERE dbid = (SELECT oid FROM pg_database WHERE datname = 'app')
         ORDER BY query, toplevel, calls, rows",
    );
    let log = cluster.log()[before..].to_owned();
    // An entry of the server's log: its first line has a prefix, the others begin with a tab.
    let mut entries: Vec<String> = Vec::new();
    for line in log.lines() {
        match line.split_once("postgres@app LOG:  ") {
            Some((_, text)) => entries.push(text.into()),
            None if line.starts_with('\t') => {
                if let Some(entry) = entries.last_mut() {
                    entry.push('\n');
                    entry.push_str(line);
                }
            }
            None => entries.push(String::new()),
        }
    }
    let ours = |text: &&String| !text.contains("pg_stat_statements");
    Run {
        answers: (output.stdout, output.stderr),
        pgaudit: entries
            .iter()
            .filter(|text| text.starts_with("AUDIT: "))
            .filter(ours)
            .cloned()
            .collect(),
        plans: entries
            .iter()
            .filter(|text| text.contains("plan:\n\tQuery Text:"))
            .filter(ours)
            .map(|text| text.split_once("plan:").expect("as filtered").1.into())
            .collect(),
        statements,
    }
}

/// What the trail holds of a script since `seq`.
fn trail(cluster: &Cluster, since: i64) -> Vec<String> {
    cluster.trail(
        "command, class, outcome, sqlstate, transaction_outcome, depth, rows, object_name, relations,
         regexp_replace(statement, '\\s+', ' ', 'g'), error",
        &format!("seq > {since} AND statement NOT LIKE '%pg_stat_statements%'"),
    )
}

fn permutations(items: &[&'static str]) -> Vec<Vec<&'static str>> {
    if items.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (i, first) in items.iter().enumerate() {
        let mut rest = items.to_vec();
        rest.remove(i);
        for mut order in permutations(&rest) {
            order.insert(0, first);
            all.push(order);
        }
    }
    all
}

#[test]
fn every_order_of_loading_gives_the_same_trail_and_leaves_the_others_their_work() {
    let mut builder = Cluster::builder().setting("compute_query_id", "on");
    for (name, value) in SETTINGS {
        builder = builder.setting(name, value);
    }
    let cluster = builder.start();
    let since = cluster.flush();
    cluster.psql().run(SCRIPT);
    let alone = trail(&cluster, since);
    assert!(alone.len() > 60, "the script is recorded: {alone:#?}");

    let load = |order: &[&str]| {
        cluster.configure(
            "shared_preload_libraries",
            &format!("'{}'", order.join(",")),
        );
        cluster.restart(Shutdown::Fast);
    };
    load(&OTHERS);
    cluster
        .psql()
        .run("CREATE EXTENSION pg_stat_statements")
        .ok();
    let without = run(&cluster);
    for (what, count, least) in [
        ("pgaudit", without.pgaudit.len(), 55),
        ("auto_explain", without.plans.len(), 18),
        ("pg_stat_statements", without.statements.len(), 40),
    ] {
        assert!(count >= least, "{what} reports only {count}: {without:#?}");
    }

    let orders = permutations(&["audit_ext", OTHERS[0], OTHERS[1], OTHERS[2]]);
    assert_eq!(orders.len(), 24);
    for order in orders {
        load(&order);
        let since = cluster.flush();
        let with = run(&cluster);
        let recorded = trail(&cluster, since);
        assert_same(&order, "trail", &alone, &recorded);
        assert_eq!(with.answers, without.answers, "answers, {order:?}");
        assert_same(&order, "pgaudit", &without.pgaudit, &with.pgaudit);
        assert_same(&order, "auto_explain", &without.plans, &with.plans);
        assert_same(
            &order,
            "pg_stat_statements",
            &without.statements,
            &with.statements,
        );
        // The column's promise: the same number that pg_stat_statements has.
        let id = cluster.query(
            "app",
            "SELECT queryid FROM pg_stat_statements WHERE query LIKE '%/* marker */%'",
        );
        assert_eq!(
            cluster.trail(
                "query_id",
                &format!("seq > {since} AND statement LIKE 'SELECT /* marker */%'")
            ),
            id,
            "query_id, {order:?}"
        );
        assert_eq!(
            cluster.value("SELECT dropped, gaps, panics, last_error FROM audit.worker_status()"),
            "0 | 0 | 0 | ~",
            "{order:?}"
        );
    }
}

/// Names what is in one list only: the lists are long.
#[track_caller]
fn assert_same(order: &[&str], what: &str, expected: &[String], found: &[String]) {
    if expected != found {
        let missing: Vec<_> = expected.iter().filter(|e| !found.contains(e)).collect();
        let extra: Vec<_> = found.iter().filter(|f| !expected.contains(f)).collect();
        panic!(
            "{what} differs, {order:?}: {} instead of {}\nmissing: {missing:#?}\nextra: {extra:#?}",
            found.len(),
            expected.len()
        );
    }
}

// --- portals and cursors: what is suspended while other statements run -----------------------------

const WHAT: &str = "command, statement, rows, outcome, transaction_outcome";

fn with_numbers() -> Cluster {
    let cluster = Cluster::start();
    cluster
        .psql()
        .run(
            "CREATE TABLE n AS SELECT x FROM generate_series(1, 10) x; CREATE TABLE w (x int);
             CREATE FUNCTION loud(x int) RETURNS int LANGUAGE plpgsql AS
                 $$ BEGIN INSERT INTO w VALUES (x); RETURN x; END $$",
        )
        .ok();
    cluster
}

/// The events on `n` and `w`, sorted by the beginning of the statement.
fn of_the_test(cluster: &Cluster) -> Vec<String> {
    cluster.flush();
    cluster.query(
        "postgres",
        &format!(
            "SELECT {WHAT} FROM audit.log
             WHERE database_name = 'app' AND relations && '{{public.n,public.w}}'
                 AND class IN ('READ', 'WRITE') AND depth = 0
             ORDER BY started_at, seq"
        ),
    )
}

#[test]
fn portals_in_pieces_with_other_statements_in_between() {
    let cluster = with_numbers();
    let mut client = cluster.app();
    let mut tx = client.transaction().expect("begins");
    let a = tx
        .bind("SELECT x FROM n ORDER BY x /* a */", &[])
        .expect("a");
    let b = tx
        .bind("SELECT x FROM n WHERE x > $1 ORDER BY x /* b */", &[&5_i32])
        .expect("b");
    assert_eq!(tx.query_portal(&a, 3).expect("a").len(), 3);
    assert_eq!(tx.query_portal(&b, 2).expect("b").len(), 2);
    tx.execute("INSERT INTO w VALUES ($1)", &[&1_i32])
        .expect("inserts");
    assert_eq!(tx.query_portal(&a, 3).expect("a").len(), 3);
    tx.batch_execute("UPDATE w SET x = 2").expect("updates");
    assert_eq!(tx.query_portal(&b, 0).expect("b").len(), 3);
    assert_eq!(tx.query_portal(&a, 0).expect("a").len(), 4);
    tx.commit().expect("commits");
    assert_eq!(
        of_the_test(&cluster),
        [
            "SELECT | SELECT x FROM n ORDER BY x /* a */ | 10 | success | committed",
            "SELECT | SELECT x FROM n WHERE x > $1 ORDER BY x /* b */ | 5 | success | committed",
            "INSERT | INSERT INTO w VALUES ($1) | 1 | success | committed",
            "UPDATE | UPDATE w SET x = 2 | 1 | success | committed",
        ]
    );
}

#[test]
fn a_portal_that_is_never_read_to_its_end_is_on_record_with_what_it_gave() {
    let cluster = with_numbers();
    let mut client = cluster.app();
    let mut tx = client.transaction().expect("begins");
    let a = tx.bind("SELECT x FROM n /* a */", &[]).expect("a");
    tx.query_portal(&a, 4).expect("a");
    tx.commit().expect("commits");
    let mut tx = client.transaction().expect("begins");
    let b = tx.bind("SELECT x FROM n /* b */", &[]).expect("b");
    tx.query_portal(&b, 5).expect("b");
    tx.rollback().expect("rolls back");
    assert_eq!(
        of_the_test(&cluster),
        [
            "SELECT | SELECT x FROM n /* a */ | 4 | success | committed",
            "SELECT | SELECT x FROM n /* b */ | 5 | success | rolled back",
        ]
    );
}

#[test]
fn a_portal_open_over_errors_and_savepoints() {
    let cluster = with_numbers();
    let mut client = cluster.app();
    let mut tx = client.transaction().expect("begins");
    let outer = tx.bind("SELECT x FROM n /* outer */", &[]).expect("outer");
    assert_eq!(tx.query_portal(&outer, 2).expect("outer").len(), 2);
    {
        let mut inner = tx.savepoint("s").expect("savepoint");
        let dies = inner.bind("SELECT x FROM n /* dies */", &[]).expect("dies");
        assert_eq!(inner.query_portal(&dies, 3).expect("dies").len(), 3);
        inner
            .execute("INSERT INTO w SELECT 1 / (x - x) FROM n", &[])
            .expect_err("divides by zero");
        inner
            .execute("INSERT INTO w VALUES (0)", &[])
            .expect_err("is in an aborted transaction");
        inner.rollback().expect("rolls back");
    }
    assert_eq!(tx.query_portal(&outer, 2).expect("outer").len(), 2);
    {
        let mut inner = tx.savepoint("r").expect("savepoint");
        let kept = inner.bind("SELECT x FROM n /* kept */", &[]).expect("kept");
        assert_eq!(inner.query_portal(&kept, 3).expect("kept").len(), 3);
        inner.commit().expect("releases");
    }
    tx.execute("INSERT INTO w VALUES (5)", &[])
        .expect("inserts");
    assert_eq!(tx.query_portal(&outer, 0).expect("outer").len(), 6);
    tx.commit().expect("commits");
    assert_eq!(
        of_the_test(&cluster),
        [
            "SELECT | SELECT x FROM n /* outer */ | 10 | success | committed",
            "SELECT | SELECT x FROM n /* dies */ | 3 | success | rolled back",
            "INSERT | INSERT INTO w SELECT 1 / (x - x) FROM n | ~ | failed | rolled back",
            "SELECT | SELECT x FROM n /* kept */ | 3 | success | committed",
            "INSERT | INSERT INTO w VALUES (5) | 1 | success | committed",
        ]
    );
    // The statement that found the transaction aborted has no plan, and so no relations.
    assert_eq!(
        cluster.trail(
            "command, outcome, sqlstate",
            "statement = 'INSERT INTO w VALUES (0)'"
        ),
        ["INSERT | failed | 25P02"]
    );
}

#[test]
fn a_portal_that_fails_half_way_is_failed() {
    let cluster = with_numbers();
    let mut client = cluster.app();
    let mut tx = client.transaction().expect("begins");
    let a = tx.bind("SELECT x FROM n /* a */", &[]).expect("a");
    let b = tx
        .bind("SELECT 1 / (x - 5) FROM n /* b */", &[])
        .expect("b");
    tx.query_portal(&a, 1).expect("a");
    assert_eq!(tx.query_portal(&b, 3).expect("b").len(), 3);
    tx.query_portal(&a, 1).expect("a");
    tx.query_portal(&b, 3).expect_err("divides by zero");
    tx.rollback().expect("rolls back");
    assert_eq!(
        cluster
            .trail(
                "statement, outcome, sqlstate, transaction_outcome",
                "relations @> '{public.n}' AND class = 'READ'"
            )
            .into_iter()
            .collect::<std::collections::BTreeSet<_>>(),
        [
            "SELECT 1 / (x - 5) FROM n /* b */ | failed | 22012 | rolled back",
            "SELECT x FROM n /* a */ | success | ~ | rolled back",
        ]
        .map(String::from)
        .into()
    );
}

#[test]
fn cursors_closed_out_of_order_and_read_in_pieces() {
    let cluster = with_numbers();
    let mut client = cluster.app();
    client
        .batch_execute(
            "BEGIN;
             DECLARE a CURSOR FOR SELECT x FROM n ORDER BY x /* a */;
             DECLARE b SCROLL CURSOR FOR SELECT x FROM n ORDER BY x /* b */;
             DECLARE c CURSOR WITH HOLD FOR SELECT x FROM n ORDER BY x /* c */;",
        )
        .expect("declares");
    for step in [
        "FETCH 3 FROM a",
        "FETCH 2 FROM b",
        "INSERT INTO w VALUES (1)",
        "FETCH 4 FROM c",
        "FETCH PRIOR FROM b",
        "CLOSE a",
        "MOVE 5 FROM c",
        "FETCH ALL FROM b",
        "UPDATE w SET x = 3",
        "CLOSE b",
        "COMMIT",
        "FETCH ALL FROM c",
        "CLOSE c",
    ] {
        client.batch_execute(step).expect(step);
    }
    crate::fails(&mut client, "FETCH 1 FROM c");
    let mut events = cluster.trail(
        "event_no, command, rows, outcome, transaction_outcome",
        "depth = 0 AND command IN ('BEGIN', 'DECLARE CURSOR', 'FETCH', 'MOVE', 'CLOSE CURSOR', 'INSERT',
         'UPDATE', 'COMMIT') AND session_id = (SELECT session_id FROM audit.log WHERE command = 'MOVE')",
    );
    for event in &mut events {
        *event = event.split_once(" | ").expect("columns").1.into();
    }
    assert_eq!(
        events,
        [
            "BEGIN | ~ | success | committed",
            "DECLARE CURSOR | ~ | success | committed",
            "DECLARE CURSOR | ~ | success | committed",
            "DECLARE CURSOR | ~ | success | committed",
            "FETCH | 3 | success | committed",
            "FETCH | 2 | success | committed",
            "INSERT | 1 | success | committed",
            "FETCH | 4 | success | committed",
            "FETCH | 1 | success | committed",
            "CLOSE CURSOR | ~ | success | committed",
            "MOVE | 5 | success | committed",
            "FETCH | 9 | success | committed",
            "UPDATE | 1 | success | committed",
            "CLOSE CURSOR | ~ | success | committed",
            "COMMIT | ~ | success | committed",
            "FETCH | 1 | success | committed",
            "CLOSE CURSOR | ~ | success | committed",
            "FETCH | ~ | failed | rolled back",
        ]
    );
}

/// A portal in pieces, whose query runs an INSERT per row, with a DELETE between the pieces.
fn with_a_loud_portal() -> Cluster {
    let cluster = with_numbers();
    let mut client = cluster.app();
    let mut tx = client.transaction().expect("begins");
    let a = tx
        .bind("SELECT loud(x) FROM n ORDER BY x /* a */", &[])
        .expect("a");
    tx.query_portal(&a, 2).expect("a");
    tx.execute("DELETE FROM w WHERE x = 1", &[])
        .expect("deletes");
    tx.query_portal(&a, 3).expect("a");
    tx.query_portal(&a, 0).expect("a");
    tx.commit().expect("commits");
    cluster
}

#[test]
fn a_portal_whose_query_runs_statements_of_its_own() {
    let cluster = with_a_loud_portal();
    assert_eq!(
        of_the_test(&cluster),
        [
            "SELECT | SELECT loud(x) FROM n ORDER BY x /* a */ | 10 | success | committed",
            "DELETE | DELETE FROM w WHERE x = 1 | 1 | success | committed",
        ]
    );
    assert_eq!(
        cluster.trail(
            "depth, rows, outcome, transaction_outcome",
            "command = 'INSERT'"
        ),
        ["1 | 1 | success | committed"; 10]
    );
}

#[test]
fn what_a_resumed_portal_runs_is_part_of_the_portals_statement() {
    let cluster = with_a_loud_portal();
    cluster.flush();
    assert_eq!(
        cluster.query(
            "postgres",
            "SELECT outer_one.statement, count(*), count(DISTINCT inner_one.substatement_id)
             FROM audit.log inner_one
             JOIN audit.log outer_one USING (session_id, statement_id)
             WHERE inner_one.command = 'INSERT' AND inner_one.depth = 1 AND outer_one.depth = 0
             GROUP BY outer_one.statement"
        ),
        ["SELECT loud(x) FROM n ORDER BY x /* a */ | 10 | 10"]
    );
}
