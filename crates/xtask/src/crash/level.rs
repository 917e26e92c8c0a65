//! What the commits of the workloads wait for.
//!
//! Invariant: levels follow from the seed, so a history repeats itself.

use super::script::Step;
use crate::random::Random;
use crate::wait::block_on;
use cowslip::{CommitError, Durability, WriteTransaction};
use std::time::Duration;

/// Nothing is written because time went by.
pub(super) const SYNC_DELAY_MAX: Duration = Duration::from_secs(3600);

/// How a transaction is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    None,
    Buffered,
    Immediate,
    TwoPhase,
    /// As `Immediate`, by a thread of the store.
    Async,
    /// As `Buffered`, and a future tells when readers see it.
    AsyncBuffered,
}

impl Level {
    pub(super) const ALL: [Self; 6] =
        [Self::None, Self::Buffered, Self::Immediate, Self::TwoPhase, Self::Async, Self::AsyncBuffered];

    pub(super) fn any(random: &mut Random) -> Self {
        Self::ALL[random.weighted(&[15, 30, 30, 8, 12, 5])]
    }

    /// No crash loses the commit, nor any before it, once it has returned.
    pub(super) fn is_promise(self) -> bool {
        matches!(self, Self::Immediate | Self::TwoPhase | Self::Async)
    }

    /// Commits, and returns the id that the store says.
    pub(super) fn commit(self, mut tx: WriteTransaction) -> Result<u64, CommitError> {
        let durability = match self {
            Self::None => Durability::None,
            Self::Buffered | Self::AsyncBuffered => Durability::Buffered,
            Self::Immediate | Self::TwoPhase | Self::Async => Durability::Immediate,
        };
        tx.set_durability(durability).expect("no level is refused");
        tx.set_two_phase_commit(self == Self::TwoPhase);
        let id = match self {
            Self::Async | Self::AsyncBuffered => block_on(tx.commit_async())?,
            _ => tx.commit()?,
        };
        Ok(id.get())
    }
}

/// Syncs after some of the commits.
pub(super) fn with_syncs(steps: Vec<Step>, random: &mut Random) -> Vec<Step> {
    let mut mixed = Vec::new();
    for step in steps {
        let is_commit = matches!(step, Step::Commit(_) | Step::Together(_));
        mixed.push(step);
        if is_commit && random.chance(180) {
            mixed.push(Step::Sync);
        }
    }
    mixed
}
