//! `cargo xtask miri`: the tests of what is unsafe, and of a database in memory on top of it, under Miri.
//!
//! Needs a nightly toolchain with Miri: `rustup +nightly component add miri`. Sizes are cut where `cfg!(miri)` holds.

use crate::Result;
use std::process::Command;
use std::time::Instant;

/// Parts of the names of the tests that are run.
const TESTS: &[&str] = &["pages::frames", "pages::epoch", "pages::translation", "db::in_memory"];

/// Options of the task.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Runs only tests whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Tries so many orders of the threads' steps, each from another seed.
    #[arg(long, default_value_t = 1)]
    seeds: u32,
}

/// Runs the task; `false` where a test fails or Miri finds undefined behaviour.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let started = Instant::now();
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| crate::workspace_root().join("target"), Into::into);
    // Clocks, and the files of the machine that say how much memory there is.
    let mut flags = "-Zmiri-disable-isolation".to_owned();
    if options.seeds > 1 {
        flags += &format!(" -Zmiri-many-seeds=0..{}", options.seeds);
    }
    let mut command = Command::new("cargo");
    command.current_dir(crate::workspace_root()).env("MIRIFLAGS", flags).env("CARGO_TARGET_DIR", target.join("miri"));
    // What the outer cargo tells its children about itself would choose its own toolchain.
    command.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO").env_remove("RUSTC");
    command.args(["+nightly", "miri", "test", "--lib", "-p", "cowslip", "--"]);
    match &options.only {
        Some(name) => command.arg(name),
        None => command.args(TESTS),
    };
    let passed = command.status()?.success();
    println!("{} after {:.0} s", if passed { "passed" } else { "failed" }, started.elapsed().as_secs_f64());
    Ok(passed)
}
