//! Copy-on-write B+trees over byte strings.
//!
//! Invariant: rows are ordered by their key bytes; a tree never looks inside a key or a value.
//! Layer 3 (btree). Bytes: design.md, "Nodes".

pub(crate) mod branch;
pub(crate) mod buffer;
pub(crate) mod buffered;
pub(crate) mod build;
pub(crate) mod check;
pub(crate) mod cursor;
pub(crate) mod insert;
pub(crate) mod inspect;
pub(crate) mod key;
pub(crate) mod leaf;
pub(crate) mod merge;
mod merge_edit;
mod merge_output;
mod merge_rows;
pub(crate) mod node;
pub(crate) mod overlaid;
mod pass;
pub(crate) mod rebalance;
pub(crate) mod redo;
pub(crate) mod remove;
pub(crate) mod repack;
pub(crate) mod seal;
pub(crate) mod search;
pub(crate) mod sweep;
pub(crate) mod tree;
pub(crate) mod walk;

#[cfg(test)]
mod tests;
