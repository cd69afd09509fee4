//! What utility statements are about, read from their trees before they run: names as they are at
//! that time, without relying on event triggers or on the statement's success.
//!
//! [`look_up`] throws and owns nothing; what it found waits in a static (`hooks::found`) until the
//! statement has its frame.

use audit_core::event::{Class, Classes, Fate};
use core::ffi::c_char;
use pgrx::pg_sys::{self, NodeTag::*};

use super::found::found;
use super::frame::Frame;
use super::{objects, relations};
use crate::pg::{acl, compat, guc, names, raw};

/// Looks up what a statement is about. Throws (as any catalog look-up may); reports no missing name and
/// checks no privilege, which is the statement's own business.
///
/// # Safety
/// `node` is a utility statement; in a transaction that is not aborted.
pub unsafe fn look_up(node: *mut pg_sys::Node) {
    unsafe {
        found().clear();
        relations::look_up(node);
        if found().object_type.is_empty() {
            objects::look_up(node);
        }
    }
}

/// Whether the server analyzes a query of the statement whose relations are the statement's own.
/// Never throws.
///
/// # Safety
/// `node` is a utility statement.
pub unsafe fn analyzes(node: *mut pg_sys::Node) -> bool {
    matches!(
        unsafe { (*node).type_ },
        T_PrepareStmt | T_ViewStmt | T_CreateSchemaStmt
    )
}

/// The classes that the statement has besides its own: a GRANT in CREATE SCHEMA. Never throws.
///
/// # Safety
/// `node` is a utility statement.
pub unsafe fn further_classes(node: *mut pg_sys::Node) -> Classes {
    let mut classes = Classes::NONE;
    unsafe {
        if (*node).type_ == T_CreateSchemaStmt {
            compat::for_each_pointer(
                field!(node as CreateSchemaStmt.schemaElts),
                |element: *mut pg_sys::Node| {
                    if (*element).type_ == T_GrantStmt {
                        classes = classes.with(Class::Role);
                    }
                },
            );
        }
    }
    classes
}

/// Whether the statement uses a privilege granted to `audit.role` on a relation that [`look_up`] has
/// found: TRUNCATE, and COPY of a table. Throws.
///
/// # Safety
/// Right after [`look_up`] of the same statement.
pub unsafe fn is_audited(node: *mut pg_sys::Node) -> bool {
    unsafe {
        let privileges = match (*node).type_ {
            T_TruncateStmt => pg_sys::ACL_TRUNCATE,
            T_CopyStmt if field!(node as CopyStmt.is_from) => pg_sys::ACL_INSERT,
            T_CopyStmt => pg_sys::ACL_SELECT,
            _ => return false,
        };
        let copy = (*node).type_ == T_CopyStmt;
        (0..found().relids.len()).any(|i| {
            let relid = found().relids[i];
            acl::relation_is_audited(relid, privileges)
                || (copy && columns_of_copy_are_audited(node, relid, privileges))
        })
    }
}

/// Whether the statement is a COPY TO of a table of the catalog, which `audit.catalog` leaves out.
/// Never throws.
///
/// # Safety
/// Right after [`look_up`] of the same statement.
pub unsafe fn reads_only_catalog(node: *mut pg_sys::Node) -> bool {
    let copies = unsafe { (*node).type_ == T_CopyStmt && !field!(node as CopyStmt.is_from) };
    let mut relations = found().relids.iter().map(|relid| names::relation(*relid));
    copies
        && !guc::catalog()
        && relations.len() > 0
        && relations.all(|relation| relation.is_some_and(|relation| relation.catalog))
}

/// The columns that COPY names, or all of them. Throws.
unsafe fn columns_of_copy_are_audited(
    node: *mut pg_sys::Node,
    relid: pg_sys::Oid,
    privilege: u32,
) -> bool {
    unsafe {
        let columns = field!(node as CopyStmt.attlist);
        if columns.is_null() {
            return acl::some_column_is_audited(relid, privilege);
        }
        let mut found = false;
        compat::for_each_pointer(columns, |column: *mut pg_sys::Node| {
            let name = compat::string(column.cast());
            found = found || acl::named_column_is_audited(relid, name, privilege);
        });
        found
    }
}

/// The text of the prepared statement that EXECUTE runs; NULL where there is none. Throws.
///
/// # Safety
/// `stmt` is a valid node.
pub unsafe fn prepared_text(stmt: *const pg_sys::ExecuteStmt) -> *const c_char {
    unsafe {
        let prepared = raw::FetchPreparedStatement((*stmt).name, false);
        if prepared.is_null() {
            return core::ptr::null();
        }
        (*(*prepared).plansource).query_string
    }
}

/// What a statement of transaction control does to the transaction.
///
/// # Safety
/// `node` is a TransactionStmt.
pub unsafe fn transaction(node: *mut pg_sys::Node, frame: &mut Frame) {
    use pg_sys::TransactionStmtKind::*;
    let stmt = node.cast::<pg_sys::TransactionStmt>();
    frame
        .gid
        .extend_from_slice(unsafe { raw::bytes((*stmt).gid) });
    match unsafe { (*stmt).kind } {
        TRANS_STMT_COMMIT | TRANS_STMT_ROLLBACK | TRANS_STMT_PREPARE => {
            frame.ends_transaction = true;
        }
        TRANS_STMT_ROLLBACK_TO => {
            frame.ends_transaction = true;
            frame.to_savepoint = true;
        }
        _ => {}
    }
}

/// What a statement that succeeds does to the block of BEGIN … COMMIT that those after it are in.
#[derive(Clone, Copy)]
pub enum Block {
    Stays,
    Begins,
    /// Another begins where the transaction, which is about to end, ends so.
    Chains(Fate),
}

/// Of a statement that is about to run. Never throws.
///
/// # Safety
/// `node` is a utility statement.
pub unsafe fn block(node: *mut pg_sys::Node) -> Block {
    use pg_sys::TransactionStmtKind::{TRANS_STMT_COMMIT, TRANS_STMT_ROLLBACK};
    unsafe {
        if (*node).type_ != T_TransactionStmt {
            return Block::Stays;
        }
        let stmt = node.cast::<pg_sys::TransactionStmt>();
        let fate = match (*stmt).kind {
            _ if begins_transaction(node) => return Block::Begins,
            TRANS_STMT_COMMIT if (*stmt).chain => Fate::Committed,
            TRANS_STMT_ROLLBACK if (*stmt).chain => Fate::RolledBack,
            _ => return Block::Stays,
        };
        if !raw::IsAbortedTransactionBlockState() {
            Block::Chains(fate)
        } else if raw::IsSubTransaction() {
            // Only what is inside of a savepoint has failed so far.
            Block::Chains(Fate::RolledBack)
        } else {
            Block::Begins // A transaction that has failed has told so then.
        }
    }
}

/// Whether this transaction statement is BEGIN. Never throws.
///
/// # Safety
/// `node` is a TransactionStmt.
pub unsafe fn begins_transaction(node: *mut pg_sys::Node) -> bool {
    use pg_sys::TransactionStmtKind::{TRANS_STMT_BEGIN, TRANS_STMT_START};
    let kind = unsafe { (*node.cast::<pg_sys::TransactionStmt>()).kind };
    matches!(kind, TRANS_STMT_BEGIN | TRANS_STMT_START)
}

/// Statements that must go through however full the ring is (spec/delivery.md, "Full ring").
///
/// # Safety
/// `node` is a utility statement.
pub unsafe fn never_waits(node: *mut pg_sys::Node) -> bool {
    unsafe {
        match (*node).type_ {
            T_TransactionStmt => !begins_transaction(node),
            T_VariableSetStmt => sets_ours(node.cast()),
            T_AlterSystemStmt => sets_ours(field!(node as AlterSystemStmt.setstmt)),
            _ => false,
        }
    }
}

/// Whether the statement changes a setting of `audit.*` for others, or for later: it is on record whatever the level, as
/// what a session sets for itself is. Never throws.
///
/// # Safety
/// `node` is a utility statement.
pub unsafe fn sets_for_others(node: *mut pg_sys::Node) -> bool {
    unsafe {
        let set = match (*node).type_ {
            T_AlterRoleSetStmt => field!(node as AlterRoleSetStmt.setstmt),
            T_AlterDatabaseSetStmt => field!(node as AlterDatabaseSetStmt.setstmt),
            T_AlterSystemStmt => field!(node as AlterSystemStmt.setstmt),
            _ => return false,
        };
        sets_ours(set) || (*set).kind == pg_sys::VariableSetKind::VAR_RESET_ALL
    }
}

/// Of `audit.*`, in any case: the server takes names of settings so.
unsafe fn sets_ours(stmt: *const pg_sys::VariableSetStmt) -> bool {
    const OURS: &[u8] = b"audit.";
    let name = unsafe { raw::bytes((*stmt).name) };
    name.get(..OURS.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(OURS))
}

/// Whether the statement is COMMIT PREPARED. Never throws.
pub unsafe fn commits_prepared(node: *mut pg_sys::Node) -> bool {
    unsafe {
        (*node).type_ == T_TransactionStmt
            && (*node.cast::<pg_sys::TransactionStmt>()).kind
                == pg_sys::TransactionStmtKind::TRANS_STMT_COMMIT_PREPARED
    }
}
