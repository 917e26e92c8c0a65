//! Which tables there are, and the counters that outlive every rollback.
//!
//! Invariant: every table has exactly one record in the data root; ids are taken from the forward root and never
//! come back.
//! Layer 4 (catalog). Bytes: design.md, "Catalog".

pub(crate) mod names;
pub(crate) mod record;
pub(crate) mod roots;
