//! Tests of whole trees on a storage in memory, against models and against damage.
//!
//! Invariant: after every transaction the space holds what the tree reaches and what pins still need, nothing else.
//! Layer 3 (btree).

mod buffered;
mod damage;
mod edit;
mod fixture;
mod hostile;
mod merge;
mod model;
mod range;
mod redo;
mod repack;
mod shape;
mod spill;
mod sweep;
