//! One group of records: what is written, and made durable, at once.
//!
//! Invariant: a group begins with a unit of its own and is never written again. Its own sum tells that it is whole and of
//! this segment; its chain that nothing before it is missing.
//! Layer 5 (txn). Bytes: design.md, "Redo log".

use crate::base::checksum;
use crate::base::codec::{Decoder, Encoder};

pub(super) const CHAIN_BYTES: usize = 16;
pub(super) const HEADER_BYTES: usize = 64;
/// No body is longer: a reader need not believe in one that is.
pub(in crate::txn) const BODY_BYTES_MAX: usize = 2 << 20;
const MAGIC: [u8; 4] = *b"cwlg";
/// So many bytes of the segment's random number stand behind the magic: whoever writes rows cannot know them, so no value
/// looks like the begin of a group.
const TAG_BYTES: usize = 4;
/// Of the header, what the sum covers.
const SUMMED_BYTES: usize = 32;

/// Where a group stands in its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Counts groups from one.
    pub(super) sequence: u64,
    /// The last group that was known to be durable when this one was written.
    pub(super) synced_through: u64,
}

/// The header of a group as it was read; only the sums tell whether it is one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) place: Place,
    pub(super) body_bytes: u32,
    pub(super) records: u32,
    summed: [u8; SUMMED_BYTES],
    own: [u8; CHAIN_BYTES],
    chain: [u8; CHAIN_BYTES],
}

fn own_sum(nonce: &[u8; 16], summed: &[u8], body: &[u8]) -> [u8; CHAIN_BYTES] {
    checksum::wide(&[nonce, summed, body])
}

fn chained(before: &[u8; CHAIN_BYTES], own: &[u8; CHAIN_BYTES]) -> [u8; CHAIN_BYTES] {
    checksum::wide(&[before, own])
}

/// Encodes a group, padded to whole units, and says how the chain goes on.
pub(super) fn encode(
    place: &Place,
    nonce: &[u8; 16],
    before: &[u8; CHAIN_BYTES],
    body: &[u8],
    records: u32,
    unit_bytes: usize,
) -> (Vec<u8>, [u8; CHAIN_BYTES]) {
    let body_bytes = u32::try_from(body.len()).expect("records are far shorter than 4 GiB");
    let mut out = Encoder::with_capacity((HEADER_BYTES + body.len()).next_multiple_of(unit_bytes));
    out.bytes(&MAGIC)
        .bytes(&nonce[..TAG_BYTES])
        .u64(place.sequence)
        .u64(place.synced_through)
        .u32(body_bytes)
        .u32(records);
    let own = own_sum(nonce, out.as_slice(), body);
    let chain = chained(before, &own);
    out.bytes(&own).bytes(&chain).bytes(body);
    let padding = out.len().next_multiple_of(unit_bytes) - out.len();
    out.zeros(padding);
    (out.into_vec(), chain)
}

impl Header {
    /// Reads what may be a header in the segment with this nonce.
    pub(super) fn decode(bytes: &[u8], nonce: &[u8; 16]) -> Option<Self> {
        let mut input = Decoder::new(bytes);
        let summed: [u8; SUMMED_BYTES] = input.array().ok()?;
        let (own, chain) = (input.array().ok()?, input.array().ok()?);
        let mut input = Decoder::new(&summed);
        let (magic, tag): ([u8; 4], [u8; TAG_BYTES]) = (input.array().ok()?, input.array().ok()?);
        let place = Place { sequence: input.u64().ok()?, synced_through: input.u64().ok()? };
        let (body_bytes, records) = (input.u32().ok()?, input.u32().ok()?);
        let fits = body_bytes as usize <= BODY_BYTES_MAX;
        (magic == MAGIC && tag == nonce[..TAG_BYTES] && fits).then_some(Self {
            place,
            body_bytes,
            records,
            summed,
            own,
            chain,
        })
    }

    /// Whether the group is whole and was written to the segment with this nonce.
    pub(super) fn is_whole(&self, nonce: &[u8; 16], body: &[u8]) -> bool {
        own_sum(nonce, &self.summed, body) == self.own
    }

    /// Whether the group follows what came before.
    pub(super) fn follows(&self, before: &[u8; CHAIN_BYTES]) -> bool {
        chained(before, &self.own) == self.chain
    }

    /// What the next group follows.
    pub(super) fn chain(&self) -> [u8; CHAIN_BYTES] {
        self.chain
    }
}
