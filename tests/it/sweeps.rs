//! Bulk verbs beside everything else: buffered changes, large values, readers, small budgets, and what is left of a
//! tree, its pages and its file when nearly all rows go.
//!
//! Invariant: after each commit the table holds what the model holds, and every allocated unit is accounted for.

use crate::fixture::{Model, ROWS, Random, SharedBytes, assert_sound, rows, set, tiny, value};
use cowslip::sim::{Fault, SimDisk};
use cowslip::{Builder, Database, Error, ReadOnlyTable, Table, TableDefinition};
use std::sync::atomic::Ordering;

type RowsTable<'t> = Table<'t, u64, &'static [u8]>;

const VERBS: usize = 12;

fn model_removes(model: &mut Model, mut goes: impl FnMut(u64) -> bool) -> u64 {
    let before = model.len();
    model.retain(|key, _| !goes(*key));
    (before - model.len()) as u64
}

/// Runs the verb of this number on table and model, on keys below `keys`.
fn run(verb: usize, table: &mut RowsTable<'_>, model: &mut Model, random: &mut Random, keys: u64, len: usize) {
    let (from, to) = (random.below(keys), random.below(keys + keys / 4));
    let (modulus, rest) = (2 + random.below(9), random.below(2));
    let goes = |key: u64| key % modulus == rest;
    let ascending: Vec<(u64, Vec<u8>)> = (from..to.max(from + 3))
        .step_by(random.index(17) + 1)
        .take(300)
        .map(|key| (key, value(key, random.below(1000), random.index(len) + 1)))
        .collect();
    match verb {
        0 => {
            table.put_many(ascending.iter().rev().map(|(key, value)| (*key, &value[..]))).unwrap();
            model.extend(ascending);
        }
        1 => {
            let count = table.bulk_load(ascending.iter().map(|(key, value)| (*key, &value[..]))).unwrap();
            assert_eq!(count, ascending.len() as u64);
            model.extend(ascending);
        }
        2 => {
            let removed = table.remove_range(from..to).unwrap();
            assert_eq!(removed, model_removes(model, |key| (from..to).contains(&key)));
        }
        3 => assert_eq!(table.retain(|key, _| !goes(key)).unwrap(), model_removes(model, goes)),
        4 => {
            let removed = table.retain_in(from..to, |key, _| !goes(key)).unwrap();
            assert_eq!(removed, model_removes(model, |key| (from..to).contains(&key) && goes(key)));
        }
        5 | 6 => {
            let picks = |key: u64, _: &[u8]| goes(key);
            let extracted = if verb == 5 { table.extract_if(picks) } else { table.extract_from_if(from.., picks) };
            let mut extracted = extracted.unwrap();
            for _ in 0..random.below(80) {
                let row = if random.below(4) > 0 { extracted.next() } else { extracted.next_back() };
                let Some(row) = row else { break };
                let (key, found) = row.unwrap();
                assert!(model.remove(&key.value()).is_some_and(|expected| expected == found.value()));
            }
        }
        7 | 8 => {
            let found = if verb == 7 { table.pop_first() } else { table.pop_last() }.unwrap();
            let expected = if verb == 7 { model.pop_first() } else { model.pop_last() };
            assert!(found.map(|(key, found)| (key.value(), found.value().to_vec())) == expected);
        }
        9 => {
            for (key, found) in ascending.into_iter().take(40) {
                table.put(key, &found[..]).unwrap();
                model.insert(key, found);
                table.delete(key / 2).unwrap();
                model.remove(&(key / 2));
            }
        }
        10 => {
            let found = value(from, 77, len);
            let old = table.insert(from, &found[..]).unwrap().map(|old| old.value().to_vec());
            assert!(old == model.insert(from, found));
        }
        _ => {
            let old = table.remove(to).unwrap().map(|old| old.value().to_vec());
            assert!(old == model.remove(&to));
        }
    }
}

fn assert_holds(table: &RowsTable<'_>, model: &Model) {
    assert_eq!(table.len().unwrap(), model.len() as u64);
    let mut found = table.iter().unwrap();
    for (key, expected) in model {
        let (found_key, found) = found.next().unwrap().unwrap();
        assert!(found_key.value() == *key && found.value() == expected);
    }
    assert!(found.next().is_none());
}

/// Runs every verb after every other, in transactions of many verbs, over a database that is reopened at times.
fn mix(builder: &Builder, seed: u64, rounds: usize, keys: u64, len: usize) {
    let mut random = Random::new(seed);
    let storage = SharedBytes::default();
    let mut db = builder.create_with_storage(storage.clone()).unwrap();
    let mut model = Model::new();
    for round in 0..rounds {
        let mut next = model.clone();
        let tx = db.begin_write().unwrap();
        let mut table = tx.open_table(ROWS).unwrap();
        for _ in 0..8 {
            let verb = random.index(VERBS);
            run(verb, &mut table, &mut next, &mut random, keys, len);
            // Not always, so that what is buffered also meets the next verb.
            if random.below(4) == 0 {
                assert_holds(&table, &next);
            }
        }
        assert_holds(&table, &next);
        drop(table);
        if round % 5 == 4 {
            tx.abort().unwrap();
        } else {
            tx.commit().unwrap();
            model = next;
        }
        let report = db.check_integrity().unwrap();
        assert_eq!((report.rows, report.pending_units), (model.len() as u64, 0), "round {round}");
        if round % 7 == 6 {
            db.close().unwrap();
            db = builder.open_with_storage(storage.clone()).unwrap();
        }
    }
    assert!(rows(&db).unwrap() == model);
}

#[test]
fn pitfall_23_every_verb_works_on_what_the_transaction_has_buffered_and_not_committed() {
    for seed in 0..6 {
        mix(&tiny(), seed, 60, 700, 60);
        mix(&tiny().cache_bytes_max(16 << 10), seed + 100, 40, 700, 60);
        mix(&Builder::new(), seed + 200, 40, 4000, 90);
    }
}

#[test]
fn every_verb_takes_and_returns_values_on_every_side_of_every_threshold() {
    mix(&tiny(), 1, 40, 300, 9000);
    mix(&tiny().cache_bytes_max(32 << 10), 2, 30, 300, 4000);
    mix(&Builder::new(), 3, 20, 200, 70_000);
}

/// Lengths from one byte to 1 MiB, a few of them to the byte around thresholds.
fn lens() -> Vec<usize> {
    let mut lens: Vec<usize> = (0..=20).map(|power| 1 << power).collect();
    lens.extend([3, 100, 1000, 2001, 4095, 4097, 65_535, 65_537, 300_000, (1 << 20) - 1]);
    lens
}

#[test]
fn values_from_one_byte_to_one_mib_go_through_every_verb_and_come_back_whole() {
    let lens = lens();
    let keys: Vec<u64> = (0..lens.len() as u64).collect();
    let len_of = |key: u64| lens[usize::try_from(key).unwrap()];
    for way in 0..7 {
        let db = Builder::new().cache_bytes_max(4 << 20).in_memory().unwrap();
        let tx = db.begin_write().unwrap();
        let mut table = tx.open_table(ROWS).unwrap();
        let values: Vec<Vec<u8>> = keys.iter().map(|key| value(*key, way, len_of(*key))).collect();
        let given = keys.iter().zip(&values).map(|(key, value)| (*key, &value[..]));
        if way % 2 == 0 {
            assert_eq!(table.bulk_load(given).unwrap(), keys.len() as u64);
        } else {
            table.put_many(given.rev()).unwrap();
        }
        drop(table);
        tx.commit().unwrap();
        assert_sound(&db);
        let tx = db.begin_write().unwrap();
        let mut table = tx.open_table(ROWS).unwrap();
        let is_whole = |key: u64, found: &[u8]| found == values[usize::try_from(key).unwrap()];
        let mut back = 0;
        match way {
            0 => back = table.retain(|key, found| !is_whole(key, found)).unwrap(),
            1 => back = table.retain_in(0.., |key, found| !is_whole(key, found)).unwrap(),
            2 => table.extract_if(is_whole).unwrap().map(Result::unwrap).for_each(|(key, found)| {
                assert!(is_whole(key.value(), found.value()));
                back += 1;
            }),
            3 => table.extract_from_if(0.., is_whole).unwrap().rev().map(Result::unwrap).for_each(|(key, found)| {
                assert!(is_whole(key.value(), found.value()));
                back += 1;
            }),
            4 | 5 => {
                while let Some((key, found)) = if way == 4 { table.pop_first() } else { table.pop_last() }.unwrap() {
                    assert!(is_whole(key.value(), found.value()));
                    back += 1;
                }
            }
            _ => back = table.remove_range(..=u64::MAX).unwrap(),
        }
        assert_eq!((back, table.len().unwrap()), (keys.len() as u64, 0), "way {way}");
        drop(table);
        tx.commit().unwrap();
        let report = db.check_integrity().unwrap();
        assert_eq!((report.rows, report.stored_bytes, report.pending_units), (0, 0, 0), "way {way}");
    }
}

fn assert_reads(table: &ReadOnlyTable<u64, &'static [u8]>, expected: &Model) {
    let found: Model = table
        .iter()
        .unwrap()
        .map(|row| row.unwrap())
        .map(|(key, value)| (key.value(), value.value().to_vec()))
        .collect();
    assert!(found == *expected);
}

#[test]
fn a_reader_keeps_its_snapshot_through_every_verb() {
    // Without a cache every read comes from the storage, so a reused page could not hide.
    for cache in [0, 1 << 20] {
        let db = tiny().cache_bytes_max(cache).in_memory().unwrap();
        let mut random = Random::new(3);
        let mut model = Model::new();
        set(&db, &mut model, 0..500, 0, 40);
        set(&db, &mut model, 100..120, 1, 1500);
        let mut readers = Vec::new();
        for verb in 0..VERBS {
            let reader = db.begin_read().unwrap();
            readers.push((reader.open_table(ROWS).unwrap(), model.clone()));
            for _ in 0..3 {
                db.update(|tx| {
                    run(verb, &mut tx.open_table(ROWS)?, &mut model, &mut random, 500, 60);
                    Ok::<_, Error>(())
                })
                .unwrap();
                readers.iter().for_each(|(table, expected)| assert_reads(table, expected));
            }
            assert!(rows(&db).unwrap() == model, "verb {verb}");
            assert_sound(&db);
            if model.len() < 200 {
                set(&db, &mut model, 0..500, verb as u64, 40);
            }
        }
        readers.clear();
        set(&db, &mut model, 0..1, 9, 9);
        assert_eq!(db.check_integrity().unwrap().pending_units, 0);
    }
}

#[test]
fn retaining_all_but_every_hundredth_row_leaves_the_count_and_the_account_exact() {
    for (builder, count) in [(tiny(), 3000), (Builder::new(), 40_000)] {
        let db = builder.in_memory().unwrap();
        let mut model = Model::new();
        set(&db, &mut model, 0..count, 0, 30);
        let nodes = db.check_integrity().unwrap().nodes;
        db.update(|tx| {
            let mut table = tx.open_table(ROWS)?;
            assert_eq!(table.retain(|key, _| key % 100 != 37)?, count / 100);
            assert_eq!(table.len()?, count - count / 100);
            Ok::<_, Error>(())
        })
        .unwrap();
        model.retain(|key, _| key % 100 != 37);
        assert!(rows(&db).unwrap() == model);
        let report = db.check_integrity().unwrap();
        assert_eq!((report.rows, report.pending_units), (model.len() as u64, 0));
        assert!(report.nodes <= nodes, "{} of {nodes} nodes", report.nodes);
        let bytes: usize = model.values().map(|value| 8 + value.len()).sum();
        assert!(report.stored_bytes >= bytes as u64 && report.stored_bytes < bytes as u64 + 1000, "{report:?}");
    }
}

/// Levels of the tree, from what one uncached `get` reads.
fn height(db: &Database, storage: &SharedBytes, key: u64, node_bytes: u64) -> u64 {
    let tx = db.begin_read().unwrap();
    let table = tx.open_table(ROWS).unwrap();
    let before = storage.read_bytes.load(Ordering::Relaxed);
    assert!(table.get(key).unwrap().is_some());
    (storage.read_bytes.load(Ordering::Relaxed) - before) / node_bytes
}

/// Removes all rows but those in `kept`.
fn remove_others(db: &Database, way: usize, order: &[u64], kept: &Model) {
    db.update(|tx| {
        let mut table = tx.open_table(ROWS)?;
        let mut gone = order.iter().filter(|key| !kept.contains_key(key));
        match way {
            0 => gone.try_for_each(|key| table.remove(key).map(drop))?,
            1 => gone.try_for_each(|key| table.delete(key))?,
            2 => drop(table.retain(|key, _| kept.contains_key(&key))?),
            3 => assert_eq!(table.extract_if(|key, _| !kept.contains_key(&key))?.count(), order.len() - kept.len()),
            _ => {
                let all = table.extract_if(|key, _| !kept.contains_key(&key))?;
                assert_eq!(all.rev().count(), order.len() - kept.len());
            }
        }
        Ok::<_, Error>(())
    })
    .unwrap();
}

/// Replaces every value by another one of the same length.
fn rewrite(db: &Database, model: &mut Model, round: u64) {
    model.iter_mut().for_each(|(key, found)| *found = value(*key, round, found.len()));
    db.update(|tx| {
        tx.open_table(ROWS)?.put_many(model.iter().map(|(key, value)| (*key, &value[..]))).map_err(Error::from)
    })
    .unwrap();
}

#[test]
fn removing_99_rows_of_100_at_random_shrinks_the_height_the_pages_and_the_closed_file() {
    for (builder, node_bytes, count) in [(tiny(), 512, 6000), (Builder::new().node_bytes(4096), 4096, 30_000)] {
        for way in 0..5 {
            let storage = SharedBytes::default();
            let builder = builder.clone().cache_bytes_max(0);
            let db = builder.create_with_storage(storage.clone()).unwrap();
            let mut model = Model::new();
            set(&db, &mut model, 0..count, 0, 30);
            let (before, height_before) = (db.check_integrity().unwrap(), height(&db, &storage, 5, node_bytes));
            let mut random = Random::new(way as u64);
            let mut order: Vec<u64> = (0..count).collect();
            for place in (1..order.len()).rev() {
                order.swap(place, random.index(place + 1));
            }
            model.retain(|_, _| random.below(100) == 0);
            remove_others(&db, way, &order, &model);
            assert!(rows(&db).unwrap() == model);
            let after = db.check_integrity().unwrap();
            let height_after = height(&db, &storage, *model.first_key_value().unwrap().0, node_bytes);
            assert!(height_after < height_before, "way {way}: {height_after} levels of {height_before}");
            assert!(after.nodes * 30 <= before.nodes, "way {way}: {} nodes of {}", after.nodes, before.nodes);
            assert_eq!((after.rows, after.pending_units), (model.len() as u64, 0));
            // The nodes that are left lie where they were made, some of them at the end. Two commits that copy them put
            // them where there is room by now and let the older slot, too, name nothing behind.
            for round in 1..=2 {
                rewrite(&db, &mut model, round);
            }
            db.close().unwrap();
            // In both geometries a node takes one unit.
            let (bytes, full) = (storage.image().len() as u64, before.file_units * node_bytes);
            assert!(bytes * 5 < full, "way {way}: {bytes} bytes of {full}");
            let db = builder.open_with_storage(storage).unwrap();
            assert!(rows(&db).unwrap() == model);
            assert_sound(&db);
        }
    }
}

#[test]
fn pitfall_24_the_smallest_rows_fill_the_largest_leaves_and_leave_them_by_every_verb() {
    const SMALL: TableDefinition<&[u8], ()> = TableDefinition::new("small");
    let db = Builder::new().node_bytes(65_536).in_memory().unwrap();
    let keys: Vec<[u8; 3]> = (0..200_000_u32).map(|key| key.to_be_bytes()[1..].try_into().unwrap()).collect();
    db.update(|tx| {
        let mut table = tx.open_table(SMALL)?;
        assert_eq!(table.bulk_load(keys.iter().map(|key| (&key[..], ())))?, 200_000);
        for key in &keys[..3000] {
            table.insert(&key[..], ())?;
        }
        Ok::<_, Error>(())
    })
    .unwrap();
    assert_eq!(db.check_integrity().unwrap().rows, 200_000);
    db.update(|tx| {
        let mut table = tx.open_table(SMALL)?;
        assert_eq!(table.retain(|key, ()| key[2] != 0)?, 200_000_u64.div_ceil(256));
        assert_eq!(table.extract_if(|key, ()| key[2] == 1)?.count(), 200_000_usize.div_ceil(256));
        assert_eq!(table.remove_range(&keys[70_000][..]..)?, 130_000 - 2 * 508);
        Ok::<_, Error>(())
    })
    .unwrap();
    let left = keys[..70_000].iter().filter(|key| key[2] > 1);
    let tx = db.begin_read().unwrap();
    let mut found = tx.open_table(SMALL).unwrap().iter().unwrap();
    left.for_each(|key| assert_eq!(found.next().unwrap().unwrap().0.value(), key));
    assert!(found.next().is_none());
    assert_sound(&db);
}

#[test]
fn pitfall_25_values_of_any_length_reach_the_last_byte_of_the_largest_leaves() {
    let db = Builder::new().node_bytes(65_536).in_memory().unwrap();
    let mut model = Model::new();
    for len in (1..60).chain([100, 999, 5000, 16_000, 16_300, 16_384]) {
        let count = (200_000 / len as u64).clamp(20, 4000);
        let given: Vec<(u64, Vec<u8>)> = (0..count).map(|key| (key, value(key, len as u64, len))).collect();
        db.update(|tx| {
            let mut table = tx.open_table(ROWS)?;
            table.bulk_load(given.iter().map(|(key, value)| (*key, &value[..])))?;
            Ok::<_, Error>(())
        })
        .unwrap();
        model.extend(given);
        assert!(rows(&db).unwrap() == model, "{len} bytes");
        assert_sound(&db);
        if len % 3 == 0 {
            db.update(|tx| tx.open_table(ROWS)?.remove_range(0..).map_err(Error::from)).unwrap();
            model.clear();
        }
    }
}

#[test]
fn removals_from_an_empty_table_write_nothing() {
    let db = Builder::new().in_memory().unwrap();
    db.update(|tx| tx.open_table(ROWS).map(drop).map_err(Error::from)).unwrap();
    let before = db.begin_read().unwrap().id();
    for count in [1_u64, 16, 17, 500] {
        let tx = db.begin_write().unwrap();
        let mut table = tx.open_table(ROWS).unwrap();
        (0..count).for_each(|key| table.delete(key).unwrap());
        drop(table);
        assert_eq!(tx.commit().unwrap(), before, "{count} removals");
    }
}

#[test]
fn pitfall_19_an_extraction_yields_one_error_and_nothing_after_it_in_both_directions() {
    let mut failed = 0;
    for (from_back, read) in [false, true].into_iter().flat_map(|from_back| (1..40).map(move |read| (from_back, read)))
    {
        let disk = SimDisk::new();
        let db = tiny().cache_bytes_max(0).create_with_storage(disk.clone()).unwrap();
        let mut model = Model::new();
        set(&db, &mut model, 0..300, 0, 40);
        let tx = db.begin_write().unwrap();
        let mut table = tx.open_table(ROWS).unwrap();
        let mut all = table.extract_if(|_, _| true).unwrap();
        disk.inject(Fault::FailRead { read: disk.next_read() + read });
        let step = |all: &mut dyn DoubleEndedIterator<Item = _>| if from_back { all.next_back() } else { all.next() };
        let mut errors = 0;
        for _ in 0..310 {
            match step(&mut all) {
                None => break,
                Some(Ok(_)) => assert_eq!(errors, 0, "a row after an error"),
                Some(Err(_)) => errors += 1,
            }
        }
        assert!(errors <= 1 && all.next().is_none() && all.next_back().is_none(), "read {read}: {errors} errors");
        failed += errors;
        drop(all);
        drop(table);
        disk.clear_faults();
        assert_eq!(tx.commit().is_ok(), errors == 0, "read {read}");
        assert_eq!(rows(&db).unwrap().is_empty(), errors == 0, "read {read}");
        assert_sound(&db);
    }
    assert!(failed > 40, "{failed} reads failed");
}
