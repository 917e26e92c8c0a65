//! Write transactions: operations on whole tables, sessions with open tables, and every way to end.
//!
//! Invariant: the committed state of the model changes exactly when the store says that a commit succeeded.

use super::data::{Kind, State, TableModel, brief};
use super::disk::Planned;
use super::episode::Episode;
use super::halt::{Halt, ensure};
use super::typed::{self, Writable};
use cowslip::{TableError, TableHandle, WriteTransaction};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Names of tables; the last is one of many bytes.
const NAMES: [&str; 11] = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "t",
    "t\0",
    "t\u{E9}",
    "table/of/nine",
    "table/of/ten",
    " ",
    "a name that goes on and on, longer than what most nodes hold of a key, so that the catalog must store the rest \
     of it somewhere else, and goes on and on again until it is some three hundred bytes long, which is more than \
     a quarter of the smallest node, where inline keys end, and enough for this purpose",
];

/// How a transaction runs and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Commit,
    Abort,
    Drop,
    Panic,
    Unchanged,
    Crash,
}

/// How much a transaction does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) sessions: usize,
    pub(super) steps: usize,
    pub(super) reads_only: bool,
    /// Row operations left until a panic; `None` where there is none.
    pub(super) panic_in: Option<usize>,
}

struct OpenTable<'t> {
    name: String,
    rows: Box<dyn Writable + 't>,
}

impl Episode<'_> {
    pub(super) fn plan(&mut self) -> Plan {
        let steps = *self.random.pick(&[1, 3, 6, 12, 60]);
        Plan { sessions: *self.random.pick(&[1, 1, 1, 2, 3]), steps, reads_only: false, panic_in: None }
    }

    /// An ordinary transaction, with any end.
    pub(super) fn transaction(&mut self) -> Result<(), Halt> {
        let ends = [End::Commit, End::Abort, End::Drop, End::Panic, End::Unchanged, End::Crash];
        let end = ends[self.random.weighted(&[560, 70, 50, 180, 80, 70])];
        let mut plan = self.plan();
        let mut staged = self.committed.clone();
        let transaction = self.begin_any()?;
        // Where the file could not grow before, beginning may have written a checkpoint.
        let operation = self.disk.simulation().map(|disk| disk.next_operation());
        match end {
            End::Panic => {
                if self.random.chance(500) {
                    plan.panic_in = Some(self.random.below(plan.steps));
                    return self.panic_in(transaction, &mut staged, plan, "panicked between operations");
                }
                // The storage panics in the middle of a change.
                plan.steps = 60;
                self.disk.fuse().arm(self.random.between(1, 3) as u64);
                return self.panic_in(transaction, &mut staged, plan, "panicked inside of an operation");
            }
            End::Unchanged => plan = Plan { reads_only: true, steps: 4, ..plan },
            _ => {}
        }
        self.run(&transaction, &mut staged, plan).map_err(unexpected)?;
        if self.random.chance(150) {
            self.refuse_second()?;
        }
        match end {
            End::Commit => self.commit(transaction, staged)?,
            End::Abort => {
                transaction.abort().map_err(Halt::from).map_err(unexpected)?;
                self.counts.add("transaction", "aborted");
            }
            End::Unchanged => {
                let id = self.commit_any(transaction)?.id.get();
                ensure!(id == self.last_id, "an unchanged transaction committed {id} above {}", self.last_id);
                let after = self.disk.simulation().map(|disk| disk.next_operation());
                ensure!(after == operation, "an unchanged transaction wrote to the disk");
                self.counts.add("transaction", "unchanged");
            }
            End::Crash if self.disk.simulation().is_some() => return self.crash(Some(transaction)),
            _ => {
                drop(transaction);
                self.counts.add("transaction", "dropped");
            }
        }
        self.check(true)
    }

    fn commit(&mut self, transaction: WriteTransaction, staged: State) -> Result<(), Halt> {
        let own = transaction.id();
        let committed = self.commit_any(transaction)?;
        self.accept(own, committed, staged)?;
        self.counts.add("transaction", "committed");
        Ok(())
    }

    /// Panics inside of a transaction whose tables are open.
    fn panic_in(
        &mut self,
        transaction: WriteTransaction,
        staged: &mut State,
        plan: Plan,
        outcome: &'static str,
    ) -> Result<(), Halt> {
        let caught = catch_unwind(AssertUnwindSafe(|| {
            let outcome = self.run(&transaction, staged, plan);
            self.disk.fuse().disarm();
            drop(transaction);
            outcome
        }));
        match caught {
            Ok(ended) => {
                ended.map_err(unexpected)?;
                self.counts.add("transaction", "dropped");
            }
            Err(thrown) if thrown.is::<Planned>() => {
                self.counts.add("transaction", outcome);
                // A storage that panicked may be used no more.
                return self.recover(None).map_err(unexpected);
            }
            Err(thrown) => resume_unwind(thrown),
        }
        self.check(true)
    }

    /// The operations of a transaction; stops early where the episode has had its share.
    pub(super) fn run(&mut self, transaction: &WriteTransaction, staged: &mut State, plan: Plan) -> Result<(), Halt> {
        let mut plan = plan;
        for _ in 0..plan.sessions {
            if !plan.reads_only && self.random.chance(500) {
                self.whole_table(transaction, staged)?;
            }
            if self.random.chance(150) {
                self.list(transaction, staged)?;
            }
            if self.random.chance(100) {
                self.read_held()?;
            }
            self.session(transaction, staged, &mut plan)?;
        }
        Ok(())
    }

    /// Opens one to three tables and works on their rows.
    fn session(&mut self, transaction: &WriteTransaction, staged: &mut State, plan: &mut Plan) -> Result<(), Halt> {
        let mut tables: Vec<OpenTable<'_>> = Vec::new();
        for _ in 0..self.random.between(1, 3) {
            let name = if plan.reads_only { self.present_name(staged) } else { Some(self.name()) };
            let Some(name) = name.filter(|name| tables.iter().all(|open| open.name != *name)) else { continue };
            let (kind, outcome) = match staged.get(&name) {
                Some(table) => (table.kind, "existing"),
                None => (*self.random.pick(&Kind::ALL), "created"),
            };
            let rows = typed::open_writable(transaction, &name, kind)?;
            staged.entry(name.clone()).or_insert_with(|| TableModel::new(kind));
            tables.push(OpenTable { name, rows });
            self.counts.add("open_table", outcome);
        }
        if tables.is_empty() {
            return Ok(());
        }
        for _ in 0..self.random.between(1, plan.steps) {
            let index = self.random.below(tables.len());
            let table = &mut tables[index];
            let model = staged.get_mut(&table.name).expect("open tables are in the model");
            if plan.panic_in == Some(0) {
                if self.random.chance(500) {
                    self.panic_in_predicate(&mut *table.rows, model)?;
                }
                resume_unwind(Box::new(Planned));
            }
            plan.panic_in = plan.panic_in.map(|left| left - 1);
            if plan.reads_only || self.random.chance(300) {
                self.read_row(&*table.rows, model)?;
            } else {
                self.change_row(&mut *table.rows, model)?;
            }
        }
        if self.random.chance(150) {
            let name = tables[self.random.below(tables.len())].name.clone();
            self.refuse_open(transaction, staged, &name)?;
        }
        if plan.panic_in.is_some() {
            resume_unwind(Box::new(Planned));
        }
        Ok(())
    }

    pub(super) fn name(&mut self) -> String {
        (*self.random.pick(&NAMES)).to_owned()
    }

    pub(super) fn present_name(&mut self, state: &State) -> Option<String> {
        let index = self.random.below(state.len().max(1));
        state.keys().nth(index).cloned()
    }

    /// What cannot be done to a table that is open.
    fn refuse_open(&mut self, transaction: &WriteTransaction, staged: &State, name: &str) -> Result<(), Halt> {
        let (operation, refused) = match self.random.below(4) {
            0 => ("open_table", typed::open_writable(transaction, name, staged[name].kind).err()),
            1 => ("rename_table", typed::rename(transaction, name, "other").err()),
            2 => ("rename_table", typed::rename(transaction, "other", name).err()),
            _ => ("delete_table", typed::delete(transaction, name).err()),
        };
        ensure!(
            matches!(&refused, Some(TableError::AlreadyOpen(open)) if **open == *name),
            "{operation} of {}, which is open: {refused:?}",
            brief(&name)
        );
        self.counts.add(operation, "already open");
        Ok(())
    }

    fn list(&mut self, transaction: &WriteTransaction, staged: &State) -> Result<(), Halt> {
        let found: Vec<String> = transaction.list_tables()?.map(|table| table.name().to_owned()).collect();
        ensure!(found.iter().eq(staged.keys()), "tables are {}, expected {}", brief(&found), brief(&staged.keys()));
        self.counts.add("list_tables", "listed");
        Ok(())
    }

    /// One operation on a table as a whole.
    fn whole_table(&mut self, transaction: &WriteTransaction, staged: &mut State) -> Result<(), Halt> {
        match self.random.weighted(&[6, 3, 3]) {
            0 => self.rename(transaction, staged),
            1 => self.refuse_types(transaction, staged),
            _ => {
                let name = self.name();
                let (found, expected) = (typed::delete(transaction, &name)?, staged.remove(&name).is_some());
                ensure!(found == expected, "delete_table {}: {found}, expected {expected}", brief(&name));
                self.counts.add("delete_table", if expected { "deleted" } else { "missing" });
                Ok(())
            }
        }
    }

    fn rename(&mut self, transaction: &WriteTransaction, staged: &mut State) -> Result<(), Halt> {
        let old = self.name();
        let new = if self.random.chance(250) { old.clone() } else { self.name() };
        let renamed = typed::rename(transaction, &old, &new);
        let context = format!("rename_table {} to {}", brief(&old), brief(&new));
        let outcome = match renamed {
            Err(TableError::Storage(error)) => return Err(error.into()),
            Ok(()) if staged.contains_key(&old) && old == new => "to itself",
            Ok(()) if staged.contains_key(&old) && !staged.contains_key(&new) => {
                let table = staged.remove(&old).expect("the table was just found");
                staged.insert(new, table);
                "renamed"
            }
            Err(TableError::DoesNotExist(name)) if *name == *old && !staged.contains_key(&old) => "missing",
            Err(TableError::Exists(name))
                if *name == *new && old != new && staged.contains_key(&old) && staged.contains_key(&new) =>
            {
                "new name exists"
            }
            other => return Err(Halt::Mismatch(format!("{context}: {other:?}"))),
        };
        self.counts.add("rename_table", outcome);
        Ok(())
    }

    /// Opening with other types or without a name changes nothing.
    fn refuse_types(&mut self, transaction: &WriteTransaction, staged: &State) -> Result<(), Halt> {
        if self.random.chance(250) {
            let refused = typed::open_writable(transaction, "", Kind::UnitToText).err();
            ensure!(matches!(refused, Some(TableError::InvalidDefinition(_))), "a table without a name: {refused:?}");
            self.counts.add("open_table", "no name");
            return Ok(());
        }
        let Some(name) = self.present_name(staged) else { return Ok(()) };
        let kind = *self.random.pick(&Kind::ALL);
        if kind == staged[&name].kind {
            return Ok(());
        }
        match typed::open_writable(transaction, &name, kind).err() {
            Some(TableError::TypeMismatch(_)) => {
                self.counts.add("open_table", "other types");
                Ok(())
            }
            Some(TableError::Storage(error)) => Err(error.into()),
            other => Err(Halt::Mismatch(format!("table {} opened with other types: {other:?}", brief(&name)))),
        }
    }
}

/// A storage error that nothing was arranged to cause.
pub(super) fn unexpected(halt: Halt) -> Halt {
    match halt {
        Halt::Failed(error) => Halt::Mismatch(format!("unexpected: {error}")),
        mismatch @ Halt::Mismatch(_) => mismatch,
    }
}
