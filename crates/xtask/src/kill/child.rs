//! The process that is killed: it opens the database and writes until it dies, telling what it does.
//!
//! Invariant: nothing is told before it is so, and nothing that failed is told as done.

use super::account::Line;
use super::plan::{CommitOptions, Ending, LANES, Plan};
use crate::Result;
use crate::random::Random;
use clap::ValueEnum;
use cowslip::{
    Access, CompactionError, CreateMode, Database, FileStorage, LockMode, Storage, SyncKind, WriteMode,
    WriteTransaction,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Exit code of a child whose store failed.
const FAILED: i32 = 3;

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
}

impl Setup {
    fn at(seed: u64, round: u64) -> Self {
        let mut random = Random::at(seed ^ SETUP_SEED, round);
        let count = if random.chance(500) { 1 } else { LANES };
        let lanes = random.sample((0..LANES).collect(), count);
        let cache_bytes = *random.pick(&[512 << 10, 4 << 20, 64 << 20]);
        Self { lanes, cache_bytes, direct: random.chance(500) }
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
                let outcome = catch_unwind(AssertUnwindSafe(|| write(database, seed, round, lane, fault)));
                match outcome {
                    Ok(Ok(())) => fail("a writer ended"),
                    Ok(Err(error)) => fail(&error.to_string()),
                    Err(_) => fail("panic"),
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
    let builder = Database::builder().cache_bytes_max(setup.cache_bytes);
    if fault != Some(Fault::SkippedSync) {
        return Ok(builder.create_with_storage(file)?);
    }
    let skips_syncs = Arc::new(AtomicBool::new(false));
    let database = builder.create_with_storage(Forgetful { storage: file, skips_syncs: Arc::clone(&skips_syncs) })?;
    // The database itself is durable, so it is commits that get lost.
    skips_syncs.store(true, Ordering::Relaxed);
    Ok(database)
}

fn begin(database: &Database, _: CommitOptions) -> Result<WriteTransaction> {
    Ok(database.begin_write()?)
}

/// One writer.
fn write(database: &Database, seed: u64, round: u64, lane: usize, fault: Option<Fault>) -> Result<()> {
    let mut snapshot = None;
    for number in first_number(round)..first_number(round + 1) {
        let plan = Plan::at(seed, lane, number);
        if plan.takes_snapshot {
            snapshot = if snapshot.is_none() { Some(database.begin_read()?) } else { None };
        }
        if let Ending::Compact(steps) = plan.ending {
            Line::Compacting(lane, number).say()?;
            compact(database, steps)?;
            Line::Compacted(lane, number).say()?;
            continue;
        }
        let tx = begin(database, plan.options)?;
        Line::Begin(lane, number).say()?;
        plan.write(lane, number, &tx)?;
        if plan.ending == Ending::Abort {
            tx.abort()?;
            Line::Abort(lane, number).say()?;
            continue;
        }
        Line::Commit(lane, number).say()?;
        if fault == Some(Fault::EarlyAck) {
            Line::Ack(lane, number).say()?;
            tx.commit()?;
        } else {
            tx.commit()?;
            Line::Ack(lane, number).say()?;
        }
    }
    Ok(())
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
    fn rounds_run_one_writer_or_all_past_the_page_cache_or_through_it() {
        let setups: Vec<Setup> = (0..40).map(|round| Setup::at(1, round)).collect();
        assert!(setups.iter().all(|setup| [1, LANES].contains(&setup.lanes.len())));
        for direct in [false, true] {
            for count in [1, LANES] {
                assert!(setups.iter().any(|setup| setup.direct == direct && setup.lanes.len() == count));
            }
        }
    }
}
