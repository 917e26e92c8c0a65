//! A simulated disk whose forced writes can be held back, counted, and made to fail or to panic, and commits that wait for it.

use crate::fixture::{Model, ROWS, assert_sound, rows, value};
use cowslip::sim::{CrashPlan, SimDisk};
use cowslip::{
    Builder, CommitError, CommitFuture, Database, Durability, LockMode, Storage, SyncKind, TableDefinition,
    TransactionId, WriteMode, WriteTransaction,
};
use std::future::Future;
use std::io::{self, IoSlice, IoSliceMut};
use std::pin::{Pin, pin};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// What is waited for comes long before, unless it never comes.
pub(crate) const NEVER: Duration = Duration::from_secs(30);

/// What becomes of a write or sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Fate {
    #[default]
    Done,
    /// An error, and nothing was done.
    Refused,
    /// An error, and it was done all the same.
    DoneInDoubt,
    Panic,
}

#[derive(Debug, Default)]
struct State {
    is_closed: bool,
    /// Forced writes that wait at the gate.
    held: usize,
    /// Forced writes that were begun.
    forced: u64,
    fate: Fate,
    sync_fate: Fate,
}

/// Clones share the disk and the gate.
#[derive(Debug, Clone)]
pub(crate) struct Gated {
    pub(crate) disk: SimDisk,
    gate: Arc<(Mutex<State>, Condvar)>,
}

impl Gated {
    pub(crate) fn new() -> Self {
        Self { disk: SimDisk::new(), gate: Arc::default() }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.gate.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.gate.1.notify_all();
        changed
    }

    /// Waits until `is_reached`; says whether it was.
    fn wait(&self, is_reached: impl Fn(&State) -> bool) -> bool {
        let state = self.gate.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.gate.1.wait_timeout_while(state, NEVER, |state| !is_reached(state));
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// From here on forced writes are held back.
    pub(crate) fn close(&self) {
        self.change(|state| state.is_closed = true);
    }

    pub(crate) fn open(&self) {
        self.change(|state| state.is_closed = false);
    }

    /// Waits until a forced write is held back.
    pub(crate) fn await_held(&self) {
        assert!(self.wait(|state| state.held > 0), "no forced write comes");
    }

    pub(crate) fn forced(&self) -> u64 {
        self.change(|state| state.forced)
    }

    /// What becomes of forced writes that pass the gate from now on.
    pub(crate) fn set_fate(&self, fate: Fate) {
        self.change(|state| state.fate = fate);
    }

    /// What becomes of syncs from now on.
    pub(crate) fn set_sync_fate(&self, fate: Fate) {
        self.change(|state| state.sync_fate = fate);
    }

    /// The disk that a crash leaves now, with nothing but what had to survive.
    pub(crate) fn crashed(&self) -> SimDisk {
        self.disk.crash_image(&CrashPlan::nothing(self.disk.next_operation()))
    }

    fn decided(fate: Fate, step: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let failed = || io::Error::other("the device is gone");
        match fate {
            Fate::Done => step(),
            Fate::Refused => Err(failed()),
            Fate::DoneInDoubt => step().and_then(|()| Err(failed())),
            Fate::Panic => panic!("the storage panics"),
        }
    }
}

impl Storage for Gated {
    fn len(&self) -> io::Result<u64> {
        self.disk.len()
    }

    fn read_at(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<()> {
        self.disk.read_at(offset, buffers)
    }

    fn write_at(&self, offset: u64, buffers: &[IoSlice<'_>], mode: WriteMode) -> io::Result<()> {
        if mode == WriteMode::Plain {
            return self.disk.write_at(offset, buffers, mode);
        }
        self.change(|state| {
            state.forced += 1;
            state.held += 1;
        });
        let is_open = self.wait(|state| !state.is_closed);
        let fate = self.change(|state| {
            state.held -= 1;
            state.fate
        });
        assert!(is_open, "nobody opens the gate");
        Self::decided(fate, || self.disk.write_at(offset, buffers, mode))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.set_len(len)
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        self.disk.preallocate(len)
    }

    fn sync(&self, kind: SyncKind) -> io::Result<()> {
        let fate = self.change(|state| state.sync_fate);
        Self::decided(fate, || self.disk.sync(kind))
    }

    fn lock(&self, mode: LockMode) -> io::Result<()> {
        self.disk.lock(mode)
    }

    fn unlock(&self) -> io::Result<()> {
        self.disk.unlock()
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.disk.drop_cache()
    }
}

/// Makes the file long enough for a log of many records.
const BULK: TableDefinition<u64, &[u8]> = TableDefinition::new("bulk");

pub(crate) type Outcome = Result<TransactionId, CommitError>;

/// Small units, and nothing is written only because time passes.
pub(crate) fn builder() -> Builder {
    Builder::new()
        .test_geometry(512, 2048, 4096)
        .test_identity([7; 16])
        .cache_bytes_max(8 << 20)
        .sync_delay_max(Duration::from_secs(3600))
}

/// A database with twenty rows and a log that has room for some sixty records.
pub(crate) fn started(builder: &Builder) -> (Gated, Database, Model) {
    let disk = Gated::new();
    let db = builder.create_with_storage(disk.clone()).unwrap();
    let fill = |table: TableDefinition<u64, &[u8]>, keys: &mut dyn Iterator<Item = u64>, len| {
        let tx = db.begin_write().unwrap();
        let mut table = tx.open_table(table).unwrap();
        keys.for_each(|key| drop(table.insert(key, &value(key, 0, len)[..]).unwrap()));
        drop(table);
        tx.commit().unwrap();
    };
    fill(BULK, &mut (0..1000), 400);
    fill(ROWS, &mut (0..20), 30);
    // One record that finds no log yet: the next one is made for many like it.
    fill(BULK, &mut (0..1000).step_by(60), 401);
    (disk, db, (0..20).map(|key| (key, value(key, 0, 30))).collect())
}

/// A transaction that sets one row.
pub(crate) fn change(db: &Database, durability: Durability, key: u64) -> WriteTransaction {
    let mut tx = db.begin_write().unwrap();
    tx.set_durability(durability).unwrap();
    tx.open_table(ROWS).unwrap().insert(key, &value(key, 1, 30)[..]).unwrap();
    tx
}

pub(crate) fn commit(db: &Database, durability: Durability, key: u64) -> TransactionId {
    change(db, durability, key).commit().unwrap()
}

/// Commits on another thread, which begins after this one has seen the transaction's id.
pub(crate) fn commit_elsewhere(
    db: &Database,
    durability: Durability,
    key: u64,
) -> (TransactionId, JoinHandle<Outcome>) {
    let tx = change(db, durability, key);
    (tx.id(), thread::spawn(move || tx.commit()))
}

/// Waits until the transaction is queued: the next one builds on it.
pub(crate) fn await_queued(db: &Database, id: TransactionId) {
    let begin = Instant::now();
    while db.begin_write().unwrap().id() <= id {
        assert!(begin.elapsed() < NEVER, "{id} is not queued");
        thread::yield_now();
    }
}

/// Queues a commit behind a write that is held back.
pub(crate) fn queue(db: &Database, durability: Durability, key: u64) -> JoinHandle<Outcome> {
    let (id, waiting) = commit_elsewhere(db, durability, key);
    await_queued(db, id);
    waiting
}

pub(crate) fn join<T>(thread: JoinHandle<T>) -> T {
    let begin = Instant::now();
    while !thread.is_finished() {
        assert!(begin.elapsed() < NEVER, "a thread hangs");
        thread::sleep(Duration::from_millis(1));
    }
    thread.join().unwrap()
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

pub(crate) fn await_outcome(future: CommitFuture) -> Outcome {
    let (mut future, waker) = (pin!(future), Waker::from(Arc::new(Unpark(thread::current()))));
    let begin = Instant::now();
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(outcome) => return outcome,
            Poll::Pending => thread::park_timeout(NEVER),
        }
        assert!(begin.elapsed() < NEVER, "a future is not resolved");
    }
}

/// Runs code of the test when it is woken.
struct Run(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Wake for Run {
    fn wake(self: Arc<Self>) {
        let run = self.0.lock().unwrap().take();
        if let Some(run) = run {
            run();
        }
    }
}

/// Polls once, and has `run` called once the future is resolved.
pub(crate) fn on_wake(future: &mut CommitFuture, run: impl FnOnce() + Send + 'static) {
    let waker = Waker::from(Arc::new(Run(Mutex::new(Some(Box::new(run))))));
    assert!(Pin::new(future).poll(&mut Context::from_waker(&waker)).is_pending());
}

pub(crate) fn is_pending(future: &mut CommitFuture) -> bool {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop())).is_pending()
}

pub(crate) fn found(disk: SimDisk) -> Model {
    let db = builder().open_with_storage(disk).unwrap();
    assert_sound(&db);
    rows(&db).unwrap()
}

pub(crate) fn with(model: &Model, keys: impl IntoIterator<Item = u64>) -> Model {
    let mut model = model.clone();
    model.extend(keys.into_iter().map(|key| (key, value(key, 1, 30))));
    model
}

pub(crate) fn is_in_doubt(outcome: &Outcome) -> bool {
    matches!(outcome, Err(CommitError::InDoubt(_)))
}
