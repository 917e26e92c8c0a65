//! The rows of the table: what is run on a store, and how many operations that is.

use crate::Result;
use crate::data::{self, Key, Row};
use crate::engine::{Digest, Engine};
use fastrand::Rng;

/// Rows that a range read returns.
const RANGE_ROWS: usize = 10;

/// One kind of work. They run in the order of [`Workload::ALL`], on what the earlier ones left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Workload {
    BulkLoad,
    RandomReads,
    RangeReads,
    SingleDurableWrites,
    Batches,
    Removals,
}

impl Workload {
    pub(crate) const ALL: [Workload; 6] =
        [Self::BulkLoad, Self::RandomReads, Self::RangeReads, Self::SingleDurableWrites, Self::Batches, Self::Removals];

    /// Name in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::BulkLoad => "bulk load",
            Self::RandomReads => "random reads",
            Self::RangeReads => "range reads",
            Self::SingleDurableWrites => "single durable writes",
            Self::Batches => "batches",
            Self::Removals => "removals",
        }
    }
}

/// Everything that one round feeds to each store.
#[derive(Debug)]
pub(crate) struct Round {
    load: Vec<Row>,
    reads: Vec<Key>,
    ranges: Vec<Key>,
    singles: Vec<Row>,
    batches: Vec<Row>,
    batch_rows: usize,
    removals: Vec<Key>,
}

impl Round {
    /// As many reads as rows, a tenth as many ranges, half of the rows removed; few enough commits that a slow disk
    /// does not decide how long a round takes.
    pub(crate) fn new(row_count: usize, rng: &mut Rng) -> Self {
        let load = data::rows(row_count, rng);
        let batch_rows = (row_count / 100).clamp(10, 1000);
        let mut removals: Vec<Key> = load.iter().map(|row| row.key).collect();
        rng.shuffle(&mut removals);
        removals.truncate(row_count / 2);
        Self {
            reads: data::pick_keys(&load, row_count, rng),
            ranges: data::pick_keys(&load, row_count.div_ceil(10), rng),
            singles: data::rows((row_count / 500).clamp(10, 1000), rng),
            batches: data::rows(batch_rows * (row_count / 10_000).clamp(2, 100), rng),
            batch_rows,
            removals,
            load,
        }
    }

    /// Runs one workload; what it read must be the same for every store.
    pub(crate) fn run(&self, workload: Workload, engine: &mut dyn Engine) -> Result<Digest> {
        match workload {
            Workload::BulkLoad => engine.insert(&self.load)?,
            Workload::RandomReads => return engine.read(&self.reads),
            Workload::RangeReads => return engine.scan(&self.ranges, RANGE_ROWS),
            Workload::SingleDurableWrites => self.singles.chunks(1).try_for_each(|row| engine.insert(row))?,
            Workload::Batches => self.batches.chunks(self.batch_rows).try_for_each(|rows| engine.insert(rows))?,
            Workload::Removals => return engine.remove(&self.removals),
        }
        Ok(Digest::default())
    }

    /// Number of operations that a rate counts: rows, range reads or commits of one row.
    pub(crate) fn operations(&self, workload: Workload) -> usize {
        match workload {
            Workload::BulkLoad => self.load.len(),
            Workload::RandomReads => self.reads.len(),
            Workload::RangeReads => self.ranges.len(),
            Workload::SingleDurableWrites => self.singles.len(),
            Workload::Batches => self.batches.len(),
            Workload::Removals => self.removals.len(),
        }
    }

    /// Rows that a correct store finds; `None` where the work finds nothing or the number depends on the keys.
    pub(crate) fn rows_found(&self, workload: Workload) -> Option<usize> {
        match workload {
            Workload::RandomReads => Some(self.reads.len()),
            Workload::Removals => Some(self.removals.len()),
            _ => None,
        }
    }
}
