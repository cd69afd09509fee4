//! Events that were lost before they came into the trail: a session numbers its events without
//! holes, so a hole is a lost event, which a GAP has to account for.

use super::verify::Problems;
use crate::pg::trail::reader::{Command, Numbered};
use std::collections::HashMap;

/// What is known of a session.
struct Session {
    last: u64,
    /// Numbers below `last` that were not seen, with the seq of the event behind the hole.
    holes: Vec<(u64, u64, u64)>,
}

/// Counts event numbers by session, and lost events.
pub struct EventNumbers {
    /// The trail is read from its first event on.
    from_the_beginning: bool,
    /// When the first event of the trail began.
    begun: Option<i64>,
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
            sessions: HashMap::new(),
            holes: Vec::new(),
            told: Some(0),
        }
    }

    /// The next event, in the order of seq.
    pub fn event(&mut self, seq: u64, event: &Numbered, problems: &mut Problems) {
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
            // One that began before the trail, or before what is read of it.
            let known = self.from_the_beginning && event.session.0 >= begun;
            Session {
                last: if known { 0 } else { number - 1 },
                holes: Vec::new(),
            }
        });
        if number <= session.last {
            let detail = format!("its session has recorded its event {number} before");
            problems.add(seq, "repeated event", detail);
            return;
        }
        if number > session.last + 1 {
            session.holes.push((session.last + 1, number - 1, seq));
        }
        session.last = number;
        if event.command == Command::Disconnect {
            let total = event
                .details
                .as_deref()
                .and_then(|d| number_of(d, "events"));
            if total.is_some_and(|total| total != number) {
                problems.add(
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
    pub fn finish(&mut self, problems: &mut Problems) {
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
            problems.add(
                seq,
                "missing events",
                format!("the events {from} to {to} of its session are not in the trail, and no GAP tells of them"),
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
