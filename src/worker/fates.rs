//! Which events of a batch a decision is about: their fate is then stored with them, and only
//! decisions about events of earlier batches need rows of their own.

use audit_core::event::{Decision, Fate, Timestamp};
use hashbrown::HashMap;

/// What tells sessions apart: start and process id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    pub started_at: Timestamp,
    pub pid: u32,
}

/// A decision about events that are not all in this batch.
pub struct Outside {
    pub session: Identity,
    pub decision: Decision,
    /// Row of the event that decided.
    pub row: u32,
}

/// Events without a fate yet, by session, while a batch is put together.
#[derive(Default)]
pub struct Fates {
    sessions: HashMap<Identity, u32>,
    /// Per session (event_no, row), in the order of the ring. Kept between batches for its memory.
    open: Vec<Vec<(u64, u32)>>,
    last: Option<(Identity, u32)>,
    pub outside: Vec<Outside>,
}

impl Fates {
    pub fn clear(&mut self) {
        for list in self.open.iter_mut().take(self.sessions.len()) {
            list.clear();
        }
        self.open.truncate(1024);
        self.sessions.clear();
        self.last = None;
        self.outside.clear();
    }

    fn list(&mut self, session: Identity) -> &mut Vec<(u64, u32)> {
        let index = match self.last {
            Some((last, index)) if last == session => index,
            _ => {
                let next = self.sessions.len() as u32;
                *self.sessions.entry(session).or_insert(next)
            }
        };
        self.last = Some((session, index));
        let index = index as usize;
        if index == self.open.len() {
            self.open.push(Vec::new());
        }
        &mut self.open[index]
    }

    /// Notes an event whose fate a later event may decide.
    pub fn open(&mut self, session: Identity, event_no: u64, row: u32) {
        self.list(session).push((event_no, row));
    }

    /// Applies a decision: calls `set` with each row in its range, and keeps the decision where
    /// events of the range are not in this batch.
    pub fn decide(
        &mut self,
        session: Identity,
        decision: Decision,
        row: u32,
        mut set: impl FnMut(u32, Fate),
    ) {
        if decision.first > decision.last || decision.first == 0 {
            return;
        }
        let list = self.list(session);
        // A session pushes in the order of its event_no; the range is mostly at the end.
        let begin = list.partition_point(|(event_no, _)| *event_no < decision.first);
        let mut found = 0;
        for (event_no, row) in &list[begin..] {
            if *event_no <= decision.last {
                found += 1;
                set(*row, decision.fate);
            }
        }
        if found != decision.last - decision.first + 1 {
            self.outside.push(Outside {
                session,
                decision,
                row,
            });
        }
    }
}

/// The fate of an event that had one and is decided upon again: a rollback stays, whatever the
/// transaction around it does; what was prepared is decided later.
pub fn combine(before: Fate, decided: Fate) -> Fate {
    match (before, decided) {
        (Fate::RolledBack, _) | (_, Fate::Open) => before,
        (_, decided) => decided,
    }
}
