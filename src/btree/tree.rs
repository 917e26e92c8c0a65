//! Trees as readers and the writer hold them, and how each finds a page.
//!
//! Invariant: a reader's tree never changes; the writer's dirty nodes are reachable from its own root only.
//! Layer 3 (btree).

use super::insert::Way;
use super::inspect::{check_disjoint, inspect};
use super::key::{Extents, decode_extent};
use super::search::{Narrow, Pointer, Step, descend};
use super::walk::{Visit, walk};
use super::{branch, leaf, node};
use crate::base::error::{Result, StorageError};
use crate::base::ids::{Digest, PageId, Run, TransactionId, TreeRoot};
use crate::pages::cache::PageMap;
use crate::pages::epoch::Epoch;
use crate::pages::extent::{EXTENT_BYTES, Extent, run_bytes_max};
use crate::pages::snapshot::{PageRef, Snapshot};
use crate::pages::store::{Expected, NodePointer, PageStore};
use crate::pages::version::{Pin, Version};
use crate::pages::writer::{PageWriter, WRITE_THROUGH_BYTES_MIN};
use std::any::Any;
use std::sync::Arc;

/// A source of verified nodes.
pub(crate) trait Pages: Extents + Sized {
    type Node: Narrow;

    /// The node at `page`, which must have the checksum and stand at the level that its parent says.
    fn node(&self, page: PageId, expected: Expected, level: u8) -> Result<Self::Node>;

    /// Looks at a node without keeping it.
    #[inline]
    fn look<T>(&self, at: Pointer, look: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
        look(&self.node(at.page, at.expected, at.level)?)
    }

    /// Goes down from a node to a leaf as [`descend`] does, and keeps the leaf alone.
    fn descend(
        &self,
        from: Pointer,
        way: &mut Vec<Step>,
        choose: impl FnMut(&[u8], u8) -> Result<usize>,
    ) -> Result<(Self::Node, usize)> {
        descend(self, from, way, choose)
    }
}

fn pointer(page: PageId, expected: Expected, level: u8) -> NodePointer {
    NodePointer { page, expected, level, inspect }
}

#[inline]
fn check_level(node: &[u8], page: PageId, level: u8) -> Result<()> {
    if node::level(node) == level { Ok(()) } else { Err(at_another_level(node, page, level)) }
}

#[cold]
fn at_another_level(node: &[u8], page: PageId, level: u8) -> StorageError {
    let found = node::level(node);
    StorageError::corrupted_page(page, format!("expected a node of level {level}, found level {found}"))
}

/// Nodes of a pinned version, for as long as the pin is borrowed and an epoch lasts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PinnedPages<'p> {
    pub(crate) store: &'p PageStore,
    pub(crate) pin: &'p Pin,
    pub(crate) epoch: &'p Epoch<'p>,
}

impl Extents for PinnedPages<'_> {
    fn extent(&self, encoded: &[u8; EXTENT_BYTES]) -> Result<Arc<[u8]>> {
        self.store.extent(self.pin, &decode_extent(encoded, self.store.layout())?)
    }
}

impl<'p> Pages for PinnedPages<'p> {
    type Node = PageRef<'p>;

    #[inline]
    fn node(&self, page: PageId, expected: Expected, level: u8) -> Result<PageRef<'p>> {
        let node = self.store.node(self.epoch, self.pin, &pointer(page, expected, level))?;
        if level == 1 {
            leaf::prefetch_arrays(&node);
        }
        check_level(&node, page, level)?;
        Ok(node)
    }

    #[inline(always)]
    fn look<T>(&self, at: Pointer, look: impl FnOnce(&[u8]) -> Result<T>) -> Result<T> {
        // What is in memory is looked at where it is; a page that is handed over first costs more than the look.
        if let Some(node) = self.store.node_in_memory(self.epoch, at.page) {
            check_level(node, at.page, at.level)?;
            return look(node);
        }
        look(&self.node(at.page, at.expected, at.level)?)
    }
}

impl PinnedPages<'_> {
    /// Brings the leaf near that follows the one to which a way leads, where one branch holds both.
    fn expect_next_leaf(&self, way: &[Step]) -> Result<()> {
        let Some(Step { branch, index, .. }) = way.last().filter(|step| step.index < step.last) else { return Ok(()) };
        let next = self.look(*branch, |branch| Ok(branch::child(branch, index + 1)))?;
        if let Some(leaf) = self.store.expect_node(self.epoch, next.page) {
            leaf::prefetch_arrays(&leaf);
        }
        Ok(())
    }
}

/// Nodes of a pinned version that keep the snapshot alive themselves.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotPages {
    pub(crate) snapshot: Arc<Snapshot>,
}

impl SnapshotPages {
    pub(crate) fn new(store: Arc<PageStore>, pin: Pin) -> Self {
        Self { snapshot: Arc::new(Snapshot { store, pin, _owner: None }) }
    }

    /// As [`new`](Self::new), keeping `owner` alive as long as anything of the snapshot is read.
    pub(crate) fn owned_by(store: Arc<PageStore>, pin: Pin, owner: Arc<dyn Any + Send + Sync>) -> Self {
        Self { snapshot: Arc::new(Snapshot { store, pin, _owner: Some(owner) }) }
    }

    pub(crate) fn version(&self) -> &Version {
        self.snapshot.pin.version()
    }

    /// The same nodes under an epoch that the caller has entered.
    pub(crate) fn in_epoch<'p>(&'p self, epoch: &'p Epoch<'p>) -> PinnedPages<'p> {
        PinnedPages { store: &self.snapshot.store, pin: &self.snapshot.pin, epoch }
    }
}

impl Extents for SnapshotPages {
    fn extent(&self, encoded: &[u8; EXTENT_BYTES]) -> Result<Arc<[u8]>> {
        let store = &self.snapshot.store;
        store.extent(&self.snapshot.pin, &decode_extent(encoded, store.layout())?)
    }
}

impl Pages for SnapshotPages {
    type Node = PageRef<'static>;

    fn node(&self, page: PageId, expected: Expected, level: u8) -> Result<PageRef<'static>> {
        let epoch = self.snapshot.store.enter();
        Ok(self.in_epoch(&epoch).node(page, expected, level)?.keep(&self.snapshot))
    }

    fn descend(
        &self,
        from: Pointer,
        way: &mut Vec<Step>,
        choose: impl FnMut(&[u8], u8) -> Result<usize>,
    ) -> Result<(PageRef<'static>, usize)> {
        let epoch = self.snapshot.store.enter();
        let pages = self.in_epoch(&epoch);
        let (leaf, index) = descend(&pages, from, way, choose)?;
        if index == 0 || index + leaf::NEAR_ROWS > node::count(&leaf) {
            pages.expect_next_leaf(way)?;
        }
        Ok((leaf.keep_shared(&self.snapshot), index))
    }
}

/// The checksum to expect of a root, which is zero while the root is dirty.
pub(crate) fn root_expected(root: &TreeRoot) -> Expected {
    Expected::Root(root.digest)
}

/// A pointer without a checksum names a dirty page, and nothing else does.
pub(super) fn nowhere(page: PageId) -> StorageError {
    StorageError::corrupted_page(page, "the page has neither a checksum nor dirty content")
}

/// A tree that a write transaction changes.
#[derive(Debug)]
pub(crate) struct TreeMut {
    pub(super) writer: Arc<PageWriter>,
    pub(super) root: TreeRoot,
    /// Nodes that this transaction made and has not written: edited in place.
    pub(super) dirty: PageMap<Box<[u8]>>,
    /// Out-of-line bytes that are written at the commit.
    pub(super) extents: PageMap<Box<[u8]>>,
    /// The first and last rows changed, or anything else that makes the root differ.
    pub(super) changed: bool,
    /// The way of the last change, while the nodes on it are as they were.
    pub(super) finger: Option<Way>,
    /// How often in a row the finger did not help, and how long it has not been asked since.
    pub(super) finger_misses: u8,
    /// Memory of nodes that were written, for the next ones.
    pub(super) spare: Vec<Box<[u8]>>,
    /// A pass is under way, or was given up before its end.
    pub(super) in_pieces: bool,
    dirty_bytes: usize,
}

impl TreeMut {
    pub(crate) fn new(writer: Arc<PageWriter>, root: TreeRoot) -> Self {
        let (dirty, extents) = (PageMap::default(), PageMap::default());
        Self {
            writer,
            root,
            dirty,
            extents,
            changed: false,
            in_pieces: false,
            finger: None,
            finger_misses: 0,
            spare: Vec::new(),
            dirty_bytes: 0,
        }
    }

    /// The root; its digest is stale while the tree `is_changed`.
    pub(crate) fn root(&self) -> &TreeRoot {
        &self.root
    }

    pub(crate) fn is_changed(&self) -> bool {
        self.changed
    }

    /// Refuses a tree that a pass left in pieces, as one that is forgotten does without an error or a panic.
    pub(super) fn check_whole(&self) -> Result<()> {
        if self.in_pieces { Err(StorageError::TransactionPoisoned) } else { Ok(()) }
    }

    /// Bytes of dirty nodes and values that a spill would write.
    pub(crate) fn dirty_bytes(&self) -> usize {
        self.dirty_bytes
    }

    /// Adjusts the count of dirty bytes, the transaction's and the tree's own.
    pub(super) fn count_dirty(&mut self, added: usize, removed: usize) {
        self.dirty_bytes = self.dirty_bytes + added - removed;
        self.writer.count_dirty(added, removed);
    }

    pub(super) fn node_bytes(&self) -> usize {
        self.writer.layout().node_bytes() as usize
    }

    /// A dirty node; every caller got its number from the dirty path.
    pub(super) fn dirty_node(&mut self, page: PageId) -> &mut [u8] {
        self.dirty.get_mut(&page).expect("the node is on the dirty path")
    }

    pub(super) fn dirty_ref(&self, page: PageId) -> &[u8] {
        self.dirty.get(&page).expect("the node is on the dirty path")
    }

    /// Gives up the memory of nodes that were written.
    pub(super) fn release_spare(&mut self) {
        self.spare = Vec::new();
    }

    /// Memory for a node, all zero.
    pub(super) fn blank_node(&mut self) -> Box<[u8]> {
        if self.spare.is_empty() {
            self.spare = self.writer.take_spare();
        }
        match self.spare.pop() {
            Some(mut bytes) => {
                bytes.fill(0);
                bytes
            }
            None => vec![0; self.node_bytes()].into_boxed_slice(),
        }
    }

    /// Makes an unformatted dirty node.
    pub(super) fn allocate_node(&mut self) -> Result<PageId> {
        let page = self.writer.allocate(self.writer.layout().node_units())?.page;
        let node = vec![0; self.node_bytes()].into_boxed_slice();
        self.count_dirty(node.len(), 0);
        self.dirty.insert(page, node);
        Ok(page)
    }

    /// Makes a dirty copy of a written node and frees the original.
    pub(super) fn copy_node(&mut self, page: PageId, expected: Expected, level: u8) -> Result<PageId> {
        let original = (&*self).node(page, expected, level)?;
        check_disjoint(page, &original)?;
        let (birth, mut copy) = (node::birth(&original), Box::<[u8]>::from(&*original));
        drop(original);
        let new = self.writer.allocate(self.writer.layout().node_units())?.page;
        // A bitmap that records a reached page as free lets the allocator hand it out; freeing it here as written
        // would take away the dirty node that it holds by now.
        if new == page || self.dirty.contains_key(&page) {
            return Err(StorageError::corrupted_page(page, "the page is reached, but recorded as free"));
        }
        self.free_node(page, birth)?;
        node::set_birth(&mut copy, self.writer.birth());
        self.count_dirty(copy.len(), 0);
        self.dirty.insert(new, copy);
        Ok(new)
    }

    /// Gives back a node, dirty or not.
    pub(super) fn free_node(&mut self, page: PageId, birth: TransactionId) -> Result<()> {
        if let Some(node) = self.dirty.remove(&page) {
            self.count_dirty(0, node.len());
        }
        self.writer.free(Run::new(page, self.writer.layout().node_units()), birth)
    }

    /// Stores bytes out of line: long ones at once, others with the commit.
    pub(super) fn store_extent(&mut self, bytes: &[u8]) -> Result<Extent> {
        let most = run_bytes_max(self.writer.layout());
        if bytes.len() >= WRITE_THROUGH_BYTES_MIN || bytes.len() as u64 > most {
            return self.writer.write_through(bytes);
        }
        let extent = self.writer.allocate_extent(bytes)?;
        self.count_dirty(bytes.len(), 0);
        self.extents.insert(extent.page, bytes.into());
        Ok(extent)
    }

    /// Gives back what an encoded extent names.
    pub(super) fn free_extent(&mut self, encoded: &[u8; EXTENT_BYTES]) -> Result<()> {
        let extent = decode_extent(encoded, self.writer.layout())?;
        if let Some(bytes) = self.extents.remove(&extent.page) {
            self.count_dirty(0, bytes.len());
        }
        self.writer.free_extent(&extent)
    }

    pub(super) fn set_root(&mut self, page: PageId, height: u8) {
        self.root.page = page;
        self.root.height = height;
        self.root.digest = Digest::ZERO;
        self.changed = true;
    }
}

impl Extents for TreeMut {
    fn extent(&self, encoded: &[u8; EXTENT_BYTES]) -> Result<Arc<[u8]>> {
        let extent = decode_extent(encoded, self.writer.layout())?;
        match self.extents.get(&extent.page) {
            Some(bytes) => Ok(Arc::from(&bytes[..])),
            None => {
                self.writer.await_page(extent.page)?;
                self.writer.store().extent(self.writer.base(), &extent)
            }
        }
    }
}

impl Extents for &TreeMut {
    fn extent(&self, encoded: &[u8; EXTENT_BYTES]) -> Result<Arc<[u8]>> {
        (**self).extent(encoded)
    }
}

impl<'t> Pages for &'t TreeMut {
    type Node = PageRef<'t>;

    fn node(&self, page: PageId, expected: Expected, level: u8) -> Result<PageRef<'t>> {
        if let Expected::Child(0) | Expected::Root(Digest::ZERO) = expected {
            let bytes = self.dirty.get(&page).ok_or_else(|| nowhere(page))?;
            check_level(bytes, page, level)?;
            return Ok(PageRef::dirty(bytes));
        }
        self.writer.await_page(page)?;
        let store = self.writer.store();
        let epoch = store.enter();
        let node = store.node(&epoch, self.writer.base(), &pointer(page, expected, level))?.hold(store);
        check_level(&node, page, level)?;
        Ok(node)
    }
}

impl TreeMut {
    /// Gives back every page and run of the tree.
    pub(crate) fn destroy(self) -> Result<()> {
        let layout = *self.writer.layout();
        let mut nodes = Vec::new();
        let mut extents = Vec::new();
        walk(&&self, &layout, &self.root, &mut |visit| {
            match visit {
                Visit::Node { page, bytes } => nodes.push((page, node::birth(bytes))),
                Visit::Extent(extent) => extents.push(extent),
            }
            // A page that is reached twice would be freed twice; the allocator's count bounds a damaged tree.
            if nodes.len() as u64 > self.writer.store().end_units() {
                return Err(StorageError::corrupted("a tree reaches more pages than the file has"));
            }
            Ok(())
        })?;
        self.writer.count_dirty(0, self.dirty_bytes);
        for (page, birth) in nodes {
            self.writer.free(Run::new(page, layout.node_units()), birth)?;
        }
        for extent in extents {
            self.writer.free_extent(&extent)?;
        }
        Ok(())
    }
}
