//! Counts of what a database does, and the way to its observer.
//!
//! Invariant: something is counted once for each commit, write, sync or checkpoint, and nothing when rows are read or changed.
//! No count is ordered against any other.
//! Layer 2 (pages). The store has the meter, because everybody who counts has the store.

use super::events::{Event, Events};
use super::observer::{
    CheckpointBegunEvent, CheckpointEvent, CheckpointFailedEvent, CommitEvent, CommitKind, LogWriteEvent, Observer,
    PoisonedEvent, RecoveryReport, SyncEvent,
};
use crate::base::clock::Stopwatch;
use crate::base::error::StorageError;
use crate::base::histogram::AtomicHistogram;
use crate::base::ids::TransactionId;
use crate::base::sync::Arc;
use crate::base::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::OnceLock;
use std::time::Duration;

/// A number that whoever asks for it reads without waiting.
#[derive(Debug)]
pub(crate) struct Number(AtomicU64);

impl Default for Number {
    fn default() -> Self {
        Self(AtomicU64::new(0))
    }
}

impl Number {
    pub(crate) fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Bytes that were written, by what they are for.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) log_records: Number,
    /// What fills groups up to whole units, and segments before their first record.
    pub(crate) log_padding: Number,
    /// Pages of transactions that commit by a slot.
    pub(crate) direct_pages: Number,
    /// Pages of transactions of which the log or memory told until then.
    pub(crate) checkpoint_pages: Number,
    /// Bitmaps and the region table.
    pub(crate) space: Number,
    /// Block 0 and slots.
    pub(crate) blocks: Number,
}

/// What is written under one slot, apart from it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SlotBytes {
    pub(crate) pages: u64,
    pub(crate) space: u64,
    pub(crate) log_padding: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Commits {
    pub(crate) log: Number,
    pub(crate) slot: Number,
    pub(crate) memory: Number,
    pub(crate) unchanged: Number,
    pub(crate) aborted: Number,
}

#[derive(Debug, Default)]
pub(crate) struct Checkpoints {
    pub(crate) begun: Number,
    pub(crate) finished: Number,
    pub(crate) failed: Number,
}

/// Everything that is counted of an open database.
#[derive(Debug)]
pub(crate) struct Meter {
    pub(crate) commits: Commits,
    pub(crate) written: Written,
    pub(crate) checkpoints: Checkpoints,
    /// Removed rows that readers passed over.
    pub(crate) passed_rows: Number,
    pub(crate) log_write_micros: AtomicHistogram,
    pub(crate) log_write_commits: AtomicHistogram,
    pub(crate) sync_micros: AtomicHistogram,
    /// Since the meter was made; the times below are so many microseconds later.
    clock: Stopwatch,
    checkpoint_begun_at: Number,
    /// Bytes of checkpoint pages before the checkpoint that began last.
    checkpoint_bytes_before: Number,
    checkpoint_transaction: Number,
    checkpoint_micros: Number,
    slot_transaction: Number,
    slot_at: Number,
    /// Opening is done: from here on commits are those of the application.
    is_open: AtomicBool,
    /// A checkpoint has begun and not ended.
    is_in_checkpoint: AtomicBool,
    is_poisoned_told: AtomicBool,
    events: OnceLock<Events>,
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Meter {
    pub(super) fn new() -> Self {
        Self {
            commits: Commits::default(),
            written: Written::default(),
            checkpoints: Checkpoints::default(),
            passed_rows: Number::default(),
            log_write_micros: AtomicHistogram::default(),
            log_write_commits: AtomicHistogram::default(),
            sync_micros: AtomicHistogram::default(),
            clock: Stopwatch::start(),
            checkpoint_begun_at: Number::default(),
            checkpoint_bytes_before: Number::default(),
            checkpoint_transaction: Number::default(),
            checkpoint_micros: Number::default(),
            slot_transaction: Number::default(),
            slot_at: Number::default(),
            is_open: AtomicBool::new(false),
            is_in_checkpoint: AtomicBool::new(false),
            is_poisoned_told: AtomicBool::new(false),
            events: OnceLock::new(),
        }
    }

    fn now(&self) -> u64 {
        micros(self.clock.elapsed())
    }

    /// Tells an observer from here on. There is one at most.
    pub(crate) fn observe(&self, observer: Arc<dyn Observer>) {
        let set = self.events.set(Events::new(observer));
        assert!(set.is_ok(), "a database is given its observer once, when it is opened");
    }

    /// The observer is told what it was not told yet, and nothing afterwards.
    pub(crate) fn end(&self) {
        if let Some(events) = self.events.get() {
            events.end();
        }
    }

    /// Makes no event where nobody is told.
    fn tell(&self, event: impl FnOnce() -> Event) {
        if let Some(events) = self.events.get() {
            events.send(event());
        }
    }

    pub(crate) fn events_dropped(&self) -> u64 {
        self.events.get().map_or(0, Events::dropped)
    }

    /// Opening is done.
    pub(crate) fn opened(&self, report: &RecoveryReport) {
        self.is_open.store(true, Ordering::Release);
        self.tell(|| Event::Opened(Box::new(report.clone())));
    }

    /// Readers see a commit. Called in the order of commits.
    pub(crate) fn committed(&self, commit: CommitEvent) {
        if !self.is_open.load(Ordering::Acquire) {
            return;
        }
        let counter = match commit.kind {
            CommitKind::Log => &self.commits.log,
            CommitKind::Slot => &self.commits.slot,
            CommitKind::Memory => &self.commits.memory,
        };
        counter.add(1);
        self.tell(|| Event::Committed(commit));
    }

    /// A write transaction ended that makes no new version: because nothing changed, or because it was given up.
    pub(crate) fn ended_without_version(&self, is_unchanged: bool) {
        if self.is_open.load(Ordering::Acquire) {
            let Commits { unchanged, aborted, .. } = &self.commits;
            if is_unchanged { unchanged.add(1) } else { aborted.add(1) }
        }
    }

    /// A group of records is durable: so many bytes, of which some are padding.
    pub(crate) fn log_written(&self, bytes: u64, padding_bytes: u64, commits: u32, watch: Stopwatch) {
        let duration = watch.elapsed();
        self.written.log_records.add(bytes - padding_bytes);
        self.written.log_padding.add(padding_bytes);
        self.log_write_micros.add(micros(duration));
        self.log_write_commits.add(u64::from(commits));
        self.tell(|| Event::LogWritten(LogWriteEvent { bytes, commits: u64::from(commits), duration }));
    }

    pub(super) fn synced(&self, watch: Stopwatch) {
        let duration = watch.elapsed();
        self.sync_micros.add(micros(duration));
        self.tell(|| Event::Synced(SyncEvent { duration }));
    }

    pub(super) fn block_written(&self, bytes: usize) {
        self.written.blocks.add(bytes as u64);
    }

    /// Pages of a transaction were written before it commits.
    pub(super) fn written_early(&self, bytes: u64) {
        self.pages_written(bytes);
    }

    /// Either a checkpoint writes pages or a transaction does.
    fn pages_written(&self, bytes: u64) {
        let is_checkpoint = self.is_in_checkpoint.load(Ordering::Relaxed);
        if is_checkpoint { &self.written.checkpoint_pages } else { &self.written.direct_pages }.add(bytes);
    }

    pub(crate) fn slot_pages_written(&self, bytes: &SlotBytes) {
        self.pages_written(bytes.pages);
        self.written.space.add(bytes.space);
        self.written.log_padding.add(bytes.log_padding);
    }

    /// A checkpoint of this version begins, alone or beside the transactions; there is one at a time.
    pub(crate) fn checkpoint_begun(&self, transaction: TransactionId) {
        self.checkpoints.begun.add(1);
        self.is_in_checkpoint.store(true, Ordering::Relaxed);
        self.checkpoint_begun_at.set(self.now());
        self.checkpoint_bytes_before.set(self.written.checkpoint_pages.get());
        self.checkpoint_transaction.set(transaction.get());
        log::debug!("a checkpoint of transaction {transaction} begins");
        self.tell(|| Event::CheckpointBegun(CheckpointBegunEvent { transaction }));
    }

    /// The checkpoint that began last ended. Whoever takes it over is told of the failure, and logs it.
    pub(crate) fn checkpoint_ended(&self, failure: Option<&StorageError>) {
        self.is_in_checkpoint.store(false, Ordering::Relaxed);
        let transaction = TransactionId::new(self.checkpoint_transaction.get());
        if let Some(error) = failure {
            self.checkpoints.failed.add(1);
            let reason = error.to_string();
            return self.tell(|| Event::CheckpointFailed(CheckpointFailedEvent { transaction, reason }));
        }
        let micros = self.now().saturating_sub(self.checkpoint_begun_at.get());
        let bytes = self.written.checkpoint_pages.get() - self.checkpoint_bytes_before.get();
        self.checkpoint_micros.set(micros);
        self.checkpoints.finished.add(1);
        let duration = Duration::from_micros(micros);
        log::debug!("a checkpoint of transaction {transaction} wrote {bytes} bytes of pages in {duration:?}");
        self.tell(|| Event::CheckpointFinished(CheckpointEvent { transaction, bytes, duration }));
    }

    /// How long the last checkpoint took that finished.
    pub(crate) fn checkpoint_duration(&self) -> Option<Duration> {
        (self.checkpoints.finished.get() > 0).then(|| Duration::from_micros(self.checkpoint_micros.get()))
    }

    /// A slot of this version is durable, or serves since the opening.
    pub(crate) fn slot_serves(&self, transaction: TransactionId) {
        self.slot_transaction.set(transaction.get());
        self.slot_at.set(self.now());
    }

    /// The version of the slot, and how long it has been serving.
    pub(crate) fn slot(&self) -> (TransactionId, Duration) {
        let age = Duration::from_micros(self.now().saturating_sub(self.slot_at.get()));
        (TransactionId::new(self.slot_transaction.get()), age)
    }

    /// Nothing is written any more; the first reason counts.
    pub(super) fn poisoned(&self, reason: impl FnOnce() -> String) {
        if !self.is_poisoned_told.swap(true, Ordering::AcqRel) {
            self.tell(|| Event::Poisoned(PoisonedEvent { reason: reason() }));
        }
    }
}
