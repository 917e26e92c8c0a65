//! Target `operations`: whatever the operations are, the store answers as an ordered map does.
//!
//! The input is read as a sequence of operations with their arguments; it ends where the bytes do. A transaction may run
//! on a disk that fails once, is full, or loses power; after that the last acknowledged commit is there, or the one that
//! was in doubt.

use super::sample::{BYTES, builder};
use super::trouble::{self, Trouble};
use cowslip::sim::SimDisk;
use cowslip::{CommitError, Database, Error, ReadTransaction, StorageError, Table, TransactionError, WriteTransaction};
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

/// What happened to one input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Commits that were acknowledged.
    pub commits: u32,
    /// Transactions that a fault ended before anything was committed.
    pub failed: u32,
    /// Commits in doubt that were found after reopening.
    pub doubtful_kept: u32,
    /// Commits in doubt that were not found.
    pub doubtful_lost: u32,
    /// Power cuts inside a transaction or commit.
    pub power_cuts: u32,
    /// How often the database was opened again.
    pub reopened: u32,
}

/// Runs one input.
///
/// # Panics
/// Where the store answers otherwise than the model, or fails although nothing is wrong with its storage.
pub fn run(data: &[u8]) -> Outcome {
    let input = Input(&data[..data.len().min(INPUT_BYTES_MAX)]);
    Session::new().and_then(|session| session.run(input)).expect("a healthy storage never fails")
}

/// A database and the models of its newest commit.
struct Session {
    disk: SimDisk,
    database: Option<Database>,
    committed: Rows,
    outcome: Outcome,
}

impl Session {
    fn new() -> Result<Self, Error> {
        let disk = SimDisk::new();
        disk.keep_history(false);
        let database = Some(builder().create_with_storage(disk.clone())?);
        Ok(Self { disk, database, committed: Rows::new(), outcome: Outcome::default() })
    }

    fn database(&self) -> &Database {
        self.database.as_ref().expect("open between transactions")
    }

    fn run(mut self, mut input: Input<'_>) -> Result<Outcome, Error> {
        while let Some(how) = input.byte() {
            let trouble = Trouble::new(how, || input.byte());
            if trouble.needs_cold_cache() {
                self.reopen(true)?;
            }
            let snapshot = self.database().begin_read()?;
            let before = self.committed.clone();
            let doubtful = self.transact(how, trouble, &mut input)?;
            if trouble.is_planned() {
                let readable = (!trouble.cuts_power()).then_some((&snapshot, &before));
                if let Some((snapshot, before)) = readable {
                    compare_all(snapshot, before)?;
                }
                drop(snapshot);
                self.recover(how, trouble, doubtful)?;
                continue;
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
        Ok(self.outcome)
    }

    /// Runs one transaction; answers the rows of a commit that may or may not have been kept.
    fn transact(&mut self, how: u8, trouble: Trouble, input: &mut Input<'_>) -> Result<Option<Rows>, Error> {
        let commits = how & 1 == 0;
        let mut transaction = self.database().begin_write()?;
        transaction.set_two_phase_commit(how / 2 % 8 == 3);
        let mut rows = self.committed.clone();
        trouble.arm(&self.disk, true);
        let changed = change(&transaction, &mut rows, input);
        trouble.arm(&self.disk, false);
        let ended = match changed {
            Ok(()) if commits => transaction.commit().map(|_| true).map_err(Error::from),
            Ok(()) => transaction.abort().map(|()| false).map_err(Error::from),
            Err(error) => {
                drop(transaction);
                Err(error)
            }
        };
        self.disk.clear_faults();
        self.disk.set_capacity_bytes(u64::MAX);
        match ended {
            Ok(true) => {
                self.committed = rows;
                self.outcome.commits += 1;
                Ok(None)
            }
            Ok(false) => Ok(None),
            Err(error) if !trouble.is_planned() => Err(error),
            Err(Error::Commit(CommitError::InDoubt(_))) => Ok(Some(rows)),
            Err(Error::Commit(CommitError::Aborted(_) | CommitError::Poisoned)) => {
                self.outcome.failed += 1;
                Ok(None)
            }
            Err(error) if trouble::is_excused(&error) => {
                self.outcome.failed += 1;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Goes on after a fault: reopens where the database writes no more, and finds the last commit or the doubtful one.
    fn recover(&mut self, how: u8, trouble: Trouble, doubtful: Option<Rows>) -> Result<(), Error> {
        if trouble.cuts_power() {
            self.outcome.power_cuts += 1;
            let found = trouble.found(&self.disk);
            drop(self.database.take());
            self.disk = found;
            self.open()?;
        } else if let Err(error) = self.database().begin_write() {
            if !matches!(error, TransactionError::Storage(StorageError::Poisoned)) {
                return Err(error.into());
            }
            match how / 2 % 4 {
                0 => self.reopen(true)?,
                1 => self.reopen(false)?,
                2 => {
                    drop(self.database.take());
                    self.open()?;
                }
                _ => {
                    let found = trouble.found(&self.disk);
                    drop(self.database.take());
                    self.disk = found;
                    self.open()?;
                }
            }
        } else {
            assert!(doubtful.is_none(), "a database goes on writing after a commit in doubt");
        }
        if let Some(rows) = doubtful {
            if read(&self.database().begin_read()?)? == rows {
                self.committed = rows;
                self.outcome.doubtful_kept += 1;
            } else {
                self.outcome.doubtful_lost += 1;
            }
        }
        compare_all(&self.database().begin_read()?, &self.committed)?;
        self.database().check_integrity()?;
        Ok(())
    }

    fn open(&mut self) -> Result<(), Error> {
        self.outcome.reopened += 1;
        // Without a cache every read goes to the disk; with a small one, pages come and go.
        let cache_bytes = [1 << 20, 0, 16 << 10][self.outcome.reopened as usize % 3];
        self.database = Some(builder().cache_bytes_max(cache_bytes).open_with_storage(self.disk.clone())?);
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
        self.open()
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

/// Every row of a snapshot.
fn read(snapshot: &ReadTransaction) -> Result<Rows, Error> {
    let table = snapshot.open_table_or_empty(BYTES)?;
    let rows = table.iter()?.map(|row| row.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())));
    Ok(rows.collect::<Result<_, _>>()?)
}
