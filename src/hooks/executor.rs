//! The executor's hooks: SELECT, INSERT, UPDATE, DELETE, MERGE, however they are run.
//!
//! Each hook is a plain frame that an ERROR may jump over: no value with a destructor is alive
//! across a call that throws.
//!
//! Between two statements the server's own code drives ours out of the instruction cache: each line of it
//! that a statement touches is a miss. So what is rare, or takes long anyway, is laid out of the way of a
//! top-level statement, by `cold_path()` or in functions of its own, here and in all that this calls.
//!
//! What each statement runs lies together, in a section `audit_hot` of the library (three pages instead of
//! nine), what one runs that is left out in `audit_first`, some twenty lines, and the statics that they look at in
//! `audit_data`, where [`crate::pg::near`] is what each of them needs. (Names that begin with `.text` would do nothing:
//! the linker doesn't keep those together.)

use audit_core::event::Classes;
use core::ffi::c_int;
use core::hint::cold_path;
use pgrx::pg_sys;

use super::engine::{Id, engine, engine_as_it_is, with_as_it_is};
use super::planned::{CLASSES_OF_READ, classes_of_plan, only_reads};
use super::{begin, capture, guard, planned};
use crate::executor_run_fn;
use crate::pg::near::NEAR;
use crate::pg::{asks, compat, guc, raw, session};

mod lone;
mod passing;

use lone::{
    end_lone, finish_lone, run_lone, start_copy, start_lone, start_lone_read, start_repeat,
};
use passing::{pass_without, run_passing, start_passing, start_passing_read};

/// Puts the hooks in front of those that are there.
///
/// # Safety
/// From `_PG_init` only.
pub unsafe fn install() {
    unsafe {
        NEAR.start = pg_sys::ExecutorStart_hook.unwrap_or(NEAR.start);
        NEAR.run = pg_sys::ExecutorRun_hook.unwrap_or(NEAR.run);
        NEAR.finish = pg_sys::ExecutorFinish_hook.unwrap_or(NEAR.finish);
        NEAR.end = pg_sys::ExecutorEnd_hook.unwrap_or(NEAR.end);
        pg_sys::ExecutorStart_hook = Some(start);
        pg_sys::ExecutorRun_hook = Some(run);
        pg_sys::ExecutorFinish_hook = Some(finish);
        pg_sys::ExecutorEnd_hook = Some(end);
    }
}

/// First the two ways of a read that is left out: nested, and a client's own.
#[inline(never)]
#[unsafe(link_section = "audit_first")]
unsafe extern "C-unwind" fn start(query: *mut pg_sys::QueryDesc, eflags: c_int) {
    unsafe {
        let stmt = (*query).plannedstmt;
        if !only_reads(stmt) || !(*stmt).rowMarks.is_null() {
            start_any(query, eflags);
        } else if asks::for_none_of_passing(CLASSES_OF_READ) {
            start_passing_read(query, eflags);
        } else if asks::for_none_of_in_calm(CLASSES_OF_READ) && !engine_as_it_is().lone.is_there() {
            // In calm a query may be lone also where there is no trail.
            if !asks::for_nothing() {
                start_lone_read(query, eflags);
            } else if begin::is_portals((*query).sourceText) {
                engine_as_it_is().statement_id += 1;
                (NEAR.start)(query, eflags);
            } else {
                start_unrecorded(query, eflags);
            }
        } else {
            start_any(query, eflags);
        }
    }
}

#[inline(never)]
#[unsafe(link_section = "audit_hot")]
unsafe fn start_any(query: *mut pg_sys::QueryDesc, eflags: c_int) {
    unsafe {
        let classes = classes_of_plan((*query).plannedstmt);
        let engine = engine_as_it_is();
        // What is left out goes by first, in jumps that need no stack.
        if engine.knows_of_a_query() | !asks::for_none_of(classes) {
            start_one_of_many(query, eflags);
        } else if engine.may_surely_pass() {
            start_passing(query, eflags);
        } else if classes != CLASSES_OF_READ || !engine.idle() {
            start_asked_for(query, eflags);
        } else if asks::for_nothing() {
            start_unrecorded(query, eflags);
        } else if engine.may_be_lone() && capture::on_surely() {
            start_lone(query, eflags);
        } else {
            start_asked_for(query, eflags);
        }
    }
}

/// As [`start_asked_for`]; the commonest have a way of their own.
#[inline(never)]
#[unsafe(link_section = "audit_hot")]
unsafe fn start_one_of_many(query: *mut pg_sys::QueryDesc, eflags: c_int) {
    unsafe {
        let engine = engine_as_it_is();
        if (*(*query).plannedstmt).canSetTag // Not the action of a rule.
            && asks::for_level_only()
            && !engine.knows_of_a_query()
            && engine.idle()
            && engine.may_be_lone()
            && capture::on_surely()
        {
            start_repeat(query, eflags);
        } else {
            start_asked_for(query, eflags);
        }
    }
}

/// Starts a query that is to be recorded, or of which the first look doesn't say. Throws.
#[inline(never)]
#[unsafe(link_section = "audit_session")]
unsafe fn start_asked_for(query: *mut pg_sys::QueryDesc, eflags: c_int) {
    unsafe {
        if engine_as_it_is().knows_of_a_query() {
            engine().forget_unwatched_at(query as usize);
        }
        let stmt = (*query).plannedstmt;
        let classes = classes_of_plan(stmt);
        // What such a query is inside of began while capture was on.
        if engine_as_it_is().may_pass() && is_nested_left_out(classes) {
            start_passing(query, eflags);
        } else if !capture::on() {
            start_next(query, eflags);
        } else if asks::for_nothing() && engine_as_it_is().idle() {
            start_unrecorded(query, eflags);
        } else {
            start_recorded(query, eflags);
        }
    }
}

/// Starts a query that has a frame, or belongs to a statement that has one. Throws.
#[inline(always)]
unsafe fn start_recorded(query: *mut pg_sys::QueryDesc, eflags: c_int) {
    unsafe {
        if capture::helps() && is_copy(query) {
            cold_path();
            return start_copy(query, eflags);
        }
        let marker = 0u8;
        let id = planned::begin(query, eflags, &raw const marker as usize);
        start_next(query, eflags);
        if let Some(id) = id {
            watch(query, id);
            count_rows_of_rule(query);
            with_as_it_is(|engine| {
                engine.pause(id);
                engine.open(id);
            });
        }
    }
}

/// In a parallel worker: whether this is its copy of the query that it helps with (ParallelQueryMain).
unsafe fn is_copy(query: *mut pg_sys::QueryDesc) -> bool {
    let engine = engine_as_it_is();
    let text = unsafe { (*query).sourceText };
    text == unsafe { pg_sys::debug_query_string }
        && !engine.knows_of_a_query()
        && engine.undisturbed()
}

/// Whether nothing is taken down of a nested statement. Never throws.
#[inline]
fn is_nested_left_out(classes: Classes) -> bool {
    asks::for_none_of(classes) || (!begin::possible(1) && !guc::has_role() && !guc::assigned())
}

/// Lets the server start it. Throws.
#[inline(always)]
unsafe fn start_next(query: *mut pg_sys::QueryDesc, eflags: c_int) {
    unsafe {
        guard::check_query(query, eflags);
        (NEAR.start)(query, eflags);
    }
}

/// Starts a statement of which nothing is taken down but its number, if it is the client's. Throws.
#[inline(never)]
#[unsafe(link_section = "audit_hot")]
unsafe fn start_unrecorded(query: *mut pg_sys::QueryDesc, eflags: c_int) {
    unsafe {
        if begin::is_portals((*query).sourceText) || !session::has_client() {
            engine_as_it_is().statement_id += 1;
        }
        start_next(query, eflags);
    }
}

/// The action of a rule doesn't count its rows, as they aren't the client's; its event has them.
/// See [`run_known`], which hides the count from everybody else. Never throws.
unsafe fn count_rows_of_rule(query: *mut pg_sys::QueryDesc) {
    unsafe {
        if writes_for_rule(query) {
            cold_path();
            let state = (*query).planstate.cast::<pg_sys::ModifyTableState>();
            (*state).canSetTag = true;
        }
    }
}

/// Whether a query that has started writes on behalf of a rule. Never throws.
#[inline]
unsafe fn writes_for_rule(query: *mut pg_sys::QueryDesc) -> bool {
    unsafe {
        let state = (*query).planstate;
        !(*(*query).plannedstmt).canSetTag
            && !state.is_null()
            && (*state).type_ == pg_sys::NodeTag::T_ModifyTableState
    }
}

/// Has the engine told when the query's memory goes without ExecutorEnd. Throws (out of memory).
unsafe fn watch(query: *mut pg_sys::QueryDesc, id: Id) {
    #[unsafe(link_section = "audit_session")]
    unsafe extern "C-unwind" fn gone(arg: *mut core::ffi::c_void) {
        let arg = arg as u64;
        with_as_it_is(|engine| engine.query_gone((arg >> 32) as usize, arg as u32));
    }
    unsafe {
        if (*query).estate.is_null() {
            return;
        }
        let context = (*(*query).estate).es_query_cxt;
        let callback = raw::MemoryContextAlloc(context, size_of::<pg_sys::MemoryContextCallback>())
            .cast::<pg_sys::MemoryContextCallback>();
        engine_as_it_is().frame(id).unwatched_in = 0;
        let serial = engine_as_it_is().frame(id).serial;
        (*callback).func = Some(gone);
        (*callback).arg = (((id as u64) << 32) | u64::from(serial)) as *mut core::ffi::c_void;
        raw::MemoryContextRegisterResetCallback(context, callback);
    }
}

executor_run_fn! {
    #[inline(never)]
    #[unsafe(link_section = "audit_first")]
    run, query, proceed => {
        unsafe { proceed!() }
    },
    way_to_run(),
    if asks::passes() => run_passing,
    if engine_as_it_is().lone.is(query as usize) => run_lone
}

/// What runs a query that neither surely passes nor is lone. Never throws.
#[inline(always)]
unsafe fn way_to_run() -> compat::ExecutorRun {
    let engine = engine_as_it_is();
    if engine.lone.is_there() {
        cold_path();
        run_known // Inside of it, or while it is suspended.
    } else if !asks::is_stirred() {
        unsafe { NEAR.run } // No query of ours, so none that this one could be inside of.
    } else {
        run_any
    }
}

executor_run_fn! {
    #[inline(never)]
    #[unsafe(link_section = "audit_hot")]
    run_any, query, proceed => {
        unsafe { proceed!() }
    },
    if engine_as_it_is().has_no_query() && engine_as_it_is().may_surely_pass() {
        run_passing // From now on that is known.
    } else if engine_as_it_is().knows_no_query() {
        NEAR.run // As above.
    } else {
        run_known
    }
}

executor_run_fn! {
    #[inline(never)]
    #[unsafe(link_section = "audit_session")]
    run_known, query, proceed => {
        unsafe {
            // Also of what began before the trail went.
            if !capture::follows() {
                proceed!();
                return;
            }
            let marker = 0u8;
            let address = &raw const marker as usize;
            let id = resume_to(query, address);
            let calls = pass_without(id, address);
            proceed!();
            if let Some(calls) = calls {
                engine_as_it_is().passed(calls);
                return;
            }
            if engine_as_it_is().knows_no_query() {
                return;
            }
            let rows = (*(*query).estate).es_processed as i64;
            if writes_for_rule(query) {
                cold_path();
                // Counted for us alone: see `count_rows_of_rule`.
                compat::forget_rows((*query).estate);
            }
            with_as_it_is(|engine| match id {
                Some(id) => {
                    engine.pause(id);
                    count(&mut engine.frame(id).numbers.rows, rows);
                }
                None => {
                    cold_path();
                    engine.enter(address);
                    if let Some(frame) = engine.innermost() {
                        count(&mut frame.inner_rows, rows);
                    }
                }
            });
        }
    },
    NEAR.run
}

/// Adds rows; -1 stands for none counted yet.
fn count(total: &mut i64, rows: i64) {
    *total = (*total).max(0) + rows;
}

#[inline(never)]
#[unsafe(link_section = "audit_first")]
unsafe extern "C-unwind" fn finish(query: *mut pg_sys::QueryDesc) {
    unsafe {
        // The end of a query that only reads runs nothing: it has no triggers.
        if only_reads((*query).plannedstmt) {
            (NEAR.finish)(query);
        } else if engine_as_it_is().lone.is(query as usize) {
            finish_lone(query);
        } else {
            finish_writing(query);
        }
    }
}

#[inline(never)]
unsafe fn finish_writing(query: *mut pg_sys::QueryDesc) {
    unsafe {
        let marker = 0u8;
        let address = &raw const marker as usize;
        let id = resume_to(query, address);
        let calls = pass_without(id, address);
        (NEAR.finish)(query);
        guard::check_outcome(query);
        if let Some(calls) = calls {
            engine_as_it_is().passed(calls);
        }
        if let Some(id) = id {
            with_as_it_is(|engine| engine.pause(id));
        }
    }
}

#[inline(never)]
#[unsafe(link_section = "audit_first")]
unsafe extern "C-unwind" fn end(query: *mut pg_sys::QueryDesc) {
    unsafe {
        let engine = engine_as_it_is();
        if asks::passes() {
            (NEAR.end)(query);
        } else if engine.lone.is(query as usize) {
            if engine.lone.lasts() || guc::assigned() {
                end_lone(query);
            } else {
                engine.lone.forget();
                (NEAR.end)(query);
            }
        } else if engine.has_no_query() {
            (NEAR.end)(query);
        } else {
            end_known(query);
        }
    }
}

#[inline(never)]
#[unsafe(link_section = "audit_session")]
unsafe fn end_known(query: *mut pg_sys::QueryDesc) {
    unsafe {
        let marker = 0u8;
        let id = resume_known(query, &raw const marker as usize, true);
        (NEAR.end)(query);
        if let Some(id) = id {
            with_as_it_is(|engine| engine.query_ended(id));
        }
    }
}

/// The statement of a query runs on, if it has one of its own. Never throws.
#[inline]
unsafe fn resume_to(query: *mut pg_sys::QueryDesc, address: usize) -> Option<Id> {
    if engine().has_no_query() {
        return None;
    }
    unsafe { resume_known(query, address, false) }
}

/// As [`resume_to`], where there is a query of ours. `end`: to its end. Never throws.
#[inline(never)]
#[unsafe(link_section = "audit_session")]
unsafe fn resume_known(query: *mut pg_sys::QueryDesc, address: usize, end: bool) -> Option<Id> {
    if !capture::follows() {
        return None;
    }
    with_as_it_is(|engine| {
        let mut id = engine.find(query as usize)?;
        if !engine.undisturbed() {
            cold_path();
            engine.enter(address);
            id = engine.find(query as usize)?; // What has died has no query.
        }
        engine.run(id, address).ending |= end;
        Some(id)
    })?
}
