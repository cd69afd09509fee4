//! Events that were lost before they came into the trail: a session numbers its events without
//! holes, so a hole is a lost event, which a GAP has to account for.

use std::collections::HashMap;

/// What the events of a kind tell audit.verify().
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Command {
    #[default]
    Other,
    Disconnect,
    Gap,
    /// Of which audit.origin has a copy.
    Landmark,
    /// Of the first of which it has one.
    Start,
}

/// What the completeness of the trail is judged by.
#[derive(Clone, Debug, Default)]
pub struct Numbered {
    pub started_at: i64,
    /// 0 where it has none.
    pub event_no: u64,
    /// Start and process id of its session.
    pub session: (i64, i32),
    pub command: Command,
    /// Of GAP and DISCONNECT, as text.
    pub details: Option<Box<str>>,
}

/// What is known of a session.
struct Session {
    last: u64,
    /// How many dropped ranges lay before its last event.
    ranges: u32,
    /// Numbers below `last` that were not seen, with the seq of the event behind the hole.
    holes: Vec<(u64, u64, u64)>,
}

/// Counts event numbers by session, and lost events.
pub struct EventNumbers {
    /// The trail is read from its first event on.
    from_the_beginning: bool,
    /// When the first event of the trail began.
    begun: Option<i64>,
    /// How many dropped ranges were passed.
    ranges: u32,
    sessions: HashMap<(i64, i32), Session>,
    /// Holes of sessions that have ended.
    holes: Vec<(u64, u64, u64)>,
    /// Lost events that GAP events tell of; `None`: an unknown number.
    told: Option<u64>,
}

impl EventNumbers {
    pub fn new(from_the_beginning: bool) -> EventNumbers {
        EventNumbers {
            from_the_beginning,
            begun: None,
            ranges: 0,
            sessions: HashMap::new(),
            holes: Vec::new(),
            told: Some(0),
        }
    }

    /// Retention dropped what was between the last event and the next: any session may have had events
    /// there, and GAPs may have told of others.
    pub fn dropped(&mut self) {
        self.ranges += 1;
    }

    /// The next event, in the order of seq. `report` gets seq, problem and detail.
    pub fn event(
        &mut self,
        seq: u64,
        event: &Numbered,
        report: &mut impl FnMut(u64, &'static str, String),
    ) {
        let begun = *self.begun.get_or_insert(event.started_at);
        if event.command == Command::Gap {
            let count = event.details.as_deref().and_then(|d| number_of(d, "count"));
            self.told = self.told.zip(count).map(|(told, count)| told + count);
        }
        let number = event.event_no;
        if number == 0 {
            return;
        }
        let session = self.sessions.entry(event.session).or_insert_with(|| {
            // Not one that began before the trail, before what is read of it, or perhaps in a range.
            let known = self.from_the_beginning && self.ranges == 0 && event.session.0 >= begun;
            Session {
                last: if known { 0 } else { number - 1 },
                ranges: self.ranges,
                holes: Vec::new(),
            }
        });
        if number <= session.last {
            let detail = format!("its session has recorded its event {number} before");
            report(seq, "repeated event", detail);
            return;
        }
        let ranges = core::mem::replace(&mut session.ranges, self.ranges);
        if number > session.last + 1 && ranges == self.ranges {
            session.holes.push((session.last + 1, number - 1, seq));
        }
        session.last = number;
        if event.command == Command::Disconnect {
            let total = event
                .details
                .as_deref()
                .and_then(|d| number_of(d, "events"));
            if total.is_some_and(|total| total != number) {
                report(
                    seq,
                    "missing events",
                    format!(
                        "its session recorded {} events, the trail has {number}",
                        total.unwrap_or(0)
                    ),
                );
            }
            if let Some(session) = self.sessions.remove(&event.session) {
                self.holes.extend(session.holes);
            }
        }
    }

    /// Everything was read.
    pub fn finish(&mut self, report: &mut impl FnMut(u64, &'static str, String)) {
        for (_, session) in self.sessions.drain() {
            self.holes.extend(session.holes);
        }
        self.holes.sort_by_key(|(_, _, seq)| *seq);
        let Some(mut told) = self.told else { return };
        for (from, to, seq) in self.holes.drain(..) {
            let count = to - from + 1;
            if count <= told {
                told -= count;
                continue;
            }
            report(
                seq,
                "missing events",
                format!(
                    "the events {from} to {to} of its session are not in the trail, and no GAP tells of them"
                ),
            );
        }
    }
}

/// The number at a key of an object that jsonb wrote.
fn number_of(json: &str, key: &str) -> Option<u64> {
    let (_, rest) = json.split_once(&format!("\"{key}\": "))?;
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    rest[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Command::{Disconnect, Gap, Other};

    /// A session that began with the trail, or later.
    const A: (i64, i32) = (10, 1);
    const B: (i64, i32) = (20, 2);

    enum Step {
        Event((i64, i32), u64, Command, &'static str),
        Dropped,
    }
    use Step::{Dropped, Event};

    /// Sessions' events by number.
    fn events(session: (i64, i32), numbers: impl IntoIterator<Item = u64>) -> Vec<Step> {
        let numbers = numbers.into_iter();
        numbers.map(|n| Event(session, n, Other, "")).collect()
    }

    /// The problems of a trail, by the place of the event (from 1 on, dropped ranges count too).
    fn problems(from_the_beginning: bool, steps: Vec<Vec<Step>>) -> Vec<(u64, &'static str)> {
        let mut found = Vec::new();
        let mut report = |seq, problem, _: String| found.push((seq, problem));
        let mut numbers = EventNumbers::new(from_the_beginning);
        for (seq, step) in (1..).zip(steps.into_iter().flatten()) {
            let Event(session, event_no, command, details) = step else {
                numbers.dropped();
                continue;
            };
            let event = Numbered {
                started_at: session.0,
                event_no,
                session,
                command,
                details: (!details.is_empty()).then(|| details.into()),
            };
            numbers.event(seq, &event, &mut report);
        }
        numbers.finish(&mut report);
        found
    }

    #[test]
    fn holes_are_missed_unless_a_gap_tells_of_them() {
        let hole = || events(A, [1, 2, 5]);
        assert_eq!(problems(true, vec![events(A, 1..9)]), []);
        assert_eq!(problems(true, vec![hole()]), [(3, "missing events")]);
        assert_eq!(
            problems(true, vec![events(A, [2])]),
            [(1, "missing events")]
        );
        assert_eq!(problems(false, vec![events(A, [2])]), []);
        let gap = |details| vec![Event((0, 0), 0, Gap, details)];
        assert_eq!(problems(true, vec![hole(), gap(r#"{"count": 2}"#)]), []);
        assert_eq!(problems(true, vec![hole(), gap("{}")]), []);
        assert_eq!(
            problems(true, vec![hole(), gap(r#"{"count": 1}"#)]),
            [(3, "missing events")]
        );
    }

    #[test]
    fn what_was_dropped_is_not_missed() {
        let end = |session, number, details| vec![Event(session, number, Disconnect, details)];
        let range = || vec![Dropped];
        for from_the_beginning in [true, false] {
            let trail = vec![
                events(A, 1..4),
                range(),
                events(A, 8..10),
                events(B, 5..7), // it may have begun in the range
                range(),
                range(),
                end(A, 20, r#"{"events": 20}"#),
                end(B, 7, r#"{"events": 7}"#),
            ];
            assert_eq!(problems(from_the_beginning, trail), []);
        }
        // The trail's first events were dropped.
        assert_eq!(problems(true, vec![range(), events(A, 8..10)]), []);
    }

    #[test]
    fn holes_beside_what_was_dropped_are_missed() {
        let range = || vec![Dropped];
        let missed = |seq| [(seq, "missing events")];
        let before = vec![events(A, [1, 3]), range(), events(A, [7])];
        assert_eq!(problems(true, before), missed(2));
        let first = vec![events(A, [2]), range(), events(A, [7])];
        assert_eq!(problems(true, first), missed(1));
        let after = vec![events(A, [1]), range(), events(A, [7, 9, 10])];
        assert_eq!(problems(true, after), missed(4));
        let begun_there = vec![events(A, [1]), range(), events(B, [7, 9])];
        assert_eq!(problems(true, begun_there), missed(4));
        let end = vec![Event(A, 8, Disconnect, r#"{"events": 9}"#)];
        assert_eq!(
            problems(true, vec![events(A, [1]), range(), end]),
            missed(3)
        );
        let twice = vec![events(A, 1..4), range(), events(A, [3, 8])];
        assert_eq!(problems(true, twice), [(5, "repeated event")]);
    }
}
