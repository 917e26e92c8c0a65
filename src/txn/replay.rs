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
use crate::pages::observer::RecoveryReport;
use crate::pages::select::OpenNote;
use crate::pages::slot::{LogStart, Slot};

/// What a replay has to do.
#[derive(Default)]
struct Work {
    last: Option<RecordHead>,
    records: u64,
    /// Changes of rows.
    changes: u64,
    /// Units of the log that hold the records.
    units: u64,
}

impl Core {
    /// Applies what the log holds beyond the slot. Nobody else uses the database yet.
    pub(crate) fn replay(self: &Arc<Self>) -> Result<(), DatabaseError> {
        let slot = self.durable.lock().slot;
        let work = slot.log.map_or_else(|| Ok(Work::default()), |start| self.verify_log(start))?;
        if let (Some(start), Some(last)) = (slot.log, work.last) {
            self.apply_log(start, last, &work)?;
        }
        self.skip_seen_ids(self.durable.lock().head.id);
        self.is_recovered.store(true, Ordering::Release);
        self.report_opening(&slot, &work);
        Ok(())
    }

    fn report_opening(&self, slot: &Slot, work: &Work) {
        let unit_bytes = u64::from(self.store.layout().unit_bytes());
        let report = RecoveryReport {
            notes: self.notes.clone(),
            checkpoint: slot.transaction,
            transaction: self.durable.lock().head.id,
            records: work.records,
            changes: work.changes,
            log_used_bytes: work.units * unit_bytes,
            log_capacity_bytes: slot
                .log
                .map_or(0, |start| u64::from(start.segment.units.saturating_sub(1)) * unit_bytes),
            duration: self.opening.elapsed(),
        };
        log::debug!("opened at transaction {} in {:?}", report.transaction, report.duration);
        self.store.meter().opened(&report);
        self.recovery.get_or_init(|| report);
    }

    fn apply_log(self: &Arc<Self>, start: LogStart, last: RecordHead, work: &Work) -> Result<(), DatabaseError> {
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
        let mut work = Work::default();
        let mut reader = LogReader::open(&self.store, start)?;
        reader.replay(&slot, |record| {
            let mut record = record.clone();
            while let Some(table) = record.next_table()? {
                let mut changes = Decoder::new(table.changes);
                for _ in 0..table.count {
                    take_change(&mut changes)?;
                }
                changes.finish()?;
                work.changes += u64::from(table.count);
            }
            work.last = Some(record.head);
            work.records += 1;
            Ok(())
        })?;
        work.units = reader.units_read();
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
