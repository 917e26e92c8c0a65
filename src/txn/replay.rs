//! Recovery of what the log tells: its records are laid over the trees of the slot, transaction by transaction.
//!
//! Invariant: the whole log is verified before anything of it is shown. Nothing is written: a crash on the way leaves slot and
//! log as they were, and the log goes on behind its last record.
//! Layer 5 (txn). Rules: design.md, "Opening".

use super::checkpoint::LogAfter;
use super::commit::REPLAY_CHANGES_MAX;
use super::core::{Core, Durable};
use super::error::DatabaseError;
use super::log::record::Record;
use super::log::{LogReader, Served};
use crate::base::codec::Decoder;
use crate::base::error::{Result, StorageError};
use crate::base::ids::TransactionId;
use crate::base::sync::Arc;
use crate::base::sync::atomic::Ordering;
use crate::btree::insert::check_sizes;
use crate::btree::redo::take_change;
use crate::btree::tree::SnapshotPages;
use crate::catalog::roots;
use crate::delta::layers::TableDelta;
use crate::pages::layout::Layout;
use crate::pages::observer::RecoveryReport;
use crate::pages::select::OpenNote;
use crate::pages::slot::{LogStart, Slot};
use crate::pages::version::Version;
use std::collections::HashMap;

/// How much was read of a log.
#[derive(Debug, Default)]
struct Read {
    records: u64,
    changes: u64,
    units: u64,
}

/// A table that records name.
struct Replayed {
    id: u64,
    /// The tree holds what this transaction and those before it did.
    folded: TransactionId,
    delta: TableDelta,
}

/// What records come to.
struct Replay<'c> {
    layout: &'c Layout,
    pages: SnapshotPages,
    slot: TransactionId,
    /// By name; nothing where the table is gone.
    tables: HashMap<String, Option<Replayed>>,
    version: Version,
    records: u64,
    changes: u64,
    changes_max: u64,
}

impl Core {
    /// Lays what the log holds over the version of the slot. Nobody else uses the database yet.
    pub(crate) fn replay(self: &Arc<Self>) -> Result<(), DatabaseError> {
        let mut durable = self.durable.lock();
        let start = durable.slot.log;
        let is_older = self.notes.iter().any(|note| matches!(note, OpenNote::ServedOlderSlot { .. }));
        let slot = durable.slot;
        let read = start.map_or(Ok(Read::default()), |start| self.read_log(&mut durable, start, is_older))?;
        self.skip_seen_ids(durable.head.id);
        self.is_recovered.store(true, Ordering::Release);
        if !self.is_read_only() {
            self.leave_older_log(&mut durable)?;
        }
        self.report_opening(&slot, durable.head.id, &read);
        Ok(())
    }

    /// Where the older slot serves, behind the last record of its log may stand such as were made on what only the damaged slot
    /// told: that log is not gone on with.
    pub(super) fn leave_older_log(&self, durable: &mut Durable) -> Result<()> {
        let is_older = self.notes.iter().any(|note| matches!(note, OpenNote::ServedOlderSlot { .. }));
        if is_older && durable.slot.log.is_some() { self.checkpoint(durable, LogAfter::None) } else { Ok(()) }
    }

    fn report_opening(&self, slot: &Slot, transaction: TransactionId, read: &Read) {
        let unit_bytes = u64::from(self.store.layout().unit_bytes());
        let report = RecoveryReport {
            notes: self.notes.clone(),
            checkpoint: slot.transaction,
            transaction,
            records: read.records,
            changes: read.changes,
            log_used_bytes: read.units * unit_bytes,
            log_capacity_bytes: slot
                .log
                .map_or(0, |start| u64::from(start.segment.units.saturating_sub(1)) * unit_bytes),
            duration: self.opening.elapsed(),
        };
        log::debug!("opened at transaction {} in {:?}", report.transaction, report.duration);
        self.store.meter().opened(&report);
        self.recovery.get_or_init(|| report);
    }

    fn read_log(&self, durable: &mut Durable, start: LogStart, is_older: bool) -> Result<Read> {
        let pages = SnapshotPages::new(Arc::clone(&self.store), self.pins.pin(durable.head.clone()));
        let (version, slot) = (durable.head.clone(), durable.slot.transaction);
        let layout = self.store.layout();
        // Behind the place that the damaged slot named there may be as many changes as before it.
        let changes_max = if is_older { 2 * REPLAY_CHANGES_MAX } else { REPLAY_CHANGES_MAX };
        let tables = HashMap::new();
        let mut replay = Replay { layout, pages, slot, tables, version, records: 0, changes: 0, changes_max };
        let served = Served { transaction: slot, is_older };
        let mut reader = LogReader::open(&self.store, start)?;
        let (writer, room) = reader.replay(&served, |record| replay.apply(record))?;
        let Replay { tables, mut version, records, changes, .. } = replay;
        for table in tables.into_values().flatten() {
            version.delta.active.set_table(table.id, table.delta.active);
        }
        if records > 0 {
            log::warn!("opening: {records} commits are recovered from the log, the last is {}", version.id);
        }
        let is_newer = version.id > durable.head.id;
        durable.set_head(version.clone());
        if is_newer {
            self.queue.publish(version);
        } else {
            // All that the log holds came before the slot.
            self.queue.lay_out(|published| published.delta = version.delta.clone());
        }
        self.queue.resume_log(writer, room.with_changes(changes));
        Ok(Read { records, changes, units: reader.units_read() })
    }
}

impl Replay<'_> {
    /// Makes the changes of one record.
    fn apply(&mut self, record: &Record<'_>) -> Result<()> {
        let (mut record, head) = (record.clone(), record.head);
        while let Some(part) = record.next_table()? {
            self.changes += u64::from(part.count);
            if self.changes > self.changes_max {
                let reason = format!("the log holds more than the {} changes that one may hold", self.changes_max);
                return Err(StorageError::corrupted(reason));
            }
            let found = match self.tables.get_mut(part.name) {
                Some(found) => found,
                None => {
                    let found = self.find(part.name)?;
                    self.tables.entry(part.name.to_owned()).or_insert(found)
                }
            };
            let table = match found {
                Some(table) if head.id > table.folded => Some(table),
                None if head.id > self.slot => {
                    let reason = format!("the log names a table {:?} that is not there", part.name);
                    return Err(StorageError::corrupted(reason));
                }
                _ => None,
            };
            let delta = table.map(|table| &mut table.delta);
            lay_over(delta, self.layout, part.changes, part.count).map_err(|error| error.in_table(part.name))?;
        }
        if head.id > self.version.id {
            (self.version.id, self.version.commit_time_micros) = (head.id, head.commit_time_micros);
        }
        self.records += 1;
        Ok(())
    }

    fn find(&self, name: &str) -> Result<Option<Replayed>> {
        let record = roots::find(&self.pages, &self.pages.version().trees.data, name)?;
        Ok(record.map(|record| Replayed { id: record.id, folded: record.folded, delta: TableDelta::default() }))
    }
}

/// Lays changes over a table, or only verifies them.
fn lay_over(mut delta: Option<&mut TableDelta>, layout: &Layout, changes: &[u8], count: u32) -> Result<()> {
    let mut changes = Decoder::new(changes);
    for _ in 0..count {
        let (key, value) = take_change(&mut changes)?;
        check_sizes(layout, key, value.unwrap_or_default())?;
        if let Some(delta) = &mut delta {
            delta.put(key, value, None);
        }
    }
    Ok(changes.finish()?)
}
