//! The redo log at its limits: pages that only memory holds under big passes, devices without room, records of any length.
//!
//! Invariant: what a version needs is neither lost nor given away while only the log tells of it.

use crate::fixture::{Model, ROWS, assert_sound, rows, rows_of};
use cowslip::sim::{CrashPlan, SimDisk};
use cowslip::{Builder, Database, Error};

fn commit(db: &Database, keys: impl IntoIterator<Item = u64>, fill: u8, len: usize) {
    let tx = db.begin_write().unwrap();
    let mut table = tx.open_table(ROWS).unwrap();
    for key in keys {
        table.insert(key, &vec![fill; len][..]).unwrap();
    }
    drop(table);
    tx.commit().unwrap();
}

/// Three thousand leaves, most of which only the log and memory know.
fn many_unwritten(disk: &SimDisk) -> (Database, Model) {
    disk.keep_history(false);
    let db = Builder::new().cache_bytes_max(256 << 20).create_with_storage(disk.clone()).unwrap();
    commit(&db, 0..120_000, 1, 200);
    for round in 0..400_u64 {
        commit(&db, (0..8).map(|step| (step * 400 + round) * 36), 2, 200);
    }
    let model = rows(&db).unwrap();
    (db, model)
}

#[test]
fn r6_an_aborted_sweep_takes_no_page_away_that_waits_for_a_checkpoint() {
    let disk = SimDisk::new();
    let (db, model) = many_unwritten(&disk);
    let tx = db.begin_write().unwrap();
    tx.open_table(ROWS).unwrap().retain(|_, _| false).unwrap();
    tx.abort().unwrap();
    assert!(rows(&db).unwrap() == model);
    assert_sound(&db);
    db.close().unwrap();
    let db = Builder::new().open_with_storage(disk.restart_process()).unwrap();
    assert!(db.open_notes().is_empty());
    assert!(rows(&db).unwrap() == model);
    assert_sound(&db);
}

#[test]
fn r6_a_reader_keeps_pages_that_were_never_written_over_a_sweep() {
    let disk = SimDisk::new();
    let (db, model) = many_unwritten(&disk);
    let reader = db.begin_read().unwrap();
    let tx = db.begin_write().unwrap();
    tx.open_table(ROWS).unwrap().retain(|_, _| false).unwrap();
    tx.commit().unwrap();
    assert!(rows(&db).unwrap().is_empty());
    assert!(rows_of(&reader).unwrap() == model);
}

fn try_commit(db: &Database, by_slot: bool, insert: &[u64], remove: &[u64]) -> Result<(), Error> {
    let mut tx = db.begin_write()?;
    tx.set_two_phase_commit(by_slot);
    let mut table = tx.open_table(ROWS)?;
    for key in insert {
        table.insert(*key, &vec![3; 1000][..])?;
    }
    for key in remove {
        table.remove(*key)?;
    }
    drop(table);
    tx.commit()?;
    Ok(())
}

/// Fills a device with commits of falling size; the last rows fail.
fn fill(db: &Database, by_slot: bool) {
    let (mut count, mut step) = (0, 64);
    while step > 0 {
        let keys: Vec<_> = (0..step).map(|at| (count + at) * 0x9E37_79B1 % 1_000_003).collect();
        match try_commit(db, by_slot, &keys, &[]) {
            Ok(()) => count += step,
            Err(_) => step /= 2,
        }
    }
}

/// How many of 200 removals of one row each go through on a full device, and of 50 insertions after them.
fn removals_when_full(capacity: u64, by_slot: bool) -> (usize, usize) {
    let disk = SimDisk::new();
    disk.keep_history(false);
    let db = Builder::new().cache_bytes_max(64 << 20).create_with_storage(disk.clone()).unwrap();
    disk.set_capacity_bytes(capacity);
    fill(&db, by_slot);
    let keys: Vec<u64> = rows(&db).unwrap().into_keys().collect();
    let removed = (0..200).filter(|at| try_commit(&db, by_slot, &[], &[keys[at * 7 % keys.len()]]).is_ok()).count();
    let inserted = (0..50).filter(|at| try_commit(&db, by_slot, &[2_000_000 + at], &[]).is_ok()).count();
    assert_sound(&db);
    (removed, inserted)
}

#[test]
fn r18_a_full_device_takes_removals_with_a_log_as_well_as_without() {
    for capacity in [2 << 20, 3 << 20, 5 << 20, 8 << 20] {
        let (with, without) = (removals_when_full(capacity, false), removals_when_full(capacity, true));
        assert_eq!((with.0, without.0), (200, 200), "{capacity}");
        assert!(with.1 + 10 > without.1, "{capacity}: {with:?}, without a log {without:?}");
    }
}

#[test]
fn r18_a_device_that_was_full_once_is_written_as_any_other_when_rows_were_removed() {
    let disk = SimDisk::new();
    disk.keep_history(false);
    let db = Builder::new().cache_bytes_max(64 << 20).create_with_storage(disk.clone()).unwrap();
    disk.set_capacity_bytes(8 << 20);
    fill(&db, false);
    let keys: Vec<u64> = rows(&db).unwrap().into_keys().collect();
    for part in keys[..keys.len() / 2].chunks(8) {
        // The first may find no room even for what it makes shorter.
        drop(try_commit(&db, false, &[], part));
    }
    try_commit(&db, false, &[2_000_000], &[]).unwrap();
    disk.reset_stats();
    for at in 0..50 {
        try_commit(&db, false, &[2_000_001 + at], &[]).unwrap();
    }
    let syncs = disk.stats().syncs;
    assert!(syncs < 60, "50 commits of a row took {syncs} syncs, two for each slot");
    assert_sound(&db);
}

#[test]
fn r18_a_full_device_can_be_closed_and_recovered() {
    for capacity in [2 << 20, 3 << 20, 5 << 20] {
        let disk = SimDisk::new();
        let db = Builder::new().cache_bytes_max(64 << 20).create_with_storage(disk.clone()).unwrap();
        disk.set_capacity_bytes(capacity);
        fill(&db, false);
        let model = rows(&db).unwrap();
        let crashed = disk.crash_image(&CrashPlan::nothing(disk.next_operation()));
        crashed.set_capacity_bytes(capacity);
        db.close().unwrap();
        for disk in [disk.restart_process(), crashed] {
            let db = Builder::new().cache_bytes_max(64 << 20).open_with_storage(disk).unwrap();
            assert!(rows(&db).unwrap() == model, "{capacity}");
            assert_sound(&db);
        }
    }
}

#[test]
fn the_log_grows_until_commits_of_a_length_are_logged() {
    for (count, len) in [(1, 200), (1, 5000), (5, 2000), (20, 1000), (60, 1000)] {
        let disk = SimDisk::new();
        disk.keep_history(false);
        let db = Builder::new().node_bytes(65536).cache_bytes_max(256 << 20).create_with_storage(disk.clone()).unwrap();
        for key in 0..8_u64 {
            commit(&db, [1 << 40 | key], 1, 5 << 20);
        }
        commit(&db, 0..10_000, 1, 200);
        disk.reset_stats();
        for round in 0..300_u64 {
            commit(&db, (0..count).map(|row| round * 11 + row), 2, len);
        }
        let syncs = disk.stats().syncs;
        assert!(syncs < 80, "300 commits of {count} rows of {len} bytes took {syncs} syncs, two for each slot");
    }
}
