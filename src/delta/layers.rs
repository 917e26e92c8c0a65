//! The changes that a version lays over its trees: two layers, of which the lower one is on its way into the trees.
//!
//! Invariant: what the upper layer says of a key counts before the lower, and either before the tree.
//! Layer 1 (delta).

use super::map::{Effect, Map, MapRange, Row, Sum};
use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::Arc;

/// Changes of all tables, by the table's id.
#[derive(Debug, Clone, Default)]
pub(crate) struct Layer {
    /// Ascending; no map is empty.
    tables: Arc<Vec<(u64, Map)>>,
    sum: Sum,
}

impl Layer {
    pub(crate) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// The changes of one table.
    pub(crate) fn table(&self, id: u64) -> Map {
        let place = self.tables.binary_search_by_key(&id, |(id, _)| *id);
        place.map_or_else(|_| Map::default(), |place| self.tables[place].1.clone())
    }

    /// Lays down the changes of a table instead of those that it had.
    pub(crate) fn set_table(&mut self, id: u64, map: Map) {
        self.sum = self.sum.minus(self.table(id).sum()).plus(map.sum());
        let tables = Arc::make_mut(&mut self.tables);
        match (tables.binary_search_by_key(&id, |(id, _)| *id), map.is_empty()) {
            (Ok(place), true) => drop(tables.remove(place)),
            (Ok(place), false) => tables[place].1 = map,
            (Err(_), true) => {}
            (Err(place), false) => tables.insert(place, (id, map)),
        }
    }

    /// Ids of the tables that it has changes of.
    pub(crate) fn ids(&self) -> impl Iterator<Item = u64> {
        self.tables.iter().map(|(id, _)| *id)
    }

    /// What all changes come to.
    pub(crate) fn sum(&self) -> Sum {
        self.sum
    }
}

/// What a version lays over its trees.
#[derive(Debug, Clone, Default)]
pub(crate) struct Delta {
    pub(crate) active: Layer,
    /// Is being written to the trees, or waits for that.
    pub(crate) frozen: Layer,
}

impl Delta {
    pub(crate) fn is_empty(&self) -> bool {
        self.active.is_empty() && self.frozen.is_empty()
    }

    /// Memory that the changes take.
    pub(crate) fn bytes(&self) -> u64 {
        self.active.sum().bytes + self.frozen.sum().bytes
    }

    /// The changes of one table.
    pub(crate) fn table(&self, id: u64) -> TableDelta {
        TableDelta { active: self.active.table(id), frozen: self.frozen.table(id), ends: [None, None] }
    }

    /// Forgets the changes of a table.
    pub(crate) fn forget(&mut self, id: u64) {
        self.active.set_table(id, Map::default());
        self.frozen.set_table(id, Map::default());
    }

    /// Makes one layer of both: the lower one did not get into the trees.
    pub(crate) fn collapse(&mut self) {
        for id in self.frozen.ids().collect::<Vec<_>>() {
            self.active.set_table(id, self.table(id).collapsed());
        }
        self.frozen = Layer::default();
    }

    /// Ids of all tables with changes, ascending.
    pub(crate) fn ids(&self) -> Vec<u64> {
        let mut ids: Vec<_> = self.active.ids().chain(self.frozen.ids()).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

/// The changes of one table.
#[derive(Debug, Clone, Default)]
pub(crate) struct TableDelta {
    pub(crate) active: Map,
    pub(crate) frozen: Map,
    /// The table has no row up to the first of these keys, and none from the second on, in trees and layers: whoever takes rows
    /// from an end need not pass over all that were taken before.
    ends: [Option<Arc<[u8]>>; 2],
}

impl TableDelta {
    pub(crate) fn is_empty(&self) -> bool {
        self.active.is_empty() && self.frozen.is_empty()
    }

    /// What became of a key, if anything did.
    #[inline]
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Row> {
        self.active.get(key).or_else(|| self.frozen.get(key))
    }

    /// Gives a key a value, or removes its row. `had_row` says whether there is one now, where that is known.
    pub(crate) fn put(&mut self, key: &[u8], value: Option<&[u8]>, had_row: Option<bool>) {
        let (frozen, has_row) = (&self.frozen, value.is_some());
        // The effect is that on what lies below this layer.
        self.active.put_with(Row::new(key, value, Effect::Unknown), |before| match (before, had_row) {
            (Some(before), _) => match before.effect {
                Effect::Known(effect) => Effect::Known(effect + i8::from(has_row) - i8::from(before.value().is_some())),
                Effect::Unknown => Effect::Unknown,
            },
            (None, Some(had_row)) => Effect::Known(i8::from(has_row) - i8::from(had_row)),
            (None, None) => match frozen.get(key) {
                Some(below) => Effect::Known(i8::from(has_row) - i8::from(below.value().is_some())),
                None => Effect::Unknown,
            },
        });
        if has_row {
            self.ends[0].take_if(|end| key <= &end[..]);
            self.ends[1].take_if(|end| key >= &end[..]);
        }
    }

    /// The first row was removed, or the last: behind its key there is none.
    pub(crate) fn set_end(&mut self, is_first: bool, key: &[u8]) {
        self.ends[usize::from(!is_first)] = Some(key.into());
    }

    /// Bounds without the ends in which there is no row.
    pub(crate) fn trimmed<'b>(
        &'b self,
        start: Bound<&'b [u8]>,
        end: Bound<&'b [u8]>,
    ) -> (Bound<&'b [u8]>, Bound<&'b [u8]>) {
        let [low, high] = [&self.ends[0], &self.ends[1]].map(Option::as_deref);
        let start = match (start, low) {
            (Bound::Unbounded, Some(low)) => Bound::Excluded(low),
            (Bound::Included(key) | Bound::Excluded(key), Some(low)) if key <= low => Bound::Excluded(low),
            _ => start,
        };
        let end = match (end, high) {
            (Bound::Unbounded, Some(high)) => Bound::Excluded(high),
            (Bound::Included(key) | Bound::Excluded(key), Some(high)) if key >= high => Bound::Excluded(high),
            _ => end,
        };
        (start, end)
    }

    /// All changes, in the order of their keys.
    pub(crate) fn changes(&self) -> impl Iterator<Item = &Row> {
        let (mut active, mut frozen) = (self.active.iter().peekable(), self.frozen.iter().peekable());
        std::iter::from_fn(move || {
            let order = match (active.peek(), frozen.peek()) {
                (_, None) => Ordering::Less,
                (None, _) => Ordering::Greater,
                (Some(active), Some(frozen)) => active.key().cmp(frozen.key()),
            };
            let below = if order.is_ge() { frozen.next() } else { None };
            if order.is_le() { active.next() } else { below }
        })
    }

    /// One layer with the changes of both.
    pub(crate) fn collapsed(&self) -> Map {
        let mut map = self.frozen.clone();
        for row in self.active.iter() {
            let effect = match (row.effect, map.get(row.key()).map(|below| below.effect)) {
                (effect, None) => effect,
                (Effect::Known(effect), Some(Effect::Known(below))) => Effect::Known(effect + below),
                _ => Effect::Unknown,
            };
            map.put(row.with_effect(effect));
        }
        map
    }

    /// The changes of keys within bounds.
    pub(crate) fn range(&self, start: Bound<&[u8]>, end: Bound<&[u8]>) -> DeltaRange {
        DeltaRange { active: self.active.range(start, end), frozen: self.frozen.range(start, end) }
    }
}

/// Which layers the next change stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Active,
    Frozen,
    /// The upper one hides the lower.
    Both,
}

/// Changes of a table in the order of their keys, from both ends.
#[derive(Debug, Clone)]
pub(crate) struct DeltaRange {
    active: MapRange,
    frozen: MapRange,
}

impl DeltaRange {
    fn side(&mut self, forward: bool) -> Option<Side> {
        let (active, frozen) = match forward {
            true => (self.active.peek(), self.frozen.peek()),
            false => (self.active.peek_back(), self.frozen.peek_back()),
        };
        match (active, frozen) {
            (None, None) => None,
            (Some(_), None) => Some(Side::Active),
            (None, Some(_)) => Some(Side::Frozen),
            (Some(active), Some(frozen)) => {
                let order = active.key().cmp(frozen.key());
                Some(match if forward { order } else { order.reverse() } {
                    Ordering::Less => Side::Active,
                    Ordering::Equal => Side::Both,
                    Ordering::Greater => Side::Frozen,
                })
            }
        }
    }

    /// The next change from one end, without going on.
    pub(crate) fn peek(&mut self, forward: bool) -> Option<&Row> {
        let side = self.side(forward)?;
        let range = if side == Side::Frozen { &mut self.frozen } else { &mut self.active };
        if forward { range.peek() } else { range.peek_back() }
    }

    /// The next change from one end.
    pub(crate) fn next(&mut self, forward: bool) -> Option<Row> {
        let row = self.peek(forward)?.clone();
        let side = self.side(forward)?;
        for (range, is_met) in [(&mut self.active, side != Side::Frozen), (&mut self.frozen, side != Side::Active)] {
            match (is_met, forward) {
                (true, true) => range.skip(),
                (true, false) => range.skip_back(),
                (false, _) => {}
            }
        }
        Some(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

    /// The rows that changes make of others.
    fn overlaid(rows: &Rows, delta: &TableDelta) -> Rows {
        let mut rows = rows.clone();
        for change in delta.changes() {
            match change.value() {
                Some(value) => drop(rows.insert(change.key().to_vec(), value.to_vec())),
                None => drop(rows.remove(change.key())),
            }
        }
        rows
    }

    fn keys(mut range: DeltaRange, forward: &mut impl Iterator<Item = bool>) -> Vec<Vec<u8>> {
        let (mut front, mut back) = (Vec::new(), Vec::new());
        while let Some(forward) = forward.next()
            && let Some(row) = range.next(forward)
        {
            if forward { &mut front } else { &mut back }.push(row.key().to_vec());
        }
        front.extend(back.into_iter().rev());
        front
    }

    proptest! {
        #[test]
        fn two_layers_over_a_tree_give_the_rows_and_count_them(
            tree in prop::collection::btree_map(prop::collection::vec(0..4_u8, 0..3), prop::collection::vec(any::<u8>(), 0..3), 0..30),
            changes in prop::collection::vec(
                (prop::collection::vec(0..4_u8, 0..3), prop::option::of(prop::collection::vec(any::<u8>(), 0..3)), any::<bool>()), 0..60),
            freeze_at in 0..60_usize,
            forward in prop::collection::vec(any::<bool>(), 200),
        ) {
            let (mut delta, mut rows) = (TableDelta::default(), tree.clone());
            for (index, (key, value, looks)) in changes.iter().enumerate() {
                if index == freeze_at {
                    delta.frozen = std::mem::take(&mut delta.active);
                }
                delta.put(key, value.as_deref(), looks.then(|| rows.contains_key(key)));
                match value {
                    Some(value) => drop(rows.insert(key.clone(), value.clone())),
                    None => drop(rows.remove(key)),
                }
                prop_assert_eq!(delta.get(key).unwrap().value(), value.as_deref());
            }
            prop_assert_eq!(&overlaid(&tree, &delta), &rows);
            let unknown = delta.active.sum().unknown + delta.frozen.sum().unknown;
            let effect = delta.active.sum().rows + delta.frozen.sum().rows;
            if unknown == 0 {
                prop_assert_eq!(tree.len() as i64 + i64::from(effect), rows.len() as i64);
            }
            let all: Vec<_> = delta.changes().map(|row| row.key().to_vec()).collect();
            prop_assert!(all.is_sorted_by(|a, b| a < b));
            prop_assert_eq!(keys(delta.range(Bound::Unbounded, Bound::Unbounded), &mut forward.into_iter()), all);
            let one = TableDelta { active: delta.collapsed(), ..TableDelta::default() };
            prop_assert_eq!(&overlaid(&tree, &one), &rows);
            prop_assert!(one.active.sum().unknown > 0 || tree.len() as i64 + i64::from(one.active.sum().rows) == rows.len() as i64);
        }
    }

    #[test]
    fn a_layer_knows_what_its_tables_come_to() {
        let mut layer = Layer::default();
        let mut map = Map::default();
        map.put(Row::new(b"key", Some(b"value"), Effect::Known(1)));
        layer.set_table(7, map.clone());
        layer.set_table(3, map.clone());
        let copy = layer.clone();
        map.put(Row::new(b"other", None, Effect::Unknown));
        layer.set_table(7, map.clone());
        assert_eq!(layer.ids().collect::<Vec<_>>(), [3, 7]);
        assert_eq!((layer.sum().count, layer.sum().rows, layer.sum().unknown), (3, 2, 1));
        layer.set_table(3, Map::default());
        layer.set_table(7, Map::default());
        assert_eq!((layer.is_empty(), layer.sum()), (true, Sum { longest: 5, ..Sum::default() }));
        assert_eq!((copy.sum().count, copy.table(7).sum().count, copy.table(8).sum().count), (2, 1, 0));
    }
}
