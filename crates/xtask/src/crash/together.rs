//! Writers on several threads at once: which of them writes for whom is up to the threads.
//!
//! Invariant: moments are noted by whoever has the writer's turn, so in the order of their ids; operation numbers are taken
//! before the first operation of a commit and after the last that it waits for. The seed decides what is written, not in
//! which order, so such a history is judged as it was recorded, once.

use super::level::Level;
use super::record::{Failure, Recorder};
use super::script::{Step, fill};
use super::state::{Change, State};
use super::timeline::Moment;
use crate::random::Random;
use cowslip::Database;
use cowslip::sim::SimDisk;
use std::sync::{Mutex, MutexGuard};

/// What one of several writers does next.
#[derive(Debug, Clone)]
pub(super) enum Work {
    Commit(Level, Vec<Change>),
    Sync,
}

/// What the writers note.
struct Notes {
    moments: Vec<Moment>,
    current: State,
    /// The last moment whose commit has returned.
    returned: Option<usize>,
}

struct Writers<'w> {
    db: &'w Database,
    disk: &'w SimDisk,
    notes: Mutex<Notes>,
}

/// Rows that no other writer changes to the same, so that every commit changes something.
fn any_work(random: &mut Random) -> Work {
    if random.chance(120) {
        return Work::Sync;
    }
    let key = random.below_small(30);
    let (table, len) = match random.below(12) {
        0 => (random.below_small(4), 40),
        1 => (0, 1_500),
        _ => (random.below_small(2), 30 + random.below(40)),
    };
    Work::Commit(Level::any(random), fill(random, table, key..key + 1, len))
}

/// The workload.
pub(super) fn writers(random: &mut Random) -> Vec<Step> {
    let mut steps = vec![Step::Commit(fill(random, 0, 0..30, 50)), Step::Commit(fill(random, 1, 0..30, 50))];
    for _ in 0..4 {
        let threads = 2 + random.below(3);
        let parts = (0..threads).map(|_| (0..2 + random.below(4)).map(|_| any_work(random)).collect()).collect();
        steps.push(Step::Together(parts));
        match random.below(6) {
            0 => steps.push(Step::Close),
            1 => steps.push(Step::Kill),
            2 => steps.push(Step::Compact { steps_max: usize::MAX }),
            3 => steps.push(Step::Commit(fill(random, 1, 3..4, 20))),
            _ => {}
        }
    }
    steps.push(Step::Close);
    steps
}

impl Writers<'_> {
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().expect("no writer panicked, or the first one is reported")
    }

    fn write(&self, part: &[Work]) -> Result<(), Failure> {
        part.iter().try_for_each(|work| match work {
            Work::Commit(level, changes) => self.commit(*level, changes),
            Work::Sync => {
                let returned = self.notes().returned;
                self.db.sync()?;
                let next = self.disk.next_operation();
                if let Some(index) = returned {
                    self.notes().moments[index].acked.get_or_insert(next);
                }
                Ok(())
            }
        })
    }

    fn commit(&self, level: Level, changes: &[Change]) -> Result<(), Failure> {
        let tx = self.db.begin_write()?;
        let (begun, id, waits) = (self.disk.next_operation(), tx.id().get(), level.is_promise());
        let mut notes = self.notes();
        let mut state = notes.current.clone();
        changes.iter().try_for_each(|change| state.change(&tx, change))?;
        notes.current = state.clone();
        let index = notes.moments.len();
        notes.moments.push(Moment { id, state, waits, begun, seen: None, acked: None, withdrawn: None });
        drop(notes);
        let committed = level.commit(tx)?;
        let next = self.disk.next_operation();
        if committed != id {
            return Err(format!("a commit that changed something returned version {committed}, not {id}").into());
        }
        let seen = self.db.begin_read()?.id().get();
        if seen < id {
            return Err(format!("after commit {id} readers see version {seen}").into());
        }
        let mut notes = self.notes();
        notes.returned = notes.returned.max(Some(index));
        notes.moments[index].seen = Some(next);
        if waits {
            notes.moments[index].acked.get_or_insert(next);
        }
        Ok(())
    }
}

impl Recorder<'_> {
    /// Lets each part be written by a thread of its own.
    pub(super) fn together(&mut self, parts: &[Vec<Work>]) -> Result<(), Failure> {
        let (db, disk) = (self.database()?.clone(), self.timeline.disk.clone());
        let notes = Notes { moments: Vec::new(), current: self.current.clone(), returned: None };
        let writers = Writers { db: &db, disk: &disk, notes: Mutex::new(notes) };
        let outcomes: Vec<Result<(), String>> = std::thread::scope(|scope| {
            let write = |part| writers.write(part).map_err(|error| error.to_string());
            let threads: Vec<_> = parts.iter().map(|part| scope.spawn(move || write(part))).collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, _>| thread.join().expect("a writer panicked");
            threads.into_iter().map(join).collect()
        });
        let mut notes = writers.notes.into_inner()?;
        self.commits_undisturbed += u32::try_from(notes.moments.iter().filter(|moment| moment.waits).count())?;
        self.timeline.moments.append(&mut notes.moments);
        self.in_flight = outcomes.iter().any(Result::is_err);
        outcomes.into_iter().collect::<Result<(), String>>()?;
        self.current = notes.current;
        let (id, found) = State::of_database(self.database()?)?;
        if found == self.current {
            return Ok(());
        }
        Err(format!("after all writers, version {id}: {}", found.difference(&self.current)).into())
    }
}
