//! Nested queries that the level leaves out, without a frame (`engine::passing`), from the hooks of the executor.

use super::super::engine::Mark;
use super::*;

/// Starts a nested query that has no frame, and writes and locks nothing, so that the guard has no look at it. Throws.
#[inline(never)]
#[unsafe(link_section = "audit_first")]
pub(super) unsafe fn start_passing_read(query: *mut pg_sys::QueryDesc, eflags: c_int) {
    unsafe { pass_to(query, eflags, |query, eflags| (NEAR.start)(query, eflags)) };
}

/// Starts a nested query that has none. Throws.
#[inline(never)]
#[unsafe(link_section = "audit_hot")]
pub(super) unsafe fn start_passing(query: *mut pg_sys::QueryDesc, eflags: c_int) {
    unsafe { pass_to(query, eflags, |query, eflags| start_next(query, eflags)) };
}

/// Throws what `next` throws, which has nothing to drop.
#[inline(always)]
unsafe fn pass_to(
    query: *mut pg_sys::QueryDesc,
    eflags: c_int,
    next: impl Fn(*mut pg_sys::QueryDesc, c_int) + Copy,
) {
    unsafe {
        let marker = 0u8;
        if !can_pass() {
            return start_passing_anew(query, eflags);
        }
        engine_as_it_is().count_passing();
        let calls = engine_as_it_is().pass(&raw const marker as usize);
        next(query, eflags);
        engine_as_it_is().passed(calls);
    }
}

#[cold]
#[inline(never)]
unsafe fn start_passing_anew(query: *mut pg_sys::QueryDesc, eflags: c_int) {
    unsafe {
        let marker = 0u8;
        engine_as_it_is().count_passing();
        let calls = engine_as_it_is().pass_anew(&raw const marker as usize);
        start_next(query, eflags);
        engine_as_it_is().passed(calls);
    }
}

executor_run_fn! {
    #[inline(never)]
    #[unsafe(link_section = "audit_first")]
    pub(super) run_passing, query, proceed => {
        unsafe {
            let marker = 0u8;
            let calls = engine_as_it_is().pass(&raw const marker as usize);
            proceed!();
            engine_as_it_is().passed(calls);
        }
    },
    NEAR.run,
    if !can_pass() => run_passing_anew
}

/// Whether the hook that this is a part of can pass: see `Engine::can_pass`. (Its own locals lie within some
/// bytes of this one, and none that called it does.)
#[inline(always)]
fn can_pass() -> bool {
    const LOCALS: usize = 32;
    let marker = 0u8;
    engine_as_it_is().can_pass(&raw const marker as usize + LOCALS)
}

executor_run_fn! {
    #[cold]
    #[inline(never)]
    run_passing_anew, query, proceed => {
        unsafe {
            let marker = 0u8;
            let calls = engine_as_it_is().pass_anew(&raw const marker as usize);
            proceed!();
            engine_as_it_is().passed(calls);
        }
    },
    NEAR.run
}

/// A query of which no statement is known runs on: one that passes. Never throws.
#[inline]
pub(super) fn pass_without(id: Option<Id>, address: usize) -> Option<Mark> {
    if id.is_some() || !engine_as_it_is().may_pass() {
        return None;
    }
    cold_path();
    Some(engine_as_it_is().pass_anew(address))
}
