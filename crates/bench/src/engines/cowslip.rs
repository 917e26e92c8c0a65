//! Cowslip with its default durability, unless a call says otherwise.

use crate::Result;
use crate::digest::Digest;
use crate::engine::{Engine, RowTest};
use cowslip::{CheckpointStats, Database, Durability, TableDefinition};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("rows");
const NUMBERS: TableDefinition<u32, u64> = TableDefinition::new("numbers");

/// How often a store is asked whether it works in the background, and how long at most.
const POLL: Duration = Duration::from_millis(5);
const SETTLE_MAX: Duration = Duration::from_secs(120);

/// An open Cowslip database.
#[derive(Debug)]
pub(crate) struct Cowslip {
    database: Database,
}

impl Cowslip {
    pub(crate) fn open(folder: &Path, cache_bytes: usize) -> Result<Self> {
        let database = Database::builder().cache_bytes_max(cache_bytes).create(folder.join("rows.cowslip"))?;
        Ok(Self::of(database))
    }

    pub(crate) fn of(database: Database) -> Self {
        Self { database }
    }
}

impl Engine for Cowslip {
    fn insert(&self, rows: &[(&[u8], &[u8])]) -> Result<()> {
        let transaction = self.database.begin_write()?;
        let mut table = transaction.open_table(TABLE)?;
        for (key, value) in rows {
            table.put(*key, *value)?;
        }
        drop(table);
        transaction.commit()?;
        Ok(())
    }

    fn insert_each_non_durably(&mut self, rows: &[(&[u8], &[u8])]) -> Result<()> {
        for (key, value) in rows {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(Durability::None)?;
            transaction.open_table(TABLE)?.put(*key, *value)?;
            transaction.commit()?;
        }
        Ok(())
    }

    fn read(&self, keys: &[&[u8]]) -> Result<Digest> {
        let table = self.database.begin_read()?.open_table(TABLE)?;
        let mut digest = Digest::default();
        for key in keys {
            if let Some(value) = table.get(*key)? {
                digest.add_value(value.value());
            }
        }
        Ok(digest)
    }

    fn scan(&self, starts: &[&[u8]], len: usize) -> Result<Digest> {
        let table = self.database.begin_read()?.open_table(TABLE)?;
        let mut digest = Digest::default();
        for start in starts {
            for row in table.range(*start..)?.take(len) {
                digest.add_value(row?.1.value());
            }
        }
        Ok(digest)
    }

    fn remove(&mut self, keys: &[&[u8]]) -> Result<()> {
        let transaction = self.database.begin_write()?;
        let mut table = transaction.open_table(TABLE)?;
        for key in keys {
            table.delete(*key)?;
        }
        drop(table);
        transaction.commit()?;
        Ok(())
    }

    fn retain(&mut self, stays: RowTest) -> Result<()> {
        let transaction = self.database.begin_write()?;
        let mut table = transaction.open_table(TABLE)?;
        table.retain(stays)?;
        drop(table);
        transaction.commit()?;
        Ok(())
    }

    fn extract_if(&mut self, leaves: RowTest) -> Result<Digest> {
        let transaction = self.database.begin_write()?;
        let mut table = transaction.open_table(TABLE)?;
        let mut digest = Digest::default();
        for row in table.extract_if(leaves)? {
            digest.add_value(row?.1.value());
        }
        drop(table);
        transaction.commit()?;
        Ok(digest)
    }

    fn pop_first(&mut self, count: usize) -> Result<Digest> {
        let transaction = self.database.begin_write()?;
        let mut table = transaction.open_table(TABLE)?;
        let mut digest = Digest::default();
        for _ in 0..count {
            if let Some((_, value)) = table.pop_first()? {
                digest.add_value(value.value());
            }
        }
        drop(table);
        transaction.commit()?;
        Ok(digest)
    }

    fn insert_numbers(&mut self, numbers: &[(u32, u64)]) -> Result<()> {
        let transaction = self.database.begin_write()?;
        let mut table = transaction.open_table(NUMBERS)?;
        for (key, value) in numbers {
            table.put(key, value)?;
        }
        drop(table);
        transaction.commit()?;
        Ok(())
    }

    fn scan_numbers(&self) -> Result<Digest> {
        let table = self.database.begin_read()?.open_table(NUMBERS)?;
        let mut digest = Digest::default();
        for row in table.iter()? {
            let (key, value) = row?;
            digest.add_number(key.value(), value.value());
        }
        Ok(digest)
    }

    fn compact(&mut self) -> Result<()> {
        self.database.compact()?;
        Ok(())
    }

    fn settle(&self) -> Result<()> {
        let is_busy = |checkpoints: &CheckpointStats| checkpoints.begun > checkpoints.finished + checkpoints.failed;
        let started = Instant::now();
        while is_busy(&self.database.stats().checkpoints) {
            if started.elapsed() > SETTLE_MAX {
                return Err("cowslip does not come to rest".into());
            }
            sleep(POLL);
        }
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(self.database.close()?)
    }
}
