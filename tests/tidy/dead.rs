//! Dead files: every source file is part of a build, every document is linked, every link leads somewhere.

use super::source::{Source, enclosing, modules, tree};
use super::{assert_clean, assert_complains};
use std::collections::BTreeSet;
use std::path::Path;

/// Documents that a reader finds without a link.
const DOCUMENT_ROOTS: &[&str] = &["README.md", "design.md", "docs/architecture.md"];

/// Whether cargo starts a build at this file.
fn is_build_root(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    matches!(
        parts.as_slice(),
        ["src", "lib.rs"]
            | ["crates", _, "src", "lib.rs" | "main.rs"]
            | ["tests" | "examples" | "benches", _]
            | ["crates", _, "tests" | "examples" | "benches", _]
            | ["crates", _, "build.rs"]
            | ["tests" | "examples", _, "main.rs"]
            | ["crates", _, "src", "bin", _]
            | ["fuzz", "fuzz_targets", _]
            | ["fuzz", "src", "lib.rs"]
    )
}

/// The files that one `mod name;` of `file` can mean.
fn declared(file: &Source) -> Vec<[String; 2]> {
    let (folder, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
    let stem = name.trim_end_matches(".rs");
    let owns_folder = is_build_root(&file.path) || stem == "mod";
    let base = if owns_folder { folder.to_owned() } else { format!("{folder}/{stem}") };
    let found = modules(&file.code);
    let outside = found.iter().filter(|module| module.body_end.is_none());
    outside
        .map(|module| {
            let (inside, _) = enclosing(&found, module.start);
            let stem = [&[base.clone()][..], &inside, &[module.name.to_owned()]].concat().join("/");
            [format!("{stem}.rs"), format!("{stem}/mod.rs")]
        })
        .collect()
}

fn dead_sources(files: &[Source]) -> Vec<String> {
    let mut live: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).filter(|p| is_build_root(p)).collect();
    let mut waiting: Vec<&str> = live.iter().copied().collect();
    while let Some(path) = waiting.pop() {
        let Some(file) = files.iter().find(|file| file.path == path) else { continue };
        let candidates = declared(file).into_iter().flatten();
        for candidate in candidates.filter_map(|name| files.iter().find(|file| file.path == name)) {
            if live.insert(&candidate.path) {
                waiting.push(&candidate.path);
            }
        }
    }
    let dead = files.iter().filter(|file| file.is_rust() && !live.contains(file.path.as_str()));
    dead.map(|file| format!("{}: no mod declaration leads to it", file.path)).collect()
}

/// Targets of the relative links of a document, from the root of the project, without their anchors.
fn links(file: &Source) -> Vec<String> {
    let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let targets = file.text.split("](").skip(1).filter_map(|rest| rest.split([')', '#', ' ']).next());
    let relative = targets.filter(|target| !target.is_empty() && !target.contains("://"));
    relative.map(|target| resolve(folder, target)).collect()
}

fn resolve(folder: &str, target: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts.join("/")
}

/// Documents under `docs/` that no chain of links from the root documents reaches, through `docs/adr/README.md` only.
fn unlinked_documents(files: &[Source]) -> Vec<String> {
    let linked_from = |roots: &[&str]| -> BTreeSet<String> {
        files.iter().filter(|file| roots.contains(&file.path.as_str())).flat_map(links).collect()
    };
    let mut live = linked_from(DOCUMENT_ROOTS);
    if live.contains("docs/adr/README.md") {
        live.extend(linked_from(&["docs/adr/README.md"]));
    }
    let documents = files.iter().filter(|file| file.path.starts_with("docs/") && file.path.ends_with(".md"));
    let dead = documents.filter(|file| !live.contains(&file.path) && !DOCUMENT_ROOTS.contains(&file.path.as_str()));
    dead.map(|file| format!("{}: no link of {} leads to it", file.path, DOCUMENT_ROOTS.join(", "))).collect()
}

fn dead_links(files: &[Source], exists: impl Fn(&str) -> bool) -> Vec<String> {
    let documents = files.iter().filter(|file| file.path.ends_with(".md"));
    let pairs = documents.flat_map(|file| links(file).into_iter().map(move |target| (file, target)));
    let dead = pairs.filter(|(_, target)| !exists(target));
    dead.map(|(file, target)| format!("{}: links to {target}, which does not exist", file.path)).collect()
}

#[test]
fn every_source_file_is_part_of_a_build() {
    assert_clean(&dead_sources(&tree()));
}

#[test]
fn every_document_is_linked() {
    assert_clean(&unlinked_documents(&tree()));
}

#[test]
fn every_link_of_a_document_leads_to_a_file() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert_clean(&dead_links(&tree(), |target| root.join(target).exists()));
}

#[test]
fn a_source_file_without_a_declaration_is_found() {
    let lib = Source::new("src/lib.rs", "mod a; mod c { mod d; }\n// mod b;");
    let files = |extra: &str| [Source::new("src/a/mod.rs", "mod e;"), Source::new(extra, "")];
    for (path, dead) in [
        ("src/a/e.rs", false),
        ("src/c/d.rs", false),
        ("tests/it.rs", false),
        ("src/b.rs", true),
        ("src/d.rs", true),
        ("src/a/f.rs", true),
        ("crates/cli/src/odd.rs", true),
    ] {
        let sources: Vec<Source> = files(path).into_iter().chain([Source::new(&lib.path, &lib.text)]).collect();
        assert_eq!(dead_sources(&sources).len(), usize::from(dead), "{path}");
    }
}

#[test]
fn a_document_without_a_link_and_a_link_without_a_file_are_found() {
    let readme = Source::new("README.md", "See [tests](docs/testing.md#run) and [adr](./docs/adr/README.md).");
    let adr = Source::new("docs/adr/README.md", "[one](0001-one.md) [up](../../README.md) [web](https://x.y/z)");
    let all = ["docs/testing.md", "docs/adr/0001-one.md", "docs/odd.md"].map(|path| Source::new(path, ""));
    let files: Vec<Source> = [readme, adr].into_iter().chain(all).collect();
    assert_eq!(unlinked_documents(&files).len(), 1);
    assert_complains(&unlinked_documents(&files), "docs/odd.md");
    assert_complains(&dead_links(&files, |target| target != "docs/adr/0001-one.md"), "0001-one.md");
    assert_clean(&dead_links(&files, |target| files.iter().any(|file| file.path == target)));
}
