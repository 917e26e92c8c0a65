//! `cargo xtask fuzz`: every fuzz target for some seconds, and at the end the canary, which must fail.
//!
//! Invariant: a run that reports success built and ran every target of the list, and the canary was found.

#[path = "../../../fuzz/src/names.rs"]
#[expect(unreachable_pub, reason = "the library of the targets exports the list, this program does not")]
mod names;

use crate::Result;
use names::{CANARY, CANARY_MESSAGE, TARGETS};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Seconds within which the canary has to be found, however short the other runs are.
const CANARY_SECONDS: u64 = 120;
/// One input that takes longer than this is a failure.
const INPUT_SECONDS_MAX: u64 = 20;
const MEMORY_MIB_MAX: u64 = 2048;
const LOG_LINES_SHOWN: usize = 40;

const HOW_TO_INSTALL: &str = "fuzzing needs a nightly compiler and cargo-fuzz:
    rustup toolchain install nightly --profile minimal
    cargo install cargo-fuzz --version 0.13.2 --locked";

/// Options of the task.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Seconds for each target.
    #[arg(long, value_name = "COUNT", default_value_t = 30)]
    seconds: u64,
    /// Only this target; the canary is run after it all the same.
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
}

/// What a run of one target said.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    runs: u64,
    failed: bool,
    /// The failure that the canary exists for.
    is_canary: bool,
}

/// Runs the task; true when no target failed and the canary did.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let chosen = choose(options.target.as_deref())?;
    require_tools()?;
    let root = crate::workspace_root();
    let built = cargo_fuzz(&root, "build").status()?;
    if !built.success() {
        return Err("the fuzz targets do not build".into());
    }
    let mut clean = true;
    for target in chosen {
        let (verdict, log) = fuzz(&root, target, options.seconds)?;
        clean &= !verdict.failed && verdict.runs > 0;
        if verdict.failed {
            print_end(&log);
        }
    }
    let (canary, log) = fuzz(&root, CANARY, CANARY_SECONDS)?;
    if !canary.failed || !canary.is_canary {
        print_end(&log);
        println!("the canary was not found: the runs above prove nothing");
    }
    Ok(clean && canary.failed && canary.is_canary)
}

/// The targets to run before the canary.
fn choose(only: Option<&str>) -> Result<Vec<&'static str>> {
    match only {
        None => Ok(TARGETS.to_vec()),
        Some(CANARY) => Ok(Vec::new()),
        Some(name) => match TARGETS.iter().find(|target| **target == name) {
            Some(target) => Ok(vec![*target]),
            None => Err(format!("no target {name:?}; there are {} and {CANARY}", TARGETS.join(", ")).into()),
        },
    }
}

fn require_tools() -> Result<()> {
    let asked = Command::new("rustup").args(["run", "nightly", "cargo", "fuzz", "--version"]).output();
    match asked {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{HOW_TO_INSTALL}\n{}", String::from_utf8_lossy(&output.stderr).trim_end()).into()),
        Err(error) => Err(format!("{HOW_TO_INSTALL}\nrustup: {error}").into()),
    }
}

/// Without a sanitizer: the store is safe code, which panics where it is wrong, and runs are several times as fast.
fn cargo_fuzz(root: &Path, verb: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo", "fuzz", verb, "--sanitizer", "none"]).current_dir(root);
    command
}

/// Runs one target and prints its line.
fn fuzz(root: &Path, target: &str, seconds: u64) -> Result<(Verdict, String)> {
    let began = Instant::now();
    let folder = root.join("fuzz");
    // The canary starts from nothing: its seeds would show it at once, and the run is to show that fuzzing finds it.
    let fresh = tempfile::tempdir()?;
    let kept = folder.join("corpus").join(target);
    let starts = ["seeds", "regressions"].map(|kind| folder.join(kind).join(target));
    let corpora: Vec<PathBuf> = if target == CANARY {
        vec![fresh.path().to_owned()]
    } else {
        std::fs::create_dir_all(&kept)?;
        [kept].into_iter().chain(starts.into_iter().filter(|start| start.is_dir())).collect()
    };
    let mut command = cargo_fuzz(root, "run");
    command.arg(target).args(corpora).arg("--").args([
        format!("-max_total_time={seconds}"),
        format!("-timeout={INPUT_SECONDS_MAX}"),
        format!("-rss_limit_mb={MEMORY_MIB_MAX}"),
        "-print_final_stats=1".to_owned(),
    ]);
    if target == CANARY {
        let mut prefix = OsString::from("-artifact_prefix=");
        prefix.push(fresh.path().join("found-"));
        command.arg(prefix);
    }
    let output = command.stdin(Stdio::null()).output()?;
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    let verdict = judge(output.status.success(), &log);
    let outcome = match (target == CANARY, verdict.failed) {
        (true, true) => "found, as it must be",
        (true, false) => "NOT FOUND",
        (false, true) => "FAILED",
        (false, false) => "clean",
    };
    let crashes = u32::from(verdict.failed);
    println!(
        "{target:<12} {:>10} runs {crashes:>3} crashes {:>5} s  {outcome}",
        verdict.runs,
        began.elapsed().as_secs()
    );
    Ok((verdict, log))
}

/// Reads what libFuzzer printed at its end.
fn judge(succeeded: bool, log: &str) -> Verdict {
    let stat = |name: &str| log.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    Verdict {
        runs: stat("stat::number_of_executed_units:").unwrap_or(0),
        failed: !succeeded,
        is_canary: log.contains(CANARY_MESSAGE),
    }
}

fn print_end(log: &str) {
    let lines: Vec<&str> = log.lines().collect();
    for line in &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..] {
        println!("    {line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pitfall_59_the_run_covers_the_whole_list_and_never_skips_the_canary() {
        assert_eq!(choose(None).unwrap(), TARGETS);
        assert!(!TARGETS.contains(&CANARY));
        assert_eq!(choose(Some("node")).unwrap(), ["node"]);
        assert_eq!(choose(Some(CANARY)).unwrap(), [""; 0]);
        assert!(choose(Some("nothing")).is_err());
    }

    #[test]
    fn only_the_canarys_own_failure_counts_as_the_canary() {
        let found = format!("thread panicked:\n{CANARY_MESSAGE}\nstat::number_of_executed_units: 712\n");
        assert_eq!(judge(false, &found), Verdict { runs: 712, failed: true, is_canary: true });
        let unbuilt = "error: could not compile";
        assert_eq!(judge(false, unbuilt), Verdict { runs: 0, failed: true, is_canary: false });
        let survived = "stat::number_of_executed_units: 9\n";
        assert_eq!(judge(true, survived), Verdict { runs: 9, failed: false, is_canary: false });
    }
}
