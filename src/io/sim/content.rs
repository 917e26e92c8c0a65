//! The bytes of a simulated disk, shared between snapshots until they are changed.
//!
//! Invariant: bytes past the length are zero; a snapshot never changes after it was cloned.
//! Layer 1 (io).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// What is shared and copied at a time, and the larger of the two tear sizes.
pub(super) const BLOCK_BYTES: usize = 4096;
const BLOCK: u64 = BLOCK_BYTES as u64;
const CHUNK_BLOCKS: usize = 64;

pub(super) type Block = [u8; BLOCK_BYTES];
type Chunk = Vec<Option<Arc<Block>>>;

/// Bytes of one write that lie in one block.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) block: u64,
    /// Part of `bytes` that was written.
    pub(super) range: Range<usize>,
    pub(super) bytes: Arc<Block>,
}

/// Cuts the bytes of a write at block boundaries.
pub(super) fn split(offset: u64, bytes: &[u8]) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(bytes.len() / BLOCK_BYTES + 2);
    let (mut block, mut start) = locate(offset);
    let mut rest = bytes;
    while !rest.is_empty() {
        let (part, tail) = rest.split_at(rest.len().min(BLOCK_BYTES - start));
        let range = start..start + part.len();
        let mut copy = Arc::new([0; BLOCK_BYTES]);
        Arc::make_mut(&mut copy)[range.clone()].copy_from_slice(part);
        pieces.push(Piece { block, range, bytes: copy });
        (block, start, rest) = (block + 1, 0, tail);
    }
    pieces
}

/// Number of the block that holds the byte, and the place in it.
fn locate(offset: u64) -> (u64, usize) {
    let place = usize::try_from(offset % BLOCK).expect("a remainder by 4096 fits every index");
    (offset / BLOCK, place)
}

/// Number of the chunk that holds the block, and the place in it.
fn locate_block(block: u64) -> (u64, usize) {
    let count = CHUNK_BLOCKS as u64;
    let place = usize::try_from(block % count).expect("a remainder by 64 fits every index");
    (block / count, place)
}

/// Sparse bytes with a length. Cloning costs one reference per 256 KiB that were ever written.
#[derive(Clone, Default)]
pub(super) struct Content {
    chunks: BTreeMap<u64, Arc<Chunk>>,
    len: u64,
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Content {
    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        let mut content = Self::default();
        content.set_len(bytes.len() as u64);
        for piece in split(0, bytes) {
            content.put(&piece);
        }
        content
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Copies bytes out; those past the length read as zero.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) {
        let (mut block, mut start) = locate(offset);
        let mut rest = out;
        while !rest.is_empty() {
            let count = rest.len().min(BLOCK_BYTES - start);
            let (part, tail) = rest.split_at_mut(count);
            match self.block(block) {
                Some(bytes) => part.copy_from_slice(&bytes[start..start + count]),
                None => part.fill(0),
            }
            (block, start, rest) = (block + 1, 0, tail);
        }
    }

    fn block(&self, block: u64) -> Option<&Arc<Block>> {
        let (chunk, place) = locate_block(block);
        self.chunks.get(&chunk)?[place].as_ref()
    }

    fn block_entry(&mut self, block: u64) -> &mut Option<Arc<Block>> {
        let (chunk, place) = locate_block(block);
        let chunk = self.chunks.entry(chunk).or_insert_with(|| Arc::new(vec![None; CHUNK_BLOCKS]));
        &mut Arc::make_mut(chunk)[place]
    }

    /// Stores what was written, as far as it lies below the length.
    pub(super) fn put(&mut self, piece: &Piece) {
        self.put_part(piece, piece.range.clone());
    }

    /// Stores the part of a piece that lies in `range` and below the length.
    pub(super) fn put_part(&mut self, piece: &Piece, range: Range<usize>) {
        let below_len = usize::try_from(self.len.saturating_sub(piece.block * BLOCK).min(BLOCK))
            .expect("at most 4096 fits every index");
        let range = range.start.max(piece.range.start)..range.end.min(piece.range.end).min(below_len);
        if range.is_empty() {
            return;
        }
        let entry = self.block_entry(piece.block);
        if range.len() == BLOCK_BYTES {
            *entry = Some(Arc::clone(&piece.bytes));
        } else {
            let target = entry.get_or_insert_with(|| Arc::new([0; BLOCK_BYTES]));
            Arc::make_mut(target)[range.clone()].copy_from_slice(&piece.bytes[range]);
        }
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            let (block, start) = locate(len);
            let (chunk, place) = locate_block(block);
            self.chunks.split_off(&(chunk + 1));
            if let Some(last) = self.chunks.get_mut(&chunk) {
                let last = Arc::make_mut(last);
                last[place + 1..].fill(None);
                if start == 0 {
                    last[place] = None;
                } else if let Some(bytes) = &mut last[place] {
                    Arc::make_mut(bytes)[start..].fill(0);
                }
            }
        }
        self.len = len;
    }

    /// Inverts one bit, where the byte exists.
    pub(super) fn flip_bit(&mut self, offset: u64, bit: u8) {
        if offset < self.len {
            let (block, place) = locate(offset);
            let bytes = self.block_entry(block).get_or_insert_with(|| Arc::new([0; BLOCK_BYTES]));
            Arc::make_mut(bytes)[place] ^= 1 << (bit % 8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SPAN: usize = 3 * CHUNK_BLOCKS * BLOCK_BYTES;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
        #[test]
        fn content_reads_like_a_vector_and_snapshots_stay(
            steps in prop::collection::vec((0..SPAN, 0..3 * BLOCK_BYTES, any::<u8>(), any::<bool>()), 1..20),
        ) {
            let mut content = Content::default();
            let mut model: Vec<u8> = Vec::new();
            let mut kept: Vec<(Content, Vec<u8>)> = Vec::new();
            for (offset, len, fill, shrink) in steps {
                kept.push((content.clone(), model.clone()));
                if shrink {
                    content.set_len(offset as u64);
                    model.resize(offset, 0);
                } else {
                    let end = model.len().max(offset + len);
                    content.set_len(end as u64);
                    model.resize(end, 0);
                    model[offset..offset + len].fill(fill);
                    for piece in split(offset as u64, &vec![fill; len]) {
                        content.put(&piece);
                    }
                }
            }
            kept.push((content, model));
            for (content, model) in kept {
                let mut bytes = vec![1; model.len()];
                content.read(0, &mut bytes);
                prop_assert!(bytes == model);
            }
        }
    }
}
