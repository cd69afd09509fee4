//! What a statement was aimed at, read from its text: for one that failed before its names were
//! resolved, so that there is no tree (spec/capture.md, rule 3).
//!
//! A guess by keywords, not a parser: it names what stands where a relation stands (behind FROM, JOIN,
//! INTO, UPDATE, TABLE …) and may miss what is said in unusual ways. Names of CTEs and of functions in
//! FROM are left out.

use super::lexer::{Kind, Lexer, Token};

/// Deeper parentheses are not followed.
const MOST_LEVELS: usize = 64;
/// More CTEs are not told from tables.
const MOST_CTES: usize = 16;
/// Longer names are left out: no name of PostgreSQL's is.
const LONGEST: usize = 512;

/// A name as PostgreSQL reads it: folded to lower case where it isn't quoted, quoted where it has to be.
struct Name {
    bytes: [u8; LONGEST],
    len: usize,
}

impl Name {
    const fn new() -> Self {
        Name {
            bytes: [0; LONGEST],
            len: 0,
        }
    }

    fn push(&mut self, byte: u8) {
        if let Some(free) = self.bytes.get_mut(self.len) {
            *free = byte;
        }
        self.len += 1;
    }

    fn part(&mut self, text: &[u8], token: Token) {
        let bytes = token.of(text);
        if token.kind == Kind::Word {
            bytes.iter().for_each(|b| self.push(b.to_ascii_lowercase()));
            return;
        }
        let inner = bytes.get(1..bytes.len().saturating_sub(1)).unwrap_or(&[]);
        let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'_';
        let starts_plain = inner.first().is_some_and(|b| !b.is_ascii_digit());
        if token.kind == Kind::QuotedIdent && starts_plain && inner.iter().all(plain) {
            inner.iter().for_each(|b| self.push(*b));
        } else {
            bytes.iter().for_each(|b| self.push(*b));
        }
    }

    fn get(&self) -> Option<&[u8]> {
        self.bytes.get(..self.len).filter(|name| !name.is_empty())
    }
}

fn is_name(token: Token) -> bool {
    token.kind == Kind::Word || token.kind.is_quoted_ident()
}

/// The tokens that the grammar sees, with a look ahead.
struct Tokens<'a> {
    lexer: Lexer<'a>,
    next: [Option<Token>; 2],
}

impl<'a> Tokens<'a> {
    fn new(lexer: Lexer<'a>) -> Self {
        let mut tokens = Tokens {
            lexer,
            next: [None; 2],
        };
        tokens.advance();
        tokens.advance();
        tokens
    }

    fn advance(&mut self) -> Option<Token> {
        let token = self.next[0];
        let lexed = self.lexer.by_ref().find(|token| !token.kind.is_blank());
        self.next = [self.next[1], lexed];
        token
    }

    /// The rest of a dotted name that begins with `first`.
    fn name(&mut self, text: &[u8], first: Token) -> Name {
        let mut name = Name::new();
        name.part(text, first);
        while let [Some(dot), Some(part)] = self.next
            && dot.is_punct(text, b'.')
            && is_name(part)
        {
            self.advance();
            self.advance();
            name.push(b'.');
            name.part(text, part);
        }
        name
    }
}

/// Calls `f` with the dotted name that begins at byte `offset`, if one does.
pub fn name_at(text: &[u8], offset: usize, f: &mut impl FnMut(&[u8])) {
    let mut tokens = Tokens::new(Lexer::starting_at(text, offset, true));
    if let Some(first) = tokens.advance().filter(|token| is_name(*token))
        && first.start == offset
        && let Some(name) = tokens.name(text, first).get()
    {
        f(name);
    }
}

/// What is known of one level of parentheses.
#[derive(Clone, Copy, Default)]
struct Level {
    /// FROM names relations here: a SELECT, DELETE or UPDATE came before it.
    query: bool,
    /// A comma leads to another relation.
    list: bool,
    /// The name before the parenthesis.
    before: Option<Token>,
}

/// What stands where a name is expected.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    Nothing,
    /// A relation; with `(` behind it a function.
    Relation,
    /// A table, perhaps with its columns.
    Table,
}

struct Scan<'t> {
    text: &'t [u8],
    levels: [Level; MOST_LEVELS],
    depth: usize,
    ctes: [Option<Token>; MOST_CTES],
    cte_count: usize,
    first: Option<Token>,
    before: Option<Token>,
    expect: Expect,
}

/// Calls `f` with each name in `text` that stands for a relation (or, behind CREATE, ALTER, DROP and
/// GRANT … ON, for another object): one statement, in the order of the text; doubles are not removed.
pub fn for_each_target(text: &[u8], standard_conforming_strings: bool, f: &mut impl FnMut(&[u8])) {
    let mut tokens = Tokens::new(Lexer::new(text, standard_conforming_strings));
    let mut scan = Scan {
        text,
        levels: [Level::default(); MOST_LEVELS],
        depth: 0,
        ctes: [None; MOST_CTES],
        cte_count: 0,
        first: None,
        before: None,
        expect: Expect::Nothing,
    };
    while let Some(token) = tokens.advance() {
        if scan.first.is_none() && !token.is_punct(text, b'(') {
            scan.first = Some(token);
        }
        if !scan.see(token, &mut tokens, f) {
            return;
        }
        scan.before = Some(token);
    }
}

/// Words that may stand between a keyword and the name.
const FILLERS: [&str; 12] = [
    "ONLY",
    "LATERAL",
    "TABLE",
    "IF",
    "NOT",
    "EXISTS",
    "CONCURRENTLY",
    "TEMP",
    "TEMPORARY",
    "UNLOGGED",
    "SCHEMA",
    "SEQUENCE",
];

/// Words that end a list of relations.
const ENDS: [&str; 17] = [
    "WHERE",
    "GROUP",
    "ORDER",
    "HAVING",
    "LIMIT",
    "OFFSET",
    "FETCH",
    "FOR",
    "SET",
    "VALUES",
    "RETURNING",
    "UNION",
    "INTERSECT",
    "EXCEPT",
    "WINDOW",
    "WHEN",
    "DEFAULT",
];

/// Kinds of objects behind CREATE, ALTER and DROP that are followed by their name.
const KINDS: [&str; 13] = [
    "TABLE",
    "VIEW",
    "SEQUENCE",
    "INDEX",
    "FUNCTION",
    "PROCEDURE",
    "AGGREGATE",
    "TYPE",
    "DOMAIN",
    "SCHEMA",
    "ROLE",
    "DATABASE",
    "EXTENSION",
];

impl Scan<'_> {
    fn is(&self, token: Option<Token>, words: &[&str]) -> bool {
        token.is_some_and(|token| words.iter().any(|word| token.is_word(self.text, word)))
    }

    /// `false`: there is no use in going on.
    fn see(&mut self, token: Token, tokens: &mut Tokens, f: &mut impl FnMut(&[u8])) -> bool {
        let text = self.text;
        if token.is_punct(text, b'(') {
            return self.open();
        }
        if token.is_punct(text, b')') {
            self.close(tokens);
            return true;
        }
        if token.is_punct(text, b';') {
            return false;
        }
        let expect = core::mem::replace(&mut self.expect, Expect::Nothing);
        if token.is_punct(text, b',') {
            if self.levels[self.depth].list {
                self.expect = Expect::Relation;
            }
            return true;
        }
        if !is_name(token) {
            return true;
        }
        let begins_query = self.is(Some(token), &["SELECT", "VALUES", "WITH"]);
        if expect == Expect::Nothing || begins_query {
            return self.keyword(token, tokens);
        }
        if self.is(Some(token), &FILLERS) {
            self.expect = expect;
            return true;
        }
        let name = tokens.name(text, token);
        let called = tokens.next[0].is_some_and(|next| next.is_punct(text, b'('));
        let is_cte = self.ctes.iter().flatten().any(|cte| {
            let mut known = Name::new();
            known.part(text, *cte);
            known.get() == name.get()
        });
        let function = called && expect == Expect::Relation;
        if !is_cte
            && !function
            && let Some(name) = name.get()
        {
            f(name);
        }
        true
    }

    fn open(&mut self) -> bool {
        if self.depth + 1 == MOST_LEVELS {
            return false;
        }
        self.depth += 1;
        self.levels[self.depth] = Level {
            before: self.before.filter(|token| is_name(*token)),
            // FROM (a JOIN b, …)
            list: self.expect == Expect::Relation,
            ..Level::default()
        };
        true
    }

    fn close(&mut self, tokens: &Tokens) {
        self.expect = Expect::Nothing;
        let level = self.levels[self.depth];
        self.depth = self.depth.saturating_sub(1);
        if let Some(name) = level.before
            && self.is(tokens.next[0], &["AS"])
        {
            self.cte(name, tokens.next[1]);
        }
    }

    /// Notes a CTE: `name AS (`, `name AS [NOT] MATERIALIZED (`.
    fn cte(&mut self, name: Token, after_as: Option<Token>) {
        let parenthesis = after_as.is_some_and(|next| next.is_punct(self.text, b'('));
        let defines = parenthesis || self.is(after_as, &["MATERIALIZED", "NOT"]);
        if defines && let Some(free) = self.ctes.get_mut(self.cte_count) {
            *free = Some(name);
            self.cte_count += 1;
        }
    }

    fn keyword(&mut self, token: Token, tokens: &Tokens) -> bool {
        let text = self.text;
        let is = |words: &[&str]| words.iter().any(|word| token.is_word(text, word));
        let begins = self.first == Some(token);
        let (first, before) = (self.first, self.before);
        if self.is(tokens.next[0], &["AS"]) {
            self.cte(token, tokens.next[1]);
        }
        if begins
            && is(&[
                "FETCH",
                "MOVE",
                "CLOSE",
                "SET",
                "RESET",
                "SHOW",
                "DEALLOCATE",
                "EXECUTE",
            ])
        {
            return false;
        }
        let level = &mut self.levels[self.depth];
        if is(&["SELECT", "DELETE", "UPDATE"]) {
            level.query = true;
        }
        if is(&ENDS) || is(&["SELECT"]) {
            level.list = false;
        }
        let query = level.query;
        let defines = self.is(first, &["CREATE", "ALTER", "DROP"]);
        let grants = self.is(first, &["GRANT", "REVOKE"]);
        if is(&["FROM"]) && query && !grants && !self.is(before, &["DISTINCT"]) {
            self.levels[self.depth].list = true;
            self.expect = Expect::Relation;
        } else if is(&["JOIN"]) {
            self.expect = Expect::Relation;
        } else if is(&["USING"]) && self.is(first, &["DELETE", "MERGE", "WITH", "EXPLAIN"]) {
            let columns = tokens.next[0].is_some_and(|next| next.is_punct(text, b'('));
            if !columns {
                self.levels[self.depth].list = true;
                self.expect = Expect::Relation;
            }
        } else if is(&["UPDATE"]) {
            // Not FOR UPDATE, ON CONFLICT DO UPDATE, ON UPDATE CASCADE, BEFORE UPDATE.
            let other = [
                "FOR", "KEY", "DO", "THEN", "ON", "BEFORE", "AFTER", "OR", "OF",
            ];
            if !self.is(before, &other) && !grants && !defines {
                self.expect = Expect::Table;
            }
        } else if is(&["INTO", "REFERENCES", "INHERITS"])
            || (begins && is(&["COPY"]))
            || (grants && is(&["ON"]))
            || (defines && is(&KINDS) && !self.is(before, &["ON"]))
            || (self.is(first, &["CREATE"]) && is(&["ON"]) && self.depth == 0)
        {
            self.levels[self.depth].list = self.is(first, &["DROP", "GRANT", "REVOKE"]);
            self.expect = Expect::Table;
        } else if is(&["TABLE"]) || (begins && is(&["TRUNCATE", "LOCK", "VACUUM", "ANALYZE"])) {
            self.levels[self.depth].list = true;
            self.expect = Expect::Table;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(text: &str) -> String {
        let mut all = Vec::new();
        for_each_target(text.as_bytes(), true, &mut |name: &[u8]| {
            all.push(String::from_utf8_lossy(name).into_owned());
        });
        all.join(" ")
    }

    #[test]
    fn what_a_statement_is_aimed_at() {
        for (text, expected) in [
            ("SELECT 1", ""),
            ("SELECT * FROM nosuch", "nosuch"),
            (
                "select * from Hidden . \"T\" x, only b as c, lateral f(1) g, d",
                "hidden.\"T\" b d",
            ),
            (
                "SELECT a, b FROM x JOIN y ON x.a = y.a, z WHERE a IN (SELECT c FROM w), q",
                "x y z w",
            ),
            (
                "SELECT extract(year FROM d), a IS DISTINCT FROM b FROM t",
                "t",
            ),
            (
                "SELECT * FROM (SELECT * FROM a) s, (b CROSS JOIN c)",
                "a b c",
            ),
            (
                "INSERT INTO t(a, b) SELECT a, b FROM u ON CONFLICT (a) DO UPDATE SET b = 1",
                "t u",
            ),
            ("INSERT INTO nosuch VALUES (1, 'FROM x')", "nosuch"),
            (
                "UPDATE ONLY s.t SET a = 1 FROM u, v WHERE true RETURNING *",
                "s.t u v",
            ),
            ("DELETE FROM t USING u JOIN v USING (id) WHERE a", "t u v"),
            (
                "MERGE INTO t USING u ON true WHEN MATCHED THEN UPDATE SET a = 1",
                "t u",
            ),
            (
                "WITH a AS (SELECT * FROM b), c(x) AS MATERIALIZED (SELECT * FROM a) SELECT * FROM c, d",
                "b d",
            ),
            ("SELECT * FROM t FOR UPDATE OF t", "t"),
            ("COPY s.t (a) FROM STDIN", "s.t"),
            ("COPY (SELECT * FROM t) TO STDOUT", "t"),
            ("TRUNCATE TABLE a, b", "a b"),
            ("LOCK a", "a"),
            ("DROP TABLE IF EXISTS a, b CASCADE", "a b"),
            ("ALTER TABLE nosuch ADD x int", "nosuch"),
            ("CREATE TABLE t (x int REFERENCES u)", "t u"),
            ("CREATE INDEX i ON nosuch USING btree (x)", "i nosuch"),
            ("CREATE VIEW v AS SELECT * FROM t", "v t"),
            ("GRANT SELECT ON TABLE a TO bob", "a"),
            ("REVOKE SELECT ON a FROM bob", "a"),
            ("FETCH 1 FROM c", ""),
            ("SELECT 1; SELECT * FROM later", ""),
            ("TABLE t", "t"),
            ("EXPLAIN ANALYZE SELECT * FROM t", "t"),
            ("SELECT * FROM \"quoted\"\"name\"", "\"quoted\"\"name\""),
        ] {
            assert_eq!(targets(text), expected, "{text}");
        }
    }

    #[test]
    fn deep_or_endless_text_ends() {
        targets(&"(".repeat(100_000));
        targets(&"SELECT * FROM a, ".repeat(10_000));
        targets(&format!("SELECT * FROM {}", "x".repeat(10_000)));
    }

    #[test]
    fn the_name_at_a_place() {
        let mut found = Vec::new();
        let text = b"SELECT a.nosuch, \xc3\xa4 FROM t";
        for offset in 0..text.len() {
            name_at(text, offset, &mut |name: &[u8]| {
                found.push((offset, name.to_vec()))
            });
        }
        assert!(found.contains(&(7, b"a.nosuch".to_vec())));
        assert!(found.contains(&(17, "ä".as_bytes().to_vec())));
        assert!(!found.iter().any(|(offset, _)| *offset == 6));
    }
}
