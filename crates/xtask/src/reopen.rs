//! `cargo xtask reopen`: how long a large database takes to be of use again after its writer was killed.
//!
//! A child process loads the database and is killed, not asked, in the middle of a transaction. Then the time of
//! opening, the first lookup and the first commit together is taken, and the pages that they read are counted. With `--log`
//! the child fills the redo log first, so that opening has to replay as much as there can be.

use crate::Result;
use cowslip::{
    Access, CreateMode, Database, FileStorage, LockMode, Storage, SyncKind, TableDefinition, TransactionId, WriteMode,
};
use std::io::{self, BufRead, BufReader, IoSlice, IoSliceMut};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const ROWS: TableDefinition<u64, &[u8]> = TableDefinition::new("rows");
const VALUE_BYTES: usize = 1000;
const BATCH_ROWS: u64 = 50_000;
const PAGE_BYTES: u64 = 4096;

/// Changes that a log holds at most.
const LOG_CHANGES_MAX: u64 = 1 << 18;

/// What is allowed.
const MILLIS_MAX: u128 = 100;
const PAGES_MAX: u64 = 64;

/// The same where the log is full: then it is read, and the catalog's way to each table.
const FULL_LOG_MILLIS_MAX: u128 = 500;

/// What the commits that fill the log are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Filling {
    /// One row each.
    Rows,
    /// A thousand rows each.
    Batches,
}

impl Filling {
    fn rows(self) -> u64 {
        match self {
            Self::Rows => 1,
            Self::Batches => 1000,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::Batches => "batches",
        }
    }
}

/// Options of the task.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Size of the database.
    #[arg(long, default_value_t = 1024)]
    mib: u64,
    /// How often it is killed and opened again.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Fills the redo log before the child is killed.
    #[arg(long, value_enum)]
    log: Option<Filling>,
    /// Loads this file and goes on writing until it is killed.
    #[arg(long, hide = true)]
    child: Option<PathBuf>,
}

/// A storage that counts what is read.
#[derive(Debug)]
struct Counting {
    file: FileStorage,
    pages: Arc<AtomicU64>,
}

impl Storage for Counting {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_at(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<()> {
        let bytes: u64 = buffers.iter().map(|buffer| buffer.len() as u64).sum();
        self.pages.fetch_add(bytes.div_ceil(PAGE_BYTES), Ordering::Relaxed);
        self.file.read_at(offset, buffers)
    }

    fn writes_at_once(&self) -> usize {
        self.file.writes_at_once()
    }

    fn write_at(&self, offset: u64, buffers: &[IoSlice<'_>], mode: WriteMode) -> io::Result<()> {
        self.file.write_at(offset, buffers, mode)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        self.file.preallocate(len)
    }

    fn sync(&self, kind: SyncKind) -> io::Result<()> {
        self.file.sync(kind)
    }

    fn lock(&self, mode: LockMode) -> io::Result<()> {
        self.file.lock(mode)
    }

    fn unlock(&self) -> io::Result<()> {
        self.file.unlock()
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.file.drop_cache()
    }
}

/// Runs the task; `false` where a limit is exceeded.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let rows = options.mib * (1 << 20) / (VALUE_BYTES as u64 + 8);
    if let Some(path) = &options.child {
        return load_until_killed(path, rows, options.log);
    }
    let folder = tempfile::tempdir_in(crate::workspace_root().join("target"))?;
    let path = folder.path().join("reopen.cowslip");
    let mut worst = (Duration::ZERO, 0);
    for round in 1..=options.rounds {
        kill_writer(&path, options)?;
        let (time, pages, id) = reopen(&path, rows)?;
        let bytes = std::fs::metadata(&path)?.len();
        println!(
            "round {round}: {:.1} ms and {pages} pages for opening, first get and first commit ({id}) of {} MiB",
            time.as_secs_f64() * 1e3,
            bytes >> 20
        );
        worst = (worst.0.max(time), worst.1.max(pages));
    }
    let (time, pages) = (worst.0.as_secs_f64() * 1e3, worst.1);
    if options.log.is_some() {
        println!("worst: {time:.1} ms (limit {FULL_LOG_MILLIS_MAX}), {pages} pages");
        return Ok(worst.0.as_millis() < FULL_LOG_MILLIS_MAX);
    }
    println!("worst: {time:.1} ms (limit {MILLIS_MAX}), {pages} pages (limit {PAGES_MAX})");
    Ok(worst.0.as_millis() < MILLIS_MAX && pages <= PAGES_MAX)
}

/// Loads what is missing, says so, and writes a transaction that never ends, or fills the log before.
fn load_until_killed(path: &Path, rows: u64, filling: Option<Filling>) -> Result<bool> {
    let builder = Database::builder();
    // No checkpoint is made before the log is full.
    let builder = if filling.is_some() { builder.test_checkpoint_lag(u32::MAX) } else { builder };
    let database = builder.create(path)?;
    let value = [7; VALUE_BYTES];
    let mut next = database.view(|tx| Ok::<_, cowslip::Error>(tx.open_table_or_empty(ROWS)?.len()?))?;
    while next < rows {
        database.update(|tx| {
            let mut table = tx.open_table(ROWS)?;
            for row in next..rows.min(next + BATCH_ROWS) {
                table.insert(row, &value[..])?;
            }
            Ok::<_, cowslip::Error>(())
        })?;
        next = rows.min(next + BATCH_ROWS);
    }
    if let Some(filling) = filling {
        fill_log(&database, rows, filling)?;
        println!("writing");
    }
    let tx = database.begin_write()?;
    let mut table = tx.open_table(ROWS)?;
    for row in 0.. {
        table.insert(row * 7919 % rows, &value[1..])?;
        if row == 20_000 {
            println!("writing");
        }
    }
    Ok(true)
}

/// Commits until the log is as long as it gets, and then until next to nothing more fits.
fn fill_log(database: &Database, rows: u64, filling: Filling) -> Result<()> {
    let (mut next, mut before, mut is_longest) = (0_u64, database.stats().log, false);
    loop {
        let log = database.stats().log;
        // A longer one comes when this one is full, unless there is none.
        is_longest |= log.used_bytes < before.used_bytes && log.capacity_bytes == before.capacity_bytes;
        let is_full = log.used_bytes * 20 > log.capacity_bytes * 19 || log.changes * 20 > LOG_CHANGES_MAX * 19;
        if is_full && is_longest {
            return Ok(());
        }
        before = log;
        database.update(|tx| {
            let mut table = tx.open_table(ROWS)?;
            for _ in 0..filling.rows() {
                table.put(next * 7919 % rows, &[9; VALUE_BYTES / 8][..])?;
                next += 1;
            }
            Ok::<_, cowslip::Error>(())
        })?;
    }
}

/// Starts the child and kills it while it writes.
fn kill_writer(path: &Path, options: &Options) -> Result<()> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["reopen", "--mib", &options.mib.to_string()])
        .args(options.log.into_iter().flat_map(|filling| ["--log", filling.name()]))
        .arg("--child")
        .arg(path)
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().ok_or("the child has no output")?;
    let line = BufReader::new(output).lines().next().ok_or("the child ended before it wrote")??;
    if line != "writing" {
        return Err(format!("the child said {line:?}").into());
    }
    child.kill()?;
    child.wait()?;
    Ok(())
}

/// Opens the database, looks a row up and commits one.
fn reopen(path: &Path, rows: u64) -> Result<(Duration, u64, TransactionId)> {
    let pages = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let (file, _) = FileStorage::open(path, CreateMode::OpenExisting, Access::ReadWrite, true)?;
    let database = Database::builder().open_with_storage(Counting { file, pages: Arc::clone(&pages) })?;
    let found = database.view(|tx| Ok::<_, cowslip::Error>(tx.open_table(ROWS)?.get(rows / 2)?.is_some()))?;
    let readable = begun.elapsed();
    let tx = database.begin_write()?;
    tx.open_table(ROWS)?.insert(rows / 3, &[8; VALUE_BYTES][..])?;
    let id = tx.commit()?;
    let time = begun.elapsed();
    let log = &database.stats().recovery;
    println!(
        "    readable after {:.1} ms; the log had {} changes in {} KiB",
        readable.as_secs_f64() * 1e3,
        log.changes,
        log.log_used_bytes >> 10
    );
    let pages = pages.load(Ordering::Relaxed);
    if !found || database.open_notes().is_empty() {
        return Err("the row is gone, or the database was not killed at all".into());
    }
    Ok((time, pages, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_was_not_closed_opens_with_few_reads() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("killed.cowslip");
        let database = Database::create(&path).unwrap();
        database
            .update(|tx| {
                let mut table = tx.open_table(ROWS)?;
                (0..30_000).try_for_each(|row| table.insert(row, &[7; VALUE_BYTES][..]).map(|_| ()))?;
                Ok::<_, cowslip::Error>(())
            })
            .unwrap();
        // The copy is what a killed writer leaves: the mark of the open session is in it.
        let killed = folder.path().join("copy.cowslip");
        std::fs::copy(&path, &killed).unwrap();
        let (_, pages, _) = reopen(&killed, 30_000).unwrap();
        assert!(pages <= PAGES_MAX, "{pages} pages");
    }
}
