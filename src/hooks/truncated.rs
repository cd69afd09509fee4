//! What TRUNCATE … CASCADE empties besides what it names: the server tells of each table, in its checks of privileges.

use pgrx::pg_sys;

use super::capture;
use super::engine::{engine, with};
use crate::pg::{acl, guc, names, raw};

/// Whether a statement may empty more than it names. Never throws.
///
/// # Safety
/// `node` is a utility statement.
pub unsafe fn cascades(node: *mut pg_sys::Node) -> bool {
    unsafe {
        (*node).type_ == pg_sys::NodeTag::T_TruncateStmt
            && field!(node as TruncateStmt.behavior) == pg_sys::DropBehavior::DROP_CASCADE
    }
}

/// A table is about to be emptied. (Partitions are not named where their table is.) Throws (catalog look-ups); a plain
/// frame.
///
/// # Safety
/// In the hook of object access.
pub unsafe fn emptied(table: pg_sys::Oid) {
    unsafe {
        let wanted = capture::on_quietly()
            && engine()
                .innermost()
                .is_some_and(|frame| frame.captured && frame.truncates);
        if !wanted || raw::get_rel_relispartition(table) {
            return;
        }
        let audited = guc::has_role() && acl::relation_is_audited(table, pg_sys::ACL_TRUNCATE);
        names::learn_relation(table);
        // From here on nothing throws.
        with(|engine| {
            if let Some(frame) = engine.innermost() {
                frame.audited_object |= audited;
                if let Some(relation) = names::relation(table) {
                    frame.add_relation(&relation.name);
                }
            }
        });
    }
}
