//! The only entry point to hashing: XXH3-64 for children and value runs, XXH3-128 for everything that a slot names.
//!
//! Invariant: the checksum kind is a header field; kind 1 is the functions below.
//! Layer 0 (base). Bytes: design.md, "Ids and digests".

use super::ids::Digest;
use xxhash_rust::xxh3;

/// Checksum kind stored in the header: XXH3-64 for children, XXH3-128 for digests.
pub(crate) const KIND_XXH3: u8 = 1;

/// Checksum of a node or of an extent, as stored beside the pointer to it.
pub(crate) fn child(bytes: &[u8]) -> u64 {
    xxh3::xxh3_64(bytes)
}

/// Digest of a root page, a slot or a table: XXH3-128, little-endian, in a 32-byte field.
pub(crate) fn digest(bytes: &[u8]) -> Digest {
    let mut out = [0; Digest::LEN];
    out[..16].copy_from_slice(&xxh3::xxh3_128(bytes).to_le_bytes());
    Digest(out)
}

/// Digest of several parts as of one byte string: XXH3-128, little-endian.
pub(crate) fn wide(parts: &[&[u8]]) -> [u8; 16] {
    let mut hasher = xxh3::Xxh3::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.digest128().to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_leaves_the_reserved_half_zero() {
        let digest = digest(b"cowslip");
        assert_ne!(digest.0[..16], [0; 16]);
        assert_eq!(digest.0[16..], [0; 16]);
    }

    #[test]
    fn one_flipped_bit_changes_both_checksums() {
        let mut page = vec![7_u8; 4096];
        let (sum, wide) = (child(&page), digest(&page));
        page[4095] ^= 1;
        assert_ne!(child(&page), sum);
        assert_ne!(self::digest(&page), wide);
    }
}
