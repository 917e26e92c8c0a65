//! Commits that are laid over the trees, beside others that change trees: what only the log tells of one table outlives what is
//! done to the others.
//!
//! Invariant: what was acknowledged is there after a crash, and where the file is full small removals still go through.

use crate::fixture::{ROWS, SharedBytes, assert_sound, put_by_slot, tiny, value};
use cowslip::sim::{CrashPlan, FaultRates, SimDisk};
use cowslip::{Builder, Database, Error, OpenNote, TableDefinition};

type Rows = TableDefinition<'static, u64, &'static [u8]>;

const KEEP: Rows = TableDefinition::new("keep");
const FRESH: Rows = TableDefinition::new("fresh");

fn put_in(db: &Database, table: Rows, keys: impl IntoIterator<Item = u64>, len: usize) {
    db.update(|tx| {
        let mut table = tx.open_table(table)?;
        keys.into_iter().try_for_each(|key| table.put(key, &value(key, 1, len)[..]))?;
        Ok::<_, Error>(())
    })
    .unwrap();
}

fn keys(db: &Database, table: Rows) -> Vec<u64> {
    let read = db.begin_read().unwrap();
    read.open_table(table).unwrap().iter().unwrap().map(|row| row.unwrap().0.value()).collect()
}

fn cut(disk: &SimDisk) -> SimDisk {
    disk.crash_image(&CrashPlan::nothing(disk.next_operation()))
}

#[test]
fn a_table_that_takes_the_name_of_a_deleted_one_gets_none_of_its_rows_from_the_log() {
    let disk = SimDisk::new();
    let builder = tiny().test_geometry(512, 512, 256);
    let db = builder.create_with_storage(disk.clone()).unwrap();
    [KEEP, FRESH, ROWS].into_iter().for_each(|table| put_in(&db, table, [1], 20));
    put_in(&db, KEEP, [2], 20);
    put_in(&db, KEEP, [3], 20);
    put_in(&db, ROWS, [77], 20);
    let before = db.stats().commits;
    assert!(before.log >= 2, "{before:?}");
    let tx = db.begin_write().unwrap();
    tx.delete_table(ROWS).unwrap();
    tx.rename_table(FRESH, ROWS).unwrap();
    tx.commit().unwrap();
    let again = builder.open_with_storage(cut(&disk)).unwrap();
    assert_eq!((keys(&again, KEEP), keys(&again, ROWS)), (vec![1, 2, 3], vec![1]));
}

#[test]
fn a_commit_after_a_checkpoint_that_could_not_read_survives_a_crash() {
    let disk = SimDisk::new();
    let builder = tiny().test_geometry(512, 512, 256).cache_bytes_max(1 << 20);
    let db = builder.create_with_storage(disk.clone()).unwrap();
    put_in(&db, KEEP, 0..300, 100);
    put_in(&db, ROWS, [0], 1);
    db.close().unwrap();
    let db = builder.open_with_storage(disk.clone()).unwrap();
    put_in(&db, ROWS, [1], 20);
    // Only the log tells of it, and its leaf is not in memory.
    put_in(&db, KEEP, [200], 20);
    put_by_slot(&db, 3..4, 1, 20);
    disk.set_fault_rates(1, FaultRates { fail_read: 1_000_000, ..FaultRates::default() });
    assert!(db.compact().is_err());
    disk.clear_faults();
    put_in(&db, KEEP, [777], 20);
    let again = builder.open_with_storage(cut(&disk)).unwrap();
    assert_eq!(keys(&again, KEEP).len(), 301);
    assert_eq!(keys(&again, ROWS), [0, 1, 3]);
}

#[test]
fn transactions_go_on_where_a_checkpoint_beside_them_could_not_read_and_the_next_one_can() {
    let disk = SimDisk::new();
    let builder = tiny().test_geometry(512, 512, 256).log_bytes_max(8 << 10).test_checkpoint_lag(2);
    let db = builder.create_with_storage(disk.clone()).unwrap();
    put_in(&db, KEEP, 0..300, 100);
    db.close().unwrap();
    let db = builder.open_with_storage(disk.clone()).unwrap();
    // The catalog is in memory from here on, and most leaves are not; and the log is as long as it may be.
    (0..100).for_each(|_| put_in(&db, KEEP, [1000], 100));
    disk.set_fault_rates(1, FaultRates { fail_read: 1_000_000, ..FaultRates::default() });
    let mut last = 1000;
    while db.stats().checkpoints.failed == 0 {
        last += 1;
        put_in(&db, KEEP, [last, last * 37 % 300], 20);
        assert!(last < 2000, "no checkpoint failed");
    }
    put_in(&db, KEEP, [last + 1, 7], 20);
    disk.clear_faults();
    let finished = db.stats().checkpoints.finished;
    while db.stats().checkpoints.finished == finished {
        last += 1;
        put_in(&db, KEEP, [last + 1], 20);
        assert!(last < 2000, "no checkpoint succeeds");
    }
    let expected: Vec<u64> = (0..300).chain(1000..=last + 1).collect();
    assert_eq!(keys(&db, KEEP), expected);
    assert_eq!(keys(&builder.open_with_storage(cut(&disk)).unwrap(), KEEP), expected);
    db.check_integrity().unwrap();
}

#[test]
fn a_commit_that_changes_trees_leaves_room_for_what_is_laid_over_others() {
    let builder = tiny().test_geometry(512, 512, 4096).file_bytes_max(1536 << 10);
    let mut filled = 0;
    for (rounds, count) in
        (4..24_u64).step_by(3).flat_map(|rounds| (350..475).step_by(4).map(move |count| (rounds, count)))
    {
        let db = builder.create_with_storage(SharedBytes::default()).unwrap();
        put_in(&db, KEEP, 0..1000, 100);
        put_in(&db, ROWS, [0], 1);
        put_in(&db, KEEP, [1300], 100);
        put_in(&db, KEEP, [1301], 100);
        for round in 0..rounds {
            put_in(&db, KEEP, (0..20).map(|key| (key * 50 + round * 5) % 1000), 60);
        }
        let mut tx = db.begin_write().unwrap();
        tx.set_two_phase_commit(true);
        let mut rows = tx.open_table(ROWS).unwrap();
        let has_room = (0..count).all(|key| rows.insert(1000 + key, &value(key, 1, 1900)[..]).is_ok());
        drop(rows);
        if !has_room || tx.commit().is_err() {
            continue;
        }
        filled += 1;
        for key in 1000..1005 {
            db.update(|tx| Ok::<_, Error>(tx.open_table(ROWS)?.remove(key)?.map(drop)))
                .unwrap_or_else(|error| panic!("{rounds} rounds, {count} values: {error}"));
        }
    }
    assert!(filled > 50, "{filled}");
}

#[test]
fn a_checkpoint_begins_where_memory_is_full_before_the_log() {
    let db = Builder::new().cache_bytes_max(1 << 20).create_with_storage(SharedBytes::default()).unwrap();
    put_in(&db, ROWS, 0..30_000, 1000);
    for round in 0..200 {
        put_in(&db, KEEP, round * 1000..round * 1000 + 400, 10);
    }
    let stats = db.stats();
    assert!(stats.checkpoints.finished > 10 && stats.commits.slot < 12, "{stats:?}");
}

#[test]
fn a_cut_of_the_file_leaves_room_for_what_is_laid_over_trees() {
    let disk = SimDisk::new();
    let builder = tiny().test_geometry(512, 512, 4096).cache_bytes_max(8 << 20);
    let db = builder.create_with_storage(disk.clone()).unwrap();
    put_in(&db, FRESH, [1], 10);
    put_in(&db, KEEP, 0..20_000, 30);
    db.compact().unwrap();
    // A log that is long enough.
    put_in(&db, FRESH, 0..400, 4);
    put_by_slot(&db, 1..2, 1, 5);
    put_by_slot(&db, 1..2, 2, 5);
    put_in(&db, KEEP, (0..20_000).step_by(30), 4);
    put_by_slot(&db, 1..2, 1, 5);
    put_by_slot(&db, 1..2, 2, 5);
    put_by_slot(&db, 1..2, 3, 5);
    assert!(db.stats().log.changes > 600, "they are still laid over the tree");
    disk.set_capacity_bytes(disk.image().len() as u64);
    for key in 100..110 {
        db.update(|tx| Ok::<_, Error>(tx.open_table(KEEP)?.remove(key)?.map(drop))).unwrap();
    }
    assert_sound(&db);
    db.close().unwrap();
}

#[test]
fn a_step_back_to_the_older_slot_replays_as_many_changes_as_two_slots_let_gather() {
    const LAST: u64 = 100;
    let builder = Builder::new().cache_bytes_max(64 << 20).test_checkpoint_lag(12);
    let storage = SharedBytes::default();
    let db = builder.create_with_storage(storage.clone()).unwrap();
    let put = |round: u64, count: u64, len: usize| {
        db.update(|tx| {
            let mut table = tx.open_table(KEEP)?;
            (0..count).try_for_each(|key| table.put(key, &value(key, round, len)[..]))?;
            Ok::<_, Error>(())
        })
        .unwrap();
    };
    put(0, 100_000, 700);
    for round in 1..=LAST {
        put(round, 4000, 4);
    }
    let mut image = storage.image();
    let generation = |at: usize| u64::from_le_bytes(image[at + 8..at + 16].try_into().unwrap());
    let newest = if generation(4096) > generation(8192) { 4096 } else { 8192 };
    image[newest + 100] ^= 1;
    let db = builder.open_with_storage(SharedBytes::of(image)).unwrap();
    assert!(db.open_notes().iter().any(|note| matches!(note, OpenNote::ServedOlderSlot { .. })));
    let read = db.begin_read().unwrap();
    assert_eq!(read.open_table(KEEP).unwrap().get(3999).unwrap().unwrap().value(), value(3999, LAST, 4));
}
