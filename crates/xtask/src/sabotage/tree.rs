//! The scratch copy of the tracked tree in which bugs are planted.
//!
//! Invariant: outside `planted`, every file of the copy equals its original.

use super::list::Sabotage;
use crate::Result;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

impl Sabotage {
    /// The text with the bug planted; an error where `find` does not occur exactly once.
    pub(crate) fn plant(&self, text: &str) -> std::result::Result<String, String> {
        match text.matches(self.find).count() {
            1 => Ok(text.replacen(self.find, self.replace, 1)),
            count => Err(format!("{:?} occurs {count} times in {}", self.find, self.file)),
        }
    }
}

/// A copy of the tracked files.
#[derive(Debug)]
pub(crate) struct ScratchTree {
    root: PathBuf,
}

impl ScratchTree {
    /// Makes `scratch` equal to the tracked files of `origin`, touching only what differs, so that builds stay warm.
    pub(crate) fn synchronize(origin: &Path, scratch: &Path) -> Result<Self> {
        let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(origin).output()?;
        if !listed.status.success() {
            return Err(format!("git ls-files: {}", String::from_utf8_lossy(&listed.stderr)).into());
        }
        let listed = String::from_utf8(listed.stdout)?;
        let tracked: BTreeSet<&str> = listed.split('\0').filter(|path| !path.is_empty()).collect();
        let mut wanted = BTreeSet::new();
        for path in tracked.iter().filter(|path| origin.join(path).is_file()) {
            let (from, to) = (origin.join(path), scratch.join(path));
            let bytes = fs::read(&from)?;
            if fs::read(&to).ok().as_ref() != Some(&bytes) {
                fs::create_dir_all(to.parent().ok_or("a file has a folder")?)?;
                fs::write(&to, bytes)?;
                fs::set_permissions(&to, fs::metadata(&from)?.permissions())?;
            }
            wanted.insert(to);
        }
        remove_others(scratch, &wanted)?;
        Ok(Self { root: scratch.to_owned() })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Runs `body` with the bug planted, and puts the original back whatever `body` returns.
    pub(crate) fn planted<T>(&self, sabotage: &Sabotage, body: impl FnOnce() -> Result<T>) -> Result<T> {
        let path = self.root.join(sabotage.file);
        let original = fs::read_to_string(&path)?;
        fs::write(&path, sabotage.plant(&original)?)?;
        let done = body();
        fs::write(&path, original)?;
        done
    }
}

/// Removes the files that are not wanted; the copy has no build output of its own.
fn remove_others(folder: &Path, wanted: &BTreeSet<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            remove_others(&path, wanted)?;
            if fs::read_dir(&path)?.next().is_none() {
                fs::remove_dir(&path)?;
            }
        } else if !wanted.contains(&path) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::list::DEFAULT;
    use super::*;

    fn sample(find: &'static str) -> Sabotage {
        Sabotage { name: "sample", rule: "none", file: "a.rs", find, replace: "c", commands: DEFAULT }
    }

    #[test]
    fn a_bug_is_planted_only_where_its_place_is_unique() {
        assert_eq!(sample("b").plant("abba b"), Err("\"b\" occurs 3 times in a.rs".to_owned()));
        assert_eq!(sample("x").plant("abba"), Err("\"x\" occurs 0 times in a.rs".to_owned()));
        assert_eq!(sample("bb").plant("abba"), Ok("aca".to_owned()));
    }
}
