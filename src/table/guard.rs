//! Guards: typed views of stored keys and values.
//!
//! Invariant: the bytes of a guard decode: they were decoded once before the guard was handed out.
//! Layer 6 (table).

use super::traits::{Key, Value};
use crate::base::codec::DecodeError;
use crate::base::error::{Result, StorageError};
use crate::btree::search::RowBytes;
use crate::pages::snapshot::PageRef;
use std::fmt;
use std::marker::PhantomData;

/// A key or value, read where it is stored.
///
/// A guard of a read transaction outlives the table that it came from: it owns a copy of what is short, and keeps its
/// snapshot alive for what is longer. A guard of a
/// write transaction borrows its table, so the table cannot change under it.
pub struct AccessGuard<'a, V: Value + 'static> {
    bytes: RowBytes<PageRef<'a>>,
    value: PhantomData<fn() -> V>,
}

impl<'a, V: Value + 'static> AccessGuard<'a, V> {
    /// Guards the bytes of a value, which must decode.
    pub(crate) fn of_value(bytes: RowBytes<PageRef<'a>>) -> Result<Self> {
        Self::of_bytes(bytes, "value")
    }

    fn of_bytes(bytes: RowBytes<PageRef<'a>>, what: &str) -> Result<Self> {
        check::<V>(bytes.as_slice(), what)?;
        Ok(Self::of_checked(bytes))
    }

    /// Guards bytes that were found to decode.
    #[inline(always)]
    pub(crate) fn of_checked(bytes: RowBytes<PageRef<'a>>) -> Self {
        Self { bytes, value: PhantomData }
    }

    /// The same bytes, borrowed from nothing: a copy, unless they are one already.
    pub(crate) fn into_owned(self) -> AccessGuard<'static, V> {
        AccessGuard { bytes: self.bytes.into_owned(), value: PhantomData }
    }

    /// What is stored. Costs one decode; borrows from the guard.
    ///
    /// # Panics
    /// Only where the application's own `Value` implementation answers the same bytes differently from one call to
    /// the next.
    #[must_use]
    pub fn value(&self) -> V::SelfType<'_> {
        V::try_from_bytes(self.bytes.as_slice()).expect("the bytes decoded when the guard was made")
    }
}

impl<'a, K: Key + 'static> AccessGuard<'a, K> {
    /// Guards a key. Where its ordered bytes are not its value bytes, the guard owns a copy that can lend.
    pub(crate) fn of_key(bytes: RowBytes<PageRef<'a>>) -> Result<Self> {
        if K::KEY_BYTES_ARE_VALUE_BYTES {
            return Self::of_bytes(bytes, "key");
        }
        let mut value = Vec::new();
        K::decode_key(bytes.as_slice(), &mut value).map_err(|error| undecodable::<K>("key", error))?;
        Self::of_bytes(RowBytes::Owned(value), "key")
    }
}

/// Refuses bytes that do not decode.
#[inline]
pub(crate) fn check<V: Value>(bytes: &[u8], what: &str) -> Result<()> {
    match V::try_from_bytes(bytes) {
        Ok(_) => Ok(()),
        Err(error) => Err(undecodable::<V>(what, error)),
    }
}

#[cold]
fn undecodable<V: Value>(what: &str, error: DecodeError) -> StorageError {
    StorageError::undecodable(format_args!("a stored {what} is no {}", V::type_name()), error)
}

impl<V: Value + 'static> fmt::Debug for AccessGuard<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AccessGuard").field(&self.value()).finish()
    }
}
