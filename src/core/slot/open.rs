//! A statement begins: its entry.

use super::{
    Begun, ENTRIES, ENTRIES_AT, ENTRY_LEN, ENTRY_ROOM, OPEN, Slot, Statement, entry, head, owned,
};
use crate::crc;
use core::sync::atomic::{AtomicU64, Ordering, compiler_fence};

impl Slot {
    /// A statement begins: what is known of it goes into entry `at` (below [`ENTRIES`]).
    #[unsafe(link_section = "audit_session")]
    pub fn open(&self, at: usize, statement: &Statement, wants_session: bool) {
        self.set_content(at, statement);
        let s = statement;
        let numbers = Begun {
            statement_id: s.statement_id,
            substatement_id: s.substatement_id,
            depth: s.depth,
            started_at: s.started_at,
        };
        self.reopen(at, &numbers, wants_session);
    }

    /// A statement begins that entry `at` has held before, since when nobody has used the entry.
    #[inline(always)]
    pub fn reopen(&self, at: usize, numbers: &Begun, wants_session: bool) {
        const LEN: usize = entry::CONTENT - entry::NUMBERS;
        let base = ENTRIES_AT + (at % ENTRIES) * ENTRY_LEN;
        let content = self.word(base + entry::CONTENT_CRC).load(Ordering::Relaxed);
        let mut sealed = [0u8; LEN];
        for (at, bytes) in [
            (entry::STATEMENT_ID, &numbers.statement_id.to_ne_bytes()[..]),
            (entry::STARTED_AT, &numbers.started_at.to_ne_bytes()),
            (
                entry::SUBSTATEMENT_ID,
                &numbers.substatement_id.to_ne_bytes(),
            ),
            (entry::DEPTH, &numbers.depth.to_ne_bytes()),
            (entry::CONTENT_CRC, &content.to_ne_bytes()),
        ] {
            sealed[at - entry::NUMBERS..][..bytes.len()].copy_from_slice(bytes);
        }
        self.put(base + entry::NUMBERS, &sealed);
        let pid = self.word(head::OWNER).load(Ordering::Relaxed);
        let started_at = self.long(head::STARTED_AT).load(Ordering::Relaxed);
        self.word(base + entry::CRC).store(
            crc::crc32c(&sealed) ^ owned(pid, started_at),
            Ordering::Relaxed,
        );
        self.long(head::STATEMENT_ID)
            .fetch_max_plain(numbers.statement_id);
        self.word(head::WANTS_SESSION)
            .store(u32::from(wants_session), Ordering::Relaxed);
        self.word(base + entry::STATE)
            .store(OPEN, Ordering::Release);
    }

    /// Writes what stays the same from one time that the statement runs to the next.
    fn set_content(&self, at: usize, statement: &Statement) {
        let base = ENTRIES_AT + (at % ENTRIES) * ENTRY_LEN;
        // First: what is written to is emptied, whenever the session ends.
        let written = self.word(head::WRITTEN);
        let with_this = written.load(Ordering::Relaxed) | 1 << (at % ENTRIES);
        written.store(with_this, Ordering::Release);
        compiler_fence(Ordering::SeqCst);
        let s = statement;
        let mut fixed = [0u8; entry::BYTES];
        let mut rest = ENTRY_ROOM;
        // Names come before the text: it is what gets cut.
        let mut take = |bytes: &[u8]| -> usize {
            let len = if bytes.len() > rest { 0 } else { bytes.len() };
            rest -= len;
            len
        };
        let command = take(s.command);
        let kind = take(s.object_type);
        let object = take(s.object_name);
        let gid = take(s.gid);
        let relations = take(s.relations);
        let text = cut(s.text, rest);
        let full = if text.len() < s.text.len() && s.full_length == 0 {
            s.text.len() as u32
        } else {
            s.full_length
        };
        let mut set = |at: usize, bytes: &[u8]| fixed[at..at + bytes.len()].copy_from_slice(bytes);
        set(entry::QUERY_ID, &s.query_id.to_ne_bytes());
        set(entry::FULL_LENGTH, &full.to_ne_bytes());
        set(entry::CLASSES, &s.classes.to_ne_bytes());
        for (at, len) in [
            (entry::COMMAND_LEN, command),
            (entry::TYPE_LEN, kind),
            (entry::OBJECT_LEN, object),
            (entry::RELATIONS_LEN, relations),
            (entry::GID_LEN, gid),
            (entry::TEXT_LEN, text.len()),
        ] {
            set(at, &(len as u16).to_ne_bytes());
        }
        let pieces = [
            &s.command[..command],
            &s.object_type[..kind],
            &s.object_name[..object],
            &s.relations[..relations],
            &s.gid[..gid],
            text,
        ];
        self.put(base + entry::CONTENT, &fixed[entry::CONTENT..]);
        let mut end = base + entry::BYTES;
        for piece in pieces {
            if !piece.is_empty() {
                self.put(end, piece);
                end += piece.len();
            }
        }
        // SAFETY: the entry's own bytes, just written.
        let content = unsafe {
            let from = base + entry::CONTENT;
            core::slice::from_raw_parts(self.base.add(from), end - from)
        };
        self.word(base + entry::CONTENT_CRC)
            .store(crc::crc32c(content), Ordering::Relaxed);
    }
}

/// Stores of a counter that only its owner writes.
trait PlainMax {
    fn fetch_max_plain(&self, value: u64);
}

impl PlainMax for AtomicU64 {
    #[inline]
    fn fetch_max_plain(&self, value: u64) {
        if self.load(Ordering::Relaxed) < value {
            self.store(value, Ordering::Relaxed);
        }
    }
}

/// The beginning of a text, not ending inside a character of UTF-8.
fn cut(text: &[u8], room: usize) -> &[u8] {
    if text.len() <= room {
        return text;
    }
    let mut keep = room;
    while keep > 0 && text[keep] & 0xc0 == 0x80 {
        keep -= 1;
    }
    &text[..keep]
}
