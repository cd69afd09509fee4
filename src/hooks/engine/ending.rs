//! How statements end, and with them their transactions: an event leaves with its fate, or ahead of it.

use super::*;
use crate::hooks::apply;
use crate::pg::session;

impl Engine {
    /// A statement has ended well. Its event leaves now, or, where its transaction is about to end
    /// with it, with that transaction's fate.
    #[inline(always)]
    pub fn succeed(&mut self, id: Id) {
        settings::check(self);
        let frame = self.frame(id);
        if !frame.captured {
            self.leave_out(id);
            return;
        }
        if frame.numbers.duration < 0 {
            let now = unsafe { raw::GetCurrentTimestamp() };
            frame.numbers.duration = (now - frame.numbers.started_at).max(0);
        }
        frame.numbers.transaction_id = unsafe { raw::GetTopFullTransactionIdIfAny() }.value;
        let depth = frame.numbers.depth;
        if !frame.recorded(false) {
            self.leave_out(id);
            return;
        }
        if depth > 0 && checks::joined(self, id) {
            return;
        }
        checks::flush_below(self, depth);
        let frame = self.frame(id);
        let top = depth == 0;
        if frame.in_aborted {
            cold_path();
            let fate = if frame.to_savepoint {
                Fate::Open
            } else {
                Fate::RolledBack
            };
            emit::push(self, id, fate, true);
        } else if top && (frame.ends_transaction || !self.explicit) {
            self.release_held();
            let frame = &self.pool[id];
            if let Some(entry) = frame.in_flight {
                slot::finish(entry, frame.numbers.duration, frame.numbers.rows);
            }
            self.held = Some(id);
            return;
        } else {
            emit::push(self, id, Fate::Open, true);
        }
        self.give_back(id);
    }

    /// ExecutorEnd has come back from the query of a statement: that has ended well.
    #[inline(always)]
    pub fn query_ended(&mut self, id: Id) {
        self.pause(id);
        // The statement may be held for longer.
        self.close(id);
        if self.held == Some(id) {
            cold_path();
            self.held = None; // See `Engine::hold_open`.
        }
        self.succeed(id);
    }

    /// A statement has ended well that is not recorded, unless its commit fails; what that runs is nested in it.
    #[inline(never)]
    fn leave_out(&mut self, id: Id) {
        checks::flush_below(self, self.pool[id].numbers.depth);
        let frame = &self.pool[id];
        let ends = frame.numbers.depth == 0 && (frame.ends_transaction || !self.explicit);
        let written = || unsafe { raw::GetTopFullTransactionIdIfAny() }.value != 0;
        if ends && !frame.in_aborted && (frame.recorded(true) || written()) && !apply::is_worker() {
            self.release_held();
            self.held = Some(id);
        } else {
            self.give_back(id);
        }
    }

    /// Keeps a finished check until its statement ends.
    pub fn park(&mut self, id: Id) {
        // It has ended, and others need the entry.
        self.pool[id].unprotect();
        self.checks.push(id);
    }

    /// Sends the held statement without its fate: another statement of the same transaction begins.
    #[inline(always)]
    pub fn release_held(&mut self) {
        if self.held.is_some() {
            self.send_and_release();
        }
    }

    #[inline(never)]
    fn send_and_release(&mut self) {
        if let Some(id) = self.take_held(false) {
            if !self.pool[id].sent {
                emit::push(self, id, Fate::Open, true);
            }
            self.give_back(id);
        }
    }

    /// Sends the held statement ahead of its transaction's end, which another event will tell.
    pub fn send_held(&mut self) {
        if let Some(id) = self.held
            && !self.pool[id].sent
            && self.complete(id, true)
        {
            emit::push(self, id, Fate::Open, true);
            self.pool[id].sent = true;
        }
    }

    /// The statement that waits for its transaction's end.
    pub fn held(&mut self) -> Option<&mut Frame> {
        let id = self.held?;
        Some(&mut self.pool[id])
    }

    /// Something begins that a commit runs, and no statement is held: at Sync the server ends a client's query only
    /// after that. It is held from now on.
    pub(super) fn hold_open(&mut self) {
        let syncs = unsafe { pg_sys::debug_query_string.is_null() } && session::has_client();
        if syncs && !self.explicit && self.held.is_none() && self.running.is_empty() {
            let Engine { pool, open, .. } = &*self;
            let is_last = |id: &Id| {
                let numbers = &pool[*id].numbers;
                numbers.depth == 0 && numbers.statement_id == self.statement_id
            };
            self.held = open.iter().copied().find(is_last);
        }
    }

    /// An error was reported that belongs to the held statement. In its commit somebody may yet handle it: the
    /// transaction's end tells.
    pub fn commit_fails(&mut self) {
        if self.held().is_some_and(|held| held.fast_path) {
            self.held_failed();
        } else {
            self.committing = true;
        }
    }

    /// The held statement's commit has failed.
    fn held_failed(&mut self) {
        if let Some(id) = self.held.take() {
            // Its time ends now: the commit is a part of what failed.
            self.pool[id].numbers.duration = -1;
            self.close(id);
            self.dead.push(id);
        }
    }

    /// Whether no statement goes on, nor a commit that runs some. (A fast-path call is none.)
    fn is_over(&self) -> bool {
        let commits = self.committing && self.held.is_some_and(|id| !self.pool[id].fast_path);
        self.running.is_empty() && !commits
    }

    /// What becomes of the dead where something begins, or fails.
    pub(super) fn verdict(&self) -> Outcome {
        if self.is_over() {
            Outcome::Failed
        } else {
            Outcome::Caught
        }
    }

    /// A statement that failed before any hook saw it.
    pub fn died_unseen(&mut self, id: Id) {
        self.dead.push(id);
    }

    /// Before a new error is kept: what died of the one before was caught, since its handler, or
    /// the statement around it, has gone on to fail in its own way.
    pub fn before_error(&mut self) {
        self.bury_unwound();
        if !self.dead.is_empty() {
            self.judge(self.verdict());
        }
    }

    /// A subtransaction is aborted. With no statement running any more, the error has reached the
    /// client, or ROLLBACK TO has done its work.
    pub fn abort_sub(&mut self, subxact: u32) {
        self.forget_passed(0);
        let catcher = catcher();
        self.bury(|frame| frame.subxact < subxact && frame.catcher >= catcher);
        self.forget_unwatched(subxact);
        for at in 0..self.dead.len() {
            let id = self.dead[at];
            if self.pool[id].subxact >= subxact {
                self.pool[id].rolled_back = true;
            }
        }
        if self.fates.pending_full() {
            emit::fate_event(self);
        }
        self.fates.abort_sub(subxact);
        slot::keep_fates(&self.fates);
        if self.is_over() {
            self.judge(Outcome::Failed);
            self.release_held();
        }
    }

    /// The transaction has ended.
    #[inline]
    pub fn end_transaction(&mut self, fate: Fate) {
        if self.knows_no_query() && self.held.is_none() && self.checks.is_empty() {
            // Nothing was recorded, or all that was has left: what remains is its fate.
            self.committing = false;
            self.fates.end(fate);
            if !self.fates.has_pending() {
                // Else its id, which is committed, would decide about the next transaction's events.
                slot::keep_transaction(0);
                return;
            }
        }
        let exiting = unsafe { pg_sys::proc_exit_inprogress };
        let in_commit = core::mem::take(&mut self.committing);
        if fate == Fate::RolledBack {
            cold_path();
            // What doesn't have a catcher of its own inside the one that is in force now is dead (a
            // procedure that rolls back does so under catchers further in); when the process exits
            // all are.
            let catcher = catcher();
            self.bury(|frame| !exiting && frame.catcher > catcher);
            // By what it ran, unless that was a fast-path call's, which may have come back.
            let came_back = self.dead.is_empty() && self.held().is_some_and(|held| held.fast_path);
            if in_commit && !came_back {
                self.held_failed();
            }
        }
        self.forget_unwatched(1); // Since the top-level one: all of them.
        if !self.checks.is_empty() {
            checks::flush(self);
        }
        if !self.running.is_empty() {
            cold_path();
            // A procedure's own COMMIT or ROLLBACK: it runs on, its next event tells.
            self.fates.end(fate);
            slot::keep_fates(&self.fates);
            slot::keep_transaction(0);
            return;
        }
        // First the range, then the events that carry it.
        self.fates.end(fate);
        slot::keep_fates(&self.fates);
        if !self.dead.is_empty() {
            self.judge(match fate {
                Fate::RolledBack => Outcome::Failed,
                _ => Outcome::Caught, // In its commit.
            });
        }
        if let Some(id) = self.take_held(true) {
            if !self.pool[id].sent {
                emit::push(self, id, fate, false);
            }
            self.give_back(id);
        }
        if self.fates.has_pending() && !exiting {
            emit::fate_event(self);
        }
        slot::keep_transaction(0);
    }

    /// The client has its error, and no abort callback has told so: the transaction had failed
    /// before, or none was open.
    pub fn error_flushed(&mut self) {
        self.bury_unwound();
        if self.is_over() && !self.dead.is_empty() {
            self.judge(Outcome::Failed);
        }
    }

    /// The memory of a query goes. If its statement is still open, the server dropped it in an
    /// abort, without ExecutorEnd: it had done what was asked of it until then.
    #[unsafe(link_section = "audit_session")]
    pub fn query_gone(&mut self, id: Id, serial: u32) {
        let Some(frame) = self.pool.get(id) else {
            return;
        };
        if !frame.in_use || frame.serial != serial || frame.ending || !self.open.contains(&id) {
            return;
        }
        self.close(id);
        if self.running.contains(&id) || self.held == Some(id) {
            // An ERROR has jumped over it, or over its commit, which is concluded elsewhere.
            return;
        }
        self.drop_query(id);
    }

    /// A query was dropped without ExecutorEnd, in an abort.
    pub(super) fn drop_query(&mut self, id: Id) {
        let frame = &mut self.pool[id];
        frame.numbers.duration =
            (unsafe { raw::GetCurrentTimestamp() } - frame.numbers.started_at).max(0);
        if frame.recorded(false) {
            emit::push(self, id, Fate::RolledBack, true);
        }
        self.give_back(id);
    }
}
