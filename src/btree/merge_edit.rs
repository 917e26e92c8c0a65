//! Few changes of one leaf, applied where its rows stand.
//!
//! Invariant: a leaf is edited only where all its changes are known to fit before the first is applied.
//! Layer 3 (btree).

use super::build::Rows;
use super::insert::{NodeKey, NodeValue};
use super::inspect::check_disjoint;
use super::key::inline_key_max;
use super::leaf::{self, Row, ValueCell};
use super::merge::Change;
use super::node::{self, HEAD_BYTES, HEADER_BYTES, SLOT_BYTES};
use super::rebalance::FILL_PERCENT_MIN;
use super::tree::TreeMut;
use crate::base::error::{Result, StorageError};
use crate::base::ids::PageId;
use crate::pages::extent::EXTENT_BYTES;

/// Up to so many changes of one leaf are tried where its rows stand, instead of packing it anew.
pub(super) const LEAF_EDITS_MAX: usize = 6;

/// What is to be done with one row of a leaf.
#[derive(Clone, Copy)]
enum Verb {
    Insert,
    /// The value is stored in as many bytes and the same way.
    Overwrite,
    Replace,
    Remove,
}

struct Edit<'c> {
    verb: Verb,
    /// Index of the row before all edits.
    at: usize,
    key: &'c [u8],
    /// Empty where the row is removed.
    value: &'c [u8],
}

/// Whether, and how, changes can be applied to a leaf.
pub(super) enum Fit {
    /// No change changes anything.
    Untouched,
    /// This is what the leaf becomes.
    Edited,
    /// The leaf gets too full or too empty, or its rows no longer share what they did.
    Rebuild,
}

/// Edits, and how much of the leaf they need.
struct Plan<'c> {
    edits: Vec<Edit<'c>>,
    /// Bytes between arrays and heap that the edits take at most.
    needed_bytes: usize,
    /// Bytes in use afterwards, garbage not counted.
    used_bytes: usize,
    fits_shape: bool,
    removes: bool,
}

impl<'c> Plan<'c> {
    fn new(tree: &TreeMut, leaf: &[u8], changes: &[Change<'c>]) -> Result<Self> {
        let mut plan = Self {
            edits: Vec::with_capacity(changes.len()),
            needed_bytes: 0,
            used_bytes: leaf::used_bytes(leaf),
            fits_shape: true,
            removes: false,
        };
        let mut next = 0;
        for change in changes {
            let found = leaf::search(leaf, change.key, &tree)?;
            let at = found.unwrap_or_else(|at| at);
            if at < next {
                return Err(out_of_order());
            }
            next = at + usize::from(found.is_ok());
            match (found, change.value) {
                (Err(_), None) => {}
                (Err(at), Some(value)) => {
                    plan.grow(tree, leaf, change.key, value);
                    plan.edits.push(Edit { verb: Verb::Insert, at, key: change.key, value });
                }
                (Ok(at), None) => {
                    plan.remove(leaf, at);
                    plan.edits.push(Edit { verb: Verb::Remove, at, key: change.key, value: &[] });
                }
                (Ok(at), Some(value)) => {
                    let verb = plan.replace(tree, leaf, at, change.key, value);
                    plan.edits.push(Edit { verb, at, key: change.key, value });
                }
            }
        }
        Ok(plan)
    }

    fn remove(&mut self, leaf: &[u8], at: usize) {
        self.removes = true;
        self.used_bytes -= leaf::row_bytes_in(leaf, &leaf::row(leaf, at));
    }

    fn replace(&mut self, tree: &TreeMut, leaf: &[u8], at: usize, key: &[u8], value: &[u8]) -> Verb {
        let is_inline = tree.is_value_inline(key, value);
        let stored_len = if is_inline { value.len() } else { EXTENT_BYTES };
        let old = leaf::row(leaf, at).value;
        if matches!(old, ValueCell::Inline(_)) == is_inline && old.stored().len() == stored_len {
            return Verb::Overwrite;
        }
        self.remove(leaf, at);
        self.grow(tree, leaf, key, value);
        Verb::Replace
    }

    /// Counts a row that is put into the leaf.
    fn grow(&mut self, tree: &TreeMut, leaf: &[u8], key: &[u8], value: &[u8]) {
        let inline = key.len().min(inline_key_max(leaf.len()));
        let (has_rest, is_inline) = (inline < key.len(), tree.is_value_inline(key, value));
        let stored_len = if is_inline { value.len() } else { EXTENT_BYTES };
        let prefix = node::prefix(leaf);
        self.fits_shape &= key[..inline].starts_with(prefix);
        if !self.fits_shape {
            return;
        }
        let suffix_len = inline - prefix.len();
        if node::is_uniform(leaf) {
            let lengths = (node::uniform_key_len(leaf), node::uniform_value_len(leaf));
            self.fits_shape &= !has_rest && is_inline && (suffix_len, stored_len) == lengths;
        }
        let lengths = if node::is_uniform(leaf) { leaf::row_bytes(0, false, 0) - leaf::ROW_OVERHEAD_BYTES } else { 0 };
        let bytes = leaf::row_bytes(suffix_len, has_rest, stored_len) - lengths;
        self.needed_bytes += bytes;
        self.used_bytes += bytes;
    }

    fn is_too_small(&self, leaf: &[u8]) -> bool {
        self.removes && self.used_bytes * 100 < leaf.len() * FILL_PERCENT_MIN
    }

    fn fits(&self, leaf: &[u8]) -> bool {
        let arrays_end = HEADER_BYTES + node::count(leaf) * (HEAD_BYTES + SLOT_BYTES);
        self.fits_shape && self.needed_bytes <= node::heap_start(leaf) - arrays_end
    }
}

pub(super) fn out_of_order() -> StorageError {
    StorageError::corrupted("the keys of a node are out of order")
}

impl TreeMut {
    /// Applies changes to a leaf that this tree reaches no more, and that the caller puts back.
    pub(super) fn edit_leaf(&mut self, page: PageId, leaf: &mut [u8], changes: &[Change<'_>]) -> Result<Fit> {
        let mut plan = Plan::new(self, leaf, changes)?;
        if plan.edits.is_empty() {
            return Ok(Fit::Untouched);
        }
        if plan.is_too_small(leaf) || plan.used_bytes > leaf.len() {
            return Ok(Fit::Rebuild);
        }
        check_disjoint(page, leaf)?;
        if !plan.fits(leaf) {
            if node::garbage(leaf) == 0 {
                return Ok(Fit::Rebuild);
            }
            let before = Box::<[u8]>::from(&*leaf);
            let rows = Rows::new(Rows::of(&before));
            // Packed anew, rows that gained a longer prefix can lose that their lengths are the same.
            if rows.leaf_bytes(0, rows.len()) > leaf.len() {
                return Ok(Fit::Rebuild);
            }
            rows.build(0, rows.len(), leaf, node::birth(&before));
            plan = Plan::new(self, leaf, changes)?;
            if !plan.fits(leaf) {
                return Ok(Fit::Rebuild);
            }
        }
        self.apply(leaf, &plan)?;
        Ok(Fit::Edited)
    }

    fn apply(&mut self, leaf: &mut [u8], plan: &Plan<'_>) -> Result<()> {
        let (mut inserted, mut removed) = (0, 0);
        for Edit { verb, at, key, value } in &plan.edits {
            let at = at + inserted - removed;
            if !matches!(verb, Verb::Insert) {
                self.free_value(&leaf::row(leaf, at).value)?;
            }
            match verb {
                Verb::Overwrite => {
                    let value = self.make_value(key, value)?;
                    assert!(leaf::replace_value(leaf, at, &value.cell()), "the plan knows the stored length");
                }
                Verb::Replace => {
                    let value = self.make_value(key, value)?;
                    let key = NodeKey::of(&leaf::row(leaf, at).key);
                    leaf::remove(leaf, at);
                    insert(leaf, at, &key, &value);
                }
                Verb::Insert => {
                    let (value, key) = (self.make_value(key, value)?, self.make_key(key)?);
                    insert(leaf, at, &key, &value);
                    inserted += 1;
                }
                Verb::Remove => {
                    if let Some(rest) = leaf::row(leaf, at).key.rest.copied() {
                        self.free_extent(&rest)?;
                    }
                    leaf::remove(leaf, at);
                    removed += 1;
                }
            }
        }
        self.count_rows(inserted, removed)
    }

    pub(super) fn free_value(&mut self, value: &ValueCell<'_>) -> Result<()> {
        match value {
            ValueCell::Inline(_) => Ok(()),
            ValueCell::Extent(encoded) => self.free_extent(encoded),
        }
    }
}

fn insert(leaf: &mut [u8], at: usize, key: &NodeKey, value: &NodeValue<'_>) {
    let row = Row { key: key.cell(), value: value.cell() };
    assert!(leaf::insert(leaf, at, &row), "the plan says that the row fits");
}
