//! The last events of a session that was found dead.

use super::Orphan;
use super::read::Open;
use crate::codec::{Encoded, SECTIONS, ShapeWriter, encode_decision};
use crate::event::{Class, Classes, Decision, Fate, Numbers, Outcome, Timestamp};
use crate::json::Object;

/// What the trail holds of a session, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Its last event number, 0 if there is none.
    pub last_event: u64,
    /// Its end is there.
    pub ended: bool,
    /// Those of its statements that were under way in its slot, by statement_id and substatement_id; and its
    /// last top-level one, as part 0.
    pub statements: Vec<(u64, u32)>,
    /// Id of the transaction that waits for its fate, from the trail's events of it.
    pub transaction_id: Option<u64>,
}

impl Orphan {
    /// The first statement that must be looked for in the trail; `None`: nothing was under way.
    pub fn oldest_open(&self) -> Option<u64> {
        self.open.iter().map(|o| o.numbers.statement_id).min()
    }

    /// The session's last events, as payloads: statements that were under way and are not in the
    /// trail, then its end, which carries what became of its transaction. Nothing if its end is
    /// there already, so that doing it twice does it once.
    ///
    /// `fate_of`: of a transaction; `None` is one without an id. [`Fate::Open`] where it can't be known.
    pub fn events(
        &self,
        known: &Known,
        fate_of: impl Fn(Option<u64>) -> Fate,
        now: Timestamp,
        reason: &str,
    ) -> Vec<Vec<u8>> {
        if known.ended {
            return Vec::new();
        }
        // A number that was taken by an event which never came is free again; one whose event was
        // dropped is not: a GAP counts it.
        let last_used = match self.pushing {
            Some(event_no) => event_no.saturating_sub(1),
            None => self.last_event,
        };
        let first_new = last_used.max(known.last_event).saturating_add(1);
        let mut next = first_new;
        // A slot that is older than what the trail holds of its session: the operating system was lost
        // and had not written the slot for a while.
        let stale = known.last_event > self.last_event.max(self.pushing.unwrap_or(0));
        let open: Vec<_> = self
            .open
            .iter()
            .filter(|o| {
                let n = &o.numbers;
                let mut told = known.statements.iter();
                // A session that has gone on to a later statement was not killed in this one.
                !told.any(|(statement, sub)| {
                    (*statement, *sub) == (n.statement_id, n.substatement_id)
                        || stale && *statement > n.statement_id
                })
            })
            .collect();
        let last = first_new.saturating_add(open.len() as u64) - 1;
        // The trail's events of a transaction may know its id where the slot doesn't: that is written
        // when a commit is near, and perhaps never reached the disk.
        let xid = self.xid.or(match self.undecided_from {
            Some(first) if !stale && first <= known.last_event => known.transaction_id,
            _ => None,
        });
        let fate = fate_of(xid);
        let mut decisions = self.decisions.clone();
        for (first, last, xid) in self.commits.iter().copied() {
            let fate = fate_of(Some(xid));
            // What was prepared its own event tells: told without the gid, it would stay prepared.
            if matches!(fate, Fate::Committed | Fate::RolledBack) {
                decisions.extend_from_slice(&encode_decision(&Decision { first, last, fate }));
            }
        }
        // What a stale slot says of a transaction holds for the events that it knows, if that had an
        // id; what came later it can't decide.
        let (last, fate) = match (stale, self.xid) {
            (false, _) => (last, fate),
            (true, Some(_)) => (self.last_event, fate),
            (true, None) => (last, Fate::Open),
        };
        let with_gid = |o: &&Open| !o.gid.is_empty() && o.numbers.depth == 0;
        let fate = match fate {
            Fate::Prepared if !open.iter().any(with_gid) => Fate::Open,
            fate => fate,
        };
        let first = self.undecided_from.unwrap_or(first_new);
        if first <= last && fate != Fate::Open {
            decisions.extend_from_slice(&encode_decision(&Decision { first, last, fate }));
        }
        let mut events = Vec::new();
        for open in open {
            // PREPARE TRANSACTION: whoever ends the transaction later refers to it.
            let prepares = fate == Fate::Prepared && with_gid(&open);
            let carried = prepares.then(|| std::mem::take(&mut decisions));
            events.push(self.statement(open, next, prepares, carried.as_deref()));
            next = next.saturating_add(1);
        }
        if let Some(end) = self.end(next, &decisions, now, reason) {
            events.push(end);
        }
        events
    }

    fn statement(
        &self,
        open: &Open,
        event_no: u64,
        prepares: bool,
        decisions: Option<&[u8]>,
    ) -> Vec<u8> {
        let numbers = Numbers {
            event_no,
            transaction_id: self.xid.unwrap_or(0),
            fate: if prepares { Fate::Prepared } else { Fate::Open },
            ..open.numbers
        };
        let mut sections = [None; SECTIONS];
        sections[0] = Some(self.session.as_slice());
        sections[1] = Some(open.shape.as_slice());
        sections[2] = (!open.text.is_empty()).then_some(open.text.as_slice());
        sections[7] = decisions.filter(|d| !d.is_empty());
        sections[8] = (!open.gid.is_empty()).then_some(open.gid.as_slice());
        payload(&numbers, sections)
    }

    /// DISCONNECT; where the level leaves that out, FATE if there is one to tell.
    fn end(&self, event_no: u64, decisions: &[u8], now: Timestamp, why: &str) -> Option<Vec<u8>> {
        let (command, class) = if self.wants_session {
            (b"DISCONNECT".as_slice(), Class::Session)
        } else if !decisions.is_empty() {
            (b"FATE".as_slice(), Class::Audit)
        } else {
            return None;
        };
        let numbers = Numbers {
            started_at: now,
            duration: 0,
            event_no,
            outcome: if self.wants_session {
                Outcome::Unfinished
            } else {
                Outcome::Success
            },
            ..Numbers::default()
        };
        let mut details = Object::new();
        details
            .number("statements", self.statements)
            .number("events", event_no)
            .text("reason", why.as_bytes());
        let details = details.finish();
        let end = closing(
            &self.session,
            &numbers,
            command,
            class,
            &details,
            decisions,
            None,
        );
        Some(end)
    }
}

/// An event of a dead session's own, without a statement: its end, or what became of transactions.
pub(crate) fn closing(
    session: &[u8],
    numbers: &Numbers,
    command: &[u8],
    class: Class,
    details: &[u8],
    decisions: &[u8],
    gid: Option<&[u8]>,
) -> Vec<u8> {
    let mut shape = Vec::new();
    ShapeWriter::new(&mut shape, Classes::of(class), 0, command, None);
    let mut sections = [None; SECTIONS];
    sections[0] = Some(session);
    sections[1] = Some(shape.as_slice());
    sections[6] = Some(details);
    sections[7] = (!decisions.is_empty()).then_some(decisions);
    sections[8] = gid;
    payload(numbers, sections)
}

fn payload(numbers: &Numbers, sections: [Option<&[u8]>; SECTIONS]) -> Vec<u8> {
    Encoded::new(numbers, sections).parts().concat()
}
