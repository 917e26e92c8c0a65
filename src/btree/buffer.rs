//! Changes that wait to be merged into a tree: keys and values one behind the other, and an index to sort.
//!
//! Invariant: of several changes of one key the last one counts.
//! Layer 3 (btree).

use super::merge::Change;
use crate::base::block::Block;
use crate::pages::frames::prefetch;

/// The arena grows by chunks, so that nothing is copied when it does: from this size on, doubled up to the largest.
const CHUNK_BYTES_MIN: usize = 4 << 10;
const CHUNK_BYTES_MAX: usize = 1 << 20;

/// From this capacity on the index grows by quarters instead of doubling.
const INDEX_DOUBLED_MAX: usize = 1 << 16;

/// How far ahead a reader of sorted changes asks for their bytes, and for how many of each.
const NEAR_CHANGES: usize = 16;
const NEAR_BYTES: usize = 256;

/// Lengths of key and value in front of them, 32 bits each.
const LENGTHS_BYTES: usize = 8;

/// Stands for a value length where the row is removed.
const REMOVED: u32 = u32::MAX;

/// A change in the arena. Slots compare as their keys do, as far as the prefix tells, and then by arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Slot {
    /// The first eight bytes of the key, zero-padded, big-endian.
    prefix: u64,
    /// Number of the chunk, and offset in it: 32 bits each.
    place: u64,
}

/// Changes in the order of their arrival.
#[derive(Debug, Default)]
pub(crate) struct WriteBuffer {
    chunks: Vec<Block>,
    slots: Vec<Slot>,
    chunk_bytes: usize,
    /// Bytes of all changes.
    used_bytes: usize,
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
    /// Memory that the buffer takes.
    pub(crate) fn bytes(&self) -> usize {
        self.chunk_bytes + self.slots.capacity() * size_of::<Slot>()
    }

    /// Bytes that all changes have together.
    pub(crate) fn used_bytes(&self) -> usize {
        self.used_bytes
    }

    /// Whether keys ascended so far, each above the one before.
    pub(crate) fn is_sorted(&self) -> bool {
        !self.is_unsorted
    }

    /// Forgets all changes, and keeps memory for the next ones, but not much.
    pub(crate) fn clear(&mut self) {
        self.chunks.retain(|chunk| chunk.capacity() <= CHUNK_BYTES_MAX);
        self.chunks.sort_unstable_by_key(|chunk| std::cmp::Reverse(chunk.capacity()));
        self.chunks.truncate(1);
        self.chunks.iter_mut().for_each(Block::clear);
        self.chunk_bytes = self.chunks.iter().map(Block::capacity).sum();
        self.slots.clear();
        self.slots.shrink_to(INDEX_DOUBLED_MAX);
        self.used_bytes = 0;
        self.is_unsorted = false;
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
        let len = LENGTHS_BYTES + key.len() + value.len();
        if self.chunks.last().is_none_or(|chunk| chunk.room() < len) {
            let usual = self.chunks.last().map_or(CHUNK_BYTES_MIN, |last| last.capacity() * 2);
            let chunk = Block::new(usual.min(CHUNK_BYTES_MAX).max(len));
            self.chunk_bytes += chunk.capacity();
            self.chunks.push(chunk);
        }
        if !self.is_unsorted && self.slots.last().is_some_and(|last| self.key(last) >= key) {
            self.is_unsorted = true;
        }
        if self.slots.len() == self.slots.capacity() && self.slots.len() >= INDEX_DOUBLED_MAX {
            self.slots.reserve_exact(self.slots.len() / 4);
        }
        let number = |len: usize| u32::try_from(len).expect("a chunk is short, and memory ends before their number");
        let last_chunk = self.chunks.len() - 1;
        self.used_bytes += len;
        let chunk = &mut self.chunks[last_chunk];
        let place = u64::from(number(last_chunk)) << 32 | u64::from(number(chunk.len()));
        chunk.append(&number(key.len()).to_le_bytes());
        chunk.append(&value_len.to_le_bytes());
        chunk.append(key);
        chunk.append(value);
        self.slots.push(Slot { prefix: prefix_of(key), place });
    }

    /// The bytes of a change, and of what follows it in its chunk.
    fn bytes_at(&self, slot: &Slot) -> &[u8] {
        let (chunk, at) = ((slot.place >> 32) as usize, (slot.place & 0xffff_ffff) as usize);
        &self.chunks[chunk].as_slice()[at..]
    }

    fn key(&self, slot: &Slot) -> &[u8] {
        self.change(slot).key
    }

    fn change(&self, slot: &Slot) -> Change<'_> {
        let (lengths, rest) = self.bytes_at(slot).split_at(LENGTHS_BYTES);
        let word = |at: usize| u32::from_le_bytes(*lengths[at..].first_chunk().expect("there are two words"));
        let (key, rest) = rest.split_at(word(0) as usize);
        let value = (word(4) != REMOVED).then(|| &rest[..word(4) as usize]);
        Change { key, value }
    }

    fn sort(&mut self) {
        let mut slots = std::mem::take(&mut self.slots);
        // Two numbers compare without a look at the keys, and nearly always that is enough.
        slots.sort_unstable();
        for same in slots.chunk_by_mut(|a, b| a.prefix == b.prefix).filter(|same| same.len() > 1) {
            // Keys that end within the prefix are told from those that go on with zeros by their length.
            same.sort_unstable_by(|a, b| self.key(a).cmp(self.key(b)).then(a.place.cmp(&b.place)));
        }
        self.slots = slots;
    }

    /// The changes in the order of their keys, each key once.
    pub(crate) fn sorted(&mut self) -> impl Iterator<Item = Change<'_>> {
        if self.is_unsorted {
            self.sort();
        }
        let buffer = &*self;
        buffer.slots.iter().enumerate().filter_map(|(index, slot)| {
            // What arrived at random lies at random: its bytes are asked for before they are wanted.
            if let Some(near) = buffer.slots.get(index + NEAR_CHANGES).filter(|_| buffer.is_unsorted) {
                prefetch(buffer.bytes_at(near), 0..NEAR_BYTES);
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
