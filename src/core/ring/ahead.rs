//! Which part of the ring a session has the system map before it writes there.
//!
//! The ring is a mapped file, so each process meets each piece of it in a page fault, again whenever
//! the system has written the piece to the disk in between. All busy sessions come to a new piece at
//! the same moment, and wait for each other in there: a few statements in a thousand take a multiple
//! of the others' time. A session that writes a lot asks for pieces ahead of it, many at once.

use core::ops::Range;

/// As much as one fault maps: the file is written in such pieces, and the system keeps it so. Bytes.
pub const PIECE: u64 = 64 * 1024;

/// The most that is asked for at once.
const MOST: u64 = 16 * PIECE;

/// A session that has pushed fewer records may be about to leave.
const FEW: u64 = 16;

/// What a session knows of its way through the ring.
#[derive(Default)]
pub struct Ahead {
    /// Where to look again.
    look_at: u64,
    /// From where on `records` counts; 0: from nowhere yet.
    position: u64,
    /// Records that it has pushed.
    records: u64,
    /// The end of what it has asked for.
    until: u64,
    /// How much it asked for last.
    step: u64,
}

impl Ahead {
    pub const fn new() -> Self {
        Ahead {
            look_at: 0,
            position: 0,
            records: 0,
            until: 0,
            step: 0,
        }
    }

    /// A record was pushed that ends at this position. Whether [`Ahead::look`] has to be called.
    #[inline]
    pub fn pushed(&mut self, end: u64) -> bool {
        self.records += 1;
        end >= self.look_at
    }

    /// What to ask for, after a push that ended here in a ring of this capacity; mostly nothing (an
    /// empty range). More each time, up to a megabyte and an eighth of the ring, for a session that has
    /// two records in each piece, and not just a few; nothing for others, to which it would be no use.
    pub fn look(&mut self, end: u64, capacity: u64) -> Range<u64> {
        let next_piece = (end / PIECE + 1) * PIECE;
        let pieces = (end - self.position.min(end)).div_ceil(PIECE).max(1);
        let often = self.position != 0 && self.records >= 2 * pieces;
        if often && self.records < FEW {
            self.look_at = next_piece;
            return end..end;
        }
        let most = MOST.min(capacity / 8 / PIECE * PIECE);
        let asked = if often && most > 0 {
            self.step = (2 * self.step).clamp(PIECE, most);
            let from = self.until.max(end);
            self.until = self.until.max(next_piece + self.step);
            from..self.until
        } else {
            self.step = 0;
            self.until = end;
            end..end
        };
        // Before the last piece of it is used up.
        self.look_at = next_piece.max(self.until.saturating_sub(PIECE));
        self.position = end;
        self.records = 0;
        asked
    }

    /// There is no use in asking: it looks no more.
    pub fn give_up(&mut self) {
        self.look_at = u64::MAX;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: u64 = 16 << 20;

    /// Pushes records of 96 bytes, of which each `share`th is this session's; what it asks for.
    fn asked(share: u64, bytes: u64, capacity: u64) -> Vec<Range<u64>> {
        let mut ahead = Ahead::new();
        let mut asked = Vec::new();
        for n in 1..bytes / 96 {
            let end = n * 96;
            if n % share == 0 && ahead.pushed(end) {
                let range = ahead.look(end, capacity);
                if !range.is_empty() {
                    assert!(range.start >= end, "{range:?} at {end}");
                    asked.push(range);
                }
            }
        }
        asked
    }

    #[test]
    fn a_busy_session_has_all_pieces_before_it_gets_there() {
        let asked = asked(4, 4 * CAPACITY, CAPACITY);
        // The piece that it began in, and the next one's beginning, it met itself.
        assert!(asked[0].start < 2 * PIECE);
        for pair in asked.windows(2) {
            assert_eq!(pair[0].end, pair[1].start);
        }
        assert!(asked.last().unwrap().end >= 4 * CAPACITY);
        let len = |range: &Range<u64>| range.end - range.start;
        assert!(len(&asked[0]) <= 2 * PIECE);
        assert!(asked.iter().all(|range| len(range) <= MOST + PIECE));
        assert!(asked.len() < 5 + 4 * 16 + 4, "{}", asked.len());
    }

    #[test]
    fn a_session_that_is_seldom_there_asks_for_nothing() {
        assert_eq!(asked(1000, 4 * CAPACITY, CAPACITY), []);
        assert_eq!(asked(1, PIECE - 96, CAPACITY), []);
    }

    #[test]
    fn a_session_that_comes_back_begins_anew() {
        let mut ahead = Ahead::new();
        let push = |ahead: &mut Ahead, end| ahead.pushed(end).then(|| ahead.look(end, CAPACITY));
        assert_eq!(push(&mut ahead, 96), Some(96..96));
        assert!((2..FEW).all(|n| push(&mut ahead, n * 96).is_none()));
        // With so few it may be about to leave.
        let end = PIECE + 96;
        assert_eq!(push(&mut ahead, end), Some(end..end));
        assert_eq!(push(&mut ahead, PIECE + 192), None);
        let end = 2 * PIECE + 96;
        assert_eq!(push(&mut ahead, end), Some(end..4 * PIECE));
        // Half a ring later.
        let later = CAPACITY / 2 + 96;
        assert_eq!(push(&mut ahead, later), Some(later..later));
        assert_eq!(push(&mut ahead, later + 96), None);
    }

    #[test]
    fn a_small_ring_is_never_asked_for_as_a_whole() {
        let small = 1 << 20;
        assert!(
            asked(1, 8 * small, small)
                .iter()
                .all(|range| range.end - range.start <= small / 4)
        );
        assert_eq!(asked(1, 8 * PIECE, 4 * PIECE), []);
    }

    #[test]
    fn who_gives_up_looks_no_more() {
        let mut ahead = Ahead::new();
        ahead.give_up();
        assert!(!ahead.pushed(u64::MAX - 1));
    }
}
