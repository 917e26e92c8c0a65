//! Mutations of a file: what a hostile or broken writer could leave where it computes all checksums.

use super::anatomy::{Anatomy, BLOCK_BYTES, HEADER_FIELDS, Node, SLOT_FIELDS, put, word};
use super::sample::{NODE_BYTES, UNIT_BYTES};
use crate::random::Random;
use std::ops::Range;

/// Numbers that lengths, counts and page numbers are likely to be compared with.
const WILD: &[u64] = &[
    0,
    1,
    2,
    23,
    24,
    25,
    26,
    63,
    64,
    255,
    256,
    512,
    1023,
    1024,
    4096,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x1_0000,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
    1 << 40,
    (1 << 48) - 1,
    1 << 48,
    1 << 49,
    i64::MAX as u64,
    u64::MAX,
];

/// Offsets and widths of the fields of a node's header.
const NODE_FIELDS: &[(usize, usize)] =
    &[(0, 1), (1, 1), (2, 2), (4, 4), (8, 8), (16, 8), (24, 2), (26, 2), (28, 2), (30, 1), (32, 4), (36, 4)];
/// The same of a slot, as far as opening reads them.
const SLOT_NUMBERS: &[(usize, usize)] = &[
    (8, 8),
    (16, 8),
    (24, 8),
    (48, 8),
    (64, 8),
    (104, 8),
    (112, 1),
    (120, 8),
    (160, 8),
    (168, 1),
    (176, 8),
    (184, 8),
    (224, 8),
    (416, 8),
];
/// The same of the immutable fields.
const FORMAT_NUMBERS: &[(usize, usize)] =
    &[(0, 4), (4, 4), (8, 4), (12, 4), (16, 1), (17, 1), (18, 1), (19, 1), (20, 4), (24, 8), (32, 8), (40, 8), (64, 1)];

/// Damages a file in one to three places; its checksums are not touched on purpose.
pub(super) fn mutate(bytes: &mut Vec<u8>, anatomy: &Anatomy, random: &mut Random) {
    for _ in 0..=random.weighted(&[6, 2, 1]) {
        mutate_once(bytes, anatomy, random);
    }
}

fn mutate_once(bytes: &mut Vec<u8>, found: &Anatomy, random: &mut Random) {
    let weights = [10, 10, 8, 6, 6, 6, 10, 4, 8, 10, 8, 4, 5, 6, 3, 2, 3, 8];
    match random.weighted(&weights) {
        0 => any_byte(bytes, found, random),
        1 => field(bytes, pick(random, &found.nodes).at, NODE_FIELDS, random),
        2 => entry_words(bytes, *pick(random, &found.nodes), random),
        3 => fill(bytes, found, random),
        4 => copy_node(bytes, found, random, true),
        5 => copy_node(bytes, found, random, false),
        6 => child(bytes, found, random),
        7 => copy_unit(bytes, random),
        8 => extent(bytes, found, random),
        9 => record(bytes, pick(random, &found.records).clone(), random),
        10 => root(bytes, found, random),
        11 => list(bytes, found, random),
        12 => slot(bytes, found, random),
        13 => regions(bytes, found, random),
        14 => format(bytes, found, random),
        15 => length(bytes, random),
        16 => put(bytes, 12, &random.bytes(1)),
        _ => heap_byte(bytes, *pick(random, &found.nodes), random),
    }
}

fn pick<'a, T>(random: &mut Random, from: &'a [T]) -> &'a T {
    random.pick(from)
}

/// A number that is likely to hurt where `old` stands now.
fn hostile(old: u64, random: &mut Random) -> u64 {
    match random.below(5) {
        0 => random.next(),
        1 => old.wrapping_add(1),
        2 => old.wrapping_sub(1),
        3 => old ^ 1 << random.below(64),
        _ => *random.pick(WILD),
    }
}

fn set(bytes: &mut [u8], at: usize, width: usize, value: u64) {
    put(bytes, at, &value.to_le_bytes()[..width]);
}

fn field(bytes: &mut [u8], at: usize, fields: &[(usize, usize)], random: &mut Random) {
    let (offset, width) = *random.pick(fields);
    let old = word(bytes, at + offset, width);
    set(bytes, at + offset, width, hostile(old, random));
}

/// A node, value, region table, bitmap or slot.
fn target(found: &Anatomy, random: &mut Random) -> Range<usize> {
    match random.weighted(&[10, 4, 2, 2, 2]) {
        0 => {
            let at = pick(random, &found.nodes).at;
            at..at + NODE_BYTES
        }
        1 => pick(random, &found.blobs).clone(),
        2 => pick(random, &found.region_tables).clone(),
        3 => pick(random, &found.bitmaps).0.clone(),
        _ => {
            let at = *pick(random, &found.slots);
            at..at + 432
        }
    }
}

fn any_byte(bytes: &mut [u8], found: &Anatomy, random: &mut Random) {
    let target = target(found, random);
    let at = target.start + random.below(target.len());
    let new = match random.below(3) {
        0 => random.bytes(1)[0],
        1 => word(bytes, at, 1).to_le_bytes()[0] ^ 1 << random.below(8),
        _ => *random.pick(&[0, 1, 0x7F, 0x80, 0xFF]),
    };
    put(bytes, at, &[new]);
}

fn fill(bytes: &mut [u8], found: &Anatomy, random: &mut Random) {
    let target = target(found, random);
    let at = target.start + random.below(target.len());
    let len = random.between(1, 64).min(target.end - at);
    let new = match random.below(3) {
        0 => random.bytes(len),
        1 => vec![0xFF; len],
        _ => vec![0; len],
    };
    put(bytes, at, &new);
}

/// Lengths of an entry, or where its slot points.
fn entry_words(bytes: &mut [u8], node: Node, random: &mut Random) {
    let count = usize::try_from(word(bytes, node.at + 2, 2)).unwrap_or(0);
    if count == 0 {
        return;
    }
    let arrays = if node.level > 1 { 64 + 16 * (count + 1) + 4 * count } else { 64 + 4 * count };
    let slot = node.at + arrays + 2 * random.below(count);
    let entry = node.at + usize::try_from(word(bytes, slot, 2)).unwrap_or(0);
    let at = *random.pick(&[slot, entry, entry + 2]);
    let old = word(bytes, at, 2);
    let new = if random.chance(300) { old ^ 0x8000 } else { hostile(old, random) };
    set(bytes, at, 2, new);
}

fn copy_node(bytes: &mut [u8], found: &Anatomy, random: &mut Random, swap: bool) {
    let (first, second) = (pick(random, &found.nodes).at, pick(random, &found.nodes).at);
    let [one, other] = [first, second].map(|at| bytes.get(at..at + NODE_BYTES).unwrap_or_default().to_vec());
    put(bytes, second, &one);
    if swap {
        put(bytes, first, &other);
    }
}

fn copy_unit(bytes: &mut [u8], random: &mut Random) {
    let units = bytes.len() / UNIT_BYTES;
    if units > 0 {
        let (from, to) = (random.below(units) * UNIT_BYTES, random.below(units) * UNIT_BYTES);
        bytes.copy_within(from..from + UNIT_BYTES, to);
    }
}

/// The page number of a node, of a value, or a wild one.
fn page(found: &Anatomy, random: &mut Random) -> u64 {
    let at = match random.below(4) {
        0 | 1 => pick(random, &found.nodes).at,
        2 => pick(random, &found.blobs).start,
        _ => return *random.pick(WILD),
    };
    (at / UNIT_BYTES) as u64 + u64::from(random.chance(100))
}

/// Points a child elsewhere, two children at each other's places, or all at one.
fn child(bytes: &mut [u8], found: &Anatomy, random: &mut Random) {
    let branches: Vec<Node> = found.nodes.iter().copied().filter(|node| node.level > 1).collect();
    let at = pick(random, &branches).at;
    let count = usize::try_from(word(bytes, at + 2, 2)).unwrap_or(0).min(NODE_BYTES / 8) + 1;
    let place = |index: usize| at + 64 + 8 * index;
    let index = random.below(count);
    match random.below(4) {
        0 => {
            let other = random.below(count);
            let (one, two) = (word(bytes, place(index), 8), word(bytes, place(other), 8));
            set(bytes, place(index), 8, two);
            set(bytes, place(other), 8, one);
        }
        1 => {
            let one = word(bytes, place(index), 8);
            (0..count).for_each(|other| set(bytes, place(other), 8, one));
        }
        _ => {
            let new = page(found, random);
            set(bytes, place(index), 8, new);
        }
    }
}

fn extent(bytes: &mut [u8], found: &Anatomy, random: &mut Random) {
    let at = *pick(random, &found.extents);
    match random.below(4) {
        0 => {
            let new = page(found, random);
            set(bytes, at, 8, new);
        }
        1 => {
            let other = *pick(random, &found.extents);
            let reference = bytes.get(other..other + 28).unwrap_or_default().to_vec();
            put(bytes, at, &reference);
        }
        2 => {
            // The length and the flag that goes with it, so that the length itself is believed.
            let len =
                *random.pick(&[1, 500, 8_192, 8_193, 20_000, 50_000, 200_000, 0x00FF_FFFF, 0x7FFF_FFFF, 0xFFFF_FFFF]);
            let page = word(bytes, at, 6);
            set(bytes, at, 8, if len > 8_192 { page | 1 << 48 } else { page });
            set(bytes, at + 8, 4, len);
        }
        _ => field(bytes, at, &[(0, 8), (8, 4), (12, 8)], random),
    }
}

/// A table record: its numbers, its root, what of the log is in its tree, its descriptors.
fn record(bytes: &mut [u8], record: Range<usize>, random: &mut Random) {
    let at = record.start;
    match random.below(5) {
        0 => field(bytes, at, &[(0, 8), (8, 1), (9, 1), (10, 1), (11, 1), (12, 4), (72, 8), (80, 2)], random),
        1 => field(bytes, at + 16, &[(0, 8), (40, 8), (48, 1), (49, 1)], random),
        2 => {
            let key = usize::try_from(word(bytes, at + 80, 2)).unwrap_or(0);
            field(bytes, at + 82 + key, &[(0, 1), (0, 2)], random);
        }
        _ => {
            const TAGS: &[u8] = &[
                0, 1, 2, 0x10, 0x11, 0x13, 0x14, 0x18, 0x1B, 0x20, 0x21, 0x28, 0x30, 0x31, 0x32, 0x40, 0x41, 0x42,
                0x43, 0x44, 0x50, 0x51,
            ];
            let place = record.start + 80 + random.below(record.len().saturating_sub(80).max(1));
            put(bytes, place, &[*random.pick(TAGS)]);
        }
    }
}

fn root(bytes: &mut [u8], found: &Anatomy, random: &mut Random) {
    let at = *pick(random, &found.roots);
    match random.below(4) {
        0 => {
            let new = page(found, random);
            set(bytes, at, 8, new);
        }
        1 => {
            let other = *pick(random, &found.roots);
            let copy = bytes.get(other..other + 56).unwrap_or_default().to_vec();
            put(bytes, at, &copy);
        }
        2 => {
            // A root at another level, with its true height.
            let node = pick(random, &found.nodes);
            set(bytes, at, 8, (node.at / UNIT_BYTES) as u64);
            set(bytes, at + 48, 1, node.level.into());
        }
        _ => field(bytes, at, &[(0, 8), (40, 8), (48, 1), (49, 1)], random),
    }
}

fn list(bytes: &mut [u8], found: &Anatomy, random: &mut Random) {
    let list = pick(random, &found.lists).clone();
    let entry = list.start + 16 * random.below((list.len() / 16).max(1));
    let new = page(found, random);
    set(bytes, entry, 8, new);
}

fn slot(bytes: &mut [u8], found: &Anatomy, random: &mut Random) {
    let at = *pick(random, &found.slots);
    if random.chance(100) && bytes.len() >= 3 * BLOCK_BYTES {
        bytes.copy_within(BLOCK_BYTES..2 * BLOCK_BYTES, 2 * BLOCK_BYTES);
    } else {
        field(bytes, at, SLOT_NUMBERS, random);
    }
}

/// A region table or a bitmap, with counts that fit or not.
fn regions(bytes: &mut [u8], found: &Anatomy, random: &mut Random) {
    let table = pick(random, &found.region_tables).clone();
    match random.below(4) {
        0 => field(bytes, table.start, &[(0, 4), (4, 4)], random),
        1 => {
            let entries = (table.len().saturating_sub(8) / 24).max(1);
            let entry = table.start + 8 + 24 * random.below(entries);
            field(bytes, entry, &[(0, 8), (16, 4), (20, 1), (21, 1), (22, 2)], random);
        }
        _ => {
            let (bitmap, entry) = pick(random, &found.bitmaps).clone();
            let (byte, bit) = (bitmap.start + random.below(bitmap.len()), random.below(8));
            let was = word(bytes, byte, 1) >> bit & 1;
            let new = word(bytes, byte, 1) ^ 1 << bit;
            set(bytes, byte, 1, new);
            if random.chance(700) {
                let free = word(bytes, entry + 16, 4).wrapping_add(was).wrapping_sub(1 - was);
                set(bytes, entry + 16, 4, free);
            }
        }
    }
}

/// The immutable fields, alike in block 0 and both slots or in one of them only.
fn format(bytes: &mut [u8], found: &Anatomy, random: &mut Random) {
    let (offset, width) = *random.pick(FORMAT_NUMBERS);
    let old = word(bytes, HEADER_FIELDS + offset, width);
    let new = match random.below(3) {
        0 => old << random.below(8),
        1 => old >> random.below(8),
        _ => hostile(old, random),
    };
    let only = random.below(6);
    let places = [HEADER_FIELDS].into_iter().chain(found.slots.iter().map(|slot| slot + SLOT_FIELDS));
    for (index, place) in places.enumerate() {
        if only > 2 || only == index {
            set(bytes, place + offset, width, new);
        }
    }
}

fn length(bytes: &mut Vec<u8>, random: &mut Random) {
    if random.chance(500) {
        bytes.truncate(random.below(bytes.len().max(1)));
    } else {
        bytes.extend_from_slice(&random.bytes(700));
    }
}

/// A byte of what rows keep: keys, values, references, table records.
fn heap_byte(bytes: &mut [u8], node: Node, random: &mut Random) {
    let start = usize::try_from(word(bytes, node.at + 4, 4)).unwrap_or(0).min(NODE_BYTES - 1);
    let at = node.at + start + random.below(NODE_BYTES - start);
    let new = *random.pick(&[0, 1, 0x3F, 0x7F, 0xC3, 0xFF]);
    put(bytes, at, &[new]);
}
