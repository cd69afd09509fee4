//! What became of transactions whose end no record tells: found from the events of a dead session that
//! the trail holds, as an in-flight slot is not on disk when the operating system is lost.
//!
//! An event of a transaction that has an id carries it. Those of the same transaction before it had
//! one share its fate, and come right before.

use crate::codec::{encode_decision, encode_session};
use crate::event::{Class, Decision, Fate, Numbers, Outcome, Session, Timestamp};
use crate::fate::MOST_PENDING;
use crate::json::Object;
use crate::slot::closing;

/// An event of a session, as the trail has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub event_no: u64,
    pub transaction_id: Option<u64>,
    /// What the trail knows, from whichever event.
    pub fate: Fate,
    /// It begins a transaction block.
    pub begins: bool,
    /// It belongs to a transaction at all: what the session tells of itself doesn't.
    pub belongs: bool,
}

/// Events without a fate, of one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undecided {
    pub first: u64,
    pub last: u64,
    pub transaction_id: u64,
}

/// Goes through the events of a session in the order of their numbers.
#[derive(Debug, Default)]
pub struct Search {
    /// The last event seen.
    last: u64,
    /// First of the events just before that have no fate and no id.
    waiting: Option<u64>,
    found: Vec<Undecided>,
}

impl Search {
    /// The next event.
    pub fn see(&mut self, event: Seen) {
        let follows = event.event_no == self.last + 1;
        self.last = event.event_no;
        if event.begins || !follows {
            // What came before was another transaction, or may have been.
            self.waiting = None;
        }
        match (event.fate, event.transaction_id) {
            (Fate::Open, Some(id)) => {
                let first = self.waiting.take().unwrap_or(event.event_no);
                match self.found.last_mut() {
                    Some(same) if same.transaction_id == id => same.last = event.event_no,
                    _ => self.found.push(Undecided {
                        first,
                        last: event.event_no,
                        transaction_id: id,
                    }),
                }
            }
            (Fate::Open, None) if event.belongs => {
                self.waiting.get_or_insert(event.event_no);
            }
            // Perhaps only to a savepoint.
            (Fate::Open | Fate::RolledBack, _) => {}
            (Fate::Committed | Fate::Prepared, _) => self.waiting = None,
        }
    }

    /// The transactions that were found, in their order.
    pub fn found(&self) -> &[Undecided] {
        &self.found
    }
}

/// Makes AUDIT events `FATE` of a session, as payloads. They have no number among its events, as it
/// isn't the one who tells: it may have ended, or taken that number for an event that was lost.
pub struct Teller {
    session: Vec<u8>,
    numbers: Numbers,
    details: Vec<u8>,
}

impl Teller {
    /// Tells for a session, and why it is done so late.
    pub fn new(session: &Session, now: Timestamp, reason: &str) -> Teller {
        let mut encoded = Vec::new();
        encode_session(session, &mut encoded);
        let mut details = Object::new();
        details.text("reason", reason.as_bytes());
        Teller {
            session: encoded,
            numbers: Numbers {
                started_at: now,
                duration: 0,
                outcome: Outcome::Success,
                ..Numbers::default()
            },
            details: details.finish(),
        }
    }

    /// What was committed or rolled back: as few events as hold it.
    pub fn ended(&self, decisions: &[Decision]) -> Vec<Vec<u8>> {
        let few = decisions.chunks(MOST_PENDING);
        few.map(|decisions| self.event(&self.numbers, decisions, None))
            .collect()
    }

    /// A transaction that is prepared: whoever ends it refers to it by its gid, and by its id the server is asked what
    /// became of it.
    pub fn prepared(&self, decision: Decision, gid: &[u8], transaction_id: u64) -> Vec<u8> {
        let numbers = Numbers {
            transaction_id,
            ..self.numbers
        };
        self.event(&numbers, &[decision], Some(gid))
    }

    fn event(&self, numbers: &Numbers, decisions: &[Decision], gid: Option<&[u8]>) -> Vec<u8> {
        let decisions: Vec<_> = decisions.iter().flat_map(encode_decision).collect();
        closing(
            &self.session,
            numbers,
            b"FATE",
            Class::Audit,
            &self.details,
            &decisions,
            gid,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{Section, decode, decode_session};

    const OPEN: Fate = Fate::Open;

    fn found(events: &[(u64, Fate)]) -> Vec<(u64, u64, u64)> {
        let seen = (1..).zip(events).map(|(event_no, (id, fate))| Seen {
            event_no,
            transaction_id: Some(*id).filter(|id| *id != 0),
            fate: *fate,
            belongs: true,
            ..Seen::default()
        });
        search(seen)
    }

    fn search(events: impl IntoIterator<Item = Seen>) -> Vec<(u64, u64, u64)> {
        let mut search = Search::default();
        events.into_iter().for_each(|event| search.see(event));
        let all = search.found().iter();
        all.map(|u| (u.first, u.last, u.transaction_id)).collect()
    }

    #[test]
    fn what_is_decided_is_left_alone() {
        let all = [
            (0, Fate::Committed),
            (7, Fate::Committed),
            (8, Fate::Prepared),
        ];
        assert_eq!(found(&all), []);
        assert_eq!(found(&[(0, OPEN), (0, OPEN)]), [], "nothing is known of it");
    }

    #[test]
    fn events_before_the_id_share_its_fate() {
        let all = [
            (9, Fate::Committed),
            (0, OPEN),
            (0, OPEN),
            (7, OPEN),
            (7, OPEN),
        ];
        assert_eq!(found(&all), [(2, 5, 7)]);
        // What was rolled back to a savepoint is no end of the transaction.
        let all = [
            (0, OPEN),
            (0, Fate::RolledBack),
            (7, OPEN),
            (7, Fate::RolledBack),
            (7, OPEN),
        ];
        assert_eq!(found(&all), [(1, 5, 7)]);
        // The end of the one before is.
        let all = [(0, OPEN), (0, Fate::Committed), (0, OPEN), (7, OPEN)];
        assert_eq!(found(&all), [(3, 4, 7)]);
    }

    #[test]
    fn each_transaction_by_itself() {
        let all = [
            (0, OPEN),
            (7, OPEN),
            (0, OPEN),
            (8, OPEN),
            (8, OPEN),
            (9, Fate::Committed),
        ];
        assert_eq!(found(&all), [(1, 2, 7), (3, 5, 8)]);
    }

    #[test]
    fn what_may_be_of_another_transaction_stays_open() {
        let event = |event_no, id: u64| Seen {
            event_no,
            transaction_id: Some(id).filter(|id| *id != 0),
            belongs: true,
            ..Seen::default()
        };
        // Before a block that begins, before a hole, and what the session tells of itself.
        let begin = Seen {
            begins: true,
            ..event(2, 0)
        };
        assert_eq!(search([event(1, 0), begin, event(3, 7)]), [(2, 3, 7)]);
        assert_eq!(search([event(1, 0), event(3, 0), event(4, 7)]), [(3, 4, 7)]);
        let connect = Seen {
            belongs: false,
            ..event(1, 0)
        };
        assert_eq!(search([connect, event(2, 7)]), [(2, 2, 7)]);
        // Nothing is taken away from one that goes on behind a hole.
        assert_eq!(search([event(1, 7), event(3, 7)]), [(1, 3, 7)]);
    }

    #[test]
    fn many_decisions_take_several_events() {
        let session = Session {
            pid: 42,
            user_name: Some(b"alice"),
            ..Session::default()
        };
        let decisions: Vec<_> = (1..=40)
            .map(|n| Decision {
                first: n,
                last: n,
                fate: Fate::Committed,
            })
            .collect();
        let events = Teller::new(&session, 9, "test").ended(&decisions);
        let mut told = Vec::new();
        for payload in &events {
            let event = decode(payload).unwrap();
            assert_eq!(event.numbers.event_no, 0);
            let of = decode_session(event.section(Section::Session).unwrap()).unwrap();
            assert_eq!(of, session);
            told.extend(event.decisions().flatten());
        }
        assert_eq!((events.len(), told), (2, decisions));
    }

    #[test]
    fn what_is_prepared_has_its_id() {
        let teller = Teller::new(&Session::default(), 9, "test");
        let decision = Decision {
            first: 2,
            last: 3,
            fate: Fate::Prepared,
        };
        let payload = teller.prepared(decision, b"gid", 7);
        let event = decode(&payload).unwrap();
        assert_eq!(event.numbers.transaction_id, 7);
        assert_eq!(event.section(Section::Gid), Some(b"gid".as_slice()));
        assert_eq!(event.decisions().flatten().collect::<Vec<_>>(), [decision]);
    }
}
