//! The redo log: what was committed since the slot was written, one record for each transaction.
//!
//! Invariant: a group is written once, behind all before it, and is durable before its transactions are acknowledged. What is
//! read back is a prefix of what was written, or an error.
//! Layer 5 (txn). Bytes: design.md, "Redo log".

mod group;
mod reader;
pub(super) mod record;
mod room;
mod segment;

pub(super) use group::BODY_BYTES_MAX;
pub(super) use reader::{LogReader, Served};
pub(super) use room::LogRoom;
pub(super) use segment::{SizeWish, blank, run, segment_units};

use crate::base::clock::Stopwatch;
use crate::base::error::Result;
use crate::pages::slot::{LogSegment, LogStart};
use crate::pages::store::PageStore;
use group::{CHAIN_BYTES, HEADER_BYTES, Place};
use room::{FIRST_UNIT, group_units};

/// Appends groups to the segment that the slot names.
#[derive(Debug, Clone)]
pub(crate) struct LogWriter {
    segment: LogSegment,
    unit_bytes: u32,
    /// Where the next group goes, or at the first unit if it does not fit there.
    head: u32,
    sequence: u64,
    chain: [u8; CHAIN_BYTES],
}

impl LogWriter {
    /// A log without records, in a segment that is durable.
    pub(crate) fn new(segment: LogSegment, unit_bytes: u32) -> Self {
        Self { segment, unit_bytes, head: FIRST_UNIT, sequence: 1, chain: segment.nonce }
    }

    /// The place from which on records are newer than those that were appended.
    pub(crate) fn start(&self) -> LogStart {
        LogStart { segment: self.segment, unit: self.head, sequence: self.sequence, chain: self.chain }
    }

    /// The room that is left where nothing before the head is needed.
    pub(crate) fn room(&self) -> LogRoom {
        let (segment, unit_bytes) = (self.segment, self.unit_bytes);
        LogRoom { segment, unit_bytes, head: self.head, tail: self.head, changes: 0 }
    }

    /// Appends records, encoded one behind the other, and makes them durable. Nothing else that is not yet durable may
    /// have to outlive a crash with them: the write forces only itself. The caller has kept room for them.
    ///
    /// After an error the store is poisoned, and the records are there or not.
    pub(crate) fn append(&mut self, store: &PageStore, body: &[u8], records: u32) -> Result<()> {
        // Groups are written one after the other: all before this one are durable.
        let place = Place { sequence: self.sequence, synced_through: self.sequence - 1 };
        let (bytes, chain) =
            group::encode(&place, &self.segment.nonce, &self.chain, body, records, self.unit_bytes as usize);
        let units = group_units(body.len(), self.unit_bytes);
        if units > self.segment.units - self.head {
            self.head = FIRST_UNIT;
        }
        let watch = Stopwatch::start();
        store.write_forced(self.segment.page, u64::from(self.head) * u64::from(self.unit_bytes), &bytes)?;
        let padding_bytes = bytes.len() - HEADER_BYTES - body.len();
        store.meter().log_written(bytes.len() as u64, padding_bytes as u64, records, watch);
        self.head += units;
        self.sequence += 1;
        self.chain = chain;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
