//! Snapshots, guards and ranges: what readers see and how long.

use crate::fixture::{Model, ROWS, SharedBytes, put, rows, set, tiny, unset, value};
use cowslip::{Database, Error, StorageError, TableDefinition, TransactionError};

const NAMES: TableDefinition<&str, u64> = TableDefinition::new("names");
const BLOBS: TableDefinition<&[u8], ()> = TableDefinition::new("blobs");
const PAIRS: TableDefinition<(&str, u64), &str> = TableDefinition::new("pairs");

#[test]
fn reader_keeps_its_snapshot_over_two_hundred_commits() {
    // Without a cache every read comes from the storage, so a reused page could not hide.
    let db = tiny().cache_bytes_max(0).in_memory().unwrap();
    let mut model = Model::new();
    set(&db, &mut model, 0..60, 0, 40);
    let before = model.clone();
    let reader = db.begin_read().unwrap();
    let table = reader.open_table(ROWS).unwrap();
    for round in 1..=200 {
        set(&db, &mut model, round % 50..round % 50 + 10, round, 40);
        if round % 20 == 0 {
            let found: Model = (table.iter().unwrap())
                .map(|row| row.map(|(key, value)| (key.value(), value.value().to_vec())).unwrap())
                .collect();
            assert_eq!(found, before);
        }
    }
    assert_eq!(rows(&db).unwrap(), model);
    assert_eq!(reader.id().get() + 200, db.begin_read().unwrap().id().get());
}

#[test]
fn guards_and_ranges_outlive_transaction_table_and_database() {
    let storage = SharedBytes::default();
    let db = tiny().cache_bytes_max(0).create_with_storage(storage).unwrap();
    let mut model = Model::new();
    set(&db, &mut model, 0..100, 0, 40);
    let (guard, mut range) = {
        let tx = db.begin_read().unwrap();
        let table = tx.open_table(ROWS).unwrap();
        (table.get(7).unwrap().unwrap(), table.range(10..20).unwrap())
    };
    unset(&db, &mut model, 0..100);
    put(&db, 0..100, 9, 40).unwrap();
    drop(db);
    assert_eq!(guard.value(), value(7, 0, 40));
    let (key, found) = range.next().unwrap().unwrap();
    assert_eq!((key.value(), found.value()), (10, &value(10, 0, 40)[..]));
    assert_eq!(range.count(), 9);
}

#[test]
fn ranges_meet_in_the_middle_from_both_ends() {
    let db = tiny().in_memory().unwrap();
    let mut model = Model::new();
    set(&db, &mut model, 0..200, 0, 20);
    let tx = db.begin_read().unwrap();
    let table = tx.open_table(ROWS).unwrap();
    for step in 1..7 {
        let mut range = table.range(50..=149).unwrap();
        let (mut front, mut back) = (Vec::new(), Vec::new());
        let mut turn = 0;
        loop {
            let row = if turn % step == 0 { range.next_back() } else { range.next() };
            let Some(row) = row else { break };
            if turn % step == 0 { &mut back } else { &mut front }.push(row.unwrap().0.value());
            turn += 1;
        }
        assert!(range.next().is_none() && range.next_back().is_none());
        front.extend(back.into_iter().rev());
        assert_eq!(front, (50..150).collect::<Vec<_>>(), "step {step}");
    }
}

#[test]
fn pitfall_20_start_after_end_is_an_empty_range_for_readers_and_the_writer() {
    let db = tiny().in_memory().unwrap();
    let mut model = Model::new();
    set(&db, &mut model, 0..200, 0, 20);
    let tx = db.begin_write().unwrap();
    let table = tx.open_table(ROWS).unwrap();
    let snapshot = db.begin_read().unwrap().open_table(ROWS).unwrap();
    #[expect(clippy::reversed_empty_ranges, reason = "that is what is tested")]
    for range in [150..50, 50..50, 199..0, u64::MAX..0] {
        assert_eq!(table.range(range.clone()).unwrap().count(), 0, "{range:?}");
        assert_eq!(snapshot.range(range.clone()).unwrap().rev().count(), 0, "{range:?}");
    }
    #[expect(clippy::reversed_empty_ranges, reason = "that is what is tested")]
    let inverted = snapshot.range(150..=50).unwrap();
    assert_eq!(inverted.count(), 0);
}

#[test]
fn prefixes_of_strings_bytes_and_tuples_select_exactly_their_rows() {
    let db = tiny().in_memory().unwrap();
    db.update(|tx| {
        let (mut names, mut blobs) = (tx.open_table(NAMES)?, tx.open_table(BLOBS)?);
        let mut pairs = tx.open_table(PAIRS)?;
        for (index, name) in ["", "a", "ab", "abc", "ac", "b", "\u{e9}", "\u{e9}t\u{e9}"].into_iter().enumerate() {
            names.insert(name, index as u64)?;
            pairs.insert((name, index as u64), "x")?;
            pairs.insert((name, 99), "y")?;
        }
        for blob in [&[][..], &[0], &[0, 0], &[1], &[0xFF], &[0xFF, 0xFF], &[0xFF, 0xFF, 1]] {
            blobs.insert(blob, ())?;
        }
        Ok::<_, Error>(())
    })
    .unwrap();
    let tx = db.begin_read().unwrap();
    let names = tx.open_table(NAMES).unwrap();
    for (prefix, count) in [("", 8), ("a", 4), ("ab", 2), ("abcd", 0), ("\u{e9}", 2), ("zz", 0)] {
        assert_eq!(names.prefix(prefix).unwrap().count(), count, "{prefix:?}");
    }
    let blobs = tx.open_table(BLOBS).unwrap();
    for (prefix, count) in [(&[][..], 7), (&[0], 2), (&[0xFF], 3), (&[0xFF, 0xFF], 2), (&[0xFF, 0xFF, 0xFF], 0)] {
        assert_eq!(blobs.prefix(prefix).unwrap().rev().count(), count, "{prefix:?}");
    }
    let pairs = tx.open_table(PAIRS).unwrap();
    for name in ["", "a", "ab"] {
        let found: Vec<_> = pairs.prefix(name).unwrap().map(|row| row.unwrap().0.value().0.to_owned()).collect();
        assert_eq!(found, [name, name], "a tuple's prefix is its whole first part");
    }
}

#[test]
fn writer_sees_its_own_changes_and_nobody_else_does_before_the_commit() {
    let db = tiny().in_memory().unwrap();
    let mut model = Model::new();
    set(&db, &mut model, 0..10, 0, 20);
    let tx = db.begin_write().unwrap();
    {
        let mut table = tx.open_table(ROWS).unwrap();
        assert_eq!(table.insert(3, &b"new"[..]).unwrap().unwrap().value(), value(3, 0, 20));
        assert!(table.remove(4).unwrap().is_some());
        assert!(table.remove(4).unwrap().is_none());
        assert!(table.insert(77, &b"more"[..]).unwrap().is_none());
        assert_eq!((table.len().unwrap(), table.get(3).unwrap().unwrap().value()), (10, &b"new"[..]));
        assert_eq!(table.last().unwrap().unwrap().0.value(), 77);
        assert_eq!(table.first().unwrap().unwrap().0.value(), 0);
    }
    assert_eq!(rows(&db).unwrap(), model);
    let table = tx.open_table(ROWS).unwrap();
    assert_eq!(table.get(77).unwrap().unwrap().value(), b"more", "a table that is opened again keeps its changes");
    drop(table);
    let id = tx.id();
    assert_eq!(tx.commit().unwrap(), id);
    assert_eq!(db.begin_read().unwrap().id(), id);
    assert_eq!(rows(&db).unwrap().len(), 10);
}

#[test]
fn handles_can_be_shared_and_moved_between_threads() {
    fn shared<T: Send + Sync>() {}
    fn moved<T: Send>() {}
    shared::<Database>();
    shared::<cowslip::ReadTransaction>();
    shared::<cowslip::ReadOnlyTable<u64, &str>>();
    shared::<cowslip::WriteTransaction>();
    moved::<cowslip::Table<'static, u64, &str>>();
    moved::<cowslip::Range<'static, u64, &str>>();
    moved::<cowslip::AccessGuard<'static, &str>>();
    shared::<Error>();
    shared::<StorageError>();
}

#[test]
fn tables_of_one_transaction_are_filled_by_several_threads() {
    let db = tiny().in_memory().unwrap();
    let names: Vec<String> = (0..4).map(|index| format!("part {index}")).collect();
    let tx = db.begin_write().unwrap();
    std::thread::scope(|scope| {
        for name in &names {
            let mut table = tx.open_table(TableDefinition::<u64, &[u8]>::new(name)).unwrap();
            scope.spawn(move || {
                for key in 0..400 {
                    table.insert(key, &value(key, 1, 30)[..]).unwrap();
                }
            });
        }
    });
    tx.commit().unwrap();
    let report = db.check_integrity().unwrap();
    assert_eq!((report.tables, report.rows), (4, 1600));
}

#[test]
fn readers_beside_a_writer_each_see_one_whole_commit() {
    let db = tiny().in_memory().unwrap();
    put(&db, 0..50, 0, 16).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut last = 0;
                while last < 60 {
                    let tx = db.begin_read().unwrap();
                    let table = tx.open_table(ROWS).unwrap();
                    let round = tx.id().get() - 1;
                    assert!(round >= last, "a later snapshot is never older");
                    for row in table.iter().unwrap() {
                        let (key, found) = row.unwrap();
                        assert_eq!(found.value(), value(key.value(), round, 16), "one commit, whole");
                    }
                    last = round;
                }
            });
        }
        for round in 1..=60 {
            put(&db, 0..50, round, 16).unwrap();
        }
    });
    // The next writer takes back what the last readers held.
    db.begin_write().unwrap().abort().unwrap();
    assert_eq!(db.check_integrity().unwrap().pending_units, 0);
}

#[test]
fn second_writer_waits_for_the_first_and_builds_on_it() {
    let db = tiny().in_memory().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20 {
                    db.update(|tx| {
                        let mut table = tx.open_table(NAMES)?;
                        let count = table.get("count")?.map_or(0, |row| row.value());
                        table.insert("count", count + 1)?;
                        Ok::<_, Error>(())
                    })
                    .unwrap();
                }
            });
        }
    });
    let count = db.view(|tx| Ok::<_, Error>(tx.open_table(NAMES)?.get("count")?.map(|row| row.value()))).unwrap();
    assert_eq!(count, Some(80));
}

#[test]
fn update_that_fails_changes_nothing_and_returns_the_error() {
    let db = tiny().in_memory().unwrap();
    let mut model = Model::new();
    set(&db, &mut model, 0..10, 0, 20);
    let outcome = db.update(|tx| {
        tx.open_table(ROWS)?.insert(1, &b"gone"[..])?;
        Err::<(), Error>(TransactionError::ReadOnly.into())
    });
    assert!(matches!(outcome, Err(Error::Transaction(TransactionError::ReadOnly))));
    assert_eq!(rows(&db).unwrap(), model);
}

#[test]
fn row_34_reading_yields_rows_one_by_one_without_loading_the_table() {
    let storage = SharedBytes::default();
    let db = tiny().cache_bytes_max(0).create_with_storage(storage.clone()).unwrap();
    put(&db, 0..2000, 0, 60).unwrap();
    let tx = db.begin_read().unwrap();
    let table = tx.open_table(ROWS).unwrap();
    let before = storage.read_bytes.load(std::sync::atomic::Ordering::Relaxed);
    let mut range = table.iter().unwrap();
    for _ in 0..3 {
        range.next().unwrap().unwrap();
        range.next_back().unwrap().unwrap();
    }
    let read = storage.read_bytes.load(std::sync::atomic::Ordering::Relaxed) - before;
    assert!(read <= 24 * 512, "{read} bytes for six rows of a table of 2000");
}

#[test]
fn owned_keys_have_prefixes_and_open_as_their_lent_form() {
    let db = Database::in_memory().unwrap();
    let (texts, lists) = (TableDefinition::<String, u8>::new("texts"), TableDefinition::<Vec<u16>, ()>::new("lists"));
    let tx = db.begin_write().unwrap();
    let mut table = tx.open_table(texts).unwrap();
    for text in ["a", "ab", "ab\0", "abc", "b"] {
        table.insert(text.to_owned(), 0).unwrap();
    }
    assert_eq!(table.prefix("ab").unwrap().count(), 3);
    drop(table);
    let lent = tx.open_table(TableDefinition::<&str, u8>::new("texts")).unwrap();
    assert!(lent.get("ab\0").unwrap().is_some());
    let mut table = tx.open_table(lists).unwrap();
    for list in [vec![], vec![1], vec![1, 2], vec![1, 0x0201], vec![257], vec![2]] {
        table.insert(list, ()).unwrap();
    }
    let found: Vec<Vec<u16>> = table.prefix(&[1][..]).unwrap().map(|row| row.unwrap().0.value()).collect();
    assert_eq!(found, [vec![1], vec![1, 2], vec![1, 0x0201]]);
}
