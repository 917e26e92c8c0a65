//! The account of memory: what a database takes beside its cache, and what that leaves for the cache.
//!
//! Invariant: the shares and what is charged never exceed the budget together, as long as no more than two thirds
//! of it are charged.
//! Layer 2 (pages). What is counted and why: docs/adr/0008-the-budget-is-one-account.md.

use crate::base::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Share of the budget that is kept for values, rests of keys and extent lists: so many parts of 32.
const EXTENTS_PARTS: usize = 3;

/// A write transaction spills once its dirty pages exceed one part in this many of what is left.
const DIRTY_SHARE: usize = 4;

/// Changes that are not yet in the trees may take one part in this many of the whole budget.
const DELTA_SHARE: usize = 4;
/// And no more than so much, so that changes can be counted in 32 bits.
const DELTA_BYTES_MAX: u64 = 64 << 30;

/// What a dirty page takes beside its bytes: its entries in the table of dirty pages and in the lists that are made to
/// write it, and what the allocator of the process adds.
const DIRTY_ENTRY_BYTES: usize = 128;

/// One budget, shared out between those who keep pages; whoever keeps anything else charges it.
#[derive(Debug)]
pub(crate) struct Account {
    bytes_max: usize,
    charged: AtomicUsize,
    /// Bytes of dirty pages of the write transaction that runs.
    dirty: AtomicUsize,
}

impl Account {
    pub(crate) fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { bytes_max, charged: AtomicUsize::new(0), dirty: AtomicUsize::new(0) })
    }

    /// Bytes that are charged now.
    pub(crate) fn charged(&self) -> usize {
        self.charged.load(Ordering::Relaxed)
    }

    pub(crate) fn extents_bytes_max(&self) -> usize {
        self.bytes_max / 32 * EXTENTS_PARTS
    }

    /// What translation may take: beyond it nodes are read without being kept.
    pub(crate) fn translation_bytes_max(&self) -> usize {
        self.bytes_max / 2
    }

    /// What frames and dirty pages share: all that is neither kept for extents nor charged, and never nothing, so that a
    /// budget that is far too small makes a database slow and not useless.
    fn left(&self) -> usize {
        let whole = self.bytes_max - self.extents_bytes_max();
        whole - self.charged().min(whole - whole / 4)
    }

    /// What frames may take now. Dirty pages beyond their share take it from them.
    pub(crate) fn frames_bytes_max(&self) -> usize {
        let left = self.left();
        left - (left / DIRTY_SHARE).max(self.dirty.load(Ordering::Relaxed)).min(left)
    }

    /// Bytes of dirty pages, `page_bytes` each, at which a transaction spills.
    pub(crate) fn dirty_bytes_max(&self, page_bytes: usize) -> usize {
        let share = self.left() / DIRTY_SHARE;
        share - share / (page_bytes / DIRTY_ENTRY_BYTES + 1)
    }

    /// Bytes of changes that may be laid over the trees.
    pub(crate) fn delta_bytes_max(&self) -> usize {
        let share = self.bytes_max / DELTA_SHARE;
        usize::try_from(DELTA_BYTES_MAX).map_or(share, |most| share.min(most))
    }

    /// Tells the account how many bytes of dirty pages there are.
    pub(crate) fn set_dirty(&self, bytes: usize) {
        self.dirty.store(bytes, Ordering::Relaxed);
    }

    /// Charges what is never given back before the account itself ends.
    pub(crate) fn charge_for_good(&self, bytes: usize) {
        self.charged.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// What one owner has charged; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    account: Arc<Account>,
    bytes: usize,
}

impl Charge {
    pub(crate) fn new(account: &Arc<Account>) -> Self {
        Self { account: Arc::clone(account), bytes: 0 }
    }

    /// Makes the charge what its owner takes now.
    pub(crate) fn set(&mut self, bytes: usize) {
        // Adding the wrapped difference is adding or subtracting it.
        self.account.charged.fetch_add(bytes.wrapping_sub(self.bytes), Ordering::Relaxed);
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_charge_is_given_back_with_its_owner() {
        let account = Account::new(1 << 20);
        let free = account.frames_bytes_max();
        let (mut one, mut other) = (Charge::new(&account), Charge::new(&account));
        one.set(1000);
        other.set(50_000);
        one.set(400);
        assert_eq!(account.charged(), 50_400);
        assert_eq!(account.frames_bytes_max(), free - 50_400 * 3 / 4);
        drop(other);
        assert_eq!(account.charged(), 400);
        drop(one);
        assert_eq!((account.charged(), account.frames_bytes_max()), (0, free));
    }

    proptest! {
        #[test]
        fn shares_and_charges_stay_within_the_budget(
            bytes_max in prop_oneof![0..10_000_usize, Just(1 << 20), Just(1 << 40), Just(usize::MAX)],
            parts in 0..=1000_usize, dirty in any::<u32>(), page_bytes in 512..70_000_usize,
        ) {
            let account = Account::new(bytes_max);
            let mut charge = Charge::new(&account);
            let charged = bytes_max / 1000 * parts;
            charge.set(charged);
            account.set_dirty(dirty as usize);
            let kept = account.extents_bytes_max() + account.frames_bytes_max();
            prop_assert!(account.dirty_bytes_max(page_bytes) <= account.left() / DIRTY_SHARE);
            if parts <= 600 {
                let dirty = (dirty as usize).max(account.dirty_bytes_max(page_bytes)).min(account.left());
                prop_assert!(kept.checked_add(dirty).and_then(|sum| sum.checked_add(charged)).unwrap() <= bytes_max);
            }
            if dirty == 0 && bytes_max >= 1 << 20 {
                prop_assert!(account.frames_bytes_max() >= bytes_max / 8, "some frames are always left");
                prop_assert!(account.dirty_bytes_max(8192) >= bytes_max / 32);
            }
        }
    }
}
