//! The rows of a tree with changes laid over them.
//!
//! Invariant: a row that was changed is met as the change says, in its place in the order of keys, and a removed one never.
//! Layer 3 (btree).

use super::cursor::{Found, RangeCursor};
use super::search::{self, RowBytes};
use super::tree::SnapshotPages;
use crate::base::error::Result;
use crate::base::ids::TreeRoot;
use crate::delta::layers::{DeltaRange, TableDelta};
use crate::delta::map::{Effect, Row};
use crate::pages::snapshot::PageRef;
use std::cmp::Ordering;
use std::ops::Bound;

/// A row where a cursor came across it.
pub(crate) enum Met<'c> {
    InTree(Found<'c, SnapshotPages>),
    Changed(Row),
}

/// Key and value of a row that stay readable by themselves.
type KeyAndValue = (RowBytes<PageRef<'static>>, RowBytes<PageRef<'static>>);

impl Met<'_> {
    /// Key and value of the row.
    pub(crate) fn key_and_value(&self) -> Result<KeyAndValue> {
        match self {
            Self::InTree(found) => found.key_and_value(),
            Self::Changed(row) => Ok((key_of(row), value_of(row))),
        }
    }
}

/// The key of a change.
pub(crate) fn key_of(row: &Row) -> RowBytes<PageRef<'static>> {
    RowBytes::part_of(row.bytes(), 0..row.key().len())
}

/// The value of a change that is no removal; an empty one otherwise.
pub(crate) fn value_of(row: &Row) -> RowBytes<PageRef<'static>> {
    RowBytes::part_of(row.bytes(), row.key().len()..row.bytes().len())
}

/// An iterator over rows, from both ends. After an error it yields nothing more.
pub(crate) struct OverlaidCursor {
    tree: RangeCursor<SnapshotPages>,
    changes: DeltaRange,
    /// Removed rows that it passed over.
    passed: u64,
}

impl OverlaidCursor {
    fn new(
        pages: SnapshotPages,
        root: &TreeRoot,
        delta: &TableDelta,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
    ) -> Result<Self> {
        let (start, end) = delta.trimmed(start, end);
        Ok(Self { tree: RangeCursor::new(pages, root, start, end)?, changes: delta.range(start, end), passed: 0 })
    }

    /// The next row from one end.
    pub(crate) fn next(&mut self, forward: bool) -> Result<Option<Met<'_>>> {
        while let Some(change) = self.changes.peek(forward) {
            let order = match self.tree.peek(forward)? {
                None => Ordering::Greater,
                Some(found) if forward => found.compare_key(change.key())?,
                Some(found) => found.compare_key(change.key())?.reverse(),
            };
            if order.is_lt() {
                break;
            }
            if order.is_eq() {
                self.tree.skip(forward);
            }
            if let Some(row) = self.changes.next(forward).filter(|row| row.value().is_some()) {
                return Ok(Some(Met::Changed(row)));
            }
            self.passed += 1;
        }
        let found = if forward { self.tree.next() } else { self.tree.previous() };
        Ok(found?.map(Met::InTree))
    }

    /// Ends the iteration.
    pub(crate) fn finish(&mut self) {
        self.tree.finish();
        self.changes = TableDelta::default().range(Bound::Unbounded, Bound::Unbounded);
    }
}

impl Drop for OverlaidCursor {
    fn drop(&mut self) {
        if self.passed > 0 {
            self.tree.pages().snapshot.store.meter().passed_rows.add(self.passed);
        }
    }
}

/// A table as a version shows it: its tree, and what is laid over it.
#[derive(Debug, Clone)]
pub(crate) struct OverlaidTree {
    pub(crate) pages: SnapshotPages,
    pub(crate) root: TreeRoot,
    pub(crate) delta: TableDelta,
}

impl OverlaidTree {
    /// The value of a key.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<RowBytes<PageRef<'static>>>> {
        if let Some(change) = self.delta.get(key) {
            return Ok(change.value().is_some().then(|| value_of(change)));
        }
        let epoch = self.pages.snapshot.store.enter();
        let pages = self.pages.in_epoch(&epoch);
        let Some(row) = search::get(&pages, &self.root, key)? else { return Ok(None) };
        row.into_kept_value(&pages, |leaf| leaf.keep(&self.pages.snapshot)).map(Some)
    }

    /// Whether the tree has a row, whatever is laid over it.
    fn is_in_tree(&self, key: &[u8]) -> Result<bool> {
        let epoch = self.pages.snapshot.store.enter();
        Ok(search::get(&self.pages.in_epoch(&epoch), &self.root, key)?.is_some())
    }

    /// The rows whose keys lie within bounds.
    pub(crate) fn range(&self, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Result<OverlaidCursor> {
        OverlaidCursor::new(self.pages.clone(), &self.root, &self.delta, start, end)
    }

    /// Number of rows. Costs a look at the tree for each change that was made without one.
    pub(crate) fn len(&self) -> Result<u64> {
        let (active, frozen) = (&self.delta.active, &self.delta.frozen);
        let mut rows = active.sum().rows + frozen.sum().rows;
        for (map, is_upper) in [(active, true), (frozen, false)] {
            let mut left = map.sum().unknown;
            let mut range = map.range(Bound::Unbounded, Bound::Unbounded);
            while let Some(change) = range.peek().filter(|_| left > 0) {
                if change.effect == Effect::Unknown {
                    let below = if is_upper { frozen.get(change.key()) } else { None };
                    let had_row = match below {
                        Some(below) => below.value().is_some(),
                        None => self.is_in_tree(change.key())?,
                    };
                    rows += i32::from(change.value().is_some()) - i32::from(had_row);
                    left -= 1;
                }
                range.skip();
            }
        }
        // A damaged count in the catalog is found where all rows are read.
        Ok(self.root.rows.saturating_add_signed(i64::from(rows)))
    }

    /// Key and value of the first or the last row.
    pub(crate) fn edge(&self, forward: bool) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        let mut cursor = self.range(Bound::Unbounded, Bound::Unbounded)?;
        let Some(met) = cursor.next(forward)? else { return Ok(None) };
        let (key, value) = met.key_and_value()?;
        Ok(Some((key.as_slice().to_vec(), value.as_slice().to_vec())))
    }

    /// Whether there is no row.
    pub(crate) fn is_empty(&self) -> Result<bool> {
        if self.delta.is_empty() {
            return Ok(self.root.rows == 0);
        }
        Ok(self.range(Bound::Unbounded, Bound::Unbounded)?.next(true)?.is_none())
    }
}
