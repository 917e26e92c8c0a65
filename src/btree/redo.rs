//! What a transaction does to the rows of a tree, in the order in which it does it, for the redo log.
//!
//! Invariant: applied to the tree that the transaction began on, the changes give the tree that it ends with; where they
//! would take too much, none are kept and the transaction is known to have no record.
//! Layer 3 (btree). Bytes: design.md, "Redo log".

use super::tree::TreeMut;
use crate::base::codec::{DecodeError, Decoder};
use crate::base::sync::Arc;
use crate::pages::writer::PageWriter;

/// Stands for the length of a value where the row is removed.
const REMOVED: u32 = u32::MAX;

/// Lengths of key and value in front of them.
const LENGTHS_BYTES: usize = 8;

/// Encoded changes, one behind the other.
#[derive(Debug)]
pub(crate) struct Redo {
    writer: Arc<PageWriter>,
    bytes: Vec<u8>,
    count: u32,
}

impl Redo {
    pub(super) fn new(writer: &Arc<PageWriter>) -> Self {
        Self { writer: Arc::clone(writer), bytes: Vec::new(), count: 0 }
    }

    /// Records that a key has a value from here on, or none.
    pub(super) fn record(&mut self, key: &[u8], value: Option<&[u8]>) {
        let len_bytes = LENGTHS_BYTES + key.len() + value.map_or(0, <[u8]>::len);
        if self.writer.is_loggable() && self.writer.count_redo(len_bytes) {
            self.push(key, value);
        } else {
            self.bytes = Vec::new();
        }
    }

    fn push(&mut self, key: &[u8], value: Option<&[u8]>) {
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

impl TreeMut {
    /// From here on changes of rows are recorded.
    pub(crate) fn record_changes(&mut self) {
        self.redo = Some(Redo::new(&self.writer));
    }

    /// What was recorded, unless the transaction has given up recording.
    pub(crate) fn take_redo(&mut self) -> Option<Redo> {
        self.redo.take().filter(|_| self.writer.is_loggable())
    }

    /// Whether a change is worth being told to [`record`](Self::record).
    pub(super) fn is_recording(&self) -> bool {
        self.redo.is_some() && self.writer.is_loggable()
    }

    /// Records a change of a row.
    pub(super) fn record(&mut self, key: &[u8], value: Option<&[u8]>) {
        if let Some(redo) = &mut self.redo {
            redo.record(key, value);
        }
    }
}
