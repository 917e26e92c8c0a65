//! Leaves: rows in key order, found by dense heads.
//!
//! Invariant: heads, slots and entries agree; entries of a uniform leaf carry no lengths.
//! Layer 3 (btree). Bytes: design.md, "Leaf".

use super::key::{Extents, KeyCell, search_head, strip_prefix};
use super::node::{self, HEAD_BYTES, HEADER_BYTES, OUT_OF_LINE, SLOT_BYTES};
use crate::base::error::Result;
use crate::pages::extent::EXTENT_BYTES;
use crate::pages::frames::prefetch;
use std::cmp::Ordering;
use std::ops::Range;

/// Bytes of the two lengths of an entry in a leaf that is not uniform.
const LENGTHS_BYTES: usize = 4;

/// Entries of a uniform leaf are at least this long. Shorter ones would gain lengths that more than halve how many
/// fit, so that a leaf which stops being uniform might not fit in two.
pub(crate) const UNIFORM_ENTRY_BYTES_MIN: usize = 2;

/// The most that a row may take, arrays and lengths included: a quarter of what a node holds.
pub(crate) fn row_bytes_max(node_bytes: usize) -> usize {
    (node_bytes - HEADER_BYTES) / 4
}

/// Bytes that a row takes in a leaf with neither prefix nor uniform entries.
pub(crate) fn row_bytes(key_inline_len: usize, has_rest: bool, value_stored_len: usize) -> usize {
    let rest = if has_rest { EXTENT_BYTES } else { 0 };
    ROW_OVERHEAD_BYTES + LENGTHS_BYTES + key_inline_len + rest + value_stored_len
}

/// A value inside a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ValueCell<'a> {
    Inline(&'a [u8]),
    /// The value is out of line, where the encoded extent says.
    Extent(&'a [u8; EXTENT_BYTES]),
}

impl<'a> ValueCell<'a> {
    pub(crate) fn stored(&self) -> &'a [u8] {
        match self {
            Self::Inline(bytes) => bytes,
            Self::Extent(encoded) => &encoded[..],
        }
    }
}

/// One row of a leaf.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row<'a> {
    pub(crate) key: KeyCell<'a>,
    pub(crate) value: ValueCell<'a>,
}

/// Of the arrays of a leaf, as much as is asked for at once: all of them where rows are of common size.
const NEAR_ARRAYS_BYTES: usize = 6 * 64;

/// Of the prefix, which ends the leaf, as much as is asked for with the arrays.
const NEAR_PREFIX_BYTES: usize = 64;

/// Brings the header and the arrays of a leaf near that was not looked at yet, so that the search waits once for all.
pub(crate) fn prefetch_arrays(leaf: &[u8]) {
    prefetch(leaf, 0..NEAR_ARRAYS_BYTES);
    prefetch(leaf, leaf.len().saturating_sub(NEAR_PREFIX_BYTES)..leaf.len());
}

fn heads_at(index: usize) -> usize {
    HEADER_BYTES + index * HEAD_BYTES
}

fn slot_at(count: usize, index: usize) -> usize {
    HEADER_BYTES + count * HEAD_BYTES + index * SLOT_BYTES
}

fn arrays_end(count: usize) -> usize {
    HEADER_BYTES + count * (HEAD_BYTES + SLOT_BYTES)
}

pub(crate) fn heads(leaf: &[u8]) -> &[u8] {
    &leaf[HEADER_BYTES..heads_at(node::count(leaf))]
}

/// Where the entry of row `index` starts.
pub(crate) fn entry_offset(leaf: &[u8], index: usize) -> usize {
    usize::from(node::get_u16(leaf, slot_at(node::count(leaf), index)))
}

/// Splits off the array that the caller knows to be there.
fn extent_at(bytes: &[u8], at: usize) -> &[u8; EXTENT_BYTES] {
    bytes[at..at + EXTENT_BYTES].try_into().expect("the slice has that length")
}

/// Row `index`.
#[inline]
pub(crate) fn row(leaf: &[u8], index: usize) -> Row<'_> {
    entry(leaf, entry_offset(leaf, index))
}

/// The row whose entry starts at `at`.
#[inline]
pub(crate) fn entry(leaf: &[u8], at: usize) -> Row<'_> {
    let prefix = node::prefix(leaf);
    if node::is_uniform(leaf) {
        let (key_len, value_len) = (node::uniform_key_len(leaf), node::uniform_value_len(leaf));
        let suffix = &leaf[at..at + key_len];
        let value = &leaf[at + key_len..at + key_len + value_len];
        return Row { key: KeyCell { prefix, suffix, rest: None }, value: ValueCell::Inline(value) };
    }
    let (key_word, value_word) = (node::get_u16(leaf, at), node::get_u16(leaf, at + 2));
    let key_len = usize::from(key_word & !OUT_OF_LINE);
    let mut next = at + LENGTHS_BYTES + key_len;
    let suffix = &leaf[at + LENGTHS_BYTES..next];
    let rest = (key_word & OUT_OF_LINE != 0).then(|| {
        next += EXTENT_BYTES;
        extent_at(leaf, next - EXTENT_BYTES)
    });
    let value = if value_word & OUT_OF_LINE != 0 {
        ValueCell::Extent(extent_at(leaf, next))
    } else {
        ValueCell::Inline(&leaf[next..next + usize::from(value_word)])
    };
    Row { key: KeyCell { prefix, suffix, rest }, value }
}

/// Bytes that an entry takes in the heap.
pub(crate) fn entry_bytes(row: &Row<'_>, prefix_len: usize, uniform: bool) -> usize {
    let rest = if row.key.rest.is_some() { EXTENT_BYTES } else { 0 };
    let lengths = if uniform { 0 } else { LENGTHS_BYTES };
    lengths + row.key.inline_len() - prefix_len + rest + row.value.stored().len()
}

/// Bytes that a row of this leaf takes in it.
pub(crate) fn row_bytes_in(leaf: &[u8], row: &Row<'_>) -> usize {
    entry_bytes(row, node::prefix_len(leaf), node::is_uniform(leaf)) + ROW_OVERHEAD_BYTES
}

/// Bytes of a row beside its heap entry.
pub(crate) const ROW_OVERHEAD_BYTES: usize = HEAD_BYTES + SLOT_BYTES;

/// Finds a key: its index, or where it would be inserted.
pub(crate) fn search(leaf: &[u8], key: &[u8], extents: &impl Extents) -> Result<std::result::Result<usize, usize>> {
    match candidates(leaf, key) {
        Ok((suffix, range)) => search_among(leaf, suffix, range, extents),
        Err(index) => Ok(Err(index)),
    }
}

/// The index of the first row whose key is at least `key`, or the number of rows. A scan begins there: its rows are on
/// their way while the keys are compared.
pub(crate) fn seek(leaf: &[u8], key: &[u8], extents: &impl Extents) -> Result<usize> {
    match candidates(leaf, key) {
        Ok((suffix, range)) => {
            prefetch_rows(leaf, range.start);
            Ok(search_among(leaf, suffix, range, extents)?.unwrap_or_else(|index| index))
        }
        Err(index) => Ok(index),
    }
}

/// The part of a key after the leaf's prefix and the rows whose heads equal its head; or where a key would stand that
/// the prefix excludes.
fn candidates<'k>(leaf: &[u8], key: &'k [u8]) -> std::result::Result<(&'k [u8], Range<usize>), usize> {
    match strip_prefix(node::prefix(leaf), key) {
        Ok(suffix) => Ok((suffix, node::equal_heads(heads(leaf), search_head(leaf, suffix)))),
        Err(Ordering::Less) => Err(0),
        Err(_) => Err(node::count(leaf)),
    }
}

fn search_among(
    leaf: &[u8],
    suffix: &[u8],
    range: Range<usize>,
    extents: &impl Extents,
) -> Result<std::result::Result<usize, usize>> {
    // The row that is the only one is likely to be the one that is wanted: its value will be, too.
    let near_bytes = if range.len() == 1 { NEAR_ENTRY_BYTES } else { NEAR_KEY_BYTES };
    for index in range.clone().take(NEAR_ROWS) {
        let at = entry_offset(leaf, index);
        prefetch(leaf, at..at + near_bytes);
    }
    let (mut low, mut high) = (range.start, range.end);
    while low < high {
        let middle = low + (high - low) / 2;
        match row(leaf, middle).key.compare_suffix(suffix, extents)? {
            Ordering::Equal => {
                let at = entry_offset(leaf, middle);
                prefetch(leaf, at + near_bytes..at + NEAR_ENTRY_BYTES);
                return Ok(Ok(middle));
            }
            Ordering::Less => high = middle,
            Ordering::Greater => low = middle + 1,
        }
    }
    Ok(Err(low))
}

/// Writes an entry at `at`. The key's inline bytes start with the leaf's prefix.
fn write_entry(leaf: &mut [u8], at: usize, row: &Row<'_>) {
    let (prefix_len, uniform) = (node::prefix_len(leaf), node::is_uniform(leaf));
    let mut next = at;
    let value = row.value.stored();
    if !uniform {
        let key_flag = if row.key.rest.is_some() { usize::from(OUT_OF_LINE) } else { 0 };
        let value_flag = if matches!(row.value, ValueCell::Extent(_)) { usize::from(OUT_OF_LINE) } else { 0 };
        node::put_u16(leaf, at, (row.key.inline_len() - prefix_len) | key_flag);
        node::put_u16(leaf, at + 2, value.len() | value_flag);
        next += LENGTHS_BYTES;
    }
    next += row.key.copy_inline(prefix_len, &mut leaf[next..]);
    if let Some(rest) = row.key.rest {
        leaf[next..next + EXTENT_BYTES].copy_from_slice(rest);
        next += EXTENT_BYTES;
    }
    leaf[next..next + value.len()].copy_from_slice(value);
}

/// Whether a row, given with its whole inline key, can stand in the leaf without changing the prefix or uniformity.
fn accepts(leaf: &[u8], row: &Row<'_>) -> bool {
    let prefix = node::prefix(leaf);
    let fits_uniform = || {
        row.key.rest.is_none()
            && matches!(row.value, ValueCell::Inline(_))
            && row.key.inline_len() - prefix.len() == node::uniform_key_len(leaf)
            && row.value.stored().len() == node::uniform_value_len(leaf)
    };
    row.key.prefix.is_empty() && row.key.suffix.starts_with(prefix) && (!node::is_uniform(leaf) || fits_uniform())
}

/// Inserts a row before row `index` where the free space between arrays and heap allows; `false` leaves the leaf as
/// it was.
pub(crate) fn insert(leaf: &mut [u8], index: usize, row: &Row<'_>) -> bool {
    let (count, heap_start) = (node::count(leaf), node::heap_start(leaf));
    if !accepts(leaf, row) {
        return false;
    }
    let size = entry_bytes(row, node::prefix_len(leaf), node::is_uniform(leaf));
    if heap_start < arrays_end(count + 1) + size {
        return false;
    }
    let at = heap_start - size;
    write_entry(leaf, at, row);
    node::set_heap_start(leaf, at);
    let head = node::head_of(entry(leaf, at).key.suffix);
    // The slot array moves by one head, its tail by one slot more; the heads' tail by one head.
    leaf.copy_within(slot_at(count, index)..slot_at(count, count), slot_at(count + 1, index + 1));
    leaf.copy_within(slot_at(count, 0)..slot_at(count, index), slot_at(count + 1, 0));
    leaf.copy_within(heads_at(index)..heads_at(count), heads_at(index + 1));
    leaf[heads_at(index)..heads_at(index + 1)].copy_from_slice(&head.to_be_bytes());
    node::put_u16(leaf, slot_at(count + 1, index), at);
    node::set_count(leaf, count + 1);
    true
}

/// Appends a row to a leaf that is being built and known to have room.
pub(crate) fn push(leaf: &mut [u8], index: usize, total: usize, row: &Row<'_>) {
    let size = entry_bytes(row, node::prefix_len(leaf), node::is_uniform(leaf));
    let at = node::heap_start(leaf) - size;
    write_entry(leaf, at, row);
    node::set_heap_start(leaf, at);
    let head = node::head_of(entry(leaf, at).key.suffix);
    leaf[heads_at(index)..heads_at(index + 1)].copy_from_slice(&head.to_be_bytes());
    node::put_u16(leaf, slot_at(total, index), at);
}

/// Removes row `index`. Its entry becomes garbage of the heap.
pub(crate) fn remove(leaf: &mut [u8], index: usize) {
    let count = node::count(leaf);
    let at = entry_offset(leaf, index);
    let size = entry_bytes(&entry(leaf, at), node::prefix_len(leaf), node::is_uniform(leaf));
    if at == node::heap_start(leaf) {
        node::set_heap_start(leaf, at + size);
    } else {
        let garbage = node::garbage(leaf) + size;
        node::set_garbage(leaf, garbage);
    }
    leaf.copy_within(heads_at(index + 1)..heads_at(count), heads_at(index));
    leaf.copy_within(slot_at(count, 0)..slot_at(count, index), slot_at(count - 1, 0));
    leaf.copy_within(slot_at(count, index + 1)..slot_at(count, count), slot_at(count - 1, index));
    node::set_count(leaf, count - 1);
}

/// Overwrites the value of row `index` where the new one is stored in as many bytes and the same way.
pub(crate) fn replace_value(leaf: &mut [u8], index: usize, value: &ValueCell<'_>) -> bool {
    let at = entry_offset(leaf, index);
    let old = entry(leaf, at);
    if std::mem::discriminant(&old.value) != std::mem::discriminant(value)
        || old.value.stored().len() != value.stored().len()
    {
        return false;
    }
    let end = at + entry_bytes(&old, node::prefix_len(leaf), node::is_uniform(leaf));
    leaf[end - value.stored().len()..end].copy_from_slice(value.stored());
    true
}

/// Lays the entries out in key order, the first at the lowest address, and leaves no garbage among them: a scan then
/// reads the heap from one end to the other.
pub(crate) fn order_heap(leaf: &mut [u8]) {
    let count = node::count(leaf);
    let (mut next, mut ordered) = (node::heap_start(leaf), node::garbage(leaf) == 0);
    for index in 0..count {
        let at = entry_offset(leaf, index);
        ordered &= at == next;
        next = at + entry_len(leaf, at);
    }
    if ordered {
        return;
    }
    let before = leaf.to_vec();
    let mut at = node::heap_end(leaf);
    for index in (0..count).rev() {
        let from = entry_offset(&before, index);
        let len = entry_len(&before, from);
        at -= len;
        leaf[at..at + len].copy_from_slice(&before[from..from + len]);
        node::put_u16(leaf, slot_at(count, index), at);
    }
    leaf[arrays_end(count)..at].fill(0);
    node::set_heap_start(leaf, at);
    node::set_garbage(leaf, 0);
}

/// Bytes of the entry at `at`.
fn entry_len(leaf: &[u8], at: usize) -> usize {
    entry_bytes(&entry(leaf, at), node::prefix_len(leaf), node::is_uniform(leaf))
}

/// Bytes that rows, prefix and header use, garbage not counted.
pub(crate) fn used_bytes(leaf: &[u8]) -> usize {
    arrays_end(node::count(leaf)) + (leaf.len() - node::heap_start(leaf)) - node::garbage(leaf)
}

/// How many rows a scan brings near at once.
pub(crate) const NEAR_ROWS: usize = 8;

/// Of a row that may be the one, how much is brought near to compare keys.
const NEAR_KEY_BYTES: usize = 128;

/// Of a row, how much is brought near with it.
const NEAR_ENTRY_BYTES: usize = 256;

/// Brings the next rows of a scan near, so that it waits for memory once and not once for each row: entries stand in
/// the order of their insertion until the leaf is written, which no hardware foresees.
///
/// Returns the row before which this need not be done again.
pub(crate) fn prefetch_rows(leaf: &[u8], from: usize) -> usize {
    let to = node::count(leaf).min(from + NEAR_ROWS);
    if from >= to {
        return to;
    }
    let (first, last) = (entry_offset(leaf, from), entry_offset(leaf, to - 1));
    if (first..first + NEAR_ROWS * NEAR_ENTRY_BYTES).contains(&last) {
        // Most likely all that lies between belongs to these rows; then the processor itself sees how it goes on.
        prefetch(leaf, first..last + NEAR_ENTRY_BYTES);
        return usize::MAX;
    }
    for index in from..to {
        let at = entry_offset(leaf, index);
        prefetch(leaf, at..at + NEAR_ENTRY_BYTES);
    }
    to
}

/// Where the stored bytes of row `index`'s value start.
#[cfg(test)]
pub(crate) fn value_offset(leaf: &[u8], index: usize) -> usize {
    row(leaf, index).value.stored().as_ptr().addr() - leaf.as_ptr().addr()
}
