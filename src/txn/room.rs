//! Room for what is laid over the trees: in memory, and in the file for the pages that it becomes.
//!
//! Invariant: what was laid over trees can be brought into them without making the file longer, also with a copy of every node,
//! and where many of them were full; so a full device is found by the commit that would need it, which then fails, and by no
//! checkpoint after it.
//! Layer 5 (txn). Rules: design.md, "Commit".

use super::core::{Core, Durable};
use crate::base::error::Result;
use crate::delta::layers::Delta;
use crate::pages::room;

/// So many nodes a change copies where no other change copies them: a leaf, and branches above it.
const COPIED_PER_CHANGE: u64 = 4;

/// And so many it adds where all these are full.
const SPLIT_PER_CHANGE: u64 = 3;

/// More nodes than these, and than this share of all, are hardly full at once where rows fall: half a node of new rows pays for
/// each further one.
const SPLIT_MIN: u64 = 8;
const SPLIT_SHARE: u64 = 16;

/// Region tables that a checkpoint looks for: the one that it writes, and room for the next.
const TABLES_AHEAD: u32 = 2;

/// Somewhat more room is looked for at once, so that it is not counted at each commit.
const SPARE_NODES: u64 = 64;

/// Room in the file for the pages that what is laid over the trees becomes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct FoldingRoom {
    /// It is there in pieces of so many units.
    piece_units: u32,
    nodes: u64,
    /// So many nodes can be copied at most: all that there are.
    tree_nodes: u64,
}

/// So many of the nodes of the trees are copied or split by so many changes.
pub(crate) fn changed_nodes(changes: u64, tree_nodes: u64) -> u64 {
    let copied = changes.saturating_mul(COPIED_PER_CHANGE).min(tree_nodes);
    copied + changes.saturating_mul(SPLIT_PER_CHANGE).min((tree_nodes / SPLIT_SHARE).max(SPLIT_MIN))
}

impl Core {
    /// Whether memory and file have room for what a version lays over its trees; makes the file longer for it where it can.
    pub(super) fn has_room_over_trees(&self, durable: &mut Durable, delta: &Delta) -> Result<bool> {
        let sum = delta.active.sum().plus(delta.frozen.sum());
        if sum.bytes > self.store.account().delta_bytes_max() as u64 {
            return Ok(false);
        }
        let layout = self.store.layout();
        let node_units = layout.node_units();
        let mut space = self.space.lock();
        let nodes = |units: u32, runs: u32| u64::from(units.div_ceil(node_units)) * u64::from(runs);
        let (room_units, room_runs) = room::room(layout, self.store.end_units(), space.table_units());
        let others = 2 * sum.bytes / u64::from(layout.node_bytes())
            + nodes(room_units, room_runs)
            + nodes(space.table_units(), TABLES_AHEAD);
        // A value out of line, or the rest of a key, lies in one piece: room for it is counted in pieces of its length.
        let is_long = sum.longest > layout.node_bytes() / 4;
        let longest = if is_long { layout.units_for_bytes(u64::from(sum.longest)) } else { 0 };
        let piece = u32::try_from(longest).unwrap_or(u32::MAX).min(layout.largest_run_units()).max(node_units);
        let is_known = |durable: &Durable, nodes: u64| durable.room.piece_units >= piece && durable.room.nodes >= nodes;
        let changed = |nodes: u64| changed_nodes(u64::from(sum.count), nodes);
        if is_known(durable, others + changed(durable.room.tree_nodes)) {
            return Ok(true);
        }
        let tree_nodes = space.count_allocated() / u64::from(node_units);
        let needed = others + changed(tree_nodes);
        let pieces = |nodes: u64| (nodes * u64::from(node_units)).div_ceil(u64::from(piece));
        while !is_known(durable, needed) {
            for wanted in [needed + needed / 4 + SPARE_NODES, needed] {
                let pieces = u32::try_from(pieces(wanted)).unwrap_or(u32::MAX);
                if space.has_room(piece, pieces, &*self.store)? {
                    durable.room = FoldingRoom { piece_units: piece, nodes: wanted, tree_nodes };
                    return Ok(true);
                }
            }
            let ahead = space.growth_for(piece).map_or(0, |end| end.min(self.store.end_units_max()));
            if ahead <= self.store.end_units() {
                return Ok(false);
            }
            match self.store.grow(ahead) {
                Ok(()) => space.grow(ahead),
                Err(error) if error.is_out_of_space() => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}
