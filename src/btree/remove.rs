//! Removing rows.
//!
//! Invariant: a key that is not there leaves the tree untouched, dirty nodes included.
//! Layer 3 (btree).

use super::insert::{Path, Way};
use super::leaf;
use super::node;
use super::rebalance::{FILL_PERCENT_MIN, used_bytes};
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
        let path = match self.finger_path(key)? {
            Some(Path { way, found: Err(_) }) => {
                self.finger = Some(way);
                return Ok(None);
            }
            Some(path) => path,
            None if search::get(&&*self, &self.root, key)?.is_none() => return Ok(None),
            None => self.dirty_path(key)?,
        };
        let Ok(index) = path.found else {
            return Err(StorageError::corrupted_page(path.way.leaf, "a row vanished between two searches"));
        };
        let value = self.cut_row(path.way.leaf, index)?;
        if used_bytes(self.dirty_ref(path.way.leaf)) * 100 >= self.node_bytes() * FILL_PERCENT_MIN {
            self.finger = Some(path.way);
        } else {
            self.rebalance(path.way.branches, path.way.leaf)?;
        }
        Ok(Some(value))
    }

    /// Removes the first or the last row and returns it.
    ///
    /// After an error the tree may be half changed: the transaction must be aborted.
    pub(crate) fn pop(&mut self, edge: Edge) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        if self.root.height == 0 {
            return Ok(None);
        }
        let is_at_edge = |way: &Way| if edge == Edge::First { way.is_first } else { way.is_last };
        let way = match self.finger.take().filter(is_at_edge) {
            Some(way) => way,
            None => self.dirty_way(|_, branch| Ok(if edge == Edge::First { 0 } else { node::count(branch) }))?,
        };
        let page = way.leaf;
        let count = node::count(self.dirty_ref(page));
        let index = if edge == Edge::First { 0 } else { count.saturating_sub(1) };
        if index >= count {
            return Err(StorageError::corrupted_page(page, "a leaf of a tree has no rows"));
        }
        let key = leaf::row(self.dirty_ref(page), index).key.to_vec(&*self)?;
        let value = self.cut_row(page, index)?;
        if count == 1 {
            self.rebalance(way.branches, page)?;
        } else {
            // Whoever pops once pops again: the leaf empties row by row, and no neighbour need take what is left.
            self.finger = Some(way);
        }
        Ok(Some((key, value)))
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
