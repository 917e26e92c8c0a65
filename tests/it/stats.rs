//! What a database says of itself: its counts, against those of the storage below it and of the test above it.
//!
//! Invariant: every transaction, write and sync is counted once, under the kind or cause that it has.

use crate::fixture::{Model, ROWS, Random, SharedBytes, assert_sound, put, put_by_slot, rows, set, tiny, value};
use crate::gated::{self, Fate, commit, join, queue, started};
use cowslip::sim::SimDisk;
use cowslip::{
    Builder, CommitStats, Database, Durability, Error, FileStorage, LockMode, MemoryStorage, OpenNote, Storage,
    SyncKind, TableDefinition, WriteMode,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const BULK: TableDefinition<u64, &[u8]> = TableDefinition::new("bulk");

fn commits(db: &Database) -> [u64; 5] {
    let CommitStats { log, slot, memory, unchanged, aborted, .. } = db.stats().commits;
    [log, slot, memory, unchanged, aborted]
}

/// Ends transactions in every way, and requires that each is counted as what it is.
fn end_in_every_way(storage: impl Storage) {
    let db = Builder::new().create_with_storage(storage).unwrap();
    assert_eq!(commits(&db), [0; 5]);
    db.update(|tx| {
        let mut bulk = tx.open_table(BULK)?;
        (0..2000).try_for_each(|key| bulk.put(key, &value(key, 0, 400)[..]))?;
        Ok::<_, Error>(())
    })
    .unwrap();
    assert_eq!(commits(&db), [0, 1, 0, 0, 0], "a large transaction");
    put(&db, 0..20, 0, 30).unwrap();
    assert_eq!(commits(&db), [0, 2, 0, 0, 0], "one that makes a table");
    let put_without_waiting = |key| {
        let mut tx = db.begin_write().unwrap();
        tx.set_durability(Durability::None).unwrap();
        tx.open_table(ROWS).unwrap().insert(key, &b"three"[..]).unwrap();
        tx.commit().unwrap();
    };
    put_without_waiting(3);
    assert_eq!(commits(&db), [0, 2, 1, 0, 0], "there is no log, and nobody asks for one");
    let before = db.stats().checkpoints.finished;
    db.sync().unwrap();
    assert_eq!(db.stats().checkpoints.finished, before + 1);
    put(&db, 1..2, 1, 30).unwrap();
    assert_eq!(commits(&db), [0, 3, 1, 0, 0], "one that finds no log");
    for round in 0..7 {
        put(&db, 1..2, round, 30).unwrap();
    }
    assert_eq!(commits(&db), [6, 4, 1, 0, 0], "the log has room for three, and is longer then");
    put_without_waiting(3);
    assert_eq!(commits(&db), [7, 4, 1, 0, 0], "it is recorded, and written with the next one");
    put_by_slot(&db, 1..2, 9, 30);
    assert_eq!(commits(&db), [7, 5, 1, 0, 0]);
    db.begin_write().unwrap().commit().unwrap();
    db.begin_read().unwrap();
    assert_eq!(commits(&db), [7, 5, 1, 1, 0]);
    db.begin_write().unwrap().abort().unwrap();
    drop(db.begin_write().unwrap());
    db.update(|tx| {
        tx.open_table(ROWS)?.insert(4, &b"four"[..])?;
        Err::<(), _>(Error::Storage(cowslip::StorageError::Poisoned))
    })
    .unwrap_err();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let tx = db.begin_write().unwrap();
        let mut table = tx.open_table(ROWS).unwrap();
        table.retain(|_, _| panic!("a predicate panics")).unwrap();
    }));
    assert!(panicked.is_err());
    assert_eq!(commits(&db), [7, 5, 1, 1, 4]);
    let stats = db.stats();
    assert_eq!((stats.commits.total(), stats.transaction), (13, db.begin_read().unwrap().id()));
    assert!(!stats.is_poisoned && stats.events_dropped == 0);
    db.close().unwrap();
}

#[test]
fn transactions_are_counted_by_how_they_end_in_memory() {
    end_in_every_way(MemoryStorage::new());
}

#[test]
fn transactions_are_counted_by_how_they_end_in_a_file() {
    use cowslip::{Access, CreateMode};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stats.cowslip");
    end_in_every_way(FileStorage::open(&path, CreateMode::CreateOrOpen, Access::ReadWrite, true).unwrap().0);
}

/// Requires that the causes add up to what the storage saw since.
fn assert_adds_up(db: &Database, bytes: &SharedBytes, before: u64, place: &str) {
    let seen = bytes.written_bytes.load(Ordering::SeqCst) - before;
    let written = db.stats().written;
    assert_eq!(written.total_bytes(), seen, "{place}: {written:?}");
}

/// A random history of all that writes.
fn history(db: &Database, random: &mut Random, mut check: impl FnMut(&Database, &str)) {
    put(db, 0..90, 0, 40).unwrap();
    check(db, "table");
    for round in 1..600 {
        let key = random.below(90);
        match random.below(40) {
            0 => put_by_slot(db, key..key + 9, round, 40),
            1 => put(db, key..key + 30, round, 3000).unwrap(),
            2 => {
                let tx = db.begin_write().unwrap();
                let mut table = tx.open_table(ROWS).unwrap();
                (200..204).for_each(|at| drop(table.insert(at, &value(key, round, 70_000)[..]).unwrap()));
                drop(table);
                if random.below(2) == 0 { tx.abort().unwrap() } else { _ = tx.commit().unwrap() }
            }
            3 => db.sync().unwrap(),
            4 => {
                let mut tx = db.begin_write().unwrap();
                tx.set_durability(Durability::None).unwrap();
                tx.open_table(ROWS).unwrap().insert(key, &value(key, round, 30)[..]).unwrap();
                tx.commit().unwrap();
            }
            5 if round % 5 == 0 => drop(db.compact().unwrap()),
            _ => put(db, key..key + 1, round, 40).unwrap(),
        }
        check(db, "history");
    }
}

#[test]
fn bytes_by_cause_add_up_to_what_the_storage_saw() {
    for seed in 0..6 {
        let builder = tiny().log_bytes_max(8 << 10).test_checkpoint_lag(1 + u32::try_from(seed).unwrap() % 3);
        let bytes = SharedBytes::default();
        let db = builder.create_with_storage(bytes.clone()).unwrap();
        let before = bytes.written_bytes.load(Ordering::SeqCst);
        // What a checkpoint beside the transactions writes is counted when all of it is written, by the same commit.
        history(&db, &mut Random::new(seed), |db, place| assert_adds_up(db, &bytes, before, place));
        let stats = db.stats();
        let written = &stats.written;
        let causes = [
            written.log_record_bytes,
            written.log_padding_bytes,
            written.direct_page_bytes,
            written.checkpoint_page_bytes,
            written.space_bytes,
            written.block_bytes,
        ];
        assert!(causes.iter().all(|bytes| *bytes > 0), "{written:?}");
        assert!(stats.commits.log > 100 && stats.checkpoints.finished > 3, "{stats:?}");
        // Recovery writes as well.
        let copy = SharedBytes::of(bytes.image());
        let recovered = builder.open_with_storage(copy.clone()).unwrap();
        assert_adds_up(&recovered, &copy, 0, "recovered");
        put(&recovered, 0..1, 1, 40).unwrap();
        assert_adds_up(&recovered, &copy, 0, "first commit");
        assert_sound(&recovered);
    }
}

/// A medium that gains from several writes at once, so that threads write pages early and checkpoints.
#[derive(Debug, Clone, Default)]
struct Wide(SharedBytes);

impl Storage for Wide {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read_at(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<()> {
        self.0.read_at(offset, buffers)
    }

    fn write_at(&self, offset: u64, buffers: &[IoSlice<'_>], mode: WriteMode) -> io::Result<()> {
        self.0.write_at(offset, buffers, mode)
    }

    fn writes_at_once(&self) -> usize {
        4
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        self.0.preallocate(len)
    }

    fn sync(&self, kind: SyncKind) -> io::Result<()> {
        self.0.sync(kind)
    }

    fn lock(&self, mode: LockMode) -> io::Result<()> {
        self.0.lock(mode)
    }

    fn unlock(&self) -> io::Result<()> {
        self.0.unlock()
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.0.drop_cache()
    }
}

#[test]
fn bytes_that_threads_write_add_up_as_well() {
    let storage = Wide::default();
    let db =
        Builder::new().cache_bytes_max(96 << 20).log_bytes_max(64 << 10).create_with_storage(storage.clone()).unwrap();
    let before = storage.0.written_bytes.load(Ordering::SeqCst);
    for is_kept in [true, false] {
        let tx = db.begin_write().unwrap();
        let mut rows = tx.open_table(ROWS).unwrap();
        for key in 0..30_000 {
            rows.insert(key, &value(key, u64::from(is_kept), 1000)[..]).unwrap();
        }
        drop(rows);
        let early = db.stats().written.direct_page_bytes;
        assert!(early > 0, "the transaction writes early");
        if is_kept {
            tx.commit().unwrap();
        } else {
            tx.abort().unwrap();
        }
        assert_adds_up(&db, &storage.0, before, "large");
    }
    // Checkpoints are written by a thread while these go on.
    for round in 0..3000 {
        put(&db, round * 7 % 30_000..round * 7 % 30_000 + 1, round, 1000).unwrap();
    }
    let begin = Instant::now();
    while db.stats().checkpoints.begun > db.stats().checkpoints.finished {
        assert!(begin.elapsed() < gated::NEVER, "a checkpoint never ends");
        std::thread::yield_now();
    }
    assert_adds_up(&db, &storage.0, before, "small");
    let stats = db.stats();
    assert!(stats.checkpoints.finished > 3 && stats.written.checkpoint_page_bytes > 1 << 20, "{stats:?}");
    assert_eq!(stats.log_write_commits.sum(), stats.commits.log);
}

#[test]
fn every_sync_and_every_log_write_is_counted() {
    let disk = SimDisk::new();
    let db = tiny().log_bytes_max(8 << 10).test_checkpoint_lag(2).create_with_storage(disk.clone()).unwrap();
    disk.reset_stats();
    history(&db, &mut Random::new(1), |db, _| {
        assert_eq!(db.stats().sync_micros.count(), disk.stats().syncs);
    });
    let stats = db.stats();
    // Those that wait for nothing are written with others, the last of them at the end.
    assert!(stats.log_write_micros.count() <= stats.commits.log);
    db.sync().unwrap();
    assert_eq!(db.stats().log_write_commits.sum(), stats.commits.log);
    assert!(stats.log_write_micros.percentile(50.0) <= stats.log_write_micros.max());
}

#[test]
fn commits_that_share_a_log_write_are_counted_as_a_group() {
    let (disk, db, _) = started(&gated::builder());
    let (before, forced) = (db.stats(), disk.forced());
    disk.close();
    let first = queue(&db, Durability::Immediate, 100);
    disk.await_held();
    let others: Vec<_> = (101..116).map(|key| queue(&db, Durability::Immediate, key)).collect();
    assert_eq!(db.stats().commits.log, before.commits.log, "nobody sees them yet");
    disk.open();
    for waiting in std::iter::once(first).chain(others) {
        join(waiting).unwrap();
    }
    let after = db.stats();
    assert_eq!(after.commits.log - before.commits.log, 16);
    assert_eq!(after.log_write_micros.count() - before.log_write_micros.count(), disk.forced() - forced);
    assert_eq!(after.log_write_commits.sum() - before.log_write_commits.sum(), 16);
    assert_eq!(after.log_write_commits.max(), 15);
}

#[test]
fn a_checkpoint_empties_the_log_that_commits_fill() {
    let disk = SimDisk::new();
    let db = tiny().log_bytes_max(8 << 10).test_checkpoint_lag(1).create_with_storage(disk).unwrap();
    put(&db, 0..900, 0, 40).unwrap();
    let (mut filled, mut emptied) = (0, 0);
    for round in 1..400 {
        let before = db.stats();
        put(&db, round % 90..round % 90 + 1, round, 40).unwrap();
        let after = db.stats();
        assert!(after.log.used_bytes <= after.log.capacity_bytes && after.log.capacity_bytes <= 8 << 10);
        assert_eq!(after.checkpoints.failed, 0);
        if after.checkpoints.transaction == before.checkpoints.transaction && after.log.capacity_bytes > 0 {
            assert_eq!(after.log.changes, before.log.changes + 1);
            assert!(after.log.used_bytes > before.log.used_bytes && after.log.unwritten_bytes > 0);
            filled += 1;
        }
        if after.checkpoints.finished > before.checkpoints.finished {
            assert!(after.checkpoints.last_duration.is_some());
            emptied += 1;
        }
        let in_log = after.transaction.get() - after.checkpoints.transaction.get();
        assert_eq!(in_log, after.log.changes, "each of these commits changes one row");
    }
    assert!(filled > 200 && emptied > 3, "{filled} {emptied}");
    let checkpoints = db.stats().checkpoints;
    assert!(checkpoints.begun - checkpoints.finished <= 1, "{checkpoints:?}");
    assert!(checkpoints.age < Duration::from_secs(600));
}

#[test]
fn opening_reports_what_it_recovered() {
    let (disk, db, _) = started(&gated::builder());
    for key in 100..113 {
        commit(&db, Durability::Immediate, key);
    }
    let left = db.stats();
    let image = disk.crashed();
    for read_only in [true, false] {
        let builder = gated::builder();
        let image = image.restart_process();
        let db = match read_only {
            true => builder.open_read_only_with_storage(image),
            false => builder.open_with_storage(image),
        };
        let db = db.unwrap();
        let stats = db.stats();
        let report = &stats.recovery;
        assert_eq!((report.records, report.changes), (left.log.changes, left.log.changes));
        assert_eq!((report.checkpoint, report.transaction), (left.checkpoints.transaction, left.transaction));
        assert_eq!((report.log_used_bytes, report.log_capacity_bytes), (left.log.used_bytes, left.log.capacity_bytes));
        assert_eq!(report.notes, [OpenNote::RecoveredAfterCrash]);
        assert_eq!(report.notes, db.open_notes());
        assert!(report.duration > Duration::ZERO);
        assert_eq!(commits(&db), [0; 5], "what recovery commits is not the application's");
        assert_eq!(stats.transaction, left.transaction);
        db.close().unwrap();
    }
    let disk = image.restart_process();
    gated::builder().open_with_storage(disk.clone()).unwrap().close().unwrap();
    let report = gated::builder().open_with_storage(disk.restart_process()).unwrap().stats().recovery;
    assert_eq!((report.records, report.log_capacity_bytes, report.notes.len()), (0, 0, 0), "after closing");
    assert_eq!((report.checkpoint, report.transaction), (left.transaction, left.transaction));
}

#[test]
fn an_opening_that_serves_the_older_slot_reports_it() {
    let bytes = SharedBytes::default();
    let db = tiny().create_with_storage(bytes.clone()).unwrap();
    let mut model = Model::new();
    set(&db, &mut model, 0..5, 1, 30);
    put_by_slot(&db, 0..5, 2, 30);
    let found = [4096, 8192].into_iter().find_map(|slot| {
        let mut image = bytes.image();
        image[slot + 50] ^= 1;
        let db = tiny().open_with_storage(SharedBytes::of(image)).ok()?;
        let report = db.stats().recovery;
        let is_older = report.notes.iter().any(|note| matches!(note, OpenNote::ServedOlderSlot { .. }));
        is_older.then(|| (report.transaction.get(), rows(&db).unwrap()))
    });
    assert!(found == Some((1, model)));
}

#[test]
fn readers_and_space_are_those_of_now() {
    let db = tiny().in_memory().unwrap();
    put(&db, 0..90, 0, 400).unwrap();
    let reader = db.begin_read().unwrap();
    let readers = db.stats().readers;
    assert_eq!((readers.snapshots, readers.versions, readers.oldest), (1, 1, reader.id()));
    put(&db, 0..90, 1, 400).unwrap();
    let others = [db.begin_read().unwrap(), db.begin_read().unwrap()];
    let stats = db.stats();
    assert_eq!((stats.readers.snapshots, stats.readers.versions, stats.readers.oldest), (3, 2, reader.id()));
    let checked = db.check_quick().unwrap();
    assert_eq!(stats.space.allocated_units, checked.allocated_units);
    assert_eq!(stats.space.file_bytes, checked.file_units * 512);
    // Of 32 units a region keeps two for its bitmaps.
    let regions = (checked.file_units - 24).div_ceil(32);
    assert_eq!(stats.space.free_units, checked.file_units - 24 - 2 * regions - checked.allocated_units);
    drop((reader, others));
    let readers = db.stats().readers;
    assert_eq!((readers.snapshots, readers.versions, readers.oldest), (0, 1, stats.transaction));
}

#[test]
fn a_commit_in_doubt_is_none_and_the_database_says_that_it_writes_no_more() {
    let (disk, db, _) = started(&gated::builder());
    let before = commits(&db);
    assert!(!db.stats().is_poisoned);
    disk.set_fate(Fate::Refused);
    gated::change(&db, Durability::Immediate, 100).commit().unwrap_err();
    assert_eq!(commits(&db), before);
    assert!(db.stats().is_poisoned);
    let written = db.stats().written;
    db.begin_write().unwrap_err();
    assert_eq!(db.stats().written, written);
}

#[test]
fn a_database_that_is_only_read_counts_nothing() {
    let bytes = SharedBytes::default();
    let db = tiny().create_with_storage(bytes.clone()).unwrap();
    put(&db, 0..90, 0, 40).unwrap();
    db.close().unwrap();
    let db = tiny().open_read_only_with_storage(bytes).unwrap();
    assert_eq!(rows(&db).unwrap().len(), 90);
    let stats = db.stats();
    assert_eq!((commits(&db), stats.written.total_bytes(), stats.sync_micros.count()), ([0; 5], 0, 0));
    assert_eq!((stats.log.capacity_bytes, stats.readers.snapshots, stats.transaction.get()), (0, 0, 1));
}

#[test]
fn stats_can_be_asked_while_a_commit_waits_for_the_medium() {
    let (disk, db, _) = started(&gated::builder());
    disk.close();
    let waiting = queue(&db, Durability::Immediate, 100);
    disk.await_held();
    let tx = db.begin_write().unwrap();
    let before = db.stats();
    disk.open();
    join(waiting).unwrap();
    drop(tx);
    let after = db.stats();
    assert_eq!((before.commits.log + 1, before.commits.aborted + 1), (after.commits.log, after.commits.aborted));
}
