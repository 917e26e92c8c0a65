//! Where regions, their bitmaps and their usable units lie in the file.
//!
//! Invariant: a layout is checked once, when made; afterwards its arithmetic cannot overflow for page numbers below
//! 2^48.
//! Layer 2 (pages). Bytes: design.md, "Regions".

use crate::base::codec::DecodeError;
use crate::base::ids::{PageId, Run};

/// One of the two bitmap copies of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Copy {
    A,
    B,
}

impl Copy {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// The three sizes of a file that are fixed when it is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    unit_bytes: u32,
    node_units: u32,
    region_units: u32,
}

impl Layout {
    /// Length of one of the three fixed blocks, whatever the unit.
    pub(crate) const BLOCK_BYTES: u32 = 4096;
    /// Header, slot 0 and slot 1.
    pub(crate) const FIXED_BYTES: u32 = 3 * Self::BLOCK_BYTES;
    pub(crate) const ORDINARY_UNIT_BYTES: u32 = 4096;
    pub(crate) const ORDINARY_REGION_UNITS: u32 = 65536;
    const REGION_UNITS_MIN: u32 = 32;
    const REGION_UNITS_MAX: u32 = 4 * 65536;

    pub(crate) fn new(unit_bytes: u32, node_units: u32, region_units: u32) -> Result<Self, DecodeError> {
        let unit_range = 512..=65536;
        let divides = unit_bytes.is_power_of_two() && Self::FIXED_BYTES.is_multiple_of(unit_bytes);
        if !unit_range.contains(&unit_bytes) || !divides {
            return Err(DecodeError::new(format!("unit of {unit_bytes} bytes; expected a power of two, 512 to 4096")));
        }
        let node_bytes = u64::from(unit_bytes) * u64::from(node_units);
        if !node_units.is_power_of_two() || !(512..=65536).contains(&node_bytes) {
            return Err(DecodeError::new(format!(
                "node of {node_units} units of {unit_bytes} bytes; expected a power of two, 512 to 65536 bytes"
            )));
        }
        let region_range = Self::REGION_UNITS_MIN..=Self::REGION_UNITS_MAX;
        if !region_units.is_power_of_two() || !region_range.contains(&region_units) {
            return Err(DecodeError::new(format!(
                "region of {region_units} units; expected a power of two, 32 to 262144"
            )));
        }
        let layout = Self { unit_bytes, node_units, region_units };
        if layout.reserved_units() > region_units / 4 || node_units > layout.largest_run_units() {
            return Err(DecodeError::new(format!(
                "region of {region_units} units is too small for its bitmaps and a node of {node_units} units"
            )));
        }
        Ok(layout)
    }

    /// Whether an application can have created such a file; the other sizes exist for tests.
    pub(crate) fn is_ordinary(&self) -> bool {
        self.unit_bytes == Self::ORDINARY_UNIT_BYTES
            && self.region_units == Self::ORDINARY_REGION_UNITS
            && (4096..=65536).contains(&self.node_bytes())
    }

    pub(crate) fn unit_bytes(&self) -> u32 {
        self.unit_bytes
    }

    pub(crate) fn node_units(&self) -> u32 {
        self.node_units
    }

    pub(crate) fn region_units(&self) -> u32 {
        self.region_units
    }

    pub(crate) fn node_bytes(&self) -> u32 {
        self.unit_bytes * self.node_units
    }

    /// Units of the fixed blocks, which no region owns.
    pub(crate) fn header_units(&self) -> u32 {
        Self::FIXED_BYTES / self.unit_bytes
    }

    /// The region that owns `page`; `None` for the fixed blocks and for numbers no file can reach.
    pub(crate) fn region_of(&self, page: PageId) -> Option<u32> {
        let above = page.get().checked_sub(u64::from(self.header_units()))?;
        u32::try_from(above / u64::from(self.region_units)).ok()
    }

    /// First unit of a region, that is of its bitmap copy A.
    pub(crate) fn region_start(&self, region: u32) -> u64 {
        u64::from(self.header_units()) + u64::from(region) * u64::from(self.region_units)
    }

    /// How many regions a file of `end_units` units has, a cut-off last one included. `None` where no file can have
    /// that length.
    pub(crate) fn regions_for(&self, end_units: u64) -> Option<u32> {
        if end_units > PageId::LIMIT {
            return None;
        }
        let above = end_units.checked_sub(u64::from(self.header_units()))?;
        u32::try_from(above.div_ceil(u64::from(self.region_units))).ok()
    }

    /// Where a bitmap copy lies.
    pub(crate) fn bitmap_run(&self, region: u32, copy: Copy) -> Run {
        let units = self.reserved_units() / 2;
        let skipped = match copy {
            Copy::A => 0,
            Copy::B => u64::from(units),
        };
        Run::new(PageId::from_allocator(self.region_start(region) + skipped), units)
    }

    /// Length of a bitmap without the padding to whole units.
    pub(crate) fn bitmap_bytes(&self) -> u32 {
        self.region_units / 8
    }

    /// Units at the start of every region that hold its two bitmap copies.
    pub(crate) fn reserved_units(&self) -> u32 {
        2 * self.bitmap_bytes().div_ceil(self.unit_bytes)
    }

    /// Byte offset of a unit.
    pub(crate) fn offset(&self, page: PageId) -> u64 {
        page.get() * u64::from(self.unit_bytes)
    }

    pub(crate) fn units_for_bytes(&self, len_bytes: u64) -> u64 {
        len_bytes.div_ceil(u64::from(self.unit_bytes))
    }

    /// The longest run that the allocator can hand out.
    pub(crate) fn largest_run_units(&self) -> u32 {
        self.region_units / 2
    }

    /// Order of the longest run.
    pub(crate) fn order_max(&self) -> u8 {
        u8::try_from(self.largest_run_units().ilog2()).expect("an order is below 32")
    }

    /// Whether a run that was read from disk can exist: not empty, below the end, within the usable units of one
    /// region.
    pub(crate) fn contains(&self, run: Run, end_units: u64) -> bool {
        let Some(region) = self.region_of(run.page) else { return false };
        let start = self.region_start(region);
        let usable = start + u64::from(self.reserved_units())..start + u64::from(self.region_units);
        run.units != 0
            && run.units <= self.largest_run_units()
            && usable.contains(&run.page.get())
            && run.end() <= usable.end
            && run.end() <= end_units
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(page: u64, units: u32) -> Run {
        Run::new(PageId::from_allocator(page), units)
    }

    #[test]
    fn ordinary_layout_has_two_units_per_bitmap_copy() {
        let layout = Layout::new(4096, 2, 65536).unwrap();
        assert!(layout.is_ordinary());
        assert_eq!((layout.header_units(), layout.reserved_units(), layout.bitmap_bytes()), (3, 4, 8192));
        assert_eq!((layout.node_bytes(), layout.largest_run_units(), layout.order_max()), (8192, 32768, 15));
        assert_eq!(layout.bitmap_run(1, Copy::B), run(3 + 65536 + 2, 2));
        assert_eq!(layout.offset(PageId::from_allocator(3)), 12288);
        assert_eq!((layout.units_for_bytes(0), layout.units_for_bytes(4097)), (0, 2));
    }

    #[test]
    fn layouts_outside_the_limits_are_refused() {
        for (unit, node, region) in [
            (0, 1, 64),
            (256, 2, 64),
            (768, 1, 64),
            (8192, 1, 64),
            (512, 0, 64),
            (512, 3, 64),
            (512, 256, 1024),
            (4096, 32, 65536),
            (4096, u32::MAX, 65536),
            (512, 1 << 31, 64),
            (512, 1, 16),
            (512, 1, 96),
            (512, 1, 1 << 19),
            (512, 32, 32),
        ] {
            assert!(Layout::new(unit, node, region).is_err(), "{unit} {node} {region}");
        }
        assert!(!Layout::new(512, 1, 32).unwrap().is_ordinary());
        assert!(!Layout::new(4096, 1, 32768).unwrap().is_ordinary());
    }

    #[test]
    fn regions_are_counted_from_the_fixed_blocks() {
        let layout = Layout::new(512, 1, 32).unwrap();
        assert_eq!(layout.header_units(), 24);
        assert_eq!(layout.region_of(PageId::from_allocator(23)), None);
        assert_eq!(layout.region_of(PageId::from_allocator(24)), Some(0));
        assert_eq!(layout.region_of(PageId::from_allocator(56)), Some(1));
        assert_eq!(layout.region_of(PageId::from_allocator(PageId::LIMIT - 1)), None);
        for (end, count) in [(23, None), (24, Some(0)), (25, Some(1)), (56, Some(1)), (57, Some(2)), (u64::MAX, None)] {
            assert_eq!(layout.regions_for(end), count, "{end}");
        }
    }

    #[test]
    fn implausible_runs_are_not_contained() {
        let layout = Layout::new(512, 1, 32).unwrap();
        let end = 24 + 40;
        assert!(layout.contains(run(26, 16), end));
        assert!(layout.contains(run(55, 1), end));
        assert!(layout.contains(run(58, 6), end));
        for bad in
            [run(0, 1), run(23, 2), run(24, 1), run(25, 4), run(26, 0), run(26, 17), run(55, 2), run(57, 2), run(63, 2)]
        {
            assert!(!layout.contains(bad, end), "{bad:?}");
        }
        assert!(!layout.contains(run(PageId::LIMIT - 1, u32::MAX), end));
    }
}
