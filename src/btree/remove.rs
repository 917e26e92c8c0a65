//! Removing rows.
//!
//! Invariant: a key that is not there leaves the tree untouched, dirty nodes included.
//! Layer 3 (btree).

use super::insert::Way;
use super::leaf;
use super::node;
use super::search;
use super::tree::TreeMut;
use crate::base::error::{Result, StorageError};
use crate::base::ids::PageId;

/// An end of the key order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Edge {
    First,
    Last,
}

impl TreeMut {
    /// Removes a row and returns its value.
    ///
    /// After an error the tree may be half changed: the transaction must be aborted.
    pub(crate) fn remove(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        if search::get(&&*self, &self.root, key)?.is_none() {
            return Ok(None);
        }
        let path = self.dirty_path(key)?;
        let Ok(index) = path.found else {
            return Err(StorageError::corrupted_page(path.leaf, "a row vanished between two searches"));
        };
        self.take_row((path.branches, path.leaf), index).map(Some)
    }

    /// Removes the first or the last row and returns it.
    ///
    /// After an error the tree may be half changed: the transaction must be aborted.
    pub(crate) fn pop(&mut self, edge: Edge) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        if self.root.height == 0 {
            return Ok(None);
        }
        let (branches, page) = match self.edge_way.take() {
            Some((last, way)) if last == edge => way,
            _ => self.dirty_way(|_, branch| Ok(if edge == Edge::First { 0 } else { node::count(branch) }))?,
        };
        let count = node::count(self.dirty_ref(page));
        let index = if edge == Edge::First { 0 } else { count.saturating_sub(1) };
        if index >= count {
            return Err(StorageError::corrupted_page(page, "a leaf of a tree has no rows"));
        }
        let key = leaf::row(self.dirty_ref(page), index).key.to_vec(&*self)?;
        let value = self.cut_row(page, index)?;
        if count == 1 {
            self.rebalance(branches, page)?;
        } else {
            // Whoever pops once pops again: the leaf empties row by row, and no neighbour need take what is left.
            self.edge_way = Some((edge, (branches, page)));
        }
        Ok(Some((key, value)))
    }

    /// Removes a row of a dirty leaf and returns its value.
    fn take_row(&mut self, (branches, page): Way, index: usize) -> Result<Vec<u8>> {
        let value = self.cut_row(page, index)?;
        self.rebalance(branches, page)?;
        Ok(value)
    }

    /// Removes a row of a dirty leaf, however few are left, and returns its value.
    fn cut_row(&mut self, page: PageId, index: usize) -> Result<Vec<u8>> {
        let value = self.take_value(page, index)?;
        if let Some(rest) = leaf::row(self.dirty_ref(page), index).key.rest.copied() {
            self.free_extent(&rest)?;
        }
        leaf::remove(self.dirty_node(page), index);
        self.count_rows(0, 1)?;
        Ok(value)
    }
}
