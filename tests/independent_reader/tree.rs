//! Trees: nodes, long keys, large values, and the walk over all rows in key order.
//!
//! Each pointer is followed only after bounds and checksum matched, and each run that is reached is noted, so that the
//! space of the file can be accounted for. Uses no code of `src/` and follows design.md, from "Runs and extent lists"
//! to "Branch".

use super::blocks::{Layout, Opened, TreeRoot};
use super::bytes::{Result, all_zero, child_checksum, digest, part, require, size, u16_at, u32_at, u64_at};

const HEADER_BYTES: usize = 64;
const EXTENT_BYTES: usize = 28;
const KEY_BYTES_MAX: usize = 65536;

/// What a run of adjacent units holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunKind {
    Node { level: u8, uniform: bool, prefixed: bool },
    Piece,
    List,
    RegionTable,
    Log,
}

/// A run that the slot reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) page: usize,
    /// Bytes that mean something; what follows in the last unit is padding.
    pub(crate) length: usize,
    pub(crate) kind: RunKind,
}

/// Receives the rows of a tree: key and value as stored bytes.
pub(crate) type RowSink<'s> = dyn FnMut(&[u8], &[u8]) -> Result<()> + 's;

/// A walk over trees of one slot, and the runs reached so far.
pub(crate) struct Walk<'f> {
    file: &'f Opened,
    layout: Layout,
    pub(crate) runs: Vec<Run>,
}

/// The part of the key space that the branches above a node leave to it.
#[derive(Clone, Copy)]
struct Bounds<'k> {
    low: Option<&'k [u8]>,
    high: Option<&'k [u8]>,
}

impl<'f> Walk<'f> {
    pub(crate) fn new(file: &'f Opened) -> Self {
        Self { file, layout: file.slot.layout, runs: Vec::new() }
    }

    /// The first `length` bytes of the run at `page`, which must lie in the usable units of one region.
    pub(crate) fn run(&mut self, page: u64, length: usize, kind: RunKind) -> Result<&'f [u8]> {
        let whole_units = self.layout.run(&self.file.bytes, page, length.div_ceil(self.layout.unit_bytes))?;
        let page = size(page)?;
        self.runs.push(Run { page, length, kind });
        Ok(&whole_units[..length])
    }

    /// Passes every row below the root to `sink`, in key order.
    pub(crate) fn tree(&mut self, root: &TreeRoot, sink: &mut RowSink<'_>) -> Result<()> {
        if root.page == 0 {
            return Ok(());
        }
        let bytes = self.node_run(root.page)?;
        require(digest(bytes) == root.digest, "the digest of a root node does not match")?;
        let node = Node::decode(bytes, root.height)?;
        require(root.height == 1 || node.count > 0, "a root that is a branch has no separator")?;
        let mut rows = 0;
        let mut count = |key: &[u8], value: &[u8]| {
            rows += 1;
            sink(key, value)
        };
        self.node(&node, self.file.slot.transaction, Bounds { low: None, high: None }, &mut count)?;
        require(rows == root.rows, "a root counts other rows than its leaves hold")
    }

    fn node_run(&mut self, page: u64) -> Result<&'f [u8]> {
        let bytes =
            self.run(page, self.layout.node_bytes, RunKind::Node { level: 0, uniform: false, prefixed: false })?;
        if let (Some(run), [_, flags, ..]) = (self.runs.last_mut(), bytes) {
            let prefixed = u16_at(bytes, 24)? > 0;
            run.kind = RunKind::Node { level: bytes[30], uniform: flags & 1 != 0, prefixed };
        }
        Ok(bytes)
    }

    fn node(&mut self, node: &Node<'f>, birth_max: u64, bounds: Bounds<'_>, sink: &mut RowSink<'_>) -> Result<()> {
        require((1..=birth_max).contains(&node.birth), "a node is younger than its parent, or of no transaction")?;
        let mut keys: Vec<Vec<u8>> = Vec::new();
        for entry in node.entries()? {
            let mut key = [node.prefix, entry.suffix].concat();
            if let Some(rest) = entry.rest {
                key.extend(self.extent(rest, node.birth)?);
            }
            require(key.len() <= KEY_BYTES_MAX, "a key is too long")?;
            let above_last = keys.last().is_none_or(|last| *last < key);
            let in_bounds = bounds.low.is_none_or(|low| *low <= *key) && bounds.high.is_none_or(|high| *key < *high);
            require(above_last && in_bounds, "a key is out of order")?;
            match entry.value {
                Value::None => {}
                Value::Inline(value) => sink(&key, value)?,
                Value::Extent(reference) => sink(&key, &self.extent(reference, node.birth)?)?,
            }
            keys.push(key);
        }
        for index in 0..node.children() {
            let page = u64_at(node.bytes, HEADER_BYTES + 8 * index)?;
            let checksum = u64_at(node.bytes, HEADER_BYTES + 8 * (node.children() + index))?;
            require(page != 0 && page < 1 << 48, "a child word is no page number")?;
            let bytes = self.node_run(page)?;
            require(child_checksum(bytes) == checksum, "the checksum of a node does not match")?;
            let low = index.checked_sub(1).map_or(bounds.low, |before| keys.get(before).map(Vec::as_slice));
            let high = keys.get(index).map_or(bounds.high, |key| Some(key.as_slice()));
            self.node(&Node::decode(bytes, node.level - 1)?, node.birth, Bounds { low, high }, sink)?;
        }
        Ok(())
    }

    /// The bytes that an extent reference names.
    fn extent(&mut self, reference: &[u8], birth_max: u64) -> Result<Vec<u8>> {
        let word = u64_at(reference, 0)?;
        let page = word & ((1 << 48) - 1);
        let length = size(u32_at(reference, 8)?)?;
        let birth = u64_at(reference, 12)?;
        let checksum = u64_at(reference, 20)?;
        let piece_bytes = self.layout.run_bytes_max();
        require(page != 0 && length != 0 && word >> 49 == 0, "an extent reference has no page or length, or odd bits")?;
        require((word >> 48 == 1) == (length > piece_bytes), "an extent's list flag contradicts its length")?;
        require((1..=birth_max).contains(&birth), "an extent is younger than its leaf, or of no transaction")?;
        let mut value = Vec::new();
        if length <= piece_bytes {
            self.piece(page, length, checksum, &mut value)?;
            return Ok(value);
        }
        let list = self.run(page, 16 * length.div_ceil(piece_bytes), RunKind::List)?;
        require(child_checksum(list) == checksum, "the checksum of an extent list does not match")?;
        for entry in list.chunks(16) {
            let left = length - value.len();
            self.piece(u64_at(entry, 0)?, left.min(piece_bytes), u64_at(entry, 8)?, &mut value)?;
        }
        Ok(value)
    }

    fn piece(&mut self, page: u64, length: usize, checksum: u64, value: &mut Vec<u8>) -> Result<()> {
        let bytes = self.run(page, length, RunKind::Piece)?;
        require(child_checksum(bytes) == checksum, "the checksum of an extent does not match")?;
        value.extend_from_slice(bytes);
        Ok(())
    }
}

/// The header of a node whose checksum matched.
struct Node<'f> {
    bytes: &'f [u8],
    is_leaf: bool,
    /// Lengths of every key behind the prefix and of every value, in a uniform leaf.
    uniform: Option<(usize, usize)>,
    /// Rows of a leaf, separators of a branch.
    count: usize,
    heap_start: usize,
    birth: u64,
    prefix: &'f [u8],
    level: u8,
    garbage: usize,
}

/// A row of a leaf or a separator of a branch.
struct Entry<'f> {
    suffix: &'f [u8],
    /// Extent reference of the key's bytes behind the inline ones.
    rest: Option<&'f [u8]>,
    value: Value<'f>,
    length: usize,
}

enum Value<'f> {
    /// Of a separator.
    None,
    Inline(&'f [u8]),
    Extent(&'f [u8]),
}

impl<'f> Node<'f> {
    fn decode(bytes: &'f [u8], level: u8) -> Result<Self> {
        let header = part(bytes, 0, HEADER_BYTES)?;
        let [kind, flags] = [header[0], header[1]];
        require((kind, level) == (1, 1) || kind == 2 && level > 1, "a node's kind contradicts its level")?;
        require(flags == 0 || (kind, flags) == (1, 1), "a node has flags of no meaning")?;
        require(header[30] == level, "a node has another level than its parent implies")?;
        let zero = all_zero(&header[16..24]) && header[31] == 0 && all_zero(&header[36..]);
        require(zero, "a node's reserved bytes are not zero")?;
        let prefix_bytes = size(u16_at(header, 24)?)?;
        require(prefix_bytes <= bytes.len() / 16, "a node's prefix is too long")?;
        let lengths = (size(u16_at(header, 26)?)?, size(u16_at(header, 28)?)?);
        let node = Self {
            bytes,
            is_leaf: kind == 1,
            uniform: (flags == 1).then_some(lengths),
            count: size(u16_at(header, 2)?)?,
            heap_start: size(u32_at(header, 4)?)?,
            birth: u64_at(header, 8)?,
            prefix: &bytes[bytes.len() - prefix_bytes..],
            level,
            garbage: size(u32_at(header, 32)?)?,
        };
        require(!node.is_leaf || node.count > 0, "a leaf has no row")?;
        let arrays_end = node.slots_start() + 2 * node.count;
        require(
            (arrays_end..=node.heap_end()).contains(&node.heap_start),
            "a node's heap overlaps its arrays or prefix",
        )?;
        Ok(node)
    }

    fn children(&self) -> usize {
        if self.is_leaf { 0 } else { self.count + 1 }
    }

    fn heads_start(&self) -> usize {
        HEADER_BYTES + 16 * self.children()
    }

    fn slots_start(&self) -> usize {
        self.heads_start() + 4 * self.count
    }

    fn heap_end(&self) -> usize {
        self.bytes.len() - self.prefix.len()
    }

    /// All entries in key order, after inspecting heads and the account of the heap.
    fn entries(&self) -> Result<Vec<Entry<'f>>> {
        let mut entries = Vec::new();
        let mut places = Vec::new();
        for index in 0..self.count {
            let offset = size(u16_at(self.bytes, self.slots_start() + 2 * index)?)?;
            let entry = self.entry(offset)?;
            let head = part(self.bytes, self.heads_start() + 4 * index, 4)?;
            let padded = entry.suffix.iter().copied().chain([0; 4]).take(4);
            require(padded.eq(head.iter().copied()), "a head differs from its key")?;
            places.push((offset, offset + entry.length));
            entries.push(entry);
        }
        places.sort_unstable();
        let in_heap = places.iter().all(|(start, end)| *start >= self.heap_start && *end <= self.heap_end());
        let disjoint = places.windows(2).all(|pair| pair[0].1 <= pair[1].0);
        require(in_heap && disjoint, "an entry leaves the heap or overlaps another")?;
        let used: usize = entries.iter().map(|entry| entry.length).sum();
        require(used + self.garbage == self.heap_end() - self.heap_start, "a heap's account is wrong")?;
        Ok(entries)
    }

    fn entry(&self, offset: usize) -> Result<Entry<'f>> {
        let heap = part(self.bytes, 0, self.heap_end())?;
        let inline_bytes_max = self.bytes.len() / 16;
        if let Some((key_bytes, value_bytes)) = self.uniform {
            require(self.prefix.len() + key_bytes <= inline_bytes_max, "too much of a key is inline")?;
            let suffix = part(heap, offset, key_bytes)?;
            let value = Value::Inline(part(heap, offset + key_bytes, value_bytes)?);
            return Ok(Entry { suffix, rest: None, value, length: key_bytes + value_bytes });
        }
        let key_word = u16_at(heap, offset)?;
        let value_word = if self.is_leaf { u16_at(heap, offset + 2)? } else { 0 };
        let mut at = offset + if self.is_leaf { 4 } else { 2 };
        let mut take = |length: usize| {
            let taken = part(heap, at, length);
            at += length;
            taken
        };
        let suffix = take(usize::from(key_word & 0x7FFF))?;
        let rest = if key_word >> 15 == 1 { Some(take(EXTENT_BYTES)?) } else { None };
        let stored = take(usize::from(value_word & 0x7FFF))?;
        let inline_bytes = self.prefix.len() + suffix.len();
        let fits = if rest.is_some() { inline_bytes == inline_bytes_max } else { inline_bytes <= inline_bytes_max };
        require(fits, "a key has another inline length than it may")?;
        let value = match (self.is_leaf, value_word >> 15) {
            (false, _) => Value::None,
            (true, 0) => Value::Inline(stored),
            (true, _) => {
                require(stored.len() == EXTENT_BYTES, "an extent reference has another length")?;
                Value::Extent(stored)
            }
        };
        Ok(Entry { suffix, rest, value, length: at - offset })
    }
}
