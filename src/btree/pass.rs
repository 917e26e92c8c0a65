//! One pass through a tree from its first leaf to its last: the way to the leaves that are wanted, and what becomes of
//! the branches.
//!
//! Invariant: a node that is not asked for is neither copied nor, unless a small neighbour asks for it, read; a branch
//! is taken apart only where one of its children is not replaced by exactly one other.
//! Layer 3 (btree).

use super::branch::{self, Child};
use super::insert::NodeKey;
use super::inspect::check_disjoint;
use super::key::{KeyCell, decode_extent, inline_key_max};
use super::leaf::{self, ValueCell};
use super::merge_edit::out_of_order;
use super::merge_output::{OldNode, Output};
use super::node::{self, KIND_BRANCH};
use super::rebalance::check_order;
use super::tree::{TreeMut, root_expected};
use crate::base::error::{Result, StorageError};
use crate::base::ids::{PageId, TransactionId};
use crate::pages::extent::EXTENT_BYTES;
use crate::pages::store::Expected;

/// The keys that a subtree may hold.
#[derive(Debug, Clone, Default)]
pub(super) struct Bounds {
    low: Option<Vec<u8>>,
    /// The first key behind them, if there is one.
    pub(super) high: Option<Vec<u8>>,
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
/// A leaf to which a pass has come; it is given back to the pass, changed or not, or replaced by rows of the output.
pub(super) struct LeafAt {
    pub(super) node: OldNode,
    pub(super) bounds: Bounds,
}

/// A pass under way. Unless it is finished, the tree is in pieces.
pub(super) struct Pass<'t> {
    pub(super) output: Output<'t>,
    /// From the root down.
    frames: Vec<Frame>,
    has_begun: bool,
    /// The tree was taken apart from the root on.
    is_rebuilt: bool,
    /// What lies at or above this many units is moved below, if there is room, where the pass comes by.
    limit_units: u64,
    /// Bytes of out-of-line values that were moved.
    pub(super) moved_bytes: usize,
}

impl<'t> Pass<'t> {
    pub(super) fn new(tree: &'t mut TreeMut) -> Self {
        tree.in_pieces = true;
        Self {
            output: Output::new(tree),
            frames: Vec::new(),
            has_begun: false,
            is_rebuilt: false,
            limit_units: u64::MAX,
            moved_bytes: 0,
        }
    }

    /// A pass that also moves nodes and out-of-line values below a limit. Nodes that it builds are filled completely.
    pub(super) fn moving_below(tree: &'t mut TreeMut, limit_units: u64) -> Self {
        let mut pass = Self { limit_units, ..Self::new(tree) };
        pass.output.is_appending = true;
        pass
    }

    /// Builds the whole tree anew, from an empty one.
    pub(super) fn rebuild(&mut self) {
        self.has_begun = true;
        self.is_rebuilt = true;
    }

    /// Goes to the leaf that a key belongs to. Each key lies behind the leaves that were given back.
    pub(super) fn seek(&mut self, key: &[u8]) -> Result<LeafAt> {
        if !self.has_begun {
            self.has_begun = true;
            let root = *self.output.tree.root();
            let node = self.output.take_node(root.page, root_expected(&root), root.height)?;
            if root.height == 1 {
                return Self::leaf(node, Bounds::default());
            }
            self.enter(node, root.height, Bounds::default())?;
        }
        loop {
            let Some(top) = self.frames.last() else { return Err(out_of_order()) };
            if top.bounds.high.as_ref().is_some_and(|high| key >= &high[..]) {
                self.leave()?;
            } else if let Some(leaf) = self.descend(key)? {
                return Ok(leaf);
            }
        }
    }

    fn leaf(node: OldNode, bounds: Bounds) -> Result<LeafAt> {
        let last = node::count(&node.bytes).checked_sub(1).ok_or_else(out_of_order)?;
        bounds.check(&node, Some(leaf::row(&node.bytes, 0).key), Some(leaf::row(&node.bytes, last).key))?;
        Ok(LeafAt { node, bounds })
    }

    /// Leaves a leaf as it is, or as it was edited in place.
    pub(super) fn keep(&mut self, leaf: LeafAt, is_edited: bool) -> Result<()> {
        self.output.tree.changed |= is_edited;
        self.replace_child(leaf.node, is_edited)
    }

    /// Begins to replace the leaf by what is given to the output from now on.
    pub(super) fn open(&mut self) -> Result<()> {
        self.open_all()?;
        let low = self.frames.len().checked_sub(1).and_then(|depth| self.low_of(depth, self.frames[depth].next));
        self.output.begin_rows(low)
    }

    /// Gives up a leaf that was replaced.
    pub(super) fn close(&mut self, leaf: &LeafAt) -> Result<()> {
        if let Some(frame) = self.frames.last_mut() {
            frame.next += 1;
        }
        self.output.free_taken(leaf.node.page, leaf.node.birth, leaf.node.is_dirty)
    }

    /// Ends the pass: what was not visited stays as it is.
    pub(super) fn finish(mut self) -> Result<&'t mut TreeMut> {
        while !self.frames.is_empty() {
            self.leave()?;
        }
        let tree = if self.is_rebuilt { self.output.finish() } else { self.output.finish_intact() }?;
        tree.in_pieces = false;
        Ok(tree)
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

    /// Goes to the child of the innermost branch that a key belongs to; returns it where it is a leaf.
    fn descend(&mut self, key: &[u8]) -> Result<Option<LeafAt>> {
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
        if level == 1 {
            return Self::leaf(node, bounds).map(Some);
        }
        self.enter(node, level, bounds)?;
        Ok(None)
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
    fn replace_child(&mut self, mut node: OldNode, is_edited: bool) -> Result<()> {
        let level = node::level(&node.bytes);
        let is_edited = self.move_values(&mut node)? || is_edited;
        let child = if node.is_dirty {
            let page = node.page;
            self.output.put_back(node);
            Some(Child { page, sum: 0 })
        } else if is_edited {
            let page = self.output.allocate_page()?;
            Some(self.finish_copy(node, page)?)
        } else if let Some(page) = self.lower_page(node.page)? {
            Some(self.finish_copy(node, page)?)
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

    /// A page below the limit for a node that is not.
    fn lower_page(&mut self, page: PageId) -> Result<Option<PageId>> {
        let writer = &self.output.tree.writer;
        let units = writer.layout().node_units();
        if page.get().saturating_add(u64::from(units)) <= self.limit_units {
            return Ok(None);
        }
        Ok(writer.allocate_below(units, self.limit_units)?.map(|run| run.page))
    }

    /// Moves what a node has out of line; says whether the node changed by that.
    fn move_values(&mut self, node: &mut OldNode) -> Result<bool> {
        // A dirty node was made a moment ago, and what it names was where it is now.
        if self.limit_units == u64::MAX || node.is_dirty {
            return Ok(false);
        }
        let layout = *self.output.tree.writer.layout();
        let (mut moved, places) = (false, out_of_line(&node.bytes));
        if !places.is_empty() {
            check_disjoint(node.page, &node.bytes)?;
        }
        for at in places {
            let reference = &mut node.bytes[at..at + EXTENT_BYTES];
            let encoded = reference.first_chunk().expect("the slice has that length");
            let extent = decode_extent(encoded, &layout)?;
            if let Some(new) = self.output.tree.writer.relocate_extent(&extent, self.limit_units)? {
                reference.copy_from_slice(&new.encode(&layout));
                let len = usize::try_from(new.len_bytes).unwrap_or(usize::MAX);
                self.moved_bytes = self.moved_bytes.saturating_add(len);
                moved = true;
            }
        }
        Ok(moved)
    }

    /// Makes the edited copy of a written node a node of its own and frees the original.
    fn finish_copy(&mut self, node: OldNode, new: PageId) -> Result<Child> {
        let OldNode { page, birth, mut bytes, .. } = node;
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
}

/// Where in a node references to out-of-line bytes stand.
fn out_of_line(node: &[u8]) -> Vec<usize> {
    let place = |reference: &[u8; EXTENT_BYTES]| reference.as_ptr().addr() - node.as_ptr().addr();
    let count = node::count(node);
    if node::kind(node) == KIND_BRANCH {
        return (0..count).filter_map(|index| branch::separator(node, index).rest.map(place)).collect();
    }
    let of_row = |index| {
        let row = leaf::row(node, index);
        let value = if let ValueCell::Extent(reference) = row.value { Some(reference) } else { None };
        row.key.rest.into_iter().chain(value).map(place)
    };
    (0..count).flat_map(of_row).collect()
}
