//! What runs and what fails inside of a commit: it is the commit's, or that of the statement which ends its
//! transaction (spec/capture.md, rules 3 and 7).

use audit_cluster_tests::{Cluster, eventually};
use postgres::Client;

use crate::fails;
use crate::fast_path::Raw;

/// `child` has its foreign key checked, `once` its duplicates found, in the commit; so is `late`, by a trigger
/// that runs SQL, which fails for negative numbers.
const OBJECTS: &str = "
    CREATE TABLE parent (x int PRIMARY KEY); INSERT INTO parent VALUES (1), (2), (3);
    CREATE TABLE child (x int REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
    CREATE TABLE once (x int UNIQUE DEFERRABLE INITIALLY DEFERRED);
    CREATE TABLE noted (x int CHECK (x > 0)); CREATE TABLE late (x int);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO noted VALUES (new.x); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER note AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION note();
    CREATE FUNCTION put_child(v int) RETURNS int LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO child VALUES (v), (v); RETURN v; END $$;
    CREATE FUNCTION put_late(v int) RETURNS int LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO late VALUES (v); RETURN v; END $$;";

fn with_objects() -> Cluster {
    let cluster = Cluster::start();
    cluster.psql().run(OBJECTS).ok();
    cluster
}

fn with_level(cluster: &Cluster, level: &str) -> Client {
    let mut client = cluster.app();
    client
        .batch_execute(&format!("SET audit.level = '{level}'"))
        .expect("sets");
    client
}

#[test]
fn what_fails_in_its_commit_is_on_record_where_only_failures_are() {
    let cluster = with_objects();
    let mut client = cluster.app();
    // The text is known to have no secrets, and the query to use these relations.
    for _ in 0..6 {
        client
            .batch_execute("INSERT INTO once VALUES (1)")
            .expect("runs");
        client.batch_execute("DELETE FROM once").expect("runs");
    }
    client
        .batch_execute("SET audit.level = 'failed'")
        .expect("sets");
    let before = cluster.flush();
    client
        .batch_execute("INSERT INTO once VALUES (1)")
        .expect("runs");
    let twice = "/* twice */ INSERT INTO once VALUES (1)";
    for sql in ["INSERT INTO once VALUES (1)", twice] {
        assert_eq!(fails(&mut client, sql).code().code(), "23505");
        client.execute(sql, &[]).expect_err("fails, too");
    }
    client
        .batch_execute(&format!("BEGIN; {twice}"))
        .expect("runs");
    fails(&mut client, "COMMIT");
    fails(&mut client, &format!("BEGIN; {twice}; COMMIT; SELECT 1"));
    fails(&mut client, "INSERT INTO late VALUES (-1)");
    client
        .batch_execute("SELECT 1; INSERT INTO once VALUES (2); BEGIN; SELECT x FROM once; COMMIT")
        .expect("runs");
    assert_eq!(
        cluster.trail(
            "statement, command, object_name, outcome, sqlstate, transaction_outcome, depth",
            &format!("seq > {before}")
        ),
        [
            "INSERT INTO once VALUES (1) | INSERT | public.once | failed | 23505 | rolled back | 0",
            "INSERT INTO once VALUES (1) | INSERT | public.once | failed | 23505 | rolled back | 0",
            "/* twice */ INSERT INTO once VALUES (1) | INSERT | public.once | failed | 23505 | rolled back | 0",
            "/* twice */ INSERT INTO once VALUES (1) | INSERT | public.once | failed | 23505 | rolled back | 0",
            "COMMIT | COMMIT | ~ | failed | 23505 | rolled back | 0",
            "COMMIT | COMMIT | ~ | failed | 23505 | rolled back | 0",
            "INSERT INTO noted VALUES (new.x) | INSERT | public.noted | failed | 23514 | rolled back | 1",
            "INSERT INTO late VALUES (-1) | INSERT | public.late | failed | 23514 | rolled back | 0",
        ]
    );
}

/// What is on record since `before`: each client's statement has another number.
fn since(cluster: &Cluster, before: i64) -> Vec<String> {
    cluster.trail(
        "command, object_name, depth, substatement_id, outcome, coalesce(sqlstate, '~'), details->'calls', \
         transaction_outcome, dense_rank() OVER (ORDER BY statement_id)",
        &format!("seq > {before} AND class <> 'FUNCTION' AND command <> 'SET'"),
    )
}

/// The server looks at what was put off before it ends a query of the extended protocol.
#[test]
fn what_the_commit_of_an_open_query_runs_is_nested_in_it() {
    let cluster = with_objects();
    let mut client = cluster.app();
    let [child, late, reads] = ["put_child($1)", "put_late($1)", "$1"].map(|f| {
        client
            .prepare(&format!("SELECT {f}::int"))
            .expect("prepares")
    });
    let before = cluster.flush();
    for _ in 0..2 {
        client.execute(&child, &[&1]).expect("runs");
        client.execute(&late, &[&1]).expect("runs");
    }
    client.execute(&child, &[&99]).expect_err("no such parent");
    client.execute(&late, &[&-1]).expect_err("is negative");
    client.execute(&reads, &[&1]).expect("runs");
    let child = |n| {
        [
            format!("INSERT | public.child | 1 | 3 | success | ~ | ~ | committed | {n}"),
            format!("SELECT | public.parent | 1 | 4 | success | ~ | 2 | committed | {n}"),
            format!("SELECT | ~ | 0 | 1 | success | ~ | ~ | committed | {n}"),
        ]
    };
    let late = |n| {
        [
            format!("INSERT | public.late | 1 | 3 | success | ~ | ~ | committed | {n}"),
            format!("INSERT | public.noted | 1 | 4 | success | ~ | ~ | committed | {n}"),
            format!("SELECT | ~ | 0 | 1 | success | ~ | ~ | committed | {n}"),
        ]
    };
    let failures = [
        "INSERT | public.child | 1 | 3 | success | ~ | ~ | rolled back | 5",
        "SELECT | public.parent | 1 | 4 | success | ~ | ~ | rolled back | 5",
        "SELECT | ~ | 0 | 1 | failed | 23503 | ~ | rolled back | 5",
        "INSERT | public.late | 1 | 3 | success | ~ | ~ | rolled back | 6",
        "INSERT | public.noted | 1 | 4 | failed | 23514 | ~ | rolled back | 6",
        "SELECT | ~ | 0 | 1 | failed | 23514 | ~ | rolled back | 6",
        "SELECT | ~ | 0 | 1 | success | ~ | ~ | committed | 7",
    ];
    let expected = [child(1), late(2), child(3), late(4)].concat();
    let all = since(&cluster, before);
    assert_eq!(all[..12], expected);
    assert_eq!(all[12..], failures);
}

#[test]
fn what_the_commit_of_a_statement_that_is_left_out_runs_is_nested_in_it() {
    let cluster = with_objects();
    let mut client = with_level(&cluster, "read, write");
    let before = cluster.flush();
    client
        .batch_execute("BEGIN; INSERT INTO child SELECT x FROM parent; COMMIT")
        .expect("runs");
    client
        .batch_execute("BEGIN; INSERT INTO late VALUES (-1)")
        .expect("runs");
    fails(&mut client, "COMMIT");
    assert_eq!(
        since(&cluster, before),
        [
            "INSERT | public.child | 0 | 1 | success | ~ | ~ | committed | 1",
            "SELECT | public.parent | 1 | 2 | success | ~ | 3 | committed | 2",
            "INSERT | public.late | 0 | 1 | success | ~ | ~ | rolled back | 3",
            "INSERT | public.noted | 1 | 2 | failed | 23514 | ~ | rolled back | 4",
        ]
    );
    let mut client = with_level(&cluster, "read");
    let before = cluster.flush();
    client
        .batch_execute("INSERT INTO child VALUES (1), (2)")
        .expect("runs");
    assert_eq!(
        since(&cluster, before),
        ["SELECT | public.parent | 1 | 2 | success | ~ | 2 | committed | 1"]
    );
    let mut client = with_level(&cluster, "write");
    let late = client.prepare("SELECT put_late($1)").expect("prepares");
    let before = cluster.flush();
    client.batch_execute("SELECT put_late(1)").expect("runs");
    client.execute(&late, &[&1]).expect("runs");
    client
        .batch_execute("INSERT INTO late VALUES (2)")
        .expect("runs");
    assert_eq!(
        since(&cluster, before),
        [
            "INSERT | public.late | 1 | 2 | success | ~ | ~ | committed | 1",
            "INSERT | public.noted | 1 | 3 | success | ~ | ~ | committed | 1",
            "INSERT | public.late | 1 | 2 | success | ~ | ~ | committed | 2",
            "INSERT | public.noted | 1 | 3 | success | ~ | ~ | committed | 2",
            "INSERT | public.noted | 1 | 2 | success | ~ | ~ | committed | 3",
            "INSERT | public.late | 0 | 1 | success | ~ | ~ | committed | 3",
        ]
    );
    client
        .batch_execute("SET audit.nested = off; SET audit.level = 'read, write'")
        .expect("sets");
    let before = cluster.flush();
    client.execute(&late, &[&1]).expect("runs");
    client
        .batch_execute("BEGIN; INSERT INTO child VALUES (1); COMMIT")
        .expect("runs");
    assert_eq!(
        since(&cluster, before),
        [
            "SELECT | ~ | 0 | 1 | success | ~ | ~ | committed | 1",
            "INSERT | public.child | 0 | 1 | success | ~ | ~ | committed | 2",
        ]
    );
}

#[test]
fn an_error_that_a_trigger_handles_in_the_commit_is_caught() {
    let cluster = with_objects();
    cluster
        .psql()
        .run(
            "CREATE OR REPLACE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN INSERT INTO noted VALUES (new.x); RETURN NULL;
                   EXCEPTION WHEN check_violation THEN RETURN NULL; END $$",
        )
        .ok();
    let mut client = cluster.app();
    let before = cluster.flush();
    client
        .batch_execute("INSERT INTO late VALUES (-1), (-2)")
        .expect("runs");
    client.execute("SELECT put_late(-3)", &[]).expect("runs");
    assert_eq!(
        since(&cluster, before),
        [
            "INSERT | public.noted | 1 | 2 | caught | 23514 | ~ | rolled back | 1",
            "INSERT | public.noted | 1 | 3 | caught | 23514 | ~ | rolled back | 1",
            "INSERT | public.late | 0 | 1 | success | ~ | ~ | committed | 1",
            "INSERT | public.late | 1 | 3 | success | ~ | ~ | committed | 2",
            "INSERT | public.noted | 1 | 4 | caught | 23514 | ~ | rolled back | 2",
            "SELECT | ~ | 0 | 1 | success | ~ | ~ | committed | 2",
        ]
    );
}

/// No statement has failed there, and what the trigger runs next is still inside of that commit.
#[test]
fn what_a_trigger_raises_and_handles_in_the_commit_fails_nothing() {
    let cluster = with_objects();
    cluster
        .psql()
        .run(
            "CREATE OR REPLACE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN
                    BEGIN RAISE EXCEPTION 'x'; EXCEPTION WHEN raise_exception THEN NULL; END;
                    INSERT INTO noted VALUES (new.x); RETURN NULL;
                END $$",
        )
        .ok();
    let mut client = cluster.app();
    let before = cluster.flush();
    client
        .batch_execute("INSERT INTO late VALUES (1)")
        .expect("runs");
    client
        .execute("INSERT INTO late VALUES (2)", &[])
        .expect("runs");
    client
        .batch_execute("BEGIN; INSERT INTO late VALUES (3); COMMIT")
        .expect("runs");
    let told: Vec<_> = since(&cluster, before)
        .into_iter()
        .filter(|row| !row.starts_with("BEGIN"))
        .collect();
    assert_eq!(
        told,
        [
            "INSERT | public.noted | 1 | 2 | success | ~ | ~ | committed | 1",
            "INSERT | public.late | 0 | 1 | success | ~ | ~ | committed | 1",
            "INSERT | public.noted | 1 | 2 | success | ~ | ~ | committed | 2",
            "INSERT | public.late | 0 | 1 | success | ~ | ~ | committed | 2",
            "INSERT | public.late | 0 | 1 | success | ~ | ~ | committed | 4",
            "INSERT | public.noted | 1 | 2 | success | ~ | ~ | committed | 5",
            "COMMIT | ~ | 0 | 1 | success | ~ | ~ | committed | 5",
        ]
    );
}

/// What the planner runs of a next statement is no part of the one before.
#[test]
fn what_fails_while_a_next_statement_is_planned() {
    let cluster = Cluster::builder().setting("audit.level", "write").start();
    cluster
        .psql()
        .run(
            "CREATE TABLE w (x int);
             CREATE FUNCTION fold(v int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
                $$ BEGIN IF v = 13 THEN RAISE 'unlucky'; END IF; RETURN v; END $$",
        )
        .ok();
    cluster
        .psql()
        .command("INSERT INTO w VALUES (1); SELECT fold(13)")
        .error();
    assert_eq!(
        cluster.trail(
            "statement, outcome, transaction_outcome",
            "command = 'INSERT'"
        ),
        ["INSERT INTO w VALUES (1) | success | rolled back"]
    );
}

/// What a PREPARE runs itself is on record, where nothing was before.
#[test]
fn a_transaction_that_is_prepared_with_nothing_but_what_that_runs() {
    let cluster = Cluster::builder()
        .setting("max_prepared_transactions", "5")
        .setting("audit.level", "read")
        .start();
    cluster
        .psql()
        .run(
            "CREATE TABLE a (x int PRIMARY KEY); INSERT INTO a VALUES (1);
             CREATE TABLE b (x int REFERENCES a DEFERRABLE INITIALLY DEFERRED)",
        )
        .ok();
    let before = cluster.flush();
    cluster
        .psql()
        .run("BEGIN; INSERT INTO b VALUES (1); PREPARE TRANSACTION 'x'; COMMIT PREPARED 'x'")
        .ok();
    assert_eq!(
        cluster.trail(
            "command, depth, transaction_outcome",
            &format!("seq > {before}")
        ),
        ["SELECT | 1 | committed"]
    );
}

#[test]
fn checks_in_a_procedures_commit_have_its_fate() {
    let cluster = with_objects();
    cluster
        .psql()
        .run(
            "CREATE PROCEDURE steps() LANGUAGE plpgsql AS $$ BEGIN
                 INSERT INTO child VALUES (1), (2); COMMIT;
                 INSERT INTO child VALUES (3); ROLLBACK;
                 INSERT INTO child VALUES (3); COMMIT;
             END $$",
        )
        .ok();
    let before = cluster.flush();
    cluster.psql().run("CALL steps()").ok();
    assert_eq!(
        cluster.trail(
            "command, depth, details->'calls', transaction_outcome",
            &format!("seq > {before} AND depth > 0")
        ),
        [
            "INSERT | 1 | ~ | committed",
            "SELECT | 1 | 2 | committed",
            "INSERT | 1 | ~ | rolled back",
            "INSERT | 1 | ~ | committed",
            "SELECT | 1 | ~ | committed",
        ]
    );
}

/// A client goes away whose implicit transaction is open: nothing has failed.
#[test]
fn what_went_well_in_a_transaction_that_just_ends_has_not_failed() {
    let cluster = with_objects();
    let mut client = Raw::connect(&cluster);
    client.query("SELECT 1 / 0");
    client.post(b'P', b"\0/* a */ INSERT INTO once VALUES (1)\0\0\0");
    client.post(b'B', &[0; 8]);
    client.post(b'E', &[0; 5]);
    client.post(b'H', b"");
    client.post(b'X', b"");
    let columns = "outcome, coalesce(sqlstate, '~'), transaction_outcome";
    let ended = || cluster.trail(columns, "statement LIKE '/* a */%'");
    eventually("it has ended", || !ended().is_empty());
    assert_eq!(ended(), ["success | ~ | rolled back"]);

    let put = cluster.query("app", "SELECT 'put_late'::regproc::oid");
    let mut client = Raw::connect(&cluster);
    client.query("SELECT 1 / 0");
    client.query("BEGIN");
    client.call(put[0].parse().expect("a number"), "1");
    client.post(b'X', b"");
    let ended = || cluster.trail(columns, "command = 'EXECUTE' AND depth = 0");
    eventually("it has ended", || !ended().is_empty());
    assert_eq!(ended(), ["success | ~ | rolled back"]);
}

#[test]
fn checks_against_a_partitioned_table_are_one_event() {
    let cluster = with_objects();
    cluster
        .psql()
        .run(
            "CREATE TABLE parted (x int PRIMARY KEY) PARTITION BY RANGE (x);
             CREATE TABLE one PARTITION OF parted FOR VALUES FROM (0) TO (10);
             CREATE TABLE refers (x int REFERENCES parted); INSERT INTO parted VALUES (1)",
        )
        .ok();
    let before = cluster.flush();
    cluster
        .psql()
        .run("INSERT INTO refers SELECT 1 FROM generate_series(1, 100)")
        .ok();
    assert_eq!(
        cluster.trail(
            "command, depth, rows, details->'calls', relations",
            &format!("seq > {before}")
        ),
        [
            "SELECT | 1 | 100 | 100 | {public.parted}",
            "INSERT | 0 | 100 | ~ | {public.refers}",
        ]
    );
}
