//! Opening: which files are taken, how they are created, and that a process has each of them open once.
//!
//! Invariant: a file is a regular one, and it is in the registry from before its first read until after its unlock.
//! Layer 1 (io).

use crate::base::sync::Mutex;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::LazyLock;

/// What happens where the file exists, or does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CreateMode {
    /// The file must exist.
    OpenExisting,
    /// The file is created where it does not exist.
    CreateOrOpen,
    /// The file must not exist.
    CreateNew,
}

/// Whether the file may be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reads and writes.
    ReadWrite,
    /// Reads only; every attempt to change the file fails with `PermissionDenied`.
    ReadOnly,
}

/// How often creating and opening take turns where other processes create and remove the file at the same time.
const OPEN_ATTEMPTS_MAX: usize = 16;

/// Opens as asked; tells whether the file was created.
pub(super) fn open_regular(path: &Path, create: CreateMode, access: Access) -> io::Result<(File, bool)> {
    if access == Access::ReadOnly && create != CreateMode::OpenExisting {
        return Err(io::Error::new(ErrorKind::InvalidInput, "a file cannot be created through read-only access"));
    }
    let (file, created) = open_or_create(path, create, access)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(not_regular());
    }
    // An empty file may have been left by a process that died before it synced the directory.
    if created || (metadata.len() == 0 && access == Access::ReadWrite) {
        sync_parent(path)?;
    }
    Ok((file, created))
}

fn open_or_create(path: &Path, create: CreateMode, access: Access) -> io::Result<(File, bool)> {
    let mut last = io::Error::from(ErrorKind::NotFound);
    for _ in 0..OPEN_ATTEMPTS_MAX {
        if create != CreateMode::CreateNew {
            match options(access).open(path) {
                Ok(file) => return Ok((file, false)),
                Err(error) if error.kind() == ErrorKind::IsADirectory => return Err(not_regular()),
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                Err(error) if create == CreateMode::OpenExisting => return Err(error),
                Err(_) => {}
            }
        }
        match options(access).create_new(true).open(path) {
            Ok(file) => return Ok((file, true)),
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            Err(error) if create == CreateMode::CreateNew => return Err(error),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn options(access: Access) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(access == Access::ReadWrite);
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        use std::os::unix::fs::OpenOptionsExt;
        // Opening a pipe or a terminal must neither wait nor make it the controlling one; regular files ignore both.
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        options.mode(0o600).custom_flags(flags.bits().cast_signed());
    }
    options
}

fn not_regular() -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, "not a regular file")
}

/// Makes the directory entry of a new file durable.
#[cfg(unix)]
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match File::open(parent)?.sync_all() {
        // Some file systems have no sync of directories; there is nothing to wait for then.
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        result => result,
    }
}

#[cfg(not(unix))]
fn sync_parent(_path: &Path) -> io::Result<()> {
    Ok(())
}

/// What tells files apart, whatever name they were opened by.
#[cfg(unix)]
#[derive(Debug, Clone, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

/// What tells files apart; hard links escape it, and the lock of the system then finds them.
#[cfg(not(unix))]
#[derive(Debug, Clone, PartialEq, Eq)]
struct FileId(std::path::PathBuf);

#[cfg(unix)]
fn file_id(_path: &Path, metadata: &Metadata) -> io::Result<FileId> {
    use std::os::unix::fs::MetadataExt;
    Ok(FileId { device: metadata.dev(), inode: metadata.ino() })
}

#[cfg(not(unix))]
fn file_id(path: &Path, _metadata: &Metadata) -> io::Result<FileId> {
    path.canonicalize().map(FileId)
}

/// Files that this process has open, each with its access. Leaf lock: nothing else is taken under it.
static OPEN_FILES: LazyLock<Mutex<Vec<(FileId, Access)>>> = LazyLock::new(|| Mutex::new(Vec::new()));

/// The place of one open file in the registry; given back on drop.
#[derive(Debug)]
pub(super) struct Registration {
    id: FileId,
    access: Access,
}

impl Registration {
    /// Enters the file; `WouldBlock` where this process has it open and one of the two may write.
    pub(super) fn enter(path: &Path, file: &File, access: Access) -> io::Result<Self> {
        let id = file_id(path, &file.metadata()?)?;
        let mut open = OPEN_FILES.lock();
        let conflict =
            |other: &(FileId, Access)| other.0 == id && (other.1 == Access::ReadWrite || access == Access::ReadWrite);
        if open.iter().any(conflict) {
            return Err(io::Error::new(
                ErrorKind::WouldBlock,
                "this process already has the file open, perhaps under another name",
            ));
        }
        open.push((id.clone(), access));
        Ok(Self { id, access })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut open = OPEN_FILES.lock();
        if let Some(index) = open.iter().position(|(id, access)| *id == self.id && *access == self.access) {
            open.swap_remove(index);
        }
    }
}
