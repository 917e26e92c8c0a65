//! One pass over a range of rows that decides of each whether it stays.
//!
//! Invariant: a row is removed only after it was visited; rows that were not visited stay, wherever the sweep ends.
//! Layer 3 (btree).

use super::build::Rows;
use super::cursor::{Found, successor};
use super::inspect::check_disjoint;
use super::leaf;
use super::merge_edit::LEAF_EDITS_MAX;
use super::node;
use super::pass::{LeafAt, Pass};
use super::rebalance::FILL_PERCENT_MIN;
use super::tree::TreeMut;
use crate::base::error::Result;
use crate::pages::snapshot::PageRef;
use std::ops::Bound;

/// The leaf whose rows are being visited.
struct SweptLeaf {
    at: LeafAt,
    /// The row to visit next, and the one behind the last to visit.
    next: usize,
    end: usize,
    /// In ascending order.
    removed: Vec<usize>,
}

/// A sweep under way. Unless it is finished, the tree is in pieces and the transaction must be aborted.
pub(crate) struct Sweep<'t> {
    pass: Pass<'t>,
    leaf: Option<SweptLeaf>,
    /// The next leaf is the one that this key belongs to; `None` where no leaf follows.
    next_key: Option<Vec<u8>>,
    /// The first key behind the range.
    end: Option<Vec<u8>>,
}

impl<'t> Sweep<'t> {
    pub(crate) fn new(tree: &'t mut TreeMut, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Self {
        let next_key = match start {
            _ if tree.root().height == 0 => None,
            Bound::Unbounded => Some(Vec::new()),
            Bound::Included(key) => Some(key.to_vec()),
            Bound::Excluded(key) => Some(successor(key)),
        };
        let end = match end {
            Bound::Unbounded => None,
            Bound::Included(key) => Some(successor(key)),
            Bound::Excluded(key) => Some(key.to_vec()),
        };
        let mut pass = Pass::new(tree);
        pass.output.is_sweep = true;
        Self { pass, leaf: None, next_key, end }
    }

    /// Shows the next row of the range to `look`; `None` behind the last.
    pub(crate) fn visit<T>(&mut self, look: impl FnOnce(&Found<'_, &TreeMut>) -> Result<T>) -> Result<Option<T>> {
        while self.leaf.as_ref().is_none_or(|leaf| leaf.next >= leaf.end) {
            if !self.turn()? {
                return Ok(None);
            }
        }
        let Some(leaf) = &mut self.leaf else { return Ok(None) };
        let index = leaf.next;
        leaf.next += 1;
        let page = PageRef::dirty(&leaf.at.node.bytes);
        look(&Found { leaf: &page, index, pages: &&*self.pass.output.tree }).map(Some)
    }

    /// Removes the row that was visited last.
    pub(crate) fn remove(&mut self) {
        if let Some(leaf) = &mut self.leaf
            && let Some(visited) = leaf.next.checked_sub(1)
        {
            leaf.removed.push(visited);
        }
    }

    /// Removes all rows of the range that were not visited yet, and returns how many they were.
    pub(crate) fn remove_rest(&mut self) -> Result<u64> {
        let mut removed = 0;
        while self.visit(|_| Ok(()))?.is_some() {
            self.remove();
            removed += 1;
        }
        Ok(removed)
    }

    /// The key of the row that was visited last.
    pub(crate) fn last_visited(&self) -> Result<Option<Vec<u8>>> {
        let visited = self.leaf.as_ref().and_then(|leaf| Some((leaf, leaf.next.checked_sub(1)?)));
        let Some((leaf, index)) = visited else { return Ok(None) };
        leaf::row(&leaf.at.node.bytes, index).key.to_vec(&*self.pass.output.tree).map(Some)
    }

    /// Ends the sweep and puts the tree together.
    pub(crate) fn finish(mut self) -> Result<&'t mut TreeMut> {
        self.end_leaf()?;
        self.pass.finish()
    }

    /// Goes to the next leaf of the range; says whether there is one.
    fn turn(&mut self) -> Result<bool> {
        self.end_leaf()?;
        let end = self.end.as_deref();
        let Some(key) = self.next_key.take().filter(|key| end.is_none_or(|end| &key[..] < end)) else {
            return Ok(false);
        };
        let at = self.pass.seek(&key)?;
        let (bytes, tree) = (&at.node.bytes, &*self.pass.output.tree);
        let next = leaf::seek(bytes, &key, &tree)?;
        let last = match end {
            Some(end) if at.bounds.high.as_ref().is_none_or(|high| end < &high[..]) => leaf::seek(bytes, end, &tree)?,
            _ => node::count(bytes),
        };
        self.next_key.clone_from(&at.bounds.high);
        self.leaf = Some(SweptLeaf { at, next, end: last, removed: Vec::new() });
        Ok(true)
    }

    /// Applies what was decided about the rows of the current leaf.
    fn end_leaf(&mut self) -> Result<()> {
        let Some(SweptLeaf { mut at, removed, .. }) = self.leaf.take() else { return Ok(()) };
        if removed.is_empty() {
            return self.pass.keep(at, false);
        }
        if removed.len() <= LEAF_EDITS_MAX && self.remove_in_place(&mut at, &removed)? {
            return self.pass.keep(at, true);
        }
        self.pass.open()?;
        let rows = Rows::of(&at.node.bytes);
        let mut gone = removed.iter().peekable();
        for (index, row) in rows.iter().enumerate() {
            if gone.next_if(|gone| **gone == index).is_none() {
                self.pass.output.push_row(row)?;
            }
        }
        self.free_rows(&at, &removed)?;
        self.pass.close(&at)
    }

    /// Removes few rows where they stand; says whether the leaf stays full enough for that.
    fn remove_in_place(&mut self, at: &mut LeafAt, removed: &[usize]) -> Result<bool> {
        let bytes = &at.node.bytes;
        let size = |index: &usize| leaf::row_bytes_in(bytes, &leaf::row(bytes, *index));
        let left = leaf::used_bytes(bytes) - removed.iter().map(size).sum::<usize>();
        if left * 100 < bytes.len() * FILL_PERCENT_MIN || removed.len() == node::count(bytes) {
            return Ok(false);
        }
        check_disjoint(at.node.page, &at.node.bytes)?;
        self.free_rows(at, removed)?;
        for index in removed.iter().rev() {
            leaf::remove(&mut at.node.bytes, *index);
        }
        Ok(true)
    }

    /// Gives back what rows of a leaf name, and counts them as gone.
    fn free_rows(&mut self, at: &LeafAt, removed: &[usize]) -> Result<()> {
        let tree = &mut *self.pass.output.tree;
        for index in removed {
            let row = leaf::row(&at.node.bytes, *index);
            tree.free_value(&row.value)?;
            row.key.rest.map_or(Ok(()), |rest| tree.free_extent(rest))?;
        }
        tree.count_rows(0, removed.len())
    }
}
