//! The commit, told step by step: what a transaction changed is sealed, made durable in one of two ways, and published.
//!
//! Invariant: nobody sees a version before it is durable. A version that only the log tells of is whole in memory until a
//! checkpoint has written it.
//! Layer 5 (txn). Rules: design.md, "Commit".

use super::checkpoint::{self, LogAfter};
use super::core::{Core, Durable, IDS_AHEAD};
use super::durability::Durability;
use super::error::CommitError;
use super::log::record::{self, RecordHead, TableChanges};
use super::write::{Bracket, OpenTransaction, Staged, WriteTransaction};
use crate::base::error::{Result, StorageError};
use crate::base::ids::{TransactionId, TreeRoot};
use crate::base::sync::Arc;
use crate::btree::redo::Redo;
use crate::catalog::roots::Roots;
use crate::pages::behind::Sealed;
use crate::pages::version::Version;
use std::collections::BTreeMap;

/// A record pays where it is shorter than the changed pages by this factor.
const RECORD_GAIN_MIN: usize = 4;

/// A replay may have to make so many changes of rows, and to read a leaf for each.
const REPLAY_CHANGES_MAX: u64 = 1 << 14;

/// A transaction that is complete and ready to be written.
struct Change {
    sealed: Vec<Sealed>,
    data: TreeRoot,
    forward: TreeRoot,
    /// What was done to the rows of each table.
    redo: Vec<(String, Redo)>,
}

/// How a transaction becomes durable.
enum Way {
    /// By a record in the log, with so many changes of rows.
    Record { body: Vec<u8>, changes: u64 },
    /// By a slot, and what becomes of the log then.
    Slot(LogAfter),
    /// Not now: nothing is written, and only this handle shows it.
    Memory,
}

impl WriteTransaction {
    /// Makes the transaction durable and visible, and returns the id of the version that readers see from now on.
    ///
    /// A transaction that changed nothing writes nothing and returns the id of the version that it began on.
    ///
    /// Cost: for a small transaction one write of 4 KiB or little more, which forces itself to the medium; for a large one
    /// a sequential write of all changed pages and a sync, then one small write and a sync. Now and then a small one pays
    /// for what those before it left to be written.
    ///
    /// # Errors
    /// - [`CommitError::Poisoned`], [`CommitError::TableLeaked`], [`CommitError::Aborted`]: nothing was committed; the
    ///   database goes on as if the transaction had never begun.
    /// - [`CommitError::InDoubt`]: a write or sync failed. Readers go on, this handle writes no more, and after
    ///   reopening the transaction is wholly there or wholly absent.
    pub fn commit(mut self) -> Result<TransactionId, CommitError> {
        if self.is_poisoned() {
            return Err(self.take_untold().map_or(CommitError::Poisoned, aborted));
        }
        let OpenTransaction { tables, roots, bracket } = self.open.take().expect("the transaction ends only by value");
        let tables = std::mem::take(&mut *tables.lock());
        if let Some((name, _)) = tables.iter().find(|(_, staged)| matches!(staged, Staged::Open)) {
            return Err(CommitError::TableLeaked(name.clone()));
        }
        let core = Arc::clone(bracket.turn.core());
        let mut durable = core.durable.lock();

        let Some(change) = self.seal(tables, roots.into_value(), &bracket).map_err(aborted)? else {
            return Ok(durable.head.id);
        };
        let version = Version {
            id: self.id,
            commit_time_micros: self.commit_time_micros.unwrap_or_else(|| core.commit_time(&durable)),
            data: change.data,
            forward: change.forward,
        };
        let way = self.choose_way(&core, &durable, &bracket, &change, &version);
        // What records changes keeps the version pinned that the transaction began on.
        drop(change.redo);
        match way {
            Way::Record { body, changes } => {
                let log = durable.log.as_mut().expect("a record was chosen because there is a log");
                log.append(&core.store, &body, 1, changes).map_err(in_doubt)?; // the commit point
                publish(&core, &mut durable, bracket, change.sealed, version);
            }
            Way::Memory => {
                durable.is_log_cut = true;
                publish(&core, &mut durable, bracket, change.sealed, version);
            }
            Way::Slot(log_after) => {
                commit_by_slot(&core, &mut durable, bracket, change.sealed, version, log_after)?;
                core.trim(&mut durable);
            }
        }
        Ok(self.id)
    }

    /// Computes all checksums; `None` where nothing changed.
    fn seal(&self, tables: BTreeMap<String, Staged>, mut roots: Roots, bracket: &Bracket) -> Result<Option<Change>> {
        let (mut sealed, mut redo) = (Vec::new(), Vec::new());
        for (name, table) in tables {
            let Staged::Closed(closed) = table else { continue };
            let (mut record, mut tree) = *closed;
            if tree.is_changed() {
                match tree.take_redo().filter(|redo| redo.count() > 0) {
                    Some(changes) => redo.push((name.clone(), changes)),
                    None => bracket.writer.give_up_log(),
                }
                record.root = tree.seal(&mut sealed).map_err(|error| error.in_table(&name))?;
                roots.put(&name, &record)?;
            }
        }
        if !roots.is_changed() && !self.commit_unchanged {
            return Ok(None);
        }
        let (data, forward) = roots.seal(&mut sealed)?;
        bracket.writer.await_all()?;
        Ok(Some(Change { sealed, data, forward, redo }))
    }

    /// Decides how the transaction becomes durable. A record is worth it where it says much less than the pages, where the
    /// log has room, and where neither memory nor a replay would have to bear too much.
    fn choose_way(&self, core: &Core, durable: &Durable, bracket: &Bracket, change: &Change, version: &Version) -> Way {
        if core.is_read_only() {
            return Way::Memory;
        }
        if self.without_log {
            return Way::Slot(LogAfter::None);
        }
        let page_bytes: usize = change.sealed.iter().map(|sealed| sealed.bytes.len()).sum();
        let fits_memory = core.store.unwritten().bytes() + page_bytes <= core.store.account().unwritten_bytes_max();
        let is_far_ahead = version.id.get() - durable.slot.transaction.get() >= IDS_AHEAD / 2;
        if self.durability == Durability::None && !self.two_phase && fits_memory && !is_far_ahead {
            return Way::Memory;
        }
        if self.two_phase || !bracket.writer.is_loggable() || change.redo.is_empty() {
            return Way::Slot(LogAfter::Kept);
        }
        let head =
            RecordHead { id: version.id, previous: durable.head.id, commit_time_micros: version.commit_time_micros };
        let tables =
            change.redo.iter().map(|(name, redo)| TableChanges { name, count: redo.count(), changes: redo.bytes() });
        let body = record::encode(&head, &tables.collect::<Vec<_>>());
        if body.len() * RECORD_GAIN_MIN > page_bytes {
            return Way::Slot(LogAfter::Kept);
        }
        let changes = change.redo.iter().map(|(_, redo)| u64::from(redo.count())).sum();
        let has_room = durable.log.as_ref().is_some_and(|log| {
            log.has_room(body.len(), core.store.layout().unit_bytes()) && log.changes() + changes <= REPLAY_CHANGES_MAX
        });
        if has_room && fits_memory && !durable.is_log_cut {
            Way::Record { body, changes }
        } else {
            Way::Slot(LogAfter::Begun { record_bytes: body.len() })
        }
    }
}

fn aborted(error: StorageError) -> CommitError {
    CommitError::Aborted(Box::new(error))
}

fn in_doubt(error: StorageError) -> CommitError {
    CommitError::InDoubt(Box::new(error))
}

/// Writes everything that the version needs and a slot that names it, and publishes it.
fn commit_by_slot(
    core: &Core,
    durable: &mut Durable,
    mut bracket: Bracket,
    sealed: Vec<Sealed>,
    version: Version,
    log_after: LogAfter,
) -> Result<(), CommitError> {
    let prepared = checkpoint::prepare(core, durable, &bracket.writer, version, sealed, log_after);
    let prepared = prepared.map_err(aborted)?;
    checkpoint::write(core, &prepared).map_err(in_doubt)?;
    checkpoint::flip(core, durable, &prepared).map_err(in_doubt)?;
    checkpoint::conclude(core, durable, prepared);
    bracket.concluded = true;
    reveal(core, durable, bracket, version);
    Ok(())
}

/// Publishes a version whose pages are only in memory.
fn publish(core: &Core, durable: &mut Durable, mut bracket: Bracket, sealed: Vec<Sealed>, version: Version) {
    core.store.keep_unwritten(sealed);
    core.space.lock().publish();
    bracket.concluded = true;
    durable.head = version;
    reveal(core, durable, bracket, version);
}

/// Lets readers see a version, and hands what it no longer reaches to reclamation.
fn reveal(core: &Core, durable: &mut Durable, bracket: Bracket, version: Version) {
    core.pins.publish(version);
    let dead = bracket.writer.take_dead();
    // The writer pins the version it began on; its turn goes on in the caller's lock on `durable`.
    drop(bracket);
    core.settle(durable, dead);
}
