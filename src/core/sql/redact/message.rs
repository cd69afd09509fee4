//! Secrets that an error's message quotes from the statement.

use memchr::memmem;

use super::super::cut::Sink;
use super::edit::{Edit, REDACTED};
use super::{Options, may_hold_secret, redact_into};

/// The longest quoted name that is looked for in the statement.
const NAME: usize = 64;

/// Writes an error's message. If the statement may hold a secret, what the message quotes is
/// replaced, from the first quote to the last one: in `unterminated quoted string at or near "…"`
/// the server quotes all the rest of the text, with the quotes in it. Only if each quoted part is a
/// name that the redacted statement shows as well (`role "x" does not exist`) does it stay.
///
/// Messages are translated, so that the words are not looked at, only the quotes that the server's
/// translations use.
pub fn redact_error_message(message: &[u8], statement: &[u8], out: &mut impl Sink) {
    let mut edit = Edit::new(message, out);
    if may_hold_secret(statement)
        && let Some((start, end)) = quoted(message)
        && !are_names_of(message.get(start..end).unwrap_or_default(), statement)
    {
        edit.replace(start, end, REDACTED);
    }
    edit.finish();
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

/// What is between the first quote and the last one, or the end if there is only one.
fn quoted(message: &[u8]) -> Option<(usize, usize)> {
    let (open, len) = QUOTES
        .iter()
        .filter_map(|quote| Some((memmem::find(message, quote)?, quote.len())))
        .min()?;
    let close = QUOTES
        .iter()
        .filter_map(|quote| memmem::rfind(message, quote))
        .max()
        .filter(|&close| close > open)
        .unwrap_or(message.len());
    Some((open + len, close))
}

/// Whether the quoted parts of `a" … "b` are names that the redacted statement holds.
fn are_names_of(text: &[u8], statement: &[u8]) -> bool {
    let mut inside = true;
    for part in text.split(|&byte| byte == b'"') {
        if inside && !is_name_of(part, statement) {
            return false;
        }
        inside = !inside;
    }
    // An odd number of quotes: what is inside and what is not cannot be told.
    !inside
}

fn is_name_of(name: &[u8], statement: &[u8]) -> bool {
    let is_plain =
        |&byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | 0x80..);
    if name.is_empty() || name.len() > NAME || !name.iter().all(is_plain) {
        return false;
    }
    let mut search = Search {
        wanted: name,
        tail: [0; NAME],
        len: 0,
        found: false,
    };
    // Not parsed: of the two ways to read the text the one that leaves less.
    let options = Options {
        unparsed: true,
        ..Options::default()
    };
    redact_into(statement, options, &mut search);
    search.found
}

/// Looks for a short text in a stream, in any case.
struct Search<'a> {
    wanted: &'a [u8],
    /// The last bytes seen, `len` of them, fewer than `wanted` has.
    tail: [u8; NAME],
    len: usize,
    found: bool,
}

impl Sink for Search<'_> {
    fn put(&mut self, bytes: &[u8]) {
        let keep = self.wanted.len() - 1;
        let is = |found: &[u8]| found.eq_ignore_ascii_case(self.wanted);
        // Over the seam: the tail and the beginning of what comes.
        let mut seam = [0; 2 * NAME];
        let more = bytes.len().min(keep);
        seam[..self.len].copy_from_slice(&self.tail[..self.len]);
        seam[self.len..self.len + more].copy_from_slice(&bytes[..more]);
        let seam = &seam[..self.len + more];
        self.found |=
            seam.windows(self.wanted.len()).any(is) || bytes.windows(self.wanted.len()).any(is);
        let last = if bytes.len() >= keep { bytes } else { seam };
        let last = &last[last.len() - keep.min(last.len())..];
        self.tail[..last.len()].copy_from_slice(last);
        self.len = last.len();
    }
}
