//! The source of chance of every harness.
//!
//! Invariant: a sequence depends on its seed and its place alone, so a failing place can be run again by itself.

/// SplitMix64: a counter with a fixed step, mixed.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// The sequence of one place, an episode for instance, of one seed.
    pub(crate) fn at(seed: u64, place: u64) -> Self {
        let mut seeded = Self(seed);
        Self(seeded.next() ^ place.wrapping_mul(0xD6E8_FEB8_6659_FD93))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, which is not zero.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).expect("a remainder is below its divisor")
    }

    /// The same for a limit that no index has.
    pub(crate) fn below_wide(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// The same for a small limit.
    pub(crate) fn below_small(&mut self, limit: u32) -> u32 {
        u32::try_from(self.below_wide(u64::from(limit))).expect("the limit fits")
    }

    /// `count` of the elements, in random order.
    pub(crate) fn sample<T>(&mut self, mut elements: Vec<T>, count: usize) -> Vec<T> {
        let count = count.min(elements.len());
        for place in 0..count {
            let other = place + self.below(elements.len() - place);
            elements.swap(place, other);
        }
        elements.truncate(count);
        elements
    }

    /// A number from `least` to `most`, both included.
    pub(crate) fn between(&mut self, least: usize, most: usize) -> usize {
        least + self.below(most - least + 1)
    }

    /// True so many times out of a thousand.
    pub(crate) fn chance(&mut self, per_mille: usize) -> bool {
        self.below(1000) < per_mille
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// An index, each as likely as its weight is high.
    pub(crate) fn weighted(&mut self, weights: &[usize]) -> usize {
        let mut drawn = self.below(weights.iter().sum());
        for (index, weight) in weights.iter().enumerate() {
            match drawn.checked_sub(*weight) {
                Some(rest) => drawn = rest,
                None => return index,
            }
        }
        unreachable!("the draw is below the sum of all weights")
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}
