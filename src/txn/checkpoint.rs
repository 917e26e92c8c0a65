//! Checkpoints: what is laid over the trees becomes part of them, and a slot names them.
//!
//! Invariant: everything that a slot names is durable before the slot is, and the slot is the commit point. Until then nothing
//! of the older slot is touched. What is laid over trees stays there until the slot is durable that names others.
//! Layer 5 (txn). Rules: design.md, "Commit".

use super::core::{Core, Durable};
use super::log::{self, LogWriter, SizeWish};
use super::room::FoldingRoom;
use super::staged;
use crate::base::checksum;
use crate::base::error::{Result, StorageError};
use crate::base::ids::{Run, TransactionId};
use crate::base::sync::Arc;
use crate::btree::tree::TreeMut;
use crate::catalog::roots::Roots;
use crate::delta::layers::{Delta, Layer};
use crate::pages::allocator::Frozen;
use crate::pages::behind::Sealed;
use crate::pages::meter::SlotBytes;
use crate::pages::slot::{self, Blob, LogSegment, LogStart, Slot};
use crate::pages::store::PageStore;
use crate::pages::version::{Trees, Version};
use crate::pages::writer::{Dead, PageWriter, Space};

/// What becomes of the log under a new slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LogAfter {
    /// The slot names none: the next small commit writes a slot again.
    None,
    /// It stays where it is.
    Kept,
    /// There is one, with room for records of so many bytes if the one before was too short for them.
    Begun { record_bytes: usize },
}

/// The log that a slot names.
#[derive(Debug)]
pub(super) enum LogPlan {
    None,
    /// From the same place on as before: older records are still needed.
    Unchanged(LogStart),
    /// From a later place on, with so many changes before it.
    Advanced(LogStart, u64),
    New(LogWriter),
}

impl LogPlan {
    fn start(&self) -> Option<LogStart> {
        match self {
            Self::None => None,
            Self::Unchanged(start) | Self::Advanced(start, _) => Some(*start),
            Self::New(writer) => Some(writer.start()),
        }
    }
}

/// Where the file cannot grow, this share of it must be free before a log is begun.
const FREE_SHARE_FOR_LOG: u64 = 8;

/// Pages of a checkpoint are written so many at once.
const PAGES_AT_ONCE: usize = 512;

/// What a new slot follows on.
#[derive(Debug)]
pub(super) struct Before {
    store: Arc<PageStore>,
    space: Arc<Space>,
    session: [u8; 16],
    slot: Slot,
    /// Index of the slot.
    index: u8,
    reserve: Option<Run>,
}

impl Before {
    pub(super) fn new(core: &Core, durable: &Durable) -> Self {
        Self {
            store: Arc::clone(&core.store),
            space: Arc::clone(&core.space),
            session: core.session,
            slot: durable.slot,
            index: durable.index,
            reserve: durable.reserve,
        }
    }

    fn generation(&self) -> Result<u64> {
        let generation = self.slot.generation.checked_add(1);
        generation.ok_or_else(|| StorageError::corrupted("the counter of generations overflows"))
    }
}

/// The trees of a version, and when it was committed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Named {
    pub(super) id: TransactionId,
    pub(super) commit_time_micros: u64,
    pub(super) trees: Trees,
}

/// Everything that a checkpoint is about to write.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) trees: Trees,
    /// Pages that were not written early.
    sealed: Vec<Sealed>,
    frozen: Frozen,
    slot: Slot,
    log: LogPlan,
    /// Runs that the slot before named, and nothing else.
    replaced: Vec<Run>,
    /// A new segment, to be written as it is before its first record.
    segment: Option<LogSegment>,
    reserve: Option<Run>,
    /// Which of the two slots is written.
    index: u8,
}

/// Settles what the new slot names: runs of its own first, then the bitmaps, which count them.
pub(super) fn prepare(
    before: &Before,
    writer: &PageWriter,
    named: &Named,
    sealed: Vec<Sealed>,
    mut log: LogPlan,
) -> Result<Prepared> {
    let (old, layout) = (before.slot, *before.store.layout());
    let mut replaced = Vec::new();
    if !old.region_table.page.is_none() {
        let units = u32::try_from(layout.units_for_bytes(old.region_table.len_bytes)).unwrap_or(u32::MAX);
        replaced.push(Run::new(old.region_table.page, units));
    }
    let generation = before.generation()?;
    let (mut run, reserve) = take_places(before, writer, &mut log)?;
    let segment = |start: LogStart| start.segment;
    let (old_segment, new_segment) = (old.log.map(segment), log.start().map(segment));
    replaced.extend(old_segment.filter(|_| old_segment != new_segment).as_ref().map(log::run));
    replaced.iter().try_for_each(|run| writer.retire(*run))?;
    let mut space = loop {
        let space = before.space.lock();
        if space.table_units() == run.units {
            break space;
        }
        // A commit beside a checkpoint may have made the file longer meanwhile.
        drop(space);
        writer.free(run, writer.birth())?;
        run = allocate_table(writer)?;
    };
    let frozen = space.freeze();
    let region_table =
        Blob { page: run.page, len_bytes: frozen.table.len() as u64, digest: checksum::digest(&frozen.table) };
    let slot = Slot {
        generation,
        transaction: named.id,
        commit_time_micros: named.commit_time_micros,
        session: before.session,
        data: named.trees.data,
        forward: named.trees.forward,
        region_table,
        log: log.start(),
        reach_units: space.image_end(&*before.store)?,
        ..old
    };
    drop(space);
    let segment = new_segment.filter(|_| old_segment != new_segment);
    let (trees, index) = (named.trees, 1 - before.index);
    Ok(Prepared { trees, sealed, frozen, slot, log, segment, reserve, replaced, index })
}

/// Finds places for what the slot names beside trees and log: the region table, and where there is a log a run that keeps
/// room for the table of the slot after it.
fn take_places(before: &Before, writer: &PageWriter, log: &mut LogPlan) -> Result<(Run, Option<Run>)> {
    // The table comes last: whatever else makes the file grow may make it longer.
    let reserve = match log {
        LogPlan::None => Ok(None),
        _ => take_reserve(before, writer),
    };
    let taken = reserve.as_ref().map_or(None, |reserve| *reserve);
    match reserve.and_then(|reserve| Ok((allocate_table(writer)?, reserve))) {
        Ok(places) => Ok(places),
        Err(error) => match std::mem::replace(log, LogPlan::None) {
            // There may be room for all the rest: without a log small commits are slow, and that is all.
            LogPlan::New(new) if error.is_out_of_space() => {
                let segment = new.start().segment;
                if Some(segment) != before.slot.log.map(|start| start.segment) {
                    writer.free(log::run(&segment), writer.birth())?;
                }
                Ok((allocate_table(writer)?, taken))
            }
            _ => Err(error),
        },
    }
}

/// A run that keeps room for the region table of the slot after this one. It is free in the bitmaps on disk: only memory
/// knows what it is for.
fn take_reserve(before: &Before, writer: &PageWriter) -> Result<Option<Run>> {
    let units = before.space.lock().table_units();
    match writer.allocate(units) {
        Ok(reserve) => writer.retire(reserve).map(|()| Some(reserve)),
        Err(error) if error.is_out_of_space() && before.reserve.is_some() => Ok(before.reserve),
        Err(error) => Err(error),
    }
}

/// A run for the region table. Growing the file for it may add a region and with it an entry.
fn allocate_table(writer: &PageWriter) -> Result<Run> {
    loop {
        let units = writer.space().lock().table_units();
        let run = writer.allocate(units)?;
        if writer.space().lock().table_units() == units {
            return Ok(run);
        }
        writer.free(run, writer.birth())?;
    }
}

impl Core {
    /// The log that goes on from a new slot. `is_needed` says whether something is left that only its records tell.
    pub(super) fn plan_log(
        &self,
        before: &Before,
        writer: &PageWriter,
        is_needed: bool,
        log_after: LogAfter,
    ) -> Result<LogPlan> {
        let old = self.queue.writer();
        let continued = |old: Option<LogWriter>| match old {
            None => LogPlan::None,
            Some(old) => LogPlan::Advanced(old.start(), self.queue.log().map_or(0, |log| log.changes())),
        };
        let record_bytes = match log_after {
            LogAfter::None => return Ok(LogPlan::None),
            LogAfter::Kept if is_needed => return Ok(before.slot.log.map_or(LogPlan::None, LogPlan::Unchanged)),
            LogAfter::Kept => 0,
            LogAfter::Begun { record_bytes } => record_bytes,
        };
        if old.is_none() && (log_after == LogAfter::Kept || !self.has_room_for_log()) {
            return Ok(LogPlan::None);
        }
        let layout = self.store.layout();
        let generation = before.generation()?;
        // Drawn for one segment alone, as far as the session's random number is.
        let nonce_for =
            |run: Run| checksum::wide(&[&self.session, &generation.to_le_bytes(), &run.page.get().to_le_bytes()]);
        let begun = |run: Run| {
            let segment = LogSegment { page: run.page, units: run.units, nonce: nonce_for(run) };
            LogPlan::New(LogWriter::new(segment, layout.unit_bytes()))
        };
        let wish = SizeWish {
            last_units: old.as_ref().map_or(0, |old| old.room().segment().units),
            record_bytes: record_bytes as u64,
            file_units: self.store.end_units(),
            bytes_max: self.log_bytes_max,
        };
        let units = log::segment_units(layout, &wish);
        // Where it may not be longer, the next one would be no better.
        if let Some(old) = old.filter(|old| old.room().segment().units >= units) {
            let segment = old.room().segment();
            let is_high = log::run(&segment).end() >= before.slot.reach_units;
            let lower = if is_high { writer.allocate_below(segment.units, segment.page.get())? } else { None };
            return Ok(lower.map_or_else(|| continued(Some(old)), begun));
        }
        match writer.allocate(units) {
            // On a full device removals come first, here as well.
            Ok(run) => match writer.make_room() {
                Ok(()) => Ok(begun(run)),
                Err(error) if error.is_out_of_space() => writer.free(run, writer.birth()).map(|()| LogPlan::None),
                Err(error) => Err(error),
            },
            // There may be room for all the rest: without a log small commits are slow, and that is all.
            Err(error) if error.is_out_of_space() => Ok(LogPlan::None),
            Err(error) => Err(error),
        }
    }

    /// Whether a log would leave enough to those who may need it more: on a full device removals come first.
    fn has_room_for_log(&self) -> bool {
        let end = self.store.end_units();
        !self.store.is_cramped() || end - self.space.lock().count_allocated().min(end) > end / FREE_SHARE_FOR_LOG
    }
}

/// First phase: writes everything that the slot names, in the order of addresses, and makes it durable. `writers` says by how
/// many threads at most, again and again.
pub(super) fn write(store: &PageStore, prepared: &Prepared, writers: &dyn Fn() -> usize) -> Result<()> {
    let mut pages: Vec<_> = prepared.sealed.iter().map(|sealed| (sealed.page, &sealed.bytes[..])).collect();
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
    store.meter().slot_pages_written(&SlotBytes {
        pages: prepared.sealed.iter().map(|sealed| store.padded(sealed.bytes.len())).sum(),
        space: prepared.frozen.bitmaps.iter().map(|(_, bytes)| store.padded(bytes.len())).sum::<u64>() + table,
        log_padding: prepared.segment.map_or(0, |it| u64::from(it.units) * u64::from(store.layout().unit_bytes())),
    });
}

/// Second phase: the slot that is not in use and the god byte, durable together. This is the commit point.
pub(super) fn flip(store: &PageStore, prepared: &Prepared) -> Result<()> {
    store.flip(prepared.index, &slot::encode(&prepared.slot, store.format()))
}

/// Takes over what is durable now, and closes the bracket of the space.
pub(super) fn conclude(core: &Core, durable: &mut Durable, mut prepared: Prepared) {
    core.store.install_sealed(&prepared.sealed);
    core.space.lock().commit();
    durable.unneeded.append(&mut prepared.replaced);
    durable.unneeded.extend(durable.reserve.filter(|run| prepared.reserve != Some(*run)));
    durable.reserve = prepared.reserve;
    durable.other_reach_units = durable.slot.reach_units;
    durable.slot = prepared.slot;
    core.store.meter().slot_serves(durable.slot.transaction);
    durable.index = prepared.index;
    durable.room = FoldingRoom::default();
    durable.fill_failed = 0;
    durable.passed_rows = core.store.meter().passed_rows.get();
    match prepared.log {
        LogPlan::None => core.queue.set_log(None),
        LogPlan::Unchanged(_) => {}
        LogPlan::Advanced(start, changes) => core.queue.let_go_before(&start, changes),
        LogPlan::New(writer) => core.queue.set_log(Some(writer)),
    }
}

/// Brings what is laid over trees into them.
pub(super) fn fold_tables(
    roots: &mut Roots,
    writer: &Arc<PageWriter>,
    delta: &Delta,
    sealed: &mut Vec<Sealed>,
) -> Result<()> {
    let ids = delta.ids();
    if ids.is_empty() {
        return Ok(());
    }
    for (name, mut record) in roots.list()? {
        if ids.binary_search(&record.id).is_ok() {
            let mut tree = TreeMut::new(Arc::clone(writer), record.root);
            staged::merge(&mut tree, &delta.table(record.id)).map_err(|error| error.in_table(&name))?;
            record.root = tree.seal(sealed).map_err(|error| error.in_table(&name))?;
            record.folded = writer.birth();
            roots.put(&name, &record)?;
            write_sealed(writer, sealed)?;
        }
    }
    Ok(())
}

/// Writes what is sealed before its slot, where it takes more than a share of the memory.
fn write_sealed(writer: &PageWriter, sealed: &mut Vec<Sealed>) -> Result<()> {
    let bytes: usize = sealed.iter().map(|sealed| sealed.bytes.len()).sum();
    if bytes <= writer.store().account().dirty_bytes_max(writer.layout().node_bytes() as usize) {
        return Ok(());
    }
    let mut pages: Vec<_> = sealed.iter().map(|sealed| (sealed.page, &sealed.bytes[..])).collect();
    writer.write_early(&mut pages)?;
    writer.store().install_sealed(sealed);
    sealed.clear();
    Ok(())
}

/// A version that is to become trees alone, under a slot of its own. The bracket of the space is open for it.
#[derive(Debug)]
pub(super) struct Fold {
    before: Before,
    writer: Arc<PageWriter>,
    version: Version,
    log: LogPlan,
}

/// Poisons the store when it is dropped, as it is where a storage panics: the space is half changed.
struct Panicking<'s>(&'s PageStore);

impl Drop for Panicking<'_> {
    fn drop(&mut self) {
        self.0.poison();
    }
}

/// What became of a fold that did not fail.
#[derive(Debug)]
pub(super) struct Folded {
    prepared: Prepared,
    dead: Vec<Dead>,
}

impl Fold {
    /// Makes the trees, writes them, and a slot that names them.
    pub(super) fn run(&mut self, writers: &dyn Fn() -> usize) -> Result<Folded> {
        let Self { before, writer, version, log } = self;
        let mut sealed = Vec::new();
        let mut roots = Roots::new(writer, &version.trees);
        fold_tables(&mut roots, writer, &version.delta, &mut sealed)?;
        let (data, forward) = roots.seal(&mut sealed)?;
        writer.await_all()?;
        let trees = Trees { made: version.id, data, forward };
        let named = Named { id: version.id, commit_time_micros: version.commit_time_micros, trees };
        let log = std::mem::replace(log, LogPlan::None);
        let mut prepared = prepare(before, writer, &named, sealed, log)?;
        write(&before.store, &prepared, writers)?;
        flip(&before.store, &prepared)?;
        // Before anybody reads the trees, and while transactions go on: the one that takes the outcome over would wait for it.
        before.store.install_sealed(&std::mem::take(&mut prepared.sealed));
        Ok(Folded { prepared, dead: writer.take_dead() })
    }
}

impl Core {
    /// Hands what a version no longer reaches to reclamation, and makes allocatable what nobody needs any more. While a
    /// checkpoint changes the space, all that waits.
    pub(super) fn settle(&self, durable: &mut Durable, dead: Vec<Dead>) {
        let needed = durable.needed(&self.pins);
        let mut free = durable.reclaim.settle(dead, &needed);
        if durable.is_folding || self.store.is_poisoned() {
            durable.unneeded.append(&mut free);
            return;
        }
        free.extend(durable.reclaim.sweep(&needed));
        free.append(&mut durable.unneeded);
        self.release(free);
    }

    /// Begins a checkpoint, which goes on beside the transactions that follow. None runs.
    pub(super) fn begin_checkpoint(&self, durable: &mut Durable) -> Result<()> {
        // Pages of the trees as they are and those of the new ones have to differ in when they were made.
        if durable.head.id == durable.head.trees.made || !self.queue.drain_untold() {
            return Ok(());
        }
        // Nothing that a checkpoint still writes may be handed out: from here on what nobody needs waits.
        self.sweep(durable);
        let log = self.queue.writer().zip(self.queue.log());
        let plan = log.map_or(LogPlan::None, |(writer, log)| LogPlan::Advanced(writer.start(), log.changes()));
        let fold = self.open_fold(durable, durable.head.clone(), |_| Ok(plan))?;
        let delta = &mut durable.head.delta;
        delta.frozen = std::mem::take(&mut delta.active);
        self.store.meter().checkpoint_begun(durable.head.id);
        self.checkpointer.begin(fold);
        Ok(())
    }

    /// Opens the bracket of the space for a fold of the newest version, which may have got another id.
    fn open_fold(
        &self,
        durable: &mut Durable,
        version: Version,
        plan_log: impl FnOnce(&PageWriter) -> Result<LogPlan>,
    ) -> Result<Box<Fold>> {
        let base = self.pins.pin(durable.head.clone());
        self.space.lock().begin();
        let writer = PageWriter::new(Arc::clone(&self.store), Arc::clone(&self.space), base, version.id);
        let log = plan_log(&writer).inspect_err(|_| writer.rollback())?;
        durable.is_folding = true;
        Ok(Box::new(Fold { before: Before::new(self, durable), writer: Arc::new(writer), version, log }))
    }

    /// Takes over a checkpoint that ended beside the transactions. One that found no room, or could not read what it needed,
    /// changed nothing: it is tried again, and whoever has to have it then learns why it fails. After any other failure nothing
    /// is written, and the first to ask learns of that.
    pub(super) fn take_over_checkpoint(&self, durable: &mut Durable) -> Result<()> {
        let Some(done) = self.checkpointer.take_done() else { return Ok(()) };
        match self.end_fold(durable, done.fold, done.outcome) {
            Err(_) if !self.store.is_poisoned() => Ok(()),
            ended => ended.map(|()| self.trim(durable)),
        }
    }

    fn end_fold(&self, durable: &mut Durable, fold: Option<Box<Fold>>, outcome: Result<Folded>) -> Result<()> {
        durable.is_folding = false;
        let folded = match outcome {
            Ok(folded) => folded,
            Err(error) => {
                ::log::error!("a checkpoint failed: {error}");
                if let Some(fold) = fold {
                    fold.writer.rollback();
                }
                durable.head.delta.collapse();
                durable.fill_failed = self.measure_fill(durable).max(1);
                return Err(error);
            }
        };
        let mut fold = fold.expect("what succeeded is there");
        let Folded { prepared, dead } = folded;
        let trees = prepared.trees;
        conclude(self, durable, prepared);
        if trees.made > durable.head.id {
            // It has an id of its own, from here on. Nothing is queued.
            (durable.head.id, durable.head.commit_time_micros) = (fold.version.id, fold.version.commit_time_micros);
            self.queue.publish(durable.head.clone());
        }
        // Those that were committed meanwhile have more laid over the same trees.
        let lay_out = |version: &mut Version| {
            assert!(version.id >= trees.made, "what is folded was durable, and so it was published");
            version.trees = trees;
            version.delta.frozen = Layer::default();
            if version.id == trees.made {
                version.delta.active = Layer::default();
            }
        };
        lay_out(&mut durable.head);
        durable.charge_delta();
        self.queue.lay_out(lay_out);
        self.checkpointer.discard(std::mem::take(&mut fold.version.delta));
        drop(fold);
        self.settle(durable, dead);
        self.measure_fill(durable);
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
        let mut version = durable.head.clone();
        if !version.delta.is_empty() && version.id == version.trees.made {
            // Pages of the trees as they are and those of the new ones have to differ in when they were made.
            (version.id, version.commit_time_micros) = (self.next_id(version.id)?, self.commit_time(durable));
        }
        let reserve = durable.reserve.take();
        self.release(reserve.into_iter().collect());
        let before = Before::new(self, durable);
        let mut fold = self.open_fold(durable, version, |writer| self.plan_log(&before, writer, false, log_after))?;
        self.store.meter().checkpoint_begun(fold.version.id);
        let panicking = Panicking(&self.store);
        let outcome = fold.run(&|| usize::MAX);
        std::mem::forget(panicking);
        self.store.meter().checkpoint_ended(outcome.as_ref().err());
        self.end_fold(durable, Some(fold), outcome)
    }
}
