//! What was read, summed up so that it can be compared with what was written.

use std::ops::Add;

/// Number of values and the sum of their bytes, taken eight at a time. Digests of parts add up to that of the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Digest {
    rows: u64,
    sum: u64,
}

impl Digest {
    /// Adds one value, every byte of which is read.
    pub(crate) fn add_value(&mut self, value: &[u8]) {
        *self = *self + Self { rows: 1, sum: word_sum(value) };
    }

    /// Adds one row of numbers, the key of which counts as well.
    pub(crate) fn add_number(&mut self, key: u32, value: u64) {
        let spread = u64::from(key).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        *self = *self + Self::of_sum(spread.rotate_left(32) ^ value);
    }

    /// Number of values.
    pub(crate) fn rows(self) -> u64 {
        self.rows
    }

    /// The digest of one value whose [`word_sum`] is known.
    pub(crate) fn of_sum(sum: u64) -> Self {
        Self { rows: 1, sum }
    }
}

impl Add for Digest {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { rows: self.rows + other.rows, sum: self.sum.wrapping_add(other.sum) }
    }
}

impl FromIterator<Self> for Digest {
    fn from_iter<I: IntoIterator<Item = Self>>(digests: I) -> Self {
        digests.into_iter().fold(Self::default(), Add::add)
    }
}

/// Sum of the little-endian words of a value, the last of which is filled up with zeros.
pub(crate) fn word_sum(value: &[u8]) -> u64 {
    let (words, rest) = value.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    words.iter().chain([&last]).fold(0, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_of_numbers_count() {
        let digest = |rows: &[(u32, u64)]| {
            let mut digest = Digest::default();
            rows.iter().for_each(|(key, value)| digest.add_number(*key, *value));
            digest
        };
        let rows = [(1, 10), (2, 20)];
        assert_eq!(digest(&rows), digest(&[(2, 20), (1, 10)]));
        for other in [[(1, 10), (3, 20)], [(1, 10), (2, 21)], [(1, 20), (2, 10)]] {
            assert_ne!(digest(&rows), digest(&other), "{other:?}");
        }
        assert_eq!((digest(&rows).rows(), digest(&[]).rows()), (2, 0));
    }

    #[test]
    fn every_byte_and_every_row_counts() {
        let digest = |values: &[&[u8]]| {
            let mut digest = Digest::default();
            values.iter().for_each(|value| digest.add_value(value));
            digest
        };
        let value: Vec<u8> = (0..150).collect();
        for index in 0..value.len() {
            let mut other = value.clone();
            other[index] ^= 1;
            assert_ne!(digest(&[&value]), digest(&[&other]), "byte {index}");
        }
        assert_ne!(digest(&[]), digest(&[b""]));
        assert_eq!(digest(&[b"one", &value]), digest(&[b"one"]) + Digest::of_sum(word_sum(&value)));
    }
}
