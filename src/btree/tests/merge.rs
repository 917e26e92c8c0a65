//! Merging sorted batches against models, and what it leaves alone.
//!
//! Invariant: as in `fixture`.
//! Layer 3 (btree).

use super::fixture::{Db, Model, Random, Txn, assert_rows, ordinary, small, tiny};
use super::model::{Keys, Values, key, value};
use crate::btree::leaf;
use crate::btree::merge::Change;
use crate::btree::node::{self, KIND_LEAF};
use crate::btree::tree::PinnedPages;
use crate::btree::walk::{Visit, walk};
use crate::pages::layout::Layout;
use std::collections::{BTreeMap, BTreeSet};

pub(super) type Batch = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

pub(super) fn merge(txn: &mut Txn, batch: &Batch) {
    txn.tree.merge(batch.iter().map(|(key, value)| Change { key, value: value.as_deref() })).unwrap();
}

fn apply(model: &mut Model, batch: &Batch) {
    for (key, value) in batch {
        match value {
            Some(value) => model.insert(key.clone(), value.clone()),
            None => model.remove(key),
        };
    }
}

/// A key that is there, or any other.
pub(super) fn target(random: &mut Random, model: &Model, keys: Keys, existing_percent: usize) -> Vec<u8> {
    let near = key(random, keys);
    if random.below(100) >= existing_percent {
        return near;
    }
    model.range(near.clone()..).next().map_or(near, |(key, _)| key.clone())
}

fn random_batch(random: &mut Random, model: &Model, shape: (Keys, Values), count: usize) -> Batch {
    let removal = [0, 10, 50, 90, 100][random.below(5)];
    let existing = [0, 50, 100][random.below(3)];
    let mut batch = Batch::new();
    for _ in 0..count {
        let key = target(random, model, shape.0, existing);
        let new = (random.below(100) >= removal).then(|| value(random, shape.1));
        batch.insert(key, new);
    }
    // A part of the batches leaves most of the tree untouched.
    if random.below(3) == 0 && !batch.is_empty() {
        let from = batch.keys().nth(random.below(batch.len())).unwrap().clone();
        batch = batch.split_off(&from);
        let until = batch.keys().nth(random.below(batch.len())).unwrap().clone();
        batch.split_off(&until);
    }
    batch
}

fn run(layout: Layout, shape: (Keys, Values), rounds: usize, changes: usize, cache_bytes_max: usize, seed: u64) {
    let mut random = Random::new(seed);
    let mut db = Db::new(layout, cache_bytes_max);
    let mut model = Model::new();
    for round in 0..rounds {
        let mut next = model.clone();
        let mut txn = db.begin();
        for _ in 0..1 + random.below(3) {
            let most = [3, changes / 20, changes][random.below(3)];
            let count = random.below(most + 1);
            let batch = random_batch(&mut random, &next, shape, count);
            merge(&mut txn, &batch);
            apply(&mut next, &batch);
            assert_eq!(txn.tree.root().rows, next.len() as u64);
            if random.below(4) == 0 {
                assert_rows(&&txn.tree, txn.tree.root(), &next);
            }
            for _ in 0..random.below(6) {
                let key = target(&mut random, &next, shape.0, 60);
                if random.below(2) == 0 {
                    let value = value(&mut random, shape.1);
                    assert_eq!(txn.insert(&key, &value), next.insert(key, value));
                } else {
                    assert_eq!(txn.remove(&key), next.remove(&key));
                }
            }
            if random.below(5) == 0 {
                txn.tree.spill().unwrap();
            }
        }
        if round % 4 == 3 {
            db.abort(txn);
        } else {
            db.commit(txn);
            model = next;
        }
        db.check();
        db.assert_holds(&model);
    }
    let mut txn = db.begin();
    merge(&mut txn, &model.keys().map(|key| (key.clone(), None)).collect());
    db.commit(txn);
    db.check();
    assert_eq!((db.root().height, db.pending_units(), db.space.lock().count_allocated()), (0, 0, 0));
}

fn run_all(layouts: &[Layout], keys: Keys, values: &[Values], rounds: usize, changes: usize) {
    for seed in 1..=5 {
        for (index, layout) in layouts.iter().enumerate() {
            for (number, values) in values.iter().enumerate() {
                let seed = seed * 100 + (index * 10 + number) as u64;
                // Without a cache nearly everything is written early and read back.
                let cache_bytes_max = if seed.is_multiple_of(2) { 0 } else { 4 << 20 };
                run(*layout, (keys, *values), rounds, changes, cache_bytes_max, seed);
            }
        }
    }
}

#[test]
fn batches_of_short_keys_match_the_model() {
    run_all(&[tiny(), small()], Keys::Short, &[Values::Uniform, Values::Mixed, Values::Empty], 16, 2000);
    run_all(&[ordinary()], Keys::Short, &[Values::Uniform, Values::Mixed], 8, 5000);
}

#[test]
fn batches_of_fixed_keys_match_the_model() {
    run_all(&[tiny(), small()], Keys::Fixed, &[Values::Uniform, Values::Mixed, Values::Long], 12, 1000);
}

#[test]
fn batches_of_keys_with_long_shared_prefixes_match_the_model() {
    run_all(&[tiny(), small()], Keys::Urls, &[Values::Uniform, Values::Mixed, Values::Empty], 16, 1500);
    run_all(&[ordinary()], Keys::Urls, &[Values::Uniform, Values::Mixed], 8, 3000);
}

#[test]
fn batches_of_keys_of_any_length_match_the_model() {
    run_all(&[tiny(), small(), ordinary()], Keys::Any, &[Values::Mixed, Values::Long], 10, 150);
}

#[test]
fn batches_of_the_smallest_uniform_entries_match_the_model() {
    run_all(&[tiny(), small()], Keys::Dense, &[Values::Empty, Values::Mixed], 16, 400);
}

/// The pages of all nodes, and the used bytes of every leaf.
pub(super) fn nodes(db: &Db) -> (BTreeSet<u64>, Vec<usize>) {
    let pin = db.pins.pin_published();
    let epoch = db.store.enter();
    let pages = PinnedPages { store: &db.store, pin: &pin, epoch: &epoch };
    let (mut all, mut leaves) = (BTreeSet::new(), Vec::new());
    walk(&pages, db.store.layout(), &db.root(), &mut |visit| {
        if let Visit::Node { page, bytes } = visit {
            all.insert(page.get());
            if node::kind(bytes) == KIND_LEAF {
                leaves.push(leaf::used_bytes(bytes));
            }
        }
        Ok(())
    })
    .unwrap();
    (all, leaves)
}

fn fill_percent(db: &Db) -> usize {
    let (_, leaves) = nodes(db);
    leaves.iter().sum::<usize>() * 100 / (leaves.len() * db.store.layout().node_bytes() as usize)
}

fn loaded(layout: Layout, batches: usize, rows: u64, number: impl Fn(u64) -> u64) -> Db {
    let mut db = Db::new(layout, 16 << 20);
    let mut txn = db.begin();
    let per_batch = rows / batches as u64;
    for start in 0..batches as u64 {
        let numbers = (start * per_batch..(start + 1) * per_batch).map(&number);
        merge(&mut txn, &numbers.map(|n| (n.to_be_bytes().to_vec(), Some(vec![7; 30]))).collect());
    }
    db.commit(txn);
    assert_eq!(db.check().rows, per_batch * batches as u64);
    db
}

#[test]
fn a_random_load_in_several_batches_fills_leaves_to_85_percent() {
    for layout in [small(), ordinary()] {
        for batches in [1, 4] {
            let db = loaded(layout, batches, 40_000, |n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let share = fill_percent(&db);
            assert!(share >= 85, "{share} % full after {batches} batches");
        }
    }
}

#[test]
fn a_load_in_order_fills_leaves_altogether() {
    for layout in [small(), ordinary()] {
        for batches in [1, 2, 20] {
            let db = loaded(layout, batches, 40_000, |n| n);
            let share = fill_percent(&db);
            let most = layout.node_bytes() as usize;
            let least = (most - 50) * 100 / most - 1;
            assert!(share >= least, "{share} % full after {batches} batches");
        }
    }
}

#[test]
fn deleting_99_percent_at_once_shrinks_height_and_pages() {
    for layout in [tiny(), small()] {
        let mut db = loaded(layout, 1, 30_000, |n| n);
        let (before, height) = (nodes(&db).0.len(), db.root().height);
        let mut txn = db.begin();
        merge(&mut txn, &(0..30_000_u64).filter(|n| n % 100 != 0).map(|n| (n.to_be_bytes().to_vec(), None)).collect());
        db.commit(txn);
        assert_eq!(db.check().rows, 300);
        let after = nodes(&db).0.len();
        assert!(after * 60 <= before && db.root().height < height, "{after} of {before} pages are left");
    }
}

#[test]
fn nodes_that_no_change_touches_keep_their_pages() {
    let mut db = loaded(small(), 1, 60_000, |n| n * 2);
    let (before, _) = nodes(&db);
    let mut txn = db.begin();
    // A dense run in the middle, and single rows far from each other.
    let mut batch: Batch = (40_001..41_001_u64).map(|n| (n.to_be_bytes().to_vec(), Some(vec![9; 30]))).collect();
    for n in [7_u64, 90_001] {
        batch.insert(n.to_be_bytes().to_vec(), Some(vec![9; 30]));
    }
    merge(&mut txn, &batch);
    db.commit(txn);
    db.check();
    let (after, _) = nodes(&db);
    let kept = before.intersection(&after).count();
    assert!(before.len() - kept < 100, "{} of {} nodes were replaced", before.len() - kept, before.len());
}

#[test]
fn changes_of_nothing_leave_the_root_as_it_was() {
    let mut db = loaded(small(), 1, 10_000, |n| n * 2);
    let root = db.root();
    let mut txn = db.begin();
    merge(&mut txn, &(0..10_000_u64).step_by(70).map(|n| ((n * 2 + 1).to_be_bytes().to_vec(), None)).collect());
    merge(&mut txn, &Batch::new());
    assert!(!txn.tree.is_changed());
    assert_eq!(*txn.tree.root(), root);
    db.commit(txn);
    db.check();
}

#[test]
fn a_merge_over_the_dirty_share_writes_early_and_once() {
    let mut db = Db::new(ordinary(), 1 << 20);
    let mut txn = db.begin();
    let rows: Batch = (0..60_000_u64).map(|n| (n.to_be_bytes().to_vec(), Some(vec![7; 150]))).collect();
    merge(&mut txn, &rows);
    let dirty = txn.writer.dirty_bytes();
    assert!(dirty <= 2 << 20, "{dirty} bytes stay dirty");
    db.commit(txn);
    assert_eq!(db.check().rows, 60_000);
}
