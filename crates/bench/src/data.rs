//! The rows that every store gets, made from a seed.

use fastrand::Rng;

/// Length of every key.
pub(crate) const KEY_BYTES: usize = 24;
/// Length of every value.
pub(crate) const VALUE_BYTES: usize = 150;

/// A random key.
pub(crate) type Key = [u8; KEY_BYTES];

/// A key and its value.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) key: Key,
    pub(crate) value: [u8; VALUE_BYTES],
}

/// Rows with random keys and random, so incompressible, values.
pub(crate) fn rows(count: usize, rng: &mut Rng) -> Vec<Row> {
    let mut row = Row { key: [0; KEY_BYTES], value: [0; VALUE_BYTES] };
    (0..count)
        .map(|_| {
            rng.fill(&mut row.key);
            rng.fill(&mut row.value);
            row.clone()
        })
        .collect()
}

/// Keys of `count` rows, chosen at random with repetition.
pub(crate) fn pick_keys(rows: &[Row], count: usize, rng: &mut Rng) -> Vec<Key> {
    (0..count).map(|_| rows[rng.usize(..rows.len())].key).collect()
}
