//! Transactions on a disk that is full or fails.
//!
//! Invariant: a fault never shows anything but the last committed state or, once a commit was attempted, the new one.

use super::data::{State, brief};
use super::episode::Episode;
use super::halt::{Halt, ensure};
use super::readers::verify;
use super::transaction::Plan;
use super::typed;
use cowslip::sim::{Fault, SimDisk};
use cowslip::{CloseError, CommitError, Storage, StorageError, TransactionError, WriteTransaction};
use std::io::ErrorKind;

fn is_poisoned(error: &StorageError) -> bool {
    matches!(error, StorageError::TransactionPoisoned)
}

impl Episode<'_> {
    pub(super) fn simulation(&self) -> &SimDisk {
        self.disk.simulation().expect("only simulated disks have faults")
    }

    /// Writes on a disk without room, then with room again.
    pub(super) fn full_disk(&mut self) -> Result<(), Halt> {
        let len = self.simulation().len().map_err(|error| Halt::Mismatch(error.to_string()))?;
        let room = *self.random.pick(&[0, 512, 4096, 20_000]);
        self.simulation().set_capacity_bytes(len + room);
        let mut staged = self.committed.clone();
        let transaction = self.begin_any()?;
        let plan = Plan { sessions: 4, ..self.plan() };
        let growing = std::mem::replace(&mut self.growing, true);
        let outcome = self.run(&transaction, &mut staged, plan);
        self.growing = growing;
        match outcome {
            Ok(()) => self.commit_without_room(transaction, staged)?,
            // Where an extraction that is dropped has no room, the next call says so.
            Err(Halt::Failed(error)) if error.is_out_of_space() || is_poisoned(&error) => {
                self.counts.add("full disk", "aborted");
                self.end_poisoned(transaction, &staged)?;
            }
            Err(halt) => return Err(halt),
        }
        self.verify_committed()?;
        self.check(true)?;
        self.shrink("delete without room", true)?;
        if self.random.chance(400) {
            self.sync_without_room()?;
        }
        self.simulation().set_capacity_bytes(u64::MAX);
        self.shrink("delete with room again", false)
    }

    /// A commit that may have no room for what it writes.
    fn commit_without_room(&mut self, transaction: WriteTransaction, staged: State) -> Result<(), Halt> {
        let own = transaction.id();
        let outcome = match self.commit_any(transaction) {
            Ok(committed) => {
                self.accept(own, committed, staged)?;
                "committed"
            }
            Err(CommitError::Aborted(error)) if error.is_out_of_space() => "aborted",
            // What a table has buffered is applied when it is closed; where that had no room, the commit says so.
            Err(CommitError::Poisoned) => "aborted when a table was closed",
            Err(error) => return Err(error.into()),
        };
        self.counts.add("full disk", outcome);
        Ok(())
    }

    /// Deletes a table or some rows, and commits.
    pub(super) fn shrink(&mut self, operation: &'static str, may_fail: bool) -> Result<(), Halt> {
        let mut staged = self.committed.clone();
        let Some(name) = self.present_name(&staged) else { return Ok(()) };
        let transaction = self.begin_any()?;
        let own = transaction.id();
        match self.delete_some(&transaction, &mut staged, &name) {
            Ok(()) => match self.commit_any(transaction) {
                Ok(committed) => self.accept(own, committed, staged)?,
                Err(CommitError::Aborted(error)) if may_fail && error.is_out_of_space() => {}
                Err(CommitError::Poisoned) if may_fail => {}
                Err(error) => return Err(error.into()),
            },
            Err(Halt::Failed(error)) if may_fail && error.is_out_of_space() => drop(transaction),
            Err(halt) => return Err(halt),
        }
        self.counts.add(operation, if may_fail { "committed or aborted" } else { "committed" });
        self.verify_committed()?;
        self.check(true)
    }

    fn delete_some(&mut self, transaction: &WriteTransaction, staged: &mut State, name: &str) -> Result<(), Halt> {
        let table = staged.get_mut(name).expect("the caller found the table");
        if self.random.chance(150) || table.rows.is_empty() {
            ensure!(typed::delete(transaction, name)?, "table {} was not there", brief(&name));
            staged.remove(name);
            return Ok(());
        }
        let mut rows = typed::open_writable(transaction, name, table.kind)?;
        for _ in 0..self.random.between(1, 4) {
            let Some(key) = table.any_key(&mut self.random) else { break };
            let expected = std::sync::Arc::make_mut(&mut table.rows).remove(&key);
            let found = rows.remove(&key)?;
            ensure!(found == expected, "remove {}: found {}", brief(&key), brief(&found));
        }
        Ok(())
    }

    /// A change failed half-way: the transaction refuses everything and can only be ended.
    fn end_poisoned(&mut self, transaction: WriteTransaction, staged: &State) -> Result<(), Halt> {
        let name = self.name();
        let kind = staged.get(&name).map_or(super::data::Kind::UnitToText, |table| table.kind);
        let refused = typed::open_writable(&transaction, &name, kind).err();
        ensure!(
            matches!(refused, Some(cowslip::TableError::Storage(StorageError::TransactionPoisoned))),
            "a transaction that failed half-way opens a table: {refused:?}"
        );
        match self.random.below(3) {
            0 => {
                // The commit tells what nobody was there to be told, as where an extraction was dropped.
                let refused = transaction.commit();
                let is_refused = matches!(refused, Err(CommitError::Poisoned | CommitError::Aborted(_)));
                ensure!(is_refused, "a poisoned transaction: {refused:?}");
            }
            1 => transaction.abort()?,
            _ => drop(transaction),
        }
        Ok(())
    }

    /// A transaction during which the disk fails once.
    pub(super) fn failing_disk(&mut self) -> Result<(), Halt> {
        if self.random.chance(350) {
            return self.failing_read();
        }
        let mut staged = self.committed.clone();
        let transaction = self.begin_any()?;
        let mut plan = self.plan();
        let early = self.random.chance(500);
        let growing = self.growing;
        if early {
            // Much is changed, so that something is written before the commit.
            self.growing = true;
            plan.steps = 60;
            self.arm(2);
        }
        let own = transaction.id();
        let changed = self.run(&transaction, &mut staged, plan);
        self.growing = growing;
        let outcome = match changed {
            Ok(()) => {
                if !early {
                    self.arm(14);
                }
                self.commit_any(transaction)
            }
            Err(Halt::Failed(_)) => {
                self.counts.add("failing disk", "aborted");
                self.end_poisoned(transaction, &staged)?;
                return self.recover(None);
            }
            Err(halt) => return Err(halt),
        };
        match outcome {
            Ok(committed) => {
                self.accept(own, committed, staged)?;
                self.counts.add("failing disk", "committed");
                self.recover(None)
            }
            // A table that could not be written early when it was closed fails the commit.
            Err(CommitError::Aborted(_) | CommitError::Poisoned) => {
                self.counts.add("failing disk", "aborted");
                self.recover(None)
            }
            Err(CommitError::InDoubt(_)) => {
                self.counts.add("failing disk", "commit in doubt");
                let poisoned = self.db().begin_write().is_err();
                ensure!(poisoned, "a database goes on writing after a commit in doubt");
                self.recover(Some(staged))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Lets one of the next operations of the disk fail.
    pub(super) fn arm(&mut self, operations: usize) {
        let disk = self.disk.simulation().expect("only simulated disks have faults");
        let operation = disk.next_operation() + self.random.below(operations) as u64;
        let sync = disk.next_sync() + u64::from(self.random.chance(700));
        let seed = self.random.next();
        disk.inject(match self.random.below(10) {
            0..=2 => Fault::FailOperation { operation, kind: ErrorKind::Other },
            3 | 5 => Fault::ShortWrite { operation },
            4 if self.random.chance(500) => Fault::FailSync { sync },
            _ => Fault::FailSyncPartly { sync, seed },
        });
    }

    /// Readers go on; then the database is reopened if it writes no more, and shows `doubtful` or what it showed.
    pub(super) fn recover(&mut self, doubtful: Option<State>) -> Result<(), Halt> {
        let is_simulated = self.disk.simulation().inspect(|disk| disk.clear_faults()).is_some();
        self.verify_committed()?;
        self.read_held()?;
        match self.db().begin_write() {
            Ok(transaction) => {
                drop(transaction);
                return self.check(true);
            }
            Err(TransactionError::Storage(StorageError::Poisoned)) => {}
            Err(error) => return Err(error.into()),
        }
        self.end_readers()?;
        let outcome = match self.random.below(if is_simulated { 4 } else { 2 }) {
            0 => {
                drop(self.take_db());
                "after a failure and dropping"
            }
            1 => {
                match self.take_db().close() {
                    // What nothing promised may be lost, and closing says so, and why where nobody was told of that.
                    Err(CloseError::Storage(StorageError::Poisoned | StorageError::Io(_))) | Ok(()) => {}
                    Err(error) => return Err(error.into()),
                }
                "after a failure and closing"
            }
            2 => {
                let disk = self.simulation().restart_process();
                self.disk = super::disk::Disk::of(disk);
                drop(self.take_db());
                "after a failure and the end of the process"
            }
            _ => {
                self.cut_power();
                drop(self.take_db());
                "after a failure and a power cut"
            }
        };
        self.torn = true;
        self.open_again(outcome)?;
        self.settle(doubtful)?;
        self.verify_committed()?;
        self.check(true)
    }

    /// A transaction during which one read fails: nothing is lost but the operation, or the transaction.
    fn failing_read(&mut self) -> Result<(), Halt> {
        let mut staged = self.committed.clone();
        let plan = self.plan();
        let transaction = self.begin_any()?;
        let read = self.simulation().next_read() + self.random.below(8) as u64;
        self.simulation().inject(Fault::FailRead { read });
        let own = transaction.id();
        let outcome = match self.run(&transaction, &mut staged, plan) {
            Ok(()) => match self.commit_any(transaction) {
                Ok(committed) => {
                    self.accept(own, committed, staged)?;
                    "committed"
                }
                Err(CommitError::Aborted(error)) if matches!(*error, StorageError::Io(_)) => "aborted",
                Err(CommitError::Poisoned) => "aborted when a table was closed",
                Err(error) => return Err(error.into()),
            },
            Err(Halt::Failed(StorageError::Io(_) | StorageError::TransactionPoisoned)) => {
                drop(transaction);
                "aborted"
            }
            Err(halt) => return Err(halt),
        };
        self.simulation().clear_faults();
        self.counts.add("failing read", outcome);
        let snapshot = self.db().begin_read()?;
        verify(&snapshot, &self.committed)?;
        drop(snapshot);
        self.check(true)
    }
}
