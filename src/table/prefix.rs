//! Which keys have prefixes, and what a prefix of a key is.
//!
//! Invariant: the rows of a prefix are exactly those whose ordered key bytes start with the prefix's bytes.
//! Layer 6 (table).

use super::codec::list::encode_elements;
use super::traits::Key;
use crate::btree::cursor::prefix_end;
use std::ops::Bound;

/// Keys that start with something: strings, byte strings and vectors with a shorter one, tuples with their first part.
///
/// ```
/// # fn main() -> Result<(), cowslip::Error> {
/// use cowslip::{Database, TableDefinition};
/// const EVENTS: TableDefinition<(&str, u64), u8> = TableDefinition::new("events");
/// let db = Database::in_memory()?;
/// db.update(|tx| {
///     let mut events = tx.open_table(EVENTS)?;
///     events.insert(("door", 1), 10)?;
///     events.insert(("door", 2), 20)?;
///     events.insert(("doorbell", 1), 30)?;
///     assert_eq!(events.prefix("door")?.count(), 2);
///     Ok::<_, cowslip::Error>(())
/// })
/// # }
/// ```
pub trait PrefixKey: Key {
    /// What callers pass as a prefix.
    type Prefix<'a>;

    /// Appends the bytes that every key with this prefix starts with.
    fn encode_prefix(prefix: &Self::Prefix<'_>, out: &mut Vec<u8>);
}

impl PrefixKey for &str {
    type Prefix<'a> = &'a str;

    fn encode_prefix(prefix: &&str, out: &mut Vec<u8>) {
        out.extend_from_slice(prefix.as_bytes());
    }
}

impl PrefixKey for &[u8] {
    type Prefix<'a> = &'a [u8];

    fn encode_prefix(prefix: &&[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(prefix);
    }
}

impl PrefixKey for String {
    type Prefix<'a> = &'a str;

    fn encode_prefix(prefix: &&str, out: &mut Vec<u8>) {
        out.extend_from_slice(prefix.as_bytes());
    }
}

/// Vectors start with their first elements; `Vec<u8>` starts with bytes.
impl<T: Key + 'static> PrefixKey for Vec<T> {
    type Prefix<'a> = &'a [T::SelfType<'a>];

    fn encode_prefix(prefix: &&[T::SelfType<'_>], out: &mut Vec<u8>) {
        encode_elements::<T>(prefix, out);
    }
}

impl<const N: usize> PrefixKey for [u8; N] {
    type Prefix<'a> = &'a [u8];

    fn encode_prefix(prefix: &&[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(prefix);
    }
}

impl<const N: usize> PrefixKey for &[u8; N] {
    type Prefix<'a> = &'a [u8];

    fn encode_prefix(prefix: &&[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(prefix);
    }
}

macro_rules! tuple_prefix {
    ($($rest:ident)+) => {
        impl<A: Key + 'static, $($rest: Key + 'static),+> PrefixKey for (A, $($rest),+) {
            type Prefix<'a> = A::SelfType<'a>;

            fn encode_prefix(prefix: &A::SelfType<'_>, out: &mut Vec<u8>) {
                A::encode_key_part(prefix, out);
            }
        }
    };
}

tuple_prefix!(B);
tuple_prefix!(B C);
tuple_prefix!(B C D);
tuple_prefix!(B C D E);
tuple_prefix!(B C D E F);
tuple_prefix!(B C D E F G);
tuple_prefix!(B C D E F G H);
tuple_prefix!(B C D E F G H I);
tuple_prefix!(B C D E F G H I J);
tuple_prefix!(B C D E F G H I J L);
tuple_prefix!(B C D E F G H I J L M);

/// Byte bounds of all keys with a prefix.
pub(crate) fn encode_prefix_bounds<K: PrefixKey>(prefix: &K::Prefix<'_>) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
    let mut start = Vec::new();
    K::encode_prefix(prefix, &mut start);
    let end = prefix_end(&start).map_or(Bound::Unbounded, Bound::Excluded);
    (Bound::Included(start), end)
}
