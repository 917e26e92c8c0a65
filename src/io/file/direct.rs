//! Writes that bypass the page cache of Linux, through memory aligned without `unsafe`.
//!
//! Invariant: a file is written either always directly or, once a direct write was refused, never again directly;
//! the choice is made by the first write, alone.
//! Layer 1 (io).

use super::positioned::{total_len, write_full};
use crate::base::sync::Mutex;
use crate::base::sync::atomic::{AtomicU8, Ordering};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Alignment that every Linux file system accepts for offset, length and memory of a direct write.
pub(super) const DIRECT_ALIGN: usize = 4096;
/// Most bytes gathered for one system call.
const CHUNK_BYTES_MAX: usize = 1 << 20;
/// Buffers kept for reuse; more writers at once allocate their own.
const SPARE_BUFFERS_MAX: usize = 4;

const UNTRIED: u8 = 0;
const DIRECT: u8 = 1;
const BUFFERED: u8 = 2;

/// The second handle of a file, opened for direct writes.
#[derive(Debug)]
pub(super) struct DirectWriter {
    file: File,
    state: AtomicU8,
    /// Held by the write that settles `state`.
    first_write: Mutex<()>,
    /// Buffers not in use.
    spare: Mutex<Vec<AlignedBuffer>>,
}

impl DirectWriter {
    /// Opens the file behind `buffered` once more; `None` where the file system has no direct writes.
    pub(super) fn open(buffered: &File, path: &Path) -> Option<Self> {
        let same_file = |file: &File| {
            let (a, b) = (buffered.metadata().ok()?, file.metadata().ok()?);
            ((a.dev(), a.ino()) == (b.dev(), b.ino())).then_some(())
        };
        // The name may lead to another file by now; the descriptor cannot.
        let by_descriptor = format!("/proc/self/fd/{}", buffered.as_raw_fd());
        let file = [Path::new(&by_descriptor), path].into_iter().find_map(|candidate| {
            let flags = rustix::fs::OFlags::DIRECT.bits().cast_signed();
            let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(candidate).ok()?;
            same_file(&file).map(|()| file)
        })?;
        Some(Self { file, state: AtomicU8::new(UNTRIED), first_write: Mutex::new(()), spare: Mutex::new(Vec::new()) })
    }

    /// Writes directly; `Ok(false)` where the file system refuses direct writes, so that the caller writes buffered.
    pub(super) fn write(&self, offset: u64, buffers: &[IoSlice<'_>], forced: bool) -> io::Result<bool> {
        if self.state.load(Ordering::Acquire) == UNTRIED && total_len(buffers) > 0 {
            let _alone = self.first_write.lock();
            if self.state.load(Ordering::Acquire) == UNTRIED {
                let result = self.write_now(offset, buffers, forced);
                let refused = matches!(&result, Err(error) if refuses_direct(error));
                self.state.store(if refused { BUFFERED } else { DIRECT }, Ordering::Release);
                return if refused { Ok(false) } else { result.map(|()| true) };
            }
        }
        if self.state.load(Ordering::Acquire) == BUFFERED {
            return Ok(false);
        }
        self.write_now(offset, buffers, forced).map(|()| true)
    }

    /// Whether writes go past the page cache, as far as is known yet.
    pub(super) fn is_direct(&self) -> bool {
        self.state.load(Ordering::Acquire) != BUFFERED
    }

    fn write_now(&self, offset: u64, buffers: &[IoSlice<'_>], forced: bool) -> io::Result<()> {
        if buffers.iter().all(|buffer| is_aligned(buffer)) {
            return write_full(&self.file, offset, buffers, forced);
        }
        let mut memory = self.spare.lock().pop().unwrap_or_default();
        let result = self.write_gathered(&mut memory, offset, buffers, forced);
        let mut spare = self.spare.lock();
        if spare.len() < SPARE_BUFFERS_MAX {
            spare.push(memory);
        }
        result
    }

    fn write_gathered(
        &self,
        memory: &mut AlignedBuffer,
        offset: u64,
        buffers: &[IoSlice<'_>],
        forced: bool,
    ) -> io::Result<()> {
        let mut left = total_len(buffers);
        let mut position = offset;
        let mut source = buffers.iter().flat_map(|buffer| buffer.chunks(CHUNK_BYTES_MAX)).peekable();
        let mut skip = 0;
        while left > 0 {
            let chunk = memory.aligned(left.min(CHUNK_BYTES_MAX));
            let mut filled = 0;
            while filled < chunk.len() {
                let Some(piece) = source.peek() else { break };
                let count = (piece.len() - skip).min(chunk.len() - filled);
                chunk[filled..filled + count].copy_from_slice(&piece[skip..skip + count]);
                filled += count;
                skip += count;
                if skip == piece.len() {
                    source.next();
                    skip = 0;
                }
            }
            write_full(&self.file, position, &[IoSlice::new(chunk)], forced)?;
            position += filled as u64;
            left -= filled;
        }
        Ok(())
    }
}

fn is_aligned(bytes: &[u8]) -> bool {
    bytes.as_ptr().addr().is_multiple_of(DIRECT_ALIGN) && bytes.len().is_multiple_of(DIRECT_ALIGN)
}

fn refuses_direct(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error())
}

/// Memory whose usable part starts at a multiple of [`DIRECT_ALIGN`].
#[derive(Debug, Default)]
struct AlignedBuffer(Vec<u8>);

impl AlignedBuffer {
    /// The aligned part, at least `len` bytes of it.
    fn aligned(&mut self, len: usize) -> &mut [u8] {
        let wanted = len + DIRECT_ALIGN;
        if self.0.len() < wanted {
            self.0.resize(wanted, 0);
        }
        let start = self.0.as_ptr().align_offset(DIRECT_ALIGN);
        assert!(start < DIRECT_ALIGN, "an ordinary pointer can always be aligned");
        &mut self.0[start..start + len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_buffer_stays_aligned_while_it_grows() {
        let mut buffer = AlignedBuffer::default();
        for len in [4096, 8192, CHUNK_BYTES_MAX, 4096] {
            let part = buffer.aligned(len);
            assert_eq!(part.len(), len);
            assert!(part.as_ptr().addr().is_multiple_of(DIRECT_ALIGN));
        }
    }

    #[test]
    fn refused_first_write_ends_direct_writing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        let Some(writer) = DirectWriter::open(&file, &path) else { return };
        let bytes = [1; 4096];
        // Memory file systems take unaligned direct writes; there is no refusal to see there.
        if writer.write(1, &[IoSlice::new(&bytes)], false).unwrap() {
            return;
        }
        assert!(!writer.is_direct());
        assert!(!writer.write(0, &[IoSlice::new(&bytes)], false).unwrap());
        assert_eq!(file.metadata().unwrap().len(), 0);
    }

    #[test]
    fn aligned_slices_are_written_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        let Some(writer) = DirectWriter::open(&file, &path) else { return };
        let mut memory = AlignedBuffer::default();
        let bytes = memory.aligned(3 * DIRECT_ALIGN);
        bytes.chunks_mut(DIRECT_ALIGN).zip(1..).for_each(|(chunk, fill)| chunk.fill(fill));
        let (one, rest) = bytes.split_at(DIRECT_ALIGN);
        assert!(is_aligned(one) && is_aligned(rest));
        if writer.write(4096, &[IoSlice::new(rest), IoSlice::new(one)], true).unwrap() {
            let found: Vec<u8> = std::fs::read(&path).unwrap().chunks(DIRECT_ALIGN).map(|chunk| chunk[7]).collect();
            assert_eq!(found, [0, 2, 3, 1]);
        }
    }
}
