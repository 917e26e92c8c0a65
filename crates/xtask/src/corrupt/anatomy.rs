//! Where everything of a file is, found by following its pointers as design.md tells, and its checksums made to fit.
//!
//! Invariant: no bytes make the walk fail; what does not fit is left as it is. A sound file is not changed.

use super::sample::{NODE_BYTES, REGION_UNITS, UNIT_BYTES};
use std::collections::HashSet;
use std::ops::Range;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// Bytes of block 0 and of a slot.
pub(super) const BLOCK_BYTES: usize = 4096;
/// Offset of the immutable fields in block 0.
pub(super) const HEADER_FIELDS: usize = 16;
/// The same in a slot.
pub(super) const SLOT_FIELDS: usize = 3936;
/// Offset of the region table's reference in a slot.
const SLOT_TABLE: usize = 176;
const NODE_HEADER_BYTES: usize = 64;
const EXTENT_BYTES: usize = 28;
const RUN_BYTES_MAX: usize = REGION_UNITS / 2 * UNIT_BYTES;
const FIXED_UNITS: usize = 3 * BLOCK_BYTES / UNIT_BYTES;
const BITMAP_BYTES: usize = REGION_UNITS / 8;
const PAGE_MASK: u64 = (1 << 48) - 1;
/// A list of more runs than this names nothing that the file could hold.
const PIECES_MAX: usize = 4096;

/// What the rows of a tree are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tree {
    Catalog,
    Counters,
    Rows,
}

/// A node that a slot reaches.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    pub(super) at: usize,
    pub(super) level: u8,
}

/// Offsets of everything that the two slots reach.
#[derive(Debug, Default)]
pub(super) struct Anatomy {
    pub(super) slots: Vec<usize>,
    pub(super) nodes: Vec<Node>,
    /// References to runs of values and of key rests.
    pub(super) extents: Vec<usize>,
    /// What the references name: values, key rests, lists and pieces.
    pub(super) blobs: Vec<Range<usize>>,
    /// Lists of runs.
    pub(super) lists: Vec<Range<usize>>,
    /// Tree roots, those of slots and those of table records.
    pub(super) roots: Vec<usize>,
    /// Table records.
    pub(super) records: Vec<Range<usize>>,
    pub(super) region_tables: Vec<Range<usize>>,
    /// Active bitmaps, with their entries in the region table.
    pub(super) bitmaps: Vec<(Range<usize>, usize)>,
}

/// A number of the file; zero where the file ends before it.
pub(super) fn word(bytes: &[u8], at: usize, width: usize) -> u64 {
    let found = at.checked_add(width).and_then(|end| bytes.get(at..end)).unwrap_or_default();
    found.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

fn small(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([word(bytes, at, 1), word(bytes, at + 1, 1)].map(|byte| byte.to_le_bytes()[0])))
}

/// Stores bytes, unless the file ends before them.
pub(super) fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    if let Some(place) = at.checked_add(new.len()).and_then(|end| bytes.get_mut(at..end)) {
        place.copy_from_slice(new);
    }
}

/// Computes every checksum anew, children before parents, and says where everything is.
pub(super) fn seal(bytes: &mut [u8]) -> Anatomy {
    let mut walk = Walk { bytes, found: Anatomy::default(), visited: HashSet::new() };
    let mut slots = [BLOCK_BYTES, 2 * BLOCK_BYTES];
    // Where both reach a page, what the newer one makes of it counts.
    slots.sort_by_key(|slot| word(walk.bytes, slot + 8, 8));
    for slot in slots {
        walk.slot(slot);
    }
    if walk.bytes.len() >= BLOCK_BYTES {
        let sum = xxh3_128(&[&walk.bytes[..12], &walk.bytes[HEADER_FIELDS..144]].concat()).to_le_bytes();
        put(walk.bytes, 144, &sum);
    }
    walk.found
}

struct Walk<'b> {
    bytes: &'b mut [u8],
    found: Anatomy,
    /// Nodes of the slot that was come to last.
    visited: HashSet<usize>,
}

impl Walk<'_> {
    /// The bytes of a run, where the file has them.
    fn run(&self, page: u64, len: usize) -> Option<Range<usize>> {
        let start = usize::try_from(page & PAGE_MASK).ok()?.checked_mul(UNIT_BYTES)?;
        let end = start.checked_add(len)?;
        (start >= 3 * BLOCK_BYTES && end <= self.bytes.len()).then_some(start..end)
    }

    fn child_sum(&self, range: Range<usize>) -> [u8; 8] {
        xxh3_64(&self.bytes[range]).max(1).to_le_bytes()
    }

    fn put_digest(&mut self, at: usize, covered: Range<usize>) {
        let sum = xxh3_128(&self.bytes[covered]).to_le_bytes();
        put(self.bytes, at, &sum);
        put(self.bytes, at + 16, &[0; 16]);
    }

    fn slot(&mut self, at: usize) {
        if self.bytes.len() < at + BLOCK_BYTES || self.bytes[at..at + BLOCK_BYTES].iter().all(|byte| *byte == 0) {
            return;
        }
        self.visited.clear();
        self.found.slots.push(at);
        self.root(at + 64, Tree::Catalog);
        self.root(at + 120, Tree::Counters);
        let len = usize::try_from(word(self.bytes, at + SLOT_TABLE + 8, 8)).unwrap_or(usize::MAX);
        if let Some(table) = self.run(word(self.bytes, at + SLOT_TABLE, 8), len) {
            self.region_table(table.clone());
            self.put_digest(at + SLOT_TABLE + 16, table);
        }
        self.put_digest(at + BLOCK_BYTES - 32, at..at + BLOCK_BYTES - 32);
    }

    fn region_table(&mut self, table: Range<usize>) {
        self.found.region_tables.push(table.clone());
        for (region, entry) in (table.start + 8..table.end).step_by(24).enumerate() {
            let copy = self.bytes[entry.saturating_add(20).min(table.end - 1)];
            let bitmap = (FIXED_UNITS + region * REGION_UNITS + usize::from(copy)) * UNIT_BYTES;
            if entry + 24 <= table.end && copy < 2 && bitmap + BITMAP_BYTES <= self.bytes.len() {
                let sum = xxh3_128(&self.bytes[bitmap..bitmap + BITMAP_BYTES]).to_le_bytes();
                put(self.bytes, entry, &sum);
                self.found.bitmaps.push((bitmap..bitmap + BITMAP_BYTES, entry));
            }
        }
    }

    fn root(&mut self, at: usize, tree: Tree) {
        let (page, height) = (word(self.bytes, at, 8), word(self.bytes, at + 48, 1));
        self.found.roots.push(at);
        if height > 0
            && let Some(node) = self.run(page, NODE_BYTES)
        {
            self.node(node.start, height.to_le_bytes()[0], tree);
            self.put_digest(at + 8, node);
        }
    }

    fn node(&mut self, at: usize, level: u8, tree: Tree) {
        if level == 0 || !self.visited.insert(at) {
            return;
        }
        self.found.nodes.push(Node { at, level });
        let count = small(self.bytes, at + 2).min(NODE_BYTES);
        match (self.bytes[at], level) {
            (2, 2..) => self.branch(at, level, count, tree),
            (1, _) => (0..count).for_each(|row| self.row(at, row, count, tree)),
            _ => {}
        }
    }

    fn branch(&mut self, at: usize, level: u8, count: usize, tree: Tree) {
        let end = at + NODE_BYTES;
        let sums = at + NODE_HEADER_BYTES + 8 * (count + 1);
        for index in 0..=count {
            let page = word(self.bytes, at + NODE_HEADER_BYTES + 8 * index, 8);
            let sum_at = sums + 8 * index;
            if sum_at + 8 > end {
                return;
            }
            if let Some(child) = self.run(page, NODE_BYTES) {
                self.node(child.start, level - 1, tree);
                let sum = self.child_sum(child);
                put(self.bytes, sum_at, &sum);
            }
        }
        for index in 0..count {
            let entry = small(self.bytes, sums + 8 * (count + 1) + 4 * count + 2 * index);
            let key = small(self.bytes, at + entry);
            self.extent(at, entry + 2 + (key & 0x7FFF), key & 0x8000 != 0, false);
        }
    }

    fn row(&mut self, at: usize, row: usize, count: usize, tree: Tree) {
        let entry = small(self.bytes, at + NODE_HEADER_BYTES + 4 * count + 2 * row);
        let (value, len, is_extent) = if self.bytes[at + 1] & 1 == 1 {
            (entry + small(self.bytes, at + 26), small(self.bytes, at + 28), false)
        } else {
            let (key, value) = (small(self.bytes, at + entry), small(self.bytes, at + entry + 2));
            let rest = entry + 4 + (key & 0x7FFF);
            let has_rest = key & 0x8000 != 0;
            self.extent(at, rest, has_rest, false);
            (rest + if has_rest { EXTENT_BYTES } else { 0 }, value & 0x7FFF, value & 0x8000 != 0)
        };
        if is_extent {
            self.extent(at, value, true, tree == Tree::Catalog);
        } else if tree == Tree::Catalog && value + len <= NODE_BYTES {
            self.record(at + value..at + value + len);
        }
    }

    fn record(&mut self, record: Range<usize>) {
        if record.len() >= 72 {
            self.found.records.push(record.clone());
            self.root(record.start + 16, Tree::Rows);
        }
    }

    /// Seals what a reference at `within` a node names; where it is a table record, also what that names.
    fn extent(&mut self, node: usize, within: usize, is_there: bool, is_record: bool) {
        let at = node + within;
        if !is_there || within + EXTENT_BYTES > NODE_BYTES {
            return;
        }
        self.found.extents.push(at);
        let (page, len) = (word(self.bytes, at, 8), word(self.bytes, at + 8, 4));
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let pieces = len.div_ceil(RUN_BYTES_MAX);
        let head = if pieces > 1 { pieces.min(PIECES_MAX) * 16 } else { len };
        let Some(head) = self.run(page, head) else { return };
        if head.is_empty() {
            return;
        }
        if pieces > 1 {
            self.list(head.clone(), len);
        } else if is_record {
            self.record(head.clone());
        }
        self.found.blobs.push(head.clone());
        let sum = self.child_sum(head);
        put(self.bytes, at + 20, &sum);
    }

    fn list(&mut self, list: Range<usize>, mut len: usize) {
        self.found.lists.push(list.clone());
        for entry in list.step_by(16) {
            let piece = len.min(RUN_BYTES_MAX);
            len -= piece;
            if let Some(run) = self.run(word(self.bytes, entry, 8), piece) {
                self.found.blobs.push(run.clone());
                let sum = self.child_sum(run);
                put(self.bytes, entry + 8, &sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::samples;
    use super::*;

    #[test]
    fn sealing_a_sound_file_changes_nothing_and_finds_every_structure() {
        for sample in samples().unwrap() {
            let mut bytes = sample.image.clone();
            let found = seal(&mut bytes);
            assert!(bytes == sample.image, "{}: a checksum was computed otherwise", sample.name);
            assert_eq!(found.slots.len(), 2);
            assert!(found.nodes.iter().any(|node| node.level >= 2), "a branch");
            let counts = (found.nodes.len(), found.extents.len(), found.bitmaps.len());
            assert!(counts.0 > 25 && counts.1 > 6 && counts.2 > 2, "{counts:?}");
            assert!(!found.lists.is_empty() && found.records.len() > 8 && found.region_tables.len() == 2);
            let copies = |half: &[(Range<usize>, usize)]| half.iter().map(|(at, _)| at.start).collect::<Vec<_>>();
            let middle = found.bitmaps.len() / 2;
            assert_ne!(copies(&found.bitmaps[..middle]), copies(&found.bitmaps[middle..]), "the slots name two images");
        }
    }

    #[test]
    fn any_bytes_are_walked_to_an_end() {
        let mut random = crate::random::Random::at(5, 0);
        for len in [0, 100, BLOCK_BYTES, 3 * BLOCK_BYTES, 40_000] {
            seal(&mut random.bytes(len));
        }
    }
}
