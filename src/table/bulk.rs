//! Changes of many rows by one call.
//!
//! Invariant: a predicate is asked about each row of its range at most once, in key order; one that panics poisons the
//! transaction.
//! Layer 6 (table).

use super::extract::ExtractIf;
use super::guard::AccessGuard;
use super::prefix::{PrefixKey, encode_prefix_bounds};
use super::range::{Row, as_slice, as_slices, encode_bounds, guards, with_encoded_key};
use super::read_write::Table;
use super::traits::{Key, Value};
use crate::base::error::{Result, StorageError};
use crate::btree::remove::Edge;
use crate::btree::search::RowBytes;
use crate::btree::sweep::Sweep;
use crate::pages::snapshot::PageRef;
use crate::txn::staged::OpenRows;
use std::borrow::Borrow;
use std::cell::RefCell;
use std::ops::{Bound, RangeBounds};

/// Bounds of a range of keys, as bytes.
type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// Bytes of a row that stays readable by itself.
type KeyBytes = RowBytes<PageRef<'static>>;
type ValueBytes = RowBytes<PageRef<'static>>;

/// So many removals of one sweep are laid over a tree: more of them cost less in one pass over the leaves.
pub(super) const OVERLAID_MAX: u64 = 1024;

const EVERYTHING: Bounds = (Bound::Unbounded, Bound::Unbounded);

impl<K: Key + 'static, V: Value + 'static> Table<'_, K, V> {
    /// Sets the values of many keys, in any order; of equal keys the last one counts. The same as as many calls of
    /// [`put`](Self::put).
    ///
    /// # Errors
    /// As [`put`](Self::put): after [`StorageError::KeyTooLarge`] and [`StorageError::ValueTooLarge`] the rows before
    /// the refused one are in the table; after any other error the transaction can only be aborted.
    pub fn put_many<'k, 'v, KR, VR>(&mut self, rows: impl IntoIterator<Item = (KR, VR)>) -> Result<(), StorageError>
    where
        KR: Borrow<K::SelfType<'k>>,
        VR: Borrow<V::SelfType<'v>>,
    {
        rows.into_iter().try_for_each(|(key, value)| self.put(key, value))
    }

    /// Sets the values of many keys that ascend strictly, and returns how many they were.
    ///
    /// This is the fastest way to fill a table: nothing is sorted, and pages that lie behind the last row of the table
    /// are filled completely. Rows may also lie between those of the table, or replace them.
    ///
    /// ```
    /// # fn main() -> Result<(), cowslip::Error> {
    /// use cowslip::{Database, TableDefinition};
    /// const SQUARES: TableDefinition<u64, u64> = TableDefinition::new("squares");
    /// let db = Database::in_memory()?;
    /// db.update(|tx| {
    ///     let mut squares = tx.open_table(SQUARES)?;
    ///     assert_eq!(squares.bulk_load((0..1000).map(|number| (number, number * number)))?, 1000);
    ///     Ok::<_, cowslip::Error>(())
    /// })
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`StorageError::UnsortedRows`] names the first row that does not come after the one before it. As after
    /// [`StorageError::KeyTooLarge`] and [`StorageError::ValueTooLarge`], the rows before it are in the table and it is
    /// not. After any other error the transaction can only be aborted.
    pub fn bulk_load<'k, 'v, KR, VR>(&mut self, rows: impl IntoIterator<Item = (KR, VR)>) -> Result<u64, StorageError>
    where
        KR: Borrow<K::SelfType<'k>>,
        VR: Borrow<V::SelfType<'v>>,
    {
        let (mut count, mut last) = (0, Vec::new());
        for (key, value) in rows {
            let value = V::as_bytes(value.borrow());
            with_encoded_key::<K, _>(key.borrow(), |key| {
                if count > 0 && key <= &last[..] {
                    return Err(StorageError::UnsortedRows { row: count });
                }
                last.clear();
                last.extend_from_slice(key);
                self.buffer(key, Some(value.as_ref()))
            })?;
            count += 1;
        }
        Ok(count)
    }

    /// Removes the rows whose keys lie in `range`, and returns how many they were. Where the start is above the end
    /// there are none.
    ///
    /// Cost: each leaf of the range is read once.
    ///
    /// # Errors
    /// After an error the transaction can only be aborted.
    pub fn remove_range<'k, B>(&mut self, range: impl RangeBounds<B>) -> Result<u64, StorageError>
    where
        B: Borrow<K::SelfType<'k>>,
    {
        self.remove_within(&encode_bounds::<K, B>(&range))
    }

    /// Removes the rows whose keys start with `prefix`, see [`PrefixKey`], and returns how many they were.
    ///
    /// # Errors
    /// After an error the transaction can only be aborted.
    pub fn remove_prefix<'k>(&mut self, prefix: impl Borrow<K::Prefix<'k>>) -> Result<u64, StorageError>
    where
        K: PrefixKey,
    {
        self.remove_within(&encode_prefix_bounds::<K>(prefix.borrow()))
    }

    fn remove_within(&mut self, bounds: &Bounds) -> Result<u64> {
        let mut removed = 0;
        self.sweep(bounds, &mut removed, |_, _| Ok(false), |sweep| sweep.remove_rest())?;
        Ok(removed)
    }

    /// Removes the rows of a range that do not stay. Few are laid over the tree; from many on the rest is done in one pass.
    fn sweep(
        &mut self,
        bounds: &Bounds,
        removed: &mut u64,
        mut stays: impl FnMut(KeyBytes, ValueBytes) -> Result<bool>,
        rest: impl FnOnce(&mut Sweep<'_>) -> Result<u64>,
    ) -> Result<()> {
        let (start, end) = as_slices(bounds);
        let (transaction, table) = self.parts();
        let swept = transaction.change(|| {
            let mut from = start.map(<[u8]>::to_vec);
            if let OpenRows::Overlaid(rows) = &table.rows {
                let mut cursor = rows.tree.range(start, end)?;
                let mut last = Vec::new();
                while *removed < OVERLAID_MAX {
                    let Some(met) = cursor.next(true)? else { return Ok(()) };
                    let (key, value) = met.key_and_value()?;
                    last.clear();
                    last.extend_from_slice(key.as_slice());
                    if !stays(key, value)? {
                        transaction.put(table, &last, None, Some(true))?;
                        *removed += 1;
                    }
                }
                from = Bound::Excluded(last);
            }
            transaction.fold(table)?;
            let mut sweep = Sweep::new(table.tree_mut()?.tree_mut()?, as_slice(&from), end);
            *removed += rest(&mut sweep)?;
            sweep.finish()?;
            transaction.spill_if_large(table)
        });
        swept.map_err(|error| error.in_table(&table.name))
    }

    /// Keeps the rows for which `predicate` says `true`, removes the others, and returns how many they were.
    ///
    /// Cost: one pass over the leaves; leaves of which nothing is removed stay as they are.
    ///
    /// ```
    /// # fn main() -> Result<(), cowslip::Error> {
    /// use cowslip::{Database, TableDefinition};
    /// const STOCK: TableDefinition<&str, u64> = TableDefinition::new("stock");
    /// let db = Database::in_memory()?;
    /// db.update(|tx| {
    ///     let mut stock = tx.open_table(STOCK)?;
    ///     stock.put_many([("bolts", 0), ("nuts", 7), ("pins", 0)])?;
    ///     assert_eq!(stock.retain(|_, count| count > 0)?, 2);
    ///     assert_eq!(stock.len()?, 1);
    ///     Ok::<_, cowslip::Error>(())
    /// })
    /// # }
    /// ```
    ///
    /// # Errors
    /// After an error, or where the predicate panicked, the transaction can only be aborted.
    pub fn retain<F>(&mut self, predicate: F) -> Result<u64, StorageError>
    where
        F: for<'f> FnMut(K::SelfType<'f>, V::SelfType<'f>) -> bool,
    {
        self.retain_within(&EVERYTHING, predicate)
    }

    /// As [`retain`](Self::retain), of the rows whose keys lie in `range`; all others stay.
    ///
    /// # Errors
    /// After an error, or where the predicate panicked, the transaction can only be aborted.
    pub fn retain_in<'k, B, F>(&mut self, range: impl RangeBounds<B>, predicate: F) -> Result<u64, StorageError>
    where
        B: Borrow<K::SelfType<'k>>,
        F: for<'f> FnMut(K::SelfType<'f>, V::SelfType<'f>) -> bool,
    {
        self.retain_within(&encode_bounds::<K, B>(&range), predicate)
    }

    fn retain_within<F>(&mut self, bounds: &Bounds, mut predicate: F) -> Result<u64>
    where
        F: for<'f> FnMut(K::SelfType<'f>, V::SelfType<'f>) -> bool,
    {
        let (mut removed, predicate) = (0, RefCell::new(&mut predicate));
        let stays = |key, value| {
            let (key, value) = (AccessGuard::<K>::of_key(key)?, AccessGuard::<V>::of_value(value)?);
            Ok(predicate.borrow_mut()(key.value(), value.value()))
        };
        self.sweep(bounds, &mut removed, stays, |sweep| {
            let mut removed = 0;
            while let Some(stays) = sweep.visit(|found| {
                let (key, value) = guards::<_, K, V>(found)?;
                Ok(predicate.borrow_mut()(key.value(), value.value()))
            })? {
                if !stays {
                    sweep.remove();
                    removed += 1;
                }
            }
            Ok(removed)
        })?;
        Ok(removed)
    }

    /// An iterator that removes and returns the rows for which `predicate` says `true`. Rows that it has not come to
    /// when it is dropped stay. One that is forgotten instead, with `mem::forget`, may leave the transaction such that it
    /// can only be aborted.
    ///
    /// Cost: one pass over the leaves that it comes to. From the back, one descent for each row.
    ///
    /// # Errors
    /// When earlier changes of the table cannot be applied; the transaction can then only be aborted.
    pub fn extract_if<F>(&mut self, predicate: F) -> Result<ExtractIf<'_, K, V, F>, StorageError>
    where
        F: for<'f> FnMut(K::SelfType<'f>, V::SelfType<'f>) -> bool,
    {
        self.extract_within(EVERYTHING, predicate)
    }

    /// As [`extract_if`](Self::extract_if), of the rows whose keys lie in `range`.
    ///
    /// # Errors
    /// When earlier changes of the table cannot be applied; the transaction can then only be aborted.
    pub fn extract_from_if<'k, B, F>(
        &mut self,
        range: impl RangeBounds<B>,
        predicate: F,
    ) -> Result<ExtractIf<'_, K, V, F>, StorageError>
    where
        B: Borrow<K::SelfType<'k>>,
        F: for<'f> FnMut(K::SelfType<'f>, V::SelfType<'f>) -> bool,
    {
        self.extract_within(encode_bounds::<K, B>(&range), predicate)
    }

    fn extract_within<F>(&mut self, bounds: Bounds, predicate: F) -> Result<ExtractIf<'_, K, V, F>> {
        let (transaction, table) = self.parts();
        let name = table.name.clone();
        transaction
            .change(|| ExtractIf::new(transaction, table, bounds, predicate))
            .map_err(|error| error.in_table(&name))
    }

    /// Removes the row with the lowest key and returns it.
    ///
    /// # Errors
    /// After an error the transaction can only be aborted.
    pub fn pop_first(&mut self) -> Result<Option<Row<'static, K, V>>, StorageError> {
        self.pop(Edge::First)
    }

    /// Removes the row with the highest key and returns it.
    ///
    /// # Errors
    /// After an error the transaction can only be aborted.
    pub fn pop_last(&mut self) -> Result<Option<Row<'static, K, V>>, StorageError> {
        self.pop(Edge::Last)
    }

    fn pop(&mut self, edge: Edge) -> Result<Option<Row<'static, K, V>>> {
        let (transaction, table) = self.parts();
        let popped = transaction.change(|| {
            let row = match &mut table.rows {
                OpenRows::Overlaid(rows) => {
                    let row = rows.tree.edge(edge == Edge::First)?;
                    if let Some((key, _)) = &row {
                        rows.tree.delta.set_end(edge == Edge::First, key);
                        transaction.put(table, key, None, Some(true))?;
                    }
                    row
                }
                OpenRows::InTree(tree) => {
                    let row = tree.tree_mut()?.pop(edge)?;
                    transaction.spill_if_large(table)?;
                    row
                }
            };
            let Some((key, value)) = row else { return Ok(None) };
            // What does not decode is found after the change, so it must poison.
            let key = AccessGuard::of_key(RowBytes::Owned(key))?;
            Ok(Some((key, AccessGuard::of_value(RowBytes::Owned(value))?)))
        });
        popped.map_err(|error| error.in_table(&table.name))
    }
}
