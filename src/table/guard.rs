//! Guards: typed views of stored keys and values.
//!
//! Invariant: the bytes of a guard decode: they were decoded once before the guard was handed out.
//! Layer 6 (table).

use super::traits::{Key, Value};
use crate::base::error::{Result, StorageError};
use crate::btree::search::RowBytes;
use crate::pages::store::PageRef;
use std::fmt;
use std::marker::PhantomData;

/// A key or value, read where it is stored.
///
/// A guard of a read transaction keeps its snapshot alive and outlives the table that it came from. A guard of a
/// write transaction borrows its table, so the table cannot change under it.
pub struct AccessGuard<'a, V: Value + 'static> {
    bytes: RowBytes<PageRef<'a>>,
    value: PhantomData<fn() -> V>,
}

impl<'a, V: Value + 'static> AccessGuard<'a, V> {
    /// Guards the bytes of a value, which must decode.
    pub(crate) fn of_value(bytes: RowBytes<PageRef<'a>>) -> Result<Self> {
        if let Err(error) = V::try_from_bytes(bytes.as_slice()) {
            return Err(undecodable::<V>(&error.to_string()));
        }
        Ok(Self { bytes, value: PhantomData })
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
            return Self::of_value(bytes);
        }
        let mut value = Vec::new();
        K::decode_key(bytes.as_slice(), &mut value).map_err(|error| undecodable::<K>(&error.to_string()))?;
        Self::of_value(RowBytes::Owned(value))
    }
}

fn undecodable<V: Value>(reason: &str) -> StorageError {
    StorageError::corrupted(format!("stored bytes are no {}: {reason}", V::type_name()))
}

impl<V: Value + 'static> fmt::Debug for AccessGuard<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AccessGuard").field(&self.value()).finish()
    }
}
