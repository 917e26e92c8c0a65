//! Benchmarks of Cowslip beside other stores, in one process: `compare`.

mod compare;
mod data;
mod engine;
mod engines {
    //! The stores that are compared, each behind the same trait.

    pub(crate) mod cowslip;
    pub(crate) mod redb;
}
mod statistics;
mod workload;

use clap::{Parser, Subcommand};
use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

/// Result of anything that measures; an error is printed and ends the program.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Benchmarks of Cowslip beside other stores.
#[derive(Debug, Parser)]
#[command(name = "cowslip-bench")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Run the same work on every store, in interleaved rounds, and print the rates and their ratio.
    Compare(compare::Options),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Compare(options) => compare::run(&options, &mut io::stdout().lock()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            writeln!(io::stderr(), "error: {error}").ok();
            ExitCode::FAILURE
        }
    }
}
