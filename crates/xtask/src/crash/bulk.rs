//! Changes of many rows at once: buffered ones, and those that one pass over the leaves makes.
//!
//! Invariant: whatever a verb returns is what the state says that it must return; anything else panics.

use super::state::{Rows, State, definition, key_bytes, table_name, value_bytes};
use crate::random::Random;
use cowslip::{Error, Table, WriteTransaction};
use std::ops::Range;
use std::sync::Arc;

type Bytes = &'static [u8];

/// Buffered changes of some of so many keys, in ascending order or in any.
#[derive(Debug, Clone)]
pub(super) struct Burst {
    pub(super) keys: u32,
    pub(super) count: u32,
    pub(super) len_max: u64,
    pub(super) is_ascending: bool,
    pub(super) fill: u64,
}

/// One verb on one table.
#[derive(Debug, Clone)]
pub(super) enum Bulk {
    Burst(Burst),
    /// Removes every row whose number in key order is a multiple.
    Retain {
        multiple: usize,
    },
    RemoveRange {
        keys: Range<u32>,
    },
    /// Takes rows from one end.
    Pop {
        first: bool,
        count: usize,
    },
    /// Picks rows by their keys and takes some of them, in turns from both ends or only from the front.
    Extract {
        multiple: u32,
        taken: usize,
        from_both_ends: bool,
    },
}

/// Any verb on rows with so many keys.
pub(super) fn any_bulk(random: &mut Random, keys: u32, len_max: u64) -> Bulk {
    match random.below(8) {
        0 => Bulk::Retain { multiple: 1 + random.below(5) },
        1 => {
            let from = random.below_small(keys);
            Bulk::RemoveRange { keys: from..from + 1 + random.below_small(keys) / 2 }
        }
        2 => Bulk::Pop { first: random.below(2) == 0, count: 1 + random.below(20) },
        3 => {
            let (multiple, taken) = (1 + random.below_small(4), random.below(30));
            Bulk::Extract { multiple, taken, from_both_ends: random.below(2) == 0 }
        }
        _ => {
            let (count, is_ascending) = (20 + random.below_small(150), random.below(3) == 0);
            Bulk::Burst(Burst { keys, count, len_max, is_ascending, fill: random.next() })
        }
    }
}

impl State {
    /// Runs a verb here and in the transaction.
    pub(super) fn change_many(&mut self, tx: &WriteTransaction, table: u32, bulk: &Bulk) -> Result<(), Error> {
        let name = table_name(table);
        let mut open = tx.open_table(definition(&name))?;
        let rows = Arc::make_mut(self.tables.entry(name.clone()).or_default());
        match bulk {
            Bulk::Burst(burst) => burst.run(&mut open, rows),
            Bulk::Retain { multiple } => {
                let gone: Vec<_> = rows.keys().step_by(*multiple).cloned().collect();
                let mut number = 0;
                let removed = open.retain(|_, _| {
                    number += 1;
                    (number - 1) % multiple != 0
                })?;
                assert_eq!(removed, gone.len() as u64);
                gone.iter().for_each(|key| drop(rows.remove(key)));
                Ok(())
            }
            Bulk::RemoveRange { keys } => {
                let (start, end) = (keys.start.to_be_bytes(), keys.end.to_be_bytes());
                let gone: Vec<_> = rows.range(start.to_vec()..end.to_vec()).map(|(key, _)| key.clone()).collect();
                assert_eq!(open.remove_range::<&[u8]>(&start[..]..&end[..])?, gone.len() as u64);
                gone.iter().for_each(|key| drop(rows.remove(key)));
                Ok(())
            }
            Bulk::Pop { first, count } => (0..*count).try_for_each(|_| {
                let popped = if *first { open.pop_first() } else { open.pop_last() }?;
                let popped = popped.map(|(key, value)| (key.value().to_vec(), value.value().to_vec()));
                assert_eq!(popped, if *first { rows.pop_first() } else { rows.pop_last() });
                Ok(())
            }),
            Bulk::Extract { multiple, taken, from_both_ends } => {
                extract(&mut open, rows, *multiple, *taken, *from_both_ends)
            }
        }
    }
}

impl Burst {
    fn run(&self, open: &mut Table<'_, Bytes, Bytes>, rows: &mut Rows) -> Result<(), Error> {
        let mut random = Random::at(self.fill, u64::from(self.count));
        let stride = (self.keys / self.count).max(1);
        for number in 0..self.count {
            let key = key_bytes(if self.is_ascending { number * stride } else { random.below_small(self.keys) });
            if random.below(4) == 0 {
                open.delete(&key[..])?;
                rows.remove(&key);
            } else {
                let len = usize::try_from(random.below_wide(self.len_max + 1)).expect("values are small");
                let value = value_bytes(len, random.next());
                open.put(&key[..], &value[..])?;
                rows.insert(key, value);
            }
        }
        Ok(())
    }
}

fn extract(
    open: &mut Table<'_, Bytes, Bytes>,
    rows: &mut Rows,
    multiple: u32,
    taken: usize,
    from_both_ends: bool,
) -> Result<(), Error> {
    let is_picked = |key: &[u8]| key.first_chunk().is_some_and(|key| u32::from_be_bytes(*key).is_multiple_of(multiple));
    let mut picked: std::collections::VecDeque<_> = rows.keys().filter(|key| is_picked(key)).cloned().collect();
    let mut extracted = open.extract_if(|key, _| is_picked(key))?;
    for step in 0..taken {
        let is_back = from_both_ends && step % 2 == 1;
        let found = if is_back { extracted.next_back() } else { extracted.next() };
        let found = found.transpose()?.map(|(key, value)| (key.value().to_vec(), value.value().to_vec()));
        let expected = if is_back { picked.pop_back() } else { picked.pop_front() };
        assert_eq!(found, expected.and_then(|key| rows.remove_entry(&key)));
    }
    Ok(())
}
