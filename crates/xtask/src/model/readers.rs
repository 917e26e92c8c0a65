//! Snapshots that stay open across later commits, and comparing whole versions with the model.
//!
//! Invariant: a snapshot is compared with the model as it was when the snapshot began, never with a newer one.

use super::data::{Kind, State, brief};
use super::episode::Episode;
use super::halt::{Halt, ensure};
use super::rows::verify_rows;
use super::typed;
use cowslip::{ReadTransaction, TableError, TableHandle};

/// Snapshots that are held at once.
const HELD_MAX: usize = 4;

/// A snapshot and what it must show.
#[derive(Debug)]
pub(super) struct Held {
    snapshot: ReadTransaction,
    state: State,
}

/// Compares everything that a snapshot shows with the model.
pub(super) fn verify(snapshot: &ReadTransaction, state: &State) -> Result<(), Halt> {
    let found: Vec<String> = snapshot.list_tables()?.map(|table| table.name().to_owned()).collect();
    ensure!(found.iter().eq(state.keys()), "tables are {}, expected {}", brief(&found), brief(&state.keys()));
    for (name, table) in state {
        verify_rows(name, &*typed::open_readable(snapshot, name, table.kind, false)?, table)?;
    }
    Ok(())
}

impl Held {
    pub(super) fn verify(&self) -> Result<(), Halt> {
        verify(&self.snapshot, &self.state)
    }
}

impl Episode<'_> {
    /// Begins or ends a snapshot, now and then.
    pub(super) fn turn_readers(&mut self) -> Result<(), Halt> {
        if self.readers.len() < HELD_MAX && self.random.chance(250) {
            let snapshot = self.db().begin_read()?;
            ensure!(snapshot.id().get() == self.last_id, "a snapshot of {}, expected {}", snapshot.id(), self.last_id);
            self.readers.push(Held { snapshot, state: self.committed.clone() });
            self.counts.add("reader", "begun");
        }
        if self.random.chance(350) {
            self.read_held()?;
        }
        if !self.readers.is_empty() && self.random.chance(180) {
            let held = self.readers.swap_remove(self.random.below(self.readers.len()));
            held.verify()?;
            self.counts.add("reader", "verified and ended");
        }
        Ok(())
    }

    /// Verifies every snapshot and ends all of them.
    pub(super) fn end_readers(&mut self) -> Result<(), Halt> {
        for held in std::mem::take(&mut self.readers) {
            held.verify()?;
            self.counts.add("reader", "verified and ended");
        }
        Ok(())
    }

    /// A few reads through one of the snapshots.
    pub(super) fn read_held(&mut self) -> Result<(), Halt> {
        if self.readers.is_empty() {
            return Ok(());
        }
        let held = self.readers.swap_remove(self.random.below(self.readers.len()));
        let outcome = self.read_snapshot(&held);
        self.readers.push(held);
        outcome
    }

    fn read_snapshot(&mut self, held: &Held) -> Result<(), Halt> {
        let name = self.name();
        let Some(model) = held.state.get(&name) else {
            let kind = *self.random.pick(&Kind::ALL);
            if self.random.chance(500) {
                let table = typed::open_readable(&held.snapshot, &name, kind, true)?;
                ensure!(table.is_empty()? && table.first()?.is_none(), "a table that does not exist has rows");
                self.counts.add("open_table_or_empty", "empty");
                return Ok(());
            }
            return match typed::open_readable(&held.snapshot, &name, kind, false).err() {
                Some(TableError::DoesNotExist(missing)) if *missing == *name => {
                    self.counts.add("reader open_table", "missing");
                    Ok(())
                }
                Some(TableError::Storage(error)) => Err(error.into()),
                other => Err(Halt::Mismatch(format!("a table that does not exist: {other:?}"))),
            };
        };
        let kind = *self.random.pick(&Kind::ALL);
        let or_empty = self.random.chance(500);
        let operation = if or_empty { "open_table_or_empty" } else { "reader open_table" };
        if self.random.chance(300) && kind != model.kind {
            return match typed::open_readable(&held.snapshot, &name, kind, or_empty).err() {
                Some(TableError::TypeMismatch(_)) => {
                    self.counts.add(operation, "other types");
                    Ok(())
                }
                Some(TableError::Storage(error)) => Err(error.into()),
                other => Err(Halt::Mismatch(format!("a snapshot's table opened with other types: {other:?}"))),
            };
        }
        let table = typed::open_readable(&held.snapshot, &name, model.kind, or_empty)?;
        self.counts.add(operation, "existing");
        for _ in 0..self.random.between(1, 3) {
            self.read_row(&*table, model)?;
        }
        Ok(())
    }
}
