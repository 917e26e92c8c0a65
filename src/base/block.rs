//! Memory that is filled once from its beginning, and goes back to the system when it is dropped if it is long.
//!
//! Invariant: what was appended stays where it is until the block is cleared.
//! Layer 0 (base).

use memmap2::MmapMut;

/// From this length on a block is mapped: the allocator of the process would keep it, and nobody could use it meanwhile.
const MAPPED_BYTES_MIN: usize = 256 << 10;

#[derive(Debug)]
enum Memory {
    Heap(Box<[u8]>),
    Mapped(MmapMut),
}

/// Bytes that are appended up to a length that is known before.
#[derive(Debug)]
pub(crate) struct Block {
    memory: Memory,
    len: usize,
}

impl Block {
    pub(crate) fn new(capacity: usize) -> Self {
        let mapped = (capacity >= MAPPED_BYTES_MIN && !cfg!(miri)).then(|| MmapMut::map_anon(capacity));
        let memory = match mapped {
            Some(Ok(mapped)) => Memory::Mapped(mapped),
            _ => Memory::Heap(vec![0; capacity].into_boxed_slice()),
        };
        Self { memory, len: 0 }
    }

    pub(crate) fn capacity(&self) -> usize {
        match &self.memory {
            Memory::Heap(bytes) => bytes.len(),
            Memory::Mapped(bytes) => bytes.len(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// How much more can be appended.
    pub(crate) fn room(&self) -> usize {
        self.capacity() - self.len
    }

    /// Appends bytes for which there is room.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        let memory = match &mut self.memory {
            Memory::Heap(memory) => &mut memory[..],
            Memory::Mapped(memory) => &mut memory[..],
        };
        memory[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        match &self.memory {
            Memory::Heap(memory) => &memory[..self.len],
            Memory::Mapped(memory) => &memory[..self.len],
        }
    }

    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_blocks_hold_what_was_appended() {
        for capacity in [0, 10, MAPPED_BYTES_MIN - 1, MAPPED_BYTES_MIN, 3 << 20] {
            let mut block = Block::new(capacity);
            assert_eq!((block.capacity(), block.len(), block.room()), (capacity, 0, capacity));
            let bytes: Vec<u8> = (0..capacity).map(|at| at.to_le_bytes()[0]).collect();
            let (first, rest) = bytes.split_at(capacity / 3);
            block.append(first);
            block.append(rest);
            assert_eq!((block.as_slice(), block.room()), (&bytes[..], 0));
            block.clear();
            assert_eq!((block.as_slice(), block.room()), (&[][..], capacity));
        }
    }
}
