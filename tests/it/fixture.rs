//! Storages that tests can look into, and the small databases that they start from.

use cowslip::sim::SimDisk;
use cowslip::{Builder, Database, Error, LockMode, ReadTransaction, Storage, SyncKind, TableDefinition, WriteMode};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

pub(crate) const ROWS: TableDefinition<u64, &[u8]> = TableDefinition::new("rows");

/// Contents of `ROWS`.
pub(crate) type Model = BTreeMap<u64, Vec<u8>>;

/// Bytes in memory, shared by all clones, with counts of what was read and written.
#[derive(Clone, Default)]
pub(crate) struct SharedBytes {
    pub(crate) bytes: Arc<Mutex<Vec<u8>>>,
    pub(crate) read_bytes: Arc<AtomicU64>,
    pub(crate) written_bytes: Arc<AtomicU64>,
}

impl std::fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedBytes")
    }
}

impl SharedBytes {
    pub(crate) fn of(bytes: Vec<u8>) -> Self {
        Self { bytes: Arc::new(Mutex::new(bytes)), ..Self::default() }
    }

    pub(crate) fn image(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }
}

impl Storage for SharedBytes {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.lock().unwrap().len() as u64)
    }

    fn read_at(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<()> {
        let bytes = self.bytes.lock().unwrap();
        let mut at = usize::try_from(offset).map_err(io::Error::other)?;
        for buffer in buffers {
            let end = at.checked_add(buffer.len()).ok_or(ErrorKind::FileTooLarge)?;
            buffer.copy_from_slice(bytes.get(at..end).ok_or(ErrorKind::UnexpectedEof)?);
            self.read_bytes.fetch_add(buffer.len() as u64, Ordering::Relaxed);
            at = end;
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, buffers: &[IoSlice<'_>], _: WriteMode) -> io::Result<()> {
        let mut bytes = self.bytes.lock().unwrap();
        let mut at = usize::try_from(offset).map_err(io::Error::other)?;
        for buffer in buffers {
            let end = at + buffer.len();
            if end > bytes.len() {
                bytes.resize(end, 0);
            }
            bytes[at..end].copy_from_slice(buffer);
            self.written_bytes.fetch_add(buffer.len() as u64, Ordering::Relaxed);
            at = end;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.bytes.lock().unwrap().resize(usize::try_from(len).map_err(io::Error::other)?, 0);
        Ok(())
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        if len > self.len()? { self.set_len(len) } else { Ok(()) }
    }

    fn sync(&self, _: SyncKind) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, _: LockMode) -> io::Result<()> {
        Ok(())
    }

    fn unlock(&self) -> io::Result<()> {
        Ok(())
    }

    fn drop_cache(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Options with units of 512 bytes, nodes of 512 bytes and regions of 32 units, so that a few rows reach every edge.
pub(crate) fn tiny() -> Builder {
    Builder::new().test_geometry(512, 512, 32).test_identity([7; 16]).cache_bytes_max(1 << 20)
}

/// A value that differs for every key and round.
pub(crate) fn value(key: u64, round: u64, len: usize) -> Vec<u8> {
    let seed = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ round;
    (0..len).map(|at| seed.to_le_bytes()[at % 8] ^ at.to_le_bytes()[0]).collect()
}

/// Sets keys `from..to` in one commit, in the database and in the model.
pub(crate) fn set(db: &Database, model: &mut Model, keys: std::ops::Range<u64>, round: u64, len: usize) {
    put(db, keys.clone(), round, len).unwrap();
    model.extend(keys.map(|key| (key, value(key, round, len))));
}

/// Sets keys in one commit.
pub(crate) fn put(db: &Database, keys: std::ops::Range<u64>, round: u64, len: usize) -> Result<(), Error> {
    db.update(|tx| {
        let mut rows = tx.open_table(ROWS)?;
        for key in keys {
            rows.insert(key, &value(key, round, len)[..])?;
        }
        Ok(())
    })
}

/// Sets keys in one commit that writes a slot.
pub(crate) fn put_by_slot(db: &Database, keys: std::ops::Range<u64>, round: u64, len: usize) {
    let mut tx = db.begin_write().unwrap();
    tx.set_two_phase_commit(true);
    let mut rows = tx.open_table(ROWS).unwrap();
    for key in keys {
        rows.insert(key, &value(key, round, len)[..]).unwrap();
    }
    drop(rows);
    tx.commit().unwrap();
}

/// Removes keys in one commit, in the database and in the model.
pub(crate) fn unset(db: &Database, model: &mut Model, keys: std::ops::Range<u64>) {
    db.update(|tx| {
        let mut rows = tx.open_table(ROWS)?;
        for key in keys {
            rows.remove(key)?;
            model.remove(&key);
        }
        Ok::<_, Error>(())
    })
    .unwrap();
}

/// All rows that a new snapshot sees.
pub(crate) fn rows(db: &Database) -> Result<Model, Error> {
    db.view(rows_of)
}

/// All rows that a snapshot sees.
pub(crate) fn rows_of(reader: &ReadTransaction) -> Result<Model, Error> {
    let mut found = Model::new();
    for row in reader.open_table_or_empty(ROWS)?.iter()? {
        let (key, value) = row?;
        found.insert(key.value(), value.value().to_vec());
    }
    Ok(found)
}

/// A tiny database of three commits on a simulated disk, closed, and what it holds.
pub(crate) fn closed_tiny() -> (SimDisk, Model) {
    let disk = SimDisk::new();
    let mut model = Model::new();
    let db = tiny().create_with_storage(disk.clone()).unwrap();
    set(&db, &mut model, 0..40, 1, 30);
    set(&db, &mut model, 20..30, 2, 700);
    unset(&db, &mut model, 5..15);
    db.close().unwrap();
    (disk, model)
}

/// Requires that the database is sound: every page verified, and allocated = reached + pending.
pub(crate) fn assert_sound(db: &Database) {
    if let Err(error) = db.check_integrity() {
        panic!("integrity: {error}");
    }
}

/// Seeded chance: SplitMix64.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `limit`, which is not zero.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    pub(crate) fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).expect("an index fits")
    }
}
