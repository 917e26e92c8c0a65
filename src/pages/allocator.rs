//! Hands out runs of units over all regions, takes them back, and freezes what the next slot records.
//!
//! Invariant: no unit is handed out that the image, the durable slot's image as long as its units were not released, or
//! an earlier `allocate` still holds; the bitmap copy that the durable slot names is never among the bytes to write.
//! Layer 2 (pages). Bytes: design.md, "Regions" and "Region table".

use super::account::{Account, Charge};
use super::bitmap::Bitmap;
use super::layout::{Copy, Layout};
use super::region::{Region, region_bytes_max};
use super::region_table::{RegionEntry, RegionTable, bitmap_digest};
use crate::base::codec::DecodeError;
use crate::base::error::{Result, StorageError};
use crate::base::ids::{PageId, Run};
use crate::base::sync::Arc;

/// Least growth of an ordinary file.
const GROWTH_BYTES_MIN: u64 = 64 << 10;
/// Least growth where regions are tiny.
const GROWTH_UNITS_TINY: u64 = 4;
/// Growth beyond what is needed never exceeds this.
const GROWTH_BYTES_SLACK_MAX: u64 = 256 << 20;

/// Reads bitmap copies; whoever owns the storage implements it.
pub(crate) trait BitmapSource {
    /// The first `bytes_len` bytes of a run.
    fn read_bitmap(&self, run: Run, bytes_len: usize) -> Result<Vec<u8>>;
}

/// What a checkpoint writes before its slot.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frozen {
    /// The encoded region table, which names the copies below as active.
    pub(crate) table: Vec<u8>,
    /// Bitmaps, padded to whole units, and where to write them: always the copy that the durable slot does not name.
    pub(crate) bitmaps: Vec<(Run, Vec<u8>)>,
}

#[derive(Debug)]
struct RegionSlot {
    /// `None` until first touched; then the durable entry describes it.
    region: Option<Box<Region>>,
    /// One more than the largest order that may have a free block, zero if none: an upper bound.
    orders_free: u8,
}

#[derive(Debug)]
struct Freeze {
    entries: Vec<RegionEntry>,
    /// Made by the transaction that is still running, whose rollback forgets it.
    in_bracket: bool,
}

/// The space of one file.
#[derive(Debug)]
pub(crate) struct Allocator {
    layout: Layout,
    /// Length of the file in units.
    end: u64,
    /// Length of the file when the bitmaps that are not yet loaded were written.
    end_opened: u64,
    regions: Vec<RegionSlot>,
    /// What the durable slot says; it may name more or fewer regions than the file has by now.
    durable: Vec<RegionEntry>,
    /// For each order the lowest region that may have a free block of it.
    first_free: Vec<usize>,
    in_bracket: bool,
    /// Regions with a snapshot.
    touched: Vec<usize>,
    freeze: Option<Freeze>,
    /// Regions whose bitmaps are in memory.
    loaded_count: usize,
    charge: Option<Charge>,
}

fn orders_free(order_max: Option<u8>) -> u8 {
    order_max.map_or(0, |order| order + 1)
}

impl Allocator {
    /// A file of fixed blocks only.
    pub(crate) fn create(layout: Layout) -> Self {
        let end = u64::from(layout.header_units());
        Self {
            layout,
            end,
            end_opened: end,
            regions: Vec::new(),
            durable: Vec::new(),
            first_free: vec![0; usize::from(layout.order_max()) + 1],
            in_bracket: false,
            touched: Vec::new(),
            freeze: None,
            loaded_count: 0,
            charge: None,
        }
    }

    /// From here on what the regions take is charged.
    pub(crate) fn charge_to(&mut self, account: &Arc<Account>) {
        self.charge = Some(Charge::new(account));
        self.update_charge();
    }

    fn update_charge(&mut self) {
        // The tables of regions, entries and those of a freeze, encoded too, with the room that vectors keep ahead.
        let each = 2 * (size_of::<RegionSlot>() + 4 * size_of::<RegionEntry>());
        let loaded = self.loaded_count * region_bytes_max(self.layout.bitmap_bytes() as usize);
        let bytes = self.regions.len().max(self.durable.len()) * each + loaded;
        if let Some(charge) = &mut self.charge {
            charge.set(bytes);
        }
    }

    /// Takes over the table that a slot names. Bitmaps are read and verified when first needed.
    pub(crate) fn open(layout: Layout, table: &RegionTable, end_units: u64) -> Result<Self> {
        let regions = layout.regions_for(end_units);
        if regions.is_none() || regions != u32::try_from(table.entries.len()).ok() {
            let found = table.entries.len();
            let reason = format!("a file of {end_units} units does not have the {found} regions of its table");
            return Err(StorageError::corrupted(reason));
        }
        let mut allocator = Self::create(layout);
        allocator.end = end_units;
        allocator.end_opened = end_units;
        allocator.durable.clone_from(&table.entries);
        for (index, entry) in table.entries.iter().enumerate() {
            let cut_off = allocator.limit_of(index, end_units) < layout.reserved_units();
            if !entry.is_plausible(&layout) || (cut_off && entry.active.is_some()) {
                return Err(allocator.damage(index, "table entry contradicts the layout of the file"));
            }
            allocator.regions.push(RegionSlot { region: None, orders_free: orders_free(entry.free_order_max) });
        }
        Ok(allocator)
    }

    /// Length of the file in units.
    #[cfg(test)]
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    fn start_of(&self, index: usize) -> u64 {
        self.layout.region_start(u32::try_from(index).expect("regions are counted in 32 bits"))
    }

    /// Units of a region that lie in a file of `end` units.
    fn limit_of(&self, index: usize, end: u64) -> u32 {
        let units = end.saturating_sub(self.start_of(index)).min(u64::from(self.layout.region_units()));
        u32::try_from(units).expect("a region has fewer than 2^32 units")
    }

    fn damage(&self, index: usize, reason: &str) -> StorageError {
        let page = PageId::from_allocator(self.start_of(index).min(PageId::LIMIT - 1));
        StorageError::corrupted_page(page, format!("region {index}: {reason}"))
    }

    fn durable_entry(&self, index: usize) -> RegionEntry {
        self.durable.get(index).copied().unwrap_or_else(|| RegionEntry::blank(&self.layout))
    }

    fn bitmap_run(&self, index: usize, copy: Copy) -> Run {
        self.layout.bitmap_run(u32::try_from(index).expect("regions are counted in 32 bits"), copy)
    }

    /// Region and start within it of a run inside one region.
    fn locate(&self, run: Run) -> Option<(usize, u32)> {
        let region = self.layout.region_of(run.page).filter(|_| self.layout.contains(run, self.end))?;
        let start = u32::try_from(run.page.get() - self.layout.region_start(region)).ok()?;
        Some((region as usize, start))
    }

    /// Reads and verifies the active bitmap copy.
    fn read_region(&self, index: usize, src: &dyn BitmapSource) -> Result<Region> {
        let entry = self.durable_entry(index);
        let limit = self.limit_of(index, self.end);
        let Some(active) = entry.active else { return Ok(Region::blank(&self.layout, limit, false)) };
        let bytes = src.read_bitmap(self.bitmap_run(index, active), self.layout.bitmap_bytes() as usize)?;
        if bytes.len() != self.layout.bitmap_bytes() as usize || bitmap_digest(&bytes) != entry.digest {
            return Err(self.damage(index, "bitmap does not match its digest"));
        }
        let image = Bitmap::from_bytes(&bytes, self.layout.region_units())
            .ok_or_else(|| self.damage(index, "bitmap has the wrong length"))?;
        if !image.all_set(0, self.layout.reserved_units()) {
            return Err(self.damage(index, "bitmap marks its own units free"));
        }
        let limit_written = self.limit_of(index, self.end_opened.min(self.end));
        if image.last_set().is_some_and(|last| last >= limit_written) {
            return Err(self.damage(index, "bitmap marks units above the end of the file allocated"));
        }
        if image.len() - image.count_set() != entry.free_units {
            return Err(self.damage(index, "bitmap does not have the free units that the table counts"));
        }
        Ok(Region::loaded(&self.layout, image, limit))
    }

    fn load(&mut self, index: usize, src: &dyn BitmapSource) -> Result<&mut Region> {
        if self.regions[index].region.is_none() {
            let region = self.read_region(index, src)?;
            self.regions[index].region = Some(Box::new(region));
            self.loaded_count += 1;
            self.update_charge();
        }
        Ok(self.regions[index].region.as_mut().expect("loaded above"))
    }

    /// Verifies every bitmap.
    pub(crate) fn load_all(&mut self, src: &dyn BitmapSource) -> Result<()> {
        (0..self.regions.len()).try_for_each(|index| self.load(index, src).map(|_| ()))
    }

    /// Loads a region and, in a transaction, keeps its snapshot.
    fn touch(&mut self, index: usize, src: &dyn BitmapSource) -> Result<&mut Region> {
        let in_bracket = self.in_bracket;
        if self.load(index, src)?.snapshot_missing() && in_bracket {
            self.touched.push(index);
            self.loaded(index).touch();
        }
        Ok(self.loaded(index))
    }

    fn loaded(&mut self, index: usize) -> &mut Region {
        self.regions[index].region.as_mut().expect("a region whose units are handed out is loaded")
    }

    /// Makes the hints of a loaded region exact.
    fn update_hint(&mut self, index: usize) {
        let orders = orders_free(self.loaded(index).largest_free_order());
        self.set_hint(index, orders);
    }

    fn set_hint(&mut self, index: usize, orders: u8) {
        self.regions[index].orders_free = orders;
        for first in &mut self.first_free[..usize::from(orders).min(usize::from(self.layout.order_max()) + 1)] {
            *first = (*first).min(index);
        }
    }

    // --- the file end ---

    /// The file length at which `units` can be allocated; `None` where no file can be that long.
    pub(crate) fn growth_needed(&self, units: u32) -> Option<u64> {
        assert!((1..=self.layout.largest_run_units()).contains(&units), "no region holds a run of {units} units");
        let block = units.next_power_of_two();
        let region_units = u64::from(self.layout.region_units());
        let above = self.end - u64::from(self.layout.header_units());
        let index = usize::try_from(above / region_units).ok()?;
        let limit = self.limit_of(index, self.end);
        let reserved = self.layout.reserved_units();
        // A hole that the end of the file cuts off is completed rather than skipped.
        let hole = limit / block * block;
        let usable = hole >= reserved
            && match self.regions.get(index).and_then(|slot| slot.region.as_ref()) {
                Some(region) => region.allocated().all_clear(hole, limit - hole),
                None => self.durable_entry(index).active.is_none() || hole == limit,
            };
        let start = if usable { hole } else { limit.max(reserved).next_multiple_of(block) };
        let needed = if start < self.layout.region_units() {
            self.start_of(index) + u64::from(start + block)
        } else {
            self.start_of(index + 1) + u64::from(reserved.next_multiple_of(block) + block)
        };
        self.layout.regions_for(needed).map(|_| needed)
    }

    /// The file length to grow to where the device has room: what is needed, and a sixteenth of the file ahead.
    pub(crate) fn growth_for(&self, units: u32) -> Option<u64> {
        let needed = self.growth_needed(units)?;
        let unit_bytes = u64::from(self.layout.unit_bytes());
        let step_min = match self.layout.region_units() >= Layout::ORDINARY_REGION_UNITS {
            true => GROWTH_BYTES_MIN / unit_bytes,
            false => GROWTH_UNITS_TINY,
        };
        let slack_max = needed + GROWTH_BYTES_SLACK_MAX / unit_bytes;
        let wanted = (self.end + (self.end / 16).max(step_min)).min(slack_max).max(needed);
        Some(if self.layout.regions_for(wanted).is_some() { wanted } else { needed })
    }

    /// The file has become longer. Neither `rollback` nor anything else but `truncate` takes this back.
    pub(crate) fn grow(&mut self, new_end: u64) {
        assert!(new_end >= self.end, "growth never shortens the file");
        let count = self.layout.regions_for(new_end).expect("no file can be that long") as usize;
        let changed = self.regions.len().saturating_sub(1)..count;
        self.end = new_end;
        for index in changed {
            let limit = self.limit_of(index, new_end);
            if index == self.regions.len() {
                // The durable slot may still name a bitmap here, from before a truncation.
                let was_used = self.durable_entry(index).active.is_some();
                let region = was_used.then(|| Box::new(Region::blank(&self.layout, limit, true)));
                self.loaded_count += usize::from(was_used);
                self.regions.push(RegionSlot { region, orders_free: 0 });
            }
            if let Some(region) = &mut self.regions[index].region {
                region.set_limit(limit);
                self.update_hint(index);
            } else {
                let order_max = self.durable_entry(index).free_order_max;
                self.set_hint(index, orders_free(order_max));
            }
        }
        self.update_charge();
    }

    /// One past the last allocated unit, at least the fixed blocks: the lowest length to truncate to as far as memory
    /// knows. Slots and logs may name more.
    pub(crate) fn highest_allocated_end(&mut self, src: &dyn BitmapSource) -> Result<u64> {
        self.highest_end(src, Region::allocated)
    }

    /// The same for the image.
    pub(crate) fn image_end(&mut self, src: &dyn BitmapSource) -> Result<u64> {
        self.highest_end(src, Region::image)
    }

    fn highest_end(&mut self, src: &dyn BitmapSource, bits: fn(&Region) -> &Bitmap) -> Result<u64> {
        let reserved = self.layout.reserved_units();
        for index in (0..self.regions.len()).rev() {
            let start = self.start_of(index);
            if let Some(last) = bits(self.load(index, src)?).last_set().filter(|&last| last >= reserved) {
                return Ok(start + u64::from(last) + 1);
            }
        }
        Ok(u64::from(self.layout.header_units()))
    }

    /// Takes note of a shorter file; nothing may be allocated at or above `new_end`. The durable table may go on naming
    /// regions that are gone: they were blank, and opening fits the table to the file.
    pub(crate) fn truncate(&mut self, new_end: u64) {
        assert!(self.freeze.is_none(), "a frozen table has the longer end");
        assert!(new_end <= self.end, "truncation never lengthens the file");
        let count = self.layout.regions_for(new_end).expect("the fixed blocks are never cut") as usize;
        let reserved = self.layout.reserved_units();
        let first_cut =
            (0..self.regions.len()).rev().take_while(|&i| self.limit_of(i, new_end) < self.limit_of(i, self.end));
        for index in first_cut.collect::<Vec<_>>() {
            let blank = self.durable_entry(index).active.is_none();
            let region = &self.regions[index].region;
            let last = region.as_ref().and_then(|region| region.allocated().last_set());
            assert!(region.is_some() || blank, "a region to be cut must have been looked at");
            let kept = self.limit_of(index, new_end).max(reserved);
            assert!(last.is_none_or(|last| last < kept), "allocated units above the new end");
        }
        self.regions.truncate(count);
        self.loaded_count = self.regions.iter().filter(|slot| slot.region.is_some()).count();
        self.update_charge();
        self.touched.retain(|&index| index < count);
        self.end = new_end;
        if let Some(index) = count.checked_sub(1) {
            let limit = self.limit_of(index, new_end);
            if self.regions[index].region.is_some() {
                self.loaded(index).set_limit(limit);
                self.update_hint(index);
            }
        }
    }

    // --- the transaction bracket ---

    /// Opens the bracket: from here on `rollback` restores the bitmaps exactly.
    pub(crate) fn begin(&mut self) {
        assert!(!self.in_bracket, "one transaction at a time");
        self.in_bracket = true;
    }

    /// The lowest region and address that has room, or `None`: then the file must grow first.
    pub(crate) fn allocate(&mut self, units: u32, src: &dyn BitmapSource) -> Result<Option<Run>> {
        assert!(self.in_bracket, "allocation belongs to a transaction");
        assert!((1..=self.layout.largest_run_units()).contains(&units), "no region holds a run of {units} units");
        let order = units.next_power_of_two().ilog2() as usize;
        let mut index = self.first_free[order];
        while index < self.regions.len() {
            if usize::from(self.regions[index].orders_free) > order {
                let found = self.touch(index, src)?.allocate(units);
                self.update_hint(index);
                if let Some(start) = found {
                    self.first_free[order] = index;
                    let page = PageId::from_allocator(self.start_of(index) + u64::from(start));
                    return Ok(Some(Run::new(page, units)));
                }
            }
            index += 1;
        }
        self.first_free[order] = index;
        Ok(None)
    }

    /// Whether the file as it is has room for so many runs of `units` units.
    pub(crate) fn has_room(&mut self, units: u32, count: u32, src: &dyn BitmapSource) -> Result<bool> {
        let order = u8::try_from(units.next_power_of_two().ilog2()).expect("an order is below 32");
        let mut left = count;
        // What is free is at the end, most of the time.
        for index in (0..self.regions.len()).rev() {
            if left > 0 && self.regions[index].orders_free > order {
                left = left.saturating_sub(self.load(index, src)?.count_free_blocks(order));
            }
        }
        Ok(left == 0)
    }

    /// Takes a run out of the image and keeps it allocated: readers or the durable slot may still need it. Runs come
    /// from pointers on disk, so one that the image does not hold is damage and changes nothing.
    pub(crate) fn retire(&mut self, run: Run, src: &dyn BitmapSource) -> Result<()> {
        assert!(self.in_bracket, "retiring belongs to a transaction");
        let twice = || StorageError::corrupted_page(run.page, format!("run of {} units is freed, but free", run.units));
        let (index, start) = self.locate(run).ok_or_else(twice)?;
        match self.touch(index, src)?.retire(start, run.units) {
            true => Ok(()),
            false => Err(twice()),
        }
    }

    /// Makes a retired run allocatable. Only outside the bracket, so that `rollback` never has to know of it.
    pub(crate) fn release(&mut self, run: Run) {
        assert!(!self.in_bracket, "release belongs between transactions");
        let (index, start) = self.locate(run).expect("a retired run lies in the file");
        self.loaded(index).release(start, run.units);
        self.update_hint(index);
    }

    /// Makes a run allocatable that this transaction itself allocated. A pointer on disk can claim that of any run,
    /// so one that was not is damage and changes nothing.
    pub(crate) fn discard(&mut self, run: Run, src: &dyn BitmapSource) -> Result<()> {
        assert!(self.in_bracket, "discarding belongs to a transaction");
        let foreign = || StorageError::corrupted_page(run.page, "a run claims to be new, but is not");
        let (index, start) = self.locate(run).ok_or_else(foreign)?;
        if !self.touch(index, src)?.discard(start, run.units) {
            return Err(foreign());
        }
        self.update_hint(index);
        Ok(())
    }

    /// Closes the bracket and keeps its effects; a freeze made inside stays pending until `commit`.
    pub(crate) fn publish(&mut self) {
        assert!(self.in_bracket, "no transaction runs");
        self.in_bracket = false;
        for index in std::mem::take(&mut self.touched) {
            self.loaded(index).keep();
        }
        if let Some(freeze) = &mut self.freeze {
            freeze.in_bracket = false;
        }
    }

    /// Units that the running transaction allocated and has not given back.
    pub(crate) fn new_units(&self) -> impl Iterator<Item = PageId> {
        self.touched.iter().flat_map(|&index| {
            let units = self.regions[index].region.iter().flat_map(|region| region.new_units());
            let start = self.start_of(index);
            units.map(move |unit| PageId::from_allocator(start + u64::from(unit)))
        })
    }

    /// Closes the bracket and restores both bitmaps of every touched region; the file stays grown. A freeze made inside
    /// is forgotten.
    pub(crate) fn rollback(&mut self) {
        assert!(self.in_bracket, "no transaction runs");
        self.in_bracket = false;
        for index in std::mem::take(&mut self.touched) {
            self.loaded(index).rollback();
            self.update_hint(index);
        }
        self.freeze = self.freeze.take().filter(|freeze| !freeze.in_bracket);
    }

    // --- freeze and commit ---

    /// Units that the encoded region table takes at the present file length.
    pub(crate) fn table_units(&self) -> u32 {
        let units = self.layout.units_for_bytes(RegionTable::encoded_bytes(self.regions.len()));
        u32::try_from(units).expect("2^32 regions of 24 bytes are fewer than 2^32 units")
    }

    /// The bytes that a slot of the present image needs; the durable state stays as it is until `commit`.
    pub(crate) fn freeze(&mut self) -> Frozen {
        assert!(self.freeze.is_none(), "one checkpoint at a time");
        let mut entries = Vec::with_capacity(self.regions.len());
        let mut bitmaps = Vec::new();
        for index in 0..self.regions.len() {
            let mut entry = self.durable_entry(index);
            if let Some(region) = self.regions[index].region.as_mut() {
                region.frozen();
            }
            let region = self.regions[index].region.as_ref().filter(|region| region.is_dirty());
            if let Some(region) = region {
                let padded = self.bitmap_run(index, Copy::A).units * self.layout.unit_bytes();
                let bytes = region.image().to_bytes(padded as usize);
                let digest = bitmap_digest(&bytes[..self.layout.bitmap_bytes() as usize]);
                if region.is_image_blank() {
                    entry = RegionEntry::blank(&self.layout);
                } else if entry.active.is_none() || entry.digest != digest {
                    let target = entry.active.map_or(Copy::A, Copy::other);
                    let free_units = region.image().len() - region.image().count_set();
                    let free_order_max = region.image_order_max();
                    entry = RegionEntry { digest, free_units, active: Some(target), free_order_max };
                    bitmaps.push((self.bitmap_run(index, target), bytes));
                }
            }
            entries.push(entry);
        }
        let table = RegionTable { entries };
        let bytes = table.encode();
        self.freeze = Some(Freeze { entries: table.entries, in_bracket: self.in_bracket });
        Frozen { table: bytes, bitmaps }
    }

    /// The slot that names the frozen table is durable. Closes the bracket too if the freeze was made inside it.
    pub(crate) fn commit(&mut self) {
        let freeze = self.freeze.take().expect("commit follows freeze");
        for region in self.regions.iter_mut().take(freeze.entries.len()).filter_map(|slot| slot.region.as_mut()) {
            region.committed();
        }
        self.durable = freeze.entries;
        if freeze.in_bracket {
            self.publish();
        }
    }

    // --- questions ---

    #[cfg(test)]
    /// Whether all units of the run are allocated.
    pub(crate) fn is_allocated(&mut self, run: Run, src: &dyn BitmapSource) -> Result<bool> {
        let Some((index, start)) = self.locate(run) else { return Ok(false) };
        Ok(self.load(index, src)?.allocated().all_set(start, run.units))
    }

    #[cfg(test)]
    /// Whether all units of the run are in the image.
    pub(crate) fn is_in_image(&mut self, run: Run, src: &dyn BitmapSource) -> Result<bool> {
        let Some((index, start)) = self.locate(run) else { return Ok(false) };
        Ok(self.load(index, src)?.image().all_set(start, run.units))
    }

    /// Allocated units, without the fixed blocks and the bitmaps.
    pub(crate) fn count_allocated(&self) -> u64 {
        let units = |(index, slot): (usize, &RegionSlot)| {
            let allocated = match &slot.region {
                Some(region) => region.allocated().count_set(),
                None => self.layout.region_units() - self.durable_entry(index).free_units,
            };
            u64::from(allocated - self.layout.reserved_units())
        };
        self.regions.iter().enumerate().map(units).sum()
    }

    /// Longest runs of allocated units, ascending, without the fixed blocks and the bitmaps.
    pub(crate) fn allocated_runs(&mut self, src: &dyn BitmapSource) -> Result<Vec<Run>> {
        self.load_all(src)?;
        let mut runs = Vec::new();
        for (index, region) in self.regions.iter().enumerate().filter_map(|(i, slot)| Some((i, slot.region.as_ref()?)))
        {
            for (start, units) in region.allocated().set_runs() {
                let skipped = self.layout.reserved_units().saturating_sub(start).min(units);
                if units > skipped {
                    let page = self.start_of(index) + u64::from(start + skipped);
                    runs.push(Run::new(PageId::from_allocator(page), units - skipped));
                }
            }
        }
        Ok(runs)
    }

    /// Every allocated unit, for comparison with what a walk of the trees reaches.
    pub(crate) fn allocated_units(&mut self, src: &dyn BitmapSource) -> Result<impl Iterator<Item = u64> + use<>> {
        Ok(self.allocated_runs(src)?.into_iter().flat_map(|run| run.page.get()..run.end()))
    }

    /// Compares hints, buddies and bitmaps of what is loaded.
    pub(crate) fn check(&self) -> Result<(), DecodeError> {
        let fault = |index: usize, reason: &str| Err(DecodeError::new(format!("region {index}: {reason}")));
        for (index, slot) in self.regions.iter().enumerate() {
            let hidden = (0..slot.orders_free).find(|&order| self.first_free[usize::from(order)] > index);
            if let Some(order) = hidden {
                return fault(index, &format!("free blocks of order {order} are below the hint"));
            }
            let Some(region) = &slot.region else { continue };
            if let Err(reason) = region.check() {
                return fault(index, &reason);
            }
            if slot.orders_free < orders_free(region.allocated_order_max()) {
                return fault(index, "the hint hides free blocks");
            }
            if self.in_bracket == region.snapshot_missing() && self.touched.contains(&index) {
                return fault(index, "snapshot and bracket disagree");
            }
        }
        Ok(())
    }
}
