//! libpq connection strings: `host=h password='it\'s'`.

use super::super::cut::Sink;
use super::super::lexer::{is_ident, is_space};
use super::edit::{Edit, REDACTED};
use super::layer::Fragment;
use super::needle::{ends_in, is_secret_keyword};

/// How far before a `password=` another `keyword=value` is looked for.
const NEAR: usize = 256;

/// A `name=value` of a connection string.
pub struct Pair {
    /// The name is that of a secret.
    pub secret: bool,
    quoted: bool,
    /// The value without its quotes.
    start: usize,
    end: usize,
    /// Where to go on.
    pub behind: usize,
}

/// The pair at `at`.
pub fn next(fragment: &Fragment, at: usize) -> Option<Pair> {
    let (name, value) = pair(fragment, at)?;
    let secret = is_secret_keyword(name);
    let value = fragment.blanks(value);
    if let Some((b'\'', start)) = fragment.get(value) {
        let end = quoted_end(fragment, start);
        let behind = fragment.skip(end, 1);
        return Some(Pair {
            secret,
            quoted: true,
            start,
            end,
            behind,
        });
    }
    let end = unquoted_end(fragment, value);
    Some(Pair {
        secret,
        quoted: false,
        start: value,
        end,
        behind: end,
    })
}

/// Redacts the value of a pair; returns where to go on. `open` is set where the secret is yet to
/// come: there is a placeholder, or the fragment ends before the value.
pub fn redact<S: Sink>(
    fragment: &Fragment,
    pair: &Pair,
    edit: &mut Edit<S>,
    open: &mut bool,
) -> usize {
    let (start, mut end, mut behind) = (pair.start, pair.end, pair.behind);
    if pair.quoted {
        // libpq refuses what is glued to the quote; perhaps it was meant to be inside.
        let glued = |(byte, _): (u8, usize)| !is_space(byte);
        if fragment.get(behind).is_some_and(glued) {
            (end, behind) = (fragment.end, fragment.end);
        }
    } else {
        // What no pair follows is a value with blanks that should have been quoted.
        end = up_to_pair(fragment, end);
        behind = end.max(behind);
    }
    *open |= start == end && fragment.blanks(behind) >= fragment.end;
    *open |= redact_value(fragment, start, end, edit);
    behind
}

/// Redacts a value, unless it is a placeholder, which another literal fills. Returns whether it has
/// one.
fn redact_value<S: Sink>(
    fragment: &Fragment,
    start: usize,
    end: usize,
    edit: &mut Edit<S>,
) -> bool {
    let value = fragment.bytes(start, end);
    let placeholder = placeholder(value);
    if placeholder != Some(value.len()) {
        edit.replace(start, end, REDACTED);
    }
    placeholder.is_some()
}

/// The length of the placeholder of `format` that a text begins with: `%s`, `%L`, `%1$s`.
pub fn placeholder(text: &[u8]) -> Option<usize> {
    let rest = text.strip_prefix(b"%")?;
    let flags = rest
        .iter()
        .take_while(|byte| byte.is_ascii_digit() || matches!(byte, b'$' | b'-'))
        .count();
    matches!(rest.get(flags), Some(b's' | b'L' | b'I')).then_some(flags + 2)
}

/// The name of the `name =` at `at` and where its value begins. `a == b` and `a => b` are no pairs,
/// but to libpq `password==b` is one.
fn pair<'a>(fragment: &Fragment<'a>, at: usize) -> Option<(&'a [u8], usize)> {
    let start = fragment.blanks(at);
    let end = fragment.span(start, |byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let equals = fragment.blanks(end);
    match fragment.get(equals) {
        Some((b'=', value)) if end > start => {
            let is_pair = !is_doubled(fragment, value)
                || (equals == end && is_glued(fragment, fragment.skip(value, 1)));
            is_pair.then(|| (fragment.bytes(start, end), value))
        }
        _ => None,
    }
}

/// Whether what follows a `=` makes an operator of it: `==`, `=>`.
pub fn is_doubled(fragment: &Fragment, behind: usize) -> bool {
    matches!(fragment.get(behind), Some((b'>' | b'=', _)))
}

/// Whether there is something other than a blank.
fn is_glued(fragment: &Fragment, at: usize) -> bool {
    fragment.get(at).is_some_and(|(byte, _)| !is_space(byte))
}

fn quoted_end(fragment: &Fragment, mut at: usize) -> usize {
    while let Some((byte, next)) = fragment.get(at) {
        match byte {
            b'\'' => return at,
            b'\\' => at = fragment.skip(next, 1),
            _ => at = next,
        }
    }
    fragment.end
}

fn unquoted_end(fragment: &Fragment, mut at: usize) -> usize {
    while let Some((byte, next)) = fragment.get(at) {
        match byte {
            _ if is_space(byte) => break,
            b'\\' => at = fragment.skip(next, 1),
            _ => at = next,
        }
    }
    at
}

/// The end of the words from `at` on that are no pair.
fn up_to_pair(fragment: &Fragment, mut at: usize) -> usize {
    loop {
        let word = fragment.blanks(at);
        if word >= fragment.end || pair(fragment, word).is_some() {
            return at;
        }
        at = unquoted_end(fragment, word);
    }
}

/// Redacts the value of a parameter of a URI; returns where it ends. Where the whole fragment is a
/// URI, libpq takes all up to the next parameter.
pub fn redact_parameter<S: Sink>(fragment: &Fragment, at: usize, edit: &mut Edit<S>) -> usize {
    let whole = is_uri(fragment);
    let end = fragment.span(at, |byte| {
        byte != b'&' && (whole || !(is_space(byte) || matches!(byte, b'\'' | b'"')))
    });
    edit.replace(at, end, REDACTED);
    end
}

/// Redacts an unquoted value in a connection string that is itself inside quotes: it ends at a
/// blank or at those quotes, or it is in double quotes. Returns where it ends and whether the secret
/// is yet to come.
pub fn redact_nested_value<S: Sink>(
    fragment: &Fragment,
    at: usize,
    edit: &mut Edit<S>,
) -> (usize, bool) {
    let mut end = at;
    if let Some((b'"', inside)) = fragment.get(at)
        && fragment.get(inside).is_some_and(|(byte, _)| is_ident(byte))
    {
        end = fragment.span(inside, |byte| byte != b'"');
        return (end, redact_value(fragment, inside, end, edit));
    }
    if let Some((b'{', inside)) = fragment.get(at) {
        // ODBC's quotes.
        let near = fragment.bytes(inside, inside + NEAR);
        end = memchr::memchr(b'}', near).map_or(at, |close| inside + close);
    }
    while let Some((byte, next)) = fragment.get(end) {
        match byte {
            b'\\' => end = fragment.skip(next, 1),
            b'\'' => {
                let (run, behind) = fragment.quotes(end);
                let goes_on = fragment.get(behind).is_some_and(|(byte, _)| is_ident(byte));
                if run % 2 == 1 || !goes_on {
                    break;
                }
                end = behind;
            }
            b'"' => break,
            _ if is_space(byte) => break,
            _ => end = next,
        }
    }
    (end, redact_value(fragment, at, end, edit))
}

/// Whether what precedes the `name=` at `start..end` is the beginning of a literal or another
/// `keyword=value`, so that it belongs to a connection string. Looks at no more than a few words, to
/// tell it from `SET a = 1, password = crypt(x)` and `WHERE a = b AND password = x`.
pub fn is_preceded_by_pair(fragment: &Fragment, start: usize, end: usize) -> bool {
    let from = fragment.start.max(start.saturating_sub(NEAR));
    let before = trim_end(fragment.bytes(from, start));
    let value = match fragment.get(end) {
        Some((b'=', value)) => Some(value),
        _ => None,
    };
    let doubled = match fragment.get(fragment.blanks(end)) {
        Some((b'=', value)) => is_doubled(fragment, value),
        _ => false,
    };
    let skip = |value| fragment.skip(value, usize::from(doubled));
    let glued = value.is_some_and(|value| is_glued(fragment, skip(value)));
    if doubled && !glued {
        return false;
    }
    match before.split_last() {
        None => return from == fragment.start,
        Some((b'\'' | b'"', _)) => return true,
        Some((b'$', _)) => return !doubled,
        // Other drivers' connection strings: `Server=h;User Id=u;Password=x`
        Some((b';', rest)) if glued && !doubled => {
            let part = rest.rsplit(|byte| matches!(byte, b';' | b'\'' | b'"'));
            return part.take(1).any(is_pair);
        }
        // `h:6379,user=u,password=x`, but not `SET a=1,password=crypt($1)`
        Some((b',', rest)) if glued && !doubled => {
            let end = fragment.span(end, |byte| !is_space(byte) && byte != b',');
            let value = fragment.bytes(start, end);
            let computed = value.iter().any(|byte| matches!(byte, b'(' | b'$' | b':'));
            return !computed && is_pair(last_word(rest));
        }
        Some((b',' | b';' | b'(' | b')', _)) => return false,
        Some(_) => {}
    }
    let word = last_word(before);
    if memchr::memchr(b'=', word).is_some_and(|at| at > 0) {
        // `a=b`, perhaps the first in its literal: `'a=b`
        return is_pair(word);
    }
    // `a = b`
    let rest = before.get(..before.len() - word.len()).unwrap_or_default();
    match trim_end(rest).split_last() {
        Some((b'=', name)) => trim_end(name).last().copied().is_some_and(is_ident),
        _ => false,
    }
}

/// Whether a name stands right before the first `=`.
fn is_pair(text: &[u8]) -> bool {
    memchr::memchr(b'=', text)
        .and_then(|equals| text.get(equals.checked_sub(1)?))
        .is_some_and(|&byte| is_ident(byte))
}

fn last_word(text: &[u8]) -> &[u8] {
    let start = text.iter().rposition(|&byte| is_space(byte));
    text.get(start.map_or(0, |at| at + 1)..).unwrap_or_default()
}

fn trim_end(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|&byte| !is_space(byte));
    end.and_then(|end| text.get(..=end)).unwrap_or_default()
}

/// Whether a fragment is a connection string: it begins with a keyword that libpq knows, or a URI.
pub fn begins(fragment: &Fragment) -> bool {
    is_uri(fragment)
        || pair(fragment, fragment.start).is_some_and(|(name, _)| is_libpq_keyword(name))
}

fn is_libpq_keyword(name: &[u8]) -> bool {
    const KEYWORDS: [&[u8]; 25] = [
        b"host",
        b"hostaddr",
        b"port",
        b"dbname",
        b"user",
        b"password",
        b"passfile",
        b"service",
        b"servicefile",
        b"options",
        b"application_name",
        b"fallback_application_name",
        b"client_encoding",
        b"connect_timeout",
        b"tcp_user_timeout",
        b"channel_binding",
        b"replication",
        b"require_auth",
        b"requiressl",
        b"requirepeer",
        b"krbsrvname",
        b"target_session_attrs",
        b"load_balance_hosts",
        b"min_protocol_version",
        b"max_protocol_version",
    ];
    const FAMILIES: [&[u8]; 5] = [b"ssl", b"keepalives", b"gss", b"scram_", b"oauth_"];
    let begins = |with: &&[u8]| {
        name.get(..with.len())
            .is_some_and(|begin| begin.eq_ignore_ascii_case(with))
    };
    FAMILIES.iter().any(begins)
        || KEYWORDS
            .iter()
            .any(|word| name.len() == word.len() && ends_in(name, word))
}

/// Whether the fragment is a URI that libpq reads.
fn is_uri(fragment: &Fragment) -> bool {
    let start = fragment.blanks(fragment.start);
    let begin = fragment.bytes(start, fragment.end);
    begin.starts_with(b"postgres://") || begin.starts_with(b"postgresql://")
}

/// What the value of a `password=` outside of literals is, in a text that is no SQL.
pub enum Bare {
    /// None: there is no such pair.
    Nothing,
    /// It is redacted. Whether the secret is yet to come.
    Done(bool),
    /// A literal, which follows.
    Literal,
}

/// Redacts `password=x` with the word at `start..end` in a text that is no SQL.
pub fn redact_bare<S: Sink>(
    fragment: &Fragment,
    start: usize,
    end: usize,
    edit: &mut Edit<S>,
) -> Bare {
    let Some((b'=', value)) = fragment.get(fragment.blanks(end)) else {
        return Bare::Nothing;
    };
    if !is_preceded_by_pair(fragment, start, end) {
        return Bare::Nothing;
    }
    let value = fragment.blanks(value);
    match fragment.get(value) {
        None => Bare::Done(true),
        Some((b'\'', _)) => Bare::Literal,
        Some(_) => Bare::Done(redact_nested_value(fragment, value, edit).1),
    }
}
