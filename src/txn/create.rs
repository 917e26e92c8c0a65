//! Making an empty database.
//!
//! Invariant: the magic is written last, after a valid slot is durable; a file without it was never a database.
//! Layer 5 (txn). Rules: design.md, "Opening".

use super::error::DatabaseError;
use crate::base::error::{Result, StorageError};
use crate::base::ids::{TransactionId, TreeRoot};
use crate::io::storage::{Storage, SyncKind, WriteMode};
use crate::pages::header::{self, BLOCK_BYTES, Format, GodByte};
use crate::pages::slot::{self, Blob, Slot};
use crate::pages::store::slot_offset;
use std::io::IoSlice;

/// Length of a database without any region.
pub(crate) const EMPTY_BYTES: u64 = 3 * BLOCK_BYTES as u64;

/// Whether a database may have its least length.
pub(crate) fn check_limit(file_bytes_max: u64) -> Result<(), DatabaseError> {
    if file_bytes_max >= EMPTY_BYTES {
        return Ok(());
    }
    let reason = format!("file_bytes_max is {file_bytes_max}, but an empty database takes {EMPTY_BYTES} bytes");
    Err(DatabaseError::InvalidOption(reason.into()))
}

/// Writes block 0 and both slots of an empty database; the second slot stays blank.
pub(crate) fn create(storage: &dyn Storage, format: &Format) -> Result<()> {
    let slot = Slot {
        generation: 1,
        transaction: TransactionId::ZERO,
        commit_time_micros: 0,
        session: [0; 16],
        data: TreeRoot::EMPTY,
        forward: TreeRoot::EMPTY,
        region_table: Blob::NONE,
        log: None,
        reach_units: u64::from(format.layout.header_units()),
        application_id: 0,
        user_version: 0,
    };
    let write = |offset, block: &[u8]| {
        storage.write_at(offset, &[IoSlice::new(block)], WriteMode::Plain).map_err(StorageError::io("create"))
    };
    let sync = || storage.sync(SyncKind::Full).map_err(StorageError::io("sync"));
    storage.set_len(0).map_err(StorageError::io("create"))?;
    storage.preallocate(EMPTY_BYTES).map_err(StorageError::io("create"))?;
    write(slot_offset(1), &[0; BLOCK_BYTES])?;
    write(slot_offset(0), &slot::encode(&slot, format))?;
    sync()?;
    let god = GodByte { primary: 0, recovery_required: false, ids_seen: false };
    write(0, &header::encode(format, god))?;
    sync()
}
