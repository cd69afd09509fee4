//! The hook of utility statements: everything but SELECT, INSERT, UPDATE, DELETE and MERGE.
//!
//! A plain frame that an ERROR may jump over: no value with a destructor is alive across a call
//! that throws. Nothing is read from the statement's tree after it ran: it may be gone.

use audit_core::classify::classes_of_command;
use audit_core::event::{Class, Classes};
use core::ffi::{CStr, c_char};
use pgrx::pg_sys;

use super::describe::Block;
use super::engine::{Id, engine, engine_as_it_is, with};
use super::found::found;
use super::frame::Wraps;
use super::{
    begin, capture, describe, details, drops, error, extension, guard, guard_utility, replication,
    room, truncated, wrapped,
};
use crate::pg::{compat, durability, guc, lexis, raw, session};

static mut NEXT: pg_sys::ProcessUtility_hook_type = None;

/// # Safety
/// From `_PG_init` only.
pub unsafe fn install() {
    unsafe {
        NEXT = pg_sys::ProcessUtility_hook;
        pg_sys::ProcessUtility_hook = Some(process);
    }
}

#[inline(never)]
#[allow(clippy::too_many_arguments)]
unsafe extern "C-unwind" fn process(
    pstmt: *mut pg_sys::PlannedStmt,
    query_string: *const c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    query_env: *mut pg_sys::QueryEnvironment,
    dest: *mut pg_sys::DestReceiver,
    qc: *mut pg_sys::QueryCompletion,
) {
    unsafe {
        let marker = 0u8;
        // A subcommand is a part of a statement that has its event.
        let own = context != pg_sys::ProcessUtilityContext::PROCESS_UTILITY_SUBCOMMAND;
        let block = describe::block((*pstmt).utilityStmt);
        let text = begin::Text {
            source: query_string,
            location: (*pstmt).stmt_location,
            len: (*pstmt).stmt_len,
        };
        lexis::note((*pstmt).utilityStmt);
        let id = if !own || !capture::on() || passes(pstmt, text) {
            None
        } else {
            begin_utility(pstmt, text, &raw const marker as usize)
        };
        let outer = guard_utility::enter((*pstmt).utilityStmt);
        // What fires at statements is not asked about their parts, and so runs nothing in the worker, unrecorded.
        let context = if session::is_worker() {
            pg_sys::ProcessUtilityContext::PROCESS_UTILITY_SUBCOMMAND
        } else {
            context
        };
        match NEXT {
            Some(next) => next(
                pstmt,
                query_string,
                read_only_tree,
                context,
                params,
                query_env,
                dest,
                qc,
            ),
            None => raw::standard_ProcessUtility(
                pstmt,
                query_string,
                read_only_tree,
                context,
                params,
                query_env,
                dest,
                qc,
            ),
        }
        guard_utility::leave(outer);
        match block {
            Block::Stays => {}
            Block::Begins => engine_as_it_is().begin_explicit(),
            Block::Chains(fate) => engine_as_it_is().chain(fate),
        }
        if let Some(id) = id {
            end_utility(id, qc);
            replication::listen();
        }
    }
}

/// Whether nothing is taken down of a statement but that there was one: BEGIN, COMMIT and their like
/// where the level leaves them out and nothing is under way. (Not so what decides about a transaction that is
/// prepared; and COMMIT PREPARED may have to wait for others' records.) Never throws.
#[inline]
unsafe fn passes(pstmt: *mut pg_sys::PlannedStmt, text: begin::Text) -> bool {
    unsafe {
        let node = (*pstmt).utilityStmt;
        if (*node).type_ != pg_sys::NodeTag::T_TransactionStmt
            || !engine().idle()
            || (durability::on_commit() && describe::commits_prepared(node))
            || begin::wanted(0, Classes::of(Class::Misc))
            || decides(node)
            || may_run(node)
        {
            return false;
        }
        begin::number_left_out(engine(), text);
        true
    }
}

/// Whether a statement that the level leaves out tells what becomes of events on record, as no FATE could: whoever
/// ends a prepared transaction, in a session that knows nothing of it, refers to it by its gid. Where nothing is
/// ever recorded nothing is told. Never throws.
///
/// # Safety
/// `node` is a TransactionStmt.
unsafe fn decides(node: *mut pg_sys::Node) -> bool {
    use pg_sys::TransactionStmtKind::*;
    match unsafe { (*node.cast::<pg_sys::TransactionStmt>()).kind } {
        // What it runs itself, deferred triggers, may be recorded, too.
        TRANS_STMT_PREPARE => engine().fates.undecided() || unsafe { may_run(node) },
        TRANS_STMT_COMMIT_PREPARED | TRANS_STMT_ROLLBACK_PREPARED => {
            !begin::level().is_none() || guc::has_role()
        }
        _ => false,
    }
}

/// Whether the end of a transaction may run something that is recorded, nested in it: where something has been
/// written, and of that something put off. Never throws.
///
/// # Safety
/// `node` is a TransactionStmt.
unsafe fn may_run(node: *mut pg_sys::Node) -> bool {
    use pg_sys::TransactionStmtKind::{TRANS_STMT_COMMIT, TRANS_STMT_PREPARE};
    let kind = unsafe { (*node.cast::<pg_sys::TransactionStmt>()).kind };
    matches!(kind, TRANS_STMT_COMMIT | TRANS_STMT_PREPARE)
        && unsafe { raw::GetTopFullTransactionIdIfAny() }.value != 0
        && (!begin::level().is_none() || guc::has_role())
}

/// What the hook needs to know of a statement before it looks at the details.
struct Kind {
    classes: Classes,
    wraps: Wraps,
    /// Text of the wrapped query where it isn't the statement's own; else NULL.
    source: *const c_char,
}

/// Takes down what is known before the statement runs. Throws.
unsafe fn begin_utility(
    pstmt: *mut pg_sys::PlannedStmt,
    text: begin::Text,
    address: usize,
) -> Option<Id> {
    unsafe {
        begin::session();
        if !session::known() {
            return None; // In a transaction that failed before there was a trail: nothing can be read.
        }
        error::watch();
        with(|engine| engine.enter(address))?;
        let node = (*pstmt).utilityStmt;
        let tag = CStr::from_ptr(raw::GetCommandTagName(raw::CreateCommandTag(node)));
        let mut kind = kind_of(node, tag);
        // EXPLAIN ANALYZE makes the table as CREATE TABLE AS itself does.
        let made = made_by_explain(node);
        let described = if made.is_null() { node } else { made };
        // What a wrapper runs adds its own classes later.
        let prepares = (*node).type_ == pg_sys::NodeTag::T_PrepareStmt;
        let possible = if kind.wraps == Wraps::Nothing && !prepares {
            kind.classes
        } else {
            kind.classes.with(Class::Read).with(Class::Write)
        };
        let depth = begin::depth(engine(), text.source);
        // Should the server refuse it something of the trail, it is on record whatever the level.
        let from = text.location.max(0) as usize;
        let mut wanted = begin::wanted(depth, possible)
            || (begin::possible(depth) && guard::is_named_in(begin::own_text(text, from)));
        let transaction = (*node).type_ == pg_sys::NodeTag::T_TransactionStmt;
        if !wanted
            && (transaction && depth == 0 && decides(node) || describe::sets_for_others(node))
        {
            // As an event of the trail's own.
            kind.classes = Classes::of(Class::Audit);
            wanted = true;
        }
        if wanted && !describe::never_waits(node) {
            room::wait_for(|| false);
        }
        let catalog = raw::IsTransactionState() && !raw::IsAbortedTransactionBlockState();
        if catalog {
            extension::make_way(node);
        }
        if durability::on_commit() && describe::commits_prepared(node) {
            // What it prepared may have been told by another session.
            durability::ensure(true);
        }
        let by_object = guc::has_role() && begin::possible(depth);
        let looks = (wanted || by_object) && catalog && !transaction;
        if looks {
            describe::look_up(described);
        }
        let audited = by_object && catalog && describe::is_audited(node);
        // What it runs, or empties besides what it names, may be what is audited.
        let cascades = truncated::cascades(node);
        wanted |= audited || (by_object && (kind.wraps != Wraps::Nothing || cascades));
        if wanted && looks {
            details::look_up(node);
        }
        with(|engine| {
            let id = begin::statement(engine, text, kind.classes, wanted, address);
            let fetches = (*node).type_ == pg_sys::NodeTag::T_FetchStmt;
            engine.wraps(id, kind.wraps, fetches);
            let frame = engine.frame(id);
            if kind.wraps == Wraps::OwnPortal {
                let other = !kind.source.is_null();
                frame.wrapped_text =
                    wrapped::hash_of(if other { kind.source } else { text.source });
            }
            if !kind.source.is_null() {
                frame.source = kind.source as usize;
            }
            frame.audited_object = audited;
            if transaction && frame.numbers.depth == 0 {
                describe::transaction(node, frame);
            }
            if wanted {
                frame.command.extend_from_slice(tag.to_bytes());
                frame.query_id = (*pstmt).queryId as i64;
                if looks {
                    frame.left_out = !audited && describe::reads_only_catalog(node);
                    found().hand_over(frame);
                    frame.analyzes = describe::analyzes(node);
                    frame.drops_objects = drops::drops_objects(node);
                    frame.names_dropped = (*node).type_ == pg_sys::NodeTag::T_DropStmt;
                    frame.truncates = cascades;
                }
                frame.protect();
            }
            id
        })
    }
}

unsafe fn kind_of(node: *mut pg_sys::Node, tag: &CStr) -> Kind {
    use pg_sys::NodeTag::*;
    let mut classes = classes_of_command(tag.to_str().unwrap_or(""));
    classes.0 |= unsafe { describe::further_classes(node) }.0;
    let mut source = core::ptr::null();
    if unsafe { !made_by_explain(node).is_null() } {
        classes = classes.with(Class::Ddl);
    }
    let wraps = match unsafe { (*node).type_ } {
        T_CopyStmt => {
            let from = unsafe { (*node.cast::<pg_sys::CopyStmt>()).is_from };
            classes = Classes::of(if from { Class::Write } else { Class::Read });
            Wraps::SameText
        }
        // These may run a prepared statement: CREATE TABLE AS as EXECUTE does, EXPLAIN on its own.
        T_CreateTableAsStmt if unsafe { !executes(node).is_null() } => {
            source = unsafe { describe::prepared_text(executes(node)) };
            Wraps::OwnPortal
        }
        T_ExplainStmt => {
            let execute = unsafe { executes(node) };
            if !execute.is_null() {
                source = unsafe { describe::prepared_text(execute) };
            }
            Wraps::SameText
        }
        T_CreateTableAsStmt | T_RefreshMatViewStmt => Wraps::SameText,
        T_ExecuteStmt => {
            source = unsafe { describe::prepared_text(node.cast()) };
            Wraps::OwnPortal
        }
        T_DeclareCursorStmt => Wraps::OwnPortal,
        _ => Wraps::Nothing,
    };
    Kind {
        classes,
        wraps,
        source,
    }
}

/// The EXECUTE inside EXPLAIN or CREATE TABLE AS; NULL where there is none. Never throws.
unsafe fn executes(node: *mut pg_sys::Node) -> *const pg_sys::ExecuteStmt {
    unsafe {
        let query = match (*node).type_ {
            pg_sys::NodeTag::T_ExplainStmt => (*node.cast::<pg_sys::ExplainStmt>()).query,
            _ => (*node.cast::<pg_sys::CreateTableAsStmt>()).query,
        };
        if query.is_null() || (*query).type_ != pg_sys::NodeTag::T_Query {
            return core::ptr::null();
        }
        let inner = (*query.cast::<pg_sys::Query>()).utilityStmt;
        if inner.is_null() {
            return core::ptr::null();
        }
        match (*inner).type_ {
            pg_sys::NodeTag::T_ExecuteStmt => inner.cast(),
            pg_sys::NodeTag::T_CreateTableAsStmt => executes(inner),
            _ => core::ptr::null(),
        }
    }
}

/// The CREATE TABLE AS, or CREATE MATERIALIZED VIEW, that an EXPLAIN ANALYZE carries out; NULL where
/// there is none. Never throws.
unsafe fn made_by_explain(node: *mut pg_sys::Node) -> *mut pg_sys::Node {
    let none = core::ptr::null_mut();
    unsafe {
        if (*node).type_ != pg_sys::NodeTag::T_ExplainStmt {
            return none;
        }
        let explain = node.cast::<pg_sys::ExplainStmt>();
        let query = (*explain).query;
        if query.is_null() || (*query).type_ != pg_sys::NodeTag::T_Query {
            return none;
        }
        let inner = (*query.cast::<pg_sys::Query>()).utilityStmt;
        if inner.is_null() || (*inner).type_ != pg_sys::NodeTag::T_CreateTableAsStmt {
            return none;
        }
        let mut analyze = false;
        compat::for_each_pointer((*explain).options, |option: *mut pg_sys::DefElem| {
            if raw::bytes((*option).defname) == b"analyze" {
                analyze = compat::option_is_on(option);
            }
        });
        if analyze { inner } else { none }
    }
}

/// The statement has come back: it succeeded.
unsafe fn end_utility(id: Id, qc: *mut pg_sys::QueryCompletion) {
    let rows = unsafe { rows_of(qc) };
    with(|engine| {
        engine.pause(id);
        let frame = engine.frame(id);
        frame.numbers.rows = rows.unwrap_or(frame.inner_rows);
        engine.succeed(id);
    });
}

/// Rows that the statement's command tag counts, as the client sees them.
unsafe fn rows_of(qc: *mut pg_sys::QueryCompletion) -> Option<i64> {
    unsafe {
        let counts = !qc.is_null() && raw::command_tag_display_rowcount((*qc).commandTag);
        counts.then(|| (*qc).nprocessed as i64)
    }
}
