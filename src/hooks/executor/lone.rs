//! A client's query without a frame (`engine::lone`), from the hooks of the executor: one that is left out,
//! or that repeats a record. Where something has asked for a frame meanwhile, what is left goes to that.

use super::super::engine::{Lone, with};
use super::super::{functions, settings};
use super::*;

/// Starts a client's query that may repeat a record. Throws.
#[inline(never)]
#[unsafe(link_section = "audit_hot")]
pub(super) unsafe fn start_repeat(query: *mut pg_sys::QueryDesc, eflags: c_int) {
    unsafe {
        let marker = 0u8;
        if planned::begin_repeat(query, &raw const marker as usize) {
            start_next(query, eflags);
            pause_lone(query);
        } else {
            start_asked_for(query, eflags);
        }
    }
}

/// Starts a top-level query that has no frame unless something asks for one. Throws.
#[inline(never)]
#[unsafe(link_section = "audit_hot")]
pub(super) unsafe fn start_lone(query: *mut pg_sys::QueryDesc, eflags: c_int) {
    unsafe {
        let marker = 0u8;
        begin::session_of_query();
        let text = planned::text_of(query);
        begin::lone(
            engine_as_it_is(),
            text,
            query as usize,
            &raw const marker as usize,
        );
        start_next(query, eflags);
        pause_lone(query);
    }
}

/// Starts a parallel worker's copy of a query, of which nothing is recorded but what runs inside. Throws.
#[inline(never)]
pub(super) unsafe fn start_copy(query: *mut pg_sys::QueryDesc, eflags: c_int) {
    unsafe {
        let marker = 0u8;
        engine_as_it_is().begin_copy(query as usize, &raw const marker as usize);
        functions::copy_starts(true);
        start_next(query, eflags);
        functions::copy_starts(false);
        pause_lone(query);
    }
}

executor_run_fn! {
    #[inline(never)]
    #[unsafe(link_section = "audit_hot")]
    pub(super) run_lone, query, proceed => {
        unsafe {
            let marker = 0u8;
            engine_as_it_is().resume_lone(&raw const marker as usize);
            proceed!();
            let rows = (*(*query).estate).es_processed as i64;
            if !engine_as_it_is().lone.pause(query as usize) {
                pause_framed(query, Some(rows));
            } else if engine_as_it_is().lone.is_recorded() {
                count(&mut engine_as_it_is().repeat().rows, rows);
            }
        }
    },
    NEXT_RUN
}

#[inline(never)]
pub(super) unsafe fn finish_lone(query: *mut pg_sys::QueryDesc) {
    unsafe {
        let marker = 0u8;
        engine_as_it_is().resume_lone(&raw const marker as usize);
        NEXT_FINISH(query);
        guard::check_outcome(query);
        pause_lone(query);
    }
}

#[inline(never)]
#[unsafe(link_section = "audit_hot")]
pub(super) unsafe fn end_lone(query: *mut pg_sys::QueryDesc) {
    unsafe {
        if end_next(query) {
            engine_as_it_is().lone = Lone::NONE;
            if guc::assigned() && capture::on_quietly() {
                cold_path();
                with(settings::check);
            }
        }
    }
}

#[inline(never)]
#[unsafe(link_section = "audit_hot")]
pub(super) unsafe fn end_repeat(query: *mut pg_sys::QueryDesc) {
    unsafe {
        if end_next(query) {
            with_as_it_is(|engine| engine.repeat_ended());
        }
    }
}

/// Lets the server end it; `false`: it was given a frame meanwhile, and that has ended. Throws.
#[inline(always)]
unsafe fn end_next(query: *mut pg_sys::QueryDesc) -> bool {
    unsafe {
        let marker = 0u8;
        engine_as_it_is().resume_lone(&raw const marker as usize);
        NEXT_END(query);
    }
    let alone = engine_as_it_is().lone.pause(query as usize);
    if !alone {
        end_framed(query);
    }
    alone
}

/// The server has come back from a lone query, which has no rows to tell of. Throws.
#[inline(always)]
unsafe fn pause_lone(query: *mut pg_sys::QueryDesc) {
    unsafe {
        if !engine_as_it_is().lone.pause(query as usize) {
            pause_framed(query, None);
        }
    }
}

/// The server has come back from a lone query that was given a frame meanwhile, with these rows. Throws.
#[cold]
#[inline(never)]
unsafe fn pause_framed(query: *mut pg_sys::QueryDesc, rows: Option<i64>) {
    unsafe {
        if let Some(id) = engine_as_it_is().find(query as usize) {
            with_as_it_is(|engine| {
                engine.pause(id);
                if let Some(rows) = rows {
                    count(&mut engine.frame(id).numbers.rows, rows);
                }
            });
            if engine_as_it_is().frame(id).unwatched_in != 0 {
                watch(query, id);
            }
        }
    }
}

/// As [`pause_framed`], from its end. Never throws.
#[cold]
#[inline(never)]
fn end_framed(query: *mut pg_sys::QueryDesc) {
    with(|engine| {
        if let Some(id) = engine.find(query as usize) {
            engine.query_ended(id);
        }
    });
}
