//! Branches: truncated separators between children, each child with the checksum that its page must have.
//!
//! Invariant: a branch with `n` separators has `n + 1` children; child `i` holds the keys from separator `i - 1` on
//! and below separator `i`.
//! Layer 3 (btree). Bytes: design.md, "Branch".

use super::key::{Extents, KeyCell, search_head, strip_prefix};
use super::node::{self, HEAD_BYTES, HEADER_BYTES, OUT_OF_LINE, SLOT_BYTES};
use crate::base::error::Result;
use crate::base::ids::PageId;
use crate::pages::extent::EXTENT_BYTES;
use crate::pages::frames::{prefetch, prefetch_line};
use std::cmp::Ordering;

const LENGTH_BYTES: usize = 2;
const WORD_BYTES: usize = 8;

/// Bytes that one separator with the child to its right takes beside its heap entry.
pub(crate) const SEPARATOR_OVERHEAD_BYTES: usize = 2 * WORD_BYTES + HEAD_BYTES + SLOT_BYTES;

/// Bytes of a branch that has one child and no separator.
pub(crate) const LONE_CHILD_BYTES: usize = HEADER_BYTES + 2 * WORD_BYTES;

/// Of separators with equal heads, how many are brought near at once before they are compared.
const NEAR_SEPARATORS: usize = 32;

/// A pointer to a child and the checksum of its page; zero where the page is not written yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Child {
    pub(crate) page: PageId,
    pub(crate) sum: u64,
}

/// Offsets of the four arrays for a given number of separators.
#[derive(Clone, Copy)]
struct Arrays {
    count: usize,
}

impl Arrays {
    fn child(self, index: usize) -> usize {
        HEADER_BYTES + index * WORD_BYTES
    }

    fn sum(self, index: usize) -> usize {
        self.child(self.count + 1) + index * WORD_BYTES
    }

    fn head(self, index: usize) -> usize {
        self.sum(self.count + 1) + index * HEAD_BYTES
    }

    fn slot(self, index: usize) -> usize {
        self.head(self.count) + index * SLOT_BYTES
    }

    fn end(self) -> usize {
        self.slot(self.count)
    }
}

fn arrays(branch: &[u8]) -> Arrays {
    Arrays { count: node::count(branch) }
}

/// The raw word of child `index`: 48 bits of page number under 16 reserved bits.
pub(crate) fn child_word(branch: &[u8], index: usize) -> u64 {
    node::get_u64(branch, arrays(branch).child(index))
}

pub(crate) fn child(branch: &[u8], index: usize) -> Child {
    let page = PageId::from_allocator(child_word(branch, index));
    Child { page, sum: node::get_u64(branch, arrays(branch).sum(index)) }
}

pub(crate) fn set_child(branch: &mut [u8], index: usize, child: Child) {
    let arrays = arrays(branch);
    node::put_u64(branch, arrays.child(index), child.page.get());
    node::put_u64(branch, arrays.sum(index), child.sum);
}

pub(crate) fn heads(branch: &[u8]) -> &[u8] {
    let arrays = arrays(branch);
    &branch[arrays.head(0)..arrays.slot(0)]
}

/// Where the entry of separator `index` starts.
pub(crate) fn entry_offset(branch: &[u8], index: usize) -> usize {
    usize::from(node::get_u16(branch, arrays(branch).slot(index)))
}

/// Where the arrays end and the free space starts.
pub(crate) fn arrays_end(branch: &[u8]) -> usize {
    arrays(branch).end()
}

pub(crate) fn separator(branch: &[u8], index: usize) -> KeyCell<'_> {
    entry(branch, entry_offset(branch, index))
}

/// The separator whose entry starts at `at`.
pub(crate) fn entry(branch: &[u8], at: usize) -> KeyCell<'_> {
    let word = node::get_u16(branch, at);
    let end = at + LENGTH_BYTES + usize::from(word & !OUT_OF_LINE);
    let rest = (word & OUT_OF_LINE != 0)
        .then(|| branch[end..end + EXTENT_BYTES].try_into().expect("the slice has that length"));
    KeyCell { prefix: node::prefix(branch), suffix: &branch[at + LENGTH_BYTES..end], rest }
}

/// Bytes that a separator takes in the heap.
pub(crate) fn entry_bytes(key: &KeyCell<'_>, prefix_len: usize) -> usize {
    LENGTH_BYTES + key.inline_len() - prefix_len + if key.rest.is_some() { EXTENT_BYTES } else { 0 }
}

/// Index of the child that holds `key`.
pub(crate) fn search(branch: &[u8], key: &[u8], extents: &impl Extents) -> Result<usize> {
    search_from(branch, 0, key, extents)
}

/// The same, where the key is known to be at least the separator in front of child `from`; those before it are not
/// looked at. A result below `from` shows that the branch is out of order.
pub(super) fn search_from(branch: &[u8], from: usize, key: &[u8], extents: &impl Extents) -> Result<usize> {
    let suffix = match strip_prefix(node::prefix(branch), key) {
        Ok(suffix) => suffix,
        Err(Ordering::Less) => return Ok(0),
        Err(_) => return Ok(node::count(branch)),
    };
    let heads = heads(branch);
    prefetch(heads, 0..heads.len());
    let candidates = node::equal_heads(heads, search_head(branch, suffix));
    if candidates.len() > 1 {
        for index in candidates.clone().take(NEAR_SEPARATORS) {
            let at = entry_offset(branch, index);
            prefetch_line(&branch[at]);
        }
    }
    let (mut low, mut high) = (candidates.start.max(from.min(candidates.end)), candidates.end);
    while low < high {
        let middle = low + (high - low) / 2;
        if separator(branch, middle).compare_suffix(suffix, extents)? == Ordering::Less {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    Ok(low)
}

fn write_entry(branch: &mut [u8], at: usize, key: &KeyCell<'_>) {
    let prefix_len = node::prefix_len(branch);
    let flag = if key.rest.is_some() { usize::from(OUT_OF_LINE) } else { 0 };
    node::put_u16(branch, at, (key.inline_len() - prefix_len) | flag);
    let mut next = at + LENGTH_BYTES;
    next += key.copy_inline(prefix_len, &mut branch[next..]);
    if let Some(rest) = key.rest {
        branch[next..next + EXTENT_BYTES].copy_from_slice(rest);
    }
}

/// Inserts `key` as separator `index` and `right` as the child after it, in place; `false` leaves the branch as it
/// was because there is no room or the prefix does not fit.
pub(crate) fn insert(branch: &mut [u8], index: usize, key: &KeyCell<'_>, right: Child) -> bool {
    let old = arrays(branch);
    let new = Arrays { count: old.count + 1 };
    let prefix = node::prefix(branch);
    if !key.prefix.is_empty() || !key.suffix.starts_with(prefix) {
        return false;
    }
    let size = entry_bytes(key, prefix.len());
    let heap_start = node::heap_start(branch);
    if heap_start < new.end() + size {
        return false;
    }
    let at = heap_start - size;
    write_entry(branch, at, key);
    node::set_heap_start(branch, at);
    let head = node::head_of(entry(branch, at).suffix);
    // Every part moves up; from the last array to the first, so that nothing is overwritten before it moved.
    branch.copy_within(old.slot(index)..old.slot(old.count), new.slot(index + 1));
    branch.copy_within(old.slot(0)..old.slot(index), new.slot(0));
    branch.copy_within(old.head(index)..old.head(old.count), new.head(index + 1));
    branch.copy_within(old.head(0)..old.head(index), new.head(0));
    branch.copy_within(old.sum(index + 1)..old.sum(old.count + 1), new.sum(index + 2));
    branch.copy_within(old.sum(0)..old.sum(index + 1), new.sum(0));
    branch.copy_within(old.child(index + 1)..old.child(old.count + 1), new.child(index + 2));
    node::put_u16(branch, new.slot(index), at);
    branch[new.head(index)..new.head(index) + HEAD_BYTES].copy_from_slice(&head.to_be_bytes());
    node::set_count(branch, new.count);
    set_child(branch, index + 1, right);
    true
}

/// Removes separator `index` and one of the children beside it: the right one, or the left one.
pub(crate) fn remove(branch: &mut [u8], index: usize, right_child: bool) {
    let old = arrays(branch);
    let new = Arrays { count: old.count - 1 };
    let at = entry_offset(branch, index);
    let size = entry_bytes(&entry(branch, at), node::prefix_len(branch));
    if at == node::heap_start(branch) {
        node::set_heap_start(branch, at + size);
    } else {
        let garbage = node::garbage(branch) + size;
        node::set_garbage(branch, garbage);
    }
    let gone = index + usize::from(right_child);
    branch.copy_within(old.child(gone + 1)..old.child(old.count + 1), new.child(gone));
    branch.copy_within(old.sum(0)..old.sum(gone), new.sum(0));
    branch.copy_within(old.sum(gone + 1)..old.sum(old.count + 1), new.sum(gone));
    branch.copy_within(old.head(0)..old.head(index), new.head(0));
    branch.copy_within(old.head(index + 1)..old.head(old.count), new.head(index));
    branch.copy_within(old.slot(0)..old.slot(index), new.slot(0));
    branch.copy_within(old.slot(index + 1)..old.slot(old.count), new.slot(index));
    node::set_count(branch, new.count);
}

/// Makes a formatted branch hold `children` and, between them, `separators`, which are known to fit.
pub(crate) fn fill(branch: &mut [u8], separators: &[KeyCell<'_>], children: &[Child]) {
    assert_eq!(separators.len() + 1, children.len(), "a separator stands between two children");
    node::set_count(branch, separators.len());
    let arrays = arrays(branch);
    for (index, child) in children.iter().enumerate() {
        set_child(branch, index, *child);
    }
    for (index, key) in separators.iter().enumerate() {
        let at = node::heap_start(branch) - entry_bytes(key, node::prefix_len(branch));
        assert!(at >= arrays.end(), "the separators do not fit");
        write_entry(branch, at, key);
        node::set_heap_start(branch, at);
        let head = node::head_of(entry(branch, at).suffix);
        branch[arrays.head(index)..arrays.head(index) + HEAD_BYTES].copy_from_slice(&head.to_be_bytes());
        node::put_u16(branch, arrays.slot(index), at);
    }
}

/// Bytes that separators, children, prefix and header use, garbage not counted.
pub(crate) fn used_bytes(branch: &[u8]) -> usize {
    arrays_end(branch) + (branch.len() - node::heap_start(branch)) - node::garbage(branch)
}
