//! Sizes of keys and values around every threshold, small files, and what opening reads.

use crate::fixture::{Model, SharedBytes, assert_sound, put, rows, tiny, value};
use cowslip::sim::SimDisk;
use cowslip::{Builder, Database, Error, StorageError, TableDefinition};
use std::sync::atomic::Ordering;

const BLOBS: TableDefinition<u64, &[u8]> = TableDefinition::new("blobs");
const KEYS: TableDefinition<&[u8], u64> = TableDefinition::new("keys");

fn store_and_reopen(lens: &[usize], builder: &Builder) {
    let storage = SharedBytes::default();
    let db = builder.create_with_storage(storage.clone()).unwrap();
    db.update(|tx| {
        let mut blobs = tx.open_table(BLOBS)?;
        for len in lens {
            blobs.insert(*len as u64, &value(1, 0, *len)[..])?;
        }
        Ok::<_, Error>(())
    })
    .unwrap();
    db.close().unwrap();
    let db = builder.open_with_storage(storage).unwrap();
    let tx = db.begin_read().unwrap();
    let blobs = tx.open_table(BLOBS).unwrap();
    for len in lens {
        assert!(blobs.get(*len as u64).unwrap().unwrap().value() == value(1, 0, *len), "{len} bytes");
    }
    assert_sound(&db);
    // Shrinking every value and growing it again crosses each threshold both ways.
    for round in [1, 0] {
        db.update(|tx| {
            let mut blobs = tx.open_table(BLOBS)?;
            for len in lens {
                let new = if round == 1 { 1 } else { *len };
                blobs.insert(*len as u64, &value(1, round, new)[..])?;
            }
            Ok::<_, Error>(())
        })
        .unwrap();
        assert_sound(&db);
    }
}

#[test]
fn values_on_both_sides_of_every_threshold_survive_reopening_and_replacing() {
    let around = |at: usize| [at - 2, at - 1, at, at + 1, at + 2];
    // Units of 512 bytes: a quarter node is 128, the largest run 16 units; lists of runs begin above it.
    let tiny_lens: Vec<usize> =
        [100, 128, 512, 1024, 4096, 16 * 512, 2 * 16 * 512].into_iter().flat_map(around).collect();
    store_and_reopen(&tiny_lens, &tiny());
    let mut lens: Vec<usize> =
        [1900, 2002, 2020, 2048, 4096, 8192, 65_536, 65_536 * 2].into_iter().flat_map(around).collect();
    lens.extend([0, 1, 2, 3]);
    store_and_reopen(&lens, &Builder::new());
    store_and_reopen(&lens, &Builder::new().node_bytes(65_536));
}

#[test]
fn values_of_one_byte_to_64_mib_round_trip_on_a_real_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.cowslip");
    let db = Database::create(&path).unwrap();
    let lens = [1, 1 << 10, 1 << 16, (1 << 20) + 1, 16 << 20, 64 << 20];
    for len in lens {
        db.update(|tx| {
            tx.open_table(BLOBS)?.insert(len as u64, &value(2, 0, len)[..])?;
            Ok::<_, Error>(())
        })
        .unwrap();
    }
    db.close().unwrap();
    let db = Database::open(&path).unwrap();
    let tx = db.begin_read().unwrap();
    let blobs = tx.open_table(BLOBS).unwrap();
    for len in lens {
        assert!(blobs.get(len as u64).unwrap().unwrap().value() == value(2, 0, len), "{len} bytes");
    }
    drop((blobs, tx));
    db.update(|tx| tx.delete_table(BLOBS).map_err(Error::from)).unwrap();
    db.update(|tx| Ok::<_, Error>(tx.open_table(KEYS).map(|_| ())?)).unwrap();
    db.close().unwrap();
    let len = std::fs::metadata(&path).unwrap().len();
    assert!(len <= 512 << 10, "{len} bytes after everything was deleted and the file closed");
}

#[test]
fn a_value_longer_than_a_run_round_trips_as_a_list() {
    let builder = Builder::new();
    store_and_reopen(&[(128 << 20) - 1, 128 << 20, (128 << 20) + 1], &builder);
}

#[test]
fn keys_of_0_to_65536_bytes_survive_reopening_in_order() {
    for builder in [tiny(), Builder::new(), Builder::new().node_bytes(65_536)] {
        let storage = SharedBytes::default();
        let db = builder.create_with_storage(storage.clone()).unwrap();
        let mut keys: Vec<Vec<u8>> = Vec::new();
        for len in [0, 1, 2, 3, 4, 5, 31, 32, 33, 63, 64, 255, 511, 512, 513, 4095, 4096, 8192, 65_535, 65_536] {
            for last in [0, 1, 0xFF] {
                let mut key = vec![b'k'; len];
                if let Some(byte) = key.last_mut() {
                    *byte = last;
                }
                keys.push(key);
            }
        }
        keys.sort();
        keys.dedup();
        db.update(|tx| {
            let mut table = tx.open_table(KEYS)?;
            for (index, key) in keys.iter().enumerate().rev() {
                table.insert(&key[..], index as u64)?;
            }
            Ok::<_, Error>(())
        })
        .unwrap();
        assert_sound(&db);
        db.close().unwrap();
        let db = builder.open_with_storage(storage).unwrap();
        let tx = db.begin_read().unwrap();
        let table = tx.open_table(KEYS).unwrap();
        let found: Vec<Vec<u8>> = table.iter().unwrap().map(|row| row.unwrap().0.value().to_vec()).collect();
        assert!(found == keys);
        for (index, key) in keys.iter().enumerate() {
            assert_eq!(table.get(&key[..]).unwrap().unwrap().value(), index as u64);
            assert_eq!(table.range(&key[..]..).unwrap().count(), keys.len() - index);
        }
        db.update(|tx| {
            let mut table = tx.open_table(KEYS)?;
            for key in &keys {
                assert!(table.remove(&key[..])?.is_some());
            }
            Ok::<_, Error>(())
        })
        .unwrap();
        assert_sound(&db);
    }
}

#[test]
fn pitfall_26_oversize_keys_and_values_are_typed_errors_that_change_nothing() {
    let db = Builder::new().test_geometry(512, 512, 64).in_memory().unwrap();
    let tx = db.begin_write().unwrap();
    {
        let mut keys = tx.open_table(KEYS).unwrap();
        keys.insert(&b"here"[..], 1).unwrap();
        let long = vec![1; 65_537];
        let refused = keys.insert(&long[..], 1).unwrap_err();
        assert!(matches!(refused, StorageError::KeyTooLarge { found_bytes: 65_537, limit_bytes: 65_536 }), "{refused}");
        assert!(keys.get(&long[..]).unwrap().is_none());
        assert!(keys.remove(&long[..]).unwrap().is_none());
        assert_eq!(keys.range(&long[..]..).unwrap().count(), 1);
        let mut blobs = tx.open_table(BLOBS).unwrap();
        // With runs of 16 KiB and lists of 1024 runs the longest value is 16 MiB.
        let limit = 32 * 512 / 16 * (32 * 512);
        let refused = blobs.insert(1, &vec![0; limit + 1][..]).unwrap_err();
        assert!(matches!(refused, StorageError::ValueTooLarge { .. }), "{refused}");
        assert_eq!(keys.len().unwrap(), 1);
    }
    tx.commit().unwrap();
    assert_sound(&db);
}

#[test]
fn ten_small_rows_take_at_most_96_kib_after_close() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.cowslip");
    let db = Database::create(&path).unwrap();
    for key in 0..10 {
        put(&db, key..key + 1, 0, 20).unwrap();
    }
    db.close().unwrap();
    let len = std::fs::metadata(&path).unwrap().len();
    assert!(len <= 96 << 10, "{len} bytes");
    assert_eq!(rows(&Database::open(&path).unwrap()).unwrap().len(), 10);
}

#[test]
fn after_a_crash_open_first_get_and_first_commit_read_at_most_64_pages() {
    // 48 MiB in tiny steps of the real geometry: the bound is one of tree height, not of length.
    let storage = SharedBytes::default();
    let db = Builder::new().create_with_storage(storage.clone()).unwrap();
    for batch in 0..4 {
        put(&db, batch * 10_000..(batch + 1) * 10_000, 0, 1200).unwrap();
    }
    let crashed = SharedBytes::of(storage.image());
    assert!(crashed.image().len() > 45 << 20);
    let db = Builder::new().open_with_storage(crashed.clone()).unwrap();
    assert!(!db.open_notes().is_empty());
    db.view(|tx| {
        assert_eq!(tx.open_table(crate::fixture::ROWS)?.get(23_456)?.unwrap().value(), value(23_456, 0, 1200));
        Ok::<_, Error>(())
    })
    .unwrap();
    put(&db, 31_000..31_001, 1, 1200).unwrap();
    let read = crashed.read_bytes.load(Ordering::Relaxed);
    assert!(read <= 64 * 4096, "{read} bytes");
}

#[test]
fn commit_of_an_unchanged_transaction_writes_nothing() {
    let disk = SimDisk::new();
    let db = tiny().create_with_storage(disk.clone()).unwrap();
    put(&db, 0..20, 0, 20).unwrap();
    let (before, trace) = (db.begin_read().unwrap().id(), disk.trace_hash());
    let tx = db.begin_write().unwrap();
    drop(tx.open_table(crate::fixture::ROWS).unwrap());
    assert!(tx.open_table(crate::fixture::ROWS).unwrap().remove(999).unwrap().is_none());
    assert_eq!(tx.commit().unwrap(), before);
    db.begin_write().unwrap().abort().unwrap();
    assert_eq!(disk.trace_hash(), trace);
    assert_eq!(rows(&db).unwrap(), (0..20).map(|key| (key, value(key, 0, 20))).collect::<Model>());
}

#[test]
fn a_file_of_more_regions_than_its_table_can_name_is_out_of_space() {
    // In regions of 32 units of 512 bytes the table cannot grow past 16 units, which is some 340 regions.
    let storage = SharedBytes::default();
    let db = tiny().create_with_storage(storage.clone()).unwrap();
    put(&db, 0..5, 0, 20).unwrap();
    let outcome = put(&db, 5..6, 0, 4 << 20);
    assert!(outcome.as_ref().is_err_and(Error::is_out_of_space), "{outcome:?}");
    db.close().unwrap();
    let db = tiny().open_with_storage(storage).unwrap();
    put(&db, 6..7, 0, 20).unwrap();
    assert_eq!(rows(&db).unwrap().len(), 6);
}
