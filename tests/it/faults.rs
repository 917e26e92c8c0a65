//! Every operation of a scenario fails once: typed errors, nothing lost, the next opening works.

use crate::fixture::{Model, ROWS, assert_sound, closed_tiny, put, rows, set, tiny, unset, value};
use cowslip::sim::{Fault, OperationKind, SimDisk};
use cowslip::{CommitError, Database, Error, StorageError, TransactionError};
use std::io::ErrorKind;

/// Two commits, the second with values out of line; errors end it. Returns how many commits were acknowledged.
fn scenario(db: &Database) -> (usize, Result<(), Error>) {
    if let Err(error) = put(db, 100..140, 3, 50) {
        return (0, Err(error));
    }
    if let Err(error) = put(db, 20..28, 4, 900) {
        return (1, Err(error));
    }
    (2, Ok(()))
}

/// What the scenario leaves after so many commits.
fn after(commits: usize, start: &Model) -> Model {
    let mut model = start.clone();
    if commits > 0 {
        model.extend((100..140).map(|key| (key, value(key, 3, 50))));
    }
    if commits > 1 {
        model.extend((20..28).map(|key| (key, value(key, 4, 900))));
    }
    model
}

/// The state after reopening must be that of the acknowledged commits, or of the one in doubt.
fn assert_recovers(disk: &SimDisk, acked: usize, start: &Model, what: &str) {
    disk.clear_faults();
    let disk = disk.restart_process();
    let db = tiny().open_with_storage(disk.clone()).unwrap_or_else(|error| panic!("{what}: {error}"));
    let found = rows(&db).unwrap();
    assert!(found == after(acked, start) || found == after((acked + 1).min(2), start), "{what}: {acked} acknowledged");
    assert_sound(&db);
    put(&db, 0..3, 8, 8).unwrap();
    db.close().unwrap();
    let db = tiny().open_with_storage(disk).unwrap();
    assert!(db.open_notes().is_empty(), "{what}");
    assert_sound(&db);
}

#[test]
fn pitfall_36_every_operation_that_fails_is_an_error_and_reopening_works() {
    let (image, start) = closed_tiny();
    let image = image.image();
    let mut failed = [0; 3];
    for kind in [ErrorKind::Other, ErrorKind::PermissionDenied, ErrorKind::StorageFull] {
        for operation in 1.. {
            let disk = SimDisk::from_bytes(&image);
            disk.inject(Fault::FailOperation { operation, kind });
            let db = tiny().open_with_storage(disk.clone()).unwrap();
            let (acked, outcome) = scenario(&db);
            let last = disk.next_operation() <= operation;
            if let Err(error) = outcome {
                failed[acked] += 1;
                assert!(matches!(error, Error::Commit(_) | Error::Storage(_)), "{operation}: {error}");
                assert_eq!(rows(&db).unwrap(), after(acked, &start), "readers go on");
            }
            let closed = db.close();
            let end = disk.next_operation() <= operation;
            failed[2] += usize::from(closed.is_err());
            assert_recovers(&disk, acked, &start, &format!("{kind} at operation {operation}"));
            if last && end {
                break;
            }
        }
    }
    assert!(failed.iter().all(|count| *count > 3), "each part of the scenario was hit: {failed:?}");
}

#[test]
fn pitfall_36_every_short_write_and_failed_sync_is_an_error_and_reopening_works() {
    let (image, start) = closed_tiny();
    let image = image.image();
    for number in 1..40 {
        for fault in [
            Fault::ShortWrite { operation: number },
            Fault::FailSync { sync: number },
            Fault::FailSyncPartly { sync: number, seed: number },
            Fault::FailSyncPartly { sync: number, seed: !number },
        ] {
            let disk = SimDisk::from_bytes(&image);
            disk.inject(fault);
            let db = tiny().open_with_storage(disk.clone()).unwrap();
            let (acked, _) = scenario(&db);
            drop(db);
            assert_recovers(&disk, acked, &start, &format!("{fault:?}"));
        }
    }
}

#[test]
fn pitfall_36_every_read_that_fails_is_an_error_and_the_database_goes_on() {
    let (image, start) = closed_tiny();
    let image = image.image();
    let mut hit = 0;
    for read in 1..200 {
        let disk = SimDisk::from_bytes(&image);
        disk.inject(Fault::FailRead { read });
        let db = match tiny().cache_bytes_max(0).open_with_storage(disk.clone()) {
            Ok(db) => db,
            Err(error) => {
                assert!(!error.is_corruption(), "{error}");
                hit += 1;
                continue;
            }
        };
        if rows(&db).is_err() {
            hit += 1;
        }
        let (acked, outcome) = scenario(&db);
        if let Err(error) = outcome {
            assert!(!error.is_corruption(), "{error}");
            hit += 1;
            disk.clear_faults();
            assert_eq!(rows(&db).unwrap(), after(acked, &start), "an error of reading only aborts");
            put(&db, 0..2, 1, 1).unwrap();
        }
        disk.clear_faults();
        assert_sound(&db);
    }
    assert!(hit > 20, "{hit} reads failed");
}

#[test]
fn r18_out_of_space_before_the_commit_writes_only_aborts() {
    let (disk, mut model) = closed_tiny();
    let len = disk.image().len() as u64;
    let db = tiny().open_with_storage(disk.clone()).unwrap();
    for room in [0, 512, 2048, 8192, 30_000] {
        disk.set_capacity_bytes(len + room);
        let before = db.check_integrity().unwrap().reached_units;
        let error = put(&db, 1000..1400, 5, 300).unwrap_err();
        assert!(error.is_out_of_space(), "{error}");
        assert!(!matches!(error, Error::Commit(CommitError::InDoubt(_))), "{error}");
        assert_eq!(rows(&db).unwrap(), model);
        assert_eq!(db.check_integrity().unwrap().reached_units, before);
    }
    // Deleting works with what is there, and with space again everything does.
    unset(&db, &mut model, 20..30);
    assert_sound(&db);
    disk.set_capacity_bytes(u64::MAX);
    set(&db, &mut model, 1000..1400, 6, 300);
    db.close().unwrap();
    assert_eq!(rows(&tiny().open_with_storage(disk).unwrap()).unwrap(), model);
}

#[test]
fn r18_running_out_of_space_at_every_length_loses_nothing() {
    let (image, start) = closed_tiny();
    let image = image.image();
    let (mut full, mut enough) = (0, 0);
    for room in 0..90 {
        let disk = SimDisk::from_bytes(&image);
        disk.set_capacity_bytes(image.len() as u64 + room * 512);
        let db = tiny().open_with_storage(disk.clone()).unwrap();
        let (acked, outcome) = scenario(&db);
        match outcome {
            Ok(()) => enough += 1,
            Err(error) => {
                assert!(error.is_out_of_space(), "{error}");
                full += 1;
            }
        }
        assert_eq!(rows(&db).unwrap(), after(acked, &start), "{room} units");
        assert_sound(&db);
        db.close().unwrap();
        let db = tiny().open_with_storage(disk).unwrap();
        assert!(db.open_notes().is_empty());
        assert_eq!(rows(&db).unwrap(), after(acked, &start), "{room} units");
    }
    assert!(full > 5 && enough > 5, "{full} {enough}");
}

/// Offsets of the writes from operation `from` on, with the number of syncs before each.
fn writes_from(disk: &SimDisk, from: u64) -> Vec<(u64, usize)> {
    let mut syncs = 0;
    let mut writes = Vec::new();
    for operation in disk.operations().iter().filter(|operation| operation.number >= from) {
        match operation.kind {
            OperationKind::Write { offset, .. } => writes.push((offset, syncs)),
            OperationKind::Sync(_) => syncs += 1,
            // Length changes count as writes behind everything else.
            OperationKind::SetLen { .. } | OperationKind::Preallocate { .. } => writes.push((u64::MAX, syncs)),
            _ => {}
        }
    }
    writes
}

const RECOVERY_REQUIRED: u8 = 2;

#[test]
fn r20_open_is_synced_before_the_first_other_write_and_clean_after_the_last() {
    let (disk, _) = closed_tiny();
    assert_eq!(disk.image()[12] & RECOVERY_REQUIRED, 0);
    let db = tiny().open_with_storage(disk.clone()).unwrap();
    let from = disk.next_operation();
    put(&db, 0..300, 1, 40).unwrap();
    let writes = writes_from(&disk, from);
    assert_eq!(writes[0], (0, 0), "block 0 comes first");
    assert!(writes[1].1 >= 1, "and is synced before anything else is written or extended");
    assert_ne!(disk.image()[12] & RECOVERY_REQUIRED, 0);
    let from = disk.next_operation();
    put(&db, 0..3, 2, 40).unwrap();
    db.close().unwrap();
    let writes = writes_from(&disk, from);
    let (last, before) = (writes[writes.len() - 1], writes[writes.len() - 2]);
    assert_eq!(last.0, 0, "block 0 is written last");
    assert!(last.1 > before.1, "after everything else was synced: {writes:?}");
    assert!(matches!(disk.operations().last().unwrap().kind, OperationKind::Sync(_)));
    assert_eq!(disk.image()[12] & RECOVERY_REQUIRED, 0);
}

#[test]
fn r20_a_session_that_writes_nothing_leaves_no_trace() {
    let (disk, model) = closed_tiny();
    let trace = disk.trace_hash();
    let db = tiny().open_with_storage(disk.clone()).unwrap();
    assert_eq!(rows(&db).unwrap(), model);
    assert_sound(&db);
    drop(db.begin_write().unwrap());
    db.close().unwrap();
    assert_eq!(disk.trace_hash(), trace);
}

#[test]
fn r20_a_poisoned_handle_writes_nothing_not_even_at_close() {
    let (image, _) = closed_tiny();
    let image = image.image();
    let mut poisoned = 0;
    for operation in 1..40 {
        let disk = SimDisk::from_bytes(&image);
        let db = tiny().open_with_storage(disk.clone()).unwrap();
        disk.inject(Fault::FailOperation { operation, kind: ErrorKind::Other });
        let (_, outcome) = scenario(&db);
        if outcome.is_ok() {
            continue;
        }
        poisoned += 1;
        let trace = disk.trace_hash();
        let again = db.begin_write().map(drop);
        assert!(matches!(again, Err(TransactionError::Storage(StorageError::Poisoned))), "{operation}: {again:?}");
        assert!(matches!(put(&db, 0..1, 0, 0), Err(Error::Transaction(_))));
        rows(&db).unwrap();
        drop(db);
        assert_eq!(disk.trace_hash(), trace, "operation {operation}");
    }
    assert!(poisoned > 8, "{poisoned}");
}

#[test]
fn r20_a_failed_close_is_reported_and_recovered() {
    let (image, mut model) = closed_tiny();
    let image = image.image();
    model.extend((0..5).map(|key| (key, value(key, 1, 40))));
    let mut failures = 0;
    for step in 0..6 {
        let disk = SimDisk::from_bytes(&image);
        let db = tiny().open_with_storage(disk.clone()).unwrap();
        put(&db, 0..5, 1, 40).unwrap();
        disk.inject(Fault::FailOperation { operation: disk.next_operation() + step, kind: ErrorKind::Other });
        failures += usize::from(db.close().is_err());
        let db = tiny().open_with_storage(disk.restart_process()).unwrap();
        assert_eq!(rows(&db).unwrap(), model);
        assert_sound(&db);
    }
    assert!(failures >= 3, "{failures}");
}

#[test]
fn row_31_a_page_that_cannot_be_verified_is_never_a_default() {
    let (disk, model) = closed_tiny();
    let image = disk.image();
    let mut refused = 0;
    for unit in 24..image.len() / 512 {
        let disk = SimDisk::from_bytes(&image);
        disk.flip_bit(unit as u64 * 512 + 100, 3).unwrap();
        let outcome = match tiny().open_with_storage(disk) {
            Ok(db) => db.begin_read().map_err(Error::from).and_then(|tx| {
                let table = tx.open_table(ROWS)?;
                for (key, expected) in &model {
                    match table.get(key)? {
                        Some(row) => assert_eq!(row.value(), expected),
                        None => panic!("key {key} is gone without an error"),
                    }
                }
                rows(&db)
            }),
            Err(error) => Err(error.into()),
        };
        match outcome {
            Ok(found) => assert_eq!(found, model),
            Err(error) => {
                assert!(error.is_corruption(), "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 10, "{refused}");
}
