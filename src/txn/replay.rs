//! Recovery of what the log tells: its records are applied to the version of the slot, as one transaction.
//!
//! Invariant: the whole log is verified before anything is applied, and the outcome is under a slot of its own before anybody
//! writes: a crash on the way leaves slot and log as they were.
//! Layer 5 (txn). Rules: design.md, "Opening".

use super::core::{Core, TurnGuard};
use super::error::{CommitError, DatabaseError, TableError};
use super::log::record::{Record, RecordHead};
use super::log::{LogReader, Served};
use super::write::WriteTransaction;
use crate::base::codec::Decoder;
use crate::base::error::{Result, StorageError};
use crate::base::sync::Arc;
use crate::base::sync::atomic::Ordering;
use crate::btree::redo::take_change;
use crate::pages::select::OpenNote;
use crate::pages::slot::LogStart;

/// What a replay has to do.
struct Work {
    last: Option<RecordHead>,
    records: u64,
}

impl Core {
    /// Applies what the log holds beyond the slot. Nobody else uses the database yet.
    pub(crate) fn replay(self: &Arc<Self>) -> Result<(), DatabaseError> {
        self.apply_log()?;
        self.skip_seen_ids(self.durable.lock().head.id);
        self.is_recovered.store(true, Ordering::Release);
        Ok(())
    }

    fn apply_log(self: &Arc<Self>) -> Result<(), DatabaseError> {
        let Some(start) = self.durable.lock().slot.log else { return Ok(()) };
        let work = self.verify_log(start)?;
        let Some(last) = work.last else { return Ok(()) };
        log::warn!("opening: {} commits are recovered from the log, the last is {}", work.records, last.id);
        let turn = TurnGuard::take(Arc::clone(self));
        let mut transaction = WriteTransaction::begin_as(turn, last.id).map_err(storage_error)?;
        transaction.commit_time_micros = Some(last.commit_time_micros);
        transaction.without_log = true;
        let slot = self.served();
        LogReader::open(&self.store, start)?.replay(&slot, |record| apply(&transaction, record))?;
        transaction.commit_unchanged = true;
        match transaction.commit() {
            Ok(_) => Ok(()),
            Err(CommitError::Aborted(error) | CommitError::InDoubt(error)) => Err((*error).into()),
            Err(error) => Err(StorageError::corrupted(format!("the log could not be applied: {error}")).into()),
        }
    }

    fn served(&self) -> Served {
        let is_older = self.notes.iter().any(|note| matches!(note, OpenNote::ServedOlderSlot { .. }));
        Served { transaction: self.durable.lock().slot.transaction, is_older }
    }

    /// Reads the whole log and finds what it ends with.
    fn verify_log(&self, start: LogStart) -> Result<Work> {
        let slot = self.served();
        let mut work = Work { last: None, records: 0 };
        LogReader::open(&self.store, start)?.replay(&slot, |record| {
            let mut record = record.clone();
            while let Some(table) = record.next_table()? {
                let mut changes = Decoder::new(table.changes);
                for _ in 0..table.count {
                    take_change(&mut changes)?;
                }
                changes.finish()?;
            }
            work.last = Some(record.head);
            work.records += 1;
            Ok(())
        })?;
        Ok(work)
    }
}

fn storage_error(error: super::error::TransactionError) -> StorageError {
    match error {
        super::error::TransactionError::Storage(error) => error,
        other => StorageError::corrupted(format!("the log could not be applied: {other}")),
    }
}

/// Makes the changes of one record.
fn apply(transaction: &WriteTransaction, record: &Record<'_>) -> Result<()> {
    let mut record = record.clone();
    while let Some(part) = record.next_table()? {
        let mut table = transaction.check_out_existing(part.name).map_err(|error| match error {
            TableError::Storage(error) => error,
            other => StorageError::corrupted(format!("the log names a table that cannot be opened: {other}")),
        })?;
        let outcome = transaction.change(|| {
            let mut changes = Decoder::new(part.changes);
            for _ in 0..part.count {
                match take_change(&mut changes)? {
                    (key, Some(value)) => table.tree.put(key, value)?,
                    (key, None) => table.tree.delete(key)?,
                }
                transaction.spill_if_large(&mut table.tree)?;
            }
            Ok(())
        });
        transaction.check_in(table);
        outcome.map_err(|error| error.in_table(part.name))?;
        // What was buffered is applied when the table is given back, with nobody there to be told.
        transaction.take_untold().map_or(Ok(()), Err)?;
    }
    Ok(())
}
