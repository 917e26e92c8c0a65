//! Applying many sorted changes in one pass from the first key to the last.
//!
//! Invariant: a leaf that no change touches stays as it is, and each change is applied once.
//! Layer 3 (btree).

use super::key::{KeyCell, inline_key_max};
use super::leaf::{self, Row, ValueCell};
use super::merge_edit::{Fit, LEAF_EDITS_MAX, out_of_order};
use super::merge_output::OldNode;
use super::node;
use super::pass::{LeafAt, Pass};
use super::tree::TreeMut;
use crate::base::error::{Result, StorageError};
use std::collections::VecDeque;

/// What becomes of the row with a key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change<'c> {
    pub(crate) key: &'c [u8],
    /// `None` removes the row.
    pub(crate) value: Option<&'c [u8]>,
}

/// So few changes altogether are applied one by one.
const SINGLE_CHANGES_MAX: usize = 16;

/// The changes to come, of which some are known already.
struct Changes<'c, I> {
    source: I,
    ahead: VecDeque<Change<'c>>,
    last_key: Option<&'c [u8]>,
}

impl<'c, I: Iterator<Item = Change<'c>>> Changes<'c, I> {
    fn new(source: I) -> Self {
        Self { source, ahead: VecDeque::new(), last_key: None }
    }

    /// Knows at least `count` changes ahead, or all.
    fn look_ahead(&mut self, count: usize) {
        while self.ahead.len() < count {
            let Some(change) = self.source.next() else { return };
            assert!(self.last_key.is_none_or(|last| last < change.key), "changes come in the order of their keys");
            self.last_key = Some(change.key);
            self.ahead.push_back(change);
        }
    }

    fn peek(&mut self) -> Option<Change<'c>> {
        self.look_ahead(1);
        self.ahead.front().copied()
    }

    /// The next change below `high`.
    fn peek_below(&mut self, high: Option<&[u8]>) -> Option<Change<'c>> {
        self.peek().filter(|change| high.is_none_or(|high| change.key < high))
    }

    fn skip(&mut self, count: usize) {
        self.ahead.drain(..count);
    }

    /// All changes below `high`, if they are few; they are not yet skipped.
    fn few_below(&mut self, high: Option<&[u8]>) -> Option<Vec<Change<'c>>> {
        self.look_ahead(LEAF_EDITS_MAX + 1);
        let below = self.ahead.iter().take_while(|change| high.is_none_or(|high| change.key < high));
        let few: Vec<_> = below.take(LEAF_EDITS_MAX + 1).copied().collect();
        (few.len() <= LEAF_EDITS_MAX).then_some(few)
    }
}
struct Merge<'t, 'c, I> {
    pass: Pass<'t>,
    changes: Changes<'c, I>,
}

impl TreeMut {
    /// Applies changes whose keys ascend strictly and whose sizes were checked.
    ///
    /// After an error the tree may be half changed: the transaction must be aborted.
    pub(crate) fn merge<'c>(&mut self, changes: impl Iterator<Item = Change<'c>>) -> Result<()> {
        let mut changes = Changes::new(changes);
        changes.look_ahead(SINGLE_CHANGES_MAX + 1);
        if changes.ahead.len() <= SINGLE_CHANGES_MAX {
            return changes.ahead.iter().try_for_each(|change| self.apply_single(change));
        }
        Merge { pass: Pass::new(self), changes }.run()
    }

    fn apply_single(&mut self, change: &Change<'_>) -> Result<()> {
        match change.value {
            Some(value) => self.insert(change.key, value).map(drop),
            None => self.remove(change.key).map(drop),
        }
    }

    pub(super) fn count_rows(&mut self, inserted: usize, removed: usize) -> Result<()> {
        let rows = self.root.rows.checked_add(inserted as u64).and_then(|rows| rows.checked_sub(removed as u64));
        self.root.rows =
            rows.ok_or_else(|| StorageError::corrupted("the tree does not count the rows that it holds"))?;
        Ok(())
    }
}
impl<'c, I: Iterator<Item = Change<'c>>> Merge<'_, 'c, I> {
    fn run(mut self) -> Result<()> {
        if self.pass.output.tree.root().height == 0 {
            self.fill_empty_tree()?;
        }
        while let Some(change) = self.changes.peek() {
            let leaf = self.pass.seek(change.key)?;
            self.merge_leaf(leaf)?;
        }
        self.pass.finish().map(drop)
    }

    fn fill_empty_tree(&mut self) -> Result<()> {
        while let Some(Change { value: None, .. }) = self.changes.peek() {
            self.changes.skip(1);
        }
        if self.changes.peek().is_none() {
            return Ok(());
        }
        self.pass.rebuild();
        self.pass.output.is_appending = true;
        let mut inserted = 0;
        while let Some(change) = self.changes.peek() {
            self.changes.skip(1);
            if let Some(value) = change.value {
                self.push_new(change.key, value)?;
                inserted += 1;
            }
        }
        self.pass.output.tree.count_rows(inserted, 0)
    }
    /// Applies the changes of one leaf, in place or by streaming its rows to the output.
    fn merge_leaf(&mut self, mut leaf: LeafAt) -> Result<()> {
        self.skip_idle_removals(&leaf)?;
        if let Some(few) = self.changes.few_below(leaf.bounds.high.as_deref()) {
            match self.pass.output.tree.edit_leaf(leaf.node.page, &mut leaf.node.bytes, &few)? {
                Fit::Rebuild => {}
                fit => {
                    self.changes.skip(few.len());
                    return self.pass.keep(leaf, matches!(fit, Fit::Edited));
                }
            }
        }
        self.pass.open()?;
        self.stream_leaf(&leaf.node, leaf.bounds.high.as_deref())?;
        self.pass.close(&leaf)
    }

    /// Skips the next changes as far as they remove rows that are not there: a leaf with no others stays as it is.
    fn skip_idle_removals(&mut self, leaf: &LeafAt) -> Result<()> {
        while let Some(Change { key, value: None }) = self.changes.peek_below(leaf.bounds.high.as_deref()) {
            if leaf::search(&leaf.node.bytes, key, &&*self.pass.output.tree)?.is_ok() {
                break;
            }
            self.changes.skip(1);
        }
        Ok(())
    }

    /// Sends the rows of a leaf to the output, together with the changes below `high`.
    fn stream_leaf(&mut self, node: &OldNode, high: Option<&[u8]>) -> Result<()> {
        let (old, count) = (&node.bytes[..], node::count(&node.bytes));
        let (mut next, mut inserted) = (0, 0);
        // Searches may still compare with a row that is removed.
        let (mut removed, mut rests) = (0, Vec::new());
        while let Some(change) = self.changes.peek_below(high) {
            self.changes.skip(1);
            let found =
                if next < count { leaf::search(old, change.key, &&*self.pass.output.tree)? } else { Err(count) };
            let at = found.unwrap_or_else(|at| at);
            if at < next {
                return Err(out_of_order());
            }
            self.push_old(old, next, at)?;
            next = at + usize::from(found.is_ok());
            // Behind the last row of the tree nothing follows but what is new.
            self.pass.output.is_appending = high.is_none() && next == count;
            match (found, change.value) {
                (Err(_), None) => {}
                (Err(_), Some(value)) => {
                    self.push_new(change.key, value)?;
                    inserted += 1;
                }
                (Ok(at), value) => {
                    let row = leaf::row(old, at);
                    self.pass.output.tree.free_value(&row.value)?;
                    if let Some(value) = value {
                        let value = self.pass.output.tree.make_value(change.key, value)?;
                        self.pass.output.push_row(&Row { key: row.key, value: value.cell() })?;
                    } else {
                        rests.extend(row.key.rest.copied());
                        removed += 1;
                    }
                }
            }
        }
        self.push_old(old, next, count)?;
        for rest in rests {
            self.pass.output.tree.free_extent(&rest)?;
        }
        self.pass.output.tree.count_rows(inserted, removed)
    }

    fn push_old(&mut self, old: &[u8], from: usize, to: usize) -> Result<()> {
        (from..to).try_for_each(|index| self.pass.output.push_row(&leaf::row(old, index)))
    }

    fn push_new(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let tree = &mut *self.pass.output.tree;
        let most = inline_key_max(tree.node_bytes());
        if key.len() <= most && tree.is_value_inline(key, value) {
            return self.pass.output.push_row(&Row { key: KeyCell::inline(key), value: ValueCell::Inline(value) });
        }
        let (value, key) = (tree.make_value(key, value)?, tree.make_key(key)?);
        self.pass.output.push_row(&Row { key: key.cell(), value: value.cell() })
    }
}
