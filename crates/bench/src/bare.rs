//! What the disk gives without a store: forced direct writes of one block each over a file that is there already.
//!
//! No durable commit can be faster that waits for one such write, so its rate is a yardstick for theirs.

use crate::Result;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::path::Path;

/// Bytes of one write, which is also an alignment that Linux takes for offset, length and memory of a direct write.
const BLOCK_BYTES: usize = 4096;

/// A file of zeros whose blocks are overwritten one after the other.
#[derive(Debug)]
pub(crate) struct BareFile {
    file: File,
    /// One block more than is written, for it starts where the alignment allows.
    memory: Vec<u8>,
    blocks: u64,
    /// Number of writes so far.
    written: u64,
}

/// A bare file, or why there are no forced direct writes in its folder.
#[derive(Debug)]
pub(crate) enum Bare {
    Ready(BareFile),
    Refused(String),
}

impl Bare {
    /// Writes a file of so many blocks, and one of them directly to see whether that is possible.
    pub(crate) fn create(path: &Path, blocks: usize) -> Result<Self> {
        fs::write(path, vec![0; blocks * BLOCK_BYTES])?;
        File::options().write(true).open(path)?.sync_all()?;
        let memory = vec![0; 2 * BLOCK_BYTES];
        let ready = open_direct(path).and_then(|file| {
            let mut bare = BareFile { file, memory, blocks: u64::try_from(blocks).unwrap_or(u64::MAX), written: 0 };
            bare.overwrite(1).map(|()| bare)
        });
        match ready {
            Ok(bare) => Ok(Self::Ready(bare)),
            Err(error) if is_refusal(&error) => Ok(Self::Refused(error.to_string())),
            Err(error) => Err(error.into()),
        }
    }
}

impl BareFile {
    /// Overwrites so many blocks, one after the other from where the last call ended; each is durable before the next.
    pub(crate) fn overwrite(&mut self, count: usize) -> io::Result<()> {
        let start = self.memory.as_ptr().align_offset(BLOCK_BYTES);
        assert!(start < BLOCK_BYTES, "an ordinary pointer can always be aligned");
        for _ in 0..count {
            let block = &mut self.memory[start..start + BLOCK_BYTES];
            // No two writes are the same, so none can be left out.
            block[..8].copy_from_slice(&(self.written + 1).to_le_bytes());
            self.file.seek(SeekFrom::Start(self.written % self.blocks * BLOCK_BYTES as u64))?;
            let len = self.file.write(block)?;
            if len != BLOCK_BYTES {
                return Err(io::Error::other(format!("a direct write took {len} bytes of {BLOCK_BYTES}")));
            }
            self.written += 1;
        }
        Ok(())
    }
}

/// Opens the file so that a write passes the page cache and returns once it is durable.
#[cfg(target_os = "linux")]
fn open_direct(path: &Path) -> io::Result<File> {
    use rustix::fs::OFlags;
    use std::os::unix::fs::OpenOptionsExt;

    let flags = (OFlags::DIRECT | OFlags::DSYNC).bits().cast_signed();
    File::options().write(true).custom_flags(flags).open(path)
}

#[cfg(not(target_os = "linux"))]
fn open_direct(_: &Path) -> io::Result<File> {
    Err(io::Error::new(ErrorKind::Unsupported, "this system is not asked for direct writes"))
}

/// File systems without direct writes call the flag or the write invalid.
fn is_refusal(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_is_overwritten_in_turn_and_the_file_keeps_its_length() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bare");
        let Bare::Ready(mut bare) = Bare::create(&path, 3).unwrap() else { return };
        bare.overwrite(4).unwrap();
        let bytes = fs::read(&path).unwrap();
        let firsts: Vec<u8> = bytes.chunks(BLOCK_BYTES).map(|block| block[0]).collect();
        assert_eq!((bytes.len(), firsts), (3 * BLOCK_BYTES, vec![4, 5, 3]));
    }

    #[test]
    fn only_what_says_that_direct_writes_do_not_exist_is_a_refusal() {
        for (kind, refusal) in [
            (ErrorKind::InvalidInput, true),
            (ErrorKind::Unsupported, true),
            (ErrorKind::StorageFull, false),
            (ErrorKind::PermissionDenied, false),
        ] {
            assert_eq!(is_refusal(&kind.into()), refusal, "{kind}");
        }
        let folder = tempfile::tempdir().unwrap();
        Bare::create(&folder.path().join("missing/bare"), 3).unwrap_err();
    }
}
