//! Computes checksums anew after damage, so that what stands behind them is reached.

use super::sample::Sealed;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// Bytes of each of the three fixed blocks.
pub const BLOCK_BYTES: usize = 4096;

/// Computes every checksum anew, children before parents, then those of slots and header.
pub fn everything(bytes: &mut [u8], sealed: &[Sealed]) {
    parents(bytes, sealed);
    slot(bytes, 0);
    slot(bytes, 1);
    header(bytes);
}

/// Computes the checksums of nodes, runs, bitmaps and tables wherever they are stored, children before parents.
pub fn parents(bytes: &mut [u8], sealed: &[Sealed]) {
    // A parent changes when a child's checksum does; a tree of the sample has far fewer levels than this.
    for _ in 0..16 {
        let mut changed = false;
        for Sealed { start, len, stored_at } in sealed {
            let Some(covered) = bytes.get(*start..start + len) else { continue };
            let narrow = xxh3_64(covered).to_le_bytes();
            let wide = xxh3_128(covered).to_le_bytes();
            for (at, width) in stored_at {
                let sum = if *width == 8 { &narrow[..] } else { &wide[..] };
                if let Some(stored) = bytes.get_mut(*at..at + width)
                    && stored != sum
                {
                    stored.copy_from_slice(sum);
                    changed = true;
                }
            }
        }
        if !changed {
            break;
        }
    }
}

/// Computes the digest of a slot, unless the slot is blank.
pub fn slot(bytes: &mut [u8], index: usize) {
    let start = (index + 1) * BLOCK_BYTES;
    if let Some(slot) = bytes.get_mut(start..start + BLOCK_BYTES)
        && slot.iter().any(|byte| *byte != 0)
    {
        let sum = xxh3_128(&slot[..BLOCK_BYTES - 32]).to_le_bytes();
        slot[BLOCK_BYTES - 32..BLOCK_BYTES - 16].copy_from_slice(&sum);
    }
}

/// Computes the digest of block 0.
pub fn header(bytes: &mut [u8]) {
    if bytes.len() >= BLOCK_BYTES {
        let sum = xxh3_128(&[&bytes[..12], &bytes[16..144]].concat()).to_le_bytes();
        bytes[144..160].copy_from_slice(&sum);
    }
}
