//! Writing early: the same answers, and nothing left behind.
//!
//! Invariant: as in `fixture`.
//! Layer 3 (btree).

use super::fixture::{Db, Model, Random, assert_rows, small, tiny};
use super::model::{Keys, Values, key, value};
use crate::btree::branch;
use crate::btree::node;
use crate::pages::behind::Sealed;
use crate::pages::store::child_sum;
use std::collections::HashMap;

#[test]
fn spilling_at_any_time_changes_no_answer() {
    for seed in 1..5 {
        for every in [1, 7, 50] {
            // Without a cache every spilled page is read back from the storage.
            for cache_bytes_max in [0, 1 << 20] {
                let mut random = Random::new(seed);
                let mut db = Db::new(tiny(), cache_bytes_max);
                let mut model = Model::new();
                let mut txn = db.begin();
                for round in 0..200 {
                    let key = key(&mut random, Keys::Fixed);
                    let value = value(&mut random, Values::Long);
                    assert_eq!(txn.insert(&key, &value), model.insert(key, value));
                    if round % 3 == 0 {
                        let gone = model.keys().nth(random.below(model.len())).unwrap().clone();
                        assert_eq!(txn.remove(&gone), model.remove(&gone));
                    }
                    if round % every == 0 {
                        txn.tree.spill().unwrap();
                        assert!(txn.writer.dirty_bytes() <= 512, "only the root stays dirty");
                    }
                }
                assert_rows(&&txn.tree, txn.tree.root(), &model);
                db.commit(txn);
                db.check();
                db.assert_holds(&model);
            }
        }
    }
}

#[test]
fn abort_after_spills_leaves_nothing_behind() {
    let mut random = Random::new(9);
    let mut db = Db::new(small(), 1 << 20);
    let mut model = Model::new();
    let mut txn = db.begin();
    for _ in 0..200 {
        let (key, value) = (key(&mut random, Keys::Urls), value(&mut random, Values::Long));
        txn.insert(&key, &value);
        model.insert(key, value);
    }
    db.commit(txn);
    let allocated = db.space.lock().count_allocated();
    for _ in 0..5 {
        let mut txn = db.begin();
        for round in 0..150 {
            txn.insert(&key(&mut random, Keys::Urls), &value(&mut random, Values::Long));
            txn.remove(&key(&mut random, Keys::Urls));
            if round % 20 == 19 {
                txn.tree.spill().unwrap();
            }
        }
        db.abort(txn);
        assert_eq!(db.space.lock().count_allocated(), allocated);
        db.check();
        db.assert_holds(&model);
    }
}

#[test]
fn r8_a_branch_is_sealed_only_after_all_its_children() {
    let mut random = Random::new(4);
    let mut db = Db::new(tiny(), 1 << 20);
    let mut txn = db.begin();
    for _ in 0..600 {
        txn.insert(&key(&mut random, Keys::Short), &[1; 12]);
    }
    assert!(txn.tree.root().height >= 3);
    txn.tree.spill().unwrap();
    // The root is all that stays dirty, and it carries the checksum of every child that was written.
    let root = txn.tree.dirty_ref(txn.tree.root().page).to_vec();
    assert!((0..=node::count(&root)).all(|index| branch::child(&root, index).sum != 0));
    for _ in 0..100 {
        txn.insert(&key(&mut random, Keys::Short), &[2; 12]);
    }
    let mut sealed: Vec<Sealed> = Vec::new();
    let super::fixture::Txn { tree, writer } = txn;
    tree.seal(&mut sealed).unwrap();
    let mut sums = HashMap::new();
    for page in &sealed {
        if node::kind(&page.bytes) == node::KIND_BRANCH {
            for index in 0..=node::count(&page.bytes) {
                let child = branch::child(&page.bytes, index);
                assert_ne!(child.sum, 0, "the child was neither written nor sealed before");
                assert!(sums.get(&child.page).is_none_or(|sum| *sum == child.sum));
                let later = sealed.iter().skip(sums.len()).any(|other| other.page == child.page);
                assert!(!later, "the child is sealed after its parent");
            }
        }
        sums.insert(page.page, child_sum(&page.bytes));
    }
    writer.rollback();
    drop(writer);
    db.reclaim();
    db.check();
}
