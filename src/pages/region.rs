//! One region: what may not be handed out, what the next slot records, and how to undo a transaction.
//!
//! Invariant: the image is a subset of the allocated units, both hold the reserved units, and neither holds a unit at
//! or above the end of the file.
//! Layer 2 (pages).

use super::bitmap::Bitmap;
use super::buddy::Buddy;
use super::layout::Layout;

/// Bitmaps as they were at the first touch by the running transaction.
#[derive(Debug)]
struct Snapshot {
    allocated: Bitmap,
    image: Bitmap,
    dirty: bool,
    changed_since_freeze: bool,
}

/// What a loaded region takes at most, with `bitmap_bytes` for each bitmap: two of its own, two of a snapshot, two and
/// a bit in the buddy, and one that is being written.
pub(crate) fn region_bytes_max(bitmap_bytes: usize) -> usize {
    8 * bitmap_bytes + size_of::<Region>() + size_of::<Snapshot>()
}

/// The state of one region in memory. All starts are relative to the region.
#[derive(Debug)]
pub(crate) struct Region {
    allocated: Bitmap,
    image: Bitmap,
    buddy: Option<Buddy>,
    /// Units of the region that lie in the file.
    limit: u32,
    reserved: u32,
    /// The image may differ from the durable copy.
    dirty: bool,
    /// The image may differ from the frozen one.
    changed_since_freeze: bool,
    snapshot: Option<Box<Snapshot>>,
}

impl Region {
    /// A region in which nothing is allocated. `dirty` where the durable copy says otherwise.
    pub(crate) fn blank(layout: &Layout, limit: u32, dirty: bool) -> Self {
        let mut image = Bitmap::new(layout.region_units());
        image.set_range(0, layout.reserved_units());
        Self { dirty, changed_since_freeze: dirty, ..Self::loaded(layout, image, limit) }
    }

    /// A region as its verified durable copy describes it.
    pub(crate) fn loaded(layout: &Layout, image: Bitmap, limit: u32) -> Self {
        Self {
            allocated: image.clone(),
            image,
            buddy: None,
            limit,
            reserved: layout.reserved_units(),
            dirty: false,
            changed_since_freeze: false,
            snapshot: None,
        }
    }

    /// The limit of the buddy: the reserved units never enter it, so a cut-off head has no usable unit.
    fn buddy_limit(&self) -> u32 {
        self.limit.max(self.reserved)
    }

    fn buddy(&mut self) -> &mut Buddy {
        let limit = self.buddy_limit();
        self.buddy.get_or_insert_with(|| Buddy::build(&self.allocated, limit))
    }

    pub(crate) fn largest_free_order(&mut self) -> Option<u8> {
        self.buddy().largest_order()
    }

    /// How many blocks of an order can be handed out.
    pub(crate) fn count_free_blocks(&mut self, order: u8) -> u32 {
        self.buddy().count_blocks(order)
    }

    /// Order of the largest free block of the image, in a file that reaches the end of the region.
    pub(crate) fn image_order_max(&self) -> Option<u8> {
        Buddy::build(&self.image, self.image.len()).largest_order()
    }

    /// The same for the allocated units, in the file as it is.
    pub(crate) fn allocated_order_max(&self) -> Option<u8> {
        Buddy::build(&self.allocated, self.buddy_limit()).largest_order()
    }

    pub(crate) fn snapshot_missing(&self) -> bool {
        self.snapshot.is_none()
    }

    /// Keeps what `rollback` needs.
    pub(crate) fn touch(&mut self) {
        assert!(self.snapshot.is_none(), "the first touch is the one to keep");
        self.snapshot = Some(Box::new(Snapshot {
            allocated: self.allocated.clone(),
            image: self.image.clone(),
            dirty: self.dirty,
            changed_since_freeze: self.changed_since_freeze,
        }));
    }

    /// Units that the running transaction allocated and has not given back.
    pub(crate) fn new_units(&self) -> impl Iterator<Item = u32> {
        self.snapshot.iter().flat_map(|old| self.allocated.set_beside(&old.allocated))
    }

    fn image_changed(&mut self) {
        self.dirty = true;
        self.changed_since_freeze = true;
    }

    pub(crate) fn allocate(&mut self, units: u32) -> Option<u32> {
        let start = self.buddy().allocate(units)?;
        assert!(self.allocated.all_clear(start, units), "the buddy handed out an allocated unit");
        self.allocated.set_range(start, units);
        self.image.set_range(start, units);
        self.image_changed();
        Some(start)
    }

    /// `false` where the image does not hold all of the units: then nothing changes.
    pub(crate) fn retire(&mut self, start: u32, units: u32) -> bool {
        if !self.image.all_set(start, units) {
            return false;
        }
        self.image.clear_range(start, units);
        self.image_changed();
        true
    }

    pub(crate) fn release(&mut self, start: u32, units: u32) {
        assert!(self.image.all_clear(start, units), "released units are still in the image");
        assert!(self.allocated.all_set(start, units), "released units are not allocated");
        self.allocated.clear_range(start, units);
        if let Some(buddy) = &mut self.buddy {
            buddy.free(start, units);
        }
    }

    /// Frees units that this transaction allocated; `false` changes nothing because it did not.
    pub(crate) fn discard(&mut self, start: u32, units: u32) -> bool {
        let born_here = self.snapshot.as_ref().is_some_and(|old| old.allocated.all_clear(start, units));
        let discarded = born_here && self.retire(start, units);
        if discarded {
            self.release(start, units);
        }
        discarded
    }

    /// Forgets the snapshot.
    pub(crate) fn keep(&mut self) {
        self.snapshot = None;
    }

    pub(crate) fn rollback(&mut self) {
        if let Some(old) = self.snapshot.take() {
            self.allocated = old.allocated;
            self.image = old.image;
            self.dirty = old.dirty;
            self.changed_since_freeze = old.changed_since_freeze;
            self.buddy = None;
        }
    }

    pub(crate) fn frozen(&mut self) {
        self.changed_since_freeze = false;
    }

    /// The frozen image has become the durable one.
    pub(crate) fn committed(&mut self) {
        self.dirty = self.changed_since_freeze;
        if let Some(old) = &mut self.snapshot {
            old.dirty = old.changed_since_freeze;
        }
    }

    /// Follows the end of the file, which must leave every allocated unit below it.
    pub(crate) fn set_limit(&mut self, limit: u32) {
        let kept = limit.max(self.reserved);
        assert!(self.allocated.last_set().is_none_or(|last| last < kept), "allocated units above the end of the file");
        self.limit = limit;
        if let Some(buddy) = &mut self.buddy {
            if kept > buddy.limit() {
                buddy.extend(kept);
            } else {
                buddy.shrink(kept);
            }
        }
    }

    pub(crate) fn is_dirty(&self) -> bool {
        self.dirty
    }

    pub(crate) fn allocated(&self) -> &Bitmap {
        &self.allocated
    }

    pub(crate) fn image(&self) -> &Bitmap {
        &self.image
    }

    /// Whether the image holds nothing but the reserved units.
    pub(crate) fn is_image_blank(&self) -> bool {
        self.image.last_set().is_none_or(|last| last < self.reserved)
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        if !self.image.is_subset_of(&self.allocated) {
            return Err("a unit of the image is not allocated".into());
        }
        if !self.image.all_set(0, self.reserved) {
            return Err("a reserved unit is free".into());
        }
        if self.allocated.last_set().is_some_and(|last| last >= self.buddy_limit()) {
            return Err("a unit above the end of the file is allocated".into());
        }
        match &self.buddy {
            Some(buddy) if buddy.limit() != self.buddy_limit() => Err("the buddy has another limit".into()),
            Some(buddy) => buddy.check(&self.allocated),
            None => Ok(()),
        }
    }
}
