//! Layer direction: a file names only lower layers or its own, whichever way it spells the path.

use super::source::{Source, enclosing, modules, skip_space, tree, words};
use super::{assert_clean, assert_complains};

/// Folder and number of every layer.
pub(crate) const LAYERS: &[(&str, u8)] = &[
    ("base", 0),
    ("delta", 1),
    ("io", 1),
    ("pages", 2),
    ("btree", 3),
    ("catalog", 4),
    ("txn", 5),
    ("table", 6),
    ("savepoint", 7),
    ("history", 7),
    ("cdc", 7),
    ("blob", 7),
    ("db", 8),
    ("layers", 9),
];

/// Layers whose every file may name `io`.
const IO_LAYERS: &[&str] = &["pages", "db"];

/// Files outside those layers that may name `io`, besides `src/txn/log*`.
const IO_FILES: &[&str] = &["src/txn/recover.rs", "src/txn/create.rs"];

pub(crate) fn number(layer: &str) -> Option<u8> {
    LAYERS.iter().find(|(name, _)| *name == layer).map(|(_, number)| *number)
}

/// A path that leads to the root of the crate: the first name after it, where it stands, and whether in a test.
struct Named {
    first: String,
    offset: usize,
    test: bool,
}

fn named(source: &Source) -> Vec<Named> {
    let code = source.code.as_str();
    let inline = modules(code);
    let own = source.module();
    let test_file = own.iter().any(|part| part == "tests" || part.ends_with("_tests"));
    let mut found = Vec::new();
    for (offset, word) in words(code) {
        let next = skip_space(code, offset + word.len());
        if !code[next..].starts_with("::") || (word != "crate" && word != "super") {
            continue;
        }
        let (inside, test) = enclosing(&inline, offset);
        let mut prefix = Vec::new();
        if word == "super" {
            prefix.extend(own.iter().cloned().chain(inside));
            prefix.pop();
        }
        let mut paths = Vec::new();
        expand(code, next + 2, prefix, &mut paths);
        let firsts = paths.into_iter().filter_map(|path| path.into_iter().next());
        found.extend(firsts.map(|first| Named { first, offset, test: test || test_file }));
    }
    found
}

/// Reads the path or group at `at`, appends every full path to `out`, and returns the offset after it.
fn expand(code: &str, at: usize, mut prefix: Vec<String>, out: &mut Vec<Vec<String>>) -> usize {
    let mut at = skip_space(code, at);
    match code.as_bytes().get(at) {
        Some(b'{') => {
            at = skip_space(code, at + 1);
            while at < code.len() && !code[at..].starts_with('}') {
                at = expand(code, at, prefix.clone(), out);
                at += code[at..].find([',', '}']).unwrap_or(code.len() - at);
                at = skip_space(code, at + usize::from(code[at..].starts_with(',')));
            }
            return code.len().min(at + 1);
        }
        Some(b'*') => {
            prefix.push("*".to_owned());
            out.push(prefix);
            return at + 1;
        }
        _ => {}
    }
    let name =
        words(&code[at..code.len().min(at + 128)]).first().filter(|(start, _)| *start == 0).map(|(_, word)| *word);
    match name {
        Some("super") => {
            prefix.pop();
        }
        Some("self") | None => {}
        Some(name) => prefix.push(name.to_owned()),
    }
    at += name.map_or(0, str::len);
    let next = skip_space(code, at);
    if name.is_some() && code[next..].starts_with("::") {
        return expand(code, next + 2, prefix, out);
    }
    out.push(prefix);
    at
}

fn may_name_io(path: &str, layer: &str) -> bool {
    IO_LAYERS.contains(&layer) || path.starts_with("src/txn/log") || IO_FILES.contains(&path)
}

/// Why `path`, a file of `own`, must not name `crate::first`; `None` where it may.
fn objection(path: &str, own: &str, named: &Named) -> Option<String> {
    let first = named.first.as_str();
    let level = number(own)?;
    match number(first) {
        _ if first == own => None,
        Some(_) if level == 9 => Some(format!("layer 9 is written on the public API, not on crate::{first}")),
        None if level == 9 => None,
        None => Some(format!("crate::{first} hides a layer: name the item where it is defined")),
        Some(target) if target >= level => {
            Some(format!("layer {level} ({own}) must not name crate::{first} of layer {target}"))
        }
        Some(_) if first == "io" && !named.test && !may_name_io(path, own) => {
            Some("only pages, the log and db name crate::io".to_owned())
        }
        Some(_) => None,
    }
}

fn direction(files: &[Source]) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| file.is_rust() && file.path.starts_with("src/")) {
        let module = file.module();
        let Some(own) = module.first() else { continue };
        if number(own).is_none() {
            complaints.push(format!("{}: src/{own} is no layer", file.path));
        }
        let names = named(file);
        for name in &names {
            if let Some(reason) = objection(&file.path, own, name) {
                complaints.push(format!("{}: {reason}", file.place(name.offset)));
            }
        }
        if IO_FILES.contains(&file.path.as_str()) && !names.iter().any(|name| name.first == "io" && !name.test) {
            complaints.push(format!("{}: does not name crate::io, so take it off IO_FILES", file.path));
        }
    }
    complaints
}

#[test]
fn every_file_names_only_lower_layers_or_its_own() {
    assert_clean(&direction(&tree()));
}

fn complaints_about(path: &str, text: &str) -> Vec<String> {
    direction(&[Source::new(path, text)])
}

#[test]
fn a_path_to_a_higher_layer_is_found_however_it_is_spelled() {
    for text in [
        "use crate::txn::Pin;",
        "use crate::{base::ids::PageId, txn::{Pin, View}};",
        "use crate :: txn :: Pin;",
        "use super::super::txn::Pin;",
        "use super::{node, super::txn};",
        "fn f() { crate::txn::go::<u8>() }",
        "mod deep { use super::super::super::txn; }",
        "#[cfg(test)] mod tests { use crate::txn::Pin; }",
    ] {
        assert_complains(&complaints_about("src/btree/leaf.rs", text), "must not name crate::txn");
    }
    assert_complains(&complaints_about("src/btree/leaf.rs", "use crate::*;"), "hides a layer");
    assert_complains(&complaints_about("src/btree/leaf.rs", "use crate::StorageError;"), "hides a layer");
    assert_complains(&complaints_about("src/blob/gc.rs", "use crate::cdc::Event;"), "must not name");
    assert_complains(&complaints_about("src/layers/graph.rs", "use crate::txn::Pin;"), "public API");
    assert_complains(&complaints_about("src/odd/graph.rs", ""), "no layer");
}

#[test]
fn io_is_named_only_where_it_may_be() {
    let text = "use crate::io::storage::Storage;";
    assert_complains(&complaints_about("src/btree/leaf.rs", text), "name crate::io");
    assert_complains(&complaints_about("src/txn/pins.rs", text), "name crate::io");
    assert_complains(&complaints_about("src/txn/recover.rs", ""), "take it off");
    for path in ["src/pages/store.rs", "src/txn/log_write.rs", "src/txn/recover.rs", "src/db/builder.rs"] {
        assert_clean(&complaints_about(path, text));
    }
    assert_clean(&complaints_about("src/btree/leaf.rs", "#[cfg(test)] mod tests { use crate::io::memory::M; }"));
}

#[test]
fn paths_inside_the_layer_and_prose_are_no_complaint() {
    let text =
        "// crate::txn\nuse super::node; use super::{leaf, branch::*}; use crate::btree::seal; pub(crate) fn f() {}
        mod tests { use super::super::cursor; } const S: &str = \"crate::txn\"; use crate::pages::{self, store as s};";
    assert_clean(&complaints_about("src/btree/leaf.rs", text));
    assert_clean(&complaints_about("src/layers/graph.rs", "use crate::{Database, TableDefinition};"));
}
