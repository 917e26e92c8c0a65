//! Transactions: snapshots, the one writer, commits, reclamation and recovery.
//!
//! Invariant: a version is published only once it is as durable as was promised, and nothing that a pin or a slot may still
//! need is handed out again.
//! Layer 5 (txn). Rules: design.md, "Commit", "Reclamation", "Opening".

mod background;
mod checkpoint;
mod commit;
pub(crate) mod compact;
pub(crate) mod core;
pub(crate) mod create;
pub(crate) mod durability;
pub(crate) mod error;
pub(crate) mod future;
mod log;
pub(crate) mod oracle;
mod queue;
pub(crate) mod read;
pub(crate) mod reclaim;
pub(crate) mod recover;
#[cfg(test)]
mod recover_tests;
mod replay;
pub(crate) mod room;
pub(crate) mod shared;
pub(crate) mod shutdown;
pub(crate) mod staged;
pub(crate) mod stats;
pub(crate) mod write;
