//! What all transactions of an open database share.
//!
//! Invariant: there is at most one writer; everything that only the writer changes is behind its turn.
//! Layer 5 (txn). Lock order: the writer's turn, then `durable`, then the space, then the pins.

use super::background::Checkpointer;
use super::checkpoint::LogAfter;
use super::durability::Durability;
use super::error::TransactionError;
use super::queue::CommitQueue;
use super::reclaim::Reclaim;
use super::room::FoldingRoom;
use super::shared::Submissions;
use crate::base::clock::{Clock, Deadline, Stopwatch};
use crate::base::error::{Result, StorageError};
use crate::base::ids::{Run, TransactionId};
use crate::base::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::base::sync::{Arc, Condvar, Mutex};
use crate::pages::account::Charge;
use crate::pages::header::GodByte;
use crate::pages::observer::RecoveryReport;
use crate::pages::select::OpenNote;
use crate::pages::slot::Slot;
use crate::pages::store::PageStore;
use crate::pages::version::{Pins, Version};
use crate::pages::writer::Space;
use std::sync::OnceLock;
use std::time::Duration;

/// An open database.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) store: Arc<PageStore>,
    pub(crate) space: Arc<Space>,
    pub(crate) pins: Arc<Pins>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) durable: Mutex<Durable>,
    /// Commits that wait to be durable; `Durable::head` is the last of them, if any.
    pub(crate) queue: Arc<CommitQueue>,
    pub(super) checkpointer: Arc<Checkpointer>,
    pub(crate) submissions: Submissions,
    pub(crate) notes: Vec<OpenNote>,
    pub(crate) read_only: bool,
    /// Random number of this session.
    pub(crate) session: [u8; 16],
    /// Longest segment of the redo log.
    pub(crate) log_bytes_max: u64,
    /// What commits wait for unless they say so themselves.
    pub(super) durability: Durability,
    pub(super) sync_delay_max: Duration,
    /// Readers may have seen ids above that of the commit that opening found.
    pub(super) are_ids_seen: bool,
    /// What the log held is applied: until then nothing is written, at close neither.
    pub(super) is_recovered: AtomicBool,
    /// When the opening began.
    pub(super) opening: Stopwatch,
    /// What it found, once it is done.
    pub(super) recovery: OnceLock<RecoveryReport>,
    /// No transaction of this session has a lower id: readers may have seen those below before a crash.
    id_min: AtomicU64,
    turn: Turn,
    header_damaged: AtomicBool,
}

/// What the storage holds durably, and what memory owes to it.
#[derive(Debug)]
pub(crate) struct Durable {
    /// The version that was committed last. Readers see it once the queue has published it.
    pub(crate) head: Version,
    /// The newest version that no record tells of.
    pub(crate) unrecorded: TransactionId,
    /// As far as somebody has counted since trees or file last changed.
    pub(super) room: FoldingRoom,
    /// Memory of what is laid over the trees of the newest version.
    pub(crate) charge: Charge,
    /// A checkpoint has the space to itself, beside the transactions.
    pub(crate) is_folding: bool,
    /// How full log and memory were when a checkpoint last found no room, until one does.
    pub(crate) fill_failed: u32,
    /// Removed rows that readers had passed over when trees last changed.
    pub(crate) passed_rows: u64,
    /// Runs that nobody needs, to be released between transactions.
    pub(crate) unneeded: Vec<Run>,
    /// Room for what the next checkpoint has to write, so that a full device does not keep it from giving space back.
    pub(crate) reserve: Option<Run>,
    /// The slot that was written last, and its index.
    pub(crate) slot: Slot,
    pub(crate) index: u8,
    /// Nothing that the other slot reaches lies at or above this many units.
    pub(crate) other_reach_units: u64,
    pub(crate) reclaim: Reclaim,
}

/// Everything that opening found out.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) store: PageStore,
    pub(crate) space: Space,
    pub(crate) durable: Durable,
    pub(crate) notes: Vec<OpenNote>,
    pub(crate) header_damaged: bool,
    /// Readers may have seen ids above the newest that is durable: no session has passed them since one was not closed.
    pub(crate) are_ids_seen: bool,
}

impl Durable {
    /// Whether something was published since the slot that no record tells of: rule R12 lets nothing be recorded behind it.
    pub(crate) fn is_log_cut(&self) -> bool {
        self.unrecorded > self.slot.transaction
    }

    /// Takes over a version that was committed.
    pub(super) fn set_head(&mut self, version: Version) {
        self.head = version;
        self.charge_delta();
    }

    /// Charges the memory of what is laid over the trees.
    pub(super) fn charge_delta(&mut self) {
        self.charge.set(usize::try_from(self.head.delta.bytes()).unwrap_or(usize::MAX));
    }

    /// Every version whose pages are needed, ascending: what is pinned, and what the slot names.
    pub(crate) fn needed(&self, pins: &Pins) -> Vec<TransactionId> {
        let mut needed = pins.held();
        if let Err(place) = needed.binary_search(&self.slot.transaction) {
            needed.insert(place, self.slot.transaction);
        }
        needed
    }
}

/// How a database behaves while it is open.
#[derive(Debug, Clone)]
pub(crate) struct CoreOptions {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) read_only: bool,
    pub(crate) session: [u8; 16],
    pub(crate) log_bytes_max: u64,
    pub(crate) durability: Durability,
    pub(crate) sync_delay_max: Duration,
    /// Checkpoints beside the transactions are made by the commit that comes so many later, not by a thread.
    pub(crate) checkpoint_lag_commits: Option<u32>,
    /// When the opening began.
    pub(crate) opening: Stopwatch,
}

/// Ids that a session may give to transactions beyond the last durable one.
pub(super) const IDS_AHEAD: u64 = 1 << 24;

impl Core {
    pub(crate) fn new(opened: Opened, options: CoreOptions) -> Arc<Self> {
        let published = opened.durable.head.clone();
        opened.store.meter().slot_serves(opened.durable.slot.transaction);
        let is_recovered = AtomicBool::new(opened.durable.slot.log.is_none());
        let (store, pins) = (Arc::new(opened.store), Pins::new(published));
        Arc::new(Self {
            checkpointer: Checkpointer::new(Arc::clone(&store), options.checkpoint_lag_commits),
            submissions: Submissions::default(),
            queue: CommitQueue::new(Arc::clone(&store), Arc::clone(&pins)),
            store,
            space: Arc::new(opened.space),
            pins,
            clock: options.clock,
            durable: Mutex::new(opened.durable),
            notes: opened.notes,
            read_only: options.read_only,
            session: options.session,
            log_bytes_max: options.log_bytes_max,
            durability: options.durability,
            sync_delay_max: options.sync_delay_max,
            id_min: AtomicU64::new(0),
            are_ids_seen: opened.are_ids_seen,
            is_recovered,
            opening: options.opening,
            recovery: OnceLock::new(),
            turn: Turn::default(),
            header_damaged: AtomicBool::new(opened.header_damaged),
        })
    }

    /// What opening found.
    pub(crate) fn recovery_report(&self) -> &RecoveryReport {
        self.recovery.get().expect("a database is handed out once what the log holds is applied")
    }

    /// Whether nothing may be written: as asked for, or because block 0 is damaged and not repaired.
    pub(super) fn is_read_only(&self) -> bool {
        self.read_only || self.header_damaged.load(Ordering::Acquire)
    }

    /// Waits for the writer's turn; refuses where nothing may be written.
    pub(crate) fn take_turn(self: &Arc<Self>) -> Result<TurnGuard, TransactionError> {
        let turn = self.take_turn_until(None)?;
        Ok(turn.expect("whoever waits without a limit gets the turn"))
    }

    /// As [`take_turn`](Self::take_turn), but waits no longer than until the deadline, if there is one.
    pub(crate) fn take_turn_until(
        self: &Arc<Self>,
        deadline: Option<Deadline>,
    ) -> Result<Option<TurnGuard>, TransactionError> {
        if self.read_only {
            return Err(TransactionError::ReadOnly);
        }
        let Some(turn) = TurnGuard::take_until(Arc::clone(self), deadline) else { return Ok(None) };
        if self.header_damaged.load(Ordering::Acquire) {
            return Err(TransactionError::HeaderDamaged);
        }
        if self.store.is_poisoned() {
            return Err(StorageError::Poisoned.into());
        }
        Ok(Some(turn))
    }

    /// Writes block 0 anew from what the serving slot repeats of it.
    pub(crate) fn repair_header(self: &Arc<Self>) -> Result<(), TransactionError> {
        if self.read_only {
            return Err(TransactionError::ReadOnly);
        }
        let _turn = TurnGuard::take(Arc::clone(self));
        if self.header_damaged.load(Ordering::Acquire) {
            let primary = self.durable.lock().index;
            self.store.rewrite_header(GodByte { primary, recovery_required: true, ids_seen: false })?;
            self.header_damaged.store(false, Ordering::Release);
            self.leave_older_log(&mut self.durable.lock())?;
        }
        Ok(())
    }

    /// Makes runs allocatable. Memory forgets their content first.
    pub(crate) fn release(&self, runs: Vec<Run>) {
        let mut space = self.space.lock();
        for run in runs {
            self.store.forget(run);
            space.release(run);
        }
    }

    /// From here on ids are some that nobody has seen, as far as the last session kept to [`IDS_AHEAD`].
    pub(super) fn skip_seen_ids(&self, durable: TransactionId) {
        if self.are_ids_seen {
            self.id_min.store(durable.get().saturating_add(IDS_AHEAD), Ordering::Relaxed);
        }
    }

    /// Whether no id up to this one was seen by readers of a session that ended without being closed.
    pub(super) fn is_beyond_seen(&self, id: TransactionId) -> bool {
        !self.are_ids_seen || id.get() >= self.id_min.load(Ordering::Relaxed)
    }

    /// The id that follows another.
    pub(super) fn next_id(&self, id: TransactionId) -> Result<TransactionId> {
        let least = TransactionId::new(self.id_min.load(Ordering::Relaxed));
        id.next()
            .map(|next| next.max(least))
            .ok_or_else(|| StorageError::corrupted("the counter of transaction ids overflows"))
    }

    /// The time of a commit now; times ascend as ids do.
    pub(super) fn commit_time(&self, durable: &Durable) -> u64 {
        self.clock.now_micros().max(durable.head.commit_time_micros.saturating_add(1))
    }

    /// Makes everything durable that is committed.
    pub(crate) fn sync(self: &Arc<Self>) -> Result<()> {
        // A failure that nobody was told of says more than that nothing is written any more.
        self.queue.sync()?;
        if self.store.is_poisoned() {
            return Err(StorageError::Poisoned);
        }
        if self.is_read_only() || !self.durable.lock().is_log_cut() {
            return Ok(());
        }
        let _turn = TurnGuard::take(Arc::clone(self));
        let mut durable = self.durable.lock();
        // Somebody else may have done it meanwhile.
        if durable.is_log_cut() { self.checkpoint(&mut durable, LogAfter::Kept) } else { Ok(()) }
    }

    /// Gives back what readers held that are gone by now. The writer's turn is taken and no transaction runs.
    pub(crate) fn sweep(&self, durable: &mut Durable) {
        self.settle(durable, Vec::new());
    }
}

/// Whose turn it is to write.
#[derive(Debug, Default)]
struct Turn {
    state: Mutex<TurnState>,
    /// Notified when a turn was given back, for one of those who wait to take it.
    freed: Condvar,
    /// Notified when a turn was taken, for those who let others write first.
    taken: Condvar,
}

#[derive(Debug, Default)]
struct TurnState {
    is_taken: bool,
    waiting: usize,
}

/// The writer's turn; dropping it lets the next writer begin, on whatever thread.
#[derive(Debug)]
pub(crate) struct TurnGuard {
    core: Arc<Core>,
}

impl Core {
    /// Waits until no writer is left waiting behind the turn that was just given back.
    pub(crate) fn let_others_write(&self) {
        let mut state = self.turn.state.lock();
        while state.waiting > 0 && !state.is_taken {
            state = self.turn.taken.wait(state);
        }
    }
}

impl TurnGuard {
    pub(super) fn take(core: Arc<Core>) -> Self {
        Self::take_until(core, None).expect("whoever waits without a limit gets the turn")
    }

    /// The turn, if it is to be had before the deadline.
    fn take_until(core: Arc<Core>, deadline: Option<Deadline>) -> Option<Self> {
        let mut state = core.turn.state.lock();
        state.waiting += 1;
        while state.is_taken && deadline.is_none_or(|deadline| !deadline.is_over()) {
            state = match deadline {
                None => core.turn.freed.wait(state),
                Some(deadline) => core.turn.freed.wait_until(state, deadline),
            };
        }
        state.waiting -= 1;
        let is_had = !state.is_taken;
        state.is_taken = true;
        drop(state);
        // Those who let others write first look for who waits as well.
        core.turn.taken.notify_all();
        // A guard that is not made gives nothing back: the turn is another's.
        is_had.then(|| Self { core })
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }
}

impl Drop for TurnGuard {
    fn drop(&mut self) {
        self.core.turn.state.lock().is_taken = false;
        self.core.turn.freed.notify_one();
    }
}
