//! Target `image`: damages a small database file and uses what is left of it.
//!
//! No input may cause a panic, a hang or unbounded memory. Where the checksums were not made to fit the damage, what can
//! be read is a state that was committed; where they were, every answer may be wrong but must be an answer.
//!
//! The first byte of the input chooses the file and how it is opened; after it, every four bytes damage something.

use super::probe::change;
use super::sample::{Sealed, UNIT_BYTES, open, read_all, samples};
use super::seal;
use cowslip::sim::SimDisk;
use cowslip::{Database, Error};

/// Make the checksums fit the damage.
pub const RESEAL: u8 = 1;
/// Damage the file of a process that was killed.
pub const NOT_CLOSED: u8 = 2;
/// Open it for reading only.
pub const READ_ONLY: u8 = 4;

const DAMAGES_MAX: usize = 64;

/// How far an input came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Opening failed.
    Refused,
    /// Opened, but not every row could be read.
    Unreadable,
    /// Every row could be read, and they are those of a commit.
    Committed,
    /// Every row could be read, but no commit made them: only forged checksums allow that.
    Forged,
}

/// Runs one input.
pub fn run(data: &[u8]) -> Outcome {
    let (flags, damages) = data.split_first().map_or((0, data), |(flags, rest)| (*flags, rest));
    let sample = if flags & NOT_CLOSED == 0 { &samples().closed } else { &samples().open };
    let mut bytes = sample.bytes.clone();
    for damage in damages.chunks_exact(4).take(DAMAGES_MAX) {
        apply(&mut bytes, &sample.sealed, [damage[0], damage[1], damage[2], damage[3]]);
    }
    let resealed = flags & RESEAL != 0;
    if resealed {
        seal::everything(&mut bytes, &sample.sealed);
    }
    let read_only = flags & READ_ONLY != 0;
    let disk = SimDisk::from_bytes(&bytes);
    disk.keep_history(false);
    let Ok(database) = open(disk, read_only) else { return Outcome::Refused };
    let outcome = judge(&database);
    assert!(resealed || outcome != Outcome::Forged, "damage was read as if it had been written");
    // The file may contradict itself; whatever is done with it must end with an answer.
    drop(database.check_integrity());
    if !read_only {
        drop(change(&database));
        drop(database.check_integrity());
        judge(&database);
        drop(database.close());
    }
    outcome
}

fn judge(database: &Database) -> Outcome {
    let read = database.begin_read().map_err(Error::from).and_then(|snapshot| read_all(&snapshot));
    match read {
        Err(_) => Outcome::Unreadable,
        Ok(state) if samples().states.contains(&state) => Outcome::Committed,
        Ok(_) => Outcome::Forged,
    }
}

/// Damages one place. The highest bit of the first byte aims at something that a checksum covers.
fn apply(bytes: &mut Vec<u8>, sealed: &[Sealed], [kind, a, b, value]: [u8; 4]) {
    let offset = if kind & 0x80 != 0 && !sealed.is_empty() {
        let target = &sealed[usize::from(a) % sealed.len()];
        // Headers and the arrays after them stand in front.
        let within = if kind & 0x40 != 0 { usize::from(b) * 4 } else { usize::from(b) };
        target.start + within % target.len
    } else {
        usize::from(u16::from_le_bytes([a, b])) * 2 + usize::from(kind & 0x40 != 0)
    };
    if bytes.is_empty() {
        return;
    }
    let offset = offset % bytes.len();
    let len = bytes.len();
    let unit = offset / UNIT_BYTES * UNIT_BYTES;
    match kind % 8 {
        0 | 1 => bytes[offset] ^= value,
        2 => bytes[offset] = value,
        3 => bytes[offset..len.min(offset + 8)].fill(value),
        4 => bytes[offset..len.min(offset + 64)].fill(0),
        5 => {
            let from = usize::from(value) * UNIT_BYTES % len / UNIT_BYTES * UNIT_BYTES;
            let count = UNIT_BYTES.min(len - from).min(len - unit);
            bytes.copy_within(from..from + count, unit);
        }
        6 if value == 0 => bytes.truncate(unit),
        6 => bytes[offset] = bytes[offset].wrapping_add(value),
        _ => bytes.extend_from_slice(&[value; UNIT_BYTES]),
    }
}
