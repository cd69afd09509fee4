//! Writing JSON, for details of events. Reading is left to jsonb itself.

use std::io::Write;

/// The two hexadecimal digits of a byte.
fn digits(byte: u8) -> [u8; 2] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    [byte >> 4, byte & 15].map(|digit| DIGITS[digit as usize])
}

/// Appends `text` as a JSON string. Bytes that are no UTF-8 appear as `\xNN`, literally.
/// Allocates nothing but room in `out`.
#[unsafe(link_section = "audit_session")]
pub fn string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    // Most texts are plain, and seen to be without the general reader of UTF-8.
    if text.is_ascii() {
        text.iter().for_each(|byte| ascii(out, *byte));
    } else {
        any(out, text);
    }
    out.push(b'"');
}

#[inline]
fn ascii(out: &mut Vec<u8>, byte: u8) {
    match byte {
        b'"' => out.extend_from_slice(b"\\\""),
        b'\\' => out.extend_from_slice(b"\\\\"),
        0 => out.extend_from_slice(b"\\\\x00"), // jsonb refuses \u0000
        1..b' ' => {
            out.extend_from_slice(b"\\u00");
            out.extend_from_slice(&digits(byte));
        }
        _ => out.push(byte),
    }
}

#[cold]
#[inline(never)]
fn any(out: &mut Vec<u8>, text: &[u8]) {
    for chunk in text.utf8_chunks() {
        for byte in chunk.valid().bytes() {
            ascii(out, byte); // Bytes beyond ASCII stay as they are.
        }
        for byte in chunk.invalid() {
            out.extend_from_slice(b"\\\\x");
            out.extend_from_slice(&digits(*byte));
        }
    }
}

/// A JSON object being written; its buffer can be used again.
pub struct Object(pub(crate) Vec<u8>);

impl Default for Object {
    fn default() -> Self {
        Self::new()
    }
}

impl Object {
    pub fn new() -> Self {
        Object(b"{".to_vec())
    }

    /// With room for so many bytes.
    pub fn with_room(room: usize) -> Self {
        let mut buffer = Vec::with_capacity(room + 2);
        buffer.push(b'{');
        Object(buffer)
    }

    pub fn is_empty(&self) -> bool {
        self.0.len() == 1
    }

    /// Bytes written, with the closing brace.
    pub fn len(&self) -> usize {
        self.0.len() + 1
    }

    /// Room for so many bytes more, which are then written without an allocation.
    pub fn reserve(&mut self, room: usize) {
        self.0.reserve(room + 1);
    }

    /// Makes room without a panic; `false` where there is no memory.
    pub fn try_reserve(&mut self, room: usize) -> bool {
        self.0.try_reserve(room + 1).is_ok()
    }

    /// Begins anew; keeps at most so much of the buffer.
    pub fn clear(&mut self, keep: usize) {
        self.0.truncate(1);
        self.0.shrink_to(keep);
    }

    /// [`Object::clear`], then [`Object::reserve`].
    #[inline]
    pub fn renew(&mut self, keep: usize, room: usize) {
        self.0.truncate(1);
        if !(room + 2..=keep).contains(&self.0.capacity()) {
            self.resize(keep, room);
        }
    }

    #[cold]
    #[inline(never)]
    fn resize(&mut self, keep: usize, room: usize) {
        self.0.shrink_to(keep);
        self.reserve(room);
    }

    #[unsafe(link_section = "audit_session")]
    pub(crate) fn key(&mut self, key: &str) {
        if self.0.last() != Some(&b'{') {
            self.0.push(b',');
        }
        string(&mut self.0, key.as_bytes());
        self.0.push(b':');
    }

    /// Whether a member of that name was written.
    pub fn has(&self, key: &str) -> bool {
        let key = key.as_bytes();
        self.0
            .windows(key.len() + 3)
            .any(|w| w[0] == b'"' && w.ends_with(b"\":") && &w[1..=key.len()] == key)
    }

    pub fn text(&mut self, key: &str, value: &[u8]) -> &mut Self {
        self.key(key);
        string(&mut self.0, value);
        self
    }

    /// `value` is JSON already.
    pub fn raw(&mut self, key: &str, value: &[u8]) -> &mut Self {
        self.key(key);
        self.0.extend_from_slice(value);
        self
    }

    /// Allocates nothing where the buffer has room.
    pub fn number(&mut self, key: &str, value: impl std::fmt::Display) -> &mut Self {
        self.key(key);
        let _ = write!(self.0, "{value}");
        self
    }

    /// Begins an object as a member; [`Object::end_object`] ends it.
    pub fn begin_object(&mut self, key: &str) {
        self.key(key);
        self.0.push(b'{');
    }

    pub fn end_object(&mut self) {
        self.0.push(b'}');
    }

    /// Begins a list of texts; [`Object::item`]s follow, then [`Object::end_list`].
    pub fn begin_list(&mut self, key: &str) {
        self.key(key);
        self.0.push(b'[');
    }

    pub fn item(&mut self, text: &[u8]) {
        self.separate();
        string(&mut self.0, text);
    }

    /// As [`Object::item`], of JSON.
    pub fn raw_item(&mut self, json: &[u8]) {
        self.separate();
        self.0.extend_from_slice(json);
    }

    fn separate(&mut self) {
        if self.0.last() != Some(&b'[') {
            self.0.push(b',');
        }
    }

    pub fn end_list(&mut self) {
        self.0.push(b']');
    }

    /// Ends the object; nothing may be added until it is cleared.
    pub fn close(&mut self) -> &Self {
        self.0.push(b'}');
        self
    }

    /// What was written; the whole object once it is closed.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.close();
        self.0
    }
}

/// A few bytes on the stack: what doesn't fit is left out.
pub struct Short {
    bytes: [u8; 192],
    len: usize,
}

impl Default for Short {
    fn default() -> Self {
        Self::new()
    }
}

impl Short {
    pub const fn new() -> Self {
        Short {
            bytes: [0; 192],
            len: 0,
        }
    }

    /// `more` is written as it is.
    #[inline]
    pub fn add(&mut self, more: &[u8]) -> &mut Self {
        if let Some(room) = self.bytes.get_mut(self.len..self.len + more.len()) {
            room.copy_from_slice(more);
            self.len += more.len();
        }
        self
    }

    /// In decimal digits.
    #[unsafe(link_section = "audit_session")]
    pub fn number(&mut self, number: u64) -> &mut Self {
        let mut digits = [0; 20];
        let (mut at, mut rest) = (digits.len(), number);
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                return self.add(&digits[at..]);
            }
        }
    }

    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
