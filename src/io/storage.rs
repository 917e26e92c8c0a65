//! The contract between the store and whatever holds its bytes.
//!
//! Invariant: a write is durable only after a later `sync` returned `Ok`, or when it was itself `Forced`; nothing
//! else orders writes.
//! Layer 1 (io).

use std::fmt::Debug;
use std::io::{self, IoSlice, IoSliceMut};

/// How a write is treated by the storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteMode {
    /// Durable after the next successful [`Storage::sync`].
    Plain,
    /// Durable, its own bytes and the length needed to read them back, when the call returns. Earlier plain writes may
    /// still be lost.
    Forced,
}

/// How much a sync makes durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncKind {
    /// Every byte written so far, and the file length needed to read it back.
    Data,
    /// The same, and every other attribute of the file.
    Full,
}

/// Who else may have the storage open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Any number of readers.
    Shared,
    /// One writer and nobody else.
    Exclusive,
}

/// Random-access bytes that can be made durable.
///
/// Implementations may be called from several threads at once. Calls that touch the same bytes are never made
/// concurrently when one of them is a write, and neither are calls that change the length.
///
/// Offsets and total lengths of writes are multiples of the unit size of the database, which is 4096 bytes in every
/// file that an application can create.
pub trait Storage: Debug + Send + Sync + 'static {
    /// Length in bytes.
    ///
    /// # Errors
    /// Whatever the medium reports.
    fn len(&self) -> io::Result<u64>;

    /// Whether the storage holds no byte.
    ///
    /// # Errors
    /// Whatever the medium reports.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills every buffer in order, starting at `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` where the bytes reach past the end; short reads are continued, never returned.
    fn read_at(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<()>;

    /// Says that these bytes are likely to be read soon. A medium that can fetch them meanwhile may do so; nobody waits
    /// for it, and what goes wrong shows when they are read.
    fn read_ahead(&self, offset: u64, len_bytes: u64) {
        let _ = (offset, len_bytes);
    }

    /// Writes every buffer in order, starting at `offset`, extending the storage where needed.
    ///
    /// # Errors
    /// After an error any part of the bytes may have been written.
    fn write_at(&self, offset: u64, buffers: &[IoSlice<'_>], mode: WriteMode) -> io::Result<()>;

    /// How many writes to distinct places are worth making at once, from as many threads. One, unless the medium does
    /// several in less time than one after the other.
    fn writes_at_once(&self) -> usize {
        1
    }

    /// Sets the length; new bytes read as zero.
    ///
    /// # Errors
    /// Whatever the medium reports; the length is then one of the two.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Extends to `len` with space reserved, so that later writes below it do not run out of space where the medium
    /// can promise that. Does nothing where the storage is already that long.
    ///
    /// # Errors
    /// `StorageFull`, `QuotaExceeded` or `FileTooLarge` where the space is not to be had; the length is then unchanged.
    fn preallocate(&self, len: u64) -> io::Result<()>;

    /// Makes earlier writes and length changes durable.
    ///
    /// # Errors
    /// After an error nothing is known about writes since the last successful sync; calling again proves nothing.
    fn sync(&self, kind: SyncKind) -> io::Result<()>;

    /// Takes the lock for this handle, without waiting.
    ///
    /// # Errors
    /// `WouldBlock` where somebody else holds it, with the holder in the message where the system tells.
    fn lock(&self, mode: LockMode) -> io::Result<()>;

    /// Gives the lock back.
    ///
    /// # Errors
    /// Whatever the medium reports.
    fn unlock(&self) -> io::Result<()>;

    /// Forgets cached bytes, so that following reads come from the medium itself. Recovery calls it before it trusts
    /// anything: after a failed sync the cache may hold bytes that the medium never took. Writes that no sync has
    /// covered yet stay readable, and can still be lost.
    ///
    /// # Errors
    /// Whatever the medium reports.
    fn drop_cache(&self) -> io::Result<()>;
}
