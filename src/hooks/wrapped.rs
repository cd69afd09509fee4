//! The query of a utility statement (EXPLAIN, CREATE TABLE AS, EXECUTE ...) belongs to the event of that
//! statement: it adds its relations, its classes and its parameters.

use audit_core::event::{Class, Classes};
use core::ffi::{c_char, c_int};
use pgrx::pg_sys;
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use super::engine::{Engine, engine, with};
use super::frame::{Frame, Wraps};
use super::parameters;
use super::planned::classes_of_plan;
use super::used::learn_names;
use crate::pg::{acl, compat, guc, names, near, raw};

/// Whether the innermost statement is a utility statement that runs just this query. Never throws.
///
/// # Safety
/// `query` is about to start.
pub unsafe fn is_there(query: *mut pg_sys::QueryDesc) -> bool {
    let source = unsafe { (*query).sourceText } as usize;
    let Some(frame) = engine().innermost() else {
        return false;
    };
    match frame.wraps {
        Wraps::Nothing => false,
        Wraps::SameText => frame.source == source,
        Wraps::OwnPortal => unsafe { is_own_portal(frame, source) },
    }
}

/// Whether the active portal is the wrapper's own: the first that runs its text. (Cursors of functions that
/// the query calls, or that make its parameters, have portals, too.)
unsafe fn is_own_portal(frame: &mut Frame, source: usize) -> bool {
    let portal = near::ActivePortal();
    if portal.is_null() || portal as usize == frame.portal {
        return false;
    }
    let text = unsafe { (*portal).sourceText };
    if frame.wrapped_in == 0 && unsafe { hash_of(text) } == frame.wrapped_text {
        frame.wrapped_in = portal as usize;
    }
    frame.wrapped_in == portal as usize && text as usize == source
}

/// What a text is known by, which may be gone when it is asked for; nobody can make another with the same.
///
/// # Safety
/// It is NULL or a string.
pub unsafe fn hash_of(text: *const c_char) -> u64 {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    KEY.hash_one(unsafe { raw::bytes(text) })
}

/// Takes down what a query adds to the event of the utility statement that runs it. Throws.
///
/// # Safety
/// As for [`is_there`], which is true.
#[cold]
#[inline(never)]
pub unsafe fn begin(query: *mut pg_sys::QueryDesc, eflags: c_int) {
    unsafe {
        let stmt = (*query).plannedstmt;
        learn_names(stmt);
        parameters::collect((*query).params);
        let explain_only = eflags & pg_sys::EXEC_FLAG_EXPLAIN_ONLY as c_int != 0;
        let classes = if explain_only {
            Classes::NONE
        } else {
            classes_of_plan(stmt)
        };
        with(|engine| {
            if let Some(frame) = engine.innermost() {
                frame.explains_only = explain_only;
            }
        });
        let audited = !explain_only && guc::has_role() && acl::statement_is_audited(stmt);
        with(|engine| join(engine, stmt, classes, audited));
    }
}

/// Adds a query's relations and classes to the utility statement that runs it. Never throws.
unsafe fn join(
    engine: &mut Engine,
    stmt: *const pg_sys::PlannedStmt,
    classes: Classes,
    audited: bool,
) {
    let Some(frame) = engine.innermost() else {
        return;
    };
    frame.classes.0 |= classes.0;
    frame.audited_object |= audited;
    if frame.captured {
        unsafe {
            if frame.query_id == 0 {
                frame.query_id = (*stmt).queryId as i64;
            }
            parameters::hand_over(frame);
            let first = !std::mem::replace(&mut frame.runs_query, true);
            let (mut any, mut only_catalog) = (false, true);
            compat::for_each_used_relation(stmt, |relid, _| {
                if let Some(relation) = names::relation(relid) {
                    any = true;
                    only_catalog &= relation.catalog;
                    frame.add_relation(&relation.name);
                }
            });
            // As `Objects::finish` does it; a wrapper that makes something is no mere read.
            let reads = Classes::of(Class::Read).with(Class::Misc);
            frame.left_out = (first || frame.left_out)
                && (any && only_catalog && !guc::catalog())
                && classes.has(Class::Read)
                && !frame.audited_object
                && frame.classes.0 & !reads.0 == 0;
        }
    }
}
