//! Who still needs the runs that the head version no longer reaches.
//!
//! Invariant: a run born at `b` and freed at `f` is kept exactly as long as some pinned version `p` has `b <= p < f`;
//! it is listed under the newest such version. Callers hand runs in only once the slot of `f` is durable.
//! Layer 5 (txn). Rules: design.md, "Reclamation".

use crate::base::ids::{Run, TransactionId};
use crate::base::sync::Arc;
use crate::pages::account::{Account, Charge};
use crate::pages::writer::Dead;
use std::collections::BTreeMap;

/// Dead runs, each under the newest pinned version that reaches it.
#[derive(Debug, Default)]
pub(crate) struct Reclaim {
    held: BTreeMap<TransactionId, Vec<Dead>>,
    charge: Option<Charge>,
}

impl Reclaim {
    /// A list whose memory is charged.
    pub(crate) fn new(account: &Arc<Account>) -> Self {
        Self { held: BTreeMap::new(), charge: Some(Charge::new(account)) }
    }

    fn update_charge(&mut self) {
        let count: usize = self.held.values().map(Vec::len).sum();
        if let Some(charge) = &mut self.charge {
            charge.set(count * Dead::BYTES);
        }
    }

    /// Takes runs whose freeing is durable and returns those that nobody needs. `pinned` is ascending.
    pub(crate) fn settle(&mut self, dead: Vec<Dead>, pinned: &[TransactionId]) -> Vec<Run> {
        let mut free = Vec::new();
        for dead in dead {
            let below = pinned.partition_point(|version| *version < dead.freed);
            match pinned[..below].last() {
                Some(version) if *version >= dead.birth => self.held.entry(*version).or_default().push(dead),
                _ => free.push(dead.run),
            }
        }
        self.update_charge();
        free
    }

    /// Returns the runs that nobody needs since their pins are gone.
    pub(crate) fn sweep(&mut self, pinned: &[TransactionId]) -> Vec<Run> {
        let gone: Vec<_> = self.held.keys().filter(|version| pinned.binary_search(version).is_err()).copied().collect();
        let mut free = Vec::new();
        for version in gone {
            let dead = self.held.remove(&version).unwrap_or_default();
            free.extend(self.settle(dead, pinned));
        }
        self.update_charge();
        free
    }

    /// Every run that waits for a pin.
    pub(crate) fn held(&self) -> impl Iterator<Item = &Dead> {
        self.held.values().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::PageId;
    use proptest::prelude::*;

    fn dead(page: u64, birth: u64, freed: u64) -> Dead {
        Dead {
            run: Run::new(PageId::new(page).unwrap(), 1),
            birth: TransactionId::new(birth),
            freed: TransactionId::new(freed),
        }
    }

    fn ids(ids: &[u64]) -> Vec<TransactionId> {
        ids.iter().copied().map(TransactionId::new).collect()
    }

    #[test]
    fn r3_a_run_waits_for_every_pin_that_reaches_it_and_for_no_other() {
        let mut reclaim = Reclaim::default();
        assert_eq!(reclaim.settle(vec![dead(1, 5, 9)], &ids(&[3, 6, 8, 9])), []);
        assert_eq!(reclaim.sweep(&ids(&[3, 6, 9])), [], "version 6 reaches it as well");
        assert_eq!(reclaim.sweep(&ids(&[3, 9])).len(), 1, "version 3 is older than the run, 9 freed it");
    }

    #[test]
    fn r3_an_old_pin_holds_nothing_that_was_born_after_it() {
        let mut reclaim = Reclaim::default();
        assert_eq!(reclaim.settle(vec![dead(1, 5, 6), dead(2, 2, 6)], &ids(&[4, 6])), [dead(1, 5, 6).run]);
    }

    proptest! {
        #[test]
        fn settling_and_sweeping_agree_with_the_definition(
            runs in proptest::collection::vec((1_u64..20, 1_u64..8), 1..40),
            pins in proptest::collection::vec(1_u64..24, 0..8),
            drops in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let mut pins = pins;
            pins.push(30);
            pins.sort_unstable();
            pins.dedup();
            let all: Vec<_> =
                runs.iter().enumerate().map(|(i, (b, life))| dead(i as u64 + 1, *b, b + life)).collect();
            let mut reclaim = Reclaim::default();
            let mut free = reclaim.settle(all.clone(), &ids(&pins));
            for index in drops {
                let victim = index.index(pins.len());
                if pins[victim] != 30 {
                    pins.remove(victim);
                }
                free.extend(reclaim.sweep(&ids(&pins)));
                let needed =
                    |d: &Dead| pins.iter().any(|p| d.birth.get() <= *p && *p < d.freed.get());
                let mut expected: Vec<_> = all.iter().filter(|d| !needed(d)).map(|d| d.run).collect();
                let mut found = free.clone();
                expected.sort_unstable();
                found.sort_unstable();
                prop_assert!(found.len() >= free.len());
                // What was free once stays free, even where the definition would ask again.
                for run in &expected {
                    prop_assert!(found.contains(run));
                }
                prop_assert_eq!(expected.len(), found.len());
            }
        }
    }
}
