//! Ranges from both ends against a model.
//!
//! Invariant: as in `fixture`.
//! Layer 3 (btree).

use super::fixture::{Db, Model, Random, small, tiny};
use super::model::{Keys, Values, key, value};
use crate::btree::cursor::{RangeCursor, prefix_end};
use crate::btree::tree::{PinnedPages, SnapshotPages};
use std::ops::Bound;
use std::sync::Arc;

fn bound(random: &mut Random, keys: Keys) -> Bound<Vec<u8>> {
    match random.below(5) {
        0 => Bound::Unbounded,
        1 | 2 => Bound::Included(key(random, keys)),
        _ => Bound::Excluded(key(random, keys)),
    }
}

fn as_slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    bound.as_ref().map(|key| &key[..])
}

/// What the model holds in a range; unlike the map's own method it takes inverted ranges.
fn expected(model: &Model, start: &Bound<Vec<u8>>, end: &Bound<Vec<u8>>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let inside = |key: &Vec<u8>| {
        let above = match start {
            Bound::Unbounded => true,
            Bound::Included(start) => key >= start,
            Bound::Excluded(start) => key > start,
        };
        above
            && match end {
                Bound::Unbounded => true,
                Bound::Included(end) => key <= end,
                Bound::Excluded(end) => key < end,
            }
    };
    model.iter().filter(|(key, _)| inside(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

#[test]
fn both_ends_meet_in_every_kind_of_range() {
    for (seed, keys) in [(1, Keys::Short), (2, Keys::Urls), (3, Keys::Any), (4, Keys::Dense), (5, Keys::Fixed)] {
        let mut random = Random::new(seed);
        let mut db = Db::new(if seed % 2 == 0 { small() } else { tiny() }, 1 << 20);
        let mut model = Model::new();
        for rows in [0, 1, 5, 200] {
            let mut txn = db.begin();
            for _ in 0..rows {
                let (key, value) = (key(&mut random, keys), value(&mut random, Values::Mixed));
                txn.insert(&key, &value);
                model.insert(key, value);
            }
            db.commit(txn);
            let pin = db.pins.pin_published();
            let epoch = db.store.enter();
            let pages = PinnedPages { store: &db.store, pin: &pin, epoch: &epoch };
            for _ in 0..120 {
                let (start, end) = (bound(&mut random, keys), bound(&mut random, keys));
                let mut wanted = std::collections::VecDeque::from(expected(&model, &start, &end));
                let mut cursor = RangeCursor::new(pages, &db.root(), as_slice(&start), as_slice(&end)).unwrap();
                let bias = random.below(11);
                loop {
                    let (found, wanted) = if random.below(10) < bias {
                        (cursor.next().unwrap(), wanted.pop_front())
                    } else {
                        (cursor.previous().unwrap(), wanted.pop_back())
                    };
                    let row = found.map(|found| {
                        let (key, value) = found.key_and_value().unwrap();
                        (key.as_slice().to_vec(), value.as_slice().to_vec())
                    });
                    assert_eq!(row, wanted, "{seed} {start:?} {end:?}");
                    if row.is_none() {
                        break;
                    }
                }
                assert!(cursor.next().unwrap().is_none() && cursor.previous().unwrap().is_none());
            }
        }
    }
}

#[test]
fn an_owned_cursor_and_its_rows_keep_their_snapshot() {
    let mut db = Db::new(tiny(), 4 << 10);
    let mut txn = db.begin();
    for number in 0..300_u32 {
        txn.insert(&number.to_be_bytes(), &[1; 60]);
    }
    db.commit(txn);
    let pages = SnapshotPages::new(Arc::clone(&db.store), db.pins.pin_published());
    let mut cursor = RangeCursor::new(pages.clone(), &db.root(), Bound::Unbounded, Bound::Unbounded).unwrap();
    let (first_key, first) = cursor.next().unwrap().unwrap().key_and_value().unwrap();
    for _ in 0..3 {
        let mut txn = db.begin();
        for number in 0..300_u32 {
            txn.insert(&number.to_be_bytes(), &[2; 60]);
        }
        db.commit(txn);
    }
    assert!(db.pending_units() > 0);
    let mut count = 1;
    while let Some(found) = cursor.previous().unwrap() {
        assert_eq!(found.key_and_value().unwrap().1.as_slice(), &[1; 60]);
        count += 1;
    }
    assert_eq!((count, first_key.as_slice()), (300, &[0; 4][..]));
    assert_eq!(first.as_slice(), &[1; 60]);
    drop((cursor, pages));
    db.reclaim();
    assert!(db.pending_units() > 0, "a row that was handed out still keeps the snapshot");
    drop(first);
    db.reclaim();
    assert_eq!(db.pending_units(), 0);
    db.check();
}

#[test]
fn prefix_end_is_the_least_key_above_the_prefix() {
    assert_eq!(prefix_end(b""), None);
    assert_eq!(prefix_end(&[255, 255]), None);
    assert_eq!(prefix_end(b"ab"), Some(b"ac".to_vec()));
    assert_eq!(prefix_end(&[1, 255, 255]), Some(vec![2]));
}
