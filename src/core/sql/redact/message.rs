//! Secrets that an error's message quotes from the statement.

use super::super::cut::Sink;
use super::edit::{Edit, REDACTED};
use super::may_hold_secret;

/// Writes an error's message. If the statement may hold a secret, what the message quotes from it
/// is replaced: in `syntax error at or near "…"` and its kin everything between the first and the
/// last quote, since scan.l quotes up to the end of the text where a literal is not terminated.
///
/// Messages are translated, so that the words are not looked at, only the quotes that the server's
/// translations use.
pub fn redact_error_message(message: &[u8], statement: &[u8], out: &mut impl Sink) {
    let mut edit = Edit::new(message, out);
    if may_hold_secret(statement) || may_hold_secret(message) {
        let open = QUOTES
            .iter()
            .filter_map(|quote| Some((memchr::memmem::find(message, quote)?, quote.len())))
            .min();
        let close = QUOTES
            .iter()
            .filter_map(|quote| memchr::memmem::rfind(message, quote))
            .max();
        if let Some((at, len)) = open {
            let start = at + len;
            let end = close.filter(|&end| end > at).unwrap_or(message.len());
            edit.replace(start, end.max(start), REDACTED);
        }
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
