//! Every extension that comes with the server can be made and dropped: each is one event, whatever its
//! script does (spec/capture.md, rule 1).

use audit_cluster_tests::Cluster;

#[test]
fn every_extension_of_the_server_is_made_and_dropped_in_one_event_each() {
    let cluster = Cluster::start();
    // pgaudit refuses where it is not preloaded; compose.rs has it.
    let names = cluster.query(
        "app",
        "SELECT name FROM pg_available_extensions
         WHERE installed_version IS NULL AND name NOT IN ('audit_ext', 'pgaudit') ORDER BY name",
    );
    assert!(names.len() > 30, "{names:?}");
    let mut script = "SET client_min_messages = warning;\n".to_owned();
    let mut expected = Vec::new();
    for name in &names {
        script += &format!(
            "CREATE EXTENSION IF NOT EXISTS \"{name}\" CASCADE; DROP EXTENSION \"{name}\" CASCADE;\n"
        );
        for command in ["CREATE", "DROP"] {
            expected.push(format!(
                "{command} EXTENSION | {name} | success | committed | 0"
            ));
        }
    }
    cluster.psql().run(script).ok();
    let events = cluster.trail(
        "command, trim('\"' FROM object_name), outcome, transaction_outcome, depth",
        "depth > 0 OR command NOT IN ('SET', 'SELECT')",
    );
    assert_eq!(events, expected);
    // What the drop of one takes with it is named.
    let dropped = cluster.trail(
        "details->'dropped' ? 'type public.hstore'",
        "command = 'DROP EXTENSION' AND object_name = 'hstore'",
    );
    assert_eq!(dropped, ["t"]);
    assert_eq!(
        cluster.value("SELECT count(*) FROM audit.log WHERE command = 'GAP'"),
        "0"
    );
}
