//! Names of files: what may stand at the top, and names that say nothing.

use super::source::{Source, tree};
use super::{assert_clean, assert_complains};
use std::path::Path;

/// Everything that may stand at the top of the tree besides licence texts, dotfiles and build output.
const TOP_LEVEL: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    "design.md",
    "src",
    "tests",
    "fuzz",
    "docs",
    "crates",
    "examples",
    "target",
];

/// Words in a file or folder name that could stand for anything.
const EMPTY_NAMES: &[&str] = &["util", "utils", "helper", "helpers", "manager", "misc", "inner"];

fn strangers<'a>(top: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let allowed = |name: &str| TOP_LEVEL.contains(&name) || name.starts_with('.') || name.starts_with("LICENSE-");
    let strange = top.into_iter().filter(|name| !allowed(name));
    strange.map(|name| format!("{name}: has no place at the top level")).collect()
}

fn empty_names(files: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files {
        let mut words = file.path.split(['/', '.', '_', '-']);
        if let Some(word) = words.find(|word| EMPTY_NAMES.contains(word)) {
            complaints.push(format!("{}: {word:?} names nothing", file.path));
        }
    }
    complaints
}

#[test]
fn the_top_level_holds_only_what_it_may() {
    let entries = Path::new(env!("CARGO_MANIFEST_DIR")).read_dir().expect("the root can be read");
    let names: Vec<String> =
        entries.map(|entry| entry.expect("the root can be read").file_name().to_string_lossy().into_owned()).collect();
    assert_clean(&strangers(names.iter().map(String::as_str)));
}

#[test]
fn file_names_say_what_is_inside() {
    assert_clean(&empty_names(&tree()));
}

#[test]
fn a_stranger_at_the_top_is_found() {
    assert_clean(&strangers(["src", "LICENSE-MIT", ".ci", "Cargo.lock"]));
    assert_complains(&strangers(["src", "notes.txt"]), "notes.txt");
    assert_complains(&strangers(["benches"]), "benches");
}

#[test]
fn a_name_that_says_nothing_is_found() {
    for path in ["src/base/utils.rs", "src/pages/page_manager.rs", "tests/helper/mod.rs", "src/io/misc.rs"] {
        assert_complains(&empty_names(&[Source::new(path, "")]), "names nothing");
    }
    assert_clean(&empty_names(&[Source::new("src/base/codec.rs", ""), Source::new("docs/limits.md", "")]));
}
