//! Compaction: packing tables full and moving what lies high in the file to free places below, while the database is
//! used.
//!
//! Invariant: each step is a transaction of its own, so whatever interrupts compaction leaves a whole database; what a
//! reader pins is neither moved nor overwritten. Packing what is packed changes nothing.
//! Layer 5 (txn). Rules: design.md, "Compaction".

use super::checkpoint::LogAfter;
use super::core::Core;
use super::error::CompactionError;
use super::staged::{ClosedRows, ClosedTable, Staged};
use super::write::WriteTransaction;
use crate::base::error::Result;
use crate::base::sync::Arc;
use crate::btree::tree::TreeMut;
use crate::pages::layout::Layout;
use std::ops::ControlFlow;

/// A step builds about this share of a region in nodes, 32 MiB of an ordinary one, before it commits and lets other
/// writers go on.
const STEP_SHARE: u64 = 8;

/// Above what must be kept, a share of the file may stay free: moving the last pages would cost more than they take.
const FREE_SHARE: u64 = 1024;

const FREE_UNITS_MIN: u64 = 16;

/// So many rounds may move pages without shortening the file: the branches above a page that moved down follow it.
const ROUNDS_WITHOUT_GAIN_MAX: u32 = 4;

/// So many commits without changes may let the older slot go: a few do, unless others lengthen the file meanwhile.
const UNCHANGED_COMMITS_MAX: u32 = 8;

/// How far compaction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactionProgress {
    /// Which time the tables are gone through: the first packs, and the others move pages that lie too high.
    pub round: u32,
    /// Rows of all tables that this round has come by.
    pub rows_done: u64,
    /// Rows of all tables when the round began; others may add some meanwhile.
    pub rows_total: u64,
    /// Length of the file.
    pub file_bytes: u64,
}

/// Asked after each step whether to go on.
pub(crate) type Report<'c> = &'c mut dyn FnMut(&CompactionProgress) -> ControlFlow<()>;

/// Where a step begins: a table, and a key in it.
#[derive(Debug, Clone, Default)]
struct Place {
    table: String,
    key: Vec<u8>,
}

struct Compaction<'c> {
    core: &'c Arc<Core>,
    report: Report<'c>,
    progress: CompactionProgress,
    step_bytes: usize,
    /// The file may become this long while pages are copied, and no longer.
    end_units_max: u64,
    /// The end of what was allocated after the last step.
    end_units: u64,
    /// What runs of other lengths than powers of two leave beside them in the blocks that they are cut from.
    waste_units: u64,
    is_changed: bool,
}

impl Core {
    /// Packs all tables and cuts the file; says whether anything changed.
    pub(crate) fn compact(self: &Arc<Self>, report: Report<'_>) -> Result<bool, CompactionError> {
        let file_bytes = self.store.end_units() * u64::from(self.store.layout().unit_bytes());
        let progress = CompactionProgress { round: 0, rows_done: 0, rows_total: 0, file_bytes };
        let step_units = u64::from(self.store.layout().region_units()) / STEP_SHARE;
        let end_units_max = self.store.end_units() + 2 * step_units;
        let step_bytes =
            usize::try_from(step_units * u64::from(self.store.layout().unit_bytes())).unwrap_or(usize::MAX);
        let (end_units, waste_units, is_changed) = (u64::MAX, 0, false);
        let mut compaction =
            Compaction { core: self, report, progress, step_bytes, end_units_max, end_units, waste_units, is_changed };
        loop {
            let table_units = self.space.lock().table_units();
            let outcome = compaction.run();
            // Whatever came of the rounds, the space that they freed is given back. The first failure is the one that tells.
            let cut = compaction.cut();
            if !outcome.and_then(|going| cut.map(|()| going))? || self.space.lock().table_units() == table_units {
                return Ok(compaction.is_changed);
            }
            // A shorter file has a shorter region table, which may find a lower place.
        }
    }
}

impl Compaction<'_> {
    /// Packs and moves until there is nothing more to gain; says whether it was left to go so far.
    fn run(&mut self) -> Result<bool, CompactionError> {
        self.waste_units = 0;
        if self.round(u64::MAX)?.is_break() {
            return Ok(false);
        }
        let (mut lowest, mut rounds_without_gain) = (u64::MAX, 0);
        loop {
            let (end, target) = self.ends()?;
            rounds_without_gain = if end < lowest { 0 } else { rounds_without_gain + 1 };
            lowest = lowest.min(end);
            if end <= target || rounds_without_gain > ROUNDS_WITHOUT_GAIN_MAX {
                return Ok(true);
            }
            let before = self.core.pins.published().id;
            if self.round(target)?.is_break() {
                return Ok(false);
            }
            // Where nothing moves, what is left up there is pinned or finds no place, unless the region table has it.
            if self.core.pins.published().id == before && !self.let_go()? {
                return Ok(true);
            }
        }
    }

    /// Brings what is laid over the trees into them, and gives the log's space back: it could lie anywhere. No transaction
    /// runs.
    fn drop_log(&mut self) -> Result<()> {
        let mut durable = self.core.durable.lock();
        self.core.come_to_rest(&mut durable)?;
        if durable.slot.log.is_some() || !durable.head.delta.is_empty() {
            self.core.checkpoint(&mut durable, LogAfter::None)?;
            self.is_changed = true;
        }
        Ok(())
    }

    /// Goes through all tables once.
    fn round(&mut self, limit_units: u64) -> Result<ControlFlow<()>, CompactionError> {
        self.progress.round += 1;
        self.progress.rows_done = 0;
        let mut place = Some(Place::default());
        while let Some(from) = place {
            place = self.step(&from, limit_units)?;
            self.progress.file_bytes = self.core.store.end_units() * u64::from(self.core.store.layout().unit_bytes());
            if (self.report)(&self.progress).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            self.core.let_others_write();
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Compacts a part of the tables in one transaction and returns where the next part begins.
    fn step(&mut self, from: &Place, limit_units: u64) -> Result<Option<Place>, CompactionError> {
        let turn = self.core.take_turn()?;
        // Commits that wait, and a checkpoint, pin versions, but are no readers.
        if from.table.is_empty() {
            self.drop_log()?;
        } else {
            self.core.come_to_rest(&mut self.core.durable.lock())?;
        }
        let mut transaction = WriteTransaction::begin(turn)?;
        transaction.without_log = true;
        let (older, end) = (self.core.pins.held().len() - 1, self.ends()?.0);
        // What others added between two steps is not due to this.
        self.end_units_max += end.saturating_sub(self.end_units);
        if older > 0 && end > self.end_units_max {
            return Err(CompactionError::Pinned { versions: older });
        }
        let parts = transaction.parts();
        let trees = transaction.trees()?;
        let mut next = None;
        transaction.change(|| {
            let mut roots = trees.roots.lock();
            if from.table.is_empty() {
                roots.repack(limit_units)?;
            }
            let tables = roots.list()?;
            if from.table.is_empty() {
                let rows = tables.iter().map(|(_, record)| record.root.rows);
                self.progress.rows_total = rows.fold(0, u64::saturating_add);
            }
            drop(roots);
            let mut work_bytes = 0;
            for (name, record) in tables {
                if name.as_bytes() < from.table.as_bytes() {
                    continue;
                }
                if work_bytes >= self.step_bytes || trees.bracket.writer.exceeds_budget() {
                    next = Some(Place { table: name, key: Vec::new() });
                    break;
                }
                let key = if name == from.table { &from.key[..] } else { &[] };
                let mut tree = TreeMut::new(Arc::clone(&trees.bracket.writer), record.root);
                let done = tree
                    .repack(key, limit_units, self.step_bytes.saturating_sub(work_bytes))
                    .map_err(|e| e.in_table(&name))?;
                work_bytes = work_bytes.saturating_add(done.work_bytes);
                if limit_units == u64::MAX {
                    self.waste_units += done.waste_units;
                }
                self.progress.rows_done += done.rows;
                if tree.is_changed() {
                    let rows = ClosedRows::InTree(tree);
                    parts.tables.lock().insert(name.clone(), Staged::Closed(Box::new(ClosedTable { record, rows })));
                }
                if let Some(key) = done.next_key {
                    next = Some(Place { table: name, key });
                    break;
                }
            }
            Ok(())
        })?;
        let before = self.core.pins.published().id;
        self.is_changed |= transaction.commit()? != before;
        self.end_units = self.ends()?.0;
        Ok(next)
    }

    /// The end of what is allocated, and the end that it could have.
    fn ends(&self) -> Result<(u64, u64)> {
        let mut space = self.core.space.lock();
        let end = space.highest_allocated_end(&*self.core.store)?;
        Ok((end, packed_end(self.core.store.layout(), space.count_allocated() + self.waste_units)))
    }

    /// Cuts the free tail. The older slot must name nothing up there any more, so it may take commits to let go of it.
    fn cut(&mut self) -> Result<(), CompactionError> {
        let mut left = UNCHANGED_COMMITS_MAX;
        while left > 0 && self.let_go()? {
            left -= 1;
        }
        let _turn = self.core.take_turn()?;
        let before = self.core.store.end_units();
        self.core.cut_tail(&mut self.core.durable.lock())?;
        self.is_changed |= self.core.store.end_units() < before;
        Ok(())
    }

    /// Commits without changes where the file can be cut lower then; says whether it did. Each time it ends lower, so
    /// that an end is reached from which a further call finds nothing to do.
    fn let_go(&mut self) -> Result<bool, CompactionError> {
        let turn = self.core.take_turn()?;
        self.core.come_to_rest(&mut self.core.durable.lock())?;
        let mut transaction = WriteTransaction::begin(turn)?;
        let (end, _) = self.ends()?;
        let (reach, other_reach) = {
            let durable = self.core.durable.lock();
            (durable.slot.reach_units, durable.other_reach_units)
        };
        if other_reach <= end.max(reach) {
            return Ok(false);
        }
        // The commit writes a region table: one that ended as high as what is let go of would gain nothing.
        let writer = &transaction.trees()?.bracket.writer;
        let table_units = self.core.space.lock().table_units();
        let Some(place) = writer.allocate_below(table_units, other_reach - 1)? else { return Ok(false) };
        writer.free(place, writer.birth())?;
        transaction.commit_unchanged = true;
        transaction.without_log = true;
        transaction.commit()?;
        self.is_changed = true;
        Ok(true)
    }
}

/// The length of a file in which so many units are allocated with next to no gaps.
fn packed_end(layout: &Layout, units: u64) -> u64 {
    let units = units + units / FREE_SHARE + FREE_UNITS_MIN;
    let usable = u64::from(layout.region_units() - layout.reserved_units());
    let (regions, rest) = (units / usable, units % usable);
    let start = u64::from(layout.header_units()) + regions * u64::from(layout.region_units());
    start + u64::from(layout.reserved_units()) + rest
}
