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
    // What would run, or be asked, where a script writes to them. (The setting is on by now.)
    client
        .batch_execute("SET allow_system_table_mods = on")
        .expect("sets");
    for sql in [
        "CREATE RULE r AS ON UPDATE TO pg_depend DO ALSO DELETE FROM pg_depend",
        "CREATE TRIGGER t BEFORE UPDATE ON pg_depend FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "CREATE POLICY p ON pg_depend",
    ] {
        wrong.extend(attempt(&mut client, sql));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_whole(&cluster);
}

/// The worker makes tables. What somebody has hung onto that is not run: it would go unrecorded.
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
                 INSERT INTO public.seen SELECT backend_type || ' ' || tg_event FROM pg_stat_activity
                 WHERE pid = pg_backend_pid();
             END $$;
             CREATE EVENT TRIGGER evil ON ddl_command_end EXECUTE FUNCTION public.evil();
             CREATE EVENT TRIGGER begins ON ddl_command_start EXECUTE FUNCTION public.evil();
             CREATE EVENT TRIGGER drops ON sql_drop EXECUTE FUNCTION public.evil();
             ALTER EVENT TRIGGER evil ENABLE ALWAYS;
             ALTER EVENT TRIGGER begins ENABLE REPLICA;
             ALTER EVENT TRIGGER drops ENABLE ALWAYS;
             CREATE TABLE public.other (x int); DROP TABLE public.other",
        )
        .expect("makes");
    let periods = || -> u32 {
        let count = cluster.value("SELECT count(*) FROM audit.period");
        count.parse().expect("a number")
    };
    let before = periods();
    audit_cluster_tests::wait_until("partitions", std::time::Duration::from_secs(100), || {
        cluster.psql().run("SELECT 'knock'").ok();
        cluster.flush();
        periods() > before
    });
    // They do fire, elsewhere.
    assert_eq!(
        cluster.query(HOME, "SELECT DISTINCT who FROM public.seen ORDER BY 1"),
        ["client backend ddl_command_end", "client backend sql_drop"]
    );
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
    cluster.without_library(|| {
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
    });
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

/// What fires inside the script of an extension is not a part of it: it is recorded, and held off the
/// catalogs, as anywhere else.
#[test]
fn a_script_lends_its_rights_to_nothing_that_fires_in_it() {
    let (cluster, _) = prepared();
    for database in [HOME, "app"] {
        let mut client = cluster.connect("postgres", database);
        client
            .batch_execute(
                "CREATE TABLE public.told (what text);
                 CREATE FUNCTION public.tell() RETURNS event_trigger LANGUAGE plpgsql AS $$
                 BEGIN
                     INSERT INTO public.told VALUES ('this time');
                     DELETE FROM pg_catalog.pg_shseclabel;
                 END $$;
                 CREATE EVENT TRIGGER tell ON ddl_command_end WHEN TAG IN ('CREATE FUNCTION')
                     EXECUTE FUNCTION public.tell();",
            )
            .expect("makes");
        let error = fails(&mut client, "CREATE EXTENSION hstore");
        assert!(error.message().contains("guarded"), "{database}: {error:?}");
        let nested = cluster.trail_of(
            "depth > 0, transaction_outcome",
            &format!("statement LIKE 'INSERT INTO public.told%' AND database_name = '{database}'"),
        );
        assert_eq!(nested, ["t | rolled back"], "{database}");
        // Nor does what it leaves behind for the rest of the script, as a part of the extension.
        client
            .batch_execute(
                "DROP EVENT TRIGGER tell;
                 CREATE OR REPLACE FUNCTION public.tell() RETURNS event_trigger LANGUAGE plpgsql AS $$
                 BEGIN
                     IF to_regprocedure('public.helper()') IS NULL THEN
                         CREATE FUNCTION public.helper() RETURNS event_trigger LANGUAGE plpgsql AS
                             $h$ BEGIN DELETE FROM pg_catalog.pg_shseclabel; END $h$;
                         CREATE EVENT TRIGGER helper ON ddl_command_start EXECUTE FUNCTION public.helper();
                     END IF;
                 END $$;
                 CREATE EVENT TRIGGER tell ON ddl_command_end WHEN TAG IN ('CREATE TYPE')
                     EXECUTE FUNCTION public.tell()",
            )
            .expect("makes");
        let error = fails(&mut client, "CREATE EXTENSION hstore");
        assert!(error.message().contains("guarded"), "{database}: {error:?}");
        // Without it: one event, as ever.
        let before = cluster.flush();
        client
            .batch_execute("DROP EVENT TRIGGER tell; CREATE EXTENSION hstore")
            .expect("makes");
        let within = cluster.trail_of(
            "command",
            &format!(
                "database_name = '{database}' AND (class = 'DDL' OR depth > 0) AND seq > {before}"
            ),
        );
        assert_eq!(
            within,
            ["DROP EVENT TRIGGER", "CREATE EXTENSION"],
            "{database}"
        );
    }
    assert_whole(&cluster);
}

/// A shared catalog is a file, which a table of another database could be said to be in.
#[test]
fn no_table_is_made_a_shared_catalog() {
    let (cluster, _) = prepared();
    let mut client = cluster.connect("postgres", "app");
    client
        .batch_execute(
            "SET allow_system_table_mods = on;
             CREATE TABLE mine (LIKE pg_shseclabel);
             CREATE TABLE row AS SELECT * FROM pg_class WHERE relname = 'mine';
             UPDATE row SET oid = 77777, relname = 'alias', reltablespace = 1664;
             COPY row TO PROGRAM 'cat > row.copy'",
        )
        .expect("makes");
    let mut wrong = Vec::new();
    for sql in [
        "UPDATE pg_class SET reltablespace = 1664, relfilenode = pg_relation_filenode('pg_shseclabel') WHERE relname = 'mine'",
        "DO $$ BEGIN UPDATE pg_class SET reltablespace = 1664 WHERE relname = 'mine'; END $$",
        "WITH moved AS (UPDATE pg_class SET reltablespace = 1664 WHERE relname = 'mine' RETURNING 1) SELECT * FROM moved",
        "COPY pg_shseclabel FROM '/dev/null'",
        "COPY pg_catalog.pg_shseclabel FROM '/dev/null'",
        "UPDATE pg_class SET reltablespace = 1664, relfilenode = pg_relation_filenode('pg_shseclabel')
         WHERE oid = 'information_schema.sql_parts'::regclass",
        "UPDATE pg_class SET relfilenode = pg_relation_filenode('pg_shseclabel') WHERE relname = 'pg_shdescription'",
        "COPY pg_class FROM PROGRAM 'cat row.copy'",
        // Rows are routed to a partition, which no plan says.
        "CREATE TABLE p (LIKE pg_shseclabel) PARTITION BY LIST (provider);
         ALTER TABLE p ATTACH PARTITION pg_catalog.pg_shseclabel DEFAULT",
        "INSERT INTO pg_inherits SELECT 'pg_shseclabel'::regclass, 'mine'::regclass, 1, false",
        "TRUNCATE pg_shseclabel",
        "DELETE FROM pg_shseclabel",
        "UPDATE pg_shseclabel SET label = 'gone'",
    ] {
        wrong.extend(attempt(&mut client, sql));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Other changes of pg_class are the owner's business.
    client
        .batch_execute("UPDATE pg_class SET reltuples = 7 WHERE relname = 'mine'")
        .expect("updates");
    assert_eq!(cluster.value("SELECT home FROM audit.status"), HOME);
    assert_whole(&cluster);
}

/// Rows that a subscription applies go by no hook, so it gets no catalog to apply to, be it the publisher
/// or somebody here who says so. (Servers of late refuse the first by themselves.)
#[test]
fn no_subscription_writes_to_catalogs() {
    let cluster = Cluster::builder().setting("wal_level", "logical").start();
    cluster.flush();
    let mut publisher = cluster.app();
    publisher
        .batch_execute(
            "SET allow_system_table_mods = on;
             CREATE PUBLICATION p;
             DROP VIEW pg_catalog.pg_publication_tables;
             CREATE VIEW pg_catalog.pg_publication_tables AS
                 SELECT 'p'::name AS pubname, 'pg_catalog'::name AS schemaname,
                        'pg_shseclabel'::name AS tablename, NULL::name[] AS attnames, NULL AS rowfilter",
        )
        .expect("publishes");
    publisher
        .batch_execute("SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
        .expect("a slot");
    cluster.query("postgres", "CREATE DATABASE third");
    let subscribe = format!(
        "CREATE SUBSCRIPTION c CONNECTION 'host={} port={} dbname=app user=postgres' PUBLICATION p",
        cluster.socket_dir().display(),
        cluster.port()
    );
    let mut wrong = Vec::new();
    for database in [HOME, "third"] {
        let mut client = cluster.connect("postgres", database);
        // From 16 on publishers are asked by a function.
        if cluster.value("SELECT current_setting('server_version_num')::int < 160000") == "t" {
            let error = fails(
                &mut client,
                &format!("{subscribe} WITH (create_slot = false, slot_name = s, enabled = false)"),
            );
            let code = error.code().code();
            assert!(["42501", "42809"].contains(&code), "{error:?}");
        }
        client
            .batch_execute(&format!(
                "{subscribe} WITH (connect = false, slot_name = s);
                 SET allow_system_table_mods = on"
            ))
            .expect("subscribes to nothing yet");
        wrong.extend(attempt(
            &mut client,
            "INSERT INTO pg_subscription_rel
                 SELECT oid, 'pg_shseclabel'::regclass, 'i', NULL FROM pg_subscription",
        ));
        assert_eq!(
            cluster.query(database, "SELECT count(*) FROM pg_subscription_rel"),
            ["0"]
        );
        client
            .batch_execute("ALTER SUBSCRIPTION c SET (slot_name = NONE); DROP SUBSCRIPTION c")
            .expect("drops");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_whole(&cluster);
}

/// Where the library isn't loaded, the label of the home can be removed as any row. The next start has it
/// put back, and goes on.
#[test]
fn a_label_that_was_taken_away_without_the_library_is_put_back() {
    for removed in [
        "SET allow_system_table_mods = on; DELETE FROM pg_shseclabel",
        "SET allow_system_table_mods = on; UPDATE pg_shseclabel SET objoid = \
         (SELECT oid FROM pg_database WHERE datname = 'app')",
    ] {
        label_taken_away(removed);
    }
}

fn label_taken_away(removed: &str) {
    let cluster = Cluster::start();
    cluster.flush();
    let label = "SELECT count(*) FROM pg_shseclabel WHERE provider = 'audit_ext'";
    cluster.without_library(|| {
        cluster
            .connect("postgres", HOME)
            .batch_execute(removed)
            .expect("removes");
    });
    eventually("it is back", || {
        cluster.value(&format!(
            "{label} AND objoid = (SELECT oid FROM pg_database WHERE datname = '{HOME}')"
        )) == "1"
            && cluster.value(label) == "1"
    });
    assert!(
        cluster.log().contains("label of the trail's home was gone"),
        "said so"
    );
    cluster.psql().run("SELECT 'as before'").ok();
    assert_eq!(cluster.count("statement = 'SELECT ''as before'''"), 1);
    let starts = cluster.trail_of("details ->> 'last_stop'", "command = 'START'");
    assert_eq!(
        starts.last().map(String::as_str),
        Some("without the library")
    );
    assert_whole(&cluster);
    // Whoever drops the extension drops it.
    let mut client = cluster.connect("postgres", HOME);
    client
        .batch_execute("SELECT audit.unlock('it goes'); DROP EXTENSION audit_ext")
        .expect("drops");
    cluster.restart(Shutdown::Fast);
    cluster.psql().run("SELECT 'unseen'").ok();
    assert_eq!(cluster.value(label), "0");
    cluster
        .connect("postgres", HOME)
        .batch_execute("CREATE EXTENSION audit_ext")
        .expect("makes it again");
    cluster.psql().run("SELECT 'seen'").ok();
    assert_eq!(cluster.count("statement = 'SELECT ''unseen'''"), 0);
    assert_eq!(cluster.count("statement = 'SELECT ''seen'''"), 1);
}
