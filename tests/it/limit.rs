//! A limit for the length of the file: what it refuses, and what goes on beside it.
//!
//! Invariant: the file is never longer than its limit, no acknowledged row is lost, and small removals always go through.

use crate::fixture::{Model, ROWS, Random, SharedBytes, assert_sound, put, rows, rows_of, set, tiny, value};
use cowslip::sim::{CrashPlan, OperationKind, SimDisk};
use cowslip::{Builder, Database, DatabaseError, Durability, Error, StorageError};

/// An empty database has this length.
const EMPTY_BYTES: u64 = 3 * 4096;

#[derive(Debug, Clone, Copy)]
struct Way {
    by_slot: bool,
    durability: Durability,
}

const PLAIN: Way = Way { by_slot: false, durability: Durability::Immediate };

fn change(db: &Database, way: Way, insert: &[(u64, Vec<u8>)], remove: &[u64]) -> Result<(), Error> {
    let mut tx = db.begin_write()?;
    tx.set_two_phase_commit(way.by_slot);
    tx.set_durability(way.durability)?;
    let mut table = tx.open_table(ROWS)?;
    for (key, value) in insert {
        table.insert(*key, &value[..])?;
    }
    for key in remove {
        table.remove(*key)?;
    }
    drop(table);
    tx.commit()?;
    Ok(())
}

fn remove(db: &Database, model: &mut Model, way: Way, keys: &[u64]) {
    change(db, way, &[], keys).unwrap_or_else(|error| panic!("removing {keys:?} with {way:?}: {error}"));
    keys.iter().for_each(|key| drop(model.remove(key)));
}

/// Says whether there was room; nothing but the limit may have been in the way.
fn assert_limit(outcome: Result<(), Error>, limit: u64) -> bool {
    let Err(error) = outcome else { return true };
    let limit = limit / 512 * 512;
    assert!(error.is_out_of_space(), "{error}");
    let text = error.to_string();
    assert!(text.contains(&format!("limits it to {limit} bytes")), "{text}");
    false
}

/// A database with a limit, and what was acknowledged in it.
struct History {
    builder: Builder,
    limit: u64,
    disk: SimDisk,
    db: Database,
    model: Model,
    random: Random,
    refused: u64,
    opened: u64,
}

impl History {
    fn new(builder: &Builder, limit: u64, seed: u64) -> Self {
        let disk = SimDisk::new();
        disk.keep_history(false);
        // Whoever tried to go beyond the limit would fail with another text.
        disk.set_capacity_bytes(limit);
        let builder = builder.clone().file_bytes_max(limit);
        let db = builder.create_with_storage(disk.clone()).unwrap();
        Self { builder, limit, disk, db, model: Model::new(), random: Random::new(seed), refused: 0, opened: 0 }
    }

    fn way(&mut self) -> Way {
        let durability = match self.random.below(8) {
            0 => Durability::None,
            1 => Durability::Buffered,
            _ => Durability::Immediate,
        };
        Way { by_slot: self.random.below(5) == 0, durability }
    }

    fn some_key(&mut self) -> Option<u64> {
        let at = self.random.index(self.model.len().max(1));
        self.model.keys().nth(at).copied()
    }

    /// Sets rows; says whether there was room.
    fn insert(&mut self, round: u64, count: u64, len: u64) -> bool {
        let rows: Vec<_> = (0..count)
            .map(|_| {
                let key = self.random.below(4000);
                let len = self.random.below(2 * len + 1);
                (key, value(key, round, usize::try_from(len).unwrap()))
            })
            .collect();
        let way = self.way();
        let has_room = assert_limit(change(&self.db, way, &rows, &[]), self.limit);
        if has_room {
            self.model.extend(rows);
        }
        self.refused += u64::from(!has_room);
        has_room
    }

    fn remove(&mut self, count: u64) {
        for _ in 0..count {
            let (way, Some(key)) = (self.way(), self.some_key()) else { return };
            remove(&self.db, &mut self.model, way, &[key]);
        }
    }

    /// Closes, or crashes after all is durable, and opens again.
    fn reopen(self) -> Self {
        let Self { builder, disk, db, mut random, .. } = self;
        let is_crash = random.below(2) == 0;
        let disk = if is_crash {
            db.sync().unwrap();
            let crashed = disk.crash_image(&CrashPlan::nothing(disk.next_operation()));
            drop(db);
            crashed
        } else {
            db.close().unwrap();
            disk
        };
        disk.keep_history(false);
        disk.set_capacity_bytes(self.limit);
        let db = builder.open_with_storage(disk.clone()).unwrap();
        Self { builder, disk, db, random, opened: self.opened + 1, ..self }
    }

    fn check(&self) {
        assert!(self.disk.image().len() as u64 <= self.limit);
        assert_sound(&self.db);
        assert!(rows(&self.db).unwrap() == self.model);
    }

    fn run(mut self, rounds: u64, len: u64) -> Self {
        for round in 0..rounds {
            match self.random.below(20) {
                0..12 => {
                    let count = 1 << self.random.below(6);
                    // Where there is no room, some is made.
                    if !self.insert(round, count, len) && self.random.below(3) == 0 {
                        self.remove(20);
                    }
                }
                12..16 => self.remove(10),
                16 => drop(assert_limit(self.db.compact().map(drop).map_err(Error::from), self.limit)),
                17 if round % 4 == 0 => self = self.reopen(),
                18 => drop(self.db.begin_write().unwrap()),
                _ => {
                    let tx = self.db.begin_write().unwrap();
                    let key = self.random.below(4000);
                    // Whether there is room or not: the transaction is dropped.
                    if let Ok(mut rows) = tx.open_table(ROWS) {
                        drop(rows.insert(key, &[1; 99][..]));
                    }
                }
            }
            assert!(self.disk.image().len() as u64 <= self.limit, "round {round}");
            if round % 16 == 0 {
                self.check();
            }
        }
        self.check();
        while !self.model.is_empty() {
            self.remove(1);
        }
        self.check();
        self
    }
}

#[test]
fn at_every_limit_from_tiny_up_nothing_is_lost_and_removals_go_through() {
    let (mut refused, mut opened) = (0, 0);
    for units in 24..300_u64 {
        let kind = usize::try_from(units).unwrap();
        let len = [10, 60, 500][kind % 3];
        let cache = [1 << 20, 64 << 10, 0][kind / 3 % 3];
        let mut builder = tiny().cache_bytes_max(cache);
        if units % 2 == 0 {
            builder = builder.test_checkpoint_lag(1 + u32::try_from(units / 2 % 3).unwrap());
        }
        let history = History::new(&builder, units * 512 + units % 512, units).run(120, len);
        refused += history.refused;
        opened += history.opened;
    }
    assert!(refused > 1000 && opened > 300, "{refused} {opened}");
}

#[test]
fn nodes_of_two_units_and_values_of_any_length_leave_room_for_removals() {
    for seed in 0..40 {
        let builder = Builder::new().test_geometry(512, 1024, 64).test_identity([7; 16]).cache_bytes_max(64 << 10);
        let history = History::new(&builder, (100 + seed * 23) * 512, seed).run(200, 1500);
        assert!(history.refused > 10, "{}", history.refused);
    }
}

#[test]
fn an_ordinary_file_keeps_to_its_limit_and_takes_removals() {
    for (seed, limit) in [(1, 1 << 20), (2, 3 << 20)] {
        let history = History::new(&Builder::new().cache_bytes_max(4 << 20), limit, seed).run(300, 8000);
        assert!(history.refused > 10, "{}", history.refused);
    }
}

#[test]
fn a_limit_that_is_hit_thousands_of_times_never_wedges() {
    for limit in [70 * 512, 200 * 512] {
        let mut history = History::new(&tiny(), limit, limit);
        let mut inserted = 0;
        for round in 0..3000 {
            while history.insert(round, 4, 100) {
                inserted += 1;
            }
            history.remove(8);
            if round % 500 == 0 {
                history.check();
            }
        }
        assert!(history.refused == 3000 && inserted > 3000, "{} {inserted}", history.refused);
        history.check();
    }
}

/// Sets rows until there is no room for even one; returns the error.
fn fill(db: &Database, model: &mut Model, len: usize) -> Error {
    let (mut next, mut count) = (model.keys().next_back().map_or(0, |key| key + 1), 64);
    loop {
        match put(db, next..next + count, 0, len) {
            Ok(()) => {
                model.extend((next..next + count).map(|key| (key, value(key, 0, len))));
                next += count;
            }
            Err(error) if count == 1 => return error,
            Err(_) => count /= 2,
        }
    }
}

#[test]
fn the_error_names_the_limit_and_what_was_asked_for() {
    let db = tiny().file_bytes_max(100 * 512 + 17).in_memory().unwrap();
    let mut model = Model::new();
    let error = fill(&db, &mut model, 50);
    let Some(StorageError::OutOfSpace { wanted_bytes, source }) = error.storage_error() else { panic!("{error}") };
    assert!(*wanted_bytes > 100 * 512, "{wanted_bytes}");
    assert_eq!(source.kind(), std::io::ErrorKind::QuotaExceeded);
    assert!(error.to_string().contains("limits it to 51200 bytes (Builder::file_bytes_max)"), "{error}");
    assert!(model.len() > 50 && rows(&db).unwrap() == model);
}

#[test]
fn readers_go_on_at_the_limit_and_their_pages_are_given_back() {
    let db = tiny().file_bytes_max(150 * 512).in_memory().unwrap();
    let mut model = Model::new();
    fill(&db, &mut model, 50);
    let (reader, seen) = (db.begin_read().unwrap(), model.clone());
    for key in 0..4 {
        remove(&db, &mut model, PLAIN, &[key]);
    }
    assert_eq!(rows_of(&reader).unwrap(), seen);
    assert_eq!(rows(&db).unwrap(), model);
    assert_sound(&db);
    // Whatever is removed now may have to wait for the reader.
    for key in seen.keys() {
        if assert_limit(change(&db, PLAIN, &[], &[*key]), 150 * 512) {
            model.remove(key);
        }
    }
    assert_eq!(rows_of(&reader).unwrap(), seen);
    drop(reader);
    for key in model.clone().into_keys() {
        remove(&db, &mut model, PLAIN, &[key]);
    }
    set(&db, &mut model, 0..100, 1, 50);
    assert_eq!(rows(&db).unwrap(), model);
    assert_sound(&db);
}

#[test]
fn a_transaction_that_spills_at_the_limit_aborts_and_gives_all_of_it_back() {
    let db = tiny().cache_bytes_max(16 << 10).file_bytes_max(400 * 512).in_memory().unwrap();
    let mut model = Model::new();
    set(&db, &mut model, 0..200, 0, 40);
    let before = db.check_integrity().unwrap().reached_units;
    for round in 0..50 {
        assert!(!assert_limit(put(&db, 1000..9000, round, 40), 400 * 512));
        assert_eq!(db.check_integrity().unwrap().reached_units, before);
    }
    assert_eq!(rows(&db).unwrap(), model);
    set(&db, &mut model, 0..200, 1, 45);
}

#[test]
fn a_higher_limit_at_the_next_opening_lets_the_file_grow() {
    let disk = SimDisk::new();
    let mut model = Model::new();
    for limit in [60 * 512, 120 * 512, 240 * 512, u64::MAX] {
        let db = tiny().file_bytes_max(limit).create_with_storage(disk.clone()).unwrap();
        let before = model.len() as u64;
        if limit < u64::MAX {
            fill(&db, &mut model, 30);
            assert!(model.len() as u64 > before + 50, "{before} {}", model.len());
        } else {
            set(&db, &mut model, before..before + 5000, 1, 30);
        }
        assert_eq!(rows(&db).unwrap(), model);
        assert_sound(&db);
        db.close().unwrap();
        assert!(disk.image().len() as u64 <= limit);
    }
}

#[test]
fn a_file_that_is_longer_than_the_limit_opens_and_does_not_grow() {
    let disk = SimDisk::new();
    let mut model = Model::new();
    let db = tiny().create_with_storage(disk.clone()).unwrap();
    set(&db, &mut model, 0..600, 0, 60);
    db.close().unwrap();
    let len = disk.image().len();
    for limit in [0, EMPTY_BYTES, 100 * 512] {
        let db = tiny().file_bytes_max(limit).create_with_storage(disk.clone()).unwrap();
        assert_eq!(rows(&db).unwrap(), model);
        assert!(!assert_limit(put(&db, 1000..1100, 0, 60), limit));
        assert_eq!(rows(&db).unwrap(), model);
        db.close().unwrap();
        assert_eq!(disk.image().len(), len);
    }
    // Removals copy a few pages, for which such a file has no room.
    let db = tiny().file_bytes_max(len as u64 + 20 * 512).open_with_storage(disk.clone()).unwrap();
    db.update(|tx| Ok::<_, Error>(tx.open_table(ROWS)?.remove_range(20..)?)).unwrap();
    model.split_off(&20);
    assert_eq!(rows(&db).unwrap(), model);
    db.compact().unwrap();
    db.close().unwrap();
    assert!(disk.image().len() <= 100 * 512, "{}", disk.image().len());
    let db = tiny().file_bytes_max(100 * 512).open_with_storage(disk.clone()).unwrap();
    fill(&db, &mut model, 60);
    assert_eq!(rows(&db).unwrap(), model);
    assert!(disk.image().len() <= 100 * 512);
}

#[test]
fn every_crash_at_the_limit_keeps_acknowledged_rows_and_reopens() {
    const LIMIT: u64 = 80 * 512;
    let disk = SimDisk::new();
    let builder = tiny().file_bytes_max(LIMIT).test_checkpoint_lag(2);
    let db = builder.create_with_storage(disk.clone()).unwrap();
    let (mut model, mut random) = (Model::new(), Random::new(5));
    let mut states = vec![(disk.next_operation(), model.clone())];
    for round in 0..150 {
        let key = random.below(500);
        if random.below(3) > 0 {
            if assert_limit(change(&db, PLAIN, &[(key, value(key, round, 60))], &[]), LIMIT) {
                model.insert(key, value(key, round, 60));
            }
        } else {
            remove(&db, &mut model, PLAIN, &[key]);
        }
        states.push((disk.next_operation(), model.clone()));
    }
    let longest = disk.operations().into_iter().filter_map(|operation| match operation.kind {
        OperationKind::SetLen { len } | OperationKind::Preallocate { len } => Some(len),
        OperationKind::Write { offset, len, .. } => Some(offset + len),
        _ => None,
    });
    assert_eq!(longest.max(), Some(LIMIT));
    for pair in states.windows(2) {
        for operation in pair[0].0..pair[1].0 {
            for plan in [CrashPlan::nothing(operation), CrashPlan::everything(operation)] {
                let crashed = disk.crash_image(&plan);
                let db = builder.open_with_storage(crashed.clone()).unwrap();
                let found = rows(&db).unwrap();
                assert!(found == pair[0].1 || found == pair[1].1, "operation {operation}");
                db.close().unwrap();
                assert!(crashed.image().len() as u64 <= LIMIT);
            }
        }
    }
}

#[test]
fn a_limit_too_small_for_an_empty_database_leaves_no_file_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.cowslip");
    for limit in [0, 1, EMPTY_BYTES - 1] {
        let builder = Builder::new().file_bytes_max(limit);
        let error = builder.create(&path).unwrap_err();
        assert!(matches!(&error, DatabaseError::InvalidOption(_)), "{error}");
        assert!(error.to_string().contains("an empty database takes 12288 bytes"), "{error}");
        assert!(!path.exists());
        std::fs::write(&path, b"").unwrap();
        assert!(matches!(builder.create(&path), Err(DatabaseError::InvalidOption(_))));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(builder.in_memory(), Err(DatabaseError::InvalidOption(_))));
        assert!(matches!(builder.open(&path), Err(DatabaseError::Open(_))));
        assert!(matches!(builder.create(folder.path().join("no/rows")), Err(DatabaseError::InvalidOption(_))));
        let storage = SharedBytes::default();
        assert!(matches!(builder.create_with_storage(storage.clone()), Err(DatabaseError::InvalidOption(_))));
        assert_eq!(storage.image(), []);
    }
    let db = Builder::new().file_bytes_max(EMPTY_BYTES).create(&path).unwrap();
    assert!(!assert_limit(put(&db, 0..1, 0, 1), EMPTY_BYTES));
    assert!(rows(&db).unwrap().is_empty());
    db.close().unwrap();
    let db = Builder::new().file_bytes_max(0).create(&path).unwrap();
    assert!(rows(&db).unwrap().is_empty());
    db.close().unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), EMPTY_BYTES);
}

#[test]
fn tables_are_deleted_and_ranges_removed_at_the_limit() {
    for limit in [60 * 512, 150 * 512, 600 * 512] {
        let db = tiny().file_bytes_max(limit).in_memory().unwrap();
        for _ in 0..20 {
            let mut model = Model::new();
            fill(&db, &mut model, 80);
            let half = model.len() as u64 / 2;
            db.update(|tx| Ok::<_, Error>(tx.open_table(ROWS)?.remove_range(half..)?)).unwrap();
            assert!(rows(&db).unwrap().len() as u64 == half);
            fill(&db, &mut model.range(..half).map(|(key, value)| (*key, value.clone())).collect(), 80);
            assert!(db.update(|tx| Ok::<_, Error>(tx.delete_table(ROWS)?)).unwrap());
            assert_sound(&db);
        }
    }
}

#[test]
fn opening_after_a_crash_needs_no_room() {
    let disk = SimDisk::new();
    let db = tiny().file_bytes_max(100 * 512).create_with_storage(disk.clone()).unwrap();
    let mut model = Model::new();
    fill(&db, &mut model, 50);
    for key in 0..30 {
        remove(&db, &mut model, PLAIN, &[key]);
    }
    let crashed = disk.crash_image(&CrashPlan::nothing(disk.next_operation()));
    let read_only = tiny().file_bytes_max(0).open_read_only_with_storage(crashed.clone()).unwrap();
    assert_eq!(rows(&read_only).unwrap(), model);
    drop(read_only);
    let len = crashed.image().len();
    let db = tiny().file_bytes_max(0).open_with_storage(crashed.clone()).unwrap();
    assert!(!db.open_notes().is_empty());
    assert_eq!(rows(&db).unwrap(), model);
    db.close().unwrap();
    assert!(crashed.image().len() <= len);
}
