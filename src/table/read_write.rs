//! A table as the write transaction changes it.
//!
//! Invariant: a change that fails or panics half-way poisons the transaction before anything else can be done with it.
//! Layer 6 (table).

use super::definition::{TableHandle, sealed};
use super::guard::AccessGuard;
use super::prefix::{PrefixKey, encode_prefix_bounds};
use super::range::{Range, Row, Rows, as_slices, encode_bounds, encode_key, with_encoded_key};
use super::traits::{Key, Value};
use crate::base::error::{Result, StorageError};
use crate::btree::cursor::RangeCursor;
use crate::btree::insert::check_sizes;
use crate::btree::overlaid::OverlaidTree;
use crate::btree::search::{self, RowBytes};
use crate::btree::tree::TreeMut;
use crate::txn::staged::{CheckedOut, OpenRows};
use crate::txn::write::WriteTransaction;
use std::borrow::Borrow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};

/// A table that can be read and changed.
///
/// Reads see the changes made through it. Dropping it keeps the changes in the transaction; they become visible to
/// others with the commit. It can be moved to another thread.
pub struct Table<'t, K: Key + 'static, V: Value + 'static> {
    transaction: &'t WriteTransaction,
    /// `None` only while it is dropped.
    open: Option<CheckedOut>,
    types: PhantomData<fn() -> (K, V)>,
}

/// Where the rows of a table are read.
enum View<'v> {
    Overlaid(&'v OverlaidTree),
    InTree(&'v TreeMut),
}

impl<'t, K: Key + 'static, V: Value + 'static> Table<'t, K, V> {
    pub(crate) fn new(transaction: &'t WriteTransaction, open: CheckedOut) -> Self {
        Self { transaction, open: Some(open), types: PhantomData }
    }

    fn open(&self) -> &CheckedOut {
        self.open.as_ref().expect("the table is open until it is dropped")
    }

    /// The rows with all changes applied, for reading; refused once an operation failed half-way.
    fn view(&self) -> Result<View<'_>> {
        self.transaction.change(|| match &self.open().rows {
            OpenRows::Overlaid(rows) => Ok(View::Overlaid(&rows.tree)),
            OpenRows::InTree(tree) => Ok(View::InTree(tree.tree()?)),
        })
    }

    fn open_mut(&mut self) -> &mut CheckedOut {
        self.open.as_mut().expect("the table is open until it is dropped")
    }

    /// Looks a key up.
    ///
    /// Cost: one descent of the tree.
    ///
    /// # Errors
    /// When a page cannot be read or is damaged.
    pub fn get<'k>(&self, key: impl Borrow<K::SelfType<'k>>) -> Result<Option<AccessGuard<'_, V>>, StorageError> {
        with_encoded_key::<K, _>(key.borrow(), |key| self.find(key)).map_err(|error| error.in_table(self.name()))
    }

    fn find(&self, key: &[u8]) -> Result<Option<AccessGuard<'_, V>>> {
        let value = match self.view()? {
            View::Overlaid(rows) => rows.get(key)?,
            View::InTree(tree) => match search::get(&tree, tree.root(), key)? {
                Some(row) => Some(row.into_value(&tree)?),
                None => None,
            },
        };
        value.map(AccessGuard::of_value).transpose()
    }

    /// Sets the value of a key, whether it was there or not, and returns the value that it had.
    ///
    /// Cost: one descent. Few and short changes are kept beside the tree; of a transaction with more than a MiB of them, the
    /// first to a node copies it.
    ///
    /// # Errors
    /// [`StorageError::KeyTooLarge`] and [`StorageError::ValueTooLarge`] change nothing. After any other error the
    /// transaction can only be aborted.
    pub fn insert<'k, 'v>(
        &mut self,
        key: impl Borrow<K::SelfType<'k>>,
        value: impl Borrow<V::SelfType<'v>>,
    ) -> Result<Option<AccessGuard<'static, V>>, StorageError> {
        let key = encode_key::<K>(key.borrow());
        let value = V::as_bytes(value.borrow());
        let value = value.as_ref();
        self.check_sizes(&key, value)?;
        self.change(&key, Some(value))
    }

    /// Sets the value of a key, whether it was there or not, without looking for the one that it had.
    ///
    /// Many such changes cost much less than as many calls of [`insert`](Self::insert): they are kept in memory, sorted,
    /// and applied in one pass over the leaves when the table is next read or changed otherwise, when they take their
    /// share of the cache, or when the table is dropped. An error of that pass is reported by the call that needs it, or
    /// by the commit; the transaction can then only be aborted.
    ///
    /// ```
    /// # fn main() -> Result<(), cowslip::Error> {
    /// use cowslip::{Database, TableDefinition};
    /// const SQUARES: TableDefinition<u64, u64> = TableDefinition::new("squares");
    /// let db = Database::in_memory()?;
    /// db.update(|tx| {
    ///     let mut squares = tx.open_table(SQUARES)?;
    ///     for number in 0..1000 {
    ///         squares.put(number, number * number)?;
    ///     }
    ///     squares.delete(13)?;
    ///     assert_eq!(squares.len()?, 999);
    ///     Ok::<_, cowslip::Error>(())
    /// })?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`StorageError::KeyTooLarge`] and [`StorageError::ValueTooLarge`] change nothing. After any other error the
    /// transaction can only be aborted.
    pub fn put<'k, 'v>(
        &mut self,
        key: impl Borrow<K::SelfType<'k>>,
        value: impl Borrow<V::SelfType<'v>>,
    ) -> Result<(), StorageError> {
        let value = V::as_bytes(value.borrow());
        with_encoded_key::<K, _>(key.borrow(), |key| self.buffer(key, Some(value.as_ref())))
    }

    /// Removes a key, if it is there, without looking for its value. Applied as [`put`](Self::put) is.
    ///
    /// # Errors
    /// [`StorageError::KeyTooLarge`] changes nothing. After any other error the transaction can only be aborted.
    pub fn delete<'k>(&mut self, key: impl Borrow<K::SelfType<'k>>) -> Result<(), StorageError> {
        with_encoded_key::<K, _>(key.borrow(), |key| self.buffer(key, None))
    }

    fn check_sizes(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        if self.transaction.is_poisoned() {
            return Err(StorageError::TransactionPoisoned);
        }
        check_sizes(self.transaction.layout(), key, value)
    }

    pub(super) fn buffer(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        self.check_sizes(key, value.unwrap_or_default())?;
        let transaction = self.transaction;
        let table = self.open_mut();
        let buffered = transaction.change(|| transaction.put(table, key, value, None));
        buffered.map_err(|error| error.in_table(&table.name))
    }

    /// Removes a key and returns the value that it had.
    ///
    /// # Errors
    /// After an error the transaction can only be aborted.
    pub fn remove<'k>(
        &mut self,
        key: impl Borrow<K::SelfType<'k>>,
    ) -> Result<Option<AccessGuard<'static, V>>, StorageError> {
        let key = encode_key::<K>(key.borrow());
        self.change(&key, None)
    }

    /// Sets the value of a key, or removes the row, and returns the value that it had.
    fn change(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<Option<AccessGuard<'static, V>>> {
        let transaction = self.transaction;
        let table = self.open_mut();
        let changed = transaction.change(|| {
            let old = match &mut table.rows {
                OpenRows::Overlaid(rows) => {
                    let old = rows.tree.get(key)?;
                    if old.is_some() || value.is_some() {
                        let had_row = Some(old.is_some());
                        transaction.put(table, key, value, had_row)?;
                    }
                    old
                }
                OpenRows::InTree(tree) => {
                    let tree = tree.tree_mut()?;
                    let old = match value {
                        Some(value) => tree.insert(key, value)?,
                        None => tree.remove(key)?,
                    };
                    transaction.spill_if_large(table)?;
                    old.map(RowBytes::Owned)
                }
            };
            // An old value that does not decode is an error after the change, so it too must poison.
            old.map(AccessGuard::of_value).transpose()
        });
        changed.map_err(|error| error.in_table(&table.name))
    }

    /// The transaction and the table.
    pub(super) fn parts(&mut self) -> (&'t WriteTransaction, &mut CheckedOut) {
        (self.transaction, self.open_mut())
    }

    /// The rows whose keys lie in `range`, in key order, from both ends. Where the start is above the end there are
    /// none.
    ///
    /// # Errors
    /// When a page cannot be read or is damaged.
    pub fn range<'k, B>(&self, range: impl RangeBounds<B>) -> Result<Range<'_, K, V>, StorageError>
    where
        B: Borrow<K::SelfType<'k>>,
    {
        self.rows(&encode_bounds::<K, B>(&range))
    }

    /// The rows whose keys start with `prefix`; see [`PrefixKey`].
    ///
    /// # Errors
    /// When a page cannot be read or is damaged.
    pub fn prefix<'k>(&self, prefix: impl Borrow<K::Prefix<'k>>) -> Result<Range<'_, K, V>, StorageError>
    where
        K: PrefixKey,
    {
        self.rows(&encode_prefix_bounds::<K>(prefix.borrow()))
    }

    /// All rows in key order, from both ends.
    ///
    /// # Errors
    /// When a page cannot be read or is damaged.
    pub fn iter(&self) -> Result<Range<'_, K, V>, StorageError> {
        self.rows(&(Bound::Unbounded, Bound::Unbounded))
    }

    fn rows(&self, bounds: &(Bound<Vec<u8>>, Bound<Vec<u8>>)) -> Result<Range<'_, K, V>> {
        let (start, end) = as_slices(bounds);
        let table = self.open().name.as_str();
        let rows = match self.view()? {
            View::Overlaid(rows) => rows.range(start, end).map(|cursor| Rows::OverlaidWriter { cursor, table }),
            View::InTree(tree) => {
                RangeCursor::new(tree, tree.root(), start, end).map(|cursor| Rows::Writer { cursor, table })
            }
        };
        rows.map(Range::new).map_err(|error| error.in_table(table))
    }

    /// The row with the lowest key.
    ///
    /// # Errors
    /// When a page cannot be read or is damaged.
    pub fn first(&self) -> Result<Option<Row<'_, K, V>>, StorageError> {
        self.iter()?.next().transpose()
    }

    /// The row with the highest key.
    ///
    /// # Errors
    /// When a page cannot be read or is damaged.
    pub fn last(&self) -> Result<Option<Row<'_, K, V>>, StorageError> {
        self.iter()?.next_back().transpose()
    }

    /// Number of rows. Costs a lookup for each recent change that was made without one, by `put` or `delete` or before a crash,
    /// until a checkpoint has brought it into the tree; otherwise nothing. In a transaction with many changes those that wait to
    /// be brought into the tree are brought there first.
    ///
    /// # Errors
    /// When a page cannot be read or is damaged, or an earlier operation failed half-way.
    pub fn len(&self) -> Result<u64, StorageError> {
        match self.view()? {
            View::Overlaid(rows) => rows.len().map_err(|error| error.in_table(self.name())),
            View::InTree(tree) => Ok(tree.root().rows),
        }
    }

    /// Whether there is no row.
    ///
    /// # Errors
    /// When a page cannot be read or is damaged, or an earlier operation failed half-way.
    pub fn is_empty(&self) -> Result<bool, StorageError> {
        match self.view()? {
            View::Overlaid(rows) => rows.is_empty().map_err(|error| error.in_table(self.name())),
            View::InTree(tree) => Ok(tree.root().rows == 0),
        }
    }
}

impl<K: Key + 'static, V: Value + 'static> Drop for Table<'_, K, V> {
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            self.transaction.check_in(open);
        }
    }
}

impl<K: Key + 'static, V: Value + 'static> TableHandle for Table<'_, K, V> {
    fn name(&self) -> &str {
        &self.open().name
    }
}

impl<K: Key + 'static, V: Value + 'static> sealed::Sealed for Table<'_, K, V> {}

impl<K: Key + 'static, V: Value + 'static> fmt::Debug for Table<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("name", &self.name()).finish_non_exhaustive()
    }
}
