//! One episode: a fresh database of one geometry, worked on until its share of operations is used up.
//!
//! Invariant: between two steps the database shows exactly the committed state of the model.

use super::counts::Counts;
use super::data::{Shape, State};
use super::disk::Disk;
use super::halt::{Halt, ensure};
use super::level::{SYNC_DELAY_MAX, Saved, any_durability};
use super::readers::{Held, verify};
use super::transaction::unexpected;
use crate::random::Random;
use cowslip::sim::CrashPlan;
use cowslip::{Builder, CloseError, Database, Durability, TransactionError, WriteTransaction};

/// Everything about one episode.
#[derive(Debug)]
pub(super) struct Episode<'c> {
    pub(super) random: Random,
    pub(super) shape: Shape,
    pub(super) counts: &'c mut Counts,
    pub(super) disk: Disk,
    db: Option<Database>,
    pub(super) committed: State,
    pub(super) last_id: u64,
    /// The last state that was promised to be durable.
    pub(super) saved: Saved,
    /// What was committed since, oldest first; the last is what is committed.
    pub(super) unsaved: Vec<Saved>,
    /// What transactions wait for that do not say so.
    pub(super) durability: Durability,
    pub(super) readers: Vec<Held>,
    /// Tables rather grow than shrink for now.
    pub(super) growing: bool,
    /// A value of so many bytes is too large for the geometry.
    pub(super) value_bytes_over: Option<usize>,
    /// A failed commit may have left one of the two slots half written, and nothing was committed since.
    pub(super) torn: bool,
    builder: Builder,
    /// The count of operations at which the episode ends.
    end: u64,
}

fn geometry(random: &mut Random, tiny: bool) -> (Builder, Option<usize>) {
    let mut identity = [0; 16];
    identity.copy_from_slice(&random.bytes(16));
    let builder = Builder::new().test_identity(identity).sync_delay_max(SYNC_DELAY_MAX);
    if !tiny {
        return (builder.node_bytes(*random.pick(&[4096, 8192, 16384])), None);
    }
    let (node_bytes, region_units) = *random.pick(&[(512, 64), (512, 64), (512, 128), (512, 256), (1024, 128)]);
    let run_bytes = usize::try_from(region_units / 2 * 512).expect("tiny");
    // A list names a run in 16 bytes or more.
    let over = run_bytes / 16 * run_bytes + 1;
    (builder.test_geometry(512, node_bytes, region_units), Some(over))
}

impl<'c> Episode<'c> {
    /// Creates the database of an episode.
    pub(super) fn begin(seed: u64, episode: u64, counts: &'c mut Counts, ops_max: u64) -> Result<Self, Halt> {
        let mut random = Random::at(seed, episode);
        let tiny = episode.is_multiple_of(2);
        let (builder, value_bytes_over) = geometry(&mut random, tiny);
        let disk = if random.chance(150) { Disk::memory() } else { Disk::simulated() };
        let share = u64::try_from(random.between(200, 1400)).expect("a share is small");
        let end = counts.total() + share.min(ops_max);
        let mut started = Self {
            shape: Shape::draw(&mut random, tiny),
            random,
            counts,
            disk,
            db: None,
            committed: State::new(),
            last_id: 0,
            saved: Saved { id: 0, state: State::new() },
            unsaved: Vec::new(),
            durability: Durability::Immediate,
            readers: Vec::new(),
            growing: true,
            value_bytes_over,
            torn: false,
            builder,
            end,
        };
        let builder = started.any_builder();
        started.db = Some(started.disk.create(&builder)?);
        started.counts.add("open", "created");
        Ok(started)
    }

    pub(super) fn db(&self) -> &Database {
        self.db.as_ref().expect("the database is open between two steps")
    }

    pub(super) fn is_over(&self) -> bool {
        self.counts.total() >= self.end
    }

    /// One step: transactions, a sync, a compaction, a fault or a reopening, and what readers do around it.
    pub(super) fn step(&mut self) -> Result<(), Halt> {
        if self.random.chance(60) {
            self.growing = !self.growing;
        }
        let faults = usize::from(self.disk.simulation().is_some());
        match self.random.weighted(&[520, 200, 110 * faults, 70, 280 * faults, 60, 120]) {
            0 => self.transaction()?,
            1 => self.reopen()?,
            2 => self.full_disk().map_err(unexpected)?,
            3 => self.compact()?,
            5 => self.sync()?,
            6 => self.trickle()?,
            _ => self.failing_disk().map_err(unexpected)?,
        }
        self.turn_readers().map_err(unexpected)
    }

    /// Compares the last version with the model and closes the database.
    pub(super) fn finish(mut self) -> Result<(), Halt> {
        self.end_readers().map_err(unexpected)?;
        self.verify_committed()?;
        self.take_db().close()?;
        self.counts.add("close", "closed");
        Ok(())
    }

    /// The account of all space and every tree: exact after each transaction.
    pub(super) fn check(&mut self, ends_transaction: bool) -> Result<(), Halt> {
        let report = self.db().check_integrity()?;
        let (tables, rows) =
            (self.committed.len(), self.committed.values().map(|table| table.rows.len()).sum::<usize>());
        ensure!(
            (report.tables, report.rows) == (tables as u64, rows as u64),
            "the check counts {} tables and {} rows, expected {tables} and {rows}",
            report.tables,
            report.rows
        );
        ensure!(
            !ends_transaction || !self.readers.is_empty() || report.pending_units == 0,
            "{} units are pending though nothing reads",
            report.pending_units
        );
        self.counts.add("check_integrity", if report.pending_units > 0 { "exact, some pending" } else { "exact" });
        Ok(())
    }

    pub(super) fn verify_committed(&mut self) -> Result<(), Halt> {
        let snapshot = self.db().begin_read()?;
        verify(&snapshot, &self.committed).map_err(unexpected)
    }

    pub(super) fn take_db(&mut self) -> Database {
        self.db.take().expect("the database is open between two steps")
    }

    /// A cache from one that holds next to nothing to one that holds everything, and any durability.
    fn any_builder(&mut self) -> Builder {
        self.durability = any_durability(&mut self.random);
        let mut builder = self.builder.clone().durability(self.durability);
        if self.random.below(2) == 0 {
            // Checkpoints are under way while so many commits are made.
            builder = builder.test_checkpoint_lag(*self.random.pick(&[1, 2, 3, 7])).log_bytes_max(8 << 10);
        }
        builder.cache_bytes_max(*self.random.pick(&[0, 0, 4 << 10, 16 << 10, 64 << 10, 1 << 20, 16 << 20]))
    }

    /// Closes the database in one of many ways and opens it again.
    fn reopen(&mut self) -> Result<(), Halt> {
        let is_simulated = self.disk.simulation().is_some();
        match self.random.below(if is_simulated { 6 } else { 3 }) {
            0 => {
                self.end_readers().map_err(unexpected)?;
                self.take_db().close()?;
                self.counts.add("close", "closed");
                self.open_closed()
            }
            1 => {
                let snapshot = self.db().begin_read()?;
                let refused = self.take_db().close();
                ensure!(
                    matches!(refused, Err(CloseError::InUse(users)) if users > self.readers.len()),
                    "closing below a snapshot: {refused:?}"
                );
                self.counts.add("close", "in use");
                verify(&snapshot, &self.committed).map_err(unexpected)?;
                drop(snapshot);
                self.end_readers().map_err(unexpected)?;
                self.open_closed()
            }
            2 => {
                drop(self.take_db());
                self.end_readers().map_err(unexpected)?;
                self.counts.add("close", "dropped");
                self.open_closed()
            }
            3 => self.restart(),
            4 => self.crash(None),
            _ => {
                let refused = self.disk.open(&self.builder).err();
                ensure!(refused.as_ref().is_some_and(|error| error.is_locked()), "opened twice: {refused:?}");
                self.counts.add("open", "locked");
                Ok(())
            }
        }
    }

    /// Opens a database that was closed properly, some of them read-only first.
    fn open_closed(&mut self) -> Result<(), Halt> {
        if self.random.chance(400) {
            let db = self.disk.open_read_only(&self.builder)?;
            verify(&db.begin_read()?, &self.committed).map_err(unexpected)?;
            let refused = db.begin_write().err();
            ensure!(matches!(refused, Some(TransactionError::ReadOnly)), "wrote to a read-only database: {refused:?}");
            self.counts.add("open", "read-only");
        }
        // Closing keeps everything.
        self.all_is_saved();
        self.open_again("after closing")?;
        self.settle(None)?;
        let notes = self.db().open_notes();
        ensure!(self.torn || notes.is_empty(), "a database that was closed opens with notes: {notes:?}");
        self.verify_committed()?;
        self.check(true)
    }

    /// Opens the database on what the disk holds; what it holds is for the caller to compare.
    pub(super) fn open_again(&mut self, outcome: &'static str) -> Result<(), Halt> {
        let builder = self.any_builder();
        self.db = Some(self.disk.open(&builder)?);
        self.counts.add("open", outcome);
        Ok(())
    }

    /// Ends the process without closing anything.
    pub(super) fn restart(&mut self) -> Result<(), Halt> {
        self.end_readers().map_err(unexpected)?;
        let disk = self.disk.simulation().expect("only simulated disks restart").restart_process();
        self.disk = Disk::of(disk);
        drop(self.take_db());
        self.open_again("after the end of the process")?;
        self.settle(None)?;
        self.verify_committed()?;
        self.check(true)
    }

    /// Cuts the power, between transactions or while one is open, and goes on with what is found.
    pub(super) fn crash(&mut self, open: Option<WriteTransaction>) -> Result<(), Halt> {
        self.end_readers().map_err(unexpected)?;
        self.cut_power();
        let outcome = if open.is_some() { "after a power cut in a transaction" } else { "after a power cut" };
        drop(open);
        drop(self.take_db());
        self.open_again(outcome)?;
        self.settle(None)?;
        self.verify_committed()?;
        self.check(true)
    }

    /// Replaces the disk by one as it is found after a power cut now. The old one lives as long as its database.
    pub(super) fn cut_power(&mut self) {
        let disk = self.disk.simulation().expect("only simulated disks crash");
        let next = disk.next_operation();
        let plan = match self.random.below(3) {
            0 => CrashPlan::nothing(next),
            1 => CrashPlan::everything(next),
            _ => CrashPlan::seeded(next, self.random.next()),
        };
        let found = disk.crash_image(&plan);
        found.keep_history(false);
        self.disk = Disk::of(found);
    }
}
