//! What an application can be told while it uses a database.
//!
//! Invariant: events are values that are complete when they are made; telling them needs nothing of the database.
//! Layer 2 (pages).

use super::select::OpenNote;
use crate::base::ids::TransactionId;
use std::time::Duration;

/// Is told what a database does: for logs, metrics and traces.
///
/// Set one with [`Builder::observer`](crate::Builder::observer). Every method does nothing unless it is implemented.
///
/// # When it is called
///
/// On a thread of its own, which each open database with an observer has (one that observes several is called by several at
/// once), one call after the other, in the order in which things happened: commits in the order of their ids, and a log
/// write before the commits that it made durable. No lock of the database is held and no transaction of that thread is open,
/// so an observer that takes its time delays no commit. The calls come a little after what they tell of. All have returned
/// when [`Database::close`](crate::Database::close) does, or when the last handle is gone, unless it is the observer that
/// closes or drops it.
///
/// Up to 16,384 events wait for an observer that is slow; more are dropped, and
/// [`DatabaseStats::events_dropped`](crate::DatabaseStats::events_dropped) counts them.
///
/// # What it may do
///
/// It may use the database, as any other thread: read, write, ask for [`Database::stats`](crate::Database::stats). A commit
/// that it makes is an event in turn. An observer that keeps a handle of its database keeps the database open as long as
/// the handle; and one that waits for a thread that closes the database waits for ever.
///
/// A panic in it is caught and logged, harms nothing, and later events are told all the same.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use cowslip::{CommitEvent, Database, Observer, TableDefinition};
/// use std::sync::{Arc, Mutex};
/// const SEEN: TableDefinition<u64, u64> = TableDefinition::new("seen");
///
/// #[derive(Default)]
/// struct Commits(Mutex<Vec<u64>>);
///
/// impl Observer for Commits {
///     fn committed(&self, commit: &CommitEvent) {
///         self.0.lock().unwrap().push(commit.transaction.get());
///     }
/// }
///
/// let commits = Arc::new(Commits::default());
/// let db = Database::builder().observer(commits.clone()).in_memory()?;
/// for id in 0..3 {
///     db.update(|tx| Ok::<_, cowslip::Error>(tx.open_table(SEEN)?.put(id, id)?))?;
/// }
/// db.close()?;
/// assert_eq!(*commits.0.lock().unwrap(), [1, 2, 3]);
/// # Ok(())
/// # }
/// ```
pub trait Observer: Send + Sync {
    /// The database was opened; whatever was to be recovered is.
    fn opened(&self, report: &RecoveryReport) {
        let _ = report;
    }

    /// Readers see a commit.
    fn committed(&self, commit: &CommitEvent) {
        let _ = commit;
    }

    /// Records of commits were written to the redo log, and are durable.
    fn log_written(&self, write: &LogWriteEvent) {
        let _ = write;
    }

    /// Everything that was written before is durable.
    fn synced(&self, sync: &SyncEvent) {
        let _ = sync;
    }

    /// What only the log and memory hold begins to be written to its place.
    fn checkpoint_begun(&self, checkpoint: &CheckpointBegunEvent) {
        let _ = checkpoint;
    }

    /// A checkpoint is durable.
    fn checkpoint_finished(&self, checkpoint: &CheckpointEvent) {
        let _ = checkpoint;
    }

    /// A checkpoint could not be written; the database writes no more.
    fn checkpoint_failed(&self, failure: &CheckpointFailedEvent) {
        let _ = failure;
    }

    /// A write or sync failed: this handle writes no more, and reopening finds what is durable.
    fn poisoned(&self, failure: &PoisonedEvent) {
        let _ = failure;
    }
}

/// How a commit was made.
///
/// ```
/// # fn main() -> Result<(), cowslip::Error> {
/// use cowslip::{Database, TableDefinition};
/// let db = Database::in_memory()?;
/// // The first commit makes a table, which no record can tell of.
/// db.update(|tx| Ok::<_, cowslip::Error>(tx.open_table(TableDefinition::<u64, u64>::new("seen")).map(drop)?))?;
/// assert_eq!(db.stats().commits.slot, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CommitKind {
    /// By a record in the redo log.
    Log,
    /// By its pages and a slot that names them.
    Slot,
    /// In memory alone, as [`Durability::None`](crate::Durability::None) allows.
    Memory,
}

/// A commit that readers see.
///
/// ```
/// use cowslip::{CommitEvent, Observer};
/// struct Printer;
/// impl Observer for Printer {
///     fn committed(&self, commit: &CommitEvent) {
///         println!("{} is visible after {:?}, durable: {}", commit.transaction, commit.duration, commit.is_durable);
///     }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommitEvent {
    /// How it was made.
    pub kind: CommitKind,
    /// Its id.
    pub transaction: TransactionId,
    /// Bytes of its record in the log, or of the pages that it wrote, before the commit too; zero where nothing was written.
    pub bytes: u64,
    /// From the call of `commit` until readers could see it.
    pub duration: Duration,
    /// Whether it was durable by then. One with [`Durability::Buffered`](crate::Durability::Buffered) becomes so with a
    /// later log write.
    pub is_durable: bool,
}

/// A write of the redo log.
///
/// ```
/// use cowslip::{LogWriteEvent, Observer};
/// struct Printer;
/// impl Observer for Printer {
///     fn log_written(&self, write: &LogWriteEvent) {
///         println!("{} commits in {} bytes took {:?}", write.commits, write.bytes, write.duration);
///     }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogWriteEvent {
    /// Bytes that were written, padding included.
    pub bytes: u64,
    /// Commits whose records were written together.
    pub commits: u64,
    /// How long the write took until it was durable.
    pub duration: Duration,
}

/// A sync of the storage.
///
/// ```
/// use cowslip::{Observer, SyncEvent};
/// struct Printer;
/// impl Observer for Printer {
///     fn synced(&self, sync: &SyncEvent) {
///         println!("a sync took {:?}", sync.duration);
///     }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SyncEvent {
    /// How long it took.
    pub duration: Duration,
}

/// A checkpoint that begins.
///
/// ```
/// use cowslip::{CheckpointBegunEvent, Observer};
/// struct Printer;
/// impl Observer for Printer {
///     fn checkpoint_begun(&self, checkpoint: &CheckpointBegunEvent) {
///         println!("what came until {} goes to its place", checkpoint.transaction);
///     }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckpointBegunEvent {
    /// The newest commit that it makes independent of the log.
    pub transaction: TransactionId,
}

/// A checkpoint that is durable.
///
/// ```
/// use cowslip::{CheckpointEvent, Observer};
/// struct Printer;
/// impl Observer for Printer {
///     fn checkpoint_finished(&self, checkpoint: &CheckpointEvent) {
///         println!("{} bytes of pages took {:?}", checkpoint.bytes, checkpoint.duration);
///     }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckpointEvent {
    /// The newest commit that it made independent of the log.
    pub transaction: TransactionId,
    /// Bytes of the pages that only memory held until then.
    pub bytes: u64,
    /// How long it took since it began, beside transactions or not.
    pub duration: Duration,
}

/// A checkpoint that could not be written.
///
/// ```
/// use cowslip::{CheckpointFailedEvent, Observer};
/// struct Printer;
/// impl Observer for Printer {
///     fn checkpoint_failed(&self, failure: &CheckpointFailedEvent) {
///         eprintln!("the checkpoint of {} failed: {}", failure.transaction, failure.reason);
///     }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckpointFailedEvent {
    /// The newest commit that it was to make independent of the log.
    pub transaction: TransactionId,
    /// What went wrong.
    pub reason: String,
}

/// The end of all writing through a handle.
///
/// ```
/// use cowslip::{Observer, PoisonedEvent};
/// struct Printer;
/// impl Observer for Printer {
///     fn poisoned(&self, failure: &PoisonedEvent) {
///         eprintln!("reopen the database: {}", failure.reason);
///     }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoisonedEvent {
    /// What went wrong first.
    pub reason: String,
}

/// What opening a database found, and what it took.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("shop.cowslip");
/// use cowslip::Database;
/// Database::create(&path)?.close()?;
/// let report = Database::open(&path)?.stats().recovery;
/// assert!(report.notes.is_empty() && report.records == 0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// What was noticed: an unclean end, an older slot that serves, damage that was survived.
    pub notes: Vec<OpenNote>,
    /// The newest commit that did not depend on the log.
    pub checkpoint: TransactionId,
    /// The newest commit that was found, with what the log told.
    pub transaction: TransactionId,
    /// Commits that were recovered from the log.
    pub records: u64,
    /// Changes of rows in them.
    pub changes: u64,
    /// Bytes of the log that held them.
    pub log_used_bytes: u64,
    /// Length of the log that was found; zero where there was none, as after closing.
    pub log_capacity_bytes: u64,
    /// How long opening took, recovery included.
    pub duration: Duration,
}
