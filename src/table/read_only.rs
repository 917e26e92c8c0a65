//! A table as a read transaction sees it.
//!
//! Invariant: the handle owns its snapshot: nothing that it returns changes, however long it lives.
//! Layer 6 (table).

use super::definition::{TableHandle, sealed};
use super::guard::AccessGuard;
use super::prefix::{PrefixKey, encode_prefix_bounds};
use super::range::{Range, Row, Rows, as_slices, with_encoded_bounds, with_encoded_key};
use super::traits::{Key, Value};
use crate::base::error::{Result, StorageError};
use crate::base::sync::Arc;
use crate::btree::cursor::RangeCursor;
use crate::btree::overlaid::OverlaidTree;
use std::borrow::Borrow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};

/// A table of one snapshot.
///
/// Keeps the snapshot alive by itself: the transaction that it came from may be dropped before it. Cheap to clone.
pub struct ReadOnlyTable<K: Key + 'static, V: Value + 'static> {
    name: Arc<String>,
    rows: OverlaidTree,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K: Key + 'static, V: Value + 'static> ReadOnlyTable<K, V> {
    pub(crate) fn new(name: Arc<String>, rows: OverlaidTree) -> Self {
        Self { name, rows, types: PhantomData }
    }

    /// Looks a key up.
    ///
    /// Cost: one descent of the tree.
    ///
    /// # Errors
    /// When a page cannot be read or is damaged.
    pub fn get<'k>(&self, key: impl Borrow<K::SelfType<'k>>) -> Result<Option<AccessGuard<'static, V>>, StorageError> {
        with_encoded_key::<K, _>(key.borrow(), |key| self.find(key)).map_err(|error| error.in_table(&self.name))
    }

    fn find(&self, key: &[u8]) -> Result<Option<AccessGuard<'static, V>>> {
        self.rows.get(key)?.map(AccessGuard::of_value).transpose()
    }

    /// The rows whose keys lie in `range`, in key order, from both ends. Where the start is above the end there are
    /// none.
    ///
    /// # Errors
    /// When a page cannot be read or is damaged.
    pub fn range<'k, B>(&self, range: impl RangeBounds<B>) -> Result<Range<'static, K, V>, StorageError>
    where
        B: Borrow<K::SelfType<'k>>,
    {
        with_encoded_bounds::<K, B, _>(&range, |start, end| self.rows(start, end))
    }

    /// The rows whose keys start with `prefix`; see [`PrefixKey`].
    ///
    /// # Errors
    /// When a page cannot be read or is damaged.
    pub fn prefix<'k>(&self, prefix: impl Borrow<K::Prefix<'k>>) -> Result<Range<'static, K, V>, StorageError>
    where
        K: PrefixKey,
    {
        let bounds = encode_prefix_bounds::<K>(prefix.borrow());
        let (start, end) = as_slices(&bounds);
        self.rows(start, end)
    }

    /// All rows in key order, from both ends.
    ///
    /// # Errors
    /// When a page cannot be read or is damaged.
    pub fn iter(&self) -> Result<Range<'static, K, V>, StorageError> {
        self.rows(Bound::Unbounded, Bound::Unbounded)
    }

    fn rows(&self, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Result<Range<'static, K, V>> {
        let (rows, table) = (&self.rows, Arc::clone(&self.name));
        if rows.delta.is_empty() {
            let cursor = RangeCursor::new(rows.pages.clone(), &rows.root, start, end);
            let cursor = cursor.map_err(|error| error.in_table(&table))?;
            return Ok(Range::new(Rows::Snapshot { cursor, table }));
        }
        let cursor = rows.range(start, end).map_err(|error| error.in_table(&table))?;
        Ok(Range::new(Rows::Overlaid { cursor, table }))
    }

    /// The row with the lowest key.
    ///
    /// # Errors
    /// When a page cannot be read or is damaged.
    pub fn first(&self) -> Result<Option<Row<'static, K, V>>, StorageError> {
        self.iter()?.next().transpose()
    }

    /// The row with the highest key.
    ///
    /// # Errors
    /// When a page cannot be read or is damaged.
    pub fn last(&self) -> Result<Option<Row<'static, K, V>>, StorageError> {
        self.iter()?.next_back().transpose()
    }

    /// Number of rows. Costs a lookup for each recent change that was made without one, by `put` or `delete` or before a crash,
    /// until a checkpoint has brought it into the tree; otherwise nothing.
    ///
    /// # Errors
    /// When a page cannot be read or is damaged.
    pub fn len(&self) -> Result<u64, StorageError> {
        self.rows.len().map_err(|error| error.in_table(&self.name))
    }

    /// Whether there is no row.
    ///
    /// # Errors
    /// When a page cannot be read or is damaged.
    pub fn is_empty(&self) -> Result<bool, StorageError> {
        self.rows.is_empty().map_err(|error| error.in_table(&self.name))
    }
}

impl<K: Key + 'static, V: Value + 'static> Clone for ReadOnlyTable<K, V> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.name), self.rows.clone())
    }
}

impl<K: Key + 'static, V: Value + 'static> TableHandle for ReadOnlyTable<K, V> {
    fn name(&self) -> &str {
        &self.name
    }
}

impl<K: Key + 'static, V: Value + 'static> sealed::Sealed for ReadOnlyTable<K, V> {}

impl<K: Key + 'static, V: Value + 'static> fmt::Debug for ReadOnlyTable<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadOnlyTable").field("name", &self.name).finish_non_exhaustive()
    }
}
