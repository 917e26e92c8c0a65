//! Rules of the protocol that only the inside can show.
//!
//! Invariant: each test is named by the rule that it shows.
//! Layer 8 (db).

use super::builder::Builder;
use super::database::Database;
use crate::base::ids::{PageId, Run};
use crate::btree::check::{Checker, Reach};
use crate::btree::tree::PinnedPages;
use crate::catalog::roots;
use crate::io::sim::{OperationKind, SimDisk};
use crate::pages::room;
use crate::pages::version::Pin;
use crate::table::definition::TableDefinition;
use crate::txn::error::Error;
use crate::txn::room::changed_nodes;
use std::collections::BTreeSet;
use std::sync::Arc;

const ROWS: TableDefinition<u64, &[u8]> = TableDefinition::new("rows");

fn tiny(cache_bytes_max: usize) -> (Database, SimDisk) {
    let disk = SimDisk::new();
    let builder = Builder::new().test_geometry(512, 512, 32).cache_bytes_max(cache_bytes_max);
    (builder.create_with_storage(disk.clone()).unwrap(), disk)
}

fn put(db: &Database, keys: std::ops::Range<u64>, len: usize) -> Result<(), Error> {
    let mut tx = db.begin_write()?;
    // Under a slot: the rows are in the tree of the version.
    tx.set_two_phase_commit(true);
    let mut rows = tx.open_table(ROWS)?;
    for key in keys {
        rows.insert(key, &vec![key.to_le_bytes()[0]; len][..])?;
    }
    drop(rows);
    tx.commit()?;
    Ok(())
}

/// Every unit that the trees of a pinned version reach.
fn reach(db: &Database, pin: &Pin) -> BTreeSet<u64> {
    let core = db.core();
    let epoch = core.store.enter();
    let pages = PinnedPages { store: &core.store, pin, epoch: &epoch };
    let version = pin.version().clone();
    let mut reach = Reach::default();
    let tables = roots::list(pages, &version.trees.data).unwrap();
    for root in
        [version.trees.data, version.trees.forward].into_iter().chain(tables.iter().map(|(_, record)| record.root))
    {
        let (pages, store) = (&pages, &*core.store);
        Checker { pages, store, pin, reach: &mut reach, birth_max: version.id }.check(&root).unwrap();
    }
    reach.units().collect()
}

/// Units of 512 bytes that were written from operation `from` on.
fn written(disk: &SimDisk, from: u64) -> BTreeSet<u64> {
    let writes = disk.operations().into_iter().filter(|operation| operation.number >= from);
    writes
        .filter_map(|operation| match operation.kind {
            OperationKind::Write { offset, len, .. } => Some(offset / 512..(offset + len).div_ceil(512)),
            _ => None,
        })
        .flatten()
        .collect()
}

#[test]
fn r3_a_commit_writes_no_unit_that_the_slot_before_or_any_pin_reaches() {
    for cache in [0, 8 << 10, 1 << 20] {
        let (db, disk) = tiny(cache);
        put(&db, 0..100, 40).unwrap();
        let mut pins: Vec<Arc<Pin>> = Vec::new();
        for round in 0..30_u64 {
            pins.push(Arc::new(db.core().pins.pin_published()));
            let kept: BTreeSet<u64> = pins.iter().flat_map(|pin| reach(&db, pin)).collect();
            let from = disk.next_operation();
            put(&db, round * 3..round * 3 + 20, if round % 4 == 0 { 900 } else { 40 }).unwrap();
            let overwritten: Vec<_> = written(&disk, from).intersection(&kept).copied().collect();
            assert!(overwritten.is_empty(), "round {round}: {overwritten:?}");
            if round % 5 == 4 {
                pins.drain(..3);
            }
        }
    }
}

#[test]
fn r6_everything_new_that_a_version_reaches_was_written_before_its_slot() {
    for cache in [4 << 10, 1 << 20] {
        let (db, disk) = tiny(cache);
        for round in 0..12_u64 {
            let before = Arc::new(db.core().pins.pin_published());
            let (old, from) = (reach(&db, &before), disk.next_operation());
            put(&db, round * 9..round * 9 + 40, if round % 3 == 0 { 700 } else { 60 }).unwrap();
            let slot = disk.operations().iter().rev().find_map(|operation| match operation.kind {
                OperationKind::Write { offset: 4096 | 8192, .. } => Some(operation.number),
                _ => None,
            });
            let operations = disk.operations().into_iter().filter(|operation| operation.number >= from);
            let before_slot: BTreeSet<u64> = operations
                .filter(|operation| Some(operation.number) < slot)
                .filter_map(|operation| match operation.kind {
                    OperationKind::Write { offset, len, .. } => Some(offset / 512..(offset + len).div_ceil(512)),
                    _ => None,
                })
                .flatten()
                .collect();
            let after = Arc::new(db.core().pins.pin_published());
            let new: Vec<_> = reach(&db, &after).difference(&old).copied().collect();
            assert!(new.len() > 5);
            assert!(new.iter().all(|unit| before_slot.contains(unit)), "round {round}");
        }
    }
}

#[test]
fn r10_a_run_that_memory_knows_is_never_handed_out() {
    let (db, _disk) = tiny(1 << 20);
    put(&db, 0..20, 40).unwrap();
    let core = db.core();
    let allocated: BTreeSet<u64> = core.space.lock().allocated_units(&*core.store).unwrap().collect();
    let free = (26..core.store.end_units()).filter(|unit| !allocated.contains(unit)).map(PageId::from_allocator);
    let free: Vec<PageId> = free.collect();
    assert!(!free.is_empty());
    for page in &free {
        core.store.install(*page, &[1; 512], 1);
    }
    let error = put(&db, 0..20, 30).unwrap_err();
    assert!(error.is_corruption() && error.to_string().contains("in use"), "{error}");
    for page in free {
        core.store.forget(Run::new(page, 1));
    }
    put(&db, 0..20, 30).unwrap();
    db.check_integrity().unwrap();
}

#[test]
fn r10_memory_knows_nothing_of_what_is_free_after_commits_aborts_and_readers() {
    let (db, _disk) = tiny(16 << 10);
    let mut readers = Vec::new();
    for round in 0..60_u64 {
        put(&db, round..round + 30, if round % 2 == 0 { 600 } else { 30 }).unwrap();
        let tx = db.begin_write().unwrap();
        let mut rows = tx.open_table(ROWS).unwrap();
        (0..60).for_each(|key| drop(rows.insert(key, &[8; 500][..]).unwrap()));
        drop(rows);
        drop(tx);
        readers.push(db.begin_read().unwrap());
        if round % 4 == 3 {
            readers.clear();
            db.begin_write().unwrap().abort().unwrap();
        }
        for reader in &readers {
            reader.open_table(ROWS).unwrap().iter().unwrap().for_each(|row| drop(row.unwrap()));
        }
        let core = db.core();
        let allocated: BTreeSet<u64> = core.space.lock().allocated_units(&*core.store).unwrap().collect();
        for unit in (0..core.store.end_units()).filter(|unit| !allocated.contains(unit)) {
            assert!(!core.store.remembers(Run::new(PageId::from_allocator(unit), 1)), "round {round}, unit {unit}");
        }
    }
}

#[test]
fn r1_a_version_is_pinned_only_while_a_pin_holds_it() {
    let (db, _disk) = tiny(1 << 20);
    put(&db, 0..20, 40).unwrap();
    let first = db.begin_read().unwrap();
    let held = || db.core().pins.held().iter().map(|id| id.get()).collect::<Vec<_>>();
    put(&db, 0..20, 30).unwrap();
    put(&db, 0..20, 60).unwrap();
    let (clone, table) = (db.begin_read().unwrap(), first.open_table(ROWS).unwrap());
    assert_eq!(held(), [1, 3], "version 2 was never pinned");
    drop(first);
    assert_eq!(held(), [1, 3], "the table holds its version");
    let range = table.iter().unwrap();
    drop(table);
    let guard = clone.open_table(ROWS).unwrap().get(3).unwrap();
    put(&db, 0..1, 1).unwrap();
    drop(clone);
    assert_eq!(held(), [1, 3, 4], "so do ranges, and guards of values that are not copied");
    drop((range, guard));
    assert_eq!(held(), [4]);
}

#[test]
fn r18_rows_that_fall_on_full_nodes_take_no_more_of_them_than_there_is_room_kept_for() {
    const KEEP: TableDefinition<&[u8], &[u8]> = TableDefinition::new("keep");
    let mut is_close = false;
    for (prefix, count) in [(90, 1), (90, 40), (90, 150), (40, 10), (40, 80), (40, 150)] {
        let db = Builder::new().test_geometry(512, 512, 4096).cache_bytes_max(8 << 20).in_memory().unwrap();
        let put = |numbers: &mut dyn Iterator<Item = u64>| {
            let mut tx = db.begin_write().unwrap();
            tx.set_two_phase_commit(true);
            let mut table = tx.open_table(KEEP).unwrap();
            for number in numbers {
                let key = [&vec![b'p'; prefix][..], &number.to_be_bytes()].concat();
                table.put(&key[..], &[1; 4][..]).unwrap();
            }
            drop(table);
            tx.commit().unwrap();
        };
        put(&mut (0..6000).map(|number| 2 * number));
        db.compact().unwrap();
        // Nothing is given back while somebody looks at it.
        let _reader = db.begin_read().unwrap();
        let allocated = || db.core().space.lock().count_allocated();
        let before = allocated();
        put(&mut (0..count).map(|number| 2 * (number * (6000 / count)) + 1));
        let taken = allocated() - before;
        let by_bytes = 2 * count * (prefix as u64 + 8 + 4 + 80) / 512;
        let (store, table_units) = (&db.core().store, db.core().space.lock().table_units());
        let (units, runs) = room::room(store.layout(), store.end_units(), table_units);
        let kept = changed_nodes(count, before) + by_bytes + u64::from(units * runs);
        assert!(taken <= kept, "{count} keys of {} bytes: {taken} taken, room for {kept}", prefix + 8);
        is_close |= taken > 4 * count + by_bytes + u64::from(units * runs);
    }
    assert!(is_close, "four nodes for each would do");
}
