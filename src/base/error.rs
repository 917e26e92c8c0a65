//! The storage error: what every layer below the transactions can fail with.
//!
//! Invariant: it knows no upper type; each verb of the API wraps it in an error of its own.
//! Layer 0 (base).

use super::codec::DecodeError;
use super::ids::PageId;
use std::fmt;
use std::io;

/// An operation on the storage failed, or what it returned is not what was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The operating system, or the storage given by the user, refused an operation.
    #[error(transparent)]
    Io(Box<IoFailure>),
    /// Bytes of the file are not what was written, or contradict each other.
    #[error("corrupted: {0}")]
    Corrupted(#[source] Box<Corruption>),
    /// The file cannot grow: device full, quota, the limit that the application sets
    /// ([`Builder::file_bytes_max`](crate::Builder::file_bytes_max)), or the largest size of the format.
    #[error("out of space: the file cannot grow to {wanted_bytes} bytes: {source}")]
    OutOfSpace {
        /// The file length that was asked for.
        wanted_bytes: u64,
        /// What the system said, or which limit it is.
        source: io::Error,
    },
    /// An earlier write or sync failed; this handle writes no more. Reopening the database decides what was kept.
    #[error("an earlier write failed, so the database must be reopened before it can write again")]
    Poisoned,
    /// The key is longer than the format allows.
    #[error("key of {found_bytes} bytes exceeds the limit of {limit_bytes}")]
    KeyTooLarge {
        /// Length of the encoded key.
        found_bytes: usize,
        /// Longest key that the store takes.
        limit_bytes: usize,
    },
    /// The value is longer than the format allows.
    #[error("value of {found_bytes} bytes exceeds the limit of {limit_bytes}")]
    ValueTooLarge {
        /// Length of the encoded value.
        found_bytes: usize,
        /// Longest value that the store takes.
        limit_bytes: usize,
    },
    /// Rows that were said to be sorted are not.
    #[error(
        "row {row} of a bulk load does not come after the row before it: bulk loads take ascending keys, each once"
    )]
    UnsortedRows {
        /// Index of the row, from 0.
        row: u64,
    },
    /// A change panicked or failed half-way earlier in this transaction; it can only be aborted.
    #[error("an earlier operation of this transaction failed half-way, so it can only be aborted")]
    TransactionPoisoned,
}

/// What the system refused, and why.
#[derive(Debug, thiserror::Error)]
#[error("{operation} failed: {source}")]
pub struct IoFailure {
    /// What was attempted.
    pub operation: &'static str,
    /// What the system said.
    pub source: io::Error,
}

/// What is damaged and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corruption {
    table: Option<String>,
    page: Option<u64>,
    reason: String,
    source: Option<DecodeError>,
}

impl Corruption {
    /// Name of the table that was being read or changed, where there was one.
    #[must_use]
    pub fn table(&self) -> Option<&str> {
        self.table.as_deref()
    }

    /// Number of the allocation unit that is damaged, where one can be named.
    #[must_use]
    pub fn page(&self) -> Option<u64> {
        self.page
    }

    /// What was expected and what was found.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(table) = &self.table {
            write!(f, "table {table:?}: ")?;
        }
        if let Some(page) = self.page {
            write!(f, "page {page}: ")?;
        }
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Corruption {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

impl StorageError {
    /// Damage that no single page can be blamed for.
    pub(crate) fn corrupted(reason: impl Into<String>) -> Self {
        Self::corruption(None, reason.into(), None)
    }

    /// Bytes that do not decode as what they should be.
    pub(crate) fn undecodable(what: fmt::Arguments<'_>, source: DecodeError) -> Self {
        Self::corruption(None, format!("{what}: {source}"), Some(source))
    }

    fn corruption(page: Option<u64>, reason: String, source: Option<DecodeError>) -> Self {
        Self::Corrupted(Box::new(Corruption { table: None, page, reason, source }))
    }

    /// Names the table in which damage was found, unless it is named already. Other errors stay as they are.
    pub(crate) fn in_table(mut self, table: &str) -> Self {
        if let Self::Corrupted(corruption) = &mut self {
            corruption.table.get_or_insert_with(|| table.to_owned());
        }
        self
    }

    /// Damage found in one page.
    pub(crate) fn corrupted_page(page: PageId, reason: impl Into<String>) -> Self {
        Self::corruption(Some(page.get()), reason.into(), None)
    }

    pub(crate) fn io(operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io(Box::new(IoFailure { operation, source }))
    }

    /// Whether bytes of the file are damaged, as opposed to unreachable.
    #[must_use]
    pub fn is_corruption(&self) -> bool {
        matches!(self, Self::Corrupted(_))
    }

    /// Whether freeing space on the device would help, or a higher limit for the file where the application sets one.
    #[must_use]
    pub fn is_out_of_space(&self) -> bool {
        match self {
            Self::OutOfSpace { .. } => true,
            Self::Io(failure) => {
                matches!(failure.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }
}

impl From<DecodeError> for StorageError {
    fn from(error: DecodeError) -> Self {
        Self::corruption(None, error.to_string(), Some(error))
    }
}

/// Result of anything that touches the storage.
pub(crate) type Result<T, E = StorageError> = std::result::Result<T, E>;

const _: () = assert!(size_of::<StorageError>() <= 24);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_table_named_stays_and_only_damage_has_one() {
        let page = PageId::new(7).unwrap();
        let error = StorageError::corrupted_page(page, "torn").in_table("a").in_table("b");
        assert_eq!(error.to_string(), "corrupted: table \"a\": page 7: torn");
        assert_eq!(StorageError::Poisoned.in_table("a").to_string(), StorageError::Poisoned.to_string());
    }
}
