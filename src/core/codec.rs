//! The encoding of an event in the ring.
//!
//! A payload is a fixed part, a table of section lengths and the sections, all little-endian:
//!
//! ```text
//! 0   u8  format version       1  u8 outcome    2  u8 fate      3  u8 zero
//! 4   u32 sqlstate             8  i64 started_at   16 i64 duration
//! 24  u64 event_no             32 u64 statement_id
//! 40  u32 substatement_id      44 u32 depth
//! 48  u64 transaction_id       56 i64 rows
//! 64  u32 statement_length     68 u32 zero
//! 72  u32 × 9 section lengths (u32::MAX: the section is absent)
//! 108 the sections, in the order of [`Section`]
//! ```
//!
//! Most statements repeat: the same session runs the same text again. Such an event is a
//! [`crate::repeat::Repeat`], which names the record that holds session, shape and text. All other
//! payloads carry everything themselves. The worker stores what repeats once.
//!
//! Decoding is total: any byte string gives an event or a [`Corrupt`], never a panic.

use core::mem::MaybeUninit;

use crate::event::{Classes, Decision, Fate, Numbers, Outcome, Session, Shape};

/// The first byte of each payload. A reader refuses what it doesn't know.
pub const FORMAT_VERSION: u8 = 1;

/// Length of the fixed part with the table of section lengths.
pub const FIXED_LEN: usize = 108;

/// How many sections there are.
pub const SECTIONS: usize = 9;
const ABSENT: u32 = u32::MAX;

/// The variable parts of a payload, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Section {
    /// [`encode_session`]
    Session = 0,
    /// [`encode_shape`]
    Shape = 1,
    /// The statement's own text, redacted, perhaps cut.
    Statement = 2,
    /// SHA-256 of the full redacted text, where it was cut.
    StatementSha256 = 3,
    /// [`put_parameter`]
    Parameters = 4,
    /// The error's message.
    Error = 5,
    /// A JSON object.
    Details = 6,
    /// [`encode_decision`]s, one after the other.
    Decisions = 7,
    /// The identifier of a prepared transaction, of the statements that make or end one.
    Gid = 8,
}

/// A payload ready to be written: the fixed part on the stack, the sections borrowed.
pub struct Encoded<'a> {
    fixed: [u8; FIXED_LEN],
    sections: [&'a [u8]; SECTIONS],
}

impl<'a> Encoded<'a> {
    /// Lays out an event. `sections` in the order of [`Section`]; `None` is absent. Allocates
    /// nothing, so it may run in an error path.
    #[unsafe(link_section = "audit_session")]
    pub fn new(numbers: &Numbers, sections: [Option<&'a [u8]>; SECTIONS]) -> Self {
        let mut fixed = [0; FIXED_LEN];
        fixed[0] = FORMAT_VERSION;
        fixed[1] = numbers.outcome as u8;
        fixed[2] = numbers.fate as u8;
        fixed[4..8].copy_from_slice(&numbers.sqlstate.to_le_bytes());
        fixed[8..16].copy_from_slice(&numbers.started_at.to_le_bytes());
        fixed[16..24].copy_from_slice(&numbers.duration.to_le_bytes());
        fixed[24..32].copy_from_slice(&numbers.event_no.to_le_bytes());
        fixed[32..40].copy_from_slice(&numbers.statement_id.to_le_bytes());
        fixed[40..44].copy_from_slice(&numbers.substatement_id.to_le_bytes());
        fixed[44..48].copy_from_slice(&numbers.depth.to_le_bytes());
        fixed[48..56].copy_from_slice(&numbers.transaction_id.to_le_bytes());
        fixed[56..64].copy_from_slice(&numbers.rows.to_le_bytes());
        fixed[64..68].copy_from_slice(&numbers.statement_length.to_le_bytes());
        for (i, section) in sections.iter().enumerate() {
            let len = section.map_or(ABSENT, |s| s.len() as u32);
            fixed[72 + 4 * i..76 + 4 * i].copy_from_slice(&len.to_le_bytes());
        }
        Encoded {
            fixed,
            sections: sections.map(|s| s.unwrap_or_default()),
        }
    }

    /// The payload as pieces to be written one after the other.
    pub fn parts(&self) -> [&[u8]; 1 + SECTIONS] {
        let s = &self.sections;
        [
            &self.fixed,
            s[0],
            s[1],
            s[2],
            s[3],
            s[4],
            s[5],
            s[6],
            s[7],
            s[8],
        ]
    }

    /// Writes the payload to `out`, if it fits: that part of it.
    #[inline]
    pub fn write_to<'o>(&self, out: &'o mut [MaybeUninit<u8>]) -> Option<&'o [u8]> {
        let out = out.get_mut(..self.len())?;
        let mut rest = &mut *out;
        for part in self.parts() {
            // Half of them are empty, and a copy of nothing is a call all the same.
            if part.is_empty() {
                continue;
            }
            let (here, next) = rest.split_at_mut(part.len());
            here.write_copy_of_slice(part);
            rest = next;
        }
        // SAFETY: the parts are as long as all of it.
        Some(unsafe { out.assume_init_ref() })
    }

    /// Length of the payload in bytes.
    pub fn len(&self) -> usize {
        FIXED_LEN + self.sections.iter().map(|s| s.len()).sum::<usize>()
    }

    /// Never: the fixed part is always there.
    pub fn is_empty(&self) -> bool {
        false
    }
}

/// Why a payload can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corrupt {
    /// Written by another format version.
    Version(u8),
    /// A length points outside of the payload, or bytes are left over.
    Length,
    /// A field holds a value that it can't have.
    Value,
    /// It repeats a record that can't be read.
    Original,
}

impl std::fmt::Display for Corrupt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Corrupt::Version(v) => write!(f, "unknown format version {v}"),
            Corrupt::Length => f.write_str("lengths do not add up"),
            Corrupt::Value => f.write_str("a field holds an impossible value"),
            Corrupt::Original => f.write_str("it repeats a record that cannot be read"),
        }
    }
}

impl std::error::Error for Corrupt {}

/// A decoded payload. Sections stay as bytes: the worker looks the session and the shape up by
/// them and parses them only when they are new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded<'a> {
    pub numbers: Numbers,
    sections: [Option<&'a [u8]>; SECTIONS],
}

impl<'a> Decoded<'a> {
    /// A repeat of this event: its session, shape and text, with other numbers.
    pub fn repeated(&self, numbers: Numbers) -> Decoded<'a> {
        let mut sections = [None; SECTIONS];
        for section in [Section::Session, Section::Shape, Section::Statement] {
            sections[section as usize] = self.section(section);
        }
        Decoded { numbers, sections }
    }

    /// The bytes of a section, `None` where it is absent.
    pub fn section(&self, section: Section) -> Option<&'a [u8]> {
        self.sections[section as usize]
    }

    /// The fates that this event decides.
    pub fn decisions(&self) -> impl Iterator<Item = Result<Decision, Corrupt>> + 'a {
        self.section(Section::Decisions)
            .unwrap_or_default()
            .chunks(DECISION_LEN)
            .map(decode_decision)
    }
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut b = [0; 4];
    b.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(b)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut b = [0; 8];
    b.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(b)
}

/// Reads a payload.
pub fn decode(payload: &[u8]) -> Result<Decoded<'_>, Corrupt> {
    if payload.len() < FIXED_LEN {
        return Err(Corrupt::Length);
    }
    if payload[0] != FORMAT_VERSION {
        return Err(Corrupt::Version(payload[0]));
    }
    let numbers = Numbers {
        outcome: Outcome::from_u8(payload[1]).ok_or(Corrupt::Value)?,
        fate: Fate::from_u8(payload[2]).ok_or(Corrupt::Value)?,
        sqlstate: u32_at(payload, 4),
        started_at: u64_at(payload, 8) as i64,
        duration: u64_at(payload, 16) as i64,
        event_no: u64_at(payload, 24),
        statement_id: u64_at(payload, 32),
        substatement_id: u32_at(payload, 40),
        depth: u32_at(payload, 44),
        transaction_id: u64_at(payload, 48),
        rows: u64_at(payload, 56) as i64,
        statement_length: u32_at(payload, 64),
    };
    let mut sections = [None; SECTIONS];
    let mut rest = &payload[FIXED_LEN..];
    for (i, section) in sections.iter_mut().enumerate() {
        let len = u32_at(payload, 72 + 4 * i);
        if len == ABSENT {
            continue;
        }
        let (this, after) = rest.split_at_checked(len as usize).ok_or(Corrupt::Length)?;
        *section = Some(this);
        rest = after;
    }
    if !rest.is_empty() {
        return Err(Corrupt::Length);
    }
    Ok(Decoded { numbers, sections })
}

/// Appends an optional byte string: its length (u32::MAX for absent), then its bytes.
fn put_bytes(out: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        None => out.extend_from_slice(&ABSENT.to_le_bytes()),
        Some(bytes) => {
            out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            out.extend_from_slice(bytes);
        }
    }
}

/// A cursor over encoded bytes; every read may find the end too early.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Corrupt> {
        let (this, rest) = self.0.split_at_checked(n).ok_or(Corrupt::Length)?;
        self.0 = rest;
        Ok(this)
    }

    fn u8(&mut self) -> Result<u8, Corrupt> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, Corrupt> {
        let b = self.take(2)?;
        Ok(u16::from_le_bytes([b[0], b[1]]))
    }

    fn u32(&mut self) -> Result<u32, Corrupt> {
        Ok(u32_at(self.take(4)?, 0))
    }

    fn u64(&mut self) -> Result<u64, Corrupt> {
        Ok(u64_at(self.take(8)?, 0))
    }

    fn bytes(&mut self) -> Result<Option<&'a [u8]>, Corrupt> {
        match self.u32()? {
            ABSENT => Ok(None),
            len => Ok(Some(self.take(len as usize)?)),
        }
    }

    fn end(self) -> Result<(), Corrupt> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Corrupt::Length)
        }
    }
}

/// Encodes a session's attributes into `out` (cleared first).
#[unsafe(link_section = "audit_session")]
pub fn encode_session(session: &Session, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&session.started_at.to_le_bytes());
    out.extend_from_slice(&session.pid.to_le_bytes());
    out.push(session.encoding);
    out.push(u8::from(session.client_port.is_some()));
    out.extend_from_slice(&session.client_port.unwrap_or(0).to_le_bytes());
    for value in [
        session.user_name,
        session.role_name,
        session.auth_identity,
        session.session_user,
        session.database_name,
        session.branch,
        session.client_addr,
        session.application_name,
        session.backend_type,
        session.context,
    ] {
        put_bytes(out, value);
    }
}

/// Reads what [`encode_session`] wrote.
pub fn decode_session(bytes: &[u8]) -> Result<Session<'_>, Corrupt> {
    let mut r = Reader(bytes);
    let started_at = r.u64()? as i64;
    let pid = r.u32()?;
    let encoding = r.u8()?;
    let has_port = r.u8()? != 0;
    let port = r.u16()?;
    let session = Session {
        started_at,
        pid,
        encoding,
        client_port: has_port.then_some(port),
        user_name: r.bytes()?,
        role_name: r.bytes()?,
        auth_identity: r.bytes()?,
        session_user: r.bytes()?,
        database_name: r.bytes()?,
        branch: r.bytes()?,
        client_addr: r.bytes()?,
        application_name: r.bytes()?,
        backend_type: r.bytes()?,
        context: r.bytes()?,
    };
    r.end()?;
    Ok(session)
}

/// Writes a shape piece by piece, so that a hook needs no list of names in hand: the head first,
/// then each relation.
pub struct ShapeWriter<'v> {
    out: &'v mut Vec<u8>,
}

impl<'v> ShapeWriter<'v> {
    /// Begins a shape in `out` (cleared first).
    #[unsafe(link_section = "audit_session")]
    pub fn new(
        out: &'v mut Vec<u8>,
        classes: Classes,
        query_id: i64,
        command: &[u8],
        object: Option<(&[u8], &[u8])>,
    ) -> Self {
        out.clear();
        out.extend_from_slice(&classes.0.to_le_bytes());
        out.extend_from_slice(&query_id.to_le_bytes());
        put_bytes(out, Some(command));
        put_bytes(out, object.map(|(kind, _)| kind));
        put_bytes(out, object.map(|(_, name)| name));
        ShapeWriter { out }
    }

    /// Adds a relation's qualified name.
    pub fn relation(&mut self, name: &[u8]) {
        put_bytes(self.out, Some(name));
    }
}

/// Encodes a whole shape into `out` (cleared first).
pub fn encode_shape(shape: &Shape, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&shape.classes.0.to_le_bytes());
    out.extend_from_slice(&shape.query_id.to_le_bytes());
    put_bytes(out, Some(shape.command));
    put_bytes(out, shape.object_type);
    put_bytes(out, shape.object_name);
    for name in &shape.relations {
        put_bytes(out, Some(name));
    }
}

/// Reads what [`ShapeWriter`] or [`encode_shape`] wrote.
pub fn decode_shape(bytes: &[u8]) -> Result<Shape<'_>, Corrupt> {
    let mut r = Reader(bytes);
    let classes = Classes(r.u16()?);
    let query_id = r.u64()? as i64;
    let command = r.bytes()?.ok_or(Corrupt::Value)?;
    let object_type = r.bytes()?;
    let object_name = r.bytes()?;
    let mut relations = Vec::new();
    while !r.0.is_empty() {
        relations.push(r.bytes()?.ok_or(Corrupt::Value)?);
    }
    Ok(Shape {
        classes,
        command,
        object_type,
        object_name,
        query_id,
        relations,
    })
}

/// Appends one parameter value to an encoded list; `None` is SQL NULL.
pub fn put_parameter(out: &mut Vec<u8>, value: Option<&[u8]>) {
    put_bytes(out, value);
}

/// Reads a list of parameters.
pub fn decode_parameters(bytes: &[u8]) -> Result<Vec<Option<&[u8]>>, Corrupt> {
    let mut r = Reader(bytes);
    let mut values = Vec::new();
    while !r.0.is_empty() {
        values.push(r.bytes()?);
    }
    Ok(values)
}

/// Length of one encoded [`Decision`].
pub const DECISION_LEN: usize = 17;

/// Encodes a decision.
pub fn encode_decision(decision: &Decision) -> [u8; DECISION_LEN] {
    let mut out = [0; DECISION_LEN];
    out[..8].copy_from_slice(&decision.first.to_le_bytes());
    out[8..16].copy_from_slice(&decision.last.to_le_bytes());
    out[16] = decision.fate as u8;
    out
}

fn decode_decision(bytes: &[u8]) -> Result<Decision, Corrupt> {
    if bytes.len() != DECISION_LEN {
        return Err(Corrupt::Length);
    }
    Ok(Decision {
        first: u64_at(bytes, 0),
        last: u64_at(bytes, 8),
        fate: Fate::from_u8(bytes[16]).ok_or(Corrupt::Value)?,
    })
}
