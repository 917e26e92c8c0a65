//! Proof that the tests can fail: plants one bug at a time and requires that the gate commands catch it.

mod delta_list;
mod gate;
mod list;
mod log_list;
mod tree;

use crate::Result;
use clap::Args;
use gate::{Gate, Runner, Verdict};
use list::{Sabotage, all};
use std::fs;
use std::time::{Duration, Instant};
use tree::ScratchTree;

/// The run without a bug also compiles every dependency.
const FIRST_BUILD_TIMEOUT: Duration = Duration::from_secs(3600);

/// Options of the task.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Plants only the sabotage of this name; may be given several times.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Prints the sabotages and plants none.
    #[arg(long)]
    list: bool,
    /// A gate command that takes longer with a bug planted counts as hanging.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout_seconds: u64,
}

/// Returns whether every chosen sabotage was caught.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let chosen = choose(&options.only)?;
    if options.list {
        for sabotage in &chosen {
            println!("{:<44} {:<36} {}", sabotage.name, sabotage.rule, sabotage.file);
        }
        return Ok(true);
    }
    let root = crate::workspace_root();
    let scratch = root.join("target").join("sabotage");
    fs::create_dir_all(scratch.join("tree"))?;
    let tree = ScratchTree::synchronize(&root, &scratch.join("tree"))?;
    let mut runner = Runner {
        tree: tree.root().to_owned(),
        target: scratch.join("build"),
        output: scratch.join("output.txt"),
        timeout: FIRST_BUILD_TIMEOUT,
    };
    require_passing(&runner, &chosen)?;
    runner.timeout = Duration::from_secs(options.timeout_seconds);
    let mut rows = Vec::new();
    for sabotage in chosen {
        let started = Instant::now();
        let verdict = tree.planted(sabotage, || first_failure(&runner, sabotage.commands))?;
        eprintln!("{}: {verdict:?} after {} s", sabotage.name, started.elapsed().as_secs());
        rows.push((sabotage, verdict));
    }
    Ok(report(&rows))
}

/// The sabotages of these names; all of them where none is given.
fn choose(names: &[String]) -> Result<Vec<&'static Sabotage>> {
    for name in names {
        if !all().any(|sabotage| sabotage.name == name) {
            return Err(format!("there is no sabotage {name}; --list prints them").into());
        }
    }
    Ok(all().filter(|s| names.is_empty() || names.iter().any(|name| name == s.name)).collect())
}

/// Runs every gate command once without a bug: a command that fails anyway catches nothing.
fn require_passing(runner: &Runner, chosen: &[&Sabotage]) -> Result<()> {
    let mut gates: Vec<Gate> = Vec::new();
    for gate in chosen.iter().flat_map(|sabotage| sabotage.commands) {
        if !gates.contains(gate) {
            gates.push(*gate);
        }
    }
    for gate in gates {
        let started = Instant::now();
        match runner.run(gate)? {
            Verdict::Passed => eprintln!("no sabotage: {} passed after {} s", gate.name, started.elapsed().as_secs()),
            verdict => {
                let output = runner.output.display();
                return Err(format!("{} must pass without a sabotage: {verdict:?}; see {output}", gate.name).into());
            }
        }
    }
    Ok(())
}

/// Runs the gate commands in order until one does not pass.
fn first_failure(runner: &Runner, gates: &[Gate]) -> Result<Verdict> {
    for gate in gates {
        let verdict = runner.run(*gate)?;
        if verdict != Verdict::Passed {
            return Ok(verdict);
        }
    }
    Ok(Verdict::Passed)
}

/// Prints the table and the totals; returns whether nothing was missed.
fn report(rows: &[(&Sabotage, Verdict)]) -> bool {
    let name_width = rows.iter().map(|(sabotage, _)| sabotage.name.len()).max().unwrap_or(0);
    let rule_width = rows.iter().map(|(sabotage, _)| sabotage.rule.len()).max().unwrap_or(0);
    let mut caught = 0;
    for (sabotage, verdict) in rows {
        let by = match verdict {
            Verdict::Caught(by) => {
                caught += 1;
                by.clone()
            }
            Verdict::Passed => "MISSED: every gate command passed".to_owned(),
            Verdict::Broken(reason) => format!("MISSED: {reason}"),
        };
        println!("{:<name_width$}  {:<rule_width$}  {by}", sabotage.name, sabotage.rule);
    }
    println!("{} sabotages, {caught} caught, {} missed", rows.len(), rows.len() - caught);
    caught == rows.len()
}
