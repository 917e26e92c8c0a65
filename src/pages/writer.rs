//! The one handle through which a write transaction gets pages, gives them back and writes them early.
//!
//! Invariant: a run born in this transaction is given back at once; any other is only retired, because pins and the
//! durable slot may still name it.
//! Layer 2 (pages). Rules: design.md, "Reclamation".

use super::account::Charge;
use super::allocator::{Allocator, BitmapSource};
use super::behind::{Sealed, WriteBehind};
use super::extent::{self, Extent, Piece};
use super::layout::Layout;
use super::store::{PageStore, child_sum};
use super::version::Pin;
use crate::base::error::{Result, StorageError};
use crate::base::ids::{PageId, Run, TransactionId};
use crate::base::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::base::sync::{Arc, Mutex};

/// Values from this size on are written at once, from the caller's slice.
pub(crate) const WRITE_THROUGH_BYTES_MIN: usize = 64 << 10;

/// A run that the head version no longer reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dead {
    pub(crate) run: Run,
    pub(crate) birth: TransactionId,
    pub(crate) freed: TransactionId,
}

impl Dead {
    /// What a dead run takes in memory until it is handed out again: in a list that grows by doubling, and among the
    /// runs that are released together.
    pub(crate) const BYTES: usize = 2 * size_of::<Self>() + size_of::<Run>();
}

/// What the transaction made unreachable so far.
#[derive(Debug)]
struct DeadList {
    runs: Vec<Dead>,
    charge: Charge,
}

/// The space of the file, shared by all who allocate.
pub(crate) type Space = Mutex<Allocator>;

impl BitmapSource for PageStore {
    fn read_bitmap(&self, run: Run, bytes_len: usize) -> Result<Vec<u8>> {
        self.read_unverified(run, bytes_len)
    }
}

/// A write transaction's access to pages.
#[derive(Debug)]
pub(crate) struct PageWriter {
    store: Arc<PageStore>,
    space: Arc<Space>,
    /// The version that the transaction builds on.
    base: Pin,
    birth: TransactionId,
    dead: Mutex<DeadList>,
    /// Bytes of all dirty nodes and values of the transaction, and of changes that are buffered.
    dirty_bytes: AtomicUsize,
    /// Of those, the buffered ones.
    buffered_bytes: AtomicUsize,
    behind: WriteBehind,
    /// Units that the transaction was handed out.
    taken_units: AtomicU64,
    /// Units that it gave back or only retired.
    freed_units: AtomicU64,
}

impl PageWriter {
    pub(crate) fn new(store: Arc<PageStore>, space: Arc<Space>, base: Pin, birth: TransactionId) -> Self {
        let dead = Mutex::new(DeadList { runs: Vec::new(), charge: Charge::new(store.account()) });
        let (dirty_bytes, buffered_bytes) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let behind = WriteBehind::new(Arc::clone(&store));
        let (taken_units, freed_units) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { store, space, base, birth, dead, dirty_bytes, buffered_bytes, behind, taken_units, freed_units }
    }

    pub(crate) fn store(&self) -> &PageStore {
        &self.store
    }

    pub(crate) fn space(&self) -> &Space {
        &self.space
    }

    pub(crate) fn base(&self) -> &Pin {
        &self.base
    }

    pub(crate) fn birth(&self) -> TransactionId {
        self.birth
    }

    pub(crate) fn layout(&self) -> &Layout {
        self.store.layout()
    }

    /// Adjusts the count of dirty bytes.
    pub(crate) fn count_dirty(&self, added: usize, removed: usize) {
        self.dirty_bytes.fetch_add(added, Ordering::Relaxed);
        self.dirty_bytes.fetch_sub(removed, Ordering::Relaxed);
        self.store.account().set_dirty(self.dirty_bytes());
    }

    /// Adjusts the count of bytes of buffered changes, which are part of what is dirty.
    pub(crate) fn count_buffered(&self, added: usize, removed: usize) {
        self.buffered_bytes.fetch_add(added, Ordering::Relaxed);
        self.buffered_bytes.fetch_sub(removed, Ordering::Relaxed);
        self.count_dirty(added, removed);
        if added > 0 {
            // Whoever only buffers loads nothing, and so would never make the cache smaller.
            self.store.keep_budget();
        }
    }

    pub(crate) fn dirty_bytes(&self) -> usize {
        self.dirty_bytes.load(Ordering::Relaxed)
    }

    /// Whether so much is dirty that it has to be written early. Buffered changes may take two more shares: the more
    /// of them are merged at once, the fewer pages are written more than once.
    pub(crate) fn exceeds_budget(&self) -> bool {
        let most = self.store.account().dirty_bytes_max(self.layout().node_bytes() as usize);
        let (dirty, buffered) = (self.dirty_bytes(), self.buffered_bytes.load(Ordering::Relaxed));
        dirty > 3 * most || dirty.saturating_sub(buffered) > most
    }

    /// Hands out a run of adjacent units, growing the file where needed.
    pub(crate) fn allocate(&self, units: u32) -> Result<Run> {
        // Only the table of a file with too many regions asks for more than a region holds.
        if units > self.layout().largest_run_units() {
            return Err(file_too_large());
        }
        let mut space = self.space.lock();
        let run = loop {
            if let Some(run) = space.allocate(units, &*self.store)? {
                break run;
            }
            let end_units = self.grow(&space, units).map_err(|error| self.cause(error))?;
            space.grow(end_units);
        };
        self.check_unused(run)
    }

    /// Hands out the lowest run of adjacent units, if the file as it is has one.
    pub(super) fn allocate_in_file(&self, units: u32) -> Result<Option<Run>> {
        let found = self.space.lock().allocate(units, &*self.store)?;
        found.map(|run| self.check_unused(run)).transpose()
    }

    /// Takes note of a run that was handed out. A damaged file can reach units that its bitmaps call free, so that is an
    /// error and not an assertion.
    fn check_unused(&self, run: Run) -> Result<Run> {
        self.taken_units.fetch_add(u64::from(run.units), Ordering::Relaxed);
        if self.store.remembers(run) {
            return Err(StorageError::corrupted_page(run.page, "the page is in use, but recorded as free"));
        }
        Ok(run)
    }

    /// Makes the file long enough for a run: with some room ahead, or as long as must be where the device is nearly
    /// full. Returns the new length.
    pub(super) fn grow(&self, space: &Allocator, units: u32) -> Result<u64> {
        let (wanted, needed) = (space.growth_for(units), space.growth_needed(units));
        let (wanted, needed) = (wanted.ok_or_else(file_too_large)?, needed.ok_or_else(file_too_large)?);
        // Where the application limits the file there is no more room ahead than that.
        let wanted = wanted.min(self.store.end_units_max()).max(needed);
        match self.store.grow(wanted) {
            Err(error) if error.is_out_of_space() && needed < wanted => self.store.grow(needed).map(|()| needed),
            grown => grown.map(|()| wanted),
        }
    }

    /// Whether the transaction made the database larger so far.
    pub(super) fn has_grown(&self) -> bool {
        self.taken_units.load(Ordering::Relaxed) > self.freed_units.load(Ordering::Relaxed)
    }

    /// Takes back a run that the head version no longer reaches.
    pub(crate) fn free(&self, run: Run, birth: TransactionId) -> Result<()> {
        self.freed_units.fetch_add(u64::from(run.units), Ordering::Relaxed);
        if birth == self.birth {
            self.await_page(run.page)?;
            let mut space = self.space.lock();
            space.discard(run, &*self.store)?;
            // Still under the lock: nobody may be handed the run while memory knows its content.
            self.store.forget(run);
            return Ok(());
        }
        if birth > self.birth || !self.layout().contains(run, self.store.end_units()) {
            return Err(StorageError::corrupted_page(run.page, format!("impossible run of transaction {birth}")));
        }
        self.space.lock().retire(run, &*self.store)?;
        let mut dead = self.dead.lock();
        dead.runs.push(Dead { run, birth, freed: self.birth });
        let bytes = dead.runs.len() * Dead::BYTES;
        dead.charge.set(bytes);
        Ok(())
    }

    /// Takes a run out of the image that only the durable slot names: it is released once another slot is durable.
    pub(crate) fn retire(&self, run: Run) -> Result<()> {
        self.space.lock().retire(run, &*self.store)
    }

    /// Writes pages of this transaction before its commit. Nothing reaches them until then.
    pub(crate) fn write_early(&self, pages: &mut [(PageId, &[u8])]) -> Result<()> {
        if pages.is_empty() {
            return Ok(());
        }
        self.store.write_pages(pages).map_err(|error| self.cause(error))
    }

    /// What is behind an error: a store that writes no more because of what was handed over says so to whoever is next.
    fn cause(&self, error: StorageError) -> StorageError {
        let is_poisoned = matches!(error, StorageError::Poisoned);
        is_poisoned.then(|| self.await_all().err()).flatten().unwrap_or(error)
    }

    /// Writes finished pages of this transaction before its commit, now or soon, and keeps the nodes in memory. Whoever
    /// reads one of them awaits it first.
    pub(crate) fn write_soon(&self, pages: Vec<Sealed>) -> Result<()> {
        if pages.is_empty() {
            return Ok(());
        }
        self.behind.write(pages)
    }

    /// Waits until a page can be read.
    #[inline]
    pub(crate) fn await_page(&self, page: PageId) -> Result<()> {
        self.behind.await_page(page)
    }

    /// Waits until all pages are written that were handed over.
    pub(crate) fn await_all(&self) -> Result<()> {
        self.behind.await_all()
    }

    /// Memory of nodes that were written, for the next ones.
    pub(crate) fn take_spare(&self) -> Vec<Box<[u8]>> {
        self.behind.take_spare()
    }

    /// Stores bytes out of line and writes them at once.
    pub(crate) fn write_through(&self, bytes: &[u8]) -> Result<Extent> {
        let layout = *self.layout();
        let run_bytes_max = usize::try_from(extent::run_bytes_max(&layout)).unwrap_or(usize::MAX);
        let mut pieces = Vec::new();
        for piece in bytes.chunks(run_bytes_max) {
            let run = self.allocate(run_units(&layout, piece.len()))?;
            self.write_early(&mut [(run.page, piece)])?;
            pieces.push(Piece { run, len_bytes: piece.len(), sum: child_sum(piece) });
        }
        let (page, sum) = if let [only] = &pieces[..] {
            (only.run.page, only.sum)
        } else {
            let list = extent::encode_list(&pieces);
            let run = self.allocate(run_units(&layout, list.len()))?;
            self.write_early(&mut [(run.page, &list[..])])?;
            (run.page, child_sum(&list))
        };
        Ok(Extent { page, len_bytes: value_len(bytes), birth: self.birth, sum })
    }

    /// Names bytes that the caller keeps dirty until the commit.
    pub(crate) fn allocate_extent(&self, bytes: &[u8]) -> Result<Extent> {
        let run = self.allocate(run_units(self.layout(), bytes.len()))?;
        Ok(Extent { page: run.page, len_bytes: value_len(bytes), birth: self.birth, sum: child_sum(bytes) })
    }

    /// Takes back every run of an out-of-line value.
    pub(crate) fn free_extent(&self, extent: &Extent) -> Result<()> {
        let layout = *self.layout();
        let head = extent
            .head_run(&layout)
            .ok_or_else(|| StorageError::corrupted_page(extent.page, "an extent list longer than a run"))?;
        if extent.is_list(&layout) {
            self.await_page(extent.page)?;
            let list = self.store.extent_head(&self.base, extent)?;
            for piece in extent::decode_list(&list, extent.len_bytes, &layout)? {
                self.free(piece.run, extent.birth)?;
            }
        }
        self.free(head, extent.birth)
    }

    /// What the transaction made unreachable, for the commit to hand to reclamation.
    pub(crate) fn take_dead(&self) -> Vec<Dead> {
        let mut dead = self.dead.lock();
        dead.charge.set(0);
        std::mem::take(&mut dead.runs)
    }

    /// Gives back everything that the transaction took: space is as it was at its begin, but the file may have grown.
    pub(crate) fn rollback(&self) {
        self.behind.end();
        self.take_dead();
        let mut space = self.space.lock();
        // What was written early is known by its address, which may be handed out again from here on.
        for unit in space.new_units() {
            self.store.forget(Run::new(unit, 1));
        }
        space.rollback();
    }
}

impl Drop for PageWriter {
    fn drop(&mut self) {
        self.store.account().set_dirty(0);
    }
}

fn file_too_large() -> StorageError {
    let source = std::io::Error::from(std::io::ErrorKind::FileTooLarge);
    StorageError::OutOfSpace { wanted_bytes: u64::MAX, source }
}

/// Units of a run that holds `len` bytes.
fn run_units(layout: &Layout, len: usize) -> u32 {
    u32::try_from(layout.units_for_bytes(len as u64)).expect("pieces are cut to the length of a run")
}

/// The length field of an extent; callers have checked the value against the format's limit.
fn value_len(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("values are limited to 32-bit lengths")
}
