//! Full verification of a database: every page, every row, and the account of all space.
//!
//! Invariant: beside the regions' own bitmaps, allocated units are exactly those that the head version reaches, the
//! region table, and those that pins hold back.
//! Layer 5 (txn).

use super::core::{Core, TurnGuard};
use super::error::TransactionError;
use crate::base::error::{Result, StorageError};
use crate::base::ids::Run;
use crate::base::sync::Arc;
use crate::btree::check::{Checker, Reach, TreeStats};
use crate::btree::cursor::RangeCursor;
use crate::btree::overlaid::OverlaidTree;
use crate::btree::tree::SnapshotPages;
use crate::catalog::record::TableRecord;
use crate::catalog::roots;
use crate::pages::writer::Dead;
use std::collections::BTreeSet;
use std::ops::Bound;

/// What a full verification counted. Everything in the file was read and found consistent.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct IntegrityReport {
    /// Number of tables.
    pub tables: u64,
    /// Rows of all tables.
    pub rows: u64,
    /// Leaf and branch nodes of all trees.
    pub nodes: u64,
    /// Bytes of all keys and values.
    pub stored_bytes: u64,
    /// Allocation units that the newest version reaches.
    pub reached_units: u64,
    /// Allocation units that are kept only because readers still see them.
    pub pending_units: u64,
    /// Allocation units that are kept only because the last checkpoint reaches them: the redo log tells what changed since.
    pub checkpoint_units: u64,
    /// Length of the file in allocation units.
    pub file_units: u64,
}

/// What a quick verification counted. Slots, region table, bitmaps and catalog are consistent; of the tables no page was
/// read, but for rows that changed without a look since the last checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuickReport {
    /// Number of tables.
    pub tables: u64,
    /// Rows of all tables, as the catalog records them.
    pub rows: u64,
    /// Allocation units that the bitmaps record as allocated.
    pub allocated_units: u64,
    /// Length of the file in allocation units.
    pub file_units: u64,
}

/// A table of a version with what is laid over it.
fn overlaid(pages: &SnapshotPages, record: &TableRecord) -> OverlaidTree {
    OverlaidTree { pages: pages.clone(), root: record.root, delta: pages.version().delta.table(record.id) }
}

impl Core {
    /// Verifies what describes the tables, but not the tables, while no write transaction runs.
    pub(crate) fn check_quick(self: &Arc<Self>) -> Result<QuickReport, TransactionError> {
        let _turn = if self.read_only { None } else { Some(TurnGuard::take(Arc::clone(self))) };
        let durable = self.durable.lock();
        let pages = SnapshotPages::new(Arc::clone(&self.store), self.pins.pin(durable.head.clone()));
        let version = pages.version().clone();
        let tables = roots::list(pages.clone(), &version.trees.data)?;
        let mut rows = 0_u64;
        for (name, record) in &tables {
            rows = rows.saturating_add(overlaid(&pages, record).len().map_err(|error| error.in_table(name))?);
        }
        let mut counters = RangeCursor::new(pages, &version.trees.forward, Bound::Unbounded, Bound::Unbounded)?;
        while counters.next()?.is_some() {}
        let table = durable.slot.region_table;
        if !table.page.is_none() {
            self.store.read_digested(table.page, table.len_bytes, table.digest)?;
        }
        let mut space = self.space.lock();
        space.load_all(&*self.store)?;
        space.check().map_err(StorageError::from)?;
        Ok(QuickReport {
            tables: tables.len() as u64,
            rows,
            allocated_units: space.count_allocated(),
            file_units: self.store.end_units(),
        })
    }

    /// Reads and verifies everything, while no write transaction runs.
    pub(crate) fn check(self: &Arc<Self>) -> Result<IntegrityReport, TransactionError> {
        let _turn = if self.read_only { None } else { Some(TurnGuard::take(Arc::clone(self))) };
        let mut durable = self.durable.lock();
        if !self.read_only {
            self.finish_checkpoint(&mut durable)?;
            self.sweep(&mut durable);
        }
        // What waits to be durable is allocated as well.
        let pages = SnapshotPages::new(Arc::clone(&self.store), self.pins.pin(durable.head.clone()));
        let version = pages.version().clone();
        let mut reach = Reach::default();
        let tables = roots::list(pages.clone(), &version.trees.data)?;
        let mut total = TreeStats::default();
        let mut rows = 0;
        let all =
            [version.trees.data, version.trees.forward].into_iter().chain(tables.iter().map(|(_, record)| record.root));
        for (index, root) in all.enumerate() {
            let mut checker = Checker {
                pages: &pages,
                store: &self.store,
                pin: &pages.snapshot.pin,
                reach: &mut reach,
                birth_max: version.trees.made,
            };
            let name = index.checked_sub(2).and_then(|table| tables.get(table)).map(|(name, _)| name);
            let stats = checker.check(&root).map_err(|error| match name {
                Some(name) => error.in_table(name),
                None => error,
            })?;
            total.leaf_pages += stats.leaf_pages;
            total.branch_pages += stats.branch_pages;
            if index >= 2 {
                total.stored_bytes += stats.stored_bytes;
            }
        }
        for (name, record) in &tables {
            rows += overlaid(&pages, record).len().map_err(|error| error.in_table(name))?;
        }
        let table = durable.slot.region_table;
        if !table.page.is_none() {
            let units = u32::try_from(self.store.layout().units_for_bytes(table.len_bytes)).unwrap_or(u32::MAX);
            reach.add(Run::new(table.page, units))?;
        }
        if let Some(log) = durable.slot.log {
            reach.add(Run::new(log.segment.page, log.segment.units))?;
        }
        if let Some(reserve) = durable.reserve {
            reach.add(reserve)?;
        }
        let reached_units = reach.units().count() as u64;
        let pinned = self.pins.held();
        let is_pinned = |dead: &Dead| pinned.iter().any(|pin| dead.birth <= *pin && *pin < dead.freed);
        let (readers, checkpoint): (Vec<Dead>, Vec<Dead>) = durable.reclaim.held().copied().partition(is_pinned);
        let units = |dead: &[Dead]| dead.iter().map(|dead| u64::from(dead.run.units)).sum();
        let (pending_units, checkpoint_units) = (units(&readers), units(&checkpoint));
        let pending: Vec<Run> = readers.iter().chain(&checkpoint).map(|dead| dead.run).collect();
        self.check_account(reach, &pending)?;
        Ok(IntegrityReport {
            tables: tables.len() as u64,
            rows,
            nodes: total.leaf_pages + total.branch_pages,
            stored_bytes: total.stored_bytes,
            reached_units,
            pending_units,
            checkpoint_units,
            file_units: self.store.end_units(),
        })
    }

    /// Compares the allocator with what is reached and what is pending.
    fn check_account(&self, mut reach: Reach, pending: &[Run]) -> Result<()> {
        let mut space = self.space.lock();
        space.check()?;
        for run in pending {
            reach.add(*run)?;
        }
        // Neither side counts the regions' own bitmaps; no run can lie in them.
        let allocated: BTreeSet<u64> = space.allocated_units(&*self.store)?.collect();
        let expected: BTreeSet<u64> = reach.units().collect();
        let leaked = allocated.iter().find(|unit| !expected.contains(unit));
        let lost = expected.iter().find(|unit| !allocated.contains(unit));
        match (leaked, lost) {
            // By now all regions are loaded, and so their hints can be compared.
            (None, None) => Ok(space.check()?),
            (Some(unit), _) => {
                Err(StorageError::corrupted(format!("unit {unit} is allocated, but nothing reaches it")))
            }
            (None, Some(unit)) => Err(StorageError::corrupted(format!("unit {unit} is reached, but recorded as free"))),
        }
    }
}
