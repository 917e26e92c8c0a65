//! Who charges the account of memory, seen from the whole database.
//!
//! Invariant: what an owner charges follows what it keeps, and is given back with it.
//! Layer 8 (db).

use super::builder::Builder;
use super::database::Database;
use crate::io::sim::SimDisk;
use crate::pages::writer::Dead;
use crate::table::definition::TableDefinition;
use crate::txn::error::Error;
use crate::txn::write::WriteTransaction;

const ROWS: TableDefinition<u64, &[u8]> = TableDefinition::new("rows");

/// Rows of a leaf each, nearly.
const COUNT: u64 = if cfg!(miri) { 30 } else { 1000 };

fn tiny() -> Builder {
    Builder::new().test_geometry(512, 512, 4096).cache_bytes_max(if cfg!(miri) { 1 << 20 } else { 16 << 20 })
}

fn charged(db: &Database) -> usize {
    db.core().store.account().charged()
}

fn put(tx: &WriteTransaction, len: usize) -> Result<(), Error> {
    let mut rows = tx.open_table(ROWS)?;
    // A long value makes the table a tree of the transaction.
    rows.insert(COUNT, &vec![1; 70_000][..])?;
    rows.remove(COUNT)?;
    for key in 0..COUNT {
        rows.insert(key, &vec![1; len][..])?;
    }
    Ok(())
}

fn loaded() -> Database {
    let db = tiny().in_memory().unwrap();
    db.update(|tx| put(tx, 110)).unwrap();
    db
}

#[test]
fn dead_runs_are_charged_until_nobody_needs_them() {
    let db = loaded();
    let before = charged(&db);
    let reader = db.begin_read().unwrap();
    let tx = db.begin_write().unwrap();
    put(&tx, 111).unwrap();
    let dead = usize::try_from(COUNT / 4).unwrap() * Dead::BYTES;
    assert!(charged(&db) >= before + dead, "the transaction lists what it made unreachable");
    tx.commit().unwrap();
    assert!(charged(&db) >= before + dead, "the reader still needs it");
    drop(reader);
    db.begin_write().unwrap().abort().unwrap();
    assert!(charged(&db) < before + dead / 2, "nobody needs it");
}

#[test]
fn what_an_aborted_transaction_kept_is_given_back() {
    let db = loaded();
    let (before, frames) = (charged(&db), db.core().store.account().frames_bytes_max());
    let tx = db.begin_write().unwrap();
    put(&tx, 112).unwrap();
    assert!(charged(&db) > before);
    drop(tx);
    assert_eq!((charged(&db), db.core().store.account().frames_bytes_max()), (before, frames));
}

#[test]
fn what_is_laid_over_trees_is_charged_until_it_is_in_them() {
    let db = loaded();
    let insert = |key: u64| db.update(|tx| Ok::<_, Error>(tx.open_table(ROWS)?.put(key, &[1; 500][..])?));
    insert(0).unwrap();
    let before = charged(&db);
    // The log grows with use, and until it is long a commit now and then brings all into the trees.
    let mut most = 0;
    for key in 1..200 {
        insert(key).unwrap();
        most = most.max(charged(&db).saturating_sub(before));
    }
    assert!((10 * 500..200 * 800).contains(&most), "{most}");
    let reader = db.begin_read().unwrap();
    db.compact().unwrap();
    let left = charged(&db).saturating_sub(before);
    // The runs that it keeps are.
    assert!(left < 200 * Dead::BYTES + 1000, "a reader that still looks at it is not charged for it: {left} of {most}");
    assert_eq!(reader.open_table(ROWS).unwrap().get(19).unwrap().unwrap().value().len(), 500);
}

#[test]
fn dirty_pages_beyond_their_share_take_frames_away() {
    let db = tiny().cache_bytes_max(64 << 10).in_memory().unwrap();
    let account = db.core().store.account();
    let before = account.frames_bytes_max();
    let charged = account.charged();
    account.set_dirty(30 << 10);
    assert!(account.frames_bytes_max() + (10 << 10) < before);
    account.set_dirty(0);
    assert_eq!((account.frames_bytes_max(), account.charged()), (before, charged));
    db.update(|tx| put(tx, 100)).unwrap();
    assert!(account.frames_bytes_max() <= before, "nothing is dirty after a commit, but regions are loaded");
    let idle = account.frames_bytes_max();
    let mut tx = db.begin_write().unwrap();
    tx.set_two_phase_commit(true);
    tx.open_table(ROWS).unwrap().remove(0).unwrap();
    tx.commit().unwrap();
    assert_eq!(account.frames_bytes_max(), idle);
    // The first small commit makes the log, and the second one is the first in it.
    for key in [1, 2] {
        db.update(|tx| tx.open_table(ROWS)?.remove(key).map(|_| ()).map_err(Error::from)).unwrap();
    }
    assert!(account.frames_bytes_max() < idle, "what only the log tells stays in memory");
}

#[test]
fn regions_are_charged_as_their_bitmaps_are_read() {
    let disk = SimDisk::new();
    let open = || tiny().test_geometry(512, 512, 64).create_with_storage(disk.clone()).unwrap();
    let db = open();
    db.update(|tx| put(tx, 110)).unwrap();
    db.close().unwrap();
    let db = open();
    let opened = charged(&db);
    assert!(opened > 0, "the table of regions is in memory");
    db.check_quick().unwrap();
    let regions = usize::try_from(COUNT / 4 / 64).unwrap();
    assert!(charged(&db) > opened + regions * 300, "all bitmaps are in memory");
}
