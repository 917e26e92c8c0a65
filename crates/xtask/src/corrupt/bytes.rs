//! A storage of bytes in memory that is shared with the harness.

use cowslip::{LockMode, Storage, SyncKind, WriteMode};
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Files do not grow past this; a sound transaction on a sample needs a fraction of it.
const LEN_MAX: u64 = 8 << 20;

/// Bytes that all clones share.
#[derive(Clone, Default)]
pub(super) struct Bytes(Arc<Mutex<Vec<u8>>>);

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bytes")
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(bytes)))
    }
}

impl Bytes {
    fn guard(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn copy(&self) -> Vec<u8> {
        self.guard().clone()
    }
}

fn index(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| ErrorKind::FileTooLarge.into())
}

impl Storage for Bytes {
    fn len(&self) -> io::Result<u64> {
        Ok(self.guard().len() as u64)
    }

    fn read_at(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<()> {
        let bytes = self.guard();
        let mut at = index(offset)?;
        for buffer in buffers {
            let end = at.checked_add(buffer.len()).ok_or(ErrorKind::UnexpectedEof)?;
            buffer.copy_from_slice(bytes.get(at..end).ok_or(ErrorKind::UnexpectedEof)?);
            at = end;
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, buffers: &[IoSlice<'_>], _: WriteMode) -> io::Result<()> {
        let mut bytes = self.guard();
        let mut at = index(offset)?;
        for buffer in buffers {
            let end = at + buffer.len();
            if end as u64 > LEN_MAX {
                return Err(ErrorKind::StorageFull.into());
            }
            if end > bytes.len() {
                bytes.resize(end, 0);
            }
            bytes[at..end].copy_from_slice(buffer);
            at = end;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if len > LEN_MAX {
            return Err(ErrorKind::StorageFull.into());
        }
        self.guard().resize(index(len)?, 0);
        Ok(())
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        if len > self.len()? { self.set_len(len) } else { Ok(()) }
    }

    fn sync(&self, _: SyncKind) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, _: LockMode) -> io::Result<()> {
        Ok(())
    }

    fn unlock(&self) -> io::Result<()> {
        Ok(())
    }

    fn drop_cache(&self) -> io::Result<()> {
        Ok(())
    }
}
