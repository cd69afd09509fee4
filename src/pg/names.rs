//! Names by OID, kept per backend so that a statement seen before needs no catalog look-up. Each
//! cache is emptied when the server says that a name may have changed.

use core::ffi::{c_char, c_int};
use pgrx::pg_sys;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::{asks, raw};

/// For keys that are OIDs: they are the server's own counter, nobody can make them collide on
/// purpose, and the default hash costs more than the rest of a look-up.
#[derive(Default)]
struct OidHasher(u64);

impl Hasher for OidHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }
    fn write_u32(&mut self, oid: u32) {
        // Fibonacci hashing: hashbrown takes the upper bits for its tags.
        self.0 = (self.0 ^ u64::from(oid)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

type ByOid<T> = HashMap<u32, T, BuildHasherDefault<OidHasher>>;

/// A relation as the trail names it.
pub struct Relation {
    /// Schema-qualified, quoted where needed.
    pub name: Box<[u8]>,
    /// `TABLE`, `VIEW`, …
    pub kind: &'static str,
    /// In pg_catalog, pg_toast or information_schema.
    pub catalog: bool,
}

/// A function as the trail names it.
pub struct Function {
    /// Schema-qualified, with the types of its arguments.
    pub name: Box<[u8]>,
    /// `FUNCTION`, `PROCEDURE` or `AGGREGATE`.
    pub kind: &'static str,
    /// In pg_catalog, or one of our own.
    pub internal: bool,
}

/// Upper bound of each cache: a backend that walks through more relations starts over.
const MOST: usize = 1024;

/// Relations that a cache has room for from the beginning.
const FEW: usize = 7;

struct Cache {
    relations: ByOid<Relation>,
    /// In the order of their OIDs: mostly one or two.
    roles: Vec<(u32, Box<[u8]>)>,
    functions: ByOid<Function>,
}

#[unsafe(link_section = "audit_data")]
static mut CACHE: Cache = Cache {
    relations: HashMap::with_hasher(BuildHasherDefault::new()),
    roles: Vec::new(),
    functions: HashMap::with_hasher(BuildHasherDefault::new()),
};

#[unsafe(link_section = "audit_data")]
static mut ROLES_VERSION: u32 = 0;
#[unsafe(link_section = "audit_data")]
static mut RELATIONS_VERSION: u32 = 0;

/// Changes when names of roles may have changed: the cache has forgotten them.
#[inline]
pub fn roles_version() -> u32 {
    unsafe { ROLES_VERSION }
}

/// Changes when names of relations may have changed: what was made of them has to be made anew.
#[inline]
pub fn relations_version() -> u32 {
    unsafe { RELATIONS_VERSION }
}

/// SAFETY of all uses: one thread; no reference outlives a call that may run a callback below.
fn cache() -> &'static mut Cache {
    unsafe { &mut *(&raw mut CACHE) }
}

/// Registers the callbacks that empty the caches, in the postmaster: its children inherit them.
/// Throws when there is no slot left (FATAL).
///
/// # Safety
/// From `_PG_init` only.
pub unsafe fn install() {
    fn relations_changed() {
        unsafe { RELATIONS_VERSION = RELATIONS_VERSION.wrapping_add(1) };
    }
    unsafe extern "C-unwind" fn relation_changed(_arg: pg_sys::Datum, relid: pg_sys::Oid) {
        relations_changed();
        if relid == pg_sys::InvalidOid {
            cache().relations.clear();
        } else {
            cache().relations.remove(&relid.to_u32());
        }
    }
    unsafe extern "C-unwind" fn schema_changed(_arg: pg_sys::Datum, _id: c_int, _hash: u32) {
        relations_changed();
        cache().relations.clear();
        cache().functions.clear();
    }
    unsafe extern "C-unwind" fn function_changed(_arg: pg_sys::Datum, _id: c_int, _hash: u32) {
        cache().functions.clear();
    }
    unsafe extern "C-unwind" fn role_changed(_arg: pg_sys::Datum, _id: c_int, _hash: u32) {
        cache().roles.clear();
        unsafe { ROLES_VERSION = ROLES_VERSION.wrapping_add(1) };
        asks::set_known_user(0);
    }
    cache().relations.reserve(FEW);
    let none = pg_sys::Datum::from(0);
    unsafe {
        raw::CacheRegisterRelcacheCallback(Some(relation_changed), none);
        raw::CacheRegisterSyscacheCallback(
            pg_sys::SysCacheIdentifier::NAMESPACEOID as c_int,
            Some(schema_changed),
            none,
        );
        raw::CacheRegisterSyscacheCallback(
            pg_sys::SysCacheIdentifier::AUTHOID as c_int,
            Some(role_changed),
            none,
        );
        for catalog in [
            pg_sys::SysCacheIdentifier::PROCOID,
            pg_sys::SysCacheIdentifier::TYPEOID,
        ] {
            raw::CacheRegisterSyscacheCallback(catalog as c_int, Some(function_changed), none);
        }
    }
}

/// A relation known to the cache. Never throws.
#[inline]
pub fn relation(relid: pg_sys::Oid) -> Option<&'static Relation> {
    cache().relations.get(&relid.to_u32())
}

/// Looks a relation up unless the cache has it. Throws; the caller has nothing to drop.
///
/// # Safety
/// In a transaction that is not aborted.
#[unsafe(link_section = "audit_session")]
pub unsafe fn learn_relation(relid: pg_sys::Oid) {
    unsafe {
        if relation(relid).is_some() {
            return;
        }
        let name = raw::get_rel_name(relid);
        if name.is_null() {
            return;
        }
        let schema = raw::get_namespace_name(raw::get_rel_namespace(relid));
        let relkind = raw::get_rel_relkind(relid);
        let quoted_schema = if schema.is_null() {
            c"".as_ptr()
        } else {
            raw::quote_identifier(schema)
        };
        let quoted_name = raw::quote_identifier(name);
        // From here on nothing throws.
        remember_relation(
            relid,
            raw::bytes(schema),
            quoted_schema,
            quoted_name,
            relkind,
        );
    }
}

#[unsafe(link_section = "audit_session")]
unsafe fn remember_relation(
    relid: pg_sys::Oid,
    schema: &[u8],
    quoted_schema: *const c_char,
    quoted_name: *const c_char,
    relkind: c_char,
) {
    let (quoted_schema, quoted_name) =
        unsafe { (raw::bytes(quoted_schema), raw::bytes(quoted_name)) };
    // One name for one's own temporary schema, whatever its number.
    let quoted_schema = if schema.starts_with(b"pg_temp_") {
        b"pg_temp"
    } else {
        quoted_schema
    };
    let relations = &mut cache().relations;
    if relations.len() >= MOST {
        relations.clear();
    }
    relations.insert(
        relid.to_u32(),
        Relation {
            name: qualified(quoted_schema, quoted_name),
            kind: kind_name(relkind as u8),
            catalog: matches!(schema, b"pg_catalog" | b"pg_toast" | b"information_schema"),
        },
    );
}

fn qualified(schema: &[u8], name: &[u8]) -> Box<[u8]> {
    let mut both = Vec::with_capacity(schema.len() + 1 + name.len());
    both.extend_from_slice(schema);
    both.push(b'.');
    both.extend_from_slice(name);
    both.into_boxed_slice()
}

/// The object type of a relation, by pg_class.relkind.
fn kind_name(relkind: u8) -> &'static str {
    match relkind {
        b'v' => "VIEW",
        b'm' => "MATERIALIZED VIEW",
        b'f' => "FOREIGN TABLE",
        b'S' => "SEQUENCE",
        b'i' | b'I' => "INDEX",
        b't' => "TOAST TABLE",
        b'c' => "COMPOSITE TYPE",
        _ => "TABLE",
    }
}

/// A role's name known to the cache. Never throws.
#[inline]
pub fn role(roleid: pg_sys::Oid) -> Option<&'static [u8]> {
    let roles = &cache().roles;
    let at = place_of_role(roleid).ok()?;
    Some(&*roles[at].1)
}

/// Where the role is, or would be.
#[inline]
fn place_of_role(roleid: pg_sys::Oid) -> Result<usize, usize> {
    let oid = roleid.to_u32();
    cache().roles.binary_search_by_key(&oid, |role| role.0)
}

/// Looks a role's name up unless the cache has it. Throws; the caller has nothing to drop.
///
/// # Safety
/// In a transaction that is not aborted.
#[unsafe(link_section = "audit_session")]
pub unsafe fn learn_role(roleid: pg_sys::Oid) {
    unsafe {
        if role(roleid).is_some() {
            return;
        }
        let name = raw::GetUserNameFromId(roleid, true);
        if name.is_null() {
            return;
        }
        // From here on nothing throws.
        remember_role(roleid, raw::bytes(name));
        raw::pfree(name.cast());
    }
}

/// What a role is called, which the server has just found. Never throws.
#[unsafe(link_section = "audit_session")]
pub fn remember_role(roleid: pg_sys::Oid, name: &[u8]) {
    const FEW_ROLES: usize = 4;
    let roles = &mut cache().roles;
    if roles.len() >= MOST {
        roles.clear();
    }
    if roles.capacity() == 0 {
        *roles = Vec::with_capacity(FEW_ROLES);
    }
    if let Err(at) = place_of_role(roleid) {
        roles.insert(at, (roleid.to_u32(), name.into()));
    }
}

/// A function known to the cache. Never throws.
#[inline]
pub fn function(oid: pg_sys::Oid) -> Option<&'static Function> {
    cache().functions.get(&oid.to_u32())
}

/// Looks a function up unless the cache has it. Throws; the caller has nothing to drop.
///
/// # Safety
/// In a transaction that is not aborted.
pub unsafe fn learn_function(oid: pg_sys::Oid) {
    unsafe {
        if function(oid).is_some() {
            return;
        }
        let schema = raw::get_func_namespace(oid);
        if schema == pg_sys::InvalidOid {
            return;
        }
        let kind = match raw::get_func_prokind(oid) as u8 {
            b'p' => "PROCEDURE",
            b'a' => "AGGREGATE",
            _ => "FUNCTION",
        };
        let name = raw::format_procedure_qualified(oid);
        let extension = raw::getExtensionOfObject(pg_sys::ProcedureRelationId, oid);
        let ours = extension != pg_sys::InvalidOid
            && extension == raw::get_extension_oid(c"audit_ext".as_ptr(), true);
        // From here on nothing throws.
        let functions = &mut cache().functions;
        if functions.len() >= MOST {
            functions.clear();
        }
        functions.insert(
            oid.to_u32(),
            Function {
                name: raw::bytes(name).into(),
                kind,
                internal: ours || schema.to_u32() == pg_sys::PG_CATALOG_NAMESPACE,
            },
        );
        raw::pfree(name.cast());
    }
}
