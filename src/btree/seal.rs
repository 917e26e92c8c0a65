//! Turning a changed tree into pages that can be written: checksums, once per page, children first.
//!
//! Invariant: after sealing no page of the tree is dirty, and every parent carries the checksums of its children.
//! Layer 3 (btree). Rules: design.md, "Commit".

use super::branch::{self, Child};
use super::leaf;
use super::node::{self, KIND_BRANCH, KIND_LEAF};
use super::tree::{TreeMut, nowhere};
use crate::base::checksum;
use crate::base::error::Result;
use crate::base::ids::{PageId, TreeRoot};
use crate::pages::behind::Sealed;
use crate::pages::store::child_sum;

impl TreeMut {
    /// Seals the tree: returns its final root and appends its pages to `out`.
    pub(crate) fn seal(mut self, out: &mut Vec<Sealed>) -> Result<TreeRoot> {
        let root = self.root.page;
        if self.dirty.contains_key(&root) {
            self.seal_subtree(root, out)?;
            let sealed = out.last().expect("the root was just sealed");
            self.root.digest = checksum::digest(&sealed.bytes);
        }
        self.seal_extents(out);
        assert!(self.dirty.is_empty(), "a dirty page is not reachable from the root of its tree");
        Ok(self.root)
    }

    pub(super) fn seal_extents(&mut self, out: &mut Vec<Sealed>) {
        for (page, bytes) in std::mem::take(&mut self.extents) {
            self.count_dirty(0, bytes.len());
            out.push(Sealed { page, bytes, level: None });
        }
    }

    /// Seals a dirty node after everything dirty below it; it is the last in `out`. Recursion is bounded by height.
    pub(super) fn seal_subtree(&mut self, page: PageId, out: &mut Vec<Sealed>) -> Result<u64> {
        self.finger = None;
        // Rule R7: a pointer without a checksum names dirty content, or its parent must not be written.
        let mut bytes = self.dirty.remove(&page).ok_or_else(|| nowhere(page))?;
        if node::kind(&bytes) == KIND_BRANCH {
            for index in 0..=node::count(&bytes) {
                let child = branch::child(&bytes, index);
                if child.sum == 0 {
                    let sum = self.seal_subtree(child.page, out)?;
                    branch::set_child(&mut bytes, index, Child { page: child.page, sum });
                }
            }
        }
        if node::kind(&bytes) == KIND_LEAF {
            leaf::order_heap(&mut bytes);
        }
        self.count_dirty(0, bytes.len());
        let sum = child_sum(&bytes);
        let level = Some(node::level(&bytes));
        out.push(Sealed { page, bytes, level });
        Ok(sum)
    }

    /// Writes everything below the root before the commit, so that memory stays bounded. A page that is written this
    /// way is copied when it changes again.
    pub(crate) fn spill(&mut self) -> Result<()> {
        let root = self.root.page;
        let mut out = Vec::new();
        if self.root.height > 1 && self.dirty.contains_key(&root) {
            for index in 0..=node::count(self.dirty_ref(root)) {
                let child = branch::child(self.dirty_ref(root), index);
                if child.sum == 0 {
                    let sum = self.seal_subtree(child.page, &mut out)?;
                    branch::set_child(self.dirty_node(root), index, Child { page: child.page, sum });
                }
            }
        }
        self.seal_extents(&mut out);
        let mut pages: Vec<_> = out.iter().map(|sealed| (sealed.page, &sealed.bytes[..])).collect();
        self.writer.write_early(&mut pages)?;
        self.writer.store().install_sealed(&out);
        Ok(())
    }

    /// Spills where the transaction keeps too much in memory.
    pub(crate) fn spill_if_over_budget(&mut self) -> Result<()> {
        if self.writer.exceeds_budget() { self.spill() } else { Ok(()) }
    }
}
