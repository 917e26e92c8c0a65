//! Applying many sorted changes in one pass from the first key to the last.
//!
//! Invariant: a node that no change touches is neither copied nor, unless a small neighbour asks for it, read; a branch
//! is taken apart only where one of its children is not replaced by exactly one other.
//! Layer 3 (btree).

use super::branch::{self, Child};
use super::insert::NodeKey;
use super::key::{KeyCell, inline_key_max};
use super::leaf::{self, Row, ValueCell};
use super::merge_edit::{Fit, out_of_order};
use super::merge_output::{OldNode, Output};
use super::node;
use super::rebalance::check_order;
use super::tree::{TreeMut, root_expected};
use crate::base::error::{Result, StorageError};
use crate::base::ids::TransactionId;
use crate::pages::store::Expected;
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

/// Up to so many changes of one leaf are tried where its rows stand, instead of packing it anew.
const LEAF_EDITS_MAX: usize = 6;

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

/// The keys that a subtree may hold.
#[derive(Debug, Clone, Default)]
struct Bounds {
    low: Option<Vec<u8>>,
    high: Option<Vec<u8>>,
}

impl Bounds {
    /// Refuses a node whose outermost keys stand outside, as far as they are inline: a node over keys out of order
    /// could not be built.
    fn check(&self, node: &OldNode, first: Option<KeyCell<'_>>, last: Option<KeyCell<'_>>) -> Result<()> {
        let most = inline_key_max(node.bytes.len());
        let cell =
            |key: &Option<Vec<u8>>| -> Option<Vec<u8>> { key.as_ref().map(|key| key[..key.len().min(most)].into()) };
        let (low, high) = (cell(&self.low), cell(&self.high));
        check_order(node.page, low.as_deref().map(KeyCell::inline), first)?;
        check_order(node.page, last, high.as_deref().map(KeyCell::inline))
    }
}

/// A branch on the way to the leaf that is being changed.
struct Frame {
    node: OldNode,
    level: u8,
    bounds: Bounds,
    /// Children before this one are done.
    next: usize,
    /// The branch was taken apart: its children go to the output one by one.
    is_open: bool,
    is_edited: bool,
}

struct Merge<'t, 'c, I> {
    output: Output<'t>,
    changes: Changes<'c, I>,
    /// From the root down.
    frames: Vec<Frame>,
    /// The tree was taken apart from the root on.
    is_rebuilt: bool,
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
        let mut merge = Merge { output: Output::new(self), changes, frames: Vec::new(), is_rebuilt: false };
        merge.run()?;
        if merge.is_rebuilt { merge.output.finish() } else { merge.output.finish_intact() }
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
    fn run(&mut self) -> Result<()> {
        let root = *self.output.tree.root();
        if root.height == 0 {
            return self.fill_empty_tree();
        }
        let node = self.output.take_node(root.page, root_expected(&root), root.height)?;
        if root.height == 1 {
            return self.merge_leaf(node, &Bounds::default());
        }
        self.enter(node, root.height, Bounds::default())?;
        while let Some(change) = self.changes.peek() {
            let Some(top) = self.frames.last() else { return Err(out_of_order()) };
            if top.bounds.high.as_ref().is_some_and(|high| change.key >= &high[..]) {
                self.leave()?;
                continue;
            }
            self.descend(change.key)?;
        }
        while !self.frames.is_empty() {
            self.leave()?;
        }
        Ok(())
    }

    fn fill_empty_tree(&mut self) -> Result<()> {
        self.is_rebuilt = true;
        self.output.is_appending = true;
        let mut inserted = 0;
        while let Some(change) = self.changes.peek() {
            self.changes.skip(1);
            if let Some(value) = change.value {
                self.push_new(change.key, value)?;
                inserted += 1;
            }
        }
        self.output.tree.count_rows(inserted, 0)
    }

    /// Begins a branch.
    fn enter(&mut self, node: OldNode, level: u8, bounds: Bounds) -> Result<()> {
        let count = node::count(&node.bytes);
        let first = (count > 0).then(|| branch::separator(&node.bytes, 0));
        let last = (count > 0).then(|| branch::separator(&node.bytes, count - 1));
        bounds.check(&node, first, last)?;
        self.frames.push(Frame { node, level, bounds, next: 0, is_open: false, is_edited: false });
        Ok(())
    }

    /// Goes to the child of the innermost branch that a key belongs to.
    fn descend(&mut self, key: &[u8]) -> Result<()> {
        let Some(top) = self.frames.last() else { return Err(out_of_order()) };
        let (bytes, tree) = (&top.node.bytes, &*self.output.tree);
        // The rests of separators that were handed on may be gone by now.
        let index = branch::search_from(bytes, top.next, key, &tree)?;
        if index < top.next {
            return Err(out_of_order());
        }
        let low =
            if index > 0 { Some(branch::separator(bytes, index - 1).to_vec(&tree)?) } else { top.bounds.low.clone() };
        let high = if index < node::count(bytes) {
            Some(branch::separator(bytes, index).to_vec(&tree)?)
        } else {
            top.bounds.high.clone()
        };
        if high.as_ref().is_some_and(|high| key >= &high[..]) {
            return Err(out_of_order());
        }
        let (child, level) = (branch::child(bytes, index), top.level - 1);
        self.pass(self.frames.len() - 1, index)?;
        let node = self.output.take_node(child.page, Expected::Child(child.sum), level)?;
        let bounds = Bounds { low, high };
        if level > 1 { self.enter(node, level, bounds) } else { self.merge_leaf(node, &bounds) }
    }

    /// Is done with the children before `index`: gives them to the output if the branch is taken apart.
    fn pass(&mut self, depth: usize, index: usize) -> Result<()> {
        let Some(frame) = self.frames.get(depth) else { return Ok(()) };
        let from = frame.next;
        if frame.is_open {
            self.push_children(depth, from, index)?;
        }
        self.frames[depth].next = index;
        Ok(())
    }

    fn push_children(&mut self, depth: usize, from: usize, to: usize) -> Result<()> {
        for index in from..to {
            let low = self.low_of(depth, index);
            let frame = &self.frames[depth];
            self.output.push_child(frame.level - 1, branch::child(&frame.node.bytes, index), low)?;
        }
        Ok(())
    }

    /// The separator in front of a child; `None` only in front of the whole tree.
    fn low_of(&self, depth: usize, index: usize) -> Option<NodeKey> {
        let mut index = index;
        for depth in (0..=depth).rev() {
            if index > 0 {
                return Some(NodeKey::of(&branch::separator(&self.frames[depth].node.bytes, index - 1)));
            }
            // A first child has in front of it what its parent has, which is the next child of the branch above.
            index = depth.checked_sub(1).map_or(0, |above| self.frames[above].next);
        }
        None
    }

    /// Takes the branches on the way apart, down to the innermost.
    fn open_all(&mut self) -> Result<()> {
        self.is_rebuilt = true;
        for depth in 0..self.frames.len() {
            if !self.frames[depth].is_open {
                self.push_children(depth, 0, self.frames[depth].next)?;
                let frame = &mut self.frames[depth];
                frame.is_open = true;
                let (page, birth, is_dirty) = (frame.node.page, frame.node.birth, frame.node.is_dirty);
                self.output.free_taken(page, birth, is_dirty)?;
            }
        }
        Ok(())
    }

    /// Ends the innermost branch.
    fn leave(&mut self) -> Result<()> {
        let Some(top) = self.frames.last() else { return Ok(()) };
        let depth = self.frames.len() - 1;
        if top.is_open {
            self.pass(depth, node::count(&self.frames[depth].node.bytes) + 1)?;
            self.frames.pop();
            if let Some(parent) = self.frames.last_mut() {
                parent.next += 1;
            }
            return Ok(());
        }
        let Some(Frame { node, is_edited, .. }) = self.frames.pop() else { return Ok(()) };
        self.replace_child(node, is_edited)
    }

    /// Gives a node back that stays one node to the branch above it, or makes it the root.
    fn replace_child(&mut self, node: OldNode, is_edited: bool) -> Result<()> {
        let level = node::level(&node.bytes);
        let child = if node.is_dirty {
            let page = node.page;
            self.output.put_back(node);
            Some(Child { page, sum: 0 })
        } else if is_edited {
            Some(self.finish_copy(node)?)
        } else {
            None
        };
        let Some(frame) = self.frames.last_mut() else {
            if let Some(child) = child {
                self.output.tree.set_root(child.page, level);
            }
            return Ok(());
        };
        if let Some(child) = child {
            let unchanged = branch::child(&frame.node.bytes, frame.next) == child;
            if !unchanged {
                branch::set_child(&mut frame.node.bytes, frame.next, child);
                frame.is_edited = true;
            }
        }
        let next = frame.next + 1;
        self.pass(self.frames.len() - 1, next)
    }

    /// Makes the edited copy of a written node a node of its own and frees the original.
    fn finish_copy(&mut self, node: OldNode) -> Result<Child> {
        let OldNode { page, birth, mut bytes, .. } = node;
        let new = self.output.allocate_page()?;
        if new == page {
            return Err(StorageError::corrupted_page(page, "the page is reached, but recorded as free"));
        }
        self.output.free_taken(page, birth, false)?;
        node::set_birth(&mut bytes, self.birth());
        if self.frames.is_empty() {
            // The root stays dirty up to the commit.
            return Ok(self.output.keep_node(new, bytes));
        }
        self.output.finish_node(new, bytes)
    }

    fn birth(&self) -> TransactionId {
        self.output.tree.writer.birth()
    }

    /// Applies the changes of one leaf, in place or by streaming its rows to the output.
    fn merge_leaf(&mut self, mut node: OldNode, bounds: &Bounds) -> Result<()> {
        let count = node::count(&node.bytes);
        let last = count.checked_sub(1).ok_or_else(out_of_order)?;
        bounds.check(&node, Some(leaf::row(&node.bytes, 0).key), Some(leaf::row(&node.bytes, last).key))?;
        if let Some(few) = self.changes.few_below(bounds.high.as_deref()) {
            match self.output.tree.edit_leaf(&mut node.bytes, &few)? {
                Fit::Rebuild => {}
                fit => {
                    self.changes.skip(few.len());
                    let is_edited = matches!(fit, Fit::Edited);
                    self.output.tree.changed |= is_edited;
                    return self.replace_child(node, is_edited);
                }
            }
        }
        self.open_all()?;
        self.stream_leaf(&node, bounds.high.as_deref())?;
        if let Some(frame) = self.frames.last_mut() {
            frame.next += 1;
        }
        self.output.free_taken(node.page, node.birth, node.is_dirty)
    }

    /// Sends the rows of a leaf to the output, together with the changes below `high`.
    fn stream_leaf(&mut self, node: &OldNode, high: Option<&[u8]>) -> Result<()> {
        let low = self.frames.len().checked_sub(1).and_then(|depth| self.low_of(depth, self.frames[depth].next));
        self.output.begin_rows(low)?;
        let (old, count) = (&node.bytes[..], node::count(&node.bytes));
        let (mut next, mut inserted) = (0, 0);
        // Searches may still compare with a row that is removed.
        let (mut removed, mut rests) = (0, Vec::new());
        while let Some(change) = self.changes.peek_below(high) {
            self.changes.skip(1);
            let found = if next < count { leaf::search(old, change.key, &&*self.output.tree)? } else { Err(count) };
            let at = found.unwrap_or_else(|at| at);
            if at < next {
                return Err(out_of_order());
            }
            self.push_old(old, next, at)?;
            next = at + usize::from(found.is_ok());
            // Behind the last row of the tree nothing follows but what is new.
            self.output.is_appending = high.is_none() && next == count;
            match (found, change.value) {
                (Err(_), None) => {}
                (Err(_), Some(value)) => {
                    self.push_new(change.key, value)?;
                    inserted += 1;
                }
                (Ok(at), value) => {
                    let row = leaf::row(old, at);
                    self.output.tree.free_value(&row.value)?;
                    if let Some(value) = value {
                        let value = self.output.tree.make_value(change.key, value)?;
                        self.output.push_row(&Row { key: row.key, value: value.cell() })?;
                    } else {
                        rests.extend(row.key.rest.copied());
                        removed += 1;
                    }
                }
            }
        }
        self.push_old(old, next, count)?;
        for rest in rests {
            self.output.tree.free_extent(&rest)?;
        }
        self.output.tree.count_rows(inserted, removed)
    }

    fn push_old(&mut self, old: &[u8], from: usize, to: usize) -> Result<()> {
        (from..to).try_for_each(|index| self.output.push_row(&leaf::row(old, index)))
    }

    fn push_new(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let tree = &mut *self.output.tree;
        let most = inline_key_max(tree.node_bytes());
        if key.len() <= most && tree.is_value_inline(key, value) {
            return self.output.push_row(&Row { key: KeyCell::inline(key), value: ValueCell::Inline(value) });
        }
        let (value, key) = (tree.make_value(key, value)?, tree.make_key(key)?);
        self.output.push_row(&Row { key: key.cell(), value: value.cell() })
    }
}
