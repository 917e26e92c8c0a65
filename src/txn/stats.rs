//! What an application can ask about an open database, and how the time of a commit is taken.
//!
//! Invariant: asking waits for no transaction, commit or checkpoint and writes nothing that others read.
//! Layer 5 (txn). What is counted where: `pages/meter.rs`.

use super::core::Core;
use crate::base::clock::Stopwatch;
use crate::base::histogram::Histogram;
use crate::base::ids::TransactionId;
use crate::pages::meter::Meter;
use crate::pages::observer::{CommitEvent, CommitKind, RecoveryReport};
use crate::pages::store::PageStore;
use std::time::Duration;

/// What an open database has done since it was opened, and how it is now. See
/// [`Database::stats`](crate::Database::stats).
///
/// The numbers are taken one after the other while others go on, so they need not fit together exactly. Those of other
/// handles and other processes are not in it.
///
/// ```
/// # fn main() -> Result<(), cowslip::Error> {
/// use cowslip::{Database, TableDefinition};
/// const SEEN: TableDefinition<u64, u64> = TableDefinition::new("seen");
/// let db = Database::in_memory()?;
/// db.update(|tx| Ok::<_, cowslip::Error>(tx.open_table(SEEN)?.put(1, 1)?))?;
/// drop(db.begin_write()?);
/// let stats = db.stats();
/// assert_eq!((stats.commits.total(), stats.commits.aborted), (1, 1));
/// assert_eq!(stats.transaction.get(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct DatabaseStats {
    /// The newest commit that readers see.
    pub transaction: TransactionId,
    /// Write transactions that ended.
    pub commits: CommitStats,
    /// Bytes that were written.
    pub written: WrittenStats,
    /// How long each write of the redo log took, in microseconds; their number.
    pub log_write_micros: Histogram,
    /// How many commits each write of the redo log served.
    pub log_write_commits: Histogram,
    /// How long each sync took, in microseconds; their number. A sync of what opening found is not among them.
    pub sync_micros: Histogram,
    /// Checkpoints.
    pub checkpoints: CheckpointStats,
    /// The redo log, and what only it and memory hold.
    pub log: LogStats,
    /// Who keeps which versions.
    pub readers: ReaderStats,
    /// The file.
    pub space: SpaceStats,
    /// What opening found.
    pub recovery: RecoveryReport,
    /// A write or sync failed: this handle writes no more.
    pub is_poisoned: bool,
    /// Events that the observer was not told because too many waited for it.
    pub events_dropped: u64,
}

/// How write transactions ended. See [`DatabaseStats::commits`].
///
/// ```
/// # fn main() -> Result<(), cowslip::Error> {
/// let db = cowslip::Database::in_memory()?;
/// db.begin_write()?.commit()?;
/// assert_eq!(db.stats().commits.unchanged, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommitStats {
    /// Commits by a record in the redo log. Those that wait for their write are not counted before readers see them.
    pub log: u64,
    /// Commits by pages and a slot that names them.
    pub slot: u64,
    /// Commits of which only memory knew when readers saw them first.
    pub memory: u64,
    /// Commits that changed nothing, and so wrote nothing.
    pub unchanged: u64,
    /// Transactions that were aborted or dropped, or that failed to commit.
    pub aborted: u64,
}

impl CommitStats {
    /// Commits that made a new version.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.log + self.slot + self.memory
    }
}

/// Bytes that were written since the opening, by what they are for. Writes that failed, those that opening itself made in an
/// empty file, and space that was only reserved are not among them. See [`DatabaseStats::written`].
///
/// ```
/// # fn main() -> Result<(), cowslip::Error> {
/// use cowslip::{Database, TableDefinition};
/// const SEEN: TableDefinition<u64, u64> = TableDefinition::new("seen");
/// let db = Database::in_memory()?;
/// db.update(|tx| Ok::<_, cowslip::Error>(tx.open_table(SEEN)?.put_many((0..9999).map(|id| (id, id)))?))?;
/// let written = db.stats().written;
/// assert!(written.direct_page_bytes > 100_000 && written.total_bytes() > written.direct_page_bytes);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WrittenStats {
    /// Records in the redo log, with the heads of their groups.
    pub log_record_bytes: u64,
    /// What fills groups of records up to whole units, and new segments of the log before their first record.
    pub log_padding_bytes: u64,
    /// Pages of transactions that commit by a slot, also those that were written early and of transactions that were aborted
    /// then.
    pub direct_page_bytes: u64,
    /// Pages of commits of which only the log or memory told before.
    pub checkpoint_page_bytes: u64,
    /// Bitmaps of free space and the table that names them.
    pub space_bytes: u64,
    /// Slots, and the block at the begin of the file.
    pub block_bytes: u64,
}

impl WrittenStats {
    /// All of them.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        let log_bytes = self.log_record_bytes + self.log_padding_bytes;
        log_bytes + self.direct_page_bytes + self.checkpoint_page_bytes + self.space_bytes + self.block_bytes
    }
}

/// Checkpoints: writes of what only log and memory hold, beside the transactions or where somebody waits for it. A commit
/// by a slot takes them along and is not counted here. See [`DatabaseStats::checkpoints`].
///
/// ```
/// # fn main() -> Result<(), cowslip::Error> {
/// use cowslip::{Database, Durability, TableDefinition};
/// const SEEN: TableDefinition<u64, u64> = TableDefinition::new("seen");
/// let db = Database::builder().durability(Durability::None).in_memory()?;
/// db.update(|tx| Ok::<_, cowslip::Error>(tx.open_table(SEEN)?.put(1, 1)?))?;
/// db.update(|tx| Ok::<_, cowslip::Error>(tx.open_table(SEEN)?.put(2, 2)?))?;
/// assert_eq!(db.stats().checkpoints.transaction.get(), 1, "a commit that makes a table writes a slot");
/// db.sync()?;
/// let checkpoints = db.stats().checkpoints;
/// assert_eq!((checkpoints.finished, checkpoints.transaction.get()), (1, 2));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckpointStats {
    /// How many began.
    pub begun: u64,
    /// How many are durable.
    pub finished: u64,
    /// How many failed: for want of room, or because a page could not be read, after which the next one may succeed; or because
    /// a write or sync failed, after which nothing is written. Where the storage panics while somebody waits for a checkpoint,
    /// that thread panics, and the checkpoint neither finished nor failed.
    pub failed: u64,
    /// How long the last one took that is durable.
    pub last_duration: Option<Duration>,
    /// The newest commit that depends on neither log nor memory, by a checkpoint or a slot of its own. One that a checkpoint
    /// beside the transactions wrote is named here once the next transaction begins.
    pub transaction: TransactionId,
    /// How long it has been that; at most since the opening.
    pub age: Duration,
}

/// The redo log, and what waits for a checkpoint. See [`DatabaseStats::log`].
///
/// ```
/// # fn main() -> Result<(), cowslip::Error> {
/// let log = cowslip::Database::in_memory()?.stats().log;
/// assert_eq!((log.used_bytes, log.capacity_bytes), (0, 0), "there is none before the first small commit");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogStats {
    /// Bytes of the log that an opening after a crash would read.
    pub used_bytes: u64,
    /// Bytes that the log has room for; zero where there is none.
    pub capacity_bytes: u64,
    /// Changes of rows that an opening after a crash would make again.
    pub changes: u64,
    /// Memory of changes of rows that the newest version has beside its trees, until a checkpoint has brought them into these.
    pub unwritten_bytes: u64,
}

/// Versions that are kept. See [`DatabaseStats::readers`].
///
/// ```
/// # fn main() -> Result<(), cowslip::Error> {
/// use cowslip::{Database, TableDefinition};
/// const SEEN: TableDefinition<u64, u64> = TableDefinition::new("seen");
/// let db = Database::in_memory()?;
/// let reader = db.begin_read()?;
/// db.update(|tx| Ok::<_, cowslip::Error>(tx.open_table(SEEN)?.put(1, 1)?))?;
/// let readers = db.stats().readers;
/// assert_eq!((readers.versions, readers.oldest), (2, reader.id()));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReaderStats {
    /// Snapshots: those of read transactions, and of what the database does itself, as a write transaction or a checkpoint.
    pub snapshots: u64,
    /// Versions that they see, as far as these differ in their trees, and the newest.
    pub versions: u64,
    /// The version whose trees are the oldest of these: what they reach stays in the file.
    pub oldest: TransactionId,
}

/// The file. See [`DatabaseStats::space`].
///
/// ```
/// # fn main() -> Result<(), cowslip::Error> {
/// let space = cowslip::Database::in_memory()?.stats().space;
/// assert_eq!(space.unit_bytes, 4096);
/// assert!(space.allocated_units + space.free_units <= space.file_bytes / 4096);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpaceStats {
    /// Length of the file.
    pub file_bytes: u64,
    /// Length of a unit.
    pub unit_bytes: u64,
    /// Units that are taken: by the newest version, by older ones that somebody still needs, by the log.
    pub allocated_units: u64,
    /// Units that can be taken before the file has to grow. The rest of the file are slots and bitmaps.
    pub free_units: u64,
}

impl Core {
    /// What was counted since the opening, and how things are.
    pub(crate) fn stats(&self) -> DatabaseStats {
        let meter = self.store.meter();
        let (version, pins) = (self.pins.published(), self.pins.census());
        DatabaseStats {
            transaction: version.id,
            commits: commits(meter),
            written: written(meter),
            log_write_micros: meter.log_write_micros.copy(),
            log_write_commits: meter.log_write_commits.copy(),
            sync_micros: meter.sync_micros.copy(),
            checkpoints: checkpoints(meter),
            log: self.log_stats(),
            readers: ReaderStats { snapshots: pins.pins, versions: pins.versions, oldest: pins.oldest },
            space: self.space_stats(),
            recovery: self.recovery_report().clone(),
            is_poisoned: self.store.is_poisoned(),
            events_dropped: meter.events_dropped(),
        }
    }

    fn log_stats(&self) -> LogStats {
        let unit_bytes = u64::from(self.store.layout().unit_bytes());
        let bytes = |units: u32| u64::from(units) * unit_bytes;
        let room = self.queue.log();
        LogStats {
            used_bytes: room.map_or(0, |room| bytes(room.units_used())),
            capacity_bytes: room.map_or(0, |room| bytes(room.units())),
            changes: room.map_or(0, |room| room.changes()),
            unwritten_bytes: self.pins.published().delta.bytes(),
        }
    }

    fn space_stats(&self) -> SpaceStats {
        let (layout, file_units) = (self.store.layout(), self.store.end_units());
        let allocated_units = self.space.lock().count_allocated();
        let regions = u64::from(layout.regions_for(file_units).unwrap_or(0));
        let fixed_units = u64::from(layout.header_units()) + regions * u64::from(layout.reserved_units());
        let unit_bytes = u64::from(layout.unit_bytes());
        SpaceStats {
            file_bytes: file_units * unit_bytes,
            unit_bytes,
            allocated_units,
            free_units: file_units.saturating_sub(fixed_units + allocated_units),
        }
    }
}

fn commits(meter: &Meter) -> CommitStats {
    let counted = &meter.commits;
    CommitStats {
        log: counted.log.get(),
        slot: counted.slot.get(),
        memory: counted.memory.get(),
        unchanged: counted.unchanged.get(),
        aborted: counted.aborted.get(),
    }
}

fn written(meter: &Meter) -> WrittenStats {
    let counted = &meter.written;
    WrittenStats {
        log_record_bytes: counted.log_records.get(),
        log_padding_bytes: counted.log_padding.get(),
        direct_page_bytes: counted.direct_pages.get(),
        checkpoint_page_bytes: counted.checkpoint_pages.get(),
        space_bytes: counted.space.get(),
        block_bytes: counted.blocks.get(),
    }
}

fn checkpoints(meter: &Meter) -> CheckpointStats {
    let (transaction, age) = meter.slot();
    CheckpointStats {
        begun: meter.checkpoints.begun.get(),
        finished: meter.checkpoints.finished.get(),
        failed: meter.checkpoints.failed.get(),
        last_duration: meter.checkpoint_duration(),
        transaction,
        age,
    }
}

/// Accompanies a write transaction to its commit.
#[derive(Debug, Clone, Copy)]
pub(super) struct CommitWatch {
    /// When the commit was called; before, when the transaction began.
    begun: Stopwatch,
    /// Bytes of direct pages before the transaction, which alone writes such.
    direct_bytes_before: u64,
    /// It ends without a version because nothing changed.
    pub(super) is_unchanged: bool,
}

impl CommitWatch {
    pub(super) fn new(store: &PageStore) -> Self {
        let direct_bytes_before = store.meter().written.direct_pages.get();
        Self { begun: Stopwatch::start(), direct_bytes_before, is_unchanged: false }
    }

    /// The commit begins.
    pub(super) fn restart(&mut self) {
        self.begun = Stopwatch::start();
    }

    /// Readers see a version that a slot names.
    pub(super) fn committed_by_slot(&self, store: &PageStore, id: TransactionId) {
        let bytes = store.meter().written.direct_pages.get() - self.direct_bytes_before;
        self.committed(store, CommitKind::Slot, id, bytes, true);
    }

    /// Readers see a version.
    pub(super) fn committed(
        &self,
        store: &PageStore,
        kind: CommitKind,
        transaction: TransactionId,
        bytes: u64,
        is_durable: bool,
    ) {
        let duration = self.begun.elapsed();
        store.meter().committed(CommitEvent { kind, transaction, bytes, duration, is_durable });
    }
}
