//! Options of a database, and the ways to open one.
//!
//! Invariant: an option that cannot work is refused before any file is touched.
//! Layer 8 (db).

use super::budget;
use super::database::Database;
use crate::base::clock::{Clock, Stopwatch, SystemClock};
use crate::base::random::random_id;
use crate::base::sync::Arc;
use crate::io::file::{Access, CreateMode, FileStorage};
use crate::io::memory::MemoryStorage;
use crate::io::storage::Storage;
use crate::pages::header::Format;
use crate::pages::layout::Layout;
use crate::pages::observer::Observer;
use crate::txn::core::{Core, CoreOptions};
use crate::txn::create;
use crate::txn::durability::Durability;
use crate::txn::error::{DatabaseError, OpenFailure};
use crate::txn::recover::{self, OpenOptions};
use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

const UNIT_BYTES: u32 = 4096;
const REGION_UNITS: u32 = 65536;
const NODE_BYTES_DEFAULT: u32 = 8192;
const LOG_BYTES_MAX_DEFAULT: u64 = 64 << 20;
const SYNC_DELAY_MAX_DEFAULT: Duration = Duration::from_millis(50);

/// Options for creating and opening databases.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("shop.cowslip");
/// use cowslip::Database;
/// let db = Database::builder().cache_bytes_max(64 << 20).create(&path)?;
/// db.close()?;
/// let db = Database::builder().open_read_only(&path)?;
/// assert!(db.begin_write().is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Builder {
    cache_bytes_max: usize,
    unit_bytes: u32,
    node_bytes: u32,
    region_units: u32,
    test_geometry: bool,
    clock: Arc<dyn Clock>,
    identity: Option<[u8; 16]>,
    log_bytes_max: u64,
    file_bytes_max: u64,
    durability: Durability,
    sync_delay_max: Duration,
    checkpoint_lag_commits: Option<u32>,
    observer: Option<Observed>,
}

/// An observer, of which nothing is known that could be printed.
#[derive(Clone)]
struct Observed(Arc<dyn Observer>);

impl fmt::Debug for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl Builder {
    /// The default options.
    #[must_use]
    pub fn new() -> Self {
        Self {
            cache_bytes_max: budget::default_bytes(),
            unit_bytes: UNIT_BYTES,
            node_bytes: NODE_BYTES_DEFAULT,
            region_units: REGION_UNITS,
            test_geometry: false,
            clock: Arc::new(SystemClock),
            identity: None,
            log_bytes_max: LOG_BYTES_MAX_DEFAULT,
            file_bytes_max: u64::MAX,
            durability: Durability::Immediate,
            sync_delay_max: SYNC_DELAY_MAX_DEFAULT,
            checkpoint_lag_commits: None,
            observer: None,
        }
    }

    /// Memory for pages, by default a quarter of what the machine or the process's memory group has available, at most
    /// 1 GiB. Pages that were read, long values, the changed pages of the write transaction and what the database keeps
    /// to find pages and free space share it; a transaction whose changed pages exceed nearly a quarter of it writes them
    /// early. Nothing is allocated up front. A budget of less than a thousandth of the file cannot be kept.
    #[must_use]
    pub fn cache_bytes_max(mut self, bytes: usize) -> Self {
        self.cache_bytes_max = bytes;
        self
    }

    /// Most that the redo log may take in the file while the database is open, 64 MiB by default. It begins small, grows
    /// with use, and is given back on close. The longer it is, the less often changed pages are written, and the
    /// longer opening may take after a crash.
    #[must_use]
    pub fn log_bytes_max(mut self, bytes: u64) -> Self {
        self.log_bytes_max = bytes;
        self
    }

    /// Longest that the file may become, the redo log and everything else in it counted, rounded down to whole blocks of 4096
    /// bytes; as long as the device allows by default. It holds while the database is open, is not stored in the file, and
    /// counts for databases in memory too.
    ///
    /// What does not fit fails as it does on a full device: with an error whose `is_out_of_space()` is true and whose
    /// text names the limit. The transaction is aborted, readers go on, and so do transactions that need no more room. Some
    /// room is kept for removals, so that a transaction that removes a few rows goes through and makes room for others; it may
    /// have to wait for readers that hold older versions. A transaction that changes or removes rows all over the file needs
    /// room for new copies of their pages: take a few at a time.
    ///
    /// A file that is longer already is opened all the same and does not grow. Where it has no free space inside even
    /// removals fail with the same error; with a limit a little above its length they work. Opening a database that was
    /// not closed needs the room that its last transactions had.
    ///
    /// ```
    /// # fn main() -> Result<(), cowslip::Error> {
    /// use cowslip::{Database, TableDefinition};
    /// const LINES: TableDefinition<u64, &str> = TableDefinition::new("lines");
    /// let db = Database::builder().file_bytes_max(1 << 20).in_memory()?;
    /// let add = |id: u64| {
    ///     db.update(|tx| {
    ///         tx.open_table(LINES)?.insert(id, &*"line".repeat(5000))?;
    ///         Ok::<_, cowslip::Error>(())
    ///     })
    /// };
    /// let (id, error) = (0..).find_map(|id| Some((id, add(id).err()?))).expect("a MiB is soon full");
    /// assert!(error.is_out_of_space());
    /// db.update(|tx| {
    ///     tx.open_table(LINES)?.remove_range(..2)?;
    ///     Ok::<_, cowslip::Error>(())
    /// })?;
    /// add(id)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Creating a database fails with [`DatabaseError::InvalidOption`] where the limit is below the 12288 bytes of an empty
    /// one; no file is made then, and an empty one stays empty.
    #[must_use]
    pub fn file_bytes_max(mut self, bytes: u64) -> Self {
        self.file_bytes_max = bytes;
        self
    }

    /// What commits wait for unless their transaction says otherwise; [`Durability::Immediate`] by default.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// How long a commit with [`Durability::Buffered`] may stay undurable, 50 milliseconds by default, and the time of a write
    /// on top of it.
    #[must_use]
    pub fn sync_delay_max(mut self, delay: Duration) -> Self {
        self.sync_delay_max = delay;
        self
    }

    /// Size of a node in a new database: 4096, 8192 (the default), 16384, 32768 or 65536. Larger nodes make scans and
    /// lookups in large databases cheaper and small commits dearer. An existing database keeps its size.
    #[must_use]
    pub fn node_bytes(mut self, bytes: u32) -> Self {
        self.node_bytes = bytes;
        self
    }

    /// Where commits take their time from.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Whom to tell of commits, checkpoints, log writes, syncs, recovery and failures; nobody by default. [`Observer`] says
    /// when it is called and what it may do. Each database that is opened with these options tells it.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use cowslip::{Database, Observer, SyncEvent};
    /// use std::sync::{Arc, atomic::{AtomicU64, Ordering}};
    ///
    /// #[derive(Default)]
    /// struct SlowSyncs(AtomicU64);
    ///
    /// impl Observer for SlowSyncs {
    ///     fn synced(&self, sync: &SyncEvent) {
    ///         if sync.duration.as_millis() > 100 {
    ///             self.0.fetch_add(1, Ordering::Relaxed);
    ///         }
    ///     }
    /// }
    ///
    /// let slow = Arc::new(SlowSyncs::default());
    /// let db = Database::builder().observer(slow.clone()).in_memory()?;
    /// db.close()?;
    /// println!("{} slow syncs", slow.0.load(Ordering::Relaxed));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = Some(Observed(observer));
        self
    }

    /// Small units and regions, so that tests reach every boundary. Ordinary opening refuses such files.
    #[doc(hidden)]
    #[must_use]
    pub fn test_geometry(mut self, unit_bytes: u32, node_bytes: u32, region_units: u32) -> Self {
        (self.unit_bytes, self.node_bytes, self.region_units) = (unit_bytes, node_bytes, region_units);
        self.test_geometry = true;
        self
    }

    /// A fixed identity of database and session, so that the same operations write the same bytes.
    #[doc(hidden)]
    #[must_use]
    pub fn test_identity(mut self, identity: [u8; 16]) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Checkpoints that would be written by a thread are written by the commit that comes so many later.
    #[doc(hidden)]
    #[must_use]
    pub fn test_checkpoint_lag(mut self, commits: u32) -> Self {
        self.checkpoint_lag_commits = Some(commits.max(1));
        self
    }

    /// Opens the database in the file, or makes one where the file is missing or empty.
    ///
    /// The file is locked until the last handle, transaction and table is gone.
    ///
    /// # Errors
    /// [`DatabaseError`] says what was found; the file is as it was.
    pub fn create(&self, path: impl AsRef<Path>) -> Result<Database, DatabaseError> {
        self.open_file(path.as_ref(), CreateMode::CreateOrOpen, Access::ReadWrite)
    }

    /// Opens the database in an existing file.
    ///
    /// # Errors
    /// [`DatabaseError`] says what was found; the file is as it was.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Database, DatabaseError> {
        self.open_file(path.as_ref(), CreateMode::OpenExisting, Access::ReadWrite)
    }

    /// Opens the database in an existing file without ever writing to it. Several readers may do so at once, but not
    /// beside a writer. A database that was not closed is shown as of its last commit and not repaired.
    ///
    /// # Errors
    /// [`DatabaseError`] says what was found.
    pub fn open_read_only(&self, path: impl AsRef<Path>) -> Result<Database, DatabaseError> {
        self.open_file(path.as_ref(), CreateMode::OpenExisting, Access::ReadOnly)
    }

    /// Makes an empty database in memory, gone with its last handle.
    ///
    /// # Errors
    /// [`DatabaseError::InvalidOption`].
    pub fn in_memory(&self) -> Result<Database, DatabaseError> {
        self.create_with_storage(MemoryStorage::new())
    }

    /// The same as [`Builder::create`] on a storage of the caller.
    ///
    /// # Errors
    /// [`DatabaseError`] says what was found; the storage is as it was.
    pub fn create_with_storage(&self, storage: impl Storage) -> Result<Database, DatabaseError> {
        self.open_storage(Arc::new(storage), true, false)
    }

    /// The same as [`Builder::open`] on a storage of the caller.
    ///
    /// # Errors
    /// [`DatabaseError`] says what was found; the storage is as it was.
    pub fn open_with_storage(&self, storage: impl Storage) -> Result<Database, DatabaseError> {
        self.open_storage(Arc::new(storage), false, false)
    }

    /// The same as [`Builder::open_read_only`] on a storage of the caller.
    ///
    /// # Errors
    /// [`DatabaseError`] says what was found.
    pub fn open_read_only_with_storage(&self, storage: impl Storage) -> Result<Database, DatabaseError> {
        self.open_storage(Arc::new(storage), false, true)
    }

    fn layout(&self) -> Result<Layout, DatabaseError> {
        let invalid = |reason: String| DatabaseError::InvalidOption(reason.into());
        let least = if self.test_geometry { 512 } else { UNIT_BYTES };
        if !self.node_bytes.is_power_of_two() || !(least..=65536).contains(&self.node_bytes) {
            return Err(invalid(format!("node_bytes is {}, not a power of two of {least} to 65536", self.node_bytes)));
        }
        Layout::new(self.unit_bytes, (self.node_bytes / self.unit_bytes).max(1), self.region_units)
            .map_err(|error| invalid(error.to_string()))
    }

    fn open_file(&self, path: &Path, create: CreateMode, access: Access) -> Result<Database, DatabaseError> {
        self.layout()?;
        // Where an empty database would be too long no file is made for it either.
        let limit = create::check_limit(self.file_bytes_max);
        let opening = if limit.is_ok() { create } else { CreateMode::OpenExisting };
        // Units smaller than a block of the device cannot be written past the page cache.
        let direct = self.unit_bytes >= UNIT_BYTES;
        let opened = FileStorage::open(path, opening, access, direct);
        if create != opening && opened.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            limit?;
        }
        let (storage, _) = opened.map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => DatabaseError::Locked(source.to_string().into()),
            _ => DatabaseError::Open(Box::new(OpenFailure { path: path.into(), source })),
        })?;
        self.open_storage(Arc::new(storage), create != CreateMode::OpenExisting, access == Access::ReadOnly)
    }

    fn open_storage(
        &self,
        storage: Arc<dyn Storage>,
        create: bool,
        read_only: bool,
    ) -> Result<Database, DatabaseError> {
        let opening = Stopwatch::start();
        let uuid = self.identity.unwrap_or_else(random_id);
        let format = Format { layout: self.layout()?, uuid, read_only_compatible: 0, compatible: 0 };
        let options = OpenOptions {
            read_only,
            create: create.then_some(format),
            test_geometry: self.test_geometry,
            cache_bytes_max: self.cache_bytes_max,
            file_bytes_max: self.file_bytes_max,
        };
        let opened = recover::open(storage, &options)?;
        if let Some(Observed(observer)) = &self.observer {
            opened.store.meter().observe(Arc::clone(observer));
        }
        let options = CoreOptions {
            clock: Arc::clone(&self.clock),
            read_only,
            session: self.identity.unwrap_or_else(random_id),
            log_bytes_max: self.log_bytes_max,
            durability: self.durability,
            sync_delay_max: self.sync_delay_max,
            checkpoint_lag_commits: self.checkpoint_lag_commits,
            opening,
        };
        let core = Core::new(opened, options);
        core.replay()?;
        Ok(Database::new(core))
    }
}
