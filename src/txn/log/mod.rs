//! The redo log: what was committed since the slot was written, one record for each transaction.
//!
//! Invariant: a group is written once, behind all before it, and is durable before its transactions are acknowledged. What is
//! read back is a prefix of what was written, or an error.
//! Layer 5 (txn). Bytes: design.md, "Redo log".

mod group;
mod reader;
pub(super) mod record;
mod segment;

pub(super) use reader::{LogReader, Served};
pub(super) use segment::{SizeWish, blank, run, segment_units};

use crate::base::error::Result;
use crate::pages::slot::LogSegment;
use crate::pages::store::PageStore;
pub(super) use group::BODY_BYTES_MAX;
use group::{CHAIN_BYTES, HEADER_BYTES, Place};

/// How much of a log is taken, by what was appended and by what is going to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogRoom {
    segment: LogSegment,
    unit_bytes: u32,
    /// Where it ends if every record that is still to be appended is a group of its own.
    end_bytes: u64,
    changes: u64,
}

impl LogRoom {
    pub(crate) fn segment(&self) -> LogSegment {
        self.segment
    }

    /// Units that are needed for all of it.
    pub(crate) fn units_used(&self) -> u32 {
        u32::try_from(self.end_bytes / u64::from(self.unit_bytes)).unwrap_or(u32::MAX)
    }

    /// Whether nothing was appended, or is going to be.
    pub(crate) fn is_empty(&self) -> bool {
        self.end_bytes == u64::from(self.unit_bytes)
    }

    /// Changes of rows that a replay would have to make.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    fn group_bytes(&self, body_bytes: usize) -> u64 {
        (HEADER_BYTES as u64 + body_bytes as u64).next_multiple_of(u64::from(self.unit_bytes))
    }

    /// Whether a record of so many bytes has room.
    pub(crate) fn has_room(&self, body_bytes: usize) -> bool {
        let len_bytes = u64::from(self.segment.units) * u64::from(self.unit_bytes);
        body_bytes <= BODY_BYTES_MAX && self.end_bytes + self.group_bytes(body_bytes) <= len_bytes
    }

    /// Keeps room for a record that is going to be appended.
    pub(crate) fn reserve(&mut self, body_bytes: usize, changes: u64) {
        self.end_bytes += self.group_bytes(body_bytes);
        self.changes += changes;
    }
}

/// Appends groups to the segment that the slot names.
#[derive(Debug)]
pub(crate) struct LogWriter {
    segment: LogSegment,
    unit_bytes: u32,
    /// Where the next group goes, from the begin of the segment.
    next_bytes: u64,
    sequence: u64,
    chain: [u8; CHAIN_BYTES],
    /// Changes of rows in all records: what a replay has to do.
    changes: u64,
}

impl LogWriter {
    /// A log without records, in a segment that is durable.
    pub(crate) fn new(segment: LogSegment, unit_bytes: u32) -> Self {
        let next_bytes = u64::from(unit_bytes);
        Self { segment, unit_bytes, next_bytes, sequence: 1, chain: segment.nonce, changes: 0 }
    }

    pub(crate) fn segment(&self) -> LogSegment {
        self.segment
    }

    /// What was appended takes so much.
    pub(crate) fn room(&self) -> LogRoom {
        let (segment, unit_bytes) = (self.segment, self.unit_bytes);
        LogRoom { segment, unit_bytes, end_bytes: self.next_bytes, changes: self.changes }
    }

    /// Appends records, encoded one behind the other, and makes them durable. Nothing else that is not yet durable may
    /// have to outlive a crash with them: the write forces only itself.
    ///
    /// After an error the store is poisoned, and the records are there or not.
    pub(crate) fn append(&mut self, store: &PageStore, body: &[u8], records: u32, changes: u64) -> Result<()> {
        assert!(self.room().has_room(body.len()), "whoever appends has asked for room");
        // Groups are written one after the other: all before this one are durable.
        let place = Place { sequence: self.sequence, synced_through: self.sequence - 1 };
        let (bytes, chain) =
            group::encode(&place, &self.segment.nonce, &self.chain, body, records, self.unit_bytes as usize);
        store.write_forced(self.segment.page, self.next_bytes, &bytes)?;
        self.next_bytes += bytes.len() as u64;
        self.sequence += 1;
        self.chain = chain;
        self.changes += changes;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
