//! Removing and returning the rows that a predicate picks, one by one.
//!
//! Invariant: a row is asked about at most once, and gone only after it was returned; when the iterator is dropped the
//! table is whole.
//! Layer 6 (table).

use super::bulk::OVERLAID_MAX;
use super::guard::AccessGuard;
use super::range::{Row, as_slices, guards};
use super::traits::{Key, Value};
use crate::base::error::{Result, StorageError};
use crate::btree::cursor::RangeCursor;
use crate::btree::leaf;
use crate::btree::overlaid::OverlaidCursor;
use crate::btree::sweep::Sweep;
use crate::btree::tree::TreeMut;
use crate::txn::staged::{CheckedOut, OpenRows};
use crate::txn::write::WriteTransaction;
use std::fmt;
use std::iter::FusedIterator;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};

/// Rows that are removed while they are iterated; see [`Table::extract_if`](crate::Table::extract_if).
///
/// Yields `Err` at most once, and nothing after it; the transaction can then only be aborted.
#[must_use = "rows are removed only as far as the iterator is advanced"]
pub struct ExtractIf<'t, K: Key + 'static, V: Value + 'static, F> {
    transaction: &'t WriteTransaction,
    table: String,
    way: Way<'t>,
    /// What is left of the range, where it is not kept by a sweep.
    bounds: (Bound<Vec<u8>>, Bound<Vec<u8>>),
    predicate: F,
    types: PhantomData<fn() -> (K, V)>,
}

/// How the next row is come by.
enum Way<'t> {
    /// From both ends, over the rows as they were: removals are laid over the tree, as long as they are few.
    Overlaid {
        table: &'t mut CheckedOut,
        cursor: Box<OverlaidCursor>,
        removed: u64,
    },
    /// From the front only.
    Sweep(Box<Sweep<'t>>),
    /// From both ends: the bounds close in on each other.
    Direct(&'t mut TreeMut),
    Ended,
}

/// A row on its way out, and its key in the tree.
type Picked<K, V> = (Vec<u8>, Option<Row<'static, K, V>>);

impl<'t, K: Key + 'static, V: Value + 'static, F> ExtractIf<'t, K, V, F> {
    pub(super) fn new(
        transaction: &'t WriteTransaction,
        table: &'t mut CheckedOut,
        bounds: (Bound<Vec<u8>>, Bound<Vec<u8>>),
        predicate: F,
    ) -> Result<Self> {
        let (name, (start, end)) = (table.name.clone(), as_slices(&bounds));
        let overlaid = match &table.rows {
            OpenRows::Overlaid(rows) => Some(Box::new(rows.tree.range(start, end)?)),
            OpenRows::InTree(_) => None,
        };
        let way = match overlaid {
            Some(cursor) => Way::Overlaid { table, cursor, removed: 0 },
            None => Way::Sweep(Box::new(Sweep::new(table.tree_mut()?.tree_mut()?, start, end))),
        };
        Ok(Self { transaction, table: name, way, bounds, predicate, types: PhantomData })
    }

    /// Goes on with the tree, from both ends or from the front.
    fn go_on_in_tree(&mut self, forward: bool) -> Result<()> {
        if let Way::Overlaid { table, .. } = std::mem::replace(&mut self.way, Way::Ended) {
            self.transaction.fold(table)?;
            let tree = table.tree_mut()?.tree_mut()?;
            let (start, end) = as_slices(&self.bounds);
            self.way = if forward { Way::Sweep(Box::new(Sweep::new(tree, start, end))) } else { Way::Direct(tree) };
        }
        Ok(())
    }

    /// Puts the table together.
    fn end(&mut self) -> Result<()> {
        match std::mem::replace(&mut self.way, Way::Ended) {
            Way::Sweep(sweep) => self.transaction.change(|| sweep.finish().map(drop)),
            Way::Overlaid { .. } | Way::Direct(_) | Way::Ended => Ok(()),
        }
    }
}

impl<K: Key + 'static, V: Value + 'static, F> ExtractIf<'_, K, V, F>
where
    F: for<'f> FnMut(K::SelfType<'f>, V::SelfType<'f>) -> bool,
{
    /// Runs a step; without a row, or with an error, it was the last one.
    fn step(
        &mut self,
        step: impl FnOnce(&mut Self) -> Result<Option<Row<'static, K, V>>>,
    ) -> Option<Result<Row<'static, K, V>>> {
        if matches!(self.way, Way::Ended) {
            return None;
        }
        let transaction = self.transaction;
        let row = transaction.change(|| step(self)).transpose();
        match row {
            Some(Ok(_)) => row,
            None => self.end().err().map(|error| Err(error.in_table(&self.table))),
            Some(Err(error)) => {
                // The tree is in pieces and stays so: the transaction is poisoned.
                self.way = Way::Ended;
                Some(Err(error.in_table(&self.table)))
            }
        }
    }

    /// Asks row after row from one end until one is picked, and lays its removal over the tree.
    fn next_overlaid(&mut self, forward: bool) -> Result<Option<Row<'static, K, V>>> {
        let Self { transaction, way, bounds, predicate, .. } = self;
        let Way::Overlaid { table, cursor, removed } = way else { return Ok(None) };
        while let Some(met) = cursor.next(forward)? {
            let (key, value) = met.key_and_value()?;
            let bound = if forward { &mut bounds.0 } else { &mut bounds.1 };
            set_excluded(bound, key.as_slice());
            let (key, value) = (AccessGuard::<K>::of_key(key)?, AccessGuard::<V>::of_value(value)?);
            let is_picked = predicate(key.value(), value.value());
            if is_picked {
                if let Bound::Excluded(key) = bound {
                    transaction.put(table, key, None, Some(true))?;
                }
                *removed += 1;
                return Ok(Some((key.into_owned(), value.into_owned())));
            }
        }
        Ok(None)
    }

    fn next_picked(&mut self) -> Result<Option<Row<'static, K, V>>> {
        if let Way::Overlaid { removed, .. } = &self.way {
            if *removed < OVERLAID_MAX {
                return self.next_overlaid(true);
            }
            self.go_on_in_tree(true)?;
        }
        let Self { way, predicate, .. } = self;
        let Way::Sweep(sweep) = way else { return self.next_direct(true) };
        while let Some(picked) = sweep.visit(|found| {
            let (key, value) = guards::<_, K, V>(found)?;
            let is_picked = predicate(key.value(), value.value());
            Ok(is_picked.then(|| (key.into_owned(), value.into_owned())))
        })? {
            if picked.is_some() {
                sweep.remove();
                return Ok(picked);
            }
        }
        Ok(None)
    }

    fn next_back_picked(&mut self) -> Result<Option<Row<'static, K, V>>> {
        if let Way::Overlaid { removed, .. } = &self.way {
            if *removed < OVERLAID_MAX {
                return self.next_overlaid(false);
            }
            self.go_on_in_tree(false)?;
        }
        if let Way::Sweep(_) = self.way
            && let Way::Sweep(sweep) = std::mem::replace(&mut self.way, Way::Ended)
        {
            if let Some(start) = sweep.last_visited()? {
                self.bounds.0 = Bound::Excluded(start);
            }
            self.way = Way::Direct(sweep.finish()?);
        }
        self.next_direct(false)
    }

    /// Asks row after row from one end until one is picked, and removes that.
    fn next_direct(&mut self, forward: bool) -> Result<Option<Row<'static, K, V>>> {
        loop {
            let Way::Direct(tree) = &mut self.way else { return Ok(None) };
            let Some((key, picked)) = look(tree, &self.bounds, forward, &mut self.predicate)? else { return Ok(None) };
            // Where keys are out of order the same row could be met again and again.
            if !RangeBounds::<[u8]>::contains(&as_slices(&self.bounds), &key[..]) {
                return Err(StorageError::corrupted("the keys of a table are out of order"));
            }
            if picked.is_some() {
                tree.remove(&key)?;
                tree.spill_if_over_budget()?;
            }
            *if forward { &mut self.bounds.0 } else { &mut self.bounds.1 } = Bound::Excluded(key);
            if picked.is_some() {
                return Ok(picked);
            }
        }
    }
}

/// Makes a bound exclude a key, in the memory that it has.
fn set_excluded(bound: &mut Bound<Vec<u8>>, key: &[u8]) {
    match bound {
        Bound::Excluded(bytes) => {
            bytes.clear();
            bytes.extend_from_slice(key);
        }
        _ => *bound = Bound::Excluded(key.to_vec()),
    }
}

/// The outermost row within bounds, if it is picked, and its key; `None` where there is no row.
fn look<K: Key + 'static, V: Value + 'static>(
    tree: &TreeMut,
    bounds: &(Bound<Vec<u8>>, Bound<Vec<u8>>),
    forward: bool,
    predicate: &mut impl for<'f> FnMut(K::SelfType<'f>, V::SelfType<'f>) -> bool,
) -> Result<Option<Picked<K, V>>> {
    let (start, end) = as_slices(bounds);
    let mut cursor = RangeCursor::new(tree, tree.root(), start, end)?;
    let Some(found) = (if forward { cursor.next() } else { cursor.previous() })? else { return Ok(None) };
    let key_bytes = leaf::row(found.leaf, found.index).key.to_vec(&tree)?;
    let (key, value) = guards::<_, K, V>(&found)?;
    let is_picked = predicate(key.value(), value.value());
    Ok(Some((key_bytes, is_picked.then(|| (key.into_owned(), value.into_owned())))))
}

impl<K: Key + 'static, V: Value + 'static, F> Iterator for ExtractIf<'_, K, V, F>
where
    F: for<'f> FnMut(K::SelfType<'f>, V::SelfType<'f>) -> bool,
{
    type Item = Result<Row<'static, K, V>, StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(Self::next_picked)
    }
}

impl<K: Key + 'static, V: Value + 'static, F> DoubleEndedIterator for ExtractIf<'_, K, V, F>
where
    F: for<'f> FnMut(K::SelfType<'f>, V::SelfType<'f>) -> bool,
{
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(Self::next_back_picked)
    }
}

impl<K: Key + 'static, V: Value + 'static, F> FusedIterator for ExtractIf<'_, K, V, F> where
    F: for<'f> FnMut(K::SelfType<'f>, V::SelfType<'f>) -> bool
{
}

impl<K: Key + 'static, V: Value + 'static, F> Drop for ExtractIf<'_, K, V, F> {
    fn drop(&mut self) {
        if self.transaction.is_poisoned() {
            return;
        }
        if let Err(error) = self.end() {
            self.transaction.tell_at_commit(error.in_table(&self.table));
        }
    }
}

impl<K: Key + 'static, V: Value + 'static, F> fmt::Debug for ExtractIf<'_, K, V, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExtractIf").field("table", &self.table).finish_non_exhaustive()
    }
}
