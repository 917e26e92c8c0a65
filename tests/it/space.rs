//! The account of space: allocated = reached + pending after whatever a transaction did.

use crate::fixture::{Model, ROWS, assert_sound, put, put_by_slot, rows, set, tiny, unset, value};
use cowslip::sim::{CrashPlan, OperationKind, SimDisk};
use cowslip::{Error, TableDefinition};
use std::panic::{AssertUnwindSafe, catch_unwind};

const OTHER: TableDefinition<&str, &[u8]> = TableDefinition::new("other");

#[test]
fn pitfall_42_allocated_is_reached_plus_pending_after_every_kind_of_transaction() {
    for cache in [1 << 20, 4 << 10] {
        let disk = SimDisk::new();
        disk.keep_history(false);
        let mut db = tiny().cache_bytes_max(cache).create_with_storage(disk.clone()).unwrap();
        let mut model = Model::new();
        let mut readers = Vec::new();
        for round in 0..60_u64 {
            let from = round * 7 % 90;
            match round % 10 {
                0 => set(&db, &mut model, from..from + 30, round, 40),
                1 => set(&db, &mut model, from..from + 5, round, 700),
                2 => unset(&db, &mut model, from..from + 20),
                3 => {
                    let tx = db.begin_write().unwrap();
                    let mut table = tx.open_table(ROWS).unwrap();
                    (0..50).for_each(|key| drop(table.insert(key, &value(key, round, 300)[..]).unwrap()));
                    drop(table);
                    tx.delete_table(ROWS).unwrap();
                    tx.abort().unwrap();
                }
                4 => {
                    let panicked = catch_unwind(AssertUnwindSafe(|| {
                        let tx = db.begin_write().unwrap();
                        let mut table = tx.open_table(ROWS).unwrap();
                        (0..40).for_each(|key| drop(table.insert(key, &value(key, round, 600)[..]).unwrap()));
                        panic!("as planned");
                    }));
                    assert!(panicked.is_err());
                }
                5 => readers.push(db.begin_read().unwrap()),
                6 => drop(readers.pop()),
                7 => db
                    .update(|tx| {
                        tx.open_table(OTHER)?.insert(&*"k".repeat(90), &value(1, round, 20_000)[..])?;
                        if round % 20 == 7 {
                            tx.rename_table(OTHER, TableDefinition::<u8, u8>::new("third"))
                        } else {
                            Ok(())
                        }
                        .or_else(|_| tx.delete_table(OTHER).map(drop))?;
                        Ok::<_, Error>(())
                    })
                    .unwrap(),
                8 => {
                    readers.clear();
                    drop(db);
                    db = tiny().cache_bytes_max(cache).open_with_storage(disk.clone()).unwrap();
                }
                _ => drop(db.begin_write().unwrap()),
            }
            assert_sound(&db);
            assert_eq!(rows(&db).unwrap(), model, "round {round}");
        }
    }
}

#[test]
fn r5_bitmaps_on_disk_record_pages_that_only_readers_hold_as_free() {
    let disk = SimDisk::new();
    let db = tiny().create_with_storage(disk.clone()).unwrap();
    let mut model = Model::new();
    put_by_slot(&db, 0..200, 1, 60);
    let reader = db.begin_read().unwrap();
    put_by_slot(&db, 0..200, 2, 60);
    model.extend((0..200).map(|key| (key, value(key, 2, 60))));
    let alive = db.check_integrity().unwrap();
    assert!(alive.pending_units > 20, "the reader holds pages: {alive:?}");
    // The account after a crash has no pending pages, so it holds only if the reader's pages were recorded free.
    let crashed = tiny().open_with_storage(disk.crash_image(&CrashPlan::nothing(disk.next_operation()))).unwrap();
    let found = crashed.check_integrity().unwrap();
    assert_eq!((found.pending_units, found.reached_units), (0, alive.reached_units));
    assert_eq!(rows(&crashed).unwrap(), model);
    drop(reader);
}

#[test]
fn r5_bitmap_copies_take_turns_and_an_aborted_commit_takes_none() {
    let disk = SimDisk::new();
    let db = tiny().create_with_storage(disk.clone()).unwrap();
    put(&db, 0..5, 0, 20).unwrap();
    let mut copies = Vec::new();
    for round in 1..12 {
        let from = disk.next_operation();
        put_by_slot(&db, 0..5, round, 20);
        // Copies A and B of the only region are units 24 and 25.
        let covers = |at: u64| {
            disk.operations().iter().filter(|operation| operation.number >= from).any(|operation| {
                match operation.kind {
                    OperationKind::Write { offset, len, .. } => (offset..offset + len).contains(&(at * 512)),
                    _ => false,
                }
            })
        };
        match (covers(24), covers(25)) {
            (true, false) => copies.push('A'),
            (false, true) => copies.push('B'),
            both => panic!("exactly one copy is written in a commit, and never the durable one: {both:?}"),
        }
        if round % 3 == 0 {
            let tx = db.begin_write().unwrap();
            tx.open_table(ROWS).unwrap().insert(1, &b"never"[..]).unwrap();
            tx.abort().unwrap();
        }
    }
    assert!(copies.windows(2).all(|pair| pair[0] != pair[1]), "{copies:?}");
}

#[test]
fn r3_pages_of_the_durable_slot_and_of_pins_are_never_written_over() {
    let disk = SimDisk::new();
    let db = tiny().cache_bytes_max(0).create_with_storage(disk.clone()).unwrap();
    let mut model = Model::new();
    set(&db, &mut model, 0..80, 0, 40);
    let first = (db.begin_read().unwrap(), model.clone());
    for round in 1..12 {
        let (from, before) = (disk.next_operation(), model.clone());
        put_by_slot(&db, round * 5..round * 5 + 30, round, 40);
        model.extend((round * 5..round * 5 + 30).map(|key| (key, value(key, round, 40))));
        // Everything of the commit but its slot and block 0 landed: the commit before must be whole underneath.
        let slot = disk.operations().iter().find_map(|operation| match operation.kind {
            OperationKind::Write { offset: 4096 | 8192, .. } if operation.number >= from => Some(operation.number),
            _ => None,
        });
        let image = disk.crash_image(&CrashPlan::everything(slot.unwrap() - 1));
        let crashed = tiny().open_with_storage(image).unwrap();
        assert_eq!(rows(&crashed).unwrap(), before, "round {round}");
        assert_sound(&crashed);
        let pinned: Model = (first.0.open_table(ROWS).unwrap().iter().unwrap())
            .map(|row| row.map(|(key, value)| (key.value(), value.value().to_vec())).unwrap())
            .collect();
        assert!(pinned == first.1, "round {round}");
    }
}

#[test]
fn a_pinned_reader_over_many_commits_holds_only_what_it_sees() {
    let disk = SimDisk::new();
    disk.keep_history(false);
    let db = tiny().create_with_storage(disk.clone()).unwrap();
    let mut model = Model::new();
    set(&db, &mut model, 0..100, 0, 40);
    let reader = db.begin_read().unwrap();
    let mut lens = Vec::new();
    for round in 0..300 {
        put(&db, 0..10, round, 40).unwrap();
        lens.push(disk.image().len());
    }
    assert_eq!(lens[50], lens[299], "pages born and freed behind the reader's back are reused");
    let pending = db.check_integrity().unwrap().pending_units;
    assert!(pending < 40, "{pending} units");
    drop(reader);
    put(&db, 0..1, 0, 1).unwrap();
    assert_eq!(db.check_integrity().unwrap().pending_units, 0);
}

#[test]
fn a_transaction_over_the_budget_writes_early_whether_it_has_one_table_or_many() {
    const NAMES: [&str; 3] = ["first", "second", "third"];
    for tables in 1..=NAMES.len() {
        let disk = SimDisk::new();
        let db = tiny().cache_bytes_max(64 << 10).create_with_storage(disk.clone()).unwrap();
        let tx = db.begin_write().unwrap();
        let mut open: Vec<_> = NAMES[..tables]
            .iter()
            .map(|name| tx.open_table(TableDefinition::<u64, &[u8]>::new(name)).unwrap())
            .collect();
        for key in 0..3000 {
            for table in &mut open {
                table.insert(key, &value(key, 0, 50)[..]).unwrap();
            }
        }
        // Of 3000 rows of 58 bytes in each table a quarter of 64 KiB may stay unwritten.
        let written = disk.stats().bytes_written;
        assert!(written > 58 * 3000 * tables as u64 - (64 << 10), "{tables} tables: {written} bytes");
        drop(open);
        tx.commit().unwrap();
        let read = db.begin_read().unwrap();
        for name in &NAMES[..tables] {
            let table = read.open_table(TableDefinition::<u64, &[u8]>::new(name)).unwrap();
            assert!((0..3000).all(|key| table.get(key).unwrap().unwrap().value() == value(key, 0, 50)));
        }
        drop(read);
        assert_sound(&db);
    }
}
