//! Reads and writes at an offset that carry on after interruptions and short transfers.
//!
//! Invariant: no call moves or uses the cursor of the file, so threads share one handle without a lock.
//! Layer 1 (io).

use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};

/// Total length of the buffers.
pub(super) fn total_len(buffers: &[IoSlice<'_>]) -> usize {
    buffers.iter().map(|buffer| buffer.len()).sum()
}

/// Fills every buffer; `UnexpectedEof` where the file ends first.
pub(super) fn read_full(file: &File, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<()> {
    let mut position = offset;
    let mut index = 0;
    let mut skip = 0;
    loop {
        while index < buffers.len() && skip >= buffers[index].len() {
            skip -= buffers[index].len();
            index += 1;
        }
        if index == buffers.len() {
            return Ok(());
        }
        let result = if skip == 0 {
            system::read_some(file, position, &mut buffers[index..])
        } else {
            let rest = &mut buffers[index][skip..];
            system::read_some(file, position, &mut [IoSliceMut::new(rest)])
        };
        match result {
            Ok(0) => return Err(past_end(position)),
            Ok(count) => {
                position += count as u64;
                skip += count;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The error of every backend for a read that reaches past the end.
pub(super) fn past_end(position: u64) -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, format!("the storage ends at or before byte {position}"))
}

/// Writes every buffer; durable on return where `forced`.
pub(super) fn write_full(file: &File, offset: u64, buffers: &[IoSlice<'_>], forced: bool) -> io::Result<()> {
    if !forced {
        return write_each(offset, buffers, |position, rest| system::write_some(file, position, rest));
    }
    match write_each(offset, buffers, |position, rest| system::write_some_forced(file, position, rest)) {
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            write_each(offset, buffers, |position, rest| system::write_some(file, position, rest))?;
            file.sync_data()
        }
        result => result,
    }
}

fn write_each(
    offset: u64,
    buffers: &[IoSlice<'_>],
    mut write_some: impl FnMut(u64, &[IoSlice<'_>]) -> io::Result<usize>,
) -> io::Result<()> {
    let mut position = offset;
    let mut index = 0;
    let mut skip = 0;
    loop {
        while index < buffers.len() && skip >= buffers[index].len() {
            skip -= buffers[index].len();
            index += 1;
        }
        if index == buffers.len() {
            return Ok(());
        }
        let result = if skip == 0 {
            write_some(position, &buffers[index..])
        } else {
            write_some(position, &[IoSlice::new(&buffers[index][skip..])])
        };
        match result {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => {
                position += count as u64;
                skip += count;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(target_os = "linux")]
mod system {
    use rustix::io::{Errno, ReadWriteFlags};
    use std::fs::File;
    use std::io::{self, IoSlice, IoSliceMut};

    pub(super) fn read_some(file: &File, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        Ok(rustix::io::preadv(file, buffers, offset)?)
    }

    pub(super) fn write_some(file: &File, offset: u64, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(rustix::io::pwritev(file, buffers, offset)?)
    }

    pub(super) fn write_some_forced(file: &File, offset: u64, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        match rustix::io::pwritev2(file, buffers, offset, ReadWriteFlags::DSYNC) {
            Err(Errno::NOSYS | Errno::OPNOTSUPP) => Err(io::ErrorKind::Unsupported.into()),
            result => Ok(result?),
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::fs::File;
    use std::io::{self, IoSlice, IoSliceMut};
    #[cfg(unix)]
    use std::os::unix::fs::FileExt;
    #[cfg(windows)]
    use std::os::windows::fs::FileExt;

    pub(super) fn read_some(file: &File, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let Some(first) = buffers.iter_mut().find(|buffer| !buffer.is_empty()) else { return Ok(0) };
        #[cfg(unix)]
        return file.read_at(first, offset);
        #[cfg(windows)]
        return match file.seek_read(first, offset) {
            // ERROR_HANDLE_EOF: the offset lies past the end.
            Err(error) if error.raw_os_error() == Some(38) => Ok(0),
            result => result,
        };
    }

    pub(super) fn write_some(file: &File, offset: u64, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(first) = buffers.iter().find(|buffer| !buffer.is_empty()) else { return Ok(0) };
        #[cfg(unix)]
        return file.write_at(first, offset);
        #[cfg(windows)]
        return file.seek_write(first, offset);
    }

    pub(super) fn write_some_forced(_file: &File, _offset: u64, _buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
