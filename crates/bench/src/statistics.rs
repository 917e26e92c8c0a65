//! Quartiles of a few measurements and percentiles of many.

/// The middle of some numbers, the range that holds the middle half, and the extremes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Quartiles {
    pub(crate) min: f64,
    pub(crate) lower: f64,
    pub(crate) median: f64,
    pub(crate) upper: f64,
    pub(crate) max: f64,
}

impl Quartiles {
    /// Quartiles with linear interpolation between neighbours; `None` for no numbers.
    pub(crate) fn of(numbers: &[f64]) -> Option<Self> {
        let mut sorted = numbers.to_vec();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        let at = |quarter: usize| {
            let (index, fraction) = (quarter * last / 4, (quarter * last % 4) as f64 / 4.0);
            let above = sorted[(index + 1).min(last)];
            sorted[index] + (above - sorted[index]) * fraction
        };
        Some(Self { min: at(0), lower: at(1), median: at(2), upper: at(3), max: at(4) })
    }
}

/// What shares of some numbers do not exceed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Percentiles {
    pub(crate) median: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

impl Percentiles {
    /// Each is the least of the numbers that at least its share does not exceed; `None` for no numbers.
    pub(crate) fn of(numbers: &[f64]) -> Option<Self> {
        let mut sorted = numbers.to_vec();
        sorted.sort_by(f64::total_cmp);
        let max = *sorted.last()?;
        let at = |per_mille: usize| sorted[(sorted.len() * per_mille).div_ceil(1000) - 1];
        Some(Self { median: at(500), p90: at(900), p99: at(990), p999: at(999), max })
    }

    /// All of them with their names, from the least on.
    pub(crate) fn named(&self) -> [(&'static str, f64); 5] {
        let Self { median, p90, p99, p999, max } = *self;
        [("median", median), ("p90", p90), ("p99", p99), ("p99.9", p999), ("maximum", max)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_measured_numbers_that_the_stated_shares_do_not_exceed() {
        let of = |numbers: &[f64]| Percentiles::of(numbers).map(|found| found.named().map(|(_, value)| value));
        let mut numbers: Vec<f64> = (1..=10_000).rev().map(f64::from).collect();
        assert_eq!(of(&numbers), Some([5000.0, 9000.0, 9900.0, 9990.0, 10_000.0]));
        numbers.push(1e9);
        assert_eq!(of(&numbers), Some([5001.0, 9001.0, 9901.0, 9991.0, 1e9]));
        assert_eq!(of(&[1.0, 2.0, 3.0]), Some([2.0, 3.0, 3.0, 3.0, 3.0]));
        assert_eq!(of(&[7.0]), Some([7.0; 5]));
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn quartiles_split_sorted_numbers_in_four() {
        let of = |numbers: &[f64]| {
            Quartiles::of(numbers).map(|found| (found.min, found.lower, found.median, found.upper, found.max))
        };
        assert_eq!(of(&[5.0, 1.0, 4.0, 2.0, 3.0]), Some((1.0, 2.0, 3.0, 4.0, 5.0)));
        assert_eq!(of(&[4.0, 1.0]), Some((1.0, 1.75, 2.5, 3.25, 4.0)));
        assert_eq!(of(&[7.0]), Some((7.0, 7.0, 7.0, 7.0, 7.0)));
        assert_eq!(of(&[]), None);
    }
}
