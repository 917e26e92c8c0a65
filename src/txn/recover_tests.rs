//! Opening files that a crash or damage left behind.
//!
//! Invariant: what opening reports is what a later session still finds; nothing is repaired or lost in passing.
//! Layer 5 (txn).

use super::core::{Core, CoreOptions};
use super::durability::Durability;
use super::error::{DatabaseError, TableError, TransactionError};
use super::read::ReadTransaction;
use super::recover::{self, OpenOptions};
use super::write::WriteTransaction;
use crate::base::clock::{Stopwatch, SystemClock};
use crate::base::error::StorageError;
use crate::base::ids::TransactionId;
use crate::base::ids::TreeRoot;
use crate::base::sync::Arc;
use crate::catalog::record::{TableKind, TableRecord};
use crate::io::sim::SimDisk;
use crate::pages::header::{BLOCK_BYTES, Format};
use crate::pages::layout::Layout;
use crate::pages::select::OpenNote;
use std::time::Duration;

fn open(disk: &SimDisk, create: bool, read_only: bool) -> Result<Arc<Core>, DatabaseError> {
    let layout = Layout::new(512, 1, 64).unwrap();
    let format = Format { layout, uuid: [1; 16], read_only_compatible: 0, compatible: 0 };
    let options = OpenOptions {
        read_only,
        create: create.then_some(format),
        test_geometry: true,
        cache_bytes_max: 1 << 20,
        file_bytes_max: u64::MAX,
    };
    let opened = recover::open(Arc::new(disk.clone()), &options)?;
    let options = CoreOptions {
        clock: Arc::new(SystemClock),
        read_only,
        session: [2; 16],
        log_bytes_max: 1 << 20,
        durability: Durability::Immediate,
        sync_delay_max: Duration::from_millis(50),
        checkpoint_lag_commits: None,
        opening: Stopwatch::start(),
    };
    Ok(Core::new(opened, options))
}

/// Commits a transaction that creates a table of this name.
fn add_table(core: &Arc<Core>, name: &str) {
    add_table_as(core, name, |id| id);
}

/// As before, with an id of its own choice.
fn add_table_as(core: &Arc<Core>, name: &str, choose: impl Fn(u64) -> u64) {
    let tx = WriteTransaction::begin(core.take_turn().unwrap()).unwrap();
    let create = |id| TableRecord {
        id: choose(id),
        kind: TableKind::Table,
        root: TreeRoot::EMPTY,
        folded: TransactionId::ZERO,
        key_type: vec![1],
        value_type: vec![1],
    };
    let table = tx.check_out(name, create, |_| Ok(())).unwrap();
    tx.check_in(table);
    tx.commit().unwrap();
}

fn names(core: &Arc<Core>) -> Vec<String> {
    ReadTransaction::begin(core).list().unwrap().into_iter().map(|(name, _)| name).collect()
}

/// An image with two commits whose session did not close; the newest slot is slot 0.
fn unclosed() -> Vec<u8> {
    let disk = SimDisk::new();
    let core = open(&disk, true, false).unwrap();
    add_table(&core, "a");
    add_table(&core, "b");
    disk.image()
}

#[test]
fn a_step_back_that_is_closed_cleanly_opens_again() {
    let mut image = unclosed();
    image[BLOCK_BYTES + 600] ^= 1;
    let disk = SimDisk::from_bytes(&image);
    let core = open(&disk, false, false).unwrap();
    assert!(matches!(core.notes[..], [OpenNote::ServedOlderSlot { invalid_slot: 0, .. }]));
    assert_eq!(names(&core), ["a"]);
    drop(core);
    let core = open(&disk, false, false).unwrap();
    assert_eq!(names(&core), ["a"]);
    add_table(&core, "c");
    drop(core);
    assert_eq!(names(&open(&disk, false, false).unwrap()), ["a", "c"]);
}

#[test]
fn pitfall_41_a_damaged_block_0_is_neither_written_nor_cut_before_it_is_repaired() {
    let mut image = unclosed();
    image[20] ^= 1;
    let disk = SimDisk::from_bytes(&image);
    let core = open(&disk, false, false).unwrap();
    assert!(matches!(core.notes[0], OpenNote::HeaderDamaged { .. }));
    assert_eq!(names(&core), ["a", "b"]);
    assert!(matches!(core.take_turn(), Err(TransactionError::HeaderDamaged)));
    drop(core);
    assert_eq!(disk.image(), image, "closing wrote to a database that refuses writes");
    let core = open(&disk, false, false).unwrap();
    core.repair_header().unwrap();
    add_table(&core, "c");
    drop(core);
    let core = open(&disk, false, false).unwrap();
    assert!(core.notes.is_empty());
    assert_eq!(names(&core), ["a", "b", "c"]);
}

#[test]
fn r19_a_read_only_session_leaves_an_unclosed_file_as_it_is() {
    let image = unclosed();
    let disk = SimDisk::from_bytes(&image);
    let core = open(&disk, false, true).unwrap();
    assert_eq!(names(&core), ["a", "b"]);
    assert!(matches!(core.take_turn(), Err(TransactionError::ReadOnly)));
    drop(core);
    assert_eq!(disk.image(), image);
}

#[test]
fn a_clean_close_makes_damage_of_the_newest_slot_an_error_and_never_a_step_back() {
    let disk = SimDisk::new();
    let core = open(&disk, true, false).unwrap();
    add_table(&core, "a");
    add_table(&core, "b");
    drop(core);
    let mut image = disk.image();
    image[BLOCK_BYTES + 600] ^= 1;
    let error = open(&SimDisk::from_bytes(&image), false, false).unwrap_err();
    assert!(matches!(&error, DatabaseError::Storage(StorageError::Corrupted(_))), "{error}");
}

#[test]
fn two_tables_with_one_id_are_damage_that_is_noticed_wherever_all_are_listed() {
    let disk = SimDisk::new();
    let core = open(&disk, true, false).unwrap();
    add_table(&core, "a");
    add_table_as(&core, "b", |id| id - 1);
    let is_told = |error: &StorageError| error.to_string().contains("two tables with the id 1");
    let error = ReadTransaction::begin(&core).list().unwrap_err();
    assert!(matches!(&error, TableError::Storage(error) if is_told(error)), "{error}");
    for error in [core.check().unwrap_err(), core.check_quick().unwrap_err()] {
        assert!(matches!(&error, TransactionError::Storage(error) if is_told(error)), "{error}");
    }
}

#[test]
fn creation_that_was_cut_short_is_taken_up_again() {
    let disk = SimDisk::new();
    drop(open(&disk, true, false).unwrap());
    let whole = disk.image();
    for len in [1, 4096, 5000, 8192, 12287, 12288] {
        for first_sector in [false, true] {
            let mut image = whole[..len].to_vec();
            image[..BLOCK_BYTES.min(len)].fill(0);
            if !first_sector && len >= BLOCK_BYTES + 512 {
                image[BLOCK_BYTES..BLOCK_BYTES + 512].fill(0);
            }
            let disk = SimDisk::from_bytes(&image);
            assert!(matches!(open(&disk, false, false), Err(DatabaseError::NotADatabase(_))));
            let core = open(&disk, true, false).unwrap();
            add_table(&core, "a");
            assert_eq!(names(&core), ["a"]);
        }
    }
}
