//! Counts of values in buckets that double: small, mergeable, and kept with a few atomic additions.
//!
//! Invariant: a value is counted in the one bucket whose bounds enclose it, and the largest value is kept as it is.
//! Layer 0 (base).

use super::sync::atomic::{AtomicU64, Ordering};

/// The last bucket takes everything from 2^38 on: of microseconds, three days.
const BUCKETS: usize = 40;

/// How often values of which size occurred: latencies in microseconds, or numbers of things.
///
/// Bucket 0 counts zeros, and bucket `n` the values of `n` bits, from `2^(n-1)` to `2^n - 1`.
///
/// ```
/// # fn main() -> Result<(), cowslip::Error> {
/// use cowslip::{Database, TableDefinition};
/// const SEEN: TableDefinition<u64, u64> = TableDefinition::new("seen");
/// let db = Database::in_memory()?;
/// db.update(|tx| Ok::<_, cowslip::Error>(tx.open_table(SEEN)?.put(1, 1)?))?;
/// let syncs = db.stats().sync_micros;
/// assert!(syncs.count() >= 2);
/// assert!(syncs.percentile(50.0) <= syncs.percentile(99.0));
/// assert!(syncs.percentile(100.0) == syncs.max());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; BUCKETS],
    sum: u64,
    max: u64,
}

impl Histogram {
    /// How many values were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All values together.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The largest value; zero where there is none.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The mean; zero where there is none.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.sum as f64 / self.count().max(1) as f64
    }

    /// A value that `percent` of all values do not exceed: the upper bound of the bucket in which the smallest such value
    /// lies, or the maximum where that is less. So it is never too small, and less than twice too large, unless it is 2^38
    /// or more. Zero where there is none.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> u64 {
        let wanted = percent / 100.0 * self.count() as f64;
        let mut seen = 0;
        for (upper, count) in self.buckets().filter(|(_, count)| *count > 0) {
            seen += count;
            if seen as f64 >= wanted {
                return upper.min(self.max);
            }
        }
        self.max
    }

    /// The upper bound of each bucket, which belongs to it, and how many values it counts.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.counts.iter().enumerate().map(|(bits, count)| (upper_bound(bits), *count))
    }
}

fn upper_bound(bits: usize) -> u64 {
    if bits == BUCKETS - 1 { u64::MAX } else { (1 << bits) - 1 }
}

/// A histogram that several threads add to.
#[derive(Debug)]
pub(crate) struct AtomicHistogram {
    counts: [AtomicU64; BUCKETS],
    sum: AtomicU64,
    max: AtomicU64,
}

impl Default for AtomicHistogram {
    fn default() -> Self {
        let counts = std::array::from_fn(|_| AtomicU64::new(0));
        Self { counts, sum: AtomicU64::new(0), max: AtomicU64::new(0) }
    }
}

impl AtomicHistogram {
    pub(crate) fn add(&self, value: u64) {
        let bits = (u64::BITS - value.leading_zeros()) as usize;
        // First, so that no copy has a value whose maximum it does not have, as far as threads see each other's writes.
        self.max.fetch_max(value, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
        self.counts[bits.min(BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
    }

    /// What was counted until now. Values that are being added may be in a part of it.
    pub(crate) fn copy(&self) -> Histogram {
        let counts = std::array::from_fn(|bits| self.counts[bits].load(Ordering::Relaxed));
        Histogram { counts, sum: self.sum.load(Ordering::Relaxed), max: self.max.load(Ordering::Relaxed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(values: &[u64]) -> Histogram {
        let histogram = AtomicHistogram::default();
        values.iter().for_each(|value| histogram.add(*value));
        histogram.copy()
    }

    #[test]
    fn values_are_counted_by_their_bits() {
        let histogram = of(&[0, 1, 2, 3, 4, 7, 8, u64::MAX]);
        let counted: Vec<_> = histogram.buckets().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [(0, 1), (1, 1), (3, 2), (7, 2), (15, 1), (u64::MAX, 1)]);
        assert_eq!((histogram.count(), histogram.max()), (8, u64::MAX));
    }

    #[test]
    fn an_empty_histogram_has_zeros() {
        let histogram = of(&[]);
        assert_eq!((histogram.count(), histogram.percentile(99.0), histogram.max()), (0, 0, 0));
        assert_eq!(histogram.mean().to_bits(), 0.0_f64.to_bits());
    }

    proptest! {
        #[test]
        fn a_percentile_is_never_too_small_and_less_than_twice_too_large(
            mut values in proptest::collection::vec(prop_oneof![0..20_u64, 0..1_u64 << 20, 0..1_u64 << 38], 1..200),
            percent in 0.0..=100.0_f64,
        ) {
            let histogram = of(&values);
            values.sort_unstable();
            let place = values.iter().enumerate().position(|(at, _)| (at + 1) as f64 >= percent / 100.0 * values.len() as f64);
            let exact = values[place.unwrap()];
            let found = histogram.percentile(percent);
            prop_assert!(found >= exact, "{found} for {exact}");
            prop_assert!(found == exact || found < 2 * exact, "{found} for {exact}");
            prop_assert_eq!(histogram.count(), values.len() as u64);
            prop_assert_eq!(histogram.sum(), values.iter().sum::<u64>());
            prop_assert_eq!(histogram.percentile(100.0), *values.last().unwrap());
        }
    }
}
