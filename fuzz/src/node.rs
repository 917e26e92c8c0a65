//! Target `node`: damages one leaf or branch of a file, makes the checksums fit, and searches, walks and changes the trees.
//!
//! The first byte of the input says how, the second which node; after them stand edits of four bytes, or the node itself.

use super::probe::{self, Reach, Stage};
use super::sample::{Sample, Sealed, uniform_samples};
use super::seal;

/// The bytes after the second one are the node, zero behind them.
pub const WHOLE: u8 = 1;
/// Damage the file of a process that was killed.
pub const NOT_CLOSED: u8 = 2;
/// Open it for reading only.
pub const READ_ONLY: u8 = 4;
/// Make heads and the account of the heap fit the entries.
pub const FIT: u8 = 8;
/// Leave the checksums as they are, so that none of the damage gets behind them.
pub const UNSEALED: u8 = 16;

const NODE_BYTES: usize = 1024;
const HEADER_BYTES: usize = 64;
const LEAF: u8 = 1;
const UNIFORM: u8 = 1;
const EDITS_MAX: usize = 64;

/// What the damaged node was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A leaf whose entries have lengths.
    Leaf,
    /// A leaf whose entries have none.
    UniformLeaf,
    /// A branch.
    Branch,
}

/// What one input did.
#[derive(Debug)]
pub struct Outcome {
    /// What the node was.
    pub kind: Kind,
    /// How far the uses came.
    pub reach: Reach,
    /// Every row was read, but no commit made them.
    pub forged: bool,
}

/// The nodes that the newest version of a sample reaches.
#[must_use]
pub fn nodes(sample: &Sample) -> Vec<&Sealed> {
    let slot = (usize::from(sample.bytes[12] & 1) + 1) * seal::BLOCK_BYTES;
    let newest = slot..slot + seal::BLOCK_BYTES;
    let mut reached = Vec::from([newest]);
    let mut rest: Vec<&Sealed> = sample.sealed.iter().collect();
    let mut nodes = Vec::new();
    loop {
        let found: Vec<&Sealed> = rest
            .extract_if(.., |sealed| {
                sealed.stored_at.iter().any(|(at, _)| reached.iter().any(|range| range.contains(at)))
            })
            .collect();
        if found.is_empty() {
            break;
        }
        reached = found.iter().map(|sealed| sealed.start..sealed.start + sealed.len).collect();
        nodes.extend(found);
    }
    nodes.retain(|sealed| sealed.len == NODE_BYTES && is_node(&sample.bytes[sealed.start..]));
    nodes.sort_by_key(|sealed| sealed.start);
    nodes
}

fn is_node(bytes: &[u8]) -> bool {
    let leaf = bytes[0] == LEAF && bytes[30] == 1;
    (leaf || bytes[0] == 2 && bytes[30] == 2) && bytes[1] <= UNIFORM && bytes[36..HEADER_BYTES].iter().all(|b| *b == 0)
}

fn kind(node: &[u8]) -> Kind {
    match (node[0], node[1]) {
        (LEAF, 0) => Kind::Leaf,
        (LEAF, _) => Kind::UniformLeaf,
        _ => Kind::Branch,
    }
}

/// Runs one input.
///
/// # Panics
/// Where damage is read as if it had been written although the checksums were left alone.
pub fn run(data: &[u8]) -> Outcome {
    let (flags, which, rest) = match data {
        [flags, which, rest @ ..] => (*flags, *which, rest),
        _ => (0, 0, data),
    };
    let sample = if flags & NOT_CLOSED == 0 { &uniform_samples().closed } else { &uniform_samples().open };
    let nodes = nodes(sample);
    let start = nodes[usize::from(which) % nodes.len()].start;
    let mut bytes = sample.bytes.clone();
    let node = &mut bytes[start..start + NODE_BYTES];
    let kind = kind(node);
    if flags & WHOLE == 0 {
        for edit in rest.chunks_exact(4).take(EDITS_MAX) {
            apply(node, [edit[0], edit[1], edit[2], edit[3]]);
        }
    } else {
        node.fill(0);
        let len = rest.len().min(NODE_BYTES);
        node[..len].copy_from_slice(&rest[..len]);
    }
    if flags & FIT != 0 && node[0] == LEAF {
        fit(node);
    }
    if flags & UNSEALED == 0 {
        seal::everything(&mut bytes, &sample.sealed);
    }
    let reach = probe::run(&bytes, flags & READ_ONLY != 0);
    let forged =
        reach.read == Stage::Done && reach.rows.as_ref().is_some_and(|rows| !uniform_samples().states.contains(rows));
    assert!(!forged || flags & UNSEALED == 0, "damage was read as if it had been written");
    Outcome { kind, reach, forged }
}

/// Damages one place. The highest bit of the first byte aims at the header and the arrays.
fn apply(node: &mut [u8], [how, low, high, value]: [u8; 4]) {
    let range = if how & 0x80 == 0 { NODE_BYTES } else { 128 };
    let at = usize::from(u16::from_le_bytes([low, high])) % range;
    match how % 8 {
        0 | 1 => node[at] ^= value,
        2 => node[at] = value,
        3 => node[at] = node[at].wrapping_add(value),
        4 => node[at..NODE_BYTES.min(at + 8)].fill(value),
        5 => {
            // An element of an array becomes another one.
            let from = at ^ usize::from(value);
            if from + 8 <= NODE_BYTES && at + 8 <= NODE_BYTES {
                node.copy_within(from..from + 8, at);
            }
        }
        6 => node[2] = value,
        _ => {
            let word = u16::from(value) << 3;
            node[at & !1..(at & !1) + 2].copy_from_slice(&word.to_le_bytes());
        }
    }
}

fn u16_at(node: &[u8], at: usize) -> usize {
    node.get(at..at + 2).map_or(0, |word| usize::from(u16::from_le_bytes([word[0], word[1]])))
}

/// Computes the heads of a leaf and its garbage from its entries, as far as they lie inside it.
fn fit(node: &mut [u8]) {
    let (count, uniform) = (u16_at(node, 2), node[1] & UNIFORM != 0);
    let heap_end = NODE_BYTES - u16_at(node, 24).min(NODE_BYTES);
    let mut live = 0;
    for index in 0..count {
        let (head_at, slot_at) = (HEADER_BYTES + 4 * index, HEADER_BYTES + 4 * count + 2 * index);
        if slot_at + 2 > NODE_BYTES {
            return;
        }
        let at = u16_at(node, slot_at);
        let (key_word, value_word) = if uniform {
            (u16_at(node, 26), u16_at(node, 28))
        } else {
            live += 4;
            (u16_at(node, at), u16_at(node, at + 2))
        };
        let key_at = if uniform { at } else { at + 4 };
        let key_len = key_word & 0x7fff;
        live += key_len + (value_word & 0x7fff) + if key_word & 0x8000 == 0 || uniform { 0 } else { 28 };
        let mut head = [0; 4];
        if let Some(key) = node.get(key_at..key_at + key_len.min(4)) {
            head[..key.len()].copy_from_slice(key);
        }
        node[head_at..head_at + 4].copy_from_slice(&head);
    }
    let heap_start = u16_at(node, 4);
    if let Ok(garbage) = u32::try_from(heap_end.saturating_sub(heap_start).saturating_sub(live)) {
        node[32..36].copy_from_slice(&garbage.to_le_bytes());
    }
}
