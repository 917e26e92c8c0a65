//! Where bytes live: the `Storage` contract and the backends that keep it.
//!
//! Invariant: the rest of the crate reaches files only through `Storage`.
//! Layer 1 (io).

#[cfg(any(unix, windows))]
pub(crate) mod file;
pub(crate) mod memory;
pub(crate) mod sim;
pub(crate) mod storage;
