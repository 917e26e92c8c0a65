//! Words that may not appear: `unsafe` outside its files, promises of later work, paths of one machine.

use super::source::{Source, is_word_byte, tree, words};
use super::{assert_clean, assert_complains};

/// The only files that may hold `unsafe` code: two of the library, and one that opens a peer for the benchmark.
const UNSAFE_FILES: &[&str] = &[
    "src/pages/frames.rs",
    "src/pages/frames/hold.rs",
    "src/pages/frames/prefetch.rs",
    "src/io/sys.rs",
    "crates/bench/src/engines/lmdb.rs",
];

/// Marks of unfinished work, split so that this file does not contain them.
const UNFINISHED: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

/// Starts of absolute paths that exist on one machine only.
const MACHINE_PATHS: &[&str] = &[
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/wo", "rk/"),
    concat!("/tm", "p/"),
    concat!("/Us", "ers/"),
];

fn unsafe_code(files: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| file.is_rust() && !UNSAFE_FILES.contains(&file.path.as_str())) {
        let found = words(&file.code).into_iter().filter(|(_, word)| *word == "unsafe");
        complaints.extend(found.map(|(at, _)| format!("{}: unsafe outside {UNSAFE_FILES:?}", file.place(at))));
    }
    complaints
}

fn unfinished(files: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files {
        let found = words(&file.text).into_iter().filter(|(_, word)| UNFINISHED.contains(word));
        complaints.extend(found.map(|(at, word)| format!("{}: {word} promises later work", file.place(at))));
        let squeezed: String = file.code.split_whitespace().collect();
        if squeezed.contains("#[ignore]") {
            complaints.push(format!("{}: an ignored test says why: #[ignore = \"..\"]", file.path));
        }
    }
    complaints
}

fn machine_paths(files: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files {
        for start in MACHINE_PATHS {
            for (at, _) in file.text.match_indices(start) {
                let before = at.checked_sub(1).map_or(b' ', |before| file.text.as_bytes()[before]);
                if !is_word_byte(before) && !b"./*)}>-".contains(&before) {
                    complaints.push(format!("{}: {start} is a path of one machine", file.place(at)));
                }
            }
        }
    }
    complaints
}

#[test]
fn unsafe_code_stays_in_its_files() {
    assert_clean(&unsafe_code(&tree()));
}

#[test]
fn nothing_promises_later_work() {
    assert_clean(&unfinished(&tree()));
}

#[test]
fn no_file_names_a_path_of_one_machine() {
    assert_clean(&machine_paths(&tree()));
}

#[test]
fn unsafe_code_elsewhere_is_found_and_prose_about_it_is_not() {
    let text = "#![expect(unsafe_code, reason = \"x\")] fn f() { unsafe { g() } } // unsafe";
    assert_complains(&unsafe_code(&[Source::new("src/pages/buddy.rs", text)]), "src/pages/buddy.rs:1");
    assert_complains(&unsafe_code(&[Source::new("crates/cli/src/main.rs", text)]), "unsafe outside");
    assert_clean(&unsafe_code(&[Source::new("src/pages/frames.rs", text)]));
    assert_clean(&unsafe_code(&[Source::new("src/pages/buddy.rs", "// unsafe\nconst S: &str = \"unsafe\";")]));
}

#[test]
fn marks_of_unfinished_work_are_found() {
    for mark in UNFINISHED {
        assert_complains(&unfinished(&[Source::new("docs/a.md", &format!("text {mark}: more"))]), "docs/a.md:1");
    }
    assert_complains(&unfinished(&[Source::new("tests/a.rs", "#[test]\n# [ignore]\nfn f() {}")]), "says why");
    assert_clean(&unfinished(&[Source::new("tests/a.rs", "#[ignore = \"needs 1 GiB\"] fn f() {}")]));
}

#[test]
fn paths_of_one_machine_are_found() {
    for start in MACHINE_PATHS {
        assert_complains(&machine_paths(&[Source::new("docs/a.md", &format!("see {start}x"))]), "docs/a.md:1");
        assert_clean(&machine_paths(&[Source::new("docs/a.md", &format!("see a{start}x"))]));
    }
}
