//! How much of a log is taken: by groups that are still needed, and by records that are going to be appended.
//!
//! Invariant: nothing is placed over a group that the durable slot may have to replay. Records that are appended together
//! take no more room than was kept for each of them.
//! Layer 5 (txn). Bytes: design.md, "Redo log".

use super::group::{BODY_BYTES_MAX, HEADER_BYTES};
use crate::pages::slot::{LogSegment, LogStart};

/// The first unit of a segment says what it is.
pub(super) const FIRST_UNIT: u32 = 1;

/// The taken part of a segment, which is used as a ring.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogRoom {
    pub(super) segment: LogSegment,
    pub(super) unit_bytes: u32,
    /// Where the next group goes, or at the first unit if it does not fit there.
    pub(super) head: u32,
    /// The first unit that is still needed; where it is the head, none is.
    pub(super) tail: u32,
    /// Changes of rows from the tail on.
    pub(super) changes: u64,
}

/// Units that a group takes.
pub(super) fn group_units(body_bytes: usize, unit_bytes: u32) -> u32 {
    let units = (HEADER_BYTES + body_bytes).div_ceil(unit_bytes as usize);
    u32::try_from(units).expect("bodies are limited")
}

impl LogRoom {
    pub(crate) fn segment(&self) -> LogSegment {
        self.segment
    }

    /// The same head, where as much is needed before it as another room says, with so many changes.
    pub(crate) fn needed_from(self, needed: &Self, changes: u64) -> Self {
        Self { tail: needed.tail, changes, ..self }
    }

    /// The same head, where everything from a start on is needed.
    pub(crate) fn needed_since(self, start: &LogStart) -> Self {
        Self { tail: start.unit, ..self }
    }

    /// The same room, with so many changes in what is needed.
    pub(crate) fn with_changes(self, changes: u64) -> Self {
        Self { changes, ..self }
    }

    /// Nothing is needed any more before this unit, with so many changes.
    pub(crate) fn let_go_before(&mut self, unit: u32, changes: u64) {
        self.tail = unit;
        self.changes -= changes;
    }

    /// Units of groups that are needed, with what was left free for want of room for the next.
    pub(crate) fn units_used(&self) -> u32 {
        if self.head >= self.tail {
            self.head - self.tail
        } else {
            self.segment.units - self.tail + self.head - FIRST_UNIT
        }
    }

    /// Units that groups may take.
    pub(crate) fn units(&self) -> u32 {
        self.segment.units - FIRST_UNIT
    }

    /// Changes of rows that a replay would have to make.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// Where a group of so many units would go. It never fills the ring: that would look like an empty one.
    fn place(&self, units: u32) -> Option<u32> {
        let at_end = self.head.checked_add(units).filter(|end| *end <= self.segment.units);
        let at_begin = FIRST_UNIT.checked_add(units).filter(|end| *end < self.tail);
        if self.head < self.tail {
            at_end.filter(|end| *end < self.tail).map(|_| self.head)
        } else {
            at_end.map(|_| self.head).or(at_begin.map(|_| FIRST_UNIT))
        }
    }

    /// Whether a record of so many bytes has room.
    pub(crate) fn has_room(&self, body_bytes: usize) -> bool {
        body_bytes <= BODY_BYTES_MAX && self.place(group_units(body_bytes, self.unit_bytes)).is_some()
    }

    /// Whether a group of so many bytes has room between the head and the end of the segment.
    pub(crate) fn fits_at_head(&self, body_bytes: usize) -> bool {
        group_units(body_bytes, self.unit_bytes) <= self.segment.units - self.head
    }

    /// Keeps room for a record that is going to be appended.
    pub(crate) fn reserve(&mut self, body_bytes: usize, changes: u64) {
        let units = group_units(body_bytes, self.unit_bytes);
        let place = self.place(units).expect("whoever appends has asked for room");
        self.head = place + units;
        self.changes += changes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::PageId;
    use proptest::prelude::*;

    fn room(units: u32) -> LogRoom {
        let segment = LogSegment { page: PageId::new(9).unwrap(), units, nonce: [1; 16] };
        LogRoom { segment, unit_bytes: 512, head: FIRST_UNIT, tail: FIRST_UNIT, changes: 0 }
    }

    #[test]
    fn a_ring_takes_groups_until_the_next_would_reach_the_tail() {
        let mut room = room(8);
        for _ in 0..7 {
            assert!(room.has_room(400));
            room.reserve(400, 1);
        }
        assert!(!room.has_room(1), "the segment is full");
        (room.tail, room.changes) = (5, 3);
        assert_eq!((room.units_used(), room.units()), (3, 7));
        for _ in 0..3 {
            assert!(room.has_room(400));
            room.reserve(400, 1);
        }
        assert!(!room.has_room(1), "one more would look as if nothing were there");
        assert_eq!((room.units_used(), room.changes()), (6, 6));
    }

    proptest! {
        /// Records are placed one by one when room is kept for them, and in groups when they are appended.
        #[test]
        fn groups_never_take_more_room_than_their_records_did(
            units in 2..40_u32, head in 1..41_u32, tail in 1..41_u32,
            bodies in proptest::collection::vec(0..6000_usize, 1..30), cuts in proptest::collection::vec(any::<bool>(), 30),
        ) {
            let mut kept = room(units);
            (kept.head, kept.tail) = (head.min(units), tail.min(units));
            let mut actual = kept;
            let taken: Vec<usize> = bodies.into_iter().take_while(|body| {
                let has_room = kept.has_room(*body);
                if has_room {
                    kept.reserve(*body, 1);
                }
                has_room
            }).collect();
            let mut rest = &taken[..];
            while let Some((first, more)) = rest.split_first() {
                let (mut body, mut count) = (*first, 1);
                let wraps = !actual.fits_at_head(body);
                for (next, cut) in more.iter().zip(&cuts) {
                    if *cut || !(wraps || actual.fits_at_head(body + next)) {
                        break;
                    }
                    body += next;
                    count += 1;
                }
                prop_assert!(actual.place(group_units(body, 512)).is_some());
                let place = actual.place(group_units(body, 512)).unwrap();
                actual.head = place + group_units(body, 512);
                rest = &rest[count..];
            }
            prop_assert!(actual.units_used() <= kept.units_used());
        }
    }
}
