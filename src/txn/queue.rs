//! The queue of commits that wait for the medium: whoever waits first writes for all that wait by then.
//!
//! Invariant: versions become durable, and visible, in the order in which they were queued; one that waits is pinned. After
//! the first failure nothing more becomes durable, and everybody who waits learns of it.
//! Layer 5 (txn). Lock order: whatever transactions lock, then the queue, then the pins. Rules: design.md, "Commit".

use super::future::Outcome;
use super::log::{BODY_BYTES_MAX, LogRoom, LogWriter};
use super::stats::CommitWatch;
use crate::base::clock::Deadline;
use crate::base::error::{Result, StorageError};
use crate::base::ids::TransactionId;
use crate::base::sync::{Arc, Condvar, Mutex, MutexGuard};
use crate::pages::account::Charge;
use crate::pages::observer::CommitKind;
use crate::pages::slot::LogStart;
use crate::pages::store::PageStore;
use crate::pages::version::{Pin, Pins, Version};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;
use std::time::Duration;

/// Records that nobody waits for take so much memory at most: then whoever adds one writes them, or a thread for those whose
/// commits are futures.
const QUEUED_BYTES_MAX: usize = 1 << 20;

/// Commits that wait for the medium, and those that nobody waits for.
#[derive(Debug)]
pub(crate) struct CommitQueue {
    store: Arc<PageStore>,
    pins: Arc<Pins>,
    state: Mutex<State>,
    /// Notified when commits reached what they wait for, and when something was queued that the thread has to write.
    changed: Condvar,
    /// Writes what nobody waits for, once it is due.
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// A commit that enters the queue.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) version: Version,
    /// What the log is to say of it, until that is being written.
    pub(super) record: Option<QueuedRecord>,
    /// Readers see it only once it is durable.
    pub(super) is_hidden: bool,
    /// When it has to be written if nobody waits for it.
    pub(super) due: Option<Deadline>,
    /// Who is to be told.
    pub(super) outcomes: Vec<Arc<Outcome>>,
    /// How long the commit took is counted.
    pub(super) watch: CommitWatch,
}

/// A record that has its place in the log, as far as the room for it is kept.
#[derive(Debug)]
pub(super) struct QueuedRecord {
    pub(super) body: Vec<u8>,
    pub(super) changes: u64,
}

#[derive(Debug)]
struct Waiting {
    commit: Queued,
    /// Length of the record, which is taken when it is written.
    record_bytes: Option<u64>,
    /// Until the version is published.
    pin: Option<Pin>,
}

#[derive(Debug)]
struct State {
    store: Arc<PageStore>,
    /// Where the slot names a log.
    log: Option<LogRoom>,
    /// Changes of rows in what was appended, as far as a replay may have to make them.
    appended_changes: u64,
    /// The same log, while nobody writes.
    writer: Option<LogWriter>,
    waiting: VecDeque<Waiting>,
    /// So many at the front are being written.
    in_flight: usize,
    queued_bytes: usize,
    charge: Charge,
    /// The newest version that readers see.
    published: TransactionId,
    failure: Option<Failure>,
    /// Whose tasks are to be woken once the lock is given back, and the writer's turn as well.
    told: Vec<Arc<Outcome>>,
    /// A thread writes what is due, and wakes who was told.
    is_served: bool,
    /// Nothing is queued any more.
    is_ended: bool,
}

#[derive(Debug)]
enum Failure {
    /// The first to ask learns what happened.
    Untold(StorageError),
    Told,
}

impl Failure {
    fn tell(&mut self) -> StorageError {
        match std::mem::replace(self, Self::Told) {
            Self::Untold(error) => error,
            Self::Told => StorageError::Poisoned,
        }
    }
}

impl State {
    fn push(&mut self, commit: Queued, pins: &Arc<Pins>) {
        if let Some(record) = &commit.record {
            let log = self.log.as_mut().expect("a record was made because there is room in the log");
            log.reserve(record.body.len(), record.changes);
            self.count_bytes(record.body.len(), 0);
        }
        let pin = Some(pins.pin(commit.version.clone()));
        let record_bytes = commit.record.as_ref().map(|record| record.body.len() as u64);
        self.waiting.push_back(Waiting { commit, record_bytes, pin });
        if let Some(failure) = &mut self.failure {
            let outcomes = self.waiting.back_mut().map(|last| std::mem::take(&mut last.commit.outcomes));
            outcomes.into_iter().flatten().for_each(|outcome| outcome.in_doubt(failure.tell()));
        }
        let told = self.told.len();
        self.publish_ready(pins);
        // Nobody awaits the outcome of this one yet.
        self.told.truncate(told);
    }

    fn count_bytes(&mut self, added: usize, removed: usize) {
        self.queued_bytes = self.queued_bytes + added - removed;
        self.charge.set(self.queued_bytes);
    }

    /// Shows what need not be durable first, as far as nothing before it has to. After a failure nothing more is shown.
    fn publish_ready(&mut self, pins: &Pins) {
        if self.failure.is_some() {
            return;
        }
        let shown = self.waiting.partition_point(|waiting| waiting.pin.is_none());
        for (place, waiting) in self.waiting.iter_mut().enumerate().skip(shown) {
            if waiting.commit.is_hidden || place < self.in_flight {
                break;
            }
            self.published = waiting.publish(pins, &mut self.told);
            waiting.tell(&self.store, false);
        }
        while self.in_flight == 0
            && self.waiting.front().is_some_and(|first| first.pin.is_none() && first.commit.record.is_none())
        {
            self.waiting.pop_front();
        }
    }

    /// Takes the records of as many commits as one group holds.
    fn take_group(&mut self) -> Vec<QueuedRecord> {
        let mut group = Vec::new();
        let mut body_bytes = 0;
        let room = self.writer.as_ref().map(LogWriter::room);
        for waiting in &mut self.waiting {
            let len = waiting.commit.record.as_ref().map_or(0, |record| record.body.len());
            // A group goes to the begin of the ring only if its first record had to.
            let wraps = |first: &QueuedRecord| room.is_some_and(|room| !room.fits_at_head(first.body.len()));
            let fits = room.is_none_or(|room| room.fits_at_head(body_bytes + len));
            if body_bytes + len > BODY_BYTES_MAX || !(fits || group.first().is_none_or(wraps)) {
                break;
            }
            body_bytes += len;
            group.extend(waiting.commit.record.take());
            self.in_flight += 1;
        }
        self.count_bytes(0, body_bytes);
        group
    }

    /// What was in flight is durable.
    fn conclude_group(&mut self, pins: &Pins) {
        let done: Vec<Waiting> = self.waiting.drain(..self.in_flight).collect();
        self.in_flight = 0;
        for mut waiting in done {
            if waiting.pin.is_some() {
                self.published = waiting.publish(pins, &mut self.told);
                waiting.tell(&self.store, true);
            }
        }
        // Groups take less room than their records would have taken each for itself.
        if let (Some(writer), Some(kept)) = (&self.writer, self.log) {
            let mut room = writer.room().needed_from(&kept, self.appended_changes);
            for record in self.waiting.iter().filter_map(|waiting| waiting.commit.record.as_ref()) {
                room.reserve(record.body.len(), record.changes);
            }
            self.log = Some(room);
        }
        self.publish_ready(pins);
    }

    fn fail(&mut self, error: StorageError) {
        self.in_flight = 0;
        let mut error = Some(error);
        for waiting in &mut self.waiting {
            for outcome in waiting.commit.outcomes.drain(..) {
                outcome.in_doubt(error.take().unwrap_or(StorageError::Poisoned));
                self.told.push(outcome);
            }
        }
        self.failure.get_or_insert(error.map_or(Failure::Told, Failure::Untold));
    }

    /// When the next write is due that nobody waits for.
    fn due(&self) -> Option<Deadline> {
        let queued = self.waiting.iter().skip(self.in_flight);
        queued.filter_map(|waiting| waiting.commit.due).min()
    }
}

impl Waiting {
    /// Counts a commit that was published.
    fn tell(&self, store: &PageStore, is_written: bool) {
        let kind = if self.record_bytes.is_some() { CommitKind::Log } else { CommitKind::Memory };
        let is_durable = is_written && self.record_bytes.is_some();
        let id = self.commit.version.id;
        self.commit.watch.committed(store, kind, id, self.record_bytes.unwrap_or(0), is_durable);
    }

    fn publish(&mut self, pins: &Pins, told: &mut Vec<Arc<Outcome>>) -> TransactionId {
        let id = self.commit.version.id;
        pins.publish(self.commit.version.clone());
        self.pin = None;
        for outcome in self.commit.outcomes.drain(..) {
            outcome.committed(id);
            told.push(outcome);
        }
        id
    }
}

/// Says that writing failed when it is dropped, as it is where whoever writes panics.
struct Panicking<'q>(&'q CommitQueue);

impl Drop for Panicking<'_> {
    fn drop(&mut self) {
        self.0.store.poison();
        let mut state = self.0.state.lock();
        state.fail(StorageError::Poisoned);
        self.0.changed.notify_all();
        wake(state);
    }
}

/// Whoever writes also wakes those who were told then, unless code of the application must not run there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wake {
    Here,
    /// The writer's turn is taken, and whoever is woken may ask for it: the thread wakes, where there is one.
    Elsewhere,
}

impl CommitQueue {
    pub(super) fn new(store: Arc<PageStore>, pins: Arc<Pins>) -> Arc<Self> {
        let state = State {
            store: Arc::clone(&store),
            log: None,
            appended_changes: 0,
            writer: None,
            waiting: VecDeque::new(),
            in_flight: 0,
            queued_bytes: 0,
            charge: Charge::new(store.account()),
            published: pins.published().id,
            failure: None,
            told: Vec::new(),
            is_served: false,
            is_ended: false,
        };
        let (state, changed) = (Mutex::new(state), Condvar::default());
        Arc::new(Self { store, pins, state, changed, thread: Mutex::new(None) })
    }

    /// How much of the log is taken, where there is one.
    pub(super) fn log(&self) -> Option<LogRoom> {
        self.state.lock().log
    }

    /// The log as it goes on from here, where there is one. The queue is empty.
    pub(super) fn writer(&self) -> Option<LogWriter> {
        let state = self.state.lock();
        assert!(state.waiting.is_empty(), "a slot is written when nothing waits");
        state.writer.clone()
    }

    /// Takes over the log of a new slot. The queue is empty.
    pub(super) fn set_log(&self, writer: Option<LogWriter>) {
        let mut state = self.state.lock();
        assert!(state.waiting.is_empty(), "a slot is written when nothing waits");
        let room = writer.as_ref().map(LogWriter::room);
        let before = std::mem::replace(&mut state.log, room);
        state.appended_changes = 0;
        state.writer = writer;
        drop(state);
        log_growth(before.as_ref(), room.as_ref());
    }

    /// A slot is durable that needs nothing of the log before this place, so many changes of rows.
    pub(super) fn let_go_before(&self, start: &LogStart, changes: u64) {
        let mut state = self.state.lock();
        state.appended_changes -= changes;
        if let Some(log) = &mut state.log {
            log.let_go_before(start.unit, changes);
        }
    }

    /// Goes on with a log of the session before, of which opening has read so much. The queue is empty.
    pub(super) fn resume_log(&self, writer: LogWriter, room: LogRoom) {
        let mut state = self.state.lock();
        state.appended_changes = room.changes();
        (state.log, state.writer) = (Some(room), Some(writer));
    }

    /// Has readers see versions otherwise laid out from here on, those that wait too.
    pub(super) fn lay_out(&self, lay_out: impl Fn(&mut Version)) {
        let mut state = self.state.lock();
        self.pins.replace_published(&lay_out);
        for waiting in state.waiting.iter_mut().filter(|waiting| waiting.pin.is_some()) {
            lay_out(&mut waiting.commit.version);
            waiting.pin = Some(self.pins.pin(waiting.commit.version.clone()));
        }
    }

    /// Shows a version that a slot has made durable. The queue is empty.
    pub(super) fn publish(&self, version: Version) {
        let mut state = self.state.lock();
        assert!(state.waiting.is_empty(), "a slot is written when nothing waits");
        state.published = version.id;
        self.pins.publish(version);
    }

    /// Queues a commit; whoever calls holds the writer's turn, so that they enter in order.
    pub(super) fn push(self: &Arc<Self>, commit: Queued) {
        let (mut is_due, is_waited_for) = (commit.due.is_some(), commit.outcomes.is_empty());
        let mut state = self.state.lock();
        state.push(commit, &self.pins);
        // Whoever waits for a commit writes what others left; of those that nobody waits for some thread has to.
        if !is_waited_for
            && state.queued_bytes > QUEUED_BYTES_MAX
            && let Some(last) = state.waiting.back_mut()
        {
            last.commit.due.get_or_insert_with(|| Deadline::after(Duration::ZERO));
            is_due = true;
        }
        drop(state);
        if is_due && self.has_thread() {
            self.changed.notify_all();
        } else if is_due && let Err(error) = self.drain() {
            log::error!("late commits could not be written: {error}");
        }
    }

    /// Waits until a version is what it was promised to be, writing whatever has to be written for that.
    pub(super) fn finish(&self, id: TransactionId) -> Result<()> {
        self.write_while(Wake::Here, |state| state.published < id)?;
        // A failure concerns others then: they will learn of it.
        self.write_while(Wake::Here, |state| state.failure.is_none() && state.queued_bytes > QUEUED_BYTES_MAX)
    }

    /// Has an outcome told once readers see a version that was committed.
    pub(super) fn tell(self: &Arc<Self>, id: TransactionId, outcome: Arc<Outcome>) {
        let mut state = self.state.lock();
        let place = state.waiting.partition_point(|waiting| waiting.commit.version.id < id);
        let State { published, failure, waiting, .. } = &mut *state;
        match (failure, waiting.get_mut(place)) {
            _ if *published >= id => outcome.committed(id),
            (None, Some(waiting)) => {
                waiting.commit.outcomes.push(outcome);
                drop(state);
                // Somebody else writes, but may not be the one to wake tasks.
                self.has_thread();
            }
            (Some(failure), _) => outcome.in_doubt(failure.tell()),
            (None, None) => unreachable!("a version that is committed is published or waits"),
        }
    }

    /// Makes everything durable that has a record. Whoever holds the writer's turn finds the queue empty afterwards.
    pub(super) fn drain(&self) -> Result<()> {
        self.write_while(Wake::Elsewhere, |state| !state.waiting.is_empty())
    }

    /// As [`drain`](Self::drain) for somebody whom a failure does not concern; says whether the queue is empty.
    pub(super) fn drain_untold(&self) -> bool {
        self.is_written_while(Wake::Elsewhere, |state| !state.waiting.is_empty())
    }

    /// Makes everything durable that has a record and was queued before.
    pub(super) fn sync(&self) -> Result<()> {
        let Some(last) = self.state.lock().waiting.back().map(|last| last.commit.version.id) else {
            return Ok(());
        };
        let is_before = |first: &Waiting| first.commit.version.id <= last;
        self.write_while(Wake::Here, |state| state.waiting.front().is_some_and(is_before))
    }

    /// Nothing is written any more: fails if that leaves something undurable that readers saw. `is_log_cut` says whether
    /// there is such a thing beside what the queue knows.
    pub(super) fn check_shown(&self, is_log_cut: bool) -> Result<()> {
        let mut state = self.state.lock();
        while state.in_flight > 0 {
            state = self.changed.wait(state);
        }
        if !is_log_cut && state.waiting.front().is_none_or(|first| first.pin.is_some()) {
            return Ok(());
        }
        Err(state.failure.as_mut().map_or(StorageError::Poisoned, Failure::tell))
    }

    fn write_while(&self, told: Wake, is_wanted: impl Fn(&State) -> bool) -> Result<()> {
        if self.is_written_while(told, is_wanted) {
            return Ok(());
        }
        Err(self.state.lock().failure.as_mut().map_or(StorageError::Poisoned, Failure::tell))
    }

    /// Writes as long as something is wanted; says whether nothing failed that was.
    fn is_written_while(&self, told: Wake, is_wanted: impl Fn(&State) -> bool) -> bool {
        let mut state = self.state.lock();
        while is_wanted(&state) {
            if state.failure.is_some() {
                return false;
            }
            state = if state.in_flight > 0 { self.changed.wait(state) } else { self.lead(state, told) };
        }
        true
    }

    /// Writes what waits, as one group, and shows it.
    fn lead<'q>(&'q self, mut state: MutexGuard<'q, State>, told: Wake) -> MutexGuard<'q, State> {
        let group = state.take_group();
        let mut writer = state.writer.take();
        let changes: u64 = group.iter().map(|record| record.changes).sum();
        drop(state);
        let panicking = Panicking(self);
        let outcome = match writer.as_mut().filter(|_| !group.is_empty()) {
            Some(writer) => write(writer, &self.store, group), // the commit point
            None => Ok(()),
        };
        // Not dropped by whoever panicked before and commits on the way out.
        std::mem::forget(panicking);
        let mut state = self.state.lock();
        state.writer = writer;
        match outcome {
            Ok(()) => {
                state.appended_changes += changes;
                state.conclude_group(&self.pins);
            }
            Err(error) => state.fail(error),
        }
        self.changed.notify_all();
        if state.told.is_empty() || (told == Wake::Elsewhere && state.is_served) {
            return state;
        }
        wake(state);
        self.state.lock()
    }

    /// Whether a thread writes what is due, which is started where it is needed.
    fn has_thread(self: &Arc<Self>) -> bool {
        let mut thread = self.thread.lock();
        if thread.is_none() {
            let queue = Arc::clone(self);
            let started = std::thread::Builder::new().name("cowslip-sync".into()).spawn(move || queue.serve());
            // Where the system has no thread to spare, whoever commits next, or closes, writes it.
            *thread = started.inspect_err(|error| log::warn!("no thread for late commits: {error}")).ok();
            self.state.lock().is_served = thread.is_some();
        }
        thread.is_some()
    }

    fn serve(&self) {
        let mut state = self.state.lock();
        loop {
            if !state.told.is_empty() {
                wake(state);
                state = self.state.lock();
                continue;
            }
            if state.is_ended {
                break;
            }
            let due = state.due().filter(|_| state.failure.is_none());
            state = match due {
                None => self.changed.wait(state),
                Some(due) if !due.is_over() => self.changed.wait_until(state, due),
                Some(_) if state.in_flight > 0 => self.changed.wait(state),
                Some(_) => self.lead(state, Wake::Here),
            };
        }
        state.is_served = false;
    }

    /// Ends the thread. What waits and is not durable by then stays so.
    pub(super) fn end(&self) {
        self.state.lock().is_ended = true;
        self.changed.notify_all();
        let thread = self.thread.lock().take();
        // A task that it wakes may own the last handle of the database: then it ends when that returns.
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id()) {
            // Nothing in it panics but a storage, and that was told as a failure.
            drop(thread.join());
        }
    }
}

/// Wakes the tasks of those who were told, without the lock: what waking runs is not known here.
fn wake(mut state: MutexGuard<'_, State>) {
    let told = std::mem::take(&mut state.told);
    drop(state);
    for outcome in told {
        // What panics is no part of any commit, and others are to be woken as well.
        if catch_unwind(AssertUnwindSafe(|| outcome.wake())).is_err() {
            log::error!("waking a task that awaited a commit panicked");
        }
    }
}

/// Says that the log became longer.
fn log_growth(before: Option<&LogRoom>, after: Option<&LogRoom>) {
    let units = |room: &LogRoom| room.segment().units;
    if let Some(after) = after.filter(|after| units(after) > before.map_or(0, units)) {
        log::info!("the redo log has {} units from now on, before {}", units(after), before.map_or(0, units));
    }
}

fn write(writer: &mut LogWriter, store: &PageStore, group: Vec<QueuedRecord>) -> Result<()> {
    let count = u32::try_from(group.len()).expect("a group holds few records");
    let mut bodies = group.into_iter().map(|record| record.body);
    let mut body = bodies.next().unwrap_or_default();
    bodies.for_each(|more| body.extend_from_slice(&more));
    writer.append(store, &body, count)
}

#[cfg(test)]
mod tests;
