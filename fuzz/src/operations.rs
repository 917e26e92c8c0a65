//! Target `operations`: whatever the operations are, the store answers as an ordered map does.
//!
//! The input is read as a sequence of operations with their arguments; it ends where the bytes do.

use super::sample::{BYTES, builder};
use cowslip::sim::SimDisk;
use cowslip::{Database, Error, ReadTransaction, Table, WriteTransaction};
use std::collections::BTreeMap;
use std::ops::Bound;

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// Longer inputs find nothing that shorter ones do not, only more slowly.
const INPUT_BYTES_MAX: usize = 1024;

/// The bytes that have not been read yet.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// Few enough different keys that they come again; some are longer than a node keeps inside.
    fn key(&mut self) -> Option<Vec<u8>> {
        let number = self.byte()?;
        let len = match number % 32 {
            0 => 0,
            31 => 300,
            rest => usize::from(rest),
        };
        Some(vec![number / 8; len])
    }

    fn value(&mut self) -> Option<Vec<u8>> {
        let (fill, len) = (self.byte()?, usize::from(self.byte()?));
        Some(vec![fill; if len >= 248 { (len - 247) * 500 } else { len }])
    }
}

/// Runs one input.
///
/// # Panics
/// Where the store answers otherwise than the model, or fails although nothing is wrong with its storage.
pub fn run(data: &[u8]) {
    let input = Input(&data[..data.len().min(INPUT_BYTES_MAX)]);
    Session::new().and_then(|session| session.run(input)).expect("a healthy storage never fails");
}

/// A database and the models of its newest commit.
struct Session {
    disk: SimDisk,
    database: Option<Database>,
    committed: Rows,
}

impl Session {
    fn new() -> Result<Self, Error> {
        let disk = SimDisk::new();
        disk.keep_history(false);
        let database = Some(builder().create_with_storage(disk.clone())?);
        Ok(Self { disk, database, committed: Rows::new() })
    }

    fn database(&self) -> &Database {
        self.database.as_ref().expect("open between transactions")
    }

    fn run(mut self, mut input: Input<'_>) -> Result<(), Error> {
        while let Some(how) = input.byte() {
            let snapshot = self.database().begin_read()?;
            let before = self.committed.clone();
            let transaction = self.database().begin_write()?;
            let mut rows = before.clone();
            change(&transaction, &mut rows, &mut input)?;
            if how & 1 == 0 {
                transaction.commit()?;
                self.committed = rows;
            } else {
                transaction.abort()?;
            }
            compare_all(&snapshot, &before)?;
            drop(snapshot);
            match how / 2 % 8 {
                0 => self.reopen(true)?,
                1 => self.reopen(false)?,
                2 => {
                    self.database().check_integrity()?;
                }
                _ => {}
            }
        }
        self.database().check_integrity()?;
        self.reopen(true)?;
        compare_all(&self.database().begin_read()?, &self.committed)?;
        self.database().check_integrity()?;
        Ok(())
    }

    /// Opens the database again, after a clean close or after the process was killed.
    fn reopen(&mut self, cleanly: bool) -> Result<(), Error> {
        let database = self.database.take().expect("open between transactions");
        if cleanly {
            database.close()?;
        } else {
            self.disk = self.disk.restart_process();
            // The dead process cannot write any more; what its handle does on the way out is no concern of the next.
            drop(database);
        }
        self.database = Some(builder().open_with_storage(self.disk.clone())?);
        Ok(())
    }
}

/// Runs the operations of one transaction.
fn change(transaction: &WriteTransaction, rows: &mut Rows, input: &mut Input<'_>) -> Result<(), Error> {
    let mut table = transaction.open_table(BYTES)?;
    while let Some(operation) = input.byte() {
        match operation % 16 {
            0..5 => {
                let (Some(key), Some(value)) = (input.key(), input.value()) else { break };
                let old = table.insert(&key[..], &value[..])?.map(|old| old.value().to_vec());
                assert_eq!(old, rows.insert(key, value), "insert");
            }
            5..9 => {
                let Some(key) = input.key() else { break };
                let old = table.remove(&key[..])?.map(|old| old.value().to_vec());
                assert_eq!(old, rows.remove(&key), "remove");
            }
            9 => {
                let Some(key) = input.key() else { break };
                let found = table.get(&key[..])?.map(|value| value.value().to_vec());
                assert_eq!(found.as_ref(), rows.get(&key), "get");
            }
            10 | 11 => {
                let (Some(a), Some(b)) = (input.key(), input.key()) else { break };
                compare_range(&table, rows, operation, if a <= b { [a, b] } else { [b, a] })?;
            }
            12 => {
                let first = table.first()?.map(|(key, _)| key.value().to_vec());
                assert_eq!(first.as_ref(), rows.keys().next(), "first");
                let last = table.last()?.map(|(key, _)| key.value().to_vec());
                assert_eq!(last.as_ref(), rows.keys().next_back(), "last");
            }
            13 => {
                // Many neighbours at once, so that nodes split and merge.
                let Some(first) = input.byte() else { break };
                for number in 0..100_u16 {
                    let key = [&[first / 2][..], &(number * 7 % 100).to_be_bytes()].concat();
                    if first & 1 == 0 {
                        table.insert(&key[..], &[first; 30][..])?;
                        rows.insert(key, vec![first; 30]);
                    } else {
                        table.remove(&key[..])?;
                        rows.remove(&key);
                    }
                }
                assert_eq!(table.len()?, rows.len() as u64, "len");
            }
            14 => {
                drop(table);
                assert!(transaction.delete_table(BYTES)?, "the table was open, so it exists");
                rows.clear();
                table = transaction.open_table(BYTES)?;
            }
            _ => break,
        }
    }
    Ok(())
}

fn compare_range(
    table: &Table<'_, &'static [u8], &'static [u8]>,
    rows: &Rows,
    operation: u8,
    [from, to]: [Vec<u8>; 2],
) -> Result<(), Error> {
    let start = if operation & 16 == 0 { Bound::Included(&from[..]) } else { Bound::Excluded(&from[..]) };
    // The map refuses a range that excludes both ends of one key; the end is included then.
    let end = if operation & 32 == 0 || from == to { Bound::Included(&to[..]) } else { Bound::Excluded(&to[..]) };
    let expected = rows.range::<[u8], _>((start, end)).map(|(key, value)| (key.clone(), value.clone()));
    let expected: Vec<_> = if operation & 64 == 0 { expected.collect() } else { expected.rev().collect() };
    let range = table.range::<&[u8]>((start, end))?;
    let own = |row: Result<cowslip::Row<'_, &[u8], &[u8]>, _>| {
        row.map(|(key, value)| (key.value().to_vec(), value.value().to_vec()))
    };
    let found: Result<Vec<_>, cowslip::StorageError> =
        if operation & 64 == 0 { range.map(own).collect() } else { range.rev().map(own).collect() };
    assert_eq!(found?, expected, "range");
    Ok(())
}

/// Requires that a snapshot holds exactly these rows.
fn compare_all(snapshot: &ReadTransaction, rows: &Rows) -> Result<(), Error> {
    let table = snapshot.open_table_or_empty(BYTES)?;
    assert_eq!(table.len()?, rows.len() as u64, "len of a snapshot");
    let mut expected = rows.iter();
    for row in table.iter()? {
        let (key, value) = row?;
        let (expected_key, expected_value) = expected.next().expect("the lengths are equal");
        assert_eq!((key.value(), value.value()), (&expected_key[..], &expected_value[..]), "row of a snapshot");
    }
    Ok(())
}
