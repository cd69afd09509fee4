//! Secrets out of SQL text.

use super::cut::Sink;
use super::lexer::Lexer;

/// How to read the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The session's setting of that name.
    pub standard_conforming_strings: bool,
    /// The text did not parse: see [`redact_into`].
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

/// Whether the text may hold a secret. `false` means that [`redact_into`] would not change it.
pub fn may_hold_secret(text: &[u8]) -> bool {
    let lower = |needle: &[u8]| {
        text.windows(needle.len())
            .any(|window| window.eq_ignore_ascii_case(needle))
    };
    [
        &b"passw"[..],
        b"passphrase",
        b"secret",
        b"token",
        b"conninfo",
        b"://",
    ]
    .into_iter()
    .any(lower)
}

/// Writes the text without its secrets.
pub fn redact_into(text: &[u8], options: Options, out: &mut impl Sink) {
    // Stand-in: every literal of a text that may hold a secret.
    if !may_hold_secret(text) {
        return out.put(text);
    }
    for token in Lexer::new(text, options.standard_conforming_strings) {
        if token.kind.is_literal() {
            out.put(b"'<REDACTED>'");
        } else {
            out.put(token.of(text));
        }
    }
}

/// Writes an error's message without the fragment of the statement that it quotes, if the
/// statement may hold a secret.
pub fn redact_error_message(message: &[u8], statement: &[u8], out: &mut impl Sink) {
    let quote = memchr::memchr(b'"', message);
    match quote {
        Some(quote) if may_hold_secret(statement) => {
            out.put(message.get(..quote).unwrap_or_default());
            out.put(b"\"<REDACTED>\"");
        }
        _ => out.put(message),
    }
}
