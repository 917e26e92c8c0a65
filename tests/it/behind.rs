//! Big transactions on a medium that takes several writes at once, so that finished nodes are written by another thread.
//!
//! Invariant: what is on its way to the storage is read, changed and undone like everything else of a transaction.

use crate::fixture::{Model, ROWS, SharedBytes, assert_sound, put, rows, value};
use cowslip::{Builder, LockMode, Storage, SyncKind, WriteMode, WriteTransaction};
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Bytes in memory behind a device that is slow for whoever writes on another thread than the test's.
#[derive(Debug, Clone, Default)]
struct Slow {
    bytes: SharedBytes,
    /// Writes of other threads.
    behind: Arc<AtomicU64>,
    /// Once so many were begun they fail.
    fails_after: Option<u64>,
    stopped: Arc<AtomicBool>,
}

impl Slow {
    fn is_behind() -> bool {
        std::thread::current().name() == Some("cowslip-write")
    }
}

impl Storage for Slow {
    fn len(&self) -> io::Result<u64> {
        self.bytes.len()
    }

    fn read_at(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<()> {
        self.bytes.read_at(offset, buffers)
    }

    fn write_at(&self, offset: u64, buffers: &[IoSlice<'_>], mode: WriteMode) -> io::Result<()> {
        if Self::is_behind() {
            assert!(!self.stopped.load(Ordering::SeqCst), "a write comes after the transaction ended");
            let before = self.behind.fetch_add(1, Ordering::SeqCst);
            if self.fails_after.is_some_and(|most| before >= most) {
                return Err(io::Error::other("the device is gone"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.bytes.write_at(offset, buffers, mode)
    }

    fn writes_at_once(&self) -> usize {
        2
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.bytes.set_len(len)
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        self.bytes.preallocate(len)
    }

    fn sync(&self, kind: SyncKind) -> io::Result<()> {
        self.bytes.sync(kind)
    }

    fn lock(&self, mode: LockMode) -> io::Result<()> {
        self.bytes.lock(mode)
    }

    fn unlock(&self) -> io::Result<()> {
        self.bytes.unlock()
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.bytes.drop_cache()
    }
}

const VALUE_BYTES: usize = 1500;

/// More rows than a transaction keeps in memory before it writes what is final.
const MANY: u64 = 28_000;

fn builder() -> Builder {
    Builder::new().cache_bytes_max(96 << 20)
}

/// Appends rows, and after each thousand reads, replaces, removes and inserts among the latest ones.
fn load(tx: &WriteTransaction, count: u64) -> Model {
    let mut table = tx.open_table(ROWS).unwrap();
    let mut model = Model::new();
    for key in 0..count {
        let bytes = value(key, 1, VALUE_BYTES);
        table.put(2 * key, &bytes[..]).unwrap();
        model.insert(2 * key, bytes);
        if key % 1000 != 999 {
            continue;
        }
        for back in [0, 1, 5, 40, 200, 900] {
            let near = 2 * (key - back);
            assert!(table.get(near).unwrap().unwrap().value() == model[&near], "row {near} behind {key}");
        }
        table.remove(2 * (key - 7)).unwrap();
        model.remove(&(2 * (key - 7)));
        for (at, round) in [(2 * (key - 30) + 1, 2), (2 * (key - 600), 3)] {
            let bytes = value(at, round, VALUE_BYTES);
            table.insert(at, &bytes[..]).unwrap();
            model.insert(at, bytes);
        }
    }
    drop(table);
    model
}

#[test]
fn rows_on_their_way_to_the_storage_are_read_and_changed_like_any_others() {
    let storage = Slow::default();
    let db = builder().create_with_storage(storage.clone()).unwrap();
    let tx = db.begin_write().unwrap();
    let model = load(&tx, MANY);
    assert!(storage.behind.load(Ordering::SeqCst) > 4, "nothing was written by another thread");
    tx.commit().unwrap();
    storage.stopped.store(true, Ordering::SeqCst);
    assert!(rows(&db).unwrap() == model);
    assert_sound(&db);
    db.close().unwrap();
    let db = builder().open_with_storage(SharedBytes::of(storage.bytes.image())).unwrap();
    assert!(rows(&db).unwrap() == model, "what the storage holds is not what was committed");
}

#[test]
fn r10_nothing_is_written_once_a_transaction_is_undone() {
    let storage = Slow::default();
    let db = builder().create_with_storage(storage.clone()).unwrap();
    put(&db, 0..50, 0, 100).unwrap();
    let model: Model = (0..50).map(|key| (key, value(key, 0, 100))).collect();
    for _ in 0..3 {
        storage.stopped.store(false, Ordering::SeqCst);
        let tx = db.begin_write().unwrap();
        load(&tx, MANY);
        drop(tx);
        storage.stopped.store(true, Ordering::SeqCst);
        // What is handed out again is not overwritten.
        put(&db, 0..50, 0, 100).unwrap();
        assert!(rows(&db).unwrap() == model);
        assert_sound(&db);
    }
    assert!(storage.behind.load(Ordering::SeqCst) > 12, "nothing was written by another thread");
}

#[test]
fn a_failure_behind_the_transaction_ends_it_and_all_writing() {
    for fails_after in [0, 1, 6] {
        let storage = Slow { fails_after: Some(fails_after), ..Slow::default() };
        let db = builder().create_with_storage(storage.clone()).unwrap();
        put(&db, 0..50, 0, 100).unwrap();
        let model: Model = (0..50).map(|key| (key, value(key, 0, 100))).collect();
        let tx = db.begin_write().unwrap();
        let mut table = tx.open_table(ROWS).unwrap();
        let bytes = vec![7; VALUE_BYTES];
        let failed = (100..100 + MANY).find_map(|key| table.put(key, &bytes[..]).err());
        drop(table);
        let told = failed.map_or_else(|| format!("{:?}", tx.commit().unwrap_err()), |error| format!("{error:?}"));
        assert!(told.contains("the device is gone"), "after {fails_after}: {told}");
        assert!(db.begin_write().is_err(), "the database writes after a failed write");
        assert!(rows(&db).unwrap() == model, "readers go on");
        drop(db);
        let db = builder().open_with_storage(SharedBytes::of(storage.bytes.image())).unwrap();
        assert!(rows(&db).unwrap() == model);
    }
}
