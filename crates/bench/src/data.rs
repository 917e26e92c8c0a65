//! The rows that every store gets, and what a correct store answers.
//!
//! A row follows from the seed and its number alone, so a data set that was loaded by an earlier run is known again
//! without being stored anywhere else.

use crate::Result;
use crate::digest::{Digest, word_sum};
use fastrand::Rng;
use std::ops::Range;

/// Length of every value.
pub(crate) const VALUE_BYTES: usize = 150;
/// No key of a data set is smaller.
pub(crate) const KEY_MIN: &[u8] = &[0];
/// Length of a random key.
const KEY_BYTES: usize = 24;
/// Lengths of the path of a URL.
const PATH_BYTES: Range<usize> = 60..121;

const HOSTS: [&str; 6] = [
    "www.example.com",
    "shop.example.com",
    "news.example.org",
    "docs.example.net",
    "static.example.org",
    "example.com",
];
const WORDS: [&str; 24] = [
    "articles",
    "archive",
    "products",
    "category",
    "search",
    "user",
    "images",
    "2024",
    "2025",
    "2026",
    "en",
    "de",
    "garden",
    "winter",
    "release",
    "notes",
    "guide",
    "review",
    "index",
    "comments",
    "page",
    "tools",
    "electronics",
    "cookies",
];

/// What the keys look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keys {
    /// 24 random bytes.
    Random,
    /// `https` URLs of six hosts, with paths of 60 to 120 bytes: keys that begin alike.
    Urls,
}

impl Keys {
    /// Name in the path of a kept data set.
    fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Urls => "urls",
        }
    }
}

/// Byte strings, one after the other in one piece of memory.
#[derive(Debug, Default)]
pub(crate) struct ByteStrings {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl ByteStrings {
    fn push(&mut self, string: &[u8]) {
        self.bytes.extend_from_slice(string);
        self.ends.push(self.bytes.len());
    }

    fn get(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..self.ends[index]]
    }

    /// All of them.
    pub(crate) fn list(&self) -> Vec<&[u8]> {
        (0..self.ends.len()).map(|index| self.get(index)).collect()
    }
}

/// Rows to write.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    keys: ByteStrings,
    values: ByteStrings,
}

impl Rows {
    /// Keys and values.
    pub(crate) fn pairs(&self) -> Vec<(&[u8], &[u8])> {
        self.keys.list().into_iter().zip(self.values.list()).collect()
    }

    /// What a full scan of these rows finds.
    pub(crate) fn digest(&self) -> Digest {
        self.values.list().into_iter().map(|value| Digest::of_sum(word_sum(value))).collect()
    }
}

/// Keys to look up, to scan from or to remove, and what is then found.
#[derive(Debug, Default)]
pub(crate) struct Picked {
    pub(crate) keys: ByteStrings,
    pub(crate) expected: Digest,
}

/// What a row that takes rows out finds in those that leave and in those that stay.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Split {
    pub(crate) leave: Digest,
    pub(crate) stay: Digest,
}

/// Says whether a row stays where a predicate over keys and values keeps every second one: by the sum of one byte of
/// each.
pub(crate) fn stays(key: &[u8], value: &[u8]) -> bool {
    let last = |bytes: &[u8]| bytes.last().copied().unwrap_or(0);
    last(key).wrapping_add(last(value)).is_multiple_of(2)
}

/// The opposite of [`stays`].
pub(crate) fn leaves(key: &[u8], value: &[u8]) -> bool {
    !stays(key, value)
}

/// So many rows of numbers, with different keys in random order.
pub(crate) fn numbers(count: usize, seed: u64) -> Result<Vec<(u32, u64)>> {
    let mut rng = Rng::with_seed(seed);
    // Every step is a bijection of 32 bits, so no two keys are the same.
    let spread = |number: u32| {
        let number = (number ^ number >> 16).wrapping_mul(0x7FEB_352D);
        (number ^ number >> 15).wrapping_mul(0x846C_A68B)
    };
    let start = rng.u32(..);
    let number = |index: usize| Ok((spread(u32::try_from(index)?.wrapping_add(start)), rng.u64(..)));
    (0..count).map(number).collect()
}

/// What a full scan of numbers finds.
pub(crate) fn number_digest(numbers: &[(u32, u64)]) -> Digest {
    let mut digest = Digest::default();
    numbers.iter().for_each(|(key, value)| digest.add_number(*key, *value));
    digest
}

/// The rows of one database.
#[derive(Debug)]
pub(crate) struct DataSet {
    kind: Keys,
    seed: u64,
    /// In the order of loading.
    keys: ByteStrings,
    /// Numbers of the rows in the order of their keys.
    sorted: Vec<usize>,
    /// Sums of the values, by number.
    sums: Vec<u64>,
}

impl DataSet {
    /// The first `count` rows of a seed.
    pub(crate) fn new(kind: Keys, count: usize, seed: u64) -> Self {
        let mut set = Self { kind, seed, keys: ByteStrings::default(), sorted: (0..count).collect(), sums: Vec::new() };
        for index in 0..count {
            set.keys.push(&set.key(index));
            set.sums.push(word_sum(&set.value(index)));
        }
        set.sorted.sort_unstable_by(|a, b| set.keys.get(*a).cmp(set.keys.get(*b)));
        set
    }

    /// Name of the folder in which its databases are kept.
    pub(crate) fn name(&self) -> String {
        format!("{}-{}-{}", self.kind.name(), self.len(), self.seed)
    }

    /// Number of rows.
    pub(crate) fn len(&self) -> usize {
        self.sums.len()
    }

    /// A key by the number of its row.
    pub(crate) fn key_at(&self, index: usize) -> &[u8] {
        self.keys.get(index)
    }

    /// What a full scan finds.
    pub(crate) fn total(&self) -> Digest {
        self.sums.iter().map(|sum| Digest::of_sum(*sum)).collect()
    }

    /// All rows in the order of loading, which is random.
    pub(crate) fn rows_shuffled(&self) -> Rows {
        self.rows(0..self.len())
    }

    /// All rows in the order of their keys.
    pub(crate) fn rows_sorted(&self) -> Rows {
        self.rows(self.sorted.iter().copied())
    }

    /// New rows beyond those of the set. Ranges of numbers that are disjoint give different rows.
    pub(crate) fn rows_beyond(&self, numbers: Range<usize>) -> Rows {
        self.rows(numbers.start + self.len()..numbers.end + self.len())
    }

    /// Keys of `count` rows, chosen at random with repetition.
    pub(crate) fn pick_reads(&self, count: usize, rng: &mut Rng) -> Picked {
        let mut picked = Picked::default();
        for _ in 0..count {
            self.pick(rng.usize(..self.len()), &mut picked);
        }
        picked
    }

    /// Keys of `count` rows, from each of which `len` rows are read.
    pub(crate) fn pick_ranges(&self, count: usize, len: usize, rng: &mut Rng) -> Picked {
        let mut picked = Picked::default();
        for _ in 0..count {
            let rank = rng.usize(..self.len());
            picked.keys.push(self.keys.get(self.sorted[rank]));
            let found = self.sorted[rank..].iter().take(len);
            picked.expected = picked.expected + found.map(|index| Digest::of_sum(self.sums[*index])).collect();
        }
        picked
    }

    /// A random half of the keys, and what a full scan finds without them.
    pub(crate) fn pick_removals(&self, rng: &mut Rng) -> Picked {
        let mut order: Vec<usize> = (0..self.len()).collect();
        rng.shuffle(&mut order);
        let (removed, left) = order.split_at(self.len() / 2);
        let mut picked = Picked::default();
        removed.iter().for_each(|index| picked.keys.push(self.keys.get(*index)));
        picked.expected = left.iter().map(|index| Digest::of_sum(self.sums[*index])).collect();
        picked
    }

    /// The rows that [`leaves`] says `true` for, and the others.
    pub(crate) fn split_by_rule(&self) -> Split {
        let of = |rule: fn(&[u8], &[u8]) -> bool| {
            let picked = (0..self.len()).filter(|index| rule(self.keys.get(*index), &self.value(*index)));
            picked.map(|index| Digest::of_sum(self.sums[index])).collect()
        };
        Split { leave: of(leaves), stay: of(stays) }
    }

    /// The `count` rows with the lowest keys, and the others.
    pub(crate) fn split_lowest(&self, count: usize) -> Split {
        let of = |numbers: &[usize]| numbers.iter().map(|index| Digest::of_sum(self.sums[*index])).collect();
        let (lowest, others) = self.sorted.split_at(count);
        Split { leave: of(lowest), stay: of(others) }
    }

    /// Bytes of all keys and values.
    pub(crate) fn row_bytes(&self) -> usize {
        self.keys.bytes.len() + self.len() * VALUE_BYTES
    }

    fn pick(&self, index: usize, picked: &mut Picked) {
        picked.keys.push(self.keys.get(index));
        picked.expected = picked.expected + Digest::of_sum(self.sums[index]);
    }

    fn rows(&self, numbers: impl Iterator<Item = usize>) -> Rows {
        let mut rows = Rows::default();
        for index in numbers {
            rows.keys.push(&self.key(index));
            rows.values.push(&self.value(index));
        }
        rows
    }

    /// A source of chance for one use of one row. The multiplications spread the numbers so that no two sources overlap.
    fn rng(&self, index: usize, purpose: u64) -> Rng {
        let number = (index as u64).wrapping_mul(2).wrapping_add(purpose).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        Rng::with_seed(number ^ self.seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    fn key(&self, index: usize) -> Vec<u8> {
        let mut rng = self.rng(index, 0);
        match self.kind {
            Keys::Random => {
                let mut key = vec![0; KEY_BYTES];
                rng.fill(&mut key);
                key
            }
            Keys::Urls => url(index, &mut rng).into_bytes(),
        }
    }

    fn value(&self, index: usize) -> [u8; VALUE_BYTES] {
        let mut value = [0; VALUE_BYTES];
        self.rng(index, 1).fill(&mut value);
        value
    }
}

/// A URL that ends with the number of its row, so that no two are the same. The first host has half of them.
fn url(index: usize, rng: &mut Rng) -> String {
    let host = if rng.bool() { HOSTS[0] } else { HOSTS[rng.usize(..HOSTS.len())] };
    let (number, path_bytes) = (format!("/{index:08x}"), rng.usize(PATH_BYTES));
    let mut path = String::new();
    let mut separator = '/';
    while path.len() + number.len() < path_bytes {
        path.push(separator);
        path.push_str(WORDS[rng.usize(..WORDS.len())]);
        separator = if path.len() < 30 { '/' } else { '-' };
    }
    path.truncate(path_bytes.saturating_sub(number.len()));
    format!("https://{host}{path}{number}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn map(rows: &Rows) -> BTreeMap<Vec<u8>, Vec<u8>> {
        rows.pairs().into_iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
    }

    #[test]
    fn expected_digests_are_those_of_a_map() {
        for kind in [Keys::Random, Keys::Urls] {
            let set = DataSet::new(kind, 500, 7);
            let rows = map(&set.rows_shuffled());
            assert_eq!(rows.len(), 500);
            let digest = |values: &mut dyn Iterator<Item = &Vec<u8>>| {
                values.map(|value| Digest::of_sum(word_sum(value))).collect::<Digest>()
            };
            assert_eq!(set.total(), digest(&mut rows.values()));
            assert_eq!(set.rows_shuffled().digest(), set.total());

            let reads = set.pick_reads(100, &mut Rng::with_seed(1));
            assert_eq!(reads.expected, digest(&mut reads.keys.list().into_iter().map(|key| &rows[key])));
            let ranges = set.pick_ranges(100, 10, &mut Rng::with_seed(1));
            let found = ranges.keys.list().into_iter().flat_map(|key| rows.range(key.to_vec()..).take(10));
            assert_eq!(ranges.expected, digest(&mut found.map(|(_, value)| value)));
            let removals = set.pick_removals(&mut Rng::with_seed(1));
            let mut left = rows.clone();
            removals.keys.list().into_iter().for_each(|key| assert!(left.remove(key).is_some()));
            assert_eq!((left.len(), removals.expected), (250, digest(&mut left.values())));
        }
    }

    #[test]
    fn splits_are_those_of_a_map_and_about_half_of_the_rows_leave_by_the_rule() {
        for kind in [Keys::Random, Keys::Urls] {
            let set = DataSet::new(kind, 1000, 7);
            let rows = map(&set.rows_shuffled());
            let digest = |rows: &mut dyn Iterator<Item = (&Vec<u8>, &Vec<u8>)>| {
                rows.map(|(_, value)| Digest::of_sum(word_sum(value))).collect::<Digest>()
            };
            let split = set.split_by_rule();
            assert_eq!(split.leave, digest(&mut rows.iter().filter(|(key, value)| leaves(key, value))));
            assert_eq!(split.leave + split.stay, set.total());
            assert!((400..600).contains(&split.leave.rows()), "{split:?}");
            let split = set.split_lowest(200);
            assert_eq!(split.leave, digest(&mut rows.iter().take(200)));
            assert_eq!(split.stay, digest(&mut rows.iter().skip(200)));
            let lens = rows.iter().map(|(key, value)| key.len() + value.len());
            assert_eq!(set.row_bytes(), lens.sum::<usize>());
        }
    }

    #[test]
    fn numbers_follow_from_the_seed_and_have_different_keys_in_no_order() {
        let all = numbers(10_000, 7).unwrap();
        assert_eq!(all, numbers(10_000, 7).unwrap());
        assert_ne!(number_digest(&all), number_digest(&numbers(10_000, 8).unwrap()));
        assert_eq!(all.iter().map(|(key, _)| key).collect::<std::collections::BTreeSet<_>>().len(), 10_000);
        let rising = all.windows(2).filter(|pair| pair[0].0 < pair[1].0).count();
        assert!((4500..5500).contains(&rising), "{rising}");
        assert_eq!(number_digest(&all).rows(), 10_000);
    }

    #[test]
    fn rows_follow_from_the_seed_and_sorted_rows_are_the_same_rows() {
        let set = DataSet::new(Keys::Random, 100, 7);
        assert_eq!(set.rows_shuffled().pairs(), DataSet::new(Keys::Random, 100, 7).rows_shuffled().pairs());
        assert_ne!(set.total(), DataSet::new(Keys::Random, 100, 8).total());
        let sorted = set.rows_sorted();
        assert!(sorted.pairs().is_sorted());
        assert_eq!(map(&sorted), map(&set.rows_shuffled()));
        let (mut all, beyond) = (map(&set.rows_shuffled()), set.rows_beyond(0..50));
        all.extend(map(&beyond));
        all.extend(map(&set.rows_beyond(50..60)));
        assert_eq!(all.len(), 160);
    }

    #[test]
    fn urls_begin_alike_and_have_paths_of_the_stated_lengths() {
        let set = DataSet::new(Keys::Urls, 1000, 7);
        for key in set.keys.list() {
            let url = str::from_utf8(key).unwrap();
            let path = url.strip_prefix("https://").unwrap().split_once('/').unwrap().1.len() + 1;
            assert!(PATH_BYTES.contains(&path), "{url}");
            assert!(HOSTS.iter().any(|host| url[8..].starts_with(host)), "{url}");
        }
    }
}
