//! Every extension that comes with the server can be made and dropped: each is one event, whatever its
//! script does (spec/capture.md, rule 1).

use audit_cluster_tests::Cluster;
use std::thread;
use std::time::Duration;

#[test]
fn every_extension_of_the_server_is_made_and_dropped_in_one_event_each() {
    let cluster = Cluster::start();
    // pgaudit refuses where it is not preloaded; compose.rs has it.
    let names = cluster.query(
        "app",
        "SELECT name FROM pg_available_extensions
         WHERE installed_version IS NULL AND name NOT IN ('audit_ext', 'pgaudit') ORDER BY name",
    );
    assert!(names.len() > 30, "{names:?}");
    let mut script = "SET client_min_messages = warning;\n".to_owned();
    let mut expected = Vec::new();
    for name in &names {
        script += &format!(
            "CREATE EXTENSION IF NOT EXISTS \"{name}\" CASCADE; DROP EXTENSION \"{name}\" CASCADE;\n"
        );
        for command in ["CREATE", "DROP"] {
            expected.push(format!(
                "{command} EXTENSION | {name} | success | committed | 0"
            ));
        }
    }
    cluster.psql().run(script).ok();
    let events = cluster.trail(
        "command, trim('\"' FROM object_name), outcome, transaction_outcome, depth",
        "depth > 0 OR command NOT IN ('SET', 'SELECT')",
    );
    assert_eq!(events, expected);
    // What the drop of one takes with it is named.
    let dropped = cluster.trail(
        "details->'dropped' ? 'type public.hstore'",
        "command = 'DROP EXTENSION' AND object_name = 'hstore'",
    );
    assert_eq!(dropped, ["t"]);
    assert_eq!(
        cluster.value("SELECT count(*) FROM audit.log WHERE command = 'GAP'"),
        "0"
    );
}

/// A query of a foreign table can fail in its very end, where it has still a cursor to close.
#[test]
fn a_query_that_is_left_out_and_fails_as_it_ends_is_not_told_as_the_next() {
    let cluster = Cluster::start();
    let (host, port) = (cluster.socket_dir().display(), cluster.port());
    cluster
        .psql()
        .run(format!(
            "CREATE TABLE r AS SELECT generate_series(1, 1000) x;
             CREATE EXTENSION postgres_fdw;
             CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw
                 OPTIONS (host '{host}', port '{port}', dbname 'app', fetch_size '10');
             CREATE USER MAPPING FOR CURRENT_USER SERVER s;
             CREATE FOREIGN TABLE far (x int) SERVER s OPTIONS (table_name 'r')"
        ))
        .ok();
    let mut client = cluster.app();
    client
        .batch_execute("SET audit.level = 'ddl, misc'; SELECT x FROM far LIMIT 1")
        .expect("reads");
    let failed = thread::scope(|scope| {
        let sent = scope.spawn(|| {
            client.batch_execute("SELECT x, pg_sleep(1.5) FROM far LIMIT 1; CREATE TABLE never ()")
        });
        thread::sleep(Duration::from_millis(500));
        let ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                     WHERE application_name = 'postgres_fdw'";
        assert_eq!(cluster.query("app", ended), ["t"]);
        sent.join().expect("ends")
    });
    failed.expect_err("its cursor is gone");
    client
        .batch_execute("CREATE TABLE next ()")
        .expect("goes on");
    assert_eq!(
        cluster.trail(
            "statement_id, command, outcome, object_name",
            "application_name <> 'postgres_fdw' AND statement ~ 'never|next|far LIMIT'"
        ),
        ["4 | CREATE TABLE | success | public.next"]
    );
}
