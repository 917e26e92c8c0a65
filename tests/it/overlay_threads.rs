//! Writers with every durability, readers and the thread for checkpoints, all at once on a real file.
//!
//! Invariant: a reader sees a commit whole or not at all, also while it becomes part of the trees; and what was durable
//! is there after the close, and after a copy of the file was opened without one.

use crate::fixture::{Random, assert_sound, value};
use cowslip::{Builder, CloseError, Database, Durability, Error, ReadTransaction, TableDefinition};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const LEFT: TableDefinition<u64, u64> = TableDefinition::new("left");
const RIGHT: TableDefinition<u64, u64> = TableDefinition::new("right");
const FILL: TableDefinition<u64, &[u8]> = TableDefinition::new("fill");

/// Accounts on each side, and what all of them hold together.
const ACCOUNTS: u64 = 200;
const SUM: u64 = 2 * ACCOUNTS * 1000;

fn builder() -> Builder {
    Builder::new().log_bytes_max(256 << 10).cache_bytes_max(4 << 20).sync_delay_max(Duration::from_millis(2))
}

fn opened(db: &Database) {
    db.update(|tx| {
        let (mut left, mut right) = (tx.open_table(LEFT)?, tx.open_table(RIGHT)?);
        for account in 0..ACCOUNTS {
            left.insert(account, 1000)?;
            right.insert(account, 1000)?;
        }
        // The file is long enough for a log of more than a few records.
        let mut fill = tx.open_table(FILL)?;
        for key in 0..2000 {
            fill.put(key, &value(key, 0, 1000)[..])?;
        }
        Ok::<_, Error>(())
    })
    .unwrap();
}

fn sum(reader: &ReadTransaction) -> Result<u64, Error> {
    let mut sum = 0;
    for side in [LEFT, RIGHT] {
        let side = reader.open_table(side)?;
        for row in side.iter()? {
            sum += row?.1.value();
        }
    }
    Ok(sum)
}

/// Moves something from a side to the other. An account with nothing left has no row.
fn transfer(db: &Database, random: &mut Random, durability: Durability, own: u64) -> Result<(), Error> {
    let mut tx = db.begin_write()?;
    tx.set_durability(durability).unwrap();
    let (mut left, mut right) = (tx.open_table(LEFT)?, tx.open_table(RIGHT)?);
    for _ in 0..1 + random.below(3) {
        let (from, to) = match random.below(2) {
            0 => (&mut left, &mut right),
            _ => (&mut right, &mut left),
        };
        let (source, target) = (random.below(ACCOUNTS), random.below(ACCOUNTS));
        let held = from.get(source)?.map_or(0, |held| held.value());
        let amount = if random.below(4) == 0 { held } else { held / 3 };
        if held == amount {
            from.remove(source)?;
        } else {
            from.insert(source, held - amount)?;
        }
        let before = to.get(target)?.map_or(0, |held| held.value());
        to.put(target, before + amount)?;
    }
    drop((left, right));
    let key = own << 32 | random.below(300);
    tx.open_table(FILL)?.put(key, &value(key, own, random.index(400))[..])?;
    tx.set_two_phase_commit(random.below(200) == 0);
    if random.below(20) == 0 {
        tx.abort()?;
    } else {
        tx.commit()?;
    }
    Ok(())
}

/// Runs four writers and two readers until a time is over; says how many commits there were.
fn run(db: &Database, seed: u64, lasts: Duration) -> u64 {
    let (is_over, commits, begun) = (AtomicBool::new(false), AtomicU64::new(0), Instant::now());
    thread::scope(|scope| {
        let writers: Vec<_> = (0..4)
            .map(|own| {
                let (commits, is_over) = (&commits, &is_over);
                scope.spawn(move || {
                    let mut random = Random::new(seed << 8 | own);
                    while !is_over.load(Ordering::Relaxed) && begun.elapsed() < lasts {
                        let durabilities = [Durability::None, Durability::Buffered, Durability::Immediate];
                        let durability = durabilities[random.index(3)];
                        transfer(db, &mut random, durability, own).unwrap();
                        commits.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for number in 0..2 {
            let is_over = &is_over;
            scope.spawn(move || {
                let mut held: Vec<(ReadTransaction, u64)> = Vec::new();
                let mut last = 0;
                while !is_over.load(Ordering::Relaxed) {
                    let reader = db.begin_read().unwrap();
                    assert_eq!(sum(&reader).unwrap(), SUM, "at {}", reader.id());
                    assert!(reader.id().get() >= last, "versions appear in their order");
                    last = reader.id().get();
                    let fill = reader.open_table(FILL).unwrap();
                    let rows = fill.iter().unwrap().map(|row| drop(row.unwrap())).count() as u64;
                    assert_eq!(rows, fill.len().unwrap());
                    held.push((reader, rows));
                    if held.len() > 10 * number + 2 {
                        for (reader, rows) in held.drain(..) {
                            assert_eq!(sum(&reader).unwrap(), SUM, "later, at {}", reader.id());
                            assert_eq!(reader.open_table(FILL).unwrap().iter().unwrap().count() as u64, rows);
                        }
                    }
                }
            });
        }
        let ended: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        is_over.store(true, Ordering::Relaxed);
        assert!(ended.iter().all(|ended| ended.is_ok()), "a writer panicked");
    });
    commits.into_inner()
}

#[test]
fn readers_see_whole_commits_while_writers_commit_and_a_thread_folds() {
    for seed in 0..3 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("accounts");
        let mut db = builder().create(&path).unwrap();
        opened(&db);
        for session in 0..3 {
            let before = db.stats().checkpoints.finished;
            let commits = run(&db, seed * 10 + session, Duration::from_millis(700));
            let checkpoints = db.stats().checkpoints.finished - before;
            assert!(commits > 20, "{commits} commits, {checkpoints} checkpoints");
            assert_eq!(sum(&db.begin_read().unwrap()).unwrap(), SUM);
            assert_sound(&db);
            db.sync().unwrap();
            let fill = db.begin_read().unwrap().open_table(FILL).unwrap().iter().unwrap().count();
            // What a crash of the process leaves now.
            let copied = folder.path().join("copy");
            std::fs::copy(&path, &copied).unwrap();
            let copy = builder().open(&copied).unwrap();
            assert_eq!(sum(&copy.begin_read().unwrap()).unwrap(), SUM);
            assert_eq!(copy.begin_read().unwrap().open_table(FILL).unwrap().iter().unwrap().count(), fill);
            assert_sound(&copy);
            copy.close().unwrap();
            db.close().unwrap();
            db = builder().open(&path).unwrap();
            assert!(db.open_notes().is_empty());
            assert_eq!(sum(&db.begin_read().unwrap()).unwrap(), SUM);
            assert_sound(&db);
        }
    }
}

#[test]
fn a_database_that_is_closed_while_it_is_busy_keeps_all_that_was_committed() {
    for seed in 0..12 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("accounts");
        let db = builder().create(&path).unwrap();
        opened(&db);
        let (told, started) = (AtomicU64::new(0), Barrier::new(5));
        thread::scope(|scope| {
            for own in 0..4 {
                let (db, told, started) = (db.clone(), &told, &started);
                scope.spawn(move || {
                    let mut random = Random::new(seed << 8 | own);
                    started.wait();
                    for round in 0..30 + 20 * own {
                        let durability = [Durability::None, Durability::Buffered][random.index(2)];
                        transfer(&db, &mut random, durability, own).unwrap();
                        let count = round + 1;
                        db.update(|tx| Ok::<_, Error>(tx.open_table(FILL)?.put(9 << 40 | own << 20 | count, &[][..])?))
                            .unwrap();
                        told.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            started.wait();
            // The threads still use it: whoever is the last closes it, beside a checkpoint that may be under way.
            assert!(matches!(db.close(), Err(CloseError::InUse(_)) | Ok(())));
        });
        let db = builder().open(&path).unwrap();
        assert!(db.open_notes().is_empty(), "{:?}", db.open_notes());
        let reader = db.begin_read().unwrap();
        assert_eq!(sum(&reader).unwrap(), SUM, "seed {seed}");
        let counted = reader.open_table(FILL).unwrap().range(9 << 40..).unwrap().count() as u64;
        assert_eq!(counted, told.into_inner(), "seed {seed}");
        assert_sound(&db);
    }
}

#[test]
fn tables_of_one_transaction_can_be_changed_by_several_threads() {
    const NAMES: [&str; 4] = ["north", "east", "south", "west"];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tables");
    let db = builder().create(&path).unwrap();
    db.update(|tx| {
        for name in NAMES {
            let mut table = tx.open_table(TableDefinition::<u64, &[u8]>::new(name))?;
            (0..2000).try_for_each(|key| table.put(key, &value(key, 0, 40)[..]))?;
        }
        Ok::<_, Error>(())
    })
    .unwrap();
    let mut models = NAMES.map(|_| (0..2000).map(|key| (key, value(key, 0, 40))).collect::<crate::fixture::Model>());
    for round in 1..120_u64 {
        let mut tx = db.begin_write().unwrap();
        tx.set_two_phase_commit(round % 17 == 0);
        let is_aborted = round % 7 == 0;
        let before = models.clone();
        thread::scope(|scope| {
            for (index, (name, model)) in NAMES.iter().zip(&mut models).enumerate() {
                let tx = &tx;
                scope.spawn(move || {
                    let mut random = Random::new(round << 8 | index as u64);
                    let mut table = tx.open_table(TableDefinition::<u64, &[u8]>::new(name)).unwrap();
                    // Together with the others it may come to more than is recorded, while they are at it.
                    let count = if round % 10 == 3 { 1500 } else { 1 + random.below(20) };
                    for _ in 0..count {
                        let key = random.below(3000);
                        let bytes = value(key, round, random.index(400));
                        if random.below(3) == 0 {
                            let removed = table.remove(key).unwrap();
                            assert!(removed.map(|value| value.value().to_vec()) == model.remove(&key));
                        } else {
                            let old = table.insert(key, &bytes[..]).unwrap();
                            assert!(old.map(|value| value.value().to_vec()) == model.insert(key, bytes));
                        }
                    }
                    if round % 20 == 7 {
                        let below = random.below(600);
                        let gone = table.retain(|key, _| key >= below).unwrap();
                        let was = model.len();
                        model.retain(|key, _| *key >= below);
                        assert_eq!(gone, (was - model.len()) as u64);
                    }
                    assert_eq!(table.len().unwrap(), model.len() as u64);
                });
            }
        });
        if is_aborted {
            tx.abort().unwrap();
            models = before;
        } else {
            tx.commit().unwrap();
        }
        let reader = db.begin_read().unwrap();
        for (name, model) in NAMES.iter().zip(&models) {
            let table = reader.open_table(TableDefinition::<u64, &[u8]>::new(name)).unwrap();
            let rows = table.iter().unwrap().map(|row| row.unwrap());
            let found: crate::fixture::Model = rows.map(|(key, value)| (key.value(), value.value().to_vec())).collect();
            assert!(found == *model, "round {round}, {name}");
            assert_eq!(table.len().unwrap(), model.len() as u64, "round {round}, {name}");
        }
    }
    assert_sound(&db);
}
