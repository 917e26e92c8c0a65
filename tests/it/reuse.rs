//! Units that are used again for runs of another length.
//!
//! Invariant: whatever a page number named before, a reader sees what its own version wrote there.

use crate::fixture::{Model, ROWS, SharedBytes, assert_sound, put, rows, value};
use cowslip::{Builder, LockMode, Storage, SyncKind, WriteMode};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::{Arc, Mutex};

/// A storage that notes how many units were written at once at each offset.
#[derive(Debug, Clone, Default)]
struct Noted {
    bytes: SharedBytes,
    lengths: Arc<Mutex<BTreeMap<u64, BTreeSet<usize>>>>,
}

impl Storage for Noted {
    fn len(&self) -> io::Result<u64> {
        self.bytes.len()
    }

    fn read_at(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<()> {
        self.bytes.read_at(offset, buffers)
    }

    fn write_at(&self, offset: u64, buffers: &[IoSlice<'_>], mode: WriteMode) -> io::Result<()> {
        let mut at = offset;
        for buffer in buffers {
            self.lengths.lock().unwrap().entry(at).or_default().insert(buffer.len().div_ceil(512));
            at += buffer.len() as u64;
        }
        self.bytes.write_at(offset, buffers, mode)
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

#[test]
fn pitfall_57_a_page_number_reused_for_a_run_of_another_length_never_reads_what_was_cached() {
    let storage = Noted::default();
    // Nodes of two units beside values of one to six, and a cache that forgets nothing by itself.
    let builder = Builder::new().test_geometry(512, 1024, 64).cache_bytes_max(4 << 20);
    let db = builder.create_with_storage(storage.clone()).unwrap();
    let mut model = Model::new();
    for round in 0..300_u64 {
        let (key, len) = (round * 7 % 23, [300, 900, 20, 1700, 3000, 500][usize::try_from(round * 5 % 6).unwrap()]);
        if round % 5 == 4 {
            crate::fixture::unset(&db, &mut model, key..key + 3);
        } else {
            put(&db, key..key + 2, round, len).unwrap();
            model.extend((key..key + 2).map(|key| (key, value(key, round, len))));
        }
        assert_eq!(rows(&db).unwrap(), model, "round {round}");
        let table = db.begin_read().unwrap().open_table(ROWS).unwrap();
        for (key, value) in &model {
            assert!(table.get(key).unwrap().unwrap().value() == value, "round {round}, key {key}");
        }
    }
    assert_sound(&db);
    let lengths = storage.lengths.lock().unwrap();
    let shared = lengths.values().filter(|lengths| lengths.len() > 1).count();
    assert!(shared > 20, "only {shared} offsets were written with runs of different lengths");
}
