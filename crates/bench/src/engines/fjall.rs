//! fjall with its default options: each call is one batch, whose journal is synced when it is committed.
//!
//! It has no call that removes by a predicate: rows are read by an iterator, and those to remove go into a batch.
//! What a batch removes is still there to read until it is committed, so the rows to pop come from one iterator too,
//! not from a look at the first row before each removal.

use crate::Result;
use crate::digest::Digest;
use crate::engine::{Engine, RowTest};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode, Readable};
use std::fmt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Pause between two looks at the background work.
const POLL: Duration = Duration::from_millis(10);
/// Looks in a row that must find no background work: a flush starts a compaction a moment later.
const CALM_POLLS: u32 = 5;
/// After this long the background work does not end.
const SETTLE_MAX: Duration = Duration::from_secs(900);

/// An open fjall database.
pub(crate) struct Fjall {
    rows: Keyspace,
    database: Database,
}

impl fmt::Debug for Fjall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fjall").field("rows", &self.rows.name()).finish_non_exhaustive()
    }
}

impl Fjall {
    pub(crate) fn open(folder: &Path, cache_bytes: usize) -> Result<Self> {
        let database = Database::builder(folder).cache_size(u64::try_from(cache_bytes)?).open()?;
        let rows = database.keyspace("rows", KeyspaceCreateOptions::default)?;
        Ok(Self { rows, database })
    }

    /// A batch that waits for the same system call on commit as the other stores.
    fn batch(&self, len: usize) -> OwnedWriteBatch {
        OwnedWriteBatch::with_capacity(self.database.clone(), len).durability(Some(PersistMode::SyncData))
    }

    /// Reads the first `count` rows and removes in one batch those that `leaves` says `true` for; their values are
    /// digested if `looks`.
    fn sweep(&mut self, count: usize, looks: bool, leaves: impl Fn(&[u8], &[u8]) -> bool) -> Result<Digest> {
        let (mut digest, mut batch) = (Digest::default(), self.batch(0));
        for row in self.database.snapshot().iter(&self.rows).take(count) {
            let (key, value) = row.into_inner()?;
            if leaves(&key, &value) {
                if looks {
                    digest.add_value(&value);
                }
                batch.remove(&self.rows, key);
            }
        }
        batch.commit()?;
        Ok(digest)
    }
}

impl Engine for Fjall {
    fn insert(&self, rows: &[(&[u8], &[u8])]) -> Result<()> {
        let mut batch = self.batch(rows.len());
        for (key, value) in rows {
            batch.insert(&self.rows, *key, *value);
        }
        Ok(batch.commit()?)
    }

    /// What such a batch writes stays in the memory of the journal's writer until that is full.
    fn insert_each_non_durably(&mut self, rows: &[(&[u8], &[u8])]) -> Result<()> {
        for (key, value) in rows {
            let mut batch = self.batch(1).durability(None);
            batch.insert(&self.rows, *key, *value);
            batch.commit()?;
        }
        Ok(())
    }

    fn read(&self, keys: &[&[u8]]) -> Result<Digest> {
        let snapshot = self.database.snapshot();
        let mut digest = Digest::default();
        for key in keys {
            if let Some(value) = snapshot.get(&self.rows, key)? {
                digest.add_value(&value);
            }
        }
        Ok(digest)
    }

    fn scan(&self, starts: &[&[u8]], len: usize) -> Result<Digest> {
        let snapshot = self.database.snapshot();
        let mut digest = Digest::default();
        for start in starts {
            for row in snapshot.range(&self.rows, *start..).take(len) {
                digest.add_value(&row.value()?);
            }
        }
        Ok(digest)
    }

    fn remove(&mut self, keys: &[&[u8]]) -> Result<()> {
        let mut batch = self.batch(keys.len());
        for key in keys {
            batch.remove(&self.rows, *key);
        }
        Ok(batch.commit()?)
    }

    fn retain(&mut self, stays: RowTest) -> Result<()> {
        self.sweep(usize::MAX, false, |key, value| !stays(key, value))?;
        Ok(())
    }

    fn extract_if(&mut self, leaves: RowTest) -> Result<Digest> {
        self.sweep(usize::MAX, true, leaves)
    }

    fn pop_first(&mut self, count: usize) -> Result<Digest> {
        self.sweep(count, true, |_, _| true)
    }

    fn insert_numbers(&mut self, numbers: &[(u32, u64)]) -> Result<()> {
        let mut batch = self.batch(numbers.len());
        for (key, value) in numbers {
            batch.insert(&self.rows, key.to_be_bytes(), value.to_le_bytes());
        }
        Ok(batch.commit()?)
    }

    fn scan_numbers(&self) -> Result<Digest> {
        let mut digest = Digest::default();
        for row in self.database.snapshot().iter(&self.rows) {
            let (key, value) = row.into_inner()?;
            let (key, value) = (<[u8; 4]>::try_from(&*key)?, <[u8; 8]>::try_from(&*value)?);
            digest.add_number(u32::from_be_bytes(key), u64::from_le_bytes(value));
        }
        Ok(digest)
    }

    fn settle(&self) -> Result<()> {
        let started = Instant::now();
        let mut calm = 0;
        while calm < CALM_POLLS {
            if started.elapsed() > SETTLE_MAX {
                return Err("fjall does not come to rest".into());
            }
            sleep(POLL);
            let busy = self.database.outstanding_flushes() > 0 || self.database.active_compactions() > 0;
            calm = if busy { 0 } else { calm + 1 };
        }
        Ok(())
    }
}
