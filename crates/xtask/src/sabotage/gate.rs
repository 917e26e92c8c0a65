//! Running a gate command and judging how it ended.
//!
//! Invariant: a command counts as having caught a bug only where something that ran said so: a failing test, a dead
//! process, a failing program, or a hang. What does not compile was never tested.

use crate::Result;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A cargo command that a change has to pass: `test ..`, or `run .. -- ..` for a program that proves something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gate {
    pub(crate) name: &'static str,
    /// Arguments to cargo.
    pub(crate) args: &'static [&'static str],
}

impl Gate {
    /// The command that compiles what this one runs, and runs nothing.
    fn build_args(&self) -> Vec<&'static str> {
        let options = self.args.split(|arg| *arg == "--").next().unwrap_or_default();
        match options.split_first() {
            Some((&"test", rest)) => [&["test", "--no-run"], rest].concat(),
            Some((&"run", rest)) => [&["build"], rest].concat(),
            _ => options.to_vec(),
        }
    }
}

/// How a gate command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing failed.
    Passed,
    /// Something that ran failed; the text names it.
    Caught(String),
    /// It failed before anything ran, or in a way that no test explains.
    Broken(String),
}

/// Where and for how long commands run.
#[derive(Debug)]
pub(crate) struct Runner {
    pub(crate) tree: PathBuf,
    pub(crate) target: PathBuf,
    /// Everything that the last command printed.
    pub(crate) output: PathBuf,
    pub(crate) timeout: Duration,
}

impl Runner {
    /// Builds, then runs, the gate command in the tree.
    pub(crate) fn run(&self, gate: Gate) -> Result<Verdict> {
        match self.cargo(&gate.build_args())? {
            Some(status) if status.success() => {}
            Some(_) => return Ok(Verdict::Broken("does not compile".to_owned())),
            None => return Ok(Verdict::Broken("the build ran into the timeout".to_owned())),
        }
        match self.cargo(gate.args)? {
            Some(status) => {
                let output = String::from_utf8_lossy(&fs::read(&self.output)?).into_owned();
                Ok(judge(gate, status.success(), status.code(), &output))
            }
            None => Ok(Verdict::Caught(format!("{} hang", gate.name))),
        }
    }

    /// `None` where the command ran into the timeout; it and what it started are gone then.
    fn cargo(&self, args: &[&str]) -> Result<Option<ExitStatus>> {
        let output = File::create(&self.output)?;
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(args).current_dir(&self.tree).env("CARGO_TARGET_DIR", &self.target);
        command.env("CARGO_TERM_COLOR", "never").stdin(Stdio::null());
        command.stdout(output.try_clone()?).stderr(output);
        own_group(&mut command);
        let mut child = command.spawn()?;
        let started = Instant::now();
        while started.elapsed() < self.timeout {
            if let Some(status) = child.try_wait()? {
                return Ok(Some(status));
            }
            thread::sleep(Duration::from_millis(50));
        }
        end_group(&mut child)?;
        Ok(None)
    }
}

/// A group of its own, so that a hanging test ends together with the cargo that started it.
#[cfg(unix)]
fn own_group(command: &mut Command) {
    std::os::unix::process::CommandExt::process_group(command, 0);
}

#[cfg(not(unix))]
fn own_group(_command: &mut Command) {}

fn end_group(child: &mut Child) -> Result<()> {
    #[cfg(unix)]
    {
        let group = rustix::process::Pid::from_child(child);
        rustix::process::kill_process_group(group, rustix::process::Signal::KILL)?;
    }
    #[cfg(not(unix))]
    child.kill()?;
    child.wait()?;
    Ok(())
}

/// Names what failed, from the output of the test harness or of the program.
fn judge(gate: Gate, success: bool, code: Option<i32>, output: &str) -> Verdict {
    if success {
        return Verdict::Passed;
    }
    let failed = output.lines().filter_map(|line| line.trim().strip_prefix("test ")?.strip_suffix("... FAILED"));
    if let Some(name) = failed.map(str::trim).next() {
        return Verdict::Caught(name.to_owned());
    }
    let died =
        output.lines().find(|line| line.contains("process didn't exit successfully") && line.contains("(signal: "));
    if died.is_some() {
        return Verdict::Caught(format!("a process of {} died", gate.name));
    }
    if gate.args.first() == Some(&"run") {
        let code = code.map_or("a signal".to_owned(), |code| format!("exit code {code}"));
        return Verdict::Caught(format!("{}: {code}", gate.name));
    }
    Verdict::Broken(format!("{} failed without a failing test", gate.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TESTS: Gate = Gate { name: "tests", args: &["test", "--workspace", "--", "--skip", "x"] };
    const PROGRAM: Gate = Gate { name: "crash", args: &["run", "--release", "--", "crash", "--images", "9"] };

    #[test]
    fn the_build_command_runs_nothing() {
        assert_eq!(TESTS.build_args(), ["test", "--no-run", "--workspace"]);
        assert_eq!(PROGRAM.build_args(), ["build", "--release"]);
    }

    #[test]
    fn only_what_ran_and_failed_counts_as_caught() {
        let output = "test a::passes ... ok\ntest a::fails ... FAILED\ntest b ... FAILED\n";
        assert_eq!(judge(TESTS, false, Some(101), output), Verdict::Caught("a::fails".to_owned()));
        assert_eq!(judge(TESTS, true, Some(0), "test a ... ok"), Verdict::Passed);
        assert!(matches!(judge(TESTS, false, Some(101), "error[E0308]: mismatched types"), Verdict::Broken(_)));
        let died = "process didn't exit successfully: `x` (signal: 6, SIGABRT: process abort signal)";
        assert!(matches!(judge(TESTS, false, Some(101), died), Verdict::Caught(_)));
        assert_eq!(judge(PROGRAM, false, Some(1), ""), Verdict::Caught("crash: exit code 1".to_owned()));
    }

    #[cfg(unix)]
    #[test]
    fn a_command_that_hangs_is_ended_with_everything_it_started() {
        let folder = std::env::temp_dir().join(format!("cowslip-xtask-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let mut command = Command::new("sh");
        let marker = folder.join("marker");
        command.arg("-c").arg(format!("sh -c 'sleep 2; touch {0}'; touch {0}", marker.display()));
        own_group(&mut command);
        let mut child = command.spawn().unwrap();
        end_group(&mut child).unwrap();
        thread::sleep(Duration::from_millis(2500));
        assert!(!marker.exists());
        fs::remove_dir_all(&folder).unwrap();
    }
}
