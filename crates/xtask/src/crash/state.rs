//! The whole logical state of a database, as the harness keeps it and as it is read back.

use super::bulk::Bulk;
use crate::random::Random;
use cowslip::{Database, Error, ReadTransaction, TableDefinition, TableHandle, WriteTransaction};
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// All tables with their rows. Cheap to clone: states share the tables that do not differ.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) tables: BTreeMap<String, Arc<Rows>>,
}

/// One change in a write transaction.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Put {
        table: u32,
        key: u32,
        len: usize,
        fill: u64,
    },
    Remove {
        table: u32,
        key: u32,
    },
    /// Removes every row whose number in key order is a multiple.
    Thin {
        table: u32,
        multiple: usize,
    },
    Delete {
        table: u32,
    },
    Rename {
        table: u32,
        to: u32,
    },
    Many {
        table: u32,
        bulk: Bulk,
    },
}

pub(super) fn definition(name: &str) -> TableDefinition<'_, &'static [u8], &'static [u8]> {
    TableDefinition::new(name)
}

pub(super) fn table_name(table: u32) -> String {
    format!("table-{table}")
}

/// Keys of several lengths; some are too long to be stored inline in a small node.
pub(super) fn key_bytes(key: u32) -> Vec<u8> {
    let mut bytes = key.to_be_bytes().to_vec();
    bytes.resize(
        if key.is_multiple_of(29) {
            300
        } else if key.is_multiple_of(5) {
            40
        } else {
            6
        },
        0x6B,
    );
    bytes
}

pub(super) fn value_bytes(len: usize, fill: u64) -> Vec<u8> {
    let mut random = Random::at(fill, len as u64);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&random.next().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

impl State {
    /// Makes a change here and in the transaction.
    pub(super) fn change(&mut self, tx: &WriteTransaction, change: &Change) -> Result<(), Error> {
        match change {
            Change::Put { table, key, len, fill } => {
                let (name, key, value) = (table_name(*table), key_bytes(*key), value_bytes(*len, *fill));
                tx.open_table(definition(&name))?.insert(&key[..], &value[..])?;
                Arc::make_mut(self.tables.entry(name).or_default()).insert(key, value);
            }
            Change::Remove { table, key } => {
                let (name, key) = (table_name(*table), key_bytes(*key));
                tx.open_table(definition(&name))?.remove(&key[..])?;
                Arc::make_mut(self.tables.entry(name).or_default()).remove(&key);
            }
            Change::Thin { table, multiple } => {
                let name = table_name(*table);
                let rows = Arc::make_mut(self.tables.entry(name.clone()).or_default());
                let keys: Vec<_> = rows.keys().step_by(*multiple).cloned().collect();
                let mut open = tx.open_table(definition(&name))?;
                for key in keys {
                    open.remove(&key[..])?;
                    rows.remove(&key);
                }
            }
            Change::Many { table, bulk } => self.change_many(tx, *table, bulk)?,
            Change::Delete { table } => {
                let name = table_name(*table);
                tx.delete_table(definition(&name))?;
                self.tables.remove(&name);
            }
            Change::Rename { table, to } => {
                let (from, to) = (table_name(*table), table_name(*to));
                if self.tables.contains_key(&from) && !self.tables.contains_key(&to) {
                    tx.rename_table(definition(&from), definition(&to))?;
                    let rows = self.tables.remove(&from).unwrap_or_default();
                    self.tables.insert(to, rows);
                }
            }
        }
        Ok(())
    }

    /// Everything that a snapshot shows.
    pub(super) fn of_snapshot(tx: &ReadTransaction) -> Result<Self, Error> {
        let mut tables = BTreeMap::new();
        for handle in tx.list_tables()? {
            let mut rows = Rows::new();
            for row in tx.open_table(definition(handle.name()))?.iter()? {
                let (key, value) = row?;
                rows.insert(key.value().to_vec(), value.value().to_vec());
            }
            tables.insert(handle.name().to_owned(), Arc::new(rows));
        }
        Ok(Self { tables })
    }

    /// Everything that the newest version shows, and its id.
    pub(super) fn of_database(db: &Database) -> Result<(u64, Self), Error> {
        let tx = db.begin_read()?;
        Ok((tx.id().get(), Self::of_snapshot(&tx)?))
    }

    /// Where two states differ first.
    pub(super) fn difference(&self, other: &Self) -> String {
        let names = |state: &Self| state.tables.keys().cloned().collect::<Vec<_>>();
        if names(self) != names(other) {
            return format!("tables {:?}, expected {:?}", names(self), names(other));
        }
        for (name, rows) in &self.tables {
            let expected = &other.tables[name];
            let keys = rows.keys().chain(expected.keys());
            for key in keys {
                let (found, wanted) = (rows.get(key), expected.get(key));
                if found != wanted {
                    let start = &key[..key.len().min(6)];
                    let (found, wanted) = (found.map(Vec::len), wanted.map(Vec::len));
                    return format!("{name}, key {start:?}..: value of {found:?} bytes, expected {wanted:?}");
                }
            }
        }
        "no difference".to_owned()
    }
}
