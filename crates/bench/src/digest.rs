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
