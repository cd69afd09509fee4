//! A client's query that the level leaves out has no frame unless something happens in it
//! (hooks/engine/lone.rs): what is recorded in it, after it and beside it is as if it had.

use audit_cluster_tests::Cluster;
use postgres::Client;

const OBJECTS: &str = "
    CREATE TABLE w (x int CHECK (x < 100)); CREATE TABLE r (x int); INSERT INTO r VALUES (1);
    CREATE FUNCTION note(v int) RETURNS int LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO w VALUES (v); RETURN v; END $$;
    CREATE FUNCTION deep(v int) RETURNS int LANGUAGE plpgsql AS
        $$ DECLARE n int; BEGIN SELECT note(v) + count(*) INTO n FROM r; RETURN n; END $$;
    CREATE FUNCTION fold(v int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
        $$ BEGIN IF v = 13 THEN RAISE 'unlucky'; END IF; RETURN v; END $$;
    CREATE FUNCTION caught(v int) RETURNS int LANGUAGE plpgsql AS
        $$ BEGIN PERFORM note(v); PERFORM note(v + 200); RETURN 0;
           EXCEPTION WHEN check_violation THEN RETURN note(v + 1); END $$;";

/// Where the numbers have gaps: the planner gives one to a portal's query that is recorded.
const ORDER: &str = "dense_rank() OVER (ORDER BY statement_id)";

/// What is recorded of writes is the same whether or not what reads is recorded, too.
#[track_caller]
fn alike(cluster: &Cluster, number: &str, script: impl Fn(&mut Client)) -> Vec<String> {
    let run = |level: &str| {
        cluster.psql().run("TRUNCATE w").ok();
        let before = cluster.flush();
        let mut client = cluster.app();
        client
            .batch_execute(&format!("SET audit.level = '{level}'"))
            .expect("sets");
        script(&mut client);
        drop(client);
        cluster.trail(
            &format!(
                "command, statement, depth, substatement_id, {number}, outcome, sqlstate, \
                 transaction_outcome, rows"
            ),
            &format!("seq > {before} AND command IN ('INSERT', 'UPDATE')"),
        )
    };
    let all = run("read, write");
    assert_eq!(run("write"), all);
    all
}

#[test]
fn what_it_calls_and_what_follows_it_have_their_numbers() {
    let cluster = Cluster::start();
    cluster.psql().run(OBJECTS).ok();
    let all = alike(&cluster, "statement_id", |client| {
        for sql in [
            "SELECT 1",
            "INSERT INTO w VALUES (1)",
            "SELECT note(2)",
            "SELECT deep(3); SELECT 4; SELECT note(4), deep(5)",
            "SELECT count(*) FROM r; INSERT INTO w VALUES (6); SELECT 1; INSERT INTO w VALUES (7)",
            "SELECT caught(8)",
            "SELECT note(10), caught(11) FROM r",
            "BEGIN; SELECT 1; SAVEPOINT s; SELECT note(12); SELECT deep(13); ROLLBACK TO s; \
             SELECT note(14); COMMIT",
            "BEGIN; SELECT note(15); ROLLBACK",
        ] {
            client.batch_execute(sql).expect(sql);
        }
        for sql in [
            "SELECT note(16); INSERT INTO no_table VALUES (1)",
            "SELECT 1; SELECT 2; INSERT INTO no_table VALUES (2)",
            "SELECT note(17), note(200)",
            "SELECT 1 / (x - 1) FROM r",
            "SELECT note(18) / (x - 1) FROM r",
            "SELECT caught(19), 1 / (x - 1) FROM r",
            "SELECT fold(13)",
            "SELECT no_column FROM r",
        ] {
            client.batch_execute(sql).expect_err(sql);
            client.batch_execute("SELECT 1").expect("goes on");
            client
                .batch_execute("INSERT INTO w VALUES (20)")
                .expect("goes on");
        }
    });
    assert!(all.len() > 30, "{all:#?}");
}

#[test]
fn one_that_is_suspended_keeps_its_number() {
    let cluster = Cluster::start();
    cluster.psql().run(OBJECTS).ok();
    let all = alike(&cluster, ORDER, |client| {
        let plain = "SELECT x FROM generate_series(1, 9) x";
        let writes = "SELECT deep(x) FROM generate_series(1, 9) x";
        let mut tx = client.transaction().expect("begins");
        let a = tx.bind(plain, &[]).expect("binds");
        let b = tx.bind(writes, &[]).expect("binds");
        assert_eq!(tx.query_portal(&a, 2).expect("a").len(), 2);
        tx.execute("INSERT INTO w VALUES (50)", &[]).expect("adds");
        assert_eq!(tx.query_portal(&b, 2).expect("b").len(), 2);
        assert_eq!(tx.query_portal(&a, 2).expect("a").len(), 2);
        tx.execute("SELECT note(51)", &[]).expect("adds");
        assert_eq!(tx.query_portal(&b, 2).expect("b").len(), 2);
        assert_eq!(tx.query_portal(&a, 0).expect("a").len(), 5);
        assert_eq!(tx.query_portal(&b, 0).expect("b").len(), 5);
        tx.commit().expect("ends");
    });
    assert!(all.len() > 10, "{all:#?}");
}

/// The server throws such a query away without its end. What comes then may have its memory.
#[test]
fn one_that_is_suspended_goes_with_its_transaction() {
    let cluster = Cluster::start();
    cluster.psql().run(OBJECTS).ok();
    let all = alike(&cluster, ORDER, |client| {
        for round in 0..12 {
            let query = [
                "SELECT x FROM generate_series(1, 9) x",
                "SELECT note(x) FROM generate_series(1, 9) x",
            ][round % 2];
            let mut tx = client.transaction().expect("begins");
            let outer = tx.bind(query, &[]).expect("binds");
            tx.query_portal(&outer, 1).expect("outer");
            {
                let mut inner = tx.savepoint("s").expect("begins");
                let portal = inner.bind(query, &[]).expect("binds");
                inner.query_portal(&portal, 1).expect("inner");
                if round % 3 == 0 {
                    inner.execute("SELECT note(200)", &[]).expect_err("fails");
                } else if round % 3 == 1 {
                    inner
                        .execute("INSERT INTO w VALUES (60)", &[])
                        .expect("adds");
                }
                inner.rollback().expect("rolls back");
            }
            tx.execute("SELECT note(61)", &[]).expect("adds");
            tx.query_portal(&outer, 1).expect("outer");
            match round % 4 {
                0 => tx.rollback().expect("rolls back"),
                1 => {
                    tx.execute("SELECT note(200)", &[]).expect_err("fails");
                    tx.rollback().expect("rolls back");
                }
                2 => {
                    tx.batch_execute("SELECT 1 / (x - 1) FROM r")
                        .expect_err("fails");
                    tx.rollback().expect("rolls back");
                }
                _ => tx.commit().expect("commits"),
            }
            for sql in [
                "SELECT note(62)",
                "INSERT INTO w VALUES (63)",
                "SELECT 1",
                "DO $$ BEGIN PERFORM deep(64); END $$",
            ] {
                client.batch_execute(sql).expect(sql);
            }
        }
    });
    assert!(all.len() > 60, "{all:#?}");
}

#[test]
fn a_level_that_changes_meanwhile() {
    let cluster = Cluster::start();
    cluster.psql().run(OBJECTS).ok();
    let before = cluster.flush();
    let mut client = cluster.app();
    for sql in [
        "SET audit.level = 'write'",
        "SELECT 'left out'",
        "SELECT set_config('audit.level', 'read', false), 'left out' FROM r",
        "SELECT 'recorded'",
        "SELECT set_config('audit.level', 'write', false), note(1)",
        "SELECT 'left out'",
        "SELECT set_config('audit.level', 'none', false), note(2)",
        "SELECT note(3), 'left out'",
        "SELECT set_config('audit.level', 'write', false)",
        "SELECT note(4), 'left out'",
        "SELECT set_config('audit.level', 'none', false)",
    ] {
        client.batch_execute(sql).expect(sql);
    }
    drop(client);
    let found = cluster.trail_of(
        "command, statement, depth, substatement_id",
        &format!(
            "database_name = 'app' AND seq > {before} AND class NOT IN ('SESSION') \
             AND command <> 'SET'"
        ),
    );
    let setting = "SETTING | ~ | 0 | ~";
    let noted = "INSERT | INSERT INTO w VALUES (v) | 1 | 2";
    assert_eq!(
        found,
        [
            setting, // SET
            setting,
            "SELECT | SELECT 'recorded' | 0 | 1",
            setting,
            noted,
            "SELECT | SELECT set_config('audit.level', 'write', false), note(1) | 0 | 1",
            setting,
            setting,
            noted,
            "FATE | ~ | 0 | ~",
            setting,
        ]
    );
}
