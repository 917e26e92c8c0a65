//! Compaction between transactions: whole, ended early, beside readers and writers, and on disks that fail or are full.
//!
//! Invariant: compaction changes nothing that the model knows.

use super::disk::Planned;
use super::episode::Episode;
use super::halt::{Halt, ensure};
use super::transaction::unexpected;
use super::typed::{self, Span};
use cowslip::sim::Fault;
use cowslip::{CommitError, CompactionError, CompactionProgress, Storage, StorageError, TransactionError};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

impl Episode<'_> {
    /// Compacts in one of many ways.
    pub(super) fn compact(&mut self) -> Result<(), Halt> {
        if self.random.chance(500) {
            self.make_holes()?;
        }
        let faults = usize::from(self.disk.simulation().is_some());
        match self.random.weighted(&[40, 40, 15 * faults, 25 * faults, 25 * faults]) {
            0 => self.compact_whole(),
            1 => self.compact_partly(),
            2 => self.compact_without_room(),
            3 => self.compact_on_failing_disk(),
            _ => self.compact_with_failing_read(),
        }
    }

    /// Removes many rows of a table, so that there is something to compact.
    fn make_holes(&mut self) -> Result<(), Halt> {
        let mut staged = self.committed.clone();
        let Some(name) = self.present_name(&staged) else { return Ok(()) };
        let table = staged.get_mut(&name).expect("the name is one of the tables");
        let multiple = self.random.between(2, 5);
        let stays: Vec<bool> = (0..table.rows.len()).map(|number| number.is_multiple_of(multiple)).collect();
        let transaction = self.begin_any()?;
        let (own, mut number) = (transaction.id(), 0);
        let mut rows = typed::open_writable(&transaction, &name, table.kind)?;
        rows.retain_span(&Span::All, &mut |_, _| {
            number += 1;
            stays.get(number - 1) == Some(&true)
        })?;
        drop(rows);
        let mut number = 0;
        Arc::make_mut(&mut table.rows).retain(|_, _| {
            number += 1;
            stays[number - 1]
        });
        let committed = self.commit_any(transaction)?;
        self.counts.add("retain", "before compaction");
        self.accept(own, committed, staged)
    }

    /// Compacts to the end. The second time nothing is left to do, unless readers keep something in its place.
    fn compact_whole(&mut self) -> Result<(), Halt> {
        if self.random.chance(400) {
            self.end_readers().map_err(unexpected)?;
        }
        let outcome = match self.db().compact() {
            Ok(true) => "changed",
            Ok(false) => "nothing to do",
            Err(CompactionError::Pinned { .. }) if !self.readers.is_empty() => "pinned",
            Err(error) => return Err(Halt::Mismatch(format!("compacting: {error}"))),
        };
        self.counts.add("compact", outcome);
        self.end_compaction()?;
        if self.readers.is_empty() {
            let operation = self.disk.simulation().map(|disk| disk.next_operation());
            let again = self.db().compact();
            let after = self.disk.simulation().map(|disk| disk.next_operation());
            ensure!(matches!(again, Ok(false)) && operation == after, "compacted a second time: {again:?}");
            self.counts.add("compact", "nothing the second time");
        }
        Ok(())
    }

    /// Takes over the versions that compaction made, and compares everything.
    fn end_compaction(&mut self) -> Result<(), Halt> {
        self.see_newest()?;
        self.verify_committed()?;
        for held in &self.readers {
            held.verify().map_err(unexpected)?;
        }
        self.check(true)
    }

    /// Steps of a compaction committed, or did not.
    fn see_newest(&mut self) -> Result<(), Halt> {
        let id = self.db().begin_read()?.id().get();
        ensure!(id >= self.last_id, "compaction went back from {} to {id}", self.last_id);
        if id > self.last_id {
            self.saved_as(id);
        }
        Ok(())
    }

    /// Compacts while the report reads and writes, and ends it early in one of many ways.
    fn compact_partly(&mut self) -> Result<(), Halt> {
        let (db, most) = (self.db().clone(), *self.random.pick(&[1, 1, 2, 4, 12]));
        let panics = self.random.chance(300);
        let (mut steps, mut halt, mut had_readers) = (0, None, !self.readers.is_empty());
        let mut round = (0, 0);
        let caught = catch_unwind(AssertUnwindSafe(|| {
            db.compact_with(|progress| {
                steps += 1;
                halt = halt.take().or(self.during_compaction(progress, &mut round).err());
                had_readers |= !self.readers.is_empty();
                if panics && steps == most && halt.is_none() {
                    resume_unwind(Box::new(Planned));
                }
                if steps < most && halt.is_none() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })
        }));
        drop(db);
        halt.map_or(Ok(()), Err)?;
        let outcome = match caught {
            Ok(Ok(_)) if steps < most => "to the end, step by step",
            Ok(Ok(_)) => "ended early",
            Ok(Err(CompactionError::Pinned { .. })) if had_readers => "pinned",
            Ok(Err(error)) => return Err(Halt::Mismatch(format!("compacting step by step: {error}"))),
            Err(thrown) if thrown.is::<Planned>() => "report panicked",
            Err(thrown) => resume_unwind(thrown),
        };
        self.counts.add("compact_with", outcome);
        self.end_compaction()
    }

    /// What somebody else does between two steps.
    fn during_compaction(&mut self, progress: &CompactionProgress, round: &mut (u32, u64)) -> Result<(), Halt> {
        self.see_newest()?;
        if progress.round != round.0 {
            // Nobody has changed anything yet since the round began.
            let rows: usize = self.committed.values().map(|table| table.rows.len()).sum();
            *round = (progress.round, rows as u64);
        }
        ensure!(progress.rows_total == round.1, "{} rows, compaction counts {}", round.1, progress.rows_total);
        match self.random.below(8) {
            0 => self.shrink("delete while compacting", false),
            1 => self.turn_readers().map_err(unexpected),
            2 => self.verify_committed(),
            3 => self.check(true),
            _ => Ok(()),
        }
    }

    fn compact_without_room(&mut self) -> Result<(), Halt> {
        let len = self.simulation().len().map_err(|error| Halt::Mismatch(error.to_string()))?;
        let room = *self.random.pick(&[0, 512, 4096, 20_000]);
        self.simulation().set_capacity_bytes(len + room);
        let outcome = match self.db().compact() {
            Ok(_) => "had room",
            Err(CompactionError::Pinned { .. }) if !self.readers.is_empty() => "pinned",
            Err(error) if error.is_out_of_space() => "full disk",
            Err(error) => return Err(Halt::Mismatch(format!("compacting on a full disk: {error}"))),
        };
        self.counts.add("compact without room", outcome);
        self.end_compaction()?;
        self.simulation().set_capacity_bytes(u64::MAX);
        if self.random.chance(300) { self.compact_whole() } else { Ok(()) }
    }

    fn compact_on_failing_disk(&mut self) -> Result<(), Halt> {
        let far = *self.random.pick(&[2, 14, 60]);
        self.arm(far);
        let (outcome, doubtful) = match self.db().compact() {
            Ok(_) => ("compacted", None),
            // The commit behind the last step may be in doubt then, too.
            Err(CompactionError::Pinned { .. }) if !self.readers.is_empty() => ("pinned", Some(self.committed.clone())),
            Err(CompactionError::Commit(CommitError::InDoubt(_))) => ("in doubt", Some(self.committed.clone())),
            // Where a free tail could not be cut, the next step cannot begin.
            Err(CompactionError::Transaction(TransactionError::Storage(StorageError::Poisoned))) => ("failed", None),
            Err(CompactionError::Commit(CommitError::Aborted(_)) | CompactionError::Storage(_)) => ("failed", None),
            Err(error) => return Err(Halt::Mismatch(format!("compacting on a failing disk: {error}"))),
        };
        self.counts.add("compact on a failing disk", outcome);
        self.see_newest()?;
        self.recover(doubtful).map_err(unexpected)
    }

    fn compact_with_failing_read(&mut self) -> Result<(), Halt> {
        let far = *self.random.pick(&[1, 5, 20]);
        let read = self.simulation().next_read() + self.random.below(far) as u64;
        self.simulation().inject(Fault::FailRead { read });
        let outcome = match self.db().compact() {
            Ok(_) => "compacted",
            Err(CompactionError::Pinned { .. }) if !self.readers.is_empty() => "pinned",
            Err(error) if matches!(error.storage_error(), Some(StorageError::Io(_))) => "failed",
            Err(error) => return Err(Halt::Mismatch(format!("compacting with a failing read: {error}"))),
        };
        self.simulation().clear_faults();
        self.counts.add("compact with a failing read", outcome);
        self.end_compaction()
    }
}
