//! Copies of a data directory: a standby that is promoted, a base backup that is started beside the
//! original, pg_rewind. Each goes on with its trail; nothing comes twice.

use audit_cluster_tests::{Cluster, Shutdown, eventually};

use crate::load::{Load, check_order};
use crate::soak::rounds;

fn replay_is_complete(primary: &Cluster, standby: &Cluster) {
    let lsn = primary.value("SELECT pg_current_wal_flush_lsn()");
    eventually("the standby has replayed", || {
        standby.value(&format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'")) == "t"
    });
}

/// No statement of the load is on record twice.
fn no_doubles(cluster: &Cluster) {
    cluster.flush();
    assert_eq!(
        cluster.query(
            "postgres",
            "SELECT statement, count(*) FROM audit.log WHERE statement ~ '^(INSERT|SELECT) /\\* n'
             GROUP BY statement HAVING count(*) > 1"
        ),
        Vec::<String>::new()
    );
    check_order(cluster);
}

#[test]
fn a_promoted_standby_goes_on() {
    rounds(1, || {
        let primary = Cluster::builder()
            .durable()
            .setting("wal_log_hints", "on")
            .start();
        let standby = primary.base_backup(true);
        standby.start_again();
        let load = Load::during(&primary, |load| load.more(200));
        load.check(&primary);
        let seq = primary.flush();
        replay_is_complete(&primary, &standby);
        primary.kill_all();
        assert_eq!(standby.value("SELECT pg_promote()"), "t");
        load.go_on(&standby, |load| load.more(100));
        load.check(&standby);
        assert!(standby.flush() > seq, "the same trail");
    });
}

/// What came to the trail while it was a standby came from none of the rings that it left meanwhile.
#[test]
fn a_promotion_does_not_read_the_trail_for_each_ring() {
    const EVENTS: i64 = 60_000;
    let primary = Cluster::builder().durable().start();
    let standby = primary.base_backup(true);
    let ring = standby.data_dir().join("pg_audit/ring");
    // The primary's own.
    std::fs::remove_file(&ring).expect("removes");
    for number in 1..=3 {
        standby.start_again();
        standby.stop(Shutdown::Fast);
        // As if there were something in it.
        let left = ring.with_file_name(format!("ring.{number}.old"));
        std::fs::rename(&ring, left).expect("renames");
    }
    standby.start_again();
    primary
        .psql()
        .run(format!(
            "DO $$ DECLARE n int; BEGIN FOR i IN 1 .. {EVENTS} LOOP SELECT 1 INTO n FROM pg_am LIMIT 1; END LOOP; END $$"
        ))
        .ok();
    assert!(primary.flush() > EVENTS);
    primary.psql().run("SELECT 'a small batch'").ok();
    primary.flush();
    replay_is_complete(&primary, &standby);
    primary.kill_all();
    assert_eq!(standby.value("SELECT pg_promote()"), "t");
    let of_events = |columns: &str| {
        standby.value(&format!(
            "SELECT {columns} FROM pg_stat_all_tables WHERE schemaname = 'audit' AND relname ~ '^event_'"
        ))
    };
    standby.flush();
    eventually("the worker has told what it did", || {
        of_events("coalesce(sum(n_tup_ins), 0) > 0") == "t"
    });
    let read = of_events("(sum(seq_tup_read) + sum(coalesce(idx_tup_fetch, 0)))::bigint");
    // A partition that nobody has analyzed is read from its beginning for each row of audit.origin: two.
    assert!(
        read.parse::<i64>().expect("a number") < EVENTS * 5 / 2,
        "{read}"
    );
    assert!(!ring.with_file_name("ring.1.old").exists());
}

#[test]
fn a_base_backup_beside_the_original() {
    rounds(1, || {
        let original = Cluster::builder().durable().start();
        let mut copy = None;
        let load = Load::during(&original, |load| {
            // Under load: the ring's file is copied torn.
            copy = Some(original.base_backup(false));
            load.more(50);
        });
        let copy = copy.expect("made");
        copy.start_again();
        no_doubles(&copy);
        load.check(&original);
        // Both go their own ways.
        original.psql().run("TRUNCATE load").ok();
        copy.psql().run("TRUNCATE load; SELECT 'a mark'").ok();
        let mark = copy.trail_of("seq", "statement = 'SELECT ''a mark'''");
        assert_eq!(mark.len(), 1);
        assert_eq!(original.count("statement = 'SELECT ''a mark'''"), 0);
        check_order(&original);
        check_order(&copy);
        copy.restart(Shutdown::Immediate);
        no_doubles(&copy);
    });
}

#[test]
fn a_rewound_primary_has_the_trail_of_its_successor() {
    rounds(1, || {
        let first = Cluster::builder()
            .durable()
            .setting("wal_log_hints", "on")
            .setting("wal_keep_size", "'128MB'")
            .start();
        let second = first.base_backup(true);
        second.start_again();
        let load = Load::during(&first, |load| load.more(100));
        first.flush();
        replay_is_complete(&first, &second);
        assert_eq!(second.value("SELECT pg_promote()"), "t");
        // Both write: what the first one does from now on is not to be.
        first.psql().run("SELECT 'lost with the rewind'").ok();
        first.flush();
        load.go_on(&second, |load| load.more(100));
        second.value("CHECKPOINT; SELECT 1");
        first.stop(Shutdown::Fast);
        first.rewind_to(&second);
        first.start_again();
        replay_is_complete(&second, &first);
        second.stop(Shutdown::Fast);
        assert_eq!(first.value("SELECT pg_promote()"), "t");
        load.go_on(&first, |load| load.more(100));
        load.check(&first);
        no_doubles(&first);
        assert_eq!(
            first.count("statement = 'SELECT ''lost with the rewind'''"),
            0
        );
    });
}

#[test]
fn a_home_that_is_renamed_under_load() {
    rounds(1, || {
        let cluster = Cluster::builder().durable().start();
        cluster.psql().run("CREATE DATABASE lobby").ok();
        let load = Load::during(&cluster, |load| {
            for (from, to) in [("postgres", "elsewhere"), ("elsewhere", "postgres")] {
                let mut admin = cluster.connect("postgres", "lobby");
                eventually("the home is renamed", || {
                    admin
                        .batch_execute(&format!("ALTER DATABASE {from} RENAME TO {to}"))
                        .is_ok()
                });
                load.more(50);
            }
        });
        load.check(&cluster);
    });
}
