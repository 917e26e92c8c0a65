//! Finding rows: bounded descent from a root.
//!
//! Invariant: a descent visits at most `height` nodes, each one level lower than the one before, so no pointer cycle
//! can hold it.
//! Layer 3 (btree).

use super::cursor::Found;
use super::key::{Extents, KeyCell};
use super::leaf::{self, ValueCell};
use super::node;
use super::tree::{Pages, root_expected};
use super::{branch, key};
use crate::base::error::Result;
use crate::base::ids::{PageId, TreeRoot};
use crate::pages::snapshot::PageRef;
use crate::pages::store::Expected;
use std::cmp::Ordering;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// A row in a leaf that is kept readable.
#[derive(Debug, Clone)]
pub(crate) struct RowRef<N> {
    leaf: N,
    index: usize,
}

/// A node of which a part can be shown.
pub(crate) trait Narrow: Deref<Target = [u8]> + Clone {
    fn narrow(self, range: Range<usize>) -> Self;

    fn part(&self, range: Range<usize>) -> Self;
}

impl Narrow for PageRef<'_> {
    #[inline]
    fn narrow(self, range: Range<usize>) -> Self {
        PageRef::narrow(self, range)
    }

    #[inline(always)]
    fn part(&self, range: Range<usize>) -> Self {
        PageRef::part(self, range)
    }
}

/// The bytes of a key or value: a part of the leaf, or brought together.
#[derive(Debug, Clone)]
pub(crate) enum RowBytes<N> {
    InLeaf(N),
    Fetched(Arc<[u8]>),
    Owned(Vec<u8>),
    /// Short enough that a copy is cheaper than keeping the leaf.
    Short(Short),
}

/// A copy of few bytes. Aligned, because it is moved from hand to hand: moves of odd pieces make the processor wait.
#[derive(Debug, Clone, Copy)]
#[repr(align(8))]
pub(crate) struct Short {
    bytes: [u8; SHORT_BYTES_MAX],
    len: usize,
}

/// Up to this length bytes are copied into the guard itself.
const SHORT_BYTES_MAX: usize = 40;

impl<N: Deref<Target = [u8]>> RowBytes<N> {
    #[inline]
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::InLeaf(part) => part,
            Self::Fetched(bytes) => bytes,
            Self::Owned(bytes) => bytes,
            Self::Short(short) => &short.bytes[..short.len],
        }
    }
}

impl RowBytes<PageRef<'static>> {
    /// A part of bytes that are not in a page.
    pub(super) fn part_of(bytes: &Arc<[u8]>, range: Range<usize>) -> Self {
        if range.len() <= SHORT_BYTES_MAX {
            short(bytes, &bytes[range])
        } else {
            Self::InLeaf(PageRef::private(Arc::clone(bytes)).narrow(range))
        }
    }
}

impl<N: Deref<Target = [u8]>> RowBytes<N> {
    /// The same bytes without the leaf.
    pub(crate) fn into_owned<M>(self) -> RowBytes<M> {
        match self {
            Self::InLeaf(part) => RowBytes::Owned(part.to_vec()),
            Self::Fetched(bytes) => RowBytes::Fetched(bytes),
            Self::Owned(bytes) => RowBytes::Owned(bytes),
            Self::Short(short) => RowBytes::Short(short),
        }
    }
}

impl<N: Narrow> RowRef<N> {
    pub(crate) fn new(leaf: N, index: usize) -> Self {
        Self { leaf, index }
    }

    /// The value, fetched where it is out of line.
    pub(crate) fn into_value(self, extents: &impl Extents) -> Result<RowBytes<N>> {
        self.into_kept_value(extents, |leaf| leaf)
    }

    /// The value, with the leaf kept as `keep` does where the value is not copied.
    #[inline]
    pub(crate) fn into_kept_value<M: Narrow>(
        self,
        extents: &impl Extents,
        keep: impl FnOnce(N) -> M,
    ) -> Result<RowBytes<M>> {
        let range = match leaf::row(&self.leaf, self.index).value {
            ValueCell::Extent(encoded) => return Ok(RowBytes::Fetched(extents.extent(encoded)?)),
            ValueCell::Inline(bytes) if bytes.len() <= SHORT_BYTES_MAX => return Ok(short(&self.leaf, bytes)),
            ValueCell::Inline(bytes) => place_in(&self.leaf, bytes),
        };
        Ok(RowBytes::InLeaf(keep(self.leaf).narrow(range)))
    }
}

/// The bytes of a row.
type KeyAndValue<N> = (RowBytes<N>, RowBytes<N>);

impl<'c, P: Pages> Found<'c, P> {
    /// Key and value of a row of which each stands in the leaf in one piece, as nearly all do.
    #[inline]
    pub(crate) fn in_leaf(&self) -> Option<(&'c [u8], &'c [u8])> {
        match leaf::row(self.leaf, self.index) {
            leaf::Row { key: KeyCell { prefix: [], suffix, rest: None }, value: ValueCell::Inline(value) } => {
                Some((suffix, value))
            }
            _ => None,
        }
    }

    /// How the key of the row compares with another.
    pub(super) fn compare_key(&self, key: &[u8]) -> Result<Ordering> {
        let row = leaf::row(self.leaf, self.index);
        let order = match key::strip_prefix(row.key.prefix, key) {
            Ok(suffix) => row.key.compare_suffix(suffix, self.pages)?,
            Err(side) => side,
        };
        Ok(order.reverse())
    }

    /// A part of the leaf, kept: as a copy where it is short.
    #[inline(always)]
    pub(crate) fn keep(&self, part: &[u8]) -> RowBytes<P::Node> {
        keep_part(self.leaf, part)
    }

    /// Key and value of the row.
    #[inline]
    pub(crate) fn key_and_value(&self) -> Result<KeyAndValue<P::Node>> {
        let row = leaf::row(self.leaf, self.index);
        Ok((key_of(self.leaf, &row.key, self.pages)?, value_of(self.leaf, &row.value, self.pages)?))
    }
}

/// Where a part of a leaf stands in it.
#[inline]
fn place_in(leaf: &[u8], part: &[u8]) -> Range<usize> {
    let at = part.as_ptr().addr() - leaf.as_ptr().addr();
    at..at + part.len()
}

/// The whole key of a row: a copy where it is short, in the leaf where it stands there in one piece.
#[inline]
fn key_of<N>(leaf: &N, key: &KeyCell<'_>, extents: &impl Extents) -> Result<RowBytes<N>>
where
    N: Narrow,
{
    if key.rest.is_some() || (!key.prefix.is_empty() && key.inline_len() > SHORT_BYTES_MAX) {
        return key.to_vec(extents).map(RowBytes::Owned);
    }
    if key.prefix.is_empty() {
        return Ok(keep_part(leaf, key.suffix));
    }
    let mut bytes = [0; SHORT_BYTES_MAX];
    let len = key.copy_inline(0, &mut bytes);
    Ok(RowBytes::Short(Short { bytes, len }))
}

/// The value of a row that is one of many.
#[inline]
fn value_of<N>(leaf: &N, value: &ValueCell<'_>, extents: &impl Extents) -> Result<RowBytes<N>>
where
    N: Narrow,
{
    match value {
        ValueCell::Extent(encoded) => Ok(RowBytes::Fetched(extents.extent(encoded)?)),
        ValueCell::Inline(bytes) => Ok(keep_part(leaf, bytes)),
    }
}

/// A part of a leaf: a copy where it is short.
#[inline(always)]
fn keep_part<N: Narrow>(leaf: &N, part: &[u8]) -> RowBytes<N> {
    if part.len() <= SHORT_BYTES_MAX { short(leaf, part) } else { RowBytes::InLeaf(leaf.part(place_in(leaf, part))) }
}

/// A copy of a short part of a leaf.
#[inline(always)]
fn short<N>(leaf: &[u8], part: &[u8]) -> RowBytes<N> {
    // Copying as much as there is room for needs no loop; what follows the part is not looked at.
    let from = place_in(leaf, part).start;
    if let Some(bytes) = leaf[from..].first_chunk() {
        return RowBytes::Short(Short { bytes: *bytes, len: part.len() });
    }
    let mut bytes = [0; SHORT_BYTES_MAX];
    bytes[..part.len()].copy_from_slice(part);
    RowBytes::Short(Short { bytes, len: part.len() })
}

/// Finds the row with this key.
pub(crate) fn get<P: Pages>(pages: &P, root: &TreeRoot, key: &[u8]) -> Result<Option<RowRef<P::Node>>> {
    if root.height == 0 || key.len() > key::KEY_BYTES_MAX {
        return Ok(None);
    }
    let mut at = Pointer::root(root);
    while at.level > 1 {
        at = pages.look(at, |branch| child_pointer(branch, branch::search(branch, key, pages)?, at.level))?;
    }
    let leaf = pages.node(at.page, at.expected, at.level)?;
    Ok(leaf::search(&leaf, key, pages)?.ok().map(|index| RowRef::new(leaf, index)))
}

/// Where a node stands, and what it must be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pointer {
    pub(crate) page: PageId,
    pub(crate) expected: Expected,
    pub(crate) level: u8,
}

impl Pointer {
    /// The root of a tree that has rows.
    pub(crate) fn root(root: &TreeRoot) -> Self {
        Self { page: root.page, expected: root_expected(root), level: root.height }
    }
}

/// A branch on the way from the root to a leaf, and which of its children was taken. The branch itself is not kept: it
/// is found again at the price of one look, and most ways are never gone back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    pub(crate) branch: Pointer,
    pub(crate) index: usize,
    /// Index of its last child.
    pub(crate) last: usize,
}

/// Goes down from a node to a leaf, letting `choose` pick the child of each branch and the row of the leaf. Appends the
/// branches to `way`.
pub(crate) fn descend<P: Pages>(
    pages: &P,
    from: Pointer,
    way: &mut Vec<Step>,
    mut choose: impl FnMut(&[u8], u8) -> Result<usize>,
) -> Result<(P::Node, usize)> {
    let mut at = from;
    while at.level > 1 {
        at = pages.look(at, |branch| {
            let index = choose(branch, at.level)?;
            way.push(Step { branch: at, index, last: node::count(branch) });
            child_pointer(branch, index, at.level)
        })?;
    }
    let leaf = pages.node(at.page, at.expected, at.level)?;
    let index = choose(&leaf, at.level)?;
    Ok((leaf, index))
}

#[inline]
fn child_pointer(branch: &[u8], index: usize, level: u8) -> Result<Pointer> {
    let child = branch::child(branch, index);
    Ok(Pointer { page: child.page, expected: Expected::Child(child.sum), level: level - 1 })
}

/// Chooses the way to the first row whose key is at least `key`, which may be behind the last row of its leaf.
pub(crate) fn choose_key(node: &[u8], level: u8, key: &[u8], extents: &impl Extents) -> Result<usize> {
    if level == 1 { Ok(leaf::seek(node, key, extents)?) } else { branch::search(node, key, extents) }
}
