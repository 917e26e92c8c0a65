//! Block 0: magic, the god byte and the fields that never change after creation.
//!
//! Invariant: only the god byte of block 0 ever changes; everything else is covered by a digest that skips it.
//! Layer 2 (pages). Bytes: design.md, "Block 0".

use super::layout::Layout;
use crate::base::checksum;
use crate::base::codec::{DecodeError, Decoder, Encoder};
use crate::base::ids::Digest;

/// Header and slots each fill a block of this size, whatever the unit size.
pub(crate) const BLOCK_BYTES: usize = 4096;

/// First bytes of every database: the name, and a tail that shows damage by text-mode transfer.
pub(crate) const MAGIC: [u8; 12] = *b"cowslip\x1a\x0a\xa9\x0d\x0a";

/// The only format version that this release reads and writes.
pub(crate) const FORMAT_VERSION: u32 = 4;

/// Bytes that [`Format`] takes in block 0 and, repeated, in each slot.
pub(crate) const FORMAT_BYTES: usize = 128;

/// What a checksum of a child takes in kind 1.
const CHILD_DIGEST_BYTES: u8 = 8;

/// The fields that are fixed at creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format {
    pub(crate) layout: Layout,
    pub(crate) uuid: [u8; 16],
    /// Feature bits that a reader may ignore when it does not know them, but a writer may not.
    pub(crate) read_only_compatible: u64,
    /// Feature bits that a writer may ignore when it does not know them.
    pub(crate) compatible: u64,
}

/// Why the immutable fields cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FormatError {
    /// Written by a release with another format version.
    Version(u32),
    /// Needs features that this release does not have.
    Features(u64),
    /// The bytes are damaged or contradict each other.
    Damaged(DecodeError),
}

impl From<DecodeError> for FormatError {
    fn from(error: DecodeError) -> Self {
        Self::Damaged(error)
    }
}

impl Format {
    pub(crate) fn encode(&self) -> [u8; FORMAT_BYTES] {
        let mut out = Encoder::new();
        out.u32(FORMAT_VERSION);
        out.u32(self.layout.unit_bytes()).u32(self.layout.node_bytes()).u32(self.layout.region_units());
        out.u8(checksum::KIND_XXH3).u8(CHILD_DIGEST_BYTES);
        // Reserved bytes per node, cipher and key id: none in version 1.
        out.u8(0).u8(0).u32(0);
        // Incompatible features: none in version 1.
        out.u64(0).u64(self.read_only_compatible).u64(self.compatible);
        out.bytes(&self.uuid);
        let mut bytes = [0; FORMAT_BYTES];
        bytes[..out.len()].copy_from_slice(out.as_slice());
        bytes
    }

    /// Decodes fields whose digest was verified by the caller.
    pub(crate) fn decode(bytes: &[u8; FORMAT_BYTES]) -> Result<Self, FormatError> {
        let mut input = Decoder::new(bytes);
        let version = input.u32()?;
        if version != FORMAT_VERSION {
            return Err(FormatError::Version(version));
        }
        let (unit_bytes, node_bytes, region_units) = (input.u32()?, input.u32()?, input.u32()?);
        let (kind, child_bytes, tail, cipher, key) = (input.u8()?, input.u8()?, input.u8()?, input.u8()?, input.u32()?);
        let (incompatible, read_only_compatible, compatible) = (input.u64()?, input.u64()?, input.u64()?);
        let uuid = input.array()?;
        if incompatible != 0 {
            return Err(FormatError::Features(incompatible));
        }
        if input.bytes(input.remaining())?.iter().any(|byte| *byte != 0) {
            return Err(FormatError::Damaged(DecodeError::new("reserved bytes of the immutable fields are in use")));
        }
        if (kind, child_bytes, tail, cipher, key) != (checksum::KIND_XXH3, CHILD_DIGEST_BYTES, 0, 0, 0) {
            return Err(FormatError::Damaged(DecodeError::new(format!(
                "expected checksum kind 1 with 8 bytes a child and no cipher, found kind {kind}, {child_bytes} bytes, \
                 tail {tail}, cipher {cipher}, key {key}"
            ))));
        }
        if unit_bytes == 0 || !node_bytes.is_multiple_of(unit_bytes) {
            return Err(FormatError::Damaged(DecodeError::new(format!(
                "node size {node_bytes} is not a multiple of the unit size {unit_bytes}"
            ))));
        }
        let layout = Layout::new(unit_bytes, node_bytes / unit_bytes, region_units)?;
        Ok(Self { layout, uuid, read_only_compatible, compatible })
    }
}

/// The byte of block 0 that confirms the newest slot and carries the session's flags.
///
/// The three flags stand in the low bits, their complement above them, and `10` on top, so a damaged byte is
/// recognised as such.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GodByte {
    /// Index of the slot that was written last.
    pub(crate) primary: u8,
    /// Set before a session's first write, cleared after its last.
    pub(crate) recovery_required: bool,
    /// The file was closed, but readers may have seen ids above that of the newest slot, in a session before.
    pub(crate) ids_seen: bool,
}

impl GodByte {
    pub(crate) fn encode(self) -> u8 {
        let flags = (self.primary & 1) | u8::from(self.recovery_required) << 1 | u8::from(self.ids_seen) << 2;
        0x80 | (!flags & 7) << 3 | flags
    }

    pub(crate) fn decode(byte: u8) -> Option<Self> {
        let flags = byte & 7;
        (byte == (0x80 | (!flags & 7) << 3 | flags)).then_some(Self {
            primary: flags & 1,
            recovery_required: flags & 2 != 0,
            ids_seen: flags & 4 != 0,
        })
    }
}

const GOD_OFFSET: usize = 12;
const FORMAT_OFFSET: usize = 16;
const DIGEST_OFFSET: usize = FORMAT_OFFSET + FORMAT_BYTES;

/// Encodes block 0.
pub(crate) fn encode(format: &Format, god: GodByte) -> [u8; BLOCK_BYTES] {
    let mut block = [0; BLOCK_BYTES];
    block[..12].copy_from_slice(&MAGIC);
    block[GOD_OFFSET] = god.encode();
    block[FORMAT_OFFSET..DIGEST_OFFSET].copy_from_slice(&format.encode());
    let digest = digest_of(&block);
    block[DIGEST_OFFSET..DIGEST_OFFSET + Digest::LEN].copy_from_slice(&digest.0);
    block
}

/// What block 0 says, each part judged by itself.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) format: Result<Format, FormatError>,
    pub(crate) god: Option<GodByte>,
}

/// Decodes block 0; `None` where the magic is not there, so that the block says nothing at all.
pub(crate) fn decode(block: &[u8; BLOCK_BYTES]) -> Option<Header> {
    if block[..12] != MAGIC {
        return None;
    }
    let mut format_bytes = [0; FORMAT_BYTES];
    format_bytes.copy_from_slice(&block[FORMAT_OFFSET..DIGEST_OFFSET]);
    let stored = &block[DIGEST_OFFSET..DIGEST_OFFSET + Digest::LEN];
    let format = if digest_of(block).0 == stored {
        Format::decode(&format_bytes)
    } else {
        Err(FormatError::Damaged(DecodeError::new("the digest of the header does not match its bytes")))
    };
    Some(Header { format, god: GodByte::decode(block[GOD_OFFSET]) })
}

fn digest_of(block: &[u8; BLOCK_BYTES]) -> Digest {
    let mut covered = [0; 12 + FORMAT_BYTES];
    covered[..12].copy_from_slice(&block[..12]);
    covered[12..].copy_from_slice(&block[FORMAT_OFFSET..DIGEST_OFFSET]);
    checksum::digest(&covered)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn sample() -> Format {
        Format { layout: Layout::new(4096, 2, 65536).unwrap(), uuid: [5; 16], read_only_compatible: 0, compatible: 0 }
    }

    #[test]
    fn every_god_byte_but_the_eight_valid_ones_is_recognised_as_damaged() {
        let valid = (0..=255).filter(|byte| GodByte::decode(*byte).is_some()).count();
        assert_eq!(valid, 8);
        for byte in 0..=255 {
            if let Some(god) = GodByte::decode(byte) {
                assert_eq!(god.encode(), byte);
            }
        }
    }

    #[test]
    fn header_survives_a_round_trip() {
        let god = GodByte { primary: 1, recovery_required: true, ids_seen: true };
        let header = decode(&encode(&sample(), god)).unwrap();
        assert_eq!(header.format, Ok(sample()));
        assert_eq!(header.god, Some(god));
    }

    #[test]
    fn geometry_outside_the_digest_does_not_exist() {
        let block = encode(&sample(), GodByte { primary: 0, recovery_required: false, ids_seen: false });
        for byte in (0..12).chain(FORMAT_OFFSET..DIGEST_OFFSET + Digest::LEN) {
            let mut damaged = block;
            damaged[byte] ^= 0x10;
            assert!(decode(&damaged).is_none_or(|header| header.format.is_err()), "byte {byte}");
        }
    }

    #[test]
    fn another_version_is_named() {
        let mut block = encode(&sample(), GodByte { primary: 0, recovery_required: false, ids_seen: false });
        block[FORMAT_OFFSET] = 9;
        let digest = digest_of(&block);
        block[DIGEST_OFFSET..DIGEST_OFFSET + Digest::LEN].copy_from_slice(&digest.0);
        assert_eq!(decode(&block).unwrap().format, Err(FormatError::Version(9)));
    }
}
