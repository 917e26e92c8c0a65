//! Double-ended iteration over a range of rows.
//!
//! Invariant: the front stands at the next row to yield, the back behind the next row to yield from there; a row is
//! yielded once, whatever the order of the calls.
//! Layer 3 (btree).

use super::branch;
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
    /// Way to behind the next row to yield from the back.
    back: Vec<Step<P::Node>>,
    done: bool,
}

impl<P: Pages> RangeCursor<P> {
    /// Positions both ends. An empty or inverted range yields nothing.
    pub(crate) fn new(pages: P, root: &TreeRoot, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Result<Self> {
        let mut cursor = Self { pages, front: Vec::new(), back: Vec::new(), done: root.height == 0 };
        if cursor.done {
            return Ok(cursor);
        }
        cursor.front = match start {
            Bound::Unbounded => search::seek_first(&cursor.pages, root)?,
            Bound::Included(key) => search::seek(&cursor.pages, root, key)?,
            Bound::Excluded(key) => search::seek(&cursor.pages, root, &successor(key))?,
        };
        cursor.back = match end {
            Bound::Unbounded => search::seek_end(&cursor.pages, root)?,
            Bound::Excluded(key) => search::seek(&cursor.pages, root, key)?,
            Bound::Included(key) => search::seek(&cursor.pages, root, &successor(key))?,
        };
        Ok(cursor)
    }

    /// Where the rows' keys and values are fetched from.
    pub(crate) fn pages(&self) -> &P {
        &self.pages
    }

    /// The next row from the front.
    pub(crate) fn next_row(&mut self) -> Result<Option<RowRef<P::Node>>> {
        self.guarded(|cursor| {
            while !cursor.is_exhausted() {
                let (leaf, index) = cursor.front.last_mut().expect("a tree with rows has a way to them");
                if *index < node::count(leaf) {
                    let row = RowRef::new(leaf.clone(), *index);
                    *index += 1;
                    return Ok(Some(row));
                }
                if !cursor.next_leaf()? {
                    break;
                }
            }
            Ok(None)
        })
    }

    /// The next row from the back.
    pub(crate) fn previous_row(&mut self) -> Result<Option<RowRef<P::Node>>> {
        self.guarded(|cursor| {
            while !cursor.is_exhausted() {
                let (leaf, index) = cursor.back.last_mut().expect("a tree with rows has a way to them");
                if *index > 0 {
                    *index -= 1;
                    // The front may stand behind the last row of an earlier leaf; then this row is still its next.
                    return Ok(Some(RowRef::new(leaf.clone(), *index)));
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
        let back = self.back.iter().map(|(_, index)| *index);
        self.front.iter().map(|(_, index)| *index).ge(back)
    }

    /// Moves the front to the first row of the next leaf.
    fn next_leaf(&mut self) -> Result<bool> {
        let depth = self.front.len();
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
        let depth = self.back.len();
        self.back.pop();
        while let Some((_, index)) = self.back.last_mut() {
            if *index > 0 {
                *index -= 1;
                return refill(&self.pages, &mut self.back, depth, node::count);
            }
            self.back.pop();
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
