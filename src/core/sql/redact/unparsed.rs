//! Secrets in text that the server could not parse.
//!
//! Nothing is known of where they are, so from the first needle on every literal goes, and every
//! quoted identifier (`PASSWORD "x"` is a common mistake). Where the quotes cannot be right, as in
//! `'it's'`, everything goes.

use super::super::cut::Sink;
use super::super::lexer::{Kind, Lexer, Token};
use super::edit::Edit;
use super::fragment;
use super::layer::Fragment;

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
    while let Some(token) = tokens.next() {
        let is = |keyword| token.is_word(text, keyword);
        if token.kind.is_blank() {
            if token.end > from && token.kind != Kind::Space {
                comment(text, token, edit);
            }
            continue;
        }
        if begins {
            creates = is("CREATE") || is("ALTER");
        }
        begins = token.is_punct(text, b';');
        let quoted = token.kind.is_literal() || token.kind.is_quoted_ident();
        if quoted && token.end > from {
            if tokens.peek().is_some_and(is_glued) {
                return edit.replace_literal(token.start, text.len());
            }
            edit.replace_literal(token.start, token.end);
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

fn comment<S: Sink>(text: &[u8], token: Token, edit: &mut Edit<S>) {
    let inside = Fragment::inside(text, token, true);
    if token.unterminated {
        edit.replace(inside.start, inside.end, super::edit::REDACTED);
    } else {
        fragment::redact(&inside, edit);
    }
}
