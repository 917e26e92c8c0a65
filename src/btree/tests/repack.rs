//! Repacking trees, whole and in parts: the rows stay, leaves get full, pages get low, and a second time nothing happens.
//!
//! Invariant: as in `fixture`.
//! Layer 3 (btree).

use super::fixture::{Db, Model, Random, ordinary, small, tiny};
use super::merge::nodes;
use super::model::{Keys, Values, key, value};
use crate::pages::layout::Layout;

/// Repacks in transactions of a part each; returns how many of them changed something.
fn repack(db: &mut Db, limit_units: u64, work_bytes_max: usize) -> usize {
    let (mut from, mut changed, mut parts) = (Vec::new(), 0, 0);
    loop {
        let mut txn = db.begin();
        let done = txn.tree.repack(&from, limit_units, work_bytes_max).unwrap();
        changed += usize::from(txn.tree.is_changed());
        db.commit(txn);
        parts += 1;
        if parts % 16 == 1 {
            db.check();
        }
        assert!(parts < 100_000, "every part goes on from a later key");
        let Some(next) = done.next_key else { break };
        assert!(next > from);
        from = next;
    }
    db.check();
    changed
}

fn run(layout: Layout, shape: (Keys, Values), cache_bytes_max: usize, seed: u64) {
    let mut random = Random::new(seed);
    let mut db = Db::new(layout, cache_bytes_max);
    let mut model = Model::new();
    for _ in 0..3 {
        let mut txn = db.begin();
        for _ in 0..400 {
            let (key, value) = (key(&mut random, shape.0), value(&mut random, shape.1));
            txn.insert(&key, &value);
            model.insert(key, value);
        }
        let percent = [10, 50, 95][random.below(3)];
        let gone: Vec<_> = model.keys().filter(|_| random.below(100) < percent).cloned().collect();
        for key in gone {
            assert_eq!(txn.remove(&key), model.remove(&key));
        }
        db.commit(txn);
        let work_bytes_max = [1, 20_000, usize::MAX][random.below(3)];
        repack(&mut db, u64::MAX, work_bytes_max);
        db.assert_holds(&model);
        let packed = nodes(&db);
        assert_eq!(repack(&mut db, u64::MAX, usize::MAX), 0, "what is packed stays as it is");
        assert_eq!(nodes(&db), packed);
        // Half of what is allocated cannot all move below, and what moves must be the same afterwards.
        let limit = db.space.lock().count_allocated() * 3 / 4;
        for _ in 0..3 {
            repack(&mut db, limit, work_bytes_max);
            db.assert_holds(&model);
        }
    }
}

#[test]
fn repacked_trees_match_the_model() {
    for seed in 1..=3 {
        for (index, layout) in [tiny(), small(), ordinary()].into_iter().enumerate() {
            let shapes = [
                (Keys::Short, Values::Uniform),
                (Keys::Short, Values::Mixed),
                (Keys::Urls, Values::Mixed),
                (Keys::Any, Values::Long),
            ];
            for (number, shape) in shapes.into_iter().enumerate() {
                let seed = seed * 100 + (index * 10 + number) as u64;
                run(layout, shape, if seed.is_multiple_of(2) { 0 } else { 4 << 20 }, seed);
            }
        }
    }
}

#[test]
fn leaves_are_full_and_pages_low_after_repacking() {
    let mut db = Db::new(ordinary(), 8 << 20);
    let mut txn = db.begin();
    let mut random = Random::new(5);
    let keys: Vec<_> = (0..20_000_u32).map(|number| number.wrapping_mul(2_654_435_769).to_be_bytes()).collect();
    for key in &keys {
        txn.insert(key, &[7; 100]);
    }
    for key in keys.iter().filter(|_| random.below(2) == 0) {
        txn.remove(key);
    }
    db.commit(txn);
    repack(&mut db, u64::MAX, 100_000);
    let (_, leaves) = nodes(&db);
    let not_full = leaves.iter().filter(|used| **used * 100 < ordinary().node_bytes() as usize * 97).count();
    assert!(not_full <= 1, "{not_full} of {} leaves are not full", leaves.len());
    let limit = 26 + 256 + db.space.lock().count_allocated() * 11 / 10;
    repack(&mut db, limit, 100_000);
    let (pages, _) = nodes(&db);
    assert!(pages.iter().all(|page| *page < limit), "{:?} at or above {limit}", pages.last());
}
