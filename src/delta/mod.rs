//! Changes of rows that are committed, or about to be, and not yet in the trees: in memory, and in the redo log.
//!
//! Invariant: whoever keeps a map, a layer or a delta keeps all of it as it is; changing one changes no other.
//! Layer 1 (delta).

pub(crate) mod layers;
pub(crate) mod map;
