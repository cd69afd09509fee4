//! A statement that a rule turns into nothing (ON … DO INSTEAD NOTHING): the rewriter leaves the server
//! without a query, so that no other hook sees it. It is one event, made when it is analyzed: of the
//! client's own statements; what a function does is analyzed long before it runs, and more than once.
//!
//! A statement that the client prepares by the protocol is analyzed once, however often it runs.

use pgrx::pg_sys;

use super::engine::{engine, with};
use super::planned::{classes_of, command_of};
use super::{begin, capture, room};
use crate::pg::{compat, names};

/// Whether this is a statement of the client, on a relation with rules. Never throws.
///
/// # Safety
/// From the hook of parse analysis.
#[inline]
pub unsafe fn are_applied(state: *const pg_sys::ParseState) -> bool {
    unsafe {
        let target = (*state).p_target_relation;
        !target.is_null()
            && !(*target).rd_rules.is_null()
            && (*state).p_sourcetext == pg_sys::debug_query_string
            && engine().running.is_empty()
    }
}

/// Whether the rules leave nothing of it. Never throws.
///
/// # Safety
/// Where [`are_applied`].
pub unsafe fn leave_nothing(state: *const pg_sys::ParseState, query: *const pg_sys::Query) -> bool {
    unsafe { only_nothing((*(*state).p_target_relation).rd_rules, (*query).commandType) }
}

/// Where the statement stands in its string.
///
/// # Safety
/// As above.
pub unsafe fn text_of(
    state: *const pg_sys::ParseState,
    query: *const pg_sys::Query,
) -> begin::Text {
    unsafe {
        begin::Text {
            source: (*state).p_sourcetext,
            location: (*query).stmt_location,
            len: (*query).stmt_len,
        }
    }
}

/// Whether rules for this command say INSTEAD, whatever the rows, and none does anything.
unsafe fn only_nothing(rules: *const pg_sys::RuleLock, command: pg_sys::CmdType::Type) -> bool {
    let (mut instead, mut acts) = (false, false);
    unsafe {
        for i in 0..(*rules).numLocks as usize {
            let rule = &**(*rules).rules.add(i);
            if rule.event != command || !is_enabled(rule) {
                continue;
            }
            compat::for_each_pointer(rule.actions, |action: *mut pg_sys::Query| {
                acts |= (*action).commandType != pg_sys::CmdType::CMD_NOTHING;
            });
            instead |= rule.isInstead && rule.qual.is_null();
        }
    }
    instead && !acts
}

/// As the rewriter sees it (matchLocks in rewriteHandler.c).
unsafe fn is_enabled(rule: &pg_sys::RewriteRule) -> bool {
    let replica = unsafe { pg_sys::SessionReplicationRole } as u32
        == pg_sys::SESSION_REPLICATION_ROLE_REPLICA;
    match rule.enabled as u8 {
        b'D' => false,
        b'O' => !replica,
        b'R' => replica,
        _ => true,
    }
}

/// Records the statement. Throws (catalog look-ups).
///
/// # Safety
/// Where [`leave_nothing`].
pub unsafe fn nothing(state: *const pg_sys::ParseState, query: *const pg_sys::Query) {
    let marker = 0u8;
    let address = &raw const marker as usize;
    unsafe {
        if !capture::on() {
            return;
        }
        begin::session();
        with(|engine| engine.enter(address));
        let command = (*query).commandType;
        let classes = classes_of(command, false);
        let wanted = begin::wanted(engine().depth(), classes);
        let relid = (*(*state).p_target_relation).rd_id;
        if wanted {
            room::wait_for(|| false);
            names::learn_relation(relid);
        }
        let text = text_of(state, query);
        with(|engine| {
            let id = begin::statement(engine, text, classes, wanted, address);
            let frame = engine.frame(id);
            if wanted {
                frame.command.extend_from_slice(command_of(command));
                frame.query_id = (*query).queryId as i64;
                frame.numbers.rows = 0;
                if let Some(relation) = names::relation(relid) {
                    frame.object_type = relation.kind;
                    frame.object_name.extend_from_slice(&relation.name);
                    frame.add_relation(&relation.name);
                }
            }
            engine.pause(id);
            engine.succeed(id);
        });
    }
}
