//! Compaction of the database that is being recorded.
//!
//! Invariant: each of its commits is a moment of its own, and all of them have the state from before.

use super::audit::is_slot;
use super::record::{Failure, Recorder};
use super::state::State;
use super::timeline::Moment;
use cowslip::sim::SimDisk;
use cowslip::{CompactionError, Database};
use std::ops::ControlFlow;

/// The commits of a compaction as they come: the last moment is the next commit, which may never be.
struct Watch<'s> {
    state: &'s State,
    moments: Vec<Moment>,
}

impl Watch<'_> {
    fn expect(&mut self, id: u64, begun: u64) {
        self.moments.push(Moment {
            id,
            state: self.state.clone(),
            waits: true,
            begun,
            seen: None,
            acked: None,
            withdrawn: None,
        });
    }

    /// A step has ended, or compaction has. Commits that only let the older slot go come without a report.
    fn step(&mut self, db: &Database, disk: &SimDisk) -> Result<(), Failure> {
        let (id, begun) = (self.newest(db)?, self.expected()?.begun);
        if self.expected()?.id > id {
            return Ok(());
        }
        let operations: Vec<_> = disk.operations().into_iter().filter(|done| done.number >= begun).collect();
        // The slot, the header and their sync: from the next operation on the commit is safe.
        let commits = operations.windows(3).filter(|done| is_slot(&done[0].kind) && done.iter().all(|it| it.succeeded));
        let safe: Vec<u64> = commits.map(|done| done[2].number + 1).collect();
        // The slot by which the log was given up may be of the version before.
        let versions = usize::try_from(id + 1 - self.expected()?.id)?;
        let mut safe = safe.into_iter().rev().take(versions).rev();
        while self.expected()?.id <= id {
            let acked = safe.next().ok_or("a version came without a slot")?;
            let expected = self.expected()?;
            (expected.seen, expected.acked) = (Some(acked), Some(acked));
            let next_id = expected.id + 1;
            self.expect(next_id, acked);
        }
        Ok(())
    }

    fn expected(&mut self) -> Result<&mut Moment, Failure> {
        self.moments.last_mut().ok_or_else(|| "a commit is always expected".into())
    }

    /// The newest version, which must show what was there before.
    fn newest(&self, db: &Database) -> Result<u64, Failure> {
        let (id, found) = State::of_database(db)?;
        if found == *self.state {
            return Ok(id);
        }
        Err(format!("compaction changed version {id}: {}", found.difference(self.state)).into())
    }
}

impl Recorder<'_> {
    /// Compacts, and ends it after so many steps. What was compacted whole, and is read by nobody, stays as it is the
    /// second time.
    pub(super) fn compact(&mut self, steps_max: usize) -> Result<(), Failure> {
        let (db, disk, state) = (self.database()?.clone(), self.timeline.disk.clone(), self.current.clone());
        let mut watch = Watch { state: &state, moments: Vec::new() };
        // After a crash ids go on further up.
        let next_id = db.begin_write().map_or(db.begin_read()?.id().get() + 1, |tx| tx.id().get());
        watch.expect(next_id, disk.next_operation());
        let (mut steps, mut wrong) = (0, None);
        let outcome = db.compact_with(|_| {
            steps += 1;
            wrong = wrong.take().or(watch.step(&db, &disk).err());
            if steps < steps_max && wrong.is_none() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        let last = watch.step(&db, &disk);
        let is_certain = outcome.is_ok() || matches!(outcome, Err(CompactionError::Pinned { .. }));
        if is_certain {
            watch.moments.pop();
        }
        self.in_flight = !is_certain;
        self.commits_undisturbed +=
            u32::try_from(watch.moments.iter().filter(|moment| moment.acked.is_some()).count())?;
        self.timeline.moments.append(&mut watch.moments);
        wrong.or(last.err()).map_or(Ok(()), Err)?;
        match outcome {
            Ok(_) if steps < steps_max && self.readers.is_empty() => self.require_packed(),
            Ok(_) => Ok(()),
            Err(CompactionError::Pinned { .. }) if !self.readers.is_empty() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn require_packed(&self) -> Result<(), Failure> {
        let next = self.next();
        let is_changed = self.database()?.compact()?;
        match self.next() - next {
            0 if !is_changed => Ok(()),
            operations => Err(format!("compacted again in {operations} operations, changed: {is_changed}").into()),
        }
    }
}
