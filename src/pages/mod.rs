//! The file as pages: header and slots, space, versions, and verified reads.
//!
//! Invariant: bytes that leave this layer were checked against the checksum that names them.
//! Layer 2 (pages). Bytes: design.md.

pub(crate) mod account;
pub(crate) mod allocator;
#[cfg(test)]
mod allocator_tests;
pub(crate) mod behind;
pub(crate) mod bitmap;
pub(crate) mod buddy;
pub(crate) mod cache;
pub(crate) mod epoch;
mod events;
pub(crate) mod extent;
pub(crate) mod frames;
pub(crate) mod header;
pub(crate) mod layout;
pub(crate) mod meter;
pub(crate) mod observer;
pub(crate) mod region;
pub(crate) mod region_table;
mod relocate;
pub(crate) mod room;
pub(crate) mod select;
pub(crate) mod slot;
pub(crate) mod snapshot;
pub(crate) mod store;
#[cfg(test)]
mod store_tests;
pub(crate) mod translation;
pub(crate) mod version;
pub(crate) mod writer;
