//! Random identities: of databases and of sessions.
//!
//! Invariant: used to tell things apart, never to keep them secret.
//! Layer 0 (base).

use std::hash::{BuildHasher, Hasher, RandomState};

/// Sixteen bytes that differ from call to call and from process to process: the standard library seeds its hashers
/// from the operating system.
pub(crate) fn random_id() -> [u8; 16] {
    let mut id = [0; 16];
    for (index, half) in id.chunks_exact_mut(8).enumerate() {
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_usize(index);
        half.copy_from_slice(&hasher.finish().to_le_bytes());
    }
    id
}

#[cfg(test)]
mod tests {
    use super::random_id;

    #[test]
    fn ids_differ() {
        let ids: std::collections::HashSet<_> = (0..100).map(|_| random_id()).collect();
        assert_eq!(ids.len(), 100);
    }
}
