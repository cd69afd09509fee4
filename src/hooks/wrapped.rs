//! The query of a utility statement (EXPLAIN, CREATE TABLE AS, EXECUTE ...) belongs to the event of that
//! statement: it adds its relations, its classes and its parameters.

use audit_core::event::{Class, Classes};
use core::ffi::c_int;
use pgrx::pg_sys;

use super::engine::{Engine, engine, with};
use super::frame::Wraps;
use super::parameters;
use super::planned::classes_of_plan;
use super::used::learn_names;
use crate::pg::{acl, compat, guc, names};

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
        Wraps::OwnPortal => unsafe {
            let portal = pg_sys::ActivePortal;
            !portal.is_null()
                && portal as usize != frame.portal
                && (*portal).sourceText as usize == source
        },
    }
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
