//! The files that the checks look at, and the little reading of Rust that they need.
//!
//! `Source::code` is the text with comments and literals replaced by blanks, byte for byte, so that offsets and line
//! numbers agree with the text and no check mistakes prose for code.

use std::fs;
use std::path::Path;
use walkdir::WalkDir;

/// One text file, named by its path from the root with `/` between the parts.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) code: String,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let code = if path.ends_with(".rs") { blank(text) } else { String::new() };
        Self { path: path.to_owned(), text: text.to_owned(), code }
    }

    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// `path:line` of a byte offset.
    pub(crate) fn place(&self, offset: usize) -> String {
        format!("{}:{}", self.path, line_of(&self.text, offset))
    }

    /// The module that this file of `src/` is: `src/a/b.rs` and `src/a/b/mod.rs` are both `[a, b]`.
    pub(crate) fn module(&self) -> Vec<String> {
        let inside = self.path.strip_prefix("src/").unwrap_or(&self.path);
        let mut parts: Vec<String> = inside.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
        if parts.last().is_some_and(|last| last == "mod" || last == "lib") {
            parts.pop();
        }
        parts
    }
}

/// Every text file of the project, sorted by path; build output and the version control's own files are skipped.
pub(crate) fn tree() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let skipped = |name: &str| matches!(name, "target" | ".git" | "corpus" | "artifacts");
    let mut files = Vec::new();
    let walk = WalkDir::new(root).sort_by_file_name().into_iter();
    for entry in walk.filter_entry(|entry| entry.depth() == 0 || !entry.file_name().to_str().is_some_and(skipped)) {
        let entry = entry.expect("the source tree can be read");
        let relative = entry.path().strip_prefix(root).expect("walked from the root");
        let path = relative.to_str().expect("source paths are UTF-8").replace('\\', "/");
        let wanted = [".rs", ".md", ".toml"].iter().any(|end| path.ends_with(end)) || path.starts_with(".ci/");
        if entry.file_type().is_file() && wanted {
            files.push(Source::new(&path, &fs::read_to_string(entry.path()).expect("source files are UTF-8")));
        }
    }
    assert!(files.iter().any(|file| file.path == "src/lib.rs"), "the walk found no src/lib.rs");
    files
}

/// Line number of a byte offset, counted from one.
pub(crate) fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset].iter().filter(|&&byte| byte == b'\n').count()
}

pub(crate) fn is_word_byte(byte: u8) -> bool {
    byte == b'_' || byte.is_ascii_alphanumeric() || byte >= 0x80
}

/// The identifiers, keywords and numbers of a text, with their offsets.
pub(crate) fn words(text: &str) -> Vec<(usize, &str)> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let end = word_end(bytes, at);
        if end > at {
            found.push((at, &text[at..end]));
        }
        at = end.max(at + 1);
    }
    found
}

/// Offset of the first byte at or after `at` that is not white space.
pub(crate) fn skip_space(code: &str, at: usize) -> usize {
    let rest = &code[at..];
    at + (rest.len() - rest.trim_start().len())
}

/// Offset after the bracket that closes the one at `open`; the end of the code where none does.
pub(crate) fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' | b'(' | b'[' => depth += 1,
            b'}' | b')' | b']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

/// A `mod` declaration, with a body or without.
pub(crate) struct Module<'a> {
    pub(crate) name: &'a str,
    pub(crate) start: usize,
    /// Offset after the body, or `None` where the body is another file.
    pub(crate) body_end: Option<usize>,
    pub(crate) test: bool,
}

/// Every `mod` declaration of a file, outer ones first.
pub(crate) fn modules(code: &str) -> Vec<Module<'_>> {
    let words = words(code);
    let mut found = Vec::new();
    for pair in words.windows(2) {
        let [(start, keyword), (name_at, name)] = [pair[0], pair[1]];
        let next = skip_space(code, name_at + name.len());
        let only_space_between = code[start + keyword.len()..name_at].trim().is_empty();
        if keyword != "mod" || !only_space_between {
            continue;
        }
        let before = &code[..start];
        let item = &before[before.rfind(['{', '}', ';']).map_or(0, |at| at + 1)..];
        let test = item.contains("cfg(test)") || item.contains("cfg(all(test");
        match code.as_bytes().get(next) {
            Some(b'{') => found.push(Module { name, start, body_end: Some(closing(code, next)), test }),
            Some(b';') => found.push(Module { name, start, body_end: None, test }),
            _ => {}
        }
    }
    found
}

/// Names of the modules with a body that enclose `offset`, outermost first, and whether one of them is for tests.
pub(crate) fn enclosing(modules: &[Module<'_>], offset: usize) -> (Vec<String>, bool) {
    let around = modules.iter().filter(|m| m.start < offset && m.body_end.is_some_and(|end| offset < end));
    let (mut names, mut test) = (Vec::new(), false);
    for module in around {
        names.push(module.name.to_owned());
        test |= module.test;
    }
    (names, test)
}

/// Replaces comments and literals by blanks; line ends stay.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        if let Some(end) = prose_end(bytes, at) {
            for byte in &mut out[at..end] {
                if *byte != b'\n' {
                    *byte = b' ';
                }
            }
            at = end;
        } else {
            at = word_end(bytes, at).max(at + 1);
        }
    }
    String::from_utf8(out).expect("whole characters were replaced")
}

fn word_end(bytes: &[u8], at: usize) -> usize {
    at + bytes[at..].iter().take_while(|&&byte| is_word_byte(byte)).count()
}

/// Offset after `needle`, searched from `from`; the end where it does not occur.
fn after(bytes: &[u8], from: usize, needle: &[u8]) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    rest.windows(needle.len()).position(|window| window == needle).map_or(bytes.len(), |at| from + at + needle.len())
}

/// Where a comment, string or character literal starts at `at`: the offset after it.
fn prose_end(bytes: &[u8], at: usize) -> Option<usize> {
    match bytes[at] {
        b'/' if bytes.get(at + 1) == Some(&b'/') => {
            Some(at + bytes[at..].iter().take_while(|&&byte| byte != b'\n').count())
        }
        b'/' if bytes.get(at + 1) == Some(&b'*') => Some(block_comment_end(bytes, at)),
        b'"' => Some(quoted_end(bytes, at, b'"')),
        b'\'' => char_end(bytes, at),
        b'r' | b'b' | b'c' => raw_string_end(bytes, at),
        _ => None,
    }
}

fn block_comment_end(bytes: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0_usize);
    while at < bytes.len() {
        match &bytes[at..bytes.len().min(at + 2)] {
            b"/*" => (at, depth) = (at + 2, depth + 1),
            b"*/" => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn quoted_end(bytes: &[u8], start: usize, quote: u8) -> usize {
    let mut at = start + 1;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    bytes.len().min(at + 1)
}

/// A character literal ends with a quote after one character or escape; anything else is a lifetime.
fn char_end(bytes: &[u8], start: usize) -> Option<usize> {
    let first = *bytes.get(start + 1)?;
    if first == b'\\' {
        return Some(quoted_end(bytes, start, b'\''));
    }
    let width = 1 + bytes[start + 2..].iter().take_while(|&&byte| byte & 0xC0 == 0x80).count();
    (bytes.get(start + 1 + width) == Some(&b'\'')).then_some(start + width + 2)
}

fn raw_string_end(bytes: &[u8], start: usize) -> Option<usize> {
    let prefix_end = word_end(bytes, start);
    if !matches!(&bytes[start..prefix_end], b"r" | b"br" | b"cr") {
        return None;
    }
    let hashes = bytes[prefix_end..].iter().take_while(|&&byte| byte == b'#').count();
    (bytes.get(prefix_end + hashes) == Some(&b'"')).then(|| {
        let close: Vec<u8> = std::iter::once(b'"').chain(std::iter::repeat_n(b'#', hashes)).collect();
        after(bytes, prefix_end + hashes + 1, &close)
    })
}

#[test]
fn comments_and_literals_are_blanked_and_nothing_else() {
    let text = "a // unsafe\nb /* x /* y */ z */ \"u\\\"v\" r#\"w\"x\"# c<'t> '\\'' '\"' b\"q\" r#fn d";
    let code = blank(text);
    assert_eq!(code.len(), text.len());
    assert_eq!(code.split_whitespace().collect::<Vec<_>>(), ["a", "b", "c<'t>", "b", "r#fn", "d"]);
    assert_eq!(code.find('\n'), text.find('\n'));
}

#[test]
fn module_bodies_are_found_with_their_purpose() {
    let code = "mod a; #[cfg(test)] mod tests { mod deep { x } } y";
    let found = modules(code);
    assert_eq!(
        found.iter().map(|m| (m.name, m.test)).collect::<Vec<_>>(),
        [("a", false), ("tests", true), ("deep", false)]
    );
    assert_eq!(enclosing(&found, code.find('x').unwrap()), (vec!["tests".to_owned(), "deep".to_owned()], true));
    assert_eq!(enclosing(&found, code.find('y').unwrap()), (vec![], false));
}
