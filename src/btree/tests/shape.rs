//! How full nodes are after typical sequences of changes.
//!
//! Invariant: as in `fixture`.
//! Layer 3 (btree).

use super::fixture::{Db, Model, Random, ordinary, small, tiny};
use crate::btree::branch;
use crate::btree::leaf;
use crate::btree::node::{self, KIND_LEAF};
use crate::btree::tree::PinnedPages;
use crate::btree::walk::{Visit, walk};
use crate::pages::layout::Layout;

/// Used bytes of every leaf and of every branch.
fn fills(db: &Db) -> (Vec<usize>, Vec<usize>) {
    let pin = db.pins.pin_published();
    let epoch = db.store.enter();
    let pages = PinnedPages { store: &db.store, pin: &pin, epoch: &epoch };
    let (mut leaves, mut branches) = (Vec::new(), Vec::new());
    walk(&pages, db.store.layout(), &db.root(), &mut |visit| {
        if let Visit::Node { bytes, .. } = visit {
            if node::kind(bytes) == KIND_LEAF {
                leaves.push(leaf::used_bytes(bytes));
            } else {
                branches.push(branch::used_bytes(bytes));
            }
        }
        Ok(())
    })
    .unwrap();
    (leaves, branches)
}

fn filled(layout: Layout, keys: impl Iterator<Item = u64>) -> Db {
    let mut db = Db::new(layout, 4 << 20);
    let mut txn = db.begin();
    for key in keys {
        txn.insert(&key.to_be_bytes(), &[7; 10]);
    }
    db.commit(txn);
    db.check();
    db
}

#[test]
fn insertion_in_order_leaves_full_leaves() {
    for layout in [small(), ordinary()] {
        for descending in [false, true] {
            let count = 20_000;
            let db = filled(layout, (0..count).map(|i| if descending { count - i } else { i }));
            let (leaves, _) = fills(&db);
            let used: usize = leaves.iter().sum();
            let share = used * 100 / (leaves.len() * layout.node_bytes() as usize);
            assert!(share >= 95, "{share} % full, descending: {descending}");
        }
    }
}

#[test]
fn deleting_nearly_everything_shrinks_the_tree() {
    for layout in [tiny(), ordinary()] {
        let count = 20_000;
        let mut db = filled(layout, 0..count);
        let before = db.check();
        let mut random = Random::new(5);
        let mut keys: Vec<u64> = (0..count).collect();
        let mut txn = db.begin();
        while keys.len() > 200 {
            let key = keys.swap_remove(random.below(keys.len()));
            assert!(txn.remove(&key.to_be_bytes()).is_some());
        }
        db.commit(txn);
        let after = db.check();
        let (pages, pages_before) = (after.leaf_pages + after.branch_pages, before.leaf_pages + before.branch_pages);
        assert!(pages * 20 <= pages_before, "{pages} of {pages_before} pages are left");
        let model: Model = keys.iter().map(|key| (key.to_be_bytes().to_vec(), vec![7; 10])).collect();
        db.assert_holds(&model);
    }
}

#[test]
fn a_merge_leaves_no_node_over_nine_tenths() {
    let layout = tiny();
    let mut random = Random::new(8);
    let mut db = filled(layout, (0..3000).map(|i| (i * 7919) % 3000));
    let mut keys: Vec<u64> = (0..3000).collect();
    let (mut leaves, _) = fills(&db);
    let mut merges = 0;
    while keys.len() > 20 {
        let mut txn = db.begin();
        let key = keys.swap_remove(random.below(keys.len()));
        txn.remove(&key.to_be_bytes());
        db.commit(txn);
        let (after, branches) = fills(&db);
        if after.len() < leaves.len() {
            merges += 1;
            let most = layout.node_bytes() as usize * 9 / 10;
            // What is fuller than a merge leaves it was as full before.
            let over = |fills: &[usize]| fills.iter().filter(|used| **used > most).count();
            assert!(over(&after) <= over(&leaves));
            assert!(branches.iter().all(|used| *used <= layout.node_bytes() as usize));
        }
        leaves = after;
    }
    assert!(merges > 20, "{merges} merges");
    db.check();
}
