//! Visiting every page and run of a tree.
//!
//! Invariant: parents are visited before children; nodes get one level lower with each step, so the visit ends on any
//! bytes.
//! Layer 3 (btree).

use super::branch;
use super::key::decode_extent;
use super::leaf::{self, ValueCell};
use super::node::{self, KIND_LEAF};
use super::tree::{Pages, root_expected};
use crate::base::error::Result;
use crate::base::ids::{PageId, TreeRoot};
use crate::pages::extent::Extent;
use crate::pages::layout::Layout;
use crate::pages::store::Expected;

/// What a walk comes across.
pub(crate) enum Visit<'n> {
    Node {
        page: PageId,
        bytes: &'n [u8],
    },
    /// A value or the rest of a key; its list, where it has one, is not opened.
    Extent(Extent),
}

/// Visits everything that a root reaches.
pub(crate) fn walk<P: Pages>(
    pages: &P,
    layout: &Layout,
    root: &TreeRoot,
    visit: &mut dyn FnMut(Visit<'_>) -> Result<()>,
) -> Result<()> {
    if root.height == 0 {
        return Ok(());
    }
    let mut pending = vec![(root.page, root_expected(root), root.height)];
    while let Some((page, expected, level)) = pending.pop() {
        let bytes = pages.node(page, expected, level)?;
        visit(Visit::Node { page, bytes: &bytes })?;
        for index in 0..node::count(&bytes) {
            let key = if node::kind(&bytes) == KIND_LEAF {
                let row = leaf::row(&bytes, index);
                if let ValueCell::Extent(encoded) = row.value {
                    visit(Visit::Extent(decode_extent(encoded, layout)?))?;
                }
                row.key
            } else {
                branch::separator(&bytes, index)
            };
            if let Some(rest) = key.rest {
                visit(Visit::Extent(decode_extent(rest, layout)?))?;
            }
        }
        if node::kind(&bytes) != KIND_LEAF {
            pending.extend((0..=node::count(&bytes)).rev().map(|index| {
                let child = branch::child(&bytes, index);
                (child.page, Expected::Child(child.sum), level - 1)
            }));
        }
    }
    Ok(())
}
