//! Uses a file in every way that an application can, and tells how far each of them came.
//!
//! Invariant: an error is an answer; a panic is not.

use super::sample::{BYTES, NUMBERS, PAIRS, State, open, read_all};
use cowslip::sim::SimDisk;
use cowslip::{Database, Error, ReadTransaction, StorageError, TableDefinition, TableHandle};

/// How far one kind of use came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It was not tried, because an earlier one failed.
    #[default]
    NotTried,
    /// A checksum stopped it: nothing behind was reached.
    Checksum,
    /// What stands behind the checksums refused.
    Refused,
    /// It came to its end.
    Done,
}

/// How far the uses of one file came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    /// Opening.
    pub opened: Stage,
    /// Reading every row of every table.
    pub read: Stage,
    /// The rows, where all were read.
    pub rows: Option<State>,
    /// Lookups and ranges by key.
    pub searched: Stage,
    /// The full verification.
    pub checked: Stage,
    /// Changing rows everywhere and committing.
    pub changed: Stage,
    /// The full verification after that.
    pub checked_again: Stage,
    /// What the first refusal said.
    pub reason: String,
}

impl Reach {
    fn note<T, E: Into<Error>>(&mut self, result: Result<T, E>) -> (Stage, Option<T>) {
        match result {
            Ok(value) => (Stage::Done, Some(value)),
            Err(error) => {
                let reason = error.into().to_string();
                let by_checksum = reason.contains("checksum does not match") || reason.contains("digest");
                if self.reason.is_empty() {
                    self.reason = reason;
                }
                (if by_checksum { Stage::Checksum } else { Stage::Refused }, None)
            }
        }
    }
}

/// Uses the file with these bytes.
#[must_use]
pub fn run(bytes: &[u8], read_only: bool) -> Reach {
    let mut reach = Reach::default();
    let disk = SimDisk::from_bytes(bytes);
    disk.keep_history(false);
    let (opened, database) = reach.note(open(disk.clone(), read_only));
    reach.opened = opened;
    let Some(database) = database else { return reach };
    let (read, rows) = reach.note(read_state(&database));
    (reach.read, reach.rows) = (read, rows);
    let searched = search(&database);
    reach.searched = reach.note(searched).0;
    let quick = database.check_quick();
    let checked = database.check_integrity();
    reach.note(quick);
    reach.checked = reach.note(checked).0;
    if read_only {
        return reach;
    }
    let changed = change(&database);
    reach.changed = reach.note(changed).0;
    let checked = database.check_integrity();
    reach.checked_again = reach.note(checked).0;
    let rows = read_state(&database);
    drop(database.close());
    // What was changed is read back through another handle; where the file contradicts itself, it may be refused.
    if let (Ok(rows), Stage::Done, Stage::Done) = (rows, reach.changed, reach.checked_again) {
        let again = open(disk, true).and_then(|database| read_state(&database));
        assert_eq!(again.expect("a database that passed the full check can be read again"), rows);
    }
    reach
}

fn read_state(database: &Database) -> Result<State, Error> {
    read_all(&database.begin_read()?)
}

/// Looks up keys that are there and keys around them, and reads ranges from both ends.
fn search(database: &Database) -> Result<(), Error> {
    let snapshot = database.begin_read()?;
    let results = [search_numbers(&snapshot), search_bytes(&snapshot)];
    results.into_iter().collect()
}

fn search_numbers(snapshot: &ReadTransaction) -> Result<(), Error> {
    let names: Vec<_> = snapshot.list_tables()?.map(|table| table.name().to_owned()).collect();
    let mut numbered = [NUMBERS, PAIRS].into_iter().filter(|table| names.iter().any(|name| name == table.name()));
    numbered.try_for_each(|table| search_table(snapshot, table))
}

fn search_table(snapshot: &ReadTransaction, table: TableDefinition<u64, &[u8]>) -> Result<(), Error> {
    let table = snapshot.open_table(table)?;
    // Each lookup goes another way, so a failed one does not stop the others; the first failure is told.
    let mut found = Ok(());
    for number in (0..70).map(|number| number * 997) {
        let row = table.get(number).map(|value| value.map_or(0, |value| value.value().len())).map(drop);
        let next = table.range(number..).and_then(|mut range| range.next().transpose()).map(drop);
        let last = table.range(..=number).and_then(|mut range| range.next_back().transpose()).map(drop);
        found = found.and(row).and(next).and(last);
    }
    Ok(found.and(table.first().map(drop)).and(table.last().map(drop))?)
}

fn search_bytes(snapshot: &ReadTransaction) -> Result<(), Error> {
    let table = snapshot.open_table(BYTES)?;
    let mut keys: Vec<Vec<u8>> = vec![Vec::new(), b"key-".to_vec(), vec![0xff; 300]];
    let mut found: Result<(), StorageError> = Ok(());
    // From both ends to the middle, where the iterator must notice that they meet.
    let mut range = table.iter()?;
    while let Some(row) = range.next() {
        let front = row.map(|(key, _)| keys.push(key.value().to_vec()));
        let back = range.next_back().transpose().map(|row| {
            keys.extend(row.map(|(key, _)| key.value().to_vec()));
        });
        found = found.and(front).and(back);
    }
    for key in &keys {
        found = found.and(table.get(&key[..]).map(drop));
        let longer = [&key[..], b"\0"].concat();
        found =
            found.and(table.range(&key[..]..&longer[..]).and_then(|mut range| range.try_for_each(|row| row.map(drop))));
        found = found.and(table.prefix(&key[..key.len() / 2]).map(drop));
    }
    Ok(found?)
}

/// Changes rows all over a table, so that most of its nodes are copied, split or merged, and runs come and go.
pub fn change(database: &Database) -> Result<(), Error> {
    database.repair_header()?;
    database.update(|tx| {
        let mut numbers = tx.open_table(NUMBERS)?;
        for number in 0..60 {
            numbers.insert(number * 997, &[3; 60][..])?;
            numbers.remove(number * 1000)?;
        }
        drop(numbers);
        let mut bytes = tx.open_table(BYTES)?;
        for number in 0..8_u8 {
            bytes.insert(&[number; 100][..], &vec![number; usize::from(number) * 300][..])?;
            bytes.remove(&[&b"key-"[..], &[0, number, number, number, number]].concat()[..])?;
        }
        if tx.list_tables()?.any(|table| table.name() == PAIRS.name()) {
            let mut pairs = tx.open_table(PAIRS)?;
            for number in 0..60 {
                pairs.insert(number * 1991, &number.to_le_bytes()[..])?;
                pairs.remove(number * 1994)?;
            }
            pairs.insert(3, &b"of another length"[..])?;
        }
        Ok(())
    })
}
