//! The rows of audit.event as they lie on their pages (docs/architecture.md, "From the ring to the trail").

use audit_cluster_tests::{Cluster, eventually};
use std::thread;

#[test]
fn a_row_ends_with_its_last_value() {
    let cluster = Cluster::start();
    cluster.psql().run("SELECT 1 / 0");
    cluster.psql().run("CREATE EXTENSION pageinspect").ok();
    let mut client = cluster.connect("postgres", "app");
    client
        .batch_execute("SET audit.parameters = on")
        .expect("set");
    client.query("SELECT $1::int", &[&7]).expect("a row");
    client
        .batch_execute("RESET audit.parameters")
        .expect("reset");
    // A text that comes often is kept once from its fourth time on.
    for _ in 0..6 {
        client.batch_execute("SELECT 'again'").expect("a row");
        cluster.flush();
    }
    cluster.query("postgres", "CREATE EXTENSION pageinspect");
    let rows = "
        WITH ends AS (
            SELECT ctid, CASE WHEN statement_sha256 IS NOT NULL THEN 12 WHEN details IS NOT NULL THEN 11
                              WHEN parameters IS NOT NULL THEN 10 WHEN error IS NOT NULL THEN 9
                              WHEN text IS NOT NULL THEN 8 WHEN salt IS NOT NULL THEN 7 ELSE 6 END AS last,
                   6 + num_nonnulls(salt, text, error, parameters, details, statement_sha256) AS present
            FROM audit.event
        ), part AS (
            SELECT (SELECT tableoid::regclass::text FROM audit.event LIMIT 1) AS partition
        ), items AS (
            SELECT t_ctid, t_infomask2 & 2047 AS last, t_hoff, (t_infomask & 1) = 1 AS nulls
            FROM part, generate_series(0, pg_relation_size(partition) / 8192 - 1) page,
                 heap_page_items(get_raw_page(partition, page::int))
        )
        SELECT ends.last, ends.last <> present, bool_and(items.last = ends.last),
               bool_and(nulls = (ends.last <> present)), min(t_hoff), max(t_hoff)
        FROM ends JOIN items ON t_ctid = ctid GROUP BY 1, 2 ORDER BY 1, 2";
    // Last column, whether there is a NULL before it; whether the row ends there, and has a bitmap
    // then only; where its values begin.
    let found = cluster.query("postgres", rows);
    for kind in [
        "6 | f | t | t | 24 | 24",
        "8 | f | t | t | 24 | 24",
        "9 | f | t | t | 24 | 24",
    ] {
        assert!(found.iter().any(|row| row == kind), "{kind}: {found:?}");
    }
    let others = found
        .iter()
        .filter(|row| row.contains("| t | t | t | 32 | 32"));
    assert!(others.count() > 0, "parameters without an error: {found:?}");
    for row in &found {
        let right =
            row.ends_with("| f | t | t | 24 | 24") || row.ends_with("| t | t | t | 32 | 32");
        assert!(right, "{row}");
    }
}

/// What is stored while the new index waits to take the old one's place is in both; then in the new one.
#[test]
fn reindex_concurrently_of_the_partition_that_is_written_to() {
    let cluster = Cluster::start();
    cluster.psql().run("SELECT 'before'").ok();
    let before = cluster.flush();
    let partition = cluster.value("SELECT DISTINCT tableoid::regclass::text FROM audit.event");
    // REINDEX waits for whoever has a snapshot from before it, last of all.
    let mut old = cluster.connect("postgres", "postgres");
    old.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        .expect("a snapshot");
    let record = |sql: &str| {
        cluster.psql().run(sql).ok();
        cluster.flush()
    };
    let during = thread::scope(|scope| {
        let mut old = old; // Whatever fails here, REINDEX waits no longer.
        let reindex = format!("REINDEX TABLE CONCURRENTLY {partition}");
        let reindex = scope.spawn(|| cluster.psql().db("postgres").run(reindex).ok());
        eventually("the new index is built", || {
            cluster.query(
                "postgres",
                "SELECT phase FROM pg_stat_progress_create_index",
            ) == ["waiting for old snapshots"]
        });
        let during = record("SELECT 'meanwhile'");
        old.batch_execute("COMMIT").expect("ends");
        reindex.join().expect("reindexes");
        during
    });
    let after = record("SELECT 'afterwards'");
    for (first, last) in [(before + 1, during), (during + 1, after)] {
        let found = cluster.value(&format!(
            "SET enable_seqscan = off; SELECT count(*) FROM audit.event WHERE seq BETWEEN {first} AND {last}"
        ));
        assert_eq!(found, (last - first + 1).to_string());
    }
    assert!(
        !cluster.log().contains("cannot store events"),
        "{}",
        cluster.log()
    );
}
