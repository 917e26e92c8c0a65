//! Checkpoints beside transactions that write early, that fail, or that nobody waits for.
//!
//! Invariant: what a checkpoint beside the transactions still writes is nobody else's, and its failure is an error.

use crate::fixture::{Model, ROWS, assert_sound, rows, rows_of, tiny, value};
use cowslip::sim::{CrashPlan, Fault, SimDisk};
use cowslip::{Builder, CloseError, CommitError, Database, Durability, Error, StorageError, Table};
use std::io::ErrorKind;

const SEEDS: u64 = 12;

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
fn with_failing_disk(durability: Durability, act: impl Fn(Database)) {
    for commits in 1..40 {
        let disk = SimDisk::new();
        let (db, mut model) = filled(&disk);
        for round in 60..60 + commits {
            step(&db, &mut model, round, durability).unwrap();
        }
        fail_next(&disk);
        act(db);
        if durability == Durability::Immediate {
            disk.clear_faults();
            let db = builder().open_with_storage(disk.restart_process()).unwrap();
            let mut found = rows(&db).unwrap();
            found.remove(&5000);
            assert!(found == model, "after {commits} commits");
            assert_sound(&db);
        }
    }
}

/// The failure of the disk is told, and not what follows from it.
fn assert_tells(error: &StorageError) {
    assert!(matches!(error, StorageError::Io { .. }), "{error}");
}

#[test]
fn a_checkpoint_that_fails_before_a_commit_by_slot_is_an_error_of_that_commit() {
    with_failing_disk(Durability::Immediate, |db| {
        let mut tx = db.begin_write().unwrap();
        tx.set_two_phase_commit(true);
        tx.open_table(ROWS).unwrap().insert(5000, &b"five"[..]).unwrap();
        match tx.commit() {
            Ok(_) => panic!("the commit writes"),
            Err(CommitError::Aborted(error) | CommitError::InDoubt(error)) => assert_tells(&error),
            Err(error) => panic!("{error}"),
        }
        drop(db);
    });
}

#[test]
fn a_checkpoint_that_fails_while_the_database_is_closed_is_an_error() {
    with_failing_disk(Durability::Immediate, |db| match db.close() {
        Err(CloseError::Storage(error)) => assert_tells(&error),
        outcome => panic!("closing writes: {outcome:?}"),
    });
}

#[test]
fn a_checkpoint_that_fails_while_commits_are_synced_is_an_error() {
    with_failing_disk(Durability::None, |db| assert_tells(&db.sync().unwrap_err()));
}

#[test]
fn a_checkpoint_that_fails_before_a_verification_is_no_panic() {
    with_failing_disk(Durability::Immediate, |db| {
        let outcome = db.check_integrity();
        if let Err(error) = outcome {
            assert!(!error.to_string().contains("corrupted"), "{error}");
        }
        drop(db.close());
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
        match &outcome {
            Err(Error::Commit(CommitError::InDoubt(error) | CommitError::Aborted(error))) => assert_tells(error),
            _ => panic!("after {commits} commits: {outcome:?}"),
        }
    }
}

/// Numbers that look drawn.
fn draw(state: &mut u64, below: u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) % below
}

fn key_of(state: &mut u64) -> u64 {
    draw(state, 120)
}

/// What a crash may leave: no less than what was promised, and no more than what was begun.
fn assert_recovers(disk: &SimDisk, builder: &Builder, states: &[Model], what: &str, seed: &mut u64) {
    let operation = disk.next_operation();
    let plans = [
        CrashPlan::nothing(operation),
        CrashPlan::everything(operation),
        CrashPlan::seeded(operation, draw(seed, 1 << 30)),
    ];
    for plan in plans {
        let db = builder.open_with_storage(disk.crash_image(&plan)).unwrap_or_else(|error| panic!("{what}: {error}"));
        let found = rows(&db).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(states.contains(&found), "{what}: one of {} states", states.len());
        assert_sound(&db);
    }
}

fn draw_changes(table: &mut Table<'_, u64, &[u8]>, next: &mut Model, state: &mut u64, round: u64) {
    let (count, len) = match draw(state, 30) {
        0 => (2, (64 << 10) + 1 + draw(state, 2000)),
        1 => (60, 900),
        2 => (400, 300),
        3 => (1, 3000),
        _ => (1 + draw(state, 3), 40),
    };
    for _ in 0..count {
        let key = key_of(state) + if count > 100 { draw(state, 1000) } else { 0 };
        if draw(state, 5) == 0 {
            table.remove(key).unwrap();
            next.remove(&key);
        } else {
            let bytes = value(key, round, usize::try_from(len).unwrap());
            table.insert(key, &bytes[..]).unwrap();
            next.insert(key, bytes);
        }
    }
    if count > 1 && draw(state, 3) == 0 {
        for key in 200..1200 {
            table.remove(key).unwrap();
            next.remove(&key);
        }
    }
}

fn draw_durability(state: &mut u64) -> Durability {
    match draw(state, 8) {
        0 => Durability::None,
        1 => Durability::Buffered,
        _ => Durability::Immediate,
    }
}

fn drawn_history(seed: u64) {
    let mut state = seed;
    let lag = [1, 2, 4, 9, 30, 100_000][usize::try_from(seed % 6).unwrap()];
    let builder = tiny().cache_bytes_max(256 << 10).log_bytes_max(8 << 10).test_checkpoint_lag(lag);
    let mut disk = SimDisk::new();
    let mut db = builder.create_with_storage(disk.clone()).unwrap();
    let mut model = Model::new();
    let mut states = vec![Model::new()];
    let mut readers = Vec::new();
    for round in 0..400 {
        let what = format!("seed {seed}, lag {lag}, round {round}");
        let kind = draw(&mut state, 40);
        if kind == 0 {
            readers.clear();
            db.close().unwrap_or_else(|error| panic!("{what}: {error}"));
            disk = disk.restart_process();
            db = builder.open_with_storage(disk.clone()).unwrap();
            assert!(rows(&db).unwrap() == model, "{what}");
            states = vec![model.clone()];
            continue;
        }
        if kind == 1 {
            readers.clear();
            db.compact().unwrap_or_else(|error| panic!("{what}: {error}"));
            states = vec![model.clone()];
            continue;
        }
        if kind == 2 {
            db.sync().unwrap();
            states = vec![model.clone()];
        }
        if kind == 3 {
            assert_sound(&db);
        }
        if kind < 8 {
            readers.push((db.begin_read().unwrap(), model.clone()));
        }
        if kind > 35 && !readers.is_empty() {
            let (reader, expected) =
                readers.swap_remove(usize::try_from(draw(&mut state, readers.len() as u64)).unwrap());
            assert!(rows_of(&reader).unwrap() == expected, "{what}");
        }
        let durability = draw_durability(&mut state);
        let (before, mut next) = (disk.next_operation(), model.clone());
        let mut tx = db.begin_write().unwrap();
        tx.set_durability(durability).unwrap();
        tx.set_two_phase_commit(draw(&mut state, 20) == 0);
        let mut table = tx.open_table(ROWS).unwrap();
        draw_changes(&mut table, &mut next, &mut state, round);
        drop(table);
        if draw(&mut state, 10) == 0 {
            drop(tx);
            continue;
        }
        tx.commit().unwrap_or_else(|error| panic!("{what}: {error}"));
        // One that changes nothing promises nothing new.
        let is_changed = next != model;
        model = next;
        if durability == Durability::Immediate && is_changed {
            states.clear();
        }
        states.push(model.clone());
        if disk.next_operation() - before > 1 || draw(&mut state, 8) == 0 {
            assert_recovers(&disk, &builder, &states, &what, &mut state);
        }
    }
    assert!(rows(&db).unwrap() == model);
    assert_sound(&db);
}

#[test]
fn drawn_histories_survive_power_cuts_beside_checkpoints() {
    for seed in 0..SEEDS {
        drawn_history(seed);
    }
}

#[test]
fn a_full_device_beside_checkpoints_loses_nothing_and_takes_removals() {
    for seed in 0..24_u64 {
        let mut state = seed;
        let lag = [1, 3, 20, 100_000][usize::try_from(seed % 4).unwrap()];
        let builder = tiny().cache_bytes_max(256 << 10).log_bytes_max(8 << 10).test_checkpoint_lag(lag);
        let disk = SimDisk::new();
        let db = builder.create_with_storage(disk.clone()).unwrap();
        let mut model = Model::new();
        for round in 0..60 {
            step(&db, &mut model, round, Durability::Immediate).unwrap();
        }
        disk.set_capacity_bytes(disk.image().len() as u64 + draw(&mut state, 60_000));
        let mut refused = 0;
        for round in 60..400 {
            let what = format!("seed {seed}, lag {lag}, round {round}");
            let mut next = model.clone();
            let outcome: Result<(), Error> = db.update(|tx| {
                let mut table = tx.open_table(ROWS)?;
                let is_big = draw(&mut state, 6) == 0;
                for _ in 0..if is_big { 40 } else { 3 } {
                    let key = draw(&mut state, 2000);
                    let bytes = value(key, round, 60);
                    table.insert(key, &bytes[..])?;
                    next.insert(key, bytes);
                }
                Ok(())
            });
            match outcome {
                Ok(()) => model = next,
                Err(error) => {
                    refused += 1;
                    assert!(error.to_string().contains("space"), "{what}: {error}");
                    let gone: Vec<u64> = model.keys().copied().take(10).collect();
                    let removed: Result<(), Error> = db.update(|tx| {
                        let mut table = tx.open_table(ROWS)?;
                        for key in &gone {
                            table.remove(*key)?;
                        }
                        Ok(())
                    });
                    if removed.is_ok() {
                        gone.iter().for_each(|key| drop(model.remove(key)));
                    } else {
                        assert!(refused < 200, "{what}: removals never succeed");
                    }
                }
            }
            if round % 5 == 0 {
                assert_recovers(&disk, &builder, std::slice::from_ref(&model), &what, &mut state);
            }
        }
        assert!(refused > 0, "seed {seed}: the device never was full");
        assert!(rows(&db).unwrap() == model);
        assert_sound(&db);
    }
}
