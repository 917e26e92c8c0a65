//! Compaction: what it keeps, what it gives back, and that nothing that happens meanwhile harms.
//!
//! Invariant: compacting changes no answer, and a second time it changes nothing at all.

use crate::fixture::{Model, ROWS, Random, SharedBytes, assert_sound, rows, set, tiny, unset, value};
use cowslip::sim::{CrashPlan, Fault, SimDisk};
use cowslip::{Builder, CompactionError, Database, Error, StorageError, TableDefinition, TransactionError};
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

const WORDS: TableDefinition<&str, &str> = TableDefinition::new("words");

/// A database in whose file most is free: rows of all sizes, of which every third is left, and another table.
fn holey(db: &Database, model: &mut Model, count: u64) {
    for round in 0..4 {
        let keys = round * count / 4..(round + 1) * count / 4;
        set(db, model, keys.clone(), round, if round == 2 { 900 } else { 40 });
        set(db, model, keys.start..keys.start + 5, round, 20_000);
    }
    db.update(|tx| {
        let mut words = tx.open_table(WORDS)?;
        for number in 0..count / 4 {
            words.put(format!("{number:0300}").as_str(), "word")?;
        }
        let mut table = tx.open_table(ROWS)?;
        table.retain(|key, _| key.is_multiple_of(3))?;
        Ok::<_, Error>(())
    })
    .unwrap();
    model.retain(|key, _| key.is_multiple_of(3));
}

fn file_len(bytes: &SharedBytes) -> usize {
    bytes.bytes.lock().unwrap().len()
}

fn assert_words(db: &Database, count: u64) {
    db.view(|tx| {
        let words = tx.open_table(WORDS)?;
        assert_eq!(words.len()?, count / 4);
        for (number, row) in words.iter()?.enumerate() {
            assert_eq!(row?.0.value(), format!("{number:0300}"));
        }
        Ok::<_, Error>(())
    })
    .unwrap();
}

#[test]
fn pitfall_44_compaction_ends_shortens_the_file_and_does_nothing_the_second_time() {
    for (builder, count) in [(tiny(), 400), (Builder::new(), 20_000)] {
        let bytes = SharedBytes::default();
        let db = builder.create_with_storage(bytes.clone()).unwrap();
        let mut model = Model::new();
        holey(&db, &mut model, count);
        let before = file_len(&bytes);
        assert!(db.compact().unwrap());
        let after = file_len(&bytes);
        assert!(after * 10 < before * 7, "{before} bytes became {after}");
        assert_eq!(rows(&db).unwrap(), model);
        assert_words(&db, count);
        assert_sound(&db);
        let image = bytes.image();
        assert!(!db.compact().unwrap(), "nothing is left to do");
        assert_eq!(bytes.image(), image, "and nothing is written");
        db.close().unwrap();
        assert_eq!(file_len(&bytes), after, "closing finds no free tail");
        let db = builder.open_with_storage(bytes.clone()).unwrap();
        assert!(!db.compact().unwrap());
        assert_eq!(rows(&db).unwrap(), model);
    }
}

#[test]
fn a_file_of_any_few_commits_is_as_short_as_it_gets_the_first_time() {
    for (builder, commits, factor) in [(tiny(), 0..40, 90), (tiny(), 0..60, 311), (Builder::new(), 0..25, 911)] {
        for commits in commits {
            let bytes = SharedBytes::default();
            let db = builder.create_with_storage(bytes.clone()).unwrap();
            let mut model = Model::new();
            for round in 0..commits {
                let len = usize::try_from(round * factor % 19_000).unwrap();
                set(&db, &mut model, round % 5..round % 7 + 1, round, len);
                if round % 4 == 3 {
                    unset(&db, &mut model, 0..round % 3 + 1);
                }
            }
            db.compact().unwrap();
            let image = bytes.image();
            assert!(!db.compact().unwrap(), "after {commits} commits, lengths by {factor}");
            assert_eq!(bytes.image(), image, "after {commits} commits, lengths by {factor}");
            assert_eq!(rows(&db).unwrap(), model);
            assert_sound(&db);
        }
    }
}

#[test]
fn a_place_that_the_region_table_leaves_is_used_in_the_same_compaction() {
    for factor in 4_000..4_030 {
        let bytes = SharedBytes::default();
        let db = tiny().create_with_storage(bytes.clone()).unwrap();
        let mut model = Model::new();
        for round in 0..6_u64 {
            set(&db, &mut model, round..round + 1, round, usize::try_from(round * factor % 16_000).unwrap());
            if round % 3 == 2 {
                unset(&db, &mut model, round - 2..round - 1);
            }
        }
        db.compact().unwrap();
        assert!(!db.compact().unwrap(), "lengths by {factor}");
        assert_eq!(rows(&db).unwrap(), model);
        assert_sound(&db);
    }
}

#[test]
fn compaction_of_a_database_that_may_not_be_written_says_so_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.cowslip");
    let db = tiny().create(&path).unwrap();
    holey(&db, &mut Model::new(), 100);
    db.close().unwrap();
    let image = std::fs::read(&path).unwrap();
    let db = tiny().open_read_only(&path).unwrap();
    let error = db.compact().unwrap_err();
    assert!(matches!(error, CompactionError::Transaction(TransactionError::ReadOnly)), "{error}");
    drop(db);
    assert_eq!(std::fs::read(&path).unwrap(), image);
}

#[test]
fn an_empty_and_a_full_database_stay_as_they_are() {
    for builder in [tiny(), Builder::new()] {
        let bytes = SharedBytes::default();
        let db = builder.create_with_storage(bytes.clone()).unwrap();
        let before = file_len(&bytes);
        db.compact().unwrap();
        assert!(file_len(&bytes) <= before);
        let mut model = Model::new();
        db.update(|tx| {
            let mut table = tx.open_table(ROWS)?;
            for key in 0..3000 {
                table.put(key, &value(key, 1, 60)[..])?;
                model.insert(key, value(key, 1, 60));
            }
            Ok::<_, Error>(())
        })
        .unwrap();
        let before = file_len(&bytes);
        db.compact().unwrap();
        assert!(file_len(&bytes) <= before, "compaction never lengthens the file");
        assert!(!db.compact().unwrap());
        assert_eq!(rows(&db).unwrap(), model);
        assert_sound(&db);
    }
}

#[test]
fn random_removals_of_nearly_all_rows_shrink_the_file_once_it_is_compacted() {
    let bytes = SharedBytes::default();
    let db = Builder::new().create_with_storage(bytes.clone()).unwrap();
    let raw_bytes = |rows: u64| usize::try_from(rows * 108).unwrap();
    let rows_total = 60_000_u64;
    let key_of = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    db.update(|tx| {
        let mut table = tx.open_table(ROWS)?;
        (0..rows_total).try_for_each(|number| table.put(key_of(number), &value(number, 1, 100)[..]))?;
        Ok::<_, Error>(())
    })
    .unwrap();
    db.update(|tx| {
        let mut table = tx.open_table(ROWS)?;
        for number in (0..rows_total).filter(|number| !number.is_multiple_of(100)) {
            assert!(table.remove(key_of(number))?.is_some());
        }
        Ok::<_, Error>(())
    })
    .unwrap();
    assert!(file_len(&bytes) > raw_bytes(rows_total) / 2);
    assert!(db.compact().unwrap());
    let left = file_len(&bytes);
    assert!(left < raw_bytes(rows_total / 100) * 13 / 10 + (300 << 10), "{left} bytes are left");
    assert_sound(&db);
    assert_eq!(rows(&db).unwrap().len(), 600);
}

#[test]
fn half_removed_and_compacted_takes_next_to_nothing_but_the_rows() {
    let bytes = SharedBytes::default();
    let db = Builder::new().create_with_storage(bytes.clone()).unwrap();
    let table: TableDefinition<[u8; 24], &[u8]> = TableDefinition::new("fixed");
    let key_of = |number: u64| {
        let mut key = [7; 24];
        for part in key.chunks_mut(8).zip(1..) {
            part.0.copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15 + 2 * part.1).to_be_bytes());
        }
        key
    };
    for commit in 0..4 {
        db.update(|tx| {
            let mut table = tx.open_table(table)?;
            (commit * 80_000..(commit + 1) * 80_000)
                .try_for_each(|number| table.put(key_of(number), &value(number, 1, 150)[..]))?;
            Ok::<_, Error>(())
        })
        .unwrap();
    }
    let raw_bytes = 320_000 * 174;
    db.update(|tx| {
        let mut table = tx.open_table(table)?;
        (0..160_000).try_for_each(|number| table.delete(key_of(2 * number)))?;
        Ok::<_, Error>(())
    })
    .unwrap();
    // A reader of the version before compaction sees it to the end; what it pins is given back after that.
    let reader = db.begin_read().unwrap();
    let old = reader.open_table(table).unwrap();
    let read =
        || old.iter().unwrap().map(|row| row.map(|(key, _)| key.value())).collect::<Result<Vec<_>, _>>().unwrap();
    let keys = read();
    db.compact().unwrap();
    assert_eq!(read(), keys);
    assert_sound(&db);
    drop((old, reader));
    db.compact().unwrap();
    let len = file_len(&bytes);
    assert!(len * 100 <= raw_bytes / 2 * 106, "{len} bytes for {} of rows", raw_bytes / 2);
    assert_sound(&db);
    assert!(!db.compact().unwrap());
}

#[test]
fn readers_of_many_versions_keep_them_through_compaction() {
    let bytes = SharedBytes::default();
    let db = tiny().create_with_storage(bytes.clone()).unwrap();
    let mut model = Model::new();
    let mut kept = Vec::new();
    for round in 0..6 {
        set(&db, &mut model, round * 40..round * 40 + 60, round, 50);
        unset(&db, &mut model, round * 30..round * 30 + 20);
        kept.push((db.begin_read().unwrap(), model.clone()));
        match db.compact() {
            Ok(_) | Err(CompactionError::Pinned { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        for (reader, model) in &kept {
            let table = reader.open_table(ROWS).unwrap();
            let found = table.iter().unwrap().map(|row| row.map(|(key, value)| (key.value(), value.value().to_vec())));
            assert_eq!(found.collect::<Result<Model, _>>().unwrap(), *model);
        }
        assert_sound(&db);
    }
    let pinned = file_len(&bytes);
    drop(kept);
    db.compact().unwrap();
    assert!(file_len(&bytes) < pinned);
    assert_eq!(rows(&db).unwrap(), model);
    assert_sound(&db);
}

#[test]
fn pitfall_44_compaction_that_readers_would_make_lengthen_the_file_says_so() {
    let bytes = SharedBytes::default();
    let db = tiny().create_with_storage(bytes.clone()).unwrap();
    let mut model = Model::new();
    for key in (0..900_u64).map(|number| number * 7919 % 900) {
        set(&db, &mut model, key..key + 1, 1, 40);
    }
    db.compact_with(|_| ControlFlow::Break(())).unwrap();
    let before = file_len(&bytes);
    let reader = db.begin_read().unwrap();
    let error = db.compact().unwrap_err();
    assert!(matches!(error, CompactionError::Pinned { versions: 1 }), "{error}");
    assert!(error.to_string().contains("readers keep 1 older versions"), "{error}");
    assert!(file_len(&bytes) < before + (16 << 10), "{before} bytes became {}", file_len(&bytes));
    assert_sound(&db);
    drop(reader);
    assert!(db.compact().unwrap());
    assert!(file_len(&bytes) < before);
    assert_eq!(rows(&db).unwrap(), model);
    assert!(!db.compact().unwrap());
}

#[test]
fn cancelled_compaction_leaves_a_whole_database_and_can_go_on_later() {
    let db = tiny().create_with_storage(SharedBytes::default()).unwrap();
    let mut model = Model::new();
    holey(&db, &mut model, 400);
    for most in 1..6 {
        let mut steps = 0;
        db.compact_with(|progress| {
            steps += 1;
            assert!(progress.round >= 1 && progress.file_bytes > 0 && progress.rows_total > 0);
            if steps >= most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
        assert!(steps <= most);
        assert_eq!(rows(&db).unwrap(), model);
        assert_sound(&db);
    }
    db.compact().unwrap();
    assert!(!db.compact().unwrap());
}

/// Ends loops of other threads, by a panic too.
struct SetOnDrop<'f>(&'f AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn others_read_and_write_while_the_database_is_compacted() {
    let db = tiny().create_with_storage(SharedBytes::default()).unwrap();
    let mut model = Model::new();
    holey(&db, &mut model, 800);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut round = 0;
            while !done.load(Ordering::Relaxed) || round < 20 {
                db.update(|tx| {
                    let mut table = tx.open_table(ROWS)?;
                    table.insert(1_000_000 + round % 50, &value(round, 3, 70)[..])?;
                    table.remove(1_000_000 + (round + 25) % 50)?;
                    Ok::<_, Error>(())
                })
                .unwrap();
                round += 1;
            }
        });
        let reader = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let found = rows(&db).unwrap();
                assert_eq!(found.range(..1_000_000).count(), model.len());
            }
        });
        // However this thread ends, the others end too.
        let end = SetOnDrop(&done);
        for _ in 0..3 {
            let mut wrote = 0;
            let outcome = db.compact_with(|_| {
                // The caller's own report may use the database.
                db.update(|tx| Ok::<_, Error>(tx.open_table(ROWS)?.put(2_000_000, &[1][..])?)).unwrap();
                wrote += 1;
                ControlFlow::Continue(())
            });
            assert!(matches!(outcome, Ok(_) | Err(CompactionError::Pinned { .. })), "{outcome:?}");
            assert!(wrote > 0);
        }
        drop(end);
        writer.join().unwrap();
        reader.join().unwrap();
    });
    assert_sound(&db);
    let found = rows(&db).unwrap();
    assert!(model.iter().all(|(key, value)| found.get(key) == Some(value)));
}

#[test]
fn a_compaction_in_which_any_operation_fails_loses_nothing() {
    let disk = SimDisk::new();
    let mut model = Model::new();
    let db = tiny().create_with_storage(disk.clone()).unwrap();
    holey(&db, &mut model, 480);
    db.close().unwrap();
    let image = disk.image();
    let (mut failed, mut untold) = (0, 0);
    for operation in 1.. {
        let disk = SimDisk::from_bytes(&image);
        let db = tiny().open_with_storage(disk.clone()).unwrap();
        disk.inject(Fault::FailOperation { operation, kind: ErrorKind::Other });
        let outcome = db.compact();
        match outcome.as_ref().map_err(CompactionError::storage_error) {
            Ok(_) | Err(Some(StorageError::Io(_))) => {}
            // Where the free end could not be cut after a commit, only the next step is refused.
            Err(Some(StorageError::Poisoned)) => untold += 1,
            Err(other) => panic!("{other:?}"),
        }
        let is_over = disk.next_operation() <= operation;
        failed += usize::from(outcome.is_err());
        drop(db);
        disk.clear_faults();
        let db = tiny().open_with_storage(disk.restart_process()).unwrap();
        assert_eq!(rows(&db).unwrap(), model, "operation {operation}");
        assert_sound(&db);
        if is_over {
            break;
        }
    }
    assert!(failed > 100, "{failed} operations failed");
    assert!(untold * 20 < failed, "{untold} of {failed} failures were told as what came of them");
}

#[test]
fn the_first_failure_of_a_compaction_is_the_one_that_is_told() {
    let disk = SimDisk::new();
    let db = tiny().create_with_storage(disk.clone()).unwrap();
    holey(&db, &mut Model::new(), 200);
    db.close().unwrap();
    let image = disk.image();
    let mut failed = 0;
    for operation in 1.. {
        let disk = SimDisk::from_bytes(&image);
        let db = tiny().open_with_storage(disk.clone()).unwrap();
        disk.inject(Fault::FailOperation { operation, kind: ErrorKind::Other });
        let outcome = db.compact();
        let is_over = disk.next_operation() <= operation;
        if let Err(error) = outcome {
            failed += 1;
            let storage = error.storage_error().unwrap();
            assert!(!matches!(storage, StorageError::Poisoned), "{operation}: {error}");
        }
        if is_over {
            break;
        }
    }
    assert!(failed > 50, "{failed}");
}

#[test]
fn progress_stays_within_its_total() {
    let db = tiny().create_with_storage(SharedBytes::default()).unwrap();
    holey(&db, &mut Model::new(), 2000);
    let mut totals = std::collections::BTreeSet::new();
    db.compact_with(|progress| {
        assert!(progress.rows_done <= progress.rows_total, "{progress:?}");
        totals.insert(progress.rows_total);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(totals.len(), 1);
}

#[test]
fn values_of_awkward_lengths_move_down_too_in_bounded_steps() {
    let bytes = SharedBytes::default();
    let db = Builder::new().cache_bytes_max(16 << 20).create_with_storage(bytes.clone()).unwrap();
    let junk: TableDefinition<u64, &[u8]> = TableDefinition::new("junk");
    for table in [junk, ROWS] {
        for part in 0..2_u64 {
            db.update(|tx| {
                let mut table = tx.open_table(table)?;
                (0..500).try_for_each(|key| table.put(part * 1000 + key, &value(key, part, 100_000)[..]))?;
                Ok::<_, Error>(())
            })
            .unwrap();
        }
    }
    db.update(|tx| Ok::<_, Error>(tx.delete_table(junk)?)).unwrap();
    let mut written = bytes.written_bytes.load(Ordering::Relaxed);
    db.compact_with(|_| {
        let now = bytes.written_bytes.load(Ordering::Relaxed);
        assert!(now - written < 80 << 20, "a step wrote {} MiB", (now - written) >> 20);
        written = now;
        ControlFlow::Continue(())
    })
    .unwrap();
    // 25 units stand in blocks of 32.
    assert!(file_len(&bytes) < 1000 * 100_000 * 14 / 10, "{} MiB are left", file_len(&bytes) >> 20);
    assert!(!db.compact().unwrap());
    assert_sound(&db);
}

/// A database of several tables after a random history.
fn random_history(builder: &Builder, bytes: &SharedBytes, seed: u64, scale: u64, lens: &[u64]) -> Database {
    let mut random = Random::new(seed);
    let db = builder.create_with_storage(bytes.clone()).unwrap();
    let names: Vec<String> = (0..1 + random.below(12)).map(|number| format!("t{number}")).collect();
    for name in (0..1 + random.below(5)).flat_map(|_| &names) {
        let table: TableDefinition<u64, &[u8]> = TableDefinition::new(name);
        let (from, count, step) = (random.below(scale), random.below(scale), 1 + random.below(5));
        let len = lens[usize::try_from(random.below(lens.len() as u64)).unwrap()];
        let (modulus, kind) = (1 + random.below(6), random.below(4));
        db.update(|tx| {
            let mut table = tx.open_table(table)?;
            for key in 0..count / (1 + len / 300) {
                let len = usize::try_from(random.below(len + 1)).unwrap();
                table.put(from + key * step, &value(key, 1, len)[..])?;
            }
            Ok::<_, Error>(())
        })
        .unwrap();
        db.update(|tx| {
            let mut table = tx.open_table(table)?;
            match kind {
                0 => drop(table.retain(|key, _| key.is_multiple_of(modulus))?),
                1 => drop(table.remove_range(from..from + count / 2)?),
                2 => (0..count / 3).try_for_each(|_| table.pop_first().map(drop))?,
                _ => {}
            }
            Ok::<_, Error>(())
        })
        .unwrap();
    }
    db
}

#[test]
fn a_second_compaction_changes_nothing_whatever_came_before() {
    let ordinary = Builder::new().cache_bytes_max(8 << 20);
    let shapes: [(&Builder, u64, &[u64], u64); 2] =
        [(&tiny(), 600, &[1, 40, 100, 900, 6000], 80), (&ordinary, 9000, &[1, 40, 100, 900, 20_000, 100_000], 12)];
    for (builder, scale, lens, seeds) in shapes {
        for seed in 0..seeds {
            let bytes = SharedBytes::default();
            let db = random_history(builder, &bytes, seed, scale, lens);
            let mut reports = 0;
            db.compact_with(|_| {
                reports += 1;
                assert!(reports < 20_000, "seed {seed}: compaction goes on for ever");
                ControlFlow::Continue(())
            })
            .unwrap();
            assert_sound(&db);
            let len = file_len(&bytes);
            assert!(!db.compact().unwrap(), "scale {scale}, seed {seed}: {len} bytes, then {}", file_len(&bytes));
        }
    }
}

#[test]
fn a_power_cut_at_any_operation_of_a_compaction_loses_nothing() {
    let disk = SimDisk::new();
    let mut model = Model::new();
    let db = tiny().create_with_storage(disk.clone()).unwrap();
    holey(&db, &mut model, 480);
    let start = disk.next_operation();
    assert!(db.compact().unwrap());
    db.close().unwrap();
    let mut images = 0;
    for operation in start..=disk.next_operation() {
        let mut plans = vec![CrashPlan::nothing(operation), CrashPlan::everything(operation)];
        plans.extend((0..3).map(|seed| CrashPlan::seeded(operation, seed)));
        for plan in plans {
            let db = tiny().open_with_storage(disk.crash_image(&plan)).unwrap();
            assert_eq!(rows(&db).unwrap(), model, "{plan:?}");
            assert_words(&db, 480);
            assert_sound(&db);
            images += 1;
        }
    }
    assert!(images > 1000, "{images} images");
}

#[test]
fn r18_a_compaction_without_room_to_copy_fails_cleanly_and_goes_on_with_room() {
    let disk = SimDisk::new();
    let mut model = Model::new();
    let db = tiny().create_with_storage(disk.clone()).unwrap();
    set(&db, &mut model, 0..300, 1, 40);
    db.close().unwrap();
    let image = disk.image();
    for room in 0..60_u64 {
        let disk = SimDisk::from_bytes(&image);
        disk.set_capacity_bytes(image.len() as u64 + room * 512);
        let db = tiny().open_with_storage(disk.clone()).unwrap();
        if let Err(error) = db.compact() {
            assert!(error.is_out_of_space(), "{error}");
        }
        assert_eq!(rows(&db).unwrap(), model, "{room}");
        assert_sound(&db);
    }
}
