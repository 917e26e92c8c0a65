//! One bit per unit of a region, over 64-bit words.
//!
//! Invariant: bits at or above the length are clear.
//! Layer 2 (pages). Bytes: design.md, "Regions".

/// A bitmap of fixed length; on disk its bits are stored least significant first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bitmap {
    words: Vec<u64>,
    len: u32,
}

/// The words that a range touches, each with the mask of its part of the range.
fn masks(start: u32, units: u32) -> impl Iterator<Item = (usize, u64)> {
    let end = start + units;
    (start / 64..end.div_ceil(64)).filter(move |_| units != 0).map(move |word| {
        let from = start.saturating_sub(word * 64);
        let to = (end - word * 64).min(64);
        (word as usize, (u64::MAX << from) & (u64::MAX >> (64 - to)))
    })
}

impl Bitmap {
    /// All clear.
    pub(crate) fn new(len: u32) -> Self {
        Self { words: vec![0; len.div_ceil(64) as usize], len }
    }

    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    #[cfg(test)]
    pub(crate) fn get(&self, index: u32) -> bool {
        assert!(index < self.len);
        self.words[(index / 64) as usize] >> (index % 64) & 1 == 1
    }

    fn assert_range(&self, start: u32, units: u32) {
        let end = start.checked_add(units);
        assert!(end.is_some_and(|end| end <= self.len), "range {start}+{units} exceeds {} bits", self.len);
    }

    pub(crate) fn set_range(&mut self, start: u32, units: u32) {
        self.assert_range(start, units);
        for (word, mask) in masks(start, units) {
            self.words[word] |= mask;
        }
    }

    pub(crate) fn clear_range(&mut self, start: u32, units: u32) {
        self.assert_range(start, units);
        for (word, mask) in masks(start, units) {
            self.words[word] &= !mask;
        }
    }

    pub(crate) fn all_set(&self, start: u32, units: u32) -> bool {
        self.assert_range(start, units);
        masks(start, units).all(|(word, mask)| self.words[word] & mask == mask)
    }

    pub(crate) fn all_clear(&self, start: u32, units: u32) -> bool {
        self.assert_range(start, units);
        masks(start, units).all(|(word, mask)| self.words[word] & mask == 0)
    }

    pub(crate) fn count_set(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    pub(crate) fn is_subset_of(&self, other: &Self) -> bool {
        self.len == other.len && self.words.iter().zip(&other.words).all(|(mine, theirs)| mine & !theirs == 0)
    }

    /// Bits that are set here and not there.
    pub(crate) fn set_beside(&self, other: &Self) -> impl Iterator<Item = u32> {
        assert!(self.len == other.len, "bitmaps of different lengths have no difference");
        (0_u32..).zip(self.words.iter().zip(&other.words)).flat_map(|(index, (mine, theirs))| {
            let mut bits = mine & !theirs;
            std::iter::from_fn(move || {
                let bit = (bits != 0).then(|| bits.trailing_zeros())?;
                bits &= bits - 1;
                Some(index * 64 + bit)
            })
        })
    }

    /// The first bit at or above `from` that has the given value.
    pub(crate) fn find_first(&self, from: u32, set: bool) -> Option<u32> {
        let flip = if set { 0 } else { u64::MAX };
        let mut mask = u64::MAX << (from % 64);
        for word in from / 64..self.len.div_ceil(64) {
            let bits = (self.words[word as usize] ^ flip) & mask;
            if bits != 0 {
                return Some(word * 64 + bits.trailing_zeros()).filter(|&index| index < self.len);
            }
            mask = u64::MAX;
        }
        None
    }

    pub(crate) fn last_set(&self) -> Option<u32> {
        (0..self.len.div_ceil(64)).rev().find_map(|word| {
            let bits = self.words[word as usize];
            (bits != 0).then(|| word * 64 + 63 - bits.leading_zeros())
        })
    }

    /// Longest ranges of set bits, ascending, as (start, units).
    pub(crate) fn set_runs(&self) -> impl Iterator<Item = (u32, u32)> {
        self.runs(true)
    }

    /// Longest ranges of clear bits, ascending, as (start, units).
    pub(crate) fn clear_runs(&self) -> impl Iterator<Item = (u32, u32)> {
        self.runs(false)
    }

    fn runs(&self, set: bool) -> impl Iterator<Item = (u32, u32)> {
        let mut from = 0;
        std::iter::from_fn(move || {
            let start = self.find_first(from, set)?;
            from = self.find_first(start, !set).unwrap_or(self.len);
            Some((start, from - start))
        })
    }

    /// The stored form, zero-padded to `len_bytes`.
    pub(crate) fn to_bytes(&self, len_bytes: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.truncate(self.len.div_ceil(8) as usize);
        assert!(bytes.len() <= len_bytes, "{} bytes do not fit in {len_bytes}", bytes.len());
        bytes.resize(len_bytes, 0);
        bytes
    }

    /// Reads the stored form of a bitmap whose length is a multiple of eight; `None` where the byte count differs.
    pub(crate) fn from_bytes(bytes: &[u8], len: u32) -> Option<Self> {
        if !len.is_multiple_of(8) || bytes.len() != (len / 8) as usize {
            return None;
        }
        let mut words = Vec::with_capacity(bytes.len().div_ceil(8));
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            words.push(u64::from_le_bytes(word));
        }
        Some(Self { words, len })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bits_are_stored_least_significant_first() {
        let mut map = Bitmap::new(32);
        map.set_range(9, 1);
        assert_eq!(map.to_bytes(6), [0, 2, 0, 0, 0, 0]);
        assert_eq!(Bitmap::from_bytes(&[0, 2, 0, 0], 32), Some(map));
        assert_eq!(Bitmap::from_bytes(&[0; 5], 32), None);
    }

    proptest! {
        #[test]
        fn bitmap_agrees_with_a_vector_of_bools(
            len in 1_u32..40, ops in prop::collection::vec((any::<bool>(), any::<u32>(), any::<u32>()), 0..40)
        ) {
            let len = len * 8;
            let mut map = Bitmap::new(len);
            let mut model = vec![false; len as usize];
            for (set, start, units) in ops {
                let start = start % (len + 1);
                let units = units % (len - start + 1);
                let range = start as usize..(start + units) as usize;
                prop_assert_eq!(map.all_set(start, units), model[range.clone()].iter().all(|&bit| bit));
                prop_assert_eq!(map.all_clear(start, units), model[range.clone()].iter().all(|&bit| !bit));
                if set { map.set_range(start, units) } else { map.clear_range(start, units) }
                model[range].fill(set);
                prop_assert_eq!(map.count_set() as usize, model.iter().filter(|&&bit| bit).count());
                prop_assert_eq!(map.last_set().map(|i| i as usize), model.iter().rposition(|&bit| bit));
                for value in [false, true] {
                    let first = model[start as usize..].iter().position(|&bit| bit == value);
                    let first = first.map(|i| i + start as usize);
                    prop_assert_eq!(map.find_first(start, value).map(|i| i as usize), first);
                }
            }
            let mut joined = Bitmap::new(len);
            map.set_runs().for_each(|(start, units)| joined.set_range(start, units));
            prop_assert_eq!(&joined, &map);
            prop_assert!((0..len).all(|i| map.get(i) == model[i as usize]));
            let bytes = map.to_bytes((len / 8) as usize);
            prop_assert_eq!(Bitmap::from_bytes(&bytes, len), Some(map));
        }
    }
}
