//! The guard (spec/integrity.md, point 1): who isn't the worker, and has not unlocked the trail,
//! changes nothing of extension audit_ext in its home, superusers included.
//!
//! ```text
//! guard           who is held against it; rows: what a query writes or locks      (ExecutorStart)
//! guard_utility   utility statements that name something of ours, and shared ones (ProcessUtility)
//! guard_objects   what DDL really does: cascades, DROP OWNED, functions           (object access)
//! guard_roles     who may let somebody into audit_reader and audit_admin
//! guard_trigger   logical replication, which calls no hook
//! guard_session   unlock, lock, and what they record
//! ```
//!
//! Two nets, one behind the other: names are checked before a statement takes locks that others
//! would wait for, objects by OID when it gets to them, whatever led there. It is decided by what the
//! process *is* (`pg::unlock`), never by a setting. Where there is no home, or for a plain SELECT,
//! it costs a few loads.
//!
//! All of this throws; nothing with a destructor is alive in it.

use core::ffi::{CStr, c_char, c_int};
use pgrx::pg_sys::{self, Oid};

use super::engine::with;
use super::{begin, capture, emit};
use crate::pg::shared::{HOME_NONE, HOME_UNKNOWN, shared};
use crate::pg::{guarded, names, raw, report, unlock};

/// The home of the trail; `None` where there is none. May look for it, once per server start.
#[inline]
pub fn home() -> Option<Oid> {
    let shared = shared()?;
    match shared.home() {
        HOME_NONE => None,
        HOME_UNKNOWN => {
            capture::on();
            Some(shared.home()).filter(|home| !matches!(*home, HOME_NONE | HOME_UNKNOWN))
        }
        home => Some(home),
    }
    .map(Oid::from_u32)
}

/// JIT compilation takes longer than what an auditor asks: the planner is far off with partitions and
/// what is looked up per row. So plans that read the trail go without it. Throws.
///
/// # Safety
/// The planner has just made it; in a transaction that is not aborted.
#[inline]
pub unsafe fn spare_compilation(stmt: *mut pg_sys::PlannedStmt) {
    unsafe {
        if (*stmt).jitFlags != 0 && at_home() {
            guarded::learn();
            let relations = (*stmt).relationOids;
            let count = if relations.is_null() {
                0
            } else {
                (*relations).length as usize
            };
            for i in 0..count {
                if guarded::has_relation((*(*relations).elements.add(i)).oid_value) {
                    (*stmt).jitFlags = 0;
                    return;
                }
            }
        }
    }
}

/// Whether this process is in the home.
#[inline]
pub fn at_home() -> bool {
    home() == Some(unsafe { pg_sys::MyDatabaseId })
}

/// Whether a statement that failed names schema audit, the extension or something in the schema, in the
/// home. Never throws, allocates nothing: called while an error is being reported.
pub fn is_named_in(text: &[u8]) -> bool {
    const NAME: &[u8] = b"audit";
    let here = unsafe { pg_sys::MyDatabaseId }.to_u32();
    if shared().is_none_or(|shared| shared.home() != here) {
        return false;
    }
    let in_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_' || *byte >= 0x80;
    text.windows(NAME.len()).enumerate().any(|(at, word)| {
        let rest = &text[at + NAME.len()..];
        word.eq_ignore_ascii_case(NAME)
            && !text[..at].last().is_some_and(in_word)
            && (!rest.first().is_some_and(in_word)
                || rest
                    .get(..4)
                    .is_some_and(|end| end.eq_ignore_ascii_case(b"_ext")))
    })
}

/// Whether what this process does now is held against the members. The list of them is up to date
/// then. Throws.
///
/// # Safety
/// In a transaction that is not aborted.
#[inline]
pub unsafe fn active() -> bool {
    unsafe {
        if unlock::is_exempt() || !at_home() {
            return false;
        }
        guarded::learn();
        !(unlock::in_trusted_script() && guarded::in_own_script())
    }
}

/// What a query writes, or locks row by row. A plain SELECT is told by two loads. Throws.
///
/// # Safety
/// `query` is about to start; in a transaction that is not aborted.
#[inline]
pub unsafe fn check_query(query: *mut pg_sys::QueryDesc, eflags: c_int) {
    unsafe {
        let stmt = (*query).plannedstmt;
        if (!(*stmt).resultRelations.is_null() | !(*stmt).rowMarks.is_null())
            && eflags & pg_sys::EXEC_FLAG_EXPLAIN_ONLY as c_int == 0
        {
            check_written(stmt);
        }
    }
}

#[inline(never)]
unsafe fn check_written(stmt: *const pg_sys::PlannedStmt) {
    if home().is_none() {
        return;
    }
    unsafe {
        let active = active();
        let mut i = 0;
        while let Some(relid) = result_relation(stmt, i) {
            i += 1;
            if relid.to_u32() < pg_sys::FirstNormalObjectId {
                if guarded::is_catalog(relid, active) && may_not_write(relid) {
                    refuse(command_of(stmt), pg_sys::RelationRelationId, relid);
                }
            } else if active && guarded::has_relation(relid) {
                refuse(command_of(stmt), pg_sys::RelationRelationId, relid);
            }
        }
        let marks = (*stmt).rowMarks;
        if !active || marks.is_null() {
            return;
        }
        for i in 0..(*marks).length as usize {
            let mark = (*(*marks).elements.add(i))
                .ptr_value
                .cast::<pg_sys::PlanRowMark>();
            // What is only read again (REFERENCE, COPY) locks nothing.
            if (*mark).markType <= pg_sys::RowMarkType::ROW_MARK_KEYSHARE {
                let relid = relation_of(stmt, (*mark).rti as usize);
                if guarded::has_relation(relid) {
                    refuse(c"SELECT FOR UPDATE", pg_sys::RelationRelationId, relid);
                }
            }
        }
    }
}

/// Rows of the catalogs belong to DDL; scripts of extensions are trusted with them.
fn may_not_write_catalogs() -> bool {
    !unlock::in_trusted_script() && !unlock::is_exempt()
}

/// The label of the home is no business of theirs.
pub fn may_not_write(catalog: Oid) -> bool {
    may_not_write_catalogs() || (guarded::is_shared_labels(catalog) && !unlock::is_exempt())
}

unsafe fn result_relation(stmt: *const pg_sys::PlannedStmt, i: usize) -> Option<Oid> {
    unsafe {
        let list = (*stmt).resultRelations;
        if list.is_null() || i >= (*list).length as usize {
            return None;
        }
        let index = (*(*list).elements.add(i)).int_value;
        Some(relation_of(stmt, index as usize))
    }
}

/// The relation of a range-table entry, numbered from 1.
unsafe fn relation_of(stmt: *const pg_sys::PlannedStmt, index: usize) -> Oid {
    unsafe {
        let entry = (*(*(*stmt).rtable).elements.add(index - 1)).ptr_value;
        (*entry.cast::<pg_sys::RangeTblEntry>()).relid
    }
}

unsafe fn command_of(stmt: *const pg_sys::PlannedStmt) -> &'static CStr {
    match unsafe { (*stmt).commandType } {
        pg_sys::CmdType::CMD_INSERT => c"INSERT",
        pg_sys::CmdType::CMD_UPDATE => c"UPDATE",
        pg_sys::CmdType::CMD_DELETE => c"DELETE",
        pg_sys::CmdType::CMD_SELECT => c"WITH",
        _ => c"MERGE",
    }
}

/// After a query that wrote to catalogs of which only some rows are the guard's concern, which can't be
/// told before. Throws.
///
/// # Safety
/// The query has run; in a transaction that is not aborted.
#[inline]
pub unsafe fn check_outcome(query: *mut pg_sys::QueryDesc) {
    unsafe {
        let stmt = (*query).plannedstmt;
        if !(*stmt).resultRelations.is_null() {
            check_catalogs_written(stmt);
        }
    }
}

#[inline(never)]
unsafe fn check_catalogs_written(stmt: *const pg_sys::PlannedStmt) {
    unsafe {
        let mut i = 0;
        while let Some(relid) = result_relation(stmt, i) {
            i += 1;
            if relid.to_u32() < pg_sys::FirstNormalObjectId {
                check_catalog(command_of(stmt), relid);
            }
        }
    }
}

/// What a catalog must not say, in any database: that the home's row is another, that a table is where
/// the shared catalogs are, that a subscription writes to catalogs, that one of them is somebody's partition. Throws.
///
/// # Safety
/// After a statement that may have written to it; in a transaction that is not aborted.
pub unsafe fn check_catalog(command: &CStr, catalog: Oid) {
    unsafe {
        if !may_not_write_catalogs() {
            return;
        }
        let Some(home) = home() else { return };
        if catalog == pg_sys::DatabaseRelationId {
            if guarded::database_touched(home) {
                refuse(command, pg_sys::DatabaseRelationId, home);
            }
            return;
        }
        let wrong = if catalog == pg_sys::RelationRelationId {
            guarded::in_shared_tablespace()
        } else if catalog == guarded::SUBSCRIBED {
            guarded::subscribed_catalog()
        } else if catalog == guarded::INHERITS {
            guarded::inheriting_catalog()
        } else {
            None
        };
        if let Some(relid) = wrong {
            refuse(command, pg_sys::RelationRelationId, relid);
        }
    }
}

/// The error that is being reported is [`refuse`]'s, and the attempt is on record.
static mut REFUSED: bool = false;

/// Whether the error being reported is the guard's own; asked once per error. Never throws.
pub fn take_refused() -> bool {
    unsafe { core::mem::replace(&mut *(&raw mut REFUSED), false) }
}

/// Records the attempt, whatever the level, and fails the statement. Throws, always.
///
/// # Safety
/// In a transaction that is not aborted.
#[cold]
pub unsafe fn refuse(command: &CStr, class: Oid, object: Oid) -> ! {
    unsafe {
        let what = describe(class, object);
        record(command, class, object, what);
        REFUSED = true;
        report::guarded(command.as_ptr(), what, hint_of(class));
    }
    unreachable!("the report is an ERROR")
}

/// The object as people name it. Throws.
unsafe fn describe(class: Oid, object: Oid) -> *const c_char {
    unsafe {
        let address = pg_sys::ObjectAddress {
            classId: class,
            objectId: object,
            objectSubId: 0,
        };
        let what = raw::getObjectDescription(&address, true);
        if what.is_null() {
            c"extension audit_ext".as_ptr()
        } else {
            what
        }
    }
}

fn hint_of(class: Oid) -> report::Way {
    if class == pg_sys::AuthIdRelationId {
        report::Way::Admin
    } else if class == pg_sys::DatabaseRelationId {
        report::Way::DropExtension
    } else {
        report::Way::Unlock
    }
}

unsafe fn record(command: &CStr, class: Oid, object: Oid, what: *const c_char) {
    unsafe {
        if !capture::on() {
            return;
        }
        begin::session();
        if class == pg_sys::RelationRelationId {
            names::learn_relation(object);
        }
        let relation = (class == pg_sys::RelationRelationId).then_some(object);
        with(|engine| {
            emit::refused_event(
                engine,
                command.to_bytes(),
                raw::bytes(what),
                relation.and_then(names::relation),
            );
        });
    }
}
