//! Medians and quartiles of a few measurements.

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

#[cfg(test)]
mod tests {
    use super::*;

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
