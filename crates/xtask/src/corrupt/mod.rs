//! Corruption harness: damages small database files in every place and many ways, opens them, reads everything, and
//! requires that what comes back was committed or is an error.
//!
//! Behind forged checksums, rows may differ from what was committed, but no answer may contradict another unless the
//! full check reports damage; and nothing may panic, hang or take memory without bound. Worker processes share the
//! cases, so that a crash of one is noticed and named, and memory can be told apart.

mod anatomy;
mod bytes;
mod cases;
mod judge;
mod ledger;
mod limits;
mod mutate;
mod sample;

use crate::Result;
use cases::{Cases, Flips};
use ledger::Ledger;
use std::io::{Seek, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// After this long without an answer a worker gives up: nothing takes a hundredth of it.
const HANG: Duration = Duration::from_secs(30);

/// Options of the task.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Files to make with mutations behind checksums that fit.
    #[arg(long, value_name = "COUNT", default_value_t = 200_000)]
    mutations: u64,
    /// How each byte of the files is changed.
    #[arg(long, value_enum, default_value = "one")]
    flips: Flips,
    /// Where all chance comes from.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    seed: u64,
    /// Examines only the case of this number.
    #[arg(long, value_name = "NUMBER")]
    case: Option<u64>,
    /// Processes that share the cases; by default as many as there are cores.
    #[arg(long, value_name = "COUNT")]
    workers: Option<u64>,
    /// Examines the share of this worker, and says in the file which case it is at.
    #[arg(long, hide = true, requires = "progress")]
    worker: Option<u64>,
    #[arg(long, hide = true)]
    progress: Option<PathBuf>,
}

/// Runs the task; false where anything panicked or was wrong.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let cases = Cases::new(sample::samples()?, options.flips, options.mutations, options.seed);
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let workers = options.workers.unwrap_or(cores).max(1);
    if let (Some(worker), Some(progress)) = (options.worker, &options.progress) {
        return work(&cases, worker, workers, progress);
    }
    let started = Instant::now();
    println!("{}", cases.describe());
    let ledger = if let Some(case) = options.case {
        if case >= cases.count() {
            return Err(format!("there are {} cases", cases.count()).into());
        }
        limits::count_memory();
        examine(&cases, std::iter::once(case), |_| {})
    } else {
        delegate(options, workers)?
    };
    for (name, count) in &ledger.counts {
        println!("{name:<36} {count:>9}");
    }
    for text in &ledger.told {
        println!("WRONG: {text}");
    }
    if !ledger.told.is_empty() {
        let (mutations, seed) = (options.mutations, options.seed);
        let flips = if options.flips == Flips::All { "all" } else { "one" };
        println!("again: cargo xtask corrupt --flips {flips} --mutations {mutations} --seed {seed} --case NUMBER");
    }
    println!(
        "slowest opening and reading {:.1} ms, most memory {} KiB, {} s, seed {}",
        ledger.cost.time.as_secs_f64() * 1e3,
        ledger.cost.bytes >> 10,
        started.elapsed().as_secs(),
        options.seed
    );
    println!("{} panics, {} wrong answers", ledger.panics, ledger.wrong);
    Ok(ledger.panics == 0 && ledger.wrong == 0)
}

/// Examines cases, one after the other; `begin` hears of each.
fn examine(cases: &Cases, numbers: impl Iterator<Item = u64>, mut begin: impl FnMut(u64)) -> Ledger {
    let mut ledger = Ledger::default();
    for number in numbers {
        begin(number);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let case = cases.case(number);
            (case.kind, judge::judge(&case.bytes, case.sample, case.how))
        }));
        match outcome {
            Ok((kind, verdict)) => ledger.enter(number, kind, &verdict),
            Err(payload) => {
                let text = payload.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
                ledger.panicked(number, text.unwrap_or("without a message"));
            }
        }
    }
    ledger
}

/// A worker process: examines its share and prints its ledger.
fn work(cases: &Cases, worker: u64, workers: u64, progress: &Path) -> Result<bool> {
    limits::count_memory();
    let mut place = std::fs::File::create(progress)?;
    let current = Arc::new(AtomicU64::new(u64::MAX));
    watch_for_hangs(Arc::clone(&current));
    let numbers = (0..cases.count()).filter(|number| number % workers == worker);
    let ledger = examine(cases, numbers, |number| {
        current.store(number, Ordering::Relaxed);
        let noted = place.rewind().and_then(|()| place.write_all(&number.to_le_bytes()));
        noted.expect("the place can be noted in a file of this run");
    });
    current.store(u64::MAX, Ordering::Relaxed);
    print!("{}", ledger.lines());
    Ok(true)
}

/// Ends the process when it stays at one case.
fn watch_for_hangs(current: Arc<AtomicU64>) {
    std::thread::spawn(move || {
        let mut seen = (u64::MAX, Instant::now());
        loop {
            std::thread::sleep(HANG / 30);
            let now = current.load(Ordering::Relaxed);
            if now != seen.0 || now == u64::MAX {
                seen = (now, Instant::now());
            } else if seen.1.elapsed() > HANG {
                std::process::abort();
            }
        }
    });
}

/// Starts the workers and adds up what they say.
fn delegate(options: &Options, workers: u64) -> Result<Ledger> {
    let folder = tempfile::tempdir()?;
    let mut children: Vec<(Child, PathBuf)> = Vec::new();
    for worker in 0..workers {
        let progress = folder.path().join(worker.to_string());
        let numbers = [options.mutations, options.seed, workers, worker].map(|number| number.to_string());
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["corrupt", "--flips", if options.flips == Flips::All { "all" } else { "one" }]);
        for (name, number) in ["--mutations", "--seed", "--workers", "--worker"].into_iter().zip(&numbers) {
            command.args([name, number]);
        }
        // A panic is caught and told; its usual message would drown the rest.
        let child = command.arg("--progress").arg(&progress).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        children.push((child, progress));
    }
    let total = Mutex::new(Ledger::default());
    std::thread::scope(|scope| {
        for (child, progress) in children {
            let total = &total;
            scope.spawn(move || {
                let output = child.wait_with_output();
                let text = output.as_ref().map_or_else(|_| Default::default(), |output| output.stdout.clone());
                let ended = output.as_ref().is_ok_and(|output| output.status.success());
                let ledger = Ledger::parse(&String::from_utf8_lossy(&text)).filter(|_| ended);
                let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                match ledger {
                    Some(ledger) => total.add(ledger),
                    None => total.panicked(last_case(&progress), "the process died, or gave no answer for long"),
                }
            });
        }
    });
    Ok(total.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// The case that a worker came to last.
fn last_case(progress: &Path) -> u64 {
    let noted = std::fs::read(progress).ok().and_then(|bytes| Some(u64::from_le_bytes(*bytes.first_chunk()?)));
    noted.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_of_damaged_files_shows_no_panic_and_no_wrong_answer() {
        let cases = Cases::new(sample::samples().unwrap(), Flips::One, 1500, 3);
        let flips_and_cuts = (0..cases.count() - 1500).step_by(151);
        let mutations = cases.count() - 1500..cases.count();
        let ledger = examine(&cases, flips_and_cuts.chain(mutations), |_| {});
        assert!(ledger.told.is_empty(), "{}", ledger.told.join("\n"));
        let expected = [
            "flipped: opening refused",
            "flipped: a page refused",
            "flipped: newest commit",
            "flipped: older commit, reported",
            "flipped: without the last record",
            "cut: opening refused",
            "resealed: opening refused",
            "resealed: a page refused",
            "resealed: found by the check",
            "resealed: altered rows",
            "resealed: newest commit",
        ];
        for name in expected {
            assert!(ledger.counts.contains_key(name), "none of {name:?}: {:?}", ledger.counts);
        }
    }

    #[test]
    fn a_case_is_the_same_file_every_time() {
        let cases = || Cases::new(sample::samples().unwrap(), Flips::All, 10, 3);
        let (first, second) = (cases(), cases());
        for number in [0, 100_000, first.count() - 10, first.count() - 1] {
            assert!(first.case(number).bytes == second.case(number).bytes, "{number}");
        }
    }
}
