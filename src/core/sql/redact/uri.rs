//! `scheme://user:password@host`.

use super::super::lexer::is_space;
use super::layer::Fragment;
use super::needle::ends_in;

/// How far behind the path's slash a password with a slash in it is looked for.
const FAR: usize = 1024;

/// Where the scheme begins that ends at `at`.
fn scheme_start(text: &[u8], start: usize, at: usize) -> usize {
    let bytes = text.get(start..at).unwrap_or_default();
    let len = bytes
        .iter()
        .rev()
        .take(16)
        .take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'.' | b'-'))
        .count();
    at - len
}

fn is_postgres(scheme: &[u8]) -> bool {
    ends_in(scheme, b"postgres") || ends_in(scheme, b"postgresql")
}

/// Where userinfo ends at the latest in a URI that something surrounds.
fn ends_uri(byte: u8) -> bool {
    is_space(byte) || matches!(byte, b'"' | b'<' | b'>')
}

/// Whether the URI whose `://` is at `at` may have a password. Never `false` where [`password`]
/// finds one, whatever the fragment.
pub fn may_have_password(text: &[u8], at: usize) -> bool {
    if is_postgres(text.get(scheme_start(text, 0, at)..at).unwrap_or_default()) {
        return true;
    }
    let rest = text.get(at + 3..).unwrap_or_default();
    let end = rest
        .iter()
        .position(|&byte| byte == b'/' || ends_uri(byte))
        .unwrap_or(rest.len());
    let authority = rest.get(..end).unwrap_or_default();
    memchr::memchr(b':', authority)
        .is_some_and(|colon| memchr::memrchr(b'@', authority).is_some_and(|host| host > colon))
}

/// Start and end of the password in the URI whose `://` is at `at`.
///
/// libpq ends the userinfo at the first `@`; the last one before the path is taken, so that an `@`
/// that should have been escaped betrays nothing.
pub fn password(fragment: &Fragment, at: usize) -> Option<(usize, usize)> {
    let text = fragment.text;
    let scheme = scheme_start(text, fragment.start, at);
    let postgres = is_postgres(text.get(scheme..at)?);
    let whole = postgres && fragment.blanks(fragment.start) >= scheme;
    let from = at + 3;
    let rest = text.get(from..fragment.end)?;
    let mut quote_before = false;
    let stop = |byte: u8| {
        // A doubled quote is part of the URI, a single one ends it.
        let lone = quote_before && byte != b'\'';
        quote_before = byte == b'\'' && !quote_before;
        byte == b'/' || (!whole && (ends_uri(byte) || lone))
    };
    let end = rest.iter().copied().position({
        let mut stop = stop;
        move |byte| stop(byte)
    });
    let end = end.unwrap_or(rest.len());
    let authority = rest.get(..end)?;
    let colon = memchr::memchr(b':', authority)?;
    let limit = match memchr::memchr(b'?', authority) {
        Some(query) if memchr::memchr(b'@', authority.get(..query)?).is_some() => query,
        _ => authority.len(),
    };
    let mut host = memchr::memrchr(b'@', authority.get(..limit)?).filter(|&host| host > colon);
    if host.is_none() && postgres && !is_port(authority.get(colon + 1..)?) {
        // A slash in the password: the server would not find the host either, but it was written.
        let far = rest.get(..rest.len().min(end + FAR))?;
        let far_end = far
            .iter()
            .skip(end)
            .position(|&byte| ends_uri(byte) || byte == b'\'')
            .map_or(far.len(), |found| end + found);
        host = memchr::memrchr(b'@', far.get(..far_end)?).filter(|&host| host > colon);
    }
    host.filter(|&host| host > colon + 1)
        .map(|host| (from + colon + 1, from + host))
}

fn is_port(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_digit)
}
