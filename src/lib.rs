//! Cowslip: an embedded, ACID, copy-on-write key-value store in one file.
//!
//! Invariant: this file only names the layers and re-exports the public items.
//! Layer 8 (db).

mod base;
mod io;

pub use base::clock::{Clock, SystemClock};
pub use base::codec::DecodeError;
pub use base::error::{Corruption, StorageError};
pub use base::ids::TransactionId;
pub use io::storage::{LockMode, Storage, SyncKind, WriteMode};
