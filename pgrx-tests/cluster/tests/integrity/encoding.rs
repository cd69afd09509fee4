//! Homes in other encodings than UTF-8: the trail verifies in the database, and outside of it.

use super::evidence::{Files, audit_verify};
use audit_cluster_tests::Cluster;

/// Everything of the trail goes through a home of this encoding; letters in it are `text`.
fn verifies_in(encoding: &str, client_encoding: &str, text: &str) {
    let cluster = Cluster::builder().without_extension().start();
    cluster
        .psql()
        .db("postgres")
        .run(format!(
            "CREATE DATABASE home ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        ))
        .ok();
    cluster.psql().db("home").run("CREATE EXTENSION audit_ext");
    let home = |sql: &str| cluster.query("home", sql);
    let work = |database: &str, sql: &str| {
        let ran = cluster.psql().db(database).run(sql);
        assert_eq!(ran.code, 0, "{ran:?}");
    };
    for database in ["app", "home"] {
        work(
            database,
            &format!(
                "SET client_encoding = '{client_encoding}'; SET audit.parameters = on;
                 SET audit.context = '{{\"who\": \"{text}\"}}'; SET application_name = '{text}';
                 CREATE TABLE \"{text}\" (a text); INSERT INTO \"{text}\" VALUES ('{text}');
                 PREPARE p(text) AS SELECT a FROM \"{text}\" WHERE a = $1; EXECUTE p('{text}');
                 SELECT '{text}'; SELECT '{text}'; SELECT '{text}'; SELECT '{text}';
                 CREATE ROLE \"{text} of {database}\";"
            ),
        );
        // Nothing that this encoding can say.
        cluster
            .psql()
            .db(database)
            .run("SELECT '€ 漢 ü', 1/0")
            .error();
    }
    home("SELECT audit.flush()");
    assert_eq!(home("SELECT * FROM audit.verify()"), Vec::<String>::new());
    let known = home(
        "SELECT count(*) FROM audit.log WHERE application_name <> '' AND relations IS NOT NULL",
    );
    assert_ne!(known, ["0"]);

    // What leaves is in the home's own encoding, byte by byte; so a signed note is as it was signed.
    let export = |sql: &str| {
        let client = cluster.psql().db("home").env("PGCLIENTENCODING", encoding);
        client.bytes(sql)
    };
    let note = export("SELECT audit.checkpoint()");
    let size = String::from_utf8_lossy(&note)
        .lines()
        .nth(1)
        .map(str::to_owned);
    let size = size.expect("a size");
    let export = export(&format!("SELECT * FROM audit.evidence(1, {size})"));
    assert!(export.iter().any(|byte| *byte >= 0x80), "nothing but ASCII");
    let files = Files::of(&cluster);
    let lines = files.write_bytes("events", &export);
    let checkpoint = files.write_bytes("checkpoint", &note);
    let key = home(
        "SELECT details ->> 'key' FROM audit.log WHERE command = 'KEY' ORDER BY seq DESC LIMIT 1",
    );
    let verify = |lines: &str| {
        audit_verify(&[
            "events",
            lines,
            "--checkpoint",
            &checkpoint,
            "--key",
            &key[0],
        ])
    };
    let holds = verify(&lines);
    assert!(holds.status.success(), "{holds:?}");
    // A changed letter is seen.
    let mut changed = export.clone();
    let letter = changed.iter().position(|byte| *byte >= 0x80).expect("one");
    changed[letter] ^= 1;
    let lines = files.write_bytes("events", &changed);
    let differs = verify(&lines);
    assert_eq!(differs.status.code(), Some(1), "{differs:?}");
}

#[test]
fn a_home_in_latin1() {
    verifies_in("LATIN1", "UTF8", "fünf Häuser");
}

#[test]
fn a_home_in_euc_jp() {
    verifies_in("EUC_JP", "UTF8", "監査");
}

#[test]
fn a_home_without_an_encoding() {
    verifies_in("SQL_ASCII", "SQL_ASCII", "fünf 監査");
}
