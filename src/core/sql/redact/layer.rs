//! The contents of a literal as the server would decode them, with their places in the raw text.

use super::super::lexer::{Kind, Token, continuation_quote, dollar_tag, is_space};

/// The longest comment that is looked behind.
const FAR: usize = 4096;

/// What the bytes of a fragment stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// Themselves: a dollar-quoted string, a comment.
    Raw,
    /// `''` is a quote; a lone quote is the seam between two pieces of a continued string.
    Quoted,
    /// As `Quoted`, with backslashes.
    Escaped,
}

/// A part of a text in a layer. Positions are offsets in the whole text.
#[derive(Clone, Copy)]
pub struct Fragment<'a> {
    pub text: &'a [u8],
    pub start: usize,
    pub end: usize,
    pub layer: Layer,
}

impl<'a> Fragment<'a> {
    /// The text from `start` on.
    pub fn raw(text: &'a [u8], start: usize) -> Self {
        let end = text.len();
        Fragment {
            text,
            start: start.min(end),
            end,
            layer: Layer::Raw,
        }
    }

    /// What is between a token's quotes, or the whole token if it has none.
    pub fn inside(text: &'a [u8], token: Token, standard_conforming_strings: bool) -> Self {
        let bytes = token.of(text);
        let close = usize::from(!token.unterminated);
        let quote = |byte| memchr::memchr(byte, bytes).map_or(0, |at| at + 1);
        let (open, close, layer) = match token.kind {
            Kind::DollarString => {
                let tag = dollar_tag(bytes, 0).unwrap_or(0);
                (tag, tag * close, Layer::Raw)
            }
            Kind::EscapeString => (quote(b'\''), close, Layer::Escaped),
            Kind::String if !standard_conforming_strings => (quote(b'\''), close, Layer::Escaped),
            Kind::String | Kind::UnicodeString => (quote(b'\''), close, Layer::Quoted),
            Kind::BitString => (quote(b'\''), close, Layer::Raw),
            Kind::QuotedIdent | Kind::UnicodeIdent => (quote(b'"'), close, Layer::Raw),
            Kind::LineComment => (2, 0, Layer::Raw),
            Kind::BlockComment => (2, 2 * close, Layer::Raw),
            _ => (0, 0, Layer::Raw),
        };
        let end = token.end.saturating_sub(close);
        let start = (token.start + open).min(end);
        Fragment {
            text,
            start,
            end,
            layer,
        }
    }

    pub fn byte(&self, at: usize) -> Option<u8> {
        self.text
            .get(at)
            .copied()
            .filter(|_| at >= self.start && at < self.end)
    }

    pub fn bytes(&self, start: usize, end: usize) -> &'a [u8] {
        self.text.get(start..end.min(self.end)).unwrap_or_default()
    }

    /// The decoded byte at `at` and where the next one is. Characters above ASCII that are written
    /// as escapes come as 0xff.
    pub fn get(&self, mut at: usize) -> Option<(u8, usize)> {
        loop {
            let byte = self.byte(at)?;
            return match (self.layer, byte) {
                (Layer::Raw, _) => Some((byte, at + 1)),
                (_, b'\'') if self.byte(at + 1) == Some(b'\'') => Some((byte, at + 2)),
                (_, b'\'') => {
                    match continuation_quote(self.text, at + 1).filter(|&next| next < self.end) {
                        Some(next) => {
                            at = next + 1;
                            continue;
                        }
                        None => Some((byte, at + 1)),
                    }
                }
                (Layer::Escaped, b'\\') => Some(self.escape(at)),
                _ => Some((byte, at + 1)),
            };
        }
    }

    fn escape(&self, at: usize) -> (u8, usize) {
        let digits = |from: usize, most: usize, radix: u32| {
            let mut value = 0u32;
            let mut end = from;
            while end < from + most {
                let digit = self
                    .byte(end)
                    .and_then(|byte| char::from(byte).to_digit(radix));
                let Some(digit) = digit else { break };
                value = value.wrapping_mul(radix) | digit;
                end += 1;
            }
            (value, end)
        };
        let ascii = |value: u32| {
            u8::try_from(value)
                .ok()
                .filter(u8::is_ascii)
                .unwrap_or(0xff)
        };
        let (byte, next) = match self.byte(at + 1) {
            None => return (b'\\', at + 1),
            Some(b'0'..=b'7') => {
                let (value, next) = digits(at + 1, 3, 8);
                (ascii(value), next)
            }
            Some(kind @ (b'x' | b'u' | b'U')) => {
                let most = match kind {
                    b'x' => 2,
                    b'u' => 4,
                    _ => 8,
                };
                let (value, next) = digits(at + 2, most, 16);
                if next == at + 2 {
                    (kind, next)
                } else {
                    (ascii(value), next)
                }
            }
            Some(b'n') => (b'\n', at + 2),
            Some(b'r') => (b'\r', at + 2),
            Some(b't') => (b'\t', at + 2),
            Some(b'v') => (0x0b, at + 2),
            Some(b'b') => (0x08, at + 2),
            Some(b'f') => (0x0c, at + 2),
            Some(byte) => (byte, at + 2),
        };
        (byte, next)
    }

    /// The first position from `at` on whose decoded byte is not `wanted`.
    pub fn span(&self, mut at: usize, wanted: impl Fn(u8) -> bool) -> usize {
        while let Some((byte, next)) = self.get(at) {
            if !wanted(byte) {
                break;
            }
            at = next;
        }
        at
    }

    pub fn blanks(&self, at: usize) -> usize {
        self.span(at, is_space)
    }

    /// Past blanks and comments, each of [`FAR`] bytes at most: else a text of comment starts
    /// without ends would take quadratic time.
    pub fn blanks_and_comments(&self, mut at: usize) -> usize {
        loop {
            at = self.blanks(at);
            let Some((first, next)) = self.get(at) else {
                return at;
            };
            match (first, self.get(next)) {
                (b'-', Some((b'-', body))) => {
                    let line = self.near(body);
                    at = line.span(body, |byte| !matches!(byte, b'\n' | b'\r'));
                }
                (b'/', Some((b'*', body))) => at = self.near(body).comment_end(body),
                _ => return at,
            }
        }
    }

    fn near(&self, at: usize) -> Self {
        Fragment {
            end: self.end.min(at + FAR),
            ..*self
        }
    }

    fn comment_end(&self, mut at: usize) -> usize {
        let mut star = false;
        while let Some((byte, next)) = self.get(at) {
            at = next;
            if star && byte == b'/' {
                break;
            }
            star = byte == b'*';
        }
        at
    }

    /// How many quotes there are in a row, and where they end.
    pub fn quotes(&self, mut at: usize) -> (usize, usize) {
        let mut count = 0;
        while let Some((b'\'', next)) = self.get(at) {
            count += 1;
            at = next;
        }
        (count, at)
    }

    /// The position `count` decoded bytes on.
    pub fn skip(&self, mut at: usize, count: usize) -> usize {
        for _ in 0..count {
            match self.get(at) {
                Some((_, next)) => at = next,
                None => break,
            }
        }
        at
    }
}
