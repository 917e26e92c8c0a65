//! Codec of the region table: which bitmap copy of each region is active, and how to verify it.
//!
//! Invariant: decoding takes memory in proportion to the bytes given, whatever count they claim.
//! Layer 2 (pages). Bytes: design.md, "Region table".

use super::layout::{Copy, Layout};
use crate::base::checksum;
use crate::base::codec::{DecodeError, Decoder, Encoder};

const MAGIC: u32 = u32::from_le_bytes(*b"CRGT");
const HEADER_BYTES: usize = 8;
const ENTRY_BYTES: usize = 24;
const FLAG_ACTIVE_B: u8 = 1;
const FLAG_BLANK: u8 = 2;
/// Stands for "no free unit" in the hint.
const HINT_FULL: u8 = 0xFF;
/// Length of the part of a digest that entries keep.
pub(crate) const DIGEST_BYTES: usize = 16;

/// What the durable state says about one region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RegionEntry {
    /// Of the unpadded active bitmap copy; zero for a blank region.
    pub(crate) digest: [u8; DIGEST_BYTES],
    /// Units that the image leaves free, those beyond the end of the file included.
    pub(crate) free_units: u32,
    /// The active copy; `None` for a blank region: nothing but the reserved units is allocated, neither copy is read.
    pub(crate) active: Option<Copy>,
    /// No free block of the image has a larger order; `None` where no unit is free.
    pub(crate) free_order_max: Option<u8>,
}

impl RegionEntry {
    pub(crate) fn blank(layout: &Layout) -> Self {
        Self {
            digest: [0; DIGEST_BYTES],
            free_units: layout.region_units() - layout.reserved_units(),
            active: None,
            free_order_max: Some(layout.order_max()),
        }
    }

    /// Whether a layout allows these values.
    pub(crate) fn is_plausible(&self, layout: &Layout) -> bool {
        self.free_order_max.is_none_or(|order| order <= layout.order_max())
            && match self.active {
                None => *self == Self::blank(layout),
                Some(_) => self.free_units < layout.region_units() - layout.reserved_units(),
            }
    }
}

/// The part of a digest that an entry keeps.
pub(crate) fn bitmap_digest(bitmap: &[u8]) -> [u8; DIGEST_BYTES] {
    let mut out = [0; DIGEST_BYTES];
    out.copy_from_slice(&checksum::digest(bitmap).0[..DIGEST_BYTES]);
    out
}

/// One entry for each region of the file, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct RegionTable {
    pub(crate) entries: Vec<RegionEntry>,
}

impl RegionTable {
    pub(crate) fn encoded_bytes(regions: usize) -> u64 {
        (HEADER_BYTES + regions * ENTRY_BYTES) as u64
    }

    /// How many regions a table of this many bytes has; `None` where no table has that length.
    pub(crate) fn regions_in(len_bytes: u64) -> Option<u32> {
        let entries = len_bytes.checked_sub(HEADER_BYTES as u64)?;
        let count = entries / ENTRY_BYTES as u64;
        u32::try_from(count).ok().filter(|_| entries.is_multiple_of(ENTRY_BYTES as u64))
    }

    /// Fits the table to a file that grew or was cut after the slot: what was added or lost can only be blank.
    pub(crate) fn resize(&mut self, layout: &Layout, regions: u32) -> Result<(), DecodeError> {
        let regions = regions as usize;
        if let Some(lost) = self.entries.get(regions..).filter(|lost| lost.iter().any(|entry| entry.active.is_some())) {
            return Err(DecodeError::new(format!("{} regions of the table are missing from the file", lost.len())));
        }
        self.entries.resize(regions, RegionEntry::blank(layout));
        Ok(())
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        out.u32(MAGIC).u32(u32::try_from(self.entries.len()).expect("regions are counted in 32 bits"));
        for entry in &self.entries {
            let flags = match entry.active {
                None => FLAG_BLANK,
                Some(Copy::A) => 0,
                Some(Copy::B) => FLAG_ACTIVE_B,
            };
            out.bytes(&entry.digest).u32(entry.free_units).u8(flags).u8(entry.free_order_max.unwrap_or(HINT_FULL));
            out.u16(0);
        }
        out.into_vec()
    }

    /// `regions` is the count that the file length calls for.
    pub(crate) fn decode(bytes: &[u8], regions: u32) -> Result<Self, DecodeError> {
        let mut decoder = Decoder::new(bytes);
        let magic = decoder.u32()?;
        if magic != MAGIC {
            return Err(DecodeError::new(format!("region table starts with {magic:#010x}, expected {MAGIC:#010x}")));
        }
        let count = decoder.u32()?;
        if count != regions {
            return Err(DecodeError::new(format!("region table has {count} entries, the file has {regions} regions")));
        }
        if u64::try_from(decoder.remaining()).ok() != u64::from(count).checked_mul(ENTRY_BYTES as u64) {
            let found = decoder.remaining();
            return Err(DecodeError::new(format!("region table of {count} entries has {found} bytes of entries")));
        }
        let entries = (0..count).map(|_| decode_entry(&mut decoder)).collect::<Result<_, _>>()?;
        decoder.finish()?;
        Ok(Self { entries })
    }
}

fn decode_entry(decoder: &mut Decoder<'_>) -> Result<RegionEntry, DecodeError> {
    let digest = decoder.array()?;
    let free_units = decoder.u32()?;
    let active = match decoder.u8()? {
        0 => Some(Copy::A),
        FLAG_ACTIVE_B => Some(Copy::B),
        FLAG_BLANK => None,
        flags => return Err(DecodeError::new(format!("region entry has unknown flags {flags:#04x}"))),
    };
    let free_order_max = match decoder.u8()? {
        HINT_FULL => None,
        order if order < 32 => Some(order),
        order => return Err(DecodeError::new(format!("region entry claims a free block of order {order}"))),
    };
    match decoder.u16()? {
        0 => Ok(RegionEntry { digest, free_units, active, free_order_max }),
        reserved => Err(DecodeError::new(format!("reserved bytes of a region entry hold {reserved:#06x}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table() -> RegionTable {
        let layout = Layout::new(512, 1, 32).unwrap();
        let full = RegionEntry { digest: [7; 16], free_units: 0, active: Some(Copy::B), free_order_max: None };
        let some = RegionEntry { digest: [8; 16], free_units: 5, active: Some(Copy::A), free_order_max: Some(2) };
        RegionTable { entries: vec![full, RegionEntry::blank(&layout), some] }
    }

    #[test]
    fn table_is_read_back_as_written() {
        let bytes = table().encode();
        assert_eq!(bytes.len() as u64, RegionTable::encoded_bytes(3));
        assert_eq!(RegionTable::decode(&bytes, 3), Ok(table()));
    }

    #[test]
    fn hostile_tables_are_refused() {
        let bytes = table().encode();
        assert!(RegionTable::decode(&bytes, 2).is_err());
        assert!(RegionTable::decode(&bytes, 4).is_err());
        assert!((0..bytes.len()).all(|len| RegionTable::decode(&bytes[..len], 3).is_err()));
        // Magic, count, unknown flag, both flags, hint, reserved bytes.
        for (at, value) in [(0, 0), (4, 2), (7, 0xFF), (28, 4), (28, 3), (29, 32), (30, 1), (31, 1)] {
            let mut bad = bytes.clone();
            bad[at] = value;
            assert!(RegionTable::decode(&bad, 3).is_err(), "byte {at}");
        }
        let mut huge = bytes[..8].to_vec();
        huge[4..].fill(0xFF);
        assert!(RegionTable::decode(&huge, u32::MAX).is_err());
        let longer = [&bytes[..], &[0]].concat();
        assert!(RegionTable::decode(&longer, 3).is_err());
    }

    proptest! {
        #[test]
        fn whatever_decodes_encodes_to_the_same_bytes(
            mut bytes in prop::collection::vec(prop_oneof![Just(0_u8), Just(1), any::<u8>()], 8..90), keep in any::<bool>()
        ) {
            let count = u32::try_from((bytes.len() - 8) / 24).unwrap();
            if keep {
                bytes.truncate(8 + count as usize * 24);
                bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
                bytes[4..8].copy_from_slice(&count.to_le_bytes());
            }
            if let Ok(table) = RegionTable::decode(&bytes, count) {
                prop_assert_eq!(table.encode(), bytes);
            }
        }
    }
}
