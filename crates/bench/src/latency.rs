//! How long single durable commits take at half the rate that is possible: `latency`.
//!
//! The commits have a schedule that does not wait for them: each is due at its time, whether or not the one before it
//! has ended. A commit that holds up others therefore shows in their latencies too, as it would to users. What a
//! commit takes once it began is its service time.

mod chart;
mod slot_watch;

use crate::Result;
use crate::data::{DataSet, KEY_MIN, Keys, VALUE_BYTES};
use crate::engine::{Engine, EngineKind};
use crate::engines::cowslip::Cowslip;
use crate::folders::Folders;
use crate::statistics::Percentiles;
use chart::Chart;
use clap::Args;
use cowslip::Database;
use fastrand::Rng;
use slot_watch::SlotWatch;
use std::fs;
use std::hint::spin_loop;
use std::io::Write;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long commits follow one another without a pause, to see how many there can be.
const PEAK_SECONDS: f64 = 1.0;
/// Slots that a run should see written, for they are the ends of checkpoints; it goes on for them beyond its commits.
const SLOTS_MIN: usize = 2;
/// A run ends after so many times its commits all the same.
const EXTENSION_MAX: usize = 10;
/// A sleeping thread wakes late, so the last part of a pause is spent awake.
const AWAKE: Duration = Duration::from_micros(200);

/// Options of the measurement.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Draw the latencies into this file.
    #[arg(long, value_name = "FILE")]
    svg: PathBuf,
    /// Folder for the temporary database; the system's temporary folder unless given.
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// Commits to measure. More follow until two checkpoints have ended, at most ten times as many.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    commits: u32,
    /// Rows of the table.
    #[arg(long, value_name = "N", default_value_t = 5_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    rows: u32,
    /// Cache of the database.
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=65536))]
    cache_mib: u32,
    /// Seed of the rows and of the commits.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    seed: u64,
}

/// One measured commit, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Commit {
    /// When it was due, from the first one on.
    due: f64,
    /// From when it was due to its end.
    latency: f64,
    /// From its begin to its end.
    service: f64,
}

/// A loaded database, and where the next commits come from.
struct Subject {
    engine: Cowslip,
    set: DataSet,
    rng: Rng,
}

/// Loads a table, finds the peak rate, measures commits at half of it, prints and draws them.
pub(crate) fn run(options: &Options, out: &mut dyn Write, log: &mut dyn Write) -> Result<()> {
    let folders = Folders::temporary(options.folder.as_deref())?;
    let (storage, slots) = SlotWatch::open(&folders.fresh(EngineKind::Cowslip)?.join("rows.cowslip"))?;
    let cache_bytes = usize::try_from(options.cache_mib)? << 20;
    let database = Database::builder().cache_bytes_max(cache_bytes).create_with_storage(storage)?;
    writeln!(log, "loading {} rows", options.rows)?;
    let set = DataSet::new(Keys::Random, usize::try_from(options.rows)?, options.seed);
    let mut subject = Subject { engine: Cowslip::of(database), set, rng: Rng::with_seed(options.seed) };
    subject.engine.insert(&subject.set.rows_shuffled().pairs())?;

    let peak = subject.peak_rate()?;
    let rate = peak / 2.0;
    writeln!(log, "{} commits and more at {rate:.0} commits/s", options.commits)?;
    let started = Instant::now();
    let enough = || slots.since(started).len() >= SLOTS_MIN;
    let commits = subject.commit_on_schedule(started, rate, usize::try_from(options.commits)?, enough)?;
    let flips = slots.since(started);
    subject.close()?;
    folders.close()?;

    let of = |part: fn(&Commit) -> f64| {
        let all: Vec<f64> = commits.iter().map(part).collect();
        Percentiles::of(&all).ok_or("no commit was measured")
    };
    let (latency, service) = (of(|commit| commit.latency)?, of(|commit| commit.service)?);
    let title = format!(
        "{} durable commits of one row at {rate:.0}/s, half of the peak of {peak:.0}/s; {} rows, cache {} MiB",
        commits.len(),
        options.rows,
        options.cache_mib
    );
    writeln!(out, "cowslip {}: {title}, seed {}\n", EngineKind::Cowslip.version(), options.seed)?;
    print(&latency, &service, out)?;
    writeln!(out, "\nslots written meanwhile, each at the end of a checkpoint: {}", flips.len())?;
    fs::write(&options.svg, Chart { title, commits: &commits, percentiles: latency, flips: &flips }.svg()?)?;
    Ok(writeln!(out, "drawn: {}", options.svg.display())?)
}

impl Subject {
    /// Gives a random row a new value in a durable transaction of its own, which begins once `ready` returns.
    fn commit(&mut self, ready: impl FnOnce()) -> Result<()> {
        let key = self.set.key_at(self.rng.usize(..self.set.len()));
        let mut value = [0; VALUE_BYTES];
        self.rng.fill(&mut value);
        ready();
        self.engine.insert(&[(key, &value)])
    }

    /// Commits a second without pauses.
    fn peak_rate(&mut self) -> Result<f64> {
        let (started, mut count) = (Instant::now(), 0);
        while started.elapsed().as_secs_f64() < PEAK_SECONDS {
            self.commit(|| ())?;
            count += 1;
        }
        Ok(f64::from(count) / started.elapsed().as_secs_f64())
    }

    /// At least `count` commits, and more until there is `enough`, the first of which is due at `started`.
    fn commit_on_schedule(
        &mut self,
        started: Instant,
        rate: f64,
        count: usize,
        enough: impl Fn() -> bool,
    ) -> Result<Vec<Commit>> {
        let mut commits = Vec::new();
        while commits.len() < count || (commits.len() < count.saturating_mul(EXTENSION_MAX) && !enough()) {
            let due = commits.len() as f64 / rate;
            let due_at = started + Duration::from_secs_f64(due);
            let mut begun = due_at;
            self.commit(|| {
                wait_until(due_at);
                begun = Instant::now();
            })?;
            let ended = Instant::now();
            let seconds = |from| ended.saturating_duration_since(from).as_secs_f64();
            commits.push(Commit { due, latency: seconds(due_at), service: seconds(begun) });
        }
        Ok(commits)
    }

    /// Closes the database after a look whether it still has as many rows.
    fn close(self) -> Result<()> {
        let (found, expected) = (self.engine.scan(&[KEY_MIN], usize::MAX)?.rows(), self.set.len() as u64);
        if found != expected {
            return Err(format!("{found} rows were found after the commits, not {expected}").into());
        }
        Box::new(self.engine).close()
    }
}

/// Returns at that time, or at once if it has passed.
fn wait_until(time: Instant) {
    let pause = time.saturating_duration_since(Instant::now());
    if pause > AWAKE {
        sleep(pause - AWAKE);
    }
    while Instant::now() < time {
        spin_loop();
    }
}

/// Prints a table with a row for each of the two.
fn print(latency: &Percentiles, service: &Percentiles, out: &mut dyn Write) -> Result<()> {
    write!(out, "| {:<20} |", "milliseconds")?;
    latency.named().iter().try_for_each(|(name, _)| write!(out, " {name:>9} |"))?;
    write!(out, " {:>10} |\n|:{}|", "p99/median", "-".repeat(21))?;
    latency.named().iter().try_for_each(|_| write!(out, "{}:|", "-".repeat(10)))?;
    writeln!(out, "{}:|", "-".repeat(11))?;
    for (name, percentiles) in [("latency, from due", latency), ("service, from begin", service)] {
        write!(out, "| {name:<20} |")?;
        percentiles.named().iter().try_for_each(|(_, seconds)| write!(out, " {:>9.3} |", seconds * 1e3))?;
        writeln!(out, " {:>10.2} |", percentiles.p99 / percentiles.median)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_prints_both_times_and_draws_every_commit() {
        let folder = tempfile::tempdir().unwrap();
        let svg = folder.path().join("out.svg");
        let databases = tempfile::tempdir().unwrap();
        let options = Options {
            svg: svg.clone(),
            folder: Some(databases.path().to_owned()),
            commits: 20,
            rows: 500,
            cache_mib: 16,
            seed: 3,
        };
        let mut out = Vec::new();
        run(&options, &mut out, &mut std::io::sink()).unwrap();
        let text = String::from_utf8(out).unwrap();
        for part in
            ["| latency, from due ", "| service, from begin ", "p99.9", "cache 16 MiB", "500 rows", "slots written"]
        {
            assert!(text.contains(part), "{text}");
        }
        assert!(fs::read_to_string(svg).unwrap().ends_with("</svg>\n"));
        assert_eq!(databases.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn what_delays_one_commit_shows_in_the_latency_of_the_next_but_not_in_its_service_time() {
        let database = Database::builder().in_memory().unwrap();
        let set = DataSet::new(Keys::Random, 100, 1);
        let mut subject = Subject { engine: Cowslip::of(database), set, rng: Rng::with_seed(1) };
        subject.engine.insert(&subject.set.rows_shuffled().pairs()).unwrap();
        let late = Duration::from_secs(2);
        let started = Instant::now().checked_sub(late).unwrap();
        let commits = subject.commit_on_schedule(started, 1000.0, 3, || true).unwrap();
        assert_eq!(commits.iter().map(|commit| commit.due).collect::<Vec<_>>(), [0.0, 0.001, 0.002]);
        assert!(commits.iter().all(|commit| commit.latency >= 1.99 && commit.service < 1.0), "{commits:?}");
        subject.close().unwrap();
    }

    #[test]
    fn commits_go_on_until_there_is_enough_and_begin_no_earlier_than_they_are_due() {
        let database = Database::builder().in_memory().unwrap();
        let set = DataSet::new(Keys::Random, 100, 1);
        let mut subject = Subject { engine: Cowslip::of(database), set, rng: Rng::with_seed(1) };
        subject.engine.insert(&subject.set.rows_shuffled().pairs()).unwrap();
        let calls = std::cell::Cell::new(0);
        let third = || calls.replace(calls.get() + 1) == 2;
        let started = Instant::now();
        let commits = subject.commit_on_schedule(started, 1000.0, 5, third).unwrap();
        assert_eq!(commits.len(), 7);
        assert!(started.elapsed() >= Duration::from_millis(6));
        assert!(commits.iter().all(|commit| commit.latency >= commit.service), "{commits:?}");
        assert_eq!(subject.commit_on_schedule(started, 1e6, 5, || false).unwrap().len(), 50);
    }
}
