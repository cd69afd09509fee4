//! Secrets in SQL that parses: the literals that stand where the grammar has a secret.

use super::super::cut::Sink;
use super::super::lexer::{Kind, Lexer, Token};
use super::conninfo::{self, Bare};
use super::edit::{Edit, REDACTED, REDACTED_IDENT};
use super::layer::Fragment;
use super::needle::{self, is_secret_keyword, is_secret_name, is_secret_option};
use super::{fragment, uri};

/// How many dollar-quoted bodies deep statements are looked for. Deeper ones are looked at as
/// fragments.
const DEEPEST: usize = 4;

/// Redacts the statements in `text[start..end]`, which is the whole text or a dollar-quoted body.
/// `role` tells that a literal before named a role's statement. Returns whether the secret is yet to
/// come: see [`fragment::redact`].
pub fn redact<S: Sink>(
    text: &[u8],
    start: usize,
    end: usize,
    standard_conforming_strings: bool,
    depth: usize,
    role: bool,
    edit: &mut Edit<S>,
) -> bool {
    let text = text.get(..end).unwrap_or(text);
    let mut scan = Scan {
        text,
        start,
        standard_conforming_strings,
        depth,
        edit,
        first: First::Nothing,
        expect: Expect::Nothing,
        in_options: false,
        updates: false,
        verb: false,
        of_role: false,
        role,
        config: 0,
        config_secret: false,
        tainted: false,
        open: false,
        skip: start,
    };
    for token in Lexer::starting_at(text, start, standard_conforming_strings) {
        match token.kind {
            _ if token.start < scan.skip => {}
            Kind::Space => {}
            Kind::LineComment | Kind::BlockComment => {
                fragment::redact(&scan.inside(token), scan.role, scan.edit);
            }
            _ => scan.see(token),
        }
    }
    let waits = match scan.expect {
        Expect::Password => scan.role || scan.of_role,
        Expect::OptionValue | Expect::SettingValue => true,
        _ => scan.config > 0 && scan.config_secret,
    };
    scan.tainted || scan.open || waits
}

/// The first keyword of the statement, as far as it says whether SET sets a parameter.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    Nothing,
    Set,
    Alter,
    Create,
    Other,
}

/// What the tokens before make of the next one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    Nothing,
    /// PASSWORD was there.
    Password,
    /// OPTIONS was there.
    Options,
    /// The name of a secret option was there.
    OptionValue,
    /// SET was there, and perhaps a name.
    Setting(Name),
    /// TO or = of a secret setting, or a comma in its value.
    SettingValue,
    /// A part of the value of a secret setting.
    SettingMore,
    /// set_config
    Config,
    /// The name of a secret in what is no SQL, with `=` and a literal to come.
    Pair,
}

/// Where the name of a setting is, with its dots and quotes; at first nowhere.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Name {
    start: usize,
    end: usize,
    /// A dot was the last token.
    dot: bool,
}

impl Name {
    /// The name with a word more, which begins a new one unless it is behind a dot.
    fn with(self, token: Token) -> Self {
        Name {
            start: match self.dot && self.end > 0 {
                true => self.start,
                false => token.start,
            },
            end: token.end,
            dot: false,
        }
    }

    fn is_secret(self, text: &[u8]) -> bool {
        is_secret_name(text.get(self.start..self.end).unwrap_or_default())
    }
}

struct Scan<'a, 'e, 't, S> {
    text: &'a [u8],
    /// Where the body begins; it ends with `text`.
    start: usize,
    standard_conforming_strings: bool,
    depth: usize,
    edit: &'e mut Edit<'t, S>,
    first: First,
    expect: Expect,
    in_options: bool,
    /// UPDATE was there, so that SET is its own.
    updates: bool,
    /// ALTER or CREATE was the last word.
    verb: bool,
    /// The statement is one of a role (or of a user mapping).
    of_role: bool,
    /// A literal before, of whatever statement, holds the beginning of one.
    role: bool,
    /// How many parentheses are open since that of set_config, and whether the name of a secret is
    /// behind it.
    config: usize,
    config_secret: bool,
    /// A literal of the statement waits for its secret: see [`fragment::redact`].
    tainted: bool,
    /// There is a placeholder where the secret should be, which literals outside will fill.
    open: bool,
    /// What begins before is done with.
    skip: usize,
}

impl<'a, S: Sink> Scan<'a, '_, '_, S> {
    fn inside(&self, token: Token) -> Fragment<'a> {
        Fragment::inside(self.text, token, self.standard_conforming_strings)
    }

    fn see(&mut self, token: Token) {
        let expect = core::mem::replace(&mut self.expect, Expect::Nothing);
        if token.kind.is_literal() {
            self.literal(token, expect);
        } else if token.kind == Kind::Word {
            self.word(token, expect);
        } else if token.kind.is_quoted_ident() {
            self.quoted_ident(token, expect);
        } else {
            self.other(token, expect);
        }
        if token.kind != Kind::Word && !token.is_punct(self.text, b';') {
            self.first = match self.first {
                First::Nothing => First::Other,
                first => first,
            };
        }
    }

    fn literal(&mut self, token: Token, expect: Expect) {
        let mut secret = match expect {
            Expect::Password | Expect::OptionValue => true,
            Expect::SettingValue => {
                self.expect = Expect::SettingMore;
                true
            }
            _ => false,
        };
        let inside = self.inside(token);
        let bytes = inside.bytes(inside.start, inside.end);
        if self.config > 0 {
            secret |= self.config_secret;
            self.config_secret |= is_secret_name(bytes);
        }
        if secret && self.depth > 0 {
            let placeholder = conninfo::placeholder(bytes) == Some(bytes.len());
            self.open |= placeholder || token.unterminated;
        }
        if secret || self.tainted {
            self.edit.replace_literal(token.start, token.end);
        } else if self.is_body(token) {
            let plain = self.standard_conforming_strings;
            self.tainted |= redact(
                self.text,
                inside.start,
                inside.end,
                plain,
                self.depth + 1,
                self.role,
                self.edit,
            );
        } else {
            self.fragment(&inside);
        }
    }

    /// Redacts what is no SQL, or a piece of it.
    fn fragment(&mut self, inside: &Fragment) {
        self.tainted |= fragment::redact(inside, self.role, self.edit);
        self.role = self.role || fragment::names_role(inside);
    }

    /// Whether a literal is the body of a function or the like and can be read as SQL. A body in
    /// which that leaves a quote open, or has right behind a literal what SQL has not, is in another
    /// language with apostrophes in its comments.
    fn is_body(&self, token: Token) -> bool {
        if token.kind != Kind::DollarString || token.unterminated || self.depth >= DEEPEST {
            return false;
        }
        let body = self.inside(token);
        let within = self.text.get(..body.end).unwrap_or_default();
        if needle::find(within, body.start).is_none() || conninfo::begins(&body) {
            return false;
        }
        let mut literal = false;
        Lexer::starting_at(within, body.start, self.standard_conforming_strings).all(|token| {
            let glued = literal
                && match token.kind {
                    Kind::Word | Kind::Number | Kind::Param | Kind::Other => true,
                    Kind::Operator => !matches!(
                        token.of(within).first(),
                        Some(b'|' | b':' | b'<' | b'>' | b'=' | b'-' | b'~' | b'+' | b'*' | b'/')
                    ),
                    _ => false,
                };
            literal = token.kind.is_literal();
            !token.unterminated && !glued
        })
    }

    fn word(&mut self, token: Token, expect: Expect) {
        let text = self.text;
        let is = |keyword| token.is_word(text, keyword);
        if self.first == First::Nothing {
            self.first = match () {
                _ if is("SET") => First::Set,
                _ if is("ALTER") => First::Alter,
                _ if is("CREATE") => First::Create,
                _ => First::Other,
            };
        }
        if self.verb && (is("ROLE") || is("USER") || is("GROUP")) {
            self.of_role = true;
        }
        self.verb = is("ALTER") || is("CREATE");
        match expect {
            Expect::Setting(name) if !is("TO") => self.expect = Expect::Setting(name.with(token)),
            Expect::Setting(name) if name.is_secret(text) => self.expect = Expect::SettingValue,
            Expect::SettingValue if is("DEFAULT") => {}
            Expect::SettingValue => self.setting_value(token),
            Expect::Password if self.is_bare() && !is("NULL") => self.bare(token),
            _ if self.in_options => self.option_name(token),
            _ => self.keyword(token),
        }
    }

    fn keyword(&mut self, token: Token) {
        let text = self.text;
        let mut pair = false;
        if self.depth > 0 && is_secret_keyword(token.of(text)) {
            let body = Fragment::raw(text, self.start);
            match conninfo::redact_bare(&body, token.start, token.end, self.edit) {
                Bare::Nothing => {}
                Bare::Done(open) => self.open |= open,
                Bare::Literal => pair = true,
            }
        }
        let is = |keyword| token.is_word(text, keyword);
        if pair {
            self.expect = Expect::Pair;
        } else if is("PASSWORD") {
            self.expect = Expect::Password;
        } else if is("OPTIONS") {
            self.expect = Expect::Options;
        } else if is("SET_CONFIG") {
            self.expect = Expect::Config;
        } else if is("UPDATE") {
            self.updates = true;
        } else if is("NEW_VALUE") && self.config > 0 {
            // By name the value may come before the setting's.
            self.config_secret = true;
        } else if is("PG_SETTINGS") && self.updates {
            // The value comes before the name.
            self.tainted = true;
        } else if is("SET") {
            let sets = match self.first {
                First::Set | First::Alter => true,
                First::Create => !self.updates,
                _ => false,
            };
            if sets {
                self.expect = Expect::Setting(Name::default());
            }
        } else if is("BEGIN") || is("ATOMIC") || is("THEN") || is("ELSE") || is("LOOP") {
            // In a function's body a statement begins behind these.
            self.begin_statement();
        }
    }

    fn begin_statement(&mut self) {
        self.first = First::Nothing;
        self.updates = false;
        self.of_role = false;
    }

    /// Whether a word behind PASSWORD is a secret that lacks its quotes. In a body nobody has parsed
    /// that; elsewhere it is a name.
    fn is_bare(&self) -> bool {
        self.depth > 0 && self.of_role
    }

    /// Redacts from a token up to the end of the statement.
    fn bare(&mut self, token: Token) {
        self.skip = token.end;
        for next in Lexer::starting_at(self.text, token.start, self.standard_conforming_strings) {
            if next.is_punct(self.text, b';') {
                break;
            }
            if next.kind != Kind::Space {
                self.skip = next.end;
            }
        }
        self.edit.replace_literal(token.start, self.skip);
    }

    fn quoted_ident(&mut self, token: Token, expect: Expect) {
        match expect {
            Expect::Setting(name) => self.expect = Expect::Setting(name.with(token)),
            Expect::SettingValue => self.setting_value(token),
            Expect::Password if self.is_bare() => self.bare(token),
            _ if token.of(self.text).eq_ignore_ascii_case(b"\"set_config\"") => {
                self.expect = Expect::Config;
            }
            _ if self.in_options => self.option_name(token),
            // A string in another language, which waits for its secret.
            _ if self.depth > 0 && self.tainted => {
                self.edit.replace(token.start, token.end, REDACTED_IDENT);
            }
            // A string in another language; a connection string in the wrong quotes.
            _ if self.depth > 0 || conninfo::begins(&self.inside(token)) => {
                self.fragment(&self.inside(token));
            }
            _ => {}
        }
    }

    fn option_name(&mut self, token: Token) {
        if is_secret_option(token.of(self.text)) {
            self.expect = Expect::OptionValue;
        }
    }

    fn setting_value(&mut self, token: Token) {
        self.edit.replace_literal(token.start, token.end);
        self.expect = Expect::SettingMore;
    }

    fn other(&mut self, token: Token, expect: Expect) {
        let text = self.text;
        let is = |byte| token.is_punct(text, byte);
        if is(b';') {
            self.begin_statement();
            self.tainted = false;
            self.in_options = false;
            self.config = 0;
            return;
        }
        if is(b')') {
            self.in_options = false;
            self.config = self.config.saturating_sub(1);
        }
        if is(b'(') && (self.config > 0 || expect == Expect::Config) {
            self.config_secret &= self.config > 0;
            self.config += 1;
        }
        let bytes = token.of(text);
        let placeholder = token.kind == Kind::Param || bytes.starts_with(b"%");
        if self.depth > 0
            && bytes.starts_with(b"//")
            && let Some(colon) = token.start.checked_sub(1)
            && text.get(colon) == Some(&b':')
            && let Some((start, end)) = uri::password(&Fragment::raw(text, self.start), colon)
        {
            // Not SQL, but a text in dollar quotes.
            self.edit.replace(start, end, REDACTED);
        }
        match expect {
            Expect::Options if is(b'(') => self.in_options = true,
            Expect::Setting(name) if is(b'.') => {
                self.expect = Expect::Setting(Name { dot: true, ..name });
            }
            Expect::Setting(name) if bytes.starts_with(b"=") && name.is_secret(text) => {
                self.open |= bytes.starts_with(b"=%");
                self.expect = Expect::SettingValue;
            }
            Expect::SettingValue if matches!(bytes, b"+" | b"-") => self.expect = expect,
            Expect::SettingValue if token.kind == Kind::Number => self.setting_value(token),
            Expect::SettingMore if is(b',') => self.expect = Expect::SettingValue,
            Expect::Pair if bytes.starts_with(b"=") => self.expect = Expect::OptionValue,
            Expect::Password if placeholder => self.open |= self.role || self.of_role,
            Expect::Password if self.is_bare() && token.kind != Kind::Punct => self.bare(token),
            Expect::SettingValue | Expect::OptionValue => self.open |= placeholder,
            _ => {}
        }
    }
}
