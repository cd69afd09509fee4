//! The worker's loop: sleep until there is a record, gather for a while, drain, and start again.

mod step;
mod told;

use self::told::{Queued, Told};
use super::batch::{Batch, Care, MAX_ROWS};
use super::dictionary::Dictionary;
use super::lifecycle::{flush_interval, is_home, service, terminated, wait};
use super::own_events::OwnEvents;
use super::period::{self, Period};
use super::provenance::Provenance;
use super::publish::Publisher;
use super::source::{Live, Source, Step};
use super::store::{Destination, Progress, Store};
use super::text::Texts;
use super::{leftover, maintenance, orphans, retention, trail};
use crate::pg::shared::Shared;
use crate::pg::spi::{self, Failure, rehearsal, transaction};
use crate::pg::trail::keys;
use crate::pg::{guc, ring_file, witness};
use audit_core::codec::Corrupt;
use audit_core::event::Timestamp;
use audit_core::note::Verifying;
use audit_core::ring::{Limit, Ring};
use audit_core::tree::Frontier;
use audit_core::trial::Trial;
use core::sync::atomic::Ordering;
use pgrx::pg_sys;
use std::time::{Duration, Instant};

/// The final drain after SIGTERM takes no longer; the rest waits in the ring's file.
const FINAL_DRAIN: Duration = Duration::from_secs(2);
/// While records gather, how often the ring's fill is looked at.
const GLANCE: Duration = Duration::from_millis(20);
/// Between looks at a record that its producer has not finished.
const PENDING: Duration = Duration::from_millis(1);
/// A clock that is behind what it showed before by more than this was set back.
const SET_BACK: Timestamp = 1_000_000;
/// Back-off after a failure: first and longest.
const BACK_OFF: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];

/// Why the loop ended.
pub enum End {
    Terminated,
    /// This database isn't the home any more, or somebody needs it for himself.
    HomeLost,
}

/// What one step came to.
enum Drained {
    Stored { full: bool },
    Nothing,
    Pending,
}

/// The period being written to, with what holds only within it.
struct Current {
    period: Period,
    dictionary: Dictionary,
}

pub struct Worker {
    shared: &'static Shared,
    texts: Texts,
    own: OwnEvents,
    store: Option<Store>,
    current: Option<Current>,
    /// Of the trail: its size is the last seq.
    tree: Frontier,
    /// With the leaves of the batch under way.
    next_tree: Frontier,
    last_recorded_at: Timestamp,
    /// What the clock showed last.
    clock: Timestamp,
    batch: Batch,
    payload: Vec<u8>,
    /// Own events that go first into the next batch.
    queued: Vec<Queued>,
    publisher: Option<Publisher>,
    /// The trail's last batch when this process began.
    last_batch: trail::LastBatch,
    /// Dropped periods that `queued` tells of: where they began, index in `queued`.
    telling: Vec<(Timestamp, usize)>,
    max_rows: usize,
    /// How the next batch is tried.
    trial: Trial,
    /// Set while the trail can't be written to.
    back_off: Option<Duration>,
    home_lost: bool,
    /// Sessions that died in a crash restart are not yet told of.
    orphans_wait: bool,
    upkeep: maintenance::Upkeep,
}

impl Worker {
    /// Attached to the home.
    pub fn new(shared: &'static Shared) -> Worker {
        let texts = Texts::new();
        let home = spi::bare_transaction(|| unsafe {
            crate::pg::raw::bytes(pg_sys::get_database_name(pg_sys::MyDatabaseId)).to_vec()
        });
        Worker {
            shared,
            texts,
            own: OwnEvents::new(&home.unwrap_or_default(), texts.encoding()),
            store: None,
            current: None,
            tree: Frontier::default(),
            next_tree: Frontier::default(),
            last_recorded_at: 0,
            clock: 0,
            batch: Batch::default(),
            payload: Vec::new(),
            queued: Vec::new(),
            telling: Vec::new(),
            publisher: None,
            last_batch: trail::LastBatch::default(),
            max_rows: MAX_ROWS,
            trial: Trial::default(),
            back_off: None,
            home_lost: false,
            orphans_wait: false,
            upkeep: maintenance::Upkeep::default(),
        }
    }

    /// Works until the process is to end. May throw: the process then ends, too.
    pub fn run(mut self) -> End {
        let Some(ring) = ring_file::ring() else {
            // Capture is off for want of a ring; the log has said why.
            while !self.is_over() {
                wait(None);
                self.look_at_home();
            }
            return self.end();
        };
        match self.drain_everything(ring) {
            Some(end) => end,
            None => End::Terminated,
        }
    }

    fn drain_everything(&mut self, ring: &'static Ring) -> Option<End> {
        let Some(progress) = self.attach(ring) else {
            return Some(self.end());
        };
        let dead_before = self.shared.dead_before.load(Ordering::Relaxed);
        // SAFETY: the postmaster runs one worker at a time.
        let mut live = unsafe { Live::new(ring, progress, dead_before) };
        if !leftover::drain_all(self) {
            return Some(self.end());
        }
        live.stored(); // finishes what a predecessor may have been killed in
        if !orphans::end_all(self, ring, &mut live, dead_before) {
            return Some(self.end());
        }
        self.orphans_wait = false;
        self.set_leftovers(0);
        self.shared
            .flushed
            .store(live.progress().position, Ordering::SeqCst);
        while !self.is_over() {
            if let Some(publisher) = &mut self.publisher {
                publisher.publish_if_due(&self.tree);
                self.broadcast();
            }
            match self.step(&mut live) {
                // More is waiting: the batch was full, or failed and is to be tried again.
                Drained::Stored { full: true } => {
                    service();
                    self.look_at_home();
                }
                Drained::Pending => {
                    wait(Some(PENDING));
                }
                // Under load something always is there; let it gather, or batches would be tiny.
                Drained::Stored { full: false } | Drained::Nothing => self.idle(ring, &live),
            }
        }
        self.final_drain(&mut live);
        Some(self.end())
    }

    fn end(&self) -> End {
        if self.home_lost || (!terminated() && self.shared.detach_wanted()) {
            End::HomeLost
        } else {
            End::Terminated
        }
    }

    pub fn is_over(&self) -> bool {
        terminated() || self.home_lost || self.shared.detach_wanted()
    }

    /// Reads where the trail stands, and queues START. `None`: the worker has to end.
    fn attach(&mut self, ring: &Ring) -> Option<Progress> {
        let id = ring.id();
        let (known, mut provenance, keys) = self.insist(|worker| {
            transaction(|| {
                spi::attach();
                worker.read_trail();
                let provenance = Provenance::read(worker.tree.size());
                (trail::progress(id), provenance, keys::known())
            })
        })?;
        let mut progress = known.unwrap_or(Progress {
            ring_id: id,
            position: ring.drained(),
            // A new trail has nothing to do with what was lost before it; any other was told of nothing yet.
            dropped: if self.tree.size() == 0 {
                ring.dropped_total()
            } else {
                0
            },
        });
        let leftovers = ring_file::leftovers().len();
        if witness::untold().is_some() || leftovers > 0 {
            self.last_batch = self.read_last_batch()?;
        }
        self.orphans_wait = !ring.slots().orphans().is_empty();
        self.set_leftovers(leftovers);
        let last_stop = self.last_stop(&id);
        let start = self
            .own
            .start(&id, progress.position, leftovers, last_stop.as_ref())
            .to_vec();
        let start = Queued {
            landmark: provenance.is_new(),
            told: last_stop.map(|_| Told::LastStop),
            ..Queued::new(start)
        };
        // What was drained may still stand; but what it refers to may not.
        let tail = ring.drained();
        if progress.position < tail {
            // The trail is older than the ring: a backup was restored beside it.
            let gap = self.own.unreadable(
                &id,
                progress.position,
                tail,
                "the trail is older than the ring: these records were given back already",
            );
            let gap = gap.to_vec();
            self.queue(gap);
            provenance.older_than_ring(self.tree.size());
            progress.position = tail;
        }
        self.introduce(&provenance, start, &keys);
        Some(progress)
    }

    /// Puts first what the trail has to begin with: that it was forked or restored, the start, a
    /// key. `keys`: those that the trail knows.
    fn introduce(&mut self, provenance: &Provenance, start: Queued, keys: &[Verifying]) {
        let mut first: Vec<_> = provenance
            .events(&self.tree, &mut self.own)
            .into_iter()
            .map(|payload| Queued {
                landmark: true,
                ..Queued::new(payload)
            })
            .collect();
        first.push(start);
        let (publisher, key) =
            Publisher::begin(self.shared, keys, provenance.moved(), &mut self.own);
        first.extend(key.map(|payload| Queued {
            landmark: true,
            told: Some(Told::Key),
            ..Queued::new(payload)
        }));
        self.publisher = Some(publisher);
        self.queued.splice(0..0, first);
    }

    fn queue(&mut self, payload: Vec<u8>) {
        self.queued.push(Queued::new(payload));
    }

    fn read_trail(&mut self) {
        let (last_seq, last_recorded_at) = trail::last();
        self.last_recorded_at = last_recorded_at;
        self.clock = last_recorded_at;
        self.tree = trail::tree(last_seq);
        self.store = Some(Store::new(self.texts));
        self.shared.last_seq.store(last_seq, Ordering::Relaxed);
        self.shared
            .last_recorded_at
            .store(last_recorded_at, Ordering::SeqCst);
        // A predecessor may not have told of all that was dropped.
        self.shared.news.store(1, Ordering::SeqCst);
    }

    /// What the trail holds of a ring. Outer `None`: the worker has to end.
    pub fn known_progress(&mut self, ring_id: [u8; 16]) -> Option<Option<Progress>> {
        self.insist(|_| transaction(|| trail::progress(ring_id)))
    }

    /// Repeats `f` with back-off until it succeeds; `None`: the worker has to end.
    pub fn insist<R>(&mut self, mut f: impl FnMut(&mut Self) -> Result<R, Failure>) -> Option<R> {
        while !self.is_over() {
            match f(self) {
                Ok(value) => {
                    self.recovered();
                    return Some(value);
                }
                Err(failure) => self.failed(&failure),
            }
        }
        None
    }

    /// Drains a source that nobody adds to. `false`: the worker has to end before it is empty.
    pub fn drain_until_empty(&mut self, source: &mut dyn Source) -> bool {
        while !self.is_over() {
            if let Drained::Nothing = self.step(source) {
                return true;
            }
            service();
        }
        false
    }

    /// Drains the ring in use up to a position at least. `false`: the worker has to end before.
    pub fn drain_up_to(&mut self, live: &mut Live, position: u64) -> bool {
        while live.progress().position < position && !self.is_over() {
            match self.step(live) {
                Drained::Stored { .. } => service(),
                Drained::Nothing => break,
                Drained::Pending => {
                    wait(Some(PENDING));
                }
            }
        }
        !self.is_over()
    }

    /// Events of sessions that died, which go first into the next batch. `horizon`: the first transaction id that was
    /// given out after their death.
    pub fn queue_all(&mut self, events: Vec<Vec<u8>>, horizon: u64) {
        self.queued.extend(events.into_iter().map(|payload| Queued {
            of_session: Some(horizon),
            ..Queued::new(payload)
        }));
    }

    /// Stores what is queued, with what `source` has. `false`: the worker has to end before.
    pub fn store_queued(&mut self, source: &mut dyn Source) -> bool {
        while !self.queued.is_empty() && !self.is_over() {
            if let Drained::Nothing = self.step(source) {
                self.give_up_queued();
            }
        }
        self.queued.is_empty()
    }

    /// Of the home's texts.
    pub fn encoding(&self) -> u8 {
        self.texts.encoding()
    }

    /// Transaction ids below are of before the last start, or crash.
    pub fn first_xid(&self) -> u64 {
        self.shared.first_xid()
    }

    /// Left-over rings that are still to be drained; sessions that died in a crash count as one.
    pub fn set_leftovers(&self, rings: usize) {
        let count = rings + usize::from(self.orphans_wait);
        self.shared
            .leftover_rings
            .store(count as u32, Ordering::SeqCst);
        if count == 0 {
            self.broadcast();
        }
    }

    /// Nothing to do: sleeps until a record comes, without a timeout; then lets records gather.
    fn idle(&mut self, ring: &Ring, live: &Live) {
        // The flag before the look at the ring, a producer's record before its look at the flag,
        // each with a full fence between: one of the two sees the other.
        self.shared.worker_sleeping.store(1, Ordering::SeqCst);
        if !live.has_news() {
            // Counts that autovacuum goes by.
            unsafe { pg_sys::pgstat_report_stat(true) };
            // Only what has no checkpoint yet, and what becomes too old, is worth waking up for.
            let publisher = self.publisher.as_ref();
            let checkpoint = publisher.and_then(|p| p.due_in(&self.tree));
            let retention = self.upkeep.sleep();
            wait(checkpoint.into_iter().chain(retention).min());
            self.upkeep.keep_limits(self.shared);
        }
        self.shared.worker_sleeping.store(0, Ordering::SeqCst);
        self.look_at_home();
        self.gather(ring, live);
    }

    /// Notices that the extension was dropped, or the home moved; and that it was not, whatever others say.
    fn look_at_home(&mut self) {
        let here = unsafe { pg_sys::MyDatabaseId }.to_u32();
        let said = self.shared.home();
        if said != here {
            let found = is_home();
            self.home_lost = matches!(found, Ok(false));
            if matches!(found, Ok(true)) {
                self.shared.replace_home(said, here);
            }
        }
    }

    /// Waits `audit.flush_interval`. Early: a quarter of the ring is full, somebody waits for a
    /// flush, the end is near.
    fn gather(&self, ring: &Ring, live: &Live) {
        let end = Instant::now() + flush_interval();
        let position = live.progress().position;
        while !self.is_over()
            && live.has_news()
            && ring.waiting() < ring.capacity() / 4
            && self.shared.flush_wanted.load(Ordering::SeqCst) <= position
        {
            let Some(rest) = end.checked_duration_since(Instant::now()) else {
                return;
            };
            wait(Some(rest.min(GLANCE)));
        }
    }

    /// After SIGTERM: what can be stored quickly. Failures end it, the ring's file keeps the rest.
    fn final_drain(&mut self, live: &mut Live) {
        let end = Instant::now() + FINAL_DRAIN;
        self.trial = Trial::Whole;
        while !self.home_lost && live.has_news() && Instant::now() < end {
            match self.try_step(live) {
                Ok(Some(Drained::Stored { .. })) => {}
                Ok(_) | Err(_) => return,
            }
        }
        if terminated() && !self.home_lost {
            let progress = live.progress();
            let stop = self.own.stop(&progress.ring_id, progress.position).to_vec();
            self.queue(stop);
            let _ = self.try_step(live);
        }
        if let Some(publisher) = self.publisher.as_mut().filter(|_| !self.home_lost) {
            publisher.publish(&self.tree);
        }
    }
}
