//! The commit, told step by step: what a transaction changed is sealed, made durable in one of two ways, and published.
//!
//! Invariant: nobody sees a version before it is as durable as was promised, and versions become durable and visible in the
//! order of their ids. A version that only the log tells of is whole in memory until a checkpoint has written it.
//! Layer 5 (txn). Rules: design.md, "Commit".

use super::checkpoint::{self, LogAfter};
use super::core::{Core, Durable, IDS_AHEAD};
use super::durability::Durability;
use super::error::CommitError;
use super::future::{CommitFuture, Outcome};
use super::log::record::{self, RecordHead, TableChanges};
use super::queue::{Queued, QueuedRecord};
use super::write::{Bracket, OpenTransaction, Staged, WriteTransaction};
use crate::base::clock::Deadline;
use crate::base::error::{Result, StorageError};
use crate::base::ids::{TransactionId, TreeRoot};
use crate::base::sync::{Arc, Mutex};
use crate::btree::redo::Redo;
use crate::catalog::roots::Roots;
use crate::pages::behind::Sealed;
use crate::pages::version::Version;
use std::collections::BTreeMap;
use std::time::Duration;

/// A record pays where it is shorter than the changed pages by this factor.
const RECORD_GAIN_MIN: usize = 4;

/// A replay may have to make so many changes of rows, and to read a leaf for each.
pub(super) const REPLAY_CHANGES_MAX: u64 = 1 << 14;

/// A transaction that is complete and ready to be written.
struct Change {
    sealed: Vec<Sealed>,
    data: TreeRoot,
    forward: TreeRoot,
    /// What was done to the rows of each table.
    redo: Vec<(String, Redo)>,
}

/// How a transaction becomes durable.
enum Way {
    /// By a record in the log.
    Record(QueuedRecord),
    /// By a slot, and what becomes of the log then.
    Slot(LogAfter),
    /// Not now: nothing is written, and only this handle shows it.
    Memory,
}

/// A transaction that is sealed and knows its way. It holds the writer's turn.
struct Ready {
    bracket: Bracket,
    sealed: Vec<Sealed>,
    version: Version,
    way: Way,
    durability: Durability,
}

impl WriteTransaction {
    /// Makes the transaction visible, and as durable as [`set_durability`](Self::set_durability) or the database's default
    /// asks for. Returns the id of the version that readers see from now on.
    ///
    /// A transaction that changed nothing writes nothing and returns the id of the version that it began on.
    ///
    /// The next write transaction can begin while this one waits for the medium, and one write then serves all that wait.
    ///
    /// Cost: for a small transaction one write of 4 KiB or little more, which forces itself to the medium; for a large one
    /// a sequential write of all changed pages and a sync, then one small write and a sync. Now and then a small one pays
    /// for what those before it left to be written.
    ///
    /// # Errors
    /// - [`CommitError::Poisoned`], [`CommitError::TableLeaked`], [`CommitError::Aborted`]: nothing was committed; the
    ///   database goes on as if the transaction had never begun.
    /// - [`CommitError::InDoubt`]: a write or sync failed. Readers go on, this handle writes no more, and after
    ///   reopening the transaction is wholly there or wholly absent.
    pub fn commit(self) -> Result<TransactionId, CommitError> {
        let core = self.core();
        let (id, ready) = self.make_ready()?;
        if let Some(ready) = ready {
            ready.perform(&core, None)?;
        }
        // What changed nothing waits as well: a reader that begins now sees what it saw.
        core.queue.finish(id).map_err(in_doubt)?;
        Ok(id)
    }

    /// As [`commit`](Self::commit), but does not wait for the medium: the outcome is a future of any runtime. By the time
    /// that this returns, the next write transaction can begin, or will soon.
    ///
    /// The commit takes its course whether or not the future is awaited. Small commits are written by a thread that the
    /// database keeps, many at once; a large one, or one that changes tables themselves, by a thread of its own.
    ///
    /// ```
    /// # use std::{future::Future, pin::Pin, sync::Arc, task::{Context, Poll, Wake, Waker}, thread::{self, Thread}};
    /// # struct Unpark(Thread);
    /// # impl Wake for Unpark { fn wake(self: Arc<Self>) { self.0.unpark() } }
    /// # fn block_on<F: Future + Unpin>(mut future: F) -> F::Output {
    /// #     let waker = Waker::from(Arc::new(Unpark(thread::current())));
    /// #     loop {
    /// #         match Pin::new(&mut future).poll(&mut Context::from_waker(&waker)) {
    /// #             Poll::Ready(outcome) => return outcome,
    /// #             Poll::Pending => thread::park(),
    /// #         }
    /// #     }
    /// # }
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use cowslip::{Database, TableDefinition};
    /// const SEEN: TableDefinition<u64, u64> = TableDefinition::new("seen");
    /// let db = Database::in_memory()?;
    /// let commits: Vec<_> = (0..10)
    ///     .map(|id| {
    ///         let tx = db.begin_write()?;
    ///         tx.open_table(SEEN)?.insert(id, id)?;
    ///         Ok::<_, cowslip::Error>(tx.commit_async())
    ///     })
    ///     .collect::<Result<_, _>>()?;
    /// for commit in commits {
    ///     block_on(commit)?;
    /// }
    /// assert_eq!(db.begin_read()?.open_table(SEEN)?.len()?, 10);
    /// # Ok(())
    /// # }
    /// ```
    pub fn commit_async(self) -> CommitFuture {
        let core = self.core();
        let outcome = Arc::new(Outcome::default());
        let future = CommitFuture::new(Arc::clone(&outcome));
        match self.make_ready() {
            Ok((_, Some(ready))) if matches!(ready.way, Way::Slot(_)) => perform_elsewhere(core, ready, outcome),
            Ok((_, Some(ready))) => {
                if let Err(error) = ready.perform(&core, Some(Arc::clone(&outcome))) {
                    outcome.set(Err(error));
                }
            }
            Ok((id, None)) => core.queue.tell(id, outcome),
            Err(error) => outcome.set(Err(error)),
        }
        future
    }

    fn core(&self) -> Arc<Core> {
        Arc::clone(self.parts().bracket.turn.core())
    }

    /// Seals what changed and decides how it becomes durable. Says which version readers are to see in the end.
    fn make_ready(mut self) -> Result<(TransactionId, Option<Ready>), CommitError> {
        if self.is_poisoned() {
            return Err(self.take_untold().map_or(CommitError::Poisoned, aborted));
        }
        let OpenTransaction { tables, roots, mut bracket } =
            self.open.take().expect("the transaction ends only by value");
        bracket.watch.restart();
        let tables = std::mem::take(&mut *tables.lock());
        if let Some((name, _)) = tables.iter().find(|(_, staged)| matches!(staged, Staged::Open)) {
            return Err(CommitError::TableLeaked(name.clone()));
        }
        let core = Arc::clone(bracket.turn.core());
        let durable = core.durable.lock();
        let Some(change) = self.seal(tables, roots.into_value(), &bracket).map_err(aborted)? else {
            bracket.watch.is_unchanged = true;
            return Ok((durable.head.id, None));
        };
        if core.store.is_poisoned() {
            return Err(aborted(StorageError::Poisoned));
        }
        let version = Version {
            id: self.id,
            commit_time_micros: self.commit_time_micros.unwrap_or_else(|| core.commit_time(&durable)),
            data: change.data,
            forward: change.forward,
        };
        let way = self.choose_way(&core, &durable, &bracket, &change, &version);
        let durability = self.durability;
        // What recorded changes kept the version pinned that the transaction began on; it ends here.
        Ok((self.id, Some(Ready { bracket, sealed: change.sealed, version, way, durability })))
    }

    /// Computes all checksums; `None` where nothing changed.
    fn seal(&self, tables: BTreeMap<String, Staged>, mut roots: Roots, bracket: &Bracket) -> Result<Option<Change>> {
        let (mut sealed, mut redo) = (Vec::new(), Vec::new());
        for (name, table) in tables {
            let Staged::Closed(closed) = table else { continue };
            let (mut record, mut tree) = *closed;
            if tree.is_changed() {
                match tree.take_redo().filter(|redo| redo.count() > 0) {
                    Some(changes) => redo.push((name.clone(), changes)),
                    None => bracket.writer.give_up_log(),
                }
                record.root = tree.seal(&mut sealed).map_err(|error| error.in_table(&name))?;
                roots.put(&name, &record)?;
            }
        }
        if !roots.is_changed() && !self.commit_unchanged {
            return Ok(None);
        }
        let (data, forward) = roots.seal(&mut sealed)?;
        bracket.writer.await_all()?;
        if !self.without_log {
            bracket.writer.keep_room()?;
        }
        Ok(Some(Change { sealed, data, forward, redo }))
    }

    /// Decides how the transaction becomes durable. A record is worth it where it says much less than the pages, where the
    /// log has room, and where neither memory nor a replay would have to bear too much.
    fn choose_way(&self, core: &Core, durable: &Durable, bracket: &Bracket, change: &Change, version: &Version) -> Way {
        if core.is_read_only() {
            return Way::Memory;
        }
        if self.without_log {
            return Way::Slot(LogAfter::None);
        }
        let page_bytes: usize = change.sealed.iter().map(|sealed| sealed.bytes.len()).sum();
        let fits_memory = core.store.unwritten().bytes() + page_bytes <= core.store.account().unwritten_bytes_max();
        let is_far_ahead = version.id.get() - durable.slot.transaction.get() >= IDS_AHEAD / 2;
        if self.durability == Durability::None && !self.two_phase && fits_memory && !is_far_ahead {
            return Way::Memory;
        }
        if self.two_phase || !bracket.writer.is_loggable() || change.redo.is_empty() {
            return Way::Slot(LogAfter::Kept);
        }
        let head =
            RecordHead { id: version.id, previous: durable.head.id, commit_time_micros: version.commit_time_micros };
        let tables =
            change.redo.iter().map(|(name, redo)| TableChanges { name, count: redo.count(), changes: redo.bytes() });
        let body = record::encode(&head, &tables.collect::<Vec<_>>());
        if body.len() * RECORD_GAIN_MIN > page_bytes {
            return Way::Slot(LogAfter::Kept);
        }
        let changes = change.redo.iter().map(|(_, redo)| u64::from(redo.count())).sum();
        let has_room = core
            .queue
            .log()
            .is_some_and(|log| log.has_room(body.len()) && log.changes() + changes <= REPLAY_CHANGES_MAX);
        if has_room && fits_memory && !durable.is_log_cut() {
            Way::Record(QueuedRecord { body, changes })
        } else {
            Way::Slot(LogAfter::Begun { record_bytes: body.len() })
        }
    }
}

fn aborted(error: StorageError) -> CommitError {
    CommitError::Aborted(Box::new(error))
}

fn in_doubt(error: StorageError) -> CommitError {
    CommitError::InDoubt(Box::new(error))
}

/// Writes everything that the version needs and a slot that names it, and publishes it.
fn commit_by_slot(
    core: &Core,
    durable: &mut Durable,
    mut bracket: Bracket,
    sealed: Vec<Sealed>,
    version: Version,
    log_after: LogAfter,
) -> Result<(), CommitError> {
    let prepared = checkpoint::prepare(core, durable, &bracket.writer, version, sealed, log_after);
    let prepared = prepared.map_err(aborted)?;
    checkpoint::write(&core.store, &prepared, &|| usize::MAX).map_err(in_doubt)?;
    checkpoint::flip(&core.store, &prepared).map_err(in_doubt)?;
    checkpoint::conclude(core, durable, prepared);
    bracket.concluded = true;
    durable.head = version;
    core.queue.publish(version);
    bracket.watch.committed_by_slot(&core.store, version.id);
    let dead = bracket.writer.take_dead();
    // The writer pins the version it began on; its turn goes on in the caller's lock on `durable`.
    drop(bracket);
    core.settle(durable, dead);
    Ok(())
}

impl Ready {
    /// Commits by a slot, of which the caller tells, or queues the commit and lets the next writer begin.
    fn perform(self, core: &Core, outcome: Option<Arc<Outcome>>) -> Result<(), CommitError> {
        let Self { mut bracket, sealed, version, way, durability } = self;
        let mut durable = core.durable.lock();
        let record = match way {
            Way::Slot(log_after) => {
                // What this one builds on has to be durable before it is.
                core.come_to_rest(&mut durable).map_err(aborted)?;
                commit_by_slot(core, &mut durable, bracket, sealed, version, log_after)?;
                core.trim(&mut durable);
                return Ok(());
            }
            Way::Record(record) => Some(record),
            Way::Memory => None,
        };
        if !core.is_read_only() {
            // The next session has to know of this one, or it would give the ids again that readers see from here on.
            core.store.mark_open().map_err(aborted)?;
        }
        core.store.keep_unwritten(sealed);
        core.space.lock().publish();
        bracket.concluded = true;
        durable.head = version;
        if record.is_none() {
            durable.unrecorded = version.id;
        }
        let is_hidden = durability == Durability::Immediate && record.is_some();
        // A record that nobody waits for becomes durable all the same.
        let delay = if is_hidden { outcome.as_ref().map(|_| Duration::ZERO) } else { Some(core.sync_delay_max) };
        let due = delay.filter(|_| record.is_some()).map(Deadline::after);
        let outcomes = outcome.into_iter().collect();
        core.queue.push(Queued { version, record, is_hidden, due, outcomes, watch: bracket.watch });
        let dead = bracket.writer.take_dead();
        // The writer pins the version that it began on. The next one waits for the lock on `durable`.
        drop(bracket);
        core.settle(&mut durable, dead);
        core.checkpointer.step();
        core.checkpoint_if_due(&mut durable);
        Ok(())
    }
}

/// A commit that a thread of its own is to make.
struct Job {
    core: Arc<Core>,
    ready: Ready,
    outcome: Arc<Outcome>,
}

impl Job {
    fn run(self) {
        // Dropped last, after a panic too.
        let ending = Ending(Arc::clone(&self.outcome));
        let Self { core, ready, outcome } = self;
        let id = ready.version.id;
        let done = ready.perform(&core, None);
        // Whoever is told may close the database at once.
        drop(core);
        outcome.set(done.map(|()| id));
        drop(ending);
    }
}

/// Wakes whoever awaits the outcome, which is in doubt where a storage panicked.
struct Ending(Arc<Outcome>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.in_doubt(StorageError::Poisoned);
        self.0.wake();
    }
}

/// Commits on a thread of its own, where the system has one to spare.
fn perform_elsewhere(core: Arc<Core>, ready: Ready, outcome: Arc<Outcome>) {
    let job = Arc::new(Mutex::new(Some(Job { core, ready, outcome })));
    let run = |job: &Mutex<Option<Job>>| {
        let job = job.lock().take();
        job.into_iter().for_each(Job::run);
    };
    let theirs = Arc::clone(&job);
    let started = std::thread::Builder::new().name("cowslip-commit".into()).spawn(move || run(&theirs));
    if started.is_err() {
        run(&job);
    }
}
