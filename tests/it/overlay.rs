//! Rows that are laid over trees: what readers and writers see of them, and what snapshots keep.
//!
//! Invariant: wherever a row is, in a tree, in a layer over it or in both, every read gives what a map of the same history
//! gives; and a snapshot never changes.

use crate::fixture::{Random, SharedBytes, assert_sound, tiny, value};
use cowslip::{Builder, Database, Durability, Error, ReadTransaction, Table, TableDefinition, WriteTransaction};
use std::collections::BTreeMap;
use std::ops::{Bound, RangeBounds};

pub(crate) type Rows = BTreeMap<Vec<u8>, Vec<u8>>;
/// Rows of all tables.
pub(crate) type State = BTreeMap<String, Rows>;
type BytesTable<'t> = Table<'t, &'static [u8], &'static [u8]>;

pub(crate) fn table(name: &str) -> TableDefinition<'_, &'static [u8], &'static [u8]> {
    TableDefinition::new(name)
}

/// A key for each number: short ones that share their first bytes, and some that are longer than a node.
pub(crate) fn key(number: u64) -> Vec<u8> {
    let mut key = vec![b'k'; usize::try_from(number % 3).unwrap()];
    match number % 23 {
        5 => key.extend([b'l'; 300]),
        11 => key.extend([b'm'; 1500]),
        _ => {}
    }
    key.extend(&number.to_be_bytes()[5..]);
    key
}

/// Lengths of values on both sides of every border: in a leaf, out of line, nearly too long to be laid over a tree.
fn len(random: &mut Random, rarely_long: bool) -> usize {
    match random.below(20) {
        0 | 1 => 0,
        2 => 100 + random.index(60),
        3 => 300 + random.index(1000),
        4 if rarely_long && random.below(10) == 0 => 60 << 10,
        _ => random.index(30),
    }
}

/// The bounds of every kind, around a key that may be there or not.
fn bound(random: &mut Random, keys: u64) -> Bound<Vec<u8>> {
    let key = key(random.below(keys));
    match random.below(4) {
        0 => Bound::Unbounded,
        1 => Bound::Excluded(key),
        _ => Bound::Included(key),
    }
}

fn slices(bounds: &(Bound<Vec<u8>>, Bound<Vec<u8>>)) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (bounds.0.as_ref().map(Vec::as_slice), bounds.1.as_ref().map(Vec::as_slice))
}

fn within<'r>(rows: &'r Rows, (start, end): (Bound<&[u8]>, Bound<&[u8]>)) -> Vec<(&'r [u8], &'r [u8])> {
    let after = |key: &[u8]| match start {
        Bound::Included(start) => start <= key,
        Bound::Excluded(start) => start < key,
        Bound::Unbounded => true,
    };
    let before = |key: &[u8]| match end {
        Bound::Included(end) => key <= end,
        Bound::Excluded(end) => key < end,
        Bound::Unbounded => true,
    };
    let rows = rows.iter().map(|(key, value)| (&key[..], &value[..]));
    rows.filter(|(key, _)| after(key) && before(key)).collect()
}

/// Bounds of which nothing is left to be inferred.
struct Within<'b>(Bound<&'b [u8]>, Bound<&'b [u8]>);

impl<'b> RangeBounds<&'b [u8]> for Within<'b> {
    fn start_bound(&self) -> Bound<&&'b [u8]> {
        self.0.as_ref()
    }

    fn end_bound(&self) -> Bound<&&'b [u8]> {
        self.1.as_ref()
    }
}

/// Takes the rows of an iterator from both ends, in an order that chance decides, and compares them with those expected.
macro_rules! assert_range {
    ($range:expr, $expected:expr, $random:expr) => {{
        let (mut range, expected) = ($range.unwrap(), $expected);
        let (mut from, mut to, sides) = (0, expected.len(), $random.below(3));
        loop {
            let forward = if sides == 2 { $random.below(2) == 0 } else { sides == 0 };
            let Some(row) = (if forward { range.next() } else { range.next_back() }) else { break };
            let (key, value) = row.unwrap();
            assert!(from < to, "a row too many");
            let (found, wanted) = ((key.value(), value.value()), expected[if forward { from } else { to - 1 }]);
            assert!(found == wanted, "{:?} instead of {:?}", found.0, wanted.0);
            if forward { from += 1 } else { to -= 1 }
        }
        assert_eq!(from, to, "rows are missing");
        assert!(range.next().is_none() && range.next_back().is_none());
    }};
}

/// Compares every read that tables of all kinds have.
macro_rules! assert_common_reads {
    ($table:expr, $rows:expr, $random:expr, $keys:expr) => {{
        let (table, rows, random, keys): (_, &Rows, &mut Random, u64) = ($table, $rows, $random, $keys);
        assert_eq!((table.len().unwrap(), table.is_empty().unwrap()), (rows.len() as u64, rows.is_empty()));
        for _ in 0..8 {
            let key = key(random.below(keys + 2));
            let found = table.get(&key[..]).unwrap().map(|value| value.value().to_vec());
            assert!(found.as_ref() == rows.get(&key), "{key:?}");
        }
    }};
}

/// Those that all but an untyped table of a writer have.
macro_rules! assert_range_reads {
    ($table:expr, $rows:expr, $random:expr, $keys:expr) => {{
        let (table, rows, random, keys): (_, &Rows, &mut Random, u64) = ($table, $rows, $random, $keys);
        assert_common_reads!(table, rows, random, keys);
        assert_range!(table.iter(), within(rows, (Bound::Unbounded, Bound::Unbounded)), random);
        for _ in 0..3 {
            let bounds = (bound(random, keys), bound(random, keys));
            let (start, end) = slices(&bounds);
            assert_range!(table.range(Within(start, end)), within(rows, slices(&bounds)), random);
        }
        let mut prefix = key(random.below(keys));
        prefix.truncate(random.index(prefix.len() + 1));
        let mut expected = within(rows, (Bound::Unbounded, Bound::Unbounded));
        expected.retain(|(key, _)| key.starts_with(&prefix));
        assert_range!(table.prefix(&prefix[..]), expected, random);
    }};
}

macro_rules! assert_edges {
    ($table:expr, $rows:expr) => {{
        let found = [$table.first().unwrap(), $table.last().unwrap()]
            .map(|row| row.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())));
        let rows: &Rows = $rows;
        let expected = [rows.first_key_value(), rows.last_key_value()];
        assert!(found == expected.map(|row| row.map(|(key, value)| (key.clone(), value.clone()))));
    }};
}

/// Compares everything that a snapshot says of a table.
fn assert_snapshot(reader: &ReadTransaction, name: &str, rows: &Rows, random: &mut Random, keys: u64) {
    let opened = reader.open_table(table(name)).unwrap();
    assert_range_reads!(&opened, rows, random, keys);
    assert_edges!(&opened, rows);
    let copy = opened.clone();
    drop(opened);
    assert_range_reads!(&copy, rows, random, keys);
    assert_edges!(&copy, rows);
    assert_range_reads!(&reader.open_untyped_table(name).unwrap(), rows, random, keys);
}

fn assert_open(table: &BytesTable<'_>, rows: &Rows, random: &mut Random, keys: u64) {
    assert_range_reads!(table, rows, random, keys);
    assert_edges!(table, rows);
}

/// All rows of all tables that a snapshot sees.
pub(crate) fn state_of(reader: &ReadTransaction) -> Result<State, Error> {
    let mut state = State::new();
    for handle in reader.list_tables()? {
        let name = cowslip::TableHandle::name(&handle).to_owned();
        let opened = reader.open_table(table(&name))?;
        let mut rows = Rows::new();
        for row in opened.iter()? {
            let (key, value) = row?;
            rows.insert(key.value().to_vec(), value.value().to_vec());
        }
        assert_eq!(opened.len()?, rows.len() as u64, "{name}");
        state.insert(name, rows);
    }
    Ok(state)
}

pub(crate) fn state(db: &Database) -> Result<State, Error> {
    db.view(state_of)
}

/// Changes one row in one of the ways that there are, in the table and in the model.
pub(crate) fn change(table: &mut BytesTable<'_>, rows: &mut Rows, random: &mut Random, keys: u64, rarely_long: bool) {
    let key = key(random.below(keys));
    let fresh = value(random.below(1 << 40), 0, len(random, rarely_long));
    let is_same = |found: Option<cowslip::AccessGuard<'_, &'static [u8]>>, expected: Option<Vec<u8>>| {
        found.map(|found| found.value().to_vec()) == expected
    };
    match random.below(9) {
        0..=2 => assert!(is_same(table.insert(&key[..], &fresh[..]).unwrap(), rows.insert(key, fresh))),
        3 | 4 => {
            table.put(&key[..], &fresh[..]).unwrap();
            rows.insert(key, fresh);
        }
        5 => assert!(is_same(table.remove(&key[..]).unwrap(), rows.remove(&key))),
        6 => {
            table.delete(&key[..]).unwrap();
            rows.remove(&key);
        }
        7 => {
            // What goes comes back in the same transaction, or comes and goes.
            table.delete(&key[..]).unwrap();
            table.put(&key[..], &fresh[..]).unwrap();
            rows.insert(key.clone(), fresh);
            if random.below(2) == 0 {
                assert!(is_same(table.remove(&key[..]).unwrap(), rows.remove(&key)));
            }
        }
        _ => {
            let first = random.below(2) == 0;
            let popped = if first { table.pop_first() } else { table.pop_last() }.unwrap();
            let expected = if first { rows.pop_first() } else { rows.pop_last() };
            assert!(popped.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())) == expected);
        }
    }
}

/// Small transactions over trees of so many keys; everything is compared after each, and while some go on.
fn history(builder: &Builder, seed: u64, keys: u64, rounds: u64) -> u64 {
    let mut random = Random::new(seed);
    let storage = SharedBytes::default();
    let mut db = builder.create_with_storage(storage.clone()).unwrap();
    let (mut rows, mut checkpoints) = (Rows::new(), 0);
    db.update(|tx| {
        let mut open = tx.open_table(table("rows"))?;
        for _ in 0..keys {
            change(&mut open, &mut rows, &mut random, keys, true);
        }
        Ok::<_, Error>(())
    })
    .unwrap();
    let mut held = Vec::new();
    for round in 0..rounds {
        let mut next = rows.clone();
        let mut tx = db.begin_write().unwrap();
        tx.set_durability(any_durability(&mut random)).unwrap();
        tx.set_two_phase_commit(random.below(25) == 0);
        for _ in 0..1 + random.below(2) {
            let mut open = tx.open_table(table("rows")).unwrap();
            for _ in 0..random.below(6) {
                change(&mut open, &mut next, &mut random, keys, true);
            }
            if random.below(4) == 0 {
                assert_open(&open, &next, &mut random, keys);
            }
        }
        if random.below(8) == 0 {
            tx.abort().unwrap();
        } else {
            tx.commit().unwrap();
            rows = next;
        }
        let reader = db.begin_read().unwrap();
        assert_snapshot(&reader, "rows", &rows, &mut random, keys);
        held.push((reader, rows.clone()));
        if held.len() > 12 {
            let (reader, rows) = held.swap_remove(random.index(held.len()));
            assert_snapshot(&reader, "rows", &rows, &mut random, keys);
        }
        if round % 40 == 39 {
            checkpoints += db.stats().checkpoints.finished;
            held.drain(..).for_each(|(reader, rows)| assert_snapshot(&reader, "rows", &rows, &mut random, keys));
            assert_sound(&db);
            db.close().unwrap();
            db = builder.open_with_storage(storage.clone()).unwrap();
        }
    }
    assert!(state(&db).unwrap()["rows"] == rows);
    checkpoints
}

#[test]
fn every_read_of_rows_laid_over_a_tree_is_that_of_a_map() {
    for lag in [1, 3, 7, 1000] {
        let mut checkpoints = 0;
        for seed in 0..6 {
            let builder = tiny().log_bytes_max(16 << 10).test_checkpoint_lag(lag);
            let seed = 100 * u64::from(lag) + seed;
            for (keys, rounds) in [(6, 120), (60, 80), (600, 40)] {
                checkpoints += history(&builder, seed, keys, rounds);
            }
            // The memory for changes is short, and that is when it comes to a checkpoint.
            let builder = tiny().test_geometry(512, 512, 1024).cache_bytes_max(96 << 10).test_checkpoint_lag(lag);
            checkpoints += history(&builder, seed, 150, 80);
        }
        assert!(checkpoints > 20, "lag {lag}: {checkpoints} checkpoints");
    }
}

#[test]
fn every_read_of_rows_laid_over_a_tree_of_large_pages_is_that_of_a_map() {
    for seed in 0..4 {
        let builder = Builder::new().cache_bytes_max(1 << 20).log_bytes_max(128 << 10).test_checkpoint_lag(5);
        history(&builder, seed, 40, 80);
        history(&builder, seed, 3000, 40);
    }
}

pub(crate) fn any_durability(random: &mut Random) -> Durability {
    [Durability::Immediate, Durability::Buffered, Durability::None][random.index(3)]
}

/// A step of a history of several tables that also come, go and change their names; nothing is committed yet.
pub(crate) fn rearranged(db: &Database, state: &State, random: &mut Random, round: u64) -> (WriteTransaction, State) {
    let mut next = state.clone();
    let mut tx = db.begin_write().unwrap();
    for _ in 0..1 + random.below(3) {
        let names = ["ash", "elm", "fir", "oak"];
        let (name, other) = (names[random.index(4)], names[random.index(4)]);
        match random.below(16) {
            0 => assert_eq!(tx.delete_table(table(name)).unwrap(), next.remove(name).is_some()),
            1 => {
                let can = next.contains_key(name) && (name == other || !next.contains_key(other));
                assert_eq!(tx.rename_table(table(name), table(other)).is_ok(), can);
                if can {
                    let rows = next.remove(name).unwrap();
                    next.insert(other.to_owned(), rows);
                }
            }
            2 if round.is_multiple_of(3) => {
                let mut open = tx.open_table(table(name)).unwrap();
                let bytes = value(round, 3, 70 << 10);
                open.insert(&b"long"[..], &bytes[..]).unwrap();
                next.entry(name.to_owned()).or_default().insert(b"long".to_vec(), bytes);
            }
            _ => {
                let mut open = tx.open_table(table(name)).unwrap();
                let rows = next.entry(name.to_owned()).or_default();
                for _ in 0..3 {
                    change(&mut open, rows, random, 80, false);
                }
            }
        }
    }
    tx.set_two_phase_commit(random.below(12) == 0);
    (tx, next)
}

/// Commits a step, or gives it up.
fn rearrange(db: &Database, state: &mut State, random: &mut Random, round: u64) {
    let (mut tx, next) = rearranged(db, state, random, round);
    tx.set_durability(any_durability(random)).unwrap();
    if random.below(7) == 0 {
        tx.abort().unwrap();
    } else {
        tx.commit().unwrap();
        *state = next;
    }
}

#[test]
fn snapshots_stay_as_they_were_whatever_becomes_of_trees_and_of_what_is_laid_over_them() {
    for seed in 0..12 {
        let mut random = Random::new(seed);
        let lag = [1, 4, 40][random.index(3)];
        let builder = tiny().log_bytes_max(16 << 10).test_checkpoint_lag(lag);
        let storage = SharedBytes::default();
        let db = builder.create_with_storage(storage.clone()).unwrap();
        let (mut now, mut held) = (State::new(), Vec::new());
        for round in 0..240 {
            rearrange(&db, &mut now, &mut random, round);
            if random.below(3) == 0 {
                held.push((db.begin_read().unwrap(), now.clone()));
            }
            if random.below(60) == 0 {
                db.compact().unwrap();
            }
            if random.below(30) == 0 {
                db.sync().unwrap();
            }
            while held.len() > 20 {
                let (reader, then) = held.swap_remove(random.index(held.len()));
                assert!(state_of(&reader).unwrap() == then, "seed {seed}, round {round}");
            }
            if round % 16 == 0 {
                assert!(state(&db).unwrap() == now, "seed {seed}, round {round}");
                assert_sound(&db);
                let oldest = held.first();
                assert!(oldest.is_none_or(|(reader, then)| state_of(reader).unwrap() == *then));
            }
        }
        let is_pending = db.check_integrity().unwrap().pending_units > 0;
        assert!(is_pending, "seed {seed}: old snapshots keep pages");
        for (reader, then) in held {
            assert!(state_of(&reader).unwrap() == then, "seed {seed}");
        }
        let report = db.check_integrity().unwrap();
        assert_eq!(report.pending_units, 0, "seed {seed}: pages are given back with the last reader");
        db.close().unwrap();
        let db = builder.open_with_storage(storage.clone()).unwrap();
        assert!(state(&db).unwrap() == now, "seed {seed}");
        assert_sound(&db);
    }
}

#[test]
fn what_snapshots_kept_is_free_once_they_are_gone_and_the_file_is_cut() {
    let builder = tiny().test_geometry(512, 512, 256).log_bytes_max(16 << 10).test_checkpoint_lag(2);
    let mut lens = Vec::new();
    for with_readers in [false, true] {
        let storage = SharedBytes::default();
        let db = builder.create_with_storage(storage.clone()).unwrap();
        let mut readers = Vec::new();
        for round in 0..300 {
            db.update(|tx| {
                let mut open = tx.open_table(table("rows"))?;
                for number in 0..4 {
                    let number = (round * 13 + number * 7) % 200;
                    open.put(&key(number)[..], &value(number, round, 60)[..])?;
                }
                Ok::<_, Error>(())
            })
            .unwrap();
            if with_readers {
                readers.push(db.begin_read().unwrap());
            }
        }
        if with_readers {
            assert!(db.check_integrity().unwrap().pending_units > 400, "the snapshots keep pages");
        }
        drop(readers);
        assert_eq!(db.check_integrity().unwrap().pending_units, 0);
        db.compact().unwrap();
        assert_eq!(db.check_integrity().unwrap().pending_units, 0);
        db.close().unwrap();
        lens.push(storage.image().len());
    }
    assert!(lens[1] <= lens[0] + lens[0] / 8, "nothing of the snapshots is left in the file: {lens:?}");
}
