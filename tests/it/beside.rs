//! Checkpoints beside transactions that write early, that fail, or that nobody waits for.
//!
//! Invariant: what a checkpoint beside the transactions still writes is nobody else's, and its failure is an error.

use crate::fixture::{Model, ROWS, assert_sound, rows, tiny, value};
use cowslip::sim::{Fault, SimDisk};
use cowslip::{Builder, CommitError, Database, Durability, Error, StorageError};
use std::io::ErrorKind;

/// Changes three small rows in one commit.
fn step(db: &Database, model: &mut Model, round: u64, durability: Durability) -> Result<(), Error> {
    let mut tx = db.begin_write()?;
    tx.set_durability(durability).unwrap();
    let mut table = tx.open_table(ROWS)?;
    for at in 0..3 {
        let key = (round * 7 + at * 31) % 90;
        let bytes = value(key, round, 40);
        table.insert(key, &bytes[..])?;
        model.insert(key, bytes);
    }
    drop(table);
    tx.commit()?;
    Ok(())
}

fn builder() -> Builder {
    tiny().log_bytes_max(8 << 10).test_checkpoint_lag(100_000)
}

/// A database whose log does not grow any more, and whose checkpoints are written when somebody waits for them.
fn filled(disk: &SimDisk) -> (Database, Model) {
    let db = builder().create_with_storage(disk.clone()).unwrap();
    let mut model = Model::new();
    for round in 0..60 {
        step(&db, &mut model, round, Durability::Immediate).unwrap();
    }
    (db, model)
}

#[test]
fn r3_what_a_transaction_writes_early_is_not_overwritten_by_a_checkpoint_beside_it() {
    for commits in 1..40 {
        let disk = SimDisk::new();
        let (db, mut model) = filled(&disk);
        for round in 60..60 + commits {
            step(&db, &mut model, round, Durability::Immediate).unwrap();
        }
        // Pieces of long values are written at once, the short last ones into the lowest units that are free.
        let tx = db.begin_write().unwrap();
        let mut table = tx.open_table(ROWS).unwrap();
        for key in 1000..1012 {
            let bytes = value(key, commits, (64 << 10) + 1);
            table.insert(key, &bytes[..]).unwrap();
            model.insert(key, bytes);
        }
        drop(table);
        tx.commit().unwrap();
        let found = rows(&db).unwrap_or_else(|error| panic!("after {commits} commits: {error}"));
        assert!(found == model, "after {commits} commits");
        assert_sound(&db);
        drop(db);
        let db = builder().open_with_storage(disk.restart_process()).unwrap();
        assert!(rows(&db).unwrap() == model, "after {commits} commits");
        assert_sound(&db);
    }
}

fn fail_next(disk: &SimDisk) {
    disk.inject(Fault::FailOperation { operation: disk.next_operation(), kind: ErrorKind::Other });
}

/// Runs `act` after each number of small commits, on a disk whose next write fails.
fn with_failing_disk(durability: Durability, act: impl Fn(Database) -> bool) {
    let mut failures = 0;
    for commits in 1..40 {
        let disk = SimDisk::new();
        let (db, mut model) = filled(&disk);
        for round in 60..60 + commits {
            step(&db, &mut model, round, durability).unwrap();
        }
        fail_next(&disk);
        failures += u32::from(act(db));
        if durability == Durability::Immediate {
            disk.clear_faults();
            let db = builder().open_with_storage(disk.restart_process()).unwrap();
            let mut found = rows(&db).unwrap();
            found.remove(&5000);
            assert!(found == model, "after {commits} commits");
            assert_sound(&db);
        }
    }
    assert!(failures > 0);
}

#[test]
fn a_checkpoint_that_fails_before_a_commit_by_slot_is_an_error_of_that_commit() {
    with_failing_disk(Durability::Immediate, |db| {
        let mut tx = db.begin_write().unwrap();
        tx.set_two_phase_commit(true);
        tx.open_table(ROWS).unwrap().insert(5000, &b"five"[..]).unwrap();
        let outcome = tx.commit();
        matches!(outcome, Err(CommitError::Aborted(_) | CommitError::InDoubt(_)))
    });
}

#[test]
fn a_checkpoint_that_fails_while_the_database_is_closed_is_an_error() {
    with_failing_disk(Durability::Immediate, |db| db.close().is_err());
}

#[test]
fn a_checkpoint_that_fails_while_commits_are_synced_is_an_error() {
    with_failing_disk(Durability::None, |db| db.sync().is_err());
}

#[test]
fn a_checkpoint_that_fails_before_a_verification_is_no_panic() {
    with_failing_disk(Durability::Immediate, |db| {
        drop(db.check_integrity());
        db.close().is_err()
    });
}

#[test]
fn a_commit_whose_record_could_not_be_written_tells_why() {
    for commits in 1..40 {
        let disk = SimDisk::new();
        let (db, mut model) = filled(&disk);
        for round in 60..60 + commits {
            step(&db, &mut model, round, Durability::Immediate).unwrap();
        }
        fail_next(&disk);
        let outcome = step(&db, &mut model, 60 + commits, Durability::Immediate);
        let told = match &outcome {
            Err(Error::Commit(CommitError::InDoubt(error) | CommitError::Aborted(error))) => {
                matches!(**error, StorageError::Io { .. })
            }
            _ => false,
        };
        assert!(told, "after {commits} commits: {outcome:?}");
    }
}
