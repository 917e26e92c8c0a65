//! Pseudo-random numbers of the crash harness: the same sequence for the same seed on every machine.

/// The SplitMix64 generator.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    /// A generator of its own for each place in each seed.
    pub(super) fn at(seed: u64, place: u64) -> Self {
        let mut mixed = Self(seed);
        Self(mixed.next() ^ place.wrapping_mul(0xD6E8_FEB8_6659_FD93))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, which is not zero.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// The same for a small limit.
    pub(super) fn small(&mut self, limit: u32) -> u32 {
        u32::try_from(self.below(u64::from(limit))).expect("the limit fits")
    }

    /// The same for an index.
    pub(super) fn index(&mut self, limit: usize) -> usize {
        usize::try_from(self.below(limit as u64)).expect("the limit fits")
    }

    /// `count` of the elements, in random order.
    pub(super) fn sample<T>(&mut self, mut elements: Vec<T>, count: usize) -> Vec<T> {
        let count = count.min(elements.len());
        for place in 0..count {
            let other = place + self.index(elements.len() - place);
            elements.swap(place, other);
        }
        elements.truncate(count);
        elements
    }
}
