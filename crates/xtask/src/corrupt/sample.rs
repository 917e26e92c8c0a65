//! The databases that are damaged: small, with tables of many types and every kind of structure, and what they hold.

use super::bytes::Bytes;
use crate::Result;
use cowslip::{
    Builder, Clock, Database, DecodeError, Desc, Error, Key, Newtype, ReadTransaction, TableDefinition, Value,
    WriteTransaction,
};
use std::collections::BTreeMap;

/// Bytes of an allocation unit.
pub(super) const UNIT_BYTES: usize = 512;
/// Bytes of a node.
pub(super) const NODE_BYTES: usize = 1024;
/// Units of a region.
pub(super) const REGION_UNITS: usize = 32;
/// Memory that an open database may take for pages.
pub(super) const CACHE_BYTES: usize = 256 << 10;

/// Encoded keys and values of one table, in key order.
pub(super) type Rows = Vec<(Vec<u8>, Vec<u8>)>;
/// The rows of every table.
pub(super) type State = BTreeMap<String, Rows>;

/// A database file and what it may be read as.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) name: &'static str,
    pub(super) image: Vec<u8>,
    /// The newest commit.
    pub(super) newest: State,
    /// The commit before, where its session did not close: a damaged slot may be stepped back over.
    pub(super) older: Option<State>,
    /// What the slot holds, where the newest commit is the last record of its log: damage there is as if it had been torn.
    pub(super) unrecorded: Option<State>,
}

/// Time stands still, so that every run makes the same bytes.
#[derive(Debug)]
struct StoppedClock;

impl Clock for StoppedClock {
    fn now_micros(&self) -> u64 {
        1_000_000
    }
}

/// Options for files with the geometry of the samples.
pub(super) fn builder() -> Builder {
    let [unit, node, region] =
        [UNIT_BYTES, NODE_BYTES, REGION_UNITS].map(|size| u32::try_from(size).unwrap_or(u32::MAX));
    let builder = Builder::new().test_geometry(unit, node, region).test_identity([0xC5; 16]);
    builder.cache_bytes_max(CACHE_BYTES).clock(StoppedClock)
}

/// A newtype around an option.
#[derive(Debug, PartialEq)]
pub(super) struct Grade(Option<char>);

impl Newtype for Grade {
    type Stored = Option<char>;
    const NAME: &'static str = "xtask.Grade";

    fn as_stored(&self) -> &Option<char> {
        &self.0
    }

    fn from_stored(stored: Option<char>) -> std::result::Result<Self, DecodeError> {
        if stored == Some('?') { Err(DecodeError::new("no grade")) } else { Ok(Self(stored)) }
    }
}

/// Types of a table, by which it can be read.
pub(super) trait Typed: Sync {
    fn name(&self) -> &'static str;
    /// All rows through the typed interface; with errors where the stored bytes are no such keys and values.
    fn read(&self, snapshot: &ReadTransaction) -> std::result::Result<Rows, Error>;
}

struct Table<K: Key + 'static, V: Value + 'static>(TableDefinition<'static, K, V>);

impl<K: Key + 'static, V: Value + 'static> Typed for Table<K, V> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn read(&self, snapshot: &ReadTransaction) -> std::result::Result<Rows, Error> {
        let table = snapshot.open_table(self.0)?;
        let mut rows = Rows::new();
        for row in table.iter()? {
            let (key, value) = row?;
            let (key, value) = (key.value(), value.value());
            let mut encoded = Vec::new();
            K::encode_key(&key, &mut encoded);
            rows.push((encoded, V::as_bytes(&value).as_ref().to_vec()));
        }
        Ok(rows)
    }
}

pub(super) const NUMBERS: TableDefinition<u64, &[u8]> = TableDefinition::new("numbers");
const NAMES: TableDefinition<&str, u64> = TableDefinition::new("names");
const PAIRS: TableDefinition<(&str, u32), (Option<i64>, String)> = TableDefinition::new("pairs");
const FLAGS: TableDefinition<u16, bool> = TableDefinition::new("flags");
const LISTS: TableDefinition<Desc<u32>, Vec<String>> = TableDefinition::new("lists");
const FLOATS: TableDefinition<f64, [u16; 3]> = TableDefinition::new("floats");
const GRADES: TableDefinition<[u8; 4], Grade> = TableDefinition::new("grades");
const UNITS: TableDefinition<(), String> = TableDefinition::new("units");
const EMPTY: TableDefinition<char, ()> = TableDefinition::new("empty");

/// Every table with its types.
pub(super) static TABLES: &[&dyn Typed] = &[
    &Table(NUMBERS),
    &Table(NAMES),
    &Table(PAIRS),
    &Table(FLAGS),
    &Table(LISTS),
    &Table(FLOATS),
    &Table(GRADES),
    &Table(UNITS),
    &Table(EMPTY),
];

fn fill(round: u32, tx: &WriteTransaction) -> std::result::Result<(), Error> {
    let mut numbers = tx.open_table(NUMBERS)?;
    for row in u64::from(round) * 9..u64::from(round) * 9 + 22 {
        let len = match row % 13 {
            5 => 700,
            11 => 300,
            _ => usize::try_from(row % 30).unwrap_or(0),
        };
        numbers.insert(row * 3, &vec![row.to_le_bytes()[0] ^ 0x55; len][..])?;
    }
    numbers.remove(u64::from(round) * 12)?;
    // Longer than a run can be, so a list of runs.
    if round != 2 {
        numbers.insert(1_000_000, &vec![0xA0 + round.to_le_bytes()[0]; 8_700][..])?;
    }
    let mut names = tx.open_table(NAMES)?;
    for row in 0..14 {
        let long = "a name that no node keeps whole ".repeat(if row % 5 == 2 { 4 } else { 0 });
        names.insert(format!("{long}{:02}", (row * 7 + round) % 40).as_str(), u64::from(row + round))?;
    }
    let mut pairs = tx.open_table(PAIRS)?;
    for row in 0..9 {
        let word = ["north", "south", "", "a\0b"][row as usize % 4];
        let maybe = (row % 3 == 0).then_some(i64::from(row) - 7 * i64::from(round));
        pairs.insert((word, row), (maybe, "x".repeat(row as usize)))?;
    }
    let mut flags = tx.open_table(FLAGS)?;
    for row in 0..90_u16 {
        flags.insert(row * 5, u32::from(row) % 3 == round % 3)?;
    }
    let mut lists = tx.open_table(LISTS)?;
    for row in 0..10 {
        lists.insert(Desc(row * 1000), vec!["item".to_owned(); (row + round) as usize % 4])?;
    }
    let mut floats = tx.open_table(FLOATS)?;
    for row in [-1.5, -0.0, 0.0, 2.5, f64::INFINITY, f64::NAN] {
        floats.insert(row, [1, 2, round.to_le_bytes()[0].into()])?;
    }
    let mut grades = tx.open_table(GRADES)?;
    for row in 0..7_u8 {
        grades.insert([row, 0, row, 9], Grade((row % 2 == 0).then_some('A')))?;
    }
    tx.open_table(UNITS)?.insert((), format!("round {round}"))?;
    drop(tx.open_table(EMPTY)?);
    Ok(())
}

/// Reads every row of every table as bytes.
pub(super) fn read_state(snapshot: &ReadTransaction) -> std::result::Result<State, Error> {
    let mut state = State::new();
    for handle in snapshot.list_tables()? {
        let name = cowslip::TableHandle::name(&handle).to_owned();
        let mut rows = Rows::new();
        for row in snapshot.open_untyped_table(&name)?.iter()? {
            let (key, value) = row?;
            rows.push((key.value().to_vec(), value.value().to_vec()));
        }
        state.insert(name, rows);
    }
    Ok(state)
}

/// Makes the samples: one of a process that was killed, one closed cleanly afterwards.
pub(super) fn samples() -> Result<Vec<Sample>> {
    let disk = Bytes::default();
    let database = builder().create_with_storage(disk.clone())?;
    let commit = |database: &Database, round: u32| -> Result<State> {
        let mut tx = database.begin_write()?;
        // No record tells of the last round but one.
        tx.set_two_phase_commit(round == 2);
        fill(round, &tx)?;
        tx.commit()?;
        Ok(read_state(&database.begin_read()?)?)
    };
    commit(&database, 0)?;
    let older = commit(&database, 1)?;
    let before = commit(&database, 2)?;
    let killed = disk.copy();
    database.update(|tx| tx.open_table(NUMBERS)?.insert(3, &[3; 30][..]).map(drop).map_err(Error::from))?;
    let recorded = read_state(&database.begin_read()?)?;
    let logged = disk.copy();
    database.check_integrity()?;
    // The handle that goes on is that of another process.
    drop(database);
    let disk = Bytes::from(killed.clone());
    let database = builder().open_with_storage(disk.clone())?;
    let newest = commit(&database, 3)?;
    database.close()?;
    let closed = disk.copy();
    Ok(vec![
        Sample { name: "closed", image: closed, newest, older: None, unrecorded: None },
        Sample { name: "killed", image: killed, newest: before.clone(), older: Some(older.clone()), unrecorded: None },
        Sample { name: "logged", image: logged, newest: recorded, older: Some(older), unrecorded: Some(before) },
    ])
}
