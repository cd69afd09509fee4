//! The name of an object as the grammar gives it: what DROP, COMMENT, GRANT, ALTER … OWNER and their
//! like have in common. Written as the server's own pg_identify_object() does.
//!
//! Throws (catalog look-ups); the callers have nothing to drop.

use core::ffi::c_char;
use pgrx::pg_sys::{self, NodeTag::*, ObjectType::*};

use super::found::{dotted, existing, found, identifier, new, relation, relation_name, type_name};
use super::objects::before_last;
use crate::pg::lookup::{self, Kind};
use crate::pg::{compat, raw};

/// A function has at most so many arguments (FUNC_MAX_ARGS).
const MOST_ARGUMENTS: usize = 100;

/// The type of an object as SQL writes it; "" where statements don't name such objects.
pub fn kind_text(kind: pg_sys::ObjectType::Type) -> &'static str {
    match kind {
        OBJECT_ACCESS_METHOD => "ACCESS METHOD",
        OBJECT_AGGREGATE => "AGGREGATE",
        OBJECT_CAST => "CAST",
        OBJECT_COLLATION => "COLLATION",
        OBJECT_COLUMN => "COLUMN",
        OBJECT_CONVERSION => "CONVERSION",
        OBJECT_DATABASE => "DATABASE",
        OBJECT_DOMAIN => "DOMAIN",
        OBJECT_DOMCONSTRAINT => "DOMAIN CONSTRAINT",
        OBJECT_EVENT_TRIGGER => "EVENT TRIGGER",
        OBJECT_EXTENSION => "EXTENSION",
        OBJECT_FDW => "FOREIGN DATA WRAPPER",
        OBJECT_FOREIGN_SERVER => "FOREIGN SERVER",
        OBJECT_FUNCTION => "FUNCTION",
        OBJECT_LANGUAGE => "LANGUAGE",
        OBJECT_LARGEOBJECT => "LARGE OBJECT",
        OBJECT_OPCLASS => "OPERATOR CLASS",
        OBJECT_OPERATOR => "OPERATOR",
        OBJECT_OPFAMILY => "OPERATOR FAMILY",
        OBJECT_POLICY => "POLICY",
        OBJECT_PROCEDURE => "PROCEDURE",
        OBJECT_PUBLICATION => "PUBLICATION",
        OBJECT_ROLE => "ROLE",
        OBJECT_ROUTINE => "ROUTINE",
        OBJECT_RULE => "RULE",
        OBJECT_SCHEMA => "SCHEMA",
        OBJECT_STATISTIC_EXT => "STATISTICS",
        OBJECT_SUBSCRIPTION => "SUBSCRIPTION",
        OBJECT_TABCONSTRAINT => "CONSTRAINT",
        OBJECT_TABLESPACE => "TABLESPACE",
        OBJECT_TRANSFORM => "TRANSFORM",
        OBJECT_TRIGGER => "TRIGGER",
        OBJECT_TSCONFIGURATION => "TEXT SEARCH CONFIGURATION",
        OBJECT_TSDICTIONARY => "TEXT SEARCH DICTIONARY",
        OBJECT_TSPARSER => "TEXT SEARCH PARSER",
        OBJECT_TSTEMPLATE => "TEXT SEARCH TEMPLATE",
        OBJECT_TYPE => "TYPE",
        _ if compat::is_parameter(kind) => "PARAMETER",
        _ => "",
    }
}

/// Where names of such objects are looked for.
fn place(kind: pg_sys::ObjectType::Type) -> Option<Kind> {
    Some(match kind {
        OBJECT_TYPE | OBJECT_DOMAIN => Kind::Type,
        OBJECT_COLLATION => Kind::Collation,
        OBJECT_CONVERSION => Kind::Conversion,
        OBJECT_STATISTIC_EXT => Kind::Statistics,
        OBJECT_TSPARSER => Kind::TextSearchParser,
        OBJECT_TSDICTIONARY => Kind::TextSearchDictionary,
        OBJECT_TSTEMPLATE => Kind::TextSearchTemplate,
        OBJECT_TSCONFIGURATION => Kind::TextSearchConfiguration,
        _ => return None,
    })
}

pub fn is_relation(kind: pg_sys::ObjectType::Type) -> bool {
    matches!(
        kind,
        OBJECT_TABLE
            | OBJECT_SEQUENCE
            | OBJECT_VIEW
            | OBJECT_MATVIEW
            | OBJECT_INDEX
            | OBJECT_FOREIGN_TABLE
    )
}

/// Writes an object's name and returns its type. A relation is added to the relations instead, and ""
/// returned, as for what can't be named.
///
/// # Safety
/// `object` is what the grammar gives for such objects; in a transaction that is not aborted.
pub unsafe fn write(kind: pg_sys::ObjectType::Type, object: *mut pg_sys::Node) -> &'static str {
    unsafe {
        if object.is_null() {
            return "";
        }
        let list = object.cast::<pg_sys::List>();
        let is_list = (*object).type_ == T_List;
        match kind {
            _ if is_relation(kind) && is_list => {
                let (schema, name) = compat::last_two(list);
                relation(schema, name);
                return "";
            }
            OBJECT_COLUMN if is_list => {
                let (schema, name) = before_last(list);
                if name.is_null() {
                    return "";
                }
                relation_name(schema, name);
                found().name.push(b'.');
                identifier(compat::last_two(list).1);
            }
            OBJECT_POLICY | OBJECT_RULE | OBJECT_TABCONSTRAINT | OBJECT_TRIGGER if is_list => {
                let (schema, name) = before_last(list);
                identifier(compat::last_two(list).1);
                if !name.is_null() {
                    found().name.extend_from_slice(b" on ");
                    relation_name(schema, name);
                }
            }
            OBJECT_DOMCONSTRAINT if is_list => {
                let domain: *mut pg_sys::TypeName = at(list, 0);
                identifier(compat::string(at(list, 1)));
                found().name.extend_from_slice(b" on ");
                existing(Kind::Type, (*domain).names);
            }
            OBJECT_CAST if is_list => return cast(at(list, 0), at(list, 1)),
            OBJECT_TRANSFORM if is_list => {
                return transform(at(list, 0), compat::string(at(list, 1)));
            }
            OBJECT_OPCLASS | OBJECT_OPFAMILY if is_list => of_method(kind, list),
            _ => return write_plain(kind, object),
        }
        kind_text(kind)
    }
}

/// An element of a list that has it: the grammar says so.
unsafe fn at<T>(list: *const pg_sys::List, index: usize) -> *mut T {
    unsafe { (*(*list).elements.add(index)).ptr_value.cast() }
}

/// Objects whose node says by itself how they are named.
unsafe fn write_plain(kind: pg_sys::ObjectType::Type, object: *mut pg_sys::Node) -> &'static str {
    unsafe {
        match (*object).type_ {
            T_List => {
                let names = object.cast::<pg_sys::List>();
                match place(kind) {
                    Some(place) => existing(place, names),
                    None => {
                        let (schema, name) = compat::last_two(names);
                        dotted(schema, name);
                    }
                }
            }
            T_TypeName => existing_type(object.cast()),
            T_ObjectWithArgs if kind == OBJECT_OPERATOR => operator(object.cast()),
            T_ObjectWithArgs => routine(object.cast()),
            T_RoleSpec => identifier(super::objects::role(object.cast())),
            _ => match compat::constant(object) {
                // The dots of a setting are its own.
                compat::Constant::Text(name) if compat::is_parameter(kind) => {
                    found().name.extend_from_slice(raw::bytes(name));
                }
                // The number of a large object, where it is too large for an integer.
                compat::Constant::Text(name) if (*object).type_ == T_Float => {
                    found().name.extend_from_slice(raw::bytes(name));
                }
                compat::Constant::Text(name) => identifier(name),
                compat::Constant::Integer(number) => {
                    use std::io::Write;
                    let _ = write!(found().name, "{number}");
                }
                _ => return "",
            },
        }
        kind_text(kind)
    }
}

unsafe fn existing_type(name: *const pg_sys::TypeName) {
    unsafe {
        if (*name).names.is_null() || !(*name).arrayBounds.is_null() {
            type_name(name);
        } else {
            existing(Kind::Type, (*name).names);
        }
    }
}

/// A function, procedure or aggregate that exists, or should.
unsafe fn routine(object: *const pg_sys::ObjectWithArgs) {
    unsafe {
        let (schema, name) = compat::last_two((*object).objname);
        if (*object).args_unspecified {
            match lookup::only_function((*object).objname) {
                Some((schema, arguments)) => {
                    dotted(schema, name);
                    found().name.push(b'(');
                    for (i, argument) in arguments.iter().enumerate() {
                        if i > 0 {
                            found().name.push(b',');
                        }
                        let text = raw::format_type_be_qualified(*argument);
                        found().name.extend_from_slice(raw::bytes(text));
                    }
                    found().name.push(b')');
                }
                None => dotted(schema, name),
            }
            return;
        }
        let schema = if schema.is_null() {
            schema_of_function((*object).objargs, name)
        } else {
            schema
        };
        dotted(schema, name);
        types((*object).objargs);
    }
}

/// The schema where a function with such arguments is found; NULL where there is none.
unsafe fn schema_of_function(arguments: *const pg_sys::List, name: *const c_char) -> *const c_char {
    unsafe {
        let mut oids = [pg_sys::InvalidOid; MOST_ARGUMENTS];
        let count = if arguments.is_null() {
            0
        } else {
            (*arguments).length as usize
        };
        if count > MOST_ARGUMENTS {
            return core::ptr::null();
        }
        for (i, oid) in oids[..count].iter_mut().enumerate() {
            *oid = lookup::type_oid(at(arguments, i));
            if *oid == pg_sys::InvalidOid {
                return core::ptr::null();
            }
        }
        let vector = raw::buildoidvector(oids.as_ptr(), count as i32);
        lookup::schema_of(Kind::Function(vector), name)
    }
}

/// `(integer,pg_catalog.text)`
unsafe fn types(list: *const pg_sys::List) {
    unsafe {
        found().name.push(b'(');
        let mut comma = false;
        compat::for_each_pointer(list, |name: *mut pg_sys::TypeName| {
            if comma {
                found().name.push(b',');
            }
            comma = true;
            type_name(name);
        });
        found().name.push(b')');
    }
}

/// The arguments that make a function's identity: those that it is called with.
///
/// # Safety
/// `list` is a list of parameters; in a transaction that is not aborted.
pub unsafe fn parameters(list: *const pg_sys::List) {
    use pg_sys::FunctionParameterMode::{FUNC_PARAM_OUT, FUNC_PARAM_TABLE};
    unsafe {
        found().name.push(b'(');
        let mut comma = false;
        compat::for_each_pointer(list, |parameter: *mut pg_sys::FunctionParameter| {
            if matches!((*parameter).mode, FUNC_PARAM_OUT | FUNC_PARAM_TABLE) {
                return;
            }
            if comma {
                found().name.push(b',');
            }
            comma = true;
            type_name((*parameter).argType);
        });
        found().name.push(b')');
    }
}

/// `schema.===(integer,integer)`; an operator's name is not quoted.
unsafe fn operator(object: *const pg_sys::ObjectWithArgs) {
    unsafe {
        let arguments = (*object).objargs;
        if arguments.is_null() || (*arguments).length != 2 {
            return;
        }
        let (left, right) = (at(arguments, 0), at(arguments, 1));
        let (mut schema, name) = compat::last_two((*object).objname);
        if schema.is_null() {
            let place = Kind::Operator(lookup::type_oid(left), lookup::type_oid(right));
            schema = lookup::schema_of(place, name);
        }
        write_operator(schema, name, left, right);
    }
}

unsafe fn write_operator(
    schema: *const c_char,
    name: *const c_char,
    left: *const pg_sys::TypeName,
    right: *const pg_sys::TypeName,
) {
    unsafe {
        if !schema.is_null() {
            identifier(schema);
            found().name.push(b'.');
        }
        found().name.extend_from_slice(raw::bytes(name));
        found().name.push(b'(');
        type_name(left);
        found().name.push(b',');
        type_name(right);
        found().name.push(b')');
    }
}

/// `(integer AS s.t)`
///
/// # Safety
/// Both are type names; in a transaction that is not aborted.
pub unsafe fn cast(
    source: *const pg_sys::TypeName,
    target: *const pg_sys::TypeName,
) -> &'static str {
    unsafe {
        found().name.push(b'(');
        type_name(source);
        found().name.extend_from_slice(b" AS ");
        type_name(target);
        found().name.push(b')');
        "CAST"
    }
}

/// `for s.t on language plpgsql`
///
/// # Safety
/// A type name and a C string; in a transaction that is not aborted.
pub unsafe fn transform(type_: *const pg_sys::TypeName, language: *const c_char) -> &'static str {
    unsafe {
        found().name.extend_from_slice(b"for ");
        type_name(type_);
        found().name.extend_from_slice(b" on language ");
        identifier(language);
        "TRANSFORM"
    }
}

/// ` USING btree`, behind the name of an operator class or family.
///
/// # Safety
/// `method` is a C string.
pub unsafe fn using(method: *const c_char, kind: &'static str) -> &'static str {
    unsafe {
        found().name.extend_from_slice(b" USING ");
        identifier(method);
        kind
    }
}

/// An operator class or family that exists: its access method stands first in the list.
unsafe fn of_method(kind: pg_sys::ObjectType::Type, list: *const pg_sys::List) {
    unsafe {
        let method = compat::string(at(list, 0));
        let place = if kind == OBJECT_OPCLASS {
            Kind::OperatorClass(method)
        } else {
            Kind::OperatorFamily(method)
        };
        let (schema, name) = compat::last_two(list);
        let schema = if (*list).length > 2 {
            schema
        } else {
            lookup::schema_of(place, name)
        };
        dotted(schema, name);
        using(method, "");
    }
}

/// CREATE AGGREGATE, OPERATOR, TYPE, COLLATION, TEXT SEARCH ….
///
/// # Safety
/// In a transaction that is not aborted.
pub unsafe fn defined(stmt: &pg_sys::DefineStmt) -> &'static str {
    unsafe {
        if stmt.kind == OBJECT_OPERATOR {
            let (mut schema, name) = compat::last_two(stmt.defnames);
            if schema.is_null() {
                schema = lookup::creation_schema();
            }
            let left = type_option(stmt.definition, b"leftarg");
            let right = type_option(stmt.definition, b"rightarg");
            write_operator(schema, name, left, right);
            return "OPERATOR";
        }
        new(stmt.defnames);
        if stmt.kind == OBJECT_AGGREGATE {
            if !stmt.oldstyle && !stmt.args.is_null() {
                // The arguments, and the number of the direct ones.
                parameters(at(stmt.args, 0));
            } else {
                found().name.push(b'(');
                let base = type_option(stmt.definition, b"basetype");
                if !base.is_null() && !is_any(base) {
                    type_name(base);
                }
                found().name.push(b')');
            }
        }
        kind_text(stmt.kind)
    }
}

/// `BASETYPE = ANY`, the old way to say that an aggregate has no argument.
unsafe fn is_any(name: *const pg_sys::TypeName) -> bool {
    unsafe {
        let names = (*name).names;
        !names.is_null() && raw::bytes(compat::last_two(names).1).eq_ignore_ascii_case(b"any")
    }
}

/// The type that an option of a definition names; NULL where there is none.
unsafe fn type_option(options: *const pg_sys::List, name: &[u8]) -> *const pg_sys::TypeName {
    let mut found = core::ptr::null();
    unsafe {
        compat::for_each_pointer(options, |option: *mut pg_sys::DefElem| {
            let argument = (*option).arg;
            if raw::bytes((*option).defname) == name
                && !argument.is_null()
                && (*argument).type_ == T_TypeName
            {
                found = argument.cast::<pg_sys::TypeName>().cast_const();
            }
        });
    }
    found
}
