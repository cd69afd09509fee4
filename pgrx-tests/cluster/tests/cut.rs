//! A record has a largest size: what is cut of an event, in which order, and how one learns of it
//! (spec/capture.md, rule 15).

use audit_cluster_tests::Cluster;

/// The smallest ring: a record is at most an eighth of it.
fn small_ring() -> Cluster {
    Cluster::builder()
        .setting("audit.ring_size", "1MB")
        .setting("audit.on_full", "wait")
        .setting("max_locks_per_transaction", "512")
        .start()
}

const MAKE_10_000_FUNCTIONS: &str = "
    SET audit.level = 'none';
    CREATE SCHEMA big;
    DO $$ BEGIN FOR i IN 1..10000 LOOP
        EXECUTE format('CREATE FUNCTION big.function_number_%s(int) RETURNS int LANGUAGE sql AS ''SELECT 1''', i);
    END LOOP; END $$;";

const DROPPED: &str = "outcome, jsonb_array_length(details->'dropped'), details->'truncated',
    details->'dropped'->>-1";

#[test]
fn ten_thousand_dropped_objects_are_a_bounded_list_with_their_number() {
    let cluster = Cluster::builder()
        .setting("max_locks_per_transaction", "512")
        .start();
    cluster.psql().run(MAKE_10_000_FUNCTIONS).ok();
    let mut client = cluster.app();
    client
        .simple_query("DROP SCHEMA big CASCADE")
        .expect("drops");
    let rows = cluster.trail(DROPPED, "command = 'DROP SCHEMA'");
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert!(
        rows[0]
            .starts_with("success | 4096 | {\"dropped\": 10001} | function big.function_number_"),
        "{rows:?}"
    );
}

#[test]
fn lists_of_the_details_are_cut_first() {
    let cluster = small_ring();
    cluster.psql().run(MAKE_10_000_FUNCTIONS).ok();
    let comment = "x".repeat(50_000);
    let mut client = cluster.app();
    client
        .simple_query(&format!("DROP SCHEMA /* {comment} */ big CASCADE"))
        .expect("drops");
    let rows = cluster.trail(
        "(details->'truncated')::text, jsonb_array_length(details->'dropped') BETWEEN 500 AND 3000,
         length(statement) > 50000, statement_length",
        "command = 'DROP SCHEMA'",
    );
    assert_eq!(rows, [r#"{"dropped": 10001} | t | t | ~"#]);
}

#[test]
fn then_parameters_then_the_statement() {
    let cluster = small_ring();
    cluster
        .psql()
        .run(
            "ALTER DATABASE app SET audit.parameters = on;
             ALTER DATABASE app SET audit.parameter_max_size = '200kB';
             ALTER DATABASE app SET audit.statement_max_size = '512kB';",
        )
        .ok();
    let mut client = cluster.app();
    let value = "界".repeat(20_000);
    let few = "SELECT length($1) + length($2), 'few'";
    client.query_one(few, &[&value, &"short"]).expect("few");
    let many = "SELECT length($1) + length($2) + length($3), 'many'";
    client
        .query_one(many, &[&value, &value, &value])
        .expect("many");
    let long = format!("SELECT length($1), 'long' /* {} */", "é".repeat(80_000));
    client.query_one(long.as_str(), &[&value]).expect("long");
    assert_eq!(
        cluster.trail(
            "cardinality(parameters), details->'truncated', statement_length, length(statement) > 30000",
            "command = 'SELECT' AND statement ~ 'length'"
        ),
        [
            "2 | ~ | ~ | f".to_owned(),
            r#"2 | {"parameter_count": 3} | ~ | f"#.to_owned(),
            format!(
                r#"0 | {{"statement": {0}, "parameter_count": 1}} | {0} | t"#,
                long.len()
            ),
        ]
    );
    // The digest is that of the whole text.
    let digest = format!(
        "SELECT statement_sha256 = sha256(convert_to('{}', 'UTF8')) FROM audit.log
         WHERE statement_length IS NOT NULL",
        long.replace('\'', "''")
    );
    assert_eq!(cluster.query("postgres", &digest), ["t"]);
}

#[test]
fn relations_are_cut_last_and_no_event_is_lost() {
    let cluster = small_ring();
    let mut client = cluster.app();
    client
        .batch_execute(
            "SET audit.level = 'none';
             DO $$ BEGIN FOR i IN 1..3000 LOOP
                 EXECUTE format('CREATE TABLE this_is_a_table_with_a_rather_long_name_number_%s ()', i);
             END LOOP; END $$;
             RESET audit.level;",
        )
        .expect("tables");
    let tables: Vec<_> = (1..=3000)
        .map(|n| format!("this_is_a_table_with_a_rather_long_name_number_{n}"))
        .collect();
    let statement = format!("DROP TABLE {}", tables.join(", "));
    client.simple_query(&statement).expect("drops");
    assert_eq!(
        cluster.trail(
            "jsonb_array_length(details->'dropped'), details->'truncated'->'dropped',
             details->'truncated'->'statement', details->'truncated'->'relations',
             cardinality(relations) BETWEEN 500 AND 2999, details->'classes'",
            "command = 'DROP TABLE'"
        ),
        [format!(
            r#"0 | 3000 | {} | 3000 | t | ["DDL"]"#,
            statement.len()
        )]
    );
}

#[test]
fn a_record_is_a_megabyte_at_most_however_large_the_ring() {
    let cluster = Cluster::builder()
        .setting("audit.ring_size", "'64MB'")
        .setting("audit.parameters", "on")
        .setting("audit.parameter_max_size", "'400kB'")
        .start();
    let value = "x".repeat(400_000);
    cluster
        .app()
        .query(
            "SELECT length($1), length($2), length($3)",
            &[&value, &value, &value],
        )
        .expect("selects");
    assert_eq!(
        cluster.trail(
            "cardinality(parameters), length(parameters[2]), details->'truncated'",
            "command = 'SELECT'"
        ),
        [r#"2 | 400000 | {"parameter_count": 3}"#]
    );
}
