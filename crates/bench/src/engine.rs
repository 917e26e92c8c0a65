//! What a store must offer to be measured, and which stores there are.

use crate::Result;
use crate::digest::Digest;
use crate::engines::{cowslip::Cowslip, fjall::Fjall, lmdb::Lmdb, redb::Redb};
use std::path::Path;

/// Says something about a row by its key and value.
pub(crate) type RowTest = fn(&[u8], &[u8]) -> bool;

/// A store with one open database. Each call is one transaction, and a change is durable when the call returns, unless
/// the call says otherwise.
pub(crate) trait Engine: Sync {
    /// Writes all rows. Several threads may call it at once; how they wait for one another is up to the store.
    fn insert(&self, rows: &[(&[u8], &[u8])]) -> Result<()>;

    /// Writes each row in a transaction of its own that waits for no medium. A crash may lose them until a later call
    /// makes a change durable.
    fn insert_each_non_durably(&mut self, rows: &[(&[u8], &[u8])]) -> Result<()>;

    /// Looks every key up and digests the values that are there.
    fn read(&self, keys: &[&[u8]]) -> Result<Digest>;

    /// From each key on, reads the next `len` rows and digests their values.
    fn scan(&self, starts: &[&[u8]], len: usize) -> Result<Digest>;

    /// Removes every key.
    fn remove(&mut self, keys: &[&[u8]]) -> Result<()>;

    /// Looks at all rows and removes those that `stays` says `false` for.
    fn retain(&mut self, stays: RowTest) -> Result<()>;

    /// Looks at all rows, removes those that `leaves` says `true` for, and digests their values.
    fn extract_if(&mut self, leaves: RowTest) -> Result<Digest>;

    /// Removes the `count` rows with the lowest keys one after the other, and digests their values.
    fn pop_first(&mut self, count: usize) -> Result<Digest>;

    /// Writes all numbers into a database without rows. Their order is that of their keys.
    fn insert_numbers(&mut self, numbers: &[(u32, u64)]) -> Result<()>;

    /// Digests all numbers, keys and values.
    fn scan_numbers(&self) -> Result<Digest>;

    /// Gives back the space that removed rows leave, where the store has a call for that. What it does may become
    /// visible only when the database is closed. A store without such a call does nothing: its files are taken as
    /// closing leaves them.
    fn compact(&mut self) -> Result<()> {
        Ok(())
    }

    /// Waits until the store has no work of its own in the background. Never part of a measurement.
    fn settle(&self) -> Result<()> {
        Ok(())
    }

    /// Closes the database.
    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

/// A store that can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EngineKind {
    Cowslip,
    Redb,
    Lmdb,
    Fjall,
}

impl EngineKind {
    /// All of them; ratios are about the first.
    pub(crate) const ALL: [Self; 4] = [Self::Cowslip, Self::Redb, Self::Lmdb, Self::Fjall];

    /// Name in tables, options and paths.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cowslip => "cowslip",
            Self::Redb => "redb",
            Self::Lmdb => "lmdb",
            Self::Fjall => "fjall",
        }
    }

    /// The store of a name.
    pub(crate) fn of_name(name: &str) -> Result<Self> {
        let known = Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| format!("no engine is called {name:?}; there are: {known}").into())
    }

    /// Version that was compiled in.
    pub(crate) fn version(self) -> String {
        match self {
            Self::Lmdb => format!("{} (heed {})", crate::engines::lmdb::version(), locked_version("heed")),
            _ => locked_version(self.name()).to_owned(),
        }
    }

    /// Opens the database in a folder, or creates it.
    pub(crate) fn open(self, folder: &Path, cache_bytes: usize) -> Result<Box<dyn Engine>> {
        Ok(match self {
            Self::Cowslip => Box::new(Cowslip::open(folder, cache_bytes)?),
            Self::Redb => Box::new(Redb::open(folder, cache_bytes)?),
            Self::Lmdb => Box::new(Lmdb::open(folder)?),
            Self::Fjall => Box::new(Fjall::open(folder, cache_bytes)?),
        })
    }
}

/// Version of a package in the lock file of the workspace.
fn locked_version(package: &str) -> &'static str {
    let entry = format!("name = \"{package}\"\nversion = \"");
    let lock = include_str!("../../../Cargo.lock");
    lock.split_once(&entry).and_then(|(_, rest)| rest.split_once('"')).map_or("unknown", |(version, _)| version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_engine_has_a_version_and_is_found_by_its_name() {
        for kind in EngineKind::ALL {
            assert_eq!(EngineKind::of_name(kind.name()).unwrap(), kind);
            let version = kind.version();
            assert!(version.starts_with(|first: char| first.is_ascii_digit()), "{version}");
            assert!(!version.contains("unknown"), "{version}");
        }
        assert!(EngineKind::of_name("sqlite").unwrap_err().to_string().contains("cowslip, redb"));
    }
}
