//! What a query uses, by name: its relations, and its main object.

use pgrx::pg_sys;

use super::frame::Frame;
use crate::pg::{compat, guc, names};

/// Looks up the names that [`Objects`] will need. Throws.
#[unsafe(link_section = "audit_session")]
pub unsafe fn learn_names(stmt: *const pg_sys::PlannedStmt) {
    unsafe {
        compat::for_each_used_relation(stmt, |relid, _| {
            // A plain frame: the closure owns nothing, a throw may pass through it.
            names::learn_relation(relid);
        });
    }
}

/// As a part of what is run.
impl compat::Told for Frame {
    fn relation(&mut self, relid: pg_sys::Oid, _privileges: u64) {
        if let Some(relation) = names::relation(relid) {
            self.add_relation(&relation.name);
        }
    }
}

impl compat::Told for Objects<'_> {
    #[unsafe(link_section = "audit_session")]
    fn relation(&mut self, relid: pg_sys::Oid, privileges: u64) {
        self.add(relid, privileges);
    }
}

/// Relations and main object of a statement, found one relation after the other.
pub struct Objects<'f> {
    frame: &'f mut Frame,
    target: compat::Target,
    select: bool,
    only_catalog: bool,
    /// A view is among them.
    views: bool,
    count: u32,
}

impl<'f> Objects<'f> {
    /// `target`: what the statement writes to.
    pub fn new(frame: &'f mut Frame, target: compat::Target) -> Self {
        let select = frame.command == b"SELECT";
        Objects {
            frame,
            target,
            select,
            only_catalog: true,
            views: false,
            count: 0,
        }
    }

    /// A relation with the privileges (`ACL_*`) that the statement needs on it. Never throws: names
    /// were looked up before.
    #[unsafe(link_section = "audit_session")]
    pub fn add(&mut self, relid: pg_sys::Oid, privileges: u64) {
        const WRITES: u32 = pg_sys::ACL_INSERT | pg_sys::ACL_UPDATE | pg_sys::ACL_DELETE;
        let Some(relation) = names::relation(relid) else {
            return;
        };
        self.only_catalog &= relation.catalog;
        self.views |= relation.kind == "VIEW";
        self.count += u32::from(self.frame.add_relation(&relation.name));
        // The main object: what is written to, by the name that the user gave it (a view that the
        // server writes through); else the only relation there is.
        let through_view = || relation.kind == "VIEW" && !self.target.is_of_rule(relid);
        let written =
            privileges as u32 & WRITES != 0 && (relid == self.target.relid || through_view());
        if self.frame.object_type.is_empty() && (self.select || written) {
            self.frame.object_type = relation.kind;
            self.frame.object_name.extend_from_slice(&relation.name);
        }
    }

    /// Whether OIDs, privileges, command and target are all that the names come from: where something
    /// is written through a view, it matters whose rule it is, too.
    pub fn are_told_by_uses(&self) -> bool {
        self.select || !self.views
    }

    /// All relations were added. Returns whether it reads the catalog, and nothing else.
    pub fn finish(self) -> bool {
        if self.select && self.count > 1 {
            self.frame.object_type = "";
            self.frame.object_name.clear();
        }
        let only_catalog = self.select && self.count > 0 && self.only_catalog;
        if only_catalog && !guc::catalog() && !self.frame.audited_object {
            self.frame.captured = false;
        }
        only_catalog
    }
}
