//! Secrets in text that the server could not parse.
//!
//! Nothing is known of where they are, so from the first needle on every literal goes, and every
//! quoted identifier (`PASSWORD "x"` is a common mistake). Where the quotes cannot be right, as in
//! `'it's'`, everything goes.

use super::super::cut::Sink;
use super::super::lexer::{Kind, Lexer, Token};
use super::edit::{Edit, REDACTED, REDACTED_IDENT};
use super::layer::Fragment;
use super::needle;

/// Redacts a text whose first needle is at `from`.
pub fn redact<S: Sink>(
    text: &[u8],
    from: usize,
    standard_conforming_strings: bool,
    edit: &mut Edit<S>,
) {
    let mut tokens = Lexer::new(text, standard_conforming_strings).peekable();
    // CREATE or ALTER begins the statement; PASSWORD was the last word.
    let (mut begins, mut creates, mut password) = (true, false, false);
    // Where the literal begins that was the last token, if it stays.
    let mut literal = None;
    while let Some(token) = tokens.next() {
        let is = |keyword| token.is_word(text, keyword);
        if token.kind.is_blank() {
            if token.end > from && token.kind != Kind::Space {
                comment(text, token, edit);
                // What was written already can't be replaced together with what follows.
                literal = None;
            }
            continue;
        }
        if begins {
            creates = is("CREATE") || is("ALTER");
        }
        begins = token.is_punct(text, b';');
        let adjacent = literal.take();
        if token.kind.is_literal() && token.end <= from {
            literal = Some(token.start);
        }
        if (token.kind.is_literal() || token.kind.is_quoted_ident()) && token.end > from {
            // With a literal right before, which could become one with it.
            let start = adjacent.unwrap_or(token.start);
            if tokens.peek().is_some_and(is_glued) {
                return edit.replace_literal(start, text.len());
            }
            if token.kind.is_literal() {
                edit.replace_literal(start, token.end);
            } else {
                edit.replace(token.start, token.end, REDACTED_IDENT);
            }
            password = false;
            continue;
        }
        let stays = begins || is("NULL") || matches!(token.of(text), b"=" | b":" | b"(" | b":=");
        if password && !stays {
            // PASSWORD secret: up to the next blank.
            let mut end = token.end;
            while let Some(next) =
                tokens.next_if(|next| !next.kind.is_blank() && !next.is_punct(text, b';'))
            {
                end = next.end;
                if next.kind.is_literal() {
                    end = text.len();
                }
            }
            edit.replace_literal(token.start, end);
            password = false;
            continue;
        }
        password = creates && (is("PASSWORD") || (password && stays && !is("NULL") && !begins));
    }
}

/// Whether a token right behind a literal shows that the literal does not end there.
fn is_glued(next: &Token) -> bool {
    !next.kind.is_blank() && !matches!(next.kind, Kind::Punct | Kind::Operator)
}

/// A comment with a needle in it goes whole: to cut a literal out of it could change where it ends.
fn comment<S: Sink>(text: &[u8], token: Token, edit: &mut Edit<S>) {
    let inside = Fragment::inside(text, token, true);
    let within = text.get(..inside.end).unwrap_or_default();
    if token.unterminated || needle::find(within, inside.start).is_some() {
        edit.replace(inside.start, inside.end, REDACTED);
    }
}
