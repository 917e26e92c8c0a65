//! The queue of commits that wait for the medium: one of those who wait writes for all that wait by then.
//!
//! Invariant: versions become durable, and visible, in the order in which they were queued; one that nobody sees yet is pinned.
//! After the first failure nothing more becomes durable, and everybody who waits learns of it.
//! Layer 5 (txn). Lock order: whatever transactions lock, then the queue, then the pins. Rules: design.md, "Commit".

mod gather;
mod thread;

use self::gather::Gathering;
use super::future::Outcome;
use super::log::{BODY_BYTES_MAX, LogRoom, LogWriter};
use super::stats::CommitWatch;
use crate::base::clock::{Deadline, Stopwatch};
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

/// Records that nobody waits for are written by the thread once they take so much memory.
const QUEUED_BYTES_DUE: usize = 1 << 20;
/// Whoever adds to more than so many waits until they are fewer, or to more than a share of the memory for changes.
const QUEUED_BYTES_MAX: usize = 8 << 20;
const QUEUED_SHARE: usize = 4;
/// An empty queue keeps memory for so many commits.
const PLACES_KEPT: usize = 64;

/// Commits that wait for the medium, and those that nobody waits for.
#[derive(Debug)]
pub(crate) struct CommitQueue {
    store: Arc<PageStore>,
    pins: Arc<Pins>,
    state: Mutex<State>,
    /// Notified when commits reached what they wait for, and when something was queued that the thread has to write.
    changed: Condvar,
    /// Notified when a group was written, in turn: one for those whose commits are in it, the other for those of the next.
    groups: [Condvar; 2],
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
    id: TransactionId,
    /// What readers are going to see, with its pin, until they do. Nodes that nobody reads any more are free from then on, and
    /// used again while they are warm, however long the record waits.
    unseen: Option<Box<(Version, Pin)>>,
    record: Option<QueuedRecord>,
    /// Length of the record, which is taken when it is written.
    record_bytes: Option<u64>,
    is_hidden: bool,
    due: Option<Deadline>,
    outcomes: Vec<Arc<Outcome>>,
    watch: CommitWatch,
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
    /// So many at the front are published.
    shown: usize,
    /// So many that are being written are waited for, and so many of the others.
    awaited_in_flight: usize,
    awaited: usize,
    gathering: Gathering,
    /// So many groups were begun.
    groups: usize,
    /// What need not be durable was shown since the last group was written.
    has_shown: bool,
    /// Memory of the records that are not, with their places in the queue.
    queued_bytes: usize,
    /// The thread was told that they are too many.
    is_overdue: bool,
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
            self.count_bytes(queued_bytes(record), 0);
        }
        let Queued { version, record, is_hidden, due, outcomes, watch } = commit;
        let (id, record_bytes) = (version.id, record.as_ref().map(|record| record.body.len() as u64));
        let pin = pins.pin(version.clone());
        let unseen = Some(Box::new((version, pin)));
        self.awaited += usize::from(is_hidden);
        self.waiting.push_back(Waiting { id, unseen, record, record_bytes, is_hidden, due, outcomes, watch });
        if let Some(failure) = &mut self.failure {
            let outcomes = self.waiting.back_mut().map(|last| std::mem::take(&mut last.outcomes));
            outcomes.into_iter().flatten().for_each(|outcome| outcome.in_doubt(failure.tell()));
        }
        let told = self.told.len();
        self.publish_ready(pins);
        // Nobody awaits the outcome of this one yet.
        self.told.truncate(told);
    }

    /// How much memory records may take that nobody waits for.
    fn queued_bytes_max(&self) -> usize {
        (self.store.account().delta_bytes_max() / QUEUED_SHARE).clamp(QUEUED_BYTES_DUE, QUEUED_BYTES_MAX)
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
        for (place, waiting) in self.waiting.iter_mut().enumerate().skip(self.shown) {
            if waiting.is_hidden || place < self.in_flight {
                break;
            }
            waiting.publish(pins, &mut self.told);
            waiting.tell(&self.store, false);
            (self.published, self.shown, self.has_shown) = (waiting.id, place + 1, true);
        }
        // What is shown and has no record waits for nothing.
        while self.waiting.len() > self.in_flight
            && self.shown == self.waiting.len()
            && self.waiting.back().is_some_and(|last| last.record.is_none())
        {
            self.waiting.pop_back();
            self.shown -= 1;
        }
        while self.in_flight == 0
            && self.waiting.front().is_some_and(|first| first.unseen.is_none() && first.record.is_none())
        {
            self.waiting.pop_front();
            self.shown -= 1;
        }
    }

    /// Takes the records of as many commits as one group holds.
    fn take_group(&mut self) -> Vec<QueuedRecord> {
        let mut group = Vec::new();
        let (mut body_bytes, mut removed_bytes) = (0, 0);
        self.is_overdue = false;
        let room = self.writer.as_ref().map(LogWriter::room);
        self.gathering.begins(self.awaited);
        self.groups += 1;
        for waiting in &mut self.waiting {
            let len = waiting.record.as_ref().map_or(0, |record| record.body.len());
            // A group goes to the begin of the ring only if its first record had to.
            let wraps = |first: &QueuedRecord| room.is_some_and(|room| !room.fits_at_head(first.body.len()));
            let fits = room.is_none_or(|room| room.fits_at_head(body_bytes + len));
            if body_bytes + len > BODY_BYTES_MAX || !(fits || group.first().is_none_or(wraps)) {
                break;
            }
            body_bytes += len;
            removed_bytes += waiting.record.as_ref().map_or(0, queued_bytes);
            group.extend(waiting.record.take());
            self.in_flight += 1;
            self.awaited_in_flight += usize::from(waiting.is_hidden);
        }
        self.awaited -= self.awaited_in_flight;
        self.count_bytes(0, removed_bytes);
        group
    }

    /// What was in flight is durable, after so long.
    fn conclude_group(&mut self, pins: &Pins, took: Duration) {
        self.gathering.ended(std::mem::take(&mut self.awaited_in_flight), self.awaited, took);
        for mut waiting in self.waiting.drain(..self.in_flight) {
            if waiting.unseen.is_some() {
                waiting.publish(pins, &mut self.told);
                waiting.tell(&self.store, true);
                self.published = waiting.id;
            }
        }
        self.shown = self.shown.saturating_sub(self.in_flight);
        self.in_flight = 0;
        if self.waiting.is_empty() {
            self.waiting.shrink_to(PLACES_KEPT);
        }
        // Groups take less room than their records would have taken each for itself.
        if let (Some(writer), Some(kept)) = (&self.writer, self.log) {
            let mut room = writer.room().needed_from(&kept, self.appended_changes);
            for record in self.waiting.iter().filter_map(|waiting| waiting.record.as_ref()) {
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
            for outcome in waiting.outcomes.drain(..) {
                outcome.in_doubt(error.take().unwrap_or(StorageError::Poisoned));
                self.told.push(outcome);
            }
        }
        self.failure.get_or_insert(error.map_or(Failure::Told, Failure::Untold));
    }

    /// Which of the two groups is the one that was begun last, or the one after it.
    fn group(&self, is_next: bool) -> usize {
        (self.groups + usize::from(is_next)) % 2
    }
}

impl Waiting {
    /// Counts a commit that was published.
    fn tell(&self, store: &PageStore, is_written: bool) {
        let kind = if self.record_bytes.is_some() { CommitKind::Log } else { CommitKind::Memory };
        let is_durable = is_written && self.record_bytes.is_some();
        self.watch.committed(store, kind, self.id, self.record_bytes.unwrap_or(0), is_durable);
    }

    fn publish(&mut self, pins: &Pins, told: &mut Vec<Arc<Outcome>>) {
        let (version, pin) = *self.unseen.take().expect("each is published once");
        pins.publish(version);
        drop(pin);
        for outcome in self.outcomes.drain(..) {
            outcome.committed(self.id);
            told.push(outcome);
        }
    }
}

/// Memory that a record takes until it is written.
fn queued_bytes(record: &QueuedRecord) -> usize {
    record.body.len() + size_of::<Waiting>()
}

/// Says that writing failed when it is dropped, as it is where whoever writes panics.
struct Panicking<'q>(&'q CommitQueue);

impl Drop for Panicking<'_> {
    fn drop(&mut self) {
        self.0.store.poison();
        let mut state = self.0.state.lock();
        state.fail(StorageError::Poisoned);
        let told = std::mem::take(&mut state.told);
        self.0.notify(state);
        wake(told);
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
            shown: 0,
            awaited_in_flight: 0,
            awaited: 0,
            gathering: Gathering::new(),
            groups: 0,
            has_shown: false,
            queued_bytes: 0,
            is_overdue: false,
            charge: Charge::new(store.account()),
            published: pins.published().id,
            failure: None,
            told: Vec::new(),
            is_served: false,
            is_ended: false,
        };
        let (state, changed, groups) = (Mutex::new(state), Condvar::default(), Default::default());
        Arc::new(Self { store, pins, state, changed, groups, thread: Mutex::new(None) })
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
        for unseen in state.waiting.iter_mut().filter_map(|waiting| waiting.unseen.as_mut()) {
            let (version, pin) = &mut **unseen;
            lay_out(version);
            *pin = self.pins.pin(version.clone());
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
        let (mut is_due, is_hidden) = (commit.due.is_some(), commit.is_hidden);
        let mut state = self.state.lock();
        state.push(commit, &self.pins);
        // Whoever waits until a commit is durable writes what others left as well.
        if !is_hidden
            && state.queued_bytes > QUEUED_BYTES_DUE
            && !std::mem::replace(&mut state.is_overdue, true)
            && let Some(last) = state.waiting.back_mut()
        {
            last.due.get_or_insert_with(|| Deadline::after(Duration::ZERO));
            is_due = true;
        }
        drop(state);
        if is_due && self.has_thread() {
            self.changed.notify_all();
        } else if is_due && !self.drain_untold() {
            log::error!("late commits could not be written");
        }
    }

    /// Waits until a version is what it was promised to be, writing whatever has to be written for that.
    pub(super) fn finish(&self, id: TransactionId) -> Result<()> {
        let mut state = self.state.lock();
        while state.published < id {
            if let Some(failure) = &mut state.failure {
                return Err(failure.tell());
            }
            state = if state.in_flight > 0 {
                let is_in_flight = state.waiting.get(state.in_flight - 1).is_some_and(|last| id <= last.id);
                self.groups[state.group(!is_in_flight)].wait(state)
            } else if let Some(until) = state.gathering.waits_until(state.awaited).filter(|until| !until.is_over()) {
                // Whoever comes last writes it, or whoever finds that time is over.
                self.groups[state.group(true)].wait_until(state, until)
            } else {
                self.lead(state, Wake::Here)
            };
        }
        drop(state);
        // A failure concerns others then: they will learn of it.
        self.write_while(Wake::Here, |state| state.failure.is_none() && state.queued_bytes > state.queued_bytes_max())
    }

    /// Has an outcome told once readers see a version that was committed.
    pub(super) fn tell(self: &Arc<Self>, id: TransactionId, outcome: Arc<Outcome>) {
        let mut state = self.state.lock();
        let place = state.waiting.partition_point(|waiting| waiting.id < id);
        let State { published, failure, waiting, .. } = &mut *state;
        match (failure, waiting.get_mut(place)) {
            _ if *published >= id => outcome.committed(id),
            (None, Some(waiting)) => {
                waiting.outcomes.push(outcome);
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
        let Some(last) = self.state.lock().waiting.back().map(|last| last.id) else {
            return Ok(());
        };
        let is_before = |first: &Waiting| first.id <= last;
        self.write_while(Wake::Here, |state| state.waiting.front().is_some_and(is_before))
    }

    /// Nothing is written any more: fails if that leaves something undurable that readers saw. `is_log_cut` says whether
    /// there is such a thing beside what the queue knows.
    pub(super) fn check_shown(&self, is_log_cut: bool) -> Result<()> {
        let mut state = self.state.lock();
        while state.in_flight > 0 {
            state = self.changed.wait(state);
        }
        if !is_log_cut && state.waiting.front().is_none_or(|first| first.unseen.is_some()) {
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

    /// A group was written: those hear of it who wait for it, and one of the next group, who writes that. Gives the lock back
    /// before, so that whoever wakes need not wait for it.
    fn notify(&self, mut state: MutexGuard<'_, State>) {
        let (written, next) = (state.group(false), state.group(true));
        // What follows and need not be durable was shown with it.
        let concerns_all = std::mem::take(&mut state.has_shown) || state.failure.is_some();
        drop(state);
        self.groups[written].notify_all();
        if concerns_all {
            self.groups[next].notify_all();
        } else {
            self.groups[next].notify_one();
        }
        self.changed.notify_all();
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
        let watch = Stopwatch::start();
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
                state.conclude_group(&self.pins, watch.elapsed());
            }
            Err(error) => state.fail(error),
        }
        let is_woken_here = told == Wake::Here || !state.is_served;
        let told = if is_woken_here { std::mem::take(&mut state.told) } else { Vec::new() };
        self.notify(state);
        wake(told);
        self.state.lock()
    }
}

/// Wakes the tasks of those who were told, without the lock: what waking runs is not known here.
fn wake(told: Vec<Arc<Outcome>>) {
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
    let more_bytes = group.iter().skip(1).map(|record| record.body.len()).sum();
    let mut bodies = group.into_iter().map(|record| record.body);
    let mut body = bodies.next().unwrap_or_default();
    body.reserve_exact(more_bytes);
    bodies.for_each(|more| body.extend_from_slice(&more));
    writer.append(store, &body, count)
}

#[cfg(test)]
mod tests;
