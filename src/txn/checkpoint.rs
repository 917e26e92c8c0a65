//! A checkpoint: everything that a version needs goes to the storage, and a slot names it.
//!
//! Invariant: everything that a slot names is durable before the slot is written, and the slot and the god byte are durable
//! before anybody relies on them. Until the first write any failure only aborts.
//! Layer 5 (txn). Rules: design.md, "Commit".

use super::core::{Core, Durable};
use super::log::{self, LogWriter, SizeWish};
use crate::base::checksum;
use crate::base::error::{Result, StorageError};
use crate::base::ids::{PageId, Run};
use crate::base::sync::Arc;
use crate::pages::allocator::Frozen;
use crate::pages::behind::Sealed;
use crate::pages::meter::CheckpointBytes;
use crate::pages::slot::{self, Blob, LogSegment, LogStart, Slot};
use crate::pages::store::PageStore;
use crate::pages::unwritten::Content;
use crate::pages::version::{PinSet, Version};
use crate::pages::writer::{Dead, PageWriter};

/// What becomes of the redo log with a new slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LogAfter {
    /// The slot names none: the next small commit writes a slot again.
    None,
    /// It stays if it holds nothing; otherwise there is a new one, unless there was none.
    Kept,
    /// It goes on while the slot is written, so it stays where it is.
    Continued,
    /// There is one with room for records of so many bytes.
    Begun { record_bytes: usize },
}

/// Where the file cannot grow, this share of it must be free before a log is begun.
const FREE_SHARE_FOR_LOG: u64 = 8;

/// Pages of a checkpoint are written so many at once.
const PAGES_AT_ONCE: usize = 512;

/// Everything that a checkpoint is about to write.
#[derive(Debug)]
pub(super) struct Prepared {
    /// Pages of the transaction that is being committed.
    sealed: Vec<Sealed>,
    /// Pages of earlier ones, of which the log told until now.
    unwritten: Vec<(PageId, Arc<Content>)>,
    frozen: Frozen,
    slot: Slot,
    log: Option<LogWriter>,
    /// Runs that the slot before named, and nothing else.
    replaced: Vec<Run>,
    /// A new segment, to be written as it is before its first record.
    segment: Option<LogSegment>,
    reserve: Option<Run>,
    /// Which of the two slots is written.
    index: u8,
    /// What keeps pages in place while others go on.
    pins: Option<PinSet>,
    /// Changes of rows that the log tells before the new slot.
    changes: u64,
}

/// Settles what the new slot names: runs of its own first, then the bitmaps, which count them.
pub(super) fn prepare(
    core: &Core,
    durable: &Durable,
    writer: &PageWriter,
    version: Version,
    sealed: Vec<Sealed>,
    log_after: LogAfter,
) -> Result<Prepared> {
    if core.store.is_poisoned() {
        // A checkpoint that failed left its changes of the space behind.
        return Err(StorageError::Poisoned);
    }
    let (old, layout) = (durable.slot, *core.store.layout());
    let mut replaced = Vec::new();
    if !old.region_table.page.is_none() {
        let units = u32::try_from(layout.units_for_bytes(old.region_table.len_bytes)).unwrap_or(u32::MAX);
        replaced.push(Run::new(old.region_table.page, units));
    }
    let generation = old.generation.checked_add(1);
    let generation = generation.ok_or_else(|| StorageError::corrupted("the counter of generations overflows"))?;
    let (log, run, reserve) = take_places(core, durable, writer, generation, log_after)?;
    let segment = |start: LogStart| start.segment;
    let (old_segment, new_segment) = (old.log.map(segment), log.as_ref().map(LogWriter::start).map(segment));
    replaced.extend(old_segment.filter(|_| old_segment != new_segment).as_ref().map(log::run));
    replaced.iter().try_for_each(|run| writer.retire(*run))?;
    let mut space = core.space.lock();
    let frozen = space.freeze();
    let region_table =
        Blob { page: run.page, len_bytes: frozen.table.len() as u64, digest: checksum::digest(&frozen.table) };
    let slot = Slot {
        generation,
        transaction: version.id,
        commit_time_micros: version.commit_time_micros,
        session: core.session,
        data: version.data,
        forward: version.forward,
        region_table,
        log: log.as_ref().map(LogWriter::start),
        reach_units: space.image_end(&*core.store)?,
        ..old
    };
    drop(space);
    let segment = new_segment.filter(|_| old_segment != new_segment);
    let unwritten = core.store.unwritten().pages();
    let (index, pins, changes) = (1 - durable.index, None, core.queue.log().map_or(0, |log| log.changes()));
    Ok(Prepared { sealed, unwritten, frozen, slot, log, segment, reserve, replaced, index, pins, changes })
}

/// Finds places for what the slot names beside the trees: a log, the region table, and where there is a log a run that
/// keeps room for the table of the slot after it.
fn take_places(
    core: &Core,
    durable: &Durable,
    writer: &PageWriter,
    generation: u64,
    log_after: LogAfter,
) -> Result<(Option<LogWriter>, Run, Option<Run>)> {
    let log = next_log(core, durable, writer, generation, log_after)?;
    let old_segment = durable.slot.log.map(|start| start.segment);
    let is_new = log.as_ref().is_some_and(|log| Some(log.room().segment()) != old_segment);
    // The table comes last: whatever else makes the file grow may make it longer.
    let reserve = match &log {
        Some(_) => take_reserve(core, durable, writer),
        None => Ok(None),
    };
    let taken = reserve.as_ref().map_or(None, |reserve| *reserve);
    let places = reserve.and_then(|reserve| Ok((allocate_table(core, writer)?, reserve)));
    match (places, log) {
        (Ok((table, reserve)), log) => Ok((log, table, reserve)),
        // There may be room for all the rest: without a log small commits are slow, and that is all.
        (Err(error), Some(log)) if error.is_out_of_space() && is_new => {
            writer.free(log::run(&log.room().segment()), writer.birth())?;
            Ok((None, allocate_table(core, writer)?, taken))
        }
        (Err(error), _) => Err(error),
    }
}

/// A run that keeps room for the region table of the slot after this one. It is free in the bitmaps on disk: only memory
/// knows what it is for.
fn take_reserve(core: &Core, durable: &Durable, writer: &PageWriter) -> Result<Option<Run>> {
    let units = core.space.lock().table_units();
    match writer.allocate(units) {
        Ok(reserve) => writer.retire(reserve).map(|()| Some(reserve)),
        Err(error) if error.is_out_of_space() && durable.reserve.is_some() => Ok(durable.reserve),
        Err(error) => Err(error),
    }
}

/// The log that goes on from the new slot: the one before, unless it was too short or keeps the file long.
fn next_log(
    core: &Core,
    durable: &Durable,
    writer: &PageWriter,
    generation: u64,
    log_after: LogAfter,
) -> Result<Option<LogWriter>> {
    let (layout, old) = (core.store.layout(), core.queue.writer());
    let (is_wanted, record_bytes) = match log_after {
        LogAfter::None => (false, 0),
        LogAfter::Kept => (old.is_some(), 0),
        LogAfter::Continued => return Ok(old),
        LogAfter::Begun { record_bytes } => (true, record_bytes),
    };
    if !is_wanted || (old.is_none() && !has_room_for_log(core)) {
        return Ok(None);
    }
    // Drawn for one segment alone, as far as the session's random number is.
    let nonce_for =
        |run: Run| checksum::wide(&[&core.session, &generation.to_le_bytes(), &run.page.get().to_le_bytes()]);
    let begun = |run: Run| {
        let segment = LogSegment { page: run.page, units: run.units, nonce: nonce_for(run) };
        LogWriter::new(segment, layout.unit_bytes())
    };
    let was_short = core.queue.log().is_some_and(|log| record_bytes > 0 && !log.has_room(record_bytes));
    let wish = SizeWish {
        last_units: old.as_ref().map_or(0, |old| old.room().segment().units),
        record_bytes: if was_short || old.is_none() { record_bytes as u64 } else { 0 },
        file_units: core.store.end_units(),
        bytes_max: core.log_bytes_max,
    };
    let units = log::segment_units(layout, &wish);
    // Where it may not be longer, the next one would be no better.
    if let Some(old) = old.filter(|old| old.room().segment().units >= units) {
        let segment = old.room().segment();
        let is_high = log::run(&segment).end() >= durable.slot.reach_units;
        let lower = if is_high { writer.allocate_below(segment.units, segment.page.get())? } else { None };
        return Ok(Some(lower.map_or(old, begun)));
    }
    match writer.allocate(units) {
        // On a full device removals come first, here as well.
        Ok(run) => match writer.make_room() {
            Ok(()) => Ok(Some(begun(run))),
            Err(error) if error.is_out_of_space() => writer.free(run, writer.birth()).map(|()| None),
            Err(error) => Err(error),
        },
        // There may be room for all the rest: without a log small commits are slow, and that is all.
        Err(error) if error.is_out_of_space() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a log would leave enough to those who may need it more: on a full device removals come first.
fn has_room_for_log(core: &Core) -> bool {
    let end = core.store.end_units();
    !core.store.is_cramped() || end - core.space.lock().count_allocated().min(end) > end / FREE_SHARE_FOR_LOG
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

/// First phase: writes everything that the slot names, in the order of addresses, and makes it durable. `writers` says by how
/// many threads at most, again and again.
pub(super) fn write(store: &PageStore, prepared: &Prepared, writers: &dyn Fn() -> usize) -> Result<()> {
    let mut pages: Vec<_> = prepared.sealed.iter().map(|sealed| (sealed.page, &sealed.bytes[..])).collect();
    pages.extend(prepared.unwritten.iter().map(|(page, content)| (*page, content.bytes())));
    pages.extend(prepared.frozen.bitmaps.iter().map(|(run, bytes)| (run.page, &bytes[..])));
    let blank = prepared.segment.map(|segment| log::blank(&segment, store.layout()));
    pages.extend(blank.iter().flat_map(|blank| blank.pages()));
    pages.push((prepared.slot.region_table.page, &prepared.frozen.table));
    pages.sort_unstable_by_key(|(page, _)| *page);
    for pages in pages.chunks(PAGES_AT_ONCE) {
        store.write_sorted(pages, writers())?;
    }
    count(store, prepared);
    store.sync()
}

/// Says what the bytes that were written are for.
fn count(store: &PageStore, prepared: &Prepared) {
    let table = store.padded(prepared.frozen.table.len());
    store.meter().checkpoint_written(&CheckpointBytes {
        direct_pages: prepared.sealed.iter().map(|sealed| store.padded(sealed.bytes.len())).sum(),
        checkpoint_pages: prepared.unwritten.iter().map(|(_, content)| store.padded(content.bytes().len())).sum(),
        space: prepared.frozen.bitmaps.iter().map(|(_, bytes)| store.padded(bytes.len())).sum::<u64>() + table,
        log_padding: prepared.segment.map_or(0, |it| u64::from(it.units) * u64::from(store.layout().unit_bytes())),
    });
}

/// Second phase: the slot that is not in use and the god byte, durable together. This is the commit point.
pub(super) fn flip(store: &PageStore, prepared: &Prepared) -> Result<()> {
    store.flip(prepared.index, &slot::encode(&prepared.slot, store.format()))
}

/// Takes over what is durable now, and closes the bracket of the space if it was frozen in it. The caller publishes the
/// version.
pub(super) fn conclude(core: &Core, durable: &mut Durable, mut prepared: Prepared) {
    core.store.install_sealed(&prepared.sealed);
    core.store.unwritten().written(&prepared.unwritten);
    core.space.lock().commit();
    durable.unneeded.append(&mut prepared.replaced);
    durable.unneeded.extend(durable.reserve.filter(|run| prepared.reserve != Some(*run)));
    durable.reserve = prepared.reserve;
    durable.other_reach_units = durable.slot.reach_units;
    durable.slot = prepared.slot;
    core.store.meter().slot_serves(durable.slot.transaction);
    durable.index = prepared.index;
    match (&prepared.pins, prepared.slot.log) {
        (None, _) => core.queue.set_log(prepared.log),
        (Some(_), Some(start)) => core.queue.let_go_before(&start, prepared.changes),
        (Some(_), None) => {}
    }
}

impl Core {
    /// Hands what a version no longer reaches to reclamation, and makes allocatable what nobody needs any more.
    pub(super) fn settle(&self, durable: &mut Durable, dead: Vec<Dead>) {
        let needed = durable.needed(&self.pins);
        let mut free = durable.reclaim.settle(dead, &needed);
        free.extend(durable.reclaim.sweep(&needed));
        free.append(&mut durable.unneeded);
        self.release(free);
    }

    /// Begins a checkpoint of the newest version, which goes on beside the transactions that follow. The space is in no
    /// transaction's bracket.
    pub(super) fn begin_checkpoint(&self, durable: &mut Durable) -> Result<()> {
        if !self.queue.drain_untold() {
            return Ok(());
        }
        let pins = self.pins.pin_held();
        // Pages that nothing pins any more must not be among those that are written: their runs could be handed out, and
        // written early by another transaction, meanwhile.
        self.sweep(durable);
        let (_, mut prepared) = self.freeze_head(durable, LogAfter::Continued)?;
        self.space.lock().publish();
        prepared.pins = Some(pins);
        self.store.meter().checkpoint_begun(prepared.slot.transaction);
        self.checkpointer.begin(prepared);
        Ok(())
    }

    /// Settles what a slot of the newest version names, in a bracket of the space that is left open.
    fn freeze_head(&self, durable: &Durable, log_after: LogAfter) -> Result<(PageWriter, Prepared)> {
        let version = durable.head;
        let base = self.pins.pin(version);
        self.space.lock().begin();
        let writer = PageWriter::new(Arc::clone(&self.store), Arc::clone(&self.space), base, version.id);
        let prepared = prepare(self, durable, &writer, version, Vec::new(), log_after);
        let prepared = prepared.inspect_err(|_| writer.rollback())?;
        Ok((writer, prepared))
    }

    /// Takes over a checkpoint that ended beside the transactions. Of one that failed the first to ask learns why.
    pub(super) fn take_over_checkpoint(&self, durable: &mut Durable) -> Result<()> {
        let Some(done) = self.checkpointer.take_done() else { return Ok(()) };
        done.outcome.inspect_err(|error| ::log::error!("a checkpoint failed: {error}"))?;
        conclude(self, durable, *done.prepared.expect("what succeeded is there"));
        Ok(())
    }

    /// Waits until no commit is queued, and no checkpoint goes on beside the transactions.
    pub(super) fn come_to_rest(&self, durable: &mut Durable) -> Result<()> {
        self.queue.drain()?;
        self.finish_checkpoint(durable)
    }

    /// Waits for a checkpoint that goes on beside the transactions.
    pub(super) fn finish_checkpoint(&self, durable: &mut Durable) -> Result<()> {
        self.checkpointer.await_end();
        self.take_over_checkpoint(durable)
    }

    /// Where the file could not grow: a checkpoint without a log gives back what the log and only the last one keep. The
    /// writer's turn is taken and no transaction runs.
    pub(super) fn relieve(&self, durable: &mut Durable) {
        let is_complete = durable.slot.log.is_none() && durable.head.id == durable.slot.transaction;
        if !self.store.is_full() || is_complete {
            return;
        }
        match self.checkpoint(durable, LogAfter::None) {
            // What was given back may do for long; whether it does, the next growth tells.
            Ok(()) => self.store.forget_full(),
            Err(error) => ::log::warn!("no space could be given back by a checkpoint: {error}"),
        }
    }

    /// Brings the newest version to the storage, under a slot of its own. Takes the room for it from the reserve. The
    /// writer's turn is taken and no transaction runs, or nobody else uses the database.
    pub(super) fn checkpoint(&self, durable: &mut Durable, log_after: LogAfter) -> Result<()> {
        self.come_to_rest(durable)?;
        let reserve = durable.reserve.take();
        self.release(reserve.into_iter().collect());
        let (writer, prepared) = self.freeze_head(durable, log_after)?;
        self.store.meter().checkpoint_begun(prepared.slot.transaction);
        let written = write(&self.store, &prepared, &|| usize::MAX).and_then(|()| flip(&self.store, &prepared));
        self.store.meter().checkpoint_ended(written.as_ref().err());
        written.inspect_err(|_| writer.rollback())?;
        conclude(self, durable, prepared);
        drop(writer);
        self.settle(durable, Vec::new());
        Ok(())
    }
}
