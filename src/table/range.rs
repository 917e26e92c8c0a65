//! Typed iteration over rows, and how typed bounds become byte bounds.
//!
//! Invariant: an inverted or empty range yields nothing; it is never an error and never a panic.
//! Layer 6 (table).

use super::guard::{AccessGuard, check};
use super::traits::{Key, Value};
use crate::base::error::{Result, StorageError};
use crate::base::sync::Arc;
use crate::btree::cursor::{Found, RangeCursor};
use crate::btree::overlaid::{Met, OverlaidCursor, key_of, value_of};
use crate::btree::tree::{Pages, SnapshotPages, TreeMut};
use crate::pages::snapshot::PageRef;
use std::borrow::Borrow;
use std::fmt;
use std::iter::FusedIterator;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};

/// A row: its key and its value.
pub type Row<'a, K, V> = (AccessGuard<'a, K>, AccessGuard<'a, V>);

/// Rows of a table in key order, from both ends.
///
/// Yields `Err` at most once, and nothing after it. A range of a read transaction owns its snapshot.
#[must_use = "a range does nothing until it is iterated"]
pub struct Range<'a, K: Key + 'static, V: Value + 'static> {
    rows: Rows<'a>,
    types: PhantomData<fn() -> (K, V)>,
}

/// Where rows come from.
pub(crate) enum Rows<'a> {
    Snapshot { cursor: RangeCursor<SnapshotPages>, table: Arc<String> },
    Overlaid { cursor: OverlaidCursor, table: Arc<String> },
    Writer { cursor: RangeCursor<&'a TreeMut>, table: &'a str },
    OverlaidWriter { cursor: OverlaidCursor, table: &'a str },
}

impl<'a, K: Key + 'static, V: Value + 'static> Range<'a, K, V> {
    pub(crate) fn new(rows: Rows<'a>) -> Self {
        Self { rows, types: PhantomData }
    }

    #[inline(always)]
    fn step(&mut self, forward: bool) -> Option<Result<Row<'a, K, V>>> {
        match &mut self.rows {
            Rows::Snapshot { cursor, table } => step(cursor, table, forward),
            Rows::Overlaid { cursor, table } => step_overlaid(cursor, table, forward),
            Rows::Writer { cursor, table } => step(cursor, table, forward),
            Rows::OverlaidWriter { cursor, table } => step_overlaid(cursor, table, forward),
        }
    }
}

#[inline(always)]
fn step<'a, P: Pages<Node = PageRef<'a>>, K: Key + 'static, V: Value + 'static>(
    cursor: &mut RangeCursor<P>,
    table: &str,
    forward: bool,
) -> Option<Result<Row<'a, K, V>>> {
    let row = match if forward { cursor.next() } else { cursor.previous() } {
        Ok(Some(found)) => guards(&found),
        Ok(None) => return None,
        Err(error) => Err(error),
    };
    if row.is_err() {
        cursor.finish();
    }
    Some(row.map_err(|error| error.in_table(table)))
}

fn step_overlaid<'a, K: Key + 'static, V: Value + 'static>(
    cursor: &mut OverlaidCursor,
    table: &str,
    forward: bool,
) -> Option<Result<Row<'a, K, V>>> {
    let row = match cursor.next(forward) {
        Ok(Some(met)) => met_guards(&met),
        Ok(None) => return None,
        Err(error) => Err(error),
    };
    if row.is_err() {
        cursor.finish();
    }
    Some(row.map_err(|error| error.in_table(table)))
}

/// The typed row that a cursor came across.
fn met_guards<K: Key + 'static, V: Value + 'static>(met: &Met<'_>) -> Result<Row<'static, K, V>> {
    match met {
        Met::InTree(found) => guards(found),
        Met::Changed(row) => Ok((AccessGuard::of_key(key_of(row))?, AccessGuard::of_value(value_of(row))?)),
    }
}

/// The typed row at which a cursor stands.
#[inline(always)]
pub(crate) fn guards<'a, P: Pages<Node = PageRef<'a>>, K: Key + 'static, V: Value + 'static>(
    found: &Found<'_, P>,
) -> Result<Row<'a, K, V>> {
    // What is checked where it stands can be put together where it is handed out, without being moved.
    if let Some((key, value)) = found.in_leaf().filter(|_| K::KEY_BYTES_ARE_VALUE_BYTES) {
        check::<K>(key, "key")?;
        check::<V>(value, "value")?;
        return Ok((AccessGuard::of_checked(found.keep(key)), AccessGuard::of_checked(found.keep(value))));
    }
    guards_put_together(found)
}

#[cold]
fn guards_put_together<'a, P: Pages<Node = PageRef<'a>>, K: Key + 'static, V: Value + 'static>(
    found: &Found<'_, P>,
) -> Result<Row<'a, K, V>> {
    let (key, value) = found.key_and_value()?;
    Ok((AccessGuard::of_key(key)?, AccessGuard::of_value(value)?))
}

impl<'a, K: Key + 'static, V: Value + 'static> Iterator for Range<'a, K, V> {
    type Item = Result<Row<'a, K, V>, StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step(true)
    }
}

impl<K: Key + 'static, V: Value + 'static> DoubleEndedIterator for Range<'_, K, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(false)
    }
}

impl<K: Key + 'static, V: Value + 'static> FusedIterator for Range<'_, K, V> {}

impl<K: Key + 'static, V: Value + 'static> fmt::Debug for Range<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Range").finish_non_exhaustive()
    }
}

/// The ordered bytes of a key.
pub(crate) fn encode_key<'k, K: Key + 'static>(key: &K::SelfType<'k>) -> Vec<u8> {
    let mut bytes = Vec::new();
    K::encode_key(key, &mut bytes);
    bytes
}

/// Lends the ordered bytes of a key, without a copy where they are its value bytes.
pub(crate) fn with_encoded_key<'k, K: Key + 'static, T>(key: &K::SelfType<'k>, use_key: impl FnOnce(&[u8]) -> T) -> T {
    if K::KEY_BYTES_ARE_VALUE_BYTES { use_key(K::as_bytes(key).as_ref()) } else { use_key(&encode_key::<K>(key)) }
}

/// Byte bounds of a typed range.
pub(crate) fn encode_bounds<'k, K: Key + 'static, B: Borrow<K::SelfType<'k>>>(
    range: &impl RangeBounds<B>,
) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
    let encode = |bound: Bound<&B>| bound.map(|key| encode_key::<K>(key.borrow()));
    (encode(range.start_bound()), encode(range.end_bound()))
}

/// Lends the byte bounds of a typed range, without copies where a key's bytes are its value bytes.
pub(crate) fn with_encoded_bounds<'k, K: Key + 'static, B: Borrow<K::SelfType<'k>>, T>(
    range: &impl RangeBounds<B>,
    use_bounds: impl FnOnce(Bound<&[u8]>, Bound<&[u8]>) -> T,
) -> T {
    if !K::KEY_BYTES_ARE_VALUE_BYTES {
        let bounds = encode_bounds::<K, B>(range);
        let (start, end) = as_slices(&bounds);
        return use_bounds(start, end);
    }
    let start = range.start_bound().map(|key| K::as_bytes(key.borrow()));
    let end = range.end_bound().map(|key| K::as_bytes(key.borrow()));
    use_bounds(start.as_ref().map(AsRef::as_ref), end.as_ref().map(AsRef::as_ref))
}

/// Bounds as the trees take them.
pub(crate) fn as_slices(bounds: &(Bound<Vec<u8>>, Bound<Vec<u8>>)) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (as_slice(&bounds.0), as_slice(&bounds.1))
}

/// A bound as the trees take it.
pub(crate) fn as_slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    bound.as_ref().map(Vec::as_slice)
}
