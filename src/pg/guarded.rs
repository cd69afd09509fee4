//! What the guard protects: the members of extension audit_ext, by class and OID, kept per backend in
//! a sorted list, and what belongs to them (indexes, triggers, constraints …).
//!
//! The list is read again after an invalidation of one of its relations: the worker attaches a
//! partition (which invalidates the parent) in the transaction that makes it a member.

use core::ffi::c_int;
use pgrx::pg_sys::{self, Oid};

use super::{compat, raw};

/// Catalogs in which a row could be changed so that the guard, or the trail, is got round: refused
/// in the home. The first is shared, and refused in every database.
const CATALOGS: [u32; 17] = [
    SHARED_LABELS,
    1247, // pg_type
    1249, // pg_attribute
    1255, // pg_proc
    1259, // pg_class
    1214, // pg_shdepend
    2604, // pg_attrdef
    CONSTRAINTS,
    2608, // pg_depend
    2610, // pg_index
    2611, // pg_inherits
    2615, // pg_namespace
    RULES,
    TRIGGERS,
    3079, // pg_extension
    POLICIES,
    3350, // pg_partitioned_table
];
const SHARED_LABELS: u32 = 3592;
const CONSTRAINTS: u32 = 2606;
const RULES: u32 = 2618;
const TRIGGERS: u32 = 2620;
const POLICIES: u32 = 3256;

/// Whether rows of this catalog may only be changed by DDL. `home`: in the home of the trail.
#[inline]
pub fn is_catalog(relid: Oid, home: bool) -> bool {
    let relid = relid.to_u32();
    relid == SHARED_LABELS || (home && CATALOGS.contains(&relid))
}

#[derive(Default)]
struct Members {
    /// (class, object), sorted.
    all: Vec<(u32, u32)>,
    extension: u32,
    schema: u32,
}

static mut MEMBERS: Option<Members> = None;
static mut STALE: bool = true;
static mut WATCHED: bool = false;

/// SAFETY of all uses: one thread; no reference outlives a call that may run [`changed`].
fn members() -> &'static mut Members {
    unsafe { (*(&raw mut MEMBERS)).get_or_insert_default() }
}

unsafe extern "C-unwind" fn changed(_arg: pg_sys::Datum, relid: Oid) {
    unsafe {
        if relid == pg_sys::InvalidOid || contains(pg_sys::RelationRelationId, relid) {
            STALE = true;
        }
    }
}

/// Reads the list unless it is up to date. Throws.
///
/// # Safety
/// In a transaction that is not aborted, in the home.
#[inline]
pub unsafe fn learn() {
    unsafe {
        if STALE {
            load();
        }
    }
}

#[cold]
unsafe fn load() {
    unsafe {
        if !WATCHED {
            raw::CacheRegisterRelcacheCallback(Some(changed), pg_sys::Datum::null());
            WATCHED = true;
        }
        let extension = raw::get_extension_oid(c"audit_ext".as_ptr(), true);
        let depend = Oid::from_u32(2608);
        let relation = raw::table_open(depend, pg_sys::AccessShareLock as c_int);
        // What changes from here on makes the list stale again.
        STALE = false;
        let found = members();
        found.all.clear();
        found.extension = extension.to_u32();
        found.schema = 0;
        let mut keys: [pg_sys::ScanKeyData; 2] = core::mem::zeroed();
        // refclassid, refobjid (catalog/pg_depend.h); index pg_depend_reference_index.
        raw::oid_key(&mut keys[0], 4, pg_sys::ExtensionRelationId);
        raw::oid_key(&mut keys[1], 5, extension);
        let scan = raw::systable_beginscan(
            relation,
            Oid::from_u32(2674),
            true,
            core::ptr::null_mut(),
            2,
            keys.as_mut_ptr(),
        );
        loop {
            let tuple = raw::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            // classid, objid, deptype
            let desc = (*relation).rd_att;
            let class = raw::oid_column(tuple, 1, desc);
            let object = raw::oid_column(tuple, 2, desc);
            if raw::nocachegetattr(tuple, 7, desc).value() as u8 == b'e' {
                let found = members();
                if class == pg_sys::NamespaceRelationId {
                    found.schema = object.to_u32();
                }
                found.all.push((class.to_u32(), object.to_u32()));
            }
        }
        raw::systable_endscan(scan);
        raw::table_close(relation, pg_sys::AccessShareLock as c_int);
        let found = members();
        found
            .all
            .push((pg_sys::ExtensionRelationId.to_u32(), found.extension));
        found.all.sort_unstable();
    }
}

/// Whether an object is a member, or the extension. Never throws; after [`learn`].
#[inline]
pub fn contains(class: Oid, object: Oid) -> bool {
    let key = (class.to_u32(), object.to_u32());
    members().all.binary_search(&key).is_ok()
}

/// Whether a relation is a member. Never throws; after [`learn`].
#[inline]
pub fn has_relation(relid: Oid) -> bool {
    contains(pg_sys::RelationRelationId, relid)
}

/// The relations among the members. Never throws; after [`learn`].
pub fn relations() -> impl Iterator<Item = Oid> {
    let class = pg_sys::RelationRelationId.to_u32();
    let all = &members().all;
    let from = all.partition_point(|member| member.0 < class);
    all[from..]
        .iter()
        .take_while(move |member| member.0 == class)
        .map(|member| Oid::from_u32(member.1))
}

/// Whether the running script is that of the extension itself. Never throws; after [`learn`].
pub fn in_own_script() -> bool {
    // SAFETY: plain globals.
    unsafe {
        pg_sys::creating_extension && pg_sys::CurrentExtensionObject.to_u32() == members().extension
    }
}

/// The member that an object is or belongs to: itself; the relation of an index, trigger, rule, policy
/// or constraint (also one that refers to it); schema audit for what is in it. Rows that the running
/// command has just written count. Throws; after [`learn`].
///
/// # Safety
/// In a transaction that is not aborted; `class` is a catalog, `object` the OID of one of its rows.
pub unsafe fn owner(class: Oid, object: Oid) -> Option<(Oid, Oid)> {
    unsafe {
        if contains(class, object) {
            return Some((class, object));
        }
        if !raw::is_objectclass_supported(class) {
            return None;
        }
        let [table, other] = match class.to_u32() {
            TRIGGERS => [2, 0],
            RULES | POLICIES => [3, 0],
            CONSTRAINTS => compat::CONSTRAINT_RELATIONS,
            _ => [0, 0],
        };
        let schema = c_int::from(raw::get_object_attnum_namespace(class).max(0));
        let columns = [table, other, schema];
        if columns == [0; 3] {
            return None;
        }
        let values = read(class, object, columns);
        for relid in &values[..2] {
            if has_relation(*relid) {
                return Some((pg_sys::RelationRelationId, *relid));
            }
        }
        let schema = values[2];
        (schema != pg_sys::InvalidOid && schema.to_u32() == members().schema)
            .then_some((pg_sys::NamespaceRelationId, schema))
    }
}

/// OID columns of a catalog's row; InvalidOid for column 0 and where there is no such row. Throws.
unsafe fn read(class: Oid, object: Oid, columns: [c_int; 3]) -> [Oid; 3] {
    unsafe {
        let mut values = [pg_sys::InvalidOid; 3];
        let mut key: pg_sys::ScanKeyData = core::mem::zeroed();
        raw::oid_key(&mut key, raw::get_object_attnum_oid(class), object);
        let relation = raw::table_open(class, pg_sys::AccessShareLock as c_int);
        let scan = raw::systable_beginscan(
            relation,
            raw::get_object_oid_index(class),
            true,
            &raw mut pg_sys::SnapshotSelfData,
            1,
            &mut key,
        );
        let tuple = raw::systable_getnext(scan);
        if !tuple.is_null() {
            for (value, column) in values.iter_mut().zip(columns) {
                if column != 0 {
                    // OID columns are NOT NULL in every catalog.
                    *value = raw::oid_column(tuple, column, (*relation).rd_att);
                }
            }
        }
        raw::systable_endscan(scan);
        raw::table_close(relation, pg_sys::AccessShareLock as c_int);
        values
    }
}

/// A member on which a role was granted something. Throws; after [`learn`].
///
/// # Safety
/// In a transaction that is not aborted.
pub unsafe fn granted_to(role: Oid) -> Option<(Oid, Oid)> {
    unsafe {
        let mut keys: [pg_sys::ScanKeyData; 2] = core::mem::zeroed();
        // refclassid, refobjid (catalog/pg_shdepend.h); index pg_shdepend_reference_index.
        raw::oid_key(&mut keys[0], 5, pg_sys::AuthIdRelationId);
        raw::oid_key(&mut keys[1], 6, role);
        let relation = raw::table_open(Oid::from_u32(1214), pg_sys::AccessShareLock as c_int);
        let scan = raw::systable_beginscan(
            relation,
            Oid::from_u32(1233),
            true,
            core::ptr::null_mut(),
            2,
            keys.as_mut_ptr(),
        );
        let mut found = None;
        loop {
            let tuple = raw::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            // dbid, classid, objid
            let [database, class, object] =
                [1, 2, 3].map(|column| raw::oid_column(tuple, column, (*relation).rd_att));
            if database == pg_sys::MyDatabaseId && contains(class, object) {
                found = Some((class, object));
                break;
            }
        }
        raw::systable_endscan(scan);
        raw::table_close(relation, pg_sys::AccessShareLock as c_int);
        found
    }
}

/// Whether the running transaction has written the row of a database, or removed it. Throws.
///
/// # Safety
/// In a transaction that is not aborted.
pub unsafe fn database_touched(database: Oid) -> bool {
    unsafe {
        let class = pg_sys::DatabaseRelationId;
        let mut key: pg_sys::ScanKeyData = core::mem::zeroed();
        raw::oid_key(&mut key, raw::get_object_attnum_oid(class), database);
        let relation = raw::table_open(class, pg_sys::AccessShareLock as c_int);
        let scan = raw::systable_beginscan(
            relation,
            raw::get_object_oid_index(class),
            true,
            &raw mut pg_sys::SnapshotSelfData,
            1,
            &mut key,
        );
        let tuple = raw::systable_getnext(scan);
        let touched = tuple.is_null() || {
            let xmin = (*(*tuple).t_data).t_choice.t_heap.t_xmin;
            raw::TransactionIdIsCurrentTransactionId(xmin)
        };
        raw::systable_endscan(scan);
        raw::table_close(relation, pg_sys::AccessShareLock as c_int);
        touched
    }
}
