//! A database in memory from its making to its end, small enough for Miri and with so little cache that frames are
//! evicted all the time.
//!
//! Invariant: under Miri, nothing that happens on the way is undefined, on any of the threads.
//! Layer 8 (db).

use super::builder::Builder;
use super::database::Database;
use crate::table::definition::TableDefinition;
use crate::txn::read::ReadTransaction;

const ROWS: TableDefinition<u64, &[u8]> = TableDefinition::new("rows");
const OTHERS: TableDefinition<u64, u64> = TableDefinition::new("others");

const COUNT: u64 = if cfg!(miri) { 300 } else { 5000 };

fn value(key: u64, round: u8) -> Vec<u8> {
    // A few values are out of line.
    let len = if key.is_multiple_of(50) { 300 } else { 20 };
    vec![key.to_le_bytes()[0] ^ round; len]
}

fn write(db: &Database, keys: impl Iterator<Item = u64>, round: u8) {
    let tx = db.begin_write().unwrap();
    let mut rows = tx.open_table(ROWS).unwrap();
    for key in keys {
        rows.insert(key, &value(key, round)[..]).unwrap();
    }
    drop(rows);
    tx.commit().unwrap();
}

/// Looks some rows up and goes through a range of them, keeping the guards of a few.
fn read(tx: &ReadTransaction, reader: u64, round: u8) {
    let rows = tx.open_table(ROWS).unwrap();
    let mut kept = Vec::new();
    for step in 0..COUNT / 5 {
        let key = (step * 7 + reader * 13) % COUNT;
        let row = rows.get(key).unwrap().unwrap();
        assert_eq!(row.value(), value(key, round));
        if step % 20 == 0 {
            kept.push((key, row));
        }
    }
    let first = COUNT / 3;
    let mut range = rows.range(first..first + COUNT / 5).unwrap();
    for key in first..first + COUNT / 10 {
        let (found, row) = range.next().unwrap().unwrap();
        assert_eq!((found.value(), row.value()), (key, &value(key, round)[..]));
    }
    assert_eq!(range.next_back().unwrap().unwrap().0.value(), first + COUNT / 5 - 1);
    drop((range, rows));
    assert!(kept.iter().all(|(key, row)| row.value() == value(*key, round)));
}

#[test]
fn a_database_in_memory_lives_and_ends_without_undefined_behaviour() {
    let db = Builder::new().test_geometry(512, 512, 256).cache_bytes_max(20 << 10).in_memory().unwrap();
    // Not in order, and in one transaction, so that nodes are written early and read again.
    write(&db, (0..COUNT).map(|step| step * 7 % COUNT), 0);
    std::thread::scope(|scope| {
        for reader in 0..2 {
            let tx = db.begin_read().unwrap();
            scope.spawn(move || read(&tx, reader, 0));
        }
        write(&db, (0..COUNT).step_by(3), 1);
    });
    let tx = db.begin_write().unwrap();
    let mut rows = tx.open_table(ROWS).unwrap();
    for key in (0..COUNT).filter(|key| key % 10 != 0) {
        assert!(rows.remove(key).unwrap().is_some());
    }
    tx.open_table(OTHERS).unwrap().insert(1, 2).unwrap();
    drop(rows);
    tx.commit().unwrap();
    let abandoned = db.begin_write().unwrap();
    abandoned.open_table(ROWS).unwrap().insert(1, &[1; 20][..]).unwrap();
    drop(abandoned);
    let left = db.view(|tx| Ok::<_, crate::txn::error::Error>(tx.open_table(ROWS)?.len()?)).unwrap();
    assert_eq!(left, COUNT / 10);
    assert_eq!(db.check_integrity().unwrap().rows, COUNT / 10 + 1);
    let tx = db.begin_write().unwrap();
    assert!(tx.delete_table(ROWS).unwrap());
    tx.commit().unwrap();
    db.close().unwrap();
}
