//! Buffered changes that are merged and written early, while everything goes wrong that can.
//!
//! Invariant: a transaction of `put` and `delete` is wholly there or wholly absent, like any other.

use crate::fixture::{Model, ROWS, assert_sound, closed_tiny, rows, tiny, value};
use cowslip::sim::{CrashPlan, Fault, SimDisk};
use cowslip::{Builder, CommitError, Database, Error};
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// So little memory that the buffer is merged several times in a transaction, and its nodes are written early.
fn crowded() -> Builder {
    tiny().cache_bytes_max(6 << 10)
}

/// Length of the value that a key gets: short ones, and some out of line.
fn len_of(key: u64) -> usize {
    if key.is_multiple_of(13) { 700 } else { (key % 60) as usize }
}

/// Sets 300 keys out of order and removes others, of which some are there.
fn churn(db: &Database) -> Result<(), Error> {
    let tx = db.begin_write()?;
    let mut table = tx.open_table(ROWS)?;
    // A long value makes the table a tree of the transaction, which what is buffered is merged into.
    table.insert(1000, &[0; 70_000][..])?;
    table.remove(1000)?;
    for number in 0..300_u64 {
        let key = number * 7919 % 300;
        table.put(key, &value(key, 9, len_of(key))[..])?;
        if number.is_multiple_of(3) {
            table.delete(number * 31 % 400)?;
        }
    }
    drop(table);
    tx.commit()?;
    Ok(())
}

fn churned(model: &mut Model) {
    for number in 0..300_u64 {
        let key = number * 7919 % 300;
        model.insert(key, value(key, 9, len_of(key)));
        if number.is_multiple_of(3) {
            model.remove(&(number * 31 % 400));
        }
    }
}

/// The rows before and after the transaction.
fn expected(start: &Model) -> [Model; 2] {
    let mut after = start.clone();
    churned(&mut after);
    [start.clone(), after]
}

#[test]
fn pitfall_36_a_merge_in_which_any_operation_fails_is_there_as_a_whole_or_not_at_all() {
    let (image, start) = closed_tiny();
    let (image, states) = (image.image(), expected(&start));
    let mut failed = 0;
    for operation in 1.. {
        let disk = SimDisk::from_bytes(&image);
        let db = crowded().open_with_storage(disk.clone()).unwrap();
        disk.inject(Fault::FailOperation { operation, kind: ErrorKind::Other });
        let outcome = churn(&db);
        let is_over = disk.next_operation() <= operation;
        failed += usize::from(outcome.is_err());
        let seen = rows(&db);
        assert!(
            outcome.is_ok() || seen.is_err() || seen.unwrap() == states[0],
            "{operation}: readers see the old rows"
        );
        drop(db);
        disk.clear_faults();
        let db = crowded().open_with_storage(disk.restart_process()).unwrap();
        let found = rows(&db).unwrap();
        assert!(states.contains(&found) && (outcome.is_err() || found == states[1]), "operation {operation}");
        assert_sound(&db);
        if is_over {
            break;
        }
    }
    assert!(failed > 100, "the transaction writes early: {failed} operations failed");
}

#[test]
fn pitfall_36_a_merge_in_which_any_read_fails_only_aborts() {
    let (image, start) = closed_tiny();
    let (image, states) = (image.image(), expected(&start));
    let mut failed = 0;
    for read in 1..400 {
        let disk = SimDisk::from_bytes(&image);
        let db = crowded().open_with_storage(disk.clone()).unwrap();
        disk.inject(Fault::FailRead { read });
        let outcome = churn(&db);
        disk.clear_faults();
        if let Err(error) = &outcome {
            failed += 1;
            assert!(!error.is_corruption(), "{error}");
            assert_eq!(rows(&db).unwrap(), states[0]);
            churn(&db).unwrap();
        }
        assert_eq!(rows(&db).unwrap(), states[1], "read {read}");
        assert_sound(&db);
    }
    assert!(failed > 20, "{failed} reads failed");
}

#[test]
fn r18_a_merge_that_runs_out_of_space_at_any_length_only_aborts() {
    let (image, start) = closed_tiny();
    let (image, states) = (image.image(), expected(&start));
    let (mut full, mut enough) = (0, 0);
    for room in 0..400_u64 {
        let disk = SimDisk::from_bytes(&image);
        disk.set_capacity_bytes(image.len() as u64 + room * 512);
        let db = crowded().open_with_storage(disk.clone()).unwrap();
        let outcome = churn(&db);
        match &outcome {
            Ok(()) => enough += 1,
            Err(error) => {
                full += 1;
                assert!(error.is_out_of_space(), "{room}: {error}");
                assert!(!matches!(error, Error::Commit(CommitError::InDoubt(_))), "{error}");
            }
        }
        assert_eq!(rows(&db).unwrap(), states[usize::from(outcome.is_ok())], "{room} units");
        assert_sound(&db);
    }
    assert!(full > 50 && enough > 20, "{full} {enough}");
}

#[test]
fn a_power_cut_at_any_operation_of_a_merge_finds_one_commit() {
    let disk = SimDisk::new();
    let db = crowded().create_with_storage(disk.clone()).unwrap();
    let mut commits = vec![(disk.next_operation(), Model::new())];
    for _ in 0..2 {
        churn(&db).unwrap();
        let mut model = commits[commits.len() - 1].1.clone();
        churned(&mut model);
        commits.push((disk.next_operation(), model));
    }
    db.close().unwrap();
    let mut images = 0;
    for operation in commits[0].0..=disk.next_operation() {
        let mut plans = vec![CrashPlan::nothing(operation), CrashPlan::everything(operation)];
        plans.extend((0..3).map(|seed| CrashPlan::seeded(operation, seed)));
        for plan in plans {
            let db = crowded().open_with_storage(disk.crash_image(&plan)).unwrap();
            let found = rows(&db).unwrap();
            let acked = commits.partition_point(|(at, _)| *at <= operation).saturating_sub(1);
            let mut allowed = commits[acked..(acked + 2).min(commits.len())].iter();
            assert!(allowed.any(|(_, model)| *model == found), "{plan:?}: {} rows", found.len());
            assert_sound(&db);
            images += 1;
        }
    }
    assert!(images > 1000, "{images} images");
}

#[test]
fn pitfall_37_changes_that_wait_when_somebody_panics_are_undone_with_the_transaction() {
    let (disk, start) = closed_tiny();
    let db = crowded().open_with_storage(disk).unwrap();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        db.update(|tx| {
            let mut table = tx.open_table(ROWS)?;
            for key in 0..200_u64 {
                table.put(key, &value(key, 5, 40)[..])?;
            }
            assert!(table.len()? == 0, "the application gives up");
            Ok::<_, Error>(())
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(rows(&db).unwrap(), start);
    assert_sound(&db);
    churn(&db).unwrap();
    assert_sound(&db);
}

#[test]
fn nothing_at_all_and_changes_of_nothing_are_no_commit() {
    let (disk, start) = closed_tiny();
    let db = crowded().open_with_storage(disk).unwrap();
    let before = db.begin_read().unwrap().id();
    let tx = db.begin_write().unwrap();
    {
        let mut table = tx.open_table(ROWS).unwrap();
        for key in 1000..1100_u64 {
            table.delete(key).unwrap();
        }
    }
    assert_eq!(tx.commit().unwrap(), before, "no row was there");
    assert_eq!(rows(&db).unwrap(), start);
    db.update(|tx| {
        let mut table = tx.open_table(cowslip::TableDefinition::<&[u8], &[u8]>::new("empty"))?;
        table.delete(&b""[..])?;
        table.put(&b""[..], &b""[..])?;
        assert_eq!(table.get(&b""[..])?.unwrap().value(), b"");
        table.put(&b""[..], &b"once"[..])?;
        table.delete(&b""[..])?;
        assert!(table.is_empty()?);
        Ok::<_, Error>(())
    })
    .unwrap();
    assert_sound(&db);
}
