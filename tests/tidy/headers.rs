//! File headers and the character set of the source.

use super::layers::number;
use super::source::{Source, tree};
use super::{assert_clean, assert_complains};

const HEADED: &[&str] = &["src/", "crates/", "tests/", "examples/", "fuzz/"];

fn headers(files: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| file.is_rust() && HEADED.iter().any(|top| file.path.starts_with(top))) {
        if !file.text.starts_with("//! ") {
            complaints.push(format!("{}: does not open with a //! header that says what the file is", file.path));
            continue;
        }
        if file.path.starts_with("src/") {
            complaints.extend(layer_header(file).map(|reason| format!("{}: {reason}", file.path)));
        }
    }
    complaints
}

/// What the header of a file of `src/` lacks.
fn layer_header(file: &Source) -> Option<String> {
    let header: Vec<&str> = file.text.lines().take_while(|line| line.starts_with("//!")).collect();
    if !header.iter().any(|line| line.starts_with("//! Invariant: ")) {
        return Some("the header has no line that starts with \"Invariant: \"".to_owned());
    }
    let module = file.module();
    // The root file wires the public items and so counts as part of the top wiring layer.
    let layer = module.first().map_or("db", String::as_str);
    let line = format!("//! Layer {} ({layer}).", number(layer)?);
    (!header.iter().any(|found| found.starts_with(&line))).then(|| format!("the header has no line {line:?}"))
}

fn ascii(files: &[Source]) -> Vec<String> {
    let rust = files.iter().filter(|file| file.is_rust());
    rust.filter_map(|file| {
        let offset = file.text.bytes().position(|byte| !byte.is_ascii() || byte == b'\r' || byte == b'\t')?;
        Some(format!("{}: a character outside printable ASCII", file.place(offset)))
    })
    .collect()
}

#[test]
fn every_source_file_opens_with_its_header() {
    assert_clean(&headers(&tree()));
}

#[test]
fn source_is_ascii() {
    assert_clean(&ascii(&tree()));
}

#[test]
fn a_missing_or_wrong_header_is_found() {
    let complaints = |path: &str, text: &str| headers(&[Source::new(path, text)]);
    let good = "//! Buddy allocator.\n//!\n//! Invariant: runs are disjoint.\n//! Layer 2 (pages). Bytes: design.md.\n";
    assert_clean(&complaints("src/pages/buddy.rs", good));
    assert_clean(&complaints("tests/crash.rs", "//! Crash tests.\n"));
    assert_complains(&complaints("src/btree/leaf.rs", good), "Layer 3 (btree)");
    assert_complains(&complaints("src/pages/buddy.rs", "//! Buddy.\n//! Layer 2 (pages).\n"), "Invariant");
    assert_complains(&complaints("src/pages/buddy.rs", "//! Buddy.\n//! Invariant: x.\n"), "Layer 2 (pages)");
    assert_complains(&complaints("src/pages/buddy.rs", &format!("use x;\n{good}")), "does not open");
    assert_complains(&complaints("fuzz/fuzz_targets/table.rs", "fn main() {}"), "does not open");
    let split = "//! Buddy.\n\nuse x;\n//! Invariant: x.\n//! Layer 2 (pages).\n";
    assert_complains(&complaints("src/pages/buddy.rs", split), "Invariant");
}

#[test]
fn a_character_outside_ascii_is_found() {
    assert_complains(&ascii(&[Source::new("src/a.rs", "//! x\n// caf\u{e9}\n")]), "src/a.rs:2");
    assert_complains(&ascii(&[Source::new("src/a.rs", "//! x\r\n")]), "src/a.rs:1");
    assert_clean(&ascii(&[Source::new("docs/a.md", "caf\u{e9}"), Source::new("src/a.rs", "//! x\n")]));
}
