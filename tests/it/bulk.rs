//! Verbs that change many rows by one call, over the public API: what they visit, remove and return, and what holds
//! after one of them fails.
//!
//! Invariant: whatever mix of verbs a transaction runs, its table and a `BTreeMap` hold the same rows.

use crate::fixture::{Model, ROWS, Random, assert_sound, rows, set, tiny, value};
use cowslip::{
    Builder, CommitError, Database, Error, StorageError, Table, TableDefinition, TableError, WriteTransaction,
};
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};

type RowsTable<'t> = Table<'t, u64, &'static [u8]>;
type Owned = (u64, Vec<u8>);

/// Row counts from one leaf to three levels, in nodes of 512 bytes and 4 KiB.
fn filled(count: u64) -> [(Database, Model); 2] {
    [tiny(), Builder::new()].map(|builder| {
        let db = builder.in_memory().unwrap();
        let mut model = Model::new();
        set(&db, &mut model, 0..count, 0, 40);
        (db, model)
    })
}

/// What a table holds, by iteration; its length must say the same.
fn held(table: &RowsTable<'_>) -> Model {
    let found: Model = table
        .iter()
        .unwrap()
        .map(|row| row.unwrap())
        .map(|(key, value)| (key.value(), value.value().to_vec()))
        .collect();
    assert_eq!(table.len().unwrap(), found.len() as u64);
    found
}

/// Commits, and requires of the database what is expected of it.
fn commit_to(db: &Database, tx: WriteTransaction, model: &Model) {
    tx.commit().unwrap();
    assert!(rows(db).unwrap() == *model);
    let report = db.check_integrity().unwrap();
    assert_eq!(report.rows, model.len() as u64);
}

fn owned(row: Result<cowslip::Row<'_, u64, &'static [u8]>, StorageError>) -> Owned {
    let (key, value) = row.unwrap();
    (key.value(), value.value().to_vec())
}

fn is_poisoned<T>(outcome: &Result<T, StorageError>) -> bool {
    matches!(outcome, Err(StorageError::TransactionPoisoned))
}

/// Runs one of the verbs with a predicate, which panics when it is asked about key `at`.
fn panic_inside(table: &mut RowsTable<'_>, verb: usize, at: u64) {
    let picks = |key: u64, _: &[u8]| {
        assert_ne!(key, at, "the predicate panics, as planned");
        key.is_multiple_of(3)
    };
    match verb {
        0 => drop(table.retain(picks)),
        1 => drop(table.retain_in(50..150, picks)),
        2 => table.extract_if(picks).unwrap().for_each(drop),
        3 => table.extract_if(picks).unwrap().rev().for_each(drop),
        4 => table.extract_from_if(50..150, picks).unwrap().for_each(drop),
        _ => table.extract_from_if(50..150, picks).unwrap().rev().for_each(drop),
    }
}

#[test]
fn pitfall_22_a_predicate_that_panics_poisons_the_transaction_and_nothing_else() {
    for (db, mut model) in filled(200) {
        for (verb, at) in (0..6).flat_map(|verb| [50, 77, 149].map(|at| (verb, at))) {
            let tx = db.begin_write().unwrap();
            let mut table = tx.open_table(ROWS).unwrap();
            table.put(60, &b"buffered"[..]).unwrap();
            let panicked = catch_unwind(AssertUnwindSafe(|| panic_inside(&mut table, verb, at)));
            assert!(panicked.is_err(), "verb {verb}");
            assert!(is_poisoned(&table.get(1)) && is_poisoned(&table.len()) && is_poisoned(&table.iter()));
            assert!(is_poisoned(&table.put(1, &b""[..])) && is_poisoned(&table.delete(1)));
            assert!(is_poisoned(&table.insert(1, &b""[..])) && is_poisoned(&table.remove(1)));
            assert!(is_poisoned(&table.pop_first()) && is_poisoned(&table.pop_last()));
            assert!(is_poisoned(&table.retain(|_, _| true)) && is_poisoned(&table.remove_range(0..9)));
            assert!(is_poisoned(&table.retain_in(0..9, |_, _| true)) && is_poisoned(&table.extract_if(|_, _| true)));
            assert!(is_poisoned(&table.extract_from_if(0..9, |_, _| true)));
            assert!(is_poisoned(&table.bulk_load([(1, &b""[..])])) && is_poisoned(&table.put_many([(1, &b""[..])])));
            drop(table);
            let reopened = tx.open_table(ROWS).err();
            assert!(matches!(reopened, Some(TableError::Storage(StorageError::TransactionPoisoned))), "{reopened:?}");
            if verb % 2 == 0 {
                assert!(matches!(tx.commit(), Err(CommitError::Poisoned)));
            } else {
                tx.abort().unwrap();
            }
            assert!(rows(&db).unwrap() == model, "verb {verb}");
            assert_sound(&db);
        }
        set(&db, &mut model, 100..250, 1, 30);
        assert!(rows(&db).unwrap() == model);
        assert_sound(&db);
    }
}

#[test]
fn a_panic_between_two_rows_of_an_extraction_leaves_the_table_whole() {
    for (db, mut model) in filled(200) {
        let tx = db.begin_write().unwrap();
        let mut table = tx.open_table(ROWS).unwrap();
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let mut odd = table.extract_if(|key, _| key % 2 == 1).unwrap();
            assert_eq!(owned(odd.next().unwrap()).0, 1);
            assert_eq!(owned(odd.next().unwrap()).0, 1, "3 comes next, so this panics, as planned");
        }));
        assert!(panicked.is_err());
        model.retain(|key, _| ![1, 3].contains(key));
        assert!(held(&table) == model, "no change was under way");
        drop(table);
        commit_to(&db, tx, &model);
    }
}

/// A long value makes a table a tree of the transaction: its rows are no longer laid over the tree of the version before.
fn make_tree(table: &mut RowsTable<'_>) {
    table.insert(u64::MAX, &vec![0; 70_000][..]).unwrap();
    table.remove(u64::MAX).unwrap().unwrap();
}

#[test]
fn an_extraction_of_few_rows_that_is_forgotten_removes_what_it_returned() {
    for (db, mut model) in filled(400) {
        let tx = db.begin_write().unwrap();
        let mut table = tx.open_table(ROWS).unwrap();
        let mut half = table.extract_if(|key, _| key.is_multiple_of(2)).unwrap();
        for step in 0..30 {
            let next = if step % 3 == 0 { half.next_back() } else { half.next() };
            assert!(model.remove(&owned(next.unwrap()).0).is_some());
        }
        std::mem::forget(half);
        assert!(held(&table) == model);
        drop(table);
        commit_to(&db, tx, &model);
    }
}

#[test]
fn an_extraction_that_is_forgotten_half_way_poisons_the_transaction() {
    const OTHER: TableDefinition<u64, u64> = TableDefinition::new("other");
    for (db, model) in filled(400) {
        // From the front nothing was removed yet, or some leaves are gone, some of them dirty.
        for (steps, is_dirty) in [0, 1, 30, 150].into_iter().flat_map(|steps| [(steps, false), (steps, true)]) {
            let tx = db.begin_write().unwrap();
            tx.open_table(OTHER).unwrap().insert(1, steps).unwrap();
            let mut table = tx.open_table(ROWS).unwrap();
            make_tree(&mut table);
            if is_dirty {
                table.insert(90, &b"dirty"[..]).unwrap();
            }
            let mut half = table.extract_if(|key, _| key.is_multiple_of(2)).unwrap();
            assert_eq!(half.by_ref().take(usize::try_from(steps).unwrap()).map(owned).count() as u64, steps);
            std::mem::forget(half);
            if steps == 30 {
                assert!(is_poisoned(&table.get(1)) && is_poisoned(&table.len()));
                assert!(is_poisoned(&table.put(1, &b""[..])) && is_poisoned(&table.remove(1)));
            }
            drop(table);
            assert!(matches!(tx.commit(), Err(CommitError::Poisoned)), "{steps} steps");
            assert!(rows(&db).unwrap() == model, "{steps} steps");
            assert_sound(&db);
        }
    }
}

#[test]
fn an_extraction_from_the_back_removes_row_by_row_and_can_be_forgotten() {
    for (db, mut model) in filled(400) {
        let tx = db.begin_write().unwrap();
        let mut table = tx.open_table(ROWS).unwrap();
        let mut rest = table.extract_if(|_, _| true).unwrap();
        assert_eq!(owned(rest.next().unwrap()), model.pop_first().unwrap());
        assert_eq!(owned(rest.next_back().unwrap()), model.pop_last().unwrap());
        assert_eq!(owned(rest.next().unwrap()), model.pop_first().unwrap());
        std::mem::forget(rest);
        assert!(held(&table) == model);
        drop(table);
        commit_to(&db, tx, &model);
    }
}

#[test]
fn pitfall_20_start_after_end_across_pages_visits_and_removes_nothing() {
    let unasked = |key: u64, _: &[u8]| -> bool { panic!("asked about {key}") };
    for (db, model) in filled(400) {
        let before = db.begin_read().unwrap().id();
        let tx = db.begin_write().unwrap();
        let mut table = tx.open_table(ROWS).unwrap();
        #[expect(clippy::reversed_empty_ranges, reason = "that is what is tested")]
        let ranges = [150..50, 50..50, 399..0, u64::MAX..0, 2..1, 300..299, 500..400];
        let ranges = ranges.map(|range| (Bound::Included(range.start), Bound::Excluded(range.end)));
        let other = [
            (Bound::Excluded(70), Bound::Excluded(70)),
            (Bound::Excluded(70), Bound::Excluded(71)),
            (Bound::Excluded(70), Bound::Included(70)),
            (Bound::Included(350), Bound::Included(10)),
            (Bound::Excluded(u64::MAX), Bound::Unbounded),
            (Bound::Unbounded, Bound::Excluded(0)),
        ];
        for range in ranges.into_iter().chain(other) {
            assert_eq!(table.range(range).unwrap().count(), 0, "{range:?}");
            assert_eq!(table.range(range).unwrap().rev().count(), 0, "{range:?}");
            assert_eq!(table.retain_in(range, unasked).unwrap(), 0, "{range:?}");
            assert_eq!(table.remove_range(range).unwrap(), 0, "{range:?}");
            let mut extracted = table.extract_from_if(range, unasked).unwrap();
            assert!(extracted.next().is_none() && extracted.next_back().is_none(), "{range:?}");
            drop(extracted);
            assert!(table.extract_from_if(range, unasked).unwrap().next_back().is_none(), "{range:?}");
        }
        assert!(held(&table) == model);
        drop(table);
        assert_eq!(tx.commit().unwrap(), before, "nothing was changed, so nothing is committed");
        assert_sound(&db);
    }
}

#[test]
fn rows_that_an_extraction_returned_are_gone_and_those_behind_it_stay() {
    for (db, mut model) in filled(400) {
        for (round, steps) in [0, 1, 2, 17, 60].into_iter().enumerate() {
            let from_back = round % 2 == 1;
            let tx = db.begin_write().unwrap();
            let mut table = tx.open_table(ROWS).unwrap();
            let mut even = table.extract_if(|key, _| key.is_multiple_of(2)).unwrap();
            for _ in 0..steps {
                let (key, found) = owned(if from_back { even.next_back() } else { even.next() }.unwrap());
                let mut left = model.keys().filter(|key| key.is_multiple_of(2));
                let expected = if from_back { left.next_back() } else { left.next() };
                assert_eq!(Some(&key), expected);
                assert_eq!(model.remove(&key), Some(found));
            }
            drop(even);
            assert!(held(&table) == model, "{steps} steps");
            drop(table);
            commit_to(&db, tx, &model);
        }
    }
}

#[test]
fn a_predicate_is_asked_once_about_each_row_of_the_range_in_order() {
    for (db, mut model) in filled(400) {
        let tx = db.begin_write().unwrap();
        let mut table = tx.open_table(ROWS).unwrap();
        for (start, end) in [(0, 400), (0, 1), (13, 14), (100, 333), (390, 1000)] {
            let expected: Vec<u64> = model.range(start..end).map(|(key, _)| *key).collect();
            let mut asked = Vec::new();
            let removed = table.retain_in(start..end, |key, found| {
                assert_eq!(found, model[&key]);
                asked.push(key);
                key % 10 != 3
            });
            assert_eq!(removed.unwrap(), expected.iter().filter(|key| **key % 10 == 3).count() as u64);
            assert_eq!(asked, expected);
            model.retain(|key, _| !(start..end).contains(key) || key % 10 != 3);

            let expected: Vec<u64> = model.range(start..end).map(|(key, _)| *key).collect();
            let mut asked = Vec::new();
            let mut fourth = table
                .extract_from_if(start..end, |key, _| {
                    asked.push(key);
                    key % 10 == 4
                })
                .unwrap();
            let found: Vec<u64> = fourth.by_ref().map(|row| owned(row).0).collect();
            assert!(fourth.next().is_none() && fourth.next_back().is_none() && fourth.next().is_none());
            drop(fourth);
            assert_eq!(asked, expected);
            assert_eq!(found, expected.into_iter().filter(|key| key % 10 == 4).collect::<Vec<_>>());
            model.retain(|key, _| !(start..end).contains(key) || key % 10 != 4);
        }
        drop(table);
        commit_to(&db, tx, &model);
    }
}

#[test]
fn pitfall_21_rows_are_extracted_from_both_ends_in_any_order_as_from_a_map() {
    let mut random = Random::new(21);
    for (db, start) in filled(300) {
        for round in 0..60 {
            let mut model = start.clone();
            let tx = db.begin_write().unwrap();
            let mut table = tx.open_table(ROWS).unwrap();
            let (from, to) = if round % 3 == 0 { (0, u64::MAX) } else { (random.below(300), random.below(320)) };
            let (modulus, forward_percent) = (1 + random.below(9), [0, 10, 50, 90, 100][random.index(5)]);
            let mut left: std::collections::VecDeque<u64> =
                start.keys().copied().filter(|key| (from..to).contains(key)).collect();
            let mut asked = std::collections::BTreeSet::new();
            let mut rest = table
                .extract_from_if(from..to, |key, _| {
                    assert!(asked.insert(key), "asked twice about {key}");
                    key.is_multiple_of(modulus)
                })
                .unwrap();
            for _ in 0..random.below(400) {
                let forward = random.below(100) < forward_percent;
                let mut take = || if forward { left.pop_front() } else { left.pop_back() };
                let expected = std::iter::from_fn(&mut take).find(|key| key.is_multiple_of(modulus));
                let found = if forward { rest.next() } else { rest.next_back() }.map(owned);
                assert_eq!(found.as_ref().map(|(key, _)| *key), expected, "round {round}");
                if let Some((key, found)) = found {
                    assert_eq!(model.remove(&key), Some(found));
                }
            }
            drop(rest);
            assert!(left.iter().all(|key| !asked.contains(key)), "nobody asked for these rows");
            assert!(held(&table) == model, "round {round}");
            drop(table);
            tx.abort().unwrap();
        }
        assert!(rows(&db).unwrap() == start);
        assert_sound(&db);
    }
}

#[test]
fn a_bulk_load_names_the_first_row_out_of_order_and_keeps_those_before_it() {
    for (db, mut model) in filled(100) {
        let orders: [(&[u64], usize); 6] = [
            (&[7, 7], 1),
            (&[7, 6], 1),
            (&[1000, 1001, 1002, 1002, 1003], 3),
            (&[200, 300, 250, 400], 2),
            (&[0, 5, u64::MAX, 0], 3),
            (&[1, 2, 3, 0, 9, 8], 3),
        ];
        for (round, (keys, bad)) in orders.into_iter().enumerate() {
            let values: Vec<Vec<u8>> = keys.iter().map(|key| value(*key, round as u64 + 5, 30)).collect();
            let tx = db.begin_write().unwrap();
            let mut table = tx.open_table(ROWS).unwrap();
            let mut pulled = 0;
            let given = keys.iter().zip(&values).inspect(|_| pulled += 1);
            let refused = table.bulk_load(given.map(|(key, value)| (*key, &value[..])));
            assert!(matches!(refused, Err(StorageError::UnsortedRows { row }) if row == bad as u64), "{refused:?}");
            assert_eq!(pulled, bad + 1, "nothing behind the refused row is asked for");
            model.extend(keys.iter().copied().zip(values).take(bad));
            assert!(held(&table) == model, "round {round}");
            // The next load starts anew, below what the last one reached.
            assert_eq!(table.bulk_load([(0, &b"again"[..])]).unwrap(), 1);
            model.insert(0, b"again".to_vec());
            drop(table);
            commit_to(&db, tx, &model);
        }
        let tx = db.begin_write().unwrap();
        assert_eq!(tx.open_table(ROWS).unwrap().bulk_load(std::iter::empty::<(u64, &[u8])>()).unwrap(), 0);
        tx.abort().unwrap();
    }
}

#[test]
fn pitfall_26_a_bulk_load_stops_at_a_row_that_is_too_large_and_keeps_those_before_it() {
    const KEYS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("keys");
    let db = tiny().in_memory().unwrap();
    let (long_key, long_value) = (vec![b'z'; (64 << 10) + 1], vec![0; 16 * 512 * 512 + 1]);
    for (number, bad) in [(&long_key[..], &b""[..]), (&b"m"[..], &long_value[..])].into_iter().enumerate() {
        for verb in 0..2 {
            let tx = db.begin_write().unwrap();
            let mut table = tx.open_table(KEYS).unwrap();
            let given = [(&b"a"[..], &b"1"[..]), (&b"b"[..], &b"2"[..]), bad, (&b"zzz"[..], &b"3"[..])];
            let refused =
                if verb == 0 { table.bulk_load(given).map(drop) } else { table.put_many(given.into_iter().rev()) };
            assert_eq!(matches!(refused, Err(StorageError::KeyTooLarge { .. })), number == 0, "{refused:?}");
            assert_eq!(matches!(refused, Err(StorageError::ValueTooLarge { .. })), number == 1, "{refused:?}");
            assert_eq!(table.len().unwrap(), [2, 1][verb]);
            assert_eq!(table.get(&b"zzz"[..]).unwrap().is_some(), verb == 1);
            drop(table);
            tx.commit().unwrap();
            assert_eq!(db.check_integrity().unwrap().rows, [2, 1][verb]);
            db.update(|tx| tx.delete_table(KEYS).map(drop).map_err(Error::from)).unwrap();
        }
    }
}

#[test]
fn a_bulk_load_goes_between_the_rows_that_are_there_and_replaces_some() {
    for builder in [tiny(), Builder::new()] {
        let db = builder.in_memory().unwrap();
        let mut model = Model::new();
        set(&db, &mut model, 100..400, 0, 40);
        for (round, (from, to, step, len)) in
            [(150, 350, 7, 20), (0, 600, 1, 33), (250, 251, 1, 3000), (90, 110, 2, 700), (0, 5000, 13, 0)]
                .into_iter()
                .enumerate()
        {
            let given: Vec<Owned> =
                (from..to).step_by(step).map(|key| (key, value(key, round as u64 + 3, len))).collect();
            let tx = db.begin_write().unwrap();
            let mut table = tx.open_table(ROWS).unwrap();
            let count = table.bulk_load(given.iter().map(|(key, value)| (*key, &value[..]))).unwrap();
            assert_eq!(count, given.len() as u64, "replaced rows count too");
            model.extend(given);
            assert!(held(&table) == model, "round {round}");
            drop(table);
            commit_to(&db, tx, &model);
        }
    }
}

#[test]
fn popping_from_both_ends_beside_puts_and_inserts_empties_the_table_as_it_does_a_map() {
    let mut random = Random::new(5);
    for builder in [tiny(), Builder::new(), tiny().cache_bytes_max(8 << 10)] {
        let db = builder.in_memory().unwrap();
        let mut model = Model::new();
        let tx = db.begin_write().unwrap();
        let mut table = tx.open_table(ROWS).unwrap();
        for number in 0..1500_u64 {
            let (key, len) = (random.below(4000), [0, 1, 20, 90, 700, 6000][random.index(6)]);
            let found = value(key, number, len);
            if random.below(2) == 0 {
                table.put(key, &found[..]).unwrap();
                model.insert(key, found);
            } else {
                let old = table.insert(key, &found[..]).unwrap().map(|old| old.value().to_vec());
                assert!(old == model.insert(key, found));
            }
            if random.below(3) == 0 {
                assert!(table.pop_first().unwrap().map(|row| owned(Ok(row))) == model.pop_first());
            }
            if random.below(3) == 0 {
                assert!(table.pop_last().unwrap().map(|row| owned(Ok(row))) == model.pop_last());
            }
        }
        assert!(model.len() > 300 && held(&table) == model);
        while !model.is_empty() {
            let forward = random.below(2) == 0;
            let found = if forward { table.pop_first() } else { table.pop_last() }.unwrap();
            assert!(found.map(|row| owned(Ok(row))) == if forward { model.pop_first() } else { model.pop_last() });
        }
        assert!(table.pop_first().unwrap().is_none() && table.pop_last().unwrap().is_none());
        drop(table);
        commit_to(&db, tx, &model);
        let report = db.check_integrity().unwrap();
        assert_eq!((report.rows, report.stored_bytes, report.pending_units), (0, 0, 0));
    }
}
