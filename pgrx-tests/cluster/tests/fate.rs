//! What became of the transaction (spec/delivery.md, "Fate"): known for every row, whether the
//! statement carried it or a later event decided it.

use audit_cluster_tests::{Cluster, Shutdown};

use crate::fails;

/// Numbers, as the tests write them into comments, with their outcome and fate.
pub fn fates(cluster: &Cluster) -> Vec<String> {
    cluster.trail(
        "(regexp_match(statement, '/\\* (\\w+) \\*/'))[1], outcome, transaction_outcome",
        "statement ~ '^/\\* \\w+ \\*/'",
    )
}

fn with_table() -> Cluster {
    let cluster = Cluster::start();
    cluster
        .psql()
        .run("CREATE TABLE t (x int PRIMARY KEY)")
        .ok();
    cluster
}

#[test]
fn autocommit_statements_carry_their_fate() {
    let cluster = with_table();
    let mut client = cluster.app();
    client
        .simple_query("/* a */ INSERT INTO t VALUES (1)")
        .expect("inserts");
    client
        .simple_query("/* b */ SELECT * FROM t")
        .expect("selects");
    fails(&mut client, "/* c */ INSERT INTO t VALUES (1)");
    fails(&mut client, "/* d */ SELECT nosuch");
    assert_eq!(
        fates(&cluster),
        [
            "a | success | committed",
            "b | success | committed",
            "c | failed | rolled back",
            "d | failed | rolled back",
        ]
    );
}

#[test]
fn a_fate_is_open_until_the_transaction_ends() {
    let cluster = with_table();
    let mut client = cluster.app();
    client
        .batch_execute("BEGIN; /* a */ INSERT INTO t VALUES (1)")
        .expect("inserts");
    // Visible before the end, although its fate is not yet known.
    assert_eq!(fates(&cluster), ["a | success | ~"]);
    client.batch_execute("COMMIT").expect("commits");
    assert_eq!(fates(&cluster), ["a | success | committed"]);
}

#[test]
fn rollback_leaves_the_records() {
    let cluster = with_table();
    cluster
        .psql()
        .run(
            "BEGIN; /* a */ INSERT INTO t VALUES (1); /* b */ SELECT * FROM t; ROLLBACK;
             BEGIN; /* c */ INSERT INTO t VALUES (2); COMMIT;
             BEGIN; /* d */ CREATE TABLE u (x int); /* e */ SELECT * FROM u; ABORT;",
        )
        .ok();
    assert_eq!(
        fates(&cluster),
        [
            "a | success | rolled back",
            "b | success | rolled back",
            "c | success | committed",
            "d | success | rolled back",
            "e | success | rolled back",
        ]
    );
    assert_eq!(cluster.query("app", "SELECT x FROM t"), ["2"]);
}

#[test]
fn savepoints() {
    let cluster = with_table();
    cluster
        .psql()
        .run(
            "BEGIN; /* a */ INSERT INTO t VALUES (1); SAVEPOINT s; /* b */ INSERT INTO t VALUES (2);
             SAVEPOINT inner_one; /* c */ INSERT INTO t VALUES (3); RELEASE inner_one;
             ROLLBACK TO s; /* d */ INSERT INTO t VALUES (4); RELEASE s; COMMIT;",
        )
        .ok();
    assert_eq!(
        fates(&cluster),
        [
            "a | success | committed",
            "b | success | rolled back",
            "c | success | rolled back",
            "d | success | committed",
        ]
    );
}

#[test]
fn the_innermost_rollback_wins_over_a_later_commit_and_agrees_with_a_rollback() {
    let cluster = with_table();
    cluster
        .psql()
        .run(
            "BEGIN; SAVEPOINT s; /* a */ INSERT INTO t VALUES (1); ROLLBACK TO s;
             /* b */ INSERT INTO t VALUES (2); ROLLBACK;
             BEGIN; SAVEPOINT s; /* c */ INSERT INTO t VALUES (1); ROLLBACK TO s; ROLLBACK TO s;
             /* d */ INSERT INTO t VALUES (1); COMMIT;",
        )
        .ok();
    assert_eq!(
        fates(&cluster),
        [
            "a | success | rolled back",
            "b | success | rolled back",
            "c | success | rolled back",
            "d | success | committed",
        ]
    );
}

#[test]
fn an_error_in_a_block_rolls_everything_back_and_what_follows_fails() {
    let cluster = with_table();
    let mut client = cluster.app();
    client
        .batch_execute("BEGIN; /* a */ INSERT INTO t VALUES (1)")
        .expect("inserts");
    fails(&mut client, "/* b */ SELECT 1/0");
    assert_eq!(
        fails(&mut client, "/* c */ SELECT 1").code().code(),
        "25P02"
    );
    // COMMIT of a failed block is a rollback.
    client.batch_execute("COMMIT").expect("ends");
    assert_eq!(
        fates(&cluster),
        [
            "a | success | rolled back",
            "b | failed | rolled back",
            "c | failed | rolled back",
        ]
    );
}

#[test]
fn an_error_can_be_rolled_back_to_a_savepoint() {
    let cluster = with_table();
    let mut client = cluster.app();
    client
        .batch_execute("BEGIN; /* a */ INSERT INTO t VALUES (1); SAVEPOINT s")
        .expect("inserts");
    fails(&mut client, "/* b */ INSERT INTO t VALUES (1)");
    client
        .batch_execute("/* back */ ROLLBACK TO s; /* c */ INSERT INTO t VALUES (2); COMMIT")
        .expect("commits");
    assert_eq!(
        fates(&cluster),
        [
            "a | success | committed",
            "b | failed | rolled back",
            "back | success | committed",
            "c | success | committed"
        ]
    );
}

#[test]
fn an_error_that_a_block_handles_is_caught() {
    let cluster = with_table();
    cluster
        .psql()
        .run(
            "/* top */ DO $$ BEGIN
                 INSERT INTO t VALUES (1);
                 BEGIN
                     INSERT INTO t VALUES (2);
                     INSERT INTO t VALUES (1);
                 EXCEPTION WHEN unique_violation THEN NULL;
                 END;
                 INSERT INTO t VALUES (3);
             END $$",
        )
        .ok();
    let mut rows = cluster.trail(
        "substatement_id, statement, outcome, sqlstate, transaction_outcome",
        "command = 'INSERT'",
    );
    rows.sort();
    assert_eq!(
        rows,
        [
            "2 | INSERT INTO t VALUES (1) | success | ~ | committed",
            "3 | INSERT INTO t VALUES (2) | success | ~ | rolled back",
            "4 | INSERT INTO t VALUES (1) | caught | 23505 | rolled back",
            "5 | INSERT INTO t VALUES (3) | success | ~ | committed",
        ]
    );
    assert_eq!(fates(&cluster), ["top | success | committed"]);
    assert_eq!(
        cluster.query("app", "SELECT x FROM t ORDER BY x"),
        ["1", "3"]
    );
}

#[test]
fn an_error_that_no_handler_matches_is_failed() {
    let cluster = with_table();
    let mut client = cluster.app();
    fails(
        &mut client,
        "DO $$ BEGIN
             BEGIN INSERT INTO t VALUES (NULL); EXCEPTION WHEN division_by_zero THEN NULL; END;
         END $$",
    );
    assert_eq!(
        cluster.trail(
            "command, outcome, sqlstate, transaction_outcome",
            "command IN ('INSERT', 'DO')"
        ),
        [
            "INSERT | failed | 23502 | rolled back",
            "DO | failed | 23502 | rolled back"
        ]
    );
}

#[test]
fn a_deferred_constraint_fails_at_commit() {
    let cluster = with_table();
    cluster
        .psql()
        .run("CREATE TABLE child (x int REFERENCES t DEFERRABLE INITIALLY DEFERRED)")
        .ok();
    let mut client = cluster.app();
    client
        .batch_execute("BEGIN; /* a */ INSERT INTO child VALUES (7)")
        .expect("inserts");
    assert_eq!(fails(&mut client, "COMMIT").code().code(), "23503");
    // It is COMMIT's own failure, also where COMMIT is implicit.
    fails(&mut client, "/* b */ INSERT INTO child VALUES (8)");
    assert_eq!(fates(&cluster)[0], "a | success | rolled back");
    assert_eq!(
        cluster.trail(
            "statement, outcome, sqlstate, transaction_outcome",
            "command = 'COMMIT'"
        ),
        ["COMMIT | failed | 23503 | rolled back"]
    );
    assert_eq!(
        cluster.trail("transaction_outcome", "statement LIKE '/* b */%'"),
        ["rolled back"]
    );
}

#[test]
fn read_only_transactions_have_a_fate_too() {
    let cluster = with_table();
    cluster
        .psql()
        .run(
            "BEGIN READ ONLY; /* a */ SELECT * FROM t; COMMIT;
             BEGIN READ ONLY; /* b */ SELECT * FROM t; ROLLBACK;",
        )
        .ok();
    assert_eq!(
        fates(&cluster),
        ["a | success | committed", "b | success | rolled back"]
    );
}

#[test]
fn statements_of_one_string_share_their_fate() {
    let cluster = with_table();
    cluster
        .psql()
        .command("/* a */ INSERT INTO t VALUES (1); /* b */ INSERT INTO t VALUES (2)")
        .ok();
    cluster
        .psql()
        .command(
            "/* c */ INSERT INTO t VALUES (3); /* d */ INSERT INTO t VALUES (1); /* e */ SELECT 1",
        )
        .error();
    assert_eq!(
        fates(&cluster),
        [
            "a | success | committed",
            "b | success | committed",
            "c | success | rolled back",
            "d | failed | rolled back",
        ]
    );
    assert_eq!(
        cluster.query("app", "SELECT x FROM t ORDER BY x"),
        ["1", "2"]
    );
}

#[test]
fn a_procedure_that_commits_and_rolls_back() {
    let cluster = with_table();
    cluster
        .psql()
        .run(
            "CREATE PROCEDURE steps() LANGUAGE plpgsql AS $$ BEGIN
                 INSERT INTO t VALUES (1); COMMIT;
                 INSERT INTO t VALUES (2); ROLLBACK;
                 INSERT INTO t VALUES (3);
             END $$",
        )
        .ok();
    cluster.psql().run("/* call */ CALL steps()").ok();
    assert_eq!(
        cluster.trail(
            "statement, depth, transaction_outcome",
            "command = 'INSERT'"
        ),
        [
            "INSERT INTO t VALUES (1) | 1 | committed",
            "INSERT INTO t VALUES (2) | 1 | rolled back",
            "INSERT INTO t VALUES (3) | 1 | committed",
        ]
    );
    assert_eq!(cluster.count("command = 'CALL' AND outcome = 'success'"), 1);
}

#[test]
fn chained_transactions() {
    let cluster = with_table();
    cluster
        .psql()
        .run(
            "BEGIN; /* a */ INSERT INTO t VALUES (1); COMMIT AND CHAIN;
             /* b */ INSERT INTO t VALUES (2); ROLLBACK AND CHAIN;
             /* c */ INSERT INTO t VALUES (3); COMMIT;",
        )
        .ok();
    assert_eq!(
        fates(&cluster),
        [
            "a | success | committed",
            "b | success | rolled back",
            "c | success | committed"
        ]
    );
}

/// AND CHAIN begins a block as BEGIN does: what ends well in it has, whatever ends the session.
#[test]
fn what_follows_and_chain_is_in_a_block() {
    let cluster = with_table();
    for level in ["all", "write"] {
        for (number, chain) in [
            "BEGIN; COMMIT AND CHAIN",
            "BEGIN; ROLLBACK AND CHAIN",
            "BEGIN; SELECT 1 / 0; ROLLBACK AND CHAIN",
            "BEGIN; SELECT 1 / 0; COMMIT AND CHAIN",
            "BEGIN; SAVEPOINT s; SELECT 1 / 0; ROLLBACK AND CHAIN",
            "BEGIN; SAVEPOINT s; SELECT 1 / 0; COMMIT AND CHAIN",
            "BEGIN; INSERT INTO t VALUES (1); COMMIT AND CHAIN; ROLLBACK AND CHAIN",
        ]
        .iter()
        .enumerate()
        {
            let name = format!("{level}{number}");
            let mut client = cluster.app();
            client
                .batch_execute(&format!("SET audit.level = '{level}'; TRUNCATE t"))
                .expect("sets");
            for sql in chain.split("; ") {
                let failed = client.batch_execute(sql).is_err();
                assert_eq!(failed, sql.contains('/'), "{sql}");
            }
            let sql = format!("/* {name} */ INSERT INTO t VALUES (2)");
            client.batch_execute(&sql).expect("inserts");
            // In a block it is on record once it ends.
            assert_eq!(
                fates(&cluster).last(),
                Some(&format!("{name} | success | ~"))
            );
            drop(client);
            audit_cluster_tests::eventually("the fate is known", || {
                fates(&cluster).last() == Some(&format!("{name} | success | rolled back"))
            });
        }
        // Where it fails there is none.
        let mut client = cluster.app();
        client
            .batch_execute(&format!("SET audit.level = '{level}'"))
            .expect("sets");
        fails(&mut client, "ROLLBACK AND CHAIN");
        fails(&mut client, "COMMIT AND CHAIN");
        let sql = format!("/* {level} */ INSERT INTO t VALUES (3)");
        client.batch_execute(&sql).expect("inserts");
        assert_eq!(
            fates(&cluster).last(),
            Some(&format!("{level} | success | committed"))
        );
    }
}

#[test]
fn a_level_without_transaction_control_still_knows_the_fate() {
    let cluster = with_table();
    cluster
        .psql()
        .run(
            "SET audit.level = 'write';
             BEGIN; /* a */ INSERT INTO t VALUES (1); COMMIT;
             BEGIN; /* b */ INSERT INTO t VALUES (2); ROLLBACK;
             BEGIN; SAVEPOINT s; /* c */ INSERT INTO t VALUES (3); ROLLBACK TO s;
             /* d */ INSERT INTO t VALUES (4); COMMIT;",
        )
        .ok();
    assert_eq!(
        fates(&cluster),
        [
            "a | success | committed",
            "b | success | rolled back",
            "c | success | rolled back",
            "d | success | committed",
        ]
    );
    assert_eq!(
        cluster.count("command IN ('BEGIN', 'COMMIT', 'ROLLBACK')"),
        0
    );
}

#[test]
fn a_client_that_goes_away_in_a_transaction_rolls_it_back() {
    let cluster = with_table();
    let mut client = cluster.app();
    client
        .batch_execute("BEGIN; /* a */ INSERT INTO t VALUES (1)")
        .expect("inserts");
    drop(client);
    audit_cluster_tests::eventually("the fate is known", || {
        fates(&cluster) == ["a | success | rolled back"]
    });
}

#[test]
fn a_transaction_cut_off_by_a_shutdown_is_rolled_back() {
    let cluster = with_table();
    let mut client = cluster.app();
    client
        .batch_execute("BEGIN; /* a */ INSERT INTO t VALUES (1)")
        .expect("inserts");
    cluster.restart(Shutdown::Fast);
    audit_cluster_tests::eventually("the fate is known", || {
        fates(&cluster) == ["a | success | rolled back"]
    });
    assert_eq!(cluster.query("app", "SELECT count(*) FROM t"), ["0"]);
}

/// A cursor that fails in a subtransaction later than its own has no end, but its event has.
#[test]
fn a_cursor_that_fails_in_a_later_subtransaction() {
    let cluster = Cluster::start();
    cluster
        .psql()
        .run("CREATE TABLE n AS SELECT generate_series(1, 10) AS x; CREATE TABLE w (x int)")
        .ok();
    let mut client = cluster.app();
    client
        .batch_execute(
            "CREATE FUNCTION open_c(c refcursor) RETURNS refcursor LANGUAGE plpgsql AS
             $$ BEGIN OPEN c NO SCROLL FOR SELECT x FROM n WHERE 7 = 7; RETURN c; END $$;
             BEGIN; SELECT open_c('c'); FETCH 1 FROM c; SAVEPOINT s",
        )
        .expect("runs");
    client
        .batch_execute("FETCH PRIOR FROM c")
        .expect_err("goes forward only");
    client
        .batch_execute("ROLLBACK TO s; CLOSE c; INSERT INTO w VALUES (1); COMMIT")
        .expect("runs");
    assert_eq!(
        cluster.trail(
            "command, rows, outcome, transaction_outcome",
            "(command = 'SELECT' AND statement ~ '7 = 7') OR command = 'INSERT'"
        ),
        [
            "SELECT | 1 | success | rolled back",
            "INSERT | 1 | success | committed"
        ]
    );
}
