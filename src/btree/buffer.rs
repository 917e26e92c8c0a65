//! Changes that wait to be merged into a tree: keys and values one behind the other, and an index to sort.
//!
//! Invariant: of several changes of one key the last one counts.
//! Layer 3 (btree).

use super::merge::Change;
use crate::pages::frames::prefetch;
use std::cmp::Ordering;

/// The arena grows by chunks, so that nothing is copied when it does: from this size on, doubled up to the largest.
const CHUNK_BYTES_MIN: usize = 4 << 10;
const CHUNK_BYTES_MAX: usize = 1 << 20;

/// More changes than this are merged before others come: a sequence is 32 bits.
const CHANGES_MAX: usize = if cfg!(test) { 1 << 12 } else { 1 << 30 };

/// How far ahead a reader of sorted changes asks for their bytes, and for how many of each.
const NEAR_CHANGES: usize = 16;
const NEAR_BYTES: usize = 256;

/// Stands for a value length in the index of a change that removes its row.
const REMOVED: u32 = u32::MAX;

/// A change in the arena. Its number is its sequence.
#[derive(Debug, Clone, Copy)]
struct Slot {
    /// The first eight bytes of the key, zero-padded, big-endian.
    prefix: u64,
    sequence: u32,
    chunk: u32,
    at: u32,
    /// Keys are at most 64 KiB, limits of callers included.
    key_len: u32,
    value_len: u32,
}

/// Changes in the order of their arrival.
#[derive(Debug, Default)]
pub(crate) struct WriteBuffer {
    chunks: Vec<Vec<u8>>,
    slots: Vec<Slot>,
    chunk_bytes: usize,
    /// Some key was not above the one before it.
    is_unsorted: bool,
}

fn prefix_of(key: &[u8]) -> u64 {
    let mut prefix = [0; 8];
    let len = key.len().min(8);
    prefix[..len].copy_from_slice(&key[..len]);
    u64::from_be_bytes(prefix)
}

impl WriteBuffer {
    /// Memory that the buffer takes, the sorting of its index included.
    pub(crate) fn bytes(&self) -> usize {
        self.chunk_bytes + self.slots.capacity() * size_of::<Slot>()
    }

    /// The changes must be merged before another one is appended.
    pub(crate) fn is_full(&self) -> bool {
        self.slots.len() >= CHANGES_MAX
    }

    /// Appends that a key gets a value. Both are at most as long as a tree takes.
    pub(crate) fn put(&mut self, key: &[u8], value: &[u8]) {
        let value_len = u32::try_from(value.len()).expect("the sizes were checked");
        self.append(key, value, value_len);
    }

    /// Appends that a row is removed, if there is one.
    pub(crate) fn delete(&mut self, key: &[u8]) {
        self.append(key, &[], REMOVED);
    }

    fn append(&mut self, key: &[u8], value: &[u8], value_len: u32) {
        let len = key.len() + value.len();
        if self.chunks.last().is_none_or(|chunk| chunk.capacity() - chunk.len() < len) {
            let usual = self.chunks.last().map_or(CHUNK_BYTES_MIN, |last| last.capacity() * 2);
            let chunk = Vec::with_capacity(usual.min(CHUNK_BYTES_MAX).max(len));
            self.chunk_bytes += chunk.capacity();
            self.chunks.push(chunk);
        }
        let number = |len: usize| u32::try_from(len).expect("a full buffer is merged before it counts so far");
        let (prefix, sequence, last_chunk) = (prefix_of(key), number(self.slots.len()), self.chunks.len() - 1);
        if !self.is_unsorted && self.slots.last().is_some_and(|last| self.key(last) >= key) {
            self.is_unsorted = true;
        }
        let chunk = &mut self.chunks[last_chunk];
        let at = number(chunk.len());
        chunk.extend_from_slice(key);
        chunk.extend_from_slice(value);
        self.slots.push(Slot {
            prefix,
            sequence,
            chunk: number(last_chunk),
            at,
            key_len: number(key.len()),
            value_len,
        });
    }

    fn key(&self, slot: &Slot) -> &[u8] {
        &self.chunks[slot.chunk as usize][slot.at as usize..][..slot.key_len as usize]
    }

    fn change(&self, slot: &Slot) -> Change<'_> {
        let (key, rest) = self.chunks[slot.chunk as usize][slot.at as usize..].split_at(slot.key_len as usize);
        let value = (slot.value_len != REMOVED).then(|| &rest[..slot.value_len as usize]);
        Change { key, value }
    }

    fn compare(&self, a: &Slot, b: &Slot) -> Ordering {
        a.prefix.cmp(&b.prefix).then_with(|| {
            // Keys that end within the prefix are told from those that go on with zeros by their length.
            self.key(a).cmp(self.key(b)).then(a.sequence.cmp(&b.sequence))
        })
    }

    /// The changes in the order of their keys, each key once.
    pub(crate) fn sorted(&mut self) -> impl Iterator<Item = Change<'_>> {
        if self.is_unsorted {
            let mut slots = std::mem::take(&mut self.slots);
            slots.sort_unstable_by(|a, b| self.compare(a, b));
            self.slots = slots;
        }
        let buffer = &*self;
        buffer.slots.iter().enumerate().filter_map(|(index, slot)| {
            // What arrived at random lies at random: its bytes are asked for before they are wanted.
            if let Some(near) = buffer.slots.get(index + NEAR_CHANGES).filter(|_| buffer.is_unsorted) {
                let at = near.at as usize;
                prefetch(&buffer.chunks[near.chunk as usize], at..at + NEAR_BYTES);
            }
            // The last of equal keys has another one behind it.
            let next = buffer.slots.get(index + 1).filter(|next| next.prefix == slot.prefix);
            let is_last = next.is_none_or(|next| buffer.key(next) != buffer.key(slot));
            is_last.then(|| buffer.change(slot))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    type Row = (Vec<u8>, Option<Vec<u8>>);

    fn rows(buffer: &mut WriteBuffer) -> Vec<Row> {
        buffer.sorted().map(|change| (change.key.to_vec(), change.value.map(<[u8]>::to_vec))).collect()
    }

    fn add(buffer: &mut WriteBuffer, (key, value): &Row) {
        match value {
            Some(value) => buffer.put(key, value),
            None => buffer.delete(key),
        }
    }

    #[test]
    fn the_last_change_of_a_key_counts() {
        let mut buffer = WriteBuffer::default();
        buffer.put(b"b", b"1");
        buffer.put(b"a", b"2");
        buffer.delete(b"b");
        buffer.put(b"a", b"");
        assert_eq!(rows(&mut buffer), [(b"a".to_vec(), Some(vec![])), (b"b".to_vec(), None)]);
    }

    #[test]
    fn keys_that_differ_in_trailing_zeros_stay_apart() {
        let mut buffer = WriteBuffer::default();
        for len in [9, 8, 0, 3, 10] {
            buffer.put(&vec![0; len], &[7; 3]);
        }
        let lens: Vec<_> = rows(&mut buffer).iter().map(|(key, _)| key.len()).collect();
        assert_eq!(lens, [0, 3, 8, 9, 10]);
    }

    #[test]
    fn ascending_keys_are_not_sorted_and_equal_ones_are() {
        let mut buffer = WriteBuffer::default();
        for key in 0..100_u32 {
            buffer.put(&key.to_be_bytes(), b"v");
        }
        assert!(!buffer.is_unsorted);
        buffer.put(&99_u32.to_be_bytes(), b"w");
        assert!(buffer.is_unsorted);
        let rows = rows(&mut buffer);
        assert_eq!((rows.len(), rows[99].1.as_deref()), (100, Some(&b"w"[..])));
    }

    #[test]
    fn its_size_follows_what_it_holds() {
        let mut buffer = WriteBuffer::default();
        assert_eq!(buffer.bytes(), 0);
        buffer.put(b"k", b"v");
        assert!(buffer.bytes() <= 8 << 10);
        for round in 0..10_000_u32 {
            buffer.put(&round.to_be_bytes(), &[1; 150]);
        }
        buffer.put(b"long", &vec![1; 3 << 20]);
        let held = 10_000 * 154 + (3 << 20);
        assert!((held..2 * held).contains(&buffer.bytes()), "{} for {held}", buffer.bytes());
    }

    proptest! {
        #[test]
        fn sorted_changes_equal_a_map(
            rows_in in prop::collection::vec(
                (prop::collection::vec(0..3_u8, 0..12), prop::option::of(prop::collection::vec(any::<u8>(), 0..20))),
                0..200,
            ),
        ) {
            let mut buffer = WriteBuffer::default();
            let mut model = BTreeMap::new();
            for row in &rows_in {
                add(&mut buffer, row);
                model.insert(row.0.clone(), row.1.clone());
            }
            prop_assert_eq!(rows(&mut buffer), model.into_iter().collect::<Vec<_>>());
        }
    }
}
