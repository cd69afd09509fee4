//! Fast-path function calls (PQfn): the client's own messages that no hook of the executor or of
//! utility statements sees (spec/capture.md, rule 1).

use audit_cluster_tests::Cluster;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

/// A client that speaks the protocol itself: no client library of Rust calls functions this way.
pub struct Raw(UnixStream);

impl Raw {
    pub fn connect(cluster: &Cluster) -> Raw {
        let socket = cluster
            .socket_dir()
            .join(format!(".s.PGSQL.{}", cluster.port()));
        let mut raw = Raw(UnixStream::connect(socket).unwrap());
        let mut start = Vec::new();
        start.extend_from_slice(&196_608u32.to_be_bytes());
        start.extend_from_slice(b"user\0postgres\0database\0app\0\0");
        let len = start.len() as u32 + 4;
        raw.0.write_all(&len.to_be_bytes()).unwrap();
        raw.0.write_all(&start).unwrap();
        raw.until_ready();
        raw
    }

    /// Sends a message, and waits for no answer.
    pub fn post(&mut self, kind: u8, body: &[u8]) {
        self.0.write_all(&[kind]).unwrap();
        let len = body.len() as u32 + 4;
        self.0.write_all(&len.to_be_bytes()).unwrap();
        self.0.write_all(body).unwrap();
    }

    fn send(&mut self, kind: u8, body: &[u8]) -> Vec<u8> {
        self.post(kind, body);
        self.until_ready()
    }

    /// Parse, Bind and Execute of a statement, without names, and what the client sends right behind.
    fn pipeline(&mut self, sql: &str, behind: &[(u8, &[u8])]) -> Vec<u8> {
        self.post(b'P', &[b"\0", sql.as_bytes(), b"\0\0\0"].concat());
        self.post(b'B', &[0; 8]);
        self.post(b'E', &[0; 5]);
        for (kind, body) in behind {
            self.post(*kind, body);
        }
        self.send(b'S', b"")
    }

    /// Kinds of the messages up to ReadyForQuery.
    fn until_ready(&mut self) -> Vec<u8> {
        let mut kinds = Vec::new();
        loop {
            let mut head = [0; 5];
            self.0.read_exact(&mut head).unwrap();
            let len = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize - 4;
            let mut body = vec![0; len];
            self.0.read_exact(&mut body).unwrap();
            kinds.push(head[0]);
            if head[0] == b'Z' {
                return kinds;
            }
        }
    }

    pub fn query(&mut self, sql: &str) -> Vec<u8> {
        self.send(b'Q', &[sql.as_bytes(), b"\0"].concat())
    }

    /// Calls a function with one argument in text format.
    pub fn call(&mut self, function: u32, argument: &str) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend_from_slice(&function.to_be_bytes());
        body.extend_from_slice(&[0, 1, 0, 0, 0, 1]);
        body.extend_from_slice(&(argument.len() as u32).to_be_bytes());
        body.extend_from_slice(argument.as_bytes());
        body.extend_from_slice(&[0, 0]);
        self.send(b'F', &body)
    }
}

fn with_functions() -> (Cluster, u32, u32) {
    let cluster = Cluster::start();
    cluster
        .psql()
        .run(
            "CREATE TABLE t (x int PRIMARY KEY);
             CREATE FUNCTION put(x int) RETURNS int LANGUAGE plpgsql AS
                 $$ BEGIN INSERT INTO t VALUES (x); RETURN x; END $$;
             CREATE FUNCTION twice(x int) RETURNS int LANGUAGE plpgsql AS
                 $$ BEGIN RETURN put(x) + put(x + 1); END $$",
        )
        .ok();
    let oid = |name: &str| {
        let sql = format!("SELECT '{name}'::regproc::oid");
        cluster.psql().run(&sql).ok().trim().parse().unwrap()
    };
    let (put, twice) = (oid("put"), oid("twice"));
    (cluster, put, twice)
}

const COLUMNS: &str = "class, command, object_name, outcome, sqlstate, depth, substatement_id, \
    transaction_outcome, statement_id - min(statement_id) OVER (), duration IS NULL";

fn in_order(cluster: &Cluster, columns: &str, filter: &str) -> Vec<String> {
    cluster.flush();
    cluster.query(
        "postgres",
        &format!(
            "SELECT {columns} FROM audit.log WHERE application_name = '' AND database_name = 'app' \
             AND class NOT IN ('SESSION', 'AUDIT') AND {filter} ORDER BY statement_id, substatement_id"
        ),
    )
}

fn of_the_client(cluster: &Cluster) -> Vec<String> {
    in_order(cluster, COLUMNS, "true")
}

#[test]
fn a_fast_path_call_is_one_event_and_what_it_runs_is_nested_in_it() {
    let (cluster, put, twice) = with_functions();
    let mut client = Raw::connect(&cluster);
    assert_eq!(client.call(put, "1"), b"VZ");
    assert_eq!(client.call(twice, "2"), b"VZ");
    assert_eq!(client.call(1397, "-5"), b"VZ", "abs, of pg_catalog");
    assert_eq!(
        of_the_client(&cluster),
        [
            "FUNCTION | EXECUTE | public.put(integer) | success | ~ | 0 | 1 | committed | 0 | f",
            "WRITE | INSERT | public.t | success | ~ | 1 | 2 | committed | 0 | f",
            "FUNCTION | EXECUTE | public.twice(integer) | success | ~ | 0 | 1 | committed | 1 | f",
            "FUNCTION | EXECUTE | public.put(integer) | success | ~ | 1 | 2 | committed | 1 | f",
            "FUNCTION | EXECUTE | public.put(integer) | success | ~ | 1 | 3 | committed | 1 | f",
            "WRITE | INSERT | public.t | success | ~ | 1 | 4 | committed | 1 | f",
            "WRITE | INSERT | public.t | success | ~ | 1 | 5 | committed | 1 | f",
            "FUNCTION | EXECUTE | pg_catalog.abs(integer) | success | ~ | 0 | 1 | committed | 2 | f",
        ]
    );
}

#[test]
fn fast_path_calls_in_a_block_share_its_fate() {
    let (cluster, put, _) = with_functions();
    let mut client = Raw::connect(&cluster);
    client.query("BEGIN");
    assert_eq!(client.call(put, "1"), b"VZ");
    assert_eq!(client.call(put, "2"), b"VZ");
    client.query("ROLLBACK");
    client.query("SELECT 1");
    assert_eq!(
        of_the_client(&cluster),
        [
            "MISC | BEGIN | ~ | success | ~ | 0 | 1 | rolled back | 0 | f",
            "FUNCTION | EXECUTE | public.put(integer) | success | ~ | 0 | 1 | rolled back | 1 | t",
            "WRITE | INSERT | public.t | success | ~ | 1 | 2 | rolled back | 1 | f",
            "FUNCTION | EXECUTE | public.put(integer) | success | ~ | 0 | 1 | rolled back | 2 | t",
            "WRITE | INSERT | public.t | success | ~ | 1 | 2 | rolled back | 2 | f",
            "MISC | ROLLBACK | ~ | success | ~ | 0 | 1 | rolled back | 3 | f",
            "READ | SELECT | ~ | success | ~ | 0 | 1 | committed | 4 | f",
        ]
    );
}

#[test]
fn fast_path_calls_that_fail() {
    let (cluster, put, _) = with_functions();
    let mut client = Raw::connect(&cluster);
    assert_eq!(client.call(put, "1"), b"VZ");
    assert_eq!(client.call(put, "1"), b"EZ");
    assert_eq!(
        client.call(put, "one"),
        b"EZ",
        "an argument that can't be read"
    );
    assert_eq!(client.call(4_000_000_000, "1"), b"EZ", "no such function");
    client.query("BEGIN");
    assert_eq!(client.call(put, "1"), b"EZ");
    assert_eq!(client.call(put, "2"), b"EZ", "in a failed transaction");
    client.query("ROLLBACK");
    assert_eq!(
        of_the_client(&cluster),
        [
            "FUNCTION | EXECUTE | public.put(integer) | success | ~ | 0 | 1 | committed | 0 | f",
            "WRITE | INSERT | public.t | success | ~ | 1 | 2 | committed | 0 | f",
            "FUNCTION | EXECUTE | public.put(integer) | failed | 23505 | 0 | 1 | rolled back | 1 | f",
            "WRITE | INSERT | public.t | failed | 23505 | 1 | 2 | rolled back | 1 | f",
            "FUNCTION | EXECUTE | public.put(integer) | failed | 22P02 | 0 | 1 | rolled back | 2 | f",
            "FUNCTION | EXECUTE | ~ | failed | 42883 | 0 | 1 | rolled back | 3 | f",
            "MISC | BEGIN | ~ | success | ~ | 0 | 1 | rolled back | 4 | f",
            "FUNCTION | EXECUTE | public.put(integer) | failed | 23505 | 0 | 1 | rolled back | 5 | f",
            "WRITE | INSERT | public.t | failed | 23505 | 1 | 2 | rolled back | 5 | f",
            "FUNCTION | EXECUTE | ~ | failed | 25P02 | 0 | 1 | rolled back | 6 | f",
            "MISC | ROLLBACK | ~ | success | ~ | 0 | 1 | rolled back | 7 | f",
        ]
    );
}

#[test]
fn messages_without_a_text_that_fail_are_events() {
    let cluster = Cluster::start();
    let mut client = Raw::connect(&cluster);
    // Bind of a statement, Execute of a portal that don't exist; each is followed by Sync.
    for (kind, body) in [
        (b'B', &b"\0nosuch\0\0\0\0\0\0\0"[..]),
        (b'E', &b"nosuch\0\0\0\0\0"[..]),
    ] {
        client.post(kind, body);
        assert_eq!(client.send(b'S', b""), b"EZ");
    }
    assert_eq!(
        in_order(&cluster, "command, outcome, sqlstate, statement", "true"),
        [
            "UNKNOWN | failed | 26000 | ~",
            "UNKNOWN | failed | 34000 | ~",
        ]
    );
}

#[test]
fn a_message_without_a_text_that_fails_behind_a_statement_is_not_that_statements_failure() {
    let (cluster, ..) = with_functions();
    let mut client = Raw::connect(&cluster);
    client.query("ALTER TABLE t ADD UNIQUE (x) DEFERRABLE INITIALLY DEFERRED");
    client.query("ALTER TABLE t DROP CONSTRAINT t_pkey");
    let failing: [(u8, &[u8]); 4] = [
        (b'B', b"\0nosuch\0\0\0\0\0\0\0"),
        (b'E', b"nosuch\0\0\0\0\0"),
        (b'D', b"Pnosuch\0"),
        (b'P', b"\0SELECT '\xff'\0\0\0"),
    ];
    for message in failing {
        let answers = client.pipeline("INSERT INTO t VALUES (1)", &[message]);
        assert_eq!(answers, b"12CEZ");
    }
    // What Sync commits, and fails to, is the statement's own.
    let insert = "INSERT INTO t VALUES (1)";
    assert_eq!(client.pipeline(insert, &[]), b"12CZ");
    assert_eq!(client.pipeline(insert, &[]), b"12CEZ");
    let parsed: (u8, &[u8]) = (b'P', b"\0SELECT 1\0\0\0");
    assert_eq!(client.pipeline(insert, &[parsed]), b"12C1EZ");
    let closed = client.pipeline("SELECT put(1)", &[(b'C', b"P\0")]);
    assert_eq!(closed, b"12DC3EZ");
    let columns = "command, outcome, sqlstate, statement, transaction_outcome";
    let failure = |state| format!("UNKNOWN | failed | {state} | ~ | rolled back");
    let mut expected = Vec::new();
    for state in ["26000", "34000", "34000", "22021"] {
        expected.push(format!("INSERT | success | ~ | {insert} | rolled back"));
        expected.push(failure(state));
    }
    expected.push(format!("INSERT | success | ~ | {insert} | committed"));
    for _ in 0..2 {
        expected.push(format!("INSERT | failed | 23505 | {insert} | rolled back"));
    }
    expected.push("SELECT | failed | 23505 | SELECT put(1) | rolled back".to_owned());
    let events = in_order(&cluster, columns, "depth = 0 AND command <> 'ALTER TABLE'");
    assert_eq!(events, expected);
}

#[test]
fn fast_path_calls_without_track_activities_and_of_a_level() {
    let (cluster, put, _) = with_functions();
    let mut client = Raw::connect(&cluster);
    client.query("SET track_activities = off");
    client.query("SET audit.level = 'write'");
    assert_eq!(client.call(put, "1"), b"VZ");
    client.query("SET audit.level = 'function'");
    assert_eq!(client.call(put, "2"), b"VZ");
    assert_eq!(
        in_order(
            &cluster,
            "command, object_name, depth, substatement_id",
            "command IN ('EXECUTE', 'INSERT')",
        ),
        [
            "INSERT | public.t | 1 | 2",
            "EXECUTE | public.put(integer) | 0 | 1",
        ]
    );
}
