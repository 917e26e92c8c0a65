//! Target `canary`: holds what is false, so that a run which does not find it proves nothing about the other targets.
//!
//! The claim: no damaged node is ever read as if it had been written. It fails only where damage is made, gets behind
//! the checksums and passes the inspection of nodes, and where a failure ends the run.

use super::names::CANARY_MESSAGE;
use super::node;

/// Runs one input.
///
/// # Panics
/// Where the input shows that the claim is false.
pub fn run(data: &[u8]) {
    assert!(!node::run(data).forged, "{CANARY_MESSAGE}");
}
