//! The statements of this backend that have begun and not yet become events: which of them run,
//! which are suspended, which have failed, and how that is known without catching an error.
//!
//! Hooks are plain frames that an ERROR jumps over, so nothing tells a statement that it has ended
//! badly. It is concluded:
//!
//! * A running statement is *dead* when the catcher around it is gone (`PG_exception_stack` points
//!   further out than when it began), when a hook runs at its stack address or above, or when the
//!   subtransaction that it ran in is aborted. Whoever handles an error for good aborts a
//!   (sub)transaction or lets it reach the client, so every death is noticed at the latest there.
//! * A suspended query (cursor, portal) is dead when its memory goes without ExecutorEnd.
//! * A dead statement failed with the last error reported. It is `caught` when an enclosing
//!   statement goes on, or when another error is reported; it is `failed` when the error reaches
//!   the client: when no statement runs any more.
//!
//! Nothing here throws or, once the pool is warm, allocates.

mod calm;
mod ending;
mod lone;
mod passing;
mod repeat;
mod source;

use audit_core::event::{Fate, Outcome};
use audit_core::fate::FateTracker;

use super::attempted::Place;
use super::error::LastError;
use super::frame::{Aside, Frame, Wraps};
use super::{capture, checks, emit, settings};
use crate::pg::{asks, near, raw, slot};
use core::hint::cold_path;
pub use lone::Lone;
pub use passing::Mark;
use pgrx::pg_sys;
pub use repeat::Repeat;
pub use source::{Planned, Source};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Index of a frame in the pool.
pub type Id = usize;

/// First what each statement looks at, in few cache lines.
#[repr(C, align(64))]
pub struct Engine {
    /// The query that is all that is under way, if it has no frame. See `engine::lone`.
    pub lone: Lone,
    /// The running subtransaction, as the server's callbacks tell; of one that was aborted, the one around it.
    pub subxact: u32,
    /// This process serves a client, whose session has begun and is recorded.
    serves: bool,
    /// What runs now runs inside the commit of the held statement: deferred triggers and checks.
    pub(super) committing: bool,
    /// Inside BEGIN … COMMIT.
    explicit: bool,
    /// The commit of a statement failed whose event was sent ahead of it.
    pub commit_failed: bool,
    /// Number of the session's last top-level statement.
    pub statement_id: u64,

    /// Calls of nested statements without a frame. See `engine::passing`.
    pub passing: passing::Calls,
    /// Nested statements that have passed and are not yet among the numbers of the top-level one.
    unnumbered: u32,
    /// A statement may be under way whose queries are its own: see [`Engine::may_pass`].
    any_wraps: bool,
    /// Statements being run, the outermost first.
    pub running: Vec<Id>,
    /// Queries begun and not yet ended, running ones included.
    open: Vec<Id>,
    /// A finished statement whose transaction is about to end; in its commit also one that ends after it.
    pub(super) held: Option<Id>,

    /// Where the last top-level statement was found (but for a lone one, left out, that was its whole string).
    pub last_source: Source,
    /// Statements that failed and wait for the verdict caught or failed, in the order they died.
    dead: Vec<Id>,
    /// What the lone query is, if it is recorded.
    repeat: Repeat,
    /// The frame that is set aside for the lone query.
    for_lone: Option<Id>,
    free: Vec<Id>,

    /// Foreign-key checks of the running statements, one per constraint: see `hooks::checks`.
    pub checks: Vec<Id>,
    /// Boxed: a frame's address stays while the pool grows.
    #[allow(clippy::vec_box)]
    pub pool: Vec<Box<Frame>>,
    pub fates: FateTracker,
    /// Where the client's last statement was found whose relation has rules: what they do has no place of its own.
    pub ruled: Source,
    /// The frame that is set aside for what fails unseen.
    for_failure: Option<Id>,
    /// The top-level statement that was just planned: its execution is the same statement.
    pub plan: Option<Planned>,
    /// Inside of COMMIT or ROLLBACK AND CHAIN, which is about to end the transaction so.
    chains: Option<Fate>,
    pub error: LastError,
}

/// TopSubTransactionId (access/xact.h)
pub const TOP_SUBXACT: u32 = 1;

#[unsafe(link_section = "audit_data")]
static mut ENGINE: Engine = Engine {
    lone: Lone::NONE,
    subxact: TOP_SUBXACT,
    serves: false,
    committing: false,
    explicit: false,
    commit_failed: false,
    statement_id: 0,
    passing: passing::Calls::NONE,
    unnumbered: 0,
    any_wraps: false,
    running: Vec::new(),
    open: Vec::new(),
    held: None,
    last_source: Source::NONE,
    dead: Vec::new(),
    repeat: Repeat::NONE,
    for_lone: None,
    free: Vec::new(),
    checks: Vec::new(),
    pool: Vec::new(),
    fates: FateTracker::new(),
    ruled: Source::NONE,
    for_failure: None,
    plan: None,
    chains: None,
    error: LastError::new(),
};

/// The engine of this backend, with a frame for all that is under way.
///
/// SAFETY of all uses: a backend is one thread, and a reference is never held across a call that
/// may report an error (the error callback uses the engine) or run a hook.
#[inline]
pub fn engine() -> &'static mut Engine {
    let engine = engine_as_it_is();
    if engine.lone.is_there() {
        cold_path();
        engine.frame_lone();
    }
    engine
}

/// As [`engine`], but a lone query stays without a frame: for what knows of such.
#[inline]
pub fn engine_as_it_is() -> &'static mut Engine {
    unsafe { &mut *(&raw mut ENGINE) }
}

/// Runs `f` on the engine from a hook. A panic in it is a bug of ours: it is counted (audit.status),
/// this backend captures no more, and the server goes on.
///
/// `f` calls nothing that throws: an ERROR must not jump over the frame that catches panics.
#[inline]
pub fn with<T>(f: impl FnOnce(&mut Engine) -> T) -> Option<T> {
    with_it(|| f(engine()))
}

/// As [`with`], of the engine as it is.
#[inline]
pub fn with_as_it_is<T>(f: impl FnOnce(&mut Engine) -> T) -> Option<T> {
    with_it(|| f(engine_as_it_is()))
}

#[inline(always)]
fn with_it<T>(f: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(value) => Some(value),
        Err(_) => {
            capture::give_up();
            None
        }
    }
}

/// [`with`] for what finds the engine by itself.
pub fn shield(f: impl FnOnce()) {
    with_it(f);
}

/// Where an ERROR would jump to: larger is further out. (Without a catcher it ends the process.)
#[inline]
pub fn catcher() -> usize {
    (near::PG_exception_stack() as usize).wrapping_sub(1)
}

impl Engine {
    #[inline]
    pub fn frame(&mut self, id: Id) -> &mut Frame {
        &mut self.pool[id]
    }

    /// Takes a frame from the pool.
    #[inline(never)]
    #[unsafe(link_section = "audit_session")]
    pub fn take_frame(&mut self) -> Id {
        let id = self.free_frame();
        self.frame(id).reset();
        id
    }

    /// Takes a frame as it was left: it has to be reset.
    #[inline(always)]
    pub fn free_frame(&mut self) -> Id {
        self.stir();
        match self.free.pop() {
            Some(id) => id,
            None => self.add_frame(),
        }
    }

    #[cold]
    #[unsafe(link_section = "audit_session")]
    fn add_frame(&mut self) -> Id {
        self.pool.push(Box::new(Frame::with_room()));
        // Room for every frame, so that giving one back never allocates, nor does what an error path does.
        let frames = self.pool.len();
        for list in [
            &mut self.free,
            &mut self.dead,
            &mut self.running,
            &mut self.open,
        ] {
            list.reserve(frames);
        }
        self.pool.len() - 1
    }

    /// Sets a frame aside, in the postmaster.
    pub fn set_aside(&mut self, aside: Aside) -> &mut Frame {
        let id = self.take_frame();
        self.pool[id].aside = Some(aside);
        self.give_back(id);
        &mut self.pool[id]
    }

    /// The frame that is set aside for this, if it isn't under way.
    fn aside(&mut self, aside: Aside) -> &mut Option<Id> {
        match aside {
            Aside::Failure => &mut self.for_failure,
            Aside::Lone => &mut self.for_lone,
        }
    }

    /// Takes the frame that was set aside for this; another one if it is under way.
    pub fn take_aside(&mut self, aside: Aside) -> Id {
        let Some(id) = self.aside(aside).take() else {
            return self.take_frame();
        };
        self.stir();
        let frame = self.frame(id);
        frame.reset();
        frame.aside = Some(aside);
        id
    }

    #[inline]
    pub fn give_back(&mut self, id: Id) {
        let frame = self.frame(id);
        if frame.in_flight.is_some() {
            cold_path(); // Nobody has pushed it.
            frame.unprotect();
        }
        frame.in_use = false;
        let aside = frame.aside;
        if !self.open.is_empty() {
            cold_path();
            self.close(id);
        }
        match aside {
            None => self.free.push(id),
            Some(aside) => {
                cold_path();
                *self.aside(aside) = Some(id);
            }
        }
    }

    /// Called first in every hook, with an address on the hook's own stack: concludes what has died,
    /// and what of it was caught because an enclosing statement goes on.
    #[inline]
    pub fn enter(&mut self, address: usize) {
        if !self.undisturbed() {
            self.conclude(address);
        }
    }

    #[inline(never)]
    fn conclude(&mut self, address: usize) {
        self.forget_passed(address);
        if !self.running.is_empty() {
            let catcher = catcher();
            self.bury(|frame| frame.address > address && frame.catcher >= catcher);
        }
        if !self.dead.is_empty() {
            self.judge(self.verdict());
        }
    }

    /// Moves running statements to the dead, from the innermost on, up to the first that `lives`.
    fn bury(&mut self, lives: impl Fn(&Frame) -> bool) {
        while let Some(&id) = self.running.last() {
            if lives(&self.pool[id]) {
                break;
            }
            self.stop_running();
            self.die(id);
            if self.running.is_empty() {
                self.unnumbered = 0; // They were its.
            }
        }
    }

    /// Buries what died of an ERROR that jumped over its hook: its catcher is gone.
    fn bury_unwound(&mut self) {
        self.forget_passed(0);
        let catcher = catcher();
        self.bury(|frame| frame.catcher >= catcher);
    }

    #[cold]
    #[inline(never)]
    fn die(&mut self, id: Id) {
        self.close(id);
        self.pool[id].address = 0;
        self.dead.push(id);
    }

    /// Ends all dead statements with their verdict.
    #[cold]
    #[inline(never)]
    pub fn judge(&mut self, outcome: Outcome) {
        let aborted = unsafe { raw::IsAbortedTransactionBlockState() };
        for at in 0..self.dead.len() {
            let id = self.dead[at];
            let fate = if outcome == Outcome::Failed || aborted {
                Fate::RolledBack
            } else {
                Fate::Open
            };
            self.fail(id, outcome, fate);
        }
        self.dead.clear();
    }

    /// Ends one failed statement with the last error.
    fn fail(&mut self, id: Id, outcome: Outcome, fate: Fate) {
        checks::flush_below(self, self.pool[id].numbers.depth);
        let frame = &mut self.pool[id];
        frame.numbers.outcome = outcome;
        frame.numbers.sqlstate = self.error.sqlstate;
        if frame.numbers.duration < 0 {
            frame.numbers.duration = (self.error.at - frame.numbers.started_at).max(0);
        }
        frame.error.clear();
        if frame.error.try_reserve(self.error.message.len()).is_ok() {
            frame.error.extend_from_slice(&self.error.message);
        }
        frame.end_drops();
        self.error.attempted.hand_over(id, frame);
        if frame.sent {
            self.commit_failed = true;
        } else if frame.recorded(true) {
            emit::push(self, id, fate, true);
        }
        self.give_back(id);
    }

    /// Notes what the statement that the last error came up in was aimed at.
    pub fn attempted(&mut self, id: Id, place: &Place, unseen: bool) {
        let Engine { pool, error, .. } = self;
        error.attempted.collect(id, &pool[id], place, unseen);
    }

    /// A statement runs on (how it begins to: see `begin::query`): its hook's stack address identifies it.
    #[inline]
    pub fn run(&mut self, id: Id, address: usize) -> &mut Frame {
        let frame = &mut *self.pool[id];
        frame.address = address;
        frame.catcher = catcher();
        frame.subxact = self.subxact;
        self.running.push(id);
        frame
    }

    /// A hook has come back from the server: its statement runs no more. Statements that it called
    /// and that never came back died of an error which somebody handled.
    #[inline(never)]
    #[unsafe(link_section = "audit_session")]
    pub fn pause(&mut self, id: Id) {
        if self.unnumbered != 0 {
            cold_path();
            self.number_passed();
        }
        if self.running.last() == Some(&id) {
            self.stop_running();
        } else {
            self.bury_called(id);
        }
        self.frame(id).address = 0;
        if !self.dead.is_empty() {
            self.judge(Outcome::Caught);
        }
    }

    /// The innermost statement runs no more.
    #[inline]
    fn stop_running(&mut self) -> Option<Id> {
        asks::let_pass(false);
        self.running.pop()
    }

    #[cold]
    #[inline(never)]
    fn bury_called(&mut self, id: Id) {
        while let Some(top) = self.stop_running() {
            if top == id {
                break;
            }
            self.die(top);
        }
    }

    /// A statement was planned: what runs it takes another frame, under the same number.
    #[unsafe(link_section = "audit_session")]
    pub fn planned(&mut self, id: Id) {
        let frame = &self.pool[id];
        if frame.numbers.depth == 0 {
            self.plan = Some(Planned {
                source: frame.source,
                location: frame.location,
                message_at: frame.message_at,
                started_at: frame.numbers.started_at,
                text_from: frame.text_from,
                last_sub: frame.last_sub,
            });
        } else {
            // Nothing ran inside it: its number is free for its execution.
            let number = frame.numbers.substatement_id;
            self.number_passed();
            if let Some(top) = self.top_level()
                && top.last_sub == number
            {
                top.last_sub -= 1;
            }
        }
        self.give_back(id);
    }

    /// Remembers a query between its hooks.
    #[inline]
    pub fn open(&mut self, id: Id) {
        asks::let_pass(false);
        self.open.push(id);
    }

    /// A query has ended: from here on another may be where it was.
    #[inline]
    pub fn close(&mut self, id: Id) {
        if self.open.last() == Some(&id) {
            self.open.pop(); // It is there once.
        } else {
            self.close_inner(id);
        }
    }

    #[cold]
    #[inline(never)]
    fn close_inner(&mut self, id: Id) {
        self.open.retain(|other| *other != id);
    }

    /// The statement that runs a query; `None` for a query that belongs to a utility statement.
    #[inline]
    pub fn find(&self, query: usize) -> Option<Id> {
        self.open
            .iter()
            .rev()
            .copied()
            .find(|id| self.pool[*id].query == query)
    }

    /// The innermost running statement.
    pub fn innermost(&mut self) -> Option<&mut Frame> {
        let id = *self.running.last()?;
        Some(&mut self.pool[id])
    }

    /// Whether a statement that may fail now is recorded.
    pub fn records_any(&self) -> bool {
        self.held.is_some() || self.running.iter().any(|id| self.pool[*id].captured)
    }

    /// The client's statement that runs now, or whose commit does: a portal runs on under its own
    /// number whatever came in between.
    fn top_level(&mut self) -> Option<&mut Frame> {
        let committing = self.held.filter(|_| self.committing);
        let id = committing.or(self.running.first().copied()).or(self.held)?;
        Some(&mut self.pool[id])
    }

    /// Numbers a statement that begins inside another.
    pub fn number_nested(&mut self) -> (u64, u32) {
        self.number_passed();
        let statement_id = self.statement_id;
        match self.top_level() {
            Some(top) => {
                top.last_sub += 1;
                (top.numbers.statement_id, top.last_sub)
            }
            None => (statement_id, 1),
        }
    }

    /// Depth at which a statement that begins now runs.
    pub fn depth(&self) -> u32 {
        let nested = match self.running.len() {
            0 => 0,
            running => running + self.passing.len(),
        };
        nested as u32 + u32::from(self.committing)
    }

    /// A statement begins. Where one is held and none runs, it is either the client's, or run by the
    /// commit of the held one (`inside`).
    pub fn commit_runs(&mut self, inside: bool) {
        if inside {
            self.hold_open();
        }
        if self.held.is_some() && self.running.is_empty() {
            self.committing = inside;
        }
    }

    /// Whether the held statement's commit has begun.
    pub fn committing(&self) -> bool {
        self.committing
    }
}
