//! Ways to the trail that a superuser has with SQL alone and that name nothing of the trail: each is
//! refused, or found. What the guard refuses by name is in guard_attempts.rs.

use crate::fails;
use crate::guard_attempts::{HOME, attempt, prepared};
use crate::integrity::{assert_whole, found, problems};
use audit_cluster_tests::{Cluster, Shutdown, eventually};

/// Catalogs by which what the server itself computes would become somebody else's.
#[test]
fn operators_casts_and_event_triggers_are_not_bent_by_hand() {
    let (cluster, _) = prepared();
    let mut client = cluster.connect("postgres", HOME);
    let mut wrong = Vec::new();
    for sql in [
        "UPDATE pg_operator SET oprcode = 'int8ne' WHERE oid = '=(int8,int8)'::regoperator",
        "UPDATE pg_aggregate SET aggtransfn = 'int8smaller' WHERE aggfnoid = 'max(int8)'::regprocedure",
        "UPDATE pg_cast SET castfunc = 0 WHERE castsource = 'int4'::regtype",
        "UPDATE pg_amproc SET amproc = 'int8smaller' WHERE amproc = 'btint8cmp'::regproc",
        "UPDATE pg_amop SET amopopr = 0 WHERE false",
        "UPDATE pg_opclass SET opcdefault = false WHERE false",
        "DELETE FROM pg_am WHERE false",
        "UPDATE pg_conversion SET conproc = 0 WHERE false",
        "UPDATE pg_language SET lanplcallfoid = 0 WHERE false",
        "UPDATE pg_event_trigger SET evtenabled = 'A'",
    ] {
        wrong.extend(attempt(&mut client, sql));
        let whole = format!("SET allow_system_table_mods = on; {sql}");
        wrong.extend(attempt(&mut client, &whole));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_whole(&cluster);
}

/// The worker makes tables. What somebody has hung onto that runs in the worker, but not as the worker.
#[test]
fn event_triggers_get_no_foot_into_the_worker() {
    let cluster = Cluster::builder()
        .setting("audit.partition_interval", "'1min'")
        .start();
    let mut client = cluster.connect("postgres", HOME);
    client
        .batch_execute(
            "CREATE TABLE public.seen (who text);
             CREATE FUNCTION public.evil() RETURNS event_trigger LANGUAGE plpgsql AS $$
             BEGIN
                 IF current_setting('application_name') = '' AND pg_backend_pid() IN
                     (SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'audit_ext%') THEN
                     INSERT INTO public.seen VALUES ('the worker');
                     BEGIN
                         DELETE FROM audit.event;
                     EXCEPTION WHEN insufficient_privilege THEN
                         DELETE FROM audit.batch;
                     END;
                 END IF;
             END $$;
             CREATE EVENT TRIGGER evil ON ddl_command_end EXECUTE FUNCTION public.evil();",
        )
        .expect("makes");
    let periods = || -> u32 {
        let count = cluster.value("SELECT count(*) FROM audit.period");
        count.parse().expect("a number")
    };
    let before = periods();
    // An ordinary one is not even called.
    audit_cluster_tests::wait_until("partitions", std::time::Duration::from_secs(100), || {
        cluster.psql().run("SELECT 'knock'").ok();
        cluster.flush();
        periods() > before
    });
    assert_eq!(cluster.value("SELECT count(*) FROM public.seen"), "0");
    assert_whole(&cluster);
    // One that fires always is, and is refused what it tries: the partition is not made, the log says
    // why, and events wait until it is gone.
    client
        .batch_execute("ALTER EVENT TRIGGER evil ENABLE ALWAYS")
        .expect("alters");
    audit_cluster_tests::wait_until("it fires", std::time::Duration::from_secs(130), || {
        cluster.psql().run("SELECT 'knock'").ok();
        std::thread::sleep(std::time::Duration::from_millis(200));
        cluster
            .log()
            .contains("is refused: the audit trail is guarded")
    });
    client
        .batch_execute("DROP EVENT TRIGGER evil")
        .expect("drops");
    eventually("the trail goes on", || {
        cluster.flush();
        cluster.value("SELECT last_error IS NULL FROM audit.status") == "t"
    });
    assert_whole(&cluster);
}

/// Functions in C that write pages past all hooks.
#[test]
fn a_row_removed_by_pg_surgery_is_found() {
    let (cluster, partition) = prepared();
    for i in 0..20 {
        cluster.psql().run(format!("SELECT {i}")).ok();
    }
    cluster.flush();
    let seq = cluster.value(&format!("SELECT min(seq) + 9 FROM {partition}"));
    let place = cluster.value(&format!("SELECT ctid FROM {partition} WHERE seq = {seq}"));
    cluster
        .psql()
        .db(HOME)
        .run(format!(
            "SET client_min_messages = error; CREATE EXTENSION pg_surgery;
             SELECT heap_force_kill('{partition}', ARRAY['{place}']::tid[])"
        ))
        .ok();
    let all = problems(&cluster);
    found(&all, Some(seq.parse().expect("a seq")), "removed event");
}

/// A server without the library has no guard but triggers, which a superuser can switch off there.
#[test]
fn what_was_changed_without_the_library_is_found_and_told_of() {
    let (cluster, partition) = prepared();
    cluster.psql().run("SELECT 'dromedary'").ok();
    let seq = cluster.trail_of("seq", "statement LIKE 'SELECT ''drom%'")[0].clone();
    cluster.configure("shared_preload_libraries", "''");
    cluster.restart(Shutdown::Fast);
    let mut client = cluster.connect("postgres", HOME);
    let change =
        format!("UPDATE audit.event SET started_at = started_at + '1 s' WHERE seq = {seq}");
    let refused = fails(&mut client, &change);
    assert!(refused.message().contains("guarded"), "{refused:?}");
    client
        .batch_execute(&format!(
            "ALTER TABLE {partition} DISABLE TRIGGER ALL; {change}"
        ))
        .expect("changes");
    drop(client);
    cluster.configure("shared_preload_libraries", "'audit_ext'");
    cluster.restart(Shutdown::Fast);
    eventually("the worker runs", || cluster.worker_pid().is_some());
    let all = problems(&cluster);
    found(&all, Some(seq.parse().expect("a seq")), "changed event");
    let starts = cluster.trail_of("details ->> 'last_stop'", "command = 'START'");
    assert_eq!(
        starts.last().map(String::as_str),
        Some("without the library")
    );
}

/// Through a session of his own elsewhere: the same guard, on record as everything.
#[test]
fn dblink_to_itself_is_a_session_like_any_other() {
    let (cluster, _) = prepared();
    let mut client = cluster.app();
    let host = cluster.socket_dir().display();
    client
        .batch_execute(&format!(
            "CREATE EXTENSION dblink;
             SELECT dblink_connect('home', 'host={host} port={} user=postgres dbname=postgres')",
            cluster.port()
        ))
        .expect("connects");
    let error = fails(
        &mut client,
        "SELECT dblink_exec('home', 'DELETE FROM audit.event')",
    );
    assert!(error.message().contains("guarded"), "{error:?}");
    drop(client);
    let tried = cluster.trail_of("statement, database_name", "command = 'REFUSED'");
    assert_eq!(tried, ["DELETE FROM audit.event | postgres"]);
    assert_whole(&cluster);
}

/// The label that tells the home is the extension's to set.
#[test]
fn nobody_moves_the_home_by_hand() {
    let (cluster, _) = prepared();
    let home = cluster.value("SELECT home FROM audit.status");
    let mut wrong = Vec::new();
    for database in [HOME, "app"] {
        let mut client = cluster.connect("postgres", database);
        for sql in [
            "SECURITY LABEL FOR audit_ext ON DATABASE app IS 'home'",
            "SECURITY LABEL FOR audit_ext ON DATABASE postgres IS NULL",
            "CREATE EXTENSION IF NOT EXISTS audit_ext CASCADE; ALTER EXTENSION audit_ext SET SCHEMA public",
        ] {
            if client.batch_execute(sql).is_ok() {
                wrong.push(format!("{database}: {sql}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(cluster.value("SELECT home FROM audit.status"), home);
    assert_whole(&cluster);
}
