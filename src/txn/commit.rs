//! The commit: an inline checkpoint in two phases, told step by step.
//!
//! Invariant: everything that a slot names is durable before the slot is written; the slot and the god byte are
//! durable before anybody sees the version. Until the first write any failure only aborts.
//! Layer 5 (txn). Rules: design.md, "Commit".

use super::core::{Core, Durable};
use super::error::CommitError;
use super::write::{Bracket, OpenTransaction, Staged, WriteTransaction};
use crate::base::checksum;
use crate::base::error::{Result, StorageError};
use crate::base::ids::{Run, TransactionId, TreeRoot};
use crate::base::sync::Arc;
use crate::pages::allocator::Frozen;
use crate::pages::behind::Sealed;
use crate::pages::slot::{self, Blob, Slot};
use crate::pages::version::Version;
use crate::pages::writer::PageWriter;

/// Everything that the commit is about to write.
struct Prepared {
    sealed: Vec<Sealed>,
    frozen: Frozen,
    slot: Slot,
}

impl WriteTransaction {
    /// Makes the transaction durable and visible, and returns the id of the version that readers see from now on.
    ///
    /// A transaction that changed nothing writes nothing and returns the id of the version that it began on.
    ///
    /// Cost: one sequential write of all changed pages and a sync, then one small write and a sync.
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

        let mut sealed = Vec::new();
        let mut roots = roots.into_value();
        let staged = (|| {
            for (name, table) in tables {
                let Staged::Closed(closed) = table else { continue };
                let (mut record, tree) = *closed;
                if tree.is_changed() {
                    record.root = tree.seal(&mut sealed).map_err(|error| error.in_table(&name))?;
                    roots.put(&name, &record)?;
                }
            }
            if !roots.is_changed() && !self.commit_unchanged {
                return Ok(None);
            }
            roots.seal(&mut sealed).map(Some)
        })();
        let Some((data, forward)) = staged.map_err(aborted)? else {
            return Ok(durable.slot.transaction);
        };
        bracket.writer.await_all().map_err(aborted)?;
        let prepared = freeze(&core, &durable, &bracket.writer, sealed, data, forward);
        let prepared = prepared.map_err(aborted)?;

        write(&core, &prepared).map_err(in_doubt)?;
        flip(&core, &durable, &prepared.slot).map_err(in_doubt)?;
        publish(&core, &mut durable, bracket, &prepared);
        core.trim(&mut durable);
        Ok(self.id)
    }
}

fn aborted(error: StorageError) -> CommitError {
    CommitError::Aborted(Box::new(error))
}

fn in_doubt(error: StorageError) -> CommitError {
    CommitError::InDoubt(Box::new(error))
}

/// Settles what the new slot names: the region table's own run first, then the bitmaps, which count it.
fn freeze(
    core: &Core,
    durable: &Durable,
    writer: &PageWriter,
    sealed: Vec<Sealed>,
    data: TreeRoot,
    forward: TreeRoot,
) -> Result<Prepared> {
    let old = durable.slot.region_table;
    if !old.page.is_none() {
        let units = u32::try_from(core.store.layout().units_for_bytes(old.len_bytes)).unwrap_or(u32::MAX);
        writer.free(Run::new(old.page, units), durable.slot.transaction)?;
    }
    let generation = durable.slot.generation.checked_add(1);
    let generation = generation.ok_or_else(|| StorageError::corrupted("the counter of generations overflows"))?;
    let run = allocate_table(core, writer)?;
    let mut space = core.space.lock();
    let frozen = space.freeze();
    let region_table =
        Blob { page: run.page, len_bytes: frozen.table.len() as u64, digest: checksum::digest(&frozen.table) };
    let slot = Slot {
        generation,
        transaction: writer.birth(),
        commit_time_micros: core.clock.now_micros().max(durable.slot.commit_time_micros.saturating_add(1)),
        session: core.session,
        data,
        forward,
        region_table,
        reach_units: space.image_end(&*core.store)?,
        ..durable.slot
    };
    Ok(Prepared { sealed, frozen, slot })
}

/// A run for the region table. Growing the file for it may add a region and with it an entry.
fn allocate_table(core: &Core, writer: &PageWriter) -> Result<Run> {
    loop {
        let units = core.space.lock().table_units();
        let run = writer.allocate(units)?;
        if core.space.lock().table_units() == units {
            return Ok(run);
        }
        writer.free(run, writer.birth())?;
    }
}

/// First phase: writes everything that the slot names, in the order of addresses, and makes it durable.
fn write(core: &Core, prepared: &Prepared) -> Result<()> {
    let mut pages: Vec<_> = prepared.sealed.iter().map(|sealed| (sealed.page, &sealed.bytes[..])).collect();
    pages.extend(prepared.frozen.bitmaps.iter().map(|(run, bytes)| (run.page, &bytes[..])));
    pages.push((prepared.slot.region_table.page, &prepared.frozen.table));
    core.store.write_pages(&mut pages)?;
    core.store.sync()
}

/// Second phase: the slot that is not in use and the god byte, durable together. This is the commit point.
fn flip(core: &Core, durable: &Durable, slot: &Slot) -> Result<()> {
    core.store.flip(1 - durable.index, &slot::encode(slot, core.store.format()))
}

/// Lets readers see the version, and hands what it no longer reaches to reclamation.
fn publish(core: &Core, durable: &mut Durable, mut bracket: Bracket, prepared: &Prepared) {
    let slot = prepared.slot;
    core.store.install_sealed(&prepared.sealed);
    core.space.lock().commit();
    bracket.concluded = true;
    durable.other_reach_units = durable.slot.reach_units;
    durable.slot = slot;
    durable.index = 1 - durable.index;
    core.pins.publish(Version {
        id: slot.transaction,
        commit_time_micros: slot.commit_time_micros,
        data: slot.data,
        forward: slot.forward,
    });
    let dead = bracket.writer.take_dead();
    // The writer pins the version it began on; its turn goes on in the caller's lock on `durable`.
    drop(bracket);
    let pinned = core.pins.held();
    let mut free = durable.reclaim.settle(dead, &pinned);
    free.extend(durable.reclaim.sweep(&pinned));
    core.release(free);
}
