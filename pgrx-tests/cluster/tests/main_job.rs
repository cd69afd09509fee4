//! The main job, end to end, small enough to run on every major: statements of two databases and
//! several users turn up in one trail with who, what, on what and how it ended.

use audit_cluster_tests::{Cluster, Shutdown};

#[test]
fn every_statement_is_on_record_with_who_what_and_how_it_ended() {
    let cluster = Cluster::start();
    cluster
        .psql()
        .run("CREATE TABLE users (id int PRIMARY KEY, name text)")
        .ok();
    cluster
        .psql()
        .run("INSERT INTO users VALUES (1, 'Ada'), (2, 'Grace')")
        .ok();
    cluster
        .psql()
        .run("SELECT name FROM users ORDER BY id")
        .ok();
    cluster
        .psql()
        .run("INSERT INTO users VALUES (1, 'Eve')")
        .error();
    cluster
        .psql()
        .run("CREATE ROLE bob LOGIN; GRANT SELECT ON users TO bob")
        .ok();
    cluster.psql().user("bob").run("DELETE FROM users").error();
    cluster
        .psql()
        .run("BEGIN; UPDATE users SET name = 'x' WHERE id = 2; ROLLBACK")
        .ok();
    cluster.psql().run("DROP TABLE users").ok();

    assert_eq!(
        cluster.trail(
            "user_name, command, rows, outcome, sqlstate, transaction_outcome",
            "command NOT IN ('BEGIN', 'ROLLBACK')"
        ),
        [
            "postgres | CREATE TABLE | ~ | success | ~ | committed",
            "postgres | INSERT | 2 | success | ~ | committed",
            "postgres | SELECT | 2 | success | ~ | committed",
            "postgres | INSERT | ~ | failed | 23505 | rolled back",
            "postgres | CREATE ROLE | ~ | success | ~ | committed",
            "postgres | GRANT | ~ | success | ~ | committed",
            "bob | DELETE | ~ | failed | 42501 | rolled back",
            "postgres | UPDATE | 1 | success | ~ | rolled back",
            "postgres | DROP TABLE | ~ | success | ~ | committed",
        ]
    );
    assert_eq!(
        cluster.trail(
            "command",
            "relations @> '{public.users}' AND class IN ('READ', 'WRITE')"
        ),
        ["INSERT", "SELECT", "INSERT", "DELETE", "UPDATE"]
    );
}

#[test]
fn two_databases_feed_one_trail_and_a_restart_loses_nothing() {
    let cluster = Cluster::start();
    cluster
        .psql()
        .db("postgres")
        .run("CREATE DATABASE other")
        .ok();
    for round in 1..=2 {
        for database in ["app", "other", "postgres"] {
            cluster
                .psql()
                .db(database)
                .run(format!("/* round {round} */ SELECT 1"))
                .ok();
        }
        cluster.restart(if round == 1 {
            Shutdown::Fast
        } else {
            Shutdown::Immediate
        });
    }
    assert_eq!(
        cluster.trail_of("database_name, statement", "statement LIKE '/* round %'"),
        [
            "app | /* round 1 */ SELECT 1",
            "other | /* round 1 */ SELECT 1",
            "postgres | /* round 1 */ SELECT 1",
            "app | /* round 2 */ SELECT 1",
            "other | /* round 2 */ SELECT 1",
            "postgres | /* round 2 */ SELECT 1",
        ]
    );
}

#[test]
fn nested_failed_and_extended_statements_are_on_record() {
    let cluster = Cluster::start();
    cluster.psql().run("CREATE TABLE t (x int)").ok();
    let mut client = cluster.app();
    for x in 1..=3_i32 {
        client
            .execute("INSERT INTO t VALUES ($1)", &[&x])
            .expect("inserts");
    }
    client
        .batch_execute("DO $$ BEGIN UPDATE t SET x = x + 1; END $$")
        .expect("runs");
    crate::fails(&mut client, "SELECT 1/0");
    crate::fails(&mut client, "SELECT FROM WHERE");
    assert_eq!(
        cluster.trail(
            "command, depth, rows, outcome, sqlstate",
            "command <> 'CREATE TABLE'"
        ),
        [
            "INSERT | 0 | 1 | success | ~",
            "INSERT | 0 | 1 | success | ~",
            "INSERT | 0 | 1 | success | ~",
            "UPDATE | 1 | 3 | success | ~",
            "DO | 0 | ~ | success | ~",
            "SELECT | 0 | ~ | failed | 22012",
            "SELECT | 0 | ~ | failed | 42601",
        ]
    );
}
