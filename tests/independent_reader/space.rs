//! Regions, their table and bitmaps, and the account of every unit of the file.
//!
//! Uses no code of `src/` and follows design.md, "Regions" and "Region table".

use super::blocks::{BLOCK_BYTES, Layout, Opened};
use super::bytes::{Result, all_zero, corrupted, digest, part, require, size, u16_at, u32_at};
use super::tree::{RunKind, Walk};
use std::ops::Range;

const ENTRY_BYTES: usize = 24;
const ORDER_NONE: u8 = 0xFF;

/// The bits of one region, one `bool` per unit, and where they stand in the file; absent for a blank region.
struct Bitmap {
    allocated: Vec<bool>,
    stored: Option<Range<usize>>,
}

/// Requires that the bitmaps hold exactly what the walk reached, and the region table itself; returns the byte ranges
/// of the active bitmaps.
pub(crate) fn account(file: &Opened, walk: &mut Walk<'_>) -> Result<Vec<Range<usize>>> {
    let layout = file.slot.layout;
    let bitmaps = bitmaps(file, walk)?;
    let mut reached: Vec<Vec<bool>> = bitmaps.iter().map(|_| blank(layout)).collect();
    let mut reach = layout.fixed_units();
    for run in &walk.runs {
        for page in run.page..run.page + run.length.div_ceil(layout.unit_bytes) {
            let unit = page - layout.fixed_units();
            let Some(region) = reached.get_mut(unit / layout.region_units) else {
                return corrupted("a run lies in no region");
            };
            let bit = &mut region[unit % layout.region_units];
            require(!*bit, "a unit is reached twice")?;
            *bit = true;
            reach = reach.max(page + 1);
        }
    }
    for (bitmap, reached) in bitmaps.iter().zip(&reached) {
        let leaked = bitmap.allocated.iter().zip(reached).any(|(allocated, reached)| *allocated && !reached);
        require(!leaked, "a unit is allocated and not reached")?;
        require(bitmap.allocated == *reached, "a unit is reached and not allocated")?;
    }
    require(size(file.slot.reach)? == reach, "the slot's reach is not the end of the highest run")?;
    Ok(bitmaps.into_iter().filter_map(|bitmap| bitmap.stored).collect())
}

/// A region with only its reserved units allocated.
fn blank(layout: Layout) -> Vec<bool> {
    (0..layout.region_units).map(|unit| unit < 2 * layout.bitmap_units()).collect()
}

/// Reads the region table, and the active bitmap of each region of the file.
fn bitmaps(file: &Opened, walk: &mut Walk<'_>) -> Result<Vec<Bitmap>> {
    let layout = file.slot.layout;
    let units = file.bytes.len() / layout.unit_bytes - layout.fixed_units();
    let regions = units.div_ceil(layout.region_units);
    let mut entries: &[u8] = &[];
    if let Some(table) = &file.slot.region_table {
        let bytes = walk.run(table.page, size(table.length)?, RunKind::RegionTable)?;
        require(digest(bytes) == table.digest, "the digest of the region table does not match")?;
        require(bytes.starts_with(b"CRGT"), "the region table has no magic")?;
        let count = size(u32_at(bytes, 4)?)?;
        require(bytes.len() == 8 + ENTRY_BYTES * count, "the region table has another length than its count")?;
        entries = &bytes[8..];
    }
    let mut bitmaps = Vec::new();
    for region in 0..regions.max(entries.len() / ENTRY_BYTES) {
        let at = region * ENTRY_BYTES;
        let units_in_file = units.saturating_sub(region * layout.region_units).min(layout.region_units);
        let bitmap = match entries.get(at..at + ENTRY_BYTES) {
            None => Bitmap { allocated: blank(layout), stored: None },
            Some(entry) => bitmap(file, region, units_in_file, entry)?,
        };
        bitmaps.push(bitmap);
    }
    Ok(bitmaps)
}

/// Reads and verifies the bitmap that an entry of the region table names.
fn bitmap(file: &Opened, region: usize, units_in_file: usize, entry: &[u8]) -> Result<Bitmap> {
    let layout = file.slot.layout;
    let (flags, order) = (entry[20], entry[21]);
    require(flags <= 2 && u16_at(entry, 22)? == 0, "a region has flags of no meaning")?;
    let mut bitmap = Bitmap { allocated: blank(layout), stored: None };
    if flags == 2 {
        require(all_zero(&entry[..16]), "a blank region has a digest")?;
    } else {
        let unit = layout.fixed_units() + region * layout.region_units + usize::from(flags) * layout.bitmap_units();
        let start = unit * layout.unit_bytes;
        require(units_in_file >= 2 * layout.bitmap_units(), "a region without its reserved units is not blank")?;
        let bytes = part(&file.bytes, start, layout.bitmap_bytes())?;
        require(digest(bytes)[..16] == entry[..16], "the digest of a bitmap does not match")?;
        bitmap.allocated = (0..layout.region_units).map(|unit| bytes[unit / 8] >> (unit % 8) & 1 == 1).collect();
        bitmap.stored = Some(start..start + bytes.len());
        let differs = bitmap.allocated != blank(layout);
        require(differs, "a region is blank and not marked so")?;
        require(bitmap.allocated.iter().take(2 * layout.bitmap_units()).all(|bit| *bit), "a reserved unit is free")?;
        require(!bitmap.allocated[units_in_file..].contains(&true), "a unit beyond the file is allocated")?;
    }
    let free_units = bitmap.allocated.iter().filter(|bit| !**bit).count();
    require(size(u32_at(entry, 16)?)? == free_units, "a region counts other free units than its bitmap")?;
    require(order == largest_order(&bitmap.allocated), "a region names another order than its bitmap")?;
    Ok(bitmap)
}

/// `k` of the largest free block of `2^k` units that is aligned to its size.
fn largest_order(allocated: &[bool]) -> u8 {
    let free = |order: &u8| allocated.chunks_exact(1 << order).any(|block| !block.contains(&true));
    (0..=18).rev().filter(|order| 1 << order <= allocated.len()).find(free).unwrap_or(ORDER_NONE)
}

/// The byte ranges of the file that are covered by a checksum, magic or complement, given what a walk reached.
pub(crate) fn covered(file: &Opened, walk: &Walk<'_>, bitmaps: &[Range<usize>]) -> Vec<Range<usize>> {
    // Block 0 without bytes 13..16 and what follows its digest, then both slots.
    let mut ranges = vec![0..13, 16..176, BLOCK_BYTES..3 * BLOCK_BYTES];
    ranges.extend_from_slice(bitmaps);
    if let (Some(reference), Some(log)) = (&file.slot.log, &file.log) {
        let start = size(reference.page).unwrap_or(0) * file.slot.layout.unit_bytes;
        ranges.extend(log.covered.iter().map(|range| start + range.start..start + range.end));
    }
    ranges.extend(walk.runs.iter().filter(|run| run.kind != RunKind::Log).map(|run| {
        let start = run.page * file.slot.layout.unit_bytes;
        start..start + run.length
    }));
    ranges
}
