//! The words without which there is nothing to redact, and a fast search for them.
//!
//! Each needle holds one of a few rare groups of three letters, its mark. The search looks for marks
//! in blocks of bytes (a loop that the compiler vectorises) and at the needles only where there is
//! one.

/// A needle that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needle {
    /// Where it begins.
    pub at: usize,
    /// Where it ends.
    pub end: usize,
    /// It is `://`.
    pub uri: bool,
}

/// Lower case, and where its mark begins in it.
const NEEDLES: [(&[u8], usize); 7] = [
    (b"passw", 2),
    (b"passphrase", 2),
    (b"secret", 1),
    (b"scram_", 1),
    (b"token", 1),
    (b"conninfo", 2),
    (b"://", 0),
];

const BLOCK: usize = 64;

/// A block and the two bytes behind it.
type Block = [u8; BLOCK + 2];

/// Whether these are the mark of one of [`NEEDLES`]. No branches, so that the compiler can vectorise.
#[inline(always)]
fn is_mark(first: u8, second: u8, third: u8) -> bool {
    let (a, b, c) = (first | 0x20, second | 0x20, third | 0x20);
    ((a == b's') & (b == b's') & ((c == b'w') | (c == b'p')))
        | ((a == b'e') & (b == b'c') & (c == b'r'))
        | ((a == b'c') & (b == b'r') & (c == b'a'))
        | ((a == b'o') & (b == b'k') & (c == b'e'))
        | ((a == b'n') & (b == b'n') & (c == b'i'))
        | ((a == b':') & (b == b'/') & (c == b'/'))
}

#[inline(always)]
fn has_mark(block: &Block) -> bool {
    let mut hit = 0u8;
    for i in 0..BLOCK {
        hit |= u8::from(is_mark(block[i], block[i + 1], block[i + 2]));
    }
    hit != 0
}

/// The first position of a mark in `text[from..]`.
fn find_mark(text: &[u8], mut from: usize) -> Option<usize> {
    loop {
        let rest = text.get(from..)?;
        let block: &[u8] = match rest.first_chunk::<{ BLOCK + 2 }>() {
            Some(block) if has_mark(block) => block,
            Some(_) => {
                from += BLOCK;
                continue;
            }
            None => {
                let mut last: Block = [0; BLOCK + 2];
                last[..rest.len()].copy_from_slice(rest);
                if !has_mark(&last) {
                    return None;
                }
                rest
            }
        };
        let at = block
            .windows(3)
            .position(|three| is_mark(three[0], three[1], three[2]))?;
        return Some(from + at);
    }
}

/// The first needle that lies in `text[from..]`, in the order of their marks.
#[unsafe(link_section = "audit_session")]
pub fn find(text: &[u8], from: usize) -> Option<Needle> {
    let mut search = from;
    loop {
        let at_mark = find_mark(text, search)?;
        for (needle, offset) in NEEDLES {
            let Some(at) = at_mark.checked_sub(offset).filter(|&at| at >= from) else {
                continue;
            };
            let end = at + needle.len();
            if text
                .get(at..end)
                .is_some_and(|found| found.eq_ignore_ascii_case(needle))
            {
                let uri = needle == b"://";
                return Some(Needle { at, end, uri });
            }
        }
        search = at_mark + 1;
    }
}

/// Whether `text` holds `wanted`, given in lower case, in any case.
pub fn holds(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len())
        .any(|window| window.eq_ignore_ascii_case(wanted))
}

/// Whether `text` ends in `wanted`, given in lower case, in any case.
pub fn ends_in(text: &[u8], wanted: &[u8]) -> bool {
    text.len()
        .checked_sub(wanted.len())
        .and_then(|start| text.get(start..))
        .is_some_and(|end| end.eq_ignore_ascii_case(wanted))
}

/// An option of a foreign server or user mapping that is a secret.
pub fn is_secret_option(name: &[u8]) -> bool {
    [
        &b"password"[..],
        b"passwd",
        b"secret",
        b"token",
        b"passphrase",
        b"scram_client_key",
        b"scram_server_key",
    ]
    .iter()
    .any(|wanted| holds(name, wanted))
}

/// A setting that is, or holds, a secret, by its whole name, which may have quotes. A name with a dot
/// in it is not the server's own: there the word may stand anywhere (`app.settings.jwt_secret`), but
/// in the names of modules that check passwords.
pub fn is_secret_name(name: &[u8]) -> bool {
    let name = name.strip_prefix(b"\"").unwrap_or(name);
    let name = name.strip_suffix(b"\"").unwrap_or(name);
    let checks = |module: &[u8]| {
        name.get(..module.len())
            .is_some_and(|begin| begin.eq_ignore_ascii_case(module))
    };
    let custom = name.contains(&b'.') && !checks(b"credcheck") && !checks(b"passwordcheck");
    is_secret_setting(name) || (custom && is_secret_option(name))
}

/// A variable of a shell's environment that is a secret: `PGPASSWORD`, `AWS_SECRET_ACCESS_KEY`. A
/// name in one piece is rather a column.
pub fn is_secret_variable(name: &[u8]) -> bool {
    let upper = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_';
    name.iter().all(upper)
        && (name.contains(&b'_') || name.starts_with(b"PG"))
        && is_secret_option(name)
}

/// A setting that is, or holds, a secret. `name` may be the last part of a qualified name.
pub fn is_secret_setting(name: &[u8]) -> bool {
    [
        &b"password"[..],
        b"passwd",
        b"passphrase",
        b"primary_conninfo",
        b"ssl_passphrase_command",
    ]
    .iter()
    .any(|wanted| ends_in(name, wanted))
}

/// A keyword of a libpq connection string (or a parameter of a URI) that is a secret.
pub fn is_secret_keyword(name: &[u8]) -> bool {
    [
        &b"password"[..],
        b"passwd",
        b"passphrase",
        b"oauth_client_secret",
        b"scram_client_key",
        b"scram_server_key",
    ]
    .iter()
    .any(|wanted| ends_in(name, wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_needle_is_found_in_any_case_at_any_place() {
        for (needle, offset) in NEEDLES {
            assert!(is_mark(
                needle[offset],
                needle[offset + 1],
                needle[offset + 2]
            ));
            for before in 0..140 {
                for after in [0, 1, 2, 70] {
                    let needle = if before % 2 == 0 {
                        needle.to_ascii_uppercase()
                    } else {
                        needle.to_vec()
                    };
                    let text = [vec![b'x'; before], needle.clone(), vec![b's'; after]].concat();
                    let found = find(&text, 0).map(|found| (found.at, found.end));
                    assert_eq!(found, Some((before, before + needle.len())));
                    assert_eq!(find(&text, before + 1), None);
                    assert_eq!(find(&text[..before + needle.len() - 1], 0), None);
                }
            }
        }
    }
}
