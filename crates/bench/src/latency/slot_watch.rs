//! A file as storage that notes when a slot was written, which ends every checkpoint.

use cowslip::{Access, CreateMode, FileStorage, LockMode, Storage, SyncKind, WriteMode};
use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// The bytes of the two slots in every file.
const SLOTS: Range<u64> = 4096..12288;

/// The storage that [`cowslip::Builder::create`] takes, watched.
#[derive(Debug)]
pub(super) struct SlotWatch {
    file: FileStorage,
    slots: Arc<SlotTimes>,
}

/// When slots were written.
#[derive(Debug, Default)]
pub(super) struct SlotTimes(Mutex<Vec<Instant>>);

impl SlotTimes {
    /// The writes from `start` on, in seconds after it.
    pub(super) fn since(&self, start: Instant) -> Vec<f64> {
        let times = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let after = times.iter().filter_map(|time| time.checked_duration_since(start));
        after.map(|after| after.as_secs_f64()).collect()
    }
}

impl SlotWatch {
    pub(super) fn open(path: &Path) -> io::Result<(Self, Arc<SlotTimes>)> {
        let (file, _) = FileStorage::open(path, CreateMode::CreateOrOpen, Access::ReadWrite, true)?;
        let slots = Arc::new(SlotTimes::default());
        Ok((Self { file, slots: Arc::clone(&slots) }, slots))
    }
}

impl Storage for SlotWatch {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<()> {
        self.file.read_at(offset, buffers)
    }

    fn read_ahead(&self, offset: u64, len_bytes: u64) {
        self.file.read_ahead(offset, len_bytes);
    }

    fn write_at(&self, offset: u64, buffers: &[IoSlice<'_>], mode: WriteMode) -> io::Result<()> {
        self.file.write_at(offset, buffers, mode)?;
        if SLOTS.contains(&offset) {
            self.slots.0.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
        }
        Ok(())
    }

    fn writes_at_once(&self) -> usize {
        self.file.writes_at_once()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        self.file.preallocate(len)
    }

    fn sync(&self, kind: SyncKind) -> io::Result<()> {
        self.file.sync(kind)
    }

    fn lock(&self, mode: LockMode) -> io::Result<()> {
        self.file.lock(mode)
    }

    fn unlock(&self) -> io::Result<()> {
        self.file.unlock()
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.file.drop_cache()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cowslip::{Database, TableDefinition};
    use std::fs;

    /// The generation counts slot writes: it stands 8 bytes behind the begin of a slot.
    fn generation(path: &Path) -> u64 {
        let bytes = fs::read(path).unwrap();
        let of = |slot: usize| u64::from_le_bytes(bytes[slot + 8..slot + 16].try_into().unwrap());
        of(4096).max(of(8192))
    }

    #[test]
    fn as_many_slots_are_seen_as_the_generation_in_the_file_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows");
        let (storage, slots) = SlotWatch::open(&path).unwrap();
        let database = Database::builder().create_with_storage(storage).unwrap();
        let (started, before) = (Instant::now(), generation(&path));
        for key in 0..6_u32 {
            let mut transaction = database.begin_write().unwrap();
            transaction.set_two_phase_commit(key % 2 == 0);
            transaction.open_table(TableDefinition::<u32, u32>::new("rows")).unwrap().put(&key, &key).unwrap();
            transaction.commit().unwrap();
        }
        let seen = slots.since(started);
        assert!(seen.len() >= 3 && seen.is_sorted(), "{seen:?}");
        assert_eq!(seen.len() as u64, generation(&path) - before);
        assert_eq!(slots.since(Instant::now()), []);
    }
}
