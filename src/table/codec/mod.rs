//! How the built-in types are written as values and as ordered keys.
//!
//! Invariant: decoding accepts only what encoding writes, so equal values have equal bytes and the reverse.
//! Layer 6 (table). Bytes: design.md, "Type descriptors and encodings".

mod array;
mod bytes;
pub(crate) mod descending;
mod int;
pub(super) mod list;
pub(super) mod option;
pub(super) mod ordered;
mod scalar;
mod string;
pub(super) mod tuple;
mod unit;

#[cfg(test)]
mod composite_properties;
#[cfg(test)]
mod properties;
