//! Versions, and the pins that keep their pages alive.
//!
//! Invariant: a past version is pinned only while another pin holds it. A pin takes the published version and
//! registers itself in one step under the lock under which the writer publishes, so no version is missed.
//! Layer 2 (pages). Rules: design.md, "Versions and pins".

use crate::base::ids::{TransactionId, TreeRoot};
use crate::base::sync::{Arc, Mutex};
use std::collections::BTreeMap;

/// One committed state of the database: the pair of roots that readers see together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) id: TransactionId,
    pub(crate) commit_time_micros: u64,
    /// User tables: what a savepoint restores.
    pub(crate) data: TreeRoot,
    /// Counters and everything else that is never rolled back.
    pub(crate) forward: TreeRoot,
}

/// The registry of all pins of a database.
#[derive(Debug)]
pub(crate) struct Pins {
    state: Mutex<PinState>,
}

#[derive(Debug)]
struct PinState {
    published: Version,
    /// How many pins hold each version.
    counts: BTreeMap<TransactionId, usize>,
}

impl Pins {
    pub(crate) fn new(published: Version) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(PinState { published, counts: BTreeMap::new() }) })
    }

    /// Pins the newest published version.
    pub(crate) fn pin_published(self: &Arc<Self>) -> Pin {
        let mut state = self.state.lock();
        let version = state.published;
        state.count(version.id);
        Pin { pins: Arc::clone(self), version }
    }

    /// Pins a version that is not published yet, or that another pin holds.
    pub(crate) fn pin(self: &Arc<Self>, version: Version) -> Pin {
        let mut state = self.state.lock();
        let is_kept = version.id >= state.published.id || state.counts.contains_key(&version.id);
        assert!(is_kept, "a past version is pinned only while another pin holds it");
        state.count(version.id);
        Pin { pins: Arc::clone(self), version }
    }

    /// Makes a version the one that later pins take.
    pub(crate) fn publish(&self, version: Version) {
        let mut state = self.state.lock();
        assert!(version.id > state.published.id, "versions are published in commit order");
        state.published = version;
    }

    /// The newest published version.
    pub(crate) fn published(&self) -> Version {
        self.state.lock().published
    }

    /// Every version that some pin holds, the published one included, ascending.
    pub(crate) fn held(&self) -> Vec<TransactionId> {
        self.state.lock().held()
    }

    /// How much is held.
    pub(crate) fn census(&self) -> Census {
        let state = self.state.lock();
        let held = state.held();
        let oldest = held.first().copied().unwrap_or(state.published.id);
        Census { pins: state.counts.values().map(|count| *count as u64).sum(), versions: held.len() as u64, oldest }
    }

    /// Pins every version that some pin holds, and the published one.
    pub(crate) fn pin_held(self: &Arc<Self>) -> PinSet {
        let mut state = self.state.lock();
        let versions = state.held();
        for version in &versions {
            state.count(*version);
        }
        PinSet { pins: Arc::clone(self), versions }
    }
}

/// What pins hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Census {
    pub(crate) pins: u64,
    /// The published one included.
    pub(crate) versions: u64,
    pub(crate) oldest: TransactionId,
}

/// Keeps every version that was held when it was made.
#[derive(Debug)]
pub(crate) struct PinSet {
    pins: Arc<Pins>,
    versions: Vec<TransactionId>,
}

impl Drop for PinSet {
    fn drop(&mut self) {
        let mut state = self.pins.state.lock();
        for version in &self.versions {
            state.unpin(*version);
        }
    }
}

impl PinState {
    /// Counts one pin more.
    fn count(&mut self, id: TransactionId) {
        *self.counts.entry(id).or_insert(0) += 1;
    }

    fn held(&self) -> Vec<TransactionId> {
        let mut held: Vec<_> = self.counts.keys().copied().collect();
        if let Err(place) = held.binary_search(&self.published.id) {
            held.insert(place, self.published.id);
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
        self.pins.state.lock().unpin(self.version.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(id: u64) -> Version {
        Version { id: TransactionId::new(id), commit_time_micros: 0, data: TreeRoot::EMPTY, forward: TreeRoot::EMPTY }
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
    fn r1_a_set_of_pins_keeps_what_others_let_go_of() {
        let pins = Pins::new(version(1));
        let old = pins.pin_published();
        pins.publish(version(2));
        let set = pins.pin_held();
        drop(old);
        pins.publish(version(3));
        assert_eq!(pins.held(), [1, 2, 3].map(TransactionId::new));
        drop(set);
        assert_eq!(pins.held(), [TransactionId::new(3)]);
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
