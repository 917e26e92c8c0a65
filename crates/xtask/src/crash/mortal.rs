//! A storage whose process dies at a planned operation: the machine and its caches go on.

use cowslip::sim::SimDisk;
use cowslip::{LockMode, Storage, SyncKind, WriteMode};
use std::io::{self, IoSlice, IoSliceMut};

/// A simulated disk as one process uses it.
#[derive(Debug)]
pub(super) struct Mortal {
    pub(super) disk: SimDisk,
    /// The operation that the process no longer issues.
    pub(super) dies_at: u64,
}

impl Mortal {
    fn alive(&self) -> io::Result<()> {
        if self.disk.next_operation() < self.dies_at { Ok(()) } else { Err(io::Error::other("the process is dead")) }
    }
}

impl Storage for Mortal {
    fn len(&self) -> io::Result<u64> {
        self.disk.len()
    }

    fn read_at(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<()> {
        self.disk.read_at(offset, buffers)
    }

    fn write_at(&self, offset: u64, buffers: &[IoSlice<'_>], mode: WriteMode) -> io::Result<()> {
        self.alive()?;
        self.disk.write_at(offset, buffers, mode)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.alive()?;
        self.disk.set_len(len)
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        self.alive()?;
        self.disk.preallocate(len)
    }

    fn sync(&self, kind: SyncKind) -> io::Result<()> {
        self.alive()?;
        self.disk.sync(kind)
    }

    fn lock(&self, mode: LockMode) -> io::Result<()> {
        self.disk.lock(mode)
    }

    fn unlock(&self) -> io::Result<()> {
        self.disk.unlock()
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.disk.drop_cache()
    }
}
