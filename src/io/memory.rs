//! Storage in memory, for databases that nobody keeps and for tests.
//!
//! Invariant: chunk `i` holds the bytes from `i * CHUNK_BYTES`; bytes past the length are zero.
//! Layer 1 (io).

use super::storage::{LockMode, Storage, SyncKind, WriteMode};
use crate::base::sync::RwLock;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};

const CHUNK_BYTES: usize = 256 * 1024;

/// Storage in memory. It grows without copying, never syncs anything, and is gone when it is dropped.
#[derive(Debug, Default)]
pub struct MemoryStorage {
    /// Leaf lock: nothing else is taken under it.
    content: RwLock<Content>,
}

#[derive(Default)]
struct Content {
    /// A chunk that was never written is `None` and reads as zero.
    chunks: Vec<Option<Box<[u8]>>>,
    len: u64,
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Content {
    /// Calls `each` with every chunk index and range in it that `len` bytes from `offset` cover.
    fn split(mut offset: u64, mut len: usize, mut each: impl FnMut(usize, std::ops::Range<usize>)) -> io::Result<()> {
        while len > 0 {
            let index = usize::try_from(offset / CHUNK_BYTES as u64).map_err(|_| too_large())?;
            let start = usize::try_from(offset % CHUNK_BYTES as u64).map_err(|_| too_large())?;
            let count = len.min(CHUNK_BYTES - start);
            each(index, start..start + count);
            offset += count as u64;
            len -= count;
        }
        Ok(())
    }

    fn set_len(&mut self, len: u64) -> io::Result<()> {
        let count = usize::try_from(len.div_ceil(CHUNK_BYTES as u64)).map_err(|_| too_large())?;
        if count > self.chunks.len() {
            self.chunks.try_reserve(count - self.chunks.len()).map_err(|_| io::Error::from(ErrorKind::OutOfMemory))?;
        }
        self.chunks.resize_with(count, || None);
        if len < self.len
            && let Ok(start) = usize::try_from(len % CHUNK_BYTES as u64)
            && start > 0
            && let Some(Some(last)) = self.chunks.last_mut()
        {
            last[start..].fill(0);
        }
        self.len = len;
        Ok(())
    }
}

fn too_large() -> io::Error {
    ErrorKind::FileTooLarge.into()
}

fn end_of(offset: u64, lens: impl Iterator<Item = usize>) -> io::Result<u64> {
    lens.map(|len| len as u64).try_fold(offset, u64::checked_add).ok_or_else(too_large)
}

impl MemoryStorage {
    /// Empty storage.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Storage for MemoryStorage {
    fn len(&self) -> io::Result<u64> {
        Ok(self.content.read().len)
    }

    fn read_at(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<()> {
        let content = self.content.read();
        let end = end_of(offset, buffers.iter().map(|buffer| buffer.len()))?;
        if end > content.len {
            return Err(io::Error::new(
                ErrorKind::UnexpectedEof,
                format!("the storage ends at byte {}, before {end}", content.len),
            ));
        }
        let mut position = offset;
        for buffer in buffers {
            let mut rest = &mut buffer[..];
            let len = rest.len();
            Content::split(position, len, |index, range| {
                let (part, tail) = std::mem::take(&mut rest).split_at_mut(range.len());
                match &content.chunks[index] {
                    Some(chunk) => part.copy_from_slice(&chunk[range]),
                    None => part.fill(0),
                }
                rest = tail;
            })?;
            position += len as u64;
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, buffers: &[IoSlice<'_>], _mode: WriteMode) -> io::Result<()> {
        let mut content = self.content.write();
        let end = end_of(offset, buffers.iter().map(|buffer| buffer.len()))?;
        if end > content.len && end > offset {
            content.set_len(end)?;
        }
        let mut position = offset;
        for buffer in buffers {
            let mut rest = &buffer[..];
            Content::split(position, buffer.len(), |index, range| {
                let (part, tail) = rest.split_at(range.len());
                let chunk = content.chunks[index].get_or_insert_with(|| vec![0; CHUNK_BYTES].into_boxed_slice());
                chunk[range].copy_from_slice(part);
                rest = tail;
            })?;
            position += buffer.len() as u64;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.content.write().set_len(len)
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        let mut content = self.content.write();
        if len > content.len { content.set_len(len) } else { Ok(()) }
    }

    fn sync(&self, _kind: SyncKind) -> io::Result<()> {
        Ok(())
    }

    /// Always granted: nobody else can have this memory open.
    fn lock(&self, _mode: LockMode) -> io::Result<()> {
        Ok(())
    }

    fn unlock(&self) -> io::Result<()> {
        Ok(())
    }

    fn drop_cache(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(storage: &MemoryStorage, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![1; len];
        storage.read_at(offset, &mut [IoSliceMut::new(&mut bytes)])?;
        Ok(bytes)
    }

    #[test]
    fn read_past_the_end_is_unexpected_eof() {
        let storage = MemoryStorage::new();
        storage.set_len(10).unwrap();
        assert_eq!(read(&storage, 0, 10).unwrap(), [0; 10]);
        assert_eq!(read(&storage, 1, 10).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        assert_eq!(read(&storage, u64::MAX, 10).unwrap_err().kind(), ErrorKind::FileTooLarge);
    }

    #[test]
    fn absurd_length_is_an_error() {
        let storage = MemoryStorage::new();
        storage.set_len(u64::MAX).unwrap_err();
        storage.write_at(u64::MAX, &[IoSlice::new(b"x")], WriteMode::Plain).unwrap_err();
        assert_eq!(storage.len().unwrap(), 0);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Write(usize, Vec<usize>, u8),
        SetLen(usize),
        Preallocate(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let place = 0..3 * CHUNK_BYTES;
        prop_oneof![
            (place.clone(), prop::collection::vec(0..CHUNK_BYTES, 0..4), 1..=255_u8)
                .prop_map(|(offset, lens, fill)| Step::Write(offset, lens, fill)),
            place.clone().prop_map(Step::SetLen),
            place.prop_map(Step::Preallocate),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn memory_reads_like_one_long_vector(steps in prop::collection::vec(step(), 1..12)) {
            let storage = MemoryStorage::new();
            let mut model: Vec<u8> = Vec::new();
            for step in steps {
                match step {
                    Step::Write(offset, lens, fill) => {
                        let parts: Vec<Vec<u8>> = lens.iter().map(|len| vec![fill; *len]).collect();
                        let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
                        storage.write_at(offset as u64, &slices, WriteMode::Plain).unwrap();
                        let end = offset + lens.iter().sum::<usize>();
                        if end > offset {
                            model.resize(model.len().max(end), 0);
                            model[offset..end].fill(fill);
                        }
                    }
                    Step::SetLen(len) => {
                        storage.set_len(len as u64).unwrap();
                        model.resize(len, 0);
                    }
                    Step::Preallocate(len) => {
                        storage.preallocate(len as u64).unwrap();
                        model.resize(model.len().max(len), 0);
                    }
                }
                prop_assert_eq!(storage.len().unwrap(), model.len() as u64);
                prop_assert!(read(&storage, 0, model.len()).unwrap() == model);
            }
        }
    }
}
