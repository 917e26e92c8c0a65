//! Sweeps over rows that are laid over a tree, around the limits where the rest is done in the tree.
//!
//! Invariant: a row is asked about once at most and in order, what is returned is gone, and a transaction that ends without
//! a commit, however, leaves everything as it was.

use crate::fixture::{SharedBytes, assert_sound, value};
use cowslip::{Builder, CommitError, Database, Error, Table, TableDefinition};
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};

const SWEPT: TableDefinition<&[u8], &[u8]> = TableDefinition::new("swept");

type Swept<'t> = Table<'t, &'static [u8], &'static [u8]>;
type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// Rows of which those below `limit` may go, in keys of some length.
struct Filled {
    db: Database,
    storage: SharedBytes,
    rows: Rows,
}

/// Those below `limit` have a prefix of their own.
fn key(number: u64, limit: u64, key_len: usize) -> Vec<u8> {
    let mut key = vec![if number < limit { b'a' } else { b'b' }; key_len];
    key.extend(number.to_be_bytes());
    key
}

fn number(key: &[u8]) -> u64 {
    u64::from_be_bytes(key[key.len() - 8..].try_into().unwrap())
}

/// Some rows are in the tree, some laid over it, some both, and some of the tree are gone.
fn filled(rows: u64, limit: u64, key_len: usize) -> Filled {
    let storage = SharedBytes::default();
    let db = Builder::new().test_checkpoint_lag(1000).create_with_storage(storage.clone()).unwrap();
    let mut model = Rows::new();
    let set = |numbers: &mut dyn Iterator<Item = u64>, round, by_slot, model: &mut Rows| {
        let mut tx = db.begin_write().unwrap();
        tx.set_two_phase_commit(by_slot);
        let mut open = tx.open_table(SWEPT).unwrap();
        for number in numbers {
            let (key, value) = (key(number, limit, key_len), value(number, round, 9));
            open.put(&key[..], &value[..]).unwrap();
            model.insert(key, value);
        }
        drop(open);
        tx.commit().unwrap();
    };
    set(&mut (0..rows).filter(|number| number % 8 != 3).chain(rows..rows + 40), 0, true, &mut model);
    set(&mut (0..1), 0, false, &mut model);
    set(&mut (0..rows).step_by(29), 1, false, &mut model);
    set(&mut (3..rows).step_by(8).filter(|number| number % 16 == 3), 2, false, &mut model);
    set(&mut (3..rows).step_by(8).filter(|number| number % 16 != 3), 3, false, &mut model);
    let tx = db.begin_write().unwrap();
    let mut open = tx.open_table(SWEPT).unwrap();
    for number in rows..rows + 40 {
        let key = key(number, limit, key_len);
        open.delete(&key[..]).unwrap();
        model.remove(&key);
    }
    drop(open);
    tx.commit().unwrap();
    assert!(all(&db) == model);
    Filled { db, storage, rows: model }
}

fn all(db: &Database) -> Rows {
    let table = db.begin_read().unwrap().open_table(SWEPT).unwrap();
    let rows = table.iter().unwrap().map(|row| row.unwrap());
    let rows: Rows = rows.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())).collect();
    assert_eq!(table.len().unwrap(), rows.len() as u64);
    rows
}

fn all_in(open: &Swept<'_>) -> Rows {
    let rows = open.iter().unwrap().map(|row| row.unwrap());
    let rows: Rows = rows.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())).collect();
    assert_eq!(open.len().unwrap(), rows.len() as u64);
    rows
}

/// Whether a predicate lets a row go: not all that stand together.
fn goes(key: &[u8]) -> bool {
    key[0] == b'a' && number(key) % 50 != 4
}

/// Removes rows, and calls `asks` with each that it is asked about, and `returns` with each that it is given; says how many.
type Way = fn(&mut Swept<'_>, &mut dyn FnMut(&[u8]), &mut dyn FnMut(&[u8])) -> u64;

fn extract(open: &mut Swept<'_>, sides: u64, asks: &mut dyn FnMut(&[u8]), returns: &mut dyn FnMut(&[u8])) -> u64 {
    let picked = open.extract_if(|key, _| {
        asks(key);
        goes(key)
    });
    let (mut picked, mut count) = (picked.unwrap(), 0);
    while let Some(row) = if (count + 1) % sides == 0 { picked.next_back() } else { picked.next() } {
        count += 1;
        returns(row.unwrap().0.value());
    }
    assert!(picked.next().is_none() && picked.next_back().is_none());
    count
}

/// Those that ask about rows.
const ASKING: [(&str, Way); 5] = [
    ("retain", |open, asks, _| {
        open.retain(|key, _| {
            asks(key);
            !goes(key)
        })
        .unwrap()
    }),
    ("retain_in", |open, asks, _| {
        open.retain_in::<&[u8], _>(&b"a"[..]..&b"b"[..], |key, _| {
            asks(key);
            !goes(key)
        })
        .unwrap()
    }),
    ("extract_if", |open, asks, returns| extract(open, u64::MAX, asks, returns)),
    ("extract_if from the back", |open, asks, returns| extract(open, 1, asks, returns)),
    ("extract_if from both ends", |open, asks, returns| extract(open, 3, asks, returns)),
];

/// Those that remove all rows of their range.
const REMOVING: [(&str, Way); 3] = [
    ("remove_range", |open, _, _| open.remove_range::<&[u8]>(..&b"b"[..]).unwrap()),
    ("remove_prefix", |open, _, _| open.remove_prefix(&b"a"[..]).unwrap()),
    ("pops", |open, _, returns| {
        let mut count = 0;
        while open.first().unwrap().is_some_and(|(key, _)| key.value()[0] == b'a') {
            let (key, _) = open.pop_first().unwrap().unwrap();
            returns(key.value());
            count += 1;
        }
        // From the other end one that has to stay.
        let (key, value) = open.pop_last().unwrap().unwrap();
        open.put(key.value(), value.value()).unwrap();
        count
    }),
];

/// Limits: numbers of removals, and lengths of keys, around those from which on a sweep goes on in the tree.
const LIMITS: [(u64, u64, usize); 7] = [
    (600, 500, 4),
    (5000, 4095, 1),
    (5000, 4096, 1),
    (5000, 4097, 1),
    (9000, 8000, 1),
    // Removals of 1 MiB.
    (2000, 1800, 600),
    (1100, 1000, 2000),
];

fn ways() -> impl Iterator<Item = (&'static str, Way, bool)> {
    let asking = ASKING.into_iter().map(|(name, way)| (name, way, true));
    asking.chain(REMOVING.into_iter().map(|(name, way)| (name, way, false)))
}

fn left(rows: &Rows, is_asking: bool) -> Rows {
    let stays = |key: &[u8]| if is_asking { !goes(key) } else { key[0] != b'a' };
    rows.iter().filter(|(key, _)| stays(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Requires that rows were asked about in order, from either end, and none twice. Says how many are left.
fn assert_in_order(rows: &Rows, asked: &[Vec<u8>], what: &str) -> usize {
    let mut left: VecDeque<&Vec<u8>> = rows.keys().collect();
    for key in asked {
        if left.front() == Some(&key) {
            left.pop_front();
        } else {
            assert_eq!(left.pop_back(), Some(key), "{what}: row {} is out of turn", number(key));
        }
    }
    left.len()
}

#[test]
fn sweeps_ask_about_each_row_once_and_remove_what_they_say() {
    for (rows, limit, key_len) in LIMITS {
        let filled = filled(rows, limit, key_len);
        for (name, way, is_asking) in ways() {
            let what = format!("{name}, {limit} rows with keys of {key_len} bytes");
            let (mut asked, mut returned) = (Vec::new(), Vec::new());
            let left = left(&filled.rows, is_asking);
            let tx = filled.db.begin_write().unwrap();
            let mut open = tx.open_table(SWEPT).unwrap();
            let count = way(&mut open, &mut |key| asked.push(key.to_vec()), &mut |key| returned.push(key.to_vec()));
            assert_eq!(count, (filled.rows.len() - left.len()) as u64, "{what}");
            assert!(all_in(&open) == left, "{what}");
            if is_asking {
                let unasked = assert_in_order(&filled.rows, &asked, &what);
                let outside = filled.rows.keys().filter(|key| key[0] == b'b').count();
                assert_eq!(unasked, if name == "retain_in" { outside } else { 0 }, "{what}");
            }
            if !returned.is_empty() {
                returned.sort();
                assert!(filled.rows.keys().filter(|key| !left.contains_key(*key)).eq(&returned), "{what}");
            }
            drop(open);
            assert!(all_in(&tx.open_table(SWEPT).unwrap()) == left, "{what}");
            drop(tx);
            assert!(all(&filled.db) == filled.rows, "{what}: dropped, and changed all the same");
        }
        assert_sound(&filled.db);
    }
}

#[test]
fn what_sweeps_remove_is_gone_after_the_commit_a_crash_and_the_close() {
    for (rows, limit, key_len) in LIMITS {
        let image = filled(rows, limit, key_len).storage.image();
        for (name, way, is_asking) in ways() {
            let storage = SharedBytes::of(image.clone());
            let db = Builder::new().test_checkpoint_lag(1000).open_with_storage(storage.clone()).unwrap();
            let left = left(&all(&db), is_asking);
            db.update(|tx| {
                way(&mut tx.open_table(SWEPT)?, &mut |_| {}, &mut |_| {});
                Ok::<_, Error>(())
            })
            .unwrap();
            let what = format!("{name}, {limit} rows with keys of {key_len} bytes");
            assert!(all(&db) == left, "{what}");
            assert_sound(&db);
            let crashed = Builder::new().open_with_storage(SharedBytes::of(storage.image())).unwrap();
            assert!(all(&crashed) == left, "{what}: after a crash");
            db.close().unwrap();
            let reopened = Builder::new().open_with_storage(storage).unwrap();
            assert!(all(&reopened) == left, "{what}: after the close");
            assert_sound(&reopened);
        }
    }
}

/// Numbers of the rows at which something happens.
fn steps(rows: u64) -> Vec<u64> {
    let mut steps = vec![0, 1, rows / 2, 4094, 4095, 4096, 4097, 4500, rows - 1];
    steps.retain(|step| *step < rows);
    steps
}

#[test]
fn a_predicate_that_panics_anywhere_leaves_the_database_as_it_was() {
    for (rows, limit, key_len) in LIMITS {
        let filled = filled(rows, limit, key_len);
        for (name, way) in ASKING {
            for (index, step) in steps(limit * 9 / 10).into_iter().enumerate() {
                let what = format!("{name}, {limit} rows with keys of {key_len} bytes, row {step}");
                let tx = filled.db.begin_write().unwrap();
                let mut open = tx.open_table(SWEPT).unwrap();
                let mut asked = 0;
                let panicked = catch_unwind(AssertUnwindSafe(|| {
                    let mut asks = |_: &[u8]| {
                        asked += 1;
                        if asked > step {
                            std::panic::resume_unwind(Box::new("the predicate panics"));
                        }
                    };
                    way(&mut open, &mut asks, &mut |_| {})
                }));
                assert!(panicked.is_err(), "{what}");
                assert!(open.len().is_err() && open.get(&b"a"[..]).is_err(), "{what}: it goes on");
                drop(open);
                if index % 2 == 0 {
                    assert!(matches!(tx.commit(), Err(CommitError::Poisoned)), "{what}");
                } else {
                    drop(tx);
                }
                assert!(all(&filled.db) == filled.rows, "{what}");
            }
        }
        assert_sound(&filled.db);
    }
}

#[test]
fn an_extraction_that_ends_early_has_removed_what_it_returned() {
    for (rows, limit, key_len) in LIMITS {
        let image = filled(rows, limit, key_len).storage.image();
        for sides in [1, 3, u64::MAX] {
            for step in steps(limit * 9 / 10) {
                let what = format!("{limit} rows with keys of {key_len} bytes, {step} of them, from {sides}");
                let storage = SharedBytes::of(image.clone());
                let db = Builder::new().test_checkpoint_lag(1000).open_with_storage(storage).unwrap();
                let (before, mut left) = (all(&db), all(&db));
                for is_committed in [false, true] {
                    let tx = db.begin_write().unwrap();
                    let mut open = tx.open_table(SWEPT).unwrap();
                    let mut picked = open.extract_if(|key, _| goes(key)).unwrap();
                    for turn in 1..=step {
                        let row = if turn % sides == 0 { picked.next_back() } else { picked.next() };
                        let (key, value) = row.unwrap().unwrap();
                        let expected = left.remove(key.value());
                        assert!(expected.is_some_and(|expected| expected == value.value()), "{what}");
                    }
                    drop(picked);
                    assert!(all_in(&open) == left, "{what}");
                    drop(open);
                    if is_committed {
                        tx.commit().unwrap();
                    } else {
                        tx.abort().unwrap();
                        left.clone_from(&before);
                        assert!(all(&db) == before, "{what}: aborted");
                    }
                }
                assert!(all(&db) == left, "{what}");
                assert_sound(&db);
            }
        }
    }
}
