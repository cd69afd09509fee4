//! What a dead session left in its slot. Total: whatever the bytes are gives an answer.

use super::{
    DECISIONS_ROOM, ENTRIES, ENTRIES_AT, ENTRY_LEN, ENTRY_ROOM, FINISHED, LIVE, OPEN, ORPHAN,
    SECOND, SESSION_ROOM, SESSIONS_AT, SLOT_LEN, entry, head, owned,
};
use crate::calendar::is_plausible;
use crate::codec::{decode_session, encode_session, encode_shape};
use crate::crc;
use crate::event::{Classes, Numbers, Outcome, Session, Shape};

/// A statement that was under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// Without event number and transaction.
    pub numbers: Numbers,
    /// Encoded.
    pub shape: Vec<u8>,
    pub text: Vec<u8>,
    pub gid: Vec<u8>,
}

/// A session that was found dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    pub pid: u32,
    pub started_at: i64,
    /// Its attributes, encoded.
    pub session: Vec<u8>,
    /// The last event that it numbered.
    pub last_event: u64,
    /// The event that it was pushing.
    pub pushing: Option<u64>,
    /// First event that waits for its fate.
    pub undecided_from: Option<u64>,
    /// Transaction that was committing.
    pub xid: Option<u64>,
    /// First and last event and id of transactions whose fate may have been told only by a record
    /// that was lost.
    pub commits: Vec<(u64, u64, u64)>,
    /// First transaction id of the run of the server that came next, where that is known.
    pub horizon: Option<u64>,
    /// Start of its last event: what it left in the trail after that was stored later.
    pub last_event_at: i64,
    /// Top-level statements so far.
    pub statements: u64,
    pub wants_session: bool,
    /// Encoded decisions that no event has carried yet.
    pub decisions: Vec<u8>,
    /// The innermost statement first.
    pub open: Vec<Open>,
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(found) = bytes.get(at..).and_then(|rest| rest.first_chunk::<N>()) {
        out = *found;
    }
    out
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes(array(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(array(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(array(bytes, at))
}

/// Whether nobody has the slot.
pub fn is_free(bytes: &[u8]) -> bool {
    u32_at(bytes, head::OWNER) == 0
}

impl Orphan {
    /// Reads a slot; `None` if it is free.
    pub fn read(bytes: &[u8]) -> Option<Orphan> {
        let pid = u32_at(bytes, head::OWNER);
        let state = u32_at(bytes, head::STATE);
        if bytes.len() != SLOT_LEN || pid == 0 || !matches!(state, LIVE | ORPHAN) {
            return None;
        }
        let sealed = sealed_session(bytes);
        // Nothing seals the head. What the session's own attributes say of it counts first.
        let (pid, started_at) = match sealed.and_then(|section| decode_session(section).ok()) {
            Some(session) => (session.pid, session.started_at),
            None => (pid, u64_at(bytes, head::STARTED_AT) as i64),
        };
        let time = |at, else_at| Some(at).filter(|at| is_plausible(*at)).unwrap_or(else_at);
        let started_at = time(started_at, 0);
        let last_event_at = time(u64_at(bytes, head::LAST_EVENT_AT) as i64, started_at);
        // No counter comes as far as the numbers that SQL doesn't have.
        let positive = |at| Some(u64_at(bytes, at)).filter(|n| (1..=i64::MAX as u64).contains(n));
        let decisions = (u32_at(bytes, head::DECISIONS_LEN) as usize).min(DECISIONS_ROOM);
        let owned = owned(pid, started_at as u64);
        let mut open: Vec<_> = (0..ENTRIES)
            .filter_map(|i| read_entry(&bytes[ENTRIES_AT + i * ENTRY_LEN..][..ENTRY_LEN], owned))
            .collect();
        open.sort_by_key(|open| {
            let n = &open.numbers;
            std::cmp::Reverse((n.depth, n.statement_id, n.substatement_id))
        });
        Some(Orphan {
            pid,
            started_at,
            session: sealed.map_or_else(|| only_numbers(pid, started_at), <[u8]>::to_vec),
            last_event: positive(head::LAST_EVENT).unwrap_or(0),
            pushing: positive(head::PUSHING),
            undecided_from: positive(head::UNDECIDED_FROM),
            xid: positive(head::XID),
            commits: head::COMMITS
                .iter()
                .filter_map(|at| Some((positive(*at)?, positive(at + 8)?, positive(at + 16)?)))
                .collect(),
            horizon: positive(head::HORIZON),
            last_event_at,
            statements: positive(head::STATEMENT_ID).unwrap_or(0),
            wants_session: u32_at(bytes, head::WANTS_SESSION) != 0,
            decisions: bytes[head::DECISIONS..head::DECISIONS + decisions].to_vec(),
            open,
        })
    }
}

/// The session's attributes, encoded, where they prove themselves.
fn sealed_session(bytes: &[u8]) -> Option<&[u8]> {
    let word = u32_at(bytes, head::SESSION);
    let at = usize::from(word & SECOND != 0);
    let len = (word & !SECOND) as usize;
    if len == 0 || len > SESSION_ROOM {
        return None;
    }
    let section = &bytes[SESSIONS_AT[at]..SESSIONS_AT[at] + len];
    let right = crc::crc32c(section) == u32_at(bytes, head::SESSION_CRC + 4 * at);
    right.then_some(section)
}

/// Attributes that say at least who it was by number.
fn only_numbers(pid: u32, started_at: i64) -> Vec<u8> {
    let mut session = Vec::new();
    encode_session(
        &Session {
            started_at,
            pid,
            ..Session::default()
        },
        &mut session,
    );
    session
}

fn read_entry(bytes: &[u8], owned: u32) -> Option<Open> {
    let state = u32_at(bytes, entry::STATE);
    if !matches!(state, OPEN | FINISHED) {
        return None;
    }
    let (sealed, room) = bytes.split_at(entry::BYTES);
    let lens = [
        entry::COMMAND_LEN,
        entry::TYPE_LEN,
        entry::OBJECT_LEN,
        entry::RELATIONS_LEN,
        entry::GID_LEN,
        entry::TEXT_LEN,
    ]
    .map(|at| u16_at(bytes, at) as usize);
    let used = lens.iter().sum::<usize>();
    if used > ENTRY_ROOM {
        return None;
    }
    let numbers = crc::crc32c(&sealed[entry::NUMBERS..entry::CONTENT]) ^ owned;
    let content = crc::append(crc::crc32c(&sealed[entry::CONTENT..]), &room[..used]);
    if numbers != u32_at(bytes, entry::CRC) || content != u32_at(bytes, entry::CONTENT_CRC) {
        return None;
    }
    let mut rest = &room[..used];
    let [command, kind, object, relations, gid, text] = lens.map(|len| {
        let (piece, after) = rest.split_at(len);
        rest = after;
        piece
    });
    let finished = state == FINISHED;
    let number = |at| u64_at(bytes, at) as i64;
    let mut shape = Vec::new();
    encode_shape(
        &Shape {
            classes: Classes(u16_at(bytes, entry::CLASSES)),
            command,
            object_type: (!kind.is_empty()).then_some(kind),
            object_name: (!kind.is_empty()).then_some(object),
            query_id: number(entry::QUERY_ID),
            relations: relations
                .split(|b| *b == 0)
                .filter(|name| !name.is_empty())
                .collect(),
        },
        &mut shape,
    );
    Some(Open {
        numbers: Numbers {
            started_at: number(entry::STARTED_AT),
            duration: if finished {
                number(entry::DURATION)
            } else {
                -1
            },
            rows: if finished { number(entry::ROWS) } else { -1 },
            statement_id: u64_at(bytes, entry::STATEMENT_ID),
            substatement_id: u32_at(bytes, entry::SUBSTATEMENT_ID),
            depth: u32_at(bytes, entry::DEPTH),
            statement_length: u32_at(bytes, entry::FULL_LENGTH),
            outcome: if finished {
                Outcome::Success
            } else {
                Outcome::Unfinished
            },
            ..Numbers::default()
        },
        shape,
        text: text.to_vec(),
        gid: gid.to_vec(),
    })
}
