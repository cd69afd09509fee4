//! Texts of all databases in the encoding of the home. What can't be converted is kept escaped, so
//! that no content ever costs an event.

use core::ffi::c_int;
use pgrx::{PgTryBuilder, pg_sys};
use std::borrow::Cow;
use std::panic::AssertUnwindSafe;

/// PG_SQL_ASCII: bytes of no known encoding.
const SQL_ASCII: u8 = 0;

/// Converts into one encoding, that of the home.
#[derive(Clone, Copy)]
pub struct Texts {
    home: u8,
}

/// A text that can be stored, and whether it had to be escaped for that.
pub struct Storable<'a> {
    pub text: Cow<'a, [u8]>,
    pub escaped: bool,
}

impl Texts {
    /// Connected to the home.
    pub fn new() -> Self {
        Texts {
            home: unsafe { pg_sys::GetDatabaseEncoding() } as u8,
        }
    }

    pub fn encoding(self) -> u8 {
        self.home
    }

    /// Never throws. Needs a transaction where `encoding` differs from the home's.
    pub fn convert(self, text: &[u8], encoding: u8) -> Storable<'_> {
        // All encodings of databases agree on ASCII.
        if text.is_ascii() && !text.contains(&0) {
            return Storable {
                text: Cow::Borrowed(text),
                escaped: false,
            };
        }
        let as_is = self.home == SQL_ASCII || encoding == SQL_ASCII || encoding == self.home;
        let converted = match as_is {
            true => is_valid(text, self.home).then_some(Cow::Borrowed(text)),
            false => is_valid(text, encoding)
                .then(|| recode(text, encoding, self.home).map(Cow::Owned))
                .flatten(),
        };
        match converted {
            Some(text) => Storable {
                text,
                escaped: false,
            },
            None => Storable {
                text: Cow::Owned(escape(text)),
                escaped: true,
            },
        }
    }

    /// JSON is written in UTF-8 here, whatever the home's encoding is.
    pub fn convert_utf8(self, text: &[u8]) -> Storable<'_> {
        self.convert(text, pg_sys::pg_enc::PG_UTF8 as u8)
    }
}

/// Whether `text` is well-formed in an encoding, and without NUL. Never throws.
fn is_valid(text: &[u8], encoding: u8) -> bool {
    let exists = u32::from(encoding) < pg_sys::pg_enc::_PG_LAST_ENCODING_;
    // The server finds the function in a table, whatever the number is.
    exists
        && unsafe {
            pg_sys::pg_verify_mbstr(
                c_int::from(encoding),
                text.as_ptr().cast(),
                text.len() as c_int,
                true,
            )
        }
}

/// `None` where a character has no equivalent, or no conversion exists. The ERROR of a conversion
/// function is dropped without a subtransaction: it changed nothing but memory.
fn recode(text: &[u8], from: u8, to: u8) -> Option<Vec<u8>> {
    PgTryBuilder::new(AssertUnwindSafe(|| unsafe {
        let converted = pg_sys::pg_do_encoding_conversion(
            text.as_ptr().cast_mut(),
            text.len() as c_int,
            c_int::from(from),
            c_int::from(to),
        );
        if converted.is_null() || core::ptr::eq(converted, text.as_ptr()) {
            return None;
        }
        let copy = core::ffi::CStr::from_ptr(converted.cast())
            .to_bytes()
            .to_vec();
        pg_sys::pfree(converted.cast());
        Some(copy)
    }))
    .catch_others(|_| None)
    .execute()
}

/// Each byte that is not printable ASCII as `\xNN`; a backslash as itself.
pub fn escape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 16);
    for &byte in text {
        match byte {
            b'\n' | b'\r' | b'\t' | b' '..=b'~' => out.push(byte),
            _ => out.extend_from_slice(format!("\\x{byte:02x}").as_bytes()),
        }
    }
    out
}
