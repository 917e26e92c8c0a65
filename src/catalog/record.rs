//! The record of one table.
//!
//! Invariant: a record decodes only if every byte of it is understood.
//! Layer 4 (catalog). Bytes: design.md, "Catalog".

use crate::base::codec::{DecodeError, Decoder, Encoder};
use crate::base::ids::{TransactionId, TreeRoot};
use crate::pages::slot::{decode_root, encode_root};

/// What a table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TableKind {
    /// One value for each key.
    Table,
}

/// What the catalog stores of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableRecord {
    pub(crate) id: u64,
    pub(crate) kind: TableKind,
    pub(crate) root: TreeRoot,
    /// The tree holds every change of this transaction and those before it; of the records of the log only later ones count.
    pub(crate) folded: TransactionId,
    /// Encoded descriptors of the key and value types.
    pub(crate) key_type: Vec<u8>,
    pub(crate) value_type: Vec<u8>,
}

const KIND_TABLE: u8 = 1;

impl TableRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        let kind = match self.kind {
            TableKind::Table => KIND_TABLE,
        };
        // Flags, alignment exponent, change-log mode and a reserve: none in version 1.
        out.u64(self.id).u8(kind).u8(0).u8(0).u8(0).u32(0);
        encode_root(self.root, &mut out);
        out.u64(self.folded.get());
        for descriptor in [&self.key_type, &self.value_type] {
            out.u16(u16::try_from(descriptor.len()).expect("descriptors are at most 4 KiB")).bytes(descriptor);
        }
        out.into_vec()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Decoder::new(bytes);
        let id = input.u64()?;
        let kind = match input.u8()? {
            KIND_TABLE => TableKind::Table,
            kind => return Err(DecodeError::new(format!("unknown kind of table {kind}"))),
        };
        let reserved = (input.u8()?, input.u8()?, input.u8()?, input.u32()?);
        if reserved != (0, 0, 0, 0) {
            return Err(DecodeError::new(format!("a table uses features of a later version: {reserved:?}")));
        }
        let root = decode_root(&mut input)?;
        let folded = TransactionId::new(input.u64()?);
        let key_len = usize::from(input.u16()?);
        let key_type = input.bytes(key_len)?.to_vec();
        let value_len = usize::from(input.u16()?);
        let value_type = input.bytes(value_len)?.to_vec();
        input.finish()?;
        Ok(Self { id, kind, root, folded, key_type, value_type })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> TableRecord {
        TableRecord {
            id: 9,
            kind: TableKind::Table,
            root: TreeRoot::EMPTY,
            folded: TransactionId::new(3),
            key_type: vec![0x30],
            value_type: vec![0x13, 0x14],
        }
    }

    #[test]
    fn record_survives_a_round_trip() {
        assert_eq!(TableRecord::decode(&sample().encode()), Ok(sample()));
    }

    #[test]
    fn every_truncation_and_every_unknown_byte_is_refused() {
        let bytes = sample().encode();
        for len in 0..bytes.len() {
            assert!(TableRecord::decode(&bytes[..len]).is_err(), "{len}");
        }
        for byte in 8..16 {
            let mut unknown = bytes.clone();
            unknown[byte] ^= 0x40;
            assert!(TableRecord::decode(&unknown).is_err(), "{byte}");
        }
    }
}
