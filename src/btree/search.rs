//! Finding rows: bounded descent from a root.
//!
//! Invariant: a descent visits at most `height` nodes, each one level lower than the one before, so no pointer cycle
//! can hold it.
//! Layer 3 (btree).

use super::key::Extents;
use super::leaf::{self, ValueCell};
use super::node;
use super::tree::{Pages, root_expected};
use super::{branch, key};
use crate::base::error::Result;
use crate::base::ids::TreeRoot;
use crate::pages::store::Expected;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// A row in a leaf that is kept readable.
#[derive(Debug, Clone)]
pub(crate) struct RowRef<N> {
    leaf: N,
    index: usize,
}

/// The bytes of a key or value: inside the leaf, or brought together.
#[derive(Debug, Clone)]
pub(crate) enum RowBytes<N> {
    InLeaf(N, Range<usize>),
    Fetched(Arc<[u8]>),
    Owned(Vec<u8>),
    /// Short enough that a copy is cheaper than keeping the leaf.
    Short([u8; SHORT_BYTES_MAX], usize),
}

/// Up to this length bytes are copied into the guard itself.
const SHORT_BYTES_MAX: usize = 40;

/// Up to this length the values of a range are copied.
const COPIED_BYTES_MAX: usize = 512;

impl<N: Deref<Target = [u8]>> RowBytes<N> {
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::InLeaf(leaf, range) => &leaf[range.clone()],
            Self::Fetched(bytes) => bytes,
            Self::Owned(bytes) => bytes,
            Self::Short(bytes, len) => &bytes[..*len],
        }
    }

    /// Keeps the leaf in another way.
    pub(crate) fn map_leaf<M>(self, map: impl FnOnce(N) -> M) -> RowBytes<M> {
        match self {
            Self::InLeaf(leaf, range) => RowBytes::InLeaf(map(leaf), range),
            Self::Fetched(bytes) => RowBytes::Fetched(bytes),
            Self::Owned(bytes) => RowBytes::Owned(bytes),
            Self::Short(bytes, len) => RowBytes::Short(bytes, len),
        }
    }
}

impl<N: Deref<Target = [u8]> + Clone> RowRef<N> {
    pub(crate) fn new(leaf: N, index: usize) -> Self {
        Self { leaf, index }
    }

    /// The whole key.
    pub(crate) fn key(&self, extents: &impl Extents) -> Result<RowBytes<N>> {
        key_at(&self.leaf, self.index, extents)
    }

    /// The value, fetched where it is out of line.
    pub(crate) fn into_value(self, extents: &impl Extents) -> Result<RowBytes<N>> {
        let (at, len) = match leaf::row(&self.leaf, self.index).value {
            ValueCell::Extent(encoded) => return Ok(RowBytes::Fetched(extents.extent(encoded)?)),
            ValueCell::Inline(bytes) => (leaf::value_offset(&self.leaf, self.index), bytes.len()),
        };
        Ok(RowBytes::InLeaf(self.leaf, at..at + len))
    }
}

/// The key of a row: a copy where it is short, in the leaf where it stands there in one piece.
pub(crate) fn key_at<N>(leaf: &N, index: usize, extents: &impl Extents) -> Result<RowBytes<N>>
where
    N: Deref<Target = [u8]> + Clone,
{
    let cell = leaf::row(leaf, index).key;
    if cell.rest.is_none() && cell.inline_len() <= SHORT_BYTES_MAX {
        let mut bytes = [0; SHORT_BYTES_MAX];
        let len = cell.copy_inline(0, &mut bytes);
        return Ok(RowBytes::Short(bytes, len));
    }
    if cell.prefix.is_empty() && cell.rest.is_none() {
        let at = leaf::key_offset(leaf, index);
        Ok(RowBytes::InLeaf(leaf.clone(), at..at + cell.suffix.len()))
    } else {
        cell.to_vec(extents).map(RowBytes::Owned)
    }
}

/// The value of a row that is one of many: a copy where it is small, because keeping the leaf costs an atomic update
/// for each row, behind which the processor cannot fetch the next one ahead.
pub(crate) fn value_at<N>(leaf: &N, index: usize, extents: &impl Extents) -> Result<RowBytes<N>>
where
    N: Deref<Target = [u8]> + Clone,
{
    match leaf::row(leaf, index).value {
        ValueCell::Inline(bytes) if bytes.len() <= SHORT_BYTES_MAX => {
            let mut short = [0; SHORT_BYTES_MAX];
            short[..bytes.len()].copy_from_slice(bytes);
            Ok(RowBytes::Short(short, bytes.len()))
        }
        ValueCell::Inline(bytes) if bytes.len() <= COPIED_BYTES_MAX => Ok(RowBytes::Owned(bytes.to_vec())),
        _ => RowRef::new(leaf.clone(), index).into_value(extents),
    }
}

/// Finds the row with this key.
pub(crate) fn get<P: Pages>(pages: &P, root: &TreeRoot, key: &[u8]) -> Result<Option<RowRef<P::Node>>> {
    if root.height == 0 || key.len() > key::KEY_BYTES_MAX {
        return Ok(None);
    }
    let mut node = pages.node(root.page, root_expected(root), root.height)?;
    for level in (1..root.height).rev() {
        let child = branch::child(&node, branch::search(&node, key, pages)?);
        node = pages.node(child.page, Expected::Child(child.sum), level)?;
    }
    Ok(leaf::search(&node, key, pages)?.ok().map(|index| RowRef::new(node, index)))
}

/// A node and a position in it, on the way from the root to a leaf.
pub(crate) type Step<N> = (N, usize);

/// Descends to the first row whose key is at least `key`; the last step may stand behind its leaf's last row.
pub(crate) fn seek<P: Pages>(pages: &P, root: &TreeRoot, key: &[u8]) -> Result<Vec<Step<P::Node>>> {
    descend(pages, root, |node, level| {
        if level == 1 {
            Ok(leaf::search(node, key, pages)?.unwrap_or_else(|index| index))
        } else {
            branch::search(node, key, pages)
        }
    })
}

/// Descends to the first row.
pub(crate) fn seek_first<P: Pages>(pages: &P, root: &TreeRoot) -> Result<Vec<Step<P::Node>>> {
    descend(pages, root, |_, _| Ok(0))
}

/// Descends to behind the last row.
pub(crate) fn seek_end<P: Pages>(pages: &P, root: &TreeRoot) -> Result<Vec<Step<P::Node>>> {
    descend(pages, root, |node, _| Ok(node::count(node)))
}

/// Descends from the root, letting `choose` pick the child of each branch and the row of the leaf.
pub(crate) fn descend<P: Pages>(
    pages: &P,
    root: &TreeRoot,
    mut choose: impl FnMut(&[u8], u8) -> Result<usize>,
) -> Result<Vec<Step<P::Node>>> {
    let mut path = Vec::with_capacity(usize::from(root.height));
    if root.height == 0 {
        return Ok(path);
    }
    let mut node = pages.node(root.page, root_expected(root), root.height)?;
    for level in (1..=root.height).rev() {
        let index = choose(&node, level)?;
        if level == 1 {
            path.push((node, index));
            break;
        }
        let child = branch::child(&node, index);
        path.push((node, index));
        node = pages.node(child.page, Expected::Child(child.sum), level - 1)?;
    }
    Ok(path)
}
