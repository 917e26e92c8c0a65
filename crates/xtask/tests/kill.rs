//! Killed writers lose nothing, in small.

use std::process::{Command, Output};

fn kill(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cowslip-xtask"));
    command.arg("kill").args(arguments).output().expect("the task can be started")
}

#[test]
fn killed_writers_lose_no_acknowledged_commit() {
    let done = kill(&["--rounds", "25"]);
    let printed = String::from_utf8_lossy(&done.stdout);
    assert_eq!(done.status.code(), Some(0), "{printed}");
    assert!(printed.contains("25 rounds") && printed.ends_with("0 lost\n"), "{printed}");
    assert!(!printed.contains(" 0 acknowledged"), "{printed}");
}

#[test]
fn commits_that_are_acknowledged_too_early_are_found() {
    let found = kill(&["--rounds", "200", "--plant-early-ack"]);
    let printed = String::from_utf8_lossy(&found.stdout);
    assert_eq!(found.status.code(), Some(0), "{printed}");
    assert!(printed.contains("planted fault caught"), "{printed}");
}
