//! Free blocks of one region, by order, rebuilt from its bitmap when first needed.
//!
//! Invariant: a free unit below the limit is in exactly one block, at the largest order that holds it.
//! Layer 2 (pages).

use super::bitmap::Bitmap;

/// A set of block numbers with a summary: one bit for each word that is not zero.
#[derive(Debug, Clone)]
struct BlockSet {
    words: Vec<u64>,
    summary: Vec<u64>,
    count: u32,
}

impl BlockSet {
    fn new(blocks: u32) -> Self {
        let words = blocks.div_ceil(64);
        Self { words: vec![0; words as usize], summary: vec![0; words.div_ceil(64) as usize], count: 0 }
    }

    fn contains(&self, block: u32) -> bool {
        self.words.get((block / 64) as usize).is_some_and(|word| word >> (block % 64) & 1 == 1)
    }

    fn insert(&mut self, block: u32) {
        let word = &mut self.words[(block / 64) as usize];
        assert!(*word >> (block % 64) & 1 == 0, "block {block} is already free");
        *word |= 1 << (block % 64);
        self.summary[(block / 4096) as usize] |= 1 << (block / 64 % 64);
        self.count += 1;
    }

    fn remove(&mut self, block: u32) {
        let word = &mut self.words[(block / 64) as usize];
        assert!(*word >> (block % 64) & 1 == 1, "block {block} is not free");
        *word &= !(1 << (block % 64));
        if *word == 0 {
            self.summary[(block / 4096) as usize] &= !(1 << (block / 64 % 64));
        }
        self.count -= 1;
    }

    fn first(&self) -> Option<u32> {
        if self.count == 0 {
            return None;
        }
        (0_u32..).zip(&self.summary).find(|(_, bits)| **bits != 0).map(|(index, bits)| {
            let word = index * 64 + bits.trailing_zeros();
            word * 64 + self.words[word as usize].trailing_zeros()
        })
    }

    fn iter(&self) -> impl Iterator<Item = u32> {
        (0_u32..)
            .zip(&self.words)
            .flat_map(|(index, &word)| (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| index * 64 + bit))
    }
}

/// Cuts a range into the largest blocks aligned to their size, as (order, start).
fn blocks(mut start: u32, units: u32) -> impl Iterator<Item = (u32, u32)> {
    let end = start + units;
    std::iter::from_fn(move || {
        (start < end).then(|| {
            let order = start.trailing_zeros().min((end - start).ilog2());
            let block = (order, start);
            start += 1 << order;
            block
        })
    })
}

/// Free blocks of one region. Starts are relative to the region, and blocks are aligned to their size.
#[derive(Debug, Clone)]
pub(crate) struct Buddy {
    orders: Vec<BlockSet>,
    limit: u32,
}

impl Buddy {
    /// Collects the clear bits below `limit`. The length of the bitmap is a power of two.
    pub(crate) fn build(allocated: &Bitmap, limit: u32) -> Self {
        let units = allocated.len();
        assert!(units.is_power_of_two() && limit <= units);
        let orders = (0..=units.ilog2()).map(|order| BlockSet::new(units >> order)).collect();
        let mut buddy = Self { orders, limit };
        for (start, units) in allocated.clear_runs().take_while(|&(start, _)| start < limit) {
            // Between two allocated units the aligned cut is already the largest: nothing is left to merge.
            buddy.insert(start, units.min(limit - start));
        }
        buddy
    }

    fn insert(&mut self, start: u32, units: u32) {
        for (order, start) in blocks(start, units) {
            self.orders[order as usize].insert(start >> order);
        }
    }

    /// How many blocks of an order could be cut from what is free.
    pub(crate) fn count_blocks(&self, order: u8) -> u32 {
        let sets = self.orders.iter().enumerate().skip(usize::from(order));
        sets.map(|(larger, set)| set.count << (larger - usize::from(order))).sum()
    }

    /// Order of the largest free block.
    pub(crate) fn largest_order(&self) -> Option<u8> {
        self.orders.iter().rposition(|set| set.count != 0).map(|order| u8::try_from(order).expect("orders are few"))
    }

    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }

    /// Takes the first `units` units of the lowest block that holds their power of two; the rest stays free.
    pub(crate) fn allocate(&mut self, units: u32) -> Option<u32> {
        assert!(units != 0, "a run has at least one unit");
        let order_min = units.checked_next_power_of_two()?.ilog2();
        let orders = (0_u32..).zip(&self.orders).skip(order_min as usize);
        let (start, order) = orders.filter_map(|(order, set)| Some((set.first()? << order, order))).min()?;
        self.orders[order as usize].remove(start >> order);
        self.insert(start + units, (1 << order) - units);
        Some(start)
    }

    /// Gives units back and merges them with their free neighbours.
    pub(crate) fn free(&mut self, start: u32, units: u32) {
        assert!(start.checked_add(units).is_some_and(|end| end <= self.limit), "freed range exceeds the limit");
        for (order, start) in blocks(start, units) {
            let (mut order, mut block) = (order as usize, start >> order);
            while order + 1 < self.orders.len() && self.orders[order].contains(block ^ 1) {
                self.orders[order].remove(block ^ 1);
                order += 1;
                block >>= 1;
            }
            self.orders[order].insert(block);
        }
    }

    /// Raises the limit; the units gained are free.
    pub(crate) fn extend(&mut self, limit: u32) {
        let gained = limit.checked_sub(self.limit).expect("extend never lowers the limit");
        let start = std::mem::replace(&mut self.limit, limit);
        self.free(start, gained);
    }

    /// Lowers the limit; the units lost must be free.
    pub(crate) fn shrink(&mut self, limit: u32) {
        let mut lost = self.limit.checked_sub(limit).expect("shrink never raises the limit");
        for order in 0..self.orders.len() {
            let above: Vec<u32> = self.orders[order].iter().filter(|block| (block + 1) << order > limit).collect();
            for block in above {
                let (start, end) = (block << order, (block + 1) << order);
                self.orders[order].remove(block);
                lost -= end - start.max(limit);
                // Smaller blocks only: orders already passed get them, and they end at the limit.
                self.insert(start, limit.saturating_sub(start));
            }
        }
        assert_eq!(lost, 0, "units above the new limit are allocated");
        self.limit = limit;
    }

    /// Compares with what the bitmap says.
    pub(crate) fn check(&self, allocated: &Bitmap) -> Result<(), String> {
        let mut seen = allocated.clone();
        seen.set_range(self.limit, allocated.len() - self.limit);
        for (order, set) in (0_u32..).zip(&self.orders) {
            if set.count as usize != set.iter().count() || set.first() != set.iter().next() {
                return Err(format!("count or summary of order {order} is wrong"));
            }
            for block in set.iter() {
                if !seen.all_clear(block << order, 1 << order) {
                    return Err(format!("block {block} of order {order} is allocated, doubled or above the limit"));
                }
                seen.set_range(block << order, 1 << order);
                if set.contains(block ^ 1) {
                    return Err(format!("block {block} of order {order} is not merged"));
                }
            }
        }
        match seen.find_first(0, false) {
            Some(unit) => Err(format!("free unit {unit} is in no block")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The lowest aligned free block of the needed power of two is inside the lowest free buddy block that holds it,
    /// and at its start: so the plain search for an aligned hole is the whole rule.
    fn model_allocate(model: &[bool], limit: usize, units: usize) -> Option<usize> {
        let block = units.next_power_of_two();
        (0..limit).step_by(block).find(|&at| at + block <= limit && model[at..at + block].iter().all(|&bit| !bit))
    }

    proptest! {
        #[test]
        fn buddy_allocates_lowest_address_first_like_a_linear_search(
            order in 5_u32..10, ops in prop::collection::vec((0_u8..6, any::<u32>(), any::<u32>()), 1..120)
        ) {
            let len = 1_u32 << order;
            let mut limit = len / 2;
            let mut map = Bitmap::new(len);
            let mut buddy = Buddy::build(&map, limit);
            for (op, a, b) in ops {
                match op {
                    0..3 => {
                        let units = a % (1 << (b % order)) + 1;
                        let model: Vec<bool> = (0..len).map(|i| map.get(i)).collect();
                        let want = model_allocate(&model, limit as usize, units as usize);
                        let got = buddy.allocate(units);
                        prop_assert_eq!(got.map(|i| i as usize), want);
                        got.into_iter().for_each(|start| map.set_range(start, units));
                    }
                    3 => {
                        let runs: Vec<_> = map.set_runs().collect();
                        if let Some(&(start, units)) = runs.get(a as usize % runs.len().max(1)) {
                            let skip = b % units;
                            let units = (b >> 8) % (units - skip) + 1;
                            map.clear_range(start + skip, units);
                            buddy.free(start + skip, units);
                        }
                    }
                    4 => {
                        limit += a % (len - limit + 1);
                        buddy.extend(limit);
                    }
                    _ => {
                        let lowest = map.last_set().map_or(0, |last| last + 1);
                        limit = lowest + a % (limit - lowest + 1);
                        buddy.shrink(limit);
                    }
                }
                prop_assert_eq!(buddy.check(&map), Ok(()));
                prop_assert_eq!(Buddy::build(&map, limit).check(&map), Ok(()));
                prop_assert_eq!(buddy.limit(), limit);
            }
        }
    }

    #[test]
    fn trimmed_tail_stays_free() {
        let map = Bitmap::new(64);
        let mut buddy = Buddy::build(&map, 64);
        assert_eq!(buddy.largest_order(), Some(6));
        assert_eq!((buddy.allocate(5), buddy.allocate(1), buddy.allocate(2)), (Some(0), Some(5), Some(6)));
        assert_eq!((buddy.allocate(33), buddy.allocate(32), buddy.allocate(64)), (None, Some(32), None));
        assert_eq!(buddy.allocate(u32::MAX), None);
    }

    #[test]
    fn check_notices_a_bitmap_that_disagrees() {
        let mut map = Bitmap::new(64);
        let buddy = Buddy::build(&map, 64);
        map.set_range(3, 1);
        assert!(buddy.check(&map).is_err());
        let buddy = Buddy::build(&map, 64);
        map.clear_range(3, 1);
        assert!(buddy.check(&map).is_err());
    }

    #[test]
    #[should_panic(expected = "allocated")]
    fn shrinking_below_an_allocated_unit_is_refused() {
        let mut map = Bitmap::new(64);
        map.set_range(40, 1);
        Buddy::build(&map, 64).shrink(20);
    }
}
