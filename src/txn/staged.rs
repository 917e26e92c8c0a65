//! A table while a write transaction has it: laid over the version that the transaction began on, or as a tree of its own.
//!
//! Invariant: small changes are kept beside the tree and recorded for the log. Once a table is a tree of the transaction, that
//! tree holds all that was laid over the table before.
//! Layer 5 (txn).

use crate::base::error::{Result, StorageError};
use crate::btree::buffered::BufferedTree;
use crate::btree::merge;
use crate::btree::overlaid::OverlaidTree;
use crate::btree::redo::{Redo, RedoEnd};
use crate::btree::tree::TreeMut;
use crate::catalog::record::TableRecord;
use crate::delta::layers::TableDelta;
use crate::delta::map::Map;
use crate::pages::version::Version;

/// A table that the transaction has touched.
#[derive(Debug)]
pub(super) enum Staged {
    /// Open in a handle.
    Open,
    /// Closed again, with what changed.
    Closed(Box<ClosedTable>),
}

impl Staged {
    /// The id of a closed table with changes of the transaction laid over it, and those.
    pub(super) fn own_changes(&self) -> Option<(u64, &OverlaidRows)> {
        match self {
            Self::Closed(closed) => match &closed.rows {
                ClosedRows::Overlaid(rows) => rows.is_changed().then_some((closed.record.id, rows)),
                ClosedRows::InTree(_) => None,
            },
            Self::Open => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct ClosedTable {
    pub(super) record: TableRecord,
    pub(super) rows: ClosedRows,
}

#[derive(Debug)]
pub(super) enum ClosedRows {
    Overlaid(OverlaidRows),
    InTree(TreeMut),
}

/// A table while a handle has it: taken from the transaction, given back by `WriteTransaction::check_in`.
#[derive(Debug)]
pub(crate) struct CheckedOut {
    pub(crate) name: String,
    pub(super) record: TableRecord,
    pub(crate) rows: OpenRows,
}

/// Where the rows of an open table are.
#[derive(Debug)]
pub(crate) enum OpenRows {
    Overlaid(OverlaidRows),
    InTree(BufferedTree),
}

/// A table of the version that the transaction began on, with the changes of the transaction laid over it.
#[derive(Debug)]
pub(crate) struct OverlaidRows {
    pub(crate) tree: OverlaidTree,
    pub(super) redo: Redo,
}

/// What a transaction had laid over a table, and recorded.
#[derive(Debug)]
pub(super) struct RowsMark {
    delta: TableDelta,
    recorded: RedoEnd,
}

impl OverlaidRows {
    pub(super) fn new(tree: OverlaidTree) -> Self {
        Self { tree, redo: Redo::default() }
    }

    /// Whether it takes no look at the tree to know that a key has no row.
    pub(super) fn has_nothing_at(&self, key: &[u8]) -> bool {
        match self.tree.delta.get(key) {
            Some(change) => change.value().is_none(),
            None => self.tree.root.height == 0,
        }
    }

    /// What the table lays over the lower layer and the trees of a version: those of the one that the transaction began on, as
    /// far as no checkpoint ended since.
    pub(super) fn upper_layer(&self, head: &Version) -> Map {
        let TableDelta { active, frozen, .. } = &self.tree.delta;
        let is_folded = head.trees.made != self.tree.pages.version().trees.made;
        // Where the checkpoint failed, what it was to fold is in the upper layer again.
        let is_collapsed = !is_folded && head.delta.frozen.is_empty() && !frozen.is_empty();
        if is_collapsed { self.tree.delta.collapsed() } else { active.clone() }
    }

    pub(super) fn is_changed(&self) -> bool {
        self.redo.count() > 0
    }

    /// How far the transaction has come with the table.
    pub(super) fn mark(&self) -> RowsMark {
        RowsMark { delta: self.tree.delta.clone(), recorded: self.redo.end() }
    }

    /// Undoes what was done since.
    pub(super) fn roll_back_to(&mut self, mark: RowsMark) {
        self.tree.delta = mark.delta;
        self.redo.truncate(mark.recorded);
    }

    /// Gives a key a value, or removes its row. `had_row` says whether there is one, where that is known.
    pub(super) fn put(&mut self, key: &[u8], value: Option<&[u8]>, had_row: Option<bool>) {
        self.tree.delta.put(key, value, had_row);
        self.redo.record(key, value);
    }
}

impl CheckedOut {
    /// The tree of a table that is one by now.
    pub(crate) fn tree_mut(&mut self) -> Result<&mut BufferedTree> {
        match &mut self.rows {
            OpenRows::InTree(tree) => Ok(tree),
            OpenRows::Overlaid(_) => Err(StorageError::TransactionPoisoned),
        }
    }
}

/// Brings changes into a tree. Their sizes were checked when they were made.
pub(super) fn merge(tree: &mut TreeMut, delta: &TableDelta) -> Result<()> {
    tree.merge(delta.changes().map(|row| merge::Change { key: row.key(), value: row.value() }))
}
