//! Pages that are written by several threads at once.
//!
//! Invariant: every page is at its address when the call returns without an error, and the first error ends all writing.
//! Layer 2 (pages).

use super::header::{Format, GodByte};
use super::layout::Layout;
use super::store::PageStore;
use crate::base::error::StorageError;
use crate::base::ids::{PageId, Run};
use crate::base::sync::{Arc, Mutex};
use crate::io::memory::MemoryStorage;
use crate::io::storage::{LockMode, Storage, SyncKind, WriteMode};
use std::collections::HashSet;
use std::io::{self, IoSlice, IoSliceMut};
use std::thread::ThreadId;

/// A storage that does several writes at once, and fails those that begin at one offset.
#[derive(Debug)]
struct Several {
    memory: MemoryStorage,
    fails_at: u64,
    threads: Mutex<HashSet<ThreadId>>,
}

impl Storage for Several {
    fn len(&self) -> io::Result<u64> {
        self.memory.len()
    }

    fn read_at(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<()> {
        self.memory.read_at(offset, buffers)
    }

    fn write_at(&self, offset: u64, buffers: &[IoSlice<'_>], mode: WriteMode) -> io::Result<()> {
        self.threads.lock().insert(std::thread::current().id());
        if offset == self.fails_at {
            return Err(io::ErrorKind::Other.into());
        }
        self.memory.write_at(offset, buffers, mode)
    }

    fn writes_at_once(&self) -> usize {
        4
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.memory.set_len(len)
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        self.memory.preallocate(len)
    }

    fn sync(&self, kind: SyncKind) -> io::Result<()> {
        self.memory.sync(kind)
    }

    fn lock(&self, mode: LockMode) -> io::Result<()> {
        self.memory.lock(mode)
    }

    fn unlock(&self) -> io::Result<()> {
        self.memory.unlock()
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.memory.drop_cache()
    }
}

fn store(fails_at: u64) -> (PageStore, Arc<Several>) {
    let several = Arc::new(Several { memory: MemoryStorage::new(), fails_at, threads: Mutex::default() });
    several.set_len(u64::from(Layout::FIXED_BYTES)).unwrap();
    let layout = Layout::new(512, 1, 4096).unwrap();
    let format = Format { layout, uuid: [1; 16], read_only_compatible: 0, compatible: 0 };
    let god = GodByte { primary: 0, recovery_required: false, ids_seen: false };
    let storage: Arc<dyn Storage> = Arc::clone(&several) as _;
    let store = PageStore::new(storage, format, god, u64::from(layout.header_units()), 1 << 20).unwrap();
    store.grow(2000).unwrap();
    (store, several)
}

/// Every third page, and now and then two adjacent ones.
fn numbers() -> impl Iterator<Item = u64> {
    (30..1500).filter(|number| number % 3 == 0 || number % 40 == 1)
}

fn write(store: &PageStore) -> Result<(), StorageError> {
    let contents: Vec<_> = numbers().map(|number| (number, [number.to_le_bytes(); 64].concat())).collect();
    let page = |number| PageId::new(number).unwrap();
    let mut pages: Vec<_> = contents.iter().rev().map(|(number, bytes)| (page(*number), &bytes[..])).collect();
    store.write_pages(&mut pages)
}

#[test]
fn scattered_pages_are_written_by_several_threads_and_all_arrive() {
    let (store, several) = store(u64::MAX);
    write(&store).unwrap();
    assert!(several.threads.lock().len() > 1);
    for number in 30..1500 {
        let expected = if numbers().any(|written| written == number) { number } else { 0 };
        let found = store.read_unverified(Run::new(PageId::new(number).unwrap(), 1), 512).unwrap();
        assert_eq!(found, [expected.to_le_bytes(); 64].concat());
    }
}

#[test]
fn r20_a_failure_on_any_of_the_threads_poisons_the_store() {
    for number in [30, 600, 1200, 1497] {
        let (store, _) = store(number * 512);
        assert!(write(&store).is_err());
        assert!(store.is_poisoned());
        assert!(matches!(store.sync(), Err(StorageError::Poisoned)));
    }
}
