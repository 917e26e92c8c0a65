//! What must be in the file, as the parent keeps it, and the comparison with what is.
//!
//! Invariant: a transaction is in the model if it was acknowledged, or was found in the file once and must stay there.

use super::account::Account;
use super::plan::{Ending, LANES, MARKS, Plan, rows_in};
use cowslip::{Error, ReadTransaction, TableHandle};
use std::collections::BTreeMap;

pub(super) type Rows = BTreeMap<Vec<u8>, Vec<u8>>;
pub(super) type Tables = BTreeMap<String, Rows>;

/// Number of the last transaction of each lane.
pub(super) type Marks = [Option<u64>; LANES];

/// What must not be.
#[derive(Debug)]
pub(crate) enum Violation {
    /// An acknowledged commit is not in the file.
    Lost(String),
    /// Anything else.
    Wrong(String),
}

impl Violation {
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Lost(text) | Self::Wrong(text) => text,
        }
    }
}

impl From<Error> for Violation {
    fn from(error: Error) -> Self {
        Self::Wrong(format!("reading: {error}"))
    }
}

/// What became of the transactions that were begun and not acknowledged.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) present: u64,
    pub(super) absent: u64,
}

/// The tables that each lane made.
#[derive(Debug, Default, Clone)]
pub(super) struct Model {
    lanes: [Tables; LANES],
    marks: Marks,
}

/// The last transaction of each lane that a snapshot shows.
pub(super) fn marks_of(tx: &ReadTransaction) -> Result<Marks, Error> {
    let (table, mut marks) = (tx.open_table_or_empty(MARKS)?, [None; LANES]);
    for (lane, mark) in marks.iter_mut().enumerate() {
        *mark = table.get(lane as u64)?.map(|row| row.value());
    }
    Ok(marks)
}

impl Model {
    fn apply(&mut self, plan: &Plan, lane: usize, number: u64) {
        plan.model(lane, &mut self.lanes[lane]);
        self.marks[lane] = Some(number);
    }

    pub(super) fn marks(&self) -> Marks {
        self.marks
    }

    /// Takes over what a child told before it died, and of what it was about to commit what the marks show.
    pub(super) fn settle(&mut self, seed: u64, account: &Account, marks: &Marks) -> Result<Settled, Violation> {
        let mut settled = Settled::default();
        for (lane, told) in account.lanes.iter().enumerate() {
            for number in &told.acked {
                self.apply(&Plan::at(seed, lane, *number), lane, *number);
            }
            let (expected, found) = (self.marks[lane], marks[lane]);
            let pending = told.pending.map(|pending| (pending, Plan::at(seed, lane, pending.number)));
            match pending {
                Some((pending, plan)) if found == Some(pending.number) => {
                    if !pending.committing || plan.ending != Ending::Commit {
                        let text = format!("lane {lane}: transaction {found:?} is there and was never committed");
                        return Err(Violation::Wrong(text));
                    }
                    self.apply(&plan, lane, pending.number);
                    settled.present += 1;
                }
                pending if found == expected => settled.absent += u64::from(pending.is_some()),
                _ => {
                    let text = format!("lane {lane}: the last transaction is {found:?}, acknowledged was {expected:?}");
                    return Err(if found < expected { Violation::Lost(text) } else { Violation::Wrong(text) });
                }
            }
        }
        Ok(settled)
    }

    /// Requires that a snapshot shows exactly what is in the model.
    pub(super) fn compare(&self, tx: &ReadTransaction) -> Result<(), Violation> {
        let marks = marks_of(tx)?;
        if marks != self.marks {
            return Err(Violation::Wrong(format!("the marks are {marks:?}, not {:?}", self.marks)));
        }
        // Keys begin with their lane, so the rows of a table that lanes share follow each other.
        let mut expected: BTreeMap<&str, Vec<&Rows>> = BTreeMap::new();
        for (name, rows) in self.lanes.iter().flatten() {
            expected.entry(name).or_default().push(rows);
        }
        let names: Vec<String> =
            tx.list_tables().map_err(Error::from)?.map(|handle| handle.name().to_owned()).collect();
        let mut wanted: Vec<&str> = expected.keys().copied().collect();
        if marks.iter().any(Option::is_some) {
            wanted.push(MARKS.name());
            wanted.sort_unstable();
        }
        if names != wanted {
            return Err(Violation::Wrong(format!("the tables are {names:?}, not {wanted:?}")));
        }
        expected.iter().try_for_each(|(name, parts)| compare_rows(tx, name, parts))
    }
}

fn compare_rows(tx: &ReadTransaction, name: &str, parts: &[&Rows]) -> Result<(), Violation> {
    let table = tx.open_table(rows_in(name)).map_err(Error::from)?;
    let (len, wanted_len) =
        (table.len().map_err(Error::from)?, parts.iter().map(|rows| rows.len() as u64).sum::<u64>());
    let mut wanted = parts.iter().flat_map(|rows| rows.iter());
    for row in table.iter().map_err(Error::from)? {
        let (key, value) = row.map_err(Error::from)?;
        let row = wanted.next();
        if row.is_none_or(|row| (&row.0[..], &row.1[..]) != (key.value(), value.value())) {
            let (key, len) = (key.value(), value.value().len());
            let key = &key[..key.len().min(5)];
            let wanted = row.map(|(key, value)| (&key[..5], value.len()));
            return Err(Violation::Wrong(format!("{name}: row {key:?}.. of {len} bytes, expected {wanted:?}")));
        }
    }
    match wanted.next() {
        Some((key, _)) => Err(Violation::Wrong(format!("{name}: row {:?}.. is not there", &key[..5]))),
        None if len != wanted_len => Err(Violation::Wrong(format!("{name}: counts {len} rows and has {wanted_len}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::account::{LaneAccount, Pending};
    use super::*;
    use cowslip::Database;

    const SEED: u64 = 11;

    /// Runs the first transactions of a lane and says which were committed.
    fn run(database: &Database, lane: usize, count: u64) -> Vec<u64> {
        let numbers = (0..count).filter(|number| {
            let plan = Plan::at(SEED, lane, *number);
            let tx = database.begin_write().unwrap();
            plan.write(lane, *number, &tx).unwrap();
            let commits = plan.ending == Ending::Commit;
            if commits {
                tx.commit().unwrap();
            }
            commits
        });
        numbers.collect()
    }

    fn judge(database: &Database, model: &mut Model, account: &Account) -> Result<Settled, Violation> {
        let tx = database.begin_read().unwrap();
        let settled = model.settle(SEED, account, &marks_of(&tx).unwrap())?;
        model.compare(&tx)?;
        Ok(settled)
    }

    fn acked(lane: usize, numbers: &[u64]) -> Account {
        let mut account = Account::default();
        account.lanes[lane] = LaneAccount { acked: numbers.to_vec(), pending: None };
        account
    }

    #[test]
    fn the_model_and_the_store_agree_on_every_plan() {
        let (database, mut model) = (Database::in_memory().unwrap(), Model::default());
        for lane in 0..LANES {
            let numbers = run(&database, lane, 60);
            judge(&database, &mut model, &acked(lane, &numbers)).unwrap();
        }
        database.check_integrity().unwrap();
    }

    #[test]
    fn an_acknowledged_commit_that_is_not_there_is_lost() {
        let database = Database::in_memory().unwrap();
        let mut numbers = run(&database, 1, 30);
        numbers.push(30);
        let outcome = judge(&database, &mut Model::default(), &acked(1, &numbers));
        assert!(matches!(outcome, Err(Violation::Lost(_))), "{outcome:?}");
        let outcome = judge(&Database::in_memory().unwrap(), &mut Model::default(), &acked(0, &[3]));
        assert!(matches!(outcome, Err(Violation::Lost(_))), "{outcome:?}");
    }

    #[test]
    fn a_commit_without_acknowledgement_may_be_there_or_not() {
        let database = Database::in_memory().unwrap();
        let numbers = run(&database, 0, 30);
        let (last, before) = numbers.split_last().unwrap();
        let pending = |number, committing| {
            let mut account = acked(0, before);
            account.lanes[0].pending = Some(Pending { number, committing });
            account
        };
        let settled = judge(&database, &mut Model::default(), &pending(*last, true)).unwrap();
        assert_eq!(settled, Settled { present: 1, absent: 0 });
        let early = judge(&database, &mut Model::default(), &pending(*last, false));
        assert!(matches!(early, Err(Violation::Wrong(_))), "{early:?}");
        let mut account = acked(0, &numbers);
        account.lanes[0].pending = Some(Pending { number: 31, committing: true });
        let settled = judge(&database, &mut Model::default(), &account).unwrap();
        assert_eq!(settled, Settled { present: 0, absent: 1 });
    }

    #[test]
    fn a_row_or_a_table_too_many_or_too_few_is_found() {
        let database = Database::in_memory().unwrap();
        let numbers = run(&database, 2, 40);
        let mut model = Model::default();
        judge(&database, &mut model, &acked(2, &numbers)).unwrap();
        let broken = |change: &dyn Fn(&mut Rows)| {
            let mut model = model.clone();
            change(model.lanes[2].values_mut().find(|rows| rows.len() > 1).unwrap());
            model.compare(&database.begin_read().unwrap()).is_err()
        };
        assert!(broken(&|rows| drop(rows.pop_last())));
        assert!(broken(&|rows| drop(rows.pop_first())));
        assert!(broken(&|rows| drop(rows.insert(vec![9; 8], Vec::new()))));
        assert!(broken(&|rows| rows.values_mut().for_each(|value| value.push(1))));
        assert!(!broken(&|_| {}));
        model.lanes[0].insert("lane-0-0".to_owned(), Rows::new());
        assert!(model.compare(&database.begin_read().unwrap()).is_err());
    }
}
