//! The lexer and the slices: cases, and a reference.

use audit_core::sql::lexer::{Kind, Lexer};
use audit_core::sql::split::{is_rest_empty, statement_at, statement_in, trim};

/// Tokens as `kind:text`, blanks left out, `!` behind what is not terminated.
fn tokens(text: &[u8], conforming: bool) -> Vec<String> {
    Lexer::new(text, conforming)
        .filter(|token| token.kind != Kind::Space)
        .map(|token| {
            let name = match token.kind {
                Kind::LineComment | Kind::BlockComment => "c",
                Kind::String => "s",
                Kind::EscapeString => "e",
                Kind::UnicodeString => "u",
                Kind::BitString => "b",
                Kind::DollarString => "d",
                Kind::Word => "w",
                Kind::QuotedIdent => "q",
                Kind::UnicodeIdent => "uq",
                Kind::Number => "n",
                Kind::Param => "p",
                Kind::Operator => "o",
                Kind::Punct => "x",
                Kind::Other => "?",
                Kind::Space => unreachable!(),
            };
            let text = String::from_utf8_lossy(token.of(text)).into_owned();
            format!("{name}:{text}{}", if token.unterminated { "!" } else { "" })
        })
        .collect()
}

#[test]
fn tokens_as_scan_l_has_them() {
    let cases: &[(&str, &[&str])] = &[
        ("", &[]),
        ("select 1", &["w:select", "n:1"]),
        ("a$b$c", &["w:a$b$c"]),
        ("été$1", &["w:été$1"]),
        ("'a''b'", &["s:'a''b'"]),
        ("'a' 'b'", &["s:'a'", "s:'b'"]),
        ("'a'\n'b'", &["s:'a'\n'b'"]),
        ("'a' -- x\n 'b'c", &["s:'a' -- x\n 'b'", "w:c"]),
        ("'a'\n-- x\n-- y\n'b'", &["s:'a'\n-- x\n-- y\n'b'"]),
        ("'a' /* x */\n'b'", &["s:'a'", "c:/* x */", "s:'b'"]),
        ("'a'\n-'b'", &["s:'a'", "o:-", "s:'b'"]),
        ("'a'\n-- x", &["s:'a'", "c:-- x"]),
        ("'a'\n'b", &["s:'a'\n'b!"]),
        ("'a\\'c'", &["s:'a\\'", "w:c", "s:'!"]),
        ("E'a\\'b'", &["e:E'a\\'b'"]),
        ("e'\\\\'x", &["e:e'\\\\'", "w:x"]),
        ("E'a'\n'\\''", &["e:E'a'\n'\\''"]),
        ("E'\\", &["e:E'\\!"]),
        ("E'a\\'", &["e:E'a\\'!"]),
        ("N'a'", &["s:N'a'"]),
        ("name'a'", &["w:name", "s:'a'"]),
        ("b'01''1'", &["b:b'01'", "s:'1'"]),
        ("X'1F'\n'2'", &["b:X'1F'\n'2'"]),
        ("U&'\\0041'", &["u:U&'\\0041'"]),
        ("u&\"d\\0061\" x", &["uq:u&\"d\\0061\"", "w:x"]),
        ("u&x", &["w:u", "o:&", "w:x"]),
        ("U& 'x'", &["w:U", "o:&", "s:'x'"]),
        ("$$a$$", &["d:$$a$$"]),
        ("$a$$b$$a$", &["d:$a$$b$$a$"]),
        ("$a$ $A$ $a$", &["d:$a$ $A$ $a$"]),
        ("$a$$ab$a$", &["d:$a$$ab$a$"]),
        ("$é$x$é$", &["d:$é$x$é$"]),
        ("$a$x", &["d:$a$x!"]),
        ("$a x$", &["?:$", "w:a", "w:x$"]),
        ("$1a$$x$$", &["p:$1", "w:a$$x$$"]),
        ("$1$$x$$", &["p:$1", "d:$$x$$"]),
        ("\"a\"\"b\" \"c", &["q:\"a\"\"b\"", "q:\"c!"]),
        ("-- a\r-- b\nc", &["c:-- a", "c:-- b", "w:c"]),
        ("--", &["c:--"]),
        ("/* a /* b */ c */ d", &["c:/* a /* b */ c */", "w:d"]),
        (
            "/**/x/***/y/*/z",
            &["c:/**/", "w:x", "c:/***/", "w:y", "c:/*/z!"],
        ),
        ("/* /* */", &["c:/* /* */!"]),
        ("a+/*b*/c", &["w:a", "o:+", "c:/*b*/", "w:c"]),
        ("a*--b", &["w:a", "o:*", "c:--b"]),
        ("1<>-2", &["n:1", "o:<>", "o:-", "n:2"]),
        ("@-", &["o:@-"]),
        ("=+-+", &["o:=", "o:+", "o:-", "o:+"]),
        ("<-@+ ->>", &["o:<-@+", "o:->>"]),
        ("+@+ +", &["o:+@+", "o:+"]),
        ("a::b:=c", &["w:a", "o:::", "w:b", "o::=", "w:c"]),
        (
            "1.5e-3 .5 1. 1..2 1e x",
            &[
                "n:1.5e-3", "n:.5", "n:1.", "n:1", "o:..", "n:2", "n:1", "w:e", "w:x",
            ],
        ),
        (
            "0x1F 0b01 0o7 1_000",
            &["n:0x1F", "n:0b01", "n:0o7", "n:1_000"],
        ),
        ("1e'x'", &["n:1", "e:e'x'"]),
        (
            "t.c[1];(x)",
            &[
                "w:t", "x:.", "w:c", "x:[", "n:1", "x:]", "x:;", "x:(", "w:x", "x:)",
            ],
        ),
        ("\\ { \u{1}", &["?:\\", "?:{", "?:\u{1}"]),
    ];
    for (text, expected) in cases {
        assert_eq!(tokens(text.as_bytes(), true), *expected, "{text:?}");
    }
    assert_eq!(tokens(b"'a\\'b' N'\\''", false), ["s:'a\\'b'", "s:N'\\''"]);
    assert_eq!(tokens(b"\xff\xe9$'\x80'", true).len(), 2);
}

#[test]
fn slices() {
    // `|` marks the statement's start and end; the offset is 0.
    for marked in [
        "|select 1|; select 2",
        "  \n|select 1|  ;  ",
        "|/* app */ select 1 -- end;\n|",
        " ;; |select 1|;",
        "|select ';' || $$;$$ /* ; */|; x",
        "|select \";\"|;",
        "|create rule r as on insert to t do (select 1; select 2)|; select 3",
        "|create function f() returns int begin atomic select 1; select 2; end|; select 3",
        "|create or replace procedure p() BEGIN /* x */ ATOMIC select case when a then 1 end; end|; x",
        "|create function f() begin atomic select 1 as end; select t.end; end|; x",
        "|create function f(begin int) returns int return 1|; x",
        "|create function f() begin atomic select (case 1 when 1 then 2 end); end|; x",
        "|create function f() begin atomic end|; x",
        "|create table f (begin int)|; x",
        "|begin|; select 1; end",
        "|select case when 1 then 2 end|; x",
        "|select (1;2|",
        "|select 1)|;2",
        "|select 'x; y|",
        "||",
    ] {
        let mut parts = marked.split('|');
        let (before, rest) = (parts.next().unwrap(), parts.collect::<Vec<_>>());
        // `||` the operator splits too: join what is between the outer marks.
        let (after, inner) = rest.split_last().unwrap();
        let inner = inner.join("|");
        let text = format!("{before}{inner}{after}");
        let range = statement_at(text.as_bytes(), 0);
        let expected = inner.trim_end();
        assert_eq!(&text[range.clone()], expected, "{marked}");
        assert_eq!(range.start, before.len());
    }
    let text = b"select 1; select 2 ;-- x";
    assert_eq!(&text[statement_at(text, 9)], b"select 2");
    assert_eq!(&text[statement_at(text, 20)], b"-- x");
    assert_eq!(statement_at(text, 1000), text.len()..text.len());
    assert_eq!(statement_in(b"'\\';'; x", 0, false), 0..5);
    assert!(is_rest_empty(text, 18) && is_rest_empty(text, 999) && !is_rest_empty(text, 9));
    assert!(is_rest_empty(b" ; /* x */ -- y", 0));
    assert_eq!(trim(b" \n a ; ; \t"), b"a");
    assert_eq!(trim(b" ;; "), b"");
    assert_eq!(trim(b""), b"");
}
