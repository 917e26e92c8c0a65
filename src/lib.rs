//! Cowslip: an embedded, ACID, copy-on-write key-value store in one file.
//!
//! Invariant: this file only names the layers and re-exports the public items.
//! Layer 8 (db).

mod base;
mod btree;
mod catalog;
mod db;
mod delta;
mod io;
mod pages;
mod table;
mod txn;

/// A simulated disk to test storage code on: power cuts at every operation, torn and lost writes, honest failures.
pub mod sim {
    pub use crate::io::sim::{
        CrashPlan, DiskStats, Fault, FaultRates, LengthSurvival, Operation, OperationKind, Sector, SimDisk, Survivors,
        Tear,
    };
}

pub use base::clock::{Clock, SystemClock};
pub use base::codec::DecodeError;
pub use base::error::{Corruption, IoFailure, StorageError};
pub use base::histogram::Histogram;
pub use base::ids::TransactionId;
pub use db::builder::Builder;
pub use db::database::Database;
pub use io::file::{Access, CreateMode, FileStorage};
pub use io::memory::MemoryStorage;
pub use io::storage::{LockMode, Storage, SyncKind, WriteMode};
pub use pages::observer::{
    CheckpointBegunEvent, CheckpointEvent, CheckpointFailedEvent, CommitEvent, CommitKind, LogWriteEvent, Observer,
    PoisonedEvent, RecoveryReport, SyncEvent,
};
pub use pages::select::OpenNote;
pub use table::codec::descending::Desc;
pub use table::definition::{TableDefinition, TableHandle, UntypedTableHandle};
pub use table::descriptor::TypeDescriptor;
pub use table::extract::ExtractIf;
pub use table::guard::AccessGuard;
pub use table::json::{render_key_json, render_value_json};
pub use table::newtype::Newtype;
pub use table::parse::{parse_key, parse_prefix, parse_value};
pub use table::prefix::PrefixKey;
pub use table::range::{Range, Row};
pub use table::read_only::ReadOnlyTable;
pub use table::read_write::Table;
pub use table::render::{render_key, render_value};
pub use table::traits::{Key, TypeName, Value};
pub use table::untyped::{UntypedTable, UntypedTableMut};
pub use txn::compact::CompactionProgress;
pub use txn::durability::Durability;
pub use txn::error::{
    CloseError, CommitError, CompactionError, DatabaseError, Error, OpenFailure, SetDurabilityError, TableError,
    TableTypeMismatch, TransactionError, UntypedError,
};
pub use txn::future::CommitFuture;
pub use txn::oracle::{IntegrityReport, QuickReport};
pub use txn::read::ReadTransaction;
pub use txn::stats::{CheckpointStats, CommitStats, DatabaseStats, LogStats, ReaderStats, SpaceStats, WrittenStats};
pub use txn::write::WriteTransaction;
