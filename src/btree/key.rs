//! Keys as nodes hold them: a shared prefix, a suffix, and for long keys a rest out of line.
//!
//! Invariant: the inline part of a key is its first bytes; it is shorter than the key only where the rest is named by
//! an extent.
//! Layer 3 (btree). Bytes: design.md, "Long keys".

use super::node;
use crate::base::error::Result;
use crate::pages::extent::{EXTENT_BYTES, Extent};
use crate::pages::layout::Layout;
use std::cmp::Ordering;
use std::sync::Arc;

/// The longest key, in encoded bytes.
pub(crate) const KEY_BYTES_MAX: usize = 64 << 10;

/// How much of a key stays in the node.
pub(crate) fn inline_key_max(node_bytes: usize) -> usize {
    node_bytes / 16
}

/// Something that can fetch out-of-line bytes.
pub(crate) trait Extents {
    /// The bytes that an encoded extent names.
    fn extent(&self, encoded: &[u8; EXTENT_BYTES]) -> Result<Arc<[u8]>>;
}

/// A key inside a node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyCell<'a> {
    pub(crate) prefix: &'a [u8],
    pub(crate) suffix: &'a [u8],
    /// Names the bytes that follow the suffix, for a long key.
    pub(crate) rest: Option<&'a [u8; EXTENT_BYTES]>,
}

impl<'a> KeyCell<'a> {
    /// A key that is wholly inline and not yet in a node.
    pub(crate) fn inline(key: &'a [u8]) -> Self {
        Self { prefix: &[], suffix: key, rest: None }
    }

    /// Bytes in the node, the prefix included.
    pub(crate) fn inline_len(&self) -> usize {
        self.prefix.len() + self.suffix.len()
    }

    /// Copies the inline bytes from `from` on to the front of `out`, and says how many there were.
    pub(crate) fn copy_inline(&self, from: usize, out: &mut [u8]) -> usize {
        let prefix = self.prefix.get(from..).unwrap_or(&[]);
        let suffix = &self.suffix[from.saturating_sub(self.prefix.len()).min(self.suffix.len())..];
        out[..prefix.len()].copy_from_slice(prefix);
        out[prefix.len()..prefix.len() + suffix.len()].copy_from_slice(suffix);
        prefix.len() + suffix.len()
    }

    /// How many inline bytes two keys have in common at the front.
    pub(crate) fn common_inline(&self, other: &KeyCell<'_>) -> usize {
        if self.prefix.len() == other.prefix.len() && self.prefix == other.prefix {
            return self.prefix.len() + common(self.suffix, other.suffix);
        }
        let bytes = self.prefix.iter().chain(self.suffix);
        bytes.zip(other.prefix.iter().chain(other.suffix)).take_while(|(a, b)| a == b).count()
    }

    /// How the inline parts of two keys compare.
    pub(crate) fn inline_cmp(&self, other: &KeyCell<'_>) -> Ordering {
        self.prefix.iter().chain(self.suffix).cmp(other.prefix.iter().chain(other.suffix))
    }

    /// The whole key.
    pub(crate) fn to_vec(self, extents: &impl Extents) -> Result<Vec<u8>> {
        let mut key = Vec::with_capacity(self.inline_len());
        key.extend_from_slice(self.prefix);
        key.extend_from_slice(self.suffix);
        if let Some(rest) = self.rest {
            key.extend_from_slice(&extents.extent(rest)?);
        }
        Ok(key)
    }

    /// How `suffix`, the part of a whole key after this cell's prefix, compares with the cell.
    #[inline]
    pub(crate) fn compare_suffix(&self, suffix: &[u8], extents: &impl Extents) -> Result<Ordering> {
        let Some(rest) = self.rest else { return Ok(suffix.cmp(self.suffix)) };
        match suffix.split_at_checked(self.suffix.len()) {
            // Shorter than the inline part: never equal, because the cell goes on out of line.
            None => Ok(suffix.cmp(self.suffix)),
            Some((head, tail)) => match head.cmp(self.suffix) {
                Ordering::Equal => Ok(tail.cmp(&extents.extent(rest)?)),
                unequal => Ok(unequal),
            },
        }
    }
}

/// Length of the longest common front of two byte strings.
pub(crate) fn common(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Where a key stands against a node's prefix: the suffix to search for, or the side of all entries that it lies on.
#[inline]
pub(crate) fn strip_prefix<'k>(prefix: &[u8], key: &'k [u8]) -> Result<&'k [u8], Ordering> {
    if prefix.is_empty() {
        return Ok(key);
    }
    match key.split_at_checked(prefix.len()) {
        Some((head, suffix)) => match head.cmp(prefix) {
            Ordering::Equal => Ok(suffix),
            side => Err(side),
        },
        None => Err(if key <= prefix { Ordering::Less } else { Ordering::Greater }),
    }
}

/// The head that the entry of a key has, given the key's part after the prefix: what is out of line does not count.
#[inline]
pub(crate) fn search_head(node: &[u8], suffix: &[u8]) -> u32 {
    let inline = inline_key_max(node.len()).saturating_sub(node::prefix_len(node));
    node::head_of(&suffix[..suffix.len().min(inline)])
}

/// The extent that a cell names, checked.
pub(crate) fn decode_extent(encoded: &[u8; EXTENT_BYTES], layout: &Layout) -> Result<Extent> {
    Ok(Extent::decode(encoded, layout)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Rest(Vec<u8>);

    impl Extents for Rest {
        fn extent(&self, _: &[u8; EXTENT_BYTES]) -> Result<Arc<[u8]>> {
            Ok(self.0.clone().into())
        }
    }

    #[test]
    fn comparing_with_a_long_key_equals_comparing_whole_keys() {
        let encoded = [0; EXTENT_BYTES];
        let whole = b"abcdefgh";
        let cell = KeyCell { prefix: b"ab", suffix: b"cd", rest: Some(&encoded) };
        let rest = Rest(whole[4..].to_vec());
        for key in [&b"ab"[..], b"abc", b"abcd", b"abcde", b"abcdefgh", b"abcdefghi", b"abcdefz", b"abd", b"abcc"] {
            let suffix = strip_prefix(b"ab", key).unwrap();
            assert_eq!(cell.compare_suffix(suffix, &rest).unwrap(), key.cmp(&whole[..]), "{key:?}");
        }
    }

    #[test]
    fn a_key_outside_the_prefix_lies_on_one_side_of_every_entry() {
        assert_eq!(strip_prefix(b"mm", b"ma"), Err(Ordering::Less));
        assert_eq!(strip_prefix(b"mm", b"m"), Err(Ordering::Less));
        assert_eq!(strip_prefix(b"mm", b""), Err(Ordering::Less));
        assert_eq!(strip_prefix(b"mm", b"n"), Err(Ordering::Greater));
        assert_eq!(strip_prefix(b"mm", b"mn"), Err(Ordering::Greater));
        assert_eq!(strip_prefix(b"mm", b"mm"), Ok(&b""[..]));
    }

    #[test]
    fn copying_from_inside_prefix_or_suffix_gives_the_inline_tail() {
        let cell = KeyCell { prefix: b"abc", suffix: b"defg", rest: None };
        for from in 0..=7 {
            let mut out = [0; 8];
            let len = cell.copy_inline(from, &mut out);
            assert_eq!(&out[..len], &b"abcdefg"[from..]);
        }
    }
}
