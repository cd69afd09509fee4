//! Stored values in the form that is hashed (audit_core::record, docs/integrity.md), the same for
//! the worker that stores them and for whoever verifies them.
//!
//! Everything throws (memory, detoasting) unless it says otherwise.

use audit_core::record::{
    BadSalt, Columns, Field, Kept, Salts, field_digest, kept_once_digest, stored_digest,
};
use audit_core::sha::Hash;
use core::cell::RefCell;
use core::ffi::CStr;
use pgrx::pg_sys::{self, Datum};

/// Types of columns, as far as their form differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// bigint, timestamptz
    Int8,
    Int4,
    /// text, bytea: their bytes
    Bytes,
    Jsonb,
    Texts,
    Inet,
}

use Kind::{Bytes, Inet, Int4, Int8, Jsonb, Texts};

/// A column of the database, by the kinds of [`SESSION`] and [`STATEMENT`].
type Row<const N: usize> = [Option<Datum>; N];

/// Columns of audit.session: name and kind. The last one is the salt of the one called `context`.
pub const SESSION: [(&str, Kind); 17] = [
    ("ref", Int8),
    ("session_id", Bytes),
    ("started_at", Int8),
    ("pid", Int4),
    ("user_name", Bytes),
    ("role_name", Bytes),
    ("auth_identity", Bytes),
    ("session_user_name", Bytes),
    ("database_name", Bytes),
    ("branch", Bytes),
    ("client_addr", Inet),
    ("client_port", Int4),
    ("application_name", Bytes),
    ("backend_type", Bytes),
    ("context", Jsonb),
    ("unstorable", Jsonb),
    ("salt", Bytes),
];

/// Columns of audit.statement. The last one is the salt of the one called `text`.
pub const STATEMENT: [(&str, Kind); 11] = [
    ("ref", Int8),
    ("class", Bytes),
    ("classes", Texts),
    ("command", Bytes),
    ("object_type", Bytes),
    ("object_name", Bytes),
    ("relations", Texts),
    ("query_id", Int8),
    ("text", Bytes),
    ("unstorable", Jsonb),
    ("salt", Bytes),
];

/// Kinds of the fields of an event, in the order of [`Field::OF_EVENT`].
const EVENT_FIELDS: [Kind; 5] = [Bytes, Bytes, Bytes, Texts, Jsonb];

/// Names of columns, separated by commas.
pub fn names<const N: usize>(columns: &[(&str, Kind); N]) -> String {
    columns.map(|(name, _)| name).join(", ")
}

/// A type's output function, looked up once.
struct Output(RefCell<Box<pg_sys::FmgrInfo>>);

impl Output {
    /// What the function keeps lives in `memory`.
    fn new(function: u32, memory: pg_sys::MemoryContext) -> Output {
        let mut info = Box::<pg_sys::FmgrInfo>::default();
        unsafe { pg_sys::fmgr_info_cxt(pg_sys::Oid::from(function), &mut *info, memory) };
        Output(RefCell::new(info))
    }

    fn with<R>(&self, datum: Datum, f: impl FnOnce(&[u8]) -> R) -> R {
        unsafe {
            let text = pg_sys::OutputFunctionCall(&mut **self.0.borrow_mut(), datum);
            let result = f(CStr::from_ptr(text).to_bytes());
            pg_sys::pfree(text.cast());
            result
        }
    }
}

/// The output functions that the canonical form uses.
pub struct Canon {
    jsonb: Output,
    texts: Output,
    inet: Output,
}

impl Canon {
    /// For use as long as `memory` lives.
    pub fn new(memory: pg_sys::MemoryContext) -> Canon {
        Canon {
            jsonb: Output::new(pg_sys::F_JSONB_OUT, memory),
            texts: Output::new(pg_sys::F_ARRAY_OUT, memory),
            inet: Output::new(pg_sys::F_INET_OUT, memory),
        }
    }

    /// Gives `f` the bytes that stand for a value.
    fn with<R>(&self, kind: Kind, datum: Datum, f: impl FnOnce(&[u8]) -> R) -> R {
        match kind {
            Int8 => f(&(datum.value() as i64).to_be_bytes()),
            Int4 => f(&i64::from(datum.value() as i32).to_be_bytes()),
            Bytes => content(datum, f),
            Jsonb => self.jsonb.with(datum, f),
            Texts => self.texts.with(datum, f),
            Inet => self.inet.with(datum, f),
        }
    }

    /// Digest of a row of audit.session.
    pub fn session(&self, row: &Row<17>) -> Result<Hash, BadSalt> {
        self.row(Columns::session(), &SESSION, row, Field::Context)
    }

    /// Digest of a row of audit.statement.
    pub fn statement(&self, row: &Row<11>) -> Result<Hash, BadSalt> {
        self.row(Columns::statement(), &STATEMENT, row, Field::Text)
    }

    fn row<const N: usize>(
        &self,
        mut columns: Columns,
        kinds: &[(&str, Kind); N],
        row: &Row<N>,
        erasable: Field,
    ) -> Result<Hash, BadSalt> {
        let column_of_field = match erasable {
            Field::Context => "context",
            _ => "text",
        };
        for ((name, kind), value) in kinds[..N - 1].iter().zip(row) {
            if *name == column_of_field {
                let digest = self.kept_once(erasable, *kind, *value, row[N - 1])?;
                columns.bytes(digest.as_ref().map(|d| &d[..]));
                continue;
            }
            match value {
                None => columns.bytes(None),
                Some(datum) => self.with(*kind, *datum, |bytes| {
                    columns.bytes(Some(bytes));
                    &mut columns
                }),
            };
        }
        Ok(columns.digest())
    }

    /// Digest of a value that is kept once, given its column `salt`.
    pub fn kept_once(
        &self,
        field: Field,
        kind: Kind,
        value: Option<Datum>,
        salt: Option<Datum>,
    ) -> Result<Option<Hash>, BadSalt> {
        let salt = salt.map(|salt| content(salt, <[u8]>::to_vec));
        match value {
            None => kept_once_digest(field, None, salt.as_deref()),
            Some(value) => self.with(kind, value, |bytes| {
                kept_once_digest(field, Some(bytes), salt.as_deref())
            }),
        }
    }

    /// Digests of an event's own fields, in the order of [`Field::OF_EVENT`].
    pub fn fields(
        &self,
        values: [Option<Datum>; 5],
        salts: Option<&Salts>,
    ) -> Result<[Option<Hash>; 5], BadSalt> {
        let mut digests = [None; 5];
        if salts.is_none() && values.iter().all(Option::is_none) {
            return Ok(digests);
        }
        for (i, field) in Field::OF_EVENT.into_iter().enumerate() {
            digests[i] = match values[i] {
                None => stored_digest(field, None, salts)?,
                Some(value) => {
                    let Some(Kept::Salt(salt)) = salts.and_then(|salts| salts.of(field)) else {
                        return Err(BadSalt);
                    };
                    let digest = |bytes: &[u8]| field_digest(field, &salt, bytes);
                    Some(self.with(EVENT_FIELDS[i], value, digest))
                }
            };
        }
        // A salt without anything to salt was not written by the worker.
        if salts.is_some() && digests.iter().all(Option::is_none) {
            return Err(BadSalt);
        }
        Ok(digests)
    }
}

/// Gives `f` the bytes of a text or bytea value, whatever its header or storage.
pub fn content<R>(datum: Datum, f: impl FnOnce(&[u8]) -> R) -> R {
    unsafe {
        let stored = datum.cast_mut_ptr::<pg_sys::varlena>();
        let plain = pg_sys::pg_detoast_datum_packed(stored);
        let bytes = core::slice::from_raw_parts(
            pgrx::varlena::vardata_any(plain).cast::<u8>(),
            pgrx::varlena::varsize_any_exhdr(plain),
        );
        let result = f(bytes);
        if plain != stored {
            pg_sys::pfree(plain.cast());
        }
        result
    }
}
