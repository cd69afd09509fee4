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
const CATALOGS: [u32; 27] = [
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
    // What runs when audit.verify() or the worker compares, casts, adds up or converts.
    2600, // pg_aggregate
    2601, // pg_am
    2602, // pg_amop
    2603, // pg_amproc
    2605, // pg_cast
    2607, // pg_conversion
    2612, // pg_language
    2616, // pg_opclass
    2617, // pg_operator
    3466, // pg_event_trigger
];
const SHARED_LABELS: u32 = 3592;
/// pg_inherits
pub const INHERITS: Oid = Oid::from_u32(2611);
/// pg_subscription_rel
pub const SUBSCRIBED: Oid = Oid::from_u32(6102);
const CONSTRAINTS: u32 = 2606;
const RULES: u32 = 2618;
const TRIGGERS: u32 = 2620;
const POLICIES: u32 = 3256;
/// pg_statistic_ext
const STATISTICS: u32 = 3381;

/// Whether rows of this catalog may only be changed by DDL. `home`: in the home of the trail.
#[inline]
pub fn is_catalog(relid: Oid, home: bool) -> bool {
    is_shared_labels(relid) || (home && CATALOGS.contains(&relid.to_u32()))
}

/// Whether this is the catalog with the label of the home, which no script of an extension has to do with.
pub fn is_shared_labels(relid: Oid) -> bool {
    relid.to_u32() == SHARED_LABELS
}

#[derive(Default)]
struct Members {
    /// (class, object), sorted; with the TOAST tables of relations.
    all: Vec<(u32, u32)>,
    extension: u32,
    schema: u32,
    /// An ERROR while it is read leaves half a list.
    is_whole: bool,
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
        if STALE || !members().is_whole {
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
        // What changes after the rows are read makes the list stale again.
        STALE = false;
        let found = members();
        found.is_whole = false;
        found.all.clear();
        found.extension = extension.to_u32();
        found.schema = 0;
        // refclassid, refobjid (catalog/pg_depend.h); index pg_depend_reference_index.
        let mut keys = [key(4, pg_sys::ExtensionRelationId), key(5, extension)];
        scan(depend, 2674, Now::Committed, &mut keys, |tuple, desc| {
            // classid, objid, deptype
            let class = raw::oid_column(tuple, 1, desc);
            let object = raw::oid_column(tuple, 2, desc);
            if raw::nocachegetattr(tuple, 7, desc).value() as u8 == b'e' {
                let found = members();
                if class == pg_sys::NamespaceRelationId {
                    found.schema = object.to_u32();
                }
                found.all.push((class.to_u32(), object.to_u32()));
            }
            true
        });
        // Where their long values are.
        for at in 0..members().all.len() {
            let (class, object) = members().all[at];
            if class == pg_sys::RelationRelationId.to_u32() {
                const TOAST: c_int = pg_sys::Anum_pg_class_reltoastrelid as c_int;
                let class = Oid::from_u32(class);
                let [toast, ..] = read(class, Oid::from_u32(object), [TOAST, 0, 0]);
                if toast != pg_sys::InvalidOid {
                    let toast = (class.to_u32(), toast.to_u32());
                    members().all.push(toast);
                }
            }
        }
        let found = members();
        found
            .all
            .push((pg_sys::ExtensionRelationId.to_u32(), found.extension));
        found.all.sort_unstable();
        found.is_whole = true;
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

/// The member that an object is or belongs to: itself; the relation of an index, trigger, rule, policy, statistics
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
            CONSTRAINTS => compat::CONSTRAINT_RELATIONS,
            _ => [column_of_table(class), 0],
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

/// The column of triggers, statistics, rules and policies that says which table they are on; 0 for other catalogs.
fn column_of_table(class: Oid) -> c_int {
    match class.to_u32() {
        TRIGGERS | STATISTICS => 2,
        RULES | POLICIES => 3,
        _ => 0,
    }
}

/// OID columns of a catalog's row; InvalidOid for column 0 and where there is no such row. Throws.
unsafe fn read(class: Oid, object: Oid, columns: [c_int; 3]) -> [Oid; 3] {
    let mut values = [pg_sys::InvalidOid; 3];
    unsafe {
        row_of(class, object, |tuple, desc| {
            for (value, column) in values.iter_mut().zip(columns) {
                if column != 0 {
                    // OID columns are NOT NULL in every catalog.
                    *value = raw::oid_column(tuple, column, desc);
                }
            }
            true
        });
    }
    values
}

/// A member on which a role was granted something. Throws; after [`learn`].
///
/// # Safety
/// In a transaction that is not aborted.
pub unsafe fn granted_to(role: Oid) -> Option<(Oid, Oid)> {
    let mut found = None;
    unsafe {
        // refclassid, refobjid (catalog/pg_shdepend.h); index pg_shdepend_reference_index.
        let mut keys = [key(5, pg_sys::AuthIdRelationId), key(6, role)];
        let depend = Oid::from_u32(1214);
        scan(depend, 1233, Now::Committed, &mut keys, |tuple, desc| {
            // dbid, classid, objid
            let [database, class, object] =
                [1, 2, 3].map(|column| raw::oid_column(tuple, column, desc));
            if database == pg_sys::MyDatabaseId && contains(class, object) {
                found = Some((class, object));
            }
            found.is_none()
        });
    }
    found
}

/// Whether the running transaction has written the row of a database, or removed it. Throws.
///
/// # Safety
/// In a transaction that is not aborted.
pub unsafe fn database_touched(database: Oid) -> bool {
    let mut touched = true; // there is no such row any more
    unsafe {
        row_of(pg_sys::DatabaseRelationId, database, |tuple, _| {
            let xmin = (*(*tuple).t_data).t_choice.t_heap.t_xmin;
            touched = raw::TransactionIdIsCurrentTransactionId(xmin);
            false
        });
    }
    touched
}

/// A relation of the server's that a subscription of this database is to write to: no hook hears of its
/// rows, and not every server refuses it. Throws.
///
/// # Safety
/// In a transaction that is not aborted.
pub unsafe fn subscribed_catalog() -> Option<Oid> {
    // srrelid (catalog/pg_subscription_rel.h)
    unsafe { first_row(SUBSCRIBED, [2, 2, 2], |[relid, ..]| is_pinned(relid)) }
}

/// A relation that is said to be where the shared catalogs are: it could be one of their files. They
/// themselves are found by the map of files, and no row says which is theirs. Throws.
///
/// # Safety
/// In a transaction that is not aborted.
pub unsafe fn in_shared_tablespace() -> Option<Oid> {
    // oid, relfilenode, reltablespace (catalog/pg_class.h)
    let wrong = |[relid, file, tablespace]: [Oid; 3]| {
        tablespace == pg_sys::GLOBALTABLESPACE_OID
            && (file != pg_sys::InvalidOid || !unsafe { raw::IsSharedRelation(relid) })
    };
    unsafe { first_row(pg_sys::RelationRelationId, [1, 8, 9], wrong) }
}

/// A catalog that is a partition, or has one: rows of the other would be routed to it, or its to that, which
/// no plan says. Throws.
///
/// # Safety
/// In a transaction that is not aborted.
pub unsafe fn inheriting_catalog() -> Option<Oid> {
    // inhrelid, inhparent (catalog/pg_inherits.h)
    let wrong = |[child, parent, _]: [Oid; 3]| is_pinned(child) || is_pinned(parent);
    unsafe { first_row(INHERITS, [1, 2, 2], wrong) }
}

/// Whether a relation, say, is a part of the server: a catalog, and no table of information_schema.
pub fn is_pinned(object: Oid) -> bool {
    /// FirstUnpinnedObjectId (access/transam.h)
    const FIRST_UNPINNED: u32 = 12_000;
    object.to_u32() < FIRST_UNPINNED
}

/// The catalog that a trigger, rule, policy or statistics are on: it would run, or be asked, where rows of the catalog are
/// written, also in the script of an extension. Throws.
///
/// # Safety
/// As for [`owner`].
pub unsafe fn hung_on_catalog(class: Oid, object: Oid) -> Option<Oid> {
    let table = column_of_table(class);
    if table == 0 {
        return None;
    }
    let [relid, ..] = unsafe { read(class, object, [table, 0, 0]) };
    is_catalog(relid, true).then_some(relid)
}

/// The first of these columns, of OIDs, in the first row that is `wrong`, be it that the running command has
/// just written it. Throws.
unsafe fn first_row(
    catalog: Oid,
    columns: [c_int; 3],
    wrong: impl Fn([Oid; 3]) -> bool,
) -> Option<Oid> {
    let mut found = None;
    unsafe {
        scan(catalog, 0, Now::Itself, &mut [], |tuple, desc| {
            let values = columns.map(|column| raw::oid_column(tuple, column, desc));
            if wrong(values) {
                found = Some(values[0]);
            }
            found.is_none()
        });
    }
    found
}

/// Which rows of a catalog are seen.
enum Now {
    /// Those of the catalog's own snapshot.
    Committed,
    /// Also those that the running command has just written.
    Itself,
}

/// A column of a catalog that has to be this OID.
unsafe fn key(column: c_int, value: Oid) -> pg_sys::ScanKeyData {
    unsafe {
        let mut key: pg_sys::ScanKeyData = core::mem::zeroed();
        raw::oid_key(&mut key, column as i16, value);
        key
    }
}

/// The row of a catalog with this OID, as the running command has left it. Throws.
unsafe fn row_of(
    class: Oid,
    object: Oid,
    f: impl FnMut(pg_sys::HeapTuple, pg_sys::TupleDesc) -> bool,
) {
    unsafe {
        let mut keys = [key(c_int::from(raw::get_object_attnum_oid(class)), object)];
        let index = raw::get_object_oid_index(class).to_u32();
        scan(class, index, Now::Itself, &mut keys, f);
    }
}

/// Gives `f` each row that fits, until it returns false; without keys all, and no index. Throws.
unsafe fn scan(
    catalog: Oid,
    index: u32,
    now: Now,
    keys: &mut [pg_sys::ScanKeyData],
    mut f: impl FnMut(pg_sys::HeapTuple, pg_sys::TupleDesc) -> bool,
) {
    unsafe {
        let relation = raw::table_open(catalog, pg_sys::AccessShareLock as c_int);
        let snapshot = match now {
            Now::Committed => core::ptr::null_mut(),
            Now::Itself => &raw mut pg_sys::SnapshotSelfData,
        };
        let scan = raw::systable_beginscan(
            relation,
            Oid::from_u32(index),
            !keys.is_empty(),
            snapshot,
            keys.len() as c_int,
            keys.as_mut_ptr(),
        );
        loop {
            let tuple = raw::systable_getnext(scan);
            if tuple.is_null() || !f(tuple, (*relation).rd_att) {
                break;
            }
        }
        raw::systable_endscan(scan);
        raw::table_close(relation, pg_sys::AccessShareLock as c_int);
    }
}
