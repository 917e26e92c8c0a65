//! Full verification of a tree: structure, order, counts, and every run that it reaches.
//!
//! Invariant: a tree that passes answers every read correctly and reaches no unit twice.
//! Layer 3 (btree).

use super::branch;
use super::key::decode_extent;
use super::leaf::{self, ValueCell};
use super::node::{self, KIND_LEAF};
use super::tree::{Pages, root_expected};
use crate::base::error::{Result, StorageError};
use crate::base::ids::{PageId, Run, TransactionId, TreeRoot};
use crate::pages::extent::{self, EXTENT_BYTES, Extent};
use crate::pages::layout::Layout;
use crate::pages::store::{Expected, PageStore};
use crate::pages::version::Pin;
use std::collections::BTreeMap;

/// Every run that the trees checked so far reach, by first unit.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    runs: BTreeMap<u64, Run>,
}

impl Reach {
    /// Adds a run; reaching a unit twice is damage.
    pub(crate) fn add(&mut self, run: Run) -> Result<()> {
        let below = self.runs.range(..run.end()).next_back().map(|(_, run)| *run);
        if below.is_some_and(|below| below.end() > run.page.get()) {
            return Err(StorageError::corrupted_page(run.page, "the page is reached twice"));
        }
        self.runs.insert(run.page.get(), run);
        Ok(())
    }

    /// Every reached unit, ascending.
    pub(crate) fn units(&self) -> impl Iterator<Item = u64> + '_ {
        self.runs.values().flat_map(|run| run.page.get()..run.end())
    }
}

/// What a check counted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TreeStats {
    pub(crate) leaf_pages: u64,
    pub(crate) branch_pages: u64,
    pub(crate) rows: u64,
    pub(crate) stored_bytes: u64,
}

/// A tree to be checked.
pub(crate) struct Checker<'c, P> {
    pub(crate) pages: &'c P,
    pub(crate) store: &'c PageStore,
    pub(crate) pin: &'c Pin,
    pub(crate) reach: &'c mut Reach,
    /// No page may be younger than this.
    pub(crate) birth_max: TransactionId,
}

/// The keys that a subtree may hold: from `low` on and below `high`.
#[derive(Clone)]
struct Bounds {
    low: Option<Vec<u8>>,
    high: Option<Vec<u8>>,
}

impl<P: Pages> Checker<'_, P> {
    /// Checks everything that `root` reaches.
    pub(crate) fn check(&mut self, root: &TreeRoot) -> Result<TreeStats> {
        let mut stats = TreeStats::default();
        if root.height == 0 {
            if root.rows != 0 {
                return Err(StorageError::corrupted(format!("an empty tree claims {} rows", root.rows)));
            }
            return Ok(stats);
        }
        let all = Bounds { low: None, high: None };
        let mut pending = vec![(root.page, root_expected(root), root.height, all)];
        while let Some((page, expected, level, bounds)) = pending.pop() {
            self.reach.add(Run::new(page, self.layout().node_units()))?;
            let bytes = self.pages.node(page, expected, level)?;
            self.check_birth(page, node::birth(&bytes))?;
            if node::kind(&bytes) == KIND_LEAF {
                self.check_leaf(page, &bytes, &bounds, &mut stats)?;
                continue;
            }
            stats.branch_pages += 1;
            let mut low = bounds.low.clone();
            for index in 0..=node::count(&bytes) {
                let high = if index < node::count(&bytes) {
                    let key = branch::separator(&bytes, index).to_vec(self.pages)?;
                    check_order(page, &key, &low, &bounds.high)?;
                    self.check_rest(branch::separator(&bytes, index).rest)?;
                    Some(key)
                } else {
                    bounds.high.clone()
                };
                let child = branch::child(&bytes, index);
                let child_bounds = Bounds { low, high: high.clone() };
                pending.push((child.page, Expected::Child(child.sum), level - 1, child_bounds));
                low = high;
            }
        }
        if stats.rows == root.rows {
            Ok(stats)
        } else {
            Err(StorageError::corrupted(format!("a tree claims {} rows and holds {}", root.rows, stats.rows)))
        }
    }

    fn layout(&self) -> &Layout {
        self.store.layout()
    }

    fn check_leaf(&mut self, page: PageId, bytes: &[u8], bounds: &Bounds, stats: &mut TreeStats) -> Result<()> {
        stats.leaf_pages += 1;
        stats.rows += node::count(bytes) as u64;
        let mut low = bounds.low.clone();
        for index in 0..node::count(bytes) {
            let row = leaf::row(bytes, index);
            let key = row.key.to_vec(self.pages)?;
            let below =
                if index == 0 { low.as_ref().is_some_and(|low| key < *low) } else { Some(&key) <= low.as_ref() };
            if below || bounds.high.as_ref().is_some_and(|high| key >= *high) {
                return Err(StorageError::corrupted_page(page, format!("row {index} is out of order")));
            }
            self.check_rest(row.key.rest)?;
            stats.stored_bytes += key.len() as u64;
            match row.value {
                ValueCell::Inline(value) => stats.stored_bytes += value.len() as u64,
                ValueCell::Extent(encoded) => {
                    let extent = decode_extent(encoded, self.layout())?;
                    self.check_extent(&extent)?;
                    stats.stored_bytes += u64::from(extent.len_bytes);
                }
            }
            low = Some(key);
        }
        Ok(())
    }

    fn check_rest(&mut self, rest: Option<&[u8; EXTENT_BYTES]>) -> Result<()> {
        match rest {
            Some(encoded) => {
                let extent = decode_extent(encoded, self.layout())?;
                self.check_extent(&extent)
            }
            None => Ok(()),
        }
    }

    /// Reads the bytes of an extent, so that they are verified, and adds its runs.
    fn check_extent(&mut self, extent: &Extent) -> Result<()> {
        self.check_birth(extent.page, extent.birth)?;
        for run in extent_runs(self.store, self.pin, extent)? {
            self.reach.add(run)?;
        }
        self.store.extent(self.pin, extent).map(|_| ())
    }

    fn check_birth(&self, page: PageId, birth: TransactionId) -> Result<()> {
        if birth > self.birth_max || birth == TransactionId::ZERO {
            return Err(StorageError::corrupted_page(page, format!("born in the impossible transaction {birth}")));
        }
        Ok(())
    }
}

fn check_order(page: PageId, key: &[u8], low: &Option<Vec<u8>>, high: &Option<Vec<u8>>) -> Result<()> {
    let above = low.as_ref().is_none_or(|low| key > &low[..]);
    if above && high.as_ref().is_none_or(|high| key < &high[..]) {
        Ok(())
    } else {
        Err(StorageError::corrupted_page(page, "separators are out of order"))
    }
}

/// All runs of an extent: its list, where it has one, and the pieces.
pub(crate) fn extent_runs(store: &PageStore, pin: &Pin, extent: &Extent) -> Result<Vec<Run>> {
    let layout = store.layout();
    let head = extent
        .head_run(layout)
        .ok_or_else(|| StorageError::corrupted_page(extent.page, "an extent list longer than a run"))?;
    let mut runs = vec![head];
    if extent.is_list(layout) {
        let list = store.extent_head(pin, extent)?;
        runs.extend(extent::decode_list(&list, extent.len_bytes, layout)?.iter().map(|piece| piece.run));
    }
    Ok(runs)
}
