//! Where the databases are: loaded ones, which are never changed and may outlive the run, and copies to work on.

use crate::Result;
use crate::data::DataSet;
use crate::engine::EngineKind;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// The folder of a run. A temporary one ends with it.
#[derive(Debug)]
pub(crate) struct Folders {
    root: PathBuf,
    temporary: Option<tempfile::TempDir>,
}

impl Folders {
    /// Keeps loaded databases in `root`.
    pub(crate) fn kept(root: &Path) -> Result<Self> {
        fs::create_dir_all(root)?;
        Ok(Self { root: root.to_owned(), temporary: None })
    }

    /// Keeps nothing.
    pub(crate) fn temporary(parent: Option<&Path>) -> Result<Self> {
        let temporary = match parent {
            Some(parent) => tempfile::tempdir_in(parent)?,
            None => tempfile::tempdir()?,
        };
        Ok(Self { root: temporary.path().to_owned(), temporary: Some(temporary) })
    }

    /// The folder of a database that holds all rows of a set. It exists once they are there.
    pub(crate) fn loaded(&self, set: &DataSet, engine: EngineKind) -> PathBuf {
        self.root.join(set.name()).join(engine.name())
    }

    /// The folder of the database that is worked on.
    pub(crate) fn work(&self, engine: EngineKind) -> PathBuf {
        self.root.join("work").join(engine.name())
    }

    /// An empty folder for a database to work on.
    pub(crate) fn fresh(&self, engine: EngineKind) -> Result<PathBuf> {
        let folder = self.work(engine);
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    /// Where the bare file is, beside the databases that are worked on.
    pub(crate) fn bare(&self) -> Result<PathBuf> {
        let work = self.root.join("work");
        fs::create_dir_all(&work)?;
        Ok(work.join("bare"))
    }

    /// A copy of a closed database to work on, of which no byte waits to be written.
    pub(crate) fn copy(&self, loaded: &Path, engine: EngineKind) -> Result<PathBuf> {
        let folder = self.fresh(engine)?;
        copy_files(loaded, &folder)?;
        Ok(folder)
    }

    /// Makes a closed working database the loaded one; from then on it is not changed.
    pub(crate) fn keep(&self, work: &Path, loaded: &Path) -> Result<()> {
        if let Some(parent) = loaded.parent() {
            fs::create_dir_all(parent)?;
        }
        Ok(fs::rename(work, loaded)?)
    }

    /// Removes what is not kept, and says if that fails.
    pub(crate) fn close(self) -> Result<()> {
        let work = self.root.join("work");
        if work.exists() {
            fs::remove_dir_all(work)?;
        }
        Ok(self.temporary.map_or(Ok(()), tempfile::TempDir::close)?)
    }
}

/// Length of all files in a folder and those below it.
pub(crate) fn file_bytes(folder: &Path) -> io::Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        total += if metadata.is_dir() { file_bytes(&entry.path())? } else { metadata.len() };
    }
    Ok(total)
}

fn copy_files(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.metadata()?.is_dir() {
            fs::create_dir(&target)?;
            copy_files(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
            // Otherwise the first commit of the measurement would pay for the copy.
            File::options().write(true).open(&target)?.sync_all()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Keys;

    #[test]
    fn copies_hold_the_same_files_and_leave_the_loaded_ones_alone() {
        let parent = tempfile::tempdir().unwrap();
        let folders = Folders::kept(parent.path()).unwrap();
        let set = DataSet::new(Keys::Random, 3, 1);
        let (engine, loaded) = (EngineKind::Fjall, folders.loaded(&set, EngineKind::Fjall));
        assert!(!loaded.exists());
        let work = folders.fresh(engine).unwrap();
        fs::create_dir(work.join("below")).unwrap();
        fs::write(work.join("below/file"), [7; 100]).unwrap();
        fs::write(work.join("file"), [8; 10]).unwrap();
        folders.keep(&work, &loaded).unwrap();
        let copy = folders.copy(&loaded, engine).unwrap();
        assert_eq!(fs::read(copy.join("below/file")).unwrap(), [7; 100]);
        assert_eq!((file_bytes(&copy).unwrap(), file_bytes(&loaded).unwrap()), (110, 110));
        fs::write(copy.join("file"), []).unwrap();
        assert_eq!(file_bytes(&loaded).unwrap(), 110);
        folders.close().unwrap();
        assert!(loaded.exists() && !copy.exists());
    }
}
