//! What each verb of the API can fail with, over the one storage error.
//!
//! Invariant: every variant says what was expected and what was found.
//! Layer 5 (txn).

use crate::base::error::StorageError;
use std::io;
use std::path::PathBuf;

/// Opening or creating a database failed; the file is as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatabaseError {
    /// The file holds something else.
    #[error("not a Cowslip database: {0}")]
    NotADatabase(String),
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
    Locked(String),
    /// The path cannot be opened.
    #[error("cannot open {path}: {source}", path = path.display())]
    Open {
        /// The path as it was given.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An option of the builder is out of its range.
    #[error("invalid option: {0}")]
    InvalidOption(String),
    /// Reading or writing failed, or the file is damaged.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl DatabaseError {
    /// Whether somebody else has the database open.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        matches!(self, Self::Locked(_))
    }

    /// Whether the file is damaged.
    #[must_use]
    pub fn is_corruption(&self) -> bool {
        matches!(self, Self::Storage(error) if error.is_corruption())
    }

    /// Whether freeing space on the device would help.
    #[must_use]
    pub fn is_out_of_space(&self) -> bool {
        matches!(self, Self::Storage(error) if error.is_out_of_space())
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
    DoesNotExist(String),
    /// The new name belongs to another table.
    #[error("table {0:?} exists already")]
    Exists(String),
    /// This transaction has the table open already.
    #[error("table {0:?} is open already in this transaction")]
    AlreadyOpen(String),
    /// A table cannot have this name or these types.
    #[error("invalid table definition: {0}")]
    InvalidDefinition(String),
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
    /// Nothing was written yet: the transaction was aborted and the database goes on.
    #[error("the transaction was aborted: {0}")]
    Aborted(#[source] StorageError),
    /// Writing failed: this handle writes no more, and only reopening tells whether the commit was kept.
    #[error("the outcome of the commit is unknown until the database is reopened: {0}")]
    InDoubt(#[source] StorageError),
}

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
    /// A commit failed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// Closing failed.
    #[error(transparent)]
    Close(#[from] CloseError),
    /// Reading or writing failed, or the file is damaged.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Error {
    fn storage(&self) -> Option<&StorageError> {
        match self {
            Self::Database(DatabaseError::Storage(error))
            | Self::Transaction(TransactionError::Storage(error))
            | Self::Table(TableError::Storage(error))
            | Self::Commit(CommitError::Aborted(error) | CommitError::InDoubt(error))
            | Self::Close(CloseError::Storage(error))
            | Self::Storage(error) => Some(error),
            _ => None,
        }
    }

    /// Whether the file is damaged.
    #[must_use]
    pub fn is_corruption(&self) -> bool {
        self.storage().is_some_and(StorageError::is_corruption)
    }

    /// Whether freeing space on the device would help.
    #[must_use]
    pub fn is_out_of_space(&self) -> bool {
        self.storage().is_some_and(StorageError::is_out_of_space)
    }

    /// Whether somebody else has the database open.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        matches!(self, Self::Database(error) if error.is_locked())
    }
}
