//! Nested statements that the level leaves out have no frame (hooks/engine/passing.rs): what is
//! recorded around them and in them is as if they had.

use audit_cluster_tests::Cluster;

use crate::assert_mentions;

#[test]
fn what_is_recorded_has_its_place_whatever_is_left_out_around_it() {
    let cluster = Cluster::start();
    cluster
        .psql()
        .run(
            "CREATE TABLE w (x int CHECK (x < 100)); CREATE TABLE r (x int);
             CREATE FUNCTION note(v int) RETURNS int LANGUAGE plpgsql AS
                 $$ BEGIN INSERT INTO w VALUES (v); RETURN v; END $$;
             CREATE FUNCTION deep(v int) RETURNS int LANGUAGE plpgsql AS
                 $$ DECLARE n int; BEGIN SELECT note(v) + count(*) INTO n FROM r; RETURN n; END $$;
             CREATE FUNCTION fails(v int) RETURNS int LANGUAGE plpgsql AS
                 $$ DECLARE n int; BEGIN
                     FOR i IN 1..3 LOOP
                         BEGIN
                             SELECT note(v + i) + count(*) / (i - 2) INTO n FROM r;
                         EXCEPTION WHEN OTHERS THEN
                             SELECT note(50) + count(*) INTO n FROM r;
                         END;
                         SELECT deep(51) + count(*) INTO n FROM r;
                     END LOOP;
                     RETURN n;
                 END $$;
             CREATE FUNCTION cursors() RETURNS void LANGUAGE plpgsql AS
                 $$ DECLARE c CURSOR FOR SELECT deep(x) AS x FROM generate_series(60, 62) x; n int; BEGIN
                     OPEN c; FETCH c INTO n; PERFORM note(59); FETCH c INTO n; CLOSE c;
                     FOR n IN SELECT deep(x) FROM generate_series(63, 64) x LOOP PERFORM note(n); END LOOP;
                 END $$;
             CREATE FUNCTION sql_one(v int) RETURNS bigint LANGUAGE sql AS
                 $$ SELECT count(*) FROM r WHERE x = deep(v); SELECT count(*) + deep(v) FROM r $$;
             CREATE TABLE t (x int);
             CREATE FUNCTION looks(v int) RETURNS int LANGUAGE plpgsql AS
                 $$ DECLARE n int; BEGIN SELECT count(*) INTO n FROM r; RETURN v; END $$;
             CREATE FUNCTION after_t() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN PERFORM note(70); RETURN NULL; END $$;
             CREATE TRIGGER late AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION after_t();",
        )
        .ok();
    let script = "
        INSERT INTO r VALUES (1);
        SELECT deep(1);
        DO $$ DECLARE n int; BEGIN SELECT deep(2) INTO n FROM r; PERFORM note(3); END $$;
        SELECT fails(10);
        DO $$ DECLARE n int; BEGIN SELECT fails(20) INTO n FROM r; SELECT deep(4) INTO n FROM r; END $$;
        DO $$ DECLARE n int; BEGIN SELECT fails(98) INTO n FROM r; PERFORM deep(5); END $$;
        SELECT cursors();
        DO $$ BEGIN PERFORM cursors() FROM r; PERFORM deep(6); END $$;
        SELECT sql_one(7);
        BEGIN; DECLARE c CURSOR FOR SELECT deep(x) FROM generate_series(8, 9) x; FETCH c; SELECT deep(10); FETCH c; COMMIT;
        PREPARE p AS SELECT deep(11); EXECUTE p;
        EXPLAIN (ANALYZE, COSTS off, TIMING off) SELECT deep(12);
        CREATE TABLE made AS SELECT deep(13) AS x;
        COPY (SELECT deep(14)) TO STDOUT;
        DO $$ DECLARE n int; BEGIN SELECT 1 / 0 INTO n FROM r WHERE deep(15) > 0; END $$;
        SELECT deep(16);
        SELECT deep(200);
        SELECT deep(17);
        INSERT INTO t SELECT looks(19);
        DO $$ DECLARE n int; BEGIN
            SELECT count(*) INTO n FROM r WHERE set_config('audit.level', 'read, write', false) <> '' AND deep(18) > 0;
        END $$;";
    let run = |level: &str| {
        cluster
            .psql()
            .run("SET client_min_messages = error; TRUNCATE w; TRUNCATE r; DROP TABLE IF EXISTS made")
            .ok();
        let before = cluster.flush();
        cluster
            .psql()
            .run(format!("SET audit.level = '{level}'; {script}"));
        cluster.trail(
            "depth, substatement_id, outcome, transaction_outcome, rows, statement_id",
            &format!("seq > {before} AND command = 'INSERT'"),
        )
    };
    let all = run("read, write");
    assert!(all.len() > 50, "{} rows", all.len());
    assert!(all.iter().any(|row| row.starts_with("4 ")), "{all:#?}");
    assert_eq!(run("write"), all);
}

#[test]
fn a_trigger_of_a_statement_that_is_left_out_has_its_depth() {
    let cluster = Cluster::start();
    cluster
        .psql()
        .run(
            "CREATE TABLE w (x int); CREATE TABLE r (x int); INSERT INTO r VALUES (1);
             CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS
                 $$ DECLARE n int; BEGIN SELECT count(*) INTO n FROM r; RETURN NULL; END $$;
             CREATE TRIGGER look AFTER INSERT ON w FOR EACH ROW EXECUTE FUNCTION look();",
        )
        .ok();
    cluster
        .psql()
        .run(
            "SET audit.level = 'read';
             DO $$ BEGIN INSERT INTO w VALUES (1); PERFORM count(*) FROM r; END $$;",
        )
        .ok();
    assert_eq!(
        cluster.trail("command, depth, substatement_id", "seq > 0 AND depth > 0"),
        ["SELECT | 2 | 3", "SELECT | 1 | 4"]
    );
}

#[test]
fn what_a_statement_that_is_left_out_failed_with_is_not_put_on_its_caller() {
    let cluster = Cluster::start();
    cluster
        .psql()
        .run(
            "CREATE ROLE bob LOGIN; CREATE TABLE t (x int); CREATE TABLE secret (x int);
             GRANT SELECT ON t TO bob; INSERT INTO t VALUES (1);
             CREATE FUNCTION add() RETURNS int LANGUAGE plpgsql AS
                 $$ BEGIN INSERT INTO secret VALUES (1); RETURN 1; END $$;",
        )
        .ok();
    let run = |level: &str| {
        cluster
            .psql()
            .run(format!("ALTER ROLE bob SET audit.level = '{level}'"))
            .ok();
        let before = cluster.flush();
        let failed = cluster
            .psql()
            .user("bob")
            .run("SELECT add() FROM app.public.t");
        assert_mentions(&failed.error(), &["permission denied"]);
        cluster.trail(
            "outcome, sqlstate, object_name, relations, details",
            &format!("seq > {before} AND command = 'SELECT'"),
        )
    };
    let all = run("read, write");
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!(run("read"), all);
}

/// A cursor of a function has a portal of its own, as EXECUTE has: nothing hides behind that.
#[test]
fn what_a_function_runs_through_a_cursor_under_execute_is_its_own() {
    let cluster = Cluster::start();
    cluster
        .psql()
        .run(
            "CREATE TABLE t (x int); INSERT INTO t SELECT generate_series(1, 9);
             CREATE FUNCTION f(n int) RETURNS int LANGUAGE plpgsql AS
             $$ DECLARE r record; BEGIN
                  FOR r IN EXECUTE 'DELETE FROM t WHERE x = ' || n || ' RETURNING x' LOOP END LOOP;
                  FOR r IN DELETE FROM t WHERE x = n + 1 RETURNING x LOOP END LOOP;
                  RETURN n; END $$;
             PREPARE p(int) AS SELECT f(3), $1;
             PREPARE q AS DELETE FROM t WHERE x = 9;
             EXECUTE p(f(1)); CREATE TABLE made AS EXECUTE p(5); EXECUTE q;",
        )
        .ok();
    assert_eq!(
        cluster.trail(
            "command, depth, rows, class",
            "command IN ('EXECUTE', 'DELETE', 'CREATE TABLE AS') AND class <> 'FUNCTION'"
        ),
        [
            "DELETE | 1 | 1 | WRITE",
            "DELETE | 1 | 1 | WRITE",
            "DELETE | 1 | 1 | WRITE",
            "DELETE | 1 | 1 | WRITE",
            "EXECUTE | 0 | 1 | READ",
            "DELETE | 1 | 0 | WRITE",
            "DELETE | 1 | 0 | WRITE",
            "CREATE TABLE AS | 0 | 1 | DDL",
            "EXECUTE | 0 | 1 | WRITE",
        ]
    );
}
