//! Double-ended iteration over a range of rows.
//!
//! Invariant: the front stands at the next row to yield, the back behind the next row to yield from there; a row is
//! yielded once, whatever the order of the calls.
//! Layer 3 (btree).

use super::leaf;
use super::node;
use super::search::{Pointer, Step, choose_key};
use super::tree::Pages;
use crate::base::error::Result;
use crate::base::ids::TreeRoot;
use std::cmp::Ordering;
use std::ops::{Bound, Deref};

/// A leaf, the way to it, and a place between its rows.
#[derive(Debug, Clone)]
struct Position<N> {
    way: Vec<Step>,
    leaf: N,
    /// How many rows the leaf has.
    rows: usize,
    index: usize,
}

impl<N: Deref<Target = [u8]>> Position<N> {
    fn new(way: Vec<Step>, (leaf, index): (N, usize)) -> Self {
        let rows = node::count(&leaf);
        Self { way, leaf, rows, index }
    }

    /// The way of indices from the root, by which leaves of one tree compare.
    fn indices(&self) -> impl Iterator<Item = usize> {
        self.way.iter().map(|step| step.index)
    }
}

/// A row where a cursor came across it.
#[derive(Debug)]
pub(crate) struct Found<'c, P: Pages> {
    pub(crate) leaf: &'c P::Node,
    pub(crate) index: usize,
    pub(crate) pages: &'c P,
}

/// An iterator over rows, from both ends. After an error it yields nothing more.
#[derive(Debug, Clone)]
pub(crate) struct RangeCursor<P: Pages> {
    pages: P,
    root: TreeRoot,
    /// At the next row to yield from the front; `None` only in an empty tree.
    front: Option<Position<P::Node>>,
    /// Behind the next row to yield from the back. Without an upper bound it is found when it is first asked for,
    /// because most ranges are read from the front only.
    back: Option<Position<P::Node>>,
    /// The front can move up to this row of its leaf before it has to look where the back is.
    front_end: usize,
    /// Rows of the front's leaf up to this one were brought near.
    near_end: usize,
    done: bool,
}

impl<P: Pages> RangeCursor<P> {
    /// Positions both ends. An empty or inverted range yields nothing.
    pub(crate) fn new(pages: P, root: &TreeRoot, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Result<Self> {
        let done = root.height == 0;
        let mut cursor = Self { pages, root: *root, front: None, back: None, front_end: 0, near_end: 0, done };
        if cursor.done {
            return Ok(cursor);
        }
        cursor.front = Some(match start {
            Bound::Unbounded => cursor.seek(|_, _| Ok(0))?,
            Bound::Included(key) => cursor.seek_key(key)?,
            Bound::Excluded(key) => cursor.seek_key(&successor(key))?,
        });
        cursor.back = match end {
            Bound::Unbounded => None,
            Bound::Excluded(key) => Some(cursor.seek_key(key)?),
            Bound::Included(key) => Some(cursor.seek_key(&successor(key))?),
        };
        cursor.find_front_end();
        Ok(cursor)
    }

    fn seek(&self, choose: impl FnMut(&[u8], u8) -> Result<usize>) -> Result<Position<P::Node>> {
        let mut way = Vec::with_capacity(usize::from(self.root.height));
        let found = self.pages.descend(Pointer::root(&self.root), &mut way, choose)?;
        Ok(Position::new(way, found))
    }

    fn seek_key(&self, key: &[u8]) -> Result<Position<P::Node>> {
        self.seek(|node, level| choose_key(node, level, key, &self.pages))
    }

    /// The next row from the front.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<Option<Found<'_, P>>> {
        let is_at_end = self.front.as_ref().is_none_or(|front| front.index >= self.front_end);
        if self.done || (is_at_end && !self.guarded(Self::turn_front)?) {
            return Ok(None);
        }
        let Some(front) = &mut self.front else { return Ok(None) };
        let index = front.index;
        front.index += 1;
        if index >= self.near_end {
            self.near_end = leaf::prefetch_rows(&front.leaf, index);
        }
        Ok(Some(Found { leaf: &front.leaf, index, pages: &self.pages }))
    }

    /// The next row from the back.
    pub(crate) fn previous(&mut self) -> Result<Option<Found<'_, P>>> {
        if self.done || !self.guarded(Self::turn_back)? {
            return Ok(None);
        }
        let Some(back) = &mut self.back else { return Ok(None) };
        back.index -= 1;
        self.find_front_end();
        let Some(back) = &self.back else { return Ok(None) };
        Ok(Some(Found { leaf: &back.leaf, index: back.index, pages: &self.pages }))
    }

    pub(super) fn pages(&self) -> &P {
        &self.pages
    }

    /// The next row from one end, without going on.
    pub(super) fn peek(&mut self, forward: bool) -> Result<Option<Found<'_, P>>> {
        if self.done || !self.guarded(if forward { Self::turn_front } else { Self::turn_back })? {
            return Ok(None);
        }
        let (position, behind) = if forward { (&self.front, 0) } else { (&self.back, 1) };
        let Some(position) = position else { return Ok(None) };
        Ok(Some(Found { leaf: &position.leaf, index: position.index - behind, pages: &self.pages }))
    }

    /// Passes over the row that was just peeked at.
    pub(super) fn skip(&mut self, forward: bool) {
        match (forward, &mut self.front, &mut self.back) {
            (true, Some(front), _) => front.index += 1,
            (false, _, Some(back)) => {
                back.index -= 1;
                self.find_front_end();
            }
            _ => {}
        }
    }

    /// Ends the iteration.
    pub(crate) fn finish(&mut self) {
        self.done = true;
    }

    /// Ends the iteration where a step fails or finds no row.
    fn guarded(&mut self, step: impl FnOnce(&mut Self) -> Result<bool>) -> Result<bool> {
        let found = step(self);
        self.done = !matches!(found, Ok(true));
        found
    }

    /// Moves the front to a leaf in which it stands at a row; says whether there is one before the back.
    fn turn_front(&mut self) -> Result<bool> {
        while !self.is_exhausted() {
            let Some(front) = &mut self.front else { return Ok(false) };
            if front.index < front.rows {
                return Ok(true);
            }
            if !self.next_leaf()? {
                return Ok(false);
            }
        }
        Ok(false)
    }

    /// Moves the back to a leaf in which it stands behind a row; says whether there is one behind the front.
    fn turn_back(&mut self) -> Result<bool> {
        if self.back.is_none() {
            self.back = Some(self.seek(|node, _| Ok(node::count(node)))?);
        }
        while !self.is_exhausted() {
            // The front may stand behind the last row of an earlier leaf; then a row of this one is still its next.
            let Some(back) = &self.back else { return Ok(false) };
            if back.index > 0 {
                return Ok(true);
            }
            if !self.previous_leaf()? {
                return Ok(false);
            }
        }
        Ok(false)
    }

    /// Whether the front has reached the back.
    fn is_exhausted(&self) -> bool {
        // Without a back there is no bound: the front ends where the tree does.
        let (Some(front), Some(back)) = (&self.front, &self.back) else { return false };
        front.indices().cmp(back.indices()).then(front.index.cmp(&back.index)).is_ge()
    }

    /// Finds how far the front can go in its leaf.
    fn find_front_end(&mut self) {
        let Some(front) = &self.front else { return };
        self.front_end = match &self.back {
            Some(back) => match front.indices().cmp(back.indices()) {
                Ordering::Less => front.rows,
                Ordering::Equal => back.index,
                Ordering::Greater => 0,
            },
            None => front.rows,
        };
    }

    /// Moves the front to the first row of the next leaf.
    fn next_leaf(&mut self) -> Result<bool> {
        let Some(front) = &mut self.front else { return Ok(false) };
        while let Some(Step { branch, index, last }) = front.way.pop() {
            if index < last {
                let mut way = std::mem::take(&mut front.way);
                let choose = |_: &[u8], level| Ok(if level == branch.level { index + 1 } else { 0 });
                let found = self.pages.descend(branch, &mut way, choose)?;
                *front = Position::new(way, found);
                self.near_end = 0;
                self.find_front_end();
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Moves the back behind the last row of the previous leaf.
    fn previous_leaf(&mut self) -> Result<bool> {
        let Some(back) = &mut self.back else { return Ok(false) };
        while let Some(Step { branch, index, .. }) = back.way.pop() {
            if index > 0 {
                let mut way = std::mem::take(&mut back.way);
                let choose = |node: &[u8], level| Ok(if level == branch.level { index - 1 } else { node::count(node) });
                let found = self.pages.descend(branch, &mut way, choose)?;
                *back = Position::new(way, found);
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The smallest key above `key`.
pub(crate) fn successor(key: &[u8]) -> Vec<u8> {
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
