//! Writing pages, slots and marks, and making them durable.
//!
//! Invariant: every write and sync goes through `guarded`, so that the first failure ends all writing; the mark of an open
//! session is durable before the session's first other write.
//! Layer 2 (pages). Rules: design.md, "Commit".

use super::PageStore;
use super::Session;
use crate::base::clock::Stopwatch;
use crate::base::error::{Result, StorageError};
use crate::base::ids::PageId;
use crate::base::sync::atomic::Ordering;
use crate::io::storage::{SyncKind, WriteMode};
use crate::pages::header::{self, BLOCK_BYTES, GodByte};
use std::io::{self, IoSlice};
use std::ops::Range;

/// Adjacent pages are written together up to this size.
const WRITE_BYTES_MAX: usize = 1 << 20;

/// A thread of its own for writing pays from so many separate writes on.
const SPANS_PER_WRITER_MIN: usize = 32;

impl PageStore {
    /// How many threads that write make writing faster.
    pub(crate) fn writes_at_once(&self) -> usize {
        self.storage.writes_at_once()
    }

    /// Writes pages of a transaction, adjacent ones together, in no order: nothing may name them before all are durable. Sorts
    /// `pages` by address.
    pub(crate) fn write_pages(&self, pages: &mut [(PageId, &[u8])]) -> Result<()> {
        pages.sort_unstable_by_key(|(page, _)| *page);
        self.write_sorted(pages, usize::MAX)?;
        self.meter.written_early(pages.iter().map(|(_, bytes)| self.padded(bytes.len())).sum());
        Ok(())
    }

    /// What a page of so many bytes takes, padded to whole units.
    pub(crate) fn padded(&self, len_bytes: usize) -> u64 {
        self.layout().units_for_bytes(len_bytes as u64) * u64::from(self.layout().unit_bytes())
    }

    /// As [`write_pages`](Self::write_pages) for pages in the order of their addresses, by no more threads than asked for.
    /// Whoever calls says what the bytes are for.
    pub(crate) fn write_sorted(&self, pages: &[(PageId, &[u8])], writers_max: usize) -> Result<()> {
        self.mark_open()?;
        let spans = self.spans(pages);
        let writers = (spans.len() / SPANS_PER_WRITER_MIN).min(self.storage.writes_at_once()).clamp(1, writers_max);
        let write = |spans: &[Range<usize>]| spans.iter().try_for_each(|span| self.write_span(&pages[span.clone()]));
        let (mine, others) = spans.split_at(spans.len().div_ceil(writers));
        std::thread::scope(|scope| {
            let started = others.chunks(mine.len().max(1)).map(|spans| {
                let writer = std::thread::Builder::new().spawn_scoped(scope, move || write(spans));
                writer.map_err(|_| spans)
            });
            let started: Vec<_> = started.collect();
            let mut outcome = write(mine);
            for writer in started {
                // Where the system has no thread to spare, this one does the work.
                let done = match writer {
                    Ok(writer) => writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                    Err(spans) => write(spans),
                };
                outcome = outcome.and(done);
            }
            outcome
        })
    }

    /// Cuts sorted pages into those that are written together: adjacent ones, up to a limit.
    fn spans(&self, pages: &[(PageId, &[u8])]) -> Vec<Range<usize>> {
        let mut spans: Vec<Range<usize>> = Vec::new();
        let (mut next, mut len_bytes) = (0, 0);
        for (index, (page, bytes)) in pages.iter().enumerate() {
            match spans.last_mut() {
                Some(span) if page.get() == next && len_bytes + bytes.len() <= WRITE_BYTES_MAX => span.end = index + 1,
                _ => {
                    spans.push(index..index + 1);
                    len_bytes = 0;
                }
            }
            let units = self.layout().units_for_bytes(bytes.len() as u64);
            len_bytes += bytes.len();
            next = page.get() + units;
        }
        spans
    }

    /// Writes adjacent pages, each padded to whole units.
    fn write_span(&self, pages: &[(PageId, &[u8])]) -> Result<()> {
        let unit_bytes = self.layout().unit_bytes() as usize;
        let padding = vec![0; unit_bytes];
        let mut slices = Vec::with_capacity(2 * pages.len());
        for (_, bytes) in pages {
            slices.push(IoSlice::new(bytes));
            let pad = bytes.len().next_multiple_of(unit_bytes) - bytes.len();
            if pad > 0 {
                slices.push(IoSlice::new(&padding[..pad]));
            }
        }
        self.write_raw(self.layout().offset(pages[0].0), &slices)
    }

    /// Writes bytes inside a run and makes them durable, and nothing else. The session is marked as open already.
    pub(crate) fn write_forced(&self, page: PageId, from: u64, bytes: &[u8]) -> Result<()> {
        // A log of the session before goes on, and the file may say that it was closed.
        self.mark_open()?;
        let offset = self.layout().offset(page) + from;
        self.guarded("write", || self.storage.write_at(offset, &[IoSlice::new(bytes)], WriteMode::Forced))
    }

    /// Makes everything written so far durable.
    pub(crate) fn sync(&self) -> Result<()> {
        let watch = Stopwatch::start();
        self.guarded("sync", || self.storage.sync(SyncKind::Data))?;
        self.meter.synced(watch);
        Ok(())
    }

    /// Writes a slot and the god byte that names it, and makes both durable: the commit point.
    ///
    /// Everything that the slot names must be durable already.
    pub(crate) fn flip(&self, index: u8, slot: &[u8; BLOCK_BYTES]) -> Result<()> {
        let god = GodByte { primary: index, recovery_required: true, ids_seen: false };
        self.write_block(slot_offset(index), slot)?;
        let mut session = self.session.lock();
        session.god = god;
        self.write_block(0, &header::encode(&self.format, god))?;
        // Whoever writes meanwhile asks whether the session is open.
        drop(session);
        self.sync() // the commit point
    }

    /// Replaces a damaged block 0, durably. The session is open from then on. Where the file cannot become as long as
    /// memory has it nothing is replaced, and asking again may succeed.
    pub(crate) fn rewrite_header(&self, god: GodByte) -> Result<()> {
        self.keep_silent(false);
        self.grow(self.end_units()).inspect_err(|_| self.keep_silent(true))?;
        let mut session = self.session.lock();
        self.write_block(0, &header::encode(&self.format, god))?;
        self.sync()?;
        *session = Session { god, marked_open: god.recovery_required };
        Ok(())
    }

    /// From here on nothing is written, and the file grows in memory alone; or that ends, and the file grows to that length.
    pub(crate) fn keep_silent(&self, silent: bool) {
        self.silent.store(silent, Ordering::Release);
    }

    /// Whether the file could not grow the last time it was asked to.
    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// Whether the file has not grown since it could not.
    pub(crate) fn is_cramped(&self) -> bool {
        self.cramped.load(Ordering::Acquire)
    }

    /// Space was given back: whether there is enough is to be found out again.
    pub(crate) fn forget_full(&self) {
        self.full.store(false, Ordering::Release);
    }

    /// Whether nothing may be written.
    pub(crate) fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Acquire)
    }

    /// Whether this session has written anything that closing must conclude.
    pub(crate) fn is_marked_open(&self) -> bool {
        self.session.lock().marked_open
    }

    /// Marks the session as open on the storage, durably, before its first other write.
    pub(crate) fn mark_open(&self) -> Result<()> {
        let mut session = self.session.lock();
        if session.marked_open {
            return Ok(());
        }
        session.god.recovery_required = true;
        self.write_block(0, &header::encode(&self.format, session.god))?;
        self.sync()?; // nothing else is written before this
        session.marked_open = true;
        Ok(())
    }

    /// Marks the session as closed, after its last write, and says whether readers may have seen ids above that of the newest
    /// slot. A poisoned store writes nothing.
    pub(crate) fn mark_closed(&self, ids_seen: bool) -> Result<()> {
        let mut session = self.session.lock();
        if !session.marked_open || self.is_poisoned() {
            return Ok(());
        }
        self.sync()?; // the session's last writes, before the mark
        session.god.recovery_required = false;
        session.god.ids_seen = ids_seen;
        self.write_block(0, &header::encode(&self.format, session.god))?;
        self.sync()?;
        session.marked_open = false;
        Ok(())
    }

    /// Extends the file with reserved space. Running out of space here harms nothing and poisons nothing, and neither does
    /// the limit that the application sets.
    pub(crate) fn grow(&self, end_units: u64) -> Result<()> {
        if self.is_silent() {
            self.end_units.fetch_max(end_units, Ordering::AcqRel);
            return Ok(());
        }
        self.mark_open()?;
        if self.is_poisoned() {
            return Err(StorageError::Poisoned);
        }
        let wanted_bytes = end_units.saturating_mul(u64::from(self.layout().unit_bytes()));
        match self.keep_limit(end_units, wanted_bytes).and_then(|()| self.storage.preallocate(wanted_bytes)) {
            Ok(()) => {
                self.full.store(false, Ordering::Release);
                self.cramped.store(false, Ordering::Release);
                self.end_units.fetch_max(end_units, Ordering::AcqRel);
                Ok(())
            }
            Err(source) if is_space(&source) => {
                self.full.store(true, Ordering::Release);
                self.cramped.store(true, Ordering::Release);
                Err(StorageError::OutOfSpace { wanted_bytes, source })
            }
            Err(source) => {
                self.meter.poisoned(|| format!("extend failed: {source}"));
                self.poison();
                log::error!("extend failed, this handle writes no more: {source}");
                Err(StorageError::io("extend")(source))
            }
        }
    }

    /// Refuses to make the file longer than the application allows. Where it is longer already all of it may be used.
    fn keep_limit(&self, end_units: u64, wanted_bytes: u64) -> io::Result<()> {
        if end_units <= self.end_units_max || wanted_bytes <= self.storage.len()? {
            return Ok(());
        }
        let limit_bytes = self.end_units_max * u64::from(self.layout().unit_bytes());
        let reason = format!("the application limits it to {limit_bytes} bytes (Builder::file_bytes_max)");
        Err(io::Error::new(io::ErrorKind::QuotaExceeded, reason))
    }

    /// Cuts the file. Nothing that memory or either slot reaches may lie at or above `end_units`.
    pub(crate) fn truncate(&self, end_units: u64) -> Result<()> {
        self.mark_open()?;
        let bytes = end_units * u64::from(self.layout().unit_bytes());
        self.guarded("truncate", || self.storage.set_len(bytes))?;
        self.end_units.store(end_units, Ordering::Release);
        Ok(())
    }

    /// Writes block 0 or a slot.
    fn write_block(&self, offset: u64, block: &[u8; BLOCK_BYTES]) -> Result<()> {
        self.write_raw(offset, &[IoSlice::new(block)])?;
        self.meter.block_written(BLOCK_BYTES);
        Ok(())
    }

    fn write_raw(&self, offset: u64, slices: &[IoSlice<'_>]) -> Result<()> {
        self.guarded("write", || self.storage.write_at(offset, slices, WriteMode::Plain))
    }

    /// Ends all writing of this handle.
    pub(crate) fn poison(&self) {
        self.poisoned.store(true, Ordering::Release);
        self.meter.poisoned(|| "the storage or a thread that writes panicked".to_owned());
    }

    fn guarded(&self, operation: &'static str, step: impl FnOnce() -> io::Result<()>) -> Result<()> {
        if self.is_silent() {
            let source = io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "the changes to be made exceed the memory");
            return Err(StorageError::io(operation)(source));
        }
        if self.is_poisoned() {
            return Err(StorageError::Poisoned);
        }
        // Until it returns: after a panic nobody knows what was done, as after an error.
        let armed = Armed(self);
        let outcome = step();
        std::mem::forget(armed);
        outcome.map_err(|source| {
            self.meter.poisoned(|| format!("{operation} failed: {source}"));
            self.poison();
            log::error!("{operation} failed, this handle writes no more: {source}");
            StorageError::io(operation)(source)
        })
    }
}

/// Ends all writing when it is dropped, as it is where the storage panics.
struct Armed<'s>(&'s PageStore);

impl Drop for Armed<'_> {
    fn drop(&mut self) {
        self.0.poison();
        log::error!("the storage panicked, this handle writes no more");
    }
}

/// Byte offset of a slot's block.
pub(crate) fn slot_offset(index: u8) -> u64 {
    (1 + u64::from(index)) * BLOCK_BYTES as u64
}

fn is_space(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}
