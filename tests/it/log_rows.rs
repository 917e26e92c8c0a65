//! The redo log over many commits: every verb that is recorded replays to the same rows, and file and memory stay bounded.

use crate::fixture::{Model, ROWS, Random, SharedBytes, assert_sound, put, put_by_slot, rows, set, tiny, unset, value};
use crate::log::{is_slot, newest_slot, u64_at};
use cowslip::sim::{CrashPlan, OperationKind, SimDisk};
use cowslip::{Builder, CommitError, Database, Error, ReadTransaction, Table, TableDefinition};
use std::collections::BTreeMap;

type Bytes = Vec<u8>;

/// Tables of all shapes of rows, by number.
const NAMES: [&str; 3] = ["first", "second", "third"];

fn definition(index: usize) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
    TableDefinition::new(NAMES[index])
}

/// Contents of the three tables.
type Tables = [BTreeMap<Bytes, Bytes>; 3];

/// What rows a run of random commits is made of.
struct Shape {
    builder: Builder,
    commits: u64,
    key_bytes: &'static [usize],
    value_bytes: &'static [usize],
    /// Of a hundred commits, so many must be logged.
    logged_share: u64,
}

/// One run: a database, its model, and chance.
struct Run<'s> {
    shape: &'s Shape,
    random: Random,
    tables: Tables,
}

impl Run<'_> {
    /// A key that is often met again.
    fn key(&mut self) -> Bytes {
        let len = self.shape.key_bytes[self.random.index(self.shape.key_bytes.len())];
        let few = if len > 1000 { 4 } else { 120 };
        let mut key = self.random.below(few).to_be_bytes().to_vec();
        key.resize(len.max(8), 0x61);
        key
    }

    fn value(&mut self) -> Bytes {
        let len = self.shape.value_bytes[self.random.index(self.shape.value_bytes.len())];
        value(self.random.below(1000), 0, len)
    }

    /// Bounds that hold some of the rows.
    fn bounds(&mut self) -> (Bytes, Bytes) {
        let start = self.random.below(120);
        (start.to_be_bytes().to_vec(), (start + self.random.below(8)).to_be_bytes().to_vec())
    }

    /// One verb on an open table, and on its model.
    fn step(&mut self, index: usize, table: &mut Table<'_, &'static [u8], &'static [u8]>) -> Result<(), Error> {
        let (verb, (from, to)) = (self.random.below(15), self.bounds());
        let (key, value) = (self.key(), self.value());
        let odd = |key: &[u8]| key[7] % 2 == 1;
        let model = &mut self.tables[index];
        let inside = |key: &[u8]| *key >= from[..] && *key < to[..];
        match verb {
            0..=2 => {
                let before = table.insert(&key[..], &value[..])?.map(|guard| guard.value().to_vec());
                assert_eq!(before, model.insert(key, value));
            }
            3 => {
                table.put(&key[..], &value[..])?;
                model.insert(key, value);
            }
            4 => {
                let before = table.remove(&key[..])?.map(|guard| guard.value().to_vec());
                assert_eq!(before, model.remove(&key));
            }
            5 => {
                table.delete(&key[..])?;
                model.remove(&key);
            }
            6 => {
                let mut rows: Vec<_> = (0..4).map(|_| (self.key(), self.value())).collect();
                rows.push((rows[0].0.clone(), b"twice".to_vec()));
                table.put_many(rows.iter().map(|(key, value)| (&key[..], &value[..])))?;
                self.tables[index].extend(rows);
            }
            7 => {
                let popped = table.pop_first()?.map(|(key, _)| key.value().to_vec());
                assert_eq!(popped, model.pop_first().map(|(key, _)| key));
            }
            8 => {
                let popped = table.pop_last()?.map(|(key, _)| key.value().to_vec());
                assert_eq!(popped, model.pop_last().map(|(key, _)| key));
            }
            9 => {
                table.retain(|key, _| !inside(key) || odd(key))?;
                model.retain(|key, _| !inside(key) || odd(key));
            }
            10 => {
                table.retain_in(&from[..]..&to[..], |key, _| odd(key))?;
                model.retain(|key, _| !inside(key) || odd(key));
            }
            11 => {
                table.remove_range(&from[..]..&to[..])?;
                model.retain(|key, _| !inside(key));
            }
            _ => extract(table, model, verb, (&from, &to), odd)?,
        }
        Ok(())
    }

    /// One transaction of a few verbs, which opens tables more than once.
    fn commit(&mut self, db: &Database) -> Result<(), Error> {
        let tx = db.begin_write()?;
        for _ in 0..=self.random.below(3) {
            let index = self.random.index(3);
            let mut table = tx.open_table(definition(index))?;
            for _ in 0..=self.random.below(2) {
                self.step(index, &mut table)?;
            }
        }
        tx.commit()?;
        Ok(())
    }
}

/// Takes a few rows of a range out, from the front, from the back, or from both ends, and leaves the iterator there.
fn extract(
    table: &mut Table<'_, &'static [u8], &'static [u8]>,
    model: &mut BTreeMap<Bytes, Bytes>,
    verb: u64,
    (from, to): (&[u8], &[u8]),
    picks: fn(&[u8]) -> bool,
) -> Result<(), Error> {
    let mut taken = Vec::new();
    if verb == 12 {
        let few = |key: &[u8], _: &[u8]| key >= from && key < to && picks(key);
        for row in table.extract_if(few)?.take(2) {
            taken.push(row?.0.value().to_vec());
        }
    } else {
        let mut rows = table.extract_from_if(from..to, |key, _| picks(key))?;
        for turn in 0..3 {
            let row = if verb == 13 || turn % 2 == 1 { rows.next_back() } else { rows.next() };
            let Some(row) = row else { break };
            taken.push(row?.0.value().to_vec());
        }
    }
    let mut expected: Vec<_> = model.keys().filter(|key| key[..] >= *from && key[..] < *to && picks(key)).collect();
    let count = taken.len();
    for key in &taken {
        let at = expected.iter().position(|left| *left == key).expect("only picked rows are taken");
        expected.remove(at);
    }
    assert!(count >= 2 || expected.is_empty(), "the iterator ended early");
    for key in taken {
        model.remove(&key);
    }
    Ok(())
}

fn contents(read: &ReadTransaction) -> Tables {
    [0, 1, 2].map(|index| {
        let rows = read.open_table(definition(index)).unwrap().iter().unwrap();
        rows.map(|row| row.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())).unwrap()).collect()
    })
}

fn slots(disk: &SimDisk, from: u64) -> usize {
    disk.operations().iter().filter(|operation| operation.number >= from && is_slot(operation.kind)).count()
}

/// Random commits; after each, what a power cut leaves must be the model. Now and then the session goes on there.
fn replays_to_the_model(shape: &Shape, seed: u64) {
    let mut run = Run { shape, random: Random::new(seed), tables: Tables::default() };
    let mut disk = SimDisk::new();
    let mut db = shape.builder.create_with_storage(disk.clone()).unwrap();
    db.update(|tx| (0..3).try_for_each(|index| tx.open_table(definition(index)).map(drop).map_err(Error::from)))
        .unwrap();
    db.update(|tx| {
        for index in 0..3 {
            let rows: Vec<_> = (0..90_u64).map(|key| (key.to_be_bytes().to_vec(), value(key, 0, 20))).collect();
            tx.open_table(definition(index))?.put_many(rows.iter().map(|(key, value)| (&key[..], &value[..])))?;
            run.tables[index].extend(rows);
        }
        Ok::<_, Error>(())
    })
    .unwrap();
    let mut logged = 0;
    for round in 0..shape.commits {
        let (from, pinned, before) = (disk.next_operation(), db.begin_read().unwrap(), run.tables.clone());
        run.commit(&db).unwrap();
        logged += u64::from(disk.next_operation() > from && slots(&disk, from) == 0);
        let crashed = disk.crash_image(&CrashPlan::nothing(disk.next_operation()));
        let again = shape.builder.open_with_storage(crashed.clone()).unwrap();
        assert!(contents(&again.begin_read().unwrap()) == run.tables, "seed {seed}, commit {round}");
        assert!(contents(&db.begin_read().unwrap()) == run.tables, "seed {seed}, commit {round}: in memory");
        assert!(contents(&pinned) == before, "seed {seed}, commit {round}: a snapshot before it");
        if round % 8 == 0 {
            assert_sound(&again);
            assert_sound(&db);
        }
        if run.random.below(20) == 0 {
            drop((pinned, db));
            (disk, db) = (crashed, again);
        }
    }
    assert!(logged * 100 >= shape.commits * shape.logged_share, "seed {seed}: {logged} of {}", shape.commits);
}

#[test]
fn recorded_verbs_replay_to_the_same_rows_in_tiny_nodes() {
    let (key_bytes, value_bytes) = (&[8, 8, 8, 8, 8, 8, 20, 20, 300], &[0, 20, 20, 20, 20, 20, 20, 100, 100, 3000]);
    for (seed, region_units) in [(1, 32), (2, 256), (3, 1024), (6, 64)] {
        let builder = tiny().test_geometry(512, 512, region_units).cache_bytes_max(4 << 20);
        let shape = Shape { builder, commits: 150, key_bytes, value_bytes, logged_share: 25 };
        replays_to_the_model(&shape, seed);
    }
}

#[test]
fn recorded_verbs_replay_to_the_same_rows_in_ordinary_nodes() {
    let (key_bytes, value_bytes) =
        (&[8, 8, 8, 8, 8, 8, 100, 100, 5000], &[0, 100, 100, 100, 100, 100, 100, 3000, 40 << 10]);
    let builder = Builder::new().test_identity([7; 16]).cache_bytes_max(16 << 20);
    let shape = Shape { builder, commits: 80, key_bytes, value_bytes, logged_share: 30 };
    replays_to_the_model(&shape, 4);
}

#[test]
fn recorded_verbs_replay_to_the_same_rows_with_the_longest_keys() {
    let (key_bytes, value_bytes) = (&[8, 8, 8, 30_000, 65_536], &[0, 100, 3000, 40 << 10]);
    let builder = Builder::new().node_bytes(65_536).test_identity([7; 16]).cache_bytes_max(128 << 20);
    let shape = Shape { builder, commits: 40, key_bytes, value_bytes, logged_share: 25 };
    replays_to_the_model(&shape, 5);
}

/// One verb, called in a transaction of its own.
type Verb = fn(&mut Table<'_, u64, &'static [u8]>) -> Result<(), Error>;

const VERBS: [(&str, Verb); 14] = [
    ("insert", |table| {
        drop(table.insert(1000, &[3][..])?);
        Ok(())
    }),
    ("put", |table| Ok(table.put(1000, &[4][..])?)),
    ("remove", |table| {
        drop(table.remove(1000)?);
        Ok(())
    }),
    ("delete", |table| Ok(table.delete(5)?)),
    ("put_many", |table| Ok(table.put_many([(7, &[1][..]), (8, &[2][..])])?)),
    ("pop_first", |table| {
        drop(table.pop_first()?);
        Ok(())
    }),
    ("pop_last", |table| {
        drop(table.pop_last()?);
        Ok(())
    }),
    ("retain", |table| {
        table.retain(|key, _| key != 30)?;
        Ok(())
    }),
    ("retain_in", |table| {
        table.retain_in(20..40, |key, _| key != 31)?;
        Ok(())
    }),
    ("remove_range", |table| {
        table.remove_range(40..42)?;
        Ok(())
    }),
    ("extract_if", |table| {
        drop(table.extract_if(|key, _| key > 50)?.nth(1));
        Ok(())
    }),
    ("extract_if from the back", |table| {
        drop(table.extract_if(|key, _| key > 50)?.nth_back(1));
        Ok(())
    }),
    ("extract_from_if", |table| {
        drop(table.extract_from_if(60.., |_, _| true)?.next());
        Ok(())
    }),
    ("several", |table| {
        table.put(70, &[7][..])?;
        table.pop_first()?;
        table.retain(|key, _| key != 71)?;
        Ok(table.delete(70)?)
    }),
];

#[test]
fn every_verb_that_changes_a_few_rows_is_logged() {
    let disk = SimDisk::new();
    let mut model = Model::new();
    let db = tiny().create_with_storage(disk.clone()).unwrap();
    set(&db, &mut model, 0..90, 1, 30);
    let mut direct = Vec::new();
    for (name, verb) in VERBS {
        // A direct commit leaves a log without records.
        set(&db, &mut model, 9..10, 0, 10);
        put_by_slot(&db, 9..10, 1, 10);
        let from = disk.next_operation();
        db.update(|tx| verb(&mut tx.open_table(ROWS)?)).unwrap();
        let operations = disk.operations();
        let asked = operations.iter().filter(|operation| operation.number >= from);
        // The file may grow ahead of what will be written later.
        if slots(&disk, from) > 0
            || asked.filter(|it| !matches!(it.kind, OperationKind::Preallocate { .. })).count() != 1
        {
            direct.push(name);
        }
        let crashed = disk.crash_image(&CrashPlan::nothing(disk.next_operation()));
        assert_eq!(rows(&tiny().open_with_storage(crashed).unwrap()).unwrap(), rows(&db).unwrap(), "{name}");
    }
    assert!(direct.is_empty(), "{direct:?}");
}

/// The log that the newest slot names, in units, if it names one.
fn log_units(image: &[u8]) -> Option<u64> {
    let at = newest_slot(image) + 368;
    (u64_at(image, at) > 0).then(|| u64_at(image, at + 8))
}

#[test]
fn ten_thousand_small_commits_keep_file_and_log_bounded() {
    let storage = SharedBytes::default();
    let builder = Builder::new().test_identity([7; 16]).cache_bytes_max(4 << 20).log_bytes_max(256 << 10);
    let db = builder.create_with_storage(storage.clone()).unwrap();
    let mut model = Model::new();
    set(&db, &mut model, 0..1000, 0, 1000);
    let (mut longest, mut longest_log) = (0, 0);
    let written = storage.written_bytes.load(std::sync::atomic::Ordering::Relaxed);
    for round in 0..10_000 {
        set(&db, &mut model, round % 1000..round % 1000 + 1, round, 100);
        if round % 100 == 0 {
            let bytes = storage.bytes.lock().unwrap();
            longest = longest.max(bytes.len());
            longest_log = longest_log.max(log_units(&bytes).unwrap_or(0));
        }
    }
    let written = storage.written_bytes.load(std::sync::atomic::Ordering::Relaxed) - written;
    let by_record = 10_000 * 4096;
    assert!(written < by_record * 3, "{written} bytes: most commits write one unit");
    assert!((8..=64).contains(&longest_log), "a log of {longest_log} units grows to what is allowed");
    assert!(longest < 8 << 20, "{longest} bytes");
    assert_sound(&db);
    assert!(found(&builder, &storage.image()) == model);
    db.close().unwrap();
    let image = storage.image();
    assert_eq!(log_units(&image), None);
    assert!(image.len() < 2 << 20, "{} bytes", image.len());
    assert!(found(&builder, &image) == model);
}

#[test]
fn a_log_gets_longer_where_many_commits_wait_to_be_written_as_one() {
    let storage = SharedBytes::default();
    let builder = Builder::new().test_identity([7; 16]).sync_delay_max(std::time::Duration::from_secs(3600));
    let db = builder.create_with_storage(storage).unwrap();
    let mut model = Model::new();
    set(&db, &mut model, 0..4000, 0, 1000);
    let before = db.stats().commits;
    for round in 0..200 {
        let mut tx = db.begin_write().unwrap();
        tx.set_durability(cowslip::Durability::Buffered).unwrap();
        tx.open_table(ROWS).unwrap().put(round, &value(round, round, 50)[..]).unwrap();
        tx.commit().unwrap();
        model.insert(round, value(round, round, 50));
    }
    let (after, capacity_bytes) = (db.stats().commits, db.stats().log.capacity_bytes);
    assert!(after.slot - before.slot <= 2, "the first commit begins a log, and another makes it longer: {after:?}");
    assert!(capacity_bytes > 64 * 4096, "{capacity_bytes} bytes");
    assert!(rows(&db).unwrap() == model);
    assert_sound(&db);
}

/// Rows of a copy.
fn found(builder: &Builder, image: &[u8]) -> Model {
    let db = builder.open_with_storage(SharedBytes::of(image.to_vec())).unwrap();
    assert_sound(&db);
    rows(&db).unwrap()
}

#[test]
fn logged_pages_wait_in_a_quarter_of_the_memory_budget() {
    const BUDGET: u64 = 128 << 10;
    let disk = SimDisk::new();
    let builder = tiny().test_geometry(512, 512, 1024).cache_bytes_max(1 << 17);
    let db = builder.create_with_storage(disk.clone()).unwrap();
    let mut model = Model::new();
    set(&db, &mut model, 0..4000, 0, 40);
    let (mut longest, mut logged, mut segment_units) = (0, 0, 0);
    for round in 0..600 {
        let from = disk.next_operation();
        disk.reset_stats();
        let key = round * 37 % 4000;
        set(&db, &mut model, key..key + 1, round, 40);
        match slots(&disk, from) {
            0 => logged += 1,
            // What is written is what waited, the commit itself, now and then a blank segment, bitmaps and two blocks.
            _ => {
                let kept = log_units(&disk.image()) == Some(segment_units);
                segment_units = log_units(&disk.image()).unwrap_or(0);
                let blank_bytes = if kept { 0 } else { segment_units * 512 };
                longest = longest.max(disk.stats().bytes_written - blank_bytes);
            }
        }
    }
    assert!(longest < BUDGET / 4 + 16 * 1024, "{longest} bytes waited");
    assert!(longest > BUDGET / 8 && logged > 300, "{longest} bytes, {logged} logged: memory was what filled up");
    let crashed = disk.crash_image(&CrashPlan::nothing(disk.next_operation()));
    assert!(found(&builder, &crashed.image()) == model);
}

#[test]
fn a_full_disk_leaves_small_commits_and_deletions_possible_or_fails_them_cleanly() {
    let mut outcomes = [0; 2];
    for spare_units in 0..24 {
        let disk = SimDisk::new();
        let mut model = Model::new();
        let db = tiny().create_with_storage(disk.clone()).unwrap();
        set(&db, &mut model, 0..60, 0, 100);
        db.close().unwrap();
        let db = tiny().open_with_storage(disk.clone()).unwrap();
        disk.set_capacity_bytes(disk.image().len() as u64 + spare_units * 512);
        for round in 0..24 {
            let key = round * 7 % 60;
            let deletes = round % 3 == 2;
            let outcome = db.update(|tx| {
                let mut table = tx.open_table(ROWS)?;
                if deletes {
                    table.delete(key)?;
                } else {
                    table.put(key, &value(key, round, 90)[..])?;
                }
                Ok::<_, Error>(())
            });
            outcomes[usize::from(outcome.is_ok())] += 1;
            match outcome {
                Ok(()) if deletes => drop(model.remove(&key)),
                Ok(()) => drop(model.insert(key, value(key, round, 90))),
                Err(Error::Commit(CommitError::Aborted(error))) => assert!(error.is_out_of_space(), "{error}"),
                Err(error) => assert!(error.is_out_of_space(), "{spare_units} units, commit {round}: {error}"),
            }
            assert!(rows(&db).unwrap() == model, "{spare_units} units, commit {round}");
            let crashed = disk.crash_image(&CrashPlan::nothing(disk.next_operation()));
            assert!(found(&tiny(), &crashed.image()) == model, "{spare_units} units, commit {round}: after a crash");
        }
        if spare_units >= 12 {
            unset(&db, &mut model, 0..60);
            assert!(model.is_empty());
        }
        disk.set_capacity_bytes(u64::MAX);
        set(&db, &mut model, 0..5, 3, 20);
        db.close().unwrap();
        assert!(found(&tiny(), &disk.image()) == model);
    }
    assert!(outcomes[0] > 20 && outcomes[1] > 200, "{outcomes:?}");
}

#[test]
fn closing_after_logged_commits_leaves_no_log_and_a_file_as_short_as_without() {
    for count in 1..12 {
        let lens = [false, true].map(|by_slot| {
            let disk = SimDisk::new();
            let mut model = Model::new();
            let db = tiny().create_with_storage(disk.clone()).unwrap();
            set(&db, &mut model, 0..100, 0, 40);
            for round in 0..count {
                model.insert(round * 8, value(round * 8, round, 40));
                let keys = round * 8..round * 8 + 1;
                if by_slot { put_by_slot(&db, keys, round, 40) } else { put(&db, keys, round, 40).unwrap() }
            }
            db.close().unwrap();
            assert_eq!(log_units(&disk.image()), None);
            let before = disk.next_operation();
            let db = tiny().open_with_storage(disk.clone()).unwrap();
            assert!(db.open_notes().is_empty(), "{:?}", db.open_notes());
            assert!(rows(&db).unwrap() == model);
            assert_sound(&db);
            db.close().unwrap();
            assert_eq!(disk.next_operation(), before, "there is nothing left to write");
            disk.image().len() / 512
        });
        // Two segments of four units may leave gaps among the pages, and so may the room for the next region table.
        assert!(lens[0] <= lens[1] + 12, "{count} commits: {lens:?} units");
    }
}
