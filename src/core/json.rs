//! Writing JSON, for details of events. Reading is left to jsonb itself.

/// The two hexadecimal digits of a byte.
fn digits(byte: u8) -> [u8; 2] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    [byte >> 4, byte & 15].map(|digit| DIGITS[digit as usize])
}

/// Appends `text` as a JSON string. Bytes that are no UTF-8 appear as `\xNN`, literally.
/// Allocates nothing but room in `out`.
pub fn string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                '\0' => out.extend_from_slice(b"\\\\x00"), // jsonb refuses \u0000
                c if c < ' ' => {
                    out.extend_from_slice(b"\\u00");
                    out.extend_from_slice(&digits(c as u8));
                }
                c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        for byte in chunk.invalid() {
            out.extend_from_slice(b"\\\\x");
            out.extend_from_slice(&digits(*byte));
        }
    }
    out.push(b'"');
}

/// A JSON object being written.
pub struct Object(Vec<u8>);

impl Default for Object {
    fn default() -> Self {
        Self::new()
    }
}

impl Object {
    pub fn new() -> Self {
        Object(b"{".to_vec())
    }

    pub fn is_empty(&self) -> bool {
        self.0.len() == 1
    }

    fn key(&mut self, key: &str) {
        if !self.is_empty() {
            self.0.push(b',');
        }
        string(&mut self.0, key.as_bytes());
        self.0.push(b':');
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

    pub fn number(&mut self, key: &str, value: impl std::fmt::Display) -> &mut Self {
        self.raw(key, value.to_string().as_bytes())
    }

    pub fn finish(mut self) -> Vec<u8> {
        self.0.push(b'}');
        self.0
    }
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
