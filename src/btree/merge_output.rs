//! The nodes that a merge builds, from the leaves up, as rows and untouched subtrees arrive in key order.
//!
//! Invariant: on every level at most one node is under construction, and whatever stands on a lower level belongs
//! behind all that was handed to a higher one. Nodes wait to be written early only while nothing reads or frees them.
//! Layer 3 (btree).

use super::branch::{self, Child};
use super::build::{Fences, Rows, prefix_len};
use super::insert::{NodeKey, separator};
use super::key::KeyCell;
use super::leaf::Row;
use super::merge_rows::PendingRows;
use super::node::{self, HEADER_BYTES};
use super::rebalance::{FILL_PERCENT_MAX, FILL_PERCENT_MIN, check_order, used_bytes};
use super::tree::{Pages, TreeMut};
use crate::base::checksum;
use crate::base::error::{Result, StorageError};
use crate::base::ids::{PageId, Run, TransactionId, TreeRoot};
use crate::pages::behind::Sealed;
use crate::pages::extent::EXTENT_BYTES;
use crate::pages::store::{Expected, child_sum};

/// A node is given out once more than this stands by for it, so that what is left is enough for another one.
const READY_PERCENT: usize = 140;

/// Nodes that are written early are written together once they are this long.
const RUN_BYTES: usize = 1 << 20;

/// From so many dirty bytes on nodes are written early that nothing more is expected to change.
const FINAL_BYTES_MAX: usize = 16 << 20;

/// A pass that replaces more nodes than this gives up the memory of the others as it goes: only readers of older versions
/// can want them, and new nodes that take it need not be given fresh memory by the system.
const REPLACED_KEPT_MAX: usize = 1024;

/// Out-of-line bytes are written early once there are so many of them.
const EXTENTS_MAX: usize = 64;

/// A child of the branch under construction and the separator in front of it; the first of a level has none.
#[derive(Debug)]
struct Entry {
    low: Option<NodeKey>,
    child: Child,
}

impl Entry {
    fn separator(&self) -> KeyCell<'_> {
        self.low.as_ref().expect("only the first child of a tree has nothing in front of it").cell()
    }

    /// Bytes that the entry takes in a branch without a prefix, unless it is the first.
    fn bytes(&self) -> usize {
        branch::entry_bytes(&self.separator(), 0) + branch::SEPARATOR_OVERHEAD_BYTES
    }
}

/// The branch under construction on one level.
#[derive(Debug, Default)]
struct Level {
    entries: Vec<Entry>,
    /// Bytes of all entries but the first, without a prefix.
    bytes: usize,
}

impl Level {
    fn push(&mut self, entry: Entry) {
        if !self.entries.is_empty() {
            self.bytes += entry.bytes();
        }
        self.entries.push(entry);
    }

    fn pop(&mut self) -> Option<Entry> {
        let entry = self.entries.pop()?;
        if !self.entries.is_empty() {
            self.bytes -= entry.bytes();
        }
        Some(entry)
    }

    fn branch_bytes(&self) -> usize {
        let bytes = branch::LONE_CHILD_BYTES + self.bytes;
        let separators = self.entries.len().saturating_sub(1);
        if separators < 2 {
            return bytes;
        }
        let prefix = prefix_len(&self.entries[1].separator(), &self.entries[separators].separator(), separators);
        bytes + prefix - separators * prefix
    }

    fn fences(&self) -> Fences<'_> {
        Fences {
            separators: self.entries[1..].iter().map(Entry::separator).collect(),
            children: self.entries.iter().map(|entry| entry.child).collect(),
        }
    }

    fn drop_front(&mut self, count: usize) {
        self.entries.drain(..count);
        self.bytes = self.entries.iter().skip(1).map(Entry::bytes).sum();
    }
}

/// What a merge has built so far.
pub(super) struct Output<'t> {
    pub(super) tree: &'t mut TreeMut,
    rows: PendingRows,
    /// The separator in front of the pending rows; kept while there are none yet.
    rows_low: Option<NodeKey>,
    /// Level `n + 2` at index `n`.
    levels: Vec<Level>,
    /// Everything that follows is behind the last row of the old tree: leaves can be full.
    pub(super) is_appending: bool,
    /// Each leaf is built once from rows that were there before.
    pub(super) is_sweep: bool,
    /// Something was handed to a level, so what comes next is not the first of the tree.
    started: bool,
    /// A new source of rows begins: the next row is compared with the last.
    is_order_open: bool,
    /// The transaction had too many dirty pages: from then on finished nodes are written soon.
    early: bool,
    /// What is finished from here on is at the edge of the tree, and changes when something follows.
    is_ending: bool,
    /// Sealed nodes that wait for a long run.
    queue: Vec<Sealed>,
    /// Nodes of the old tree that were given back.
    replaced: usize,
}

impl<'t> Output<'t> {
    pub(super) fn new(tree: &'t mut TreeMut) -> Self {
        tree.finger = None;
        Self {
            tree,
            rows: PendingRows::default(),
            rows_low: None,
            levels: Vec::new(),
            is_appending: false,
            is_sweep: false,
            started: false,
            is_order_open: true,
            early: false,
            is_ending: false,
            queue: Vec::new(),
            replaced: 0,
        }
    }

    /// A copy of a node: of a dirty one the only copy, which leaves the tree's dirty nodes but not their count.
    pub(super) fn take_node(&mut self, page: PageId, expected: Expected, level: u8) -> Result<OldNode> {
        self.write_queued(page)?;
        let node = (&*self.tree).node(page, expected, level)?;
        let birth = node::birth(&node);
        if is_dirty(expected) {
            drop(node);
            let bytes = self.tree.dirty.remove(&page).expect("the node was just found dirty");
            return Ok(OldNode { page, birth, bytes, is_dirty: true });
        }
        let bytes = Box::from(&*node);
        Ok(OldNode { page, birth, bytes, is_dirty: false })
    }

    /// Puts a node back that was taken and not freed, changed or not.
    pub(super) fn put_back(&mut self, node: OldNode) {
        if node.is_dirty {
            self.tree.dirty.insert(node.page, node.bytes);
        }
    }

    /// Gives back a node that was taken.
    pub(super) fn free_taken(&mut self, page: PageId, birth: TransactionId, was_dirty: bool) -> Result<()> {
        if was_dirty {
            let bytes = self.tree.node_bytes();
            self.tree.count_dirty(0, bytes);
        } else if self.tree.dirty.contains_key(&page) {
            // As where a node is copied: a bitmap that records a reached page as free.
            return Err(StorageError::corrupted_page(page, "the page is reached, but recorded as free"));
        }
        self.write_queued(page)?;
        let run = Run::new(page, self.tree.writer.layout().node_units());
        self.tree.writer.free(run, birth)?;
        self.replaced += 1;
        if self.replaced > REPLACED_KEPT_MAX {
            self.tree.writer.store().forget(run);
        }
        Ok(())
    }

    pub(super) fn allocate_page(&mut self) -> Result<PageId> {
        let layout = *self.tree.writer.layout();
        Ok(self.tree.writer.allocate(layout.node_units())?.page)
    }

    /// Makes a node dirty that must stay so.
    pub(super) fn keep_node(&mut self, page: PageId, bytes: Box<[u8]>) -> Child {
        self.tree.count_dirty(bytes.len(), 0);
        self.tree.dirty.insert(page, bytes);
        Child { page, sum: 0 }
    }

    /// Makes a whole node part of the tree: dirty, or sealed to be written soon.
    pub(super) fn finish_node(&mut self, page: PageId, mut bytes: Box<[u8]>) -> Result<Child> {
        let is_final = (self.is_appending || self.is_sweep)
            && self.tree.dirty_bytes() > FINAL_BYTES_MAX
            && !self.tree.writer.store().is_silent();
        self.early = self.early || is_final || self.tree.writer.exceeds_budget();
        if !self.early || self.is_ending {
            return Ok(self.keep_node(page, bytes));
        }
        if node::kind(&bytes) == node::KIND_BRANCH {
            for index in 0..=node::count(&bytes) {
                let child = branch::child(&bytes, index);
                if child.sum == 0 {
                    let sum = self.tree.seal_subtree(child.page, &mut self.queue)?;
                    branch::set_child(&mut bytes, index, Child { page: child.page, sum });
                }
            }
        }
        let sum = child_sum(&bytes);
        let level = Some(node::level(&bytes));
        self.queue.push(Sealed { page, bytes, level });
        if self.queue.len() * self.tree.node_bytes() >= RUN_BYTES || self.tree.extents.len() >= EXTENTS_MAX {
            self.write_queue()?;
        }
        Ok(Child { page, sum })
    }

    fn write_queue(&mut self) -> Result<()> {
        if self.early {
            // Out-of-line bytes stay readable in the tree up to here.
            self.tree.seal_extents(&mut self.queue);
        }
        self.tree.writer.write_soon(std::mem::take(&mut self.queue))
    }

    /// Writes what waits where the page is part of it, before it is read or given back.
    fn write_queued(&mut self, page: PageId) -> Result<()> {
        if self.queue.iter().any(|sealed| sealed.page == page) { self.write_queue() } else { Ok(()) }
    }

    pub(super) fn free_rest(&mut self, rest: Option<[u8; EXTENT_BYTES]>) -> Result<()> {
        rest.map_or(Ok(()), |rest| self.tree.free_extent(&rest))
    }

    fn drop_key(&mut self, key: Option<NodeKey>) -> Result<()> {
        self.free_rest(key.and_then(|key| key.rest))
    }

    /// Begins the rows of another leaf, which has `low` in front of it.
    pub(super) fn begin_rows(&mut self, low: Option<NodeKey>) -> Result<()> {
        self.is_order_open = true;
        let unused = if self.rows.is_empty() { std::mem::replace(&mut self.rows_low, low) } else { low };
        self.drop_key(unused)
    }

    pub(super) fn push_row(&mut self, row: &Row<'_>) -> Result<()> {
        if self.is_order_open {
            check_order(self.tree.root.page, self.rows.last().map(|last| last.key), Some(row.key))?;
            self.is_order_open = false;
        }
        self.rows.push(row);
        self.emit_full_leaves()
    }

    /// Whether rows wait for a leaf that would hold one more behind them.
    pub(super) fn takes(&mut self, row: &Row<'_>) -> bool {
        !self.rows.is_empty() && self.rows.would_fit(row, self.tree.node_bytes())
    }

    /// The rows that wait for a leaf.
    pub(super) fn waiting(&self) -> impl Iterator<Item = Row<'_>> {
        (0..self.rows.len()).map(|index| self.rows.row(index))
    }

    /// Until how many bytes stand by, and how many of them a node then gets.
    fn limits(&self) -> (usize, usize) {
        let node_bytes = self.tree.node_bytes();
        if self.is_appending {
            return (node_bytes, node_bytes);
        }
        (node_bytes * READY_PERCENT / 100, node_bytes * FILL_PERCENT_MAX / 100)
    }

    fn emit_full_leaves(&mut self) -> Result<()> {
        let (ready, target) = self.limits();
        while self.rows.leaf_bytes_bound() > ready && self.rows.leaf_bytes() > ready {
            self.emit_leaf(|rows| partition_point(rows.len() - 1, |count| rows.leaf_bytes(0, count) <= target).max(1))?;
        }
        Ok(())
    }

    /// Builds a leaf of the first pending rows, of as many as `choose` says.
    fn emit_leaf(&mut self, choose: impl FnOnce(&Rows<'_>) -> usize) -> Result<()> {
        let mut bytes = self.tree.blank_node();
        let rows: Rows<'_> = self.rows.rows();
        let count = choose(&rows);
        rows.build(0, count, &mut bytes, self.tree.writer.birth());
        let next_low = if count < rows.len() {
            Some(separator(&rows.get(count - 1).key, &rows.get(count).key, &*self.tree)?)
        } else {
            None
        };
        let next_low = next_low.map(|key| self.tree.make_key(&key)).transpose()?;
        self.rows.drop_front(count);
        let low = std::mem::replace(&mut self.rows_low, next_low);
        let page = self.allocate_page()?;
        let child = self.finish_node(page, bytes)?;
        self.push_entry(2, Entry { low, child })
    }

    fn level(&mut self, level: u8) -> &mut Level {
        let index = usize::from(level) - 2;
        while self.levels.len() <= index {
            self.levels.push(Level::default());
        }
        &mut self.levels[index]
    }

    fn push_entry(&mut self, level: u8, mut entry: Entry) -> Result<()> {
        if !self.started {
            self.started = true;
            let low = entry.low.take();
            self.drop_key(low)?;
        }
        let page = entry.child.page;
        let pending = self.level(level);
        let before = pending.entries.last().and_then(|last| last.low.as_ref()).map(NodeKey::cell);
        check_order(page, before, entry.low.as_ref().map(NodeKey::cell))?;
        pending.push(entry);
        self.emit_full_branches(level)
    }

    fn emit_full_branches(&mut self, level: u8) -> Result<()> {
        let (ready, target) = self.limits();
        loop {
            let pending = self.level(level);
            if branch::LONE_CHILD_BYTES + pending.bytes <= ready || pending.branch_bytes() <= ready {
                return Ok(());
            }
            let fences = pending.fences();
            // What is left has a separator, too.
            let fitting = partition_point(fences.separators.len() - 2, |count| fences.branch_bytes(0, count) <= target);
            self.emit_branch(level, fitting + 1)?;
        }
    }

    /// Builds a branch of the first pending children.
    fn emit_branch(&mut self, level: u8, count: usize) -> Result<()> {
        let birth = self.tree.writer.birth();
        let mut bytes = self.tree.blank_node();
        let pending = self.level(level);
        pending.fences().build(0, count - 1, &mut bytes, level, birth);
        let low = pending.entries[0].low.take();
        pending.drop_front(count);
        let page = self.allocate_page()?;
        let child = self.finish_node(page, bytes)?;
        self.push_entry(above(level)?, Entry { low, child })
    }

    /// Appends a subtree as it is, unless it is joined with a small neighbour that was just built.
    pub(super) fn push_child(&mut self, level: u8, child: Child, low: Option<NodeKey>) -> Result<()> {
        for lower in 1..level {
            self.flush(lower)?;
        }
        let pending_bytes = self.pending_bytes(level);
        if pending_bytes > 0 && self.is_small(pending_bytes) {
            let node = self.take_node(child.page, Expected::Child(child.sum), level)?;
            if self.can_join(pending_bytes, &node.bytes) {
                self.push_node(&node.bytes, low)?;
                return self.free_taken(node.page, node.birth, node.is_dirty);
            }
            self.put_back(node);
        }
        self.flush(level)?;
        self.push_entry(above(level)?, Entry { low, child })
    }

    /// Appends the content of a node to the node of its level under construction.
    fn push_node(&mut self, bytes: &[u8], low: Option<NodeKey>) -> Result<()> {
        let level = node::level(bytes);
        if level == 1 {
            self.begin_rows(low)?;
            return Rows::of(bytes).iter().try_for_each(|row| self.push_row(row));
        }
        let mut low = low;
        for index in 0..=node::count(bytes) {
            let next = (index < node::count(bytes)).then(|| NodeKey::of(&branch::separator(bytes, index)));
            self.push_entry(
                level,
                Entry { low: std::mem::replace(&mut low, next), child: branch::child(bytes, index) },
            )?;
        }
        Ok(())
    }

    /// Size of the node under construction on a level; zero where there is none.
    fn pending_bytes(&mut self, level: u8) -> usize {
        match level {
            1 if self.rows.is_empty() => 0,
            1 => self.rows.leaf_bytes(),
            _ if self.level(level).entries.is_empty() => 0,
            _ => self.level(level).branch_bytes(),
        }
    }

    fn is_small(&self, bytes: usize) -> bool {
        bytes * 100 < self.tree.node_bytes() * FILL_PERCENT_MIN
    }

    fn can_join(&self, pending_bytes: usize, node: &[u8]) -> bool {
        (pending_bytes + used_bytes(node) - HEADER_BYTES) * 100 <= self.tree.node_bytes() * FILL_PERCENT_MAX
    }

    /// Ends the node under construction on a level.
    fn flush(&mut self, level: u8) -> Result<()> {
        let bytes = self.pending_bytes(level);
        if bytes == 0 {
            let low = if level == 1 { self.rows_low.take() } else { None };
            return self.drop_key(low);
        }
        // Behind the last row of a tree a small node is filled by what is appended next.
        if self.is_small(bytes) && !(self.is_ending && self.is_appending) {
            self.join_left(level, bytes)?;
        }
        let node_bytes = self.tree.node_bytes();
        if level == 1 {
            self.emit_full_leaves()?;
            if self.rows.leaf_bytes() > node_bytes {
                self.emit_leaf(|rows| rows.split_point(node_bytes))?;
            }
            return self.emit_leaf(|rows| rows.len());
        }
        self.emit_full_branches(level)?;
        if self.level(level).branch_bytes() > node_bytes {
            let cut = self.level(level).fences().split_point(node_bytes);
            self.emit_branch(level, cut + 1)?;
        }
        let left = self.level(level).entries.len();
        self.emit_branch(level, left)
    }

    /// Takes the left neighbour back into a small node under construction, where both fit in one.
    fn join_left(&mut self, level: u8, bytes: usize) -> Result<()> {
        let parent = above(level)?;
        let Some(child) = self.level(parent).entries.last().map(|entry| entry.child) else { return Ok(()) };
        let node = self.take_node(child.page, Expected::Child(child.sum), level)?;
        if !self.can_join(bytes, &node.bytes) {
            self.put_back(node);
            return Ok(());
        }
        let low = self.level(parent).pop().and_then(|entry| entry.low);
        if level == 1 {
            let rows = std::mem::take(&mut self.rows);
            let between = self.rows_low.take();
            self.drop_key(between)?;
            self.push_node(&node.bytes, low)?;
            self.is_order_open = true;
            (0..rows.len()).try_for_each(|index| self.push_row(&rows.row(index)))?;
        } else {
            let behind = std::mem::take(self.level(level));
            self.push_node(&node.bytes, low)?;
            behind.entries.into_iter().try_for_each(|entry| self.push_entry(level, entry))?;
        }
        self.free_taken(node.page, node.birth, node.is_dirty)
    }

    /// Ends a merge that left every branch on its way one branch.
    pub(super) fn finish_intact(mut self) -> Result<&'t mut TreeMut> {
        self.write_queue()?;
        Ok(self.tree)
    }

    /// Ends all nodes under construction and makes the topmost the root.
    pub(super) fn finish(mut self) -> Result<&'t mut TreeMut> {
        self.is_ending = true;
        self.flush(1)?;
        let mut level = 2;
        let root = loop {
            let is_top = self.levels.iter().skip(usize::from(level) - 1).all(|above| above.entries.is_empty());
            match (is_top, &self.level(level).entries[..]) {
                (true, []) => break None,
                (true, [only]) => break Some(only.child),
                _ => self.flush(level)?,
            }
            level = above(level)?;
        };
        self.write_queue()?;
        let Some(child) = root else {
            self.tree.root = TreeRoot::EMPTY;
            self.tree.changed = true;
            return Ok(self.tree);
        };
        let node = (&*self.tree).node(child.page, Expected::Child(child.sum), level - 1)?;
        let digest = checksum::digest(&node);
        drop(node);
        self.tree.set_root(child.page, level - 1);
        if child.sum != 0 {
            self.tree.root.digest = digest;
        }
        self.tree.collapse_root()?;
        Ok(self.tree)
    }
}

/// A node of the tree as it was.
#[derive(Debug)]
pub(super) struct OldNode {
    pub(super) page: PageId,
    pub(super) birth: TransactionId,
    pub(super) bytes: Box<[u8]>,
    pub(super) is_dirty: bool,
}

fn is_dirty(expected: Expected) -> bool {
    matches!(expected, Expected::Child(0) | Expected::Root(crate::base::ids::Digest::ZERO))
}

fn above(level: u8) -> Result<u8> {
    level.checked_add(1).ok_or_else(|| StorageError::corrupted("the tree is higher than any tree can be"))
}

/// How far up to `most` a condition holds that holds for zero and, from some number on, no more.
fn partition_point(most: usize, holds: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, most);
    while low < high {
        let middle = (low + high).div_ceil(2);
        if holds(middle) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    low
}
