//! In-place edits of single nodes against building the node anew.
//!
//! Invariant: as in `fixture`.
//! Layer 3 (btree).

use super::fixture::{Db, Random, ordinary, small, tiny};
use crate::base::ids::{PageId, TransactionId};
use crate::btree::branch::{self, Child};
use crate::btree::build::{Fences, Rows};
use crate::btree::inspect::inspect;
use crate::btree::key::{Extents, KeyCell};
use crate::btree::leaf::{self, Row, ValueCell};
use crate::btree::node;
use crate::pages::extent::EXTENT_BYTES;
use crate::pages::layout::Layout;
use std::collections::BTreeMap;

/// Nothing in these nodes is out of line.
pub(super) struct NoExtents;

impl Extents for NoExtents {
    fn extent(&self, _: &[u8; EXTENT_BYTES]) -> crate::base::error::Result<std::sync::Arc<[u8]>> {
        Ok(std::sync::Arc::from([]))
    }
}

fn birth() -> TransactionId {
    TransactionId::new(3)
}

fn build<'r>(rows: impl Iterator<Item = (&'r Vec<u8>, &'r Vec<u8>)>, node_bytes: usize) -> Option<Vec<u8>> {
    let rows = rows.map(|(key, value)| Row { key: KeyCell::inline(key), value: ValueCell::Inline(value) });
    let rows = Rows::new(rows.collect());
    let mut leaf = vec![0xee; node_bytes];
    (rows.leaf_bytes(0, rows.len()) <= node_bytes).then(|| rows.build(0, rows.len(), &mut leaf, birth()))?;
    Some(leaf)
}

fn assert_leaf_holds(leaf: &[u8], model: &BTreeMap<Vec<u8>, Vec<u8>>, layout: &Layout) {
    // A leaf without rows is never written: it leaves the tree with its last row.
    assert_eq!(inspect(leaf, layout).is_ok(), !model.is_empty());
    assert_eq!(node::count(leaf), model.len());
    for (index, (key, value)) in model.iter().enumerate() {
        let row = leaf::row(leaf, index);
        assert_eq!((row.key.to_vec(&NoExtents).unwrap(), row.value.stored()), (key.clone(), &value[..]));
        assert_eq!(leaf::search(leaf, key, &NoExtents).unwrap(), Ok(index));
        let at = leaf::value_offset(leaf, index);
        assert_eq!(&leaf[at..at + value.len()], &value[..]);
    }
}

/// One random edit of a leaf and its model; a leaf that cannot take it is rebuilt or left.
fn edit_leaf(leaf: &mut Vec<u8>, model: &mut BTreeMap<Vec<u8>, Vec<u8>>, random: &mut Random, uniform: bool) {
    let mut key = [b"shared/", &random.bytes(1)[..]].concat();
    if !uniform && random.below(3) > 0 {
        let len = random.below(12);
        key = random.bytes(len);
    }
    let value = vec![random.byte(); if uniform { 5 } else { random.below(30) }];
    let (row_key, row_value) = (KeyCell::inline(&key), ValueCell::Inline(&value));
    match leaf::search(leaf, &key, &NoExtents).unwrap() {
        Ok(index) if random.below(2) == 0 => {
            leaf::remove(leaf, index);
            model.remove(&key);
        }
        Ok(index) => {
            if leaf::replace_value(leaf, index, &row_value) {
                model.insert(key, value);
            }
        }
        Err(index) => {
            let before = leaf.clone();
            if leaf::insert(leaf, index, &Row { key: row_key, value: row_value }) {
                model.insert(key, value);
                return;
            }
            assert_eq!(*leaf, before, "a refused insertion changes nothing");
            let mut wanted = model.clone();
            wanted.insert(key, value);
            if let Some(rebuilt) = build(wanted.iter(), leaf.len()) {
                (*leaf, *model) = (rebuilt, wanted);
            }
        }
    }
}

#[test]
fn leaf_edited_in_place_holds_what_a_rebuilt_one_holds() {
    for seed in 1..40 {
        let mut random = Random::new(seed);
        let layout = if seed % 4 == 0 { ordinary() } else { tiny() };
        let mut model = BTreeMap::new();
        let mut leaf = build(model.iter(), layout.node_bytes() as usize).unwrap();
        for _ in 0..250 {
            edit_leaf(&mut leaf, &mut model, &mut random, seed % 3 == 0);
            assert_leaf_holds(&leaf, &model, &layout);
            let rebuilt = build(model.iter(), leaf.len()).unwrap();
            assert_leaf_holds(&rebuilt, &model, &layout);
            assert!(leaf::used_bytes(&rebuilt) <= leaf::used_bytes(&leaf));
        }
    }
}

fn child(number: u64) -> Child {
    Child { page: PageId::new(number).unwrap(), sum: number * 3 }
}

#[test]
fn branch_edited_in_place_holds_what_a_rebuilt_one_holds() {
    for seed in 1..40 {
        let mut random = Random::new(seed);
        let layout = tiny();
        let mut next_page = 101;
        let (mut keys, mut children) = (Vec::<Vec<u8>>::new(), vec![child(100)]);
        let mut branch = vec![0; layout.node_bytes() as usize];
        Fences { separators: Vec::new(), children: children.clone() }.build(0, 0, &mut branch, 2, birth());
        for _ in 0..300 {
            let mut key = [b"http://"[..].to_vec(), random.bytes(2)].concat();
            key.truncate(1 + random.below(9));
            let found = keys.binary_search(&key);
            if let Ok(index) =
                found.or_else(|_| if random.below(3) == 0 { keys.len().checked_sub(1).ok_or(()) } else { Err(()) })
            {
                let right = random.below(2) == 0;
                branch::remove(&mut branch, index, right);
                keys.remove(index);
                children.remove(index + usize::from(right));
            } else if let Err(index) = found {
                let new = child(next_page);
                next_page += 1;
                let before = branch.clone();
                if branch::insert(&mut branch, index, &KeyCell::inline(&key), new) {
                    keys.insert(index, key);
                    children.insert(index + 1, new);
                } else {
                    assert_eq!(branch, before, "a refused insertion changes nothing");
                    let mut fences = Fences::of(&before);
                    fences.separators.insert(index, KeyCell::inline(&key));
                    fences.children.insert(index + 1, new);
                    let total = fences.separators.len();
                    if fences.branch_bytes(0, total) <= branch.len() {
                        fences.build(0, total, &mut branch, 2, birth());
                        keys.insert(index, key);
                        children.insert(index + 1, new);
                    }
                }
            }
            inspect(&branch, &layout).unwrap();
            let fences = Fences::of(&branch);
            assert_eq!(fences.children, children);
            let found: Vec<_> = fences.separators.iter().map(|key| key.to_vec(&NoExtents).unwrap()).collect();
            assert_eq!(found, keys);
            let mut rebuilt = vec![0xee; branch.len()];
            fences.build(0, keys.len(), &mut rebuilt, 2, birth());
            inspect(&rebuilt, &layout).unwrap();
            assert_eq!(branch::used_bytes(&rebuilt), fences.branch_bytes(0, keys.len()));
            let probe = random.bytes(2);
            let expected = keys.partition_point(|key| *key <= probe);
            assert_eq!(branch::search(&branch, &probe, &NoExtents).unwrap(), expected);
            assert_eq!(branch::search(&rebuilt, &probe, &NoExtents).unwrap(), expected);
        }
    }
}

#[test]
fn a_single_empty_row_fits_the_largest_node() {
    let layout = Layout::new(4096, 16, 65536).unwrap();
    let leaf = build([(&Vec::new(), &Vec::new())].into_iter(), 65536).unwrap();
    assert_leaf_holds(&leaf, &BTreeMap::from([(Vec::new(), Vec::new())]), &layout);
}

#[test]
fn the_largest_row_goes_in_anywhere_among_the_smallest() {
    for layout in [tiny(), small()] {
        for middle in 0..140_u8 {
            let mut db = Db::new(layout, 1 << 20);
            let mut txn = db.begin();
            for key in 0..140_u8 {
                txn.insert(&[key], b"");
            }
            let value = vec![1; leaf::row_bytes_max(layout.node_bytes() as usize) - leaf::row_bytes(2, false, 0)];
            txn.insert(&[middle, 1], &value);
            db.commit(txn);
            assert_eq!(db.check().rows, 141);
        }
    }
}

#[test]
fn a_full_leaf_of_the_smallest_rows_splits_around_the_largest_row() {
    for node_bytes in [512, 1024, 2048, 8192] {
        let most = leaf::row_bytes_max(node_bytes);
        for (key_len, limit) in [(1, 256_usize), (2, 65536)] {
            let keys: Vec<Vec<u8>> = (0..limit)
                .map(|number| number.to_be_bytes()[8 - key_len..].to_vec())
                .take_while({
                    let mut count = 0;
                    move |_| {
                        count += 1;
                        let row = leaf::ROW_OVERHEAD_BYTES + key_len + if key_len < 2 { 4 } else { 0 };
                        node::HEADER_BYTES + count * row <= node_bytes
                    }
                })
                .collect();
            let mut rows: Vec<_> =
                keys.iter().map(|key| Row { key: KeyCell::inline(key), value: ValueCell::Inline(&[]) }).collect();
            assert!(Rows::new(rows.clone()).leaf_bytes(0, rows.len()) <= node_bytes);
            let middle = rows.len() / 2;
            let key = [&keys[middle - 1][..], b"x"].concat();
            let value = vec![1; most - leaf::row_bytes(key.len(), false, 0)];
            rows.insert(middle, Row { key: KeyCell::inline(&key), value: ValueCell::Inline(&value) });
            let rows = Rows::new(rows);
            let cut = rows.split_point(node_bytes);
            assert!(rows.leaf_bytes(0, cut).max(rows.leaf_bytes(cut, rows.len())) <= node_bytes);
        }
    }
}
