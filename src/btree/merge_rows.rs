//! Rows on their way into the leaves that a merge builds.
//!
//! Invariant: the rows stand in key order, as far as their keys are inline.
//! Layer 3 (btree).

use super::build::{Rows, lengths, prefix_len};
use super::key::KeyCell;
use super::leaf::{self, Row, ValueCell};
use super::node::HEADER_BYTES;
use crate::pages::extent::EXTENT_BYTES;

/// Where the parts of a row stand among the bytes: inline key, rest, value.
#[derive(Debug, Clone, Copy)]
struct Place {
    at: usize,
    key_len: usize,
    has_rest: bool,
    value_len: usize,
    is_value_extent: bool,
}

/// Rows that are copied together until they fill a leaf: a few nodes of them at most.
#[derive(Debug, Default)]
pub(super) struct PendingRows {
    bytes: Vec<u8>,
    places: Vec<Place>,
    /// Bytes of all rows in a leaf with no prefix and no lengths.
    heap_bytes: usize,
    /// How many rows from the front have the same lengths and could stand in a uniform leaf.
    even_rows: usize,
}

fn array(bytes: &[u8]) -> &[u8; EXTENT_BYTES] {
    bytes.first_chunk().expect("the place says that an extent stands there")
}

impl PendingRows {
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(super) fn row(&self, index: usize) -> Row<'_> {
        let place = &self.places[index];
        let (key, next) = self.bytes[place.at..].split_at(place.key_len);
        let (rest, next) = if place.has_rest { (Some(array(next)), &next[EXTENT_BYTES..]) } else { (None, next) };
        let value = if place.is_value_extent {
            ValueCell::Extent(array(next))
        } else {
            ValueCell::Inline(&next[..place.value_len])
        };
        Row { key: KeyCell { prefix: &[], suffix: key, rest }, value }
    }

    pub(super) fn last(&self) -> Option<Row<'_>> {
        self.places.len().checked_sub(1).map(|last| self.row(last))
    }

    pub(super) fn push(&mut self, row: &Row<'_>) {
        let (at, value) = (self.bytes.len(), row.value.stored());
        self.bytes.extend_from_slice(row.key.prefix);
        self.bytes.extend_from_slice(row.key.suffix);
        if let Some(rest) = row.key.rest {
            self.bytes.extend_from_slice(rest);
        }
        self.bytes.extend_from_slice(value);
        self.places.push(Place {
            at,
            key_len: row.key.inline_len(),
            has_rest: row.key.rest.is_some(),
            value_len: value.len(),
            is_value_extent: matches!(row.value, ValueCell::Extent(_)),
        });
        self.heap_bytes += leaf::entry_bytes(row, 0, true);
        let last = self.places.len() - 1;
        if self.even_rows == last && lengths(row).is_some() && lengths(row) == lengths(&self.row(0)) {
            self.even_rows += 1;
        }
    }

    /// Whether a leaf of `node_bytes` would hold all rows and one more behind them.
    pub(super) fn would_fit(&mut self, row: &Row<'_>, node_bytes: usize) -> bool {
        let (bytes, heap_bytes, even_rows) = (self.bytes.len(), self.heap_bytes, self.even_rows);
        self.push(row);
        let fits = self.leaf_bytes() <= node_bytes;
        self.bytes.truncate(bytes);
        self.places.pop();
        (self.heap_bytes, self.even_rows) = (heap_bytes, even_rows);
        fits
    }

    /// At least the size of a leaf over all rows.
    pub(super) fn leaf_bytes_bound(&self) -> usize {
        HEADER_BYTES + self.heap_bytes + self.places.len() * leaf::row_bytes(0, false, 0)
    }

    /// The size of a leaf over all rows.
    pub(super) fn leaf_bytes(&self) -> usize {
        let count = self.places.len();
        let Some(last) = self.last() else { return HEADER_BYTES };
        let first = self.row(0);
        let prefix = prefix_len(&first.key, &last.key, count);
        let is_uniform =
            self.even_rows == count && leaf::entry_bytes(&first, prefix, true) >= leaf::UNIFORM_ENTRY_BYTES_MIN;
        let lengths = if is_uniform { leaf::row_bytes(0, false, 0) - leaf::ROW_OVERHEAD_BYTES } else { 0 };
        self.leaf_bytes_bound() + prefix - count * (prefix + lengths)
    }

    pub(super) fn rows(&self) -> Rows<'_> {
        Rows::new((0..self.len()).map(|index| self.row(index)).collect())
    }

    /// Forgets the first rows, which stand in a leaf by now.
    pub(super) fn drop_front(&mut self, count: usize) {
        let from = self.places.get(count).map_or(self.bytes.len(), |place| place.at);
        for index in 0..count {
            self.heap_bytes -= leaf::entry_bytes(&self.row(index), 0, true);
        }
        self.bytes.drain(..from);
        self.places.drain(..count);
        for place in &mut self.places {
            place.at -= from;
        }
        self.even_rows = match self.places.is_empty() {
            true => 0,
            false => {
                let expected = lengths(&self.row(0));
                let same = |index: &usize| expected.is_some() && lengths(&self.row(*index)) == expected;
                (0..self.len()).take_while(same).count()
            }
        };
    }
}
