//! Structural inspection of a node that was just read: after it, accessors stay inside the node.
//!
//! Invariant: a node that passes has all offsets inside its heap, heads that match its keys, keys in strictly
//! ascending order as far as they are inline, and an exact account of its heap.
//! Layer 3 (btree). Bytes: design.md, "Nodes".

use super::key::{KeyCell, inline_key_max};
use super::leaf::UNIFORM_ENTRY_BYTES_MIN;
use super::node::{
    self, FLAG_UNIFORM, HEAD_BYTES, HEADER_BYTES, KIND_BRANCH, KIND_LEAF, OUT_OF_LINE, PREFIX_BYTES_MIN, SLOT_BYTES,
};
use super::{branch, leaf};
use crate::base::codec::DecodeError;
use crate::base::error::StorageError;
use crate::base::ids::PageId;
use crate::pages::extent::{EXTENT_BYTES, Extent};
use crate::pages::layout::Layout;
use std::cmp::Ordering;

type Check = Result<(), DecodeError>;

fn fail(reason: impl Into<String>) -> Check {
    Err(DecodeError::new(reason))
}

/// Inspects a node of any kind.
pub(crate) fn inspect(bytes: &[u8], layout: &Layout) -> Check {
    if bytes.len() < HEADER_BYTES {
        return fail("shorter than a node's header");
    }
    if !node::reserved_are_zero(bytes) {
        return fail("reserved bytes of the node's header are in use");
    }
    let prefix_len = node::prefix_len(bytes);
    if prefix_len > inline_key_max(bytes.len()) || (1..PREFIX_BYTES_MIN).contains(&prefix_len) {
        return fail(format!("a prefix of {prefix_len} bytes is longer than keys are, or shorter than prefixes"));
    }
    let heap_end = bytes.len() - prefix_len;
    if !(HEADER_BYTES..=heap_end).contains(&node::heap_start(bytes)) {
        return fail(format!("the heap starts at {}, outside the node", node::heap_start(bytes)));
    }
    match (node::kind(bytes), node::flags(bytes), node::level(bytes)) {
        (KIND_LEAF, 0 | FLAG_UNIFORM, 1) => inspect_leaf(bytes, layout),
        (KIND_BRANCH, 0, 2..) => inspect_branch(bytes, layout),
        (kind, flags, level) => fail(format!("unknown node: kind {kind}, flags {flags:#x}, level {level}")),
    }
}

fn inspect_leaf(bytes: &[u8], layout: &Layout) -> Check {
    let count = node::count(bytes);
    if count == 0 {
        return fail("a leaf without rows");
    }
    if HEADER_BYTES + count * (HEAD_BYTES + SLOT_BYTES) > node::heap_start(bytes) {
        return fail(format!("{count} rows overlap the heap"));
    }
    let uniform_bytes = node::uniform_key_len(bytes) + node::uniform_value_len(bytes);
    if node::is_uniform(bytes) && uniform_bytes < UNIFORM_ENTRY_BYTES_MIN {
        return fail(format!("uniform entries of {uniform_bytes} bytes"));
    }
    let mut live = 0;
    for index in 0..count {
        let at = leaf::entry_offset(bytes, index);
        live += leaf_entry_bytes(bytes, at)?;
        let row = leaf::entry(bytes, at);
        inspect_key(&row.key, layout)?;
        let row_bytes = leaf::row_bytes(row.key.inline_len(), row.key.rest.is_some(), row.value.stored().len());
        if row_bytes > leaf::row_bytes_max(bytes.len()) {
            return fail(format!("row {index} takes {row_bytes} bytes, more than a quarter of the node"));
        }
        if let leaf::ValueCell::Extent(encoded) = row.value {
            Extent::decode(encoded, layout)?;
        }
        inspect_head(leaf::heads(bytes), index, &row.key)?;
        if index > 0 {
            inspect_order(&leaf::row(bytes, index - 1).key, &row.key, index)?;
        }
    }
    inspect_account(bytes, live)
}

/// Length of the entry at `at`, checked to lie inside the heap.
fn leaf_entry_bytes(bytes: &[u8], at: usize) -> Result<usize, DecodeError> {
    let (start, end) = (node::heap_start(bytes), node::heap_end(bytes));
    let outside = || DecodeError::new(format!("the entry at {at} reaches outside the heap {start}..{end}"));
    let len = if node::is_uniform(bytes) {
        node::uniform_key_len(bytes) + node::uniform_value_len(bytes)
    } else {
        if at < start || at + 4 > end {
            return Err(outside());
        }
        let (key_word, value_word) = (node::get_u16(bytes, at), node::get_u16(bytes, at + 2));
        let rest = if key_word & OUT_OF_LINE != 0 { EXTENT_BYTES } else { 0 };
        if value_word & OUT_OF_LINE != 0 && usize::from(value_word & !OUT_OF_LINE) != EXTENT_BYTES {
            return Err(DecodeError::new("an out-of-line value is not stored as an extent"));
        }
        4 + usize::from(key_word & !OUT_OF_LINE) + rest + usize::from(value_word & !OUT_OF_LINE)
    };
    if at < start || at + len > end { Err(outside()) } else { Ok(len) }
}

fn inspect_branch(bytes: &[u8], layout: &Layout) -> Check {
    let count = node::count(bytes);
    let arrays = branch::LONE_CHILD_BYTES + count * branch::SEPARATOR_OVERHEAD_BYTES;
    if arrays > node::heap_start(bytes) {
        return fail(format!("{count} separators overlap the heap"));
    }
    for index in 0..=count {
        let word = branch::child_word(bytes, index);
        if word == 0 || word >= PageId::LIMIT {
            return fail(format!("child {index} has the impossible pointer {word:#x}"));
        }
        if branch::child(bytes, index).sum == 0 {
            return fail(format!("child {index} has no checksum"));
        }
    }
    let (start, end) = (node::heap_start(bytes), node::heap_end(bytes));
    let mut live = 0;
    for index in 0..count {
        let at = branch::entry_offset(bytes, index);
        if at < start || at + 2 > end {
            return fail(format!("separator {index} starts outside the heap"));
        }
        let word = node::get_u16(bytes, at);
        let rest = if word & OUT_OF_LINE != 0 { EXTENT_BYTES } else { 0 };
        let len = 2 + usize::from(word & !OUT_OF_LINE) + rest;
        if at + len > end {
            return fail(format!("separator {index} reaches outside the heap"));
        }
        live += len;
        let key = branch::entry(bytes, at);
        inspect_key(&key, layout)?;
        inspect_head(branch::heads(bytes), index, &key)?;
        if index > 0 {
            inspect_order(&branch::separator(bytes, index - 1), &key, index)?;
        }
    }
    inspect_account(bytes, live)
}

fn inspect_key(key: &KeyCell<'_>, layout: &Layout) -> Check {
    let most = inline_key_max(layout.node_bytes() as usize);
    if key.inline_len() > most || (key.rest.is_some() && key.inline_len() != most) {
        return fail(format!("a key keeps {} bytes inline, where at most {most} stay", key.inline_len()));
    }
    match key.rest {
        Some(encoded) => Extent::decode(encoded, layout).map(|_| ()),
        None => Ok(()),
    }
}

fn inspect_head(heads: &[u8], index: usize, key: &KeyCell<'_>) -> Check {
    if heads[index * HEAD_BYTES..(index + 1) * HEAD_BYTES] == node::head_of(key.suffix).to_be_bytes() {
        Ok(())
    } else {
        fail(format!("the head of entry {index} does not match its key"))
    }
}

/// Two long keys with equal inline parts differ out of line, where only a full check can see.
fn inspect_order(before: &KeyCell<'_>, key: &KeyCell<'_>, index: usize) -> Check {
    match before.suffix.cmp(key.suffix) {
        Ordering::Less => Ok(()),
        Ordering::Equal if key.rest.is_some() => Ok(()),
        _ => fail(format!("entry {index} is not above the one before it")),
    }
}

fn inspect_account(bytes: &[u8], live: usize) -> Check {
    let heap = node::heap_end(bytes) - node::heap_start(bytes);
    if live.checked_add(node::garbage(bytes)) == Some(heap) {
        Ok(())
    } else {
        fail(format!("{live} bytes of entries and {} of garbage in a heap of {heap}", node::garbage(bytes)))
    }
}

/// Refuses a node of which entries overlap: whoever edits one where it stands would change the other.
pub(super) fn check_disjoint(page: PageId, bytes: &[u8]) -> Result<(), StorageError> {
    let prefix_len = node::prefix_len(bytes);
    let place = |index| {
        if node::kind(bytes) == KIND_BRANCH {
            let at = branch::entry_offset(bytes, index);
            return (at, branch::entry_bytes(&branch::entry(bytes, at), prefix_len));
        }
        let at = leaf::entry_offset(bytes, index);
        (at, leaf::entry_bytes(&leaf::entry(bytes, at), prefix_len, node::is_uniform(bytes)))
    };
    let mut places: Vec<(usize, usize)> = (0..node::count(bytes)).map(place).collect();
    places.sort_unstable();
    if places.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0) {
        return Ok(());
    }
    Err(StorageError::corrupted_page(page, "entries of the node overlap"))
}
