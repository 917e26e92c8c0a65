//! Checkpoints that are written beside the transactions that follow.
//!
//! Invariant: whenever the power is cut, what was acknowledged is there, whether or not a checkpoint was under way.

use crate::fixture::{Model, ROWS, assert_sound, rows, rows_of, tiny, value};
use cowslip::sim::{CrashPlan, SimDisk};
use cowslip::{Builder, Database};

/// Changes a few rows in one commit, in the database and in the model.
fn step(db: &Database, model: &mut Model, round: u64, len: usize) {
    let tx = db.begin_write().unwrap();
    let mut table = tx.open_table(ROWS).unwrap();
    for at in 0..3 {
        let key = (round * 7 + at * 31) % 90;
        if (round + at) % 5 == 4 {
            table.remove(key).unwrap();
            model.remove(&key);
        } else {
            let bytes = value(key, round, len);
            table.insert(key, &bytes[..]).unwrap();
            model.insert(key, bytes);
        }
    }
    drop(table);
    tx.commit().unwrap();
}

/// A database with rows and a log that does not grow any more.
fn filled(builder: &Builder, disk: &SimDisk) -> (Database, Model) {
    let db = builder.create_with_storage(disk.clone()).unwrap();
    let mut model = Model::new();
    for round in 0..60 {
        step(&db, &mut model, round, 40);
    }
    (db, model)
}

#[test]
fn r6_a_crash_at_any_point_of_a_checkpoint_beside_commits_loses_nothing() {
    for lag in [1, 2, 5] {
        let builder = tiny().log_bytes_max(8 << 10).test_checkpoint_lag(lag);
        let disk = SimDisk::new();
        let (db, mut model) = filled(&builder, &disk);
        let mut images = 0;
        for round in 60..160 {
            let (before, from) = (model.clone(), disk.next_operation());
            step(&db, &mut model, round, 40);
            let to = disk.next_operation();
            for operation in from..=to {
                let plans = [
                    CrashPlan::nothing(operation),
                    CrashPlan::everything(operation),
                    CrashPlan::seeded(operation, round),
                ];
                for plan in plans {
                    let reopened = builder.open_with_storage(disk.crash_image(&plan)).unwrap();
                    let found = rows(&reopened).unwrap();
                    assert!(
                        found == model || (found == before && operation < to),
                        "lag {lag}, round {round}, {operation}"
                    );
                    assert_sound(&reopened);
                    images += 1;
                }
            }
            if round % 9 == 0 {
                assert_sound(&db);
            }
        }
        assert!(images > 600, "{images}");
        db.close().unwrap();
        let db = builder.open_with_storage(disk.restart_process()).unwrap();
        assert!(rows(&db).unwrap() == model);
    }
}

#[test]
fn a_log_that_goes_round_needs_no_new_segment() {
    let builder = tiny().log_bytes_max(8 << 10).test_checkpoint_lag(2);
    let disk = SimDisk::new();
    let (db, mut model) = filled(&builder, &disk);
    disk.reset_stats();
    for round in 60..560 {
        step(&db, &mut model, round, 40);
    }
    let stats = disk.stats();
    // Two syncs for each checkpoint, and no commit that had to write a slot itself.
    assert!(stats.syncs > 20 && stats.syncs < 300, "{stats:?}");
    assert!(rows(&db).unwrap() == model);
    assert_sound(&db);
}

#[test]
fn readers_keep_what_they_see_over_checkpoints_beside_commits() {
    let builder = tiny().log_bytes_max(8 << 10).test_checkpoint_lag(3);
    let disk = SimDisk::new();
    let (db, mut model) = filled(&builder, &disk);
    let mut readers = Vec::new();
    for round in 60..260 {
        step(&db, &mut model, round, if round % 11 == 0 { 700 } else { 40 });
        if round % 3 == 0 {
            readers.push((db.begin_read().unwrap(), model.clone()));
        }
        if readers.len() > 9 {
            for (reader, expected) in readers.drain(..4) {
                assert!(rows_of(&reader).unwrap() == expected);
            }
            assert_sound(&db);
        }
    }
}
