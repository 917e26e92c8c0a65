//! The comparison: interleaved rounds, the ratio of each round, and the table.
//!
//! Both stores run each workload right after one another, in an order drawn anew each time, so that whatever else the
//! machine does falls on both; a ratio is taken within a round before the median over the rounds.

use crate::Result;
use crate::engine::{Digest, Engine};
use crate::engines::cowslip::Cowslip;
use crate::engines::redb::Redb;
use crate::statistics::Quartiles;
use crate::workload::{Round, Workload};
use clap::Args;
use fastrand::Rng;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Options of the comparison.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Rows of the bulk load; the other workloads scale with it.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(100..))]
    pub(crate) rows: u32,
    /// Rounds, each with fresh databases and fresh rows.
    #[arg(long, value_name = "R", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// Seed of the rows and of the order.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Cache of each store.
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub(crate) cache_mib: u32,
    /// Folder on the disk to measure; the databases go to a temporary folder in it. The system's temporary folder
    /// unless given.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) folder: Option<PathBuf>,
}

/// Number of stores; the first is the one that the ratio is about.
const ENGINES: usize = 2;

/// Operations per second of each store, one entry a round.
type Rates = [Vec<f64>; ENGINES];

/// Runs all rounds and prints the table.
pub(crate) fn run(options: &Options, out: &mut impl Write) -> Result<()> {
    let mut rng = Rng::with_seed(options.seed);
    let mut rates: [Rates; Workload::ALL.len()] = Default::default();
    let mut names = [""; ENGINES];
    for _ in 0..options.rounds {
        let folder = match &options.folder {
            Some(parent) => tempfile::tempdir_in(parent)?,
            None => tempfile::tempdir()?,
        };
        let round = Round::new(usize::try_from(options.rows)?, &mut rng);
        let mut engines = open(folder.path(), usize::try_from(options.cache_mib)? << 20)?;
        names = [engines[0].name(), engines[1].name()];
        for (workload, rates) in Workload::ALL.into_iter().zip(&mut rates) {
            for (index, rate) in measure(&round, workload, &mut engines, &mut rng)? {
                rates[index].push(rate);
            }
        }
        drop(engines);
        folder.close()?;
    }
    print(options, names, &rates, out)
}

fn open(folder: &Path, cache_bytes: usize) -> Result<[Box<dyn Engine>; ENGINES]> {
    Ok([Box::new(Cowslip::create(folder, cache_bytes)?), Box::new(Redb::create(folder, cache_bytes)?)])
}

/// Runs one workload on every store in a random order; returns the rates, and fails where the answers differ.
fn measure(
    round: &Round,
    workload: Workload,
    engines: &mut [Box<dyn Engine>; ENGINES],
    rng: &mut Rng,
) -> Result<Vec<(usize, f64)>> {
    let mut order: Vec<usize> = (0..ENGINES).collect();
    rng.shuffle(&mut order);
    let mut rates = Vec::with_capacity(ENGINES);
    let mut expected: Option<Digest> = None;
    for index in order {
        let engine = &mut *engines[index];
        let started = Instant::now();
        let digest = round.run(workload, engine)?;
        rates.push((index, round.operations(workload) as f64 / started.elapsed().as_secs_f64()));
        let wanted = round.rows_found(workload).map_or(digest.rows(), |rows| rows as u64);
        if *expected.get_or_insert(digest) != digest || digest.rows() != wanted {
            let (name, workload) = (engine.name(), workload.name());
            return Err(format!("{name} answers {workload} wrongly: {digest:?}, expected {expected:?}").into());
        }
    }
    Ok(rates)
}

fn print(options: &Options, names: [&str; ENGINES], rates: &[Rates], out: &mut impl Write) -> Result<()> {
    let [subject, peer] = names;
    writeln!(
        out,
        "{} rows, {} rounds, seed {}; operations per second; ratio {subject} / {peer}: median (quartiles)",
        options.rows, options.rounds, options.seed
    )?;
    writeln!(out, "{:<22} {subject:>12} {peer:>12}  ratio", "")?;
    for (workload, rates) in Workload::ALL.into_iter().zip(rates) {
        let ratios: Vec<f64> = rates[0].iter().zip(&rates[1]).map(|(subject, peer)| subject / peer).collect();
        let quartiles = |numbers: &[f64]| Quartiles::of(numbers).ok_or("no round was measured");
        let (subject, peer, ratio) = (quartiles(&rates[0])?, quartiles(&rates[1])?, quartiles(&ratios)?);
        writeln!(
            out,
            "{:<22} {:>12.0} {:>12.0}  {:.2} ({:.2} to {:.2})",
            workload.name(),
            subject.median,
            peer.median,
            ratio.median,
            ratio.lower,
            ratio.upper
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Key, Row};

    /// A store that forgets everything.
    struct Forgetful;

    impl Engine for Forgetful {
        fn name(&self) -> &'static str {
            "forgetful"
        }

        fn insert(&mut self, _: &[Row]) -> Result<()> {
            Ok(())
        }

        fn read(&self, _: &[Key]) -> Result<Digest> {
            Ok(Digest::default())
        }

        fn scan(&self, _: &[Key], _: usize) -> Result<Digest> {
            Ok(Digest::default())
        }

        fn remove(&mut self, _: &[Key]) -> Result<Digest> {
            Ok(Digest::default())
        }
    }

    #[test]
    fn a_small_comparison_prints_every_row_and_leaves_no_file() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Some(parent.path().to_owned());
        let options = Options { rows: 1000, rounds: 1, seed: 3, cache_mib: 16, folder };
        let mut out = Vec::new();
        run(&options, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let names: Vec<&str> = text.lines().skip(2).map(|line| line[..22].trim()).collect();
        assert_eq!(names, Workload::ALL.map(Workload::name), "{text}");
        assert_eq!(parent.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn a_store_that_answers_wrongly_is_not_measured() {
        let folder = tempfile::tempdir().unwrap();
        let mut rng = Rng::with_seed(4);
        let round = Round::new(200, &mut rng);
        let mut engines = open(folder.path(), 1 << 20).unwrap();
        engines[1] = Box::new(Forgetful);
        measure(&round, Workload::BulkLoad, &mut engines, &mut rng).unwrap();
        for workload in [Workload::RandomReads, Workload::RangeReads, Workload::Removals] {
            measure(&round, workload, &mut engines, &mut rng).unwrap_err();
        }
    }
}
