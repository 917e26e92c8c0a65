//! Checkpoints beside the writers: a thread folds what is laid over the trees into them, while later transactions go on.
//!
//! Invariant: one is under way at a time, and while it is nobody else changes trees or the space.
//! Layer 5 (txn). Rules: design.md, "Commit".

use super::checkpoint::{Fold, Folded};
use super::commit::REPLAY_CHANGES_MAX;
use super::core::{Core, Durable};
use super::log::{SizeWish, segment_units};
use crate::base::clock::Deadline;
use crate::base::error::{Result, StorageError};
use crate::base::sync::atomic::{AtomicU32, Ordering};
use crate::base::sync::{Arc, Condvar, Mutex, MutexGuard};
use crate::delta::layers::Delta;
use crate::pages::store::PageStore;
use std::thread::JoinHandle;
use std::time::Duration;

/// Makes checkpoints that were begun.
#[derive(Debug)]
pub(crate) struct Checkpointer {
    store: Arc<PageStore>,
    state: Mutex<State>,
    changed: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Instead of a thread, the commit that comes so many later does the work: the same operations then write the same bytes.
    lag_commits: Option<u32>,
    /// How full log and memory are, in thousandths: the fuller, the faster it has to go.
    fill: AtomicU32,
}

#[derive(Debug)]
struct State {
    stage: Stage,
    /// What came into the trees, and is to be let go of.
    folded: Vec<Delta>,
    commits_left: u32,
    is_ended: bool,
}

#[derive(Debug)]
enum Stage {
    Idle,
    Frozen(Box<Fold>),
    Running,
    Done(Box<Done>),
}

/// A checkpoint that ended.
#[derive(Debug)]
pub(super) struct Done {
    /// Nothing where writing it panicked.
    pub(super) fold: Option<Box<Fold>>,
    pub(super) outcome: Result<Folded>,
}

/// Says that the checkpoint failed when it is dropped, as it is where whoever writes it panics.
struct Panicking<'c>(&'c Checkpointer);

impl Drop for Panicking<'_> {
    fn drop(&mut self) {
        self.0.store.poison();
        let done = Done { fold: None, outcome: Err(StorageError::Poisoned) };
        self.0.store.meter().checkpoint_ended(done.outcome.as_ref().err());
        self.0.state.lock().stage = Stage::Done(Box::new(done));
        self.0.changed.notify_all();
    }
}

impl Checkpointer {
    pub(super) fn new(store: Arc<PageStore>, lag_commits: Option<u32>) -> Arc<Self> {
        let state = Mutex::new(State { stage: Stage::Idle, folded: Vec::new(), commits_left: 0, is_ended: false });
        let (changed, thread, fill) = (Condvar::default(), Mutex::new(None), AtomicU32::new(0));
        Arc::new(Self { store, state, changed, thread, lag_commits, fill })
    }

    /// Whether a checkpoint can begin.
    pub(super) fn is_free(&self) -> bool {
        matches!(self.state.lock().stage, Stage::Idle)
    }

    /// Whether it pays to have a thread for it: where the medium makes one write after the other, nothing is gained by it.
    fn is_beside(&self) -> bool {
        self.lag_commits.is_some() || self.store.writes_at_once() > 1
    }

    /// Takes over what is to be folded.
    pub(super) fn begin(self: &Arc<Self>, fold: Box<Fold>) {
        let mut state = self.state.lock();
        assert!(matches!(state.stage, Stage::Idle), "one checkpoint at a time");
        state.stage = Stage::Frozen(fold);
        state.commits_left = self.lag_commits.unwrap_or(0);
        drop(state);
        if self.lag_commits.is_none() && self.is_beside() {
            self.start_thread();
            self.changed.notify_all();
        }
    }

    fn start_thread(self: &Arc<Self>) {
        let mut thread = self.thread.lock();
        if thread.is_none() {
            let checkpointer = Arc::clone(self);
            let started =
                std::thread::Builder::new().name("cowslip-checkpoint".into()).spawn(move || checkpointer.serve());
            // Where the system has no thread to spare, whoever needs the outcome does the work.
            *thread = started.inspect_err(|error| log::warn!("no thread for checkpoints: {error}")).ok();
        }
    }

    fn serve(&self) {
        let mut state = self.state.lock();
        loop {
            let folded = std::mem::take(&mut state.folded);
            if !folded.is_empty() {
                drop(state);
                drop(folded);
                state = self.state.lock();
                continue;
            }
            state = match state.stage {
                Stage::Frozen(_) => self.run(state),
                _ if state.is_ended => return,
                _ => self.changed.wait(state),
            };
        }
    }

    /// Makes the checkpoint.
    fn run<'c>(&'c self, mut state: MutexGuard<'c, State>) -> MutexGuard<'c, State> {
        let Stage::Frozen(mut fold) = std::mem::replace(&mut state.stage, Stage::Running) else {
            unreachable!("the caller has looked");
        };
        drop(state);
        let panicking = Panicking(self);
        let outcome = fold.run(&|| self.writers());
        // Not dropped by whoever panicked before and ends the session on the way out.
        std::mem::forget(panicking);
        self.store.meter().checkpoint_ended(outcome.as_ref().err());
        let mut state = self.state.lock();
        state.stage = Stage::Done(Box::new(Done { fold: Some(fold), outcome }));
        self.changed.notify_all();
        state
    }

    /// Lets go of what came into the trees: many small pieces, for which no transaction should wait.
    pub(super) fn discard(&self, folded: Delta) {
        if self.thread.lock().is_some() {
            self.state.lock().folded.push(folded);
            self.changed.notify_all();
        }
    }

    /// How many threads write at once: few, as long as there is time, because commits use the same device.
    fn writers(&self) -> usize {
        match self.fill.load(Ordering::Relaxed) {
            ..=700 => 4,
            _ => usize::MAX,
        }
    }

    /// A commit was made.
    pub(super) fn step(&self) {
        if self.lag_commits.is_none() {
            return;
        }
        let mut state = self.state.lock();
        if matches!(state.stage, Stage::Frozen(_)) {
            state.commits_left = state.commits_left.saturating_sub(1);
            if state.commits_left == 0 {
                drop(self.run(state));
            }
        }
    }

    /// The checkpoint that ended since the last call, if one did.
    pub(super) fn take_done(&self) -> Option<Done> {
        let mut state = self.state.lock();
        if !matches!(state.stage, Stage::Done(_)) {
            return None;
        }
        match std::mem::replace(&mut state.stage, Stage::Idle) {
            Stage::Done(done) => Some(*done),
            _ => unreachable!("the stage was just looked at"),
        }
    }

    /// Waits until no checkpoint is under way.
    pub(super) fn await_end(&self) {
        let has_thread = self.thread.lock().is_some();
        let mut state = self.state.lock();
        loop {
            state = match state.stage {
                Stage::Idle | Stage::Done(_) => return,
                Stage::Frozen(_) if !has_thread => self.run(state),
                _ => self.changed.wait(state),
            };
        }
    }

    /// Waits until no checkpoint is under way, but not beyond the deadline.
    pub(super) fn await_end_until(&self, deadline: Deadline) {
        let mut state = self.state.lock();
        while matches!(state.stage, Stage::Frozen(_) | Stage::Running) && self.lag_commits.is_none() {
            if deadline.is_over() {
                return;
            }
            state = self.changed.wait_until(state, deadline);
        }
    }

    /// Ends the thread, after the checkpoint that it writes.
    pub(super) fn end(&self) {
        self.state.lock().is_ended = true;
        self.changed.notify_all();
        if let Some(thread) = self.thread.lock().take() {
            // A panic of the storage was told as a failure.
            drop(thread.join());
        }
    }
}

/// A checkpoint begins when the log, or the memory for what is laid over trees, is so full, in thousandths.
const FILL_DUE: u32 = 500;

/// From here on transactions wait a little before they begin, the longer the fuller it is.
const FILL_SLOW: u32 = 750;

/// After one that found no room the next is tried once so much more has come.
const FILL_RETRY: u32 = 100;

/// After readers had to pass over so many removed rows a checkpoint takes them out of the trees.
const PASSED_MAX: u64 = 1 << 15;

/// A log of fewer units is written no checkpoint for beside transactions.
const LOG_UNITS_MIN: u32 = 16;

/// So long a transaction waits at most before it begins.
const DELAY_MAX: Duration = Duration::from_millis(4);

impl Core {
    /// How full the log is, and how full what else a checkpoint empties: memory, and the changes that a replay has to make. In
    /// thousandths.
    fn fills(&self, durable: &Durable) -> (u32, u32) {
        let share = |part: u64, whole: u64| u32::try_from(part.saturating_mul(1000) / whole.max(1)).unwrap_or(u32::MAX);
        let memory = share(durable.head.delta.bytes(), self.store.account().delta_bytes_max() as u64);
        let Some(log) = self.queue.log() else { return (0, memory) };
        let units = share(u64::from(log.units_used()), u64::from(log.units()));
        (units, memory.max(share(log.changes(), REPLAY_CHANGES_MAX)))
    }

    /// Begins a checkpoint beside the transactions where it is time. No transaction runs.
    pub(super) fn checkpoint_if_due(&self, durable: &mut Durable) {
        let (log, others) = self.fills(durable);
        self.measure_fill(durable);
        // A log that may be longer grows first.
        let fill = if self.log_will_grow() { others } else { log.max(others) };
        let due = match durable.fill_failed {
            0 if self.is_passed_over(durable) => 0,
            0 => FILL_DUE,
            failed => failed + FILL_RETRY,
        };
        let may_write = !self.is_read_only() && !self.store.is_poisoned();
        if fill < due || !may_write || !self.checkpointer.is_free() {
            return;
        }
        if let Err(error) = self.begin_checkpoint(durable) {
            // The commit that finds no room writes a slot, and tells what is wrong.
            log::debug!("no checkpoint could begin: {error}");
        }
        if !self.checkpointer.is_beside() {
            // The next transaction takes its outcome over.
            self.checkpointer.await_end();
        }
    }

    /// Whether removed rows that are still in the trees have cost readers more than a checkpoint will.
    fn is_passed_over(&self, durable: &Durable) -> bool {
        self.store.meter().passed_rows.get() - durable.passed_rows > PASSED_MAX
    }

    /// Finds out how full log and memory are, and tells those who have to go slower or faster for it.
    pub(super) fn measure_fill(&self, durable: &Durable) -> u32 {
        let (log, others) = self.fills(durable);
        let fill = log.max(others);
        self.checkpointer.fill.store(fill, Ordering::Relaxed);
        fill
    }

    /// Whether the log is shorter than it may be: then the commit that finds it full brings a longer one. A very short one is
    /// that of a small file, which a checkpoint takes little time for, and which stays shorter without another one beside.
    fn log_will_grow(&self) -> bool {
        let Some(room) = self.queue.log().filter(|room| room.segment().units >= LOG_UNITS_MIN) else { return true };
        let wish = SizeWish {
            last_units: room.segment().units,
            record_bytes: 1,
            file_units: self.store.end_units(),
            bytes_max: self.log_bytes_max,
        };
        segment_units(self.store.layout(), &wish) > room.segment().units
    }

    /// Where writers are faster than the checkpoint beside them, the next transaction begins a little later: that costs less
    /// than to wait for the whole of it once.
    pub(super) fn slow_down(&self) {
        let over = self.checkpointer.fill.load(Ordering::Relaxed).saturating_sub(FILL_SLOW).min(1000 - FILL_SLOW);
        if over > 0 {
            self.checkpointer.await_end_until(Deadline::after(DELAY_MAX * over / (1000 - FILL_SLOW)));
        }
    }
}
