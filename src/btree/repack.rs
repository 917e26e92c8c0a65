//! Packing the leaves of a tree full, and moving its pages to lower places.
//!
//! Invariant: a leaf that is full, because the first row of the next one has no room in it, and that lies below the
//! limit stays as it is: packing what is packed changes nothing.
//! Layer 3 (btree).

use super::build::Rows;
use super::cursor::RangeCursor;
use super::key::decode_extent;
use super::leaf::{self, Row, ValueCell};
use super::node;
use super::pass::{LeafAt, Pass};
use super::rebalance::check_order;
use super::tree::{PinnedPages, TreeMut};
use crate::base::error::Result;
use crate::base::ids::TreeRoot;
use crate::pages::layout::Layout;
use std::ops::Bound;

/// Leaves that are only looked at cost a fraction of those that are built anew.
const LOOK_SHARE: usize = 8;

/// How far a part of the work came.
#[derive(Debug)]
pub(crate) struct Repacked {
    /// The key at which the next part begins; `None` behind the last leaf.
    pub(crate) next_key: Option<Vec<u8>>,
    /// What was done, in bytes of leaves built anew.
    pub(crate) work_bytes: usize,
    /// Rows of the leaves that were visited.
    pub(crate) rows: u64,
    /// Units that out-of-line runs lack to the powers of two in which space is kept.
    pub(crate) waste_units: u64,
}

impl TreeMut {
    /// Packs leaves from the one that `from` belongs to until `work_bytes_max` is reached, and moves nodes and
    /// out-of-line values that lie at or above `limit_units` below, as far as there is room. The tree is as the base
    /// version of the transaction has it.
    ///
    /// After an error the tree may be half changed: the transaction must be aborted.
    pub(crate) fn repack(&mut self, from: &[u8], limit_units: u64, work_bytes_max: usize) -> Result<Repacked> {
        let mut done = Repacked { next_key: None, work_bytes: 0, rows: 0, waste_units: 0 };
        let (before, node_bytes) = (self.root, self.node_bytes());
        if before.height == 0 {
            return Ok(done);
        }
        let layout = *self.writer.layout();
        let mut pass = Pass::moving_below(self, limit_units);
        let mut key = from.to_vec();
        loop {
            let at = pass.seek(&key)?;
            done.rows += node::count(&at.node.bytes) as u64;
            for row in Rows::of(&at.node.bytes) {
                done.waste_units += waste_units(&row, &layout)?;
            }
            let takes_first = pass.output.takes(&leaf::row(&at.node.bytes, 0));
            let high = at.bounds.high.clone();
            if takes_first || takes_next(pass.output.tree, &before, &at)? {
                done.work_bytes += node_bytes;
                pass.open()?;
                Rows::of(&at.node.bytes).iter().try_for_each(|row| pass.output.push_row(row))?;
                pass.close(&at)?;
            } else {
                done.work_bytes += node_bytes / if at.node.page.get() < limit_units { LOOK_SHARE } else { 1 };
                pass.keep(at, false)?;
                done.work_bytes = done.work_bytes.saturating_add(std::mem::take(&mut pass.moved_bytes));
            }
            let Some(high) = high else { break };
            key = high;
            if done.work_bytes >= work_bytes_max {
                // The last leaf is not full yet: the next part begins with its rows, unless this one did.
                let first = pass.output.waiting().next().map(|row| row.key.to_vec(&*pass.output.tree)).transpose()?;
                let next = first.unwrap_or_else(|| key.clone());
                if &next[..] > from {
                    for row in pass.output.waiting() {
                        done.rows -= 1;
                        done.waste_units -= waste_units(&row, &layout)?;
                    }
                    done.next_key = Some(next);
                    break;
                }
            }
        }
        pass.finish()?.release_spare();
        Ok(done)
    }
}

/// Units that the runs of a row lack to powers of two.
fn waste_units(row: &Row<'_>, layout: &Layout) -> Result<u64> {
    let value = if let ValueCell::Extent(encoded) = row.value { Some(encoded) } else { None };
    let mut waste = 0;
    for encoded in row.key.rest.into_iter().chain(value) {
        let head = decode_extent(encoded, layout)?.head_run(layout);
        waste += head.map_or(0, |run| u64::from(run.units.next_power_of_two() - run.units));
    }
    Ok(waste)
}

/// Whether the first row behind a leaf has room in it.
fn takes_next(tree: &TreeMut, before: &TreeRoot, at: &LeafAt) -> Result<bool> {
    let Some(high) = &at.bounds.high else { return Ok(false) };
    let store = tree.writer.store();
    let epoch = store.enter();
    // Of the next leaf nothing has changed yet.
    let pages = PinnedPages { store, pin: tree.writer.base(), epoch: &epoch };
    let mut behind = RangeCursor::new(pages, before, Bound::Included(high), Bound::Unbounded)?;
    let Some(next) = behind.next()? else { return Ok(false) };
    let (mut rows, next) = (Rows::of(&at.node.bytes), leaf::row(next.leaf, next.index));
    // A damaged tree can name a leaf twice.
    check_order(at.node.page, rows.last().map(|last| last.key), Some(next.key))?;
    rows.push(next);
    let rows = Rows::new(rows);
    Ok(rows.leaf_bytes(0, rows.len()) <= at.node.bytes.len())
}
