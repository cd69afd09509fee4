//! `audit.role`: what uses a privilege granted to that role is recorded, whatever the level.

use audit_cluster_tests::{Cluster, server};

/// A cluster that records nothing but what `auditor` has privileges on.
fn cluster(setup: &str) -> Cluster {
    let cluster = Cluster::start();
    cluster.psql().run(format!(
        "CREATE ROLE auditor; CREATE TABLE a (id int, name text, secret text);
         CREATE TABLE b (id int); INSERT INTO a VALUES (1, 'x', 'y'); {setup}"
    ));
    cluster
}

const ONLY_OBJECTS: &str = "SET audit.level = 'none'; SET audit.role = 'auditor';";

/// What `sql` leaves in the trail when only objects are audited.
#[track_caller]
fn recorded(cluster: &Cluster, sql: &str) -> Vec<String> {
    let before = cluster.flush();
    cluster.psql().run(format!("{ONLY_OBJECTS} {sql}"));
    cluster.trail(
        "command || ' ' || coalesce(relations::text, '-')",
        &format!("seq > {before} AND command <> 'SET'"),
    )
}

/// Under another name it would audit nothing.
#[test]
fn the_role_is_not_renamed_or_dropped_by_others() {
    let cluster = cluster("CREATE ROLE helper LOGIN CREATEROLE; CREATE ROLE other");
    cluster.configure("audit.role", "'auditor'");
    cluster.reload();
    if server().major >= 16 {
        cluster
            .psql()
            .run("GRANT auditor, other TO helper WITH ADMIN OPTION")
            .ok();
    }
    for sql in ["ALTER ROLE auditor RENAME TO gone", "DROP ROLE auditor"] {
        let error = cluster.psql().user("helper").run(sql).error();
        assert!(error.contains("is refused"), "{sql}: {error}");
    }
    cluster
        .psql()
        .user("helper")
        .run("ALTER ROLE other RENAME TO third; DROP ROLE third")
        .ok();
    cluster
        .psql()
        .run("ALTER ROLE auditor RENAME TO gone; DROP ROLE gone")
        .ok();
}

/// A table that TRUNCATE … CASCADE reaches is emptied as one that it names.
#[test]
fn what_truncate_empties_by_cascade() {
    let cluster = cluster(
        "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE q (id int REFERENCES p) PARTITION BY LIST (id);
         CREATE TABLE q1 PARTITION OF q FOR VALUES IN (1); CREATE TABLE r (id int PRIMARY KEY);
         CREATE TABLE s (id int REFERENCES r); GRANT TRUNCATE ON q TO auditor",
    );
    assert_eq!(
        recorded(
            &cluster,
            "TRUNCATE r CASCADE; TRUNCATE p CASCADE; TRUNCATE a CASCADE"
        ),
        ["TRUNCATE TABLE {public.p,public.q}"]
    );
    let before = cluster.flush();
    cluster
        .psql()
        .run("SET client_min_messages = error; TRUNCATE b, r CASCADE; TRUNCATE q")
        .ok();
    assert_eq!(
        cluster.trail(
            "relations",
            &format!("seq > {before} AND command LIKE 'TRUNCATE%'")
        ),
        ["{public.b,public.r,public.s}", "{public.q}"]
    );
}

#[test]
fn a_grant_on_the_relation_selects_what_uses_it() {
    let cluster = cluster("GRANT SELECT ON a TO auditor; GRANT DELETE ON b TO auditor");
    assert_eq!(
        recorded(
            &cluster,
            "SELECT id FROM a; SELECT 1; SELECT id FROM b; SELECT a.id FROM a, b;
             INSERT INTO a VALUES (2); DELETE FROM b; COPY a TO STDOUT; COPY b TO STDOUT;"
        ),
        [
            "SELECT {public.a}",
            "SELECT {public.a,public.b}",
            "DELETE {public.b}",
            "COPY {public.a}"
        ]
    );
}

#[test]
fn a_grant_on_a_column_selects_what_uses_the_column() {
    let cluster = cluster(
        "GRANT SELECT (secret) ON a TO auditor; GRANT UPDATE (name) ON a TO auditor;
         GRANT INSERT (id) ON b TO auditor",
    );
    assert_eq!(
        recorded(
            &cluster,
            "SELECT id, name FROM a; SELECT secret FROM a; SELECT * FROM a;
             UPDATE a SET id = 2; UPDATE a SET name = 'z'; UPDATE a SET id = 3 WHERE secret = 'y';
             INSERT INTO b VALUES (1); INSERT INTO a (secret) VALUES ('s');"
        ),
        [
            "SELECT {public.a}",
            "SELECT {public.a}",
            "UPDATE {public.a}",
            "UPDATE {public.a}",
            "INSERT {public.b}"
        ]
    );
}

#[test]
fn roles_inherit_and_public_does_not_count() {
    let cluster = cluster(
        "CREATE ROLE readers; GRANT readers TO auditor; GRANT SELECT ON a TO readers;
         GRANT SELECT ON b TO PUBLIC",
    );
    assert_eq!(
        recorded(&cluster, "SELECT id FROM a; SELECT id FROM b;"),
        ["SELECT {public.a}"]
    );
}

#[test]
fn truncate_wrappers_and_nested_statements_count() {
    let cluster = cluster("GRANT TRUNCATE ON b TO auditor; GRANT SELECT ON a TO auditor");
    assert_eq!(
        recorded(
            &cluster,
            "TRUNCATE b; TRUNCATE a; CREATE TABLE c AS SELECT id FROM a;
             PREPARE p AS SELECT name FROM a; EXECUTE p; EXPLAIN SELECT * FROM a;
             DO $$ BEGIN PERFORM id FROM a; END $$;"
        ),
        [
            "TRUNCATE TABLE {public.b}",
            "CREATE TABLE AS {public.c,public.a}",
            "EXECUTE {public.a}",
            "SELECT {public.a}"
        ]
    );
}

#[test]
fn a_denied_statement_on_an_audited_object_is_on_record() {
    let cluster = cluster("GRANT SELECT ON a TO auditor; CREATE ROLE mallory LOGIN");
    cluster
        .psql()
        .run("ALTER ROLE mallory SET audit.level = 'none'; ALTER ROLE mallory SET audit.role = 'auditor'");
    let before = cluster.flush();
    let mut mallory = cluster.connect("mallory", "app");
    assert!(mallory.batch_execute("SELECT * FROM a").is_err());
    assert_eq!(
        cluster.trail(
            "command, outcome, sqlstate, relations",
            &format!("seq > {before}")
        ),
        ["SELECT | failed | 42501 | {public.a}"]
    );
}

#[test]
fn a_role_that_does_not_exist_selects_nothing_and_breaks_nothing() {
    let cluster = cluster("");
    assert_eq!(
        recorded(&cluster, "SET audit.role = 'nobody'; SELECT id FROM a;"),
        Vec::<String>::new()
    );
}
