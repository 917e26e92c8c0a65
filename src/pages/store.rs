//! Verified reads and ordered writes of pages, and the state of the session on the storage.
//!
//! Invariant: no byte reaches a caller before it was checked against the checksum that names it. The first failed
//! write or sync poisons the store: it writes nothing afterwards, not even at close.
//! Layer 2 (pages). Rules: design.md, "Commit".

use super::account::Account;
use super::behind::Sealed;
use super::cache::Cache;
use super::epoch::Epoch;
use super::extent::{self, Extent, Piece};
use super::frames::Frames;
use super::header::{Format, GodByte};
use super::layout::Layout;
use super::meter::Meter;
use super::snapshot::PageRef;
use super::translation::Place;
use super::version::Pin;
use crate::base::checksum;
use crate::base::codec::DecodeError;
use crate::base::error::{Result, StorageError};
use crate::base::ids::{Digest, PageId, Run};
use crate::base::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::base::sync::{Arc, Mutex};
use crate::io::storage::Storage;
use std::io::{self, IoSliceMut};

mod write;

pub(crate) use write::slot_offset;

/// Runs up to this size are worth a place in the page cache.
const CACHED_RUN_BYTES_MAX: u64 = 64 << 10;

/// The checksum that a page must have.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Expected {
    /// As stored beside a pointer in a branch or in an extent.
    Child(u64),
    /// As stored in a root.
    Root(Digest),
}

impl Expected {
    fn matches(self, bytes: &[u8]) -> bool {
        match self {
            Self::Child(sum) => child_sum(bytes) == sum,
            Self::Root(digest) => checksum::digest(bytes) == digest,
        }
    }
}

/// Checksum of a node or run. Zero stands for "not written yet" in a branch, so a computed zero is stored as one.
pub(crate) fn child_sum(bytes: &[u8]) -> u64 {
    checksum::child(bytes).max(1)
}

/// Checks the structure of a node that was just read, so that accessors cannot run out of its bounds later.
pub(crate) type Inspect = fn(&[u8], &Layout) -> Result<(), DecodeError>;

/// A pointer to a node, and all that must be true of what it points to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NodePointer {
    pub(crate) page: PageId,
    pub(crate) expected: Expected,
    pub(crate) level: u8,
    pub(crate) inspect: Inspect,
}

/// Pages on a storage.
#[derive(Debug)]
pub(crate) struct PageStore {
    storage: Arc<dyn Storage>,
    format: Format,
    /// Nodes.
    frames: Frames,
    /// Values, rests of keys and extent lists of moderate size.
    cache: Cache,
    account: Arc<Account>,
    /// By itself, because it is written to, and what stands here is read by everybody.
    meter: Box<Meter>,
    /// File length in units, as far as pages may lie.
    end_units: AtomicU64,
    /// The file may not grow beyond so many units.
    end_units_max: u64,
    poisoned: AtomicBool,
    /// The file could not grow the last time it was asked to.
    full: AtomicBool,
    /// The same, until it grew again.
    cramped: AtomicBool,
    /// Nothing may be written: the file grows in memory alone.
    silent: AtomicBool,
    session: Mutex<Session>,
}

#[derive(Debug)]
struct Session {
    god: GodByte,
    /// The storage says that a session is open, durably.
    marked_open: bool,
}

impl PageStore {
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        format: Format,
        god: GodByte,
        end_units: u64,
        cache_bytes_max: usize,
    ) -> Result<Self> {
        let account = Account::new(cache_bytes_max);
        let frames = Frames::new(&format.layout, account.frames_bytes_max())
            .map_err(StorageError::io("reserve memory for the page cache"))?;
        Ok(Self {
            storage,
            format,
            frames: frames.under(&account),
            cache: Cache::new(account.extents_bytes_max()),
            account,
            meter: Box::new(Meter::new()),
            end_units: AtomicU64::new(end_units),
            end_units_max: u64::MAX,
            poisoned: AtomicBool::new(false),
            full: AtomicBool::new(false),
            cramped: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            // A file that already asks for recovery needs no second mark.
            session: Mutex::new(Session { god, marked_open: god.recovery_required }),
        })
    }

    /// The same with a limit for the length of the file, which counts whole units.
    pub(crate) fn with_limit(mut self, file_bytes_max: u64) -> Self {
        self.end_units_max = file_bytes_max / u64::from(self.layout().unit_bytes());
        self
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.format.layout
    }

    pub(crate) fn format(&self) -> &Format {
        &self.format
    }

    /// The account of memory, which everybody who keeps anything of the store charges.
    pub(crate) fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// What is counted of the database.
    pub(crate) fn meter(&self) -> &Meter {
        &self.meter
    }

    pub(crate) fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Acquire)
    }

    // Reading. Every call takes the pin that keeps the page in place until the bytes are installed.

    /// Enters an epoch, under which nodes can be read without holding each.
    pub(crate) fn enter(&self) -> Epoch<'_> {
        self.frames.enter()
    }

    /// The node at `page`, verified and inspected, readable as long as the epoch lasts. A hit takes no lock and writes
    /// nothing that others read.
    #[inline]
    pub(crate) fn node<'p>(&'p self, epoch: &'p Epoch<'_>, _pin: &'p Pin, node: &NodePointer) -> Result<PageRef<'p>> {
        let place = self
            .frames
            .place(node.page)
            .ok_or_else(|| StorageError::corrupted_page(node.page, "no node can stand there"))?;
        match self.frames.get(epoch, place) {
            Some(frame) => Ok(PageRef::in_epoch(frame)),
            None => self.load_node(place, node),
        }
    }

    /// The bytes of a node that is in memory.
    #[inline]
    pub(crate) fn node_in_memory<'p>(&'p self, epoch: &'p Epoch<'_>, page: PageId) -> Option<&'p [u8]> {
        Some(self.frames.get(epoch, self.frames.place(page)?)?.bytes())
    }

    /// A node that is likely to be wanted soon, where it is in memory; where it is not, the storage is told.
    pub(crate) fn expect_node<'p>(&'p self, epoch: &'p Epoch<'_>, page: PageId) -> Option<PageRef<'p>> {
        let frame = self.frames.get(epoch, self.frames.place(page)?);
        if frame.is_none() {
            self.storage.read_ahead(self.layout().offset(page), u64::from(self.layout().node_bytes()));
        }
        frame.map(PageRef::in_epoch)
    }

    #[cold]
    fn load_node(&self, place: Place, node: &NodePointer) -> Result<PageRef<'_>> {
        let held = self.frames.load(node.page, place, node.level > 1, |bytes| self.read_node(node, bytes))?;
        match held {
            Some(hold) => Ok(PageRef::held(hold)),
            None => {
                // Every frame is in use: the node is read for this caller alone.
                let mut bytes = vec![0; self.layout().node_bytes() as usize];
                self.read_node(node, &mut bytes)?;
                Ok(PageRef::private(bytes.into()))
            }
        }
    }

    /// Reads, verifies and inspects a node.
    fn read_node(&self, node: &NodePointer, bytes: &mut [u8]) -> Result<()> {
        self.read_verified(Run::new(node.page, self.layout().node_units()), bytes, node.expected)?;
        (node.inspect)(bytes, self.layout()).map_err(|error| StorageError::corrupted_page(node.page, error.to_string()))
    }

    /// Reads an out-of-line value or the rest of a key, verified.
    pub(crate) fn extent(&self, pin: &Pin, extent: &Extent) -> Result<Arc<[u8]>> {
        if u64::from(extent.len_bytes) > self.end_units() * u64::from(self.layout().unit_bytes()) {
            return Err(StorageError::corrupted_page(
                extent.page,
                format!("a value of {} bytes is longer than the file", extent.len_bytes),
            ));
        }
        let head = self.extent_head(pin, extent)?;
        if !extent.is_list(self.layout()) {
            return Ok(head);
        }
        let pieces = extent::decode_list(&head, extent.len_bytes, self.layout())?;
        let mut value = Vec::new();
        for piece in pieces {
            value.extend_from_slice(&self.piece(&piece)?);
        }
        Ok(value.into())
    }

    /// Reads one run of a value.
    pub(crate) fn piece(&self, piece: &Piece) -> Result<Arc<[u8]>> {
        self.load(piece.run, piece.len_bytes as u64, Expected::Child(piece.sum))
    }

    /// Reads the run that an extent names: the value, or the list of its runs.
    pub(crate) fn extent_head(&self, _pin: &Pin, extent: &Extent) -> Result<Arc<[u8]>> {
        let len_bytes = extent.head_bytes(self.layout());
        if let Some(bytes) = self.cache.get(extent.page).filter(|bytes| bytes.len() as u64 == len_bytes) {
            return Ok(bytes);
        }
        let run = extent
            .head_run(self.layout())
            .ok_or_else(|| StorageError::corrupted_page(extent.page, "an extent list is longer than a run can be"))?;
        let frame = self.load(run, len_bytes, Expected::Child(extent.sum))?;
        if len_bytes <= CACHED_RUN_BYTES_MAX {
            self.cache.insert(extent.page, Arc::clone(&frame));
        }
        Ok(frame)
    }

    /// Reads bytes that a slot names by length and digest.
    pub(crate) fn read_digested(&self, page: PageId, len_bytes: u64, digest: Digest) -> Result<Arc<[u8]>> {
        let units = u32::try_from(self.layout().units_for_bytes(len_bytes))
            .map_err(|_| StorageError::corrupted_page(page, format!("a table of {len_bytes} bytes is too long")))?;
        self.load(Run::new(page, units), len_bytes, Expected::Root(digest))
    }

    /// Reads a run whose digest the caller verifies, as bitmaps are.
    pub(crate) fn read_unverified(&self, run: Run, len_bytes: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len_bytes];
        self.read_raw(self.layout().offset(run.page), &mut bytes, run.page)?;
        Ok(bytes)
    }

    fn load(&self, run: Run, len_bytes: u64, expected: Expected) -> Result<Arc<[u8]>> {
        self.check_inside(run)?;
        let len = usize::try_from(len_bytes).map_err(|_| StorageError::corrupted("a length exceeds the memory"))?;
        let mut bytes: Arc<[u8]> = std::iter::repeat_n(0, len).collect();
        self.read_verified(run, Arc::get_mut(&mut bytes).expect("the buffer was just made"), expected)?;
        Ok(bytes)
    }

    /// Bytes inside a run that is inside the data, whose checksums the caller verifies.
    pub(crate) fn read_within(&self, page: PageId, from: u64, len_bytes: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len_bytes];
        self.read_raw(self.layout().offset(page) + from, &mut bytes, page)?;
        Ok(bytes)
    }

    pub(crate) fn check_inside(&self, run: Run) -> Result<()> {
        if self.layout().contains(run, self.end_units()) {
            return Ok(());
        }
        let reason = format!("a run of {} units there is not inside the data of the file", run.units);
        Err(StorageError::corrupted_page(run.page, reason))
    }

    fn read_verified(&self, run: Run, bytes: &mut [u8], expected: Expected) -> Result<()> {
        self.check_inside(run)?;
        self.read_raw(self.layout().offset(run.page), bytes, run.page)?;
        if expected.matches(bytes) {
            Ok(())
        } else {
            Err(StorageError::corrupted_page(run.page, "the checksum does not match the bytes"))
        }
    }

    fn read_raw(&self, offset: u64, bytes: &mut [u8], page: PageId) -> Result<()> {
        self.storage.read_at(offset, &mut [IoSliceMut::new(bytes)]).map_err(|source| {
            if source.kind() == io::ErrorKind::UnexpectedEof {
                StorageError::corrupted_page(page, "the file ends before the page does")
            } else {
                StorageError::io("read")(source)
            }
        })
    }

    /// Keeps a node that was just written, so that it need not be read back.
    pub(crate) fn install(&self, page: PageId, node: &[u8], level: u8) {
        let Some(place) = self.frames.place(page) else { return };
        self.frames.forget(page);
        let filled = self.frames.load(page, place, level > 1, |bytes| {
            bytes.copy_from_slice(node);
            Ok::<_, std::convert::Infallible>(())
        });
        drop(filled);
    }

    /// Keeps the nodes among pages that were just written.
    pub(crate) fn install_sealed(&self, sealed: &[Sealed]) {
        for (sealed, level) in sealed.iter().filter_map(|sealed| Some((sealed, sealed.level?))) {
            self.install(sealed.page, &sealed.bytes, level);
        }
    }

    /// Drops all that memory knows of a run, before the run can be handed out again.
    pub(crate) fn forget(&self, run: Run) {
        self.frames.forget(run.page);
        self.cache.remove(run.page);
    }

    /// Whether memory knows something of any unit of a run, so that it must not be handed out.
    pub(crate) fn remembers(&self, run: Run) -> bool {
        (run.page.get()..run.end()).any(|unit| {
            let unit = PageId::from_allocator(unit);
            self.frames.contains(unit) || self.cache.contains(unit)
        })
    }

    /// Lets the cache give memory back where others need more of the budget than it leaves them.
    pub(crate) fn keep_budget(&self) {
        self.frames.keep_limit();
    }

    pub(super) fn frames(&self) -> &Frames {
        &self.frames
    }

    pub(crate) fn end_units(&self) -> u64 {
        self.end_units.load(Ordering::Acquire)
    }

    /// The file may not grow beyond so many units.
    pub(crate) fn end_units_max(&self) -> u64 {
        self.end_units_max
    }

    /// Gives the lock on the storage back.
    pub(crate) fn unlock(&self) -> Result<()> {
        self.storage.unlock().map_err(StorageError::io("unlock"))
    }
}

#[cfg(test)]
mod tests;
