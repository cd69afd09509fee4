//! The hook of parse analysis: what the query inside PREPARE and CREATE VIEW (also of CREATE SCHEMA)
//! names, with the server's own reading of it. PREPARE is READ or WRITE as its query is. What rules turn
//! into nothing is seen here alone: `hooks::rules`.

use pgrx::pg_sys;

use super::engine::{engine, with};
use super::{begin, capture, planned, rules};
use crate::pg::{compat, guc, names};
use audit_core::event::{Class, Classes};

static mut NEXT: pg_sys::post_parse_analyze_hook_type = None;

/// Relations of the query being looked at.
static mut RELATIONS: Vec<pg_sys::Oid> = Vec::new();

fn relations() -> &'static mut Vec<pg_sys::Oid> {
    // SAFETY: one thread; no reference outlives a function of this file.
    unsafe { &mut *(&raw mut RELATIONS) }
}

/// # Safety
/// From `_PG_init` only.
pub unsafe fn install() {
    unsafe {
        NEXT = pg_sys::post_parse_analyze_hook;
        pg_sys::post_parse_analyze_hook = Some(analyzed);
    }
}

/// A plain frame.
#[unsafe(link_section = "audit_session")]
unsafe extern "C-unwind" fn analyzed(
    state: *mut pg_sys::ParseState,
    query: *mut pg_sys::Query,
    jumble: *mut pg_sys::JumbleState,
) {
    unsafe {
        if let Some(next) = NEXT {
            next(state, query, jumble);
        }
        if rules::are_applied(state) {
            begin::note_ruled(rules::text_of(state, query));
            if rules::leave_nothing(state, query) {
                rules::nothing(state, query);
                return;
            }
        }
        let source = (*state).p_sourcetext as usize;
        let wanted = capture::on_quietly()
            && engine()
                .innermost()
                .is_some_and(|frame| frame.analyzes && frame.source == source);
        if wanted {
            look_up(query);
        }
    }
}

/// Looks names up and collects [`RELATIONS`]. Throws.
struct Collector;

impl compat::Told for Collector {
    fn relation(&mut self, relid: pg_sys::Oid, _privileges: u64) {
        // SAFETY: parse analysis runs in a transaction that is not aborted.
        unsafe { names::learn_relation(relid) };
        relations().push(relid);
    }
}

/// Throws (catalog look-ups).
unsafe fn look_up(query: *mut pg_sys::Query) {
    unsafe {
        relations().clear();
        compat::for_each_named_relation(query, &mut Collector);
        let classes = planned::classes_of((*query).commandType, (*query).hasModifyingCTE);
        with(|engine| {
            let Some(frame) = engine.innermost() else {
                return;
            };
            let known = || {
                relations()
                    .iter()
                    .filter_map(|relid| names::relation(*relid))
            };
            let prepares = frame.command == b"PREPARE";
            let reads = classes.0 == Classes::of(Class::Read).0;
            let only_catalog = !relations().is_empty() && known().all(|r| r.catalog);
            if prepares && reads && only_catalog && !guc::catalog() {
                return;
            }
            for relation in known() {
                frame.add_relation(&relation.name);
            }
            let temporary = known().any(|relation| relation.name.starts_with(b"pg_temp."));
            if frame.command == b"CREATE VIEW" && temporary {
                frame.is_temporary_view();
            }
            if prepares {
                frame.classes.0 |= classes.0;
            }
        });
    }
}
