//! Room that stays free in the file, so that rows can be removed where the file cannot grow: copy-on-write takes new pages
//! for what becomes less.
//!
//! Invariant: a transaction that makes the database larger leaves room for one that removes a few rows; whoever makes it no
//! larger may use that room.
//! Layer 2 (pages). Rules: design.md, "Commit".

use super::layout::Layout;
use super::writer::PageWriter;
use crate::base::error::Result;

/// Nodes that a small removal copies beside those that the height of a tree accounts for: of the catalog, and neighbours.
const NODES_MIN: u32 = 8;

impl PageWriter {
    /// Keeps the room free. Where that cannot be, a transaction that makes the database larger fails. Called when it has all
    /// of its pages.
    pub(crate) fn keep_room(&self) -> Result<()> {
        match self.make_room() {
            // What a removal takes the checkpoint after it gives back.
            Err(error) if error.is_out_of_space() && !self.has_grown() => Ok(()),
            made => made,
        }
    }

    /// Makes the file longer where it has not the room.
    pub(crate) fn make_room(&self) -> Result<()> {
        let mut space = self.space().lock();
        loop {
            let (units, count) = self.room(space.table_units());
            if space.has_room(units, count, self.store())? {
                return Ok(());
            }
            let end_units = self.grow(&space, units)?;
            space.grow(end_units);
        }
    }

    /// The room as a number of runs of a length, each good for a node as well as for a region table.
    fn room(&self, table_units: u32) -> (u32, u32) {
        room(self.layout(), self.store().end_units(), table_units)
    }
}

/// The room that a file of this length should have: a length of runs, and their number.
pub(crate) fn room(layout: &Layout, end_units: u64, table_units: u32) -> (u32, u32) {
    let units = layout.node_units().max(table_units).min(layout.largest_run_units());
    let nodes = end_units / u64::from(layout.node_units());
    // The higher a tree can be the more nodes are on the way to a row.
    (units, NODES_MIN + nodes.max(1).ilog2())
}
