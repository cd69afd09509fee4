//! What one audit event holds, independent of how it is encoded or stored.
//!
//! Columns and their meaning: `spec/interface.md`. Text is kept as bytes in the encoding of the
//! database it came from; only the worker, which knows the home's encoding, converts it.

/// Microseconds since 2000-01-01 00:00 UTC, as PostgreSQL's `TimestampTz`.
pub type Timestamp = i64;

/// A class of statements, as a bit. An event has a set of them ([`Classes`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub enum Class {
    Read = 1 << 0,
    Write = 1 << 1,
    Function = 1 << 2,
    Role = 1 << 3,
    Ddl = 1 << 4,
    Misc = 1 << 5,
    Set = 1 << 6,
    Session = 1 << 7,
    Audit = 1 << 8,
}

impl Class {
    /// All classes, the strongest first: the first that an event has is its column `class`.
    pub const BY_STRENGTH: [Class; 9] = [
        Class::Audit,
        Class::Session,
        Class::Role,
        Class::Ddl,
        Class::Write,
        Class::Function,
        Class::Read,
        Class::Set,
        Class::Misc,
    ];

    /// The value of the column `class`.
    pub const fn name(self) -> &'static str {
        match self {
            Class::Read => "READ",
            Class::Write => "WRITE",
            Class::Function => "FUNCTION",
            Class::Role => "ROLE",
            Class::Ddl => "DDL",
            Class::Misc => "MISC",
            Class::Set => "SET",
            Class::Session => "SESSION",
            Class::Audit => "AUDIT",
        }
    }
}

/// A set of [`Class`]es.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Classes(pub u16);

impl Classes {
    pub const NONE: Classes = Classes(0);

    pub const fn of(class: Class) -> Self {
        Classes(class as u16)
    }

    pub const fn with(self, class: Class) -> Self {
        Classes(self.0 | class as u16)
    }

    pub const fn has(self, class: Class) -> bool {
        self.0 & class as u16 != 0
    }

    pub const fn intersects(self, other: Classes) -> bool {
        self.0 & other.0 != 0
    }

    /// The strongest class of the set; `Misc` for the empty set.
    pub fn strongest(self) -> Class {
        Class::BY_STRENGTH
            .into_iter()
            .find(|class| self.has(*class))
            .unwrap_or(Class::Misc)
    }

    /// The classes of the set, the strongest first.
    pub fn iter(self) -> impl Iterator<Item = Class> {
        Class::BY_STRENGTH
            .into_iter()
            .filter(move |class| self.has(*class))
    }
}

/// How a statement ended (column `outcome`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    #[default]
    Success = 0,
    /// The error reached the client.
    Failed = 1,
    /// A nested statement failed and its error was handled.
    Caught = 2,
    /// The backend or the server died before the statement ended.
    Unfinished = 3,
}

impl Outcome {
    pub const fn name(self) -> &'static str {
        match self {
            Outcome::Success => "success",
            Outcome::Failed => "failed",
            Outcome::Caught => "caught",
            Outcome::Unfinished => "unfinished",
        }
    }

    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            0 => Some(Outcome::Success),
            1 => Some(Outcome::Failed),
            2 => Some(Outcome::Caught),
            3 => Some(Outcome::Unfinished),
            _ => None,
        }
    }
}

/// What became of the transaction (column `transaction_outcome`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Fate {
    /// Not yet decided when the event left the backend.
    #[default]
    Open = 0,
    Committed = 1,
    RolledBack = 2,
    Prepared = 3,
}

impl Fate {
    /// The value of the column; `None` while open.
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Fate::Open => None,
            Fate::Committed => Some("committed"),
            Fate::RolledBack => Some("rolled back"),
            Fate::Prepared => Some("prepared"),
        }
    }

    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            0 => Some(Fate::Open),
            1 => Some(Fate::Committed),
            2 => Some(Fate::RolledBack),
            3 => Some(Fate::Prepared),
            _ => None,
        }
    }
}

/// The fate of a range of the session's own events: `first..=last` are event numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    pub first: u64,
    pub last: u64,
    pub fate: Fate,
}

/// Attributes of a session that most of its events share. A change of any of them makes a new
/// version, stored once and referred to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Session<'a> {
    /// When the session began; seconds of it and the pid make PostgreSQL's session id (`%c`).
    pub started_at: Timestamp,
    pub pid: u32,
    /// PostgreSQL's number of the encoding that all texts of the event are in (`pg_enc`).
    pub encoding: u8,
    pub user_name: Option<&'a [u8]>,
    pub role_name: Option<&'a [u8]>,
    pub auth_identity: Option<&'a [u8]>,
    /// Where SET SESSION AUTHORIZATION made it differ from `user_name`.
    pub session_user: Option<&'a [u8]>,
    pub database_name: Option<&'a [u8]>,
    pub branch: Option<&'a [u8]>,
    /// Numeric address; `None` is a unix socket or no client at all.
    pub client_addr: Option<&'a [u8]>,
    pub client_port: Option<u16>,
    pub application_name: Option<&'a [u8]>,
    pub backend_type: Option<&'a [u8]>,
    /// Application context, a JSON object.
    pub context: Option<&'a [u8]>,
}

/// What a statement is, apart from its text: the part that repeats even when literals differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape<'a> {
    pub classes: Classes,
    pub command: &'a [u8],
    pub object_type: Option<&'a [u8]>,
    pub object_name: Option<&'a [u8]>,
    /// As pg_stat_statements.queryid; 0 where none was computed.
    pub query_id: i64,
    pub relations: Vec<&'a [u8]>,
}

/// The numbers of an event: the fixed part of its encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    pub started_at: Timestamp,
    /// Microseconds; -1 where unknown.
    pub duration: i64,
    /// Dense per session from 1; 0 for events of the worker, the postmaster, before authentication.
    pub event_no: u64,
    /// Number of the top-level statement in the session, 0 where there is none.
    pub statement_id: u64,
    pub substatement_id: u32,
    pub depth: u32,
    /// Full transaction id, 0 where none was assigned.
    pub transaction_id: u64,
    /// Rows processed; -1 where not applicable.
    pub rows: i64,
    /// Packed as PostgreSQL's MAKE_SQLSTATE; 0 is "no error".
    pub sqlstate: u32,
    /// Full length in bytes of the redacted text where `statement` was cut, else 0.
    pub statement_length: u32,
    pub outcome: Outcome,
    pub fate: Fate,
}

impl Default for Numbers {
    fn default() -> Self {
        Numbers {
            started_at: 0,
            duration: -1,
            event_no: 0,
            statement_id: 0,
            substatement_id: 0,
            depth: 0,
            transaction_id: 0,
            rows: -1,
            sqlstate: 0,
            statement_length: 0,
            outcome: Outcome::Success,
            fate: Fate::Open,
        }
    }
}

/// The five characters of a packed SQLSTATE (PostgreSQL's `unpack_sql_state`).
pub fn sqlstate_text(packed: u32) -> [u8; 5] {
    let mut text = [0; 5];
    for (i, c) in text.iter_mut().enumerate() {
        *c = ((packed >> (6 * i)) & 0x3f) as u8 + b'0';
    }
    text
}

/// Packs a SQLSTATE (PostgreSQL's `MAKE_SQLSTATE`).
pub const fn pack_sqlstate(text: &[u8; 5]) -> u32 {
    let (mut packed, mut i) = (0, 0);
    while i < 5 {
        packed |= (text[i].wrapping_sub(b'0') as u32 & 0x3f) << (6 * i);
        i += 1;
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strongest_class_wins() {
        let set = Classes::of(Class::Read).with(Class::Write);
        assert_eq!(set.strongest(), Class::Write);
        assert_eq!(
            set.iter().collect::<Vec<_>>(),
            vec![Class::Write, Class::Read]
        );
        assert_eq!(Classes::NONE.strongest(), Class::Misc);
    }

    #[test]
    fn sqlstate_of_division_by_zero() {
        // MAKE_SQLSTATE('2','2','0','1','2')
        let packed = 2 | (2 << 6) | (1 << 18) | (2 << 24);
        assert_eq!(&sqlstate_text(packed), b"22012");
        assert_eq!(pack_sqlstate(b"22012"), packed);
        assert_eq!(&sqlstate_text(pack_sqlstate(b"XX000")), b"XX000");
    }
}
