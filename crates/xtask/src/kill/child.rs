//! The process that is killed: it opens the database and writes until it dies, telling what it does.
//!
//! Invariant: nothing is told before it is so, and nothing that failed is told as done.

use super::account::Line;
use super::plan::{Beginning, CommitOptions, Ending, LANES, Plan};
use crate::Result;
use crate::random::Random;
use crate::wait::block_on;
use clap::ValueEnum;
use cowslip::{
    Access, CommitFuture, CompactionError, CreateMode, Database, FileStorage, LockMode, Storage, SyncKind, WriteMode,
    WriteTransaction,
};
use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What the failure of a child starts with whose store panicked.
pub(super) const PANIC: &str = "panic";

/// Exit code of a child whose store failed.
const FAILED: i32 = 3;

/// Outcomes that a lane lets others tell it later.
const UNAWAITED_MAX: usize = 4;

/// How long a beginning waits before it is tried again.
const BEGINNING_TIMEOUT: Duration = Duration::from_millis(3);

const TRY_PAUSE: Duration = Duration::from_micros(100);

/// Apart from all plans.
const SETUP_SEED: u64 = 0x5E7_0000;

/// A fault that the checks must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fault {
    /// Commits are acknowledged before they are made.
    EarlyAck,
    /// The storage makes nothing durable, once the database is open.
    SkippedSync,
}

impl Fault {
    pub(crate) fn argument(self) -> &'static str {
        match self {
            Self::EarlyAck => "early-ack",
            Self::SkippedSync => "skipped-sync",
        }
    }
}

/// How a round is run, by its number alone.
#[derive(Debug, Clone)]
struct Setup {
    lanes: Vec<usize>,
    cache_bytes: usize,
    /// Writes go past the page cache.
    direct: bool,
    sync_delay_max: Duration,
}

impl Setup {
    fn at(seed: u64, round: u64) -> Self {
        let mut random = Random::at(seed ^ SETUP_SEED, round);
        let count = if random.chance(400) { 1 } else { random.between(2, LANES) };
        let lanes = random.sample((0..LANES).collect(), count);
        let cache_bytes = *random.pick(&[512 << 10, 4 << 20, 64 << 20]);
        let direct = random.chance(500);
        let sync_delay_max = *random.pick(&[Duration::ZERO, Duration::from_millis(5), Duration::from_secs(3600)]);
        Self { lanes, cache_bytes, direct, sync_delay_max }
    }
}

/// A storage that can be told to make nothing durable any more.
#[derive(Debug)]
struct Forgetful<S> {
    storage: S,
    skips_syncs: Arc<AtomicBool>,
}

impl<S: Storage> Storage for Forgetful<S> {
    fn len(&self) -> io::Result<u64> {
        self.storage.len()
    }

    fn read_at(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<()> {
        self.storage.read_at(offset, buffers)
    }

    fn read_ahead(&self, offset: u64, len_bytes: u64) {
        self.storage.read_ahead(offset, len_bytes);
    }

    fn write_at(&self, offset: u64, buffers: &[IoSlice<'_>], mode: WriteMode) -> io::Result<()> {
        let mode = if self.skips_syncs.load(Ordering::Relaxed) { WriteMode::Plain } else { mode };
        self.storage.write_at(offset, buffers, mode)
    }

    fn writes_at_once(&self) -> usize {
        self.storage.writes_at_once()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.storage.set_len(len)
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        self.storage.preallocate(len)
    }

    fn sync(&self, kind: SyncKind) -> io::Result<()> {
        if self.skips_syncs.load(Ordering::Relaxed) { Ok(()) } else { self.storage.sync(kind) }
    }

    fn lock(&self, mode: LockMode) -> io::Result<()> {
        self.storage.lock(mode)
    }

    fn unlock(&self) -> io::Result<()> {
        self.storage.unlock()
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.storage.drop_cache()
    }
}

/// The number of the first transaction of a round; those of one round do not come to that of the next.
fn first_number(round: u64) -> u64 {
    round << 24
}

/// Writes until the process is killed. Returns only where that cannot go on.
pub(super) fn run(path: &Path, seed: u64, round: u64, fault: Option<Fault>) -> Result<bool> {
    // Told at once: whoever strikes now would otherwise not hear of it, whichever thread of the store it was.
    std::panic::set_hook(Box::new(|panic| fail(&format!("{PANIC}: {panic}"))));
    Line::Opening.say()?;
    let setup = Setup::at(seed, round);
    let database = match open(path, &setup, fault) {
        Ok(database) => database,
        Err(error) => fail(&format!("opening: {error}")),
    };
    Line::Opened.say()?;
    std::thread::scope(|scope| {
        for lane in setup.lanes {
            let database = &database;
            scope.spawn(move || {
                // A thread that ends alone would be overlooked among those that go on.
                match write(database, seed, round, lane, fault) {
                    Ok(()) => fail("a writer ended"),
                    Err(error) => fail(&error.to_string()),
                }
            });
        }
    });
    Ok(false)
}

/// Ends the process; the parent is told, if it still listens.
fn fail(why: &str) -> ! {
    if let Err(error) = Line::Failed(why.to_owned()).say() {
        eprintln!("{why}, and nobody listens: {error}");
    }
    std::process::exit(FAILED)
}

fn open(path: &Path, setup: &Setup, fault: Option<Fault>) -> Result<Database> {
    let (file, _) = FileStorage::open(path, CreateMode::CreateOrOpen, Access::ReadWrite, setup.direct)?;
    let builder = Database::builder().cache_bytes_max(setup.cache_bytes).sync_delay_max(setup.sync_delay_max);
    // A log that does not grow has its checkpoints soon.
    let builder = builder.log_bytes_max(128 << 10);
    if fault != Some(Fault::SkippedSync) {
        return Ok(builder.create_with_storage(file)?);
    }
    let skips_syncs = Arc::new(AtomicBool::new(false));
    let database = builder.create_with_storage(Forgetful { storage: file, skips_syncs: Arc::clone(&skips_syncs) })?;
    // The database itself is durable, so it is commits that get lost.
    skips_syncs.store(true, Ordering::Relaxed);
    Ok(database)
}

fn begin(database: &Database, options: CommitOptions) -> Result<WriteTransaction> {
    let mut tx = loop {
        let begun = match options.beginning {
            Beginning::Wait => Some(database.begin_write()?),
            Beginning::Try => database.try_begin_write()?,
            Beginning::Timeout => database.begin_write_timeout(BEGINNING_TIMEOUT)?,
        };
        match begun {
            Some(tx) => break tx,
            None => std::thread::sleep(TRY_PAUSE),
        }
    };
    tx.set_durability(options.durability)?;
    tx.set_two_phase_commit(options.is_two_phase);
    Ok(tx)
}

/// One of the writers.
struct Lane<'d> {
    database: &'d Database,
    lane: usize,
    fault: Option<Fault>,
    unawaited: VecDeque<(u64, CommitFuture)>,
}

/// One writer.
fn write(database: &Database, seed: u64, round: u64, lane: usize, fault: Option<Fault>) -> Result<()> {
    let mut snapshot = None;
    let mut writer = Lane { database, lane, fault, unawaited: VecDeque::new() };
    for number in first_number(round)..first_number(round + 1) {
        let plan = Plan::at(seed, lane, number);
        if plan.takes_snapshot {
            snapshot = if snapshot.is_none() { Some(database.begin_read()?) } else { None };
        }
        match plan.ending {
            Ending::Compact(steps) => {
                Line::Compacting(lane, number).say()?;
                compact(database, steps)?;
                Line::Compacted(lane, number).say()?;
            }
            Ending::Sync => {
                Line::Syncing(lane, number).say()?;
                database.sync()?;
                Line::Synced(lane, number).say()?;
            }
            Ending::Commit | Ending::Abort => writer.transact(&plan, number)?,
        }
    }
    Ok(())
}

impl Lane<'_> {
    fn transact(&mut self, plan: &Plan, number: u64) -> Result<()> {
        let (lane, is_early) = (self.lane, self.fault == Some(Fault::EarlyAck));
        let tx = begin(self.database, plan.options)?;
        Line::Begin(lane, number, tx.id().get()).say()?;
        plan.write(lane, number, &tx)?;
        if plan.ending == Ending::Abort {
            // Told first: the next one, of another lane, may have the same id.
            Line::Abort(lane, number).say()?;
            tx.abort()?;
            return Ok(());
        }
        Line::Commit(lane, number).say()?;
        if is_early {
            Line::Ack(lane, number).say()?;
        }
        if plan.options.is_async {
            self.unawaited.push_back((number, tx.commit_async()));
            return self.await_all(UNAWAITED_MAX);
        }
        tx.commit()?;
        if !is_early {
            Line::Ack(lane, number).say()?;
        }
        // Before the lane waits for others, or long after, as it comes.
        if plan.takes_snapshot { self.await_all(0) } else { Ok(()) }
    }

    /// Awaits the oldest outcomes until only so many are left.
    fn await_all(&mut self, left: usize) -> Result<()> {
        while self.unawaited.len() > left
            && let Some((number, outcome)) = self.unawaited.pop_front()
        {
            block_on(outcome)?;
            if self.fault != Some(Fault::EarlyAck) {
                Line::Ack(self.lane, number).say()?;
            }
        }
        Ok(())
    }
}

/// Compacts so many steps far.
fn compact(database: &Database, mut steps: u32) -> Result<()> {
    let outcome = database.compact_with(|_| {
        steps = steps.saturating_sub(1);
        if steps == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    match outcome {
        Ok(_) | Err(CompactionError::Pinned { .. }) => Ok(()),
        Err(error) => Err(format!("compacting: {error}").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cowslip::sim::{CrashPlan, SimDisk};

    #[test]
    fn a_forgetful_storage_loses_what_it_was_to_make_durable_and_passes_on_the_rest() {
        let (disk, skips_syncs) = (SimDisk::new(), Arc::new(AtomicBool::new(false)));
        let forgetful = Forgetful { storage: disk.clone(), skips_syncs: Arc::clone(&skips_syncs) };
        let write = |fill, mode| {
            forgetful.write_at(0, &[IoSlice::new(&[fill; 4096])], mode).unwrap();
            forgetful.sync(SyncKind::Full).unwrap();
            let mut bytes = [0; 4096];
            forgetful.read_at(0, &mut [IoSliceMut::new(&mut bytes)]).unwrap();
            assert_eq!((bytes[0], forgetful.len().unwrap()), (fill, 4096));
            disk.crash_image(&CrashPlan::nothing(disk.next_operation())).image()[0]
        };
        assert_eq!(write(1, WriteMode::Plain), 1);
        skips_syncs.store(true, Ordering::Relaxed);
        assert_eq!(write(2, WriteMode::Plain), 1);
        assert_eq!(write(3, WriteMode::Forced), 1);
    }

    #[test]
    fn rounds_run_any_number_of_writers_past_the_page_cache_or_through_it() {
        let setups: Vec<Setup> = (0..80).map(|round| Setup::at(1, round)).collect();
        assert!(setups.iter().all(|setup| (1..=LANES).contains(&setup.lanes.len())));
        for direct in [false, true] {
            for count in 1..=LANES {
                assert!(setups.iter().any(|setup| setup.direct == direct && setup.lanes.len() == count));
            }
        }
    }
}
