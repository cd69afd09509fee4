//! audit.verify(): makes every leaf anew from what is stored and holds it against the tree.
//!
//! Batches come in the order of seq, events in the order of the table, which is the same but for
//! rows that an erasure moved (or somebody else). Events of a few batches at a time, a *chunk*, are
//! put in their places; what is missing then is looked for by seq.
//!
//! Everything throws; inside an SPI connection.

use super::expect::{Expected, Heads, check_erased, check_first_start, check_origin};
use crate::pg::spi::Cursor;
use crate::pg::trail::reader::{
    BATCH, Batch, EVENT, Erased, Event, FATE, Fates, Reader, Reading, batch_row, fate_row,
};
use crate::pg::trail::store::{StoredBatch, TreeStore, split_hashes};
use audit_core::missing::{Command, EventNumbers, Numbered};
use audit_core::record::fates_digest;
use audit_core::sha::Hash;
use audit_core::tree::{Frontier, cover};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Most events in a chunk, unless one batch has more.
const CHUNK: u64 = 65_536;
/// Rows met that belong elsewhere before the chunk is given up and searched by seq.
const STRAYS: usize = 4096;
/// Problems that are listed.
const MOST: usize = 10_000;
/// Bytes of a leaf hash that audit.batch keeps (worker/store.rs).
const CHECK: usize = 4;

/// One row of the result.
pub struct Problem {
    pub seq: Option<u64>,
    pub problem: &'static str,
    pub detail: String,
}

/// What was found so far.
#[derive(Default)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    pub fn add(&mut self, seq: impl Into<Option<u64>>, problem: &'static str, detail: String) {
        let seq = seq.into();
        match self.0.len() {
            MOST => self.0.push(Problem {
                seq,
                problem: "more problems",
                detail: format!("only the first {MOST} are listed"),
            }),
            n if n < MOST => self.0.push(Problem {
                seq,
                problem,
                detail,
            }),
            _ => {}
        }
    }
}

/// Batches whose events are verified together.
struct Chunk {
    first: u64,
    last: u64,
    batches: Vec<Batch>,
    leaves: Vec<Option<Found>>,
    missing: u64,
}

/// An event of a chunk.
#[derive(Clone)]
struct Found {
    leaf: Result<Hash, &'static str>,
    numbered: Numbered,
}

struct Verifier {
    reader: Reader,
    problems: Problems,
    numbers: EventNumbers,
    fates: Fates,
    next_fate: Option<audit_core::record::FateRow>,
    fate_cursor: Cursor,
    /// With the seq of an event that had the value.
    erased: BTreeMap<Erased, u64>,
    /// seq of events of which audit.origin has a copy.
    landmarks: Vec<u64>,
    /// seq of the first START among the events.
    first_start: Option<u64>,
    /// First and last seq of what retention dropped.
    dropped: Vec<(u64, u64)>,
    /// seq of the last event that was read, or is missing.
    last: u64,
    /// seq of rows met outside of their chunk; and of those looked up there.
    strays: Vec<u64>,
    looked_up: HashSet<u64>,
}

/// Verifies the events `from..=to`, all where `None`.
pub fn verify(from: Option<u64>, to: Option<u64>) -> Vec<Problem> {
    let mut store = TreeStore::default();
    let (first, last) = bounds(&mut store, from, to);
    let whole = from.is_none() && to.is_none();
    let range = match whole {
        true => String::new(),
        false => format!("WHERE seq BETWEEN '{first}' AND '{last}'"),
    };
    let fates = match whole {
        true => String::new(),
        false => format!("WHERE decided_by BETWEEN '{first}' AND '{last}'"),
    };
    let mut verifier = Verifier {
        reader: Reader::new(Reading::Periods),
        problems: Problems::default(),
        numbers: EventNumbers::new(first == 1),
        fates: Fates::new(),
        next_fate: None,
        fate_cursor: Cursor::open(&format!(
            "SELECT {FATE} FROM audit.fate {fates} ORDER BY decided_by"
        )),
        erased: BTreeMap::new(),
        landmarks: Vec::new(),
        first_start: None,
        dropped: store.dropped_ranges(),
        last: first.saturating_sub(1),
        strays: Vec::new(),
        looked_up: HashSet::new(),
    };
    let mut heads = Heads::read(&mut verifier.problems);
    let mut events = Cursor::open(&format!("SELECT {EVENT} FROM audit.event {range}"));
    let mut batches = Cursor::open(&format!(
        "SELECT {BATCH} FROM audit.batch WHERE last_seq >= {first} AND first_seq <= {last} ORDER BY last_seq, first_seq"
    ));
    let mut expected = Expected::begin(&mut store, first, &mut verifier.problems);
    let mut read_ahead = batches.next().map(|row| batch_row(&row));
    while let Some(batch) = read_ahead.take() {
        let mut chunk = Chunk::new(batch);
        read_ahead = batches.next().map(|row| batch_row(&row));
        while let Some(next) = read_ahead.take_if(|next| chunk.takes(next)) {
            chunk.add(next);
            read_ahead = batches.next().map(|row| batch_row(&row));
        }
        verifier.fill(&mut chunk, &mut events);
        for batch in &chunk.batches {
            expected.batch(&chunk, batch, &mut store, &mut verifier.problems);
            heads.reached(batch.first_seq - 1, &expected.tree, &mut verifier.problems);
        }
    }
    while let Some(row) = events.next() {
        verifier.strays.push(row.number(1).unwrap_or(0) as u64);
    }
    verifier.rest(whole);
    check_erased(verifier.erased, &mut verifier.problems);
    check_origin(first, last, &verifier.landmarks, &mut verifier.problems);
    check_first_start(verifier.first_start, &mut verifier.problems);
    if to.is_none() {
        heads.beyond(expected.tree.size(), &mut verifier.problems);
    }
    let problems = &mut verifier.problems;
    verifier
        .numbers
        .finish(&mut |seq, problem, detail| problems.add(seq, problem, detail));
    let mut problems = verifier.problems.0;
    problems.sort_by_key(|p| p.seq.unwrap_or(u64::MAX));
    problems
}

/// Whole batches around what was asked for.
fn bounds(store: &mut TreeStore, from: Option<u64>, to: Option<u64>) -> (u64, u64) {
    let first = match from {
        None | Some(0) => 1,
        Some(seq) => store.batch(seq).map_or(seq, |batch| batch.first_seq),
    };
    let last = match to {
        None => i64::MAX as u64,
        Some(seq) => store.batch(seq).map_or(seq, |batch| batch.last_seq),
    };
    (first, last)
}

impl Chunk {
    fn new(batch: Batch) -> Chunk {
        let mut chunk = Chunk {
            first: batch.first_seq,
            last: batch.first_seq.saturating_sub(1),
            batches: Vec::new(),
            leaves: Vec::new(),
            missing: 0,
        };
        chunk.add(batch);
        chunk
    }

    /// Whether a batch follows directly and there is room for it.
    fn takes(&self, batch: &Batch) -> bool {
        batch.first_seq == self.last + 1
            && batch.last_seq >= batch.first_seq
            && batch.last_seq - self.first < CHUNK
    }

    fn add(&mut self, batch: Batch) {
        // A row that claims to hold more than fits is reported by Expected.
        let events = (batch.last_seq + 1).saturating_sub(batch.first_seq);
        if events <= CHUNK {
            self.last = batch.last_seq.max(self.last);
            self.missing += events;
            self.leaves
                .resize(self.leaves.len() + events as usize, None);
        }
        self.batches.push(batch);
    }

    fn place(&mut self, seq: u64) -> Option<&mut Option<Found>> {
        let at = seq.checked_sub(self.first)?;
        self.leaves.get_mut(usize::try_from(at).ok()?)
    }

    pub fn leaf(&self, seq: u64) -> Option<Result<Hash, &'static str>> {
        let at = usize::try_from(seq.checked_sub(self.first)?).ok()?;
        self.leaves.get(at)?.as_ref().map(|found| found.leaf)
    }

    fn last_of_batch(&self) -> HashMap<u64, Hash> {
        self.batches
            .iter()
            .map(|b| (b.last_seq, b.digest))
            .collect()
    }
}

impl Verifier {
    /// Reads events until the chunk is complete, then looks for those that are missing.
    fn fill(&mut self, chunk: &mut Chunk, events: &mut Cursor) {
        self.read_fates(chunk.first, chunk.last);
        let ends = chunk.last_of_batch();
        let mut strays = 0;
        while chunk.missing > 0 && strays < STRAYS {
            let Some(row) = events.next() else { break };
            let seq = row.number(1).unwrap_or(0) as u64;
            if chunk.place(seq).is_none() {
                self.strays.push(seq);
                strays += 1;
                continue;
            }
            let fates = self.fates.get(&(seq as i64)).and_then(|f| fates_digest(f));
            let event = self.reader.event(&row, fates, ends.get(&seq).copied());
            self.put(chunk, event);
        }
        if chunk.missing > 0 {
            self.search(chunk, &ends);
        }
        // Only where there is no batch: a row of audit.subtree alone excuses nothing.
        let between = self.last + 1..chunk.first;
        if self.dropped.iter().any(|(from, _)| between.contains(from)) {
            self.numbers.dropped();
        }
        self.last = self.last.max(chunk.last);
        let problems = &mut self.problems;
        let mut report = |seq, problem, detail| problems.add(seq, problem, detail);
        for (seq, found) in (chunk.first..).zip(&chunk.leaves) {
            if let Some(found) = found {
                self.numbers.event(seq, &found.numbered, &mut report);
            }
        }
    }

    fn put(&mut self, chunk: &mut Chunk, event: Event) {
        let Some(place) = chunk.place(event.seq) else {
            return;
        };
        if place.is_some() {
            self.problems.add(
                event.seq,
                "inserted event",
                "there is more than one event with this seq".into(),
            );
            return;
        }
        match event.numbered.command {
            Command::Landmark => self.landmarks.push(event.seq),
            Command::Start => {
                let met = self.first_start.unwrap_or(event.seq);
                self.first_start = Some(met.min(event.seq));
            }
            _ => {}
        }
        *place = Some(Found {
            leaf: event.leaf,
            numbered: event.numbered,
        });
        chunk.missing -= 1;
        let erased = event.erased.into_iter();
        self.erased.extend(erased.map(|gone| (gone, event.seq)));
    }

    /// Looks for missing events by seq.
    fn search(&mut self, chunk: &mut Chunk, ends: &HashMap<u64, Hash>) {
        let mut at = 0;
        while let Some(begin) = chunk.leaves[at..].iter().position(Option::is_none) {
            let begin = at + begin;
            let len = chunk.leaves[begin..]
                .iter()
                .take_while(|l| l.is_none())
                .count();
            at = begin + len;
            let (from, to) = (chunk.first + begin as u64, chunk.first + at as u64 - 1);
            let mut found = Cursor::open(&format!(
                "SELECT {EVENT} FROM audit.event WHERE seq BETWEEN {from} AND {to}"
            ));
            while let Some(row) = found.next() {
                let seq = row.number(1).unwrap_or(0) as u64;
                let fates = self.fates.get(&(seq as i64)).and_then(|f| fates_digest(f));
                let event = self.reader.event(&row, fates, ends.get(&seq).copied());
                self.looked_up.insert(seq);
                self.put(chunk, event);
            }
        }
    }

    /// Reads what the events of a chunk decided.
    fn read_fates(&mut self, first: u64, last: u64) {
        self.fates.clear();
        loop {
            let row = match self.next_fate.take() {
                Some(row) => row,
                None => match self.fate_cursor.next() {
                    Some(row) => fate_row(&row),
                    None => return,
                },
            };
            if row.decided_by > last as i64 {
                self.next_fate = Some(row);
                return;
            }
            if row.decided_by < first as i64 {
                self.inserted_fate(row.decided_by);
                continue;
            }
            self.fates.entry(row.decided_by).or_default().push(row);
        }
    }

    fn inserted_fate(&mut self, decided_by: i64) {
        // Retention keeps what became of transactions that go on, without the event that decided.
        let dropped = |(from, to): &(u64, u64)| (*from..=*to).contains(&(decided_by as u64));
        if self.dropped.iter().any(dropped) {
            return;
        }
        self.problems.add(
            decided_by as u64,
            "inserted fate",
            "a row of audit.fate names this event, which is not there".into(),
        );
    }

    /// What is left over when all batches were read.
    fn rest(&mut self, whole: bool) {
        for seq in core::mem::take(&mut self.strays) {
            if !self.looked_up.remove(&seq) {
                self.problems.add(
                    seq,
                    "inserted event",
                    "it belongs to no batch, or is there twice".into(),
                );
            }
        }
        if whole {
            while let Some(row) = self
                .next_fate
                .take()
                .map(|row| row.decided_by)
                .or_else(|| self.fate_cursor.next().map(|row| fate_row(&row).decided_by))
            {
                self.inserted_fate(row);
            }
            self.reader.finish();
            for (table, reference) in core::mem::take(&mut self.reader.unused) {
                self.problems.add(
                    None,
                    "inserted row",
                    format!("no event refers to row {reference} of audit.{table}"),
                );
            }
        }
    }
}

impl Expected {
    /// Holds the events of a batch against what the batch's row says, and adds them to the tree.
    fn batch(
        &mut self,
        chunk: &Chunk,
        batch: &Batch,
        store: &mut TreeStore,
        problems: &mut Problems,
    ) {
        let (first, last) = (batch.first_seq, batch.last_seq);
        if last < first || last - first >= CHUNK || first <= self.tree.size() {
            problems.add(
                first,
                "inserted batch",
                format!("audit.batch has a row for events {first} to {last} that does not follow the others"),
            );
            return;
        }
        self.skip_to(first, store, problems);
        let Some(stored) = split_hashes(&batch.frontier) else {
            problems.add(first, "changed batch", "its frontier is damaged".into());
            return;
        };
        let before = self.tree.clone();
        let mut complete = true;
        for seq in first..=last {
            match chunk.leaf(seq) {
                Some(Ok(leaf)) if complete => self.tree.push(leaf),
                Some(Ok(_)) => {}
                _ => complete = false,
            }
        }
        let whole = complete && self.tree.since(first - 1) == stored;
        let changed = compare_leaves(chunk, batch, whole, problems);
        if whole {
            return;
        }
        if !changed {
            problems.add(
                first,
                "changed batch",
                format!("events {first} to {last} do not add up to the frontier of their batch"),
            );
        }
        self.tree = resume(&before, first, last, stored);
    }
}

/// Holds leaves against the beginnings that the batch kept. `whole`: they make the right tree, so
/// that a difference is the batch's fault. Returns whether something was reported.
fn compare_leaves(chunk: &Chunk, batch: &Batch, whole: bool, problems: &mut Problems) -> bool {
    let (first, last) = (batch.first_seq, batch.last_seq);
    if batch.checks.len() != (last - first + 1) as usize * CHECK {
        problems.add(first, "changed batch", "its checks are damaged".into());
        return true;
    }
    let mut reported = false;
    let mut missing: Option<(u64, u64)> = None;
    for (seq, check) in (first..=last).zip(batch.checks.chunks_exact(CHECK)) {
        match chunk.leaf(seq) {
            None => {
                missing = Some((missing.map_or(seq, |(from, _)| from), seq));
                reported = true;
                continue;
            }
            Some(Ok(leaf)) if leaf[..CHECK] == *check => {}
            Some(Ok(_)) if whole => {
                problems.add(
                    seq,
                    "changed batch",
                    "its check of this event is damaged".into(),
                );
                reported = true;
            }
            Some(Ok(_)) => {
                let detail = match seq == last {
                    true => {
                        "it, a row that it refers to or decided, or the row of its batch is not as it was stored"
                    }
                    false => "it, or a row that it refers to or decided, is not as it was stored",
                };
                problems.add(seq, "changed event", detail.into());
                reported = true;
            }
            Some(Err(why)) => {
                problems.add(seq, "changed event", why.into());
                reported = true;
            }
        }
        report_missing(&mut missing, problems);
    }
    report_missing(&mut missing, problems);
    reported
}

fn report_missing(missing: &mut Option<(u64, u64)>, problems: &mut Problems) {
    if let Some((from, to)) = missing.take() {
        let detail = match from == to {
            true => "it was removed".to_string(),
            false => format!("events {from} to {to} were removed"),
        };
        problems.add(from, "removed event", detail);
    }
}

/// The tree after a batch as its row has it, so that what comes later is judged for itself.
fn resume(before: &Frontier, first: u64, last: u64, stored: Vec<Hash>) -> Frontier {
    let ending = StoredBatch::ending(first, last).count();
    let old = cover(0, last).len() - ending;
    let mut nodes: Vec<_> = before.nodes().iter().take(old).copied().collect();
    nodes.extend(stored);
    nodes.resize(old + ending, [0; 32]);
    Frontier::new(last, nodes).unwrap_or_default()
}
