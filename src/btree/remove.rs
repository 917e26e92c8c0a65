//! Removing rows.
//!
//! Invariant: a key that is not there leaves the tree untouched, dirty nodes included.
//! Layer 3 (btree).

use super::leaf;
use super::search;
use super::tree::TreeMut;
use crate::base::error::{Result, StorageError};

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
        let value = self.take_value(path.leaf, index)?;
        if let Some(rest) = leaf::row(self.dirty_ref(path.leaf), index).key.rest.copied() {
            self.free_extent(&rest)?;
        }
        leaf::remove(self.dirty_node(path.leaf), index);
        self.root.rows = self
            .root
            .rows
            .checked_sub(1)
            .ok_or_else(|| StorageError::corrupted("the tree counts fewer rows than it holds"))?;
        self.rebalance(path.branches, path.leaf)?;
        Ok(Some(value))
    }
}
