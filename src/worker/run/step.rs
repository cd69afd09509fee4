//! One batch: put together, stored in one transaction, and what is done where that fails.

use super::*;

impl Worker {
    /// Stores one batch, or backs off.
    pub(super) fn step(&mut self, source: &mut dyn Source) -> Drained {
        let begun = Instant::now();
        match self.try_step(source) {
            Ok(None) => {
                self.trial = self.trial.worked();
                Drained::Stored { full: true }
            }
            Ok(Some(drained)) => {
                self.trial = self.trial.worked();
                self.recovered();
                if let Drained::Stored { .. } = drained {
                    let spent = begun.elapsed().as_nanos() as u64;
                    self.shared.worker_ns.fetch_add(spent, Ordering::Relaxed);
                }
                drained
            }
            Err(failure) => {
                source.rewind();
                self.forget();
                if !self.lower_demands(&failure) {
                    self.failed(&failure);
                }
                Drained::Stored { full: true }
            }
        }
    }

    /// `None`: it was rehearsed, and nothing of it stays.
    pub(super) fn try_step(&mut self, source: &mut dyn Source) -> Result<Option<Drained>, Failure> {
        // A clock that steps back must not make recorded_at do so.
        let at = self.look_at_clock().max(self.last_recorded_at);
        self.enter_period(at)?;
        self.note_dropped()?;
        let trial = self.trial;
        let (worker, source_again) = (&mut *self, &mut *source);
        let write = || worker.fill_and_write(source_again, at);
        if trial == Trial::Rehearsal {
            rehearsal(write)?;
            source.rewind();
            self.forget();
            return Ok(None);
        }
        let (gaps, at, drained) = transaction(write)?;
        if let Drained::Stored { .. } = drained {
            self.committed(source, at, gaps);
        }
        Ok(Some(drained))
    }

    /// The time; an event says so where the clock was set back since the last look.
    fn look_at_clock(&mut self) -> Timestamp {
        let before = self.clock;
        self.clock = crate::worker::now();
        if self.clock + SET_BACK < before {
            let event = self.own.clock(before, self.clock).to_vec();
            self.queue(event);
        }
        self.clock
    }

    /// Queues a RETENTION event for each dropped period that the trail doesn't tell of yet.
    fn note_dropped(&mut self) -> Result<(), Failure> {
        // In this order: what waits to be told again is no news, but the flag is.
        if !self.telling.is_empty() || self.shared.news.swap(0, Ordering::SeqCst) == 0 {
            return Ok(());
        }
        let untold = transaction(retention::untold).inspect_err(|_| {
            self.shared.news.store(1, Ordering::SeqCst);
        })?;
        for dropped in untold {
            self.telling.push((dropped.starts_at, self.queued.len()));
            let event = self.own.retention(&dropped).to_vec();
            self.queue(event);
        }
        self.upkeep.dropped();
        Ok(())
    }

    /// Makes sure that the period of `at` is the current one.
    fn enter_period(&mut self, at: Timestamp) -> Result<(), Failure> {
        if self.current.as_ref().is_some_and(|c| c.period.holds(at)) {
            return Ok(());
        }
        let interval = guc::partition_interval_seconds();
        let period = transaction(|| period::find_or_make(at, interval))?;
        self.current = Some(transaction(|| Current {
            dictionary: Dictionary::new(
                period::next_ref("session", &period),
                period::next_ref("statement", &period),
            ),
            period,
        })?);
        self.upkeep.period_changed();
        Ok(())
    }

    /// Puts a batch together and writes it; returns the gaps told and when it was stored. In a
    /// transaction; throws.
    fn fill_and_write(
        &mut self,
        source: &mut dyn Source,
        at: Timestamp,
    ) -> (u64, Timestamp, Drained) {
        let (Some(current), Some(store)) = (&mut self.current, &self.store) else {
            pgrx::error!("audit_ext: the worker is not attached");
        };
        let batch = &mut self.batch;
        let texts = self.texts;
        let care = if self.trial.is_bare() {
            Care::Bare
        } else {
            Care::Whole
        };
        let before = source.progress();
        let mut gaps = 0;
        batch.clear();
        let forget = self.shared.forget_wanted.load(Ordering::SeqCst);
        if self.shared.forgotten.swap(forget, Ordering::SeqCst) != forget {
            current.dictionary.forget();
        }
        let dictionary = &mut current.dictionary;
        dictionary.trim();
        dictionary.read_from(before.ring_id);
        for own in &self.queued {
            let care = own.of_session.map_or(Care::Whole, |_| care);
            batch.horizon = own.of_session;
            let added = batch.add(&own.payload, dictionary, texts, care);
            if added.is_ok() && own.landmark {
                batch.landmarks.push(batch.rows.len() as u32 - 1);
            }
        }
        batch.horizon = None;
        if let Some(dropped) = source.take_dropped() {
            gaps += 1;
            let dropped = self.own.dropped(&before.ring_id, &dropped);
            let _ = batch.add(dropped, dictionary, texts, Care::Whole);
        }
        let mut pending = false;
        while !batch.is_full(self.max_rows) {
            let (from, to, reason) = match source.next(&mut self.payload) {
                Step::Record { start, next } => {
                    let look_up = |at, out: &mut Vec<u8>| source.look_up(at, out);
                    match batch.add_record(&self.payload, dictionary, texts, care, look_up) {
                        Ok(()) => continue,
                        Err(why) => {
                            if why == Corrupt::Original {
                                self.shared.originals_lost.fetch_add(1, Ordering::Relaxed);
                            }
                            (start, next, why.to_string())
                        }
                    }
                }
                Step::Gap { from, to, reason } => (from, to, reason),
                Step::Empty => break,
                Step::Pending => {
                    pending = true;
                    break;
                }
            };
            gaps += 1;
            let gap = self.own.unreadable(&before.ring_id, from, to, &reason);
            let _ = batch.add(gap, dictionary, texts, Care::Whole);
        }
        let progress = source.progress();
        // Each batch ends with an event, whose leaf covers the batch's own row. (The position alone
        // moves only at the beginning of a left-over ring, where there is nothing.)
        if batch.rows.is_empty() {
            let drained = if pending {
                Drained::Pending
            } else {
                Drained::Nothing
            };
            return (0, at, drained);
        }
        // Events that came while the batch was put together did not begin after it was stored.
        let now = crate::worker::now();
        let at = if now > at && current.period.holds(now) {
            now
        } else {
            at
        };
        batch.finish();
        self.next_tree = self.tree.clone();
        let to = Destination {
            period: &current.period,
            dictionary: &mut current.dictionary,
            tree: &mut self.next_tree,
            recorded_at: at,
            progress,
        };
        let first_seq = to.tree.size() + 1;
        store.write(batch, to);
        for (starts_at, index) in &self.telling {
            retention::tell(*starts_at, first_seq + *index as u64);
        }
        let full = batch.is_full(self.max_rows);
        (gaps, at, Drained::Stored { full })
    }

    /// A batch is in the trail and flushed: only now the ring may forget it.
    fn committed(&mut self, source: &mut dyn Source, at: Timestamp, gaps: u64) {
        let rows = self.batch.rows.len() as u64;
        core::mem::swap(&mut self.tree, &mut self.next_tree);
        self.last_recorded_at = at;
        self.all_told();
        self.telling.clear();
        source.stored();
        let shared = self.shared;
        shared.recorded.fetch_add(rows, Ordering::Relaxed);
        shared.gaps.fetch_add(gaps, Ordering::Relaxed);
        shared.last_batch_at.store(at, Ordering::Relaxed);
        shared.last_recorded_at.store(at, Ordering::SeqCst);
        shared.last_seq.store(self.tree.size(), Ordering::Relaxed);
        let progress = source.progress();
        if ring_file::ring().is_some_and(|ring| ring.id() == progress.ring_id) {
            shared.flushed.store(progress.position, Ordering::SeqCst);
        }
        self.broadcast();
        if let Some(ring) = ring_file::ring() {
            if !ring.is_filled_to(Limit::ThreeQuarters) {
                shared.crowded.store(0, Ordering::Relaxed);
            }
            if ring.waiting() < ring.capacity() / 2 {
                shared.overflow_is_over();
            }
        }
        // Demands that were lowered for a troublesome event rise again behind it.
        self.max_rows = (self.max_rows * 2).min(MAX_ROWS);
        self.upkeep.stored(rows);
        if let Some(current) = &self.current {
            self.upkeep.run(&current.period, at);
        }
        self.upkeep.keep_limits(shared);
    }

    pub(super) fn broadcast(&self) {
        // SAFETY: initialised at server start; doesn't throw.
        unsafe { pg_sys::ConditionVariableBroadcast((&raw const self.shared.flush_cv).cast_mut()) };
    }

    /// After a batch that wasn't stored: the dictionary's rows of it aren't, either, and what is known of
    /// the period may be what made it fail (REINDEX CONCURRENTLY gives an index another OID).
    fn forget(&mut self) {
        self.batch.clear();
        self.current = None;
    }

    /// An event whose content makes the batch fail is found by storing one by one, and then stored
    /// without its content (audit_core::trial). `false`: content isn't what is wrong.
    fn lower_demands(&mut self, failure: &Failure) -> bool {
        if !failure.is_about_content() {
            return false;
        }
        if self.max_rows > 1 {
            self.max_rows = 1;
            return true;
        }
        let Some(next) = self.trial.failed() else {
            return false;
        };
        if next == Trial::Bare {
            pgrx::log!(
                "audit_ext worker stores an event without its content: {}",
                failure.message
            );
        }
        self.trial = next;
        true
    }

    /// Waits longer from failure to failure; says so once.
    pub(super) fn failed(&mut self, failure: &Failure) {
        // Nothing is left out for a reason that is gone when events can be stored again.
        self.trial = Trial::Whole;
        if let Ok(false) = is_home() {
            // DROP EXTENSION took the tables away: no failure. (Another trail may be there already.)
            self.home_lost = true;
            return;
        }
        self.shared.set_last_error(&failure.message);
        let wait_for = match self.back_off {
            None => {
                pgrx::warning!(
                    "audit_ext worker cannot store events, they wait in the ring: {}",
                    failure.message
                );
                BACK_OFF[0]
            }
            Some(before) => (before * 2).min(BACK_OFF[1]),
        };
        self.back_off = Some(wait_for);
        self.upkeep.keep_limits(self.shared);
        crate::worker::lifecycle::sleep(wait_for);
    }

    pub(super) fn recovered(&mut self) {
        if self.back_off.take().is_some() {
            self.shared.set_last_error("");
            pgrx::log!("audit_ext worker stores events again");
        }
    }
}
