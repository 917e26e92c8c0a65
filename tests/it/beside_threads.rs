//! Checkpoints that a thread of its own writes, on a medium that takes several writes at once and is slow.
//!
//! Invariant: whatever the threads do meanwhile, what was committed is there; a storage that fails or panics then is an error.

use crate::fixture::{Model, ROWS, SharedBytes, assert_sound, rows, tiny, value};
use cowslip::{Builder, Database, Durability, LockMode, Storage, SyncKind, WriteMode};
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What becomes of writes of the thread for checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Slow,
    Fails { after: u64 },
    Panics { after: u64 },
}

#[derive(Debug, Clone)]
struct Beside {
    bytes: SharedBytes,
    written: Arc<AtomicU64>,
    fate: Fate,
}

impl Beside {
    fn new(fate: Fate) -> Self {
        Self { bytes: SharedBytes::default(), written: Arc::default(), fate }
    }

    fn meet(&self) -> io::Result<()> {
        if std::thread::current().name() != Some("cowslip-checkpoint") {
            return Ok(());
        }
        let before = self.written.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_micros(300));
        match self.fate {
            Fate::Fails { after } if before >= after => Err(io::Error::other("the device is gone")),
            Fate::Panics { after } if before >= after => panic!("the storage panics"),
            _ => Ok(()),
        }
    }
}

impl Storage for Beside {
    fn len(&self) -> io::Result<u64> {
        self.bytes.len()
    }

    fn read_at(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<()> {
        self.bytes.read_at(offset, buffers)
    }

    fn write_at(&self, offset: u64, buffers: &[IoSlice<'_>], mode: WriteMode) -> io::Result<()> {
        self.meet()?;
        self.bytes.write_at(offset, buffers, mode)
    }

    fn writes_at_once(&self) -> usize {
        8
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.bytes.set_len(len)
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        self.bytes.preallocate(len)
    }

    fn sync(&self, kind: SyncKind) -> io::Result<()> {
        self.meet()?;
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

fn builder() -> Builder {
    tiny().log_bytes_max(8 << 10).cache_bytes_max(256 << 10)
}

/// Commits rows of keys that are `own` modulo three until the storage fails; says what was acknowledged.
fn write(db: &Database, own: u64, rounds: u64) -> Model {
    let mut model = Model::new();
    for round in 0..rounds {
        let Ok(mut tx) = db.begin_write() else { return model };
        tx.set_durability(if round % 7 == 3 { Durability::None } else { Durability::Immediate }).unwrap();
        let len = match round % 23 {
            5 => (64 << 10) + 1,
            11 => 3000,
            _ => 40,
        };
        let mut next = model.clone();
        let Ok(mut table) = tx.open_table(ROWS) else { return model };
        for at in 0..3 {
            let key = 3 * ((round * 7 + at * 31) % 40) + own;
            let bytes = value(key, round, if at == 0 { len } else { 40 });
            if table.insert(key, &bytes[..]).is_err() {
                return model;
            }
            next.insert(key, bytes);
        }
        drop(table);
        if round % 13 == 12 {
            drop(tx);
        } else if tx.commit().is_ok() {
            model = next;
        } else {
            return model;
        }
        if own == 0
            && round % 40 == 39
            && let Ok(reader) = db.begin_read()
        {
            let found = reader.open_table(ROWS).map(|table| table.iter().unwrap().all(|row| row.is_ok()));
            assert!(found.unwrap());
        }
    }
    model
}

fn write_all(db: &Database, rounds: u64) -> Model {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|own| scope.spawn(move || write(db, own, rounds))).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn r3_writers_readers_and_a_thread_for_checkpoints_lose_nothing() {
    let storage = Beside::new(Fate::Slow);
    let db = builder().create_with_storage(storage.clone()).unwrap();
    drop(db.begin_write().map(|tx| tx.open_table(ROWS).map(drop).map(|()| tx.commit())).unwrap());
    let model = write_all(&db, 700);
    assert!(storage.written.load(Ordering::SeqCst) > 100, "no checkpoint was made beside the writers");
    assert!(rows(&db).unwrap() == model);
    assert_sound(&db);
    db.sync().unwrap();
    let image = storage.bytes.image();
    let crashed = builder().open_with_storage(SharedBytes::of(image)).unwrap();
    assert!(rows(&crashed).unwrap() == model);
    assert_sound(&crashed);
    drop(db);
    let db = builder().open_with_storage(SharedBytes::of(storage.bytes.image())).unwrap();
    assert!(rows(&db).unwrap() == model);
    assert_sound(&db);
}

#[test]
fn a_thread_for_checkpoints_that_fails_or_panics_leaves_a_whole_database() {
    for after in [0, 1, 2, 3, 5, 8, 13, 21, 40, 41, 42, 43, 44] {
        for fate in [Fate::Fails { after }, Fate::Panics { after }] {
            let storage = Beside::new(fate);
            let db = builder().create_with_storage(storage.clone()).unwrap();
            drop(db.begin_write().map(|tx| tx.open_table(ROWS).map(drop).map(|()| tx.commit())).unwrap());
            drop(write_all(&db, 300));
            assert!(db.begin_read().is_ok(), "readers go on");
            drop(rows(&db).unwrap());
            drop(db.close());
            let db = builder().open_with_storage(SharedBytes::of(storage.bytes.image())).unwrap();
            drop(rows(&db).unwrap());
            assert_sound(&db);
        }
    }
}
