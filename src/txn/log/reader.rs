//! Reading a log back: every record from the slot to the last one that was made durable.
//!
//! Invariant: the log ends at the first group that is not whole only if no later group says that it had been durable;
//! otherwise the log is damaged, and nothing of it is applied.
//! Layer 5 (txn). Bytes: design.md, "Redo log".

use super::group::{CHAIN_BYTES, HEADER_BYTES, Header};
use super::record::Record;
use super::room::{FIRST_UNIT, LogRoom, group_units};
use super::{LogWriter, segment};
use crate::base::codec::Decoder;
use crate::base::error::{Result, StorageError};
use crate::base::ids::TransactionId;
use crate::pages::slot::{LogSegment, LogStart};
use crate::pages::store::PageStore;

/// So much of the segment is read at once.
const WINDOW_BYTES: u64 = 4 << 20;

/// Headers behind the end of a log may claim so many times its length before it counts as damaged.
const CLAIMS_MAX: u64 = 4;

/// The slot from which a log goes on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Served {
    pub(crate) transaction: TransactionId,
    /// It serves because the newer one is damaged.
    pub(crate) is_older: bool,
}

/// Goes through the groups of a log.
pub(crate) struct LogReader<'s> {
    store: &'s PageStore,
    start: LogStart,
    segment: LogSegment,
    window: Vec<u8>,
    window_start: u64,
    units_read: u64,
}

impl<'s> LogReader<'s> {
    /// Takes a log that a slot names; refuses one whose segment does not begin as it was made.
    pub(crate) fn open(store: &'s PageStore, start: LogStart) -> Result<Self> {
        let segment = start.segment;
        store.check_inside(segment::run(&segment))?;
        let mut reader = Self { store, start, segment, window: Vec::new(), window_start: 0, units_read: 0 };
        let unit_bytes = reader.unit_bytes();
        segment::check_first_unit(&segment, reader.bytes(0, unit_bytes)?)?;
        Ok(reader)
    }

    fn unit_bytes(&self) -> u64 {
        u64::from(self.store.layout().unit_bytes())
    }

    fn end_bytes(&self) -> u64 {
        self.bytes_before(self.segment.units)
    }

    fn bytes_before(&self, unit: u32) -> u64 {
        u64::from(unit) * self.unit_bytes()
    }

    /// Bytes of the segment, which must lie in it.
    fn bytes(&mut self, from: u64, len: u64) -> Result<&[u8]> {
        let held = self.window_start..self.window_start + self.window.len() as u64;
        if from < held.start || from + len > held.end {
            let len = len.max(WINDOW_BYTES).min(self.end_bytes() - from);
            let len = usize::try_from(len).map_err(|_| StorageError::corrupted("a segment exceeds the memory"))?;
            self.window = self.store.read_within(self.segment.page, from, len)?;
            self.window_start = from;
        }
        let start = usize::try_from(from - self.window_start).expect("the window holds it");
        Ok(&self.window[start..start + usize::try_from(len).expect("the window holds it")])
    }

    /// The header and body of a whole group at a place, if there is one.
    fn group(&mut self, at: u64) -> Result<Option<(Header, &[u8])>> {
        if at + self.unit_bytes() > self.end_bytes() {
            return Ok(None);
        }
        let (unit_bytes, nonce) = (self.unit_bytes(), self.segment.nonce);
        let Some(header) = Header::decode(self.bytes(at, unit_bytes)?, &nonce) else { return Ok(None) };
        let len = HEADER_BYTES as u64 + u64::from(header.body_bytes);
        if len > self.end_bytes() - at {
            return Ok(None);
        }
        let body = &self.bytes(at, len)?[HEADER_BYTES..];
        Ok(header.is_whole(&nonce, body).then_some((header, body)))
    }

    /// The unit at which the group with this sequence stands, if it is there and follows what came before.
    fn find(&mut self, unit: u32, sequence: u64, chain: &[u8; CHAIN_BYTES]) -> Result<Option<(u32, Header)>> {
        // It stands at the begin where it did not fit before the end.
        for unit in [unit, FIRST_UNIT] {
            let group = self.group(self.bytes_before(unit))?;
            let Some((header, _)) = group.filter(|(header, _)| header.place.sequence == sequence) else { continue };
            if header.follows(chain) {
                return Ok(Some((unit, header)));
            }
        }
        Ok(None)
    }

    /// Shows every record, in order, to `apply`, and returns the log as it goes on behind the last one.
    pub(crate) fn replay(
        &mut self,
        slot: &Served,
        mut apply: impl FnMut(&Record<'_>) -> Result<()>,
    ) -> Result<(LogWriter, LogRoom)> {
        let (page, unit_bytes) = (self.segment.page, self.store.layout().unit_bytes());
        let LogStart { unit: mut next_unit, mut sequence, mut chain, .. } = self.start;
        // Records may be older than the slot, as far as its trees do not hold what they tell.
        let mut last = TransactionId::ZERO;
        while let Some((unit, header)) = self.find(next_unit, sequence, &chain)? {
            let len = HEADER_BYTES as u64 + u64::from(header.body_bytes);
            let body = &self.bytes(self.bytes_before(unit), len)?[HEADER_BYTES..];
            let mut input = Decoder::new(body);
            for _ in 0..header.records {
                let record = Record::take(&mut input)?;
                let head = record.head;
                let newest = last.max(slot.transaction);
                if slot.is_older && head.previous > newest {
                    // It was made on a version of which only the damaged slot told.
                    return Ok(self.end(next_unit, sequence, chain));
                }
                // Before the slot there may have been others, of which no record tells; behind it there is none.
                let is_next = if head.id > slot.transaction { head.previous == newest } else { head.previous >= last };
                if !is_next || head.id <= head.previous {
                    let reason = format!("the log goes from transaction {last} to {} on {}", head.id, head.previous);
                    return Err(StorageError::corrupted_page(page, reason));
                }
                last = head.id;
                apply(&record)?;
            }
            input.finish()?;
            let units = group_units(header.body_bytes as usize, unit_bytes);
            self.units_read += u64::from(units);
            next_unit = unit + units;
            chain = header.chain();
            sequence = sequence.checked_add(1).ok_or_else(|| StorageError::corrupted("groups of the log overflow"))?;
        }
        self.check_end(sequence)?;
        Ok(self.end(next_unit, sequence, chain))
    }

    fn end(&self, unit: u32, sequence: u64, chain: [u8; CHAIN_BYTES]) -> (LogWriter, LogRoom) {
        let writer = LogWriter {
            segment: self.segment,
            unit_bytes: self.store.layout().unit_bytes(),
            head: unit,
            sequence,
            chain,
        };
        (writer.clone(), writer.room().needed_since(&self.start))
    }

    /// Units of the groups whose records were shown.
    pub(crate) fn units_read(&self) -> u64 {
        self.units_read
    }

    /// Requires that no group claims that the missing one had been durable.
    fn check_end(&mut self, sequence: u64) -> Result<()> {
        let (mut at, unit_bytes, nonce) = (self.bytes_before(FIRST_UNIT), self.unit_bytes(), self.segment.nonce);
        // Groups do not overlap, and nobody else can know what a header begins with: so many bytes are claimed by none but
        // a forger.
        let mut claimed_bytes = 0;
        while at < self.end_bytes() {
            let header = Header::decode(self.bytes(at, unit_bytes)?, &nonce);
            if let Some(header) = header.filter(|header| header.place.synced_through >= sequence) {
                claimed_bytes += u64::from(header.body_bytes);
                if claimed_bytes > CLAIMS_MAX * self.end_bytes() || self.group(at)?.is_some() {
                    let page = self.segment.page;
                    let reason =
                        format!("group {sequence} of the log is damaged: a later one says that it was durable");
                    return Err(StorageError::corrupted_page(page, reason));
                }
            }
            at += unit_bytes;
        }
        Ok(())
    }
}
