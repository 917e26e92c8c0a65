//! Target `space`: damages bitmaps and region tables, makes the checksums fit, and allocates and frees in what is left.
//!
//! The first byte of the input says how; after it stand edits of four bytes.

use super::header::resize;
use super::probe::{self, Reach};
use super::sample::{Sample, UNIT_BYTES, samples};
use super::seal::{self, BLOCK_BYTES};
use xxhash_rust::xxh3::xxh3_128;

/// Make what the table says of each region fit the bitmap that it names: digest, free units, largest free block.
pub const FIT: u8 = 1;
/// Damage the file of a process that was killed.
pub const NOT_CLOSED: u8 = 2;
/// Open it for reading only.
pub const READ_ONLY: u8 = 4;
/// Damage the newest slot too, so that the older one serves and every bitmap is verified.
pub const STEP_BACK: u8 = 8;
/// Leave the checksums as they are, so that none of the damage gets behind them.
pub const UNSEALED: u8 = 16;

const EDITS_MAX: usize = 64;
const REGION_UNITS: usize = 64;
const BITMAP_BYTES: usize = REGION_UNITS / 8;
const TABLE_MAGIC: &[u8] = b"CRGT";
const TABLE_HEADER_BYTES: usize = 8;
const ENTRY_BYTES: usize = 24;

/// Runs one input.
pub fn run(data: &[u8]) -> Reach {
    let (flags, edits) = data.split_first().map_or((0, data), |(flags, rest)| (*flags, rest));
    let sample = if flags & NOT_CLOSED == 0 { &samples().closed } else { &samples().open };
    let mut bytes = sample.bytes.clone();
    let tables = tables(sample);
    for edit in edits.chunks_exact(4).take(EDITS_MAX) {
        apply(&mut bytes, &tables, [edit[0], edit[1], edit[2], edit[3]]);
    }
    if flags & FIT != 0 {
        for (start, len) in &tables {
            fit(&mut bytes, *start, *len);
        }
    }
    if flags & UNSEALED == 0 {
        let fitted = |start: usize| flags & FIT == 0 || tables.iter().any(|(table, _)| *table == start);
        let sealed: Vec<_> = sample.sealed.iter().filter(|sealed| fitted(sealed.start)).cloned().collect();
        seal::everything(&mut bytes, &sealed);
    }
    if flags & STEP_BACK != 0 {
        let newest = usize::from(sample.bytes[12] & 1);
        bytes[(newest + 1) * BLOCK_BYTES] ^= 1;
    }
    probe::run(&bytes, flags & READ_ONLY != 0)
}

/// Start and length of every region table that a slot of the sample names.
fn tables(sample: &Sample) -> Vec<(usize, usize)> {
    let named = sample.sealed.iter().filter(|sealed| sample.bytes[sealed.start..].starts_with(TABLE_MAGIC));
    named.map(|sealed| (sealed.start, sealed.len)).collect()
}

fn region_start(region: usize) -> usize {
    3 * BLOCK_BYTES + region * REGION_UNITS * UNIT_BYTES
}

fn apply(bytes: &mut Vec<u8>, tables: &[(usize, usize)], [how, which, place, value]: [u8; 4]) {
    let place = usize::from(place);
    let at = if how & 0x80 == 0 {
        let regions = (bytes.len() - 3 * BLOCK_BYTES).div_ceil(REGION_UNITS * UNIT_BYTES).max(1);
        let copy = usize::from(how >> 6 & 1);
        region_start(usize::from(which) % regions) + copy * UNIT_BYTES + place % BITMAP_BYTES
    } else if let Some((start, len)) = tables.get(usize::from(which) % tables.len().max(1)) {
        start + place % len
    } else {
        return;
    };
    if how % 8 == 7 {
        // A file may be longer or shorter than its tables say.
        return resize(bytes, place % 96, value);
    }
    let Some(byte) = bytes.get_mut(at) else { return };
    match how % 8 {
        0 | 1 => *byte ^= value,
        2 | 3 => *byte = value,
        4 => *byte |= value,
        5 => *byte &= value,
        _ => *byte = byte.wrapping_add(value),
    }
}

/// Makes the entries of a table true of the bitmaps that they name.
fn fit(bytes: &mut [u8], start: usize, len: usize) {
    for region in 0..(len - TABLE_HEADER_BYTES) / ENTRY_BYTES {
        let entry = start + TABLE_HEADER_BYTES + region * ENTRY_BYTES;
        let Some(flags) = bytes.get(entry + 20).filter(|flags| **flags < 2) else { continue };
        let bitmap = region_start(region) + usize::from(*flags) * UNIT_BYTES;
        let Some(covered) = bytes.get(bitmap..bitmap + BITMAP_BYTES) else { continue };
        let digest = xxh3_128(covered).to_le_bytes();
        let map = covered.first_chunk().map_or(0, |map| u64::from_le_bytes(*map));
        // The largest aligned block without a set bit.
        let free = |order: u32| {
            let units = 1_u32 << order;
            let mask = u64::MAX >> (64 - units);
            (0..64 / units).any(|block| map >> (block * units) & mask == 0)
        };
        let order = (0..7_u8).rev().find(|order| free(u32::from(*order))).unwrap_or(0xff);
        let Some(entry) = bytes.get_mut(entry..entry + ENTRY_BYTES) else { continue };
        entry[..16].copy_from_slice(&digest);
        entry[16..20].copy_from_slice(&map.count_zeros().to_le_bytes());
        entry[21] = order;
    }
}
