//! Signed notes and checkpoints: C2SP signed-note (c2sp.org/signed-note) and tlog-checkpoint
//! (c2sp.org/tlog-checkpoint), with Ed25519. Own code, as a note is a few lines of text and the
//! crate for it would bring a second base64 and a random number generator along.

use crate::sha::Hash;
use base64ct::{Base64, Encoding};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};

/// Signature type of Ed25519 in the specification.
const ED25519: u8 = 1;
/// What a signature line begins with: an em dash and a space.
const DASH: &str = "\u{2014} ";
/// The specification lets readers limit what they accept.
const MOST_BYTES: usize = 1 << 20;
const MOST_SIGNATURES: usize = 100;

/// Why a note, checkpoint or key is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoteError {
    /// It is no note; what is wrong.
    Malformed(&'static str),
    /// Text of a key that is none.
    Key(&'static str),
    /// No signature by this key; the names of those that signed.
    NotSigned { key: String, by: Vec<String> },
    /// A signature by this key that doesn't fit the text.
    BadSignature { key: String },
}

impl std::fmt::Display for NoteError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            NoteError::Malformed(what) => write!(f, "malformed checkpoint: {what}"),
            NoteError::Key(what) => write!(f, "malformed key: {what}"),
            NoteError::NotSigned { key, by } if by.is_empty() => {
                write!(f, "not signed by {key}, nor by anybody")
            }
            NoteError::NotSigned { key, by } => {
                write!(f, "not signed by {key}, but by {}", by.join(", "))
            }
            NoteError::BadSignature { key } => {
                write!(
                    f,
                    "the signature of {key} does not fit: the text was changed"
                )
            }
        }
    }
}

impl std::error::Error for NoteError {}

/// A name that the specification allows for a key: whatever it doesn't becomes `_`.
pub fn key_name(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '+' => '_',
            c if c.is_whitespace() || c.is_control() => '_',
            c => c,
        })
        .collect()
}

/// Key id: the first four bytes of SHA-256(name ‖ "\n" ‖ type ‖ public key).
fn key_id(name: &str, public: &[u8; 32]) -> [u8; 4] {
    let mut hasher = Sha256::new();
    hasher.update(name.as_bytes());
    hasher.update([b'\n', ED25519]);
    hasher.update(public);
    let digest = hasher.finalize();
    [digest[0], digest[1], digest[2], digest[3]]
}

/// The key that signs, with its name.
pub struct Signing {
    name: String,
    key: SigningKey,
}

impl Signing {
    /// From the 32 secret bytes of RFC 8032.
    pub fn new(name: &str, secret: &[u8; 32]) -> Signing {
        Signing {
            name: key_name(name),
            key: SigningKey::from_bytes(secret),
        }
    }

    /// Reads the private form of golang.org/x/mod/sumdb/note.
    pub fn parse(text: &str) -> Result<Signing, NoteError> {
        const BAD: NoteError = NoteError::Key("it should be PRIVATE+KEY+<name>+<id>+<base64>");
        let rest = text.trim().strip_prefix("PRIVATE+KEY+").ok_or(BAD)?;
        let mut parts = rest.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(BAD);
        };
        let typed = Base64::decode_vec(key).map_err(|_| BAD)?;
        let secret = match typed.split_first() {
            Some((&ED25519, secret)) => <[u8; 32]>::try_from(secret).map_err(|_| BAD)?,
            _ => return Err(NoteError::Key("it is not an Ed25519 key")),
        };
        let signing = Signing::new(name, &secret);
        if name.is_empty() || signing.name != name {
            return Err(NoteError::Key("its name is not valid"));
        }
        if crate::json::hex(&signing.public().id()) != id {
            return Err(NoteError::Key("its id does not fit name and key"));
        }
        Ok(signing)
    }

    /// The private form: what [`Signing::parse`] reads.
    pub fn private_text(&self, secret: &[u8; 32]) -> String {
        let mut typed = vec![ED25519];
        typed.extend_from_slice(secret);
        format!(
            "PRIVATE+KEY+{}+{}+{}",
            self.name,
            crate::json::hex(&self.public().id()),
            Base64::encode_string(&typed)
        )
    }

    pub fn public(&self) -> Verifying {
        Verifying {
            name: self.name.clone(),
            key: self.key.verifying_key(),
        }
    }

    /// The note: the text, an empty line, the signature. `text` ends with a line feed.
    pub fn sign(&self, text: &str) -> String {
        let mut bytes = self.public().id().to_vec();
        bytes.extend_from_slice(&self.sign_bytes(text.as_bytes()));
        format!(
            "{text}\n{DASH}{} {}\n",
            self.name,
            Base64::encode_string(&bytes)
        )
    }

    /// A plain Ed25519 signature.
    pub fn sign_bytes(&self, bytes: &[u8]) -> [u8; 64] {
        self.key.sign(bytes).to_bytes()
    }
}

/// The key that signatures are checked with, with its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verifying {
    name: String,
    key: VerifyingKey,
}

impl Verifying {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The 32 public bytes.
    pub fn bytes(&self) -> [u8; 32] {
        self.key.to_bytes()
    }

    fn id(&self) -> [u8; 4] {
        key_id(&self.name, &self.bytes())
    }

    /// `name+id+key`, as the specification's tools print it.
    pub fn text(&self) -> String {
        let mut typed = vec![ED25519];
        typed.extend_from_slice(&self.bytes());
        format!(
            "{}+{}+{}",
            self.name,
            crate::json::hex(&self.id()),
            Base64::encode_string(&typed)
        )
    }

    /// Reads what [`Verifying::text`] wrote.
    pub fn parse(text: &str) -> Result<Verifying, NoteError> {
        const BAD: NoteError =
            NoteError::Key("it should be <name>+<8 hexadecimal digits>+<base64>");
        let mut parts = text.trim().splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(BAD);
        };
        let typed = Base64::decode_vec(key).map_err(|_| BAD)?;
        let Some((&ED25519, public)) = typed.split_first() else {
            return Err(NoteError::Key("it is not an Ed25519 key"));
        };
        let public: [u8; 32] = public
            .try_into()
            .map_err(|_| NoteError::Key("its length is wrong"))?;
        let key = VerifyingKey::from_bytes(&public)
            .map_err(|_| NoteError::Key("it is not an Ed25519 key"))?;
        let verifying = Verifying {
            name: name.to_string(),
            key,
        };
        if name.is_empty() || key_name(name) != name {
            return Err(NoteError::Key("its name is not valid"));
        }
        if crate::json::hex(&verifying.id()) != id {
            return Err(NoteError::Key("its id does not fit name and key"));
        }
        Ok(verifying)
    }

    /// Whether a plain signature fits.
    pub fn verifies(&self, bytes: &[u8], signature: &[u8]) -> bool {
        Signature::from_slice(signature)
            .is_ok_and(|signature| self.key.verify_strict(bytes, &signature).is_ok())
    }
}

/// A note, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note<'a> {
    /// With its last line feed.
    pub text: &'a str,
    signatures: Vec<(&'a str, Vec<u8>)>,
}

impl<'a> Note<'a> {
    pub fn parse(note: &'a [u8]) -> Result<Note<'a>, NoteError> {
        use NoteError::Malformed;
        if note.len() > MOST_BYTES {
            return Err(Malformed("it is longer than 1 MB"));
        }
        let note = std::str::from_utf8(note).map_err(|_| Malformed("it is not UTF-8"))?;
        if note.chars().any(|c| c < ' ' && c != '\n') {
            return Err(Malformed("it holds control characters"));
        }
        let split = note
            .rfind("\n\n")
            .ok_or(Malformed("no empty line before signatures"))?;
        let (text, lines) = (&note[..=split], &note[split + 2..]);
        let lines = lines
            .strip_suffix('\n')
            .ok_or(Malformed("no line feed at its end"))?;
        let mut signatures = Vec::new();
        for line in lines.split('\n') {
            let (name, signature) = line
                .strip_prefix(DASH)
                .and_then(|rest| rest.split_once(' '))
                .ok_or(Malformed("a line that should be a signature"))?;
            let bytes = Base64::decode_vec(signature)
                .ok()
                .filter(|bytes| bytes.len() > 4 && !name.is_empty() && key_name(name) == name)
                .ok_or(Malformed("a signature that cannot be read"))?;
            signatures.push((name, bytes));
        }
        if signatures.len() > MOST_SIGNATURES {
            return Err(Malformed("it has more than 100 signatures"));
        }
        Ok(Note { text, signatures })
    }

    /// Checks that the key signed it.
    pub fn verify(&self, key: &Verifying) -> Result<(), NoteError> {
        let mut found = false;
        for (name, bytes) in &self.signatures {
            let (id, signature) = bytes.split_at(4);
            if *name != key.name || id != key.id() {
                continue;
            }
            found = true;
            if key.verifies(self.text.as_bytes(), signature) {
                return Ok(());
            }
        }
        if found {
            return Err(NoteError::BadSignature { key: key.text() });
        }
        Err(NoteError::NotSigned {
            key: key.text(),
            by: self
                .signatures
                .iter()
                .map(|(name, bytes)| format!("{name}+{}", crate::json::hex(&bytes[..4])))
                .collect(),
        })
    }
}

/// A tree head: what a checkpoint says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which trail: the first line.
    pub origin: String,
    /// Number of leaves, which is the last seq.
    pub size: u64,
    pub root: Hash,
    /// Further lines, each `name value`.
    pub extensions: Vec<String>,
}

impl Checkpoint {
    /// The text to be signed.
    pub fn text(&self) -> String {
        let mut text = format!(
            "{}\n{}\n{}\n",
            self.origin,
            self.size,
            Base64::encode_string(&self.root)
        );
        for line in &self.extensions {
            text.push_str(line);
            text.push('\n');
        }
        text
    }

    pub fn parse(text: &str) -> Result<Checkpoint, NoteError> {
        use NoteError::Malformed;
        let text = text
            .strip_suffix('\n')
            .ok_or(Malformed("no line feed at its end"))?;
        let mut lines = text.split('\n');
        let origin = lines
            .next()
            .filter(|line| !line.is_empty())
            .ok_or(Malformed("the line of its origin is empty"))?;
        let size = lines
            .next()
            .and_then(decimal)
            .ok_or(Malformed("its second line is not a tree size"))?;
        let root = lines
            .next()
            .and_then(decode_hash)
            .ok_or(Malformed("its third line is not a root hash in base64"))?;
        let extensions: Vec<_> = lines.map(str::to_string).collect();
        if extensions.iter().any(String::is_empty) {
            return Err(Malformed("an empty line in its text"));
        }
        Ok(Checkpoint {
            origin: origin.to_string(),
            size,
            root,
            extensions,
        })
    }

    /// The value of an extension line.
    pub fn extension(&self, name: &str) -> Option<&str> {
        self.extensions
            .iter()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
    }
}

/// A decimal number without sign and leading zeros.
fn decimal(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

/// The hash in standard base64.
pub fn encode_hash(hash: &Hash) -> String {
    Base64::encode_string(hash)
}

/// Reads [`encode_hash`].
pub fn decode_hash(text: &str) -> Option<Hash> {
    Base64::decode_vec(text).ok()?.try_into().ok()
}

/// Splits a file of notes, one after the other, into the notes. A last one that was not written to
/// its end is left out.
pub fn notes(file: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = file;
    while let Some(empty) = rest.find("\n\n") {
        let mut end = empty + 2;
        while rest[end..].starts_with(DASH) {
            match rest[end..].find('\n') {
                Some(line) => end += line + 1,
                None => return found,
            }
        }
        found.push(&rest[..end]);
        rest = rest[end..].trim_start_matches('\n');
    }
    found
}
