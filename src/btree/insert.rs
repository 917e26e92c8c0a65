//! Inserting and replacing rows.
//!
//! Invariant: every node on the way to a change is a dirty node of this transaction before anything changes, and its
//! parent names it without a checksum.
//! Layer 3 (btree).

use super::branch::{self, Child};
use super::build::{Fences, Rows};
use super::key::{Extents, KEY_BYTES_MAX, KeyCell, common, inline_key_max};
use super::leaf::{self, Row, ValueCell};
use super::node;
use super::tree::{Pages, TreeMut, root_expected};
use crate::base::error::{Result, StorageError};
use crate::base::ids::PageId;
use crate::pages::extent::{EXTENT_BYTES, value_bytes_max};
use crate::pages::layout::Layout;
use crate::pages::store::Expected;
use std::cmp::Ordering;

/// The dirty way from the root to a leaf.
#[derive(Debug)]
pub(super) struct Way {
    /// Branches from the root down, each with the index of the child that was taken.
    pub(super) branches: Vec<(PageId, usize)>,
    pub(super) leaf: PageId,
    /// Whether it runs along the first, or the last, child of every branch.
    pub(super) is_first: bool,
    pub(super) is_last: bool,
}

/// A way, and a place in its leaf.
#[derive(Debug)]
pub(super) struct Path {
    pub(super) way: Way,
    /// Index of the row with the key, or where it would stand.
    pub(super) found: std::result::Result<usize, usize>,
}

/// So many keys in a row that lie elsewhere than the one before them show that work is not local; so many later ones do
/// not ask.
const FINGER_MISSES_MAX: u8 = 8;
const FINGER_PAUSE: u8 = 32;

/// A key on its way into a node: inline bytes, and the extent of the rest.
#[derive(Debug, Clone)]
pub(super) struct NodeKey {
    pub(super) inline: Vec<u8>,
    pub(super) rest: Option<[u8; EXTENT_BYTES]>,
}

impl NodeKey {
    pub(super) fn cell(&self) -> KeyCell<'_> {
        KeyCell { prefix: &[], suffix: &self.inline, rest: self.rest.as_ref() }
    }

    pub(super) fn of(cell: &KeyCell<'_>) -> Self {
        let mut inline = vec![0; cell.inline_len()];
        cell.copy_inline(0, &mut inline);
        Self { inline, rest: cell.rest.copied() }
    }
}

/// A value on its way into a leaf.
pub(super) enum NodeValue<'v> {
    Inline(&'v [u8]),
    Extent([u8; EXTENT_BYTES]),
}

impl NodeValue<'_> {
    pub(super) fn cell(&self) -> ValueCell<'_> {
        match self {
            Self::Inline(bytes) => ValueCell::Inline(bytes),
            Self::Extent(encoded) => ValueCell::Extent(encoded),
        }
    }
}

/// Refuses what no node can hold.
pub(crate) fn check_sizes(layout: &Layout, key: &[u8], value: &[u8]) -> Result<()> {
    if key.len() > KEY_BYTES_MAX {
        return Err(StorageError::KeyTooLarge { found_bytes: key.len(), limit_bytes: KEY_BYTES_MAX });
    }
    let limit_bytes = value_bytes_max(layout);
    if value.len() > limit_bytes {
        return Err(StorageError::ValueTooLarge { found_bytes: value.len(), limit_bytes });
    }
    Ok(())
}

impl TreeMut {
    /// Refuses what no node can hold, before anything changes.
    pub(crate) fn check_sizes(&self, key: &[u8], value: &[u8]) -> Result<()> {
        check_sizes(self.writer.layout(), key, value)
    }

    /// Sets the value of a key and returns the one that it had.
    ///
    /// After an error other than a size limit the tree may be half changed: the transaction must be aborted.
    pub(crate) fn insert(&mut self, key: &[u8], value: &[u8]) -> Result<Option<Vec<u8>>> {
        self.check_sizes(key, value)?;
        let value = self.make_value(key, value)?;
        if self.root.height == 0 {
            self.plant_root()?;
        }
        let path = self.dirty_path(key)?;
        match path.found {
            Ok(index) => {
                let old = self.take_value(path.way.leaf, index)?;
                if leaf::replace_value(self.dirty_node(path.way.leaf), index, &value.cell()) {
                    self.finger = Some(path.way);
                } else {
                    self.rewrite_leaf(path, index, None, &value.cell())?;
                }
                Ok(Some(old))
            }
            Err(index) => {
                let key = self.make_key(key)?;
                self.count_rows(1, 0)?;
                let row = Row { key: key.cell(), value: value.cell() };
                if leaf::insert(self.dirty_node(path.way.leaf), index, &row) {
                    self.finger = Some(path.way);
                } else {
                    self.rewrite_leaf(path, index, Some(key.cell()), &value.cell())?;
                }
                Ok(None)
            }
        }
    }

    fn plant_root(&mut self) -> Result<()> {
        let page = self.allocate_node()?;
        let birth = self.writer.birth();
        Rows::new(Vec::new()).build(0, 0, self.dirty_node(page), birth);
        self.set_root(page, 1);
        Ok(())
    }

    /// Whether a value stays in the leaf beside its key.
    pub(super) fn is_value_inline(&self, key: &[u8], value: &[u8]) -> bool {
        let inline_key = key.len().min(inline_key_max(self.node_bytes()));
        let row = leaf::row_bytes(inline_key, inline_key < key.len(), value.len());
        row <= leaf::row_bytes_max(self.node_bytes()) || value.is_empty()
    }

    /// Stores a value out of line where its row would take more than a quarter of a node.
    pub(super) fn make_value<'v>(&mut self, key: &[u8], value: &'v [u8]) -> Result<NodeValue<'v>> {
        if self.is_value_inline(key, value) {
            return Ok(NodeValue::Inline(value));
        }
        let extent = self.store_extent(value)?;
        Ok(NodeValue::Extent(extent.encode(self.writer.layout())))
    }

    /// Stores the rest of a long key out of line.
    pub(super) fn make_key(&mut self, key: &[u8]) -> Result<NodeKey> {
        let most = inline_key_max(self.node_bytes());
        if key.len() <= most {
            return Ok(NodeKey { inline: key.to_vec(), rest: None });
        }
        let extent = self.store_extent(&key[most..])?;
        Ok(NodeKey { inline: key[..most].to_vec(), rest: Some(extent.encode(self.writer.layout())) })
    }

    /// Copies the value of a row and frees what it has out of line.
    pub(super) fn take_value(&mut self, leaf: PageId, index: usize) -> Result<Vec<u8>> {
        let encoded = match leaf::row(self.dirty_ref(leaf), index).value {
            ValueCell::Inline(bytes) => return Ok(bytes.to_vec()),
            ValueCell::Extent(encoded) => *encoded,
        };
        let value = self.extent(&encoded)?.to_vec();
        self.free_extent(&encoded)?;
        Ok(value)
    }

    /// Makes every node on the way to `key` dirty.
    pub(super) fn dirty_path(&mut self, key: &[u8]) -> Result<Path> {
        if let Some(path) = self.finger_path(key)? {
            return Ok(path);
        }
        let way = self.dirty_way(|tree, branch| branch::search(branch, key, tree))?;
        let found = leaf::search(self.dirty_ref(way.leaf), key, &*self)?;
        Ok(Path { way, found })
    }

    /// The way of the last change, where the key belongs to the same leaf: among its rows, or beyond them at the edge of
    /// the tree.
    pub(super) fn finger_path(&mut self, key: &[u8]) -> Result<Option<Path>> {
        let Some(way) = self.finger.take() else { return Ok(None) };
        if self.finger_misses >= FINGER_MISSES_MAX {
            self.finger_misses += 1;
            if self.finger_misses >= FINGER_MISSES_MAX + FINGER_PAUSE {
                self.finger_misses = FINGER_MISSES_MAX - 1;
            }
            return Ok(None);
        }
        let leaf = self.dirty_ref(way.leaf);
        let found = leaf::search(leaf, key, &*self)?;
        let belongs = match found {
            Ok(_) => true,
            Err(0) => way.is_first,
            Err(index) => way.is_last || index < node::count(leaf),
        };
        self.finger_misses = if belongs { 0 } else { self.finger_misses + 1 };
        Ok(belongs.then_some(Path { way, found }))
    }

    /// Makes the nodes on a way dirty that takes the children which `choose` says.
    pub(super) fn dirty_way(&mut self, choose: impl Fn(&Self, &[u8]) -> Result<usize>) -> Result<Way> {
        self.finger = None;
        let height = self.root.height;
        if !self.dirty.contains_key(&self.root.page) {
            let page = self.copy_node(self.root.page, root_expected(&self.root), height)?;
            self.set_root(page, height);
        }
        let branches = Vec::with_capacity(usize::from(height));
        let mut way = Way { branches, leaf: self.root.page, is_first: true, is_last: true };
        for level in (1..height).rev() {
            let branch = self.dirty_ref(way.leaf);
            let index = choose(self, branch)?;
            way.is_first &= index == 0;
            way.is_last &= index == node::count(branch);
            way.branches.push((way.leaf, index));
            way.leaf = self.dirty_child(way.leaf, index, level)?;
        }
        Ok(way)
    }

    /// The child at `index` of a dirty branch, made dirty.
    fn dirty_child(&mut self, parent: PageId, index: usize, level: u8) -> Result<PageId> {
        let child = branch::child(self.dirty_ref(parent), index);
        if child.sum == 0 {
            // Checks that the node is dirty and stands at that level.
            (&*self).node(child.page, Expected::Child(0), level)?;
            return Ok(child.page);
        }
        let page = self.copy_node(child.page, Expected::Child(child.sum), level)?;
        branch::set_child(self.dirty_node(parent), index, Child { page, sum: 0 });
        Ok(page)
    }

    /// Rebuilds a leaf with a row inserted (`key` given) or its value replaced, in one node or two.
    fn rewrite_leaf(
        &mut self,
        path: Path,
        index: usize,
        key: Option<KeyCell<'_>>,
        value: &ValueCell<'_>,
    ) -> Result<()> {
        let (birth, node_bytes) = (self.writer.birth(), self.node_bytes());
        let before = Box::<[u8]>::from(self.dirty_ref(path.way.leaf));
        let mut rows = Rows::of(&before);
        match key {
            Some(key) => rows.insert(index, Row { key, value: *value }),
            None => rows[index].value = *value,
        }
        let rows = Rows::new(rows);
        let total = rows.len();
        if rows.leaf_bytes(0, total) <= node_bytes {
            rows.build(0, total, self.dirty_node(path.way.leaf), birth);
            return Ok(());
        }
        // Keys that arrive in order leave full leaves behind them.
        let cut = if key.is_some() && index + 1 == total && path.way.is_last {
            total - 1
        } else if key.is_some() && index == 0 && path.way.is_first {
            1
        } else {
            rows.split_point(node_bytes)
        };
        let separator = separator(&rows.get(cut - 1).key, &rows.get(cut).key, &*self)?;
        let separator = self.make_key(&separator)?;
        let right = self.allocate_node()?;
        rows.build(0, cut, self.dirty_node(path.way.leaf), birth);
        rows.build(cut, total, self.dirty_node(right), birth);
        self.insert_separator(path.way.branches, separator, right)
    }

    /// Names a new right neighbour in the parent, splitting upwards where there is no room.
    fn insert_separator(&mut self, mut branches: Vec<(PageId, usize)>, key: NodeKey, right: PageId) -> Result<()> {
        let (mut key, mut right) = (key, right);
        while let Some((page, index)) = branches.pop() {
            let child = Child { page: right, sum: 0 };
            self.check_separator(page, index, &key)?;
            if branch::insert(self.dirty_node(page), index, &key.cell(), child) {
                return Ok(());
            }
            let edge = branches.iter().all(|(page, index)| *index == node::count(self.dirty_ref(*page)));
            let before = Box::<[u8]>::from(self.dirty_ref(page));
            let mut fences = Fences::of(&before);
            fences.separators.insert(index, key.cell());
            fences.children.insert(index + 1, child);
            let promoted = self.rewrite_branch(page, &fences, edge && index == node::count(&before))?;
            let Some((promoted, new)) = promoted else { return Ok(()) };
            (key, right) = (promoted, new);
        }
        self.grow_root(&key, right)
    }

    /// Refuses a separator that does not belong at `index`: a damaged leaf may hold keys of another one, and a branch
    /// out of order cannot be rebuilt.
    fn check_separator(&self, page: PageId, index: usize, key: &NodeKey) -> Result<()> {
        let branch = self.dirty_ref(page);
        let above = index == 0 || branch::separator(branch, index - 1).inline_cmp(&key.cell()) != Ordering::Greater;
        let below =
            index == node::count(branch) || branch::separator(branch, index).inline_cmp(&key.cell()) != Ordering::Less;
        if above && below {
            return Ok(());
        }
        Err(StorageError::corrupted_page(page, "a child holds keys that its separators exclude"))
    }

    /// Rebuilds a branch in one node, or in two: then the separator between them and the new one are returned.
    fn rewrite_branch(
        &mut self,
        page: PageId,
        fences: &Fences<'_>,
        appending: bool,
    ) -> Result<Option<(NodeKey, PageId)>> {
        let (birth, node_bytes) = (self.writer.birth(), self.node_bytes());
        let (total, level) = (fences.separators.len(), node::level(self.dirty_ref(page)));
        if fences.branch_bytes(0, total) <= node_bytes {
            fences.build(0, total, self.dirty_node(page), level, birth);
            return Ok(None);
        }
        let cut = if appending && total > 2 { total - 2 } else { fences.split_point(node_bytes) };
        let new = self.allocate_node()?;
        fences.build(0, cut, self.dirty_node(page), level, birth);
        let right =
            Fences { separators: fences.separators[cut + 1..].to_vec(), children: fences.children[cut + 1..].to_vec() };
        right.build(0, right.separators.len(), self.dirty_node(new), level, birth);
        Ok(Some((NodeKey::of(&fences.separators[cut]), new)))
    }

    /// Puts a new root above the old one and its new right neighbour.
    fn grow_root(&mut self, key: &NodeKey, right: PageId) -> Result<()> {
        let (birth, level) = (self.writer.birth(), self.root.height + 1);
        let page = self.allocate_node()?;
        let children = vec![Child { page: self.root.page, sum: 0 }, Child { page: right, sum: 0 }];
        let fences = Fences { separators: vec![key.cell()], children };
        fences.build(0, 1, self.dirty_node(page), level, birth);
        self.set_root(page, level);
        Ok(())
    }
}

/// The shortest key above `left` and at most `right`.
pub(super) fn separator(left: &KeyCell<'_>, right: &KeyCell<'_>, extents: &impl Extents) -> Result<Vec<u8>> {
    let shared = left.common_inline(right);
    if shared < right.inline_len() && (shared < left.inline_len() || left.rest.is_none()) {
        let mut key = vec![0; right.inline_len()];
        right.copy_inline(0, &mut key);
        key.truncate(shared + 1);
        return Ok(key);
    }
    let (left, mut right) = (left.to_vec(extents)?, right.to_vec(extents)?);
    let shared = common(&left, &right);
    right.truncate(shared + 1);
    Ok(right)
}
