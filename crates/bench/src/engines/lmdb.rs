//! LMDB through heed, with its default flags: every commit is synced, reads come from the memory map.
//!
//! The cache is that of the operating system, so no budget applies.

#![expect(unsafe_code, reason = "heed offers no other way to open a file that is mapped into memory")]

use crate::Result;
use crate::digest::Digest;
use crate::engine::Engine;
use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvOpenOptions};
use std::fmt;
use std::ops::Bound;
use std::path::Path;

/// Largest size of the file. It costs only addresses.
const MAP_BYTES: usize = 1 << 36;

/// An open LMDB environment with its unnamed database.
pub(crate) struct Lmdb {
    environment: Env,
    database: Database<'static, Bytes, Bytes>,
}

impl fmt::Debug for Lmdb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lmdb").field("path", &self.environment.path()).finish_non_exhaustive()
    }
}

/// Version of the C library.
pub(crate) fn version() -> String {
    let version = heed::lmdb_version();
    format!("{}.{}.{}", version.major, version.minor, version.patch)
}

impl Lmdb {
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let mut options = EnvOpenOptions::new();
        options.map_size(MAP_BYTES);
        // SAFETY: the folder belongs to this run alone, and nothing writes to the file but LMDB while it is mapped.
        let environment = unsafe { options.open(folder)? };
        let transaction = environment.write_txn()?;
        let created = environment.create_databases_and_commit(transaction, |opener, transaction| {
            opener.create_database(transaction, None).map(CommitOrAbort::<_, ()>::Commit)
        })?;
        let database = created.unwrap_commit();
        Ok(Self { environment, database })
    }
}

impl Engine for Lmdb {
    fn insert(&mut self, rows: &[(&[u8], &[u8])]) -> Result<()> {
        let mut transaction = self.environment.write_txn()?;
        for (key, value) in rows {
            self.database.put(&mut transaction, key, value)?;
        }
        Ok(transaction.commit()?)
    }

    fn read(&self, keys: &[&[u8]]) -> Result<Digest> {
        let transaction = self.environment.read_txn()?;
        let mut digest = Digest::default();
        for key in keys {
            if let Some(value) = self.database.get(&transaction, key)? {
                digest.add_value(value);
            }
        }
        Ok(digest)
    }

    fn scan(&self, starts: &[&[u8]], len: usize) -> Result<Digest> {
        let transaction = self.environment.read_txn()?;
        let mut digest = Digest::default();
        for start in starts {
            let range = (Bound::Included(*start), Bound::Unbounded);
            for row in self.database.range(&transaction, &range)?.take(len) {
                digest.add_value(row?.1);
            }
        }
        Ok(digest)
    }

    fn remove(&mut self, keys: &[&[u8]]) -> Result<()> {
        let mut transaction = self.environment.write_txn()?;
        for key in keys {
            self.database.delete(&mut transaction, key)?;
        }
        Ok(transaction.commit()?)
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.environment.prepare_for_closing().wait();
        Ok(())
    }
}
