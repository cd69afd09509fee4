//! What goes with a DROP: the server tells of each object just before it drops it, when its name can
//! still be read. Only while a statement runs that drops: see [`drops_objects`].

use core::ffi::c_int;
use pgrx::pg_sys::{self, NodeTag::*};

use super::capture;
use super::engine::{engine, with};
use crate::pg::{compat, identity, names, raw};
use audit_core::drops::relation_of;

// pg_amop, pg_amproc, pg_attrdef, pg_constraint, …: fixed OIDs of the catalog.
const AMOP: u32 = 2602;
const AMPROC: u32 = 2603;
const ATTRDEF: u32 = 2604;
const CONSTRAINT: u32 = 2606;
const REWRITE: u32 = 2618;
const TRIGGER: u32 = 2620;
const POLICY: u32 = 3256;

/// Where names are made; emptied after each, as a DROP SCHEMA may make many.
static mut MEMORY: pg_sys::MemoryContext = core::ptr::null_mut();

/// Whether a statement may drop more than it names. Never throws.
///
/// # Safety
/// `node` is a utility statement.
pub unsafe fn drops_objects(node: *mut pg_sys::Node) -> bool {
    unsafe {
        match (*node).type_ {
            T_DropStmt | T_DropOwnedStmt => true,
            T_AlterTableStmt => alters_away(field!(node as AlterTableStmt.cmds)),
            T_AlterDomainStmt => field!(node as AlterDomainStmt.subtype) as u8 == b'X',
            _ => false,
        }
    }
}

unsafe fn alters_away(commands: *const pg_sys::List) -> bool {
    use pg_sys::AlterTableType;
    let mut found = false;
    unsafe {
        compat::for_each_pointer(commands, |command: *mut pg_sys::AlterTableCmd| {
            found |= matches!(
                (*command).subtype,
                AlterTableType::AT_DropColumn | AlterTableType::AT_DropConstraint
            );
        });
    }
    found
}

/// An object is about to be dropped. Throws (catalog look-ups); a plain frame.
///
/// # Safety
/// In the hook of object access; `arg` is the server's.
pub unsafe fn object_dropped(
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    sub: c_int,
    arg: *const pg_sys::ObjectAccessDrop,
) {
    unsafe {
        let wanted = capture::on_quietly()
            && engine()
                .innermost()
                .is_some_and(|frame| frame.captured && frame.drops_objects);
        let internal =
            !arg.is_null() && (*arg).dropflags as u32 & pg_sys::PERFORM_DELETION_INTERNAL != 0;
        // The operators and functions of an operator class go with it.
        let part = matches!(class.to_u32(), AMOP | AMPROC | ATTRDEF);
        if !wanted || internal || part || is_row_type(class, object) {
            return;
        }
        if MEMORY.is_null() {
            MEMORY = raw::AllocSetContextCreateInternal(
                pg_sys::TopMemoryContext,
                c"audit_ext drops".as_ptr(),
                0,
                8 * 1024,
                64 * 1024,
            );
        }
        // Where this throws, whoever handles the error sets the context anew.
        let before = pg_sys::CurrentMemoryContext;
        pg_sys::CurrentMemoryContext = MEMORY;
        note(class, object, sub);
        pg_sys::CurrentMemoryContext = before;
        raw::MemoryContextReset(MEMORY);
    }
}

unsafe fn note(class: pg_sys::Oid, object: pg_sys::Oid, sub: c_int) {
    unsafe {
        let address = pg_sys::ObjectAddress {
            classId: class,
            objectId: object,
            objectSubId: sub,
        };
        let kind = raw::getObjectTypeDescription(&address, true);
        let name = identity::of_dropped(&address);
        if kind.is_null() || name.is_null() {
            return;
        }
        let (kind, name) = (raw::bytes(kind), raw::bytes(name));
        if is_internal(class, kind, name) {
            return;
        }
        let mut parent = match class.to_u32() {
            CONSTRAINT | REWRITE | TRIGGER | POLICY => relation_of(name),
            _ => None,
        };
        if kind == b"index" {
            let table = raw::IndexGetRelation(object, true);
            if table != pg_sys::InvalidOid {
                names::learn_relation(table);
                parent = names::relation(table).map(|relation| &*relation.name);
            }
        }
        // From here on nothing throws.
        with(|engine| {
            if let Some(frame) = engine.innermost() {
                frame.add_drop(kind, name, parent);
            }
        });
    }
}

/// What nobody made: TOAST tables, array types, triggers of constraints, the relation of a composite
/// type (the type itself is told).
fn is_internal(class: pg_sys::Oid, kind: &[u8], name: &[u8]) -> bool {
    name.starts_with(b"pg_toast.")
        || (kind == b"type" && name.ends_with(b"[]"))
        || kind == b"composite type"
        || (class.to_u32() == TRIGGER && name.windows(19).any(|w| w == b"_ConstraintTrigger_"))
}

/// Whether it is the type of a table's rows. Throws.
unsafe fn is_row_type(class: pg_sys::Oid, object: pg_sys::Oid) -> bool {
    if class != pg_sys::TypeRelationId {
        return false;
    }
    unsafe {
        // The relation of a composite type goes before its type, a table after it.
        let relid = raw::get_typ_typrelid(object);
        relid != pg_sys::InvalidOid && raw::get_rel_relkind(relid) != 0
    }
}
