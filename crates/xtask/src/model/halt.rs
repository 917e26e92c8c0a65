//! Why a step of the model stopped.
//!
//! Invariant: an error that nothing was arranged to cause is a mismatch.

use cowslip::{CloseError, CommitError, DatabaseError, StorageError, TableError, TransactionError};

/// Why a step stopped.
#[derive(Debug)]
pub(super) enum Halt {
    /// Store and model differ.
    Mismatch(String),
    /// The storage failed; the caller knows whether it was made to.
    Failed(StorageError),
}

impl From<StorageError> for Halt {
    fn from(error: StorageError) -> Self {
        Self::Failed(error)
    }
}

impl From<TableError> for Halt {
    fn from(error: TableError) -> Self {
        match error {
            TableError::Storage(error) => Self::Failed(error),
            other => Self::Mismatch(format!("unexpected: {other}")),
        }
    }
}

/// Errors that no arranged fault excuses.
macro_rules! never_expected {
    ($($error:ty),*) => {$(
        impl From<$error> for Halt {
            fn from(error: $error) -> Self {
                Self::Mismatch(format!("unexpected: {error}"))
            }
        }
    )*};
}

never_expected!(TransactionError, CommitError, DatabaseError, CloseError);

/// Stops with a mismatch unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::model::halt::Halt::Mismatch(format!($($message)+)));
        }
    };
}

pub(super) use ensure;
