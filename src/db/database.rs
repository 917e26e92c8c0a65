//! The handle of an open database.
//!
//! Invariant: the file is closed and unlocked exactly once, by whichever handle, transaction or table is the last.
//! Layer 8 (db).

use super::builder::Builder;
use crate::base::clock::Deadline;
use crate::base::error::StorageError;
use crate::base::sync::Arc;
use crate::pages::select::OpenNote;
use crate::txn::compact::CompactionProgress;
use crate::txn::core::Core;
use crate::txn::error::{CloseError, CommitError, CompactionError, DatabaseError, TransactionError};
use crate::txn::oracle::{IntegrityReport, QuickReport};
use crate::txn::read::ReadTransaction;
use crate::txn::stats::DatabaseStats;
use crate::txn::write::WriteTransaction;
use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

/// An open database. Cheap to clone; clones share the one file.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("visits.cowslip");
/// use cowslip::{Database, TableDefinition};
/// const VISITS: TableDefinition<&str, u64> = TableDefinition::new("visits");
///
/// let db = Database::create(&path)?;
/// db.update(|tx| {
///     let mut visits = tx.open_table(VISITS)?;
///     visits.insert("home", 1)?;
///     Ok::<_, cowslip::Error>(())
/// })?;
/// let count = db.view(|tx| {
///     Ok::<_, cowslip::Error>(tx.open_table(VISITS)?.get("home")?.map(|row| row.value()))
/// })?;
/// assert_eq!(count, Some(1));
/// db.close()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Database {
    core: Arc<Core>,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.core.pins.published();
        f.debug_struct("Database").field("transaction", &version.id).finish_non_exhaustive()
    }
}

impl Database {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// What the tests of the rules look into.
    #[cfg(test)]
    pub(super) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Opens the database in the file, or makes one where the file is missing or empty, with default options.
    ///
    /// # Errors
    /// [`DatabaseError`] says what was found; the file is as it was.
    pub fn create(path: impl AsRef<Path>) -> Result<Self, DatabaseError> {
        Builder::new().create(path)
    }

    /// Opens the database in an existing file, with default options.
    ///
    /// # Errors
    /// [`DatabaseError`] says what was found; the file is as it was.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DatabaseError> {
        Builder::new().open(path)
    }

    /// Makes an empty database in memory, with default options.
    ///
    /// # Errors
    /// None today; the signature is that of the other ways to open.
    pub fn in_memory() -> Result<Self, DatabaseError> {
        Builder::new().in_memory()
    }

    /// Options for creating and opening.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Begins a snapshot of the newest commit. Never waits.
    ///
    /// # Errors
    /// None today; the signature leaves room.
    pub fn begin_read(&self) -> Result<ReadTransaction, TransactionError> {
        Ok(ReadTransaction::begin(&self.core))
    }

    /// Begins the write transaction, waiting for the one that runs to end.
    ///
    /// A thread that asks for a second one while it holds the first waits for ever.
    ///
    /// # Errors
    /// [`TransactionError::ReadOnly`], [`TransactionError::HeaderDamaged`], or a storage error once an earlier write
    /// has failed.
    pub fn begin_write(&self) -> Result<WriteTransaction, TransactionError> {
        WriteTransaction::begin(self.core.take_turn()?)
    }

    /// Begins the write transaction if it can begin at once; `None` where another one runs.
    ///
    /// # Errors
    /// As [`begin_write`](Self::begin_write).
    pub fn try_begin_write(&self) -> Result<Option<WriteTransaction>, TransactionError> {
        self.begin_write_timeout(Duration::ZERO)
    }

    /// Begins the write transaction, waiting so long at most for the one that runs to end; `None` where it did not.
    ///
    /// A transaction whose [`commit`](WriteTransaction::commit) only waits for the medium has ended in this sense.
    ///
    /// # Errors
    /// As [`begin_write`](Self::begin_write).
    pub fn begin_write_timeout(&self, timeout: Duration) -> Result<Option<WriteTransaction>, TransactionError> {
        let turn = self.core.take_turn_until(Some(Deadline::after(timeout)))?;
        turn.map(WriteTransaction::begin).transpose()
    }

    /// Makes every commit durable that was made before, with whatever [`Durability`](crate::Durability). One whose future
    /// ([`WriteTransaction::commit_async`]) is still pending may be left out.
    ///
    /// Where some that were made with [`Durability::None`](crate::Durability::None) have no record in the redo log, it waits for a
    /// running write transaction; a thread that holds one itself would wait for ever.
    ///
    /// Cost: nothing where all is durable; one write of the records that wait, which most small commits have; a checkpoint where
    /// some have none, because there is no log, or it had no room when they were made.
    ///
    /// # Errors
    /// A storage error: how much of it became durable is unknown until the database is reopened.
    pub fn sync(&self) -> Result<(), StorageError> {
        self.core.sync()
    }

    /// Runs `read` on a snapshot of the newest commit.
    ///
    /// # Errors
    /// Whatever `read` returns.
    pub fn view<T, E: From<TransactionError>>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, E>,
    ) -> Result<T, E> {
        read(&self.begin_read()?)
    }

    /// Runs `write` in a write transaction and commits it. Where `write` fails or panics nothing is changed.
    ///
    /// # Errors
    /// Whatever `write` returns, or what beginning or committing failed with.
    pub fn update<T, E: From<TransactionError> + From<CommitError>>(
        &self,
        write: impl FnOnce(&WriteTransaction) -> Result<T, E>,
    ) -> Result<T, E> {
        let transaction = self.begin_write()?;
        let outcome = write(&transaction)?;
        transaction.commit()?;
        Ok(outcome)
    }

    /// As [`update`](Self::update), but several threads that do so at once share one transaction, one commit, and one write to
    /// the medium. Each closure sees what those before it in the same transaction changed. Where one fails or panics what it
    /// did is undone, and that of the others is committed.
    ///
    /// A closure may run again, where the transaction that it shared had to be given up: because another closure of it failed
    /// after it had changed tables themselves or a lot of rows, or because all together found no room. Only what it did in its
    /// last run counts, so it should change nothing but the database and what it owns.
    ///
    /// It must not begin a write transaction of its own, as it would wait for itself.
    ///
    /// Cost: as `update` where no other thread writes; with many, a share of one commit.
    ///
    /// ```
    /// # fn main() -> Result<(), cowslip::Error> {
    /// use cowslip::{Database, TableDefinition};
    /// const VISITS: TableDefinition<&str, u64> = TableDefinition::new("visits");
    /// let db = Database::in_memory()?;
    /// std::thread::scope(|scope| {
    ///     for _ in 0..4 {
    ///         scope.spawn(|| {
    ///             db.submit(|tx| {
    ///                 let mut visits = tx.open_table(VISITS)?;
    ///                 let before = visits.get("home")?.map_or(0, |count| count.value());
    ///                 visits.insert("home", before + 1)?;
    ///                 Ok::<_, cowslip::Error>(())
    ///             })
    ///         });
    ///     }
    /// });
    /// assert_eq!(db.begin_read()?.open_table(VISITS)?.get("home")?.map(|count| count.value()), Some(4));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Whatever `write` returns, or what beginning or committing failed with.
    pub fn submit<T, E: From<TransactionError> + From<CommitError>>(
        &self,
        write: impl FnMut(&WriteTransaction) -> Result<T, E>,
    ) -> Result<T, E> {
        self.core.submissions.submit(&self.core, write)
    }

    /// What was noticed when the file was opened: recovery after a crash, damage that was survived. Empty where
    /// the last session closed and nothing is damaged; a slot torn by a failed commit stays noted until the next commit.
    #[must_use]
    pub fn open_notes(&self) -> &[OpenNote] {
        &self.core.notes
    }

    /// What the database has done since it was opened, and how it is: commits, bytes written, latencies, checkpoints, log,
    /// readers, space, recovery.
    ///
    /// It waits for no transaction and no write, so it can be asked at any time, by an [`Observer`](crate::Observer) too.
    ///
    /// Cost: some hundred numbers are copied, and the bits of the bitmap of each region (256 MiB of the file) that is in memory
    /// are counted.
    ///
    /// ```
    /// # fn main() -> Result<(), cowslip::Error> {
    /// use cowslip::{Database, TableDefinition};
    /// const SEEN: TableDefinition<u64, u64> = TableDefinition::new("seen");
    /// let db = Database::in_memory()?;
    /// for id in 0..20 {
    ///     db.update(|tx| Ok::<_, cowslip::Error>(tx.open_table(SEEN)?.put(id, id)?))?;
    /// }
    /// let stats = db.stats();
    /// println!("{} commits, {} bytes", stats.commits.total(), stats.written.total_bytes());
    /// println!("99 of 100 log writes took {} us or less", stats.log_write_micros.percentile(99.0));
    /// assert_eq!(stats.commits.total(), 20);
    /// assert_eq!(stats.log_write_micros.count(), stats.commits.log, "one thread does not share writes");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn stats(&self) -> DatabaseStats {
        self.core.stats()
    }

    /// Reads and verifies everything in the file: every page and row, and that every allocated unit is accounted for.
    /// Waits for a running write transaction and holds up later ones.
    ///
    /// # Errors
    /// A storage error that names what is damaged and where.
    pub fn check_integrity(&self) -> Result<IntegrityReport, TransactionError> {
        let report = self.core.check()?;
        self.begin_read()?.check_types()?;
        Ok(report)
    }

    /// Verifies what describes the tables: the newest slot, the region table, every bitmap and the catalog. Reads no page
    /// of a table, so it takes a moment however large the file is. Waits for a running write transaction.
    ///
    /// # Errors
    /// A storage error that names what is damaged and where.
    pub fn check_quick(&self) -> Result<QuickReport, TransactionError> {
        let report = self.core.check_quick()?;
        self.begin_read()?.check_types()?;
        Ok(report)
    }

    /// Writes a damaged block 0 anew from the copy of its fields that the newest commit slot carries; does nothing
    /// where it is whole. Until then a database that was opened with
    /// [`OpenNote::HeaderDamaged`] refuses to write.
    ///
    /// # Errors
    /// [`TransactionError::ReadOnly`], or what writing failed with.
    pub fn repair_header(&self) -> Result<(), TransactionError> {
        self.core.repair_header()
    }

    /// Packs every table full, moves what lies high in the file to free places below, and cuts the file to what is left;
    /// says whether anything changed. A second call finds nothing to do, unless others wrote or readers ended meanwhile.
    ///
    /// It works in steps, each a transaction of its own, while others read, and write between the steps. As other writers
    /// do, it waits for a write transaction that runs; a thread that holds one itself would wait for ever. Versions that
    /// are being read stay in the file where they are until the last reader of them ends; the space that they take is
    /// given back by a later call, or when the database is closed. Compacting needs some free space: the file may become
    /// a few dozen MiB longer meanwhile.
    ///
    /// Cost: every leaf is read once or twice, and written where it is not full or lies too high.
    ///
    /// ```
    /// # fn main() -> Result<(), cowslip::Error> {
    /// use cowslip::{Database, TableDefinition};
    /// const LOG: TableDefinition<u64, &str> = TableDefinition::new("log");
    /// let db = Database::in_memory()?;
    /// db.update(|tx| Ok::<_, cowslip::Error>(tx.open_table(LOG)?.put_many((0..9999).map(|id| (id, "entry")))?))?;
    /// db.update(|tx| Ok::<_, cowslip::Error>(tx.open_table(LOG)?.remove_range(..9000)?))?;
    /// assert!(db.compact()?);
    /// assert!(!db.compact()?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`CompactionError`]; the steps that were committed before stay, and the database is whole.
    pub fn compact(&self) -> Result<bool, CompactionError> {
        self.compact_with(|_| ControlFlow::Continue(()))
    }

    /// As [`compact`](Self::compact), telling `report` after each step how far it is; `Break` ends it there, and the
    /// free end of the file is cut all the same. `report` may read and write the database.
    ///
    /// # Errors
    /// As [`compact`](Self::compact).
    pub fn compact_with(
        &self,
        mut report: impl FnMut(&CompactionProgress) -> ControlFlow<()>,
    ) -> Result<bool, CompactionError> {
        self.core.compact(&mut report)
    }

    /// Closes the file: gives the free space at its end back and marks it as closed. Dropping the last handle does the
    /// same, but cannot report a failure.
    ///
    /// # Errors
    /// [`CloseError::InUse`] while other handles, transactions, tables, ranges or guards live; the last of them then closes the
    /// file.
    /// [`CloseError::Storage`] where writing failed, now or before for commits that readers saw and that nothing promised to
    /// be durable; the next opening recovers the last durable commit.
    pub fn close(self) -> Result<(), CloseError> {
        let others = Arc::strong_count(&self.core) - 1;
        let core = Arc::into_inner(self.core).ok_or(CloseError::InUse(others))?;
        Ok(core.shut_down()?)
    }
}
