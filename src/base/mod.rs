//! Vocabulary that every layer shares: ids, bytes, checksums, errors, time, counts and locks.
//!
//! Invariant: nothing here knows what a page, a tree or a file is for.
//! Layer 0 (base).

pub(crate) mod block;
pub(crate) mod checksum;
pub(crate) mod clock;
pub(crate) mod codec;
pub(crate) mod error;
pub(crate) mod histogram;
pub(crate) mod ids;
pub(crate) mod random;
pub(crate) mod sync;
