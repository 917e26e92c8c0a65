//! The tree behind a buffer: the same rows as without one, for any number of threads.
//!
//! Invariant: as in `fixture`.
//! Layer 3 (btree).

use super::fixture::{Db, Model, Random, Txn, assert_rows, get, small, tiny};
use super::model::{Keys, Values, key, value};
use crate::base::error::StorageError;
use crate::btree::branch::{self, Child};
use crate::btree::buffered::BufferedTree;
use std::sync::Barrier;

#[test]
fn buffered_changes_match_the_model_at_every_read() {
    for seed in 1..12 {
        let mut random = Random::new(seed);
        let shape = [(Keys::Short, Values::Mixed), (Keys::Any, Values::Long), (Keys::Urls, Values::Uniform)];
        let shape = shape[random.below(3)];
        let mut db = Db::new([tiny(), small()][random.below(2)], 1 << 20);
        let mut model = Model::new();
        for _ in 0..4 {
            let Txn { tree, writer } = db.begin();
            let mut tree = BufferedTree::new(tree);
            for _ in 0..400 {
                let key = key(&mut random, shape.0);
                match random.below(30) {
                    0 => {
                        let tree = tree.tree().unwrap();
                        assert_eq!(get(&tree, tree.root(), &key), model.get(&key).cloned());
                        assert_eq!(tree.root().rows, model.len() as u64);
                    }
                    1 => assert_eq!(tree.tree_mut().unwrap().remove(&key).unwrap(), model.remove(&key)),
                    2..10 => {
                        tree.delete(&key).unwrap();
                        model.remove(&key);
                    }
                    _ => {
                        let value = value(&mut random, shape.1);
                        tree.put(&key, &value).unwrap();
                        model.insert(key, value);
                    }
                }
            }
            let tree = tree.into_tree().unwrap();
            assert_rows(&&tree, tree.root(), &model);
            db.commit(Txn { tree, writer });
            db.check();
            db.assert_holds(&model);
        }
    }
}

#[test]
fn threads_that_read_at_once_all_see_the_settled_tree() {
    for round in 0..40_u64 {
        let mut db = Db::new(small(), 1 << 20);
        let Txn { tree, writer } = db.begin();
        let mut tree = BufferedTree::new(tree);
        for number in 0..2000_u64 {
            tree.put(&(number * 7919 % 2000).to_be_bytes(), &round.to_be_bytes()).unwrap();
        }
        assert!(tree.buffer_bytes() > 0);
        let start = Barrier::new(3);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    start.wait();
                    let tree = tree.tree().unwrap();
                    assert_eq!(tree.root().rows, 2000);
                    assert_eq!(get(&tree, tree.root(), &17_u64.to_be_bytes()), Some(round.to_be_bytes().to_vec()));
                });
            }
        });
        assert_eq!(tree.buffer_bytes(), 0);
        db.commit(Txn { tree: tree.into_tree().unwrap(), writer });
        assert_eq!(db.check().rows, 2000);
    }
}

#[test]
fn a_change_that_no_node_can_hold_is_refused_and_the_rest_stays() {
    let mut db = Db::new(small(), 1 << 20);
    let Txn { tree, writer } = db.begin();
    let mut tree = BufferedTree::new(tree);
    tree.put(b"a", b"1").unwrap();
    assert!(matches!(tree.put(&vec![0; 65_537], b""), Err(StorageError::KeyTooLarge { .. })));
    assert!(matches!(tree.delete(&vec![0; 65_537]), Err(StorageError::KeyTooLarge { .. })));
    tree.put(b"b", b"2").unwrap();
    db.commit(Txn { tree: tree.into_tree().unwrap(), writer });
    assert_eq!(db.check().rows, 2);
}

#[test]
fn after_a_failed_merge_every_call_says_that_the_transaction_is_poisoned() {
    let mut db = Db::new(tiny(), 1 << 20);
    let mut txn = db.begin();
    for number in 0..1000_u32 {
        txn.insert(&number.to_be_bytes(), &[1; 20]);
    }
    let root = txn.tree.root().page;
    let child = branch::child(txn.tree.dirty_ref(root), 0);
    branch::set_child(
        txn.tree.dirty_node(root),
        0,
        Child { page: crate::base::ids::PageId::new(9000).unwrap(), ..child },
    );
    let Txn { tree, writer } = txn;
    let mut tree = BufferedTree::new(tree);
    for number in 0..50_u32 {
        tree.put(&number.to_be_bytes(), b"new").unwrap();
    }
    assert!(tree.tree().unwrap_err().is_corruption());
    let poisoned = |error: StorageError| assert!(matches!(error, StorageError::TransactionPoisoned), "{error}");
    poisoned(tree.tree().unwrap_err());
    poisoned(tree.put(b"k", b"v").unwrap_err());
    poisoned(tree.delete(b"k").unwrap_err());
    poisoned(tree.tree_mut().unwrap_err());
    poisoned(tree.into_tree().unwrap_err());
    writer.rollback();
    drop(writer);
    db.reclaim();
    db.check();
}

#[test]
fn keys_that_ascend_are_merged_as_they_come_and_take_little_memory() {
    let mut db = Db::new(small(), 1 << 20);
    let Txn { tree, writer } = db.begin();
    let mut tree = BufferedTree::new(tree);
    let mut model = Model::new();
    for number in 0..60_000_u64 {
        // Once what ascends has been merged, what does not waits.
        let key = if number < 50_000 { number } else { number * 7919 % 50_000 };
        tree.put(&key.to_be_bytes(), &number.to_be_bytes()).unwrap();
        model.insert(key.to_be_bytes().to_vec(), number.to_be_bytes().to_vec());
        assert!(tree.buffer_bytes() <= 3 << 20);
    }
    assert!(tree.base_mut().unwrap().root().rows >= 20_000);
    let tree = tree.into_tree().unwrap();
    db.commit(Txn { tree, writer });
    db.check();
    db.assert_holds(&model);
}
