//! Sweeps over ranges against models: what they visit, what they remove, and what they leave alone.
//!
//! Invariant: as in `fixture`.
//! Layer 3 (btree).

use super::fixture::{Db, Model, Random, assert_rows, ordinary, small, tiny};
use super::merge::{Batch, nodes, target};
use super::model::{Keys, Values, key, value};
use crate::btree::remove::Edge;
use crate::btree::sweep::Sweep;
use crate::btree::tree::TreeMut;
use crate::pages::layout::Layout;
use std::ops::Bound;

type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

fn bound(random: &mut Random, key: Vec<u8>) -> Bound<Vec<u8>> {
    match random.below(4) {
        0 => Bound::Unbounded,
        1 => Bound::Excluded(key),
        _ => Bound::Included(key),
    }
}

fn contains(bounds: &Bounds, key: &[u8]) -> bool {
    let is_behind_start = match &bounds.0 {
        Bound::Unbounded => true,
        Bound::Included(start) => key >= &start[..],
        Bound::Excluded(start) => key > &start[..],
    };
    let is_before_end = match &bounds.1 {
        Bound::Unbounded => true,
        Bound::Included(end) => key <= &end[..],
        Bound::Excluded(end) => key < &end[..],
    };
    is_behind_start && is_before_end
}

/// Sweeps at most `most` rows of a range; those are removed for which `removes` says so. Returns what was visited.
fn sweep(tree: &mut TreeMut, bounds: &Bounds, most: usize, mut removes: impl FnMut(&[u8]) -> bool) -> Model {
    let (start, end) = (bounds.0.as_ref().map(Vec::as_slice), bounds.1.as_ref().map(Vec::as_slice));
    let mut sweep = Sweep::new(tree, start, end);
    let mut visited = Model::new();
    let mut last: Option<Vec<u8>> = None;
    while visited.len() < most {
        let row = sweep.visit(|found| {
            let (key, value) = found.key_and_value()?;
            Ok((key.as_slice().to_vec(), value.as_slice().to_vec()))
        });
        let Some((key, value)) = row.unwrap() else { break };
        assert!(last.is_none_or(|last| last < key), "rows are visited in key order");
        if removes(&key) {
            sweep.remove();
        }
        last = Some(key.clone());
        visited.insert(key, value);
    }
    sweep.finish().unwrap();
    visited
}

fn run(layout: Layout, shape: (Keys, Values), cache_bytes_max: usize, seed: u64) {
    let mut random = Random::new(seed);
    let mut db = Db::new(layout, cache_bytes_max);
    let mut model = Model::new();
    for round in 0..14 {
        let mut next = model.clone();
        let mut txn = db.begin();
        for _ in 0..200 {
            let (key, value) = (key(&mut random, shape.0), value(&mut random, shape.1));
            txn.insert(&key, &value);
            next.insert(key, value);
        }
        for _ in 0..1 + random.below(3) {
            let (from, to) = (target(&mut random, &next, shape.0, 70), target(&mut random, &next, shape.0, 70));
            // Some ranges are inverted.
            let (from, to) = if random.below(8) > 0 && from > to { (to, from) } else { (from, to) };
            let bounds = (bound(&mut random, from), bound(&mut random, to));
            let most = if random.below(4) == 0 { random.below(100) } else { usize::MAX };
            let percent = [0, 2, 10, 50, 97, 100][random.below(6)];
            let mut removed = Vec::new();
            let visited = sweep(&mut txn.tree, &bounds, most, |key| {
                let removes = random.below(100) < percent;
                removed.extend(removes.then(|| key.to_vec()));
                removes
            });
            let expected = next.iter().filter(|(key, _)| contains(&bounds, key)).take(most);
            assert_eq!(visited, expected.map(|(key, value)| (key.clone(), value.clone())).collect());
            removed.iter().for_each(|key| drop(next.remove(key)));
            assert_rows(&&txn.tree, txn.tree.root(), &next);
            assert_eq!(txn.tree.root().rows, next.len() as u64);
            for _ in 0..random.below(5) {
                let edge = [Edge::First, Edge::Last][random.below(2)];
                let expected = if edge == Edge::First { next.pop_first() } else { next.pop_last() };
                assert_eq!(txn.tree.pop(edge).unwrap(), expected);
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
    let mut rest = Sweep::new(&mut txn.tree, Bound::Unbounded, Bound::Unbounded);
    assert_eq!(rest.remove_rest().unwrap(), model.len() as u64);
    rest.finish().unwrap();
    db.commit(txn);
    db.check();
    assert_eq!((db.root().height, db.pending_units(), db.space.lock().count_allocated()), (0, 0, 0));
}

fn run_all(keys: Keys, values: &[Values]) {
    for seed in 1..=4 {
        for (index, layout) in [tiny(), small(), ordinary()].into_iter().enumerate() {
            for (number, values) in values.iter().enumerate() {
                let seed = seed * 100 + (index * 10 + number) as u64;
                let cache_bytes_max = if seed.is_multiple_of(2) { 0 } else { 4 << 20 };
                run(layout, (keys, *values), cache_bytes_max, seed);
            }
        }
    }
}

#[test]
fn sweeps_of_short_keys_match_the_model() {
    run_all(Keys::Short, &[Values::Uniform, Values::Mixed, Values::Empty]);
}

#[test]
fn sweeps_of_keys_with_long_shared_prefixes_match_the_model() {
    run_all(Keys::Urls, &[Values::Mixed]);
}

#[test]
fn sweeps_of_keys_of_any_length_match_the_model() {
    run_all(Keys::Any, &[Values::Mixed, Values::Long]);
}

#[test]
fn a_sweep_that_removes_nothing_copies_nothing() {
    let mut db = Db::new(small(), 1 << 20);
    let mut txn = db.begin();
    let rows: Batch = (0..3000_u32).map(|number| (number.to_be_bytes().to_vec(), Some(vec![7; 20]))).collect();
    super::merge::merge(&mut txn, &rows);
    db.commit(txn);
    let before = nodes(&db);
    let mut txn = db.begin();
    let visited = sweep(&mut txn.tree, &(Bound::Unbounded, Bound::Unbounded), usize::MAX, |_| false);
    assert_eq!(visited.len(), 3000);
    assert!(!txn.tree.is_changed());
    db.commit(txn);
    assert_eq!(nodes(&db), before);
}

#[test]
fn a_sweep_that_removes_every_second_row_leaves_packed_leaves() {
    let mut db = Db::new(ordinary(), 8 << 20);
    let mut txn = db.begin();
    let rows: Batch = (0..40_000_u32).map(|number| (number.to_be_bytes().to_vec(), Some(vec![7; 60]))).collect();
    super::merge::merge(&mut txn, &rows);
    db.commit(txn);
    let before = nodes(&db).0.len();
    let mut txn = db.begin();
    sweep(&mut txn.tree, &(Bound::Unbounded, Bound::Unbounded), usize::MAX, |key| key[3].is_multiple_of(2));
    db.commit(txn);
    db.check();
    let after = nodes(&db).0.len();
    assert!(after * 100 <= before * 60, "{after} nodes of {before} are left");
}
