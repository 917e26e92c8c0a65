//! Reading a log back: every record from the slot to the last one that was made durable.
//!
//! Invariant: the log ends at the first group that is not whole only if no later group says that it had been durable;
//! otherwise the log is damaged, and nothing of it is applied.
//! Layer 5 (txn). Bytes: design.md, "Redo log".

use super::group::{CHAIN_BYTES, HEADER_BYTES, Header};
use super::record::Record;
use super::segment;
use crate::base::codec::Decoder;
use crate::base::error::{Result, StorageError};
use crate::base::ids::TransactionId;
use crate::pages::slot::LogSegment;
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

/// Goes through the groups of one segment.
pub(crate) struct LogReader<'s> {
    store: &'s PageStore,
    segment: LogSegment,
    window: Vec<u8>,
    window_start: u64,
}

impl<'s> LogReader<'s> {
    /// Takes a segment that a slot names; refuses one that does not begin as it was made.
    pub(crate) fn open(store: &'s PageStore, segment: LogSegment) -> Result<Self> {
        store.check_inside(segment::run(&segment))?;
        let mut reader = Self { store, segment, window: Vec::new(), window_start: 0 };
        let unit_bytes = reader.unit_bytes();
        segment::check_first_unit(&segment, reader.bytes(0, unit_bytes)?)?;
        Ok(reader)
    }

    fn unit_bytes(&self) -> u64 {
        u64::from(self.store.layout().unit_bytes())
    }

    fn end_bytes(&self) -> u64 {
        u64::from(self.segment.units) * self.unit_bytes()
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

    /// Shows every record, in order, to `apply`.
    pub(crate) fn replay(&mut self, slot: &Served, mut apply: impl FnMut(&Record<'_>) -> Result<()>) -> Result<()> {
        let page = self.segment.page;
        let mut chain: [u8; CHAIN_BYTES] = self.segment.nonce;
        let (mut at, mut sequence, mut last) = (self.unit_bytes(), 1, slot.transaction);
        loop {
            let unit_bytes = self.unit_bytes();
            let Some((header, body)) = self.group(at)? else { break };
            let Some(next) = header.follow(&chain).filter(|_| header.place.sequence == sequence) else { break };
            let mut input = Decoder::new(body);
            for _ in 0..header.records {
                let record = Record::take(&mut input)?;
                if slot.is_older && record.head.previous > last {
                    // It was made on a version of which only the damaged slot told.
                    return Ok(());
                }
                if record.head.previous != last || record.head.id <= last {
                    let head = record.head;
                    let reason = format!("the log goes from transaction {last} to {} on {}", head.id, head.previous);
                    return Err(StorageError::corrupted_page(page, reason));
                }
                last = record.head.id;
                apply(&record)?;
            }
            input.finish()?;
            at += (HEADER_BYTES as u64 + u64::from(header.body_bytes)).next_multiple_of(unit_bytes);
            chain = next;
            sequence += 1;
        }
        self.check_end(at, sequence)
    }

    /// Requires that no group behind the end claims that the one at the end had been durable.
    fn check_end(&mut self, end: u64, sequence: u64) -> Result<()> {
        let (mut at, unit_bytes, nonce) = (end, self.unit_bytes(), self.segment.nonce);
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
