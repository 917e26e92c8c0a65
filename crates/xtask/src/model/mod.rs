//! Random operations on databases of every shape, compared with a model of plain `BTreeMap`s at every step.
//!
//! Invariant: an episode depends on seed and number alone, so that a mismatch can be replayed by itself.

mod bulk;
mod compact;
mod counts;
mod data;
mod disk;
mod episode;
mod faults;
mod halt;
mod level;
mod readers;
mod rows;
mod transaction;
mod typed;

use crate::Result;
use clap::Args;
use counts::Counts;
use episode::Episode;
use halt::Halt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

/// Options of the task.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Operations to run, in as many episodes as it takes.
    #[arg(long, value_name = "COUNT", default_value_t = 100_000)]
    ops: u64,
    /// Where all chance comes from.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    seed: u64,
    /// Runs only the episode of this number, whole.
    #[arg(long, value_name = "NUMBER")]
    episode: Option<u64>,
}

/// A difference between store and model, and where to find it again.
#[derive(Debug)]
struct Mismatch {
    episode: u64,
    operation: u64,
    reason: String,
}

/// Returns whether store and model agreed.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let started = Instant::now();
    let mut counts = Counts::default();
    let outcome = match options.episode {
        Some(episode) => run_episode(options.seed, episode, &mut counts, u64::MAX),
        None => run_all(options.ops, options.seed, &mut counts),
    };
    counts.print();
    eprintln!("seed {}, {} s", options.seed, started.elapsed().as_secs());
    if let Err(mismatch) = &outcome {
        println!("MISMATCH in operation {} of episode {}: {}", mismatch.operation, mismatch.episode, mismatch.reason);
        println!("replay: cargo xtask model --seed {} --episode {}", options.seed, mismatch.episode);
    }
    println!("{} operations, {} mismatches", counts.total(), u8::from(outcome.is_err()));
    Ok(outcome.is_ok())
}

fn run_all(ops: u64, seed: u64, counts: &mut Counts) -> std::result::Result<(), Mismatch> {
    let mut episode = 0;
    while counts.total() < ops {
        run_episode(seed, episode, counts, ops - counts.total())?;
        episode += 1;
    }
    Ok(())
}

fn run_episode(seed: u64, episode: u64, counts: &mut Counts, ops_max: u64) -> std::result::Result<(), Mismatch> {
    let before = counts.total();
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let mut running = Episode::begin(seed, episode, counts, ops_max)?;
        while !running.is_over() {
            running.step()?;
        }
        running.finish()
    }));
    let reason = match caught {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(Halt::Mismatch(reason))) => reason,
        Ok(Err(Halt::Failed(error))) => format!("unexpected: {error}"),
        Err(thrown) => {
            let text = thrown.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| thrown.downcast_ref::<&str>().copied());
            format!("panicked: {}", text.unwrap_or("without a message"))
        }
    };
    Err(Mismatch { episode, operation: counts.total() - before, reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn store_and_model_agree_on_twenty_thousand_operations() {
        let mut counts = Counts::default();
        run_all(20_000, 9, &mut counts).expect("store and model agree");
        for (operation, outcome) in [
            ("transaction", "panicked between operations"),
            ("transaction", "panicked inside of an operation"),
            ("transaction", "aborted"),
            ("open", "after a power cut"),
            ("commit", "immediate"),
            ("commit", "buffered"),
            ("commit", "none"),
            ("commit_async", "immediate"),
            ("commit_async", "buffered"),
            ("commit_async", "none"),
            ("sync", "all was promised"),
            ("sync", "some was not"),
            ("try_begin_write", "another runs"),
            ("commits that nothing promised", "all kept"),
            ("commits that nothing promised", "all lost"),
            ("full disk", "aborted"),
            ("failing disk", "commit in doubt"),
            ("check_integrity", "exact, some pending"),
            ("reader", "verified and ended"),
            ("put_many", "rows"),
            ("bulk_load", "rows"),
            ("bulk_load", "unsorted"),
            ("remove_range", "some rows"),
            ("remove_prefix", "some rows"),
            ("retain", "some rows"),
            ("retain", "predicate panicked"),
            ("retain_in", "some rows"),
            ("extract_if", "forward, dropped"),
            ("extract_if", "from both ends, dropped"),
            ("extract_from_if", "from both ends, until they met"),
            ("pop_first", "row"),
            ("pop_last", "row"),
            ("compact", "changed"),
            ("compact", "nothing the second time"),
            ("compact_with", "ended early"),
            ("compact_with", "report panicked"),
            ("compact without room", "had room"),
            ("compact on a failing disk", "in doubt"),
            ("compact with a failing read", "failed"),
        ] {
            assert!(counts.of(operation, outcome) > 0, "{operation}: {outcome} never happened");
        }
    }

    #[test]
    fn an_episode_runs_the_same_way_twice() {
        let counted = |episode| {
            let mut counts = Counts::default();
            run_episode(3, episode, &mut counts, 400).expect("store and model agree");
            format!("{counts:?}")
        };
        assert_eq!(counted(0), counted(0));
        assert_eq!(counted(1), counted(1));
        assert_ne!(counted(0), counted(2));
    }
}
