//! What a store must offer to be measured.

use crate::Result;
use crate::data::{Key, Row};

/// A store with one open database. Each call is one transaction; a change is durable when the call returns.
pub(crate) trait Engine {
    /// Name in the table.
    fn name(&self) -> &'static str;

    /// Inserts all rows.
    fn insert(&mut self, rows: &[Row]) -> Result<()>;

    /// Looks every key up and digests the values that are there.
    fn read(&self, keys: &[Key]) -> Result<Digest>;

    /// From each key on, reads the next `len` rows.
    fn scan(&self, starts: &[Key], len: usize) -> Result<Digest>;

    /// Removes every key and digests the values that were there.
    fn remove(&mut self, keys: &[Key]) -> Result<Digest>;
}

/// Sums up what was read, so that no store can skip the reading and all must agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Digest {
    rows: u64,
    mixed: u64,
}

impl Digest {
    /// Adds one value, of which every cache line is touched.
    pub(crate) fn add(&mut self, value: &[u8]) {
        self.rows += 1;
        for chunk in value.chunks(64) {
            let word = chunk.first_chunk().map_or(u64::from(chunk[0]), |word| u64::from_le_bytes(*word));
            self.mixed = self.mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(word).rotate_left(23);
        }
    }

    /// Number of values added.
    pub(crate) fn rows(self) -> u64 {
        self.rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_differ_for_other_values_and_another_order() {
        let digest = |values: &[&[u8]]| {
            let mut digest = Digest::default();
            values.iter().for_each(|value| digest.add(value));
            digest
        };
        assert_eq!(digest(&[b"one", b"two"]), digest(&[b"one", b"two"]));
        assert_ne!(digest(&[b"one", b"two"]), digest(&[b"two", b"one"]));
        assert_ne!(digest(&[&[1; 150]]), digest(&[&[2; 150]]));
        assert_ne!(digest(&[]), digest(&[b""]));
    }
}
