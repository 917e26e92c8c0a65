//! Typed tables over byte trees: how Rust types become keys and values, and how tables are named.
//!
//! Invariant: the bytes of a key sort as the key does, so that the trees below compare bytes only.
//! Layer 6 (table).

mod bulk;
pub(crate) mod codec;
pub(crate) mod definition;
pub(crate) mod descriptor;
pub(crate) mod extract;
pub(crate) mod guard;
pub(crate) mod json;
mod literal;
pub(crate) mod newtype;
pub(crate) mod open;
pub(crate) mod parse;
mod parse_type;
pub(crate) mod prefix;
pub(crate) mod range;
pub(crate) mod read_only;
pub(crate) mod read_write;
pub(crate) mod render;
pub(crate) mod traits;
pub(crate) mod untyped;
