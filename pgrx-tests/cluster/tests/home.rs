//! What users do to the trail's home and to the extension, under load: the state is clear, nobody is
//! started again and again, and a trail that begins anew holds everything from its beginning on
//! (spec/delivery.md, failure matrix).

use audit_cluster_tests::{Cluster, eventually};
use postgres::Client;
use postgres::error::SqlState;

use crate::fails;
use crate::load::Load;
use crate::soak::{a_while, series};
use crate::under_way::{run, writes};

/// How often processes of the extension ended in a way that the server's log mentions.
fn complaints(cluster: &Cluster) -> usize {
    let log = cluster.log();
    log.lines()
        .filter(|line| {
            line.contains("has to start again")
                || line.contains("cannot store events")
                || line.contains("PANIC")
                || line.contains("terminated by signal")
        })
        .count()
}

/// The worker looks for a home at its start, attaches at the next, and no more.
#[track_caller]
fn assert_no_restart_loop(cluster: &Cluster, most: usize) {
    let starts = cluster
        .log()
        .lines()
        .filter(|line| line.contains("\"audit_ext worker\"") && line.contains("exited with"))
        .count();
    assert!(
        starts <= most && complaints(cluster) == 0,
        "{starts} ends of the worker:\n{}",
        cluster.log()
    );
}

pub fn unlocked(cluster: &Cluster) -> Client {
    let mut admin = cluster.connect("postgres", "postgres");
    admin
        .batch_execute("SELECT audit.unlock('a test')")
        .expect("unlocks");
    admin
}

#[test]
fn a_home_that_the_guard_keeps_from_being_dropped_under_load() {
    series(2, |faults| {
        let cluster = Cluster::start();
        let load = Load::during(&cluster, |load| {
            let mut admin = cluster.app();
            for fault in 0..faults {
                let sql = [
                    "DROP DATABASE postgres",
                    "DROP DATABASE postgres WITH (FORCE)",
                ][fault as usize % 2];
                a_while(100);
                let refused = admin.batch_execute(sql).expect_err("refused");
                assert_eq!(
                    refused.code().map(|code| code.code().to_owned()),
                    Some("42501".into()),
                    "{refused:?}"
                );
                load.more(50);
            }
        });
        load.check(&cluster);
        assert_no_restart_loop(&cluster, 1);
    });
}

#[test]
fn an_extension_that_is_dropped_and_made_again_under_load() {
    series(2, |faults| {
        let cluster = Cluster::start();
        let load = Load::during(&cluster, |load| {
            for _ in 0..faults {
                let mut admin = unlocked(&cluster);
                a_while(100);
                admin
                    .batch_execute("DROP EXTENSION audit_ext")
                    .expect("drops");
                load.more(20);
                a_while(100);
                admin
                    .batch_execute("CREATE EXTENSION audit_ext")
                    .expect("creates");
                load.start_over();
                load.more(200);
            }
        });
        load.check(&cluster);
        assert_no_restart_loop(&cluster, 4 * faults as usize);
    });
}

/// The worker never sees the database without an extension, and still must not add to the new trail
/// what it knows of the old one: its numbers, its tree, its periods.
#[test]
fn an_extension_that_is_dropped_and_made_again_in_one_transaction() {
    series(2, |faults| {
        let cluster = Cluster::start();
        let load = Load::during(&cluster, |load| {
            for _ in 0..faults {
                a_while(100);
                unlocked(&cluster)
                    .batch_execute(
                        "BEGIN; DROP EXTENSION audit_ext; CREATE EXTENSION audit_ext; COMMIT",
                    )
                    .expect("drops and creates");
                load.start_over();
                load.more(200);
            }
        });
        load.check(&cluster);
        let numbers = "SELECT min(seq) = 1 AND max(seq) = count(*) FROM audit.event";
        assert_eq!(cluster.value(numbers), "t");
        assert_no_restart_loop(&cluster, 4 * faults as usize);
    });
}

#[test]
fn a_home_that_is_dropped_and_made_again_under_load() {
    series(1, |faults| {
        let cluster = Cluster::start();
        let load = Load::during(&cluster, |load| {
            for _ in 0..faults {
                a_while(100);
                unlocked(&cluster)
                    .batch_execute("DROP EXTENSION audit_ext")
                    .expect("drops");
                let mut admin = cluster.app();
                load.more(20);
                admin
                    .batch_execute("DROP DATABASE postgres WITH (FORCE)")
                    .expect("drops");
                load.more(20);
                a_while(1000);
                admin
                    .batch_execute("CREATE DATABASE postgres")
                    .expect("creates");
                cluster
                    .connect("postgres", "postgres")
                    .batch_execute("CREATE EXTENSION audit_ext")
                    .expect("creates");
                load.start_over();
                load.more(200);
            }
        });
        load.check(&cluster);
        assert_no_restart_loop(&cluster, 8 * faults as usize);
    });
}

#[test]
fn create_extension_rolled_back_under_load() {
    series(3, |faults| {
        let cluster = Cluster::builder().without_extension().start();
        let load = Load::during(&cluster, |load| {
            let mut admin = cluster.connect("postgres", "postgres");
            for _ in 0..faults {
                admin
                    .batch_execute("BEGIN; CREATE EXTENSION audit_ext")
                    .expect("creates");
                a_while(200);
                admin.batch_execute("ROLLBACK").expect("rolls back");
                load.more(20);
            }
            // Nobody records, nothing waits for anybody.
            assert_eq!(
                std::fs::metadata(cluster.data_dir().join("pg_audit/ring"))
                    .map(|ring| ring.is_file())
                    .ok(),
                Some(true)
            );
            admin
                .batch_execute("CREATE EXTENSION audit_ext")
                .expect("creates");
            load.start_over();
            eventually("the worker runs", || cluster.worker_pid().is_some());
            load.more(200);
        });
        load.check(&cluster);
        assert_no_restart_loop(&cluster, 4);
    });
}

/// The drop that a savepoint or a handler takes back has not happened: everybody records, and the guard
/// stands.
#[test]
fn a_drop_that_is_taken_back_changes_nothing() {
    let cluster = Cluster::builder()
        .setting("max_prepared_transactions", "5")
        .start();
    cluster.psql().run("CREATE TABLE t (n int)").ok();
    let mut client = cluster.app();
    let mut other = cluster.connect("postgres", "postgres");
    let mut admin = unlocked(&cluster);
    let mut expected = Vec::new();
    let taken_back: [&[&str]; 3] = [
        &[
            "BEGIN",
            "SAVEPOINT s",
            "DROP EXTENSION audit_ext",
            "ROLLBACK TO s",
            "COMMIT",
        ],
        &["DO $$ BEGIN DROP EXTENSION audit_ext; RAISE 'as it should';
           EXCEPTION WHEN OTHERS THEN NULL; END $$"],
        &[
            "BEGIN",
            "SAVEPOINT s",
            "DROP EXTENSION audit_ext",
            "CREATE EXTENSION audit_ext",
            "ROLLBACK TO s",
            "COMMIT",
        ],
    ];
    for (n, parts) in taken_back.iter().enumerate() {
        for part in *parts {
            run(&mut admin, part);
        }
        run(&mut client, &format!("INSERT INTO t VALUES ({n})"));
        expected.push(format!(
            "INSERT INTO t VALUES ({n}) | 0 | success | committed"
        ));
        assert_eq!(writes(&cluster), expected, "{parts:?}");
        fails(&mut other, "DELETE FROM audit.period");
        // In the third a trail was made, too: the one that is open may be another.
        admin = unlocked(&cluster);
    }
}

/// Whoever ends it would have to tell everybody.
#[test]
fn the_extension_is_not_made_nor_dropped_by_a_prepared_transaction() {
    let cluster = Cluster::builder()
        .setting("max_prepared_transactions", "5")
        .start();
    cluster.psql().run("CREATE TABLE t (n int)").ok();
    let mut client = cluster.app();
    let mut admin = unlocked(&cluster);
    run(&mut admin, "BEGIN; DROP EXTENSION audit_ext");
    let error = admin
        .batch_execute("PREPARE TRANSACTION 'x'")
        .expect_err("is refused");
    assert_eq!(error.code().map(SqlState::code), Some("0A000"), "{error:?}");
    run(&mut client, "INSERT INTO t VALUES (1)");
    assert_eq!(
        writes(&cluster),
        ["INSERT INTO t VALUES (1) | 0 | success | committed"]
    );
    // Taken back, it may be prepared.
    run(
        &mut admin,
        "BEGIN; SAVEPOINT s; DROP EXTENSION audit_ext; ROLLBACK TO s",
    );
    run(&mut admin, "PREPARE TRANSACTION 'x'");
    run(&mut admin, "COMMIT PREPARED 'x'");
    run(&mut client, "INSERT INTO t VALUES (2)");
    assert_eq!(writes(&cluster).len(), 2);
    run(&mut admin, "DROP EXTENSION audit_ext");
    run(&mut admin, "BEGIN; CREATE EXTENSION audit_ext");
    admin
        .batch_execute("PREPARE TRANSACTION 'x'")
        .expect_err("is refused");
    run(&mut admin, "CREATE EXTENSION audit_ext");
    run(&mut client, "INSERT INTO t VALUES (3)");
    assert_eq!(
        writes(&cluster),
        ["INSERT INTO t VALUES (3) | 0 | success | committed"]
    );
}

/// The trail that was made is not there.
#[test]
fn a_trail_whose_making_is_taken_back_is_none() {
    let cluster = Cluster::start();
    cluster.psql().run("CREATE TABLE t (n int)").ok();
    let mut admin = unlocked(&cluster);
    let mut client = cluster.app();
    run(&mut admin, "DROP EXTENSION audit_ext");
    for part in [
        "BEGIN",
        "SAVEPOINT s",
        "CREATE EXTENSION audit_ext",
        "ROLLBACK TO s",
        "COMMIT",
    ] {
        run(&mut admin, part);
    }
    run(&mut client, "INSERT INTO t VALUES (1)");
    run(&mut admin, "CREATE EXTENSION audit_ext");
    run(&mut client, "INSERT INTO t VALUES (2)");
    assert_eq!(
        writes(&cluster),
        ["INSERT INTO t VALUES (2) | 0 | success | committed"]
    );
}

/// The trail is open to who has unlocked it, and not the next one.
#[test]
fn an_open_trail_is_open_to_nobody_once_it_is_another() {
    let cluster = Cluster::start();
    for remade in [
        "DROP EXTENSION audit_ext; CREATE EXTENSION audit_ext",
        "BEGIN; DROP EXTENSION audit_ext; CREATE EXTENSION audit_ext; COMMIT",
        "BEGIN; DROP EXTENSION audit_ext; CREATE EXTENSION audit_ext; SAVEPOINT s; DROP EXTENSION audit_ext; ROLLBACK TO s; COMMIT",
    ] {
        let mut other = unlocked(&cluster);
        run(&mut other, "DELETE FROM audit.period WHERE false");
        let mut admin = unlocked(&cluster);
        for part in remade.split("; ") {
            run(&mut admin, part);
        }
        fails(&mut other, "DELETE FROM audit.period WHERE false");
        fails(&mut admin, "DELETE FROM audit.period WHERE false");
        run(&mut other, "SELECT audit.unlock('this one')");
        run(&mut other, "DELETE FROM audit.period WHERE false");
    }
}

/// A statement that the worker has to leave for asks it to, whoever its user; not for longer than it takes.
#[test]
fn nobody_keeps_the_worker_off_by_a_rename_that_fails() {
    let cluster = Cluster::start();
    cluster.psql().run("CREATE ROLE joe LOGIN").ok();
    let rename = "ALTER DATABASE postgres RENAME TO app"; // There is one.
    for user in ["joe", "postgres"] {
        let mut client = cluster.connect(user, "app");
        run(&mut client, "BEGIN; SAVEPOINT s");
        fails(&mut client, rename);
        let mut other = cluster.connect("postgres", "postgres");
        run(
            &mut other,
            "SET statement_timeout = '20s'; SELECT audit.flush()",
        );
        run(&mut client, "ROLLBACK TO s");
        run(&mut other, "SELECT audit.flush()");
    }
    // Nor does it even go for who may not do that.
    let worker = cluster.worker_pid();
    let mut client = cluster.connect("joe", "app");
    for _ in 0..20 {
        fails(&mut client, rename);
    }
    cluster.flush();
    assert_eq!(cluster.worker_pid(), worker);
}

#[test]
fn what_its_owner_sets_for_the_home_does_not_reach_the_worker() {
    let cluster = Cluster::start();
    cluster
        .psql()
        .run("CREATE ROLE joe; CREATE TABLE t (n int)")
        .ok();
    let mut admin = cluster.connect("postgres", "postgres");
    let mut client = cluster.app();
    // Whoever connects to the home from then on is joe, so it is for this session to look.
    let worker = |admin: &mut Client| -> Option<i32> {
        let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'audit_ext worker'";
        let found = admin.query_opt(sql, &[]).expect("tells");
        found.map(|row| row.get(0))
    };
    let before = worker(&mut admin);
    run(
        &mut admin,
        "ALTER DATABASE postgres SET role = 'joe'; ALTER DATABASE postgres SET exit_on_error = on;
         ALTER DATABASE postgres SET session_authorization = 'joe'; ALTER DATABASE postgres SET debug_print_plan = on;
         ALTER DATABASE postgres SET vacuum_cost_delay = 100; ALTER DATABASE postgres SET enable_indexscan = off",
    );
    run(
        &mut admin,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'audit_ext worker'",
    );
    eventually("another worker", || {
        let now = worker(&mut admin);
        now.is_some() && now != before
    });
    run(&mut client, "INSERT INTO t VALUES (1)");
    run(
        &mut admin,
        "SET statement_timeout = '20s'; SELECT audit.flush()",
    );
    run(&mut admin, "ALTER DATABASE postgres RESET ALL");
    // Nobody else has connected to the home since.
    let log = cluster.log();
    assert!(!log.contains("PLANNEDSTMT"), "{log}");
    assert_eq!(
        writes(&cluster),
        ["INSERT INTO t VALUES (1) | 0 | success | committed"]
    );
    assert!(
        !cluster.log().contains("cannot store events"),
        "{}",
        cluster.log()
    );
}

/// A template may be copied by whoever may create databases: the worker makes way for him, too, and for
/// nobody whom the server refuses.
#[test]
fn a_home_that_is_a_template_can_be_copied() {
    let cluster = Cluster::builder().without_extension().start();
    cluster
        .psql()
        .db("postgres")
        .run(
            "CREATE ROLE maker LOGIN CREATEDB; CREATE ROLE mallory LOGIN;
             CREATE DATABASE mould IS_TEMPLATE true",
        )
        .ok();
    for home in ["template1", "mould"] {
        let mut admin = cluster.connect("postgres", home);
        admin
            .batch_execute("CREATE EXTENSION audit_ext")
            .expect("creates");
        drop(admin);
        let attached = || {
            let worker = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'audit_ext worker' \
                          AND datname IS NOT NULL";
            cluster.query("postgres", worker)
        };
        eventually("the worker is there", || !attached().is_empty());
        let before = attached();
        let mut mallory = cluster.connect("mallory", "postgres");
        let error = fails(
            &mut mallory,
            &format!("CREATE DATABASE his TEMPLATE {home}"),
        );
        assert_eq!(error.code().code(), "42501");
        assert_eq!(attached(), before, "{home}");
        let mut maker = cluster.connect("maker", "postgres");
        maker
            .batch_execute(&format!("CREATE DATABASE copy TEMPLATE {home}"))
            .expect(home);
        if home == "template1" {
            maker.batch_execute("CREATE DATABASE plain").expect(home);
        }
        eventually("the worker is back", || !attached().is_empty());
        let mut admin = cluster.connect("postgres", home);
        admin
            .batch_execute("SELECT audit.unlock('the end')")
            .expect("opens");
        admin
            .batch_execute("DROP EXTENSION audit_ext")
            .expect("drops");
        drop(admin);
        cluster.psql().db("postgres").run("DROP DATABASE copy").ok();
    }
}

/// It has the functions and the rows of the trail, and is none.
#[test]
fn a_copy_of_the_home_signs_and_changes_nothing() {
    let cluster = Cluster::start();
    cluster.flush();
    run(&mut cluster.app(), "CREATE DATABASE copy TEMPLATE postgres");
    let mut copy = cluster.connect("postgres", "copy");
    for sql in [
        "SELECT audit.unlock('x')",
        "SELECT audit.hold(now(), now(), 'x')",
        "SELECT audit.release(1, 'x')",
        "SELECT audit.checkpoint()",
    ] {
        let error = fails(&mut copy, sql);
        assert_eq!(error.code().code(), "55000", "{sql}");
        assert!(error.message().contains("not the home"), "{error:?}");
        let hint = error.hint().unwrap_or_default();
        assert!(hint.contains("\"postgres\""), "{sql}: {hint}");
    }
    run(
        &mut copy,
        "SELECT * FROM audit.verify(); SELECT * FROM audit.log",
    );
    let told = cluster.trail_of(
        "command",
        "class = 'AUDIT' AND command IN ('UNLOCK', 'HOLD', 'RELEASE')",
    );
    assert_eq!(told, [""; 0]);
}
