//! What leaves and branches share: the header, the page prefix and the heap.
//!
//! Invariant: accessors are called only on nodes that this crate built or that passed `inspect`, so no offset that
//! they read lies outside the node.
//! Layer 3 (btree). Bytes: design.md, "Nodes".

use crate::base::ids::TransactionId;
use std::ops::Range;

/// Bytes of a node's header; what follows starts at a multiple of 64.
pub(crate) const HEADER_BYTES: usize = 64;

pub(crate) const KIND_LEAF: u8 = 1;
pub(crate) const KIND_BRANCH: u8 = 2;

/// Every key has one length and every value another, both inline: entries carry no lengths.
pub(crate) const FLAG_UNIFORM: u8 = 1;

/// Prefixes shorter than this are not worth losing contiguous keys for.
pub(crate) const PREFIX_BYTES_MIN: usize = 4;

/// Bytes of one element of the head array and of the slot array.
pub(crate) const HEAD_BYTES: usize = 4;
pub(crate) const SLOT_BYTES: usize = 2;

/// In a stored length: the rest, or the whole, is out of line.
pub(crate) const OUT_OF_LINE: u16 = 0x8000;

const AT_KIND: usize = 0;
const AT_FLAGS: usize = 1;
const AT_COUNT: usize = 2;
const AT_HEAP_START: usize = 4;
const AT_BIRTH: usize = 8;
const AT_LINEAGE: usize = 16;
const AT_PREFIX_LEN: usize = 24;
const AT_KEY_LEN: usize = 26;
const AT_VALUE_LEN: usize = 28;
const AT_LEVEL: usize = 30;
const AT_GARBAGE: usize = 32;
const AT_RESERVED: usize = 36;

pub(crate) fn get_u16(node: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([node[at], node[at + 1]])
}

pub(crate) fn get_u32(node: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([node[at], node[at + 1], node[at + 2], node[at + 3]])
}

pub(crate) fn get_u64(node: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&node[at..at + 8]);
    u64::from_le_bytes(bytes)
}

/// Stores a length or offset that the node's size bounds.
pub(crate) fn put_u16(node: &mut [u8], at: usize, value: usize) {
    let value = u16::try_from(value).expect("a node is at most 64 KiB");
    node[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_u32(node: &mut [u8], at: usize, value: usize) {
    let value = u32::try_from(value).expect("a node is at most 64 KiB");
    node[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_u64(node: &mut [u8], at: usize, value: u64) {
    node[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn kind(node: &[u8]) -> u8 {
    node[AT_KIND]
}

pub(crate) fn flags(node: &[u8]) -> u8 {
    node[AT_FLAGS]
}

pub(crate) fn is_uniform(node: &[u8]) -> bool {
    node[AT_FLAGS] & FLAG_UNIFORM != 0
}

/// Rows of a leaf, separators of a branch.
pub(crate) fn count(node: &[u8]) -> usize {
    usize::from(get_u16(node, AT_COUNT))
}

pub(crate) fn set_count(node: &mut [u8], count: usize) {
    put_u16(node, AT_COUNT, count);
}

/// One for a leaf, one more for each level above.
pub(crate) fn level(node: &[u8]) -> u8 {
    node[AT_LEVEL]
}

/// The transaction that wrote the node.
pub(crate) fn birth(node: &[u8]) -> TransactionId {
    TransactionId::new(get_u64(node, AT_BIRTH))
}

pub(crate) fn set_birth(node: &mut [u8], birth: TransactionId) {
    put_u64(node, AT_BIRTH, birth.get());
}

/// Where the lowest entry of the heap starts.
pub(crate) fn heap_start(node: &[u8]) -> usize {
    get_u32(node, AT_HEAP_START) as usize
}

pub(crate) fn set_heap_start(node: &mut [u8], start: usize) {
    put_u32(node, AT_HEAP_START, start);
}

/// Where the heap ends and the prefix starts.
pub(crate) fn heap_end(node: &[u8]) -> usize {
    node.len() - prefix_len(node)
}

/// Bytes of the heap that no entry uses any more.
pub(crate) fn garbage(node: &[u8]) -> usize {
    get_u32(node, AT_GARBAGE) as usize
}

pub(crate) fn set_garbage(node: &mut [u8], bytes: usize) {
    put_u32(node, AT_GARBAGE, bytes);
}

pub(crate) fn prefix_len(node: &[u8]) -> usize {
    usize::from(get_u16(node, AT_PREFIX_LEN))
}

/// What every key of the node starts with.
pub(crate) fn prefix(node: &[u8]) -> &[u8] {
    &node[node.len() - prefix_len(node)..]
}

/// Length of every key after the prefix, in a uniform leaf.
pub(crate) fn uniform_key_len(node: &[u8]) -> usize {
    usize::from(get_u16(node, AT_KEY_LEN))
}

/// Length of every value, in a uniform leaf.
pub(crate) fn uniform_value_len(node: &[u8]) -> usize {
    usize::from(get_u16(node, AT_VALUE_LEN))
}

/// Bytes that version 1 leaves zero.
pub(crate) fn reserved_are_zero(node: &[u8]) -> bool {
    get_u64(node, AT_LINEAGE) == 0
        && node[AT_LEVEL + 1] == 0
        && node[AT_RESERVED..HEADER_BYTES].iter().all(|byte| *byte == 0)
}

/// Everything of a header that is known when a node is built.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) kind: u8,
    pub(crate) level: u8,
    pub(crate) birth: TransactionId,
    /// Key length after the prefix, and value length, where the leaf is uniform.
    pub(crate) uniform: Option<(usize, usize)>,
}

/// Writes the header and the prefix of an empty node over whatever was there.
pub(crate) fn format(node: &mut [u8], shape: Shape, prefix: &[u8]) {
    node.fill(0);
    node[AT_KIND] = shape.kind;
    node[AT_LEVEL] = shape.level;
    set_birth(node, shape.birth);
    if let Some((key_len, value_len)) = shape.uniform {
        node[AT_FLAGS] = FLAG_UNIFORM;
        put_u16(node, AT_KEY_LEN, key_len);
        put_u16(node, AT_VALUE_LEN, value_len);
    }
    put_u16(node, AT_PREFIX_LEN, prefix.len());
    let heap_end = node.len() - prefix.len();
    node[heap_end..].copy_from_slice(prefix);
    set_heap_start(node, heap_end);
}

/// The head of a key: the first four bytes after the prefix, zero-padded, as a big-endian number.
pub(crate) fn head_of(suffix: &[u8]) -> u32 {
    let mut head = [0; HEAD_BYTES];
    let len = suffix.len().min(HEAD_BYTES);
    head[..len].copy_from_slice(&suffix[..len]);
    u32::from_be_bytes(head)
}

/// The range of entries whose head equals `head`, by binary search over the dense array.
#[inline]
pub(crate) fn equal_heads(heads: &[u8], head: u32) -> Range<usize> {
    let (heads, _) = heads.as_chunks();
    let low = partition_point(heads, |other| other < head);
    let equal = |index: usize| heads.get(index).is_some_and(|other| u32::from_be_bytes(*other) == head);
    // Most often the head is there once or not at all; a look ahead spares the second search.
    match (equal(low), equal(low + 1)) {
        (false, _) => low..low,
        (true, false) => low..low + 1,
        (true, true) => low..low + 2 + partition_point(&heads[low + 2..], |other| other == head),
    }
}

/// The first entry for which `before` does not hold; it holds for those in front of it.
fn partition_point(heads: &[[u8; HEAD_BYTES]], before: impl Fn(u32) -> bool) -> usize {
    let (mut low, mut size) = (0, heads.len());
    while size > 0 {
        let half = size / 2;
        // Without a jump that would be guessed wrong every other time.
        let is_before = before(u32::from_be_bytes(heads[low + half]));
        low = if is_before { low + half + 1 } else { low };
        size = if is_before { size - half - 1 } else { half };
    }
    low
}
