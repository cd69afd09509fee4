//! libpq connection strings: `host=h password='it\'s'`.

use super::super::cut::Sink;
use super::super::lexer::{is_ident, is_space};
use super::edit::{Edit, REDACTED};
use super::layer::Fragment;
use super::needle::is_secret_keyword;

/// How far before a `password=` another `keyword=value` is looked for.
const NEAR: usize = 256;

/// Redacts the pairs that the fragment begins with; returns where they end. `open` is set where the
/// last of them is a secret without a value, which is then yet to come.
pub fn redact<S: Sink>(fragment: &Fragment, edit: &mut Edit<S>, open: &mut bool) -> usize {
    let mut at = fragment.start;
    while let Some((name, value)) = pair(fragment, at) {
        let secret = is_secret_keyword(name);
        let value = fragment.blanks(value);
        let (start, mut end, behind) = match fragment.get(value) {
            Some((b'\'', inside)) => {
                let end = quoted_end(fragment, inside);
                let behind = fragment.skip(end, 1);
                match fragment.get(behind) {
                    // libpq refuses what is glued to the quote; perhaps it was meant to be inside.
                    Some((byte, _)) if secret && !is_space(byte) => {
                        (inside, fragment.end, fragment.end)
                    }
                    _ => (inside, end, behind),
                }
            }
            _ => {
                let end = unquoted_end(fragment, value);
                (value, end, end)
            }
        };
        at = behind;
        if !secret {
            continue;
        }
        if start == value {
            // What no pair follows is a value with blanks that should have been quoted.
            end = up_to_pair(fragment, end);
            at = end.max(at);
        }
        *open = start == end && fragment.blanks(at) >= fragment.end;
        let is_placeholder = fragment.bytes(start, end).starts_with(b"%") && end - start <= 6;
        if is_placeholder {
            *open = true;
        } else {
            edit.replace(start, end, REDACTED);
        }
    }
    at
}

/// The name of the `name =` at `at` and where its value begins.
fn pair<'a>(fragment: &Fragment<'a>, at: usize) -> Option<(&'a [u8], usize)> {
    let start = fragment.blanks(at);
    let end = fragment.span(start, |byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let equals = fragment.blanks(end);
    match fragment.get(equals) {
        Some((b'=', value)) if end > start => match fragment.get(value) {
            Some((b'>' | b'=', _)) => None,
            _ => Some((fragment.bytes(start, end), value)),
        },
        _ => None,
    }
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

/// Redacts the value of a parameter of a URI; returns where it ends.
pub fn redact_parameter<S: Sink>(fragment: &Fragment, at: usize, edit: &mut Edit<S>) -> usize {
    let end = fragment.span(at, |byte| {
        !is_space(byte) && !matches!(byte, b'&' | b'#' | b'\'' | b'"' | b'<' | b'>')
    });
    edit.replace(at, end, REDACTED);
    end
}

/// Redacts an unquoted value in a connection string that is itself inside quotes: it ends at a
/// blank or at those quotes. Returns where it ends.
pub fn redact_nested_value<S: Sink>(fragment: &Fragment, at: usize, edit: &mut Edit<S>) -> usize {
    let mut end = at;
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
    if !fragment.bytes(at, end).starts_with(b"%") {
        edit.replace(at, end, REDACTED);
    }
    end
}

/// Whether what precedes `at` is the beginning of a literal or another `keyword=value`, so that
/// the `password=` there belongs to a connection string. Looks at no more than a few words, to tell
/// it from `SET a = 1, password = crypt(x)` and `WHERE a = b AND password = x`.
pub fn is_preceded_by_pair(fragment: &Fragment, at: usize) -> bool {
    let from = fragment.start.max(at.saturating_sub(NEAR));
    let mut before = trim_end(fragment.bytes(from, at));
    match before.last() {
        None => return from == fragment.start,
        Some(b'\'' | b'"' | b'$') => return true,
        Some(b',' | b';' | b'(' | b')') => return false,
        Some(_) => {}
    }
    let word = before
        .iter()
        .rev()
        .take_while(|&&byte| !is_space(byte))
        .count();
    let (rest, chunk) = before.split_at(before.len() - word);
    if let Some(equals) = memchr::memchr(b'=', chunk) {
        // `a=b`, perhaps the first in its literal: `'a=b`
        let name = chunk.get(..equals).unwrap_or_default();
        return name.last().copied().is_some_and(is_ident);
    }
    // `a = b`
    before = trim_end(rest);
    match before.split_last() {
        Some((b'=', name)) => trim_end(name).last().copied().is_some_and(is_ident),
        _ => false,
    }
}

fn trim_end(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|&byte| !is_space(byte));
    end.and_then(|end| text.get(..=end)).unwrap_or_default()
}

/// Whether a fragment is a connection string: it begins with a keyword that libpq knows, or a URI.
pub fn begins(fragment: &Fragment) -> bool {
    const KEYWORDS: [&[u8]; 8] = [
        b"host",
        b"hostaddr",
        b"port",
        b"dbname",
        b"user",
        b"password",
        b"service",
        b"sslmode",
    ];
    let start = fragment.blanks(fragment.start);
    let begin = fragment.bytes(start, fragment.end);
    let scheme = |scheme: &[u8]| begin.get(..scheme.len()) == Some(scheme);
    scheme(b"postgres://")
        || scheme(b"postgresql://")
        || pair(fragment, start)
            .is_some_and(|(name, _)| KEYWORDS.iter().any(|word| name.eq_ignore_ascii_case(word)))
}

/// Redacts `password=x` with the word at `start..end` in a text that is no SQL.
pub fn redact_bare<S: Sink>(fragment: &Fragment, start: usize, end: usize, edit: &mut Edit<S>) {
    let Some((b'=', value)) = fragment.get(end) else {
        return;
    };
    let begins = |byte| !matches!(byte, b'\'' | b'>' | b'=');
    if fragment.get(value).is_some_and(|(byte, _)| begins(byte))
        && is_preceded_by_pair(fragment, start)
    {
        redact_nested_value(fragment, value, edit);
    }
}
