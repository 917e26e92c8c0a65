//! The budget of memory is kept, in small.

use std::process::Command;

#[test]
#[cfg(target_os = "linux")]
fn a_load_of_many_times_the_budget_stays_within_it() {
    let task = |budget_mib: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cowslip-xtask"));
        command.args(["memory", "--mib", "40", "--budget-mib", budget_mib, "--limit-mib", "20"]);
        command.output().expect("the task can be started")
    };
    let kept = task("4");
    assert_eq!(kept.status.code(), Some(0), "{}", String::from_utf8_lossy(&kept.stdout));
    // The check itself can fail: a database that takes what it would under a larger budget is found.
    let exceeded = task("64");
    let printed = String::from_utf8_lossy(&exceeded.stdout);
    assert_eq!(exceeded.status.code(), Some(1), "{printed}");
    assert!(printed.contains("resident at most"), "it failed for another reason: {printed}");
}
