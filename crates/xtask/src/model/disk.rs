//! What the databases of the model lie on: simulated disks, and memory that outlives a handle.
//!
//! Invariant: opening again after everything was dropped finds the same bytes; a storage panics only while it is armed.

use cowslip::sim::SimDisk;
use cowslip::{Builder, Database, DatabaseError, LockMode, MemoryStorage, Storage, SyncKind, WriteMode};
use std::io::{self, IoSlice, IoSliceMut};
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Thrown on purpose.
#[derive(Debug)]
pub(super) struct Planned;

/// Counts down the changes of a storage until one panics; zero is never.
#[derive(Debug, Clone, Default)]
pub(super) struct Fuse(Arc<AtomicU64>);

impl Fuse {
    /// Lets the change of this number panic, counted from 1 on.
    pub(super) fn arm(&self, number: u64) {
        self.0.store(number, Ordering::Relaxed);
    }

    pub(super) fn disarm(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn burn(&self) {
        let left = self.0.load(Ordering::Relaxed);
        self.0.store(left.saturating_sub(1), Ordering::Relaxed);
        if left == 1 {
            // Unwinds without the panic hook, which would print.
            resume_unwind(Box::new(Planned));
        }
    }
}

/// A storage that changes panic in when its fuse is armed.
#[derive(Debug, Clone)]
struct Fused<S> {
    storage: Arc<S>,
    fuse: Fuse,
}

impl<S: Storage> Storage for Fused<S> {
    fn len(&self) -> io::Result<u64> {
        self.storage.len()
    }

    fn read_at(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<()> {
        self.storage.read_at(offset, buffers)
    }

    fn write_at(&self, offset: u64, buffers: &[IoSlice<'_>], mode: WriteMode) -> io::Result<()> {
        self.fuse.burn();
        self.storage.write_at(offset, buffers, mode)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.fuse.burn();
        self.storage.set_len(len)
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        self.fuse.burn();
        self.storage.preallocate(len)
    }

    fn sync(&self, kind: SyncKind) -> io::Result<()> {
        self.storage.sync(kind)
    }

    fn lock(&self, mode: LockMode) -> io::Result<()> {
        self.storage.lock(mode)
    }

    fn unlock(&self) -> io::Result<()> {
        self.storage.unlock()
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.storage.drop_cache()
    }
}

/// Where a database lies.
#[derive(Debug)]
pub(super) enum Medium {
    Simulated(SimDisk),
    Memory(Arc<MemoryStorage>),
}

/// A medium, and the fuse of every storage that is opened on it.
#[derive(Debug)]
pub(super) struct Disk {
    medium: Medium,
    fuse: Fuse,
}

impl Disk {
    pub(super) fn simulated() -> Self {
        let disk = SimDisk::new();
        disk.keep_history(false);
        Self::of(disk)
    }

    pub(super) fn of(disk: SimDisk) -> Self {
        Self { medium: Medium::Simulated(disk), fuse: Fuse::default() }
    }

    pub(super) fn memory() -> Self {
        Self { medium: Medium::Memory(Arc::default()), fuse: Fuse::default() }
    }

    /// The simulated disk; memory has no faults.
    pub(super) fn simulation(&self) -> Option<&SimDisk> {
        match &self.medium {
            Medium::Simulated(disk) => Some(disk),
            Medium::Memory(_) => None,
        }
    }

    pub(super) fn fuse(&self) -> &Fuse {
        &self.fuse
    }

    fn on<T>(&self, simulated: impl FnOnce(Fused<SimDisk>) -> T, memory: impl FnOnce(Fused<MemoryStorage>) -> T) -> T {
        let fuse = self.fuse.clone();
        match &self.medium {
            Medium::Simulated(disk) => simulated(Fused { storage: Arc::new(disk.clone()), fuse }),
            Medium::Memory(storage) => memory(Fused { storage: Arc::clone(storage), fuse }),
        }
    }

    pub(super) fn create(&self, builder: &Builder) -> Result<Database, DatabaseError> {
        self.on(|storage| builder.create_with_storage(storage), |storage| builder.create_with_storage(storage))
    }

    pub(super) fn open(&self, builder: &Builder) -> Result<Database, DatabaseError> {
        self.on(|storage| builder.open_with_storage(storage), |storage| builder.open_with_storage(storage))
    }

    pub(super) fn open_read_only(&self, builder: &Builder) -> Result<Database, DatabaseError> {
        self.on(
            |storage| builder.open_read_only_with_storage(storage),
            |storage| builder.open_read_only_with_storage(storage),
        )
    }
}
