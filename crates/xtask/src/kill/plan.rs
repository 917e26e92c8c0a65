//! What each transaction does, to the store and to the model.
//!
//! Invariant: a plan follows from the seed, the lane and the number alone, so whoever knows that a transaction was
//! acknowledged knows what it wrote. A lane changes only tables and keys of its own.

use super::model::{Rows, Tables};
use crate::random::Random;
use cowslip::{Durability, Error, TableDefinition, TableError, WriteTransaction};
use std::ops::Range;

/// Writers that a round may run at once.
pub(super) const LANES: usize = 4;

/// The number of the last committed transaction of each lane.
pub(super) const MARKS: TableDefinition<u64, u64> = TableDefinition::new("mark");

const SHARED: &str = "shared";
const OWN_TABLES: usize = 3;
const KEYS: u32 = 1000;
const MIB: usize = 1 << 20;

/// How a transaction begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beginning {
    Wait,
    Try,
    Timeout,
}

/// How a transaction begins and how its commit is to be made.
#[derive(Debug, Clone, Copy)]
pub(super) struct CommitOptions {
    pub(super) beginning: Beginning,
    pub(super) durability: Durability,
    pub(super) is_two_phase: bool,
    /// The lane goes on, and awaits the outcome later.
    pub(super) is_async: bool,
}

impl CommitOptions {
    /// No crash loses the commit, nor any before it, once it is acknowledged.
    pub(super) fn is_promise(self) -> bool {
        self.durability == Durability::Immediate
    }
}

fn options(random: &mut Random) -> CommitOptions {
    CommitOptions {
        beginning: *random.pick(&[Beginning::Wait, Beginning::Wait, Beginning::Try, Beginning::Timeout]),
        durability: [Durability::Immediate, Durability::Buffered, Durability::None][random.weighted(&[50, 40, 10])],
        is_two_phase: random.chance(60),
        is_async: random.chance(250),
    }
}

/// A table that a lane may change.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    /// All lanes have rows in it, each with keys of its own.
    Shared,
    Own(usize),
}

/// Rows at random keys.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    count: usize,
    removals_per_mille: usize,
    /// By `insert` and `remove`, which return what was there, or by `put` and `delete`, which do not look.
    returns_old: bool,
    fill: u64,
}

/// Rows that ascend without a gap, in place of all that the table had.
#[derive(Debug, Clone)]
pub(super) struct Load {
    count: u32,
    len: usize,
    fill: u64,
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    Batch(Place, Batch),
    Large { place: Place, key: u32, len: usize, fill: u64 },
    Load(Place, Load),
    RemoveRange(Place, Range<u32>),
    Thin { place: Place, multiple: u8 },
    Create(Place),
    Delete(Place),
    Rename { from: Place, to: Place },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Commit,
    Abort,
    /// No transaction of the lane, but compaction, ended after so many steps.
    Compact(u32),
    /// No transaction of the lane, but a sync of all.
    Sync,
}

#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) options: CommitOptions,
    pub(super) steps: Vec<Step>,
    pub(super) ending: Ending,
    /// The lane takes a new snapshot first, and keeps it while it writes on.
    pub(super) takes_snapshot: bool,
}

pub(super) fn rows_in(name: &str) -> TableDefinition<'_, &'static [u8], &'static [u8]> {
    TableDefinition::new(name)
}

/// What all keys of a lane start with.
fn lane_byte(lane: usize) -> u8 {
    u8::try_from(lane).expect("lanes are few")
}

/// The least key of its number.
fn key_start(lane: usize, key: u32) -> Vec<u8> {
    let mut bytes = vec![lane_byte(lane)];
    bytes.extend_from_slice(&key.to_be_bytes());
    bytes
}

fn key_bytes(lane: usize, key: u32) -> Vec<u8> {
    let mut bytes = key_start(lane, key);
    let len = match key {
        key if key.is_multiple_of(53) => 300,
        key if key.is_multiple_of(5) => 40,
        _ => 8,
    };
    bytes.resize(len, 0x6B);
    bytes
}

fn any_len(random: &mut Random) -> usize {
    let most = [40, 300, 6000, 40_000][random.weighted(&[60, 30, 9, 1])];
    random.below(most)
}

impl Place {
    pub(super) fn name(self, lane: usize) -> String {
        match self {
            Self::Shared => SHARED.to_owned(),
            Self::Own(index) => format!("lane-{lane}-{index}"),
        }
    }

    fn any(random: &mut Random) -> Self {
        match random.below(OWN_TABLES + 1) {
            OWN_TABLES => Self::Shared,
            own => Self::Own(own),
        }
    }

    fn any_own(random: &mut Random) -> Self {
        Self::Own(random.below(OWN_TABLES))
    }
}

impl Batch {
    fn any(random: &mut Random, count: usize, removals_per_mille: usize) -> Self {
        Self { count, removals_per_mille, returns_old: random.chance(400), fill: random.next() }
    }

    /// The rows in the order of writing; those without a value are removed.
    fn rows(&self, lane: usize) -> impl Iterator<Item = (Vec<u8>, Option<Vec<u8>>)> {
        let (mut random, removals) = (Random::at(self.fill, 0), self.removals_per_mille);
        (0..self.count).map(move |_| {
            let key = key_bytes(lane, random.below_small(KEYS));
            let value = (!random.chance(removals)).then(|| {
                let len = any_len(&mut random);
                random.bytes(len)
            });
            (key, value)
        })
    }

    fn write(&self, lane: usize, name: &str, tx: &WriteTransaction) -> Result<(), Error> {
        let mut table = tx.open_table(rows_in(name))?;
        for (key, value) in self.rows(lane) {
            match (value, self.returns_old) {
                (Some(value), true) => drop(table.insert(&key[..], &value[..])?),
                (Some(value), false) => table.put(&key[..], &value[..])?,
                (None, true) => drop(table.remove(&key[..])?),
                (None, false) => table.delete(&key[..])?,
            }
        }
        Ok(())
    }
}

impl Load {
    fn any(random: &mut Random) -> Self {
        let fill = random.next();
        if random.chance(120) {
            return Self { count: 4000, len: 4000, fill };
        }
        Self { count: 500 + random.below_small(2500), len: random.between(100, 1500), fill }
    }

    fn rows(&self, lane: usize) -> Rows {
        let mut random = Random::at(self.fill, 1);
        (0..self.count).map(|key| (key_bytes(lane, key), random.bytes(self.len))).collect()
    }
}

impl Step {
    fn any(random: &mut Random) -> Self {
        match random.weighted(&[350, 60, 200, 100, 40, 40, 30, 30, 40, 50, 20]) {
            0 => Self::Batch(Place::any(random), Batch::any(random, 1, 0)),
            1 => Self::Batch(Place::any(random), Batch::any(random, 1, 1000)),
            2 => {
                let most = *random.pick(&[50, 400, 2000]);
                let count = random.between(10, most);
                Self::Batch(Place::any(random), Batch::any(random, count, 100))
            }
            3 => {
                let count = random.between(10, 400);
                Self::Batch(Place::any(random), Batch::any(random, count, 600))
            }
            4 => {
                let start = random.below_small(KEYS);
                Self::RemoveRange(Place::any(random), start..start + 1 + random.below_small(KEYS / 2))
            }
            5 => {
                let multiple = u8::try_from(random.between(2, 5)).expect("a small number");
                Self::Thin { place: Place::any(random), multiple }
            }
            6 => {
                let (key, len) = (KEYS + random.below_small(2), random.between(MIB, 4 * MIB));
                Self::Large { place: Place::Own(2), key, len, fill: random.next() }
            }
            7 => Self::Load(Place::Own(1), Load::any(random)),
            8 => Self::Delete(Place::any_own(random)),
            9 => Self::Rename { from: Place::any_own(random), to: Place::any_own(random) },
            _ => Self::Create(Place::any(random)),
        }
    }

    fn write(&self, lane: usize, tx: &WriteTransaction) -> Result<(), Error> {
        match self {
            Self::Batch(place, batch) => batch.write(lane, &place.name(lane), tx)?,
            Self::Large { place, key, len, fill } => {
                let value = Random::at(*fill, 2).bytes(*len);
                tx.open_table(rows_in(&place.name(lane)))?.put(&key_bytes(lane, *key)[..], &value[..])?;
            }
            Self::Load(place, load) => {
                let (name, rows) = (place.name(lane), load.rows(lane));
                tx.delete_table(rows_in(&name))?;
                let mut table = tx.open_table(rows_in(&name))?;
                table.bulk_load(rows.iter().map(|(key, value)| (&key[..], &value[..])))?;
            }
            Self::RemoveRange(place, keys) => {
                let (start, end) = (key_start(lane, keys.start), key_start(lane, keys.end));
                tx.open_table(rows_in(&place.name(lane)))?.remove_range(&start[..]..&end[..])?;
            }
            Self::Thin { place, multiple } => {
                let (start, end) = (key_start(lane, 0), key_start(lane + 1, 0));
                let mut table = tx.open_table(rows_in(&place.name(lane)))?;
                table.retain_in(&start[..]..&end[..], |key, _| stays(key, *multiple))?;
            }
            Self::Create(place) => drop(tx.open_table(rows_in(&place.name(lane)))?),
            Self::Delete(place) => drop(tx.delete_table(rows_in(&place.name(lane)))?),
            Self::Rename { from, to } => match tx.rename_table(rows_in(&from.name(lane)), rows_in(&to.name(lane))) {
                Ok(()) | Err(TableError::DoesNotExist(_) | TableError::Exists(_)) => {}
                Err(error) => return Err(error.into()),
            },
        }
        Ok(())
    }

    fn model(&self, lane: usize, tables: &mut Tables) {
        match self {
            Self::Batch(place, batch) => {
                let table = tables.entry(place.name(lane)).or_default();
                for (key, value) in batch.rows(lane) {
                    match value {
                        Some(value) => drop(table.insert(key, value)),
                        None => drop(table.remove(&key)),
                    }
                }
            }
            Self::Large { place, key, len, fill } => {
                let value = Random::at(*fill, 2).bytes(*len);
                tables.entry(place.name(lane)).or_default().insert(key_bytes(lane, *key), value);
            }
            Self::Load(place, load) => drop(tables.insert(place.name(lane), load.rows(lane))),
            Self::RemoveRange(place, keys) => {
                let range = key_start(lane, keys.start)..key_start(lane, keys.end);
                tables.entry(place.name(lane)).or_default().retain(|key, _| !range.contains(key));
            }
            Self::Thin { place, multiple } => {
                tables.entry(place.name(lane)).or_default().retain(|key, _| stays(key, *multiple));
            }
            Self::Create(place) => drop(tables.entry(place.name(lane)).or_default()),
            Self::Delete(place) => drop(tables.remove(&place.name(lane))),
            Self::Rename { from, to } => {
                let (from, to) = (from.name(lane), to.name(lane));
                if !tables.contains_key(&to)
                    && let Some(rows) = tables.remove(&from)
                {
                    tables.insert(to, rows);
                }
            }
        }
    }
}

/// What thinning asks about a key: the last byte of its number.
fn stays(key: &[u8], multiple: u8) -> bool {
    !key[4].is_multiple_of(multiple)
}

impl Plan {
    pub(super) fn at(seed: u64, lane: usize, number: u64) -> Self {
        let mut random = Random::at(seed.wrapping_add(lane as u64), number);
        let options = options(&mut random);
        let ending = match random.weighted(&[800, 70, 100, 30]) {
            0 => Ending::Commit,
            1 => Ending::Abort,
            2 => Ending::Sync,
            _ => Ending::Compact(1 + random.below_small(40)),
        };
        let takes_snapshot = random.chance(50);
        let count = if random.chance(850) { 1 } else { random.between(2, 6) };
        let steps = (0..count).map(|_| Step::any(&mut random)).collect();
        Self { options, steps, ending, takes_snapshot }
    }

    /// Makes the changes in the transaction, and leaves the mark by which it is known to be there.
    pub(super) fn write(&self, lane: usize, number: u64, tx: &WriteTransaction) -> Result<(), Error> {
        self.steps.iter().try_for_each(|step| step.write(lane, tx))?;
        tx.open_table(MARKS)?.insert(lane as u64, number)?;
        Ok(())
    }

    /// Makes the same changes in the tables of a lane.
    pub(super) fn model(&self, lane: usize, tables: &mut Tables) {
        self.steps.iter().for_each(|step| step.model(lane, tables));
    }
}
