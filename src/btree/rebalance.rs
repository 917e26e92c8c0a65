//! Keeping nodes filled after removals.
//!
//! Invariant: two neighbours merge only into one node that is at most 90 % full, so a merge never splits again and
//! the next insertion rarely does.
//! Layer 3 (btree).

use super::branch;
use super::build::{Fences, Rows};
use super::key::KeyCell;
use super::leaf;
use super::node::{self, HEADER_BYTES, KIND_LEAF};
use super::tree::{Pages, TreeMut, root_expected};
use crate::base::checksum;
use crate::base::error::{Result, StorageError};
use crate::base::ids::{PageId, TreeRoot};
use crate::pages::store::Expected;
use std::cmp::Ordering;

/// A node below this share looks for a neighbour to merge with.
pub(super) const FILL_PERCENT_MIN: usize = 40;

/// A merged node is at most this full.
pub(super) const FILL_PERCENT_MAX: usize = 90;

pub(super) fn used_bytes(node: &[u8]) -> usize {
    if node::kind(node) == KIND_LEAF { leaf::used_bytes(node) } else { branch::used_bytes(node) }
}

fn is_mergeable(bytes: usize, node_bytes: usize) -> bool {
    bytes * 100 <= node_bytes * FILL_PERCENT_MAX
}

/// Refuses to put keys of damaged neighbours into one node where they are out of order.
pub(super) fn check_order(page: PageId, before: Option<KeyCell<'_>>, after: Option<KeyCell<'_>>) -> Result<()> {
    match (before, after) {
        (Some(before), Some(after)) if before.inline_cmp(&after) == Ordering::Greater => {
            Err(StorageError::corrupted_page(page, "the keys of neighbours are out of order"))
        }
        _ => Ok(()),
    }
}

impl TreeMut {
    /// Restores the fill of a node that lost something, and of the branches above it.
    pub(super) fn rebalance(&mut self, mut branches: Vec<(PageId, usize)>, page: PageId) -> Result<()> {
        let mut page = page;
        // A leaf without rows, or a branch that lost its only child, leaves its parent altogether.
        let mut empty = node::count(self.dirty_ref(page)) == 0;
        while let Some((parent, index)) = branches.pop() {
            if empty {
                self.free_node(page, self.writer.birth())?;
                empty = node::count(self.dirty_ref(parent)) == 0;
                if !empty {
                    self.drop_child(parent, index)?;
                }
            } else if used_bytes(self.dirty_ref(page)) * 100 >= self.node_bytes() * FILL_PERCENT_MIN
                || !self.merge_neighbour(parent, index, page)?
            {
                return self.collapse_root();
            }
            page = parent;
        }
        if empty {
            self.free_node(page, self.writer.birth())?;
            self.root = TreeRoot::EMPTY;
            self.changed = true;
            return Ok(());
        }
        self.collapse_root()
    }

    /// Removes the pointer to a child that is gone, and the separator beside it.
    fn drop_child(&mut self, parent: PageId, index: usize) -> Result<()> {
        let (separator, right_child) = if index > 0 { (index - 1, true) } else { (0, false) };
        if let Some(rest) = branch::separator(self.dirty_ref(parent), separator).rest.copied() {
            self.free_extent(&rest)?;
        }
        branch::remove(self.dirty_node(parent), separator, right_child);
        Ok(())
    }

    /// Merges a dirty node with a neighbour where the result is not too full; says whether it did.
    fn merge_neighbour(&mut self, parent: PageId, index: usize, page: PageId) -> Result<bool> {
        let separators = node::count(self.dirty_ref(parent));
        let level = node::level(self.dirty_ref(page));
        let left = (index > 0).then(|| (index - 1, index - 1));
        let right = (index < separators).then_some((index, index + 1));
        for (separator, sibling) in [left, right].into_iter().flatten() {
            let child = branch::child(self.dirty_ref(parent), sibling);
            let node = (&*self).node(child.page, Expected::Child(child.sum), level)?;
            let own = self.dirty_ref(page);
            // Spares copies where a merge is hopeless; what a longer prefix could save is left alone.
            if !is_mergeable(used_bytes(&node) + used_bytes(own) - HEADER_BYTES, own.len()) {
                continue;
            }
            let (other, own) = (Box::<[u8]>::from(&*node), Box::<[u8]>::from(own));
            drop(node);
            let (first, second) = if sibling < index { (&other, &own) } else { (&own, &other) };
            let merged = if level == 1 {
                self.merge_leaves(page, first, second)?
            } else {
                self.merge_branches(page, parent, separator, first, second)?
            };
            if !merged {
                continue;
            }
            let rest = branch::separator(self.dirty_ref(parent), separator).rest.copied();
            branch::remove(self.dirty_node(parent), separator, sibling > index);
            if let Some(rest) = rest.filter(|_| level == 1) {
                // A separator between leaves is gone; one between branches has moved down into the merged one.
                self.free_extent(&rest)?;
            }
            self.free_node(child.page, node::birth(&other))?;
            return Ok(true);
        }
        Ok(false)
    }

    fn merge_leaves(&mut self, into: PageId, first: &[u8], second: &[u8]) -> Result<bool> {
        let (mut rows, right) = (Rows::of(first), Rows::of(second));
        check_order(into, rows.last().map(|row| row.key), right.first().map(|row| row.key))?;
        rows.extend(right);
        let rows = Rows::new(rows);
        let fits = is_mergeable(rows.leaf_bytes(0, rows.len()), self.node_bytes());
        if fits {
            let birth = self.writer.birth();
            rows.build(0, rows.len(), self.dirty_node(into), birth);
        }
        Ok(fits)
    }

    fn merge_branches(
        &mut self,
        into: PageId,
        parent: PageId,
        separator: usize,
        first: &[u8],
        second: &[u8],
    ) -> Result<bool> {
        let above = Box::<[u8]>::from(self.dirty_ref(parent));
        let between: KeyCell<'_> = branch::separator(&above, separator);
        let (mut fences, right) = (Fences::of(first), Fences::of(second));
        check_order(into, fences.separators.last().copied(), Some(between))?;
        check_order(into, Some(between), right.separators.first().copied())?;
        fences.separators.push(between);
        fences.separators.extend(right.separators);
        fences.children.extend(right.children);
        let total = fences.separators.len();
        let fits = is_mergeable(fences.branch_bytes(0, total), self.node_bytes());
        if fits {
            let (birth, level) = (self.writer.birth(), node::level(first));
            fences.build(0, total, self.dirty_node(into), level, birth);
        }
        Ok(fits)
    }

    /// Removes roots that have one child only, so that every root that is a branch has a separator.
    pub(super) fn collapse_root(&mut self) -> Result<()> {
        while self.root.height > 1 {
            let (old, height) = (self.root.page, self.root.height);
            let node = (&*self).node(old, root_expected(&self.root), height)?;
            if node::count(&node) > 0 {
                break;
            }
            let (birth, child) = (node::birth(&node), branch::child(&node, 0));
            drop(node);
            let node = (&*self).node(child.page, Expected::Child(child.sum), height - 1)?;
            let digest = checksum::digest(&node);
            drop(node);
            self.set_root(child.page, height - 1);
            if child.sum != 0 {
                // The child is written and stays as it is; only its digest as a root was not known before.
                self.root.digest = digest;
            }
            self.free_node(old, birth)?;
        }
        Ok(())
    }
}
