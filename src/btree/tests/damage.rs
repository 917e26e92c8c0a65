//! Damaged nodes: an error, or answers without a panic; never an unbounded descent or allocation.
//!
//! Invariant: as in `fixture`.
//! Layer 3 (btree).

use super::edit::NoExtents;
use super::fixture::{Db, Random, ordinary, small, tiny};
use crate::base::checksum;
use crate::base::ids::{Digest, PageId, TransactionId, TreeRoot};
use crate::btree::branch::{self, Child};
use crate::btree::build::{Fences, Rows};
use crate::btree::inspect::inspect;
use crate::btree::key::{KeyCell, inline_key_max};
use crate::btree::leaf::{self, Row, ValueCell};
use crate::btree::merge::Change;
use crate::btree::node;
use crate::btree::search;
use crate::btree::tree::{Pages, PinnedPages};
use crate::pages::extent::{EXTENT_BYTES, Extent};
use crate::pages::layout::Layout;
use crate::pages::store::{Expected, child_sum};
use std::collections::BTreeMap;

fn birth() -> TransactionId {
    TransactionId::new(2)
}

fn extent(random: &mut Random, layout: &Layout) -> [u8; EXTENT_BYTES] {
    let len_bytes = u32::try_from(1 + random.below(100_000)).unwrap();
    let page = PageId::new(40 + random.next() % 1000).unwrap();
    Extent { page, len_bytes, birth: birth(), sum: random.next() }.encode(layout)
}

/// Inline keys of several shapes, ascending; every third that is long enough goes on out of line.
fn random_keys(random: &mut Random, layout: &Layout, count: usize) -> Vec<(Vec<u8>, Option<[u8; EXTENT_BYTES]>)> {
    let most = inline_key_max(layout.node_bytes() as usize);
    let (shared, fixed) = (random.below(most), random.below(2) == 0);
    let mut keys: Vec<_> = (0..count)
        .map(|_| {
            let len = if fixed { 6 } else { random.below(most) };
            let mut key = [&vec![b'p'; shared][..], &random.bytes(len)].concat();
            key.truncate(most);
            key
        })
        .collect();
    keys.sort();
    keys.dedup();
    keys.into_iter()
        .map(|key| {
            let long = key.len() == most && random.below(3) == 0;
            (key, long.then(|| extent(random, layout)))
        })
        .collect()
}

fn random_leaf(random: &mut Random, layout: &Layout) -> Vec<u8> {
    let size = layout.node_bytes() as usize;
    let count = 1 + random.below(30);
    let keys = random_keys(random, layout, count);
    let uniform = random.below(2) == 0;
    let values: Vec<_> = keys
        .iter()
        .map(|_| {
            if !uniform && random.below(4) == 0 {
                Err(extent(random, layout))
            } else {
                Ok(vec![9; if uniform { 4 } else { random.below(20) }])
            }
        })
        .collect();
    let rows: Vec<_> = keys
        .iter()
        .zip(&values)
        .map(|((key, rest), value)| Row {
            key: KeyCell { prefix: &[], suffix: key, rest: rest.as_ref() },
            value: value.as_ref().map_or_else(ValueCell::Extent, |bytes| ValueCell::Inline(bytes)),
        })
        .collect();
    let rows = Rows::new(rows);
    let total = (0..=rows.len()).rev().find(|to| rows.leaf_bytes(0, *to) <= size).unwrap();
    let mut node = vec![0; size];
    rows.build(0, total, &mut node, birth());
    if total > 2 {
        leaf::remove(&mut node, random.below(total));
    }
    node
}

fn random_branch(random: &mut Random, layout: &Layout) -> Vec<u8> {
    let size = layout.node_bytes() as usize;
    let count = random.below(20);
    let keys = random_keys(random, layout, count);
    let separators: Vec<_> =
        keys.iter().map(|(key, rest)| KeyCell { prefix: &[], suffix: key, rest: rest.as_ref() }).collect();
    let children =
        (0..=separators.len()).map(|i| Child { page: PageId::new(50 + i as u64).unwrap(), sum: 1 + random.next() });
    let fences = Fences { children: children.collect(), separators };
    let total = (0..=fences.separators.len()).rev().find(|to| fences.branch_bytes(0, *to) <= size).unwrap();
    let mut node = vec![0; size];
    fences.build(0, total, &mut node, 2, birth());
    if total > 2 {
        branch::remove(&mut node, random.below(total), random.below(2) == 0);
    }
    node
}

/// Calls every accessor and every edit on a node that passed inspection.
fn exercise(bytes: &[u8], layout: &Layout, random: &mut Random) {
    let count = node::count(bytes);
    let probe = random.bytes(7);
    if node::kind(bytes) == node::KIND_LEAF {
        for index in 0..count {
            let row = leaf::row(bytes, index);
            row.key.to_vec(&NoExtents).unwrap();
            let (at, len) = (leaf::value_offset(bytes, index), row.value.stored().len());
            assert_eq!(&bytes[at..at + len], row.value.stored());
        }
        leaf::search(bytes, &probe, &NoExtents).unwrap().unwrap_or_else(|index| index);
        assert!(leaf::used_bytes(bytes) <= bytes.len());
        let mut out = vec![0; bytes.len()];
        Rows::new(Rows::of(bytes)).build(0, count, &mut out, birth());
        let mut rows = Rows::of(bytes);
        let value = vec![1; leaf::row_bytes_max(bytes.len()) - leaf::row_bytes(probe.len(), false, 0)];
        let found = leaf::search(bytes, &probe, &NoExtents).unwrap();
        if let Err(index) = found {
            rows.insert(index, Row { key: KeyCell::inline(&probe), value: ValueCell::Inline(&value) });
            let rows = Rows::new(rows);
            if rows.leaf_bytes(0, rows.len()) > bytes.len() {
                rows.split_point(bytes.len());
            }
        }
        if count > 0 {
            leaf::remove(&mut out, count - 1);
        }
    } else {
        let fences = Fences::of(bytes);
        branch::search(bytes, &probe, &NoExtents).unwrap();
        assert!(branch::used_bytes(bytes) <= bytes.len());
        let mut out = vec![0; bytes.len()];
        fences.build(0, count, &mut out, node::level(bytes), birth());
        inspect(&out, layout).unwrap();
        if count > 0 {
            branch::remove(&mut out, count - 1, true);
        }
    }
}

#[test]
fn any_damaged_byte_is_an_error_or_harmless() {
    let mut random = Random::new(77);
    let (mut refused, mut harmless) = (0, 0);
    for round in 0..120 {
        let layout = [tiny(), small(), tiny(), ordinary()][round % 4];
        let leaf = round % 8 < 4;
        let good = if leaf { random_leaf(&mut random, &layout) } else { random_branch(&mut random, &layout) };
        inspect(&good, &layout).unwrap();
        exercise(&good, &layout, &mut random);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] = if random.below(3) == 0 { random.byte() } else { bad[at] ^ (1 << random.below(8)) };
            for _ in 0..random.below(3) {
                bad[random.below(64 + good.len() / 4)] = random.byte();
            }
            if inspect(&bad, &layout).is_err() {
                refused += 1;
            } else {
                harmless += 1;
                exercise(&bad, &layout, &mut random);
            }
        }
    }
    assert!(refused > 1000 && harmless > 1000, "{refused} refused, {harmless} harmless");
}

fn leaf_of(keys: &[&[u8]], layout: &Layout) -> Vec<u8> {
    let rows = keys.iter().map(|key| Row { key: KeyCell::inline(key), value: ValueCell::Inline(b"value") }).collect();
    let mut node = vec![0; layout.node_bytes() as usize];
    Rows::new(rows).build(0, keys.len(), &mut node, birth());
    node
}

#[test]
fn pitfall_52_an_unordered_leaf_is_refused() {
    let layout = tiny();
    for keys in [[&b"b"[..], b"a"], [b"same", b"same"], [b"abcd2", b"abcd1"]] {
        assert!(inspect(&leaf_of(&keys, &layout), &layout).is_err(), "{keys:?}");
    }
    inspect(&leaf_of(&[b"a", b"b"], &layout), &layout).unwrap();
}

#[test]
fn pitfall_53_lengths_that_wrap_are_refused() {
    let layout = tiny();
    let good = leaf_of(&[b"a", b"bc"], &layout);
    for garbage in [u32::MAX, u32::MAX - 15, 1] {
        let mut bad = good.clone();
        bad[32..36].copy_from_slice(&garbage.to_le_bytes());
        assert!(inspect(&bad, &layout).is_err(), "garbage {garbage}");
    }
    for heap_start in [0, 63, 513, u32::MAX] {
        let mut bad = good.clone();
        bad[4..8].copy_from_slice(&heap_start.to_le_bytes());
        assert!(inspect(&bad, &layout).is_err(), "heap start {heap_start}");
    }
    let at = leaf::entry_offset(&good, 1);
    for (key_word, value_word) in [(0xffff_u16, 0_u16), (0x7fff, 0x7fff), (0, 0xffff), (0, 0x801b)] {
        let mut bad = good.clone();
        bad[at..at + 2].copy_from_slice(&key_word.to_le_bytes());
        bad[at + 2..at + 4].copy_from_slice(&value_word.to_le_bytes());
        assert!(inspect(&bad, &layout).is_err(), "{key_word:#x} {value_word:#x}");
    }
}

fn assert_corrupted<T: std::fmt::Debug>(result: crate::base::error::Result<T>) {
    match result {
        Ok(found) => panic!("{found:?} was taken for sound"),
        Err(error) => assert!(error.is_corruption(), "{error}"),
    }
}

/// A database of some height, and a pin's view of it.
fn tall() -> Db {
    let mut db = Db::new(tiny(), 1 << 20);
    let mut txn = db.begin();
    for number in 0..600_u32 {
        txn.insert(&number.to_be_bytes(), &[5; 12]);
    }
    db.commit(txn);
    assert!(db.root().height >= 3);
    db
}

#[test]
fn pitfall_46_a_branch_cycle_or_a_deep_chain_is_corrupted() {
    let db = tall();
    let pin = db.pins.pin_published();
    let epoch = db.store.enter();
    let pages = PinnedPages { store: &db.store, pin: &pin, epoch: &epoch };
    let root = db.root();
    // No checksum can name itself, so the cycle is planted where it was verified already.
    let mut cycle = pages.node(root.page, Expected::Root(root.digest), root.height).unwrap().to_vec();
    for index in 0..=node::count(&cycle) {
        branch::set_child(&mut cycle, index, Child { page: root.page, sum: 1 });
    }
    db.store.forget(crate::base::ids::Run::new(root.page, 1));
    db.store.install(root.page, &cycle, root.height);
    assert_corrupted(search::get(&pages, &root, &[0, 0, 1, 0]));
    for height in [1, 2, 47, 48] {
        if height != root.height {
            assert_corrupted(search::get(&pages, &TreeRoot { height, ..root }, b"k"));
        }
    }
}

#[test]
fn pitfall_47_a_wild_page_number_or_length_is_corrupted_before_anything_is_allocated() {
    let db = tall();
    let pin = db.pins.pin_published();
    let epoch = db.store.enter();
    let pages = PinnedPages { store: &db.store, pin: &pin, epoch: &epoch };
    let end = db.store.end_units();
    for page in [1, 23, 24, end, end + 1, PageId::LIMIT - 1] {
        let root = TreeRoot { page: PageId::new(page).unwrap(), ..db.root() };
        assert_corrupted(search::get(&pages, &root, b"k"));
        for len_bytes in [1, 16 << 10, 1 << 20, u32::MAX] {
            let extent = Extent { page: root.page, len_bytes, birth: birth(), sum: 9 };
            assert_corrupted(db.store.extent(&pin, &extent));
        }
    }
    assert_corrupted(db.store.read_digested(db.root().page, u64::MAX, Digest::ZERO));
}

#[test]
fn a_leaf_where_a_branch_should_be_is_corrupted() {
    let db = tall();
    let pin = db.pins.pin_published();
    let epoch = db.store.enter();
    let pages = PinnedPages { store: &db.store, pin: &pin, epoch: &epoch };
    let root = db.root();
    let bytes = pages.node(root.page, Expected::Root(root.digest), root.height).unwrap();
    let child = branch::child(&bytes, 0);
    assert!(pages.node(child.page, Expected::Child(child.sum), root.height - 1).is_ok());
    assert_corrupted(pages.node(child.page, Expected::Child(child.sum), root.height));
    assert_corrupted(pages.node(child.page, Expected::Child(child.sum), 1));
}

#[test]
fn r7_a_page_with_neither_checksum_nor_dirty_content_is_an_error() {
    let mut db = tall();
    for use_it in 0..4 {
        let mut txn = db.begin();
        txn.insert(&u32::MAX.to_be_bytes(), b"x");
        let root = txn.tree.root().page;
        let child = branch::child(txn.tree.dirty_ref(root), 0);
        branch::set_child(txn.tree.dirty_node(root), 0, Child { sum: 0, ..child });
        match use_it {
            0 => assert_corrupted(search::get(&&txn.tree, txn.tree.root(), &[0; 4])),
            1 => assert_corrupted(txn.tree.insert(&[0; 4], b"y")),
            2 => assert_corrupted(txn.tree.spill()),
            _ => {
                let super::fixture::Txn { tree, writer } = txn;
                assert_corrupted(tree.seal(&mut Vec::new()));
                writer.rollback();
                continue;
            }
        }
        db.abort(txn);
    }
    db.check();
}

#[test]
fn r7_a_written_branch_without_a_childs_checksum_is_refused() {
    let layout = tiny();
    let mut bytes = random_branch(&mut Random::new(3), &layout);
    inspect(&bytes, &layout).unwrap();
    let child = branch::child(&bytes, 0);
    branch::set_child(&mut bytes, 0, Child { sum: 0, ..child });
    assert!(inspect(&bytes, &layout).is_err());
}

#[test]
fn a_node_that_claims_to_be_born_in_the_running_transaction_is_corrupted() {
    let mut db = tall();
    for born in [2, 3, 4, u64::MAX] {
        let mut txn = db.begin();
        assert_eq!(txn.writer.birth(), TransactionId::new(3));
        let mut bytes = leaf_of(&[b"a", b"b"], &tiny());
        node::set_birth(&mut bytes, TransactionId::new(born));
        let page = db.root().page;
        txn.tree.root = TreeRoot { page, digest: checksum::digest(&bytes), rows: 2, height: 1 };
        db.store.forget(crate::base::ids::Run::new(page, 1));
        db.store.install(page, &bytes, 1);
        let result = txn.tree.insert(b"c", b"d");
        if born == 2 {
            assert_eq!(result.unwrap(), None);
        } else {
            assert_corrupted(result);
        }
        db.store.forget(crate::base::ids::Run::new(page, 1));
        db.abort(txn);
    }
    db.check();
}

/// Leaves with valid checksums whose keys belong elsewhere, under one root, as only a forger makes them; and their keys.
fn forged(random: &mut Random, db: &Db) -> (super::fixture::Txn, Vec<Vec<Vec<u8>>>) {
    let layout = tiny();
    let mut txn = db.begin();
    let keys: Vec<Vec<Vec<u8>>> =
        (0..6).map(|_| random_keys(random, &layout, 4).into_iter().map(|(key, _)| key).collect()).collect();
    let mut children = Vec::new();
    for group in &keys {
        let inline: Vec<&[u8]> = group.iter().map(|key| &key[..]).collect();
        let bytes = leaf_of(&inline, &layout);
        inspect(&bytes, &layout).unwrap();
        let page = txn.writer.allocate(layout.node_units()).unwrap().page;
        txn.writer.write_early(&mut [(page, &bytes)]).unwrap();
        children.push(Child { page, sum: child_sum(&bytes) });
    }
    let names: Vec<[u8; 1]> = (0..5).map(|number| [b'a' + number * 5]).collect();
    let separators = names.iter().map(|name| KeyCell::inline(name)).collect();
    let mut bytes = vec![0; layout.node_bytes() as usize];
    Fences { separators, children }.build(0, 5, &mut bytes, 2, birth());
    let page = txn.writer.allocate(layout.node_units()).unwrap().page;
    txn.writer.write_early(&mut [(page, &bytes)]).unwrap();
    txn.tree.root = TreeRoot { page, digest: checksum::digest(&bytes), rows: 24, height: 2 };
    (txn, keys)
}

#[test]
fn neighbours_out_of_order_are_corrupted_and_never_a_panic() {
    for seed in 1..60 {
        let mut random = Random::new(seed);
        let db = Db::new(tiny(), 1 << 20);
        let (mut txn, keys) = forged(&mut random, &db);
        for _ in 0..200 {
            let group = &keys[random.below(6)];
            let key = if random.below(3) == 0 { random.bytes(3) } else { group[random.below(group.len())].clone() };
            let result = if random.below(2) == 0 { txn.tree.remove(&key) } else { txn.tree.insert(&key, &[1; 60]) };
            if let Err(error) = result {
                assert!(error.is_corruption(), "{error}");
                break;
            }
        }
        txn.writer.rollback();
    }
}

#[test]
fn merging_into_neighbours_out_of_order_is_corrupted_and_never_a_panic() {
    let mut refused = 0;
    for seed in 1..400 {
        let mut random = Random::new(seed);
        let db = Db::new(tiny(), 1 << 20);
        let (mut txn, keys) = forged(&mut random, &db);
        for _ in 0..10 {
            let mut batch = BTreeMap::new();
            for _ in 0..random.below(60) {
                let group = &keys[random.below(6)];
                let key = if random.below(3) == 0 { random.bytes(3) } else { group[random.below(group.len())].clone() };
                batch.insert(key, (random.below(2) == 0).then_some([1; 60]));
            }
            let changes =
                batch.iter().map(|(key, value)| Change { key, value: value.as_ref().map(|value| &value[..]) });
            if let Err(error) = txn.tree.merge(changes) {
                assert!(error.is_corruption(), "{error}");
                refused += 1;
                break;
            }
        }
        txn.writer.rollback();
    }
    assert!(refused > 300, "{refused} refused");
}
