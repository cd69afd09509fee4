//! `audit.level` by its observable effect, and who may change it.

use audit_cluster_tests::{Cluster, eventually};

use crate::assert_mentions;

/// One statement of each class, and failing ones; the comment is the name that the tests use.
const SCRIPT: &str = "
/* read */ SELECT count(*) FROM t;
/* write */ INSERT INTO t VALUES (1);
/* function */ DO $$ BEGIN END $$;
/* role */ GRANT SELECT ON t TO bob;
/* ddl */ CREATE TABLE u (x int);
/* ddl */ DROP TABLE u;
/* misc */ VACUUM t;
/* set */ SET work_mem = '4MB';
/* badread */ SELECT 1/0;
/* badddl */ DROP TABLE nosuch;
";

const ALL: &[&str] = &[
    "read", "write", "function", "role", "ddl", "ddl", "misc", "set", "badread", "badddl",
];

fn cluster() -> Cluster {
    let cluster = Cluster::start();
    cluster
        .psql()
        .run("CREATE TABLE t (x int); CREATE ROLE bob LOGIN")
        .ok();
    cluster
}

/// The names of what is recorded of [`SCRIPT`] at this level, in a session of its own.
fn recorded(cluster: &Cluster, level: &str) -> Vec<String> {
    let before = cluster.flush();
    let output = cluster
        .psql()
        .run(format!("SET audit.level = '{level}';\n{SCRIPT}"));
    assert!(
        !output.stderr.contains("audit.level"),
        "{level}: {output:?}"
    );
    names(cluster, before)
}

fn names(cluster: &Cluster, after_seq: i64) -> Vec<String> {
    cluster.trail(
        "(regexp_match(statement, '^/\\* (\\w+) \\*/'))[1]",
        &format!("seq > {after_seq} AND statement ~ '^/\\* \\w+ \\*/'"),
    )
}

/// The server inlines such a function, and says nowhere but in the list of what the plan writes to that it does.
#[test]
fn a_select_that_a_function_makes_write_is_a_write() {
    let cluster = cluster();
    cluster
        .psql()
        .run(
            "CREATE FUNCTION gone() RETURNS SETOF int STABLE LANGUAGE sql AS \
             'WITH gone AS (DELETE FROM t RETURNING x) SELECT x FROM gone'; \
             INSERT INTO t VALUES (1), (2)",
        )
        .ok();
    let before = cluster.flush();
    let output = cluster
        .psql()
        .run("SET audit.level = 'write'; SELECT * FROM gone()");
    assert_eq!(output.ok().trim(), "1\n2");
    assert_eq!(
        cluster.trail(
            "class || ' ' || command || ' ' || relations::text || ' ' || rows || ' ' || depth",
            &format!("seq > {before} AND command <> 'SET'")
        ),
        ["WRITE SELECT {public.t} 2 0"]
    );
}

#[test]
fn statements_that_are_left_out_have_their_numbers_and_nested_ones_none() {
    let cluster = cluster();
    cluster
        .psql()
        .run(
            "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS
                 $$ BEGIN PERFORM count(*) FROM t; PERFORM 2; RETURN 1; END $$;
             SET audit.level = 'none';
             SELECT 1 FROM f(); INSERT INTO t VALUES (f()); BEGIN; SELECT f(); COMMIT;
             SET audit.level = 'all';
             SELECT 'the ninth'",
        )
        .ok();
    assert_eq!(
        cluster.trail("statement_id", "statement ~ '^SELECT .the'"),
        ["9"]
    );
}

#[test]
fn the_whole_grammar() {
    let cluster = cluster();
    let none: &[&str] = &[];
    let cases: &[(&str, &[&str])] = &[
        ("all", ALL),
        ("none", none),
        ("read", &["read", "badread"]),
        ("write", &["write"]),
        ("function", &["function"]),
        ("role", &["role"]),
        ("ddl", &["ddl", "ddl", "badddl"]),
        ("misc", &["misc"]),
        ("set", &["set"]),
        ("session", none),
        ("failed", &["badread", "badddl"]),
        ("read, write", &["read", "write", "badread"]),
        (
            "ddl, role, failed",
            &["role", "ddl", "ddl", "badread", "badddl"],
        ),
        (
            "all, -misc",
            &[
                "read", "write", "function", "role", "ddl", "ddl", "set", "badread", "badddl",
            ],
        ),
        // Read from left to right.
        ("-misc, all", ALL),
        (
            "all, -read, -write, read",
            &[
                "read", "function", "role", "ddl", "ddl", "misc", "set", "badread", "badddl",
            ],
        ),
        ("all, none", none),
        ("none, write", &["write"]),
        ("write, -write", none),
        ("failed, -failed", none),
        // Words in any case, blanks anywhere.
        ("  READ ,Write,  - misc ", &["read", "write", "badread"]),
        (
            "ALL,-MISC,-Set",
            &[
                "read", "write", "function", "role", "ddl", "ddl", "badread", "badddl",
            ],
        ),
    ];
    let mut wrong = Vec::new();
    for (level, expected) in cases {
        let got = recorded(&cluster, level);
        if got != *expected {
            wrong.push(format!("{level:?}: {got:?}, not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_unknown_word_is_an_error_that_lists_the_valid_ones() {
    let cluster = cluster();
    for (level, word) in [
        ("everything", "everything"),
        ("read, wirte", "wirte"),
        ("-all x", "all x"),
    ] {
        let error = cluster
            .psql()
            .run(format!("SET audit.level = '{level}'; SHOW audit.level"));
        assert_mentions(&error.stderr, &["ERROR", "audit.level", word]);
        assert_mentions(
            &error.stderr,
            &[
                "none", "all", "read", "write", "function", "role", "ddl", "misc", "set",
                "session", "failed",
            ],
        );
        // The level stays what it was.
        assert_eq!(error.stdout.trim(), "all", "{level}");
    }
}

#[test]
fn the_level_of_databases_and_roles() {
    let cluster = cluster();
    cluster
        .psql()
        .db("postgres")
        .run("ALTER DATABASE app SET audit.level = 'ddl'")
        .ok();
    let before = cluster.flush();
    let _ = cluster.psql().run(SCRIPT);
    assert_eq!(names(&cluster, before), ["ddl", "ddl", "badddl"]);

    // A role's own level goes before the database's.
    cluster
        .psql()
        .db("postgres")
        .run("ALTER ROLE bob SUPERUSER; ALTER ROLE bob SET audit.level = 'read'")
        .ok();
    let before = cluster.flush();
    let _ = cluster.psql().user("bob").run(SCRIPT);
    assert_eq!(names(&cluster, before), ["read", "badread"]);
}

/// The start-up packet is a way to SET like any other, and its session a session like any other.
#[test]
fn what_a_client_asks_for_as_it_connects_is_on_record() {
    let cluster = cluster();
    let mut config = cluster.config("postgres", "app");
    config.application_name("quiet");
    for options in [
        "-c audit.level=none",
        "-c au\\dit.level=none -c statement_timeout=0",
        "--AUDIT.level=none -c audit.statement-max-size=64",
    ] {
        let before = cluster.flush();
        let mut client = config
            .clone()
            .options(options)
            .connect(postgres::NoTls)
            .expect("connects");
        client.batch_execute("SELECT 'unseen'").expect("runs");
        drop(client);
        let events = || {
            cluster.trail_of(
                "command, details ->> 'setting', details ->> 'old', details ->> 'new'",
                &format!("application_name = 'quiet' AND seq > {before}"),
            )
        };
        let mut expected = vec!["CONNECT | ~ | ~ | ~", "SETTING | audit.level | all | none"];
        if options.contains("size") {
            expected.push("SETTING | audit.statement_max_size | 65536 | 64");
        }
        eventually("it is there", || events().len() >= expected.len());
        assert_eq!(events(), expected, "{options}");
    }
    // The level of a role is its own, and no change; nor is an option that says what is.
    cluster
        .psql()
        .db("postgres")
        .run("ALTER ROLE bob SUPERUSER; ALTER ROLE bob SET audit.nested = off")
        .ok();
    for options in ["-c audit.context={}", "-c audit.level=all"] {
        let before = cluster.flush();
        let psql = cluster.psql().user("bob").env("PGOPTIONS", options);
        psql.run("SELECT 1").ok();
        let changes = cluster.trail_of(
            "object_name",
            &format!("command = 'SETTING' AND seq > {before}"),
        );
        assert!(changes.is_empty(), "{options}: {changes:?}");
    }
}

#[test]
fn the_level_of_the_server_follows_a_reload() {
    let cluster = cluster();
    let mut client = cluster.app();
    cluster.configure("audit.level", "'ddl'");
    cluster.reload();
    eventually("an open session sees the new level", || {
        client.simple_query("SELECT 1").expect("selects");
        let level = client.query_one("SHOW audit.level", &[]).expect("shows");
        level.get::<_, String>(0) == "ddl"
    });
    client
        .batch_execute("/* read */ SELECT 1; /* ddl */ CREATE TABLE u (x int)")
        .expect("runs");
    assert_eq!(names(&cluster, 0), ["ddl"]);
}

/// Who changes for others, or for later, what is recorded is on record, as is who does so for himself.
#[test]
fn settings_of_roles_databases_and_the_server_are_on_record_whatever_the_level() {
    let cluster = cluster();
    cluster
        .psql()
        .run(
            "SET audit.level = 'none'; ALTER ROLE bob SET audit.level = 'none'; ALTER ROLE bob SET work_mem = '1MB'; ALTER ROLE bob SET \"AUDIT.Level\" = 'ddl';
             ALTER DATABASE app SET audit.nested = off; ALTER DATABASE app RESET ALL;
             DO $$ BEGIN EXECUTE 'ALTER ROLE bob RESET audit.level'; END $$",
        )
        .ok();
    cluster
        .psql()
        .run("ALTER SYSTEM SET audit.level = 'none'")
        .ok();
    cluster.psql().run("ALTER SYSTEM RESET audit.level").ok();
    assert_eq!(
        cluster.trail_of(
            "class, command, outcome, object_name, details ->> 'setting', details ->> 'new'",
            "command LIKE 'ALTER %' AND (class = 'AUDIT' OR object_name <> 'bob')"
        ),
        [
            "AUDIT | ALTER ROLE | success | bob | audit.level | none",
            "AUDIT | ALTER ROLE | success | bob | AUDIT.Level | ddl",
            "AUDIT | ALTER DATABASE | success | app | audit.nested | off",
            "AUDIT | ALTER DATABASE | success | app | ~ | ~",
            "AUDIT | ALTER ROLE | success | bob | audit.level | ~",
            "DDL | ALTER SYSTEM | success | audit.level | audit.level | none",
            "DDL | ALTER SYSTEM | success | audit.level | audit.level | ~",
        ]
    );
}

#[test]
fn the_statement_that_changes_the_level_is_judged_by_the_old_one() {
    let cluster = cluster();
    cluster
        .psql()
        .run(
            "/* first */ SET audit.level = 'none'; /* second */ SET audit.level = 'all';
              /* third */ SELECT 1;",
        )
        .ok();
    assert_eq!(names(&cluster, 0), ["first", "third"]);
}

#[test]
fn a_level_set_locally_ends_with_its_transaction() {
    let cluster = cluster();
    cluster
        .psql()
        .run(
            "BEGIN; SET LOCAL audit.level = 'none'; /* a */ SELECT 1; COMMIT; /* b */ SELECT 2;
              BEGIN; SET audit.level = 'none'; ROLLBACK; /* c */ SELECT 3;",
        )
        .ok();
    assert_eq!(names(&cluster, 0), ["b", "c"]);
}

#[test]
fn nested_statements_are_judged_by_their_own_class() {
    let cluster = cluster();
    cluster
        .psql()
        .run("SET audit.level = 'write';
              DO $$ DECLARE n int; BEGIN INSERT INTO t VALUES (7); SELECT count(*) INTO n FROM t; END $$;")
        .ok();
    assert_eq!(
        cluster.trail("command, depth", "seq > 0 AND depth > 0"),
        ["INSERT | 1"]
    );
}

#[test]
fn an_ordinary_user_can_not_change_what_is_recorded() {
    let cluster = cluster();
    let bob = || cluster.psql().user("bob");
    for setting in [
        "audit.level",
        "audit.catalog",
        "audit.nested",
        "audit.statement_max_size",
    ] {
        let value = if setting == "audit.level" {
            "none"
        } else if setting == "audit.statement_max_size" {
            "1kB"
        } else {
            "on"
        };
        let refused = |output: audit_cluster_tests::Output| {
            assert_mentions(&output.error(), &["permission denied", setting]);
        };
        refused(bob().run(format!("SET {setting} = '{value}'")));
        refused(bob().run(format!("SET LOCAL {setting} = '{value}'")));
        refused(bob().run(format!("RESET {setting}")));
        refused(bob().run(format!("SELECT set_config('{setting}', '{value}', false)")));
        refused(bob().run(format!("ALTER ROLE bob SET {setting} = '{value}'")));
        refused(
            bob()
                .env("PGOPTIONS", &format!("-c {setting}={value}"))
                .run("SELECT 1"),
        );
        refused(bob().run(format!(
            "UPDATE pg_settings SET setting = '{value}' WHERE name = '{setting}'"
        )));
        // A function's SET clause is refused when it is made, or at the latest when it runs.
        cluster
            .psql()
            .run("GRANT CREATE ON SCHEMA public TO bob")
            .ok();
        refused(bob().run(format!(
            "CREATE FUNCTION quiet() RETURNS text LANGUAGE sql SET {setting} = '{value}' AS
                 $$ SELECT current_setting('{setting}') $$; SELECT quiet();"
        )));
    }
    // RESET ALL and DISCARD ALL leave the superuser's choice for his database in place.
    cluster
        .psql()
        .db("postgres")
        .run("ALTER DATABASE app SET audit.level = 'all, -set'")
        .ok();
    assert_eq!(
        bob()
            .run("RESET ALL; DISCARD ALL; SHOW audit.level")
            .ok()
            .trim(),
        "all, -set"
    );
    assert!(
        cluster
            .count("user_name = 'bob' AND statement LIKE '%audit.level%' AND outcome = 'failed'")
            >= 6
    );
}

#[test]
fn an_owner_of_the_database_can_not_change_what_is_recorded() {
    let cluster = cluster();
    cluster.psql().run("ALTER DATABASE app OWNER TO bob").ok();
    let error = cluster
        .psql()
        .user("bob")
        .run("ALTER DATABASE app SET audit.level = 'none'")
        .error();
    assert_mentions(&error, &["permission denied", "audit.level"]);
}

#[test]
fn the_right_to_set_the_level_can_be_granted() {
    if audit_cluster_tests::server().major < 15 {
        return; // GRANT SET came with 15
    }
    let cluster = cluster();
    cluster
        .psql()
        .run("GRANT SET ON PARAMETER audit.level TO bob")
        .ok();
    assert_eq!(
        cluster
            .psql()
            .user("bob")
            .run("SET audit.level = 'ddl'; SHOW audit.level")
            .ok()
            .trim(),
        "ddl"
    );
}

#[test]
fn an_ordinary_user_can_neither_read_nor_write_the_trail() {
    let cluster = cluster();
    // Even as owner of the home database, and with every right on schema public.
    cluster
        .psql()
        .db("postgres")
        .run("ALTER DATABASE postgres OWNER TO bob; GRANT ALL ON SCHEMA public TO bob")
        .ok();
    cluster
        .psql()
        .run("SELECT 1 /* something to protect */")
        .ok();
    cluster.flush();
    let relations = cluster.query(
        "postgres",
        "SELECT c.oid::regclass, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = 'audit' AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')",
    );
    assert!(
        relations.len() >= 4,
        "the views of the contract at least: {relations:?}"
    );
    let bob = |sql: &str| cluster.psql().user("bob").db("postgres").run(sql);
    for line in relations {
        let (relation, kind) = line.split_once(" | ").expect("two columns");
        let mut attempts = vec![format!("SELECT * FROM {relation}")];
        if kind != "S" {
            attempts.push(format!("SELECT 1 FROM {relation}"));
            attempts.push(format!("INSERT INTO {relation} DEFAULT VALUES"));
            attempts.push(format!("DELETE FROM {relation}"));
            attempts.push(format!("COPY (SELECT * FROM {relation}) TO STDOUT"));
        }
        if matches!(kind, "r" | "p") {
            attempts.push(format!("TRUNCATE {relation}"));
            attempts.push(format!("ALTER TABLE {relation} ADD x int"));
            attempts.push(format!("DROP TABLE {relation}"));
            attempts.push(format!("CREATE INDEX ON {relation} ((1))"));
            attempts.push(format!(
                "CREATE RULE r AS ON INSERT TO {relation} DO INSTEAD NOTHING"
            ));
        }
        for attempt in attempts {
            let output = bob(&attempt);
            assert!(
                output.stderr.contains("permission denied")
                    || output.stderr.contains("must be owner")
                    || output.stderr.contains("is refused"),
                "{attempt}: {output:?}"
            );
            assert_eq!(output.stdout, "", "{attempt}");
        }
    }
    for attempt in [
        "DROP EXTENSION audit_ext",
        "DROP SCHEMA audit CASCADE",
        "ALTER SCHEMA audit RENAME TO x",
        "CREATE TABLE audit.x (x int)",
        "GRANT audit_reader TO bob",
        "GRANT audit_admin TO bob",
        "SET ROLE audit_admin",
        "ALTER VIEW audit.log OWNER TO bob",
        "CREATE OR REPLACE VIEW audit.log AS SELECT 1 AS seq",
    ] {
        bob(attempt).error();
    }
    assert_eq!(cluster.count("statement LIKE '%something to protect%'"), 1);
}

#[test]
fn an_ordinary_user_may_set_the_context_and_nothing_else_of_it() {
    let cluster = cluster();
    cluster
        .psql()
        .user("bob")
        .run(r#"SET audit.context = '{"ticket": 5}'; SELECT 1 /* here */"#)
        .ok();
    assert_eq!(
        cluster.trail("context", "statement LIKE '%here%'"),
        [r#"{"ticket": 5}"#]
    );
}

/// Members of audit_admin choose what is recorded, without being superusers.
#[test]
fn an_administrator_may_change_the_level() {
    let cluster = Cluster::start();
    cluster
        .psql()
        .run("CREATE ROLE keeper LOGIN; GRANT audit_admin TO keeper; GRANT CREATE ON SCHEMA public TO keeper;");
    let mut keeper = cluster.connect("keeper", "app");
    keeper
        .batch_execute("SET audit.level = 'ddl'; SELECT 'left out'; CREATE TABLE kept (x int);")
        .expect("may set it");
    keeper
        .batch_execute("ALTER ROLE keeper SET audit.level = 'all, -misc'")
        .expect("may set it for a role");
    assert_eq!(
        cluster.trail("command", "user_name = 'keeper'"),
        ["SET", "CREATE TABLE"]
    );
    assert!(
        keeper.batch_execute("SET audit.on_full = 'drop'").is_err(),
        "what a full ring does is a superuser's decision"
    );
}
