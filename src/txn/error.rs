//! What each verb of the API can fail with, over the one storage error.
//!
//! Invariant: every variant says what was expected and what was found.
//! Layer 5 (txn).

use crate::base::codec::DecodeError;
use crate::base::error::StorageError;
use std::io;
use std::path::PathBuf;

/// Opening or creating a database failed; the file is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatabaseError {
    /// The file holds something else.
    #[error("not a Cowslip database: {0}")]
    NotADatabase(Box<str>),
    /// The file was written by a release with another format.
    #[error("the file has format version {found}, this release reads version {supported}")]
    UnsupportedVersion {
        /// Version in the file.
        found: u32,
        /// Version that this release reads and writes.
        supported: u32,
    },
    /// The file needs features that this release does not have.
    #[error("the file needs unknown features {0:#x}")]
    UnsupportedFeatures(u64),
    /// The file's unit or region size is one that only tests use.
    #[error("the file has the geometry of a test: units of {unit_bytes} bytes, regions of {region_units} units")]
    TestGeometry {
        /// Bytes of a unit in the file.
        unit_bytes: u32,
        /// Units of a region in the file.
        region_units: u32,
    },
    /// Somebody else has the database open.
    #[error("the database is open elsewhere: {0}")]
    Locked(Box<str>),
    /// The path cannot be opened.
    #[error(transparent)]
    Open(Box<OpenFailure>),
    /// An option of the builder is out of its range.
    #[error("invalid option: {0}")]
    InvalidOption(Box<str>),
    /// Reading or writing failed, or the file is damaged.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A path that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open {path}: {source}", path = path.display())]
pub struct OpenFailure {
    /// The path as it was given.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// The questions that a caller decides by, over the storage error of a verb.
macro_rules! storage_questions {
    ($($error:ident: $($pattern:pat => $storage:expr),+;)*) => {$(
        impl $error {
            /// The storage error that this is or wraps, where there is one.
            #[must_use]
            pub fn storage_error(&self) -> Option<&StorageError> {
                match self {
                    $($pattern => $storage,)+
                }
            }

            /// Whether the file is damaged.
            #[must_use]
            pub fn is_corruption(&self) -> bool {
                self.storage_error().is_some_and(StorageError::is_corruption)
            }

            /// Whether freeing space on the device would help, or a higher limit for the file where the application sets one.
            #[must_use]
            pub fn is_out_of_space(&self) -> bool {
                self.storage_error().is_some_and(StorageError::is_out_of_space)
            }
        }

        const _: () = assert!(size_of::<$error>() <= 32);
    )*};
}

storage_questions! {
    DatabaseError: Self::Storage(error) => Some(error), _ => None;
    TransactionError: Self::Storage(error) => Some(error), _ => None;
    TableError: Self::Storage(error) => Some(error), _ => None;
    UntypedError: Self::Storage(error) => Some(error), _ => None;
    CommitError: Self::Aborted(error) | Self::InDoubt(error) => Some(&**error), _ => None;
    CompactionError:
        Self::Transaction(error) => error.storage_error(), Self::Commit(error) => error.storage_error(),
        Self::Storage(error) => Some(error), _ => None;
    CloseError: Self::Storage(error) => Some(error), _ => None;
    Error:
        Self::Database(error) => error.storage_error(), Self::Transaction(error) => error.storage_error(),
        Self::Table(error) => error.storage_error(), Self::Commit(error) => error.storage_error(),
        Self::Untyped(error) => error.storage_error(), Self::Compaction(error) => error.storage_error(),
        Self::Close(error) => error.storage_error(), Self::Storage(error) => Some(error);
}

impl DatabaseError {
    /// Whether somebody else has the database open.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        matches!(self, Self::Locked(_))
    }
}

impl TableError {
    /// Names the table in which damage was found.
    pub(crate) fn in_table(self, table: &str) -> Self {
        match self {
            Self::Storage(error) => Self::Storage(error.in_table(table)),
            other => other,
        }
    }
}

/// Beginning a transaction failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransactionError {
    /// The database was opened for reading only.
    #[error("the database is open for reading only")]
    ReadOnly,
    /// Block 0 of the file is damaged; `Database::repair_header` makes it whole again.
    #[error("block 0 of the file is damaged, so nothing is written before the header is repaired")]
    HeaderDamaged,
    /// Reading or writing failed, or the file is damaged.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Opening, listing, renaming or deleting a table failed; the table is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// The stored types are not those of the definition.
    #[error(transparent)]
    TypeMismatch(Box<TableTypeMismatch>),
    /// There is no such table.
    #[error("table {0:?} does not exist")]
    DoesNotExist(Box<str>),
    /// The new name belongs to another table.
    #[error("table {0:?} exists already")]
    Exists(Box<str>),
    /// This transaction has the table open already.
    #[error("table {0:?} is open already in this transaction")]
    AlreadyOpen(Box<str>),
    /// A table cannot have this name or these types.
    #[error("invalid table definition: {0}")]
    InvalidDefinition(Box<str>),
    /// Reading or writing failed, or the file is damaged.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A table has other types than the caller expects.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("table {table:?} stores {found}, but {expected} was expected")]
pub struct TableTypeMismatch {
    /// Name of the table.
    pub table: String,
    /// Key and value type that the caller expects, as `<key, value>`.
    pub expected: String,
    /// Key and value type that the file has.
    pub found: String,
}

/// Changing a table as bytes failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UntypedError {
    /// The bytes are no key of the table's key type; nothing was changed.
    #[error("the bytes are no key of the table: {0}")]
    InvalidKey(#[source] Box<DecodeError>),
    /// The bytes are no value of the table's value type; nothing was changed.
    #[error("the bytes are no value of the table: {0}")]
    InvalidValue(#[source] Box<DecodeError>),
    /// Reading or writing failed, or the file is damaged.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A commit failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// An earlier operation failed half-way: nothing was committed.
    #[error("an operation of the transaction failed half-way, so it was aborted")]
    Poisoned,
    /// A table of the transaction is still open, which only leaking one with `mem::forget` can cause: nothing was
    /// committed.
    #[error("table {0:?} of the transaction was never closed, so it was aborted")]
    TableLeaked(String),
    /// Nothing was committed: the transaction was aborted and the database goes on. The cause may be that of an earlier
    /// operation that could not report it, such as changes that were applied when a table was dropped.
    #[error("the transaction was aborted: {0}")]
    Aborted(#[source] Box<StorageError>),
    /// Writing failed: this handle writes no more, and only reopening tells whether the commit was kept.
    #[error("the outcome of the commit is unknown until the database is reopened: {0}")]
    InDoubt(#[source] Box<StorageError>),
}

/// Compaction ended early; what it had done until then stays, and the database is whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompactionError {
    /// Readers keep so much of the file that packing more would lengthen it.
    #[error("readers keep {versions} older versions in the file, so that compacting it further would make it longer")]
    Pinned {
        /// How many versions older than the newest are being read.
        versions: usize,
    },
    /// A step could not begin.
    #[error(transparent)]
    Transaction(#[from] TransactionError),
    /// A step could not be committed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// Reading or writing failed, or the file is damaged.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// The durability of a transaction could not be set; it is as it was. There is no reason for it today: the type leaves room
/// for transactions whose other changes do not allow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SetDurabilityError {}

/// Closing a database failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CloseError {
    /// Transactions, tables or other handles are still alive; the last of them closes the database.
    #[error("the database is still in use by {0} other handles or transactions")]
    InUse(usize),
    /// The last writes failed; reopening recovers the last commit.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Any error of the store, for callers that do not tell verbs apart.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Opening failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// Beginning a transaction failed.
    #[error(transparent)]
    Transaction(#[from] TransactionError),
    /// A table could not be opened or changed.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A table could not be changed as bytes.
    #[error(transparent)]
    Untyped(#[from] UntypedError),
    /// A commit failed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// Compaction failed.
    #[error(transparent)]
    Compaction(#[from] CompactionError),
    /// Closing failed.
    #[error(transparent)]
    Close(#[from] CloseError),
    /// Reading or writing failed, or the file is damaged.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl From<DecodeError> for Error {
    fn from(error: DecodeError) -> Self {
        Self::Storage(error.into())
    }
}

impl From<SetDurabilityError> for Error {
    fn from(error: SetDurabilityError) -> Self {
        match error {}
    }
}

impl Error {
    /// Whether somebody else has the database open.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        matches!(self, Self::Database(error) if error.is_locked())
    }
}
