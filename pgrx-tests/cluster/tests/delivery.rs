//! Every event reaches the trail once, in order, soon, and in nobody's way (spec/delivery.md).

use std::thread;
use std::time::Duration;

use audit_cluster_tests::{Cluster, eventually, voluntary_switches, wait_until};

use crate::load::{Load, check_event_numbers, check_order};
use crate::shim::Clock;
use crate::soak::{a_while, rounds};

#[test]
fn a_hundred_thousand_transactions_of_eight_clients_are_a_hundred_thousand_rows() {
    let cluster = Cluster::start();
    let pgbench = |args: &[&str]| {
        let output = cluster
            .program("pgbench")
            .env("PGAPPNAME", "pgbench")
            .args(args)
            .output()
            .expect("pgbench runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    pgbench(&["-i", "-s", "1", "-q"]);
    let before = cluster.flush();
    let report = pgbench(&[
        "-n", "-S", "-M", "prepared", "-c", "8", "-j", "2", "-t", "12500",
    ]);
    assert!(report.contains("100000/100000"), "{report}");
    cluster.flush();
    assert_eq!(
        cluster.query(
            "postgres",
            &format!(
                "SELECT count(*), count(DISTINCT session_id), min(rows), max(rows),
                        count(*) FILTER (WHERE outcome = 'success' AND transaction_outcome = 'committed')
                 FROM audit.log WHERE seq > {before} AND command = 'SELECT'
                     AND relations = '{{public.pgbench_accounts}}' AND application_name = 'pgbench'"
            )
        ),
        ["100000 | 8 | 1 | 1 | 100000"]
    );
    check_order(&cluster);
    check_event_numbers(&cluster, "application_name = 'pgbench'");
}

#[test]
fn writers_of_two_databases_and_a_reader_at_once() {
    let cluster = Cluster::start();
    cluster.psql().run("CREATE DATABASE other").ok();
    thread::scope(|scope| {
        for database in ["app", "other", "app", "other"] {
            let cluster = &cluster;
            scope.spawn(move || {
                let mut client = cluster.connect("postgres", database);
                for i in 0..500 {
                    client
                        .batch_execute(&format!("SELECT {i} /* mine */"))
                        .expect("selects");
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..10 {
                check_order(&cluster);
            }
        });
    });
    for database in ["app", "other"] {
        assert_eq!(
            cluster
                .trail_of(
                    "seq",
                    &format!("database_name = '{database}' AND statement LIKE '%/* mine */'")
                )
                .len(),
            1000,
            "{database}"
        );
    }
}

#[test]
fn an_idle_server_wakes_nobody() {
    let cluster = Cluster::builder().setting("autovacuum", "off").start();
    cluster.psql().run("SELECT 1").ok();
    cluster.flush();
    let worker = cluster.worker_pid().expect("runs");
    // Whatever flush and this question left to do is done.
    thread::sleep(Duration::from_secs(2));
    let before = voluntary_switches(worker);
    thread::sleep(Duration::from_secs(5));
    let wakeups = voluntary_switches(worker) - before;
    assert!(wakeups <= 1, "{wakeups} wake-ups in 5 idle seconds");
    // And it still notices the first record: without flush, within flush_interval and some.
    cluster.psql().run("SELECT 'after the silence'").ok();
    eventually("the record is stored", || {
        cluster.value(
            "SELECT count(*) FROM audit.log WHERE statement LIKE 'SELECT ''after the silence%'",
        ) == "1"
    });
}

#[test]
fn records_turn_up_within_the_flush_interval_without_any_flush() {
    let cluster = Cluster::start();
    cluster.flush();
    let mut client = cluster.app();
    for n in 0..5 {
        client
            .batch_execute(&format!("SELECT {n} AS unasked"))
            .expect("selects");
        wait_until("the record is stored", Duration::from_secs(3), || {
            cluster.value(&format!(
                "SELECT count(*) FROM audit.log WHERE statement LIKE 'SELECT {n} AS unasked%'"
            )) == "1"
        });
    }
}

#[test]
fn an_idle_reader_across_a_change_of_partition_stalls_nobody() {
    rounds(1, || {
        let clock = Clock::new();
        let cluster = clock
            .of(Cluster::builder())
            .setting("audit.partition_interval", "'1min'")
            .start();
        let periods = "SELECT count(DISTINCT tableoid) FROM audit.event";
        cluster.flush();
        let load = Load::during(&cluster, |load| {
            let mut reader = cluster.connect("postgres", "postgres");
            reader
                .batch_execute("BEGIN; SELECT count(*) FROM audit.log")
                .expect("reads");
            let before: u32 = cluster.value(periods).parse().expect("a number");
            for n in 1..=2 {
                a_while(200);
                clock.set_ahead(61 * n);
                load.more(50);
                // What came since is in the trail while the reader still idles.
                cluster.flush();
                let now: u32 = cluster.value(periods).parse().expect("a number");
                assert!(now > before, "a new partition is written to: {now}");
            }
            reader.batch_execute("COMMIT").expect("ends");
        });
        load.check(&cluster);
    });
}

#[test]
fn a_reader_in_a_transaction_does_not_keep_others_from_dropping_tables() {
    let cluster = Cluster::start();
    let mut idle = cluster.app();
    idle.batch_execute("BEGIN; SELECT 1").expect("begins");
    cluster
        .psql()
        .run("CREATE TABLE t (x int); INSERT INTO t VALUES (1); VACUUM FULL t; DROP TABLE t")
        .ok();
    cluster
        .psql()
        .db("postgres")
        .run("VACUUM; VACUUM FULL pg_class")
        .ok();
    cluster
        .psql()
        .run("CREATE DATABASE d2; DROP DATABASE d2")
        .ok();
    assert_eq!(cluster.count("command = 'DROP DATABASE'"), 1);
    idle.batch_execute("COMMIT").expect("ends");
}

#[test]
fn texts_that_repeat_are_stored_once() {
    let cluster = Cluster::start();
    // 4 kB that don't compress, 3,000 times: 12 MB if each event held its own copy.
    let noise = cluster
        .value("SELECT string_agg(md5(i::text || random()), '') FROM generate_series(1, 128) AS i");
    let size = || -> i64 {
        cluster.flush();
        cluster
            .value(
                "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c
                 JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = 'audit' AND relkind = 'r'",
            )
            .parse()
            .expect("bytes")
    };
    let mut client = cluster.app();
    let repeated = format!("SELECT length('{noise}')");
    client.simple_query(&repeated).expect("selects");
    let before = size();
    for _ in 0..3_000 {
        client.simple_query(&repeated).expect("selects");
    }
    let grown = size() - before;
    assert!(
        grown < 2_000_000,
        "{grown} bytes for 3,000 events of one text"
    );
    assert_eq!(
        cluster.count(&format!("statement = $q${repeated}$q$")),
        3_001
    );
}

#[test]
fn short_sessions() {
    let cluster = Cluster::start();
    let output = cluster
        .program("pgbench")
        .env("PGAPPNAME", "short")
        .args([
            "-n",
            "-C",
            "-c",
            "4",
            "-j",
            "2",
            "-t",
            "250",
            "-f",
            "/dev/stdin",
        ])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .and_then(|mut child| {
            use std::io::Write;
            child
                .stdin
                .take()
                .expect("piped")
                .write_all(b"SELECT 1 AS short;\n")?;
            child.wait_with_output()
        })
        .expect("pgbench runs");
    assert!(output.status.success());
    assert_eq!(cluster.count("statement LIKE 'SELECT 1 AS short%'"), 1_000);
    check_event_numbers(&cluster, "application_name = 'short'");
    check_order(&cluster);
}

#[test]
fn parallel_queries_are_recorded_once() {
    let cluster = Cluster::start();
    let mut client = cluster.app();
    client
        .batch_execute(
            "CREATE TABLE big AS SELECT i FROM generate_series(1, 100000) AS i;
             SET max_parallel_workers_per_gather = 2; SET parallel_setup_cost = 0;
             SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0",
        )
        .expect("prepares");
    let plan = client
        .query("EXPLAIN SELECT sum(i) FROM big", &[])
        .expect("explains");
    assert!(
        plan.iter()
            .any(|line| line.get::<_, String>(0).contains("Gather")),
        "a parallel plan"
    );
    client
        .batch_execute("SELECT sum(i) FROM big")
        .expect("selects");
    assert_eq!(
        cluster.trail("rows, backend_type", "statement = 'SELECT sum(i) FROM big'"),
        ["1 | client backend"]
    );
}

/// What is parallel safe may read as any other; what it reads in a worker is read by its client.
#[test]
fn what_functions_run_in_parallel_workers_is_recorded() {
    let cluster = Cluster::start();
    let setting = cluster.value(
        "SELECT name FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query')",
    );
    let mut client = postgres::Config::new()
        .host("127.0.0.1")
        .port(cluster.port())
        .user("postgres")
        .dbname("app")
        .connect(postgres::NoTls)
        .expect("connects");
    client
        .batch_execute(&format!(
            "CREATE TABLE secret (x int); INSERT INTO secret VALUES (7); CREATE TABLE other (x int);
             CREATE FUNCTION inner_one() RETURNS int PARALLEL SAFE LANGUAGE plpgsql AS
                 $$ BEGIN RETURN (SELECT x + 1 FROM secret); END $$;
             CREATE FUNCTION peek() RETURNS int PARALLEL SAFE LANGUAGE plpgsql AS
                 $$ BEGIN PERFORM FROM other; RETURN inner_one() + (SELECT x FROM secret); END $$;
             CREATE FUNCTION plain() RETURNS int PARALLEL SAFE LANGUAGE plpgsql AS $$ BEGIN RETURN 3; END $$;
             CREATE FUNCTION calls() RETURNS int PARALLEL SAFE LANGUAGE plpgsql AS $$ BEGIN RETURN plain(); END $$;
             CREATE FUNCTION trip() RETURNS int PARALLEL SAFE LANGUAGE plpgsql AS
                 $$ BEGIN RETURN (SELECT x / (x - 7) FROM secret); END $$;
             CREATE FUNCTION typo() RETURNS int PARALLEL SAFE LANGUAGE plpgsql AS
                 $$ BEGIN RETURN (SELECT x FROM nowhere); END $$;
             SET {setting} = on"
        ))
        .expect("prepares");
    let own: i32 = client
        .query_one("SELECT pg_backend_pid()", &[])
        .expect("a pid")
        .get(0);
    let before = cluster.flush();
    let found: i32 = client.query_one("SELECT peek()", &[]).expect("runs").get(0);
    assert_eq!(found, 15);
    let recorded = |columns: &str, filter: &str| {
        let filter = format!("seq > {before} AND {filter}");
        eventually("its worker has ended", || {
            !cluster.trail_of("seq", &filter).is_empty()
        });
        let mut all = cluster.trail_of(columns, &filter);
        all.sort();
        all
    };
    let helped = "backend_type = 'parallel worker'";
    let of_client = format!(
        "pid = {own} AND user_name = 'postgres' AND class <> 'AUDIT' AND command <> 'SHOW'"
    );
    assert_eq!(
        recorded(
            "command, coalesce(object_name, statement), depth",
            &of_client
        ),
        ["EXECUTE | public.peek() | 1", "SELECT | SELECT peek() | 0"],
    );
    eventually("it has ended", || {
        cluster
            .trail_of(
                "seq",
                &format!(
                    "{helped} AND transaction_outcome IS NULL AND class <> 'AUDIT' AND seq > {before}"
                ),
            )
            .is_empty()
    });
    assert_eq!(
        recorded(
            "command, depth, object_name, transaction_outcome, client_addr, \
             user_name, database_name",
            &format!("{helped} AND details ->> 'leader_pid' = '{own}'"),
        ),
        [
            "EXECUTE | 2 | public.inner_one() | committed | 127.0.0.1 | postgres | app",
            "SELECT | 1 | public.other | committed | 127.0.0.1 | postgres | app",
            "SELECT | 1 | public.secret | committed | 127.0.0.1 | postgres | app",
            "SELECT | 2 | public.secret | committed | 127.0.0.1 | postgres | app",
        ],
    );
    // What is called without a query is called.
    let before = cluster.flush();
    client.batch_execute("SELECT calls()").expect("runs");
    let called = || {
        cluster.trail(
            "object_name, depth, backend_type",
            &format!("seq > {before} AND class = 'FUNCTION'"),
        )
    };
    eventually("both are there", || called().len() > 1);
    let mut found = called();
    found.sort();
    assert_eq!(
        found,
        [
            "public.calls() | 1 | client backend",
            "public.plain() | 1 | parallel worker",
        ]
    );
    // What fails there fails once there, and once where the client sees it. What no hook has seen is told of here.
    for (call, sqlstate, inner) in [
        ("trip()", "22012", "parallel worker"),
        ("typo()", "42P01", "client backend"),
        ("peek() + typo()", "42P01", "client backend"),
    ] {
        let before = cluster.flush();
        let error = crate::fails(&mut client, &format!("SELECT {call}"));
        assert_eq!(error.code().code(), sqlstate);
        let filter = format!("seq > {before} AND sqlstate = '{sqlstate}'");
        eventually("both are there", || {
            cluster.trail_of("seq", &filter).len() == 2
        });
        let mut all =
            cluster.trail_of("backend_type, depth, outcome, transaction_outcome", &filter);
        all.sort();
        assert_eq!(
            all,
            [
                "client backend | 0 | failed | rolled back".to_owned(),
                format!("{inner} | 1 | failed | rolled back"),
            ],
            "{call}"
        );
    }
    // A worker that makes an index has no query of its own.
    let before = cluster.flush();
    client
        .batch_execute(
            "CREATE TABLE wide AS SELECT i, repeat('x', 1000) AS filler FROM generate_series(1, 5000) AS i;
             CREATE FUNCTION look(i int) RETURNS int PARALLEL SAFE IMMUTABLE LANGUAGE plpgsql AS
                 $$ BEGIN RETURN i + (SELECT x FROM public.secret); END $$;
             SET min_parallel_table_scan_size = 0; CREATE INDEX ON wide (look(i))",
        )
        .expect("makes an index");
    cluster.flush();
    assert_eq!(
        cluster.value(&format!(
            "SELECT bool_and(lowest = 1 AND highest = 1 AND events = last - 1) FROM
                 (SELECT min(depth) AS lowest, max(depth) AS highest, count(*) AS events,
                         max(substatement_id) AS last
                  FROM audit.log WHERE seq > {before} AND {helped} AND class <> 'AUDIT'
                  GROUP BY session_id) s"
        )),
        "t"
    );
    // A level that leaves reads out leaves them out here.
    client
        .batch_execute("SET audit.level = 'write'")
        .expect("sets");
    let before = cluster.flush();
    client.batch_execute("SELECT peek()").expect("runs");
    thread::sleep(Duration::from_millis(500));
    let after = cluster.trail("statement", &format!("seq > {before}"));
    assert!(after.is_empty(), "{after:?}");
}

#[test]
fn what_autovacuum_runs_is_not_recorded() {
    let cluster = Cluster::builder()
        .setting("autovacuum_naptime", "'1s'")
        .setting("autovacuum_analyze_threshold", "1")
        .start();
    // To sample the index autovacuum calls the function, which runs a statement.
    cluster
        .psql()
        .run(
            "CREATE TABLE seen (x int); CREATE TABLE t (x int);
             CREATE FUNCTION look(x int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
                 $$ BEGIN PERFORM FROM public.seen; RETURN x; END $$;
             CREATE INDEX ON t (look(x));
             SET audit.level = 'none';
             INSERT INTO t SELECT generate_series(1, 500)",
        )
        .ok();
    eventually("autovacuum has analyzed the table", || {
        cluster.query(
            "app",
            "SELECT autoanalyze_count > 0 FROM pg_stat_user_tables WHERE relname = 't'",
        ) == ["t"]
    });
    assert_eq!(
        cluster.trail_of("seq", "backend_type = 'autovacuum worker'"),
        Vec::<String>::new()
    );
    assert!(cluster.log().find("ERROR").is_none(), "{}", cluster.log());
}
