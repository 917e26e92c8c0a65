//! What callers can get wrong: bytes that are no database, and absurd arguments to every public function.

use crate::fixture::{Model, ROWS, SharedBytes, assert_sound, closed_tiny, put, rows, set, tiny};
use cowslip::sim::{CrashPlan, SimDisk};
use cowslip::{Access, Builder, CreateMode, Database, DatabaseError, FileStorage, TransactionError, TypeDescriptor};
use cowslip::{Durability, Error, TableDefinition, render_key, render_value};
use std::ops::Bound;
use std::time::Duration;

fn open(bytes: &[u8]) -> Result<Database, DatabaseError> {
    Builder::new().open_with_storage(SharedBytes::of(bytes.to_vec()))
}

#[test]
fn bytes_that_are_no_database_are_named_so_and_left_alone() {
    let texts: [&[u8]; 6] =
        [b"", b"x", b"SQLite format 3\0", &[0; 4096], &[0xFF; 12_288], include_bytes!("../../Cargo.toml")];
    for bytes in texts {
        let long = [bytes, &vec![b'a'; 70_000]].concat();
        for bytes in [bytes, &long] {
            let storage = SharedBytes::of(bytes.to_vec());
            let error = Builder::new().open_with_storage(storage.clone()).unwrap_err();
            assert!(matches!(error, DatabaseError::NotADatabase(_)), "{error}");
            let error = Builder::new().open_read_only_with_storage(storage.clone()).unwrap_err();
            assert!(matches!(error, DatabaseError::NotADatabase(_)), "{error}");
            assert!(storage.image() == bytes);
        }
        // Creation takes over what is empty or zero and never anything else.
        let storage = SharedBytes::of(long.clone());
        assert!(matches!(Builder::new().create_with_storage(storage.clone()), Err(DatabaseError::NotADatabase(_))));
        assert!(storage.image() == long);
    }
}

#[test]
fn geometry_of_a_test_is_refused_by_ordinary_opening() {
    let (disk, _) = closed_tiny();
    let error = open(&disk.image()).unwrap_err();
    assert!(matches!(error, DatabaseError::TestGeometry { unit_bytes: 512, region_units: 32 }), "{error}");
}

#[test]
fn pitfall_51_every_truncation_is_a_typed_error_that_changes_nothing() {
    let (disk, _) = closed_tiny();
    let image = disk.image();
    // Both slots carry what they reach at byte 432; a file that holds that much of the newer one is whole.
    let reach = usize::try_from(u64::from_le_bytes(image[8192 + 432..8192 + 440].try_into().unwrap())).unwrap();
    assert!(reach <= image.len() / 512 && reach + 4 > image.len() / 512, "{reach}");
    for len in 0..reach * 512 {
        if len > 13_000 && len % 37 > 1 {
            continue;
        }
        let storage = SharedBytes::of(image[..len].to_vec());
        let error = tiny().open_with_storage(storage.clone()).unwrap_err();
        let expected = error.is_corruption() || matches!(error, DatabaseError::NotADatabase(_));
        assert!(expected, "{len} bytes: {error}");
        assert!(len < 12 || error.is_corruption(), "{len} bytes: {error}");
        assert!(storage.image() == image[..len], "{len} bytes");
    }
}

#[test]
fn pitfall_51_an_extended_file_is_valid_whatever_was_appended() {
    let (disk, model) = closed_tiny();
    for added in [1, 511, 512, 4096, 16 * 1024, 70_001, 1 << 20] {
        let storage = SharedBytes::of([disk.image(), vec![0xA5; added]].concat());
        let db = tiny().open_with_storage(storage.clone()).unwrap();
        let mut model = model.clone();
        assert_eq!(rows(&db).unwrap(), model);
        db.check_integrity().unwrap();
        crate::fixture::set(&db, &mut model, 500..560, 1, 90);
        db.check_integrity().unwrap();
        db.close().unwrap();
        let db = tiny().open_with_storage(storage.clone()).unwrap();
        assert!(db.open_notes().is_empty());
        assert_eq!(rows(&db).unwrap(), model);
        assert!(storage.image().len() < disk.image().len() + 60_000, "closing gives the appended bytes back");
    }
}

#[test]
fn pitfall_51_an_empty_file_is_created_but_never_opened() {
    let storage = SharedBytes::default();
    for error in [
        tiny().open_with_storage(storage.clone()).unwrap_err(),
        tiny().open_read_only_with_storage(storage.clone()).unwrap_err(),
    ] {
        assert!(matches!(&error, DatabaseError::NotADatabase(why) if why.contains("empty")), "{error}");
    }
    assert!(storage.image().is_empty());
    tiny().create_with_storage(storage.clone()).unwrap().close().unwrap();
    assert!(rows(&tiny().open_with_storage(storage).unwrap()).unwrap().is_empty());
}

#[test]
fn row_19_options_out_of_range_are_refused_before_any_file_is_touched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("never");
    for node_bytes in [0, 1, 512, 2048, 4095, 4097, 12_288, 131_072, u32::MAX, 1 << 31] {
        let builder = Builder::new().node_bytes(node_bytes);
        assert!(matches!(builder.create(&path), Err(DatabaseError::InvalidOption(_))), "{node_bytes}");
        assert!(matches!(builder.in_memory(), Err(DatabaseError::InvalidOption(_))), "{node_bytes}");
    }
    for (unit, node, region) in
        [(0, 0, 0), (1, 1, 1), (512, 512, 16), (3, 512, 64), (512, 1 << 20, 64), (512, 65_536, 32)]
    {
        assert!(Builder::new().test_geometry(unit, node, region).in_memory().is_err(), "{unit} {node} {region}");
    }
    assert!(!path.exists());
    for cache in [0, 1, usize::MAX] {
        let db = tiny().cache_bytes_max(cache).in_memory().unwrap();
        put(&db, 0..50, 0, 100).unwrap();
        assert_eq!(rows(&db).unwrap().len(), 50);
    }
}

#[test]
fn row_19_absurd_keys_values_and_bounds_never_panic() {
    const KEYS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("keys");
    let db = tiny().in_memory().unwrap();
    let absurd: Vec<Vec<u8>> = [0_usize, 1, 31, 32, 33, 65_535, 65_536, 65_537, 1 << 20]
        .into_iter()
        .flat_map(|len| [vec![0; len], vec![0xFF; len]])
        .collect();
    let tx = db.begin_write().unwrap();
    let mut table = tx.open_table(KEYS).unwrap();
    for key in &absurd {
        drop(table.insert(&key[..], &key[..]));
        drop(table.get(&key[..]).unwrap());
        table.prefix(&key[..]).unwrap().for_each(|row| drop(row.unwrap()));
        for other in &absurd {
            let (key, other) = (&key[..], &other[..]);
            let bounds = [
                (Bound::Excluded(key), Bound::Excluded(other)),
                (Bound::Included(key), Bound::Excluded(other)),
                (Bound::Excluded(key), Bound::Unbounded),
            ];
            for range in bounds {
                let count = table.range::<&[u8]>(range).unwrap().count();
                assert_eq!(table.range::<&[u8]>(range).unwrap().rev().count(), count);
            }
        }
    }
    for key in &absurd {
        drop(table.remove(&key[..]).unwrap());
    }
    assert!(table.is_empty().unwrap() && table.first().unwrap().is_none() && table.last().unwrap().is_none());
    drop(table);
    tx.commit().unwrap();
    db.check_integrity().unwrap();
}

#[test]
fn row_19_reading_only_handles_refuse_every_change_with_an_error() {
    let (disk, model) = closed_tiny();
    let db = tiny().open_read_only_with_storage(disk.clone()).unwrap();
    let second = tiny().open_read_only_with_storage(disk.clone()).unwrap();
    assert_eq!((rows(&db).unwrap(), rows(&second).unwrap()), (model.clone(), model));
    assert!(matches!(db.begin_write(), Err(TransactionError::ReadOnly)));
    assert!(matches!(db.repair_header(), Err(TransactionError::ReadOnly)));
    assert!(matches!(put(&db, 0..1, 0, 1), Err(Error::Transaction(TransactionError::ReadOnly))));
    db.check_integrity().unwrap();
    let trace = disk.trace_hash();
    db.close().unwrap();
    drop(second);
    assert_eq!(disk.trace_hash(), trace, "a reading session writes nothing");
}

#[test]
fn row_19_paths_that_cannot_be_files_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("no").join("such").join("folder");
    let long = folder.path().join("n".repeat(5000));
    for path in ["", "\0", "a\0b", "/", ".", "/dev/null", "/proc/self/mem"] {
        assert!(Database::create(path).is_err(), "{path:?}");
        assert!(Database::open(path).is_err(), "{path:?}");
        assert!(Builder::new().open_read_only(path).is_err(), "{path:?}");
    }
    for path in [folder.path(), &missing, &long] {
        let error = Database::create(path).unwrap_err();
        assert!(matches!(error, DatabaseError::Open { .. }), "{error}");
        assert!(Database::open(path).is_err());
    }
    assert!(FileStorage::open(&missing, CreateMode::CreateNew, Access::ReadOnly, true).is_err());
}

#[test]
fn row_19_types_of_any_bytes_render_or_fail_without_panic() {
    for bytes in [&[][..], &[0], &[0xFF; 40], b"abc\0"] {
        if let Ok(descriptor) = TypeDescriptor::decode(bytes) {
            drop(render_value(&descriptor, bytes));
            drop(render_key(&descriptor, bytes));
        }
        for descriptor in [TypeDescriptor::U64, TypeDescriptor::Str, TypeDescriptor::Bytes] {
            drop(render_value(&descriptor, bytes));
            drop(render_key(&descriptor, bytes));
        }
    }
}

#[test]
fn operations_on_a_database_that_lacks_the_table_are_typed_errors_or_empty() {
    let db = tiny().in_memory().unwrap();
    let reader = db.begin_read().unwrap();
    assert!(matches!(reader.open_table(ROWS), Err(cowslip::TableError::DoesNotExist(name)) if *name == *"rows"));
    assert!(reader.open_table_or_empty(ROWS).unwrap().iter().unwrap().next().is_none());
    assert_eq!(reader.list_tables().unwrap().count(), 0);
    assert_eq!(reader.id().get(), 0);
}

#[test]
fn row_19_absurd_delays_and_lengths_of_the_log_change_nothing_but_when_bytes_are_written() {
    for delay in [Duration::ZERO, Duration::MAX] {
        for log_bytes in [0, 1, u64::MAX] {
            let disk = SimDisk::new();
            let builder = tiny().sync_delay_max(delay).log_bytes_max(log_bytes).durability(Durability::Buffered);
            let db = builder.create_with_storage(disk.clone()).unwrap();
            let mut model = Model::new();
            for round in 0..60 {
                set(&db, &mut model, round % 9..round % 9 + 2, round, 50);
            }
            let running = db.begin_write_timeout(Duration::MAX).unwrap().expect("nobody else writes");
            assert!(db.try_begin_write().unwrap().is_none());
            drop(running);
            db.sync().unwrap();
            let crashed = disk.crash_image(&CrashPlan::nothing(disk.next_operation()));
            assert!(rows(&tiny().open_with_storage(crashed).unwrap()).unwrap() == model, "{delay:?}, {log_bytes}");
            assert_sound(&db);
            db.close().unwrap();
        }
    }
}
