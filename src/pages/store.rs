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
use super::header::{self, BLOCK_BYTES, Format, GodByte};
use super::layout::Layout;
use super::snapshot::PageRef;
use super::translation::Place;
use super::version::Pin;
use crate::base::checksum;
use crate::base::codec::DecodeError;
use crate::base::error::{Result, StorageError};
use crate::base::ids::{Digest, PageId, Run};
use crate::base::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::base::sync::{Arc, Mutex};
use crate::io::storage::{Storage, SyncKind, WriteMode};
use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Range;

/// Adjacent pages are written together up to this size.
const WRITE_BYTES_MAX: usize = 1 << 20;

/// A thread of its own for writing pays from so many separate writes on.
const SPANS_PER_WRITER_MIN: usize = 32;

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
    /// File length in units, as far as pages may lie.
    end_units: AtomicU64,
    poisoned: AtomicBool,
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
            end_units: AtomicU64::new(end_units),
            poisoned: AtomicBool::new(false),
            // A file that already asks for recovery needs no second mark.
            session: Mutex::new(Session { god, marked_open: god.recovery_required }),
        })
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

    fn check_inside(&self, run: Run) -> Result<()> {
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

    /// How many threads that write make writing faster.
    pub(super) fn writes_at_once(&self) -> usize {
        self.storage.writes_at_once()
    }

    /// Drops what memory knows of a run, before the run can be handed out again.
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

    // Writing. Every call goes through `guarded`, so the first failure ends all writing.

    /// Writes pages, adjacent ones together, in no order: nothing may name them before all are durable. Sorts `pages` by
    /// address.
    pub(crate) fn write_pages(&self, pages: &mut [(PageId, &[u8])]) -> Result<()> {
        self.mark_open()?;
        pages.sort_unstable_by_key(|(page, _)| *page);
        let spans = self.spans(pages);
        let writers = (spans.len() / SPANS_PER_WRITER_MIN).min(self.storage.writes_at_once()).max(1);
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

    /// Makes everything written so far durable.
    pub(crate) fn sync(&self) -> Result<()> {
        self.guarded("sync", || self.storage.sync(SyncKind::Data))
    }

    /// Writes a slot and the god byte that names it, and makes both durable: the commit point.
    ///
    /// Everything that the slot names must be durable already.
    pub(crate) fn flip(&self, index: u8, slot: &[u8; BLOCK_BYTES]) -> Result<()> {
        let god = GodByte { primary: index, recovery_required: true, two_phase: true };
        self.write_raw(slot_offset(index), &[IoSlice::new(slot)])?;
        let mut session = self.session.lock();
        session.god = god;
        self.write_raw(0, &[IoSlice::new(&header::encode(&self.format, god))])?;
        self.sync() // the commit point
    }

    /// Replaces a damaged block 0, durably. The session is open from then on.
    pub(crate) fn rewrite_header(&self, god: GodByte) -> Result<()> {
        let mut session = self.session.lock();
        self.write_raw(0, &[IoSlice::new(&header::encode(&self.format, god))])?;
        self.sync()?;
        *session = Session { god, marked_open: god.recovery_required };
        Ok(())
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
        self.write_raw(0, &[IoSlice::new(&header::encode(&self.format, session.god))])?;
        self.sync()?; // nothing else is written before this
        session.marked_open = true;
        Ok(())
    }

    /// Marks the session as closed, after its last write. A poisoned store writes nothing.
    pub(crate) fn mark_closed(&self) -> Result<()> {
        let mut session = self.session.lock();
        if !session.marked_open || self.is_poisoned() {
            return Ok(());
        }
        self.sync()?; // the session's last writes, before the mark
        session.god.recovery_required = false;
        self.write_raw(0, &[IoSlice::new(&header::encode(&self.format, session.god))])?;
        self.sync()?;
        session.marked_open = false;
        Ok(())
    }

    /// Extends the file with reserved space. Running out of space here harms nothing and poisons nothing.
    pub(crate) fn grow(&self, end_units: u64) -> Result<()> {
        self.mark_open()?;
        if self.is_poisoned() {
            return Err(StorageError::Poisoned);
        }
        let wanted_bytes = end_units.saturating_mul(u64::from(self.layout().unit_bytes()));
        match self.storage.preallocate(wanted_bytes) {
            Ok(()) => {
                self.end_units.fetch_max(end_units, Ordering::AcqRel);
                Ok(())
            }
            Err(source) if is_space(&source) => Err(StorageError::OutOfSpace { wanted_bytes, source }),
            Err(source) => {
                self.poison();
                Err(StorageError::io("extend")(source))
            }
        }
    }

    /// Cuts the file. Nothing that memory or either slot reaches may lie at or above `end_units`.
    pub(crate) fn truncate(&self, end_units: u64) -> Result<()> {
        self.mark_open()?;
        let bytes = end_units * u64::from(self.layout().unit_bytes());
        self.guarded("truncate", || self.storage.set_len(bytes))?;
        self.end_units.store(end_units, Ordering::Release);
        Ok(())
    }

    pub(crate) fn end_units(&self) -> u64 {
        self.end_units.load(Ordering::Acquire)
    }

    fn write_raw(&self, offset: u64, slices: &[IoSlice<'_>]) -> Result<()> {
        self.guarded("write", || self.storage.write_at(offset, slices, WriteMode::Plain))
    }

    /// Ends all writing of this handle.
    fn poison(&self) {
        self.poisoned.store(true, Ordering::Release);
    }

    fn guarded(&self, operation: &'static str, step: impl FnOnce() -> io::Result<()>) -> Result<()> {
        if self.is_poisoned() {
            return Err(StorageError::Poisoned);
        }
        step().map_err(|source| {
            self.poison();
            log::error!("{operation} failed, this handle writes no more: {source}");
            StorageError::io(operation)(source)
        })
    }

    /// Gives the lock on the storage back.
    pub(crate) fn unlock(&self) -> Result<()> {
        self.storage.unlock().map_err(StorageError::io("unlock"))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::memory::MemoryStorage;

    fn store() -> PageStore {
        let storage = MemoryStorage::new();
        storage.set_len(u64::from(Layout::FIXED_BYTES)).unwrap();
        let layout = Layout::new(512, 1, 64).unwrap();
        let format = Format { layout, uuid: [1; 16], read_only_compatible: 0, compatible: 0 };
        let god = GodByte { primary: 0, recovery_required: false, two_phase: true };
        PageStore::new(Arc::new(storage), format, god, u64::from(layout.header_units()), 1 << 20).unwrap()
    }

    fn page(number: u64) -> PageId {
        PageId::new(number).unwrap()
    }

    #[test]
    fn r20_a_poisoned_store_neither_writes_nor_grows() {
        let store = store();
        store.grow(40).unwrap();
        store.poisoned.store(true, Ordering::Release);
        let before = store.storage.len().unwrap();
        assert!(matches!(store.grow(80), Err(StorageError::Poisoned)));
        assert!(matches!(store.truncate(30), Err(StorageError::Poisoned)));
        assert!(matches!(store.write_pages(&mut [(page(30), &[1; 512])]), Err(StorageError::Poisoned)));
        assert_eq!((store.storage.len().unwrap(), store.end_units()), (before, 40));
    }

    #[test]
    fn pages_in_any_order_and_of_any_length_land_at_their_addresses() {
        let store = store();
        store.grow(88).unwrap();
        let contents: Vec<(u64, Vec<u8>)> = [(40, 700), (26, 512), (42, 512), (27, 1), (60, 2048), (28, 513)]
            .map(|(at, len): (u64, usize)| (at, vec![u8::try_from(at).unwrap(); len]))
            .into();
        let mut pages: Vec<_> = contents.iter().map(|(at, bytes)| (page(*at), &bytes[..])).collect();
        store.write_pages(&mut pages).unwrap();
        for (at, bytes) in &contents {
            let units = u32::try_from(bytes.len().div_ceil(512)).unwrap();
            let found = store.load(Run::new(page(*at), units), bytes.len() as u64, Expected::Child(child_sum(bytes)));
            assert_eq!(found.unwrap()[..], bytes[..]);
        }
        let wrong = store.load(Run::new(page(26), 1), 512, Expected::Child(5));
        assert!(wrong.is_err_and(|error| error.is_corruption()));
    }
}
