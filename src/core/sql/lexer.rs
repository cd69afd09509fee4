//! PostgreSQL's lexical rules (src/backend/parser/scan.l, 14 to 18) over bytes.
//!
//! The tokens tile the text: each begins where the one before ended, the last ends at the end of
//! the text. There are no errors: what scan.l refuses is [`Kind::Other`], or the parts it would have
//! been before the refusal (`1abc` is a number and a word, as 14 reads it). What is not terminated
//! reaches the end of the text and says so.

use memchr::{memchr, memchr2};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A run of blanks.
    Space,
    /// `-- …` without its newline.
    LineComment,
    /// `/* … */`, nested.
    BlockComment,
    /// `'…'` and `N'…'`, with continuations. Backslashes count if `Lexer` was told so.
    String,
    /// `E'…'`: backslashes count.
    EscapeString,
    /// `U&'…'`.
    UnicodeString,
    /// `B'…'` and `X'…'`.
    BitString,
    /// `$tag$…$tag$`.
    DollarString,
    /// An identifier or keyword.
    Word,
    /// `"…"`.
    QuotedIdent,
    /// `U&"…"`.
    UnicodeIdent,
    Number,
    /// `$1`.
    Param,
    /// Any operator, of one or more characters, also `::`, `..`, `:=`.
    Operator,
    /// One of `, ( ) [ ] . ; :`
    Punct,
    /// A byte that begins nothing.
    Other,
}

impl Kind {
    /// A constant in any kind of quotes.
    pub fn is_literal(self) -> bool {
        matches!(
            self,
            Kind::String
                | Kind::EscapeString
                | Kind::UnicodeString
                | Kind::BitString
                | Kind::DollarString
        )
    }

    /// Whitespace or a comment: what the grammar never sees.
    pub fn is_blank(self) -> bool {
        matches!(self, Kind::Space | Kind::LineComment | Kind::BlockComment)
    }

    /// `"…"` or `U&"…"`.
    pub fn is_quoted_ident(self) -> bool {
        matches!(self, Kind::QuotedIdent | Kind::UnicodeIdent)
    }
}

/// `text[start..end]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    pub kind: Kind,
    pub start: usize,
    pub end: usize,
    /// The text ended before the closing quote or comment end.
    pub unterminated: bool,
}

impl Token {
    /// Its bytes.
    pub fn of<'a>(&self, text: &'a [u8]) -> &'a [u8] {
        text.get(self.start..self.end).unwrap_or_default()
    }

    /// Whether it is the keyword, given in upper case.
    pub fn is_word(&self, text: &[u8], keyword: &str) -> bool {
        self.kind == Kind::Word && self.of(text).eq_ignore_ascii_case(keyword.as_bytes())
    }

    /// Whether it is this punctuation character.
    pub fn is_punct(&self, text: &[u8], byte: u8) -> bool {
        self.kind == Kind::Punct && text.get(self.start) == Some(&byte)
    }
}

/// Whitespace as scan.l has it; 16 and later count `\v` too.
pub fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

/// Whether a byte may continue an identifier.
pub fn is_ident(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | 0x80..)
}

fn is_ident_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || matches!(byte, b'_' | 0x80..)
}

fn is_newline(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

fn is_operator(byte: u8) -> bool {
    matches!(
        byte,
        b'~' | b'!'
            | b'@'
            | b'#'
            | b'^'
            | b'&'
            | b'|'
            | b'`'
            | b'?'
            | b'+'
            | b'-'
            | b'*'
            | b'/'
            | b'%'
            | b'<'
            | b'>'
            | b'='
    )
}

/// The tokens of a text, from any byte that begins one.
#[derive(Clone)]
pub struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    standard_conforming_strings: bool,
    operators: Operators,
}

/// What is known of a run of operator characters, so that `+-+-+-…`, which is one token per
/// character, is looked at once and not once per token.
#[derive(Clone, Copy, Default)]
struct Operators {
    /// The run's end: its last operator character, or where a comment begins in it.
    end: usize,
    /// One past the last character that allows a trailing `+` or `-` (none of SQL's own).
    qualifying: usize,
    /// One past the last character that is neither `+` nor `-`.
    unsigned: usize,
}

impl<'a> Lexer<'a> {
    pub fn new(text: &'a [u8], standard_conforming_strings: bool) -> Self {
        Self::starting_at(text, 0, standard_conforming_strings)
    }

    /// Begins at byte `offset`; past the end there are no tokens.
    pub fn starting_at(text: &'a [u8], offset: usize, standard_conforming_strings: bool) -> Self {
        Lexer {
            text,
            at: offset.min(text.len()),
            standard_conforming_strings,
            operators: Operators::default(),
        }
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.text.get(at).copied()
    }

    /// The first position from `at` on whose byte is not `wanted`.
    fn span(&self, at: usize, wanted: impl Fn(u8) -> bool) -> usize {
        let rest = self.text.get(at..).unwrap_or_default();
        at + rest
            .iter()
            .position(|&byte| !wanted(byte))
            .unwrap_or(rest.len())
    }

    fn after(&self, at: usize, find: impl Fn(&[u8]) -> Option<usize>) -> Option<usize> {
        find(self.text.get(at..)?).map(|found| at + found + 1)
    }

    /// Kind and end of the token at `self.at`, the end `None` where it is not terminated.
    fn scan(&mut self, first: u8) -> (Kind, Option<usize>) {
        let at = self.at;
        let (second, third) = (self.byte(at + 1), self.byte(at + 2));
        let plain = !self.standard_conforming_strings;
        match (first, second, third) {
            (b'\'', ..) => (Kind::String, self.string(at + 1, plain, true)),
            (b'"', ..) => (Kind::QuotedIdent, self.quoted_ident(at + 1)),
            (b'n' | b'N', Some(b'\''), _) => (Kind::String, self.string(at + 2, plain, true)),
            (b'e' | b'E', Some(b'\''), _) => (Kind::EscapeString, self.string(at + 2, true, true)),
            (b'b' | b'B' | b'x' | b'X', Some(b'\''), _) => {
                (Kind::BitString, self.string(at + 2, false, false))
            }
            (b'u' | b'U', Some(b'&'), Some(b'\'')) => {
                (Kind::UnicodeString, self.string(at + 3, false, true))
            }
            (b'u' | b'U', Some(b'&'), Some(b'"')) => {
                (Kind::UnicodeIdent, self.quoted_ident(at + 3))
            }
            (b'$', ..) => self.dollar(at),
            (b'-', Some(b'-'), _) => (Kind::LineComment, Some(self.line_comment(at))),
            (b'/', Some(b'*'), _) => (Kind::BlockComment, self.block_comment(at + 2)),
            (b'0'..=b'9', ..) | (b'.', Some(b'0'..=b'9'), _) => {
                (Kind::Number, Some(self.number(at)))
            }
            (b'.', Some(b'.'), _) | (b':', Some(b':' | b'='), _) => (Kind::Operator, Some(at + 2)),
            (b',' | b'(' | b')' | b'[' | b']' | b'.' | b';' | b':', ..) => {
                (Kind::Punct, Some(at + 1))
            }
            _ if is_space(first) => (Kind::Space, Some(self.span(at, is_space))),
            _ if is_ident_start(first) => (Kind::Word, Some(self.span(at, is_ident))),
            _ if is_operator(first) => (Kind::Operator, Some(self.operator(at))),
            _ => (Kind::Other, Some(at + 1)),
        }
    }

    /// The end of a string whose contents begin at `at`. A bit string has no doubled quotes: there
    /// the second quote begins the next token.
    fn string(&self, mut at: usize, escapes: bool, doubled: bool) -> Option<usize> {
        loop {
            at = if escapes {
                let end = self.after(at, |rest| memchr2(b'\'', b'\\', rest))?;
                if self.byte(end - 1) == Some(b'\\') {
                    at = end + 1;
                    continue;
                }
                end
            } else {
                self.after(at, |rest| memchr(b'\'', rest))?
            };
            if doubled && self.byte(at) == Some(b'\'') {
                at += 1;
            } else {
                match self.continuation(at) {
                    Some(next) => at = next,
                    None => return Some(at),
                }
            }
        }
    }

    /// Where a string that was closed just before `at` goes on: behind the next quote, with blanks,
    /// at least one newline and line comments between.
    fn continuation(&self, at: usize) -> Option<usize> {
        let quote = continuation_quote(self.text, at)?;
        Some(quote + 1)
    }

    fn quoted_ident(&self, mut at: usize) -> Option<usize> {
        loop {
            at = self.after(at, |rest| memchr(b'"', rest))?;
            if self.byte(at) != Some(b'"') {
                return Some(at);
            }
            at += 1;
        }
    }

    /// `$tag$…$tag$`, `$1` or a `$` on its own.
    fn dollar(&self, at: usize) -> (Kind, Option<usize>) {
        if self.byte(at + 1).is_some_and(|byte| byte.is_ascii_digit()) {
            let end = self.span(at + 1, |byte| byte.is_ascii_digit());
            return (Kind::Param, Some(end));
        }
        match dollar_tag(self.text, at) {
            None => (Kind::Other, Some(at + 1)),
            Some(body) => (
                Kind::DollarString,
                dollar_end(self.text, body, body - at).map(|close| close + (body - at)),
            ),
        }
    }

    fn line_comment(&self, at: usize) -> usize {
        match self.after(at, |rest| memchr2(b'\n', b'\r', rest)) {
            Some(after) => after - 1,
            None => self.text.len(),
        }
    }

    fn block_comment(&self, mut at: usize) -> Option<usize> {
        let mut depth = 1usize;
        loop {
            let next = self.after(at, |rest| memchr2(b'*', b'/', rest))?;
            at = match (self.byte(next - 1), self.byte(next)) {
                (Some(b'*'), Some(b'/')) => {
                    depth -= 1;
                    if depth == 0 {
                        return Some(next + 1);
                    }
                    next + 1
                }
                (Some(b'/'), Some(b'*')) => {
                    depth += 1;
                    next + 1
                }
                _ => next,
            };
        }
    }

    fn number(&self, at: usize) -> usize {
        let digits = |from| self.span(from, |byte| byte.is_ascii_digit() || byte == b'_');
        let radix = match (self.byte(at), self.byte(at + 1), self.byte(at + 2)) {
            (Some(b'0'), Some(b'x' | b'X'), Some(digit)) if digit.is_ascii_hexdigit() => 16,
            (Some(b'0'), Some(b'o' | b'O'), Some(b'0'..=b'7')) => 8,
            (Some(b'0'), Some(b'b' | b'B'), Some(b'0' | b'1')) => 2,
            _ => 10,
        };
        if radix != 10 {
            return self.span(at + 2, |byte| char::from(byte).is_digit(radix));
        }
        let mut end = digits(at);
        if self.byte(end) == Some(b'.') && self.byte(end + 1) != Some(b'.') {
            end = digits(end + 1);
        }
        if matches!(self.byte(end), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(self.byte(end + 1), Some(b'+' | b'-')));
            if self
                .byte(end + 1 + sign)
                .is_some_and(|byte| byte.is_ascii_digit())
            {
                end = digits(end + 1 + sign);
            }
        }
        end
    }

    /// An operator ends before a comment, and gives back trailing `+` and `-` unless it holds a
    /// character that no SQL operator has.
    fn operator(&mut self, at: usize) -> usize {
        if self.operators.end <= at {
            self.operators = self.operator_run(at);
        }
        let run = self.operators;
        if run.end - at > 1
            && matches!(self.byte(run.end - 1), Some(b'+' | b'-'))
            && run.qualifying <= at
        {
            return run.unsigned.max(at + 1);
        }
        run.end
    }

    fn operator_run(&self, at: usize) -> Operators {
        let mut run = Operators {
            end: at,
            qualifying: 0,
            unsigned: 0,
        };
        while let Some(byte) = self.byte(run.end).filter(|&byte| is_operator(byte)) {
            let next = self.byte(run.end + 1);
            if matches!((byte, next), (b'/', Some(b'*')) | (b'-', Some(b'-'))) {
                break;
            }
            run.end += 1;
            if !matches!(byte, b'+' | b'-') {
                run.unsigned = run.end;
                if !matches!(byte, b'*' | b'/' | b'<' | b'>' | b'=') {
                    run.qualifying = run.end;
                }
            }
        }
        run
    }
}

impl Iterator for Lexer<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        let start = self.at;
        let first = self.byte(start)?;
        let (kind, end) = self.scan(first);
        let len = self.text.len();
        // Every scanner ends past its start; `max` makes an endless loop impossible all the same.
        self.at = end.unwrap_or(len).clamp(start + 1, len);
        Some(Token {
            kind,
            start,
            end: self.at,
            unterminated: end.is_none_or(|end| end > len),
        })
    }
}

/// The quote that continues a string closed just before `at`, if there is one.
pub(super) fn continuation_quote(text: &[u8], mut at: usize) -> Option<usize> {
    let mut newline = false;
    loop {
        match *text.get(at)? {
            b'\'' => return newline.then_some(at),
            b'-' if text.get(at + 1) == Some(&b'-') => {
                at += memchr2(b'\n', b'\r', text.get(at..)?)?;
            }
            byte if is_space(byte) => {
                newline |= is_newline(byte);
                at += 1;
            }
            _ => return None,
        }
    }
}

/// Where the body of a dollar-quoted string begins whose tag begins at `at`.
pub(super) fn dollar_tag(text: &[u8], at: usize) -> Option<usize> {
    let name = text.get(at + 1..)?;
    let len = name
        .iter()
        .position(|&byte| byte == b'$' || !is_ident(byte))?;
    let starts_well = len == 0 || name.first().copied().is_some_and(is_ident_start);
    (starts_well && name.get(len) == Some(&b'$')).then_some(at + len + 2)
}

/// Where the closing tag begins of a string with its body at `body` and a tag of `tag` bytes.
pub(super) fn dollar_end(text: &[u8], body: usize, tag: usize) -> Option<usize> {
    let wanted = text.get(body.checked_sub(tag)?..body)?;
    let mut at = body;
    loop {
        at += memchr(b'$', text.get(at..)?)?;
        if text.get(at..)?.starts_with(wanted) {
            return Some(at);
        }
        at += 1;
    }
}
