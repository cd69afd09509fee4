//! The words without which there is nothing to redact, and a fast search for them.
//!
//! Each needle holds one of a few rare pairs of letters. The search looks for the pairs in blocks of
//! bytes (a loop that the compiler vectorises) and at the needles only where there is one.

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

/// Lower case, and where its pair begins in it.
const NEEDLES: [(&[u8], usize); 7] = [
    (b"passw", 2),
    (b"passphrase", 2),
    (b"secret", 2),
    (b"scram_", 1),
    (b"token", 1),
    (b"conninfo", 5),
    (b"://", 1),
];

const BLOCK: usize = 64;

#[inline(always)]
fn pair(first: u8, second: u8) -> bool {
    let (a, b) = (first | 0x20, second | 0x20);
    ((a == b's') & (b == b's'))
        | ((a == b'c') & (b == b'r'))
        | ((a == b'o') & (b == b'k'))
        | ((a == b'n') & (b == b'f'))
        | ((a == b'/') & (b == b'/'))
}

/// The first position of a pair in `text[from..]`.
fn find_pair(text: &[u8], mut from: usize) -> Option<usize> {
    while let Some(block) = text.get(from..from + BLOCK + 1) {
        let mut hit = 0u8;
        for i in 0..BLOCK {
            hit |= u8::from(pair(block[i], block[i + 1]));
        }
        if hit != 0 {
            let at = block.windows(2).position(|two| pair(two[0], two[1]))?;
            return Some(from + at);
        }
        from += BLOCK;
    }
    let at = text
        .get(from..)?
        .windows(2)
        .position(|two| pair(two[0], two[1]))?;
    Some(from + at)
}

/// The first needle that lies in `text[from..]`, in the order of their pairs.
pub fn find(text: &[u8], from: usize) -> Option<Needle> {
    let mut search = from;
    loop {
        let at_pair = find_pair(text, search)?;
        for (needle, offset) in NEEDLES {
            let Some(at) = at_pair.checked_sub(offset).filter(|&at| at >= from) else {
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
        search = at_pair + 1;
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
    ]
    .iter()
    .any(|wanted| holds(name, wanted))
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
