//! Versions, and the pins that keep their pages alive.
//!
//! Invariant: a past version is pinned only while another pin holds it. A pin takes the published version and
//! registers itself in one step under the lock under which the writer publishes, so no version is missed.
//! Layer 2 (pages). Rules: design.md, "Versions and pins".

use crate::base::ids::{TransactionId, TreeRoot};
use crate::base::sync::{Arc, Mutex};
use crate::delta::layers::Delta;
use std::collections::BTreeMap;

/// The trees of a version: its pair of roots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trees {
    /// The version that they were made as. Of later ones only what is laid over them differs, so that no page is born or
    /// freed by those.
    pub(crate) made: TransactionId,
    /// User tables: what a savepoint restores.
    pub(crate) data: TreeRoot,
    /// Counters and everything else that is never rolled back.
    pub(crate) forward: TreeRoot,
}

/// One committed state of the database: what readers see together.
#[derive(Debug, Clone)]
pub(crate) struct Version {
    pub(crate) id: TransactionId,
    pub(crate) commit_time_micros: u64,
    pub(crate) trees: Trees,
    pub(crate) delta: Delta,
}

impl Version {
    /// The version that trees were made as: nothing is laid over them.
    pub(crate) fn of_trees(trees: Trees, commit_time_micros: u64) -> Self {
        Self { id: trees.made, commit_time_micros, trees, delta: Delta::default() }
    }
}

/// The registry of all pins of a database.
#[derive(Debug)]
pub(crate) struct Pins {
    state: Mutex<PinState>,
}

#[derive(Debug)]
struct PinState {
    published: Version,
    /// How many pins hold the trees of each version.
    counts: BTreeMap<TransactionId, usize>,
}

impl Pins {
    pub(crate) fn new(published: Version) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(PinState { published, counts: BTreeMap::new() }) })
    }

    /// Pins the newest published version.
    pub(crate) fn pin_published(self: &Arc<Self>) -> Pin {
        let mut state = self.state.lock();
        let version = state.published.clone();
        state.count(version.trees.made);
        Pin { pins: Arc::clone(self), version }
    }

    /// Pins a version that is not published yet, or that another pin holds.
    pub(crate) fn pin(self: &Arc<Self>, version: Version) -> Pin {
        let mut state = self.state.lock();
        let made = version.trees.made;
        let is_kept = made >= state.published.trees.made || state.counts.contains_key(&made);
        assert!(is_kept, "a past version is pinned only while another pin holds it");
        state.count(made);
        Pin { pins: Arc::clone(self), version }
    }

    /// Makes a version the one that later pins take.
    pub(crate) fn publish(&self, version: Version) {
        let mut state = self.state.lock();
        assert!(version.id > state.published.id, "versions are published in commit order");
        state.published = version;
    }

    /// Has readers see the same version otherwise laid out from here on: what was laid over its trees is in them.
    pub(crate) fn replace_published(&self, change: impl FnOnce(&mut Version)) {
        change(&mut self.state.lock().published);
    }

    /// The newest published version.
    pub(crate) fn published(&self) -> Version {
        self.state.lock().published.clone()
    }

    /// Every version whose trees some pin holds, those of the published one included, ascending.
    pub(crate) fn held(&self) -> Vec<TransactionId> {
        self.state.lock().held()
    }

    /// How much is held.
    pub(crate) fn census(&self) -> Census {
        let state = self.state.lock();
        let held = state.held();
        let oldest = held.first().copied().unwrap_or(state.published.trees.made);
        Census { pins: state.counts.values().map(|count| *count as u64).sum(), versions: held.len() as u64, oldest }
    }
}

/// What pins hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Census {
    pub(crate) pins: u64,
    /// Those whose trees differ, the published one included.
    pub(crate) versions: u64,
    pub(crate) oldest: TransactionId,
}

impl PinState {
    /// Counts one pin more.
    fn count(&mut self, id: TransactionId) {
        *self.counts.entry(id).or_insert(0) += 1;
    }

    fn held(&self) -> Vec<TransactionId> {
        let mut held: Vec<_> = self.counts.keys().copied().collect();
        let made = self.published.trees.made;
        if let Err(place) = held.binary_search(&made) {
            held.insert(place, made);
        }
        held
    }

    fn unpin(&mut self, version: TransactionId) {
        if let Some(count) = self.counts.get_mut(&version) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&version);
            }
        }
    }
}

/// Keeps every page of one version readable and in place until it is dropped.
#[derive(Debug)]
pub(crate) struct Pin {
    pins: Arc<Pins>,
    version: Version,
}

impl Pin {
    pub(crate) fn version(&self) -> &Version {
        &self.version
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.pins.state.lock().unpin(self.version.trees.made);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(id: u64) -> Version {
        let (data, forward) = (TreeRoot::EMPTY, TreeRoot::EMPTY);
        Version::of_trees(Trees { made: TransactionId::new(id), data, forward }, 0)
    }

    #[test]
    fn r1_a_pin_taken_before_publication_keeps_holding_the_older_version() {
        let pins = Pins::new(version(1));
        let old = pins.pin_published();
        pins.publish(version(2));
        let new = pins.pin_published();
        assert_eq!((old.version().id.get(), new.version().id.get()), (1, 2));
        assert_eq!(pins.held(), [TransactionId::new(1), TransactionId::new(2)]);
        drop(old);
        assert_eq!(pins.held(), [TransactionId::new(2)]);
    }

    #[test]
    fn r1_a_version_is_held_from_before_it_is_published() {
        let pins = Pins::new(version(1));
        let queued = pins.pin(version(2));
        assert_eq!(pins.held(), [TransactionId::new(1), TransactionId::new(2)]);
        pins.publish(version(2));
        drop(queued);
        assert_eq!(pins.held(), [TransactionId::new(2)]);
    }

    #[test]
    fn r1_versions_over_the_same_trees_hold_those() {
        let pins = Pins::new(version(1));
        pins.publish(Version { id: TransactionId::new(2), ..version(1) });
        let reader = pins.pin_published();
        assert_eq!(pins.held(), [TransactionId::new(1)]);
        pins.replace_published(|published| published.trees.made = published.id);
        assert_eq!(pins.held(), [1, 2].map(TransactionId::new), "the reader still sees the older trees");
        drop(reader);
        assert_eq!(pins.held(), [TransactionId::new(2)]);
    }

    #[test]
    #[should_panic(expected = "a past version")]
    fn r1_a_past_version_that_nobody_holds_cannot_be_pinned() {
        let pins = Pins::new(version(1));
        pins.publish(version(2));
        drop(pins.pin(version(1)));
    }

    #[test]
    fn r1_the_published_version_is_held_without_any_pin() {
        let pins = Pins::new(version(3));
        drop(pins.pin_published());
        assert_eq!(pins.held(), [TransactionId::new(3)]);
    }
}
