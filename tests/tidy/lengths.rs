//! Length ratchet: files and functions have a limit, and the listed exceptions may only shrink.

use super::source::{Source, closing, line_of, tree, words};
use super::{assert_clean, assert_complains};

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;

/// Files over the limit, each with its exact number of lines.
const LONG_FILES: &[(&str, usize)] = &[];

/// Functions over the limit as `path::name`, each with its exact number of lines.
const LONG_FUNCTIONS: &[(&str, usize)] = &[];

fn file_lengths(files: &[Source]) -> Vec<(String, usize)> {
    let rust = files.iter().filter(|file| file.is_rust());
    rust.map(|file| (file.path.clone(), file.text.lines().count())).collect()
}

/// Every function with a body, and its lines from `fn` to the closing brace.
fn function_lengths(files: &[Source]) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for file in files.iter().filter(|file| file.is_rust()) {
        for pair in words(&file.code).windows(2) {
            let [(start, keyword), (name_at, name)] = [pair[0], pair[1]];
            let named = file.code[start + keyword.len()..name_at].trim().is_empty();
            if keyword != "fn" || !named {
                continue;
            }
            if let Some(open) = body_start(&file.code, name_at) {
                let end = closing(&file.code, open);
                let lines = 1 + line_of(&file.code, end) - line_of(&file.code, start);
                found.push((format!("{}::{name}", file.path), lines));
            }
        }
    }
    found
}

/// Offset of the brace that opens the body of the function whose signature goes on at `at`.
fn body_start(code: &str, at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (offset, byte) in code.bytes().enumerate().skip(at) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth = depth.saturating_sub(1),
            b'{' if depth == 0 => return Some(offset),
            b';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

/// Compares what was measured with the limit and with the list of exceptions.
fn ratchet(measured: &[(String, usize)], limit: usize, listed: &[(&str, usize)]) -> Vec<String> {
    let mut complaints = Vec::new();
    for (name, lines) in measured {
        let allowed = listed.iter().find(|(listed, _)| listed == name).map_or(limit, |(_, lines)| *lines);
        if *lines > allowed {
            complaints.push(format!("{name} has {lines} lines, more than {allowed}"));
        }
    }
    for (name, number) in listed {
        match measured.iter().filter(|(found, _)| found == name).map(|(_, lines)| *lines).max() {
            Some(lines) if lines <= limit => {
                complaints.push(format!("{name} has {lines} lines: strike it off the list"));
            }
            Some(lines) if lines < *number => complaints.push(format!("{name} has {lines} lines: lower its {number}")),
            Some(_) => {}
            None => complaints.push(format!("{name} does not exist: strike it off the list")),
        }
    }
    complaints
}

#[test]
fn files_stay_within_the_length_ratchet() {
    assert_clean(&ratchet(&file_lengths(&tree()), FILE_LINES_MAX, LONG_FILES));
}

#[test]
fn functions_stay_within_the_length_ratchet() {
    assert_clean(&ratchet(&function_lengths(&tree()), FUNCTION_LINES_MAX, LONG_FUNCTIONS));
}

#[test]
fn what_is_too_long_is_found_and_a_listed_number_may_only_fall() {
    let measured = [("a.rs".to_owned(), 11)];
    assert_complains(&ratchet(&measured, 10, &[]), "more than 10");
    assert_complains(&ratchet(&measured, 10, &[("a.rs", 12)]), "lower its 12");
    assert_complains(&ratchet(&measured, 20, &[("a.rs", 11)]), "strike it off");
    assert_complains(&ratchet(&measured, 10, &[("a.rs", 11), ("b.rs", 12)]), "does not exist");
    assert_clean(&ratchet(&measured, 10, &[("a.rs", 11)]));
}

#[test]
fn functions_are_measured_from_signature_to_closing_brace() {
    let text =
        "trait T { fn none(a: [u8; 2]) -> u8; }\nfn two(f: fn(u8) -> u8,\n a: [u8; 2]) { {} }\nfn one() {\"}\"; }\n";
    let expected = [("src/a.rs::two".to_owned(), 2), ("src/a.rs::one".to_owned(), 1)];
    assert_eq!(function_lengths(&[Source::new("src/a.rs", text)]), expected);
    assert_eq!(file_lengths(&[Source::new("src/a.rs", text)]), [("src/a.rs".to_owned(), 4)]);
}
