//! The planner's hook: a statement that fails while it is planned (a constant that divides by zero,
//! a cancel) never reaches the executor. While the planner runs the statement has a frame, which
//! becomes its event only if it dies there.

use audit_core::event::Classes;
use core::ffi::{c_char, c_int};
use pgrx::pg_sys;

use super::engine::{Engine, Id, engine, with};
use super::frame::Wraps;
use super::used::Objects;
use super::{begin, capture, functions, guard, planned};
use crate::pg::{compat, guc, names, raw, unlock};

static mut NEXT: pg_sys::planner_hook_type = None;

/// # Safety
/// From `_PG_init` only.
pub unsafe fn install() {
    unsafe {
        NEXT = pg_sys::planner_hook;
        pg_sys::planner_hook = Some(plan);
    }
}

#[inline(never)]
#[unsafe(link_section = "audit_session")]
unsafe extern "C-unwind" fn plan(
    query: *mut pg_sys::Query,
    source: *const c_char,
    cursor_options: c_int,
    params: pg_sys::ParamListInfo,
) -> *mut pg_sys::PlannedStmt {
    unsafe {
        let marker = 0u8;
        let id = if capture::on() {
            begin_plan(query, source, &raw const marker as usize)
        } else {
            None
        };
        let mut options = cursor_options;
        if unlock::is_open() {
            // What functions run is recorded whatever the level, which a parallel worker does not know.
            options &= !(pg_sys::CURSOR_OPT_PARALLEL_OK as c_int);
        }
        let planned = match NEXT {
            Some(next) => next(query, source, options, params),
            None => raw::standard_planner(query, source, options, params),
        };
        guard::spare_compilation(planned);
        if let Some(id) = id {
            with(|engine| {
                engine.pause(id);
                engine.planned(id);
            });
        }
        planned
    }
}

/// Looks names up. Throws.
struct Learner;

impl compat::Told for Learner {
    #[unsafe(link_section = "audit_session")]
    fn relation(&mut self, relid: pg_sys::Oid, _privileges: u64) {
        // SAFETY: the planner's hook runs in a transaction that is not aborted.
        unsafe { names::learn_relation(relid) };
    }
}

/// A frame for the statement being planned; `None` where it is the query of a utility statement, whose
/// own failure it would be, or not wanted. Throws.
#[unsafe(link_section = "audit_session")]
unsafe fn begin_plan(
    query: *mut pg_sys::Query,
    source: *const c_char,
    address: usize,
) -> Option<Id> {
    unsafe {
        begin::session();
        with(|engine| engine.enter(address))?;
        let wrapped = engine()
            .innermost()
            .is_some_and(|frame| frame.wraps != Wraps::Nothing && frame.source == source as usize);
        let classes = planned::classes_of((*query).commandType, (*query).hasModifyingCTE);
        let wanted = begin::wanted(begin::depth(engine(), source), classes);
        // What the planner evaluates calls functions, which are then nested in the statement.
        let functions = guc::level().records(functions::CLASSES, false);
        if source.is_null() || !(wanted || functions) {
            return None;
        }
        compat::for_each_query_relation(query, &mut Learner);
        if wrapped {
            with(|engine| join_wrapper(engine, query, classes));
            return None;
        }
        let text = begin::Text {
            source,
            location: (*query).stmt_location,
            len: (*query).stmt_len,
        };
        with(|engine| {
            let id = begin::statement(engine, text, classes, wanted, address);
            let frame = engine.frame(id);
            if !wanted {
                return id;
            }
            let command = planned::command_of((*query).commandType);
            frame.command.extend_from_slice(command);
            frame.query_id = (*query).queryId as i64;
            let mut objects = Objects::new(frame, compat::target_of_query(query));
            compat::for_each_query_relation(query, &mut objects);
            objects.finish();
            id
        })
    }
}

/// Adds a query's relations and classes to the utility statement that has it planned: it may fail
/// there. EXPLAIN has its classes only from what it runs.
unsafe fn join_wrapper(engine: &mut Engine, query: *const pg_sys::Query, classes: Classes) {
    let Some(frame) = engine.innermost() else {
        return;
    };
    if !frame.captured || frame.left_out {
        return;
    }
    if frame.command != b"EXPLAIN" {
        frame.classes.0 |= classes.0;
    }
    unsafe { compat::for_each_query_relation(query, frame) };
}
