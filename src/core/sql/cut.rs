//! Collecting a text of any length in bounded memory: the beginning, the full length, the digest.

use sha2::{Digest, Sha256};

/// Takes a text in pieces, in order.
pub trait Sink {
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Appends at most `max` bytes to a vector and only counts and hashes the rest.
///
/// The vector grows by at most `max` bytes; where it has that much spare capacity, nothing is
/// allocated. A text that fits is not hashed.
pub struct CutSink<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    max: usize,
    full_len: u64,
    hash: Option<Sha256>,
}

/// What [`CutSink`] saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Bytes of the whole text, kept or not.
    pub full_len: u64,
    /// SHA-256 of the whole text; `Some` only if it was cut.
    pub sha256: Option<[u8; 32]>,
}

impl<'a> CutSink<'a> {
    /// Appends to `out`, at most `max` bytes.
    pub fn new(out: &'a mut Vec<u8>, max: usize) -> Self {
        let start = out.len();
        CutSink {
            out,
            start,
            max,
            full_len: 0,
            hash: None,
        }
    }

    /// Ends the text. A cut one ends before a multibyte character that did not fit whole, so up to
    /// three bytes fewer than `max` are kept.
    pub fn finish(self) -> Cut {
        if self.hash.is_some() {
            let kept = self.out.get(self.start..).unwrap_or_default();
            let keep = whole_characters(kept);
            self.out.truncate(self.start + keep);
        }
        Cut {
            full_len: self.full_len,
            sha256: self.hash.map(|hash| hash.finalize().into()),
        }
    }
}

impl Sink for CutSink<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.full_len = self.full_len.saturating_add(bytes.len() as u64);
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
            return;
        }
        let kept = self.out.len() - self.start;
        let room = self.max.saturating_sub(kept);
        if bytes.len() <= room {
            self.out.extend_from_slice(bytes);
            return;
        }
        let (fits, rest) = bytes.split_at(room);
        self.out.extend_from_slice(fits);
        let mut hash = Sha256::new();
        hash.update(self.out.get(self.start..).unwrap_or_default());
        hash.update(rest);
        self.hash = Some(hash);
    }
}

/// The length of `text` without an incomplete UTF-8 character at its end. Text whose end is not
/// UTF-8-like keeps its length.
pub fn whole_characters(text: &[u8]) -> usize {
    let tail = text.len().saturating_sub(4);
    for (back, &byte) in text[tail..].iter().rev().enumerate() {
        let need = match byte {
            0x80..=0xBF => continue,
            0xC2..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF4 => 4,
            _ => return text.len(),
        };
        let have = back + 1;
        return if have < need {
            text.len() - have
        } else {
            text.len()
        };
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(pieces: &[&[u8]], max: usize) -> (Vec<u8>, Cut) {
        let mut out = b"before".to_vec();
        let mut sink = CutSink::new(&mut out, max);
        for piece in pieces {
            sink.put(piece);
        }
        let cut = sink.finish();
        assert_eq!(&out[..6], b"before");
        (out.split_off(6), cut)
    }

    fn sha(text: &[u8]) -> Option<[u8; 32]> {
        Some(Sha256::digest(text).into())
    }

    #[test]
    fn keeps_what_fits_and_hashes_only_what_does_not() {
        let whole = |len| Cut {
            full_len: len,
            sha256: None,
        };
        assert_eq!(cut(&[], 0), (vec![], whole(0)));
        assert_eq!(cut(&[b"abc", b"de"], 5), (b"abcde".to_vec(), whole(5)));
        let (kept, seen) = cut(&[b"abc", b"def", b"ghi"], 5);
        assert_eq!((kept.as_slice(), seen.full_len), (&b"abcde"[..], 9));
        assert_eq!(seen.sha256, sha(b"abcdefghi"));
        let (kept, seen) = cut(&[b"x"], 0);
        assert_eq!((kept.len(), seen.sha256), (0, sha(b"x")));
    }

    #[test]
    fn ends_between_characters() {
        for (text, max, kept) in [
            ("aé".as_bytes(), 2, &b"a"[..]),
            ("aéz".as_bytes(), 3, "aé".as_bytes()),
            ("a€z".as_bytes(), 3, b"a"),
            ("😀😀".as_bytes(), 7, "😀".as_bytes()),
            // LATIN1 and garbage: no boundary to respect
            (b"a\x80\x80\x80\x80\x80z", 5, b"a\x80\x80\x80\x80"),
            (b"a\xff\xffz", 3, b"a\xff\xff"),
        ] {
            let (out, seen) = cut(&[text], max);
            assert_eq!(out, kept, "{text:?} at {max}");
            assert_eq!(seen.sha256, sha(text));
        }
    }
}
