//! A database of one tree: the least that transactions, pins and reclamation need.
//!
//! Invariant: a dead run is released only when no held version sees it.
//! Layer 3 (btree).

use crate::base::ids::{TransactionId, TreeRoot};
use crate::base::sync::{Arc, Mutex};
use crate::btree::check::{Checker, Reach, TreeStats};
use crate::btree::cursor::RangeCursor;
use crate::btree::search;
use crate::btree::tree::{Pages, PinnedPages, TreeMut};
use crate::io::memory::MemoryStorage;
use crate::io::storage::Storage;
use crate::pages::allocator::Allocator;
use crate::pages::behind::Sealed;
use crate::pages::header::{Format, GodByte};
use crate::pages::layout::Layout;
use crate::pages::store::PageStore;
use crate::pages::version::{Pin, Pins, Trees, Version};
use crate::pages::writer::{Dead, PageWriter, Space};
use std::collections::BTreeMap;
use std::ops::Bound;

pub(super) type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// Units of 512 bytes, nodes of one unit, regions of 64 units: every boundary is near.
pub(super) fn tiny() -> Layout {
    Layout::new(512, 1, 64).unwrap()
}

pub(super) fn small() -> Layout {
    Layout::new(512, 2, 256).unwrap()
}

pub(super) fn ordinary() -> Layout {
    Layout::new(4096, 2, 65536).unwrap()
}

#[derive(Debug)]
pub(super) struct Db {
    pub(super) store: Arc<PageStore>,
    pub(super) space: Arc<Space>,
    pub(super) pins: Arc<Pins>,
    pending: Vec<Dead>,
}

/// A running transaction on a `Db`.
#[derive(Debug)]
pub(super) struct Txn {
    pub(super) writer: Arc<PageWriter>,
    pub(super) tree: TreeMut,
}

impl Db {
    pub(super) fn new(layout: Layout, cache_bytes_max: usize) -> Self {
        let storage = MemoryStorage::new();
        storage.set_len(u64::from(Layout::FIXED_BYTES)).unwrap();
        let format = Format { layout, uuid: [7; 16], read_only_compatible: 0, compatible: 0 };
        let god = GodByte { primary: 0, recovery_required: false, ids_seen: false };
        let end_units = u64::from(layout.header_units());
        let store = PageStore::new(Arc::new(storage), format, god, end_units, cache_bytes_max).unwrap();
        let (data, forward) = (TreeRoot::EMPTY, TreeRoot::EMPTY);
        let first = Version::of_trees(Trees { made: TransactionId::new(1), data, forward }, 0);
        Self {
            store: Arc::new(store),
            space: Arc::new(Mutex::new(Allocator::create(layout))),
            pins: Pins::new(first),
            pending: Vec::new(),
        }
    }

    pub(super) fn begin(&self) -> Txn {
        let base = self.pins.pin_published();
        let birth = base.version().id.next().unwrap();
        let root = base.version().trees.data;
        self.space.lock().begin();
        let writer = Arc::new(PageWriter::new(Arc::clone(&self.store), Arc::clone(&self.space), base, birth));
        Txn { tree: TreeMut::new(Arc::clone(&writer), root), writer }
    }

    pub(super) fn commit(&mut self, txn: Txn) {
        let Txn { tree, writer } = txn;
        let mut sealed: Vec<Sealed> = Vec::new();
        let data = tree.seal(&mut sealed).unwrap();
        assert_eq!(writer.dirty_bytes(), 0, "sealing leaves nothing dirty");
        writer.await_all().unwrap();
        let mut pages: Vec<_> = sealed.iter().map(|page| (page.page, &page.bytes[..])).collect();
        self.store.write_pages(&mut pages).unwrap();
        self.store.install_sealed(&sealed);
        self.space.lock().publish();
        self.pending.extend(writer.take_dead());
        let id = writer.birth();
        self.pins.publish(Version::of_trees(Trees { made: id, data, forward: TreeRoot::EMPTY }, 0));
        drop(writer);
        self.reclaim();
    }

    pub(super) fn abort(&mut self, txn: Txn) {
        drop(txn.tree);
        txn.writer.rollback();
        drop(txn.writer);
        self.reclaim();
    }

    /// Releases what no held version sees any more.
    pub(super) fn reclaim(&mut self) {
        let held = self.pins.held();
        let (kept, released): (Vec<_>, Vec<_>) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|dead| held.iter().any(|pin| dead.birth <= *pin && *pin < dead.freed));
        for dead in released {
            self.store.forget(dead.run);
            self.space.lock().release(dead.run);
        }
        self.pending = kept;
    }

    pub(super) fn root(&self) -> TreeRoot {
        self.pins.published().trees.data
    }

    /// Checks the published tree and that the space is accounted for unit by unit.
    pub(super) fn check(&self) -> TreeStats {
        let pin = self.pins.pin_published();
        let epoch = self.store.enter();
        let pages = PinnedPages { store: &self.store, pin: &pin, epoch: &epoch };
        let mut reach = Reach::default();
        let version = pin.version();
        let mut checker =
            Checker { pages: &pages, store: &self.store, pin: &pin, reach: &mut reach, birth_max: version.id };
        let stats = checker.check(&version.trees.data).unwrap();
        for dead in &self.pending {
            reach.add(dead.run).unwrap();
        }
        let mut space = self.space.lock();
        space.check().unwrap();
        let allocated: Vec<u64> = space.allocated_units(&*self.store).unwrap().collect();
        assert_eq!(allocated, reach.units().collect::<Vec<_>>(), "allocated, and reached or pending");
        stats
    }

    pub(super) fn pending_units(&self) -> u64 {
        self.pending.iter().map(|dead| u64::from(dead.run.units)).sum()
    }

    /// Compares the whole published tree with a model.
    pub(super) fn assert_holds(&self, model: &Model) {
        let pin = self.pins.pin_published();
        assert_pin_holds(&self.store, &pin, model);
    }
}

pub(super) fn assert_pin_holds(store: &PageStore, pin: &Pin, model: &Model) {
    let epoch = store.enter();
    let pages = PinnedPages { store, pin, epoch: &epoch };
    assert_rows(&pages, &pin.version().trees.data, model);
}

pub(super) type Row = (Vec<u8>, Vec<u8>);

/// All rows of a range, from the front.
pub(super) fn rows<P: Pages + Copy>(pages: P, root: &TreeRoot, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Vec<Row> {
    let mut cursor = RangeCursor::new(pages, root, start, end).unwrap();
    let mut rows = Vec::new();
    while let Some(found) = cursor.next().unwrap() {
        let (key, value) = found.key_and_value().unwrap();
        rows.push((key.as_slice().to_vec(), value.as_slice().to_vec()));
    }
    rows
}

pub(super) fn assert_rows<P: Pages + Copy>(pages: &P, root: &TreeRoot, model: &Model) {
    assert_eq!(root.rows, model.len() as u64);
    let found = rows(*pages, root, Bound::Unbounded, Bound::Unbounded);
    assert!(found.iter().map(|(key, value)| (key, value)).eq(model), "the rows differ from the model");
}

pub(super) fn get<P: Pages>(pages: &P, root: &TreeRoot, key: &[u8]) -> Option<Vec<u8>> {
    let row = search::get(pages, root, key).unwrap()?;
    Some(row.into_value(pages).unwrap().as_slice().to_vec())
}

impl Txn {
    pub(super) fn insert(&mut self, key: &[u8], value: &[u8]) -> Option<Vec<u8>> {
        self.tree.insert(key, value).unwrap()
    }

    pub(super) fn remove(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        self.tree.remove(key).unwrap()
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        get(&&self.tree, self.tree.root(), key)
    }
}

/// A small generator of repeatable numbers.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    pub(super) fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[2]
    }

    pub(super) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.byte()).collect()
    }
}
