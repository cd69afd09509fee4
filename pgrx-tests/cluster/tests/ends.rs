//! How sessions and the server end, and what the trail says of it (spec/capture.md, rules 8 and 9).

use audit_cluster_tests::{Cluster, Shutdown, eventually};

fn disconnects(cluster: &Cluster, application: &str) -> Vec<String> {
    cluster.trail_of(
        "details->>'reason', details->>'sqlstate', details->>'statements', \
         (details->>'events')::int = (SELECT max(event_no) FROM audit.log e \
         WHERE e.session_id = log.session_id)",
        &format!("command = 'DISCONNECT' AND application_name = '{application}'"),
    )
}

/// A session that has run one statement, and its pid.
fn session(cluster: &Cluster, name: &str) -> (postgres::Client, i32) {
    let mut config = cluster.config("postgres", "app");
    let mut client = config
        .application_name(name)
        .connect(postgres::NoTls)
        .unwrap();
    let rows = client.simple_query("SELECT pg_backend_pid()").unwrap();
    let pid = rows.iter().find_map(|message| match message {
        postgres::SimpleQueryMessage::Row(row) => row.get(0).map(|pid| pid.parse().unwrap()),
        _ => None,
    });
    (client, pid.unwrap())
}

fn ended(cluster: &Cluster, name: &str) -> String {
    eventually("the session ends", || {
        !disconnects(cluster, name).is_empty()
    });
    let all = disconnects(cluster, name);
    assert_eq!(all.len(), 1, "{all:?}");
    all.into_iter().next().unwrap()
}

#[test]
fn sessions_end_for_a_reason_that_the_trail_tells() {
    let cluster = Cluster::start();
    let terminate = |pid: i32| {
        cluster.value(&format!("SELECT pg_terminate_backend({pid})"));
    };

    let (_idle, pid) = session(&cluster, "idle");
    terminate(pid);
    assert_eq!(ended(&cluster, "idle"), "terminated | 57P01 | 1 | t");

    let (mut block, pid) = session(&cluster, "block");
    block.simple_query("BEGIN").unwrap();
    terminate(pid);
    assert_eq!(ended(&cluster, "block"), "terminated | 57P01 | 2 | t");

    let (mut waits, _) = session(&cluster, "waits");
    waits
        .simple_query("SET idle_session_timeout = '50ms'")
        .unwrap();
    assert_eq!(
        ended(&cluster, "waits"),
        "idle_session_timeout | 57P05 | 2 | t"
    );

    let (mut stays, _) = session(&cluster, "stays");
    stays
        .simple_query("SET idle_in_transaction_session_timeout = '50ms'")
        .unwrap();
    stays.simple_query("BEGIN").unwrap();
    assert_eq!(
        ended(&cluster, "stays"),
        "idle_in_transaction_session_timeout | 25P03 | 3 | t"
    );

    let (leaves, _) = session(&cluster, "leaves");
    drop(leaves);
    assert_eq!(ended(&cluster, "leaves"), "client | ~ | 1 | t");

    let mut gone = cluster
        .program("psql")
        .env("PGAPPNAME", "gone")
        .args(["-X", "-c", "SELECT 1", "-c", "SELECT pg_sleep(0.5)"])
        .spawn()
        .unwrap();
    eventually("psql sleeps", || {
        !cluster
            .query("postgres", "SELECT 1 FROM pg_stat_activity WHERE application_name = 'gone' AND query LIKE '%sleep%'")
            .is_empty()
    });
    gone.kill().unwrap();
    gone.wait().unwrap();
    let reason = ended(&cluster, "gone");
    assert!(
        ["client | ~ | 2 | t", "connection lost | 08006 | 2 | t"].contains(&reason.as_str()),
        "{reason}"
    );
}

#[test]
fn sessions_cut_off_by_a_shutdown_have_ended() {
    let cluster = Cluster::start();
    let (_idle, _) = session(&cluster, "idle");
    let (mut block, _) = session(&cluster, "block");
    block.simple_query("BEGIN").unwrap();
    cluster.restart(Shutdown::Fast);
    assert_eq!(ended(&cluster, "idle"), "terminated | 57P01 | 1 | t");
    assert_eq!(ended(&cluster, "block"), "terminated | 57P01 | 2 | t");
}

/// AUDIT events of starts and stops, in their order.
fn starts_and_stops(cluster: &Cluster) -> Vec<String> {
    cluster.trail_of(
        "command, details->>'last_stop', details ? 'wal_without_library'",
        "command IN ('START', 'STOP')",
    )
}

#[test]
fn stops_of_the_server_are_told_apart() {
    let cluster = Cluster::start();
    assert_eq!(starts_and_stops(&cluster), ["START | ~ | f"], "the first");

    cluster.restart(Shutdown::Fast);
    let mut expected = vec!["START | ~ | f", "STOP | ~ | f", "START | clean | f"];
    assert_eq!(starts_and_stops(&cluster), expected);

    cluster.restart(Shutdown::Smart);
    expected.extend(["STOP | ~ | f", "START | clean | f"]);
    assert_eq!(starts_and_stops(&cluster), expected);

    cluster.restart(Shutdown::Immediate);
    expected.push("START | crash | f");
    assert_eq!(starts_and_stops(&cluster), expected);

    let worker = cluster.worker_pid().unwrap();
    cluster.value(&format!("SELECT pg_terminate_backend({worker})"));
    eventually("another worker", || {
        cluster.worker_pid().is_some_and(|pid| pid != worker)
    });
    expected.extend(["STOP | ~ | f", "START | ~ | f"]);
    assert_eq!(starts_and_stops(&cluster), expected);
}

#[test]
fn a_run_without_the_library_is_noticed() {
    let cluster = Cluster::start();
    assert_eq!(starts_and_stops(&cluster), ["START | ~ | f"]);
    cluster.without_library(|| {
        cluster.query("app", "CREATE TABLE unseen (x int)");
    });
    assert_eq!(
        starts_and_stops(&cluster),
        [
            "START | ~ | f",
            "STOP | ~ | f",
            "START | without the library | t"
        ]
    );
    assert_eq!(
        cluster.trail_of(
            "(details->'wal_without_library'->>'from')::pg_lsn < \
             (details->'wal_without_library'->>'to')::pg_lsn",
            "details->>'last_stop' = 'without the library'",
        ),
        ["t"]
    );
    assert_eq!(
        cluster.count("statement LIKE '%unseen%' AND command = 'CREATE TABLE'"),
        0
    );

    // A crash of ours, then somebody's clean run: the note is gone, the state of the cluster tells.
    cluster.kill_postmaster();
    cluster.configure("shared_preload_libraries", "''");
    cluster.start_again();
    cluster.stop(Shutdown::Fast);
    cluster.configure("shared_preload_libraries", "'audit_ext'");
    cluster.start_again();
    let all = starts_and_stops(&cluster);
    assert_eq!(
        all.last().unwrap(),
        "START | without the library | t",
        "{all:?}"
    );
}
