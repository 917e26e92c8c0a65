//! From page to frame: one atomic word for each place that a node can have.
//!
//! Invariant: a word is empty or names the frame that holds the current content of its page.
//! Layer 2 (pages).

use super::layout::Layout;
use crate::base::ids::PageId;
use crate::base::sync::atomic::AtomicU32;
use std::sync::OnceLock;

const REGIONS_PER_GROUP: usize = 1024;
const GROUPS: usize = 4096;

type Words = Box<[AtomicU32]>;
type Group = Box<[OnceLock<Words>]>;

/// Page numbers to frames. Memory for a region is taken when its first page is loaded.
#[derive(Debug)]
pub(crate) struct Translation {
    groups: Box<[OnceLock<Group>]>,
    header_units: u64,
    region_shift: u32,
    node_shift: u32,
}

/// Where the word of a page is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    region: usize,
    index: usize,
}

impl Translation {
    pub(crate) fn new(layout: &Layout) -> Self {
        Self {
            groups: (0..GROUPS).map(|_| OnceLock::new()).collect(),
            header_units: u64::from(layout.header_units()),
            region_shift: layout.region_units().trailing_zeros(),
            node_shift: layout.node_units().trailing_zeros(),
        }
    }

    /// The place of a node's page; `None` for a page that no node can have, or that lies beyond what is translated.
    pub(crate) fn place(&self, page: PageId) -> Option<Place> {
        let unit = page.get().checked_sub(self.header_units)?;
        let region = usize::try_from(unit >> self.region_shift).ok()?;
        let within = unit & ((1 << self.region_shift) - 1);
        let aligned = within & ((1 << self.node_shift) - 1) == 0;
        (aligned && region < GROUPS * REGIONS_PER_GROUP)
            .then(|| Place { region, index: usize::try_from(within >> self.node_shift).unwrap_or(usize::MAX) })
    }

    /// The word of a place, where its region has been used.
    pub(crate) fn word(&self, place: Place) -> Option<&AtomicU32> {
        let group = self.groups[place.region / REGIONS_PER_GROUP].get()?;
        group[place.region % REGIONS_PER_GROUP].get()?.get(place.index)
    }

    /// The word of a place, making room for its region.
    pub(crate) fn word_or_make(&self, place: Place) -> &AtomicU32 {
        let group = self.groups[place.region / REGIONS_PER_GROUP]
            .get_or_init(|| (0..REGIONS_PER_GROUP).map(|_| OnceLock::new()).collect());
        let words = group[place.region % REGIONS_PER_GROUP].get_or_init(|| {
            let count = 1_usize << (self.region_shift - self.node_shift);
            (0..count).map(|_| AtomicU32::new(0)).collect()
        });
        &words[place.index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::sync::atomic::Ordering;

    #[test]
    fn every_place_of_a_node_has_a_word_of_its_own_and_no_other_page_has_one() {
        let layout = Layout::new(512, 2, 64).unwrap();
        let translation = Translation::new(&layout);
        let page = |number| PageId::new(number).unwrap();
        for number in 0..24 + 3 * 64 {
            let place = translation.place(page(number));
            assert_eq!(place.is_some(), number >= 24 && number % 2 == 0, "{number}");
            let Some(place) = place else { continue };
            let word = translation.word_or_make(place);
            assert_eq!(word.swap(u32::try_from(number).unwrap(), Ordering::Relaxed), 0);
        }
        assert!(translation.place(page(PageId::LIMIT - 2)).is_none_or(|place| translation.word(place).is_none()));
    }
}
