//! A disk in memory that can lose power, fail and lie, to test storage code on.
//!
//! It has two layers: the cache, which reads see, and the platter, which survives a power cut. [`SimDisk`] logs every
//! operation, and builds from the log the disk that would be found after a power cut during any of them.
//!
//! Invariant: the same operations, faults and seeds give the same bytes, errors and trace hash.
//! Layer 1 (io).

mod content;
mod crash;
mod disk;
mod fault;
mod log;
mod rng;
#[cfg(test)]
mod tests;

pub use crash::{CrashPlan, LengthSurvival, Sector, Survivors, Tear};
pub use disk::{DiskStats, SimDisk};
pub use fault::{Fault, FaultRates};
pub use log::{Operation, OperationKind};
