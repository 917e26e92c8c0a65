//! Double-ended iteration over a range of rows.
//!
//! Invariant: the front stands at the next row to yield, the back behind the next row to yield from there; a row is
//! yielded once, whatever the order of the calls.
//! Layer 3 (btree).

use super::branch;
use super::leaf;
use super::node;
use super::search::{self, RowRef, Step};
use super::tree::Pages;
use crate::base::error::Result;
use crate::base::ids::TreeRoot;
use crate::pages::store::Expected;
use std::ops::Bound;

/// An iterator over rows, from both ends. After an error it yields nothing more.
#[derive(Debug, Clone)]
pub(crate) struct RangeCursor<P: Pages> {
    pages: P,
    /// Way to the next row to yield from the front.
    front: Vec<Step<P::Node>>,
    /// Way to behind the next row to yield from the back. Without an upper bound it is found when it is first asked
    /// for, because most ranges are read from the front only.
    back: Option<Vec<Step<P::Node>>>,
    root: TreeRoot,
    /// Rows ahead of the front that were brought near.
    near: usize,
    done: bool,
}

impl<P: Pages> RangeCursor<P> {
    /// Positions both ends. An empty or inverted range yields nothing.
    pub(crate) fn new(pages: P, root: &TreeRoot, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Result<Self> {
        let mut cursor = Self { pages, front: Vec::new(), back: None, root: *root, near: 0, done: root.height == 0 };
        if cursor.done {
            return Ok(cursor);
        }
        cursor.front = match start {
            Bound::Unbounded => search::seek_first(&cursor.pages, root)?,
            Bound::Included(key) => search::seek(&cursor.pages, root, key)?,
            Bound::Excluded(key) => search::seek(&cursor.pages, root, &successor(key))?,
        };
        cursor.back = match end {
            Bound::Unbounded => None,
            Bound::Excluded(key) => Some(search::seek(&cursor.pages, root, key)?),
            Bound::Included(key) => Some(search::seek(&cursor.pages, root, &successor(key))?),
        };
        Ok(cursor)
    }

    /// Where the rows' keys and values are fetched from.
    pub(crate) fn pages(&self) -> &P {
        &self.pages
    }

    /// The next row from the front, with its leaf kept.
    pub(crate) fn next_row(&mut self) -> Result<Option<RowRef<P::Node>>> {
        self.next_with(|leaf, index, _| Ok(RowRef::new(leaf.clone(), index)))
    }

    /// The next row from the back, with its leaf kept.
    #[cfg(test)]
    pub(crate) fn previous_row(&mut self) -> Result<Option<RowRef<P::Node>>> {
        self.previous_with(|leaf, index, _| Ok(RowRef::new(leaf.clone(), index)))
    }

    /// Makes something of the next row from the front.
    pub(crate) fn next_with<T>(&mut self, make: impl FnOnce(&P::Node, usize, &P) -> Result<T>) -> Result<Option<T>> {
        self.guarded(|cursor| {
            while !cursor.is_exhausted() {
                let (leaf, index) = cursor.front.last_mut().expect("a tree with rows has a way to them");
                if *index < node::count(leaf) {
                    if cursor.near == 0 {
                        leaf::bring_near(leaf, *index);
                        cursor.near = leaf::NEAR_ROWS;
                    }
                    cursor.near -= 1;
                    *index += 1;
                    return make(leaf, *index - 1, &cursor.pages).map(Some);
                }
                if !cursor.next_leaf()? {
                    break;
                }
            }
            Ok(None)
        })
    }

    /// Makes something of the next row from the back.
    pub(crate) fn previous_with<T>(
        &mut self,
        make: impl FnOnce(&P::Node, usize, &P) -> Result<T>,
    ) -> Result<Option<T>> {
        self.guarded(|cursor| {
            if cursor.back.is_none() {
                cursor.back = Some(search::seek_end(&cursor.pages, &cursor.root)?);
            }
            while !cursor.is_exhausted() {
                let back = cursor.back.as_mut().and_then(|back| back.last_mut());
                let (leaf, index) = back.expect("a tree with rows has a way to them");
                if *index > 0 {
                    *index -= 1;
                    // The front may stand behind the last row of an earlier leaf; then this row is still its next.
                    return make(leaf, *index, &cursor.pages).map(Some);
                }
                if !cursor.previous_leaf()? {
                    break;
                }
            }
            Ok(None)
        })
    }

    fn guarded<T>(&mut self, step: impl FnOnce(&mut Self) -> Result<Option<T>>) -> Result<Option<T>> {
        if self.done {
            return Ok(None);
        }
        let row = step(self);
        self.done = !matches!(row, Ok(Some(_)));
        row
    }

    /// Whether the front has reached the back. Positions are compared as the way of indices from the root.
    fn is_exhausted(&self) -> bool {
        // Without a back there is no bound: the front ends where the tree does.
        let Some(back) = &self.back else { return false };
        self.front.iter().map(|(_, index)| *index).ge(back.iter().map(|(_, index)| *index))
    }

    /// Moves the front to the first row of the next leaf.
    fn next_leaf(&mut self) -> Result<bool> {
        let depth = self.front.len();
        self.near = 0;
        self.front.pop();
        while let Some((branch, index)) = self.front.last_mut() {
            if *index < node::count(branch) {
                *index += 1;
                return refill(&self.pages, &mut self.front, depth, |_| 0);
            }
            self.front.pop();
        }
        Ok(false)
    }

    /// Moves the back behind the last row of the previous leaf.
    fn previous_leaf(&mut self) -> Result<bool> {
        let Some(back) = &mut self.back else { return Ok(false) };
        let depth = back.len();
        back.pop();
        while let Some((_, index)) = back.last_mut() {
            if *index > 0 {
                *index -= 1;
                return refill(&self.pages, back, depth, node::count);
            }
            back.pop();
        }
        Ok(false)
    }
}

/// Descends from the last step down to a leaf along one edge.
fn refill<P: Pages>(
    pages: &P,
    way: &mut Vec<Step<P::Node>>,
    depth: usize,
    edge: impl Fn(&[u8]) -> usize,
) -> Result<bool> {
    while way.len() < depth {
        let level = u8::try_from(depth - way.len()).expect("trees are at most 48 levels high");
        let (branch, index) = way.last().expect("the caller left a branch");
        let child = branch::child(branch, *index);
        let node = pages.node(child.page, Expected::Child(child.sum), level)?;
        let index = edge(&node);
        way.push((node, index));
    }
    Ok(true)
}

/// The smallest key above `key`.
fn successor(key: &[u8]) -> Vec<u8> {
    let mut successor = Vec::with_capacity(key.len() + 1);
    successor.extend_from_slice(key);
    successor.push(0);
    successor
}

/// The smallest key above every key that starts with `prefix`; `None` where there is no such key.
pub(crate) fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}
