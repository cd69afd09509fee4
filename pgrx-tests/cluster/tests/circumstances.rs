//! What changes around a statement: how it fails, who runs it, from where, in which context.

use audit_cluster_tests::{Cluster, eventually};

use crate::fails;

#[test]
fn failures_are_recorded_with_their_objects() {
    let cluster = Cluster::start();
    cluster
        .psql()
        .run(
            "CREATE TABLE users (id int PRIMARY KEY, n int); INSERT INTO users VALUES (1, 0);
              CREATE ROLE bob LOGIN;",
        )
        .ok();
    let bob = || cluster.psql().user("bob");
    bob().run("SELECT * FROM users").error();
    bob().run("DELETE FROM users").error();
    bob().run("DROP TABLE users").error();
    let mut client = cluster.app();
    fails(&mut client, "INSERT INTO users VALUES (1, 1)");
    fails(&mut client, "SELECT 1 / n FROM users");
    fails(&mut client, "SELECT * FROM nosuch");
    fails(&mut client, "SELECT FROM WHERE");
    fails(&mut client, "frobnicate the database");
    assert_eq!(
        cluster.trail(
            "user_name, command, outcome, sqlstate, relations, error",
            "outcome <> 'success'"
        ),
        [
            "bob | SELECT | failed | 42501 | {public.users} | permission denied for table users",
            "bob | DELETE | failed | 42501 | {public.users} | permission denied for table users",
            "bob | DROP TABLE | failed | 42501 | {public.users} | must be owner of table users",
            "postgres | INSERT | failed | 23505 | {public.users} | duplicate key value violates \
             unique constraint \"users_pkey\"",
            "postgres | SELECT | failed | 22012 | {public.users} | division by zero",
            "postgres | SELECT | failed | 42P01 | ~ | relation \"nosuch\" does not exist",
            "postgres | SELECT | failed | 42601 | ~ | syntax error at or near \"WHERE\"",
            "postgres | UNKNOWN | failed | 42601 | ~ | syntax error at or near \"frobnicate\"",
        ]
    );
}

#[test]
fn failures_of_the_extended_protocol() {
    let cluster = Cluster::start();
    let mut client = cluster.app();
    client.query("SELECT nosuch", &[]).expect_err("fails");
    client
        .query("SELECT 10 / $1::int", &[&0_i32])
        .expect_err("fails");
    client
        .query("SELECT $1::text /* bound */", &[&"a\0b"])
        .expect_err("fails");
    client.simple_query("").expect("ready again");
    assert_eq!(
        cluster.trail("command, sqlstate, statement", "outcome = 'failed'"),
        [
            "SELECT | 42703 | SELECT nosuch",
            "SELECT | 22012 | SELECT 10 / $1::int",
            "SELECT | 22021 | SELECT $1::text /* bound */",
        ]
    );
}

#[test]
fn errors_that_hide_from_the_log_are_recorded() {
    let cluster = Cluster::start();
    cluster
        .psql()
        .run(
            "SET log_min_messages = panic; SET log_min_error_statement = panic;
             SET client_min_messages = error; SET log_error_verbosity = terse; SELECT 1/0;
             DO $$ BEGIN PERFORM 1/0; END $$;",
        )
        .error();
    assert_eq!(
        cluster.trail("command, sqlstate", "outcome = 'failed' AND depth = 0"),
        ["SELECT | 22012", "DO | 22012"]
    );
}

#[test]
fn changes_of_the_session_are_seen_from_the_next_statement_on() {
    let cluster = Cluster::start();
    cluster
        .psql()
        .run(
            r#"CREATE ROLE clerk;
               SELECT 1 /* here */;
               SET application_name = 'till';
               SELECT 2 /* here */;
               SET ROLE clerk;
               SELECT 3 /* here */;
               RESET ROLE;
               SET audit.context = '{"request": "r-7", "user": {"id": 12}}';
               SELECT 4 /* here */;
               SET audit.context = '';
               SELECT 5 /* here */;"#,
        )
        .ok();
    assert_eq!(
        cluster.trail(
            "application_name, user_name, role_name, context",
            "statement LIKE '%here%'"
        ),
        [
            "psql | postgres | postgres | ~",
            "till | postgres | postgres | ~",
            "till | postgres | clerk | ~",
            r#"till | postgres | postgres | {"user": {"id": 12}, "request": "r-7"}"#,
            "till | postgres | postgres | ~",
        ]
    );
}

#[test]
fn a_role_set_locally_ends_with_its_transaction() {
    let cluster = Cluster::start();
    cluster
        .psql()
        .run(
            "CREATE ROLE clerk; BEGIN; SET LOCAL ROLE clerk; SELECT 1 /* here */; COMMIT;
             SELECT 2 /* here */; BEGIN; SET ROLE clerk; ROLLBACK; SELECT 3 /* here */;",
        )
        .ok();
    assert_eq!(
        cluster.trail("role_name", "statement LIKE '%here%'"),
        ["clerk", "postgres", "postgres"]
    );
}

#[test]
fn the_branch_follows_a_reload() {
    let cluster = Cluster::start();
    cluster.psql().run("SELECT 'before' /* here */").ok();
    cluster.configure("audit.branch", "'feature/login'");
    cluster.reload();
    eventually("the branch is set", || {
        cluster.value("SHOW audit.branch") == "feature/login"
    });
    cluster.psql().run("SELECT 'after' /* here */").ok();
    assert_eq!(
        cluster.trail("coalesce(branch, '')", "statement LIKE '%here%'"),
        ["", "feature/login"]
    );
    cluster.psql().run("SET audit.branch = 'mine'").error();
}

#[test]
fn client_addresses() {
    let cluster = Cluster::start();
    cluster.psql().run("SELECT 'socket'").ok();
    cluster.psql().tcp().run("SELECT 'tcp'").ok();
    assert_eq!(
        cluster.trail("client_addr, client_port > 0", "command = 'SELECT'"),
        ["~ | ~", "127.0.0.1 | t"]
    );
}

#[test]
fn a_connection_by_tls_says_so() {
    let cluster = Cluster::start();
    let data = cluster.data_dir().display().to_string();
    // Run by the server, so that the key belongs to it.
    cluster
        .psql()
        .run(format!(
            "COPY (SELECT) TO PROGRAM 'umask 077; openssl req -x509 -newkey rsa:2048 -nodes -days 2 \
             -subj /CN=test -keyout {data}/server.key -out {data}/server.crt 2>&1'"
        ))
        .ok();
    cluster.configure("ssl", "on");
    cluster.reload();
    let by = |mode: &str| {
        let psql = cluster.psql().tcp().env("PGSSLMODE", mode);
        psql.run(format!("SELECT '{mode}'")).ok()
    };
    by("require");
    by("disable");
    assert_eq!(
        cluster.trail_of(
            "details->'tls'->>'version' ~ '^TLSv1', details->'tls'->>'cipher' <> ''",
            "command = 'CONNECT' AND client_addr = '127.0.0.1' AND application_name = 'psql'"
        ),
        ["t | t", "~ | ~"]
    );
}

#[test]
fn a_context_that_a_reload_refuses_is_nobodys_failure() {
    let cluster = Cluster::start();
    let mut client = cluster.app();
    client.simple_query("SELECT 1").expect("selects");
    cluster.configure("audit.context", "'{'");
    cluster.reload();
    client.simple_query("SELECT 2").expect("selects");
    let refused = "invalid value for parameter \"audit.context\"";
    assert!(cluster.log().contains(refused), "{}", cluster.log());
    assert_eq!(
        cluster.trail("statement, outcome, sqlstate", "true"),
        ["SELECT 1 | success | ~", "SELECT 2 | success | ~"]
    );
}

/// A statement that fails before its session has looked the role up is told without; those behind it are not.
#[test]
fn a_role_that_is_new_to_the_session() {
    let cluster = Cluster::start();
    cluster.psql().run("CREATE ROLE bob; SET ROLE bob").ok();
    let mut client = cluster.app();
    client.batch_execute("SET ROLE bob").expect("sets");
    crate::fails(&mut client, "SELECT * FROM nosuch");
    client.batch_execute("SELECT 1").expect("runs");
    assert_eq!(
        cluster.trail("role_name", "statement = 'SELECT 1'"),
        ["bob"]
    );
}
