//! What is recorded of a statement, column by column and protocol by protocol.

use audit_cluster_tests::Cluster;

/// Statements as text, without the `;` and blanks that a client may put after them.
pub const TEXT: &str = r"rtrim(statement, E'; \n')";

#[test]
fn every_column_of_a_simple_statement() {
    let cluster = Cluster::start();
    cluster
        .psql()
        .run("CREATE TABLE t (x int); INSERT INTO t VALUES (1), (2), (3)")
        .ok();
    let mut client = cluster.app();
    client
        .batch_execute("SET compute_query_id = on; SET application_name = 'books'")
        .expect("set");
    let row = client
        .query_one(
            "SELECT pid, to_hex(trunc(extract(epoch FROM backend_start))::int) || '.' || to_hex(pid),
                    clock_timestamp()::text
             FROM pg_stat_activity WHERE pid = pg_backend_pid()",
            &[],
        )
        .expect("asks");
    let (pid, session_id, before) = (
        row.get::<_, i32>(0),
        row.get::<_, String>(1),
        row.get::<_, String>(2),
    );
    client
        .batch_execute("SELECT x FROM t WHERE x > 1")
        .expect("selects");
    let after: String = client
        .query_one("SELECT clock_timestamp()::text", &[])
        .expect("asks")
        .get(0);

    let columns = "command, class, outcome, sqlstate, error, transaction_id, transaction_outcome,
        user_name, role_name, auth_identity, database_name, client_addr, client_port,
        application_name, backend_type, relations, object_type, object_name, statement,
        statement_length, statement_sha256, parameters, rows, depth, substatement_id, context";
    let auth_identity = "~"; // trust identifies nobody
    assert_eq!(
        cluster.trail(columns, "statement LIKE 'SELECT x FROM t%'"),
        [format!(
            "SELECT | READ | success | ~ | ~ | ~ | committed | postgres | postgres | \
             {auth_identity} | app | ~ | ~ | books | client backend | {{public.t}} | TABLE | \
             public.t | SELECT x FROM t WHERE x > 1 | ~ | ~ | ~ | 2 | 0 | 1 | ~"
        )]
    );
    assert_eq!(
        cluster.trail(
            &format!(
                "pid = {pid}, session_id = '{session_id}', started_at BETWEEN '{before}' AND '{after}',
                 duration BETWEEN '0' AND '10 s', recorded_at >= started_at,
                 recorded_at < started_at + '1 min', query_id <> 0, event_no > 0, statement_id > 0"
            ),
            "statement LIKE 'SELECT x FROM t%'"
        ),
        ["t | t | t | t | t | t | t | t | t"]
    );
}

#[test]
fn ids_are_those_of_the_server() {
    let cluster = Cluster::start();
    let mut client = cluster.app();
    client
        .batch_execute("CREATE TABLE t (x text); SET compute_query_id = on")
        .expect("prepares");
    let xid: String = client
        .query_one(
            "INSERT INTO t VALUES ('a') RETURNING pg_current_xact_id()::text",
            &[],
        )
        .expect("inserts")
        .get(0);
    assert_eq!(cluster.trail("transaction_id", "command = 'INSERT'"), [xid]);
    let query_id: i64 = client
        .query_one(
            "SELECT query_id FROM pg_stat_activity WHERE pid = pg_backend_pid()",
            &[],
        )
        .expect("asks")
        .get(0);
    assert_eq!(
        cluster.trail("query_id", "statement LIKE 'SELECT query_id%'"),
        [query_id.to_string()]
    );
    client
        .batch_execute("SET compute_query_id = off; SELECT 'no id'")
        .expect("selects");
    assert_eq!(
        cluster.trail("query_id", "statement = 'SELECT ''no id'''"),
        ["~"]
    );
}

#[test]
fn event_and_statement_numbers_count_up_in_a_session() {
    let cluster = Cluster::start();
    let mut client = cluster.app();
    for i in 1..=5 {
        client
            .batch_execute(&format!("SELECT {i} /* mine */"))
            .expect("selects");
    }
    drop(client);
    assert_eq!(
        cluster.trail(
            "statement_id - min(statement_id) OVER (), event_no - min(event_no) OVER ()",
            "statement LIKE '%mine%'"
        ),
        ["0 | 0", "1 | 1", "2 | 2", "3 | 3", "4 | 4"]
    );
    // Dense from 1 in every session, all classes and databases taken together.
    assert_eq!(
        cluster.trail_of(
            "DISTINCT seq",
            "session_id IN (SELECT session_id FROM audit.log WHERE event_no IS NOT NULL
                            GROUP BY session_id
                            HAVING count(*) <> max(event_no) OR min(event_no) <> 1
                                OR count(DISTINCT event_no) <> count(*))
             AND backend_type = 'client backend' AND pid NOT IN (SELECT pid FROM pg_stat_activity)"
        ),
        Vec::<String>::new()
    );
}

#[test]
fn the_extended_protocol_is_recorded_once_per_execution() {
    let cluster = Cluster::start();
    let mut client = cluster.app();
    client
        .batch_execute("CREATE TABLE t (x int, y text)")
        .expect("creates");
    let insert = client
        .prepare("INSERT INTO t VALUES ($1, $2)")
        .expect("prepares");
    for x in 0..3_i32 {
        client
            .execute(&insert, &[&x, &"secret value"])
            .expect("inserts");
    }
    // A portal that is fetched in three steps is one statement with all its rows.
    let mut transaction = client.transaction().expect("begins");
    let portal = transaction
        .bind("SELECT x FROM t WHERE x >= $1", &[&0_i32])
        .expect("binds");
    for _ in 0..3 {
        transaction.query_portal(&portal, 1).expect("fetches");
    }
    transaction
        .query_portal(&portal, 0)
        .expect("fetches the end");
    transaction.commit().expect("commits");
    assert_eq!(
        cluster.trail(
            "command, statement, rows, parameters, transaction_outcome",
            "command IN ('INSERT', 'SELECT') AND relations @> '{public.t}'"
        ),
        [
            "INSERT | INSERT INTO t VALUES ($1, $2) | 1 | ~ | committed",
            "INSERT | INSERT INTO t VALUES ($1, $2) | 1 | ~ | committed",
            "INSERT | INSERT INTO t VALUES ($1, $2) | 1 | ~ | committed",
            "SELECT | SELECT x FROM t WHERE x >= $1 | 3 | ~ | committed",
        ]
    );
}

#[test]
fn prepared_statements_of_sql() {
    let cluster = Cluster::start();
    cluster
        .psql()
        .run("PREPARE p (int) AS SELECT $1 + 1; EXECUTE p(1); EXECUTE p(2); DEALLOCATE p;")
        .ok();
    // EXECUTE is one event, its inner query none of its own.
    assert_eq!(
        cluster.trail(&format!("command, depth, {TEXT}"), "true"),
        [
            "PREPARE | 0 | PREPARE p (int) AS SELECT $1 + 1",
            "EXECUTE | 0 | EXECUTE p(1)",
            "EXECUTE | 0 | EXECUTE p(2)",
            "DEALLOCATE | 0 | DEALLOCATE p",
        ]
    );
}

#[test]
fn copy_counts_its_rows() {
    let cluster = Cluster::start();
    cluster.psql().run("CREATE TABLE t (x int)").ok();
    cluster
        .psql()
        .run("COPY t FROM STDIN;\n1\n2\n3\n\\.\n")
        .ok();
    cluster.psql().run("COPY t TO STDOUT").ok();
    cluster
        .psql()
        .run("COPY (SELECT x FROM t WHERE x > 1) TO STDOUT")
        .ok();
    cluster
        .psql()
        .run("COPY t FROM STDIN;\n4\nfive\n\\.\n")
        .error();
    assert_eq!(
        cluster.trail(
            "command, class, rows, relations, outcome, sqlstate",
            "command <> 'CREATE TABLE'"
        ),
        [
            "COPY | WRITE | 3 | {public.t} | success | ~",
            "COPY | READ | 3 | {public.t} | success | ~",
            "COPY | READ | 2 | {public.t} | success | ~",
            "COPY | WRITE | ~ | {public.t} | failed | 22P02",
        ]
    );
}

#[test]
fn nested_statements_have_depth_and_a_place_in_their_statement() {
    let cluster = Cluster::start();
    cluster
        .psql()
        .run(
            "CREATE TABLE t (x int); CREATE TABLE copy_of_t (x int);
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN INSERT INTO copy_of_t VALUES (NEW.x); RETURN NEW; END $$;
             CREATE TRIGGER note AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION note();
             CREATE FUNCTION add(x int) RETURNS void LANGUAGE plpgsql AS
                 $$ BEGIN INSERT INTO t VALUES (x); UPDATE t SET x = t.x; END $$",
        )
        .ok();
    cluster.psql().run("SELECT add(1)").ok();
    let mut rows = cluster.trail(
        &format!("statement_id - min(statement_id) OVER (), substatement_id, depth, command, rows, {TEXT}"),
        "command IN ('SELECT', 'INSERT', 'UPDATE')",
    );
    rows.sort();
    assert_eq!(
        rows,
        [
            "0 | 1 | 0 | SELECT | 1 | SELECT add(1)",
            // 2 is the call of the function.
            "0 | 3 | 1 | INSERT | 1 | INSERT INTO t VALUES (x)",
            "0 | 4 | 2 | INSERT | 1 | INSERT INTO copy_of_t VALUES (NEW.x)",
            "0 | 5 | 1 | UPDATE | 1 | UPDATE t SET x = t.x",
        ]
    );
}

#[test]
fn audit_nested_off_leaves_nested_statements_out() {
    let cluster = Cluster::start();
    cluster
        .psql()
        .run(
            "CREATE TABLE t (x int); DO $$ BEGIN INSERT INTO t VALUES (1); END $$;
              SET audit.nested = off; DO $$ BEGIN INSERT INTO t VALUES (2); END $$;",
        )
        .ok();
    assert_eq!(
        cluster.trail("command, depth", "command IN ('DO', 'INSERT')"),
        ["INSERT | 1", "DO | 0", "DO | 0"]
    );
}

#[test]
fn audit_catalog_off_leaves_reads_of_the_catalog_out() {
    let cluster = Cluster::start();
    let script = "SELECT count(*) FROM pg_class; SELECT count(*) FROM information_schema.tables;
                  SELECT count(*) FROM t; SELECT count(*) FROM t, pg_class;";
    cluster
        .psql()
        .run(format!("CREATE TABLE t (x int); {script}"))
        .ok();
    cluster
        .psql()
        .run(format!("SET audit.catalog = off; {script}"))
        .ok();
    assert_eq!(cluster.count("command = 'SELECT' AND depth = 0"), 4 + 2);
}

#[test]
fn the_kinds_of_statements_have_their_class_and_object() {
    let cluster = Cluster::start();
    let script = "
        CREATE TABLE t (id int PRIMARY KEY, x int);
        CREATE VIEW v AS SELECT x FROM t;
        CREATE INDEX i ON t (x);
        ALTER TABLE t ADD y int;
        INSERT INTO t VALUES (1, 1), (2, 2);
        UPDATE t SET x = 0;
        DELETE FROM t WHERE id = 1;
        TRUNCATE t;
        WITH gone AS (DELETE FROM t RETURNING *) SELECT * FROM gone;
        SELECT * FROM v;
        CREATE TABLE t2 AS SELECT * FROM t;
        CREATE ROLE alice;
        ALTER ROLE alice CREATEDB;
        GRANT SELECT ON t TO alice;
        REVOKE SELECT ON t FROM alice;
        DROP ROLE alice;
        BEGIN;
        COMMIT;
        VACUUM t;
        CHECKPOINT;
        DISCARD ALL;
        SET work_mem = '5MB';
        RESET work_mem;
        DO $$ BEGIN END $$;
        DROP TABLE t2;
        DROP TABLE t CASCADE;
    ";
    cluster
        .psql()
        .env("PGOPTIONS", "-c client_min_messages=error")
        .run(script)
        .ok();
    assert_eq!(
        cluster.trail("command, class, outcome", "depth = 0"),
        [
            "CREATE TABLE | DDL | success",
            "CREATE VIEW | DDL | success",
            "CREATE INDEX | DDL | success",
            "ALTER TABLE | DDL | success",
            "INSERT | WRITE | success",
            "UPDATE | WRITE | success",
            "DELETE | WRITE | success",
            "TRUNCATE TABLE | WRITE | success",
            "SELECT | WRITE | success",
            "SELECT | READ | success",
            "CREATE TABLE AS | DDL | success",
            "CREATE ROLE | ROLE | success",
            "ALTER ROLE | ROLE | success",
            "GRANT | ROLE | success",
            "REVOKE | ROLE | success",
            "DROP ROLE | ROLE | success",
            "BEGIN | MISC | success",
            "COMMIT | MISC | success",
            "VACUUM | MISC | success",
            "CHECKPOINT | MISC | success",
            "DISCARD ALL | MISC | success",
            "SET | SET | success",
            "RESET | SET | success",
            "DO | FUNCTION | success",
            "DROP TABLE | DDL | success",
            "DROP TABLE | DDL | success",
        ]
    );
    assert_eq!(
        cluster.trail(
            "command, object_type, object_name",
            "command IN ('INSERT', 'UPDATE', 'CREATE ROLE')"
        ),
        [
            "INSERT | TABLE | public.t",
            "UPDATE | TABLE | public.t",
            "CREATE ROLE | ROLE | alice"
        ]
    );
    // A view's read names the view and what is behind it.
    assert_eq!(
        cluster.trail(
            "relations @> '{public.v}'",
            "statement LIKE 'SELECT * FROM v%'"
        ),
        ["t"]
    );
}

#[test]
fn relations_are_qualified_and_quoted_and_named_as_they_were() {
    let cluster = Cluster::start();
    cluster
        .psql()
        .run(
            r#"CREATE SCHEMA "My Schema"; CREATE TABLE "My Schema"."Order" (x int);
               SELECT count(*) FROM "My Schema"."Order";
               ALTER TABLE "My Schema"."Order" RENAME TO plain"#,
        )
        .ok();
    assert_eq!(
        cluster.trail("relations[1]", "command = 'SELECT'"),
        [r#""My Schema"."Order""#]
    );
}

/// GRANT and REVOKE say who gets what; of roles, who becomes a member.
#[test]
fn grants_name_grantees_privileges_and_columns() {
    let cluster = Cluster::start();
    cluster.psql().run(
        "CREATE TABLE t (a int, b int); CREATE ROLE r1; CREATE ROLE r2;
         GRANT SELECT, UPDATE (a, b) ON t TO r1, PUBLIC WITH GRANT OPTION;
         REVOKE ALL ON t FROM r2;
         GRANT r1 TO r2;
         ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO r1;",
    );
    assert_eq!(
        cluster.trail(
            "command, object_name, details - 'classes'",
            "class = 'ROLE' AND command <> 'CREATE ROLE'"
        ),
        [
            r#"GRANT | public.t | {"columns": ["a", "b"], "grantees": ["r1", "PUBLIC"], "privileges": ["select", "update"], "grant_option": true, "column_privileges": {"update": ["a", "b"]}}"#,
            r#"REVOKE | public.t | {"grantees": ["r2"], "privileges": ["ALL"]}"#,
            r#"GRANT ROLE | r1 | {"roles": ["r1"], "members": ["r2"]}"#,
            r#"ALTER DEFAULT PRIVILEGES | ~ | {"grantees": ["r1"], "privileges": ["select"]}"#,
        ]
    );
}
