//! Real clusters for tests.
//!
//! ```no_run
//! use audit_cluster_tests::Cluster;
//! let cluster = Cluster::start(); // preloaded, CREATE EXTENSION in `postgres`, a database `app`
//! cluster.psql().run("SELECT 1/0");
//! assert_eq!(
//!     cluster.trail("command, outcome, sqlstate", "true"),
//!     ["SELECT | failed | 22012"]
//! );
//! ```
//!
//! Each test has a cluster of its own: a copy of one initdb, with its own port, socket and log, run
//! as user postgres where the test runs as root. It is stopped and removed when dropped; where the
//! test fails its folder stays until the next run, and its path is printed.
//!
//! The server under test is that of `AUDIT_TEST_PG_CONFIG` (default: Debian's PostgreSQL 15), with
//! audit_ext installed into it (`make install`).

mod cluster;
mod process;
mod psql;
mod server;
mod trail;

pub use cluster::{Builder, Cluster, Shutdown};
pub use process::{children, kill, process_exists, voluntary_switches};
pub use psql::{Output, Psql};
pub use server::{Server, server};

use std::time::{Duration, Instant};

/// Calls `condition` until it is true; panics with `what` after `timeout`.
#[track_caller]
pub fn wait_until(what: &str, timeout: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + timeout;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {timeout:?}");
        std::thread::sleep(Duration::from_millis(25));
    }
}

/// [`wait_until`] with the time that fits nearly everything on a busy machine.
#[track_caller]
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    wait_until(what, Duration::from_secs(30), condition);
}
