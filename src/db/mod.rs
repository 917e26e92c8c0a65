//! The database: how it is opened, and what its owner can do with it.
//!
//! Invariant: everything below is wired here and nowhere else.
//! Layer 8 (db).

#[cfg(test)]
mod account_tests;
pub(crate) mod budget;
pub(crate) mod builder;
pub(crate) mod database;
#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod in_memory_tests;
#[cfg(test)]
mod rule_tests;
#[cfg(test)]
mod sparse_tests;
