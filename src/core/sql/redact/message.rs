//! Secrets in an error's message: those that it quotes from the statement, and its own.

use memchr::memmem;

use super::super::cut::Sink;
use super::super::lexer::is_ident;
use super::edit::{Edit, REDACTED};
use super::layer::Fragment;
use super::{Options, fragment, may_hold_secret, redact_into, unparsed};

/// The longest quoted name that is looked for in the statement.
const NAME: usize = 64;

/// So many of them are: each is a look through the whole statement, which nobody can interrupt. The server's
/// own messages have three at most.
const NAMES: usize = 8;

/// So many different ones are, however many errors there are in one statement. What else they quote then counts
/// as no name of it.
const LOOKED_FOR: usize = 16;

/// What was found in a statement, for its next error.
pub struct Seen {
    /// [`may_hold_secret`]
    secret: Option<bool>,
    /// [`unparsed::role_statement`]
    role: Option<bool>,
    names: [Name; LOOKED_FOR],
    count: usize,
}

/// A name that was looked for, and whether the redacted statement shows it.
#[derive(Clone, Copy)]
struct Name {
    bytes: [u8; NAME],
    len: usize,
    shown: bool,
}

impl Seen {
    pub const NOTHING: Seen = Seen {
        secret: None,
        role: None,
        names: [Name {
            bytes: [0; NAME],
            len: 0,
            shown: false,
        }; LOOKED_FOR],
        count: 0,
    };

    /// For another statement. (Writes to no more memory than it has to: a session pays for what it wrote to.)
    pub fn forget(&mut self) {
        (self.secret, self.role, self.count) = (None, None, 0);
    }

    /// Whether the statement shows the name, if that is known, or not to be found out any more.
    fn shows(&self, name: &[u8]) -> Option<bool> {
        let known = self.names.iter().take(self.count);
        let found = known.filter(|known| known.bytes.get(..known.len) == Some(name));
        let shown = found.map(|known| known.shown).next();
        shown.or((self.count == LOOKED_FOR).then_some(false))
    }

    fn keep(&mut self, name: &[u8], shown: bool) {
        if let Some(new) = self.names.get_mut(self.count)
            && let Some(bytes) = new.bytes.get_mut(..name.len())
        {
            bytes.copy_from_slice(name);
            (new.len, new.shown) = (name.len(), shown);
            self.count += 1;
        }
    }
}

/// Writes an error's message. If the statement may hold a secret, what the message quotes is
/// replaced, from the first quote to the last one: in `unterminated quoted string at or near "…"`
/// the server quotes all the rest of the text, with the quotes in it. Only if each quoted part is a
/// name that the redacted statement shows as well (`role "x" does not exist`) does it stay. The rest
/// of the message is looked through as a comment is: RAISE can put anything there.
///
/// Messages are translated, so that the words are not looked at, only the quotes that the server's
/// translations use. Where none of those is known for the encoding, the whole message goes.
pub fn redact_error_message(message: &[u8], statement: &[u8], out: &mut impl Sink) {
    redact_next_error_message(message, statement, &mut { Seen::NOTHING }, out);
}

/// As [`redact_error_message`]; `seen` is what it left of the same statement.
pub fn redact_next_error_message(
    message: &[u8],
    statement: &[u8],
    seen: &mut Seen,
    out: &mut impl Sink,
) {
    let mut edit = Edit::new(message, out);
    let len = message.len();
    let (start, end) = hidden(message, statement, seen).unwrap_or((len, len));
    let part = |start, end| Fragment {
        end,
        ..Fragment::raw(message, start)
    };
    fragment::redact(&part(0, start), false, &mut edit);
    edit.replace(start, end, REDACTED);
    fragment::redact(&part(end, len), false, &mut edit);
    edit.finish();
}

/// The part of the message that may quote a secret of the statement.
fn hidden(message: &[u8], statement: &[u8], seen: &mut Seen) -> Option<(usize, usize)> {
    let secret = *seen
        .secret
        .get_or_insert_with(|| may_hold_secret(statement));
    let utf8 = core::str::from_utf8(message).is_ok();
    let Some((start, end)) = quoted(message, utf8) else {
        return (secret && !utf8).then_some((0, message.len()));
    };
    let text = message.get(start..end).unwrap_or_default();
    let hides = if secret {
        !are_names_of(text, statement, seen)
    } else {
        // A literal of a role's statement in which PASSWORD is misspelt.
        let literal = match text.first() {
            Some(b'\'' | b'$') => true,
            Some(b'e' | b'E' | b'u' | b'U') => memchr::memchr(b'\'', text).is_some(),
            _ => false,
        };
        let role = || unparsed::role_statement(statement, true).is_some();
        literal && *seen.role.get_or_insert_with(role)
    };
    hides.then_some((start, end))
}

const QUOTES: [&[u8]; 8] = [
    b"\"",
    "«".as_bytes(),
    "»".as_bytes(),
    "„".as_bytes(),
    "“".as_bytes(),
    "”".as_bytes(),
    "「".as_bytes(),
    "」".as_bytes(),
];

/// The same in other encodings: LATIN1 and the like, WIN1252, EUC_JP.
const OTHER_QUOTES: [&[u8]; 10] = [
    b"\"",
    b"\xab",
    b"\xbb",
    b"\x84",
    b"\x93",
    b"\x94",
    b"\xa1\xd6",
    b"\xa1\xd7",
    b"\xa1\xc8",
    b"\xa1\xc9",
];

/// What is between the first quote and the last one, or the end if there is only one.
fn quoted(message: &[u8], utf8: bool) -> Option<(usize, usize)> {
    let quotes = if utf8 { &QUOTES[..] } else { &OTHER_QUOTES[..] };
    let (open, len) = quotes
        .iter()
        .filter_map(|quote| Some((memmem::find(message, quote)?, quote.len())))
        .min()?;
    let close = quotes
        .iter()
        .filter_map(|quote| memmem::rfind(message, quote))
        .max()
        .filter(|&close| close > open)
        .unwrap_or(message.len());
    Some((open + len, close))
}

/// Whether the quoted parts of `a" … "b` are names that the redacted statement holds.
fn are_names_of(text: &[u8], statement: &[u8], seen: &mut Seen) -> bool {
    let mut inside = true;
    for (at, part) in text.split(|&byte| byte == b'"').enumerate() {
        if inside && (at / 2 >= NAMES || !is_name_of(part, statement, seen)) {
            return false;
        }
        inside = !inside;
    }
    // An odd number of quotes: what is inside and what is not cannot be told.
    !inside
}

fn is_name_of(name: &[u8], statement: &[u8], seen: &mut Seen) -> bool {
    let is_plain = |&byte: &u8| part_of_name(byte) && byte != b'$';
    let mark = REDACTED.get(1..REDACTED.len() - 1).unwrap_or_default();
    if name.is_empty()
        || name.len() > NAME
        || !name.iter().all(is_plain)
        || name.eq_ignore_ascii_case(mark)
    {
        return false;
    }
    if let Some(shown) = seen.shows(name) {
        return shown;
    }
    let mut search = Search {
        wanted: name,
        word: [0; 2 * NAME],
        len: 0,
        found: false,
    };
    // Not parsed: of the two ways to read the text the one that leaves less.
    let options = Options {
        unparsed: true,
        ..Options::default()
    };
    redact_into(statement, options, &mut search);
    search.word_ends();
    seen.keep(name, search.found);
    search.found
}

/// Whether a byte may stand in a name, which can be qualified.
fn part_of_name(byte: u8) -> bool {
    is_ident(byte) || byte == b'.'
}

/// Looks for a name in a stream, in any case: as a word, or between the dots of one.
struct Search<'a> {
    wanted: &'a [u8],
    /// The word that the stream has come to, as far as it fits, and its length.
    word: [u8; 2 * NAME],
    len: usize,
    found: bool,
}

impl Search<'_> {
    fn word_ends(&mut self) {
        let word = self.word.get(..self.len).unwrap_or_default();
        let is_dot = |at: usize| word.get(at).is_none_or(|&byte| byte == b'.');
        self.found |= word
            .windows(self.wanted.len())
            .enumerate()
            .any(|(at, window)| {
                window.eq_ignore_ascii_case(self.wanted)
                    && (at == 0 || is_dot(at - 1))
                    && is_dot(at + window.len())
            });
        self.len = 0;
    }
}

impl Sink for Search<'_> {
    fn put(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if !part_of_name(byte) {
                self.word_ends();
                continue;
            }
            if let Some(place) = self.word.get_mut(self.len) {
                *place = byte;
            }
            self.len = self.len.saturating_add(1);
        }
    }
}
