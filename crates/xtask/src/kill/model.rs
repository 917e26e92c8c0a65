//! What must be in the file, as the parent keeps it, and the comparison with what is.
//!
//! Invariant: a transaction is in the model if it was found in the file once, and must stay there. What is found is a prefix
//! of the commits by their ids, and holds all that was promised: an `Immediate` commit that was acknowledged, whatever was
//! acknowledged before a sync that returned, and all before those.

use super::account::{Account, Told};
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
    /// A commit that was promised to be durable is not in the file.
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

/// What became of the transactions whose commit was called and that nothing promised to be durable.
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

    /// Takes over as many of the commits that a child told of as the marks show.
    pub(super) fn settle(&mut self, seed: u64, account: &Account, marks: &Marks) -> Result<Settled, Violation> {
        let commits =
            account.committing().ok_or_else(|| Violation::Wrong("two commits have the same id".to_owned()))?;
        let plans: Vec<Plan> = commits.iter().map(|told| Plan::at(seed, told.lane, told.number)).collect();
        if let Some(told) = commits.iter().zip(&plans).find(|(_, plan)| plan.ending != Ending::Commit) {
            return Err(Violation::Wrong(format!("never to be committed: {told:?}")));
        }
        let is_promised = |(told, plan): (&Told, &Plan)| {
            (told.is_acked && plan.options.is_promise()) || account.synced_id.is_some_and(|id| told.id <= id)
        };
        let promised = commits.iter().zip(&plans).rposition(is_promised).map_or(0, |last| last + 1);
        let Some(found) = self.prefix(&commits, marks) else {
            let text = format!("the marks {marks:?} are those of no prefix of the commits after {:?}", self.marks);
            let behind = |told: &Told| marks[told.lane] < Some(told.number);
            let is_lost = commits[..promised].iter().any(behind);
            return Err(if is_lost { Violation::Lost(text) } else { Violation::Wrong(text) });
        };
        if found < promised {
            let (newest, last) = (found.checked_sub(1).map(|last| commits[last]), commits[promised - 1]);
            return Err(Violation::Lost(format!("the last transaction is {newest:?}, promised was {last:?}")));
        }
        for (told, plan) in commits.iter().zip(&plans).take(found) {
            self.apply(plan, told.lane, told.number);
        }
        let (present, absent) = ((found - promised) as u64, (commits.len() - found) as u64);
        Ok(Settled { present, absent })
    }

    /// How many of the commits leave these marks: each sets that of its lane, so there is one such number at most.
    fn prefix(&self, commits: &[Told], marks: &Marks) -> Option<usize> {
        let mut reached = self.marks;
        let mut numbers = 0..=commits.len();
        numbers.find(|number| {
            if let Some(told) = number.checked_sub(1).map(|last| commits[last]) {
                reached[told.lane] = Some(told.number);
            }
            reached == *marks
        })
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

    /// The commits of one lane, all of them acknowledged.
    fn acked(lane: usize, numbers: &[u64]) -> Account {
        let told = |number: &u64| Told { lane, number: *number, id: number + 1, is_committing: true, is_acked: true };
        Account { transactions: numbers.iter().map(told).collect(), ..Account::default() }
    }

    fn is_promise(lane: usize, number: u64) -> bool {
        let plan = Plan::at(SEED, lane, number);
        plan.ending == Ending::Commit && plan.options.is_promise()
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
    fn a_promised_commit_that_is_not_there_is_lost() {
        let database = Database::in_memory().unwrap();
        let mut numbers = run(&database, 1, 30);
        numbers.push((30..).find(|number| is_promise(1, *number)).unwrap());
        let outcome = judge(&database, &mut Model::default(), &acked(1, &numbers));
        assert!(matches!(outcome, Err(Violation::Lost(_))), "{outcome:?}");
        let first = (0..).find(|number| is_promise(0, *number)).unwrap();
        let outcome = judge(&Database::in_memory().unwrap(), &mut Model::default(), &acked(0, &[first]));
        assert!(matches!(outcome, Err(Violation::Lost(_))), "{outcome:?}");
    }

    #[test]
    fn a_commit_that_waits_for_nothing_is_promised_by_a_sync_alone() {
        let database = Database::in_memory().unwrap();
        let mut numbers = run(&database, 1, 30);
        let is_unsaved = |number: &u64| Plan::at(SEED, 1, *number).ending == Ending::Commit && !is_promise(1, *number);
        numbers.push((30..).find(is_unsaved).unwrap());
        let mut account = acked(1, &numbers);
        let settled = judge(&database, &mut Model::default(), &account).unwrap();
        assert_eq!(settled.absent, 1);
        account.synced_id = numbers.last().map(|number| number + 1);
        let outcome = judge(&database, &mut Model::default(), &account);
        assert!(matches!(outcome, Err(Violation::Lost(_))), "{outcome:?}");
    }

    #[test]
    fn a_commit_without_acknowledgement_may_be_there_or_not() {
        let database = Database::in_memory().unwrap();
        let numbers = run(&database, 0, 30);
        let mut account = acked(0, &numbers);
        let promised = numbers.iter().rposition(|number| is_promise(0, *number)).unwrap();
        account.transactions[promised..].iter_mut().for_each(|told| told.is_acked = false);
        let settled = judge(&database, &mut Model::default(), &account).unwrap();
        assert!(settled.present > 0 && settled.absent == 0, "{settled:?}");
        account.transactions.last_mut().unwrap().is_committing = false;
        let early = judge(&database, &mut Model::default(), &account);
        assert!(matches!(early, Err(Violation::Wrong(_))), "{early:?}");
    }

    #[test]
    fn a_later_commit_without_the_one_before_it_is_wrong() {
        let database = Database::in_memory().unwrap();
        let numbers = run(&database, 0, 30);
        let mut account = acked(0, &numbers);
        account.transactions.iter_mut().for_each(|told| told.is_acked = false);
        let [.., (missing, last)] =
            account.transactions[..].windows(2).map(|pair| (pair[0], pair[1])).collect::<Vec<_>>()[..]
        else {
            panic!("there are many commits")
        };
        assert!(missing.id < last.id);
        let number = (0..).find(|number| Plan::at(SEED, 1, *number).ending == Ending::Commit).unwrap();
        let between = Told { lane: 1, number, id: last.id, ..missing };
        account.transactions.last_mut().unwrap().id += 1;
        account.transactions.push(between);
        let outcome = judge(&database, &mut Model::default(), &account);
        assert!(matches!(outcome, Err(Violation::Wrong(_))), "{outcome:?}");
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
