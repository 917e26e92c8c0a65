//! Damaged fixed blocks: what one flipped byte may and may not do.

use crate::fixture::{Model, SharedBytes, closed_tiny, put, rows, set, tiny};
use cowslip::{DatabaseError, Error, OpenNote, TransactionError};

/// A database whose session did not close: two commits, the newer in slot 0.
fn unclosed() -> (Vec<u8>, Model, Model) {
    let storage = SharedBytes::default();
    let mut model = Model::new();
    let db = tiny().create_with_storage(storage.clone()).unwrap();
    set(&db, &mut model, 0..20, 1, 30);
    let older = model.clone();
    set(&db, &mut model, 10..30, 2, 30);
    let image = storage.image();
    drop(db);
    (image, older, model)
}

fn open_and_read(image: &[u8]) -> Result<(Model, Vec<OpenNote>), Error> {
    let db = tiny().open_read_only_with_storage(SharedBytes::of(image.to_vec()))?;
    Ok((rows(&db)?, db.open_notes().to_vec()))
}

#[test]
fn pitfall_50_every_flipped_byte_of_the_fixed_blocks_is_noticed_or_harmless() {
    let (disk, model) = closed_tiny();
    let mut image = disk.image();
    let mut covered = 0;
    for byte in 0..12_288 {
        for mask in [0x01, 0x80] {
            image[byte] ^= mask;
            match open_and_read(&image) {
                Ok((found, notes)) => {
                    assert_eq!(found, model, "byte {byte}");
                    // Bytes of block 0 past its fields are the only ones that mean nothing.
                    let means_nothing = (13..16).contains(&byte) || (176..4096).contains(&byte);
                    assert_eq!(notes.is_empty(), means_nothing, "byte {byte}: {notes:?}");
                }
                Err(error) => {
                    covered += 1;
                    assert!(error.is_corruption(), "byte {byte}: {error}");
                    assert!(byte >= 4096, "block 0 alone never makes a database unreadable: byte {byte}: {error}");
                }
            }
            image[byte] ^= mask;
        }
    }
    assert_eq!(covered, 2 * 4096, "after a clean close the newest slot must be whole, every byte of it");
}

#[test]
fn pitfall_50_an_unclosed_file_serves_the_older_commit_only_with_a_note() {
    let (mut image, older, newer) = unclosed();
    let mut fell_back = 0;
    for byte in (0..12_288).step_by(3) {
        image[byte] ^= 0x40;
        match open_and_read(&image) {
            Ok((found, notes)) if found == older => {
                let noted = notes.iter().any(|note| matches!(note, OpenNote::ServedOlderSlot { .. }));
                assert!(noted, "byte {byte}: {notes:?}");
                fell_back += 1;
            }
            Ok((found, _)) => assert_eq!(found, newer, "byte {byte}"),
            Err(error) => assert!(error.is_corruption(), "byte {byte}: {error}"),
        }
        image[byte] ^= 0x40;
    }
    assert!((1365..=1366).contains(&fell_back), "{fell_back}");
}

#[test]
fn pitfall_41_with_block_0_unreadable_a_slots_copy_serves_and_writes_wait_for_the_repair() {
    let (disk, model) = closed_tiny();
    for fill in [0, 0xFF] {
        let mut image = disk.image();
        image[..4096].fill(fill);
        let storage = SharedBytes::of(image.clone());
        let db = tiny().open_with_storage(storage.clone()).unwrap();
        assert!(matches!(db.open_notes()[0], OpenNote::HeaderDamaged { .. }));
        assert_eq!(rows(&db).unwrap(), model);
        db.check_integrity().unwrap();
        assert!(matches!(put(&db, 0..1, 0, 1), Err(Error::Transaction(TransactionError::HeaderDamaged))));
        assert!(db.begin_write().unwrap_err().to_string().contains("repaired"));
        db.close().unwrap();
        assert!(storage.image() == image, "nothing is written unasked");

        let db = tiny().open_with_storage(storage.clone()).unwrap();
        db.repair_header().unwrap();
        db.repair_header().unwrap();
        let mut repaired = model.clone();
        set(&db, &mut repaired, 200..210, 1, 30);
        db.close().unwrap();
        let db = tiny().open_with_storage(storage.clone()).unwrap();
        assert!(db.open_notes().is_empty());
        assert_eq!(rows(&db).unwrap(), repaired);
        assert_eq!(storage.image()[..12], image_magic());
    }
    // With block 0 and the newest slot gone, only an unclosed session may step back, and there is no telling.
    let mut image = disk.image();
    image[..4096].fill(0);
    image[8192..12_288].fill(0);
    let outcome = open_and_read(&image);
    assert!(outcome.as_ref().is_err_and(Error::is_corruption), "{outcome:?}");
}

fn image_magic() -> [u8; 12] {
    *b"cowslip\x1a\x0a\xa9\x0d\x0a"
}

#[test]
fn other_format_versions_and_unknown_features_are_named() {
    let (disk, _) = closed_tiny();
    let image = disk.image();
    // Version, then the incompatible features, in block 0; its digest is that of magic and fields.
    for (at, value) in [(16, 9), (16 + 24, 4), (16 + 31, 0x80)] {
        let mut image = image.clone();
        image[at] = value;
        let covered = [&image[..12], &image[16..144]].concat();
        let sum = xxhash_rust::xxh3::xxh3_128(&covered).to_le_bytes();
        image[144..160].copy_from_slice(&sum);
        let error = tiny().open_with_storage(SharedBytes::of(image)).unwrap_err();
        let named = matches!(
            error,
            DatabaseError::UnsupportedVersion { found: 9, supported: 4 } | DatabaseError::UnsupportedFeatures(_)
        );
        assert!(named, "{error}");
    }
}

#[test]
fn both_slots_lost_is_corrupted_and_never_an_empty_database() {
    let (disk, _) = closed_tiny();
    for fill in [0, 0xFF] {
        let mut image = disk.image();
        image[4096..12_288].fill(fill);
        for create in [false, true] {
            let storage = SharedBytes::of(image.clone());
            let outcome = if create {
                tiny().create_with_storage(storage.clone())
            } else {
                tiny().open_with_storage(storage.clone())
            };
            let error = outcome.unwrap_err();
            assert!(error.is_corruption(), "{error}");
            assert!(storage.image() == image);
        }
    }
}
