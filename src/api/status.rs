//! State of ring and worker, for the view audit.status.

use crate::pg::ring_file;
use crate::pg::shared::{HOME_NONE, HOME_UNKNOWN, shared};
use core::sync::atomic::Ordering::Relaxed;
use pgrx::prelude::*;

/// Whether the server loaded the library at start.
#[pg_extern(sql = false)]
fn is_preloaded() -> bool {
    shared().is_some()
}

/// One row; the columns are described where the view is.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)] // the macro wants the columns spelled out
fn worker_status() -> TableIterator<
    'static,
    (
        name!(home, Option<pg_sys::Oid>),
        name!(worker_pid, Option<i32>),
        name!(ring_size, i64),
        name!(ring_fill, i64),
        name!(leftover_rings, i32),
        name!(last_seq, i64),
        name!(last_batch_at, Option<TimestampWithTimeZone>),
        name!(recorded, i64),
        name!(dropped, i64),
        name!(gaps, i64),
        name!(panics, i64),
        name!(last_error, Option<String>),
        name!(worker_ns, i64),
    ),
> {
    let row = shared().zip(ring_file::ring()).map(|(s, ring)| {
        let home = s.home();
        let last_batch_at = s.last_batch_at.load(Relaxed);
        (
            (!matches!(home, HOME_NONE | HOME_UNKNOWN)).then(|| pg_sys::Oid::from(home)),
            Some(s.worker_pid.load(Relaxed)).filter(|pid| *pid != 0),
            ring.capacity() as i64,
            ring.fill() as i64,
            s.leftover_rings.load(Relaxed) as i32,
            s.last_seq.load(Relaxed) as i64,
            (last_batch_at != 0)
                .then(|| TimestampWithTimeZone::try_from(last_batch_at).ok())
                .flatten(),
            s.recorded.load(Relaxed) as i64,
            ring.dropped_total() as i64,
            s.gaps.load(Relaxed) as i64,
            s.panics.load(Relaxed) as i64,
            Some(s.last_error()).filter(|e| !e.is_empty()),
            s.worker_ns.load(Relaxed) as i64,
        )
    });
    TableIterator::new(row)
}
