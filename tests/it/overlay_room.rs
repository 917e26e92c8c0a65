//! Rows laid over trees on devices that are full or fail.
//!
//! Invariant: what was acknowledged is there, at once and after reopening; and where there is no room, removals find some.

use crate::fixture::{Model, ROWS, Random, assert_sound, rows, tiny, value};
use cowslip::sim::{CrashPlan, Fault, SimDisk};
use cowslip::{Builder, Database, Durability, Error, TableDefinition};
use std::io::ErrorKind;

/// Changes rows in one commit; the model follows if it succeeds.
fn step(db: &Database, model: &mut Model, random: &mut Random, keys: u64, round: u64, len: usize) -> Result<(), Error> {
    let mut next = model.clone();
    let mut tx = db.begin_write()?;
    tx.set_durability(if random.below(5) == 0 { Durability::None } else { Durability::Immediate }).unwrap();
    let mut table = tx.open_table(ROWS)?;
    for _ in 0..1 + random.below(4) {
        let key = random.below(keys);
        let bytes = value(key, round, random.index(len));
        table.put(key, &bytes[..])?;
        next.insert(key, bytes);
    }
    drop(table);
    tx.commit()?;
    *model = next;
    Ok(())
}

/// Removes so many rows, far from each other.
fn removes(db: &Database, model: &mut Model, count: usize) -> Result<(), Error> {
    let gone: Vec<u64> = model.keys().copied().step_by(model.len().div_ceil(count).max(1)).collect();
    db.update(|tx| {
        let mut table = tx.open_table(ROWS)?;
        gone.iter().try_for_each(|key| table.remove(*key).map(drop))?;
        Ok::<_, Error>(())
    })?;
    gone.iter().for_each(|key| drop(model.remove(key)));
    Ok(())
}

fn builder(lag: u32) -> Builder {
    tiny().test_geometry(512, 512, 128).log_bytes_max(12 << 10).test_checkpoint_lag(lag)
}

fn filled(builder: &Builder, disk: &SimDisk, random: &mut Random, len: usize) -> (Database, Model) {
    let db = builder.create_with_storage(disk.clone()).unwrap();
    let mut model = Model::new();
    for round in 0..60 {
        step(&db, &mut model, random, 200, round, len).unwrap();
    }
    (db, model)
}

fn assert_recovers(builder: &Builder, disk: &SimDisk, model: &Model, what: &str) {
    let crashed = disk.crash_image(&CrashPlan::nothing(disk.next_operation()));
    let db = builder.open_with_storage(crashed).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(rows(&db).unwrap() == *model, "{what}: after a crash");
    assert_sound(&db);
}

/// Fills a device of some length until it is full, removes rows, fills it again, and so on.
fn fill_and_remove(seed: u64, lag: u32, len: usize, room: u64) {
    let what = format!("seed {seed}, lag {lag}, values to {len}, {room} bytes of room");
    let (mut random, builder, disk) = (Random::new(seed), builder(lag), SimDisk::new());
    let (db, mut model) = filled(&builder, &disk, &mut random, len);
    disk.set_capacity_bytes(disk.image().len() as u64 + room);
    let mut refused = 0;
    for round in 60..300 {
        if let Err(error) = step(&db, &mut model, &mut random, 3000, round, len) {
            assert!(error.is_out_of_space(), "{what}: {error}");
            assert!(rows(&db).unwrap() == model, "{what}, round {round}: refused, and changed all the same");
            refused += 1;
            // Each row may lie in a leaf of its own, and for copies of all of them there may be no room.
            let removed = [10, 3].iter().any(|count| removes(&db, &mut model, *count).is_ok());
            if !removed {
                removes(&db, &mut model, 1).unwrap_or_else(|error| panic!("{what}, round {round}: {error}"));
            }
        }
        assert!(rows(&db).unwrap() == model, "{what}, round {round}");
        if round % 40 == 0 {
            db.sync().unwrap();
            assert_recovers(&builder, &disk, &model, &what);
            assert_sound(&db);
        }
    }
    assert!(refused > 0, "{what}: the device never was full");
    db.sync().unwrap();
    assert_recovers(&builder, &disk, &model, &what);
    assert_sound(&db);
    drop(db);
    let db = builder.open_with_storage(disk.restart_process()).unwrap();
    assert!(rows(&db).unwrap() == model, "{what}: after the close");
    assert_sound(&db);
}

#[test]
fn a_full_device_of_any_length_keeps_what_was_acknowledged_and_lets_rows_go() {
    for room in (0..12 << 10).step_by(512) {
        for lag in [1, 3, 50] {
            fill_and_remove(room + u64::from(lag), lag, 60, room);
        }
    }
}

#[test]
fn a_full_device_keeps_values_out_of_line_that_were_acknowledged() {
    for seed in 0..60 {
        let lag = [1, 3, 50][usize::try_from(seed % 3).unwrap()];
        // Just too long for a leaf, and those take a unit each.
        fill_and_remove(seed, lag, 200, 1000 * seed);
        fill_and_remove(seed, lag, 1200, 1000 * seed);
    }
}

#[test]
fn a_device_that_others_fill_keeps_what_was_acknowledged() {
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let lag = [1, 2, 8, 50][random.index(4)];
        let (builder, disk) = (builder(lag), SimDisk::new());
        let (db, mut model) = filled(&builder, &disk, &mut random, 300);
        let mut refused = 0;
        for round in 60..400 {
            let what = format!("seed {seed}, lag {lag}, round {round}");
            match random.below(60) {
                // Whatever the file does not have now is taken.
                0..5 => disk.set_capacity_bytes(disk.image().len() as u64),
                5 => disk.set_capacity_bytes(disk.image().len() as u64 + (8 << 10)),
                _ => {}
            }
            if let Err(error) = step(&db, &mut model, &mut random, 3000, round, 300) {
                assert!(error.is_out_of_space(), "{what}: {error}");
                refused += 1;
                assert!(
                    removes(&db, &mut model, 10).is_ok() || removes(&db, &mut model, 1).is_ok(),
                    "{what}: rows cannot be removed"
                );
            }
            assert!(rows(&db).unwrap() == model, "{what}");
            if round % 50 == 0 {
                assert_sound(&db);
                db.sync().unwrap();
                assert_recovers(&builder, &disk, &model, &what);
            }
        }
        assert!(refused > 0, "seed {seed}: the device never was full");
        disk.set_capacity_bytes(u64::MAX);
        db.close().unwrap();
        let db = builder.open_with_storage(disk.restart_process()).unwrap();
        assert!(rows(&db).unwrap() == model, "seed {seed}");
        assert_sound(&db);
    }
}

/// Runs a history over a fault; what was acknowledged before the session failed has to be found by every next one. Says
/// whether it failed.
fn survives(fault: Fault, seed: u64, lag: u32) -> bool {
    let what = format!("seed {seed}, lag {lag}, {fault:?}");
    let (mut random, builder, disk) = (Random::new(seed), builder(lag), SimDisk::new());
    let (db, mut model) = filled(&builder, &disk, &mut random, 60);
    db.sync().unwrap();
    let shift = |fault| match fault {
        Fault::FailOperation { operation, kind } => {
            Fault::FailOperation { operation: disk.next_operation() + operation, kind }
        }
        Fault::ShortWrite { operation } => Fault::ShortWrite { operation: disk.next_operation() + operation },
        Fault::FailSync { sync } => Fault::FailSync { sync: disk.next_sync() + sync },
        other => other,
    };
    disk.inject(shift(fault));
    let (mut states, mut durable, mut failed) = (vec![model.clone()], 0, false);
    for round in 60..110 {
        let mut next = model.clone();
        let is_immediate = random.below(4) > 0;
        let outcome = (|| {
            let mut tx = db.begin_write()?;
            tx.set_durability(if is_immediate { Durability::Immediate } else { Durability::None }).unwrap();
            tx.set_two_phase_commit(random.below(20) == 0);
            let mut table = tx.open_table(ROWS)?;
            for _ in 0..3 {
                let key = random.below(220);
                let bytes = value(key, round, random.index(60));
                table.put(key, &bytes[..])?;
                next.insert(key, bytes);
            }
            drop(table);
            tx.commit().map_err(Error::from)
        })();
        states.push(next.clone());
        match outcome {
            Ok(_) => {
                model = next;
                durable = if is_immediate { states.len() - 1 } else { durable };
                assert!(rows(&db).unwrap() == model, "{what}, round {round}");
            }
            Err(error) => {
                failed = true;
                assert!(rows(&db).unwrap() == model, "{what}, round {round}: after {error}");
                if db.begin_write().is_err() {
                    break;
                }
                states.pop();
            }
        }
    }
    for is_dropped in [false, true] {
        let crashed = disk.crash_image(&CrashPlan::nothing(disk.next_operation()));
        for disk in [crashed, disk.restart_process()] {
            disk.clear_faults();
            let again = builder.open_with_storage(disk).unwrap_or_else(|error| panic!("{what}: {error}"));
            let found = rows(&again).unwrap();
            assert!(states[durable..].contains(&found), "{what}: acknowledged commits are lost, {is_dropped}");
            assert_sound(&again);
        }
        if is_dropped {
            break;
        }
    }
    drop(db);
    failed
}

#[test]
fn an_error_at_any_operation_of_a_fold_or_beside_it_loses_nothing_that_was_acknowledged() {
    let mut failed = 0;
    for number in 0..90 {
        for (index, lag) in [1, 4, 1000].into_iter().enumerate() {
            let seed = number * 3 + index as u64;
            let faults = [
                Fault::FailOperation { operation: number, kind: ErrorKind::Other },
                Fault::FailOperation { operation: number, kind: ErrorKind::StorageFull },
                Fault::ShortWrite { operation: number },
                Fault::FailSync { sync: number % 12 },
            ];
            failed += faults.into_iter().filter(|fault| survives(*fault, seed, lag)).count();
        }
    }
    assert!(failed > 200, "{failed}");
}

#[test]
fn a_long_key_is_laid_over_trees_only_where_there_is_a_run_for_it() {
    const LONG: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("long");
    let disk = SimDisk::new();
    let builder = tiny().test_geometry(512, 512, 4096).cache_bytes_max(8 << 20);
    let db = builder.create_with_storage(disk.clone()).unwrap();
    let by_slot = |keys: &mut dyn Iterator<Item = u64>, is_put: bool| {
        let mut tx = db.begin_write().unwrap();
        tx.set_two_phase_commit(true);
        let mut rows = tx.open_table(ROWS).unwrap();
        for key in keys {
            if is_put { rows.put(key, &value(key, 1, 300)[..]).unwrap() } else { rows.delete(key).unwrap() }
        }
        drop(rows);
        tx.commit().unwrap();
    };
    let put_long =
        |len: usize| db.update(|tx| Ok::<_, Error>(tx.open_table(LONG)?.put(&vec![1; len][..], &[0; 20][..])?));
    put_long(20).unwrap();
    by_slot(&mut (0..4000), true);
    // A log.
    put_long(3000).unwrap();
    // Takes what is free in one piece.
    for key in (4000..).step_by(8) {
        let report = db.check_integrity().unwrap();
        if report.file_units - report.reached_units < 90 {
            break;
        }
        by_slot(&mut (key..key + 8), true);
    }
    disk.set_capacity_bytes(disk.image().len() as u64);
    // Every third goes: what is free is in pieces of a unit.
    for from in (0..3600).step_by(12) {
        by_slot(&mut (from..from + 12).step_by(3), false);
    }
    assert!(put_long(40_000).unwrap_err().is_out_of_space());
    db.update(|tx| Ok::<_, Error>(tx.open_table(ROWS)?.remove(1)?.map(drop))).unwrap();
    db.close().unwrap();
}
