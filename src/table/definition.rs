//! Names of tables, with and without their types.
//!
//! Invariant: a definition touches no file; whether its name and types fit is decided where a table is opened.
//! Layer 6 (table).

use super::traits::{Key, Value};
use std::fmt;
use std::marker::PhantomData;

pub(crate) mod sealed {
    pub trait Sealed {}
}

/// Anything that names a table: definitions and open tables.
///
/// ```
/// use cowslip::{TableDefinition, TableHandle};
///
/// fn label(table: impl TableHandle) -> String {
///     format!("table {}", table.name())
/// }
///
/// const BOOKS: TableDefinition<&str, u64> = TableDefinition::new("books");
/// assert_eq!(label(BOOKS), "table books");
/// ```
pub trait TableHandle: sealed::Sealed {
    /// Name of the table.
    fn name(&self) -> &str;
}

/// The name and the types of a table.
///
/// ```
/// use cowslip::TableDefinition;
///
/// const EVENTS: TableDefinition<(&str, u64), &[u8]> = TableDefinition::new("events");
/// assert_eq!(EVENTS.name(), "events");
/// assert_eq!(EVENTS.to_string(), "events<(str, u64), bytes>");
/// ```
pub struct TableDefinition<'a, K: Key + 'static, V: Value + 'static> {
    name: &'a str,
    types: PhantomData<fn() -> (*const K, *const V)>,
}

impl<'a, K: Key + 'static, V: Value + 'static> TableDefinition<'a, K, V> {
    /// Defines a table by its name. An empty name is refused where the table is opened.
    #[must_use]
    pub const fn new(name: &'a str) -> Self {
        Self { name, types: PhantomData }
    }

    /// Name of the table.
    #[must_use]
    pub const fn name(&self) -> &'a str {
        self.name
    }
}

impl<K: Key + 'static, V: Value + 'static> TableHandle for TableDefinition<'_, K, V> {
    fn name(&self) -> &str {
        self.name
    }
}

impl<K: Key + 'static, V: Value + 'static> sealed::Sealed for TableDefinition<'_, K, V> {}

impl<K: Key + 'static, V: Value + 'static> Clone for TableDefinition<'_, K, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K: Key + 'static, V: Value + 'static> Copy for TableDefinition<'_, K, V> {}

impl<K: Key + 'static, V: Value + 'static> fmt::Display for TableDefinition<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}<{}, {}>", self.name, K::descriptor(), V::descriptor())
    }
}

impl<K: Key + 'static, V: Value + 'static> fmt::Debug for TableDefinition<'_, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableDefinition")
            .field("name", &self.name)
            .field("key", &K::descriptor())
            .field("value", &V::descriptor())
            .finish()
    }
}

/// The name of a table whose types are not known, as listings give it.
///
/// ```
/// use cowslip::{TableHandle, UntypedTableHandle};
///
/// fn names(tables: impl Iterator<Item = UntypedTableHandle>) -> Vec<String> {
///     tables.map(|table| table.name().to_owned()).collect()
/// }
/// assert!(names(std::iter::empty()).is_empty());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UntypedTableHandle {
    name: String,
}

impl UntypedTableHandle {
    pub(crate) fn new(name: String) -> Self {
        Self { name }
    }
}

impl TableHandle for UntypedTableHandle {
    fn name(&self) -> &str {
        &self.name
    }
}

impl sealed::Sealed for UntypedTableHandle {}

#[cfg(test)]
mod tests {
    use super::*;

    const SETS: TableDefinition<u64, ()> = TableDefinition::new("sets");

    fn is_shareable<T: Send + Sync + Copy + 'static>(_: T) {}

    #[test]
    fn a_definition_is_a_shareable_constant_that_prints_its_types() {
        is_shareable(SETS);
        assert_eq!(SETS.to_string(), "sets<u64, ()>");
        assert_eq!(format!("{SETS:?}"), "TableDefinition { name: \"sets\", key: U64, value: Unit }");
    }

    #[test]
    fn every_handle_answers_its_name() {
        let handles: [&dyn TableHandle; 2] = [&SETS, &UntypedTableHandle::new("other".to_owned())];
        assert_eq!(handles.map(TableHandle::name), ["sets", "other"]);
    }
}
