//! Handles that end in an unusual order or by a panic: nothing deadlocks, leaks or stays locked.

use crate::fixture::{Model, ROWS, assert_sound, closed_tiny, put, rows, set, tiny, value};
use cowslip::sim::SimDisk;
use cowslip::{CloseError, CommitError, DatabaseError, Error, StorageError};
use std::panic::{AssertUnwindSafe, catch_unwind};

fn is_locked(disk: &SimDisk) -> bool {
    matches!(tiny().open_with_storage(disk.clone()), Err(DatabaseError::Locked(_)))
}

#[test]
fn pitfall_39_dropping_the_database_with_a_live_writer_does_not_deadlock() {
    let (disk, mut model) = closed_tiny();
    let db = tiny().open_with_storage(disk.clone()).unwrap();
    let tx = db.begin_write().unwrap();
    drop(db);
    tx.open_table(ROWS).unwrap().insert(1000, &b"late"[..]).unwrap();
    assert!(is_locked(&disk));
    tx.commit().unwrap();
    model.insert(1000, b"late".to_vec());
    let db = tiny().open_with_storage(disk.clone()).unwrap();
    assert!(db.open_notes().is_empty(), "the writer closed the file as the last one");
    assert_eq!(rows(&db).unwrap(), model);
    let tx = db.begin_write().unwrap();
    drop(db);
    drop(tx);
    assert!(tiny().open_with_storage(disk).unwrap().open_notes().is_empty());
}

#[test]
fn pitfall_39_the_file_stays_locked_until_the_last_reader_table_or_range_is_gone() {
    let (disk, model) = closed_tiny();
    let open = || tiny().cache_bytes_max(0).open_with_storage(disk.clone()).unwrap();
    let first = *model.keys().next().unwrap();

    let db = open();
    let reader = db.begin_read().unwrap();
    drop(db);
    assert!(is_locked(&disk));
    let table = reader.open_table(ROWS).unwrap();
    drop(reader);
    assert!(is_locked(&disk));
    let mut range = table.iter().unwrap();
    drop(table);
    assert!(is_locked(&disk), "a range reads the file, so nobody else may change it");
    assert_eq!(range.next().unwrap().unwrap().0.value(), first);
    assert_eq!(range.count(), model.len() - 1);
    assert!(!is_locked(&disk));
}

#[test]
fn pitfall_39_close_says_in_use_while_anything_lives_and_the_last_one_closes() {
    let (disk, model) = closed_tiny();
    let db = tiny().open_with_storage(disk.clone()).unwrap();
    put(&db, 0..1, 0, 30).unwrap();
    let range = db.begin_read().unwrap().open_table(ROWS).unwrap().iter().unwrap();
    let clone = db.clone();
    assert!(matches!(db.close(), Err(CloseError::InUse(count)) if count >= 1));
    assert!(matches!(clone.close(), Err(CloseError::InUse(_))), "a range is in use as well");
    assert_eq!(range.count(), model.len());
    assert!(tiny().open_with_storage(disk).unwrap().open_notes().is_empty());
}

#[test]
fn row_33_abort_always_rolls_back_even_after_half_failed_operations() {
    let disk = SimDisk::new();
    let db = tiny().cache_bytes_max(0).create_with_storage(disk.clone()).unwrap();
    let mut model = Model::new();
    set(&db, &mut model, 0..300, 0, 60);
    let before = db.check_integrity().unwrap().reached_units;
    for read in 0..12 {
        let tx = db.begin_write().unwrap();
        let mut table = tx.open_table(ROWS).unwrap();
        table.insert(7, &b"changed"[..]).unwrap();
        disk.inject(cowslip::sim::Fault::FailRead { read: disk.next_read() + read });
        let failed = (0..300).find_map(|key| table.insert(key, &b"new"[..]).err()).expect("a read fails");
        assert!(matches!(failed, StorageError::Io(_)), "{failed}");
        assert!(matches!(table.get(1), Err(StorageError::TransactionPoisoned)));
        assert!(matches!(table.insert(1, &b"x"[..]), Err(StorageError::TransactionPoisoned)));
        drop(table);
        assert!(tx.open_table(ROWS).is_err() && tx.delete_table(ROWS).is_err() && tx.rename_table(ROWS, ROWS).is_err());
        if read % 2 == 0 {
            tx.abort().unwrap();
        } else {
            assert!(matches!(tx.commit(), Err(CommitError::Poisoned)));
        }
        disk.clear_faults();
        assert_eq!(rows(&db).unwrap(), model);
        assert_eq!(db.check_integrity().unwrap().reached_units, before, "read {read}");
    }
}

#[test]
fn row_27_a_panic_inside_a_write_gives_every_page_back() {
    let (disk, model) = closed_tiny();
    let db = tiny().open_with_storage(disk).unwrap();
    let before = db.check_integrity().unwrap();
    for round in 0..5 {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            db.update(|tx| {
                let mut table = tx.open_table(ROWS)?;
                for key in 0..200 {
                    table.insert(key, &value(key, round, 900)[..])?;
                }
                assert!(round > 100, "as planned");
                Ok::<_, Error>(())
            })
        }));
        assert!(outcome.is_err());
        assert_eq!(db.check_integrity().unwrap().reached_units, before.reached_units);
    }
    assert_eq!(rows(&db).unwrap(), model);
    put(&db, 0..1, 9, 9).unwrap();
}

#[test]
fn pitfall_37_a_caught_writer_panic_leaks_nothing_after_reopening() {
    for spill in [false, true] {
        let (disk, model) = closed_tiny();
        let cache = if spill { 8 << 10 } else { 1 << 20 };
        let db = tiny().cache_bytes_max(cache).open_with_storage(disk.clone()).unwrap();
        let panicked = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let tx = db.begin_write().unwrap();
                let mut table = tx.open_table(ROWS).unwrap();
                for key in 0..300 {
                    table.insert(key, &value(key, 7, 300)[..]).unwrap();
                }
                panic!("as planned");
            });
            writer.join().is_err()
        });
        assert!(panicked);
        // The process dies without closing.
        let reopened = tiny().open_with_storage(disk.restart_process()).unwrap();
        assert_eq!(rows(&reopened).unwrap(), model);
        assert_sound(&reopened);
        drop(db);
        reopened.close().unwrap();
        let db = tiny().open_with_storage(disk.restart_process()).unwrap();
        assert_eq!(rows(&db).unwrap(), model);
        assert_sound(&db);
    }
}

/// A value whose encoding panics on demand: code of the application, in the middle of a write.
#[derive(Debug)]
struct Grenade;

impl cowslip::Value for Grenade {
    type SelfType<'a> = u8;
    type AsBytes<'a> = [u8; 1];

    fn fixed_width() -> Option<usize> {
        Some(1)
    }

    fn try_from_bytes<'a>(data: &'a [u8]) -> Result<u8, cowslip::DecodeError>
    where
        Self: 'a,
    {
        if data == [13] { Err(cowslip::DecodeError::new("thirteen")) } else { Ok(data[0]) }
    }

    fn as_bytes<'a, 'b: 'a>(value: &'a u8) -> [u8; 1]
    where
        Self: 'b,
    {
        assert_ne!(*value, 99, "the application's own panic");
        [*value]
    }

    fn type_name() -> cowslip::TypeName {
        cowslip::TypeName::new("grenade")
    }
}

#[test]
fn row_27_a_panic_in_the_applications_codec_leaves_table_and_database_usable() {
    const TABLE: cowslip::TableDefinition<u64, Grenade> = cowslip::TableDefinition::new("grenades");
    let db = tiny().in_memory().unwrap();
    let tx = db.begin_write().unwrap();
    let mut table = tx.open_table(TABLE).unwrap();
    table.insert(1, 1).unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| table.insert(2, 99).map(drop))).is_err());
    table.insert(3, 3).unwrap();
    assert_eq!(table.len().unwrap(), 2);
    drop(table);
    tx.commit().unwrap();
    assert_sound(&db);
}

#[test]
fn row_26_a_change_that_ends_in_an_error_can_only_be_aborted() {
    const TABLE: cowslip::TableDefinition<u64, Grenade> = cowslip::TableDefinition::new("grenades");
    let db = tiny().in_memory().unwrap();
    db.update(|tx| Ok::<_, Error>(tx.open_table(TABLE)?.insert(1, 13).map(|_| ())?)).unwrap();
    for remove in [false, true] {
        let tx = db.begin_write().unwrap();
        let mut table = tx.open_table(TABLE).unwrap();
        // The old value does not decode, so the change reports an error after the tree was changed.
        let outcome = if remove { table.remove(1).map(drop) } else { table.insert(1, 2).map(drop) };
        assert!(outcome.is_err_and(|error| error.is_corruption()));
        drop(table);
        assert!(matches!(tx.commit(), Err(CommitError::Poisoned)), "an error must not be committed");
    }
}

#[test]
fn a_table_that_was_leaked_aborts_the_commit_and_the_database_goes_on() {
    let (disk, model) = closed_tiny();
    let db = tiny().open_with_storage(disk).unwrap();
    let tx = db.begin_write().unwrap();
    let mut table = tx.open_table(ROWS).unwrap();
    table.insert(1, &b"leaked"[..]).unwrap();
    std::mem::forget(table);
    assert!(matches!(tx.commit(), Err(CommitError::TableLeaked(name)) if name == "rows"));
    assert_eq!(rows(&db).unwrap(), model);
    put(&db, 0..3, 5, 5).unwrap();
    assert_sound(&db);
}
