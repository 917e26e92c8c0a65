//! What a transaction does to the rows of a table, in the order in which it does it, for the redo log.
//!
//! Invariant: laid over the version that the transaction began on, the changes give the one that it ends with.
//! Layer 3 (btree). Bytes: design.md, "Redo log".

use crate::base::codec::{DecodeError, Decoder};

/// Stands for the length of a value where the row is removed.
const REMOVED: u32 = u32::MAX;

/// Lengths of key and value in front of them.
const LENGTHS_BYTES: usize = 8;

/// What a change takes.
pub(crate) fn change_bytes(key: &[u8], value: Option<&[u8]>) -> usize {
    LENGTHS_BYTES + key.len() + value.map_or(0, <[u8]>::len)
}

/// Encoded changes, one behind the other.
#[derive(Debug, Default)]
pub(crate) struct Redo {
    bytes: Vec<u8>,
    count: u32,
}

impl Redo {
    /// Records that a key has a value from here on, or none.
    pub(crate) fn record(&mut self, key: &[u8], value: Option<&[u8]>) {
        self.bytes.reserve(change_bytes(key, value));
        let len = |bytes: &[u8]| u32::try_from(bytes.len()).expect("lengths were checked");
        self.bytes.extend_from_slice(&len(key).to_le_bytes());
        self.bytes.extend_from_slice(&value.map_or(REMOVED, len).to_le_bytes());
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value.unwrap_or_default());
        self.count += 1;
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// How much is recorded so far.
    pub(crate) fn end(&self) -> RedoEnd {
        RedoEnd { bytes: self.bytes.len(), count: self.count }
    }

    /// Forgets what was recorded since.
    pub(crate) fn truncate(&mut self, end: RedoEnd) {
        self.bytes.truncate(end.bytes);
        self.count = end.count;
    }
}

/// A place behind some changes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RedoEnd {
    bytes: usize,
    count: u32,
}

/// A change as it is read back: a key, and its value unless the row is removed.
pub(crate) type RedoChange<'r> = (&'r [u8], Option<&'r [u8]>);

/// Takes the next change from a record.
pub(crate) fn take_change<'r>(input: &mut Decoder<'r>) -> Result<RedoChange<'r>, DecodeError> {
    let (key_len, value_len) = (input.u32()?, input.u32()?);
    let key = input.bytes(key_len as usize)?;
    let value = if value_len == REMOVED { None } else { Some(input.bytes(value_len as usize)?) };
    Ok((key, value))
}
