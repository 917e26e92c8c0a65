//! Where bytes live: the `Storage` contract and the backends that keep it.
//!
//! Invariant: the rest of the crate reaches files only through `Storage`.
//! Layer 1 (io).

pub(crate) mod storage;
