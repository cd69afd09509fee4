//! Secrets inside a literal or comment, where the text need not be SQL.
//!
//! There is no lexing here: a literal in a function body of another language, or an apostrophe in a
//! comment, would turn inside and outside round for all that follows. Each needle is looked at on
//! its own: the word around it and what stands directly behind it.
//!
//! Nested quotes are told by their number. A literal `k` levels down is enclosed in runs of
//! `2^k` quotes (`''''y''''`), and where it ends together with the literals around it the run is
//! longer by less than that.

use super::super::cut::Sink;
use super::super::lexer::{dollar_end, dollar_tag, is_ident, is_space};
use super::edit::{Edit, REDACTED};
use super::layer::{Fragment, Layer};
use super::needle::{self, is_secret_keyword, is_secret_option, is_secret_setting};
use super::{conninfo, uri};

/// Redacts a fragment. Returns whether its secret is yet to come: the fragment is a piece of a
/// statement that is put together (`'ALTER ROLE x PASSWORD ' || …`), so that the literals that
/// follow hold it.
pub fn redact<S: Sink>(fragment: &Fragment, edit: &mut Edit<S>) -> bool {
    let within = fragment.text.get(..fragment.end).unwrap_or_default();
    let Some(mut found) = needle::find(within, fragment.start) else {
        return false;
    };
    let mut scan = Scan {
        fragment,
        edit,
        open: false,
        options: None,
        role: None,
    };
    let mut at = conninfo::redact(fragment, scan.edit, &mut scan.open);
    loop {
        if found.at >= at {
            at = if found.uri {
                scan.uri(found.at)
            } else {
                scan.word(found.at, at)
            };
        }
        match needle::find(within, at.max(found.at + 1)) {
            Some(next) => found = next,
            None => return scan.open,
        }
    }
}

struct Scan<'f, 'a, 'e, S> {
    fragment: &'f Fragment<'a>,
    edit: &'f mut Edit<'e, S>,
    open: bool,
    /// Where OPTIONS is first, where ALTER ROLE is first: `usize::MAX` if nowhere.
    options: Option<usize>,
    role: Option<usize>,
}

impl<S: Sink> Scan<'_, '_, '_, S> {
    /// Redacts the URI whose `://` is at `at`; returns where to go on.
    fn uri(&mut self, at: usize) -> usize {
        match uri::password(self.fragment, at) {
            Some((start, end)) => {
                self.edit.replace(start, end, REDACTED);
                end
            }
            None => at + 3,
        }
    }

    /// Looks at the word around `at`, which begins at `from` at the earliest; returns where to go
    /// on.
    fn word(&mut self, at: usize, from: usize) -> usize {
        let fragment = self.fragment;
        let (start, end) = word_around(fragment, at, from);
        let name = fragment.bytes(start, end);
        // "password" 'x' in OPTIONS
        let quoted = matches!(fragment.get(end), Some((b'"', _)));
        let behind = if quoted { end + 1 } else { end };
        let next = fragment.blanks_and_comments(behind);
        let Some((byte, after)) = fragment.get(next) else {
            self.open |= name.eq_ignore_ascii_case(b"password") && self.is_role_statement(start);
            return end;
        };
        if byte == b'=' && !quoted {
            return self.equals(start, end, after);
        }
        if name.eq_ignore_ascii_case(b"password") && !quoted {
            if byte == b'%' || (byte == b'$' && dollar_tag(fragment.text, next).is_none()) {
                self.open |= self.is_role_statement(start);
                return end;
            }
        } else if is_secret_setting(name) && self.is_set_statement() {
            let to = fragment.skip(next, 2);
            if fragment.bytes(next, to).eq_ignore_ascii_case(b"to") {
                return self.literal(fragment.blanks(to), start).unwrap_or(end);
            }
            return end;
        } else if !(is_secret_option(name) && self.has_options(start)) {
            return end;
        }
        self.literal(next, start).unwrap_or(end)
    }

    /// `password=…`: a connection string, a parameter of a URI, or a setting.
    fn equals(&mut self, start: usize, end: usize, value: usize) -> usize {
        let fragment = self.fragment;
        let name = fragment.bytes(start, end);
        if matches!(fragment.get(value), Some((b'>' | b'=', _))) {
            return value;
        }
        let is_parameter =
            start > fragment.start && matches!(fragment.byte(start - 1), Some(b'?' | b'&'));
        if is_parameter && is_secret_keyword(name) {
            return conninfo::redact_parameter(fragment, value, self.edit);
        }
        if is_secret_setting(name) && self.is_set_statement() {
            return self.literal(fragment.blanks(value), start).unwrap_or(value);
        }
        if is_secret_keyword(name) && conninfo::is_preceded_by_pair(fragment, start) {
            let value = fragment.blanks(value);
            return match fragment.get(value) {
                Some((b'\\', next)) if matches!(fragment.get(next), Some((b'\'', _))) => {
                    self.escaped(next)
                }
                Some((b'\'', _)) if self.ends_literal(value) => value,
                Some((b'\'', _)) => self.quoted(value, true, start).unwrap_or(value),
                _ => conninfo::redact_nested_value(fragment, value, self.edit),
            };
        }
        value
    }

    /// Redacts the literal at `at`, whatever its quotes; `None` if there is none.
    fn literal(&mut self, at: usize, word: usize) -> Option<usize> {
        let fragment = self.fragment;
        let (first, next) = fragment.get(at)?;
        let second = fragment.get(next);
        match (first, second) {
            (b'\'', _) => self.quoted(at, fragment.layer == Layer::Escaped, word),
            (b'\\', Some((b'\'', _))) => Some(self.escaped(next)),
            (b'$', _) => self.dollar(at),
            (b'e' | b'E', Some((b'\'', _))) => self.quoted(next, true, word),
            (b'n' | b'N' | b'b' | b'B' | b'x' | b'X', Some((b'\'', _))) => {
                self.quoted(next, false, word)
            }
            (b'u' | b'U', Some((b'&', quote))) => match fragment.get(quote) {
                Some((b'\'', _)) => self.quoted(quote, false, word),
                _ => None,
            },
            _ => None,
        }
    }

    fn dollar(&mut self, at: usize) -> Option<usize> {
        let fragment = self.fragment;
        let within = fragment.text.get(..fragment.end)?;
        let body = dollar_tag(within, at)?;
        let tag = body - at;
        let end = dollar_end(within, body, tag).unwrap_or(fragment.end);
        self.edit.replace(body, end, REDACTED);
        Some((end + tag).min(fragment.end))
    }

    /// Redacts between the run of quotes at `at` and the run that closes it.
    fn quoted(&mut self, at: usize, escapes: bool, word: usize) -> Option<usize> {
        let fragment = self.fragment;
        let (run, behind) = fragment.quotes(at);
        let next = fragment.get(fragment.blanks(behind)).map(|(byte, _)| byte);
        let glued = fragment
            .get(behind)
            .is_some_and(|(byte, _)| !is_space(byte));
        let ends_here = matches!(next, None | Some(b'|' | b',' | b')' | b';'));
        if run > 1 && !run.is_power_of_two() && ends_here {
            // '…PASSWORD ''' || x: the literal and the one around it end together.
            self.open |= self.is_role_statement(word);
            return Some(behind);
        }
        let unit = 1usize << run.trailing_zeros();
        let start = fragment.skip(at, unit);
        let (end, closed) = closing(fragment, start, unit, escapes);
        if start == end {
            self.open |= next.is_none() && self.is_role_statement(word);
            return Some(behind);
        }
        if !closed && run > 1 && (!glued || ends_here) {
            // An empty literal.
            self.open |= next.is_none() && self.is_role_statement(word);
            return Some(behind);
        }
        if is_placeholder(fragment.bytes(start, end)) {
            self.open |= self.is_role_statement(word);
        } else {
            self.edit.replace(start, end, REDACTED);
        }
        Some(end)
    }

    /// Whether the quote behind `password=` is the end of a literal and not the beginning of the
    /// value: it is one quote, and no value is glued to it.
    fn ends_literal(&self, at: usize) -> bool {
        let (run, behind) = self.fragment.quotes(at);
        let glued = self
            .fragment
            .get(behind)
            .is_some_and(|(byte, _)| !is_space(byte) && !matches!(byte, b'|' | b',' | b')' | b';'));
        run == 1 && !glued
    }

    /// Redacts `\'…\'`, a literal in an E'' that is itself in quotes, so that backslashes and runs
    /// of quotes come together. `at` is that of the first run. Returns where the contents end.
    fn escaped(&mut self, at: usize) -> usize {
        let fragment = self.fragment;
        let (unit, start) = fragment.quotes(at);
        let mut at = start;
        let mut end = fragment.end;
        while let Some((byte, next)) = fragment.get(at) {
            match (byte, fragment.get(next)) {
                (b'\\', Some((b'\'', _))) => {
                    let behind = fragment.skip(next, unit);
                    let again = fragment.skip(behind, 1);
                    if let (Some((b'\\', _)), Some((b'\'', _))) =
                        (fragment.get(behind), fragment.get(again))
                    {
                        // A doubled quote.
                        at = fragment.skip(again, unit);
                        continue;
                    }
                    end = at;
                    break;
                }
                (b'\\', Some((b'\\', behind))) => {
                    // An escaped backslash, which escapes the quote that follows it.
                    let quote = fragment.skip(behind, 1);
                    let escapes = matches!(fragment.get(behind), Some((b'\\', _)))
                        && matches!(fragment.get(quote), Some((b'\'', _)));
                    at = if escapes {
                        fragment.skip(quote, unit)
                    } else {
                        behind
                    };
                }
                (b'\'', _) => {
                    end = at;
                    break;
                }
                _ => at = next,
            }
        }
        self.edit.replace(start, end, REDACTED);
        end.max(start)
    }

    /// Whether OPTIONS comes before `at`.
    fn has_options(&mut self, at: usize) -> bool {
        let fragment = self.fragment;
        let first = *self.options.get_or_insert_with(|| {
            let text = fragment.bytes(fragment.start, fragment.end);
            text.windows(7)
                .position(|window| window.eq_ignore_ascii_case(b"options"))
                .map_or(usize::MAX, |at| fragment.start + at)
        });
        first < at
    }

    /// Whether ALTER or CREATE, and ROLE, USER or GROUP come before `at`.
    fn is_role_statement(&mut self, at: usize) -> bool {
        let fragment = self.fragment;
        let first = *self.role.get_or_insert_with(|| first_role(fragment));
        first < at
    }

    /// Whether the fragment begins with SET or ALTER.
    fn is_set_statement(&self) -> bool {
        let start = self.fragment.blanks(self.fragment.start);
        let word = self.fragment.bytes(start, start + 6);
        let is = |keyword: &[u8]| {
            word.get(..keyword.len())
                .is_some_and(|begin| begin.eq_ignore_ascii_case(keyword))
                && word.get(keyword.len()).is_none_or(|&byte| is_space(byte))
        };
        is(b"set") || is(b"alter")
    }
}

/// The identifier around `at`, not looking before `from`. A letter that belongs to an escape before
/// (`\npassword`) is not part of it.
fn word_around(fragment: &Fragment, at: usize, from: usize) -> (usize, usize) {
    let before = fragment.bytes(from.max(fragment.start), at);
    let len = before
        .iter()
        .rev()
        .take_while(|&&byte| is_ident(byte))
        .count();
    let mut start = at - len;
    let word = fragment.bytes(start, at);
    if word.first() == Some(&b'$') {
        // The tag of a literal that begins there.
        start += memchr::memrchr(b'$', word).map_or(0, |last| last + 1);
    }
    if fragment.layer == Layer::Escaped && start > fragment.start {
        let before = fragment.bytes(from.max(fragment.start), start);
        let slashes = before
            .iter()
            .rev()
            .take_while(|&&byte| byte == b'\\')
            .count();
        if slashes % 2 == 1
            && let Some((_, next)) = fragment.get(start - 1)
        {
            start = next.min(at);
        }
    }
    let behind = fragment.bytes(at, fragment.end);
    let len = behind
        .iter()
        .position(|&byte| !is_ident(byte))
        .unwrap_or(behind.len());
    (start, at + len)
}

/// Where the contents end of a literal in runs of `unit` quotes, and whether it is closed there.
fn closing(fragment: &Fragment, start: usize, unit: usize, escapes: bool) -> (usize, bool) {
    let mut at = start;
    while let Some((byte, next)) = fragment.get(at) {
        if byte == b'\\' && escapes {
            let escaped = if let Some((b'\'', _)) = fragment.get(next) {
                unit
            } else {
                1
            };
            at = fragment.skip(next, escaped);
            continue;
        }
        if byte != b'\'' {
            at = next;
            continue;
        }
        let (run, behind) = fragment.quotes(at);
        let units = run / unit;
        if units % 2 == 1 {
            return (fragment.skip(at, (units - 1) * unit), true);
        }
        if run % unit != 0 {
            return (fragment.skip(at, units * unit), false);
        }
        at = behind;
    }
    (fragment.end, false)
}

/// `%s`, `%L`, `%1$s`
fn is_placeholder(text: &[u8]) -> bool {
    text.len() <= 6
        && text.first() == Some(&b'%')
        && matches!(text.last(), Some(b's' | b'L' | b'I'))
}

fn first_role(fragment: &Fragment) -> usize {
    let text = fragment.bytes(fragment.start, fragment.end);
    let mut verb = false;
    let mut at = 0;
    for word in text.split(|&byte| !is_ident(byte)) {
        let is = |keyword: &[u8]| word.eq_ignore_ascii_case(keyword);
        if verb && (is(b"role") || is(b"user") || is(b"group")) {
            return fragment.start + at;
        }
        if !word.is_empty() {
            verb = is(b"alter") || is(b"create");
        }
        at += word.len() + 1;
    }
    usize::MAX
}
