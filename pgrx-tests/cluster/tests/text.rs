//! The statement's own text: cut out of its string, of any script, encoding and length.

use audit_cluster_tests::Cluster;

use crate::capture::TEXT;
use crate::fails;

#[test]
fn each_statement_of_a_string_is_one_event_with_its_own_text() {
    let cluster = Cluster::start();
    cluster
        .psql()
        .command("SELECT 1; SELECT  'a;b' ;\n -- note\n SELECT 3;")
        .ok();
    assert_eq!(
        cluster.trail(&format!("command, {TEXT}"), "true"),
        [
            "SELECT | SELECT 1",
            "SELECT | SELECT  'a;b'",
            "SELECT | -- note\n SELECT 3"
        ]
    );
}

#[test]
fn a_string_stops_at_its_failing_statement() {
    let cluster = Cluster::start();
    cluster.psql().run("CREATE TABLE t (x int)").ok();
    cluster
        .psql()
        .command("INSERT INTO t VALUES (1); SELECT 1/0; SELECT 'never'")
        .error();
    assert_eq!(
        cluster.trail(
            &format!("{TEXT}, outcome, transaction_outcome"),
            "command <> 'CREATE TABLE'"
        ),
        [
            "INSERT INTO t VALUES (1) | success | rolled back",
            "SELECT 1/0 | failed | rolled back",
        ]
    );
}

/// What a string of several statements, the last of which is of an unknown table, leaves on record.
fn of_failing_string(objects: &str, level: &str, string: &str) -> Vec<String> {
    let cluster = Cluster::start();
    cluster.psql().run(objects).ok();
    let before = cluster.flush();
    let mut client = cluster.app();
    let level = format!("SET audit.level = '{level}'");
    client.batch_execute(&level).expect("sets");
    fails(&mut client, string);
    cluster.trail(
        &format!("{TEXT}, outcome, sqlstate"),
        &format!("seq > {before} AND command <> 'SET'"),
    )
}

#[test]
fn what_fails_behind_a_statement_with_rules_is_told_apart_from_them() {
    let objects = "
        CREATE TABLE t (x int); CREATE TABLE log (x int); CREATE TABLE w (x int);
        CREATE RULE also AS ON INSERT TO t DO ALSO INSERT INTO log VALUES (new.x);
        CREATE RULE before AS ON UPDATE TO t DO ALSO INSERT INTO log VALUES (new.x);
        CREATE RULE instead AS ON INSERT TO w DO INSTEAD SELECT 1;";
    let first = "UPDATE t SET x = 2";
    for (second, level) in [
        ("INSERT INTO t VALUES (1)", "all"),
        ("INSERT INTO w VALUES (1)", "all"),
        ("INSERT INTO w VALUES (1)", "write, ddl, misc"),
    ] {
        let failing = if level == "all" {
            "SELECT * FROM nosuch"
        } else {
            "DELETE FROM nosuch"
        };
        let string = format!("{first}; {second}; {failing}");
        let mut events = of_failing_string(objects, level, &string);
        let failure = events.pop();
        assert_eq!(failure, Some(format!("{failing} | failed | 42P01")));
        events.dedup();
        let mut expected = vec![format!("{first} | success | ~")];
        if level == "all" {
            expected.push(format!("{second} | success | ~"));
        }
        assert_eq!(events, expected, "{string}");
    }
}

#[test]
fn what_fails_behind_a_begin_that_is_left_out_is_on_record() {
    for string in [
        "BEGIN; SELECT * FROM nosuch;",
        "BEGIN; /* 1 */ SELECT * FROM nosuch",
    ] {
        let text = string["BEGIN; ".len()..].trim_end_matches(';');
        assert_eq!(
            of_failing_string("", "read, write", string),
            [format!("{text} | failed | 42P01")]
        );
    }
}

#[test]
fn text_of_any_script_and_width() {
    let cluster = Cluster::start();
    let mut client = cluster.app();
    let texts = [
        "SELECT 'Grüße, 世界, 🦀'",
        "SELECT 'it''s' /* /* nested */ comment */",
        "SELECT $tag$ a 'quoted' \"text\" $tag$",
        "SELECT E'tab\\tand\\nnewline'",
        "SELECT\t1\n+\r\n2",
    ];
    for text in texts {
        client.simple_query(text).expect(text);
    }
    assert_eq!(cluster.trail("statement", "true"), texts);
}

#[test]
fn databases_of_other_encodings_feed_the_trail() {
    let cluster = Cluster::start();
    cluster
        .psql()
        .run(
            "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0;
             CREATE DATABASE bytes ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0;",
        )
        .ok();
    cluster.psql().db("latin").run("SELECT 'é' AS text").ok();
    let raw: &[u8] = b"SELECT 'caf\xe9' AS raw";
    let client = cluster
        .psql()
        .db("bytes")
        .env("PGCLIENTENCODING", "SQL_ASCII");
    assert_eq!(client.run(raw).code, 0);
    assert_eq!(
        cluster.trail_of(
            "statement",
            "database_name = 'latin' AND command = 'SELECT'"
        ),
        ["SELECT 'é' AS text"]
    );
    // What can't be converted is kept escaped; it costs nobody an event.
    let kept = cluster.trail_of(
        "statement, outcome, details->'unstorable'",
        "database_name = 'bytes' AND command = 'SELECT'",
    );
    assert_eq!(
        kept,
        [r#"SELECT 'caf\xe9' AS raw | success | {"statement": "escaped or left out"}"#]
    );
}

#[test]
fn bytes_that_are_no_text_do_not_stop_the_trail() {
    let cluster = Cluster::start();
    let bytes: &[u8] = b"SELECT 'caf\xe9';\nSELECT 'fine';\n";
    assert!(
        cluster
            .psql()
            .run(bytes)
            .error()
            .contains("invalid byte sequence")
    );
    assert_eq!(
        cluster.trail("outcome", "statement LIKE '%fine%'"),
        ["success"]
    );
    assert_eq!(
        cluster.count("outcome = 'failed' AND sqlstate = '22021'"),
        1
    );
}

#[test]
fn a_statement_of_a_megabyte_is_cut_and_its_digest_kept() {
    let cluster = Cluster::start();
    let mut client = cluster.app();
    let long = format!("SELECT length('{}')", "x".repeat(1_000_000));
    client.simple_query(&long).expect("selects");
    assert_eq!(
        cluster.trail(
            "statement_length, octet_length(statement) BETWEEN 60000 AND 65536,
             statement_sha256 = sha256(convert_to(
                 'SELECT length(''' || repeat('x', 1000000) || ''')', 'UTF8')),
             starts_with('SELECT length(''' || repeat('x', 1000000), statement), rows",
            "command = 'SELECT'"
        ),
        [format!("{} | t | t | t | 1", long.len())]
    );
}

#[test]
fn the_digest_of_a_long_statement_is_that_of_its_redacted_text() {
    let cluster = Cluster::start();
    cluster
        .psql()
        .run(format!(
            "SET audit.statement_max_size = '1kB';
             ALTER ROLE postgres PASSWORD 's3cret' /* {} */ VALID UNTIL 'infinity'",
            "x".repeat(2000)
        ))
        .ok();
    assert_eq!(
        cluster.trail(
            "statement_sha256 = sha256(convert_to('ALTER ROLE postgres PASSWORD ''<REDACTED>'' /* ' \
             || repeat('x', 2000) || ' */ VALID UNTIL ''infinity''', 'UTF8'))",
            "command = 'ALTER ROLE'"
        ),
        ["t"]
    );
}

#[test]
fn long_statements_that_fail_are_kept_as_far_as_the_setting_says() {
    let cluster = Cluster::start();
    let mut client = cluster.app();
    client
        .batch_execute("SET audit.statement_max_size = '300kB'")
        .expect("sets");
    let filler = "x".repeat(200_000);
    for sql in [
        format!("SELEC '{filler}'"),
        format!("SELECT nosuch, '{filler}'"),
        format!("SELECT '{filler}{filler}', nosuch"),
    ] {
        client.simple_query(&sql).expect_err("fails");
    }
    client.simple_query("").expect("ready again");
    assert_eq!(
        cluster.trail(
            "sqlstate, octet_length(statement), statement_length",
            "outcome = 'failed'"
        ),
        [
            "42601 | 200008 | ~",
            "42703 | 200017 | ~",
            "42703 | 307200 | 400017",
        ]
    );
}

#[test]
fn long_text_is_cut_at_a_character_boundary() {
    let cluster = Cluster::start();
    let mut client = cluster.app();
    client
        .batch_execute("SET audit.statement_max_size = '1kB'")
        .expect("sets");
    for pad in 0..4 {
        client
            .simple_query(&format!(
                "SELECT {}'{}'",
                " ".repeat(pad),
                "世".repeat(1000)
            ))
            .expect("selects");
    }
    client.simple_query("SELECT 'short'").expect("selects");
    assert_eq!(
        cluster.trail(
            "octet_length(statement) BETWEEN 1020 AND 1024, statement_length, statement LIKE '%世'",
            "statement LIKE '%世%'"
        ),
        [
            "t | 3009 | t",
            "t | 3010 | t",
            "t | 3011 | t",
            "t | 3012 | t"
        ]
    );
    assert_eq!(
        cluster.trail(
            "statement_length, statement_sha256",
            "statement LIKE '%short%'"
        ),
        ["~ | ~"]
    );
}

#[test]
fn nothing_to_run_is_nothing_to_record() {
    let cluster = Cluster::start();
    let mut client = cluster.app();
    for empty in ["", ";", " ;; ", "-- only a comment", "/* another */"] {
        client.simple_query(empty).expect("accepted");
    }
    client.simple_query("SELECT 1").expect("selects");
    assert_eq!(cluster.trail("statement", "true"), ["SELECT 1"]);
}

#[test]
fn ten_thousand_statements_in_one_string_and_in_one_block() {
    let cluster = Cluster::start();
    let mut client = cluster.app();
    let string: String = (0..10_000).map(|i| format!("SELECT {i};")).collect();
    client.simple_query(&string).expect("runs");
    client
        .batch_execute(
            "CREATE TABLE t (x int);
             DO $$ BEGIN FOR i IN 1..10000 LOOP INSERT INTO t VALUES (i); END LOOP; END $$",
        )
        .expect("runs");
    cluster.flush();
    assert_eq!(
        cluster.query(
            "postgres",
            "SELECT command, depth, count(*), count(DISTINCT (statement_id, substatement_id)), sum(rows)
             FROM audit.log WHERE database_name = 'app' AND command IN ('SELECT', 'INSERT')
             GROUP BY 1, 2 ORDER BY 2"
        ),
        ["SELECT | 0 | 10000 | 10000 | 10000", "INSERT | 1 | 10000 | 10000 | 10000"]
    );
}

#[test]
fn secrets_in_what_is_no_statement() {
    let cluster = Cluster::start();
    let mut client = cluster.app();
    client
        .batch_execute(
            "SET audit.parameters = on; SET application_name = 'a postgres://u:hunter2@h/d';
             SET audit.context = '{\"dsn\": \"host=h password=hunter2 port=1\"}'",
        )
        .expect("sets");
    client
        .query("SELECT $1::text", &[&"host=h password=hunter2 port=1"])
        .expect("runs");
    assert_eq!(
        cluster.trail(
            "parameters, application_name, context->>'dsn'",
            "statement = 'SELECT $1::text'"
        ),
        [
            "{\"host=h password=<REDACTED> port=1\"} | a postgres://u:<REDACTED>@h/d | \
             host=h password=<REDACTED> port=1"
        ]
    );
    nowhere(&cluster);
}

#[test]
fn secrets_in_a_text_that_was_parsed_under_another_setting() {
    let cluster = Cluster::start();
    cluster
        .psql()
        .run("CREATE FOREIGN DATA WRAPPER f; CREATE SERVER s FOREIGN DATA WRAPPER f")
        .ok();
    let mut client = cluster.app();
    for sql in [
        "SET standard_conforming_strings = off",
        "SET standard_conforming_strings = on; CREATE ROLE a PASSWORD 'it\\'s hunter2'",
        "SET standard_conforming_strings = off;
         CREATE USER MAPPING FOR CURRENT_USER SERVER s OPTIONS (user 'DOM\\', password 'hunter2')",
    ] {
        client.batch_execute(sql).expect(sql);
    }
    assert_eq!(
        cluster.trail(
            "command",
            "command IN ('CREATE ROLE', 'CREATE USER MAPPING')"
        ),
        ["CREATE ROLE", "CREATE USER MAPPING"]
    );
    nowhere(&cluster);
}

/// The secret of these tests is in no row of the trail.
#[track_caller]
fn nowhere(cluster: &Cluster) {
    cluster.flush();
    let found = cluster.query(
        "postgres",
        "SELECT l FROM audit.log l WHERE l::text LIKE '%hunter' || '2%'",
    );
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn a_nested_statement_with_a_secret_fails_once() {
    let cluster = Cluster::start();
    cluster
        .psql()
        .run(
            "CREATE ROLE a;
             DO $$ BEGIN EXECUTE 'ALTER ROLE a PASSWORD ''x'' PASSWORD ''y''';
             EXCEPTION WHEN OTHERS THEN NULL; END $$",
        )
        .ok();
    assert_eq!(
        cluster.trail("depth, outcome, sqlstate", "command = 'ALTER ROLE'"),
        ["1 | caught | 42601"]
    );
}

#[test]
fn values_that_can_not_be_read_or_written_cost_nothing() {
    let cluster = Cluster::builder()
        .setting("audit.parameters", "'on'")
        .start();
    cluster
        .psql()
        .run(
            "CREATE TABLE t (id int); CREATE TABLE log (id int);
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 INSERT INTO log SELECT CASE WHEN TG_OP = 'DELETE' THEN OLD.id ELSE NEW.id END;
                 RETURN NULL; END $$;
             CREATE TRIGGER note AFTER INSERT OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION note();
             CREATE FUNCTION tell() RETURNS event_trigger LANGUAGE plpgsql AS $$
                 DECLARE r record; BEGIN FOR r IN SELECT * FROM pg_event_trigger_ddl_commands() LOOP
                     PERFORM r.command IS NULL; END LOOP; END $$;
             CREATE EVENT TRIGGER tell ON ddl_command_end EXECUTE FUNCTION tell();
             INSERT INTO t VALUES (1); DELETE FROM t;
             CREATE TABLE told ();",
        )
        .ok();
    assert_eq!(cluster.query("app", "SELECT count(*) FROM log"), ["2"]);
    assert_eq!(
        cluster.trail(
            "outcome",
            "command = 'CREATE TABLE' AND object_name = 'public.told'"
        ),
        ["success"]
    );
    // Nor do they come with a later statement.
    let mut client = cluster.app();
    client
        .batch_execute("PREPARE p (int) AS INSERT INTO t VALUES ($1); SET audit.level = 'ddl'; EXECUTE p (4711)")
        .expect("inserts");
    client
        .batch_execute("SET audit.parameters = off; SET audit.level = 'all'; SELECT 'after'")
        .expect("goes on");
    assert_eq!(
        cluster.trail("parameters", "statement LIKE '%after%'"),
        ["~"]
    );
}
