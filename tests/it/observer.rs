//! What an observer is told, and that it can do no harm.
//!
//! Invariant: an observer is called in the order in which things happened, holds nothing up, and may panic or use the
//! database.

use crate::fixture::{ROWS, assert_sound, put, rows, tiny, value};
use crate::gated::{self, Fate, NEVER, commit, join, queue, started};
use cowslip::sim::{Fault, SimDisk};
use cowslip::{
    CheckpointBegunEvent, CheckpointEvent, CheckpointFailedEvent, CommitEvent, CommitKind, Database, Durability,
    LogWriteEvent, Observer, PoisonedEvent, RecoveryReport, SyncEvent,
};
use std::io::ErrorKind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

#[derive(Debug, Clone, PartialEq)]
enum Told {
    Opened(RecoveryReport),
    Committed(CommitEvent),
    LogWritten(LogWriteEvent),
    Synced(SyncEvent),
    CheckpointBegun(CheckpointBegunEvent),
    CheckpointFinished(CheckpointEvent),
    CheckpointFailed(CheckpointFailedEvent),
    Poisoned(PoisonedEvent),
}

/// Keeps all that it is told.
#[derive(Debug, Default)]
struct Recorder {
    told: Mutex<Vec<Told>>,
}

impl Recorder {
    fn add(&self, told: Told) {
        self.told.lock().unwrap().push(told);
    }

    fn told(&self) -> Vec<Told> {
        self.told.lock().unwrap().clone()
    }

    fn commits(&self) -> Vec<CommitEvent> {
        let commit = |told: Told| if let Told::Committed(commit) = told { Some(commit) } else { None };
        self.told().into_iter().filter_map(commit).collect()
    }

    fn count(&self, is_wanted: impl Fn(&Told) -> bool) -> u64 {
        self.told().iter().filter(|told| is_wanted(told)).count() as u64
    }
}

impl Observer for Recorder {
    fn opened(&self, report: &RecoveryReport) {
        self.add(Told::Opened(report.clone()));
    }

    fn committed(&self, commit: &CommitEvent) {
        self.add(Told::Committed(commit.clone()));
    }

    fn log_written(&self, write: &LogWriteEvent) {
        self.add(Told::LogWritten(write.clone()));
    }

    fn synced(&self, sync: &SyncEvent) {
        self.add(Told::Synced(sync.clone()));
    }

    fn checkpoint_begun(&self, checkpoint: &CheckpointBegunEvent) {
        self.add(Told::CheckpointBegun(checkpoint.clone()));
    }

    fn checkpoint_finished(&self, checkpoint: &CheckpointEvent) {
        self.add(Told::CheckpointFinished(checkpoint.clone()));
    }

    fn checkpoint_failed(&self, failure: &CheckpointFailedEvent) {
        self.add(Told::CheckpointFailed(failure.clone()));
    }

    fn poisoned(&self, failure: &PoisonedEvent) {
        self.add(Told::Poisoned(failure.clone()));
    }
}

#[test]
fn commits_of_many_threads_are_told_in_order_and_once() {
    let recorder = Arc::new(Recorder::default());
    let (_disk, db, _) = started(&gated::builder().observer(recorder.clone()));
    let writers: Vec<_> = (0..6_u64)
        .map(|writer| {
            let db = db.clone();
            thread::spawn(move || {
                for at in 0..40 {
                    let durability = if at % 3 == 1 { Durability::Buffered } else { Durability::Immediate };
                    commit(&db, durability, 1000 * writer + at);
                }
            })
        })
        .collect();
    writers.into_iter().for_each(join);
    let stats = db.stats();
    db.close().unwrap();
    let commits = recorder.commits();
    let ids: Vec<u64> = commits.iter().map(|commit| commit.transaction.get()).collect();
    assert!(ids.is_sorted_by(|one, next| one < next), "{ids:?}");
    assert_eq!(commits.len() as u64, stats.commits.total());
    assert_eq!(ids.last(), Some(&stats.transaction.get()));
    let of = |kind| commits.iter().filter(|commit| commit.kind == kind).count() as u64;
    assert_eq!((of(CommitKind::Log), of(CommitKind::Slot)), (stats.commits.log, stats.commits.slot));
    assert!(commits.iter().any(|commit| !commit.is_durable), "those that wait for nothing are seen at once");
    assert!(commits.iter().all(|commit| commit.bytes > 0 && commit.duration > Duration::ZERO));
    let told = recorder.told();
    assert!(matches!(&told[0], Told::Opened(report) if *report == stats.recovery));
    // A commit is durable only once a write told of it: as many were written by then.
    let (mut written, mut seen) = (0, 0);
    for event in &told {
        match event {
            Told::LogWritten(write) => written += write.commits,
            Told::Committed(commit) if commit.kind == CommitKind::Log => {
                seen += 1;
                assert!(!commit.is_durable || seen <= written, "{commit:?}");
            }
            _ => {}
        }
    }
    assert!(recorder.count(|told| matches!(told, Told::Synced(_))) >= stats.sync_micros.count());
}

#[test]
fn commits_are_told_as_what_they_are() {
    let recorder = Arc::new(Recorder::default());
    let (_disk, db, _) = started(&gated::builder().observer(recorder.clone()));
    let before = recorder.commits().len();
    commit(&db, Durability::Immediate, 100);
    commit(&db, Durability::Buffered, 101);
    commit(&db, Durability::None, 102);
    let last = commit(&db, Durability::Immediate, 103);
    db.begin_write().unwrap().commit().unwrap();
    drop(db.begin_write().unwrap());
    db.close().unwrap();
    let commits = recorder.commits();
    let told: Vec<_> = commits[commits.len() - 4..].iter().map(|commit| (commit.kind, commit.is_durable)).collect();
    let log = CommitKind::Log;
    assert_eq!(told, [(log, true), (log, false), (log, false), (log, true)]);
    assert!(commits.len() >= before + 4 && commits.last().unwrap().transaction == last);
    assert!(commits[commits.len() - 4].bytes < 200, "one row: {commits:?}");
}

#[test]
fn checkpoints_are_told_as_they_begin_and_end() {
    let recorder = Arc::new(Recorder::default());
    let builder = tiny().log_bytes_max(8 << 10).test_checkpoint_lag(2).observer(recorder.clone());
    let db = builder.create_with_storage(SimDisk::new()).unwrap();
    put(&db, 0..900, 0, 40).unwrap();
    (1..200).for_each(|round| put(&db, round % 90..round % 90 + 1, round, 40).unwrap());
    db.close().unwrap();
    let mut begun = None;
    let mut bytes = Vec::new();
    for told in recorder.told() {
        match told {
            Told::CheckpointBegun(checkpoint) => {
                assert!(begun.replace(checkpoint.transaction).is_none(), "one at a time");
            }
            Told::CheckpointFinished(checkpoint) => {
                assert_eq!(begun.take(), Some(checkpoint.transaction));
                bytes.push(checkpoint.bytes);
            }
            _ => {}
        }
    }
    assert!(begun.is_none() && bytes.len() > 4 && bytes.iter().filter(|bytes| **bytes > 512).count() > 3, "{bytes:?}");
}

#[test]
fn a_failed_write_is_told_once_with_its_reason() {
    let recorder = Arc::new(Recorder::default());
    let (disk, db, _) = started(&gated::builder().observer(recorder.clone()));
    let commits = db.stats().commits.total();
    disk.set_fate(Fate::Refused);
    gated::change(&db, Durability::Immediate, 100).commit().unwrap_err();
    db.begin_write().unwrap_err();
    drop(db);
    let told = recorder.told();
    let reasons: Vec<_> = told
        .iter()
        .filter_map(|told| if let Told::Poisoned(failure) = told { Some(&failure.reason) } else { None })
        .collect();
    assert_eq!(reasons, ["write failed: the device is gone"]);
    assert_eq!(recorder.commits().len() as u64, commits, "the commit that failed is none");
}

#[test]
fn a_checkpoint_that_fails_is_told() {
    for panics in [false, true] {
        let recorder = Arc::new(Recorder::default());
        let (disk, db, _) = started(&gated::builder().durability(Durability::None).observer(recorder.clone()));
        commit(&db, Durability::None, 100);
        disk.set_sync_fate(if panics { Fate::Panic } else { Fate::Refused });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| db.sync()));
        assert_eq!(outcome.is_err(), panics);
        assert!(db.stats().is_poisoned);
        drop(db);
        assert_eq!(recorder.count(|told| matches!(told, Told::Poisoned(_))), 1);
        let failed = recorder.count(|told| matches!(told, Told::CheckpointFailed(_)));
        assert_eq!(failed, u64::from(!panics), "a panic goes to whoever waits for the checkpoint");
    }
}

#[test]
fn a_checkpoint_beside_commits_that_fails_is_told_and_counted() {
    let recorder = Arc::new(Recorder::default());
    let disk = SimDisk::new();
    let builder = tiny().log_bytes_max(8 << 10).test_checkpoint_lag(3).observer(recorder.clone());
    let db = builder.create_with_storage(disk.clone()).unwrap();
    put(&db, 0..900, 0, 40).unwrap();
    let begun = |db: &Database| db.stats().checkpoints.begun - db.stats().checkpoints.finished;
    let mut round = 0;
    while begun(&db) == 0 {
        round += 1;
        put(&db, round % 90..round % 90 + 1, round, 40).unwrap();
    }
    // The next writes are records; what is not one of them is the checkpoint's.
    put(&db, 1..2, 1, 40).unwrap();
    put(&db, 2..3, 2, 40).unwrap();
    disk.inject(Fault::FailOperation { operation: disk.next_operation() + 1, kind: ErrorKind::Other });
    while put(&db, 3..4, 3, 40).is_ok() {}
    let checkpoints = db.stats().checkpoints;
    assert_eq!((checkpoints.begun - checkpoints.finished, checkpoints.failed), (1, 1));
    drop(db);
    assert_eq!(recorder.count(|told| matches!(told, Told::CheckpointFailed(_))), 1);
    assert_eq!(recorder.count(|told| matches!(told, Told::Poisoned(_))), 1);
}

/// Panics whenever it is told anything.
#[derive(Default)]
struct Panics(AtomicU64);

impl Panics {
    fn panic(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
        panic!("the observer panics");
    }
}

impl Observer for Panics {
    fn opened(&self, _: &RecoveryReport) {
        self.panic();
    }

    fn committed(&self, _: &CommitEvent) {
        self.panic();
    }

    fn log_written(&self, _: &LogWriteEvent) {
        self.panic();
    }

    fn synced(&self, _: &SyncEvent) {
        self.panic();
    }

    fn checkpoint_finished(&self, _: &CheckpointEvent) {
        // What a panic carries may panic as well.
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                assert!(thread::panicking(), "the payload panics");
            }
        }
        self.0.fetch_add(1, Ordering::SeqCst);
        std::panic::panic_any(Bomb);
    }
}

#[test]
fn an_observer_that_panics_harms_nothing_and_is_told_all_the_same() {
    let panics = Arc::new(Panics::default());
    let (disk, db, mut model) = started(&gated::builder().observer(panics.clone()));
    for key in 100..140 {
        commit(&db, if key % 2 == 0 { Durability::Immediate } else { Durability::None }, key);
        model.insert(key, value(key, 1, 30));
    }
    db.sync().unwrap();
    assert!(rows(&db).unwrap() == model);
    assert_sound(&db);
    let stats = db.stats();
    assert!(!stats.is_poisoned);
    db.close().unwrap();
    let events = 1 + stats.commits.total() + stats.log_write_micros.count() + stats.sync_micros.count();
    assert!(panics.0.load(Ordering::SeqCst) >= events + stats.checkpoints.finished);
    assert!(gated::found(disk.disk.restart_process()) == model);
}

/// Waits in its first commit until it is let go.
struct Waits {
    called: Mutex<Sender<()>>,
    go: Mutex<Receiver<()>>,
}

impl Observer for Waits {
    fn committed(&self, _: &CommitEvent) {
        self.called.lock().unwrap().send(()).unwrap();
        // Nobody sends: it ends when the other end is dropped.
        self.go.lock().unwrap().recv_timeout(NEVER).unwrap_err();
    }
}

#[test]
fn an_observer_that_takes_its_time_holds_up_nobody() {
    let ((called, is_called), (go, gone)) = (channel(), channel());
    let observer = Arc::new(Waits { called: Mutex::new(called), go: Mutex::new(gone) });
    let (disk, db, model) = started(&gated::builder().observer(observer));
    is_called.recv_timeout(NEVER).unwrap();
    disk.close();
    let waiting = queue(&db, Durability::Immediate, 100);
    disk.open();
    join(waiting).unwrap();
    db.sync().unwrap();
    assert_eq!(rows(&db).unwrap().len(), model.len() + 1);
    assert_sound(&db);
    drop(go);
    db.close().unwrap();
}

/// Answers each commit of the application with one of its own.
#[derive(Default)]
struct Answers {
    db: Mutex<Option<Database>>,
    answered: AtomicU64,
}

impl Observer for Answers {
    fn committed(&self, commit: &CommitEvent) {
        let Some(db) = self.db.lock().unwrap().clone() else { return };
        assert!(db.begin_read().unwrap().id() >= commit.transaction, "what is told can be seen");
        assert!(db.stats().transaction >= commit.transaction);
        if commit.transaction.get().is_multiple_of(2) {
            put(&db, 500..501, commit.transaction.get(), 30).unwrap();
            db.sync().unwrap();
            self.answered.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[test]
fn an_observer_may_use_the_database() {
    let answers = Arc::new(Answers::default());
    let (_disk, db, _) = started(&gated::builder().observer(answers.clone()));
    *answers.db.lock().unwrap() = Some(db.clone());
    for key in 100..130 {
        commit(&db, Durability::Immediate, key);
    }
    let begin = Instant::now();
    while answers.answered.load(Ordering::SeqCst) == 0 {
        assert!(begin.elapsed() < NEVER, "no commit is answered");
        thread::sleep(Duration::from_millis(1));
    }
    // The observer may have taken a handle for a moment, which is the last one then.
    drop(answers.db.lock().unwrap().take());
    assert_sound(&db);
    assert!(rows(&db).unwrap().contains_key(&500));
}

/// Drops the last handle of the database that tells it.
#[derive(Default)]
struct Closes {
    db: Mutex<Option<Database>>,
    closed: AtomicU64,
}

impl Observer for Closes {
    fn committed(&self, _: &CommitEvent) {
        if let Some(db) = self.db.lock().unwrap().take() {
            db.close().unwrap();
            self.closed.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[test]
fn an_observer_may_close_the_database() {
    let closes = Arc::new(Closes::default());
    let (disk, db, mut model) = started(&gated::builder().observer(closes.clone()));
    let tx = gated::change(&db, Durability::Immediate, 100);
    model.insert(100, value(100, 1, 30));
    // Events of before may come late: nothing is closed before there is a handle to close.
    let mut handle = closes.db.lock().unwrap();
    tx.commit().unwrap();
    *handle = Some(db);
    drop(handle);
    let begin = Instant::now();
    while closes.closed.load(Ordering::SeqCst) == 0 {
        assert!(begin.elapsed() < NEVER, "nobody closed the database");
        thread::sleep(Duration::from_millis(1));
    }
    let db = gated::builder().open_with_storage(disk.disk.restart_process()).unwrap();
    assert!(db.open_notes().is_empty(), "it was closed");
    assert!(rows(&db).unwrap() == model);
    let table = db.begin_read().unwrap().open_table(ROWS).unwrap();
    assert_eq!(table.len().unwrap(), model.len() as u64);
}

#[test]
fn recovery_is_told() {
    let (disk, db, _) = started(&gated::builder());
    for key in 100..105 {
        commit(&db, Durability::Immediate, key);
    }
    let recorder = Arc::new(Recorder::default());
    let recovered = gated::builder().observer(recorder.clone()).open_with_storage(disk.crashed()).unwrap();
    let report = recovered.stats().recovery;
    assert!(report.records >= 5);
    recovered.close().unwrap();
    let told = recorder.told();
    let opened: Vec<_> = told.iter().filter(|told| matches!(told, Told::Opened(_))).collect();
    assert_eq!(opened, [&Told::Opened(report)]);
    assert!(recorder.commits().is_empty(), "what recovery commits is not the application's");
}
