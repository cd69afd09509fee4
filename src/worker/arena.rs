//! Bytes of a batch, one after the other, some of them as PostgreSQL's variable-length values
//! (varlena, see postgres.h). One allocation that is kept from batch to batch.

use pgrx::pg_sys;

/// A piece of an [`Arena`], or nothing.
#[derive(Clone, Copy)]
pub struct Piece {
    offset: u32,
    /// `u32::MAX`: nothing.
    len: u32,
}

impl Piece {
    pub const NONE: Piece = Piece {
        offset: 0,
        len: u32::MAX,
    };

    pub fn is_some(self) -> bool {
        self.len != u32::MAX
    }
}

/// Longest content of a varlena with a header of one byte.
const SHORT: usize = 126;

#[derive(Default)]
pub struct Arena {
    bytes: Vec<u8>,
}

impl Arena {
    /// Empties it; memory beyond `keep` bytes is given back.
    pub fn clear(&mut self, keep: usize) {
        self.bytes.clear();
        self.bytes.shrink_to(keep);
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Keeps plain bytes.
    pub fn put(&mut self, bytes: &[u8]) -> Piece {
        let offset = self.bytes.len() as u32;
        self.bytes.extend_from_slice(bytes);
        Piece {
            offset,
            len: bytes.len() as u32,
        }
    }

    /// Keeps plain bytes if there are any.
    pub fn put_option(&mut self, bytes: Option<&[u8]>) -> Piece {
        bytes.map_or(Piece::NONE, |b| self.put(b))
    }

    /// The bytes of a piece.
    pub fn get(&self, piece: Piece) -> Option<&[u8]> {
        piece
            .is_some()
            .then(|| &self.bytes[piece.offset as usize..][..piece.len as usize])
    }

    /// Keeps a text or bytea value in the form that heap tuples have.
    pub fn put_varlena(&mut self, content: &[u8]) -> Piece {
        if content.len() > SHORT {
            // A header of four bytes is read as a number, so it has to be aligned.
            self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        }
        let offset = self.bytes.len() as u32;
        if content.len() <= SHORT {
            self.bytes.push(short_header(content.len() as u8 + 1));
        } else {
            self.bytes
                .extend_from_slice(&long_header(content.len() as u32 + 4));
        }
        self.bytes.extend_from_slice(content);
        Piece {
            offset,
            len: self.bytes.len() as u32 - offset,
        }
    }

    /// The content of a value kept by [`Arena::put_varlena`].
    pub fn content(&self, piece: Piece) -> &[u8] {
        let bytes = self.get(piece).unwrap_or_default();
        let header = if bytes.len() <= SHORT + 1 { 1 } else { 4 };
        bytes.get(header..).unwrap_or_default()
    }

    /// A value kept by [`Arena::put_varlena`]. It is valid until the arena changes.
    pub fn datum(&self, piece: Piece) -> Option<pg_sys::Datum> {
        // The allocator aligns the beginning to 16, which offsets build upon.
        debug_assert!(self.bytes.as_ptr().addr().is_multiple_of(8));
        self.get(piece).map(|b| pg_sys::Datum::from(b.as_ptr()))
    }
}

/// SET_VARSIZE_1B
fn short_header(len: u8) -> u8 {
    if cfg!(target_endian = "little") {
        len << 1 | 1
    } else {
        len | 0x80
    }
}

/// SET_VARSIZE_4B
fn long_header(len: u32) -> [u8; 4] {
    if cfg!(target_endian = "little") {
        (len << 2).to_ne_bytes()
    } else {
        (len & 0x3fff_ffff).to_ne_bytes()
    }
}
