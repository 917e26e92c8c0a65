//! Why a command ended without success, and the exit code that says so.

use cowslip::{
    CloseError, CommitError, DatabaseError, DecodeError, Error, StorageError, TableError, TransactionError,
    UntypedError,
};
use std::fmt;
use std::io;

/// An error of a command.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The store reported it.
    Store(Error),
    /// Standard output could not be written.
    Output(io::Error),
    /// The file could be opened, but the system did not answer a question about it.
    File(io::Error),
    /// An argument is not of the table's type.
    Argument(&'static str, DecodeError),
    /// There is no such table or key.
    NotFound(String),
    /// Everything could be read, but opening noticed damage that something else stood in for.
    Damaged(String),
}

impl Failure {
    /// The exit code; it is part of the interface.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::NotFound(_) | Self::Store(Error::Table(TableError::DoesNotExist(_))) => 3,
            Self::Damaged(_) | Self::Store(Error::Transaction(TransactionError::HeaderDamaged)) => 4,
            Self::Store(error) if error.is_corruption() => 4,
            Self::Store(error) if error.is_locked() => 5,
            Self::Store(error) if error.is_out_of_space() => 7,
            Self::Argument(..) | Self::Store(Error::Table(TableError::TypeMismatch(_))) => 6,
            Self::Store(Error::Database(
                DatabaseError::NotADatabase(_)
                | DatabaseError::UnsupportedVersion { .. }
                | DatabaseError::UnsupportedFeatures(_)
                | DatabaseError::TestGeometry { .. },
            )) => 6,
            _ => 1,
        }
    }

    /// Whether the reader of the output went away.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => error.fmt(f),
            Self::Output(error) => write!(f, "cannot write the output: {error}"),
            Self::File(error) => write!(f, "cannot read the size of the file: {error}"),
            Self::Argument(name, error) => write!(f, "invalid {name}: {error}"),
            Self::NotFound(what) => f.write_str(what),
            Self::Damaged(what) => write!(f, "damage that the file survives: {what}"),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

macro_rules! from_store {
    ($($error:ty),*) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::Store(error.into())
            }
        }
    )*};
}

from_store!(DatabaseError, TransactionError, TableError, UntypedError, CommitError, CloseError, StorageError);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_other_formats_are_told_from_other_failures() {
        let code = |error: DatabaseError| Failure::from(error).exit_code();
        assert_eq!(code(DatabaseError::UnsupportedVersion { found: 9, supported: 1 }), 6);
        assert_eq!(code(DatabaseError::UnsupportedFeatures(2)), 6);
        assert_eq!(code(DatabaseError::TestGeometry { unit_bytes: 512, region_units: 64 }), 6);
        assert_eq!(code(DatabaseError::NotADatabase("".into())), 6);
        assert_eq!(code(DatabaseError::Locked("".into())), 5);
        let source = io::ErrorKind::PermissionDenied.into();
        assert_eq!(code(DatabaseError::Open(Box::new(cowslip::OpenFailure { path: "x".into(), source }))), 1);
        assert_eq!(Failure::Damaged(String::new()).exit_code(), 4);
    }

    #[test]
    fn every_way_to_run_out_of_space_has_one_code() {
        let full = || StorageError::OutOfSpace { wanted_bytes: 1, source: io::ErrorKind::StorageFull.into() };
        let failures =
            [Failure::from(full()), UntypedError::from(full()).into(), CommitError::Aborted(Box::new(full())).into()];
        assert_eq!(failures.map(|failure| failure.exit_code()), [7; 3]);
    }

    #[test]
    fn only_a_closed_pipe_of_the_output_is_passed_over() {
        assert!(Failure::Output(io::ErrorKind::BrokenPipe.into()).is_closed_pipe());
        assert!(!Failure::Output(io::ErrorKind::StorageFull.into()).is_closed_pipe());
        assert!(!Failure::File(io::ErrorKind::BrokenPipe.into()).is_closed_pipe());
    }
}
