//! What transactions of the model wait for, and which states a crash may leave because of that.
//!
//! Invariant: a crash leaves one of the states from the last that was promised to be durable on, with the id that it had.

use super::data::State;
use super::episode::Episode;
use super::halt::{Halt, ensure};
use super::readers::verify;
use super::transaction::unexpected;
use super::typed;
use crate::random::Random;
use crate::wait::block_on;
use cowslip::{CommitError, Durability, TransactionId, WriteTransaction};
use std::time::Duration;

/// Nothing is written because time went by.
pub(super) const SYNC_DELAY_MAX: Duration = Duration::from_secs(3600);

/// A commit that returned.
#[derive(Debug, Clone, Copy)]
pub(super) struct Committed {
    pub(super) id: TransactionId,
    /// No crash loses it, nor any before it.
    pub(super) is_promise: bool,
}

/// A state that was committed, and the id of its version.
#[derive(Debug, Clone)]
pub(super) struct Saved {
    pub(super) id: u64,
    pub(super) state: State,
}

/// After an end without closing ids go on so much further up.
const IDS_AHEAD: u64 = 1 << 24;

/// Whether an id follows another at once: a checkpoint takes one where the slot has the id of trees that are not all.
fn is_next(id: u64, next: u64) -> bool {
    next == id + 1 || next == id + IDS_AHEAD
}

pub(super) fn any_durability(random: &mut Random) -> Durability {
    [Durability::Immediate, Durability::Buffered, Durability::None][random.weighted(&[50, 35, 15])]
}

impl Episode<'_> {
    /// Begins a write transaction in one of three ways. No other one runs.
    pub(super) fn begin_any(&mut self) -> Result<WriteTransaction, cowslip::TransactionError> {
        let begun = match self.random.below(4) {
            0 => self.db().try_begin_write()?,
            1 => self.db().begin_write_timeout(Duration::from_secs(3600))?,
            _ => Some(self.db().begin_write()?),
        };
        let begun = begun.expect("nobody else has the writer's turn");
        // Where the disk is full, a checkpoint may have come before it.
        self.see_checkpoint(self.db().begin_read()?.id().get());
        Ok(begun)
    }

    /// Takes over the id that a checkpoint gave to what was there before.
    pub(super) fn see_checkpoint(&mut self, id: u64) {
        if is_next(self.last_id, id) {
            self.counts.add("checkpoint", "took an id");
            self.saved_as(id);
        }
    }

    /// While a transaction runs no other one begins.
    pub(super) fn refuse_second(&mut self) -> Result<(), Halt> {
        let timeout = if self.random.chance(900) { Duration::ZERO } else { Duration::from_micros(300) };
        let (tried, waited) = (self.db().try_begin_write()?, self.db().begin_write_timeout(timeout)?);
        ensure!(tried.is_none() && waited.is_none(), "a second write transaction began: {tried:?}, {waited:?}");
        self.counts.add("try_begin_write", "another runs");
        Ok(())
    }

    /// Commits with any durability, on this thread or by a future.
    pub(super) fn commit_any(&mut self, mut transaction: WriteTransaction) -> Result<Committed, CommitError> {
        let mut durability = self.durability;
        if self.random.chance(600) {
            durability = any_durability(&mut self.random);
            transaction.set_durability(durability).expect("no level is refused");
        }
        transaction.set_two_phase_commit(self.random.chance(80));
        let is_async = self.random.chance(250);
        let id = if is_async { block_on(transaction.commit_async())? } else { transaction.commit()? };
        self.counts.add(
            if is_async { "commit_async" } else { "commit" },
            match durability {
                Durability::Immediate => "immediate",
                Durability::Buffered => "buffered",
                _ => "none",
            },
        );
        Ok(Committed { id, is_promise: durability == Durability::Immediate })
    }

    /// Commits a few changes one after another, most of them so small that the log tells of them, and then often loses some.
    pub(super) fn trickle(&mut self) -> Result<(), Halt> {
        for _ in 0..self.random.between(2, 8) {
            let mut staged = self.committed.clone();
            let Some(name) = self.present_name(&staged) else { break };
            let table = staged.get_mut(&name).expect("the name is one of the tables");
            let transaction = self.begin_any()?;
            let own = transaction.id();
            let mut rows = typed::open_writable(&transaction, &name, table.kind)?;
            self.change_row(&mut *rows, table).map_err(unexpected)?;
            drop(rows);
            let committed = self.commit_any(transaction)?;
            self.accept(own, committed, staged)?;
        }
        let is_simulated = self.disk.simulation().is_some();
        match self.random.below(8) {
            0..=2 if is_simulated => self.crash(None),
            3 if is_simulated => self.restart(),
            4 => self.sync(),
            _ => self.check(true),
        }
    }

    /// Takes over what a commit made visible, and maybe durable.
    pub(super) fn accept(&mut self, own: TransactionId, committed: Committed, staged: State) -> Result<(), Halt> {
        let (own, id) = (own.get(), committed.id.get());
        if id == self.last_id {
            ensure!(staged == self.committed, "a transaction that changed rows committed nothing");
        } else {
            ensure!(id == own && id > self.last_id, "committed {id}, announced {own}, before {}", self.last_id);
            self.unsaved.push(Saved { id, state: staged.clone() });
            self.last_id = id;
            self.committed = staged;
            if committed.is_promise {
                self.all_is_saved();
            }
        }
        let seen = self.db().begin_read()?.id().get();
        ensure!(seen == id, "readers see {seen} after the commit of {id}");
        Ok(())
    }

    /// Everything that is committed is durable now. What a failed commit left half written is written over if anything was
    /// to be written for that.
    pub(super) fn all_is_saved(&mut self) {
        self.torn &= self.unsaved.is_empty();
        self.unsaved.clear();
        self.saved = Saved { id: self.last_id, state: self.committed.clone() };
    }

    /// A version appeared that shows what was there before; it is durable.
    pub(super) fn saved_as(&mut self, id: u64) {
        self.unsaved.push(Saved { id, state: self.committed.clone() });
        self.last_id = id;
        self.all_is_saved();
    }

    /// Takes over what the database shows after it was lost: something between what was promised and what was committed, or
    /// the commit in doubt.
    pub(super) fn settle(&mut self, doubtful: Option<State>) -> Result<(), Halt> {
        let id = self.db().begin_read()?.id().get();
        let (newest, was_doubtful) = (self.last_id, doubtful.is_some());
        // The id of a commit in doubt may also be one that the opening gave to what was there before.
        let snapshot = self.db().begin_read()?;
        let shows = |state: &State| verify(&snapshot, state).is_ok();
        let doubtful = doubtful.filter(|state| id > newest && shows(state)).map(|state| Saved { id, state });
        let known: Vec<&Saved> = [&self.saved].into_iter().chain(&self.unsaved).chain(&doubtful).collect();
        let by_id = |is: &dyn Fn(u64) -> bool| known.iter().rfind(|saved| is(saved.id)).map(|saved| (*saved).clone());
        let found = by_id(&|known| known == id).or_else(|| by_id(&|known| is_next(known, id)));
        let found = found.map(|saved| Saved { id, ..saved });
        let Some(found) = found else {
            let unsaved: Vec<u64> = self.unsaved.iter().map(|saved| saved.id).collect();
            let promised = self.saved.id;
            return Err(Halt::Mismatch(format!("found version {id}, promised was {promised}, committed {unsaved:?}")));
        };
        if was_doubtful {
            self.counts.add("commit in doubt", if doubtful.is_some() { "was kept" } else { "was lost" });
        }
        if !self.unsaved.is_empty() {
            let is_newest = id >= newest;
            self.counts.add(
                "commits that nothing promised",
                if is_newest {
                    "all kept"
                } else if id == self.saved.id {
                    "all lost"
                } else {
                    "some kept"
                },
            );
        }
        (self.last_id, self.committed) = (found.id, found.state.clone());
        self.unsaved.clear();
        self.saved = found;
        Ok(())
    }

    /// Syncs, and a second time, which must write nothing.
    pub(super) fn sync(&mut self) -> Result<(), Halt> {
        self.db().sync()?;
        self.counts.add("sync", if self.unsaved.is_empty() { "all was promised" } else { "some was not" });
        self.see_checkpoint(self.db().begin_read()?.id().get());
        self.all_is_saved();
        let operation = self.disk.simulation().map(|disk| disk.next_operation());
        self.db().sync()?;
        let after = self.disk.simulation().map(|disk| disk.next_operation());
        ensure!(operation == after, "a second sync wrote something");
        self.verify_committed()?;
        self.check(true)
    }

    /// Syncs on a disk without room, where it may fail and harms nothing.
    pub(super) fn sync_without_room(&mut self) -> Result<(), Halt> {
        let outcome = match self.db().sync() {
            Ok(()) => {
                self.see_checkpoint(self.db().begin_read()?.id().get());
                self.all_is_saved();
                "had room"
            }
            Err(error) if error.is_out_of_space() => "no room",
            Err(error) => return Err(error.into()),
        };
        self.counts.add("sync without room", outcome);
        self.verify_committed()?;
        self.check(true)
    }
}
