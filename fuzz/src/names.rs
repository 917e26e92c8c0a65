//! The fuzz targets by name. `cargo xtask fuzz` and `tests/fuzz_regressions.rs` read this one list.

/// Targets that no input may make fail, in the order in which they are run.
pub const TARGETS: [&str; 6] = ["image", "header", "node", "space", "keys", "operations"];

/// The target that must fail.
pub const CANARY: &str = "canary";

/// What its failure says, so that no other failure is taken for it.
pub const CANARY_MESSAGE: &str = "the canary: a damaged node was read";
