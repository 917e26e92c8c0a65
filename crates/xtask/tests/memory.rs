//! The budget of memory is kept, in small.

use std::process::Command;

#[test]
#[cfg(target_os = "linux")]
fn a_load_of_many_times_the_budget_stays_within_it() {
    let task = |budget_mib: &str, slack_mib: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cowslip-xtask"));
        command.args(["memory", "--mib", "40", "--budget-mib", budget_mib, "--slack-mib", slack_mib]);
        command.output().expect("the task can be started")
    };
    let kept = task("4", "16");
    assert!(kept.status.success(), "{}", String::from_utf8_lossy(&kept.stdout));
    // The check itself can fail: with room for all of the data more is taken than this limit allows.
    let exceeded = task("64", "0");
    assert_eq!(exceeded.status.code(), Some(0), "{}", String::from_utf8_lossy(&exceeded.stdout));
}
