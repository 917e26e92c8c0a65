//! LMDB through heed, with its default flags: every commit is synced, reads come from the memory map. Only while rows
//! are written without durability the environment has `MDB_NOSYNC`.
//!
//! The cache is that of the operating system, so no budget applies.

#![expect(unsafe_code, reason = "heed offers no other way to open a file that is mapped into memory")]

use crate::Result;
use crate::digest::Digest;
use crate::engine::{Engine, RowTest};
use heed::byteorder::{BigEndian, NativeEndian};
use heed::types::{Bytes, U32, U64};
use heed::{CommitOrAbort, CompactionOption, Database, Env, EnvFlags, EnvOpenOptions, FlagSetMode};
use std::fmt;
use std::fs;
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

/// The unnamed database when it holds numbers: keys whose byte order is their order.
type Numbers = Database<'static, U32<BigEndian>, U64<NativeEndian>>;

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

    /// Whether commits wait for a sync. Nobody else uses the environment while it is changed.
    fn set_synced(&mut self, synced: bool) -> Result<()> {
        let mode = if synced { FlagSetMode::Disable } else { FlagSetMode::Enable };
        // SAFETY: a crash without syncs may damage the database, but this is a copy that no later run opens; and no other
        // thread is in a call of the environment, for the exclusive reference is to its only owner.
        unsafe { self.environment.set_flags(EnvFlags::NO_SYNC, mode)? };
        Ok(())
    }

    fn numbers(&self) -> Numbers {
        self.database.remap_types()
    }

    /// One pass of a cursor over the first `count` rows, which removes those that `leaves` says `true` for and
    /// digests their values if `looks`.
    fn sweep(&mut self, count: usize, looks: bool, leaves: impl Fn(&[u8], &[u8]) -> bool) -> Result<Digest> {
        let mut transaction = self.environment.write_txn()?;
        let mut digest = Digest::default();
        let mut cursor = self.database.iter_mut(&mut transaction)?;
        for _ in 0..count {
            let Some(row) = cursor.next() else { break };
            let (key, value) = row?;
            if leaves(key, value) {
                if looks {
                    digest.add_value(value);
                }
                // SAFETY: the key and the value of the row, which point into its page, are not used any more.
                unsafe { cursor.del_current()? };
            }
        }
        drop(cursor);
        transaction.commit()?;
        Ok(digest)
    }
}

impl Engine for Lmdb {
    fn insert(&self, rows: &[(&[u8], &[u8])]) -> Result<()> {
        let mut transaction = self.environment.write_txn()?;
        for (key, value) in rows {
            self.database.put(&mut transaction, key, value)?;
        }
        Ok(transaction.commit()?)
    }

    fn insert_each_non_durably(&mut self, rows: &[(&[u8], &[u8])]) -> Result<()> {
        self.set_synced(false)?;
        rows.chunks(1).try_for_each(|row| self.insert(row))?;
        self.set_synced(true)
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

    fn retain(&mut self, stays: RowTest) -> Result<()> {
        self.sweep(usize::MAX, false, |key, value| !stays(key, value))?;
        Ok(())
    }

    fn extract_if(&mut self, leaves: RowTest) -> Result<Digest> {
        self.sweep(usize::MAX, true, leaves)
    }

    /// The cursor stands on the first row that is left after each removal.
    fn pop_first(&mut self, count: usize) -> Result<Digest> {
        self.sweep(count, true, |_, _| true)
    }

    fn insert_numbers(&mut self, numbers: &[(u32, u64)]) -> Result<()> {
        let mut transaction = self.environment.write_txn()?;
        for (key, value) in numbers {
            self.numbers().put(&mut transaction, key, value)?;
        }
        Ok(transaction.commit()?)
    }

    fn scan_numbers(&self) -> Result<Digest> {
        let transaction = self.environment.read_txn()?;
        let mut digest = Digest::default();
        for row in self.numbers().iter(&transaction)? {
            let (key, value) = row?;
            digest.add_number(key, value);
        }
        Ok(digest)
    }

    /// A copy without free pages takes the place of the file, which stays mapped until the database is closed.
    fn compact(&mut self) -> Result<()> {
        let (data, copy) = (self.environment.path().join("data.mdb"), self.environment.path().join("compact.mdb"));
        self.environment.copy_to_path(&copy, CompactionOption::Enabled)?.sync_all()?;
        Ok(fs::rename(copy, data)?)
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.environment.prepare_for_closing().wait();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_are_synced_again_after_those_without_durability() {
        let folder = tempfile::tempdir().unwrap();
        let mut lmdb = Lmdb::open(folder.path()).unwrap();
        let synced = |lmdb: &Lmdb| !lmdb.environment.flags().unwrap().unwrap().contains(EnvFlags::NO_SYNC);
        lmdb.set_synced(false).unwrap();
        assert!(!synced(&lmdb));
        lmdb.insert_each_non_durably(&[(b"a", b"1"), (b"b", b"2")]).unwrap();
        assert!(synced(&lmdb));
        assert_eq!(lmdb.read(&[b"a", b"b", b"c"]).unwrap().rows(), 2);
    }
}
