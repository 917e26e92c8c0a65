//! The writer's tree with a buffer of changes in front of it.
//!
//! Invariant: whoever sees the tree sees every change that was buffered before, and sees it whole. A tree whose merge
//! failed is gone, and one that a pass left in pieces is never shown: every call from then on says so.
//! Layer 3 (btree).

use super::buffer::WriteBuffer;
use super::tree::TreeMut;
use crate::base::error::{Result, StorageError};
use crate::base::sync::Mutex;
use std::sync::OnceLock;

/// A tree in one of two states: settled, where it is read without a lock, or pending with changes in front of it.
#[derive(Debug)]
pub(crate) struct BufferedTree {
    settled: OnceLock<TreeMut>,
    /// Empty while the tree is settled, and for good once a merge failed.
    pending: Mutex<Option<Box<(TreeMut, WriteBuffer)>>>,
}

/// A buffer whose keys ascend is merged once it has so much: waiting for more would gain nothing, and what was written
/// a moment ago is still near.
const SORTED_BYTES_MAX: usize = 1 << 20;

fn merge(tree: &mut TreeMut, buffer: &mut WriteBuffer) -> Result<()> {
    tree.merge(buffer.sorted())
}

impl BufferedTree {
    pub(crate) fn new(tree: TreeMut) -> Self {
        Self { settled: OnceLock::from(tree), pending: Mutex::new(None) }
    }

    /// Sets the value of a key.
    pub(crate) fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.change(key, Some(value))
    }

    /// Removes a row, if there is one.
    pub(crate) fn delete(&mut self, key: &[u8]) -> Result<()> {
        self.change(key, None)
    }

    fn change(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        if let Some(tree) = self.settled.take() {
            tree.check_whole()?;
            *self.pending.get_mut() = Some(Box::new((tree, WriteBuffer::default())));
        }
        let pending = self.pending.get_mut().as_mut().ok_or(StorageError::TransactionPoisoned)?;
        let (tree, buffer) = &mut **pending;
        tree.check_sizes(key, value.unwrap_or_default())?;
        let before = buffer.bytes();
        match value {
            Some(value) => buffer.put(key, value),
            None => buffer.delete(key),
        }
        let after = buffer.bytes();
        if after > before {
            tree.writer.count_buffered(after - before, 0);
        }
        if buffer.is_sorted() && buffer.used_bytes() >= SORTED_BYTES_MAX { self.merge_sorted() } else { Ok(()) }
    }

    fn merge_sorted(&mut self) -> Result<()> {
        // Gone unless the merge succeeds.
        let mut pending = self.pending.get_mut().take().ok_or(StorageError::TransactionPoisoned)?;
        let (tree, buffer) = &mut *pending;
        merge(tree, buffer)?;
        let before = buffer.bytes();
        buffer.clear();
        tree.writer.count_buffered(0, before - buffer.bytes());
        *self.pending.get_mut() = Some(pending);
        Ok(())
    }

    /// The tree without what is buffered, for what does not depend on rows.
    pub(crate) fn base_mut(&mut self) -> Result<&mut TreeMut> {
        match self.settled.get_mut() {
            Some(tree) => tree.check_whole().map(|()| tree),
            None => match self.pending.get_mut() {
                Some(pending) => Ok(&mut pending.0),
                None => Err(StorageError::TransactionPoisoned),
            },
        }
    }

    /// Memory that buffered changes take.
    pub(crate) fn buffer_bytes(&self) -> usize {
        if self.settled.get().is_some() {
            return 0;
        }
        self.pending.lock().as_ref().map_or(0, |pending| pending.1.bytes())
    }

    /// Merges what is buffered. Of several threads one does it and the others wait.
    fn settle(&self) -> Result<&TreeMut> {
        if let Some(tree) = self.settled.get() {
            return tree.check_whole().map(|()| tree);
        }
        let mut pending = self.pending.lock();
        match pending.take() {
            Some(changes) => {
                let (mut tree, mut buffer) = *changes;
                merge(&mut tree, &mut buffer)?;
                tree.writer.count_buffered(0, buffer.bytes());
                // Still under the lock, so that whoever waits for it finds the tree.
                Ok(self.settled.get_or_init(|| tree))
            }
            None => self.settled.get().ok_or(StorageError::TransactionPoisoned),
        }
    }

    /// The tree with all changes applied.
    pub(crate) fn tree(&self) -> Result<&TreeMut> {
        self.settle()
    }

    /// The tree with all changes applied, to be changed directly.
    pub(crate) fn tree_mut(&mut self) -> Result<&mut TreeMut> {
        self.settle()?;
        self.settled.get_mut().ok_or(StorageError::TransactionPoisoned)
    }

    /// The tree with all changes applied.
    pub(crate) fn into_tree(self) -> Result<TreeMut> {
        self.settle()?;
        let mut tree = self.settled.into_inner().ok_or(StorageError::TransactionPoisoned)?;
        tree.release_spare();
        Ok(tree)
    }
}
