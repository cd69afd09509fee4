//! Large things (spec/delivery.md): recorded, with bounded memory, in time that grows with their size.

use std::fs;
use std::time::{Duration, Instant};

use audit_cluster_tests::Cluster;

use crate::load::{check_event_numbers, check_order};

/// Peak resident memory of a process in kB.
fn peak(pid: u32) -> u64 {
    fs::read_to_string(format!("/proc/{pid}/status"))
        .expect("the process runs")
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .expect("Linux tells")
}

/// The worker's peak is its own 64 MB (spec/performance.md) and what it touched of ring and buffers.
#[track_caller]
fn assert_worker_is_small(cluster: &Cluster) {
    let peak = peak(cluster.worker_pid().expect("runs"));
    assert!(peak < 64 * 1024 + 32 * 1024 + 16 * 1024, "{peak} kB");
}

#[test]
fn a_statement_of_a_hundred_megabytes() {
    let cluster = Cluster::start();
    let plain = Cluster::builder().without_library().start();
    let text = format!("SELECT length('{}')", "x".repeat(100 << 20));
    let peak_of = |cluster: &Cluster| {
        let mut client = cluster.app();
        let pid = client
            .query_one("SELECT pg_backend_pid()", &[])
            .expect("a pid")
            .get::<_, i32>(0);
        client.simple_query(&text).expect("selects");
        peak(pid as u32)
    };
    let begun = Instant::now();
    let with = peak_of(&cluster);
    let took = begun.elapsed();
    let without = peak_of(&plain);
    assert_eq!(
        cluster.trail(
            "length(statement), statement_length, octet_length(statement_sha256)",
            "statement LIKE 'SELECT length(''xxx%'"
        ),
        [format!("{} | {} | 32", 64 << 10, text.len())]
    );
    assert!(
        with < without + 40 * 1024,
        "backend: {with} kB, without the extension {without} kB"
    );
    assert!(took < Duration::from_secs(60), "{took:?}");
    assert_worker_is_small(&cluster);
}

#[test]
fn sixty_five_thousand_parameters() {
    let cluster = Cluster::builder()
        .setting("audit.parameters", "on")
        .setting("audit.ring_size", "'64MB'")
        .start();
    let mut client = cluster.app();
    const COUNT: usize = 65_535;
    let list: Vec<_> = (1..=COUNT).map(|n| format!("${n}::int4")).collect();
    let sql = format!("SELECT array_length(ARRAY[{}], 1)", list.join(","));
    // The client counts parameters in 16 bits, too.
    let values: Vec<i32> = (0..COUNT as i32).collect();
    let references: Vec<&(dyn postgres::types::ToSql + Sync)> = values
        .iter()
        .map(|v| v as &(dyn postgres::types::ToSql + Sync))
        .collect();
    let row = client.query_one(&sql, &references).expect("selects");
    assert_eq!(row.get::<_, i32>(0), COUNT as i32);
    assert_eq!(
        cluster.trail(
            "array_length(parameters, 1), parameters[1], parameters[65535]",
            "statement LIKE 'SELECT array_length(ARRAY%'"
        ),
        ["65535 | 0 | 65534"]
    );
    assert_worker_is_small(&cluster);
}

#[test]
fn ten_thousand_statements_in_one_string() {
    let cluster = Cluster::start();
    let mut client = cluster.app();
    const COUNT: usize = 10_000;
    let sql: String = (0..COUNT)
        .map(|n| format!("SELECT {n} AS part;\n"))
        .collect();
    let begun = Instant::now();
    client.batch_execute(&sql).expect("selects");
    let took = begun.elapsed();
    assert_eq!(
        cluster.query(
            "postgres",
            "SELECT audit.flush() > 0, (SELECT count(*) FROM audit.log WHERE statement ~ '^SELECT \\d+ AS part$')"
        ).len(),
        1
    );
    assert_eq!(cluster.count("statement ~ '^SELECT \\d+ AS part$'"), COUNT);
    assert_eq!(
        cluster.count("statement ~ '^SELECT \\d+ AS part$' AND transaction_outcome = 'committed'"),
        COUNT
    );
    // Each of them looks for its own text in the whole: that must not be a search from the start.
    assert!(took < Duration::from_secs(20), "{took:?}");
    assert_worker_is_small(&cluster);
}

#[test]
fn many_statements_in_one_do_block() {
    let cluster = Cluster::start();
    let count = if std::env::var_os("AUDIT_SOAK").is_some() {
        1_000_000
    } else {
        100_000
    };
    let mut client = cluster.app();
    client
        .batch_execute("CREATE TABLE t (x int)")
        .expect("creates");
    let pid = client
        .query_one("SELECT pg_backend_pid()", &[])
        .expect("a pid")
        .get::<_, i32>(0);
    let block = |n: u32| {
        format!("DO $$ BEGIN FOR i IN 1..{n} LOOP UPDATE t SET x = i WHERE x < 0; END LOOP; END $$")
    };
    client.batch_execute(&block(1000)).expect("runs");
    let before = peak(pid as u32);
    let mut timed = |n: u32| {
        let begun = Instant::now();
        client.batch_execute(&block(n)).expect("runs");
        begun.elapsed()
    };
    let (tenth, whole) = (timed(count / 10), timed(count));
    // A hundred times as long if its cost grew with the number of those before.
    assert!(
        whole < tenth * 30 + Duration::from_secs(2),
        "{tenth:?} for a tenth, {whole:?} for {count}"
    );
    eprintln!("{count} statements: {whole:?}");
    let grown = peak(pid as u32) - before;
    assert_eq!(cluster.query("postgres", "SELECT audit.flush() > 0"), ["t"]);
    assert_eq!(
        cluster.value("SELECT count(*) FROM audit.log WHERE command = 'UPDATE' AND depth = 1 AND transaction_outcome = 'committed'"),
        (count + count / 10 + 1000).to_string()
    );
    // The backend touches every page of the ring once, 16 MB.
    assert!(grown < 17 * 1024 + 2 * 1024, "{grown} kB");
    assert_worker_is_small(&cluster);
    check_event_numbers(&cluster, "true");
    check_order(&cluster);
}
