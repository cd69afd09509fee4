//! audit_ext on real servers, from the outside: psql and a client library, files and signals.
//!
//! One module per theme. The first, `errors`, guards what everything else rests on: a server with
//! the extension behaves like one without it.

mod attacks;
mod capture;
mod circumstances;
mod commits;
mod compose;
mod contrib;
mod copies;
mod crash;
mod cut;
mod delivery;
mod durability;
mod ends;
mod errors;
mod fast_path;
mod fate;
mod full;
mod guard;
mod guard_attempts;
mod home;
mod inflight;
mod install;
mod integrity;
mod large;
mod level;
mod load;
mod lone;
mod main_job;
mod memory;
mod object;
mod on_disk;
mod one_directory;
mod operations;
mod passing;
mod prepared;
mod repeats;
mod replay;
mod replication;
mod retention;
mod ring_files;
mod scenarios;
mod shim;
mod soak;
mod stopped;
mod storage;
mod text;
mod told_once;
mod under_way;
mod unframed;
mod upkeep;
mod views;

/// Passes where each string stands in `text`; names the one that doesn't.
#[track_caller]
fn assert_mentions(text: &str, expected: &[&str]) {
    for part in expected {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

/// Runs a query that is meant to fail, and waits until the server is ready again: the error is
/// sent before the transaction's abort, and only then the record has left the backend.
#[track_caller]
fn fails(client: &mut postgres::Client, sql: &str) -> postgres::error::DbError {
    let error = client.simple_query(sql).expect_err(sql);
    let error = error
        .as_db_error()
        .unwrap_or_else(|| panic!("{sql}: {error:?}"))
        .clone();
    let _ = client.simple_query("");
    error
}
