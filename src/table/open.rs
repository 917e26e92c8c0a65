//! Opening, listing, renaming and deleting tables: the typed verbs of both kinds of transaction.
//!
//! Invariant: types are compared by their stored structure before a table is handed out.
//! Layer 6 (table).

use super::definition::{TableDefinition, TableHandle, UntypedTableHandle};
use super::descriptor::TypeDescriptor;
use super::read_only::ReadOnlyTable;
use super::read_write::Table;
use super::traits::{Key, Value};
use super::untyped::{UntypedTable, UntypedTableMut};
use crate::base::error::StorageError;
use crate::base::ids::{TransactionId, TreeRoot};
use crate::base::sync::Arc;
use crate::btree::overlaid::OverlaidTree;
use crate::catalog::record::{TableKind, TableRecord};
use crate::catalog::roots;
use crate::delta::layers::TableDelta;
use crate::txn::error::{TableError, TableTypeMismatch};
use crate::txn::read::ReadTransaction;
use crate::txn::write::WriteTransaction;

/// The encoded descriptors of a definition's types.
struct Types {
    key: Vec<u8>,
    value: Vec<u8>,
}

fn types<K: Key, V: Value>(name: &str) -> Result<Types, TableError> {
    types_of(name, &K::descriptor(), &V::descriptor())
}

fn types_of(name: &str, key: &TypeDescriptor, value: &TypeDescriptor) -> Result<Types, TableError> {
    if name.is_empty() {
        return Err(TableError::InvalidDefinition("a table needs a name".into()));
    }
    let encode = |descriptor: &TypeDescriptor| match descriptor.check() {
        Ok(()) => Ok(descriptor.encode()),
        Err(error) => Err(TableError::InvalidDefinition(format!("table {name:?}: {error}").into())),
    };
    Ok(Types { key: encode(key)?, value: encode(value)? })
}

fn verify(name: &str, types: &Types, record: &TableRecord) -> Result<(), TableError> {
    if (&types.key, &types.value) == (&record.key_type, &record.value_type) {
        return Ok(());
    }
    let show =
        |key: &[u8], value: &[u8]| decode_types(name, key, value).map(|(key, value)| format!("<{key}, {value}>"));
    Err(TableError::TypeMismatch(Box::new(TableTypeMismatch {
        table: name.to_owned(),
        expected: show(&types.key, &types.value)?,
        found: show(&record.key_type, &record.value_type)?,
    })))
}

/// The stored types of a table; damage names the table.
fn decode_types(name: &str, key: &[u8], value: &[u8]) -> Result<(TypeDescriptor, TypeDescriptor), StorageError> {
    let decode = |what, bytes| {
        TypeDescriptor::decode(bytes)
            .map_err(|error| StorageError::undecodable(format_args!("the {what} type"), error).in_table(name))
    };
    Ok((decode("key", key)?, decode("value", value)?))
}

fn handles(tables: Vec<(String, TableRecord)>) -> impl Iterator<Item = UntypedTableHandle> {
    tables.into_iter().map(|(name, _)| UntypedTableHandle::new(name))
}

impl ReadTransaction {
    /// Opens a table of the snapshot.
    ///
    /// # Errors
    /// [`TableError::DoesNotExist`], [`TableError::TypeMismatch`], or what reading the catalog failed with.
    pub fn open_table<K: Key + 'static, V: Value + 'static>(
        &self,
        definition: TableDefinition<'_, K, V>,
    ) -> Result<ReadOnlyTable<K, V>, TableError> {
        self.open_existing(definition)?.ok_or_else(|| TableError::DoesNotExist(definition.name().into()))
    }

    /// The same, but a table that does not exist yet is an empty one.
    ///
    /// # Errors
    /// [`TableError::TypeMismatch`], or what reading the catalog failed with.
    pub fn open_table_or_empty<K: Key + 'static, V: Value + 'static>(
        &self,
        definition: TableDefinition<'_, K, V>,
    ) -> Result<ReadOnlyTable<K, V>, TableError> {
        let table = self.open_existing(definition)?;
        Ok(table.unwrap_or_else(|| self.read_only(definition.name(), TreeRoot::EMPTY, TableDelta::default())))
    }

    fn open_existing<K: Key + 'static, V: Value + 'static>(
        &self,
        definition: TableDefinition<'_, K, V>,
    ) -> Result<Option<ReadOnlyTable<K, V>>, TableError> {
        let types = types::<K, V>(definition.name())?;
        let Some(record) = self.find(definition.name())? else { return Ok(None) };
        verify(definition.name(), &types, &record)?;
        Ok(Some(self.read_table(definition.name(), &record)))
    }

    fn read_table<K: Key + 'static, V: Value + 'static>(
        &self,
        name: &str,
        record: &TableRecord,
    ) -> ReadOnlyTable<K, V> {
        self.read_only(name, record.root, self.pages().version().delta.table(record.id))
    }

    fn read_only<K: Key + 'static, V: Value + 'static>(
        &self,
        name: &str,
        root: TreeRoot,
        delta: TableDelta,
    ) -> ReadOnlyTable<K, V> {
        ReadOnlyTable::new(Arc::new(name.to_owned()), OverlaidTree { pages: self.pages().clone(), root, delta })
    }

    /// Opens a table of the snapshot by its name alone, with the types that are stored beside it.
    ///
    /// # Errors
    /// [`TableError::DoesNotExist`], or what reading the catalog failed with.
    pub fn open_untyped_table(&self, name: &str) -> Result<UntypedTable, TableError> {
        let record = self.find(name)?.ok_or_else(|| TableError::DoesNotExist(name.into()))?;
        let (key_type, value_type) = decode_types(name, &record.key_type, &record.value_type)?;
        Ok(UntypedTable::new(self.read_table(name, &record), key_type, value_type))
    }

    /// Requires that every table says what its rows are: a type that cannot be decoded makes it unreadable without its
    /// application.
    pub(crate) fn check_types(&self) -> Result<(), StorageError> {
        let tables = roots::list(self.pages().clone(), &self.pages().version().trees.data)?;
        tables.iter().try_for_each(|(name, record)| decode_types(name, &record.key_type, &record.value_type).map(drop))
    }

    /// Names of all tables of the snapshot, in the order of their bytes.
    ///
    /// # Errors
    /// What reading the catalog failed with.
    pub fn list_tables(&self) -> Result<impl Iterator<Item = UntypedTableHandle> + use<>, TableError> {
        self.list().map(handles)
    }
}

impl WriteTransaction {
    /// Opens a table, creating it where it does not exist.
    ///
    /// # Errors
    /// [`TableError::AlreadyOpen`] while another handle has it, [`TableError::TypeMismatch`],
    /// [`TableError::InvalidDefinition`], or what reading or changing the catalog failed with.
    pub fn open_table<K: Key + 'static, V: Value + 'static>(
        &self,
        definition: TableDefinition<'_, K, V>,
    ) -> Result<Table<'_, K, V>, TableError> {
        self.open_with(definition.name(), &types::<K, V>(definition.name())?)
    }

    /// Opens a table by its name and the structure of its types, creating it where it does not exist.
    ///
    /// # Errors
    /// Those of [`WriteTransaction::open_table`].
    pub fn open_untyped_table(
        &self,
        name: &str,
        key_type: &TypeDescriptor,
        value_type: &TypeDescriptor,
    ) -> Result<UntypedTableMut<'_>, TableError> {
        let rows = self.open_with(name, &types_of(name, key_type, value_type)?)?;
        Ok(UntypedTableMut::new(rows, key_type, value_type))
    }

    fn open_with<K: Key + 'static, V: Value + 'static>(
        &self,
        name: &str,
        types: &Types,
    ) -> Result<Table<'_, K, V>, TableError> {
        let create = |id| TableRecord {
            id,
            kind: TableKind::Table,
            root: TreeRoot::EMPTY,
            folded: TransactionId::ZERO,
            key_type: types.key.clone(),
            value_type: types.value.clone(),
        };
        Ok(Table::new(self, self.check_out(name, create, |record| verify(name, types, record))?))
    }

    /// Names of all tables, those created in this transaction included, in the order of their bytes.
    ///
    /// # Errors
    /// What reading the catalog failed with.
    pub fn list_tables(&self) -> Result<impl Iterator<Item = UntypedTableHandle> + use<>, TableError> {
        self.list().map(handles)
    }

    /// Deletes a table with all its rows; says whether there was one. Its types do not matter.
    ///
    /// Cost: reads every page of the table.
    ///
    /// # Errors
    /// [`TableError::AlreadyOpen`] while a handle has it. After a storage error the transaction can only be aborted.
    pub fn delete_table(&self, table: impl TableHandle) -> Result<bool, TableError> {
        let name = table.name().to_owned();
        // An open table that is passed itself is closed by that.
        drop(table);
        self.delete(&name).map_err(|error| error.in_table(&name))
    }

    /// Gives a table another name. Its rows stay where they are. To its own name does nothing.
    ///
    /// # Errors
    /// [`TableError::DoesNotExist`], [`TableError::Exists`], and [`TableError::AlreadyOpen`] while a handle has either
    /// name. After a storage error the transaction can only be aborted.
    pub fn rename_table(&self, table: impl TableHandle, new_name: impl TableHandle) -> Result<(), TableError> {
        if new_name.name().is_empty() {
            return Err(TableError::InvalidDefinition("a table needs a name".into()));
        }
        let (old, new) = (table.name().to_owned(), new_name.name().to_owned());
        drop((table, new_name));
        self.rename(&old, &new)
    }
}
