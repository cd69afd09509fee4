//! Secrets out of SQL text (spec/capture.md rule 10).
//!
//! What is replaced, each by `<REDACTED>`, all else being kept byte for byte:
//! * the literal behind the keyword PASSWORD; inside a body or a literal also what lacks its quotes
//!   there;
//! * in OPTIONS (…), the literal behind a name that holds password, passwd, secret, token,
//!   passphrase, scram_client_key or scram_server_key;
//! * the value of a setting whose name ends in password, passwd or passphrase, or has a dot and holds
//!   one of the words above (but not of the modules credcheck and passwordcheck), of primary_conninfo
//!   and ssl_passphrase_command, in SET, ALTER … SET, CREATE … SET and `set_config`; all literals of
//!   UPDATE pg_settings;
//! * in every literal and comment: the value of password= (and of libpq's other secrets) in a
//!   connection string, also one that is a value in another, and in those of other drivers
//!   (`a=b;password=c`); the password in a URI, and its parameters of such a name; `PGPASSWORD=x` and
//!   `--password=x` as a shell has them; and the same as above in SQL inside it, in dollar-quoted
//!   bodies as in the text itself;
//! * where such a literal ends where the secret should follow, or has a placeholder of `format`
//!   there, all literals of the statement behind it. That PASSWORD is a role's may be said in
//!   another literal before (`'ALTER ROLE ' || … || ' PASSWORD ' || …`);
//! * in text that does not parse, see [`Options::unparsed`]; in messages, [`redact_error_message`].
//!
//! What is *not* found:
//! * secrets that are data: `INSERT INTO t (password) VALUES ('x')`, `crypt('x', …)`, parameters of
//!   functions, JSON. Nothing tells them from any other value;
//! * keywords not written in one piece: with escapes in them (`U&"p\0061ssword"`) or over a seam
//!   of two pieces of a literal;
//! * options of foreign servers under other names (`api_key`, `credentials`);
//! * in SQL inside a quoted (not dollar-quoted) literal: what a comment of more than 4 kB separates
//!   from its keyword, UPDATE pg_settings, and literals that a program in another language puts
//!   together;
//! * what a variable carries from one statement of a body to another, unless it is only the
//!   beginning of a role's statement.
//!
//! What is replaced without need: where quotes are ambiguous, a password that is empty takes what
//! follows up to the next quotes with it; an unquoted `password=x` in a literal inside a literal
//! takes what is glued to it (`$tag$)`); where a statement is put together inside a quoted literal,
//! all the rest of that literal goes; a literal whose text only looks like one of the above (a comment
//! that says `alter role` and then `password`); in a statement that may hold a secret, of the names that its
//! errors quote, those after the 16th.

mod conninfo;
mod edit;
mod fragment;
mod layer;
mod message;
mod needle;
mod statement;
mod unparsed;
mod uri;

use super::cut::Sink;
use edit::Edit;
use std::borrow::Cow;

pub use message::{Seen, redact_error_message, redact_next_error_message};

/// How to read the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The session's setting of that name.
    pub standard_conforming_strings: bool,
    /// The text did not parse: when it holds one of the words that announce a secret, every literal
    /// and quoted identifier from the first of them on is replaced, what is not terminated up to the
    /// end. So is every literal of a role's statement, where that word may be misspelt, and what
    /// stands without quotes where a secret should be.
    pub unparsed: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            standard_conforming_strings: true,
            unparsed: false,
        }
    }
}

/// Whether the text may hold a secret. `false` means that [`redact_into`] would not change it, unless
/// it is a role's statement that did not parse.
#[unsafe(link_section = "audit_session")]
pub fn may_hold_secret(text: &[u8]) -> bool {
    first_needle(text).is_some()
}

fn first_needle(text: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let found = needle::find(text, from)?;
        if !found.uri || uri::may_have_password(text, found.at) {
            return Some(found.at);
        }
        from = found.end;
    }
}

/// So many of the text's first bytes are as they are whatever is redacted behind them.
pub fn kept_at_least(text: &[u8]) -> usize {
    first_needle(text).unwrap_or(text.len())
}

/// Whether the text's literals end elsewhere under the other value of `standard_conforming_strings`.
pub fn reads_two_ways(text: &[u8]) -> bool {
    memchr::memmem::find(text, br"\'").is_some()
}

/// A value that stands by itself without its secrets: those that it shows in whatever statement. Allocates only
/// where it may have one.
pub fn value_without_secrets(value: &[u8]) -> Cow<'_, [u8]> {
    if !may_hold_secret(value) {
        return value.into();
    }
    let mut shown = Vec::with_capacity(value.len());
    redact_setting(b"value", value, &mut shown);
    shown.into()
}

/// Appends the value of a setting without its secrets: what SET would be written with.
pub fn redact_setting(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    let quoted = |text: &mut Vec<u8>, quote: u8, inner: &[u8]| {
        text.push(quote);
        for byte in inner {
            text.push(*byte);
            if *byte == quote {
                text.push(quote);
            }
        }
        text.push(quote);
    };
    let mut text = b"SET ".to_vec();
    quoted(&mut text, b'"', name);
    text.extend_from_slice(b" = ");
    let before = text.len();
    quoted(&mut text, b'\'', value);
    if !may_hold_secret(&text) {
        return out.extend_from_slice(value);
    }
    let mut redacted = Vec::with_capacity(text.len());
    redact_into(&text, Options::default(), &mut redacted);
    let value = redacted.get(before..).unwrap_or_default();
    let inside = value.strip_prefix(b"'").and_then(|v| v.strip_suffix(b"'"));
    let Some(inside) = inside else {
        return out.extend_from_slice(value);
    };
    let mut bytes = inside.iter();
    while let Some(byte) = bytes.next() {
        out.push(*byte);
        if *byte == b'\'' {
            bytes.next();
        }
    }
}

/// Writes the text without its secrets.
pub fn redact_into(text: &[u8], options: Options, out: &mut impl Sink) {
    let plain = options.standard_conforming_strings;
    let first = first_needle(text);
    let role = match options.unparsed {
        true => unparsed::role_statement(text, plain),
        false => None,
    };
    if first.is_none() && role.is_none() {
        return out.put(text);
    }
    let mut edit = Edit::new(text, out);
    if options.unparsed {
        unparsed::redact(text, first, role, plain, &mut edit);
    } else {
        statement::redact(text, 0, text.len(), plain, 0, false, &mut edit);
    }
    edit.finish();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_settings() {
        for (name, value, redacted) in [
            ("work_mem", "4MB", "4MB"),
            ("my.password", "it's", "<REDACTED>"),
            ("x.note", "it's password", "it's password"),
            ("app.settings.jwt_secret", "it's", "<REDACTED>"),
            ("credcheck.password_min_length", "8", "8"),
            (
                "archive_command",
                "env AWS_SECRET_ACCESS_KEY=x aws s3 cp",
                "env AWS_SECRET_ACCESS_KEY=<REDACTED> aws s3 cp",
            ),
            ("primary_conninfo", "host=a password=b", "<REDACTED>"),
            (
                "x.conninfo",
                "host='a' password=secret port=1",
                "host='a' password=<REDACTED> port=1",
            ),
        ] {
            let mut out = Vec::new();
            redact_setting(name.as_bytes(), value.as_bytes(), &mut out);
            assert_eq!(String::from_utf8_lossy(&out), redacted, "{name}");
        }
    }
}
