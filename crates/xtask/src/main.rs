//! Developer tasks: `cargo xtask TASK`.

mod corrupt;
mod crash;
mod cut;
mod freeze;
mod fuzz;
mod keys;
mod kill;
mod memory;
mod miri;
mod model;
mod random;
mod reopen;
mod sabotage;
mod wait;

use clap::{Parser, Subcommand};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Result of a task; an error is printed and ends the task with exit code 2.
type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Developer tasks of the Cowslip project.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Damage small files in every place, and behind checksums made to fit, and check what is read.
    Corrupt(corrupt::Options),
    /// Cut the power at every operation of many histories and check what is found.
    Crash(crash::Options),
    /// Cut the power of a file system under a writer and check that no acknowledged commit is lost.
    Cut(cut::Options),
    /// Run every fuzz target, and the canary that must fail.
    Fuzz(fuzz::Options),
    /// Write the frozen file of the current format version.
    Freeze(freeze::Options),
    /// Compare the byte order of keys with the order of their values, for every key type.
    Keys(keys::Options),
    /// Kill a writer at random moments and check that no acknowledged commit is lost.
    Kill(kill::Options),
    /// Load more than memory may hold and compare the most that was taken with the budget.
    Memory(memory::Options),
    /// Run what is unsafe, and a database in memory on top of it, under Miri.
    Miri(miri::Options),
    /// Run random operations against a model of the store.
    Model(model::Options),
    /// Plant one bug at a time and require that the tests catch it.
    Sabotage(sabotage::Options),
    /// Kill the writer of a large database and time its reopening.
    Reopen(reopen::Options),
}

/// Root of the workspace that this program was built from.
fn workspace_root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
    root.expect("the manifest is two folders below the root").to_owned()
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Corrupt(options) => corrupt::run(&options),
        Task::Crash(options) => crash::run(&options),
        Task::Cut(options) => cut::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Freeze(options) => freeze::run(&options),
        Task::Keys(options) => keys::run(&options),
        Task::Kill(options) => kill::run(&options),
        Task::Memory(options) => memory::run(&options),
        Task::Miri(options) => miri::run(&options),
        Task::Model(options) => model::run(&options),
        Task::Sabotage(options) => sabotage::run(&options),
        Task::Reopen(options) => reopen::run(&options),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}
