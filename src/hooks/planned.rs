//! What is taken down of a planned query when it begins: SELECT, INSERT, UPDATE, DELETE, MERGE.

use audit_core::event::{Class, Classes};
use core::ffi::c_int;
use core::hint::cold_path;
use pgrx::pg_sys;

use super::engine::{Id, engine_as_it_is, with_as_it_is};
use super::repeats::{self, Plan, Uses};
use super::used::{Objects, learn_names};
use super::{begin, parameters, room, wrapped};
use crate::pg::{acl, compat, guc, names};

/// Of a query that only reads.
pub const CLASSES_OF_READ: Classes = Classes::of(Class::Read);

/// Begins a client's query that repeats a record, where nothing is under way and it may go without a frame;
/// `false`: it doesn't, and nothing has happened. Throws.
#[inline(always)]
pub unsafe fn begin_repeat(query: *mut pg_sys::QueryDesc, address: usize) -> bool {
    unsafe {
        if guc::parameters() || !room::is_there() {
            cold_path();
            return false;
        }
        begin::session_of_query();
        let stmt = (*query).plannedstmt;
        let mut plan = Plan {
            uses: Uses::NONE,
            query_id: (*stmt).queryId as i64,
            audited: false,
        };
        let text = text_of(query);
        plan.uses.take(stmt)
            && with_as_it_is(|engine| {
                let classes = classes_of_plan(stmt);
                begin::repeat(engine, text, classes, &plan, query as usize, address)
            })
            .unwrap_or(false)
    }
}

/// Takes down what is known before the query runs. `None` if it belongs to a utility statement's
/// own event. Throws.
#[inline(always)]
pub unsafe fn begin(query: *mut pg_sys::QueryDesc, eflags: c_int, address: usize) -> Option<Id> {
    unsafe {
        begin::session_of_query();
        if !engine_as_it_is().undisturbed() {
            cold_path();
            with_as_it_is(|engine| engine.enter(address))?;
            if wrapped::is_there(query) {
                wrapped::begin(query, eflags);
                return None;
            }
        }
        let stmt = (*query).plannedstmt;
        let classes = classes_of_plan(stmt);
        let text = text_of(query);
        let depth = begin::depth(engine_as_it_is(), text.source);
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
        let (id, named) = with_as_it_is(|engine| {
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
            name(id, stmt, plan, version)?;
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

/// Gives a query that has begun the names of its relations, which were looked up after `version` was; it may
/// be known by them from now on. Never throws.
#[unsafe(link_section = "audit_session")]
unsafe fn name(
    id: Id,
    stmt: *const pg_sys::PlannedStmt,
    plan: Option<&Plan>,
    version: u32,
) -> Option<()> {
    with_as_it_is(|engine| unsafe {
        let frame = engine.frame(id);
        let mut objects = Objects::new(frame, compat::target_of_plan(stmt));
        compat::for_each_used_relation(stmt, |relid, privileges| {
            objects.add(relid, privileges);
        });
        let repeatable = objects.are_told_by_uses();
        let only_catalog = objects.finish();
        frame.protect();
        if let Some(plan) = plan.filter(|_| repeatable)
            && repeats::learn(frame, plan.uses, version, only_catalog)
        {
            engine.make_room_for_lone(id);
        }
    })
}

/// READ or WRITE: a data-modifying CTE makes a SELECT write.
#[inline]
pub fn classes_of(command: pg_sys::CmdType::Type, modifying_cte: bool) -> Classes {
    match command {
        pg_sys::CmdType::CMD_SELECT if modifying_cte => Classes::of(Class::Read).with(Class::Write),
        pg_sys::CmdType::CMD_SELECT => CLASSES_OF_READ,
        _ => Classes::of(Class::Write),
    }
}

/// As [`classes_of`], of a planned statement: a SELECT writes, too, where a function is inlined into it that
/// has a data-modifying CTE. (Of such the server says in one place only that they write.)
///
/// # Safety
/// `stmt` is a valid planned statement.
#[inline]
pub unsafe fn classes_of_plan(stmt: *const pg_sys::PlannedStmt) -> Classes {
    unsafe { classes_of((*stmt).commandType, writes(stmt)) }
}

/// [`classes_of_plan`]` == `[`CLASSES_OF_READ`]
///
/// # Safety
/// As there.
#[inline]
pub unsafe fn only_reads(stmt: *const pg_sys::PlannedStmt) -> bool {
    unsafe { (*stmt).commandType == pg_sys::CmdType::CMD_SELECT && !writes(stmt) }
}

#[inline]
unsafe fn writes(stmt: *const pg_sys::PlannedStmt) -> bool {
    unsafe { (*stmt).hasModifyingCTE || !(*stmt).resultRelations.is_null() }
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

/// Where the query's statement stands in its string.
#[inline(always)]
pub unsafe fn text_of(query: *const pg_sys::QueryDesc) -> begin::Text {
    unsafe {
        begin::Text {
            source: (*query).sourceText,
            location: (*(*query).plannedstmt).stmt_location,
            len: (*(*query).plannedstmt).stmt_len,
        }
    }
}
