//! A file of the operating system as storage.
//!
//! Invariant: reads go through the page cache; writes go all past it or all through it, never some of each.
//! Layer 1 (io).

#[cfg(target_os = "linux")]
mod direct;
#[cfg(target_os = "linux")]
mod holder;
mod open;
mod positioned;
#[cfg(test)]
mod tests;

pub use open::{Access, CreateMode};

use super::storage::{LockMode, Storage, SyncKind, WriteMode};
use open::Registration;
use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::path::{Path, PathBuf};

/// Devices have queues, and this many fill the shorter ones.
const DIRECT_WRITES_AT_ONCE: usize = 8;

/// A regular file as storage.
///
/// A process can have a file open once for writing, or any number of times for reading, under whatever names. The
/// advisory lock of [`Storage::lock`] covers the whole file and is given back on drop, even where a child process
/// inherited the handle.
#[derive(Debug)]
pub struct FileStorage {
    /// Declared first: the file leaves the registry after its unlock and before its handles close, because a closed
    /// file that has no name gives its number to the next one created.
    _registration: Registration,
    file: File,
    path: PathBuf,
    access: Access,
    /// Whether writes must be aligned, as direct ones need it.
    aligned: bool,
    #[cfg(target_os = "linux")]
    direct: Option<direct::DirectWriter>,
}

impl FileStorage {
    /// Opens a file, and tells whether it was created.
    ///
    /// A new file is readable and writable by its owner only, and its directory entry is durable on return. With
    /// `direct`, writes bypass the page cache where the system and the file system can do that; every offset and
    /// every total length of a write must then be a multiple of 4096, else the write fails with `InvalidInput`.
    ///
    /// # Errors
    /// - `InvalidInput`: not a regular file, or creation asked for with read-only access.
    /// - `WouldBlock`: this process has the file open already and one of the two may write.
    /// - `NotFound`, `AlreadyExists`: contrary to what `create` asks for.
    /// - Whatever else the system reports.
    pub fn open(path: impl AsRef<Path>, create: CreateMode, access: Access, direct: bool) -> io::Result<(Self, bool)> {
        let path = path.as_ref();
        let (file, created) = open::open_regular(path, create, access)?;
        let registration = Registration::enter(path, &file, access)?;
        let aligned = direct && access == Access::ReadWrite;
        let storage = Self {
            #[cfg(target_os = "linux")]
            direct: if aligned { direct::DirectWriter::open(&file, path) } else { None },
            file,
            path: path.to_owned(),
            access,
            aligned,
            _registration: registration,
        };
        Ok((storage, created))
    }

    /// The path that the file was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether writes bypass the page cache, as far as is known before the first write.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        #[cfg(target_os = "linux")]
        return self.direct.as_ref().is_some_and(direct::DirectWriter::is_direct);
        #[cfg(not(target_os = "linux"))]
        false
    }

    fn check_writable(&self) -> io::Result<()> {
        match self.access {
            Access::ReadWrite => Ok(()),
            Access::ReadOnly => Err(io::Error::new(ErrorKind::PermissionDenied, "the file is open for reading only")),
        }
    }

    fn check_aligned(&self, offset: u64, buffers: &[IoSlice<'_>]) -> io::Result<()> {
        let len = positioned::total_len(buffers);
        if self.aligned && !(offset.is_multiple_of(4096) && len.is_multiple_of(4096)) {
            let message = format!("a direct write of {len} bytes at byte {offset} is not aligned to 4096");
            return Err(io::Error::new(ErrorKind::InvalidInput, message));
        }
        Ok(())
    }

    fn held_elsewhere(&self) -> io::Error {
        #[cfg(target_os = "linux")]
        if let Some(pid) = holder::lock_holder(&self.file) {
            return io::Error::new(ErrorKind::WouldBlock, format!("the file is locked by process {pid}"));
        }
        io::Error::new(ErrorKind::WouldBlock, "the file is locked by another process")
    }
}

/// Reserves space up to `len`; `Unsupported` where the file system cannot.
#[cfg(target_os = "linux")]
fn reserve(file: &File, old_len: u64, len: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::Errno;
    loop {
        return match fallocate(file, FallocateFlags::empty(), old_len, len - old_len) {
            Err(Errno::INTR) => continue,
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Err(ErrorKind::Unsupported.into()),
            result => Ok(result?),
        };
    }
}

#[cfg(not(target_os = "linux"))]
fn reserve(_file: &File, _old_len: u64, _len: u64) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

impl Storage for FileStorage {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<()> {
        positioned::read_full(&self.file, offset, buffers)
    }

    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    fn read_ahead(&self, offset: u64, len_bytes: u64) {
        let len = std::num::NonZeroU64::new(len_bytes);
        if let Err(error) = rustix::fs::fadvise(&self.file, offset, len, rustix::fs::Advice::WillNeed) {
            log::debug!("the system takes no hint about reads: {error}");
        }
    }

    fn write_at(&self, offset: u64, buffers: &[IoSlice<'_>], mode: WriteMode) -> io::Result<()> {
        self.check_writable()?;
        self.check_aligned(offset, buffers)?;
        let forced = mode == WriteMode::Forced;
        #[cfg(target_os = "linux")]
        if let Some(direct) = &self.direct
            && direct.write(offset, buffers, forced)?
        {
            return Ok(());
        }
        positioned::write_full(&self.file, offset, buffers, forced)
    }

    fn writes_at_once(&self) -> usize {
        // Each direct write waits for the device; one through the page cache waits for nothing.
        if self.is_direct() { DIRECT_WRITES_AT_ONCE } else { 1 }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check_writable()?;
        self.file.set_len(len)
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        self.check_writable()?;
        let old_len = self.len()?;
        if len <= old_len {
            return Ok(());
        }
        let result = match reserve(&self.file, old_len, len) {
            Err(error) if error.kind() == ErrorKind::Unsupported => self.file.set_len(len),
            result => result,
        };
        // A failed reservation may have kept a part; cutting it off gives that space back as well.
        result.map_err(|error| self.file.set_len(old_len).err().unwrap_or(error))
    }

    fn sync(&self, kind: SyncKind) -> io::Result<()> {
        match kind {
            SyncKind::Data => self.file.sync_data(),
            SyncKind::Full => self.file.sync_all(),
        }
    }

    fn lock(&self, mode: LockMode) -> io::Result<()> {
        // Named by trait: the standard library has methods of the same names.
        let result = match mode {
            LockMode::Shared => fs2::FileExt::try_lock_shared(&self.file),
            LockMode::Exclusive => fs2::FileExt::try_lock_exclusive(&self.file),
        };
        result.map_err(|error| {
            let contended = error.raw_os_error() == fs2::lock_contended_error().raw_os_error();
            if contended { self.held_elsewhere() } else { error }
        })
    }

    fn unlock(&self) -> io::Result<()> {
        fs2::FileExt::unlock(&self.file)
    }

    fn drop_cache(&self) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed)?;
        Ok(())
    }
}

impl Drop for FileStorage {
    fn drop(&mut self) {
        // A child process that inherited the handle would otherwise keep the lock. Closing gives it back where this
        // fails, so the error has no consequence to report.
        if let Err(error) = self.unlock() {
            log::debug!("unlocking {} failed: {error}", self.path.display());
        }
    }
}
