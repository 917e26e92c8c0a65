//! The place of the log in the file: a run, zeroed before the first slot that names it.
//!
//! Invariant: the slot, the first unit of the segment and every group in it agree on a random number that was drawn for this
//! segment alone, so that nothing that was written there before is taken for a record.
//! Layer 5 (txn). Bytes: design.md, "Redo log".

use crate::base::checksum;
use crate::base::codec::Encoder;
use crate::base::error::{Result, StorageError};
use crate::base::ids::{PageId, Run};
use crate::pages::layout::Layout;
use crate::pages::slot::LogSegment;

const MAGIC: [u8; 8] = *b"cowlog\x01\0";

/// Zeros are written so many units at once.
const ZEROS_UNITS: usize = 64;

/// Least length of a segment in an ordinary file.
const SEGMENT_BYTES_MIN: u64 = 16 << 10;
/// Least length where regions are tiny.
const SEGMENT_UNITS_TINY: u64 = 4;
/// A segment should hold so many records like the one that asks for it.
const RECORDS_AHEAD: u64 = 16;
/// And so many where they are large: whoever writes batches writes many.
const LARGE_RECORDS_AHEAD: u64 = 256;
const LARGE_RECORD_BYTES: u64 = 32 << 10;
/// A segment is at most this share of the file, unless the file is very small.
const FILE_SHARE: u64 = 8;
/// Of a file from so many units on it may be a larger one, so that it is as long as it may be before that is much.
const FILE_SHARE_LARGE: u64 = 4;
const LARGE_FILE_UNITS: u64 = 1 << 14;
/// The first segment of a session is this share of it: short enough to be zeroed in a moment.
const FILE_SHARE_FIRST: u64 = 512;
/// Each further one is so many times as long, so there are few: each has somebody wait for a slot, and for all that is laid
/// over the trees to come into them.
const GROWTH: u64 = 32;

/// What decides how long the next segment is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SizeWish {
    /// Length of the one before, zero where there was none.
    pub(crate) last_units: u32,
    /// Length of the record that found no room, zero where that was not the reason for another segment.
    pub(crate) record_bytes: u64,
    /// Length of the file.
    pub(crate) file_units: u64,
    /// What the application allows.
    pub(crate) bytes_max: u64,
}

/// Units of the next segment: several times those of the last one where that was too short, and room for some records like the
/// one that asks for it.
pub(crate) fn segment_units(layout: &Layout, wish: &SizeWish) -> u32 {
    let unit_bytes = u64::from(layout.unit_bytes());
    let is_ordinary = layout.region_units() >= Layout::ORDINARY_REGION_UNITS;
    let least = if is_ordinary { SEGMENT_BYTES_MIN / unit_bytes } else { SEGMENT_UNITS_TINY };
    let share = if wish.file_units < LARGE_FILE_UNITS { FILE_SHARE } else { FILE_SHARE_LARGE };
    let most = (wish.file_units / share).min(wish.bytes_max / unit_bytes);
    let most = most.clamp(least, u64::from(layout.largest_run_units()).max(least));
    let wanted = if wish.record_bytes > 0 {
        let first = if wish.last_units == 0 { wish.file_units / FILE_SHARE_FIRST } else { 0 };
        let ahead = if wish.record_bytes < LARGE_RECORD_BYTES { RECORDS_AHEAD } else { LARGE_RECORDS_AHEAD };
        (GROWTH * u64::from(wish.last_units)).max(first).max(wish.record_bytes.saturating_mul(ahead) / unit_bytes)
    } else {
        u64::from(wish.last_units)
    };
    let units = wanted.clamp(least, most).min(u64::from(layout.largest_run_units()));
    // A run of another length would leave the rest of its block unused.
    let units = u32::try_from(units).unwrap_or(u32::MAX);
    let rounded = units.checked_next_power_of_two().unwrap_or(u32::MAX);
    if u64::from(rounded) <= most { rounded } else { (rounded / 2).max(1) }
}

fn first_unit(segment: &LogSegment) -> Vec<u8> {
    let mut out = Encoder::new();
    out.bytes(&MAGIC).u64(u64::from(segment.units)).bytes(&segment.nonce);
    let digest = checksum::digest(out.as_slice());
    out.digest(digest);
    out.into_vec()
}

/// A segment before its first record.
pub(crate) struct Blank {
    segment: LogSegment,
    unit_bytes: usize,
    first: Vec<u8>,
    zeros: Vec<u8>,
}

/// What a segment holds before its first record.
pub(crate) fn blank(segment: &LogSegment, layout: &Layout) -> Blank {
    let unit_bytes = layout.unit_bytes() as usize;
    let mut first = first_unit(segment);
    first.resize(unit_bytes, 0);
    let zeros = vec![0; unit_bytes * ZEROS_UNITS.min(segment.units as usize - 1)];
    Blank { segment: *segment, unit_bytes, first, zeros }
}

impl Blank {
    /// What to write, and where.
    pub(crate) fn pages(&self) -> impl Iterator<Item = (PageId, &[u8])> {
        let (page, units) = (self.segment.page.get(), self.segment.units as usize);
        let rest = (1..units).step_by(ZEROS_UNITS).map(move |from| {
            let len = ZEROS_UNITS.min(units - from) * self.unit_bytes;
            (PageId::from_allocator(page + from as u64), &self.zeros[..len])
        });
        std::iter::once((self.segment.page, &self.first[..])).chain(rest)
    }
}

/// Requires that a segment begins as it was made.
pub(super) fn check_first_unit(segment: &LogSegment, bytes: &[u8]) -> Result<()> {
    if bytes.starts_with(&first_unit(segment)) {
        return Ok(());
    }
    Err(StorageError::corrupted_page(segment.page, "the redo log that the slot names does not begin there"))
}

/// The run of a segment.
pub(crate) fn run(segment: &LogSegment) -> Run {
    Run::new(segment.page, segment.units)
}
