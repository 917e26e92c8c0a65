//! Benchmarks of Cowslip beside other stores, in one process: `compare`; and of its commits one by one: `latency`.

mod bare;
mod compare;
mod data;
mod digest;
mod engine;
mod engines {
    //! The stores that are compared, each behind the same trait.

    pub(crate) mod cowslip;
    pub(crate) mod fjall;
    pub(crate) mod lmdb;
    pub(crate) mod redb;
}
mod folders;
mod latency;
mod measure;
mod output;
mod statistics;
mod workload;

use clap::{Parser, Subcommand};
use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

/// Result of anything that measures; an error is printed and ends the program.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Benchmarks of Cowslip beside other stores.
#[derive(Debug, Parser)]
#[command(name = "cowslip-bench")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Run the same work on every store, in interleaved rounds, and print the figures and their ratios.
    Compare(compare::Options),
    /// Measure how long single durable commits take at half of their peak rate, and draw them.
    Latency(latency::Options),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Compare(options) => compare::run(&options, &mut io::stdout(), &mut io::stderr()),
        Task::Latency(options) => latency::run(&options, &mut io::stdout(), &mut io::stderr()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            writeln!(io::stderr(), "error: {error}").ok();
            ExitCode::FAILURE
        }
    }
}
