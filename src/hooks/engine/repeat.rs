//! A lone query that is recorded: a record of this session says all of it but the numbers, so the event
//! that leaves is a repeat of that one. A client's few statements come again and again, and this is all
//! that is done for them. See `engine::lone` for what else may happen.

use super::*;
use crate::hooks::repeats::{self, Known};
use crate::pg::{asks, session};
use audit_core::event::{Classes, Numbers};
use audit_core::level::Level;

/// What is known of it besides its number and where it was found ([`Engine::last_source`]).
#[derive(Clone, Copy)]
pub struct Repeat {
    /// The record, and where in the ring it is.
    pub known: Known,
    pub position: u64,
    /// As of a frame.
    pub session: u32,
    pub level: Level,
    pub classes: Classes,
    pub portal: usize,
    pub text_from: usize,
    /// Its entry in the session's in-flight slot.
    pub entry: u8,
    pub rows: i64,
    pub duration: i64,
    pub transaction_id: u64,
}

impl Repeat {
    pub const NONE: Repeat = Repeat {
        known: Known::NONE,
        position: 0,
        session: 0,
        level: Level::NONE,
        classes: Classes(0),
        portal: 0,
        text_from: 0,
        entry: 0,
        rows: -1,
        duration: -1,
        transaction_id: 0,
    };
}

impl Engine {
    /// A query that repeats a record begins, and its hook, at this address of the stack, calls the server.
    #[inline(always)]
    pub fn begin_repeat(&mut self, query: usize, address: usize, repeat: Repeat) {
        self.begin_lone(query, address, true);
        self.lone.recorded = true;
        self.repeat = repeat;
    }

    /// What is known of the lone query, if it is recorded.
    #[inline]
    pub fn repeat(&mut self) -> &mut Repeat {
        &mut self.repeat
    }

    /// The lone query, which is recorded, has ended well: as [`Engine::succeed`].
    #[inline(always)]
    pub fn repeat_ended(&mut self) {
        let is_recorded = self.repeat.level.records(self.repeat.classes, false);
        if asks::has(asks::Asker::Assigned) | !is_recorded {
            cold_path();
            self.frame_lone();
            if let Some(id) = self.open.last().copied() {
                self.close(id);
                self.succeed(id);
            }
            return;
        }
        let repeat = &mut self.repeat;
        let now = unsafe { raw::GetCurrentTimestamp() };
        repeat.duration = (now - self.last_source.message_at).max(0);
        repeat.transaction_id = unsafe { raw::GetTopFullTransactionIdIfAny() }.value;
        if self.explicit {
            debug_assert!(self.is_stirred());
            self.send_repeat(Fate::Open);
        } else {
            slot::finish(repeat.entry, repeat.duration, repeat.rows);
            self.lone.wait();
        }
    }

    /// Sends the event of the lone query, which has ended. Where the fate is open, a later event decides.
    #[inline(always)]
    pub fn send_repeat(&mut self, fate: Fate) {
        if self.fates.has_pending() {
            cold_path();
            self.send_framed(fate);
            return;
        }
        let numbers = Numbers {
            event_no: self.fates.number_event(fate == Fate::Open),
            fate,
            ..self.numbers_of_repeat()
        };
        let Repeat {
            position, entry, ..
        } = self.repeat;
        if emit::repeat(&self.fates, &numbers, position, entry) {
            self.lone = Lone::NONE;
        } else {
            cold_path();
            self.send_whole(numbers);
        }
    }

    #[cold]
    #[inline(never)]
    fn send_framed(&mut self, fate: Fate) {
        let id = self.frame_ended();
        emit::push(self, id, fate, true);
        self.give_back(id);
    }

    /// The record that this repeats is of no use any more.
    #[cold]
    #[inline(never)]
    fn send_whole(&mut self, numbers: Numbers) {
        let id = self.frame_ended();
        self.pool[id].numbers = numbers;
        emit::whole(self, id);
        self.give_back(id);
    }

    /// Gives the lone query, which has ended, a frame that is neither open nor held.
    fn frame_ended(&mut self) -> Id {
        self.lone.wait();
        self.make_frame_of_lone()
    }

    #[inline(always)]
    fn numbers_of_repeat(&self) -> Numbers {
        let repeat = &self.repeat;
        Numbers {
            started_at: self.last_source.message_at,
            duration: repeat.duration,
            statement_id: self.statement_id,
            substatement_id: 1,
            transaction_id: repeat.transaction_id,
            rows: repeat.rows,
            ..Numbers::default()
        }
    }

    /// Gives a frame all that is known. Allocates nothing if it is the one that was set aside: what the
    /// record says was given its room there when the record was made ([`Engine::make_room_for_lone`]).
    pub(super) fn fill_from_repeat(&mut self, id: Id) {
        let numbers = self.numbers_of_repeat();
        let Engine {
            pool,
            repeat,
            last_source,
            ..
        } = self;
        let frame = &mut *pool[id];
        frame.numbers = numbers;
        frame.level = repeat.level;
        frame.classes = repeat.classes;
        frame.captured = true;
        frame.source = last_source.string;
        frame.location = last_source.location;
        frame.message_at = last_source.message_at;
        frame.source_end = last_source.end();
        frame.text_from = repeat.text_from;
        frame.portal = repeat.portal;
        frame.session_version = repeat.session;
        frame.in_flight = Some(repeat.entry);
        // Nobody reads the session's attributes anew before this: whoever would has asked for the frame first.
        debug_assert_eq!(session::version(), repeat.session);
        repeats::restore(repeat.known, frame, session::last_encoded());
    }

    /// A query like the one with this frame may come again, without a frame.
    pub fn make_room_for_lone(&mut self, id: Id) {
        let is_lone = |id: &Id| self.pool[*id].aside == Some(Aside::Lone);
        if let Some(at) = (0..self.pool.len()).find(is_lone)
            && let Ok([lone, frame]) = self.pool.get_disjoint_mut([at, id])
        {
            lone.make_room_for_record_of(frame);
        }
    }
}
