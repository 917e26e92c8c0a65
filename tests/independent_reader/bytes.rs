//! Integers, digests and refusals: what every part of the independent reader needs.
//!
//! Uses no code of `src/` and follows design.md, "Conventions" and "Ids and digests".

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// Why a file, or a part of it, cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The operating system refused, or another process holds the lock.
    Io(String),
    NotADatabase,
    /// Intact, but of a release that this reader does not know.
    Foreign,
    Corrupted(String),
}

pub(crate) type Result<T> = std::result::Result<T, Refusal>;

pub(crate) fn corrupted<T>(reason: impl Into<String>) -> Result<T> {
    Err(Refusal::Corrupted(reason.into()))
}

/// Refuses with `reason` unless `holds`.
pub(crate) fn require(holds: bool, reason: &str) -> Result<()> {
    if holds { Ok(()) } else { corrupted(reason) }
}

/// `length` bytes from `at`, refused where they leave `bytes`: every offset and length from disk comes through here.
pub(crate) fn part(bytes: &[u8], at: usize, length: usize) -> Result<&[u8]> {
    let end = at.checked_add(length);
    end.and_then(|end| bytes.get(at..end)).map_or_else(|| corrupted("an offset or length leads outside"), Ok)
}

/// The bytes at `at` as an array.
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    part(bytes, at, N)?.try_into().or_else(|_| corrupted("an array has another length"))
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Result<u16> {
    array(bytes, at).map(u16::from_le_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Result<u64> {
    array(bytes, at).map(u64::from_le_bytes)
}

/// A number from disk as an offset or length in memory.
pub(crate) fn size(number: impl TryInto<usize>) -> Result<usize> {
    number.try_into().or_else(|_| corrupted("a number exceeds the memory of this machine"))
}

pub(crate) fn all_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// The 8 bytes beside a pointer; 0 is never stored.
pub(crate) fn child_checksum(bytes: &[u8]) -> u64 {
    xxh3_64(bytes).max(1)
}

/// The 32 bytes of roots, blocks and blob references.
pub(crate) fn digest(bytes: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest[..16].copy_from_slice(&xxh3_128(bytes).to_le_bytes());
    digest
}
