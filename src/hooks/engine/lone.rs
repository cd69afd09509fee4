//! A client's query that the level leaves out, or that repeats a record (`engine::repeat`), has no frame as
//! long as nothing happens in it that asks the engine for anything: all that is kept is which query it is
//! and where its hook is. Whoever asks finds it among the others, with a frame: see [`engine`].

use super::*;

/// Such a query, from its begin to its end; if it is recorded, to that of its transaction.
#[derive(Clone, Copy)]
pub struct Lone {
    /// As of a frame; 0: there is none; [`ENDED`].
    query: usize,
    /// While it runs, as of a frame; else 0.
    address: usize,
    catcher: usize,
    subxact: u32,
    /// The subtransaction that it began in.
    begun_in: u32,
    /// It repeats a record.
    pub(super) recorded: bool,
    /// It has to be known until it has ended, so that what fails there is its own: it is recorded, or one of
    /// several in its string.
    pub(super) lasts: bool,
}

/// In place of the query: that has ended well and waits for its transaction's end.
const ENDED: usize = 1;
/// In place of the query: a statement runs that has none.
const NO_QUERY: usize = 2;

impl Lone {
    pub const NONE: Lone = Lone {
        query: 0,
        address: 0,
        catcher: 0,
        subxact: 0,
        begun_in: 0,
        recorded: false,
        lasts: false,
    };

    #[inline]
    pub fn is_there(&self) -> bool {
        self.query != 0
    }

    #[inline]
    pub fn is(&self, query: usize) -> bool {
        self.query == query
    }

    #[inline]
    pub fn is_recorded(&self) -> bool {
        self.recorded
    }

    /// Whether it has to be known until it has ended.
    #[inline]
    pub fn lasts(&self) -> bool {
        self.lasts
    }

    /// It ends, or has ended, and nothing is kept of it.
    #[inline]
    pub fn forget(&mut self) {
        debug_assert!(self.address == 0);
        self.query = 0;
    }

    /// Whether it has ended and waits for its transaction's end.
    #[inline]
    pub fn waits(&self) -> bool {
        self.query == ENDED
    }

    #[inline]
    pub(super) fn wait(&mut self) {
        self.query = ENDED;
    }

    /// The server has come back; `false`: it has a frame by now, which is to be paused.
    #[inline]
    pub fn pause(&mut self, query: usize) -> bool {
        self.address = 0;
        self.is(query)
    }
}

impl Engine {
    /// Whether a query has begun and not yet ended, be it the one without a frame.
    #[inline]
    pub fn knows_of_a_query(&self) -> bool {
        self.lone.query != 0 || !self.has_no_query()
    }

    /// Whether a client's query that begins where nothing is under way can go without a frame: one is at
    /// hand without an allocation, should it be asked for in an error path.
    #[inline]
    pub fn may_be_lone(&self) -> bool {
        debug_assert!(self.idle() && !self.knows_of_a_query());
        !self.is_stirred() || (self.plan.is_none() && !self.committing && self.for_lone.is_some())
    }

    /// Such a query begins, and its hook, at this address of the stack, calls the server. `lasts`: as [`Lone::lasts`].
    #[inline]
    pub fn begin_lone(&mut self, query: usize, address: usize, lasts: bool) {
        self.lone.query = query;
        self.resume_lone(address);
        self.lone.begun_in = self.subxact;
        self.lone.recorded = false;
        self.lone.lasts = lasts;
    }

    /// As [`Engine::begin_lone`], of a parallel worker's copy of the query that it helps with, before anything
    /// else of this process: the only top-level statement that it will have.
    #[cold]
    pub fn begin_copy(&mut self, query: usize, address: usize) {
        self.statement_id = 1;
        self.begin_lone(query, address, true);
    }

    /// A parallel worker without a query of its own (it makes an index, say) runs one all the same: for as long
    /// as it lives there is a statement that it helps with.
    #[cold]
    pub fn help(&mut self) {
        self.begin_copy(NO_QUERY, usize::MAX);
        self.lone.catcher = usize::MAX;
        self.lone.subxact = 0; // No subtransaction's end is its own.
        self.frame_lone();
    }

    /// One of its hooks, at this address of the stack, calls the server. Never throws.
    #[inline]
    pub fn resume_lone(&mut self, address: usize) {
        self.lone.address = address;
        self.lone.catcher = catcher();
        self.lone.subxact = self.subxact;
    }

    /// Whether a statement runs.
    #[inline]
    pub fn runs_any(&self) -> bool {
        self.lone.address != 0 || !self.running.is_empty()
    }

    /// Gives it a frame. Allocates nothing: one was set aside, and each has its room everywhere.
    #[cold]
    #[inline(never)]
    pub(super) fn frame_lone(&mut self) {
        let Lone { query, address, .. } = self.lone;
        let id = self.make_frame_of_lone();
        if query == ENDED {
            self.held = Some(id);
            return;
        }
        self.open(id);
        if address != 0 {
            self.running.push(id);
        }
    }

    /// What is lone is so no more: the result is all that is known of it.
    pub(super) fn make_frame_of_lone(&mut self) -> Id {
        let lone = core::mem::replace(&mut self.lone, Lone::NONE);
        self.passing.clear();
        let id = self.take_aside(Aside::Lone);
        let statement_id = self.statement_id;
        let frame = &mut *self.pool[id];
        frame.query = lone.query;
        frame.unwatched_in = lone.begun_in;
        frame.numbers.statement_id = statement_id;
        frame.numbers.substatement_id = 1;
        frame.last_sub = 1;
        frame.address = lone.address;
        frame.catcher = lone.catcher;
        frame.subxact = lone.subxact;
        if lone.recorded {
            self.fill_from_repeat(id);
        }
        id
    }

    /// A (sub)transaction ends: queries begun in it are gone, and of those that had no frame then nobody
    /// says so (see [`Engine::query_gone`]).
    #[inline]
    pub(super) fn forget_unwatched(&mut self, subxact: u32) {
        if !self.has_no_query() {
            self.forget_unwatched_if(|frame| frame.unwatched_in >= subxact);
        }
    }

    /// A query begins: another that was in the same place, and of whose end nobody said so, is gone.
    #[inline]
    pub fn forget_unwatched_at(&mut self, query: usize) {
        if !self.has_no_query() {
            self.forget_unwatched_if(|frame| frame.query == query);
        }
    }

    #[cold]
    #[inline(never)]
    fn forget_unwatched_if(&mut self, gone: impl Fn(&Frame) -> bool) {
        for at in (0..self.open.len()).rev() {
            let id = self.open[at];
            let frame = &self.pool[id];
            if frame.unwatched_in != 0 && frame.address == 0 && gone(frame) {
                self.close(id);
                self.drop_query(id);
            }
        }
    }
}
