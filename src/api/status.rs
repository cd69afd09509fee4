//! State of ring and worker, for the view audit.status.

use crate::pg::shared::{HOME_NONE, HOME_UNKNOWN, Shared, shared};
use crate::pg::{durability, ring_file};
use core::sync::atomic::Ordering::Relaxed;
use pgrx::prelude::*;

/// Whether the server loaded the library at start.
#[pg_extern(sql = false)]
fn is_preloaded() -> bool {
    shared().is_some()
}

/// One row, whatever is missing; the columns are described where the view is.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the macro wants the columns spelled out
fn worker_status() -> TableIterator<
    'static,
    (
        name!(home, Option<pg_sys::Oid>),
        name!(worker_pid, Option<i32>),
        name!(ring_size, Option<i64>),
        name!(ring_fill, Option<i64>),
        name!(leftover_rings, Option<i32>),
        name!(last_seq, Option<i64>),
        name!(last_batch_at, Option<TimestampWithTimeZone>),
        name!(recorded, Option<i64>),
        name!(dropped, Option<i64>),
        name!(gaps, Option<i64>),
        name!(panics, Option<i64>),
        name!(last_error, Option<String>),
        name!(worker_ns, Option<i64>),
        name!(unprotected, Option<i64>),
    ),
> {
    let (shared, ring) = (shared(), ring_file::ring());
    let number = |of: fn(&Shared) -> u64| shared.map(|s| of(s) as i64);
    let home = shared.map(Shared::home);
    let last_batch_at = shared
        .map(|s| s.last_batch_at.load(Relaxed))
        .filter(|at| *at != 0);
    TableIterator::once((
        home.filter(|home| !matches!(*home, HOME_NONE | HOME_UNKNOWN))
            .map(pg_sys::Oid::from),
        shared
            .map(|s| s.worker_pid.load(Relaxed))
            .filter(|pid| *pid != 0),
        ring.map(|ring| ring.capacity() as i64),
        ring.map(|ring| ring.waiting() as i64),
        shared.map(|s| s.leftover_rings.load(Relaxed) as i32),
        number(|s| s.last_seq.load(Relaxed)),
        last_batch_at.and_then(|at| TimestampWithTimeZone::try_from(at).ok()),
        number(|s| s.recorded.load(Relaxed)),
        ring.map(|ring| ring.dropped_total() as i64),
        number(|s| s.gaps.load(Relaxed)),
        number(|s| s.panics.load(Relaxed)),
        last_error(shared),
        number(|s| s.worker_ns.load(Relaxed)),
        number(|s| s.unprotected.load(Relaxed)),
    ))
}

/// What keeps events from being recorded, stored, or made durable.
fn last_error(shared: Option<&Shared>) -> Option<String> {
    let Some(shared) = shared else {
        return Some("nothing is recorded: audit_ext is not in shared_preload_libraries".into());
    };
    let error = shared.last_error();
    if !error.is_empty() {
        return Some(error);
    }
    durability::failure(shared)
        .map(|why| format!("transactions that write are refused with audit.durability = commit: the ring's file could not be synced: {why}"))
}
