//! A client's query without a frame (`engine::lone`), from the hooks of the executor: one that is left out,
//! or that repeats a record. Where something has asked for a frame meanwhile, what is left goes to that.

use super::super::engine::with;
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

/// As [`start_lone`], in calm, of a query that writes and locks nothing. Throws.
#[inline(always)]
pub(super) unsafe fn start_lone_read(query: *mut pg_sys::QueryDesc, eflags: c_int) {
    unsafe {
        let marker = 0u8;
        let text = planned::text_of(query);
        // One of several in its string has to be told from the others.
        if !text.is_all() || !asks::user_is_known() {
            return start_lone(query, eflags);
        }
        let engine = engine_as_it_is();
        engine.statement_id += 1;
        engine.begin_lone(query as usize, &raw const marker as usize, false);
        (NEAR.start)(query, eflags);
        pause_lone(query);
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
    #[inline(always)]
    pub(super) run_lone, query, proceed => {
        unsafe {
            let marker = 0u8;
            engine_as_it_is().resume_lone(&raw const marker as usize);
            proceed!();
            if !engine_as_it_is().lone.pause(query as usize) {
                pause_framed(query, true);
            } else if engine_as_it_is().lone.is_recorded() {
                let rows = (*(*query).estate).es_processed as i64;
                count(&mut engine_as_it_is().repeat().rows, rows);
            }
        }
    },
    NEAR.run
}

#[inline(never)]
pub(super) unsafe fn finish_lone(query: *mut pg_sys::QueryDesc) {
    unsafe {
        let marker = 0u8;
        engine_as_it_is().resume_lone(&raw const marker as usize);
        (NEAR.finish)(query);
        guard::check_outcome(query);
        pause_lone(query);
    }
}

/// Ends one that is known until then, or that has assigned a setting. Throws.
#[inline(never)]
#[unsafe(link_section = "audit_hot")]
pub(super) unsafe fn end_lone(query: *mut pg_sys::QueryDesc) {
    unsafe {
        if !end_next(query) {
            return;
        }
        if engine_as_it_is().lone.is_recorded() {
            with_as_it_is(|engine| engine.repeat_ended());
        } else {
            cold_path();
            engine_as_it_is().lone.forget();
            check_settings();
        }
    }
}

#[cold]
#[inline(never)]
fn check_settings() {
    if capture::on_quietly() {
        with(settings::check);
    }
}

/// Lets the server end it; `false`: it was given a frame meanwhile, and that has ended. (Nothing of PostgreSQL runs
/// SQL inside the end of a query that only reads, but a foreign-data wrapper may fail there.) Throws.
#[inline(always)]
unsafe fn end_next(query: *mut pg_sys::QueryDesc) -> bool {
    unsafe {
        let marker = 0u8;
        engine_as_it_is().resume_lone(&raw const marker as usize);
        (NEAR.end)(query);
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
            pause_framed(query, false);
        }
    }
}

/// The server has come back from a lone query that was given a frame meanwhile, with rows if it `ran`. Throws.
#[cold]
#[inline(never)]
unsafe fn pause_framed(query: *mut pg_sys::QueryDesc, ran: bool) {
    unsafe {
        if let Some(id) = engine_as_it_is().find(query as usize) {
            with_as_it_is(|engine| {
                engine.pause(id);
                if ran {
                    let rows = (*(*query).estate).es_processed as i64;
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
