//! The signing key and the checkpoints: who vouches for the trail, and for how much of it.
//!
//! A checkpoint is signed only for what is flushed. It goes to the file of checkpoints, to the
//! server log and to audit.checkpoint, in this order: what the table holds was published.

use super::own_events::OwnEvents;
use crate::pg::guc;
use crate::pg::shared::Shared;
use crate::pg::spi::{Plan, text_datum, transaction};
use crate::pg::trail::keys;
use crate::pg::trail::origin::Origin;
use audit_core::calendar::rfc3339;
use audit_core::note::{Checkpoint, Signing, Verifying};
use audit_core::tree::Frontier;
use core::sync::atomic::Ordering;
use pgrx::pg_sys::{self, Datum};
use std::time::{Duration, Instant};

/// Before another try where there is no key, or no place for checkpoints.
const RETRY: Duration = Duration::from_secs(10);

/// What a new key's predecessor signs.
pub fn key_statement(key: &Verifying) -> String {
    format!("audit_ext key\n{}\n", key.text())
}

/// Signs and publishes.
pub struct Publisher {
    shared: &'static Shared,
    origin: String,
    key: Option<Signing>,
    /// The KEY event that tells of `key` is not in the trail yet.
    untold: bool,
    /// `key` takes the place of another once it is.
    replaces: bool,
    /// Why nothing is signed; told once.
    problem: Option<String>,
    /// Size of the last checkpoint.
    published: u64,
    due: Instant,
    insert: Option<Plan>,
}

impl Publisher {
    /// The key of this node; a KEY event where it is not the one that the trail knows. `trail`: the
    /// keys that it knows, the newest first. `copied`: the trail came here from another node, so its
    /// key may have come along.
    pub fn begin(
        shared: &'static Shared,
        trail: &[Verifying],
        copied: bool,
        own: &mut OwnEvents,
    ) -> (Publisher, Option<Vec<u8>>) {
        let mut publisher = Publisher {
            shared,
            origin: Origin::here().line(),
            key: None,
            untold: false,
            replaces: false,
            problem: None,
            published: 0,
            due: Instant::now(),
            insert: None,
        };
        shared.checkpoints_fail.store(0, Ordering::SeqCst);
        // It may have been of a trail that is no more.
        shared.checkpointed.store(0, Ordering::SeqCst);
        let event = match publisher.settle(trail.first(), copied) {
            Ok((key, previous)) => {
                let public = key.public();
                let event = (trail.first() != Some(&public))
                    .then(|| own.key(&public, previous.as_ref()).to_vec());
                if event.is_some() && !trail.is_empty() && previous.is_none() {
                    pgrx::warning!(
                        "the key in \"{}\" is not the one that signed the audit trail so far, and that one did not sign it",
                        keys::key_path().display()
                    );
                }
                publisher.key = Some(key);
                publisher.untold = event.is_some();
                publisher.replaces = previous.is_some();
                event
            }
            Err(problem) => {
                publisher.fail(problem);
                None
            }
        };
        (publisher, event)
    }

    /// The key to sign with, and the one that is to sign this.
    fn settle(
        &self,
        newest: Option<&Verifying>,
        copied: bool,
    ) -> Result<(Signing, Option<Signing>), String> {
        newest.map_or(Ok(()), keys::put_told_in_place)?;
        match keys::load()? {
            None => {
                let key = keys::create(&self.origin)?;
                keys::put_in_place()?;
                Ok((key, None))
            }
            // Each node has its own.
            Some(old) if copied && keys::key_is_copied_along() && newest == Some(&old.public()) => {
                Ok((keys::create(&self.origin)?, Some(old)))
            }
            Some(key) => Ok((key, None)),
        }
    }

    /// The KEY event is in the trail.
    pub fn key_told(&mut self) {
        self.untold = false;
        if core::mem::take(&mut self.replaces)
            && let Err(problem) = keys::put_in_place()
        {
            self.fail(problem);
        }
    }

    fn fail(&mut self, problem: String) {
        self.due = Instant::now() + RETRY;
        let problem = format!("checkpoints are not published: {problem}");
        self.shared.checkpoints_fail.store(1, Ordering::SeqCst);
        if self.problem.as_ref() != Some(&problem) {
            pgrx::warning!("audit_ext: {problem}");
            self.shared.set_last_error(&problem);
            self.problem = Some(problem);
        }
    }

    /// Whether there is something to publish, and nobody would ask whose signature it has.
    fn has_news(&self, tree: &Frontier) -> bool {
        !self.untold && tree.size() != self.published
    }

    /// How long until a checkpoint is due; `None`: nothing is to be published.
    pub fn due_in(&self, tree: &Frontier) -> Option<Duration> {
        if !self.has_news(tree) {
            return None;
        }
        let wanted = &self.shared.checkpoint_wanted;
        let size = wanted.load(Ordering::SeqCst);
        if size > tree.size() {
            // Of a trail that is no more: who waits for one of this trail asks again.
            let _ = wanted.compare_exchange(size, 0, Ordering::SeqCst, Ordering::SeqCst);
        } else if size > self.published && self.problem.is_none() {
            return Some(Duration::ZERO);
        }
        Some(self.due.saturating_duration_since(Instant::now()))
    }

    /// Publishes a checkpoint if one is due. `tree`: the trail as it is stored and flushed.
    pub fn publish_if_due(&mut self, tree: &Frontier) {
        if self.due_in(tree).is_some_and(|rest| rest.is_zero()) {
            self.publish(tree);
        }
    }

    /// Publishes what isn't yet.
    pub fn publish(&mut self, tree: &Frontier) {
        if !self.has_news(tree) {
            return;
        }
        match self.try_publish(tree) {
            Ok(()) => {
                self.published = tree.size();
                self.due = Instant::now() + Duration::from_secs(guc::checkpoint_interval_seconds());
                self.shared
                    .checkpointed
                    .store(self.published, Ordering::SeqCst);
                self.shared.checkpoints_fail.store(0, Ordering::SeqCst);
                if self.problem.take().is_some() {
                    self.shared.set_last_error("");
                    pgrx::log!("audit_ext publishes checkpoints again");
                }
            }
            Err(problem) => self.fail(problem),
        }
    }

    fn try_publish(&mut self, tree: &Frontier) -> Result<(), String> {
        if self.key.is_none() {
            // Somebody may have mended it since. One that the trail doesn't know needs a KEY event,
            // which the next start of the worker writes.
            let key = keys::load()?.ok_or("the signing key is gone, restart to have one made")?;
            let known = transaction(keys::known).map_err(|f| f.message)?;
            if known.first() != Some(&key.public()) {
                return Err("the signing key was replaced, restart to have that recorded".into());
            }
            self.key = Some(key);
        }
        let Some(key) = &self.key else {
            return Err("there is no signing key".into());
        };
        let now = super::now();
        let checkpoint = Checkpoint {
            origin: self.origin.clone(),
            size: tree.size(),
            root: tree.root(),
            extensions: vec![format!("signed_at {}", rfc3339(now))],
        };
        let note = key.sign(&checkpoint.text());
        keys::append_checkpoint(&note).map_err(|e| {
            let path = keys::checkpoints_path();
            format!("\"{}\" cannot be written: {e}", path.display())
        })?;
        pgrx::log!("audit trail checkpoint\n{note}");
        let insert = &mut self.insert;
        transaction(|| {
            use pg_sys::{BYTEAOID, INT8OID, TEXTOID, TIMESTAMPTZOID};
            let plan = insert.get_or_insert_with(|| {
                Plan::new(
                    c"INSERT INTO audit.checkpoint (size, published_at, root, note) VALUES ($1, $2, $3, $4)",
                    &[INT8OID, TIMESTAMPTZOID, BYTEAOID, TEXTOID],
                )
            });
            plan.execute([
                Some(Datum::from(checkpoint.size as i64)),
                Some(Datum::from(now)),
                Some(text_datum(&checkpoint.root)),
                Some(text_datum(note.as_bytes())),
            ]);
        })
        .map_err(|failure| failure.message)
    }
}
