//! One transaction in the log: its ids and time, and what it did to the rows of each table.
//!
//! Invariant: a record names tables and keys, never pages: it can be applied to the version before it wherever that lies.
//! Layer 5 (txn). Bytes: design.md, "Redo log".

use crate::base::codec::{DecodeError, Decoder, Encoder};
use crate::base::ids::TransactionId;

/// Kind of the only record that there is: changes of rows.
const KIND_ROWS: u8 = 1;

/// Bytes of a record in front of its tables.
const HEAD_BYTES: usize = 40;

/// Bytes of a table's part in front of its name.
const TABLE_BYTES: usize = 12;

/// What a transaction changed in one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TableChanges<'r> {
    pub(crate) name: &'r str,
    pub(crate) count: u32,
    /// As `btree::redo` encodes them.
    pub(crate) changes: &'r [u8],
}

/// What is common to the whole transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordHead {
    pub(crate) id: TransactionId,
    /// The transaction that this one was made on.
    pub(crate) previous: TransactionId,
    pub(crate) commit_time_micros: u64,
}

/// Encodes a transaction.
pub(crate) fn encode(head: &RecordHead, tables: &[TableChanges<'_>]) -> Vec<u8> {
    let parts: usize = tables.iter().map(|table| TABLE_BYTES + table.name.len() + table.changes.len()).sum();
    let mut out = Encoder::with_capacity(HEAD_BYTES + parts);
    out.u8(KIND_ROWS).u8(0).u16(0).u32(len_u32(HEAD_BYTES + parts));
    out.u64(head.id.get()).u64(head.previous.get()).u64(head.commit_time_micros);
    out.u32(len_u32(tables.len())).u32(0);
    for table in tables {
        out.u32(len_u32(table.name.len())).u32(table.count).u32(len_u32(table.changes.len()));
        out.bytes(table.name.as_bytes()).bytes(table.changes);
    }
    out.into_vec()
}

fn len_u32(len: usize) -> u32 {
    u32::try_from(len).expect("records are far shorter than 4 GiB")
}

/// A record as it is read.
#[derive(Debug, Clone)]
pub(crate) struct Record<'r> {
    pub(crate) head: RecordHead,
    tables_left: u32,
    rest: Decoder<'r>,
}

impl<'r> Record<'r> {
    /// Takes the next record from a body.
    pub(crate) fn take(body: &mut Decoder<'r>) -> Result<Self, DecodeError> {
        let mut input = body.clone();
        let (kind, flags, reserved, len) = (input.u8()?, input.u8()?, input.u16()?, input.u32()?);
        if (kind, flags, reserved) != (KIND_ROWS, 0, 0) {
            return Err(DecodeError::new(format!("a record of unknown kind {kind}, flags {flags}")));
        }
        let mut input = Decoder::new(body.bytes(len as usize)?);
        input.u64()?;
        let (id, previous) = (TransactionId::new(input.u64()?), TransactionId::new(input.u64()?));
        let commit_time_micros = input.u64()?;
        let tables_left = input.u32()?;
        if input.u32()? != 0 {
            return Err(DecodeError::new("reserved bytes of a record are not zero"));
        }
        Ok(Self { head: RecordHead { id, previous, commit_time_micros }, tables_left, rest: input })
    }

    /// The changes of the next table.
    pub(crate) fn next_table(&mut self) -> Result<Option<TableChanges<'r>>, DecodeError> {
        if self.tables_left == 0 {
            self.rest.clone().finish()?;
            return Ok(None);
        }
        self.tables_left -= 1;
        let (name_len, count, changes_len) = (self.rest.u32()?, self.rest.u32()?, self.rest.u32()?);
        let name = std::str::from_utf8(self.rest.bytes(name_len as usize)?)
            .map_err(|_| DecodeError::new("a record names a table in bytes that are not UTF-8"))?;
        Ok(Some(TableChanges { name, count, changes: self.rest.bytes(changes_len as usize)? }))
    }
}
