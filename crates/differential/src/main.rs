//! Runs one random stream of operations on Cowslip and on redb and compares every answer.

mod adapter;
mod operation;
mod run;
mod stream;

use adapter::{cowslip::Cowslip, redb::Redb};
use clap::Parser;
use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

/// Result of anything that fails for another reason than an answer of a store.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Runs one random stream of operations on Cowslip and on redb and compares every answer.
#[derive(Debug, Parser)]
#[command(name = "cowslip-differential")]
struct Arguments {
    /// Number of operations.
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    ops: u64,
    /// Seed of the stream; the same seed gives the same stream.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    seed: u64,
}

/// Returns whether the stores agreed.
fn compare(arguments: &Arguments, out: &mut impl Write) -> Result<bool> {
    let folder = tempfile::tempdir()?;
    let mut left = Cowslip::create(&folder.path().join("left.cowslip"))?;
    let mut right = Redb::create(&folder.path().join("right.redb"))?;
    let report = run::run(arguments.ops, arguments.seed, &mut left, &mut right)?;
    drop((left, right));
    folder.close()?;
    writeln!(out, "{report}")?;
    Ok(report.differences.is_empty())
}

fn main() -> ExitCode {
    match compare(&Arguments::parse(), &mut io::stdout().lock()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            writeln!(io::stderr(), "error: {error}").ok();
            ExitCode::from(2)
        }
    }
}
