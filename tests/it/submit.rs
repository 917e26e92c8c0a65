//! Closures of several threads in one transaction.
//!
//! Invariant: what a closure did that succeeded is there once it has returned, and nothing of one that failed; whatever the
//! others do.

use crate::fixture::{Model, ROWS, SharedBytes, assert_sound, put_by_slot, rows, tiny, value};
use crate::gated::{self, Fate};
use cowslip::sim::{CrashPlan, SimDisk};
use cowslip::{
    Builder, CommitError, Database, Durability, Error, StorageError, TableDefinition, TableError, TransactionError,
    WriteTransaction,
};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

const COUNTS: TableDefinition<'static, u64, u64> = TableDefinition::new("counts");

/// Why a closure of these tests fails.
#[derive(Debug)]
enum Failure {
    Asked,
    Store(#[expect(dead_code, reason = "shown where a test fails")] Error),
}

macro_rules! failure_from {
    ($($error:ty),*) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::Store(error.into())
            }
        }
    )*};
}

failure_from!(Error, TransactionError, TableError, StorageError, CommitError);

fn counts(db: &Database) -> BTreeMap<u64, u64> {
    let read = db.begin_read().unwrap();
    let table = read.open_table(COUNTS).unwrap();
    table.iter().unwrap().map(|row| row.map(|(key, value)| (key.value(), value.value())).unwrap()).collect()
}

fn with_counts(builder: &Builder) -> Database {
    let db = builder.create_with_storage(SharedBytes::default()).unwrap();
    db.update(|tx| tx.open_table(COUNTS)?.insert(0, 0).map(drop).map_err(Error::from)).unwrap();
    db
}

fn add(tx: &WriteTransaction, key: u64) -> Result<u64, Error> {
    let mut table = tx.open_table(COUNTS)?;
    let count = table.get(key)?.map_or(0, |count| count.value()) + 1;
    table.insert(key, count)?;
    Ok(count)
}

#[test]
fn what_a_closure_returns_is_what_it_read_and_it_is_there_when_submit_returns() {
    let db = with_counts(&Builder::new());
    let seen = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for thread in 1..=6 {
            let (db, seen) = (&db, &seen);
            scope.spawn(move || {
                for round in 1..=60 {
                    let all = db.submit(|tx| {
                        assert_eq!(add(tx, thread)?, round);
                        add(tx, 0)
                    });
                    seen.lock().unwrap().push(all.unwrap());
                    let read = db.begin_read().unwrap();
                    let own = read.open_table(COUNTS).unwrap().get(thread).unwrap().unwrap().value();
                    assert_eq!(own, round, "nobody else counts for this thread");
                }
            });
        }
    });
    let mut seen = seen.into_inner().unwrap();
    seen.sort_unstable();
    assert!(seen.into_iter().eq(1..=360), "each closure saw what those before it did");
    assert_eq!(counts(&db), (1..=6).map(|key| (key, 60)).chain([(0, 360)]).collect());
}

#[test]
fn closures_that_fail_or_panic_leave_nothing_and_take_nothing_of_the_others() {
    let db = with_counts(&Builder::new());
    thread::scope(|scope| {
        for thread in 1..=6_u64 {
            let db = &db;
            scope.spawn(move || {
                for round in 0..80 {
                    let ends = (thread + round) % 4;
                    let outcome = catch_unwind(AssertUnwindSafe(|| {
                        db.submit(|tx| {
                            add(tx, thread * 100 + ends)?;
                            add(tx, 0)?;
                            // A table that only this closure has opened, in this transaction.
                            tx.open_table(ROWS)?.insert(thread * 1000 + round, &[7; 50][..])?;
                            match ends {
                                2 => Err(Failure::Asked),
                                3 => std::panic::resume_unwind(Box::new("asked")),
                                _ => Ok(()),
                            }
                        })
                    }));
                    match (ends, outcome) {
                        (2, Ok(Err(Failure::Asked))) | (3, Err(_)) | (0 | 1, Ok(Ok(()))) => {}
                        (_, outcome) => panic!("{ends}: {outcome:?}"),
                    }
                }
            });
        }
    });
    let own = (1..=6).flat_map(|thread| [(thread * 100, 20), (thread * 100 + 1, 20)]);
    assert_eq!(counts(&db), own.chain([(0, 240)]).collect());
    assert_eq!(rows(&db).unwrap().len(), 240);
    assert_sound(&db);
}

#[test]
fn a_closure_that_fails_after_it_changed_tables_themselves_is_undone_and_the_others_run_again() {
    let db = with_counts(&Builder::new());
    let runs = AtomicU64::new(0);
    thread::scope(|scope| {
        for thread in 1..=4_u64 {
            let (db, runs) = (&db, &runs);
            scope.spawn(move || {
                for round in 0..30 {
                    let name = format!("of {thread} in {round}");
                    let outcome = db.submit(|tx| {
                        runs.fetch_add(1, Ordering::Relaxed);
                        add(tx, thread)?;
                        if thread == 1 {
                            tx.open_table(TableDefinition::<u64, u64>::new(&name))?.insert(round, round)?;
                        }
                        if thread == 1 && round % 2 == 0 { Err(Failure::Asked) } else { Ok(()) }
                    });
                    assert_eq!(outcome.is_err(), thread == 1 && round % 2 == 0, "{outcome:?}");
                }
            });
        }
    });
    assert!(runs.into_inner() >= 120);
    assert_eq!(counts(&db), [(0, 0), (1, 15), (2, 30), (3, 30), (4, 30)].into());
    assert_eq!(db.begin_read().unwrap().list_tables().unwrap().count(), 16);
    assert_sound(&db);
}

#[test]
fn a_handle_that_a_closure_forgets_fails_that_closure_alone() {
    let db = with_counts(&Builder::new());
    thread::scope(|scope| {
        for thread in 1..=4_u64 {
            let db = &db;
            scope.spawn(move || {
                for _ in 0..20 {
                    let outcome = db.submit(|tx| {
                        add(tx, thread)?;
                        if thread == 1 {
                            std::mem::forget(tx.open_table(COUNTS)?);
                        }
                        Ok::<_, Error>(())
                    });
                    let is_leaked =
                        matches!(&outcome, Err(Error::Commit(CommitError::TableLeaked(name))) if &**name == "counts");
                    assert!(if thread == 1 { is_leaked } else { outcome.is_ok() }, "{outcome:?}");
                }
            });
        }
    });
    assert_eq!(counts(&db), [(0, 0), (2, 20), (3, 20), (4, 20)].into());
}

/// Has so many threads set a row each, while the turn to write is somebody else's; gives it to them after `ready`.
fn crowd<T: Send + 'static>(
    db: &Database,
    keys: std::ops::Range<u64>,
    ready: impl FnOnce(),
    done: impl Fn(&WriteTransaction) -> T + Clone + Send + 'static,
) -> Vec<thread::Result<Result<T, Error>>> {
    let turn = db.begin_write().unwrap();
    let submit = |key: u64| {
        let (db, done) = (db.clone(), done.clone());
        thread::spawn(move || {
            db.submit(|tx| {
                tx.open_table(ROWS)?.insert(key, &value(key, 1, 20)[..])?;
                Ok::<_, Error>(done(tx))
            })
        })
    };
    let threads: Vec<_> = keys.map(submit).collect();
    thread::sleep(Duration::from_millis(20));
    ready();
    drop(turn);
    threads.into_iter().map(thread::JoinHandle::join).collect()
}

#[test]
fn closures_that_come_while_another_writes_share_one_transaction_and_one_record() {
    let (disk, db, _) = gated::started(&gated::builder());
    gated::commit(&db, Durability::Immediate, 50);
    // Where a thread comes late they are two.
    for round in 0..100 {
        let before = (db.stats().commits.log, disk.forced());
        let ids = crowd(&db, 100..108, || {}, WriteTransaction::id);
        let after = (db.stats().commits.log, disk.forced());
        let mut ids: Vec<_> = ids.into_iter().map(|id| id.unwrap().unwrap()).collect();
        ids.dedup();
        if ids.len() == 1 {
            assert_eq!((after.0 - before.0, after.1 - before.1), (1, 1), "round {round}");
            return;
        }
    }
    panic!("eight threads never shared one transaction");
}

#[test]
fn without_room_for_all_those_that_fit_by_themselves_are_committed() {
    let disk = SimDisk::new();
    let db = Arc::new(tiny().create_with_storage(disk.clone()).unwrap());
    put_by_slot(&db, 0..20, 0, 300);
    put_by_slot(&db, 20..21, 0, 30);
    disk.set_capacity_bytes(cowslip::Storage::len(&disk).unwrap() + 4096);
    let turn = db.begin_write().unwrap();
    let threads: Vec<_> = (0..6_u64)
        .map(|thread| {
            let db = Arc::clone(&db);
            thread::spawn(move || {
                // The last one is far too large.
                let len = if thread == 5 { 60_000 } else { 40 };
                let key = 1000 + thread;
                (
                    key,
                    len,
                    db.submit(|tx| {
                        tx.open_table(ROWS)?.insert(key, &value(key, 1, len)[..])?;
                        Ok::<_, Error>(())
                    }),
                )
            })
        })
        .collect();
    thread::sleep(Duration::from_millis(100));
    drop(turn);
    let mut model: Model = (0..20).map(|key| (key, value(key, 0, 300))).chain([(20, value(20, 0, 30))]).collect();
    let mut failed = 0;
    for thread in threads {
        let (key, len, outcome) = thread.join().unwrap();
        match outcome {
            Ok(()) => drop(model.insert(key, value(key, 1, len))),
            Err(error) => {
                assert!(error.is_out_of_space(), "{error}");
                failed += 1;
            }
        }
    }
    assert!((1..6).contains(&failed), "{failed} failed");
    assert!(rows(&db).unwrap() == model);
}

#[test]
fn where_writing_fails_those_who_share_the_transaction_are_told_and_nobody_waits_for_ever() {
    for fate in [Fate::Refused, Fate::DoneInDoubt, Fate::Panic] {
        let (disk, db, model) = gated::started(&gated::builder());
        gated::commit(&db, Durability::Immediate, 50);
        let outcomes = crowd(&db, 100..106, || disk.set_fate(fate), WriteTransaction::id);
        let is_in_doubt = |outcome: &thread::Result<Result<_, Error>>| {
            matches!(outcome, Err(_) | Ok(Err(Error::Commit(CommitError::InDoubt(_)))))
        };
        assert!(outcomes.iter().any(is_in_doubt), "{fate:?}: {outcomes:?}");
        assert!(!outcomes.iter().any(|outcome| matches!(outcome, Ok(Ok(_)))), "{fate:?}: {outcomes:?}");
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_err()).count(), usize::from(fate == Fate::Panic));
        let found = rows(&gated::builder().open_with_storage(disk.crashed()).unwrap()).unwrap();
        assert!(found.len() > model.len(), "{fate:?}: what was acknowledged is there");
    }
}

/// Sets rows that take more than a record may.
fn set_large(tx: &WriteTransaction, round: u64) -> Result<(), Error> {
    let mut rows = tx.open_table(ROWS)?;
    (0..30).try_for_each(|key| rows.put(key, &value(key, round, 40_000)[..]))?;
    Ok(())
}

fn large(round: u64) -> Model {
    (0..30).map(|key| (key, value(key, round, 40_000))).collect()
}

#[test]
fn a_closure_that_changes_more_than_a_record_holds_commits_by_a_slot_or_leaves_nothing() {
    let (disk, builder) = (SimDisk::new(), gated::builder());
    let db = builder.create_with_storage(disk.clone()).unwrap();
    put_by_slot(&db, 0..1, 0, 30);
    put_by_slot(&db, 0..1, 1, 30);
    let before = db.stats().commits;
    db.submit(|tx| set_large(tx, 2)).unwrap();
    let after = db.stats().commits;
    assert_eq!((after.slot - before.slot, after.log - before.log), (1, 0));
    let found = builder.open_with_storage(disk.crash_image(&CrashPlan::nothing(disk.next_operation()))).unwrap();
    assert!(rows(&found).unwrap() == large(2), "it is durable");
    let failed = db.submit(|tx| set_large(tx, 3).map_err(Failure::from).and(Err::<(), _>(Failure::Asked)));
    assert!(matches!(failed, Err(Failure::Asked)), "{failed:?}");
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        db.submit(|tx| -> Result<(), Error> {
            set_large(tx, 4)?;
            std::panic::resume_unwind(Box::new("asked"))
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(db.stats().commits.total(), after.total());
    assert!(rows(&db).unwrap() == large(2));
    db.submit(|tx| set_large(tx, 5)).unwrap();
    assert!(rows(&db).unwrap() == large(5));
    assert_sound(&db);
}

#[test]
fn small_closures_beside_one_that_changes_more_than_a_record_holds_are_each_committed_once() {
    let (disk, builder) = (SimDisk::new(), gated::builder());
    let db = builder.create_with_storage(disk.clone()).unwrap();
    db.update(|tx| set_large(tx, 0).and_then(|()| add(tx, 0))).unwrap();
    thread::scope(|scope| {
        let db = &db;
        scope.spawn(move || {
            for round in 1..=8 {
                let outcome = db.submit(|tx| {
                    add(tx, 0)?;
                    set_large(tx, round)?;
                    if round % 2 == 0 { Err(Failure::Asked) } else { Ok(()) }
                });
                assert_eq!(outcome.is_err(), round % 2 == 0, "{outcome:?}");
            }
        });
        for thread in 1..=3 {
            scope.spawn(move || {
                for round in 1..=40 {
                    let count = db.submit(|tx| add(tx, thread)).unwrap();
                    assert_eq!(count, round, "nobody else counts for this thread");
                }
            });
        }
    });
    let found = builder.open_with_storage(disk.crash_image(&CrashPlan::nothing(disk.next_operation()))).unwrap();
    for db in [db, found] {
        assert_eq!(counts(&db), [(0, 5), (1, 40), (2, 40), (3, 40)].into());
        assert!(rows(&db).unwrap() == large(7));
        assert_sound(&db);
    }
}

#[test]
fn submit_waits_for_nothing_where_commits_of_the_database_do_not() {
    for durability in [Durability::None, Durability::Buffered] {
        let builder = gated::builder().durability(durability);
        let (disk, db, mut model) = gated::started(&builder);
        gated::commit(&db, Durability::Immediate, 50);
        model.insert(50, value(50, 1, 30));
        let before = (db.stats().commits.log, disk.forced());
        // Whoever writes a record now comes to no end.
        disk.close();
        for outcome in crowd(&db, 100..106, || {}, WriteTransaction::id) {
            outcome.unwrap().unwrap();
        }
        let after = (db.stats().commits.log, disk.forced());
        assert!(after.0 > before.0 && after.1 == before.1, "{durability:?}: {before:?}, {after:?}");
        let crashed = || rows(&builder.open_with_storage(disk.crashed()).unwrap()).unwrap();
        assert!(crashed() == model, "{durability:?}: nothing of it is on the disk");
        model.extend((100..106).map(|key| (key, value(key, 1, 20))));
        assert!(rows(&db).unwrap() == model, "{durability:?}: readers see it");
        disk.open();
        db.sync().unwrap();
        assert!(crashed() == model, "{durability:?}: it is durable");
    }
}

#[test]
fn submit_is_refused_where_the_database_is_open_for_reading_only() {
    let bytes = SharedBytes::default();
    let db = Builder::new().create_with_storage(bytes.clone()).unwrap();
    db.update(|tx| add(tx, 0)).unwrap();
    db.close().unwrap();
    let image = bytes.image();
    let db = Builder::new().open_read_only_with_storage(bytes.clone()).unwrap();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10 {
                    let outcome = db.submit(|_| -> Result<(), Error> { unreachable!("there is no transaction") });
                    assert!(matches!(outcome, Err(Error::Transaction(TransactionError::ReadOnly))), "{outcome:?}");
                }
            });
        }
    });
    assert_eq!(counts(&db), [(0, 1)].into());
    drop(db);
    assert!(bytes.image() == image);
}
