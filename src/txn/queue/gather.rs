//! When the next group is written: at once, or once those are there again whom the last one told.
//!
//! Invariant: a group waits only for commits that are expected, no longer than the last write took, and less and less where they
//! do not come.
//! Layer 5 (txn).

use crate::base::clock::Deadline;
use std::time::Duration;

/// Never longer than this: a medium that takes longer lets enough gather while it writes.
const WAIT_MAX: Duration = Duration::from_millis(1);

/// Each group that waited in vain halves the time that the next may wait, up to so many times; then none waits.
const HALVES_MAX: u32 = 6;

/// Where no group waits any more it is tried again after so many.
const RETRY: u32 = 64;

/// What is known of those who commit at the same time.
#[derive(Debug)]
pub(super) struct Gathering {
    /// So many waited for their commits when the last group was durable: those in it, and those that had come meanwhile.
    expected: usize,
    /// Those that had come.
    came: usize,
    wait: Duration,
    /// When the last group was durable, and `wait` later.
    until: Deadline,
    /// How often waiting was in vain; each time that it was not takes half of them away.
    halves: u32,
    /// So many groups were written since waiting was given up.
    skipped: u32,
}

impl Gathering {
    pub(super) fn new() -> Self {
        let (wait, until) = (Duration::ZERO, Deadline::after(Duration::ZERO));
        Self { expected: 0, came: 0, wait, until, halves: 0, skipped: 0 }
    }

    /// Until when the next group waits for others, where so many are there; `None` where it is complete.
    pub(super) fn waits_until(&self, present: usize) -> Option<Deadline> {
        (present < self.expected && !self.wait.is_zero()).then_some(self.until)
    }

    /// A group is written that so many wait for.
    pub(super) fn begins(&mut self, present: usize) {
        if self.expected > self.came && !self.wait.is_zero() {
            let missing = self.expected.saturating_sub(present);
            let has_paid = present.saturating_sub(self.came) >= missing;
            self.halves = if has_paid { self.halves / 2 } else { self.halves + 1 };
        }
    }

    /// A group is durable that so many waited for, after so long. So many others have come meanwhile.
    pub(super) fn ended(&mut self, told: usize, came: usize, took: Duration) {
        (self.expected, self.came) = (told + came, came);
        if self.halves > HALVES_MAX {
            self.skipped += 1;
            if self.skipped > RETRY {
                (self.halves, self.skipped) = (HALVES_MAX / 2, 0);
            }
        }
        // Whoever commits alone comes back alone.
        let pays = self.expected > 1 && told > 0 && self.halves <= HALVES_MAX;
        self.wait = if pays { took.min(WAIT_MAX) / (1 << self.halves) } else { Duration::ZERO };
        self.until = Deadline::after(self.wait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITE: Duration = Duration::from_micros(640);

    #[test]
    fn whoever_commits_alone_waits_for_nobody() {
        let mut gathering = Gathering::new();
        for _ in 0..3 {
            assert_eq!(gathering.waits_until(1), None);
            gathering.begins(1);
            gathering.ended(1, 0, WRITE);
        }
    }

    #[test]
    fn a_group_waits_for_those_who_were_told_and_goes_when_they_are_there() {
        let mut gathering = Gathering::new();
        gathering.begins(3);
        gathering.ended(3, 5, WRITE);
        for present in 1..8 {
            assert!(gathering.waits_until(present).is_some(), "{present} of 8");
        }
        assert_eq!(gathering.waits_until(8), None);
        gathering.begins(8);
        gathering.ended(8, 0, WRITE);
        assert!(gathering.waits_until(7).is_some());
        assert_eq!((gathering.wait, gathering.waits_until(8)), (WRITE, None));
    }

    #[test]
    fn the_wait_is_no_longer_than_the_write_and_never_long() {
        let mut gathering = Gathering::new();
        for (took, wait) in [(WRITE, WRITE), (Duration::from_secs(5), WAIT_MAX)] {
            gathering.ended(1, 1, took);
            assert_eq!(gathering.wait, wait);
        }
    }

    #[test]
    fn waiting_in_vain_ends_and_is_tried_again() {
        let mut gathering = Gathering::new();
        let mut waits = Vec::new();
        for _ in 0..80 {
            gathering.ended(1, 1, WRITE);
            waits.push(gathering.wait);
            gathering.begins(1);
        }
        let first: Vec<_> = (0..=6).map(|halves| WRITE / (1 << halves)).collect();
        assert_eq!(waits[..7], first);
        let given_up = waits[7..].iter().take_while(|wait| wait.is_zero()).count();
        assert_eq!((given_up, waits[7 + given_up]), (64, WRITE / 8));
    }

    #[test]
    fn what_pays_is_waited_for_longer_again() {
        let mut gathering = Gathering::new();
        for _ in 0..3 {
            gathering.ended(1, 1, WRITE);
            gathering.begins(1);
        }
        gathering.ended(1, 1, WRITE);
        assert_eq!(gathering.wait, WRITE / 8);
        gathering.begins(2);
        gathering.ended(2, 0, WRITE);
        assert_eq!(gathering.wait, WRITE / 2);
    }
}
