//! Passes over trees that cannot be, and what they leave behind.
//!
//! Invariant: as in `fixture`.
//! Layer 3 (btree).

use super::fixture::{Db, Random, ordinary, tiny};
use super::merge::{Batch, merge};
use crate::base::checksum;
use crate::base::ids::{TransactionId, TreeRoot};
use crate::btree::branch::Child;
use crate::btree::buffered::BufferedTree;
use crate::btree::build::{Fences, Rows};
use crate::btree::inspect::inspect;
use crate::btree::key::KeyCell;
use crate::btree::leaf::{self, Row, ValueCell};
use crate::btree::merge::Change;
use crate::btree::sweep::Sweep;
use crate::btree::tree::{Pages, root_expected};
use crate::pages::layout::Layout;
use crate::pages::store::child_sum;
use std::ops::Bound;

fn leaf_of(keys: &[&[u8]], layout: &Layout) -> Vec<u8> {
    let rows = keys.iter().map(|key| Row { key: KeyCell::inline(key), value: ValueCell::Inline(b"") }).collect();
    let mut node = vec![0; layout.node_bytes() as usize];
    Rows::new(rows).build(0, keys.len(), &mut node, TransactionId::new(1));
    node
}

#[test]
fn repacking_a_tree_that_names_a_leaf_three_times_is_an_error_and_no_panic() {
    let layout = ordinary();
    let db = Db::new(layout, 1 << 20);
    let mut txn = db.begin();
    let long = vec![b'a'; 500];
    let shorts: Vec<[u8; 1]> = (b'b'..b'z').map(|b| [b]).collect();
    let mut keys: Vec<&[u8]> = vec![&long];
    keys.extend(shorts.iter().map(|k| &k[..]));
    let bytes = leaf_of(&keys, &layout);
    inspect(&bytes, &layout).unwrap();
    let page = txn.writer.allocate(layout.node_units()).unwrap().page;
    txn.writer.write_early(&mut [(page, &bytes)]).unwrap();
    let child = Child { page, sum: child_sum(&bytes) };
    let (z, zz) = (KeyCell::inline(b"z"), KeyCell::inline(b"zz"));
    let mut root = vec![0; layout.node_bytes() as usize];
    Fences { separators: vec![z, zz], children: vec![child; 3] }.build(0, 2, &mut root, 2, TransactionId::new(1));
    let page = txn.writer.allocate(layout.node_units()).unwrap().page;
    txn.writer.write_early(&mut [(page, &root)]).unwrap();
    txn.tree.root = TreeRoot { page, digest: checksum::digest(&root), rows: 75, height: 2 };
    let error = txn.tree.repack(&[], u64::MAX, usize::MAX).unwrap_err();
    assert!(error.is_corruption());
    txn.writer.rollback();
}

#[test]
fn memory_kept_for_nodes_is_given_back_with_the_tree() {
    let db = Db::new(ordinary(), 1 << 20);
    let mut txn = db.begin();
    let rows: Batch = (0..100_000_u32).map(|n| (n.to_be_bytes().to_vec(), Some(vec![7; 60]))).collect();
    merge(&mut txn, &rows);
    assert!(!txn.tree.spare.is_empty(), "the merge wrote early");
    let tree = BufferedTree::new(txn.tree).into_tree().unwrap();
    assert!(tree.spare.is_empty());
    txn.writer.rollback();
}

#[test]
fn a_uniform_leaf_whose_prefix_grows_still_fits_or_is_built_anew() {
    for (layout, seed) in (0..100).flat_map(|seed| [(tiny(), seed), (ordinary(), seed)]) {
        let mut random = Random::new(seed + 1);
        let db = Db::new(layout, 1 << 20);
        let mut txn = db.begin();
        let rows = (200_u64..1500).filter(|_| random.below(3) > 0);
        let batch: Batch = rows.map(|number| (number.to_be_bytes().to_vec(), Some(vec![]))).collect();
        merge(&mut txn, &batch);
        for _ in 0..40 {
            let mut batch = Batch::new();
            for _ in 0..17 + random.below(20) {
                let number = 200 + random.below(1300) as u64;
                batch.insert(number.to_be_bytes().to_vec(), (random.below(2) == 0).then(Vec::new));
            }
            merge(&mut txn, &batch);
        }
        txn.writer.rollback();
    }
}

/// A leaf of three rows, in which the entry of one stands inside the value of another.
fn overlapping(layout: &Layout) -> Vec<u8> {
    let rows = Rows::new(vec![
        Row { key: KeyCell::inline(b"a"), value: ValueCell::Inline(&[0; 40]) },
        Row { key: KeyCell::inline(b"b"), value: ValueCell::Inline(&[0; 12]) },
        Row { key: KeyCell::inline(b"c"), value: ValueCell::Inline(&[7; 9]) },
    ]);
    let mut bytes = vec![0; layout.node_bytes() as usize];
    rows.build(0, 3, &mut bytes, TransactionId::new(1));
    // The place that the entry had is neither an entry nor garbage, so the account of the heap fits.
    let (a, b) = (leaf::entry_offset(&bytes, 0), leaf::entry_offset(&bytes, 1));
    let slot = (0..bytes.len()).find(|&at| bytes[at..at + 2] == u16::try_from(b).unwrap().to_le_bytes()).unwrap();
    let entry = bytes[b..b + 17].to_vec();
    bytes[a + 10..a + 27].copy_from_slice(&entry);
    bytes[slot..slot + 2].copy_from_slice(&u16::try_from(a + 10).unwrap().to_le_bytes());
    inspect(&bytes, layout).unwrap();
    bytes
}

#[test]
fn a_leaf_whose_entries_overlap_is_not_edited_where_it_stands() {
    let layout = ordinary();
    let db = Db::new(layout, 1 << 20);
    for verb in 0..4 {
        let mut txn = db.begin();
        let bytes = overlapping(&layout);
        let page = txn.writer.allocate(layout.node_units()).unwrap().page;
        txn.writer.write_early(&mut [(page, &bytes)]).unwrap();
        txn.tree.root = TreeRoot { page, digest: checksum::digest(&bytes), rows: 3, height: 1 };
        let tree = &mut txn.tree;
        let outcome = match verb {
            0 => tree.insert(b"a", &[0xff; 40]).map(drop),
            1 => tree.remove(b"a").map(drop),
            2 => {
                let keys: Vec<_> = (0..17_u8).map(|number| [b'd', number]).collect();
                tree.merge(keys.iter().map(|key| Change { key, value: Some(&[0xff; 40]) }))
            }
            _ => {
                let mut sweep = Sweep::new(tree, Bound::Unbounded, Bound::Unbounded);
                sweep.remove_rest().and_then(|_| sweep.finish().map(drop))
            }
        };
        // Rows that are only read and built anew harm nobody.
        assert!(verb > 1 || outcome.unwrap_err().to_string().contains("overlap"));
        txn.writer.rollback();
    }
}

#[test]
fn a_value_is_not_moved_where_its_reference_is_part_of_another_entry() {
    let layout = ordinary();
    let mut db = Db::new(layout, 1 << 20);
    let small = Row { key: KeyCell::inline(&[2]), value: ValueCell::Inline(&[0; 3]) };
    let other = Row { key: KeyCell::inline(&[0]), value: ValueCell::Inline(&[0; 5]) };
    let mut sample = vec![0; layout.node_bytes() as usize];
    Rows::new(vec![other, small]).build(0, 2, &mut sample, TransactionId::new(1));
    // The lengths of an entry, read as the length of a value; then its key, read as the transaction that wrote it.
    let entry: [u8; 8] = *sample[leaf::entry_offset(&sample, 1)..].first_chunk().unwrap();
    let len = u32::from_le_bytes(*entry.first_chunk().unwrap()) as usize;
    let mut txn = db.begin();
    txn.insert(b"junk", &vec![1; 2 * len]);
    txn.insert(b"long", &vec![2; len]);
    db.commit(txn);
    let mut txn = db.begin();
    txn.remove(b"junk");
    db.commit(txn);
    let mut txn = db.begin();
    let root = *txn.tree.root();
    let node = (&txn.tree).node(root.page, root_expected(&root), 1).unwrap();
    let ValueCell::Extent(reference) = leaf::row(&node, 0).value else { panic!("the value is out of line") };
    let reference = *reference;
    drop(node);
    assert_eq!(reference[8..16], entry, "the reference holds an entry");
    let rows = Rows::new(vec![
        Row { key: KeyCell::inline(&[0]), value: ValueCell::Extent(&reference) },
        Row { key: KeyCell::inline(&[2]), value: ValueCell::Inline(&[0; 3]) },
    ]);
    let mut bytes = vec![0; layout.node_bytes() as usize];
    rows.build(0, 2, &mut bytes, TransactionId::new(1));
    let (a, b) = (leaf::entry_offset(&bytes, 0), leaf::entry_offset(&bytes, 1));
    let slot = (0..bytes.len()).find(|&at| bytes[at..at + 2] == u16::try_from(b).unwrap().to_le_bytes()).unwrap();
    let inside = a + (0..64).find(|at| bytes[a + at..].starts_with(&reference)).unwrap() + 8;
    bytes[slot..slot + 2].copy_from_slice(&u16::try_from(inside).unwrap().to_le_bytes());
    inspect(&bytes, &layout).unwrap();
    let page = txn.writer.allocate(layout.node_units()).unwrap().page;
    txn.writer.write_early(&mut [(page, &bytes)]).unwrap();
    txn.tree.root = TreeRoot { page, digest: checksum::digest(&bytes), rows: 2, height: 1 };
    let value = u64::from_le_bytes(*reference.first_chunk().unwrap());
    let error = txn.tree.repack(&[], value, usize::MAX).unwrap_err();
    assert!(error.to_string().contains("overlap"), "{error}");
    txn.writer.rollback();
}
