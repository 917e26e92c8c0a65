//! From page to frame: one atomic word for each place that a node can have.
//!
//! Invariant: a word is empty or names the frame that holds the current content of its page.
//! Layer 2 (pages).

use super::account::Account;
use super::layout::Layout;
use crate::base::ids::PageId;
use crate::base::sync::atomic::AtomicU32;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Group `g` has two to the power of `g` regions, so these are four millions of regions, a pebibyte of ordinary ones.
const GROUPS: usize = 22;
const REGIONS_MAX: usize = (1 << GROUPS) - 1;

type Words = Box<[AtomicU32]>;
type Group = Box<[OnceLock<Words>]>;

/// Page numbers to frames. Memory for a region is taken when its first page is loaded.
#[derive(Debug)]
pub(crate) struct Translation {
    groups: [OnceLock<Group>; GROUPS],
    bytes: AtomicUsize,
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
            groups: [const { OnceLock::new() }; GROUPS],
            bytes: AtomicUsize::new(0),
            header_units: u64::from(layout.header_units()),
            region_shift: layout.region_units().trailing_zeros(),
            node_shift: layout.node_units().trailing_zeros(),
        }
    }

    /// The place of a node's page; `None` for a page that no node can have, or that lies beyond what is translated.
    #[inline]
    pub(crate) fn place(&self, page: PageId) -> Option<Place> {
        let unit = page.get().checked_sub(self.header_units)?;
        let region = usize::try_from(unit >> self.region_shift).ok()?;
        let within = unit & ((1 << self.region_shift) - 1);
        let aligned = within & ((1 << self.node_shift) - 1) == 0;
        (aligned && region < REGIONS_MAX)
            .then(|| Place { region, index: usize::try_from(within >> self.node_shift).unwrap_or(usize::MAX) })
    }

    /// The word of a place, where its region has been used.
    #[inline]
    pub(crate) fn word(&self, place: Place) -> Option<&AtomicU32> {
        let (group, index) = group_of(place.region);
        self.groups[group].get()?[index].get()?.get(place.index)
    }

    /// The word of a place, making room for its region, at the cost of the account; `None` where words take all that
    /// they may.
    pub(crate) fn word_or_make(&self, place: Place, account: &Account) -> Option<&AtomicU32> {
        if let Some(word) = self.word(place) {
            return Some(word);
        }
        let (group, index) = group_of(place.region);
        let (regions, words) = (1_usize << group, 1_usize << (self.region_shift - self.node_shift));
        let wanted = words * size_of::<AtomicU32>();
        let table = if self.groups[group].get().is_some() { 0 } else { regions * size_of::<OnceLock<Words>>() };
        // Others may make the rooms of other regions meanwhile: the limit is kept but for one region for each thread.
        if self.bytes.load(Ordering::Relaxed) + wanted + table > account.translation_bytes_max() {
            return None;
        }
        let charge = |bytes| {
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
            account.charge_for_good(bytes);
        };
        let made = self.groups[group].get_or_init(|| {
            charge(table);
            (0..regions).map(|_| OnceLock::new()).collect()
        });
        let made = made[index].get_or_init(|| {
            charge(wanted);
            (0..words).map(|_| AtomicU32::new(0)).collect()
        });
        Some(&made[place.index])
    }
}

/// The group of a region, and its place there.
fn group_of(region: usize) -> (usize, usize) {
    let group = (region + 1).ilog2();
    (group as usize, region + 1 - (1 << group))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_of_a_node_has_a_word_of_its_own_and_no_other_page_has_one() {
        let layout = Layout::new(512, 2, 64).unwrap();
        let translation = Translation::new(&layout);
        let account = Account::new(usize::MAX);
        let page = |number| PageId::new(number).unwrap();
        for number in 0..24 + 3 * 64 {
            let place = translation.place(page(number));
            assert_eq!(place.is_some(), number >= 24 && number % 2 == 0, "{number}");
            let Some(place) = place else { continue };
            let word = translation.word_or_make(place, &account).unwrap();
            assert_eq!(word.swap(u32::try_from(number).unwrap(), Ordering::Relaxed), 0);
        }
        assert!(translation.place(page(PageId::LIMIT - 2)).is_none_or(|place| translation.word(place).is_none()));
    }

    #[test]
    fn regions_get_words_until_these_take_half_of_the_budget_and_are_charged() {
        let layout = Layout::new(4096, 2, 65536).unwrap();
        let (translation, account) = (Translation::new(&layout), Account::new(2 << 20));
        let first = |region| translation.place(PageId::new(layout.region_start(region) + 16).unwrap()).unwrap();
        let made: Vec<_> =
            (0..100).filter(|region| translation.word_or_make(first(*region), &account).is_some()).collect();
        assert_eq!(made, (0..7).collect::<Vec<_>>(), "128 KiB each, and the tables of the groups");
        assert_eq!(account.charged(), 7 * (128 << 10) + 7 * size_of::<OnceLock<Words>>());
        assert!(translation.word(first(8)).is_none());
        assert!(translation.word_or_make(first(6), &account).is_some(), "what is there stays");
        assert_eq!(account.charged(), 7 * (128 << 10) + 7 * size_of::<OnceLock<Words>>());
    }

    #[test]
    fn groups_number_all_regions_without_a_gap() {
        let mut expected = (0, 0);
        for region in 0..5000 {
            assert_eq!(group_of(region), expected);
            expected =
                if expected.1 + 1 == 1 << expected.0 { (expected.0 + 1, 0) } else { (expected.0, expected.1 + 1) };
        }
        assert_eq!(group_of(REGIONS_MAX - 1), (GROUPS - 1, (1 << (GROUPS - 1)) - 1));
    }
}
