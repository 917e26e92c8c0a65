//! Runs a workload on a simulated disk, with at most one disturbance, and writes down which state was safe when.

use super::level::Level;
use super::mortal::Mortal;
use super::script::{Script, Step};
use super::state::{Change, State};
use super::timeline::{Disturbance, Moment, Session, Timeline, is_noted};
use cowslip::sim::{Fault, SimDisk};
use cowslip::{Database, OpenNote, ReadTransaction};
use std::io::ErrorKind;

/// A log that does not grow has its checkpoints soon.
const LOG_BYTES_MAX: u64 = 8 << 10;

/// Steps that follow a disturbance.
const STEPS_AFTER: usize = 4;

/// A byte of the fields of block 0 that never change.
const FORMAT_FIELD_OFFSET: u64 = 30;

pub(super) type Failure = Box<dyn std::error::Error>;

pub(super) struct Recorder<'s> {
    script: &'s Script,
    pub(super) timeline: Timeline,
    db: Option<Database>,
    pub(super) readers: Vec<(ReadTransaction, State)>,
    /// The state that the next transaction builds on.
    pub(super) current: State,
    /// The disturbance has come.
    disturbed: bool,
    /// Commits since the beginning or the disturbance.
    pub(super) commits_undisturbed: u32,
    /// The last moment is that of a commit that has not returned, or that failed.
    pub(super) in_flight: bool,
}

/// Runs the workload; an error is a violation.
pub(super) fn record(script: &Script, disturbance: Disturbance) -> Result<Timeline, String> {
    let timeline = Timeline {
        label: format!("workload {} with seed {}", script.name, script.seed),
        setup: script.setup,
        disk: SimDisk::new(),
        moments: vec![Moment {
            id: 0,
            state: State::default(),
            waits: true,
            begun: 0,
            seen: None,
            acked: None,
            withdrawn: None,
        }],
        sessions: Vec::new(),
        created: u64::MAX,
        first: 1,
        disturbance,
    };
    let mut recorder = Recorder {
        script,
        timeline,
        db: None,
        readers: Vec::new(),
        current: State::default(),
        disturbed: disturbance == Disturbance::None,
        commits_undisturbed: 0,
        in_flight: false,
    };
    recorder.run().map_err(|error| format!("{}: {error}", recorder.timeline.describe()))?;
    // Dropping the last handle would close the database, which is a step of its own.
    recorder.die();
    Ok(recorder.timeline)
}

impl Recorder<'_> {
    pub(super) fn next(&self) -> u64 {
        self.timeline.disk.next_operation()
    }

    fn run(&mut self) -> Result<(), Failure> {
        self.plan_fault();
        self.tolerate(Self::open)?;
        let mut left = usize::MAX;
        for (number, step) in self.script.steps.iter().enumerate() {
            let was_disturbed = self.disturbed;
            self.tolerate(|recorder| recorder.step(number, step)).map_err(|error| format!("step {number}: {error}"))?;
            if !was_disturbed && self.disturbed {
                left = STEPS_AFTER;
            } else if left == 0 {
                break;
            }
            left -= 1;
        }
        Ok(())
    }

    fn plan_fault(&mut self) {
        let fault = match self.timeline.disturbance {
            Disturbance::None | Disturbance::Kill(_) => return,
            Disturbance::KillAfterLoss(operation) => Fault::LostWrite { operation },
            Disturbance::FailSync(sync, None) => Fault::FailSync { sync },
            Disturbance::FailSync(sync, Some(seed)) => Fault::FailSyncPartly { sync, seed },
            Disturbance::FailOperation(operation) => Fault::FailOperation { operation, kind: ErrorKind::Other },
            Disturbance::Full(operation) => Fault::FailOperation { operation, kind: ErrorKind::StorageFull },
            Disturbance::ShortWrite(operation) => Fault::ShortWrite { operation },
        };
        self.timeline.disk.inject(fault);
    }

    /// Takes the one failure that the disturbance explains, and goes on in a new process.
    fn tolerate(&mut self, step: impl FnOnce(&mut Self) -> Result<(), Failure>) -> Result<(), Failure> {
        match step(self) {
            Err(_) if !self.disturbed => {
                self.disturbed = true;
                self.commits_undisturbed = 0;
                self.timeline.first = self.next().saturating_sub(2).max(1);
                self.timeline.disk.clear_faults();
                if let Disturbance::Full(_) = self.timeline.disturbance {
                    return self.go_on();
                }
                self.try_on()?;
                self.die();
                self.open().map_err(|error| format!("in the process after the disturbance: {error}").into())
            }
            outcome => outcome,
        }
    }

    /// Running out of space aborts one transaction and harms nothing: the same process goes on.
    fn go_on(&mut self) -> Result<(), Failure> {
        let next = self.next();
        if std::mem::take(&mut self.in_flight)
            && let Some(last) = self.timeline.moments.last_mut()
        {
            last.withdrawn = Some(next);
        }
        self.database()?.check_integrity()?;
        let (id, found) = State::of_database(self.database()?)?;
        if found == self.current {
            return Ok(());
        }
        Err(format!("an abort for lack of space changed version {id}: {}", found.difference(&self.current)).into())
    }

    /// A handle on which a write failed must write nothing any more, neither a commit nor when it is closed.
    fn try_on(&mut self) -> Result<(), Failure> {
        self.readers.clear();
        let Some(db) = self.db.take() else { return Ok(()) };
        let next = self.next();
        let commit = || -> Result<(), cowslip::Error> {
            let tx = db.begin_write()?;
            self.current.clone().change(&tx, &Change::Put { table: 0, key: 0, len: 10, fill: 0 })?;
            tx.commit()?;
            Ok(())
        };
        let committed = commit().is_ok();
        drop(db);
        let written = self.next() - next;
        if committed || written > 0 {
            return Err(format!("after a failed write the handle goes on, {written} operations long").into());
        }
        Ok(())
    }

    /// The process ends without closing.
    fn die(&mut self) {
        self.timeline.disk = self.timeline.disk.restart_process();
        self.readers.clear();
        self.db = None;
    }

    /// Opens the database, and finds out which state the process before left.
    fn open(&mut self) -> Result<(), Failure> {
        let dies_at = match self.timeline.disturbance {
            Disturbance::Kill(operation) if !self.disturbed => operation,
            Disturbance::KillAfterLoss(operation) if !self.disturbed => operation + 2,
            _ => u64::MAX,
        };
        let storage = Mortal { disk: self.timeline.disk.clone(), dies_at };
        let session = u8::try_from(self.timeline.sessions.len() + 1).unwrap_or(u8::MAX);
        let mut builder = self.script.setup.builder(session);
        if self.script.seed % 2 == 1 {
            // Checkpoints are under way while so many commits are made.
            let lag_commits = 1 + u32::try_from(self.script.seed / 2 % 5).unwrap_or(0);
            builder = builder.test_checkpoint_lag(lag_commits).log_bytes_max(LOG_BYTES_MAX);
        }
        let db = if self.timeline.created == u64::MAX {
            builder.create_with_storage(storage)?
        } else {
            builder.open_with_storage(storage)?
        };
        let next = self.next();
        self.timeline.created = self.timeline.created.min(next);
        let began_clean = !is_noted(db.open_notes());
        self.timeline.sessions.push(Session { opened: next, closing: None, closed: None, began_clean });
        if db.open_notes().iter().any(|note| matches!(note, OpenNote::HeaderDamaged { .. })) {
            if db.begin_write().is_ok() {
                return Err("a damaged header did not keep a transaction from beginning".into());
            }
            self.db = Some(db);
            let db = self.db.as_ref().expect("set above");
            // What only memory had may need room, which a full device has at the second time.
            db.repair_header().or_else(|error| match error.is_out_of_space() {
                true => db.repair_header(),
                false => Err(error),
            })?;
        } else {
            self.db = Some(db);
        }
        self.in_flight = false;
        self.settle(next)
    }

    /// Decides what became of commits that never returned: the state that is found now is safe from `next` on.
    fn settle(&mut self, next: u64) -> Result<(), Failure> {
        let db = self.db.as_ref().expect("the database was just opened");
        let (id, state) = State::of_database(db)?;
        let moments = &mut self.timeline.moments;
        let least = moments.iter().rposition(|moment| moment.acked.is_some()).unwrap_or(0);
        let open = |moment: &Moment| moment.withdrawn.is_none() && moment.is_shown_by(id, &state);
        let is_taken = moments.iter().any(|moment| moment.contradicts(id, &state, next));
        // Of two with one state the one that has the id itself is meant.
        let exact = (least..moments.len()).find(|index| open(&moments[*index]) && moments[*index].id == id);
        let shown = || (least..moments.len()).find(|index| open(&moments[*index])).filter(|_| !is_taken);
        let Some(found) = exact.or_else(shown) else {
            let newest = &moments[least];
            let difference = state.difference(&newest.state);
            let expected = newest.id;
            return Err(format!("opened version {id}, at least {expected} was safe: {difference}").into());
        };
        moments[found].acked.get_or_insert(next);
        for lost in &mut moments[found + 1..] {
            lost.withdrawn.get_or_insert(next);
        }
        self.current = state;
        Ok(())
    }

    fn step(&mut self, number: usize, step: &Step) -> Result<(), Failure> {
        match step {
            Step::Commit(changes) => self.commit(changes, self.script.level(number)),
            Step::Together(parts) => self.together(parts),
            Step::Sync => self.sync(),
            Step::Abort(changes) => {
                let tx = self.database()?.begin_write()?;
                let mut state = self.current.clone();
                changes.iter().try_for_each(|change| state.change(&tx, change))?;
                Ok(tx.abort()?)
            }
            Step::Pin => {
                let tx = self.database()?.begin_read()?;
                self.readers.push((tx, self.current.clone()));
                Ok(())
            }
            Step::Unpin => {
                let index = self.readers.len() / 2;
                if index < self.readers.len() {
                    let (tx, state) = self.readers.remove(index);
                    verify_reader(&tx, &state)?;
                }
                Ok(())
            }
            Step::Compact { steps_max } => self.compact(*steps_max),
            Step::Close => self.close(),
            Step::Kill => {
                self.die();
                self.open()
            }
            Step::Decay => {
                self.die();
                // Decay is survived only where both slots are valid.
                if self.commits_undisturbed >= 2 {
                    self.timeline.disk.flip_bit(FORMAT_FIELD_OFFSET, 3)?;
                }
                self.open()
            }
        }
    }

    pub(super) fn database(&self) -> Result<&Database, Failure> {
        self.db.as_ref().ok_or_else(|| "the database is not open".into())
    }

    fn commit(&mut self, changes: &[Change], level: Level) -> Result<(), Failure> {
        let begun = self.next();
        let tx = self.database()?.begin_write()?;
        let mut state = self.current.clone();
        changes.iter().try_for_each(|change| state.change(&tx, change))?;
        let (id, waits) = (tx.id().get(), level.is_promise());
        self.timeline.moments.push(Moment {
            id,
            state: state.clone(),
            waits,
            begun,
            seen: None,
            acked: None,
            withdrawn: None,
        });
        self.in_flight = true;
        let committed = level.commit(tx)?;
        self.in_flight = false;
        if committed == id {
            let next = self.next();
            let moment = self.timeline.moments.last_mut().expect("pushed above");
            moment.seen = Some(next);
            moment.acked = waits.then_some(next);
            self.commits_undisturbed += u32::from(waits);
        } else {
            self.timeline.moments.pop();
            if state != self.current {
                return Err(format!("a commit that changed something returned version {committed}, not {id}").into());
            }
        }
        self.current = state;
        let (found_id, found) = State::of_database(self.database()?)?;
        if found != self.current || found_id != committed {
            return Err(format!("after commit {committed}: {}", found.difference(&self.current)).into());
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Failure> {
        self.database()?.sync()?;
        let next = self.next();
        self.ack_newest(next);
        self.database()?.sync()?;
        if self.next() == next { Ok(()) } else { Err("a second sync wrote something".into()) }
    }

    /// Everything that is committed is durable from this operation on.
    fn ack_newest(&mut self, next: u64) {
        let newest = self.timeline.moments.iter_mut().rfind(|moment| moment.withdrawn.is_none());
        newest.expect("creation is a moment").acked.get_or_insert(next);
    }

    fn close(&mut self) -> Result<(), Failure> {
        for (tx, state) in self.readers.drain(..) {
            verify_reader(&tx, &state)?;
        }
        self.database()?.check_integrity()?;
        let next = self.next();
        self.timeline.sessions.last_mut().expect("a session is open").closing = Some(next);
        self.db.take().ok_or("the database is not open")?.close()?;
        let next = self.next();
        self.timeline.sessions.last_mut().expect("a session is open").closed = Some(next);
        self.ack_newest(next);
        self.open()?;
        let clean = self.timeline.sessions.last().is_some_and(|session| session.began_clean);
        if clean { Ok(()) } else { Err("a database that was closed opened with notes".into()) }
    }
}

fn verify_reader(tx: &ReadTransaction, state: &State) -> Result<(), Failure> {
    let found = State::of_snapshot(tx)?;
    if found == *state {
        return Ok(());
    }
    Err(format!("the snapshot of version {} changed: {}", tx.id().get(), found.difference(state)).into())
}
