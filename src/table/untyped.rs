//! Tables without their Rust types: rows as bytes, and the stored descriptors that say what the bytes mean.
//!
//! Invariant: no bytes are written that are not a key and a value of the described types.
//! Layer 6 (table).

use super::definition::{TableHandle, sealed};
use super::descriptor::TypeDescriptor;
use super::guard::AccessGuard;
use super::range::Range;
use super::read_only::ReadOnlyTable;
use super::read_write::Table;
use super::render::{render_key, render_value};
use crate::base::error::StorageError;
use crate::txn::error::UntypedError;
use std::fmt;
use std::ops::RangeBounds;

/// What every table is below its types.
type Bytes = &'static [u8];

/// A table of one snapshot, read as bytes.
///
/// Keys are in their ordered form, as [`parse_key`](crate::parse_key) makes and [`render_key`](crate::render_key)
/// reads it. Keeps the snapshot alive by itself.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use cowslip::{Database, TableDefinition, parse_key, render_key, render_value};
/// let db = Database::in_memory()?;
/// db.update(|tx| {
///     tx.open_table(TableDefinition::<(&str, u64), bool>::new("seen"))?.insert(("door", 7), true)?;
///     Ok::<_, cowslip::Error>(())
/// })?;
///
/// let seen = db.begin_read()?.open_untyped_table("seen")?;
/// assert_eq!(seen.key_type().to_string(), "(str, u64)");
/// let key = parse_key(seen.key_type(), r#"["door", 7]"#)?;
/// assert!(seen.get(&key)?.is_some());
/// for row in seen.iter()? {
///     let (key, value) = row?;
///     assert_eq!(render_key(seen.key_type(), key.value())?, "(\"door\", 7)");
///     assert_eq!(render_value(seen.value_type(), value.value())?, "true");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct UntypedTable {
    rows: ReadOnlyTable<Bytes, Bytes>,
    key_type: TypeDescriptor,
    value_type: TypeDescriptor,
}

impl UntypedTable {
    pub(crate) fn new(rows: ReadOnlyTable<Bytes, Bytes>, key_type: TypeDescriptor, value_type: TypeDescriptor) -> Self {
        Self { rows, key_type, value_type }
    }

    /// What the bytes of a key mean.
    #[must_use]
    pub fn key_type(&self) -> &TypeDescriptor {
        &self.key_type
    }

    /// What the bytes of a value mean.
    #[must_use]
    pub fn value_type(&self) -> &TypeDescriptor {
        &self.value_type
    }

    /// Looks an ordered key up. Bytes that are no key of the table are found nowhere.
    ///
    /// # Errors
    /// When a page cannot be read or is damaged.
    pub fn get(&self, key: &[u8]) -> Result<Option<AccessGuard<'static, Bytes>>, StorageError> {
        self.rows.get(key)
    }

    /// The rows whose ordered keys lie in `range`, in key order, from both ends.
    ///
    /// # Errors
    /// When a page cannot be read or is damaged.
    pub fn range<'k>(&self, range: impl RangeBounds<&'k [u8]>) -> Result<Range<'static, Bytes, Bytes>, StorageError> {
        self.rows.range::<&'k [u8]>(range)
    }

    /// The rows whose ordered keys start with these bytes, which [`parse_prefix`](crate::parse_prefix) makes.
    ///
    /// # Errors
    /// When a page cannot be read or is damaged.
    pub fn prefix(&self, prefix: &[u8]) -> Result<Range<'static, Bytes, Bytes>, StorageError> {
        self.rows.prefix(prefix)
    }

    /// All rows in key order, from both ends.
    ///
    /// # Errors
    /// When a page cannot be read or is damaged.
    pub fn iter(&self) -> Result<Range<'static, Bytes, Bytes>, StorageError> {
        self.rows.iter()
    }

    /// Number of rows. Costs a lookup for each recent change that was made without one, by `put` or `delete` or before a crash,
    /// until a checkpoint has brought it into the tree; otherwise nothing.
    ///
    /// # Errors
    /// When a page cannot be read or is damaged.
    pub fn len(&self) -> Result<u64, StorageError> {
        self.rows.len()
    }

    /// Whether there is no row.
    ///
    /// # Errors
    /// When a page cannot be read or is damaged.
    pub fn is_empty(&self) -> Result<bool, StorageError> {
        self.rows.is_empty()
    }
}

impl TableHandle for UntypedTable {
    fn name(&self) -> &str {
        self.rows.name()
    }
}

impl sealed::Sealed for UntypedTable {}

impl fmt::Debug for UntypedTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UntypedTable")
            .field("name", &self.name())
            .field("key", &self.key_type)
            .field("value", &self.value_type)
            .finish_non_exhaustive()
    }
}

/// A table that can be changed as bytes.
///
/// Bytes are checked against the types of the table before anything changes. Of an opaque type of the application only
/// the width is known, and of a newtype only how it is stored, so no more is checked.
pub struct UntypedTableMut<'t> {
    rows: Table<'t, Bytes, Bytes>,
    key_type: TypeDescriptor,
    value_type: TypeDescriptor,
}

impl<'t> UntypedTableMut<'t> {
    pub(crate) fn new(rows: Table<'t, Bytes, Bytes>, key_type: &TypeDescriptor, value_type: &TypeDescriptor) -> Self {
        Self { rows, key_type: key_type.clone(), value_type: value_type.clone() }
    }

    fn check_key(&self, key: &[u8]) -> Result<(), UntypedError> {
        render_key(&self.key_type, key).map(|_| ()).map_err(|error| UntypedError::InvalidKey(Box::new(error)))
    }

    /// Looks an ordered key up. Bytes that are no key of the table are found nowhere.
    ///
    /// # Errors
    /// When a page cannot be read or is damaged.
    pub fn get(&self, key: &[u8]) -> Result<Option<AccessGuard<'_, Bytes>>, StorageError> {
        self.rows.get(key)
    }

    /// Sets the value of an ordered key, whether it was there or not, and returns the value that it had.
    ///
    /// # Errors
    /// [`UntypedError::InvalidKey`], [`UntypedError::InvalidValue`], [`StorageError::KeyTooLarge`] and
    /// [`StorageError::ValueTooLarge`] change nothing. After any other error the transaction can only be aborted.
    pub fn insert(&mut self, key: &[u8], value: &[u8]) -> Result<Option<AccessGuard<'static, Bytes>>, UntypedError> {
        self.check_key(key)?;
        if let Err(error) = render_value(&self.value_type, value) {
            return Err(UntypedError::InvalidValue(Box::new(error)));
        }
        Ok(self.rows.insert(key, value)?)
    }

    /// Removes an ordered key and returns the value that it had.
    ///
    /// # Errors
    /// [`UntypedError::InvalidKey`] changes nothing. After any other error the transaction can only be aborted.
    pub fn remove(&mut self, key: &[u8]) -> Result<Option<AccessGuard<'static, Bytes>>, UntypedError> {
        self.check_key(key)?;
        Ok(self.rows.remove(key)?)
    }

    /// Number of rows. Costs a lookup for each recent change that was made without one, by `put` or `delete` or before a crash,
    /// until a checkpoint has brought it into the tree; otherwise nothing. In a transaction with many changes those that wait to
    /// be brought into the tree are brought there first.
    ///
    /// # Errors
    /// When a page cannot be read or is damaged, or an earlier operation failed half-way.
    pub fn len(&self) -> Result<u64, StorageError> {
        self.rows.len()
    }

    /// Whether there is no row.
    ///
    /// # Errors
    /// When a page cannot be read or is damaged, or an earlier operation failed half-way.
    pub fn is_empty(&self) -> Result<bool, StorageError> {
        self.rows.is_empty()
    }
}

impl TableHandle for UntypedTableMut<'_> {
    fn name(&self) -> &str {
        self.rows.name()
    }
}

impl sealed::Sealed for UntypedTableMut<'_> {}

impl fmt::Debug for UntypedTableMut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UntypedTableMut")
            .field("name", &self.name())
            .field("key", &self.key_type)
            .field("value", &self.value_type)
            .finish_non_exhaustive()
    }
}
