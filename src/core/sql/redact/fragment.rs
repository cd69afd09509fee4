//! Secrets inside a literal or comment, where the text need not be SQL.
//!
//! There is no lexing here: a literal in a function body of another language, or an apostrophe in a
//! comment, would turn inside and outside round for all that follows. Each needle is looked at on
//! its own: the word around it and what stands directly behind it.
//!
//! Nested quotes are told by their number. A literal `k` levels down is enclosed in runs of
//! `2^k` quotes (`''''y''''`), and where it ends together with the literals around it the run is
//! longer by less than that.

mod literal;

use super::super::cut::Sink;
use super::super::lexer::{is_ident, is_space};
use super::edit::{Edit, REDACTED};
use super::layer::{Fragment, Layer};
use super::needle::{
    self, Needle, ends_in, is_secret_keyword, is_secret_name, is_secret_option, is_secret_variable,
};
use super::{conninfo, uri};

/// How far around a word its statement is looked at.
const NEAR: usize = 128;

/// The longest literal in which a role's statement may begin that goes on in another one.
const FAR: usize = 4096;

/// Redacts a fragment. `role` tells that a literal before named a role's statement. Returns whether
/// the secret is yet to come: the fragment is a piece of a statement that is put together
/// (`'ALTER ROLE x PASSWORD ' || …`), so that the literals that follow hold it.
pub fn redact<S: Sink>(fragment: &Fragment, role: bool, edit: &mut Edit<S>) -> bool {
    let within = fragment.text.get(..fragment.end).unwrap_or_default();
    let Some(found) = needle::find(within, fragment.start) else {
        return false;
    };
    let mut scan = Scan {
        fragment,
        edit,
        next: Some(found),
        open: false,
        looked: false,
        sets: begins_with_set(fragment),
        options: None,
        role: role.then_some(fragment.start),
    };
    let mut at = fragment.start;
    while let Some(pair) = conninfo::next(fragment, at) {
        at = if pair.secret {
            conninfo::redact(fragment, &pair, scan.edit, &mut scan.open)
        } else {
            // A value can be a connection string again, or a URI.
            scan.needles(at, pair.behind).max(pair.behind)
        };
    }
    scan.needles(at, fragment.end);
    scan.open
}

/// Whether a fragment holds the beginning of a role's statement. Only short ones are looked at: they
/// are the pieces that statements are put together of.
pub fn names_role(fragment: &Fragment) -> bool {
    fragment.end - fragment.start <= FAR && first_role(fragment) != usize::MAX
}

struct Scan<'f, 'a, 'e, 't, S> {
    fragment: &'f Fragment<'a>,
    edit: &'e mut Edit<'t, S>,
    /// The next needle to look at.
    next: Option<Needle>,
    open: bool,
    /// [`Scan::later`] has looked through the rest.
    looked: bool,
    /// The fragment begins with SET or ALTER.
    sets: bool,
    /// Where OPTIONS is first, where ALTER ROLE is first: `usize::MAX` if nowhere.
    options: Option<usize>,
    role: Option<usize>,
}

impl<S: Sink> Scan<'_, '_, '_, '_, S> {
    /// Looks at the needles between `at` and `end`; returns where to go on.
    fn needles(&mut self, mut at: usize, end: usize) -> usize {
        let fragment = self.fragment;
        let within = fragment.text.get(..fragment.end).unwrap_or_default();
        while let Some(found) = self.next.filter(|found| found.at < end) {
            if found.at >= at {
                at = if found.uri {
                    self.uri(found.at)
                } else {
                    self.word(found.at, at)
                };
            }
            self.next = needle::find(within, at.max(found.at + 1));
        }
        at
    }

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
        let whole = qualified(fragment, start, end, from);
        if let Some(next) = self.alone(whole, from) {
            return next;
        }
        let set = self.is_behind_set(whole.0, from);
        let sets = self.is_secret_set(whole, set);
        // "password" 'x' in OPTIONS
        let quoted = matches!(fragment.get(end), Some((b'"', _)));
        let behind = match sets {
            true => whole.1,
            false => end + usize::from(quoted),
        };
        let next = fragment.blanks_and_comments(behind);
        let dotted = fragment.byte(start.wrapping_sub(1)) == Some(b'.');
        let password = name.eq_ignore_ascii_case(b"password") && !quoted;
        let option = is_secret_option(name) && self.has_options(start);
        let role = password && !dotted && self.is_role_statement(start);
        let Some((byte, after)) = fragment.get(next) else {
            self.open |= role || option;
            return behind;
        };
        if byte == b'=' && (sets || !quoted) {
            return self.equals((start, end.max(whole.1)), after, sets, set);
        }
        let to = fragment.skip(next, 2);
        if sets && fragment.bytes(next, to).eq_ignore_ascii_case(b"to") {
            let value = fragment.blanks(to);
            return match self.value(value, set) {
                Some(end) => end,
                None if set => self.bare(value),
                // RENAME COLUMN password TO x
                None => value,
            };
        }
        if !password && !option {
            return behind;
        }
        match self.value(next, role || option) {
            Some(end) => end,
            None if role && !option => self.bare(next),
            None => behind,
        }
    }

    /// `password=…`: a connection string, a parameter of a URI, or a setting. `after` is behind the
    /// `=`; `sets` tells that it may be a setting, `set` that SET stands before it.
    fn equals(
        &mut self,
        (start, end): (usize, usize),
        after: usize,
        sets: bool,
        set: bool,
    ) -> usize {
        let fragment = self.fragment;
        let name = fragment.bytes(start, end);
        let doubled = conninfo::is_doubled(fragment, after);
        let keyword = is_secret_keyword(name);
        let before = fragment.byte(start.wrapping_sub(1));
        if matches!(before, Some(b'?' | b'&')) && is_secret_option(name) && !doubled {
            return conninfo::redact_parameter(fragment, after, self.edit);
        }
        let pair = keyword && conninfo::is_preceded_by_pair(fragment, start, end);
        // `PGPASSWORD=x psql`, `mysql --password=x`
        let glued = fragment.get(end).is_some_and(|(_, value)| value == after)
            && fragment.get(after).is_some_and(|(byte, _)| !is_space(byte));
        let shell = glued
            && !doubled
            && (is_secret_variable(name) || (before == Some(b'-') && is_secret_option(name)));
        let sets = sets && !doubled;
        if !pair && !shell && !sets {
            return after;
        }
        let known = pair || shell || set;
        let value = fragment.blanks(after);
        match fragment.get(value) {
            None => {
                self.open |= known;
                value
            }
            Some((b'\\', next)) if matches!(fragment.get(next), Some((b'\'', _))) => {
                self.escaped(next)
            }
            Some((b'\'', _)) if pair && self.ends_literal(value) => self.later(value, true),
            Some((b'\'', _)) => {
                let escapes = pair || fragment.layer == Layer::Escaped;
                self.quoted(value, escapes, known).unwrap_or(value)
            }
            _ if pair || shell => {
                let (end, open) = conninfo::redact_nested_value(fragment, value, self.edit);
                if open { self.later(end, true) } else { end }
            }
            _ => match self.value(value, set) {
                Some(end) => end,
                None if set => self.bare(value),
                None => value,
            },
        }
    }

    /// Redacts the literal at `at`; `None` if there is none. If it is surely a secret (`known`), it
    /// can also come later, in place of a placeholder.
    fn value(&mut self, at: usize, known: bool) -> Option<usize> {
        let fragment = self.fragment;
        let Some((byte, next)) = fragment.get(at) else {
            self.open |= known;
            return None;
        };
        let digit = matches!(fragment.get(next), Some((b'0'..=b'9', _)));
        let placeholder = conninfo::placeholder(fragment.bytes(at, fragment.end)).is_some();
        if placeholder || (byte == b'$' && digit) {
            return Some(self.later(next, known));
        }
        self.literal(at, known)
    }

    /// Redacts a value that should have been quoted, up to the end of the statement, of the line or
    /// of the literal around.
    fn bare(&mut self, at: usize) -> usize {
        let fragment = self.fragment;
        let word = fragment.bytes(at, fragment.span(at, is_ident));
        if word.eq_ignore_ascii_case(b"null") || word.eq_ignore_ascii_case(b"default") {
            return at + word.len();
        }
        let start = match fragment.get(at) {
            Some((b'"', inside)) => match fragment.get(inside) {
                Some((byte, _)) if is_ident(byte) => inside,
                // The end of a string in another language.
                _ => return self.later(at, true),
            },
            Some((b',' | b';' | b')' | b'|' | b'.' | b':' | b'=' | b'\'', _)) => return at,
            _ => at,
        };
        let end = fragment.span(start, |byte| {
            !matches!(byte, b';' | b'\'' | b'"' | b'\n' | b'\r')
        });
        self.edit.replace(start, end, REDACTED);
        end
    }

    /// The secret is yet to come, behind `at`, if it is `known` to be one: in the literals that
    /// follow, or in this one behind a literal in it that ends before `||` or a comma (or what stands
    /// for `||` in another language).
    fn later(&mut self, mut at: usize, known: bool) -> usize {
        let fragment = self.fragment;
        let here = at;
        if !known {
            return here;
        }
        self.open = true;
        if core::mem::replace(&mut self.looked, true) {
            return here;
        }
        let raw = fragment.layer == Layer::Raw;
        let quote = |byte: u8| byte == b'\'' || (raw && byte == b'"');
        loop {
            at = fragment.span(at, |byte| !quote(byte));
            let behind = fragment.span(at, quote);
            if behind <= at {
                return here;
            }
            let sign = fragment.blanks(behind);
            let more = fragment.span(sign, |byte| {
                matches!(byte, b'|' | b',') || (raw && matches!(byte, b'+' | b'.' | b'%'))
            });
            if more > sign {
                return self.rest(fragment.blanks(more));
            }
            at = behind;
        }
    }

    /// Redacts all from `at` on, of what puts the secret together.
    fn rest(&mut self, at: usize) -> usize {
        let fragment = self.fragment;
        self.open = true;
        self.edit.replace(at, fragment.end, REDACTED);
        fragment.end
    }

    /// Looks whether the name at `start..end` is a literal of its own, `'app.password'`, and redacts
    /// what follows it in `set_config('app.password', 'x', false)`. Returns where to go on if so.
    fn alone(&mut self, (start, end): (usize, usize), from: usize) -> Option<usize> {
        let fragment = self.fragment;
        let quote = |byte: u8| matches!(byte, b'\\' | b'\'');
        let before = fragment.bytes(near(fragment, start, from), start);
        let quotes = before.iter().rev().take_while(|&&byte| quote(byte)).count();
        let next = fragment.bytes(end, end + NEAR);
        let closing = next.iter().take_while(|&&byte| quote(byte)).count();
        if closing == 0 || quotes < closing {
            return None;
        }
        let behind = end + closing;
        let name = fragment.bytes(start, end);
        if !is_call(before.get(..before.len() - quotes)?, b"set_config") {
            let known = name.eq_ignore_ascii_case(b"password") && self.is_role_statement(start);
            return Some(self.later(end, known).max(behind));
        }
        if !is_secret_name(name) {
            return Some(behind);
        }
        // Casts and parentheses stand between.
        let comma = fragment.span(behind, |byte| {
            is_ident(byte) || is_space(byte) || matches!(byte, b':' | b')')
        });
        let value = match fragment.get(comma) {
            Some((b',', next)) => fragment.blanks(next),
            Some((b'|', _)) => return Some(self.rest(comma)),
            Some(_) => return Some(behind),
            None => comma,
        };
        let end = match self.value(value, true) {
            Some(end) => fragment.span(end, quote),
            None => fragment.span(value, |byte| is_ident(byte) || byte == b'.'),
        };
        match fragment.get(fragment.blanks(end)) {
            // Computed, or given by name.
            Some((b'(' | b'|' | b'%' | b'=', _)) => Some(self.rest(end)),
            None => {
                self.open = true;
                Some(end)
            }
            _ => Some(end),
        }
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
        first <= at
    }

    /// Whether the name at `start..end` is that of a secret that SET may set: the fragment begins
    /// with SET or ALTER, or SET stands before a name that is no column (`set`).
    fn is_secret_set(&self, (start, end): (usize, usize), set: bool) -> bool {
        let fragment = self.fragment;
        let name = fragment.bytes(start, end);
        if self.sets {
            return is_secret_name(name);
        }
        let own = name.contains(&b'.')
            || ends_in(name, b"primary_conninfo")
            || ends_in(name, b"ssl_passphrase_command");
        set && own && is_secret_name(name)
    }

    /// Whether SET stands before the name at `start`.
    fn is_behind_set(&self, start: usize, from: usize) -> bool {
        let fragment = self.fragment;
        let mut words = fragment
            .bytes(near(fragment, start, from), start)
            .rsplit(|&byte| !is_ident(byte))
            .filter(|word| !word.is_empty());
        words.next().is_some_and(|word| {
            let is = |keyword: &[u8]| ends_in(word, keyword);
            is(b"set") || is(b"local") || is(b"session")
        })
    }
}

/// Where to begin what is looked at before `at`, not before `from`.
fn near(fragment: &Fragment, at: usize, from: usize) -> usize {
    from.max(fragment.start)
        .max(at.saturating_sub(NEAR))
        .min(at)
}

/// Whether a fragment begins with SET or ALTER.
fn begins_with_set(fragment: &Fragment) -> bool {
    let start = fragment.blanks(fragment.start);
    let word = fragment.bytes(start, start + 6);
    let is = |keyword: &[u8]| {
        word.get(..keyword.len())
            .is_some_and(|begin| begin.eq_ignore_ascii_case(keyword))
            && word.get(keyword.len()).is_none_or(|&byte| is_space(byte))
    };
    is(b"set") || is(b"alter")
}

/// Whether a text ends in the name of a function, its parenthesis and no more than what begins a
/// literal.
fn is_call(text: &[u8], function: &[u8]) -> bool {
    let text = match text.split_last() {
        Some((b'e' | b'E' | b'n' | b'N', before)) => before,
        _ => text,
    };
    let open = |byte: &u8| is_space(*byte) || matches!(byte, b'(' | b'"' | b'\\');
    let end = text.iter().rposition(|byte| !open(byte));
    let (name, behind) = text.split_at(end.map_or(0, |end| end + 1));
    behind.contains(&b'(') && ends_in(name, function)
}

/// The whole of the dotted name that the word at `start..end` is a part of, with its quotes.
fn qualified(fragment: &Fragment, start: usize, end: usize, from: usize) -> (usize, usize) {
    let part = |byte: &&u8| is_ident(**byte) || matches!(**byte, b'.' | b'"');
    let before = fragment.bytes(near(fragment, start, from), start);
    let behind = fragment.bytes(end, end + NEAR);
    (
        start - before.iter().rev().take_while(part).count(),
        end + behind.iter().take_while(part).count(),
    )
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

/// Where ALTER or CREATE is followed by ROLE, USER or GROUP for the first time: `usize::MAX` if
/// nowhere.
fn first_role(fragment: &Fragment) -> usize {
    let mut verb = false;
    let mut at = fragment.start;
    loop {
        let start = fragment.span(at, |byte| !is_ident(byte));
        let end = fragment.span(start, is_ident);
        if end <= start {
            return usize::MAX;
        }
        let raw = fragment.bytes(start, end);
        // Behind the quote that continues a literal.
        let seam = raw.iter().rposition(|&byte| !is_ident(byte));
        let word = raw.get(seam.map_or(0, |at| at + 1)..).unwrap_or_default();
        // Behind an escape one level down: `\nALTER`.
        let escaped = match fragment.byte(start.wrapping_sub(1)) {
            Some(b'\\') => word.get(1..).unwrap_or_default(),
            _ => word,
        };
        let is = |keyword: &[u8]| {
            word.eq_ignore_ascii_case(keyword) || escaped.eq_ignore_ascii_case(keyword)
        };
        if verb && (is(b"role") || is(b"user") || is(b"group")) {
            return start;
        }
        verb = is(b"alter") || is(b"create");
        at = end;
    }
}
