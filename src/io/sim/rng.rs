//! Pseudo-random numbers for plans and faults.
//!
//! Invariant: the sequence depends on the seed alone, so that a failing seed can be run again on any machine.
//! Layer 1 (io).

/// The SplitMix64 generator: a counter with a fixed step, mixed.
#[derive(Debug, Clone)]
pub(super) struct SplitMix64(u64);

impl SplitMix64 {
    /// A generator of its own for each place in each stream of one seed, whatever order they are asked in.
    pub(super) fn at(seed: u64, stream: u64, place: u64) -> Self {
        let mut mixed = Self(seed);
        let mut mixed = Self(mixed.next() ^ stream);
        Self(mixed.next() ^ place)
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
        // The bias of the remainder is far below what a test could notice.
        self.next() % limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_matches_the_published_generator() {
        let mut rng = SplitMix64(1_234_567);
        assert_eq!(rng.next(), 6_457_827_717_110_365_317);
        assert_eq!(rng.next(), 3_203_168_211_198_807_973);
    }
}
