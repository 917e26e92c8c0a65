//! What the gate must run, beside what every change makes people run by hand.

use super::source::{Source, tree};
use super::{assert_clean, assert_complains};

/// Whether a line runs ordinary tests, not those of another build, with the release profile.
fn tests_release(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    let starts = words.starts_with(&["step", "cargo", "test"]) && !words.contains(&"--no-run");
    starts && words.contains(&"--release") && words.contains(&"it")
}

fn gate(files: &[Source]) -> Vec<String> {
    let gate = files.iter().find(|file| file.path == ".ci/run");
    match gate {
        None => vec![".ci/run: is not there".to_owned()],
        Some(gate) if gate.text.lines().any(tests_release) => Vec::new(),
        Some(_) => vec![".ci/run: runs no integration tests with the release profile".to_owned()],
    }
}

#[test]
fn pitfall_58_the_gate_runs_the_integration_tests_with_the_release_profile() {
    assert_clean(&gate(&tree()));
}

#[test]
fn a_gate_without_tests_of_the_release_profile_is_found() {
    assert_complains(&gate(&[]), "not there");
    let without = [
        "step cargo test --workspace\n",
        "# step cargo test --release --test it\n",
        "step cargo test --release --test it --no-run\n",
        "step env RUSTFLAGS='--cfg loom' cargo test --release --lib loom_\n",
    ];
    for text in without {
        assert_complains(&gate(&[Source::new(".ci/run", text)]), "release profile");
    }
    assert_clean(&gate(&[Source::new(".ci/run", "set -e\nstep cargo test --release --test it\n")]));
}
