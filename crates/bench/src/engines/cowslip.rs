//! Cowslip with its default durability.

use crate::Result;
use crate::data::{Key, Row};
use crate::engine::{Digest, Engine};
use cowslip::{Database, TableDefinition};
use std::path::Path;

const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("rows");

/// An open Cowslip database.
#[derive(Debug)]
pub(crate) struct Cowslip {
    database: Database,
}

impl Cowslip {
    pub(crate) fn create(folder: &Path, cache_bytes: usize) -> Result<Self> {
        let database = Database::builder().cache_bytes_max(cache_bytes).create(folder.join("rows.cowslip"))?;
        Ok(Self { database })
    }
}

impl Engine for Cowslip {
    fn name(&self) -> &'static str {
        "cowslip"
    }

    fn insert(&mut self, rows: &[Row]) -> Result<()> {
        let transaction = self.database.begin_write()?;
        let mut table = transaction.open_table(TABLE)?;
        for row in rows {
            table.insert(&row.key[..], &row.value[..])?;
        }
        drop(table);
        transaction.commit()?;
        Ok(())
    }

    fn read(&self, keys: &[Key]) -> Result<Digest> {
        let table = self.database.begin_read()?.open_table(TABLE)?;
        let mut digest = Digest::default();
        for key in keys {
            if let Some(value) = table.get(&key[..])? {
                digest.add(value.value());
            }
        }
        Ok(digest)
    }

    fn scan(&self, starts: &[Key], len: usize) -> Result<Digest> {
        let table = self.database.begin_read()?.open_table(TABLE)?;
        let mut digest = Digest::default();
        for start in starts {
            for row in table.range(&start[..]..)?.take(len) {
                digest.add(row?.1.value());
            }
        }
        Ok(digest)
    }

    fn remove(&mut self, keys: &[Key]) -> Result<Digest> {
        let transaction = self.database.begin_write()?;
        let mut table = transaction.open_table(TABLE)?;
        let mut digest = Digest::default();
        for key in keys {
            if let Some(value) = table.remove(&key[..])? {
                digest.add(value.value());
            }
        }
        drop(table);
        transaction.commit()?;
        Ok(digest)
    }
}
