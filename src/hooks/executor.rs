//! The executor's hooks: SELECT, INSERT, UPDATE, DELETE, MERGE, however they are run.
//!
//! Each hook is a plain frame that an ERROR may jump over: no value with a destructor is alive
//! across a call that throws.
//!
//! Between two statements the server's own code drives ours out of the instruction cache: each line of it
//! that a statement touches is a miss. So what is rare, or takes long anyway, is laid out of the way of a
//! top-level statement, by `cold_path()` or in functions of its own, here and in all that this calls.

use audit_core::event::{Class, Classes};
use core::ffi::c_int;
use core::hint::cold_path;
use pgrx::pg_sys;

use super::engine::{Id, engine, with};
use super::frame::Frame;
use super::repeats::{self, Plan, Uses};
use super::used::{Objects, learn_names};
use super::{begin, capture, guard, parameters, room, wrapped};
use crate::executor_run_fn;
use crate::pg::{acl, compat, guc, names, raw, session, unlock};

type Start = unsafe extern "C-unwind" fn(*mut pg_sys::QueryDesc, c_int);
type Stop = unsafe extern "C-unwind" fn(*mut pg_sys::QueryDesc);

// What was there before us, or the server's own.
static mut NEXT_START: Start = raw::standard_ExecutorStart;
static mut NEXT_RUN: compat::ExecutorRun = raw::standard_ExecutorRun;
static mut NEXT_FINISH: Stop = raw::standard_ExecutorFinish;
static mut NEXT_END: Stop = raw::standard_ExecutorEnd;

/// Puts the hooks in front of those that are there.
///
/// # Safety
/// From `_PG_init` only.
pub unsafe fn install() {
    unsafe {
        NEXT_START = pg_sys::ExecutorStart_hook.unwrap_or(NEXT_START);
        NEXT_RUN = pg_sys::ExecutorRun_hook.unwrap_or(NEXT_RUN);
        NEXT_FINISH = pg_sys::ExecutorFinish_hook.unwrap_or(NEXT_FINISH);
        NEXT_END = pg_sys::ExecutorEnd_hook.unwrap_or(NEXT_END);
        pg_sys::ExecutorStart_hook = Some(start);
        pg_sys::ExecutorRun_hook = Some(run);
        pg_sys::ExecutorFinish_hook = Some(finish);
        pg_sys::ExecutorEnd_hook = Some(end);
    }
}

#[inline(never)]
unsafe extern "C-unwind" fn start(query: *mut pg_sys::QueryDesc, eflags: c_int) {
    unsafe {
        // First, as it is the commonest; what such a query is inside of began while capture was on.
        if engine().may_pass() && is_left_out((*query).plannedstmt) {
            start_passing(query, eflags);
        } else if !capture::on() {
            start_next(query, eflags);
        } else if guc::level().is_none()
            && !guc::has_role()
            && !unlock::is_open()
            && engine().idle()
        {
            count_unrecorded(query);
            start_next(query, eflags);
        } else {
            start_recorded(query, eflags);
        }
    }
}

/// Starts a query that has a frame, or belongs to a statement that has one. Throws.
#[inline(never)]
unsafe fn start_recorded(query: *mut pg_sys::QueryDesc, eflags: c_int) {
    unsafe {
        let marker = 0u8;
        let id = begin_query(query, eflags, &raw const marker as usize);
        start_next(query, eflags);
        if let Some(id) = id {
            watch(query, id);
            count_rows_of_rule(query);
            with(|engine| {
                engine.pause(id);
                engine.open(id);
            });
        }
    }
}

/// Whether nothing is taken down of a nested statement. Never throws.
#[inline]
unsafe fn is_left_out(stmt: *const pg_sys::PlannedStmt) -> bool {
    let classes = unsafe { classes_of((*stmt).commandType, (*stmt).hasModifyingCTE) };
    !begin::wanted(1, classes) && !guc::has_role() && !guc::assigned()
}

/// Starts a nested query that has none. Throws.
#[inline(never)]
unsafe fn start_passing(query: *mut pg_sys::QueryDesc, eflags: c_int) {
    unsafe {
        let marker = 0u8;
        engine().number_nested();
        let calls = engine().pass(&raw const marker as usize);
        start_next(query, eflags);
        engine().passed(calls);
    }
}

/// Lets the server start it. Throws.
#[inline(always)]
unsafe fn start_next(query: *mut pg_sys::QueryDesc, eflags: c_int) {
    unsafe {
        guard::check_query(query, eflags);
        NEXT_START(query, eflags);
    }
}

/// Numbers a statement of which nothing else is taken down, if it is the client's. Never throws.
#[inline]
unsafe fn count_unrecorded(query: *mut pg_sys::QueryDesc) {
    unsafe {
        if (*query).sourceText == pg_sys::debug_query_string || !session::has_client() {
            engine().statement_id += 1;
        }
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

/// Takes down what is known before the query runs. `None` if it belongs to a utility statement's
/// own event. Throws.
unsafe fn begin_query(query: *mut pg_sys::QueryDesc, eflags: c_int, address: usize) -> Option<Id> {
    unsafe {
        begin::session();
        if !engine().undisturbed() {
            cold_path();
            with(|engine| engine.enter(address))?;
            if wrapped::is_there(query) {
                wrapped::begin(query, eflags);
                return None;
            }
        }
        let stmt = (*query).plannedstmt;
        let classes = classes_of((*stmt).commandType, (*stmt).hasModifyingCTE);
        let depth = engine().depth();
        let audited = guc::has_role() && is_audited(depth, stmt);
        let wanted = audited || begin::wanted(depth, classes);
        let mut plan = Plan {
            uses: Uses::NONE,
            query_id: (*stmt).queryId as i64,
            audited,
        };
        let mut told = false;
        if wanted {
            room::wait_for(|| room::is_about_audit(stmt));
            parameters::collect((*query).params);
            told = plan.uses.take(stmt);
        }
        let plan = told.then_some(&plan);
        let text = begin::Text {
            source: (*query).sourceText,
            location: (*stmt).stmt_location,
            len: (*stmt).stmt_len,
        };
        let (id, named) = with(|engine| {
            let (id, frame) = begin::query(engine, text, classes, wanted, plan, address);
            frame.query = query as usize;
            frame.audited_object = audited;
            if wanted {
                parameters::hand_over(frame);
            }
            let named = !wanted || frame.same.is_some();
            if !named {
                cold_path();
                let command = command_of((*stmt).commandType);
                frame.command.extend_from_slice(command);
                frame.query_id = (*stmt).queryId as i64;
            } else if wanted {
                frame.protect_same();
            }
            (id, named)
        })?;
        if !named {
            cold_path();
            // The statement has begun: should this fail, its event has no names.
            let version = names::relations_version();
            learn_names(stmt);
            with(|engine| name(engine.frame(id), stmt, plan, version))?;
        }
        Some(id)
    }
}

/// Whether `audit.role` has the statement recorded whatever the level. Throws.
#[cold]
#[inline(never)]
unsafe fn is_audited(depth: u32, stmt: *const pg_sys::PlannedStmt) -> bool {
    unsafe { begin::possible(depth) && acl::statement_is_audited(stmt) }
}

/// Gives a query that has begun the names of its relations, which were looked up after `version` was.
/// Never throws.
unsafe fn name(
    frame: &mut Frame,
    stmt: *const pg_sys::PlannedStmt,
    plan: Option<&Plan>,
    version: u32,
) {
    unsafe {
        let mut objects = Objects::new(frame, compat::target_of_plan(stmt));
        compat::for_each_used_relation(stmt, |relid, privileges| {
            objects.add(relid, privileges);
        });
        let repeatable = objects.are_told_by_uses();
        let only_catalog = objects.finish();
        frame.protect();
        if let Some(plan) = plan.filter(|_| repeatable) {
            repeats::learn(frame, plan.uses, version, only_catalog);
        }
    }
}

/// READ or WRITE: a data-modifying CTE makes a SELECT write.
#[inline]
pub fn classes_of(command: pg_sys::CmdType::Type, modifying_cte: bool) -> Classes {
    match command {
        pg_sys::CmdType::CMD_SELECT if modifying_cte => Classes::of(Class::Read).with(Class::Write),
        pg_sys::CmdType::CMD_SELECT => Classes::of(Class::Read),
        _ => Classes::of(Class::Write),
    }
}

/// The command tag.
pub fn command_of(command: pg_sys::CmdType::Type) -> &'static [u8] {
    match command {
        pg_sys::CmdType::CMD_SELECT => b"SELECT",
        pg_sys::CmdType::CMD_INSERT => b"INSERT",
        pg_sys::CmdType::CMD_UPDATE => b"UPDATE",
        pg_sys::CmdType::CMD_DELETE => b"DELETE",
        #[cfg(not(feature = "pg14"))]
        pg_sys::CmdType::CMD_MERGE => b"MERGE",
        _ => b"UNKNOWN",
    }
}

/// Has the engine told when the query's memory goes without ExecutorEnd. Throws (out of memory).
unsafe fn watch(query: *mut pg_sys::QueryDesc, id: Id) {
    unsafe extern "C-unwind" fn gone(arg: *mut core::ffi::c_void) {
        let arg = arg as u64;
        with(|engine| engine.query_gone((arg >> 32) as usize, arg as u32));
    }
    unsafe {
        if (*query).estate.is_null() {
            return;
        }
        let context = (*(*query).estate).es_query_cxt;
        let callback = raw::MemoryContextAlloc(context, size_of::<pg_sys::MemoryContextCallback>())
            .cast::<pg_sys::MemoryContextCallback>();
        let serial = engine().frame(id).serial;
        (*callback).func = Some(gone);
        (*callback).arg = (((id as u64) << 32) | u64::from(serial)) as *mut core::ffi::c_void;
        raw::MemoryContextRegisterResetCallback(context, callback);
    }
}

executor_run_fn! {
    #[inline(never)]
    run, query, proceed => {
        unsafe { proceed!() }
    },
    way_to_run()
}

/// What runs a query. Never throws.
#[inline(always)]
unsafe fn way_to_run() -> compat::ExecutorRun {
    let engine = engine();
    if engine.knows_no_query() {
        // No query of ours, so none that this one could be inside of.
        unsafe { NEXT_RUN }
    } else if engine.has_no_query() && engine.may_pass() {
        run_passing
    } else {
        run_known
    }
}

executor_run_fn! {
    #[inline(never)]
    run_passing, query, proceed => {
        unsafe {
            let marker = 0u8;
            let calls = engine().pass(&raw const marker as usize);
            proceed!();
            engine().passed(calls);
        }
    },
    NEXT_RUN
}

executor_run_fn! {
    #[inline(never)]
    run_known, query, proceed => {
        unsafe {
            if !capture::on() {
                proceed!();
                return;
            }
            let marker = 0u8;
            let address = &raw const marker as usize;
            let id = resume_to(query, address);
            let calls = pass_without(id, address);
            proceed!();
            if let Some(calls) = calls {
                engine().passed(calls);
                return;
            }
            if engine().knows_no_query() {
                return;
            }
            let rows = (*(*query).estate).es_processed as i64;
            if writes_for_rule(query) {
                cold_path();
                // Counted for us alone: see `count_rows_of_rule`.
                compat::forget_rows((*query).estate);
            }
            with(|engine| match id {
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
    NEXT_RUN
}

/// Adds rows; -1 stands for none counted yet.
fn count(total: &mut i64, rows: i64) {
    *total = (*total).max(0) + rows;
}

#[inline(never)]
unsafe extern "C-unwind" fn finish(query: *mut pg_sys::QueryDesc) {
    unsafe {
        // The end of a query that only reads runs nothing: it has no triggers.
        let stmt = (*query).plannedstmt;
        if (*stmt).commandType == pg_sys::CmdType::CMD_SELECT && !(*stmt).hasModifyingCTE {
            NEXT_FINISH(query);
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
        NEXT_FINISH(query);
        guard::check_database(query);
        if let Some(calls) = calls {
            engine().passed(calls);
        }
        if let Some(id) = id {
            with(|engine| engine.pause(id));
        }
    }
}

#[inline(never)]
unsafe extern "C-unwind" fn end(query: *mut pg_sys::QueryDesc) {
    unsafe {
        if engine().has_no_query() {
            NEXT_END(query);
        } else {
            end_known(query);
        }
    }
}

#[inline(never)]
unsafe fn end_known(query: *mut pg_sys::QueryDesc) {
    unsafe {
        let marker = 0u8;
        let id = resume_known(query, &raw const marker as usize, true);
        NEXT_END(query);
        if let Some(id) = id {
            with(|engine| {
                engine.pause(id);
                // It may be held for longer: for ever where nobody hears how its transaction ends.
                engine.close(id);
                engine.succeed(id);
            });
        }
    }
}

/// A query of which no statement is known runs on: one that passes. Never throws.
#[inline]
fn pass_without(id: Option<Id>, address: usize) -> Option<usize> {
    if id.is_some() || !engine().may_pass() {
        return None;
    }
    cold_path();
    Some(engine().pass(address))
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
unsafe fn resume_known(query: *mut pg_sys::QueryDesc, address: usize, end: bool) -> Option<Id> {
    if !capture::on() {
        return None;
    }
    with(|engine| {
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
