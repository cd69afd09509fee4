//! Which privileges were granted to a role, and used by a statement: object auditing
//! (spec/capture.md, rule 14). What PUBLIC may do doesn't count, nor what an owner or a superuser
//! may do anyway; roles inherit.
//!
//! Everything here throws (catalog look-ups); the callers have nothing to drop.

use core::ffi::{c_char, c_int};
use pgrx::pg_sys;

use super::{compat, guc, raw};

/// The role of `audit.role`; InvalidOid where none is set or it doesn't exist.
///
/// # Safety
/// In a transaction that is not aborted.
unsafe fn audit_role() -> pg_sys::Oid {
    unsafe { raw::get_role_oid(guc::role(), true) }
}

/// Whether a role is that of `audit.role`.
///
/// # Safety
/// In a transaction that is not aborted.
pub unsafe fn is_audit_role(role: pg_sys::Oid) -> bool {
    guc::has_role() && role != pg_sys::InvalidOid && unsafe { audit_role() } == role
}

/// Whether the statement uses a privilege that was granted to the role of `audit.role`.
///
/// # Safety
/// `stmt` is a valid planned statement; in a transaction that is not aborted.
pub unsafe fn statement_is_audited(stmt: *const pg_sys::PlannedStmt) -> bool {
    unsafe {
        let role = audit_role();
        if role == pg_sys::InvalidOid {
            return false;
        }
        let mut found = false;
        compat::for_each_use(stmt, |usage| {
            found = found || use_is_audited(role, &usage);
        });
        found
    }
}

unsafe fn use_is_audited(role: pg_sys::Oid, usage: &compat::Use) -> bool {
    unsafe {
        // A SELECT that names no column (count(*)) may use any that the role may read.
        let no_column =
            usage.selected.is_null() && usage.privileges as u32 & pg_sys::ACL_SELECT != 0;
        relation_is_audited_for(role, usage.relid, usage.privileges as u32)
            || (no_column && any_column_is_audited(role, usage.relid, pg_sys::ACL_SELECT))
            || columns_are_audited(role, usage.relid, usage.selected, pg_sys::ACL_SELECT)
            || columns_are_audited(role, usage.relid, usage.inserted, pg_sys::ACL_INSERT)
            || columns_are_audited(role, usage.relid, usage.updated, pg_sys::ACL_UPDATE)
    }
}

/// Whether any of these privileges on the relation was granted to the role of `audit.role`.
///
/// # Safety
/// In a transaction that is not aborted.
pub unsafe fn relation_is_audited(relid: pg_sys::Oid, privileges: u32) -> bool {
    unsafe {
        let role = audit_role();
        role != pg_sys::InvalidOid && relation_is_audited_for(role, relid, privileges)
    }
}

unsafe fn relation_is_audited_for(role: pg_sys::Oid, relid: pg_sys::Oid, privileges: u32) -> bool {
    let place = Place::Relation(relid);
    unsafe { row_grants(place, role, privileges) }
}

/// Whether the privilege on any column was granted to the role of `audit.role`.
///
/// # Safety
/// In a transaction that is not aborted.
pub unsafe fn some_column_is_audited(relid: pg_sys::Oid, privilege: u32) -> bool {
    unsafe {
        let role = audit_role();
        role != pg_sys::InvalidOid && any_column_is_audited(role, relid, privilege)
    }
}

/// Whether the privilege on this column was granted to the role of `audit.role`.
///
/// # Safety
/// In a transaction that is not aborted.
pub unsafe fn named_column_is_audited(
    relid: pg_sys::Oid,
    column: *const c_char,
    privilege: u32,
) -> bool {
    unsafe {
        let role = audit_role();
        role != pg_sys::InvalidOid
            && column_is_audited(role, relid, raw::get_attnum(relid, column), privilege)
    }
}

unsafe fn any_column_is_audited(role: pg_sys::Oid, relid: pg_sys::Oid, privilege: u32) -> bool {
    unsafe {
        (1..=columns_of(relid)).any(|number| column_is_audited(role, relid, number, privilege))
    }
}

/// How many columns a relation has, dropped ones included.
unsafe fn columns_of(relid: pg_sys::Oid) -> i16 {
    let cache = pg_sys::SysCacheIdentifier::RELOID as c_int;
    unsafe {
        let tuple = raw::SearchSysCache1(cache, pg_sys::Datum::from(relid));
        if tuple.is_null() {
            return 0;
        }
        let data = (*tuple).t_data;
        // GETSTRUCT of htup_details.h.
        let row = data
            .cast::<u8>()
            .add((*data).t_hoff as usize)
            .cast::<pg_sys::FormData_pg_class>();
        let columns = (*row).relnatts;
        raw::ReleaseSysCache(tuple);
        columns
    }
}

unsafe fn column_is_audited(
    role: pg_sys::Oid,
    relid: pg_sys::Oid,
    number: i16,
    privilege: u32,
) -> bool {
    let place = Place::Column(relid, number);
    unsafe { row_grants(place, role, privilege) }
}

unsafe fn columns_are_audited(
    role: pg_sys::Oid,
    relid: pg_sys::Oid,
    columns: *mut pg_sys::Bitmapset,
    privilege: u32,
) -> bool {
    unsafe {
        let mut member = -1;
        loop {
            member = raw::bms_next_member(columns, member);
            if member < 0 {
                return false;
            }
            let number = member + pg_sys::FirstLowInvalidHeapAttributeNumber;
            // 0 is the whole row.
            let found = if number == 0 {
                any_column_is_audited(role, relid, privilege)
            } else {
                column_is_audited(role, relid, number as i16, privilege)
            };
            if found {
                return true;
            }
        }
    }
}

/// What has an ACL.
enum Place {
    Relation(pg_sys::Oid),
    Column(pg_sys::Oid, i16),
}

/// Whether the ACL in a catalog's row grants one of the privileges to the role, or to one that it is
/// a member of.
unsafe fn row_grants(place: Place, role: pg_sys::Oid, privileges: u32) -> bool {
    use pg_sys::SysCacheIdentifier::{ATTNUM, RELOID};
    unsafe {
        let (cache, tuple, attribute) = match place {
            Place::Relation(relid) => (
                RELOID as c_int,
                raw::SearchSysCache1(RELOID as c_int, relid.into()),
                pg_sys::Anum_pg_class_relacl,
            ),
            Place::Column(relid, number) => (
                ATTNUM as c_int,
                raw::SearchSysCache2(ATTNUM as c_int, relid.into(), number.into()),
                pg_sys::Anum_pg_attribute_attacl,
            ),
        };
        if tuple.is_null() {
            return false;
        }
        let mut is_null = true;
        let datum = raw::SysCacheGetAttr(cache, tuple, attribute as i16, &mut is_null);
        let found = !is_null && acl_grants(datum, role, privileges);
        raw::ReleaseSysCache(tuple);
        found
    }
}

unsafe fn acl_grants(datum: pg_sys::Datum, role: pg_sys::Oid, privileges: u32) -> bool {
    unsafe {
        let acl = raw::pg_detoast_datum(datum.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
        // A one-dimensional array without NULLs: its length follows the header, its items follow
        // length and lower bound (utils/array.h, utils/acl.h).
        let head = acl.cast::<u8>().add(size_of::<pg_sys::ArrayType>());
        let count = head.cast::<i32>().read() as usize;
        let items = head.add(2 * size_of::<i32>()).cast::<pg_sys::AclItem>();
        for i in 0..count {
            let item = &*items.add(i);
            let public = item.ai_grantee == pg_sys::InvalidOid;
            if !public
                && item.ai_privs as u32 & privileges != 0
                && raw::has_privs_of_role(role, item.ai_grantee)
            {
                return true;
            }
        }
        false
    }
}
