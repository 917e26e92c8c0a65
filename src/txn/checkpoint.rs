//! A checkpoint: everything that a version needs goes to the storage, and a slot names it.
//!
//! Invariant: everything that a slot names is durable before the slot is written, and the slot and the god byte are durable
//! before anybody relies on them. Until the first write any failure only aborts.
//! Layer 5 (txn). Rules: design.md, "Commit".

use super::core::{Core, Durable};
use super::log::{self, LogRoom, LogWriter, SizeWish};
use crate::base::checksum;
use crate::base::error::{Result, StorageError};
use crate::base::ids::{PageId, Run};
use crate::base::sync::Arc;
use crate::pages::allocator::Frozen;
use crate::pages::behind::Sealed;
use crate::pages::slot::{self, Blob, LogSegment, Slot};
use crate::pages::unwritten::Content;
use crate::pages::version::Version;
use crate::pages::writer::{Dead, PageWriter};

/// What becomes of the redo log with a new slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LogAfter {
    /// The slot names none: the next small commit writes a slot again.
    None,
    /// It stays if it holds nothing; otherwise there is a new one, unless there was none.
    Kept,
    /// There is one with room for records of so many bytes.
    Begun { record_bytes: usize },
}

/// Everything that a checkpoint is about to write.
pub(super) struct Prepared {
    version: Version,
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
    let (old, layout) = (durable.slot, *core.store.layout());
    let mut replaced = Vec::new();
    if !old.region_table.page.is_none() {
        let units = u32::try_from(layout.units_for_bytes(old.region_table.len_bytes)).unwrap_or(u32::MAX);
        replaced.push(Run::new(old.region_table.page, units));
    }
    let generation = old.generation.checked_add(1);
    let generation = generation.ok_or_else(|| StorageError::corrupted("the counter of generations overflows"))?;
    let (log, run, reserve) = take_places(core, durable, writer, generation, log_after)?;
    let old_log = old.log.filter(|old| log.as_ref().is_none_or(|log| log.segment() != *old));
    replaced.extend(old_log.as_ref().map(log::run));
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
        log: log.as_ref().map(LogWriter::segment),
        reach_units: space.image_end(&*core.store)?,
        ..old
    };
    drop(space);
    let is_new = slot.log != old.log;
    let segment = slot.log.filter(|_| is_new);
    let unwritten = core.store.unwritten().pages();
    Ok(Prepared { version, sealed, unwritten, frozen, slot, log, segment, reserve, replaced })
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
    let is_new = log.as_ref().is_some_and(|log| Some(log.segment()) != durable.slot.log);
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
            writer.free(log::run(&log.segment()), writer.birth())?;
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

/// The log that goes on from the new slot.
fn next_log(
    core: &Core,
    durable: &Durable,
    writer: &PageWriter,
    generation: u64,
    log_after: LogAfter,
) -> Result<Option<LogWriter>> {
    let (layout, old) = (core.store.layout(), core.queue.log());
    let (is_wanted, record_bytes) = match log_after {
        LogAfter::None => (false, 0),
        LogAfter::Kept => (old.is_some(), 0),
        LogAfter::Begun { record_bytes } => (true, record_bytes),
    };
    let unit_bytes = layout.unit_bytes();
    // Drawn for one segment alone, as far as the session's random number is.
    let nonce_for =
        |run: Run| checksum::wide(&[&core.session, &generation.to_le_bytes(), &run.page.get().to_le_bytes()]);
    let has_room = |log: &LogRoom| log.is_empty() && log.has_room(record_bytes);
    if let Some(empty) = old.as_ref().filter(|log| is_wanted && has_room(log)) {
        return keep_low(durable, writer, empty, &nonce_for).map(Some);
    }
    if !is_wanted {
        return Ok(None);
    }
    let last_units = old.map_or(0, |log| {
        let was_short = record_bytes > 0 && !log.has_room(record_bytes);
        if was_short { log.segment().units } else { log.units_used() }
    });
    let wish = SizeWish {
        last_units,
        record_bytes: record_bytes as u64,
        file_units: core.store.end_units(),
        bytes_max: core.log_bytes_max,
    };
    let units = log::segment_units(layout, &wish);
    // Where it may not be longer, the next one would be no better.
    if let Some(empty) = old.as_ref().filter(|log| log.is_empty() && log.segment().units >= units) {
        return keep_low(durable, writer, empty, &nonce_for).map(Some);
    }
    let run = match writer.allocate(units) {
        Ok(run) => run,
        // There may be room for all the rest: without a log small commits are slow, and that is all.
        Err(error) if error.is_out_of_space() => return Ok(None),
        Err(error) => return Err(error),
    };
    let segment = LogSegment { page: run.page, units: run.units, nonce: nonce_for(run) };
    Ok(Some(LogWriter::new(segment, unit_bytes)))
}

/// A log without records goes on where it is, unless it is all that keeps the file long and finds a lower place.
fn keep_low(
    durable: &Durable,
    writer: &PageWriter,
    empty: &LogRoom,
    nonce_for: &dyn Fn(Run) -> [u8; 16],
) -> Result<LogWriter> {
    let mut segment = empty.segment();
    if log::run(&segment).end() >= durable.slot.reach_units
        && let Some(run) = writer.allocate_below(segment.units, segment.page.get())?
    {
        segment = LogSegment { page: run.page, units: run.units, nonce: nonce_for(run) };
    }
    Ok(LogWriter::new(segment, writer.layout().unit_bytes()))
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
pub(super) fn write(core: &Core, prepared: &Prepared) -> Result<()> {
    let mut pages: Vec<_> = prepared.sealed.iter().map(|sealed| (sealed.page, &sealed.bytes[..])).collect();
    pages.extend(prepared.unwritten.iter().map(|(page, content)| (*page, content.bytes())));
    pages.extend(prepared.frozen.bitmaps.iter().map(|(run, bytes)| (run.page, &bytes[..])));
    let blank = prepared.segment.map(|segment| log::blank(&segment, core.store.layout()));
    pages.extend(blank.iter().flat_map(|blank| blank.pages()));
    pages.push((prepared.slot.region_table.page, &prepared.frozen.table));
    core.store.write_pages(&mut pages)?;
    core.store.sync()
}

/// Second phase: the slot that is not in use and the god byte, durable together. This is the commit point.
pub(super) fn flip(core: &Core, durable: &Durable, prepared: &Prepared) -> Result<()> {
    core.store.flip(1 - durable.index, &slot::encode(&prepared.slot, core.store.format()))
}

/// Takes over what is durable now, and closes the bracket of the space. The caller publishes the version.
pub(super) fn conclude(core: &Core, durable: &mut Durable, prepared: Prepared) {
    core.store.install_sealed(&prepared.sealed);
    core.store.unwritten().written(&prepared.unwritten);
    core.space.lock().commit();
    core.release(prepared.replaced);
    let unused = durable.reserve.filter(|run| prepared.reserve != Some(*run));
    core.release(unused.into_iter().collect());
    durable.reserve = prepared.reserve;
    durable.other_reach_units = durable.slot.reach_units;
    durable.slot = prepared.slot;
    durable.index = 1 - durable.index;
    durable.head = prepared.version;
    durable.is_log_cut = false;
    core.queue.set_log(prepared.log);
}

impl Core {
    /// Hands what a version no longer reaches to reclamation, and makes allocatable what nobody needs any more.
    pub(super) fn settle(&self, durable: &mut Durable, dead: Vec<Dead>) {
        let needed = durable.needed(&self.pins);
        let mut free = durable.reclaim.settle(dead, &needed);
        free.extend(durable.reclaim.sweep(&needed));
        self.release(free);
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
        self.queue.drain()?;
        let reserve = durable.reserve.take();
        self.release(reserve.into_iter().collect());
        let version = durable.head;
        let base = self.pins.pin(version);
        self.space.lock().begin();
        let writer = PageWriter::new(Arc::clone(&self.store), Arc::clone(&self.space), base, version.id);
        let done = prepare(self, durable, &writer, version, Vec::new(), log_after).and_then(|prepared| {
            write(self, &prepared)?;
            flip(self, durable, &prepared)?;
            Ok(prepared)
        });
        let prepared = done.inspect_err(|_| writer.rollback())?;
        conclude(self, durable, prepared);
        drop(writer);
        self.settle(durable, Vec::new());
        Ok(())
    }
}
