//! The commit, told step by step: what a transaction changed is sealed, made durable in one of two ways, and published.
//!
//! Invariant: nobody sees a version before it is as durable as was promised, and versions become durable and visible in the
//! order of their ids. A version that only the log tells of is whole in memory until a checkpoint has written it.
//! Layer 5 (txn). Rules: design.md, "Commit".

use super::checkpoint::{self, Before, LogAfter, Named};
use super::core::{Core, Durable, IDS_AHEAD, TurnGuard};
use super::durability::Durability;
use super::error::CommitError;
use super::future::{CommitFuture, Outcome};
use super::log::LogRoom;
use super::log::record::{self, RecordHead, TableChanges};
use super::queue::{Queued, QueuedRecord};
use super::room::FoldingRoom;
use super::staged::{self, ClosedRows, ClosedTable, Staged};
use super::write::{Bracket, Ending, OpenTrees, WriteTransaction};
use crate::base::clock::Deadline;
use crate::base::error::{Result, StorageError};
use crate::base::ids::TransactionId;
use crate::base::sync::{Arc, Mutex};
use crate::delta::layers::Delta;
use crate::pages::behind::Sealed;
use crate::pages::version::{Trees, Version};
use std::collections::BTreeMap;
use std::time::Duration;

/// A replay may have to lay so many changes of rows over the trees.
pub(super) const REPLAY_CHANGES_MAX: u64 = 1 << 18;

/// How a transaction becomes durable.
enum Way {
    /// By a record in the log: what changed is laid over the trees.
    Record(QueuedRecord),
    /// Not now: it is laid over the trees, and nothing tells of it.
    Memory,
    /// By a slot that names its trees.
    Slot { bracket: Bracket, sealed: Vec<Sealed>, log_after: LogAfter },
}

/// A transaction that is complete and knows its way. It holds the writer's turn.
struct Ready {
    version: Version,
    way: Way,
    durability: Durability,
    ending: Ending,
    turn: TurnGuard,
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
    /// for what those before it left to be written. Where several threads commit at the same time, one waits for the others up
    /// to the time of a write, and at most a millisecond, so that they share the next.
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
            Ok((_, Some(ready))) if matches!(ready.way, Way::Slot { .. }) => perform_elsewhere(core, ready, outcome),
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
        Arc::clone(self.parts().core())
    }

    /// Decides how what changed becomes durable, and seals it where it is trees. Says which version readers are to see in
    /// the end.
    fn make_ready(mut self) -> Result<(TransactionId, Option<Ready>), CommitError> {
        if self.is_poisoned() {
            return Err(self.take_untold().map_or(CommitError::Poisoned, aborted));
        }
        let core = self.core();
        self.open.iter_mut().for_each(|open| open.ending.commit_begins());
        let tables = std::mem::take(&mut *self.parts().tables.lock());
        if let Some((name, _)) = tables.iter().find(|(_, staged)| matches!(staged, Staged::Open)) {
            return Err(CommitError::TableLeaked(name.clone()));
        }
        let head = core.durable.lock().head.id;
        let is_changed = tables.values().any(|staged| staged.own_changes().is_some());
        if !is_changed && self.parts().trees().is_none() && !self.commit_unchanged {
            self.open.iter_mut().for_each(|open| open.ending.is_unchanged());
            return Ok((head, None));
        }
        if core.store.is_poisoned() {
            return Err(aborted(StorageError::Poisoned));
        }
        // Ids are not consecutive where a session was not closed: from the first of them on the next session will know which
        // were seen, so it has to be durable before anybody sees it.
        if self.id.get() > head.get() + 1 {
            self.durability = Durability::Immediate;
        }
        let wants_slot = self.parts().trees().is_some() || self.two_phase || self.without_log || !is_changed;
        let mut log_after = if self.without_log { LogAfter::None } else { LogAfter::Kept };
        if !wants_slot {
            match self.lay_over(&core, &tables).map_err(aborted)? {
                Ok((version, way)) => {
                    let (_, ending, turn) = self.open.take().expect("the transaction ends only by value").into_parts();
                    let ready = Ready { version, way, durability: self.durability, ending, turn };
                    return Ok((self.id, Some(ready)));
                }
                Err(record_bytes) => log_after = LogAfter::Begun { record_bytes },
            }
        }
        let sealed = self.seal(&core, tables, log_after).map_err(aborted)?;
        Ok(sealed.map_or((head, None), |ready| (self.id, Some(ready))))
    }

    /// The version that the transaction makes where what changed is laid over the trees, and its record. Where log, memory or
    /// file have no room it has to be trees: then the length of the record that the log is too short for, zero if it is not.
    fn lay_over(&self, core: &Core, tables: &BTreeMap<String, Staged>) -> Result<Result<(Version, Way), usize>> {
        let changed: Vec<_> = tables.iter().filter_map(|(name, staged)| Some((name, staged.own_changes()?))).collect();
        let mut durable = core.durable.lock();
        let commit_time_micros = core.commit_time(&durable);
        let head = RecordHead { id: self.id, previous: durable.head.id, commit_time_micros };
        let parts = changed.iter().map(|(name, (_, rows))| TableChanges {
            name,
            count: rows.redo.count(),
            changes: rows.redo.bytes(),
        });
        let body = record::encode(&head, &parts.collect::<Vec<_>>());
        let changes = changed.iter().map(|(_, (_, rows))| u64::from(rows.redo.count())).sum();
        let fits = |log: &LogRoom| log.has_room(body.len());
        let log_has_room = |durable: &Durable| {
            let is_replayed_soon = |log: &LogRoom| log.changes() + changes <= REPLAY_CHANGES_MAX;
            core.queue.log().is_some_and(|log| fits(&log) && is_replayed_soon(&log)) && !durable.is_log_cut()
        };
        let lay_over = |durable: &Durable| {
            let mut version = Version { id: self.id, commit_time_micros, ..durable.head.clone() };
            for (_, (id, rows)) in &changed {
                version.delta.active.set_table(*id, rows.upper_layer(&durable.head));
            }
            version
        };
        if !log_has_room(&durable) && self.durability != Durability::None {
            // The checkpoint that goes on may make room.
            core.finish_checkpoint(&mut durable)?;
        }
        // Asked before what is queued is written: that takes less room in groups than was kept for it, and would make a log
        // look long enough that never is.
        let too_long_bytes = if core.queue.log().as_ref().is_none_or(|log| !fits(log)) { body.len() } else { 0 };
        let version = lay_over(&durable);
        if !core.has_room_over_trees(&mut durable, &version.delta)? {
            return Ok(Err(too_long_bytes));
        }
        if log_has_room(&durable) {
            return Ok(Ok((version, Way::Record(QueuedRecord { body, changes }))));
        }
        let is_far_ahead = self.id.get() - durable.slot.transaction.get() >= IDS_AHEAD / 2;
        if self.durability == Durability::None && !is_far_ahead {
            return Ok(Ok((version, Way::Memory)));
        }
        Ok(Err(too_long_bytes))
    }

    /// Makes all that changed trees, and computes their checksums; `None` where nothing changed. Without the log, or where
    /// another one is wanted, so does all that is laid over other tables.
    fn seal(&mut self, core: &Core, tables: BTreeMap<String, Staged>, log_after: LogAfter) -> Result<Option<Ready>> {
        let trees = self.trees()?;
        let durable = core.durable.lock();
        let (mut delta, commit_time_micros) = (durable.head.delta.clone(), core.commit_time(&durable));
        let is_for_all = log_after != LogAfter::Kept || durable.slot.log.is_none() || durable.is_log_cut();
        drop(durable);
        let mut sealed = Vec::new();
        for (name, staged) in tables {
            let Staged::Closed(closed) = staged else { continue };
            let ClosedTable { mut record, rows } = *closed;
            let mut tree = match rows {
                ClosedRows::Overlaid(rows) if rows.is_changed() => self.fold_rows(&name, &mut record, &rows)?,
                ClosedRows::Overlaid(_) => continue,
                ClosedRows::InTree(tree) => tree,
            };
            let mut folded = trees.folded.lock();
            if is_for_all && !folded.contains(&record.id) {
                staged::merge(&mut tree, &delta.table(record.id)).map_err(|error| error.in_table(&name))?;
                folded.push(record.id);
            }
            let is_laid_over = folded.contains(&record.id) && !delta.table(record.id).is_empty();
            drop(folded);
            if tree.is_changed() || is_laid_over {
                record.root = tree.seal(&mut sealed).map_err(|error| error.in_table(&name))?;
                record.folded = self.id;
                trees.roots.lock().put(&name, &record)?;
            }
        }
        std::mem::take(&mut *trees.folded.lock()).iter().for_each(|id| delta.forget(*id));
        let mut durable = core.durable.lock();
        // What stays laid over other tables must not lose the room that was found for it.
        durable.room = FoldingRoom::default();
        let is_for_all = is_for_all || (!delta.is_empty() && !core.has_room_over_trees(&mut durable, &delta)?);
        drop(durable);
        if is_for_all {
            checkpoint::fold_tables(&mut trees.roots.lock(), &trees.bracket.writer, &delta, &mut sealed)?;
            delta = Delta::default();
        }
        if !trees.roots.lock().is_changed() && !self.commit_unchanged {
            self.open.iter_mut().for_each(|open| open.ending.is_unchanged());
            return Ok(None);
        }
        let (trees, ending, turn) = self.open.take().expect("the transaction ends only by value").into_parts();
        let OpenTrees { roots, bracket, .. } = trees.expect("they were begun");
        let (data, forward) = roots.into_value().seal(&mut sealed)?;
        bracket.writer.await_all()?;
        if !self.without_log {
            bracket.writer.keep_room()?;
        }
        let trees = Trees { made: self.id, data, forward };
        let version = Version { id: self.id, commit_time_micros, trees, delta };
        let way = Way::Slot { bracket, sealed, log_after };
        Ok(Some(Ready { version, way, durability: self.durability, ending, turn }))
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
    let before = Before::new(core, durable);
    let log = core.plan_log(&before, &bracket.writer, !version.delta.is_empty(), log_after);
    let named = Named { id: version.id, commit_time_micros: version.commit_time_micros, trees: version.trees };
    let prepared = log.and_then(|log| checkpoint::prepare(&before, &bracket.writer, &named, sealed, log));
    let prepared = prepared.map_err(aborted)?;
    checkpoint::write(&core.store, &prepared, &|| usize::MAX).map_err(in_doubt)?;
    checkpoint::flip(&core.store, &prepared).map_err(in_doubt)?;
    checkpoint::conclude(core, durable, prepared);
    bracket.concluded = true;
    durable.set_head(version.clone());
    core.queue.publish(version);
    let dead = bracket.writer.take_dead();
    // The writer pins the version that it began on; its turn goes on in the caller's lock on `durable`.
    drop(bracket);
    core.settle(durable, dead);
    Ok(())
}

impl Ready {
    /// Commits by a slot, of which the caller tells, or queues the commit and lets the next writer begin.
    fn perform(self, core: &Core, outcome: Option<Arc<Outcome>>) -> Result<(), CommitError> {
        let Self { version, way, durability, mut ending, turn } = self;
        let mut durable = core.durable.lock();
        let record = match way {
            Way::Slot { bracket, sealed, log_after } => {
                // What this one builds on has to be durable before it is.
                core.queue.drain().map_err(aborted)?;
                let id = version.id;
                commit_by_slot(core, &mut durable, bracket, sealed, version, log_after)?;
                ending.take().committed_by_slot(&core.store, id);
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
        durable.set_head(version.clone());
        if record.is_none() {
            durable.unrecorded = version.id;
        }
        let is_hidden = durability == Durability::Immediate;
        // Nobody waits for the others: those that are buffered become durable all the same, and all do with a later one.
        let delay = match durability {
            Durability::Immediate => outcome.as_ref().map(|_| Duration::ZERO),
            Durability::Buffered => Some(core.sync_delay_max),
            Durability::None => None,
        };
        let due = delay.map(Deadline::after);
        core.queue.push(Queued {
            version,
            record,
            is_hidden,
            due,
            outcomes: outcome.into_iter().collect(),
            watch: ending.take(),
        });
        core.checkpointer.step();
        core.checkpoint_if_due(&mut durable);
        drop(durable);
        drop(turn);
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
        let waking = Waking(Arc::clone(&self.outcome));
        let Self { core, ready, outcome } = self;
        let id = ready.version.id;
        let done = ready.perform(&core, None);
        // Whoever is told may close the database at once.
        drop(core);
        outcome.set(done.map(|()| id));
        drop(waking);
    }
}

/// Wakes whoever awaits the outcome, which is in doubt where a storage panicked.
struct Waking(Arc<Outcome>);

impl Drop for Waking {
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
