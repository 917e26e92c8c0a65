//! Random transactions against a model, over many shapes of keys and values.
//!
//! Invariant: as in `fixture`.
//! Layer 3 (btree).

use super::fixture::{Db, Model, Random, assert_pin_holds, assert_rows, ordinary, small, tiny};
use crate::pages::layout::Layout;
use crate::pages::version::Pin;

#[derive(Debug, Clone, Copy)]
pub(super) enum Keys {
    Short,
    Fixed,
    Urls,
    /// Up to the longest, many of them equal in the first 60 KB.
    Any,
    /// One byte, or two: what makes the smallest uniform entries.
    Dense,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Values {
    Empty,
    Uniform,
    Mixed,
    /// Up to several runs.
    Long,
}

pub(super) fn key(random: &mut Random, keys: Keys) -> Vec<u8> {
    match keys {
        Keys::Short => u32::try_from(random.below(3000)).unwrap().to_be_bytes().to_vec(),
        Keys::Fixed => {
            let mut key = vec![0; 24];
            let number = random.below(2000);
            key[16..].copy_from_slice(&(number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
            key
        }
        Keys::Urls => {
            let site = ["https://example.org/articles/archive/", "https://example.org/", "http://x.org/a/long/way/"];
            format!("{}{}", site[random.below(3)], random.below(900)).into_bytes()
        }
        Keys::Dense => {
            let len = 1 + random.below(40) / 39;
            random.bytes(len)
        }
        Keys::Any => match random.below(8) {
            0 => Vec::new(),
            1 => vec![b'k'; random.below(100)],
            2 => vec![0; random.below(600)],
            3 => [&vec![b'z'; 60_000][..], &[b'a'; 40][..random.below(40)], &random.bytes(1)].concat(),
            4 => vec![random.byte() % 4; random.below(65_537)],
            5 => [&[b'k'; 32][..], &[random.byte() % 8]].concat(),
            _ => {
                let len = random.below(70);
                random.bytes(len)
            }
        },
    }
}

pub(super) fn value(random: &mut Random, values: Values) -> Vec<u8> {
    let byte = random.byte();
    match values {
        Values::Empty => Vec::new(),
        Values::Uniform => vec![byte; 12],
        Values::Mixed => vec![byte; [0, 3, 12, 12, 12, 60, 98, 200][random.below(8)]],
        Values::Long => {
            let len = match random.below(12) {
                0 => 40_000 + random.below(60_000),
                1 => 500 + random.below(16_000),
                _ => random.below(400),
            };
            let mut value = vec![byte; len];
            for at in (0..len).step_by(97) {
                value[at] = random.byte();
            }
            value
        }
    }
}

/// Applies random changes to tree and model alike.
fn change(
    txn: &mut super::fixture::Txn,
    model: &mut Model,
    random: &mut Random,
    shape: (Keys, Values),
    removal: usize,
) {
    let existing = (!model.is_empty() && random.below(2) == 0).then(|| {
        let near = key(random, shape.0);
        model.range(near..).next().or_else(|| model.iter().next()).map(|(key, _)| key.clone()).unwrap()
    });
    let target = existing.unwrap_or_else(|| key(random, shape.0));
    if random.below(100) < removal {
        assert_eq!(txn.remove(&target), model.remove(&target));
    } else {
        let value = value(random, shape.1);
        assert_eq!(txn.insert(&target, &value), model.insert(target.clone(), value));
    }
    assert_eq!(txn.get(&target), model.get(&target).cloned());
}

/// Runs transactions with commits, aborts, spills and readers, and checks everything after each.
fn run(layout: Layout, shape: (Keys, Values), transactions: usize, changes: usize, seed: u64) {
    let mut random = Random::new(seed);
    let mut db = Db::new(layout, 64 << 10);
    let mut model = Model::new();
    let mut readers: Vec<(Pin, Model)> = Vec::new();
    for round in 0..transactions {
        let removal = [20, 45, 80][round * 3 / transactions];
        let mut next = model.clone();
        let mut txn = db.begin();
        for _ in 0..1 + random.below(changes) {
            change(&mut txn, &mut next, &mut random, shape, removal);
            if random.below(60) == 0 {
                txn.tree.spill().unwrap();
            }
        }
        assert_rows(&&txn.tree, txn.tree.root(), &next);
        if random.below(4) == 0 {
            db.abort(txn);
        } else {
            db.commit(txn);
            model = next;
        }
        db.check();
        db.assert_holds(&model);
        if random.below(3) == 0 {
            readers.push((db.pins.pin_published(), model.clone()));
        }
        if readers.len() > 3 {
            readers.swap_remove(random.below(4));
            db.reclaim();
            db.check();
        }
        for (pin, snapshot) in &readers {
            assert_pin_holds(&db.store, pin, snapshot);
        }
    }
    let mut txn = db.begin();
    let mut keys: Vec<_> = model.keys().cloned().collect();
    while !keys.is_empty() {
        let key = keys.swap_remove(random.below(keys.len()));
        assert_eq!(txn.remove(&key), model.remove(&key));
    }
    db.commit(txn);
    for (pin, snapshot) in readers.drain(..) {
        assert_pin_holds(&db.store, &pin, &snapshot);
    }
    db.reclaim();
    db.check();
    assert_eq!((db.root().height, db.pending_units(), db.space.lock().count_allocated()), (0, 0, 0));
}

/// Runs every combination with several seeds.
fn run_all(layouts: &[Layout], keys: Keys, values: &[Values], transactions: usize, changes: usize) {
    for seed in 1..=8 {
        for (index, layout) in layouts.iter().enumerate() {
            for (number, values) in values.iter().enumerate() {
                let seed = seed * 100 + (index * 10 + number) as u64;
                run(*layout, (keys, *values), transactions, changes, seed);
            }
        }
    }
}

#[test]
fn short_keys_match_the_model() {
    run_all(&[tiny(), small()], Keys::Short, &[Values::Uniform, Values::Mixed, Values::Empty], 24, 160);
    run_all(&[ordinary()], Keys::Short, &[Values::Uniform, Values::Mixed], 12, 700);
}

#[test]
fn fixed_keys_match_the_model() {
    run_all(&[tiny(), small()], Keys::Fixed, &[Values::Uniform, Values::Mixed, Values::Long], 16, 160);
}

#[test]
fn keys_with_long_shared_prefixes_match_the_model() {
    run_all(&[tiny(), small()], Keys::Urls, &[Values::Uniform, Values::Mixed, Values::Empty], 24, 160);
    run_all(&[ordinary()], Keys::Urls, &[Values::Uniform, Values::Mixed], 10, 600);
}

#[test]
fn keys_of_any_length_match_the_model() {
    run_all(&[tiny(), small(), ordinary()], Keys::Any, &[Values::Mixed, Values::Long], 12, 60);
}

#[test]
fn long_values_match_the_model() {
    run_all(&[tiny(), ordinary()], Keys::Short, &[Values::Long], 14, 100);
}

#[test]
fn the_smallest_uniform_entries_match_the_model() {
    run_all(&[tiny(), small()], Keys::Dense, &[Values::Empty, Values::Mixed], 20, 200);
}

#[test]
fn values_longer_than_a_list_can_name_and_keys_too_long_are_refused_unchanged() {
    let mut db = Db::new(tiny(), 1 << 20);
    let mut txn = db.begin();
    txn.insert(&vec![1; 65_536], &vec![2; 300_000]);
    assert!(txn.tree.insert(&vec![1; 65_537], b"").is_err());
    let too_long = vec![0; crate::pages::extent::value_bytes_max(&tiny()) + 1];
    assert!(txn.tree.insert(b"k", &too_long).is_err());
    assert_eq!(txn.get(&vec![1; 65_537]), None);
    db.commit(txn);
    assert_eq!(db.check().rows, 1);
    let mut txn = db.begin();
    assert_eq!(txn.insert(&vec![1; 65_536], b"short"), Some(vec![2; 300_000]));
    assert_eq!(txn.remove(&vec![1; 65_536]), Some(b"short".to_vec()));
    db.commit(txn);
    db.check();
    assert_eq!(db.space.lock().count_allocated(), 0);
}
