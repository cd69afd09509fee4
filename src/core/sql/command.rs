//! The command of a text that has no parse tree.

use super::lexer::{Kind, Lexer, Token};

/// The command tag that the first keywords promise, `UNKNOWN` where they say nothing. Leading
/// blanks, comments, parentheses and `;` are skipped. Tags are those of PostgreSQL's cmdtaglist.h.
pub fn command_of_first_keyword(text: &[u8]) -> &'static str {
    let mut tokens = Lexer::new(text, true)
        .filter(|token| !token.kind.is_blank())
        .skip_while(|token| token.is_punct(text, b'(') || token.is_punct(text, b';'));
    let mut next = || tokens.next().filter(|token| token.kind == Kind::Word);
    let Some(first) = next() else {
        return UNKNOWN;
    };
    let is = |token: Token, keyword: &str| token.is_word(text, keyword);
    if let Some(object) = ["CREATE", "ALTER", "DROP"]
        .into_iter()
        .position(|verb| is(first, verb))
    {
        return object_command(text, object, next);
    }
    let Some((_, tag)) = FIRST.iter().find(|(keyword, _)| is(first, keyword)) else {
        return two_words(text, first, next());
    };
    tag
}

/// Whether a text begins as DECLARE CURSOR does: a name, its options, CURSOR.
pub fn declares_cursor(text: &[u8]) -> bool {
    const OPTIONS: [&str; 5] = ["BINARY", "ASENSITIVE", "INSENSITIVE", "NO", "SCROLL"];
    let mut tokens = Lexer::new(text, true).filter(|token| !token.kind.is_blank());
    let is = |token: Token, keyword: &str| token.is_word(text, keyword);
    let declares = tokens.next().is_some_and(|token| is(token, "DECLARE"));
    let named = tokens.next().is_some();
    let behind = tokens.find(|token| !OPTIONS.iter().any(|option| is(*token, option)));
    declares && named && behind.is_some_and(|token| is(token, "CURSOR"))
}

const UNKNOWN: &str = "UNKNOWN";

/// Commands that the first keyword settles.
const FIRST: [(&str, &str); 39] = [
    ("SELECT", "SELECT"),
    ("VALUES", "SELECT"),
    ("TABLE", "SELECT"),
    ("WITH", "SELECT"),
    ("INSERT", "INSERT"),
    ("UPDATE", "UPDATE"),
    ("DELETE", "DELETE"),
    ("MERGE", "MERGE"),
    ("TRUNCATE", "TRUNCATE TABLE"),
    ("COPY", "COPY"),
    ("CALL", "CALL"),
    ("DO", "DO"),
    ("EXECUTE", "EXECUTE"),
    ("EXPLAIN", "EXPLAIN"),
    ("FETCH", "FETCH"),
    ("MOVE", "MOVE"),
    ("CLOSE", "CLOSE CURSOR"),
    ("DECLARE", "DECLARE CURSOR"),
    ("GRANT", "GRANT"),
    ("REVOKE", "REVOKE"),
    ("BEGIN", "BEGIN"),
    ("COMMIT", "COMMIT"),
    ("END", "COMMIT"),
    ("ABORT", "ROLLBACK"),
    ("SAVEPOINT", "SAVEPOINT"),
    ("RELEASE", "RELEASE"),
    ("RESET", "RESET"),
    ("SHOW", "SHOW"),
    ("VACUUM", "VACUUM"),
    ("ANALYZE", "ANALYZE"),
    ("ANALYSE", "ANALYZE"),
    ("CLUSTER", "CLUSTER"),
    ("REINDEX", "REINDEX"),
    ("CHECKPOINT", "CHECKPOINT"),
    ("COMMENT", "COMMENT"),
    ("LISTEN", "LISTEN"),
    ("UNLISTEN", "UNLISTEN"),
    ("NOTIFY", "NOTIFY"),
    ("LOAD", "LOAD"),
];

/// Commands that need the second keyword; `*` is any, or none.
const SECOND: [(&str, &str, &str); 17] = [
    ("START", "TRANSACTION", "START TRANSACTION"),
    ("PREPARE", "TRANSACTION", "PREPARE TRANSACTION"),
    ("PREPARE", "*", "PREPARE"),
    ("ROLLBACK", "*", "ROLLBACK"),
    ("SET", "CONSTRAINTS", "SET CONSTRAINTS"),
    ("SET", "*", "SET"),
    ("LOCK", "*", "LOCK TABLE"),
    ("DEALLOCATE", "ALL", "DEALLOCATE ALL"),
    ("DEALLOCATE", "*", "DEALLOCATE"),
    ("DISCARD", "ALL", "DISCARD ALL"),
    ("DISCARD", "PLANS", "DISCARD PLANS"),
    ("DISCARD", "SEQUENCES", "DISCARD SEQUENCES"),
    ("DISCARD", "*", "DISCARD TEMP"),
    ("REFRESH", "*", "REFRESH MATERIALIZED VIEW"),
    ("REASSIGN", "*", "REASSIGN OWNED"),
    ("IMPORT", "*", "IMPORT FOREIGN SCHEMA"),
    ("SECURITY", "LABEL", "SECURITY LABEL"),
];

fn two_words(text: &[u8], first: Token, second: Option<Token>) -> &'static str {
    SECOND
        .iter()
        .find(|(keyword, then, _)| {
            first.is_word(text, keyword)
                && (*then == "*" || second.is_some_and(|second| second.is_word(text, then)))
        })
        .map_or(UNKNOWN, |(_, _, tag)| tag)
}

/// Words between CREATE and the kind of object.
const FILLERS: [&str; 18] = [
    "OR",
    "REPLACE",
    "TEMP",
    "TEMPORARY",
    "UNLOGGED",
    "GLOBAL",
    "LOCAL",
    "UNIQUE",
    "RECURSIVE",
    "TRUSTED",
    "PROCEDURAL",
    "CONSTRAINT",
    "DEFAULT",
    "IF",
    "NOT",
    "EXISTS",
    "ONLY",
    "ALL",
];

/// The tags of CREATE, ALTER and DROP of a kind of object.
type Tags = [&'static str; 3];

macro_rules! objects {
    ($($words:literal),* $(,)?) => {
        [$(($words, [
            concat!("CREATE ", $words),
            concat!("ALTER ", $words),
            concat!("DROP ", $words),
        ])),*]
    };
}

/// Longer names before those they begin with.
const OBJECTS: [(&str, Tags); 46] = objects![
    "ACCESS METHOD",
    "AGGREGATE",
    "CAST",
    "COLLATION",
    "CONVERSION",
    "DATABASE",
    "DEFAULT PRIVILEGES",
    "DOMAIN",
    "EVENT TRIGGER",
    "EXTENSION",
    "FOREIGN DATA WRAPPER",
    "FOREIGN TABLE",
    "FUNCTION",
    "INDEX",
    "LANGUAGE",
    "LARGE OBJECT",
    "MATERIALIZED VIEW",
    "OPERATOR CLASS",
    "OPERATOR FAMILY",
    "OPERATOR",
    "OWNED",
    "POLICY",
    "PROCEDURE",
    "PUBLICATION",
    "ROLE",
    "ROUTINE",
    "RULE",
    "SCHEMA",
    "SEQUENCE",
    "SERVER",
    "STATISTICS",
    "SUBSCRIPTION",
    "SYSTEM",
    "TABLE",
    "TABLESPACE",
    "TEXT SEARCH CONFIGURATION",
    "TEXT SEARCH DICTIONARY",
    "TEXT SEARCH PARSER",
    "TEXT SEARCH TEMPLATE",
    "TRANSFORM",
    "TRIGGER",
    "TYPE",
    "USER MAPPING",
    "VIEW",
    "PROPERTY GRAPH",
    "CONSTRAINT",
];

/// USER and GROUP are roles.
const ROLES: Tags = ["CREATE ROLE", "ALTER ROLE", "DROP ROLE"];

fn object_command(
    text: &[u8],
    verb: usize,
    mut next: impl FnMut() -> Option<Token>,
) -> &'static str {
    // Up to three fillers and three words of the object's kind.
    let mut words: [Option<Token>; 3] = [None; 3];
    let mut count = 0;
    for _ in 0..8 {
        let Some(token) = next() else { break };
        let is_filler = FILLERS.iter().any(|filler| token.is_word(text, filler));
        // ALTER DEFAULT PRIVILEGES is no filler.
        if count == 0 && is_filler && !(verb == 1 && token.is_word(text, "DEFAULT")) {
            continue;
        }
        words[count] = Some(token);
        count += 1;
        if count == words.len() {
            break;
        }
    }
    let matches = |name: &str| {
        name.split(' ')
            .zip(words)
            .all(|(word, token)| token.is_some_and(|token| token.is_word(text, word)))
    };
    let tags = OBJECTS
        .iter()
        .find(|(name, _)| matches(name))
        .map(|(_, tags)| tags);
    let tags = match tags {
        Some(tags) => tags,
        None if matches("USER") || matches("GROUP") => &ROLES,
        None => return UNKNOWN,
    };
    tags.get(verb).copied().unwrap_or(UNKNOWN)
}

#[cfg(test)]
mod tests {
    use super::{command_of_first_keyword, declares_cursor};

    #[test]
    fn a_cursor_is_declared_however_it_is_written() {
        for text in [
            "declare c cursor for select 1",
            "DECLARE \"a b\" CURSOR FOR SELECT 1",
            "declare/**/c/**/no scroll--\n cursor with hold for select 1",
            "declare cursor cursor for select 1",
            "declare c binary insensitive cursor for select 1",
        ] {
            assert!(declares_cursor(text.as_bytes()), "{text}");
        }
        for text in [
            "",
            "declare",
            "declare c",
            "declare cursor",
            "declare c int; begin end",
            "declare c constant int := 1; cursor int; begin end",
            "select 1",
        ] {
            assert!(!declares_cursor(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn tags() {
        for (text, tag) in [
            ("", "UNKNOWN"),
            ("  ", "UNKNOWN"),
            ("'select'", "UNKNOWN"),
            ("SELCT 1", "UNKNOWN"),
            ("\"select\" 1", "UNKNOWN"),
            ("select", "SELECT"),
            (" -- x\n/* y */ ((Select 1", "SELECT"),
            (";; values (1", "SELECT"),
            ("with x as (", "SELECT"),
            ("INSERT INTO", "INSERT"),
            ("truncate t", "TRUNCATE TABLE"),
            ("begin", "BEGIN"),
            ("start transaction x", "START TRANSACTION"),
            ("start", "UNKNOWN"),
            ("rollback to x", "ROLLBACK"),
            ("end", "COMMIT"),
            ("prepare transaction 'x'", "PREPARE TRANSACTION"),
            ("prepare x as", "PREPARE"),
            ("set constraints all", "SET CONSTRAINTS"),
            ("set x = ", "SET"),
            ("create table t (", "CREATE TABLE"),
            ("create temp table if not exists t (", "CREATE TABLE"),
            ("create or replace function f(", "CREATE FUNCTION"),
            ("create unique index concurrently", "CREATE INDEX"),
            ("create materialized view v", "CREATE MATERIALIZED VIEW"),
            (
                "create foreign data wrapper w",
                "CREATE FOREIGN DATA WRAPPER",
            ),
            ("create foreign table t", "CREATE FOREIGN TABLE"),
            ("create constraint trigger t", "CREATE TRIGGER"),
            ("create user x password '", "CREATE ROLE"),
            ("create user mapping for", "CREATE USER MAPPING"),
            ("alter group g add", "ALTER ROLE"),
            ("alter role x", "ALTER ROLE"),
            ("alter system set", "ALTER SYSTEM"),
            ("alter default privileges in", "ALTER DEFAULT PRIVILEGES"),
            ("drop table if exists", "DROP TABLE"),
            ("drop owned by", "DROP OWNED"),
            ("create", "UNKNOWN"),
            ("create 'x'", "UNKNOWN"),
            ("create or replace temp recursive view v", "CREATE VIEW"),
            ("alter operator class x", "ALTER OPERATOR CLASS"),
            ("alter operator + (", "ALTER OPERATOR"),
        ] {
            assert_eq!(command_of_first_keyword(text.as_bytes()), tag, "{text}");
        }
    }
}
