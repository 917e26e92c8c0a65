//! What both stores are told, and what they answer.

use crate::Result;
use std::ops::Bound;

/// Type of a table's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyKind {
    Bytes,
    Signed,
    Pair,
}

/// A key of one of the kinds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Bytes(Vec<u8>),
    Signed(i64),
    Pair(String, u64),
}

impl Key {
    /// The kind that the key belongs to.
    pub(crate) fn kind(&self) -> KeyKind {
        match self {
            Self::Bytes(_) => KeyKind::Bytes,
            Self::Signed(_) => KeyKind::Signed,
            Self::Pair(..) => KeyKind::Pair,
        }
    }
}

/// Which state of the database a question is put to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    /// The running write transaction; opening a table there creates it.
    Writer,
    /// A snapshot of the newest commit.
    Committed,
    /// The snapshot that [`Operation::Hold`] took, or a fresh one where there is none.
    Held,
}

/// A question about the rows of a table.
#[derive(Debug, Clone)]
pub(crate) enum Question {
    Get(Key),
    Range { from: Bound<Key>, to: Bound<Key>, backwards: bool, rows_max: usize },
    First,
    Last,
    Len,
}

/// One step of the stream. Steps that need a write transaction begin one where none runs.
#[derive(Debug, Clone)]
pub(crate) enum Operation {
    Insert { table: String, key: Key, value: Vec<u8> },
    Remove { table: String, key: Key },
    Ask { view: View, table: String, kind: KeyKind, question: Question },
    ListTables { view: View },
    DeleteTable { table: String },
    RenameTable { old: String, new: String },
    Commit,
    Abort,
    Hold,
    Reopen,
}

/// Why a table could not be used, as far as the stores name the same reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    TypeMismatch,
    DoesNotExist,
    Exists,
}

/// A key and its value.
pub(crate) type Row = (Key, Vec<u8>);

/// The answer to an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Done,
    Value(Option<Vec<u8>>),
    Rows(Vec<Row>),
    Count(u64),
    Existed(bool),
    Names(Vec<String>),
    Refused(Refusal),
}

/// A store that is compared. An error is one that no healthy store may report for any operation of the stream.
pub(crate) trait Store {
    /// Performs the operation and answers it.
    fn apply(&mut self, operation: &Operation) -> Result<Answer>;

    /// Verifies everything that the store can verify about itself.
    fn verify(&mut self) -> Result<()>;
}
