//! What is on disk: the walk, the stored form of a path, and the content hash.
//!
//! A stored path is relative to the indexed directory, with `/` between its parts. Bytes that are not UTF-8 become
//! `%XX`, and `%` itself `%25`, so that different names never share a stored path.

use sha2::{Digest, Sha256};
use std::ffi::OsStr;
use std::fmt::Write;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;
use walkdir::{DirEntry, WalkDir};

/// Version control, skipped whether it is a folder or a file.
const VERSION_CONTROL: &[&str] = &[".git", ".hg", ".svn"];

/// Folders that hold what can be built or fetched again.
const DERIVED: &[&str] = &["target", "node_modules"];

/// A file as the walk saw it.
#[derive(Debug, Clone)]
pub(crate) struct FoundFile {
    pub(crate) path: String,
    pub(crate) on_disk: PathBuf,
    pub(crate) size_bytes: u64,
    pub(crate) modified_nanos: u64,
}

/// Everything that the walk saw.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Sorted by path.
    pub(crate) files: Vec<FoundFile>,
    /// Stored paths of files and folders that could not be read: what the index knows about them stays.
    pub(crate) unreadable: Vec<String>,
}

impl Found {
    /// Whether the walk proves that no file of this path is there any more.
    pub(crate) fn is_gone(&self, path: &str) -> bool {
        let under = |folder: &String| {
            folder.is_empty() || path.strip_prefix(folder.as_str()).is_some_and(|r| r.is_empty() || r.starts_with('/'))
        };
        self.files.binary_search_by(|file| file.path.as_str().cmp(path)).is_err() && !self.unreadable.iter().any(under)
    }
}

/// Walks the tree without following symbolic links; reports on stderr what it cannot read.
pub(crate) fn walk(root: &Path, database: &Path) -> Found {
    let database = fs::canonicalize(database).ok();
    let mut found = Found::default();
    for entry in WalkDir::new(root).into_iter().filter_entry(|entry| !is_skipped(entry)) {
        match entry.map_err(|error| (error.path().unwrap_or(root).to_owned(), error)) {
            Ok(entry) if !entry.file_type().is_file() || is_same(entry.path(), database.as_deref()) => {}
            Ok(entry) => match entry.metadata() {
                Ok(metadata) => found.files.push(FoundFile {
                    path: stored_path(root, entry.path()),
                    on_disk: entry.path().to_owned(),
                    size_bytes: metadata.len(),
                    modified_nanos: modified_nanos(&metadata),
                }),
                Err(error) => skip(&mut found, stored_path(root, entry.path()), &error),
            },
            Err((path, error)) => skip(&mut found, stored_path(root, &path), &error),
        }
    }
    found.files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    found
}

fn skip(found: &mut Found, path: String, error: &walkdir::Error) {
    eprintln!("skipped: {error}");
    found.unreadable.push(path);
}

fn is_skipped(entry: &DirEntry) -> bool {
    let named = |names: &[&str]| names.iter().any(|name| entry.file_name() == *name);
    entry.depth() > 0 && (named(VERSION_CONTROL) || (entry.file_type().is_dir() && named(DERIVED)))
}

fn is_same(path: &Path, database: Option<&Path>) -> bool {
    database.is_some_and(|database| {
        path.file_name() == database.file_name() && fs::canonicalize(path).is_ok_and(|path| path == database)
    })
}

/// Nanoseconds since 1970; only ever compared for equality, so earlier times may wrap.
fn modified_nanos(metadata: &Metadata) -> u64 {
    let nanos = |duration: std::time::Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    match metadata.modified().map(|time| time.duration_since(UNIX_EPOCH)) {
        Ok(Ok(after)) => nanos(after),
        Ok(Err(before)) => nanos(before.duration()).wrapping_neg(),
        Err(_) => 0,
    }
}

fn stored_path(root: &Path, path: &Path) -> String {
    let relative = path.strip_prefix(root).unwrap_or(path);
    let parts: Vec<String> = relative.iter().map(escape).collect();
    parts.join("/")
}

/// The stored form of what a user typed as the start of a path; a trailing `/` stays.
pub(crate) fn stored_prefix(typed: &Path) -> String {
    let escaped = escape(typed.as_os_str()).replace(std::path::MAIN_SEPARATOR, "/");
    let relative = escaped.strip_prefix("./").unwrap_or(&escaped);
    if relative == "." { String::new() } else { relative.to_owned() }
}

fn escape(name: &OsStr) -> String {
    let mut out = String::with_capacity(name.len());
    for chunk in name.as_encoded_bytes().utf8_chunks() {
        out.push_str(&chunk.valid().replace('%', "%25"));
        for byte in chunk.invalid() {
            write!(out, "%{byte:02X}").expect("a String takes every write");
        }
    }
    out
}

/// SHA-256 of the content of a file, read in pieces.
pub(crate) fn hash(path: &Path) -> io::Result<[u8; 32]> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut piece = vec![0; 1 << 16];
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(hasher.finalize().into()),
            Ok(count) => hasher.update(&piece[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_names_have_different_stored_paths() {
        let stored = |path: &str| stored_path(Path::new("/r"), Path::new(path));
        assert_eq!(stored("/r/a/b.rs"), "a/b.rs");
        assert_eq!(stored("/r/100%/b"), "100%25/b");
        #[cfg(unix)]
        {
            use std::os::unix::ffi::OsStrExt;
            assert_eq!(escape(OsStr::from_bytes(b"a\xFFb")), "a%FFb");
            assert_eq!(escape(OsStr::from_bytes(b"a%FFb")), "a%25FFb");
        }
    }

    #[test]
    fn a_typed_prefix_becomes_a_stored_one() {
        for (typed, stored) in [("./src/", "src/"), ("src/b", "src/b"), (".", ""), ("a%", "a%25"), (".x", ".x")] {
            assert_eq!(stored_prefix(Path::new(typed)), stored);
        }
    }

    #[test]
    fn what_lies_under_an_unreadable_folder_is_not_gone() {
        let found = Found { files: Vec::new(), unreadable: vec!["a/b".to_owned()] };
        assert!(!found.is_gone("a/b") && !found.is_gone("a/b/c"));
        assert!(found.is_gone("a/bc") && found.is_gone("a"));
    }
}
