//! Target `header`: damages block 0 and the two slots, makes the checksums fit where asked, and opens what is left.
//!
//! The first byte of the input says which checksums are made to fit; after it stand edits of four bytes.

use super::probe::{self, Reach};
use super::sample::{UNIT_BYTES, samples};
use super::seal::{self, BLOCK_BYTES};
use xxhash_rust::xxh3::xxh3_128;

/// Make the digest of block 0 fit.
pub const SEAL_HEADER: u8 = 1;
/// Damage the file of a process that was killed.
pub const NOT_CLOSED: u8 = 2;
/// Open it for reading only.
pub const READ_ONLY: u8 = 4;
/// Make the digest of slot 0 fit.
pub const SEAL_SLOT_0: u8 = 8;
/// Make the digest of slot 1 fit.
pub const SEAL_SLOT_1: u8 = 16;
/// Give both slots the immutable fields of block 0.
pub const SAME_FIELDS: u8 = 32;
/// Make the digests of roots and region tables fit whatever the slots point to.
pub const SEAL_TARGETS: u8 = 64;

const EDITS_MAX: usize = 64;
const FILE_BYTES_MAX: usize = 512 << 10;
const NODE_BYTES: usize = 2 * UNIT_BYTES;
const GOD_AT: usize = 12;
const GODS: [u8; 8] = [0xb8, 0xb1, 0xaa, 0xa3, 0x9c, 0x95, 0x8e, 0x87];
/// Offsets in a slot of two roots and the region table, and of the digest behind each.
const ROOTS_AT: [usize; 2] = [64, 120];
const TABLE_AT: usize = 176;

/// Runs one input.
pub fn run(data: &[u8]) -> Reach {
    let (flags, edits) = data.split_first().map_or((0, data), |(flags, rest)| (*flags, rest));
    let sample = if flags & NOT_CLOSED == 0 { &samples().closed } else { &samples().open };
    let mut bytes = sample.bytes.clone();
    for edit in edits.chunks_exact(4).take(EDITS_MAX) {
        apply(&mut bytes, [edit[0], edit[1], edit[2], edit[3]]);
    }
    for slot in [BLOCK_BYTES, 2 * BLOCK_BYTES] {
        if flags & SAME_FIELDS != 0 {
            bytes.copy_within(16..144, slot + 3936);
        }
        if flags & SEAL_TARGETS != 0 {
            seal_targets(&mut bytes, slot);
        }
    }
    for (flag, index) in [(SEAL_SLOT_0, 0), (SEAL_SLOT_1, 1)] {
        if flags & flag != 0 {
            seal::slot(&mut bytes, index);
        }
    }
    if flags & SEAL_HEADER != 0 {
        seal::header(&mut bytes);
    }
    probe::run(&bytes, flags & READ_ONLY != 0)
}

fn seal_targets(bytes: &mut [u8], slot: usize) {
    let word = |bytes: &[u8], at: usize| bytes[at..].first_chunk().map_or(0, |word| u64::from_le_bytes(*word));
    let tables = [(slot + TABLE_AT, slot + TABLE_AT + 16, word(bytes, slot + TABLE_AT + 8))];
    let roots = ROOTS_AT.map(|at| (slot + at, slot + at + 8, NODE_BYTES as u64));
    for (page_at, digest_at, len) in roots.into_iter().chain(tables) {
        let page = word(bytes, page_at);
        let start = usize::try_from(page).unwrap_or(usize::MAX).saturating_mul(UNIT_BYTES);
        let end = start.saturating_add(usize::try_from(len).unwrap_or(usize::MAX));
        if page != 0
            && let Some(covered) = bytes.get(start..end)
        {
            let sum = xxh3_128(covered).to_le_bytes();
            bytes[digest_at..digest_at + 16].copy_from_slice(&sum);
        }
    }
}

/// Changes one field. The highest two bits of the first byte name the block, the next two bytes a place in it.
fn apply(bytes: &mut Vec<u8>, [how, low, high, value]: [u8; 4]) {
    let block = usize::from(how >> 6);
    // Fields stand at both ends of a block; the middle of a slot is ignored.
    let place = usize::from(u16::from_le_bytes([low, high])) % 1024;
    let at = if place < 512 { place } else { BLOCK_BYTES - 1024 + place };
    if block == 3 {
        match how % 4 {
            0 => bytes.copy_within(BLOCK_BYTES..2 * BLOCK_BYTES, 2 * BLOCK_BYTES),
            1 => bytes.copy_within(2 * BLOCK_BYTES..3 * BLOCK_BYTES, BLOCK_BYTES),
            2 => bytes[GOD_AT] = GODS[usize::from(value % 8)],
            // Longer or shorter, but never without the blocks.
            _ => resize(bytes, usize::from(low), value),
        }
        return;
    }
    let start = block * BLOCK_BYTES;
    let block = &mut bytes[start..start + BLOCK_BYTES];
    let word = at / 8 * 8;
    match how % 8 {
        0 | 1 => block[at] ^= value,
        2 => block[at] = value,
        3 => block[at] = block[at].wrapping_add(value),
        4 => block[word..word + 8].copy_from_slice(&u64::from(value).to_le_bytes()),
        5 => block[word..word + 8].fill(value),
        6 => block.fill(0),
        _ => {
            let from = usize::from(value) * 8 % BLOCK_BYTES;
            block.copy_within(from..from + 8, word);
        }
    }
}

/// Makes a file longer by units of one byte, or shorter where the byte is odd.
pub fn resize(bytes: &mut Vec<u8>, units: usize, value: u8) {
    let change = units * UNIT_BYTES;
    let len = if value & 1 == 0 { bytes.len() + change } else { bytes.len().saturating_sub(change) };
    bytes.resize(len.clamp(3 * BLOCK_BYTES, FILE_BYTES_MAX), value);
}
