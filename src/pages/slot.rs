//! One commit slot: everything that a version consists of, in a block of its own.
//!
//! Invariant: the digest covers the whole block; a slot whose digest does not match is never repaired, only
//! overwritten by a later commit.
//! Layer 2 (pages). Bytes: design.md, "Commit slots".

use super::header::{BLOCK_BYTES, FORMAT_BYTES, Format, FormatError};
use crate::base::checksum;
use crate::base::codec::{DecodeError, Decoder, Encoder};
use crate::base::ids::{Digest, PageId, TransactionId, TreeRoot};

const SLOT_MAGIC: [u8; 8] = *b"cowslot\x01";
const FORMAT_OFFSET: usize = BLOCK_BYTES - Digest::LEN - FORMAT_BYTES;
const DIGEST_OFFSET: usize = BLOCK_BYTES - Digest::LEN;

/// Trees higher than this cannot come from a file of 2^48 units.
pub(crate) const HEIGHT_MAX: u8 = 48;

/// A byte string that lives in a run of its own: where, how long, and its digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Blob {
    pub(crate) page: PageId,
    pub(crate) len_bytes: u64,
    pub(crate) digest: Digest,
}

impl Blob {
    pub(crate) const NONE: Blob = Blob { page: PageId::NONE, len_bytes: 0, digest: Digest::ZERO };

    fn encode(self, out: &mut Encoder) {
        out.page(self.page).u64(self.len_bytes).digest(self.digest);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self { page: input.page()?, len_bytes: input.u64()?, digest: input.digest()? })
    }
}

/// The run that holds the redo log, and the random number that tells its records from older bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogSegment {
    pub(crate) page: PageId,
    pub(crate) units: u32,
    pub(crate) nonce: [u8; 16],
}

/// The place in the redo log from which on records are newer than a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogStart {
    pub(crate) segment: LogSegment,
    /// Of the segment, where the first group stands unless it had no room there.
    pub(crate) unit: u32,
    /// Of the first group.
    pub(crate) sequence: u64,
    /// Of the group before it.
    pub(crate) chain: [u8; 16],
}

impl LogStart {
    /// Bytes that it takes in a slot.
    const BYTES: usize = 64;

    fn encode(start: Option<Self>, out: &mut Encoder) {
        match start {
            Some(Self { segment, unit, sequence, chain }) => {
                out.page(segment.page).u64(u64::from(segment.units)).bytes(&segment.nonce);
                out.u64(u64::from(unit)).u64(sequence).bytes(&chain)
            }
            None => out.zeros(Self::BYTES),
        };
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Option<Self>, DecodeError> {
        let bytes: [u8; Self::BYTES] = input.array()?;
        if bytes == [0; Self::BYTES] {
            return Ok(None);
        }
        let mut input = Decoder::new(&bytes);
        let (page, units, nonce) = (input.page()?, input.u64()?, input.array()?);
        let (unit, sequence, chain) = (input.u64()?, input.u64()?, input.array()?);
        match (u32::try_from(units), u32::try_from(unit)) {
            (Ok(units @ 2..), Ok(unit)) if !page.is_none() && (1..=units).contains(&unit) && sequence > 0 => {
                Ok(Some(Self { segment: LogSegment { page, units, nonce }, unit, sequence, chain }))
            }
            _ => Err(DecodeError::new(format!(
                "impossible redo log of {units} units at page {page}, from unit {unit} and group {sequence} on"
            ))),
        }
    }
}

/// What a commit makes durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Counts slot writes; the higher one of two valid slots is the newer.
    pub(crate) generation: u64,
    pub(crate) transaction: TransactionId,
    pub(crate) commit_time_micros: u64,
    /// Random number of the session that wrote the slot.
    pub(crate) session: [u8; 16],
    pub(crate) data: TreeRoot,
    pub(crate) forward: TreeRoot,
    pub(crate) region_table: Blob,
    /// Where the commits since the slot are recorded.
    pub(crate) log: Option<LogStart>,
    /// Every run that the slot reaches lies below this many units; a shorter file is truncated, a longer one valid.
    pub(crate) reach_units: u64,
    pub(crate) application_id: u32,
    pub(crate) user_version: u32,
}

/// What was found in a slot's block.
#[derive(Debug)]
pub(crate) enum SlotState {
    /// The slot and the copy of the immutable fields that it carries.
    Valid(Box<Slot>, Format),
    /// Never written: every byte is zero.
    Blank,
    /// Torn or damaged.
    Invalid(DecodeError),
    /// Intact, but written by a release whose format this one cannot read.
    Foreign(FormatError),
}

pub(crate) fn encode_root(root: TreeRoot, out: &mut Encoder) {
    out.page(root.page).digest(root.digest).u64(root.rows).u8(root.height).zeros(7);
}

pub(crate) fn decode_root(input: &mut Decoder<'_>) -> Result<TreeRoot, DecodeError> {
    let root = TreeRoot { page: input.page()?, digest: input.digest()?, rows: input.u64()?, height: input.u8()? };
    let reserved: [u8; 7] = input.array()?;
    let empty_differs = root.height == 0 && root != TreeRoot::EMPTY;
    if root.height > HEIGHT_MAX || root.page.is_none() != (root.height == 0) || empty_differs || reserved != [0; 7] {
        return Err(DecodeError::new(format!("impossible tree root: {} at height {}", root.page, root.height)));
    }
    Ok(root)
}

/// Encodes a slot together with the immutable fields.
pub(crate) fn encode(slot: &Slot, format: &Format) -> [u8; BLOCK_BYTES] {
    let mut out = Encoder::new();
    out.bytes(&SLOT_MAGIC).u64(slot.generation).u64(slot.transaction.get()).u64(slot.commit_time_micros);
    out.bytes(&slot.session);
    // Lineage and its parent: one lineage only in version 1.
    out.u64(0).u64(0);
    encode_root(slot.data, &mut out);
    encode_root(slot.forward, &mut out);
    slot.region_table.encode(&mut out);
    // Dead lists, branches and pending-free list: none in this version.
    for _ in 0..3 {
        Blob::NONE.encode(&mut out);
    }
    LogStart::encode(slot.log, &mut out);
    out.u64(slot.reach_units).u32(slot.application_id).u32(slot.user_version);
    assert!(out.len() <= FORMAT_OFFSET, "the slot has outgrown its block");
    let mut block = [0; BLOCK_BYTES];
    block[..out.len()].copy_from_slice(out.as_slice());
    block[FORMAT_OFFSET..DIGEST_OFFSET].copy_from_slice(&format.encode());
    let digest = checksum::digest(&block[..DIGEST_OFFSET]);
    block[DIGEST_OFFSET..].copy_from_slice(&digest.0);
    block
}

/// Judges a slot's block.
pub(crate) fn decode(block: &[u8; BLOCK_BYTES]) -> SlotState {
    if block.iter().all(|byte| *byte == 0) {
        return SlotState::Blank;
    }
    if block[..8] != SLOT_MAGIC {
        return SlotState::Invalid(DecodeError::new("the slot's magic is not there"));
    }
    if checksum::digest(&block[..DIGEST_OFFSET]).0 != block[DIGEST_OFFSET..] {
        return SlotState::Invalid(DecodeError::new("the slot's digest does not match its bytes"));
    }
    let mut format_bytes = [0; FORMAT_BYTES];
    format_bytes.copy_from_slice(&block[FORMAT_OFFSET..DIGEST_OFFSET]);
    let format = match Format::decode(&format_bytes) {
        Ok(format) => format,
        Err(FormatError::Damaged(error)) => return SlotState::Invalid(error),
        Err(foreign) => return SlotState::Foreign(foreign),
    };
    match decode_fields(&block[8..FORMAT_OFFSET]) {
        Ok(slot) => SlotState::Valid(Box::new(slot), format),
        Err(error) => SlotState::Invalid(error),
    }
}

/// Whether a block can be what a power cut left of the first slot ever written: each sector is as the creation wrote
/// it, or zero. Fields fill the first sector, immutable fields and digest the last.
pub(crate) fn is_unfinished_first(block: &[u8; BLOCK_BYTES]) -> bool {
    const SECTOR_BYTES: usize = 512;
    let zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    let (first, rest) = block.split_at(SECTOR_BYTES);
    let (middle, last) = rest.split_at(rest.len() - SECTOR_BYTES);
    let mut format = [0; FORMAT_BYTES];
    format.copy_from_slice(&block[FORMAT_OFFSET..DIGEST_OFFSET]);
    let first_fits = zero(first) || decode_fields(&block[8..FORMAT_OFFSET]).is_ok_and(|slot| slot.generation == 1);
    first_fits
        && (zero(first) || block[..8] == SLOT_MAGIC)
        && zero(middle)
        && (zero(last) || Format::decode(&format).is_ok())
}

fn decode_fields(bytes: &[u8]) -> Result<Slot, DecodeError> {
    let mut input = Decoder::new(bytes);
    let generation = input.u64()?;
    let transaction = TransactionId::new(input.u64()?);
    let commit_time_micros = input.u64()?;
    let session = input.array()?;
    let lineage = (input.u64()?, input.u64()?);
    let data = decode_root(&mut input)?;
    let forward = decode_root(&mut input)?;
    let region_table = Blob::decode(&mut input)?;
    for what in ["dead lists", "branches", "a pending-free list"] {
        if Blob::decode(&mut input)? != Blob::NONE {
            return Err(DecodeError::new(format!("the slot names {what}, which this version does not have")));
        }
    }
    let log = LogStart::decode(&mut input)?;
    let reach_units = input.u64()?;
    let (application_id, user_version) = (input.u32()?, input.u32()?);
    if lineage != (0, 0) || generation == 0 {
        return Err(DecodeError::new(format!("impossible lineage {lineage:?} or generation {generation}")));
    }
    Ok(Slot {
        generation,
        transaction,
        commit_time_micros,
        session,
        data,
        forward,
        region_table,
        log,
        reach_units,
        application_id,
        user_version,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::layout::Layout;

    fn format() -> Format {
        Format { layout: Layout::new(4096, 2, 65536).unwrap(), uuid: [5; 16], read_only_compatible: 0, compatible: 0 }
    }

    fn sample() -> Slot {
        Slot {
            generation: 8,
            transaction: TransactionId::new(7),
            commit_time_micros: 99,
            session: [3; 16],
            data: TreeRoot { page: PageId::new(40).unwrap(), digest: Digest([1; 32]), rows: 5, height: 2 },
            forward: TreeRoot::EMPTY,
            region_table: Blob { page: PageId::new(44).unwrap(), len_bytes: 32, digest: Digest([2; 32]) },
            log: Some(LogStart {
                segment: LogSegment { page: PageId::new(48).unwrap(), units: 16, nonce: [6; 16] },
                unit: 3,
                sequence: 9,
                chain: [7; 16],
            }),
            reach_units: 50,
            application_id: 1,
            user_version: 2,
        }
    }

    #[test]
    fn slot_survives_a_round_trip_with_the_immutable_fields() {
        let SlotState::Valid(slot, found) = decode(&encode(&sample(), &format())) else { panic!("invalid") };
        assert_eq!((*slot, found), (sample(), format()));
        let without = Slot { log: None, ..sample() };
        assert!(matches!(decode(&encode(&without, &format())), SlotState::Valid(slot, _) if *slot == without));
    }

    #[test]
    fn any_flipped_byte_makes_the_slot_invalid() {
        let block = encode(&sample(), &format());
        for byte in 0..BLOCK_BYTES {
            let mut damaged = block;
            damaged[byte] ^= 1;
            assert!(matches!(decode(&damaged), SlotState::Invalid(_)), "byte {byte}");
        }
    }

    #[test]
    fn a_block_of_zeros_is_blank_not_damaged() {
        assert!(matches!(decode(&[0; BLOCK_BYTES]), SlotState::Blank));
    }

    #[test]
    fn any_torn_first_slot_is_recognised_and_no_later_one() {
        let first = Slot { generation: 1, ..sample() };
        for (slot, expected) in [(first, true), (sample(), false)] {
            let whole = encode(&slot, &format());
            for survivors in 0..4_u8 {
                let mut block = whole;
                if survivors & 1 == 0 {
                    block[..512].fill(0);
                }
                if survivors & 2 == 0 {
                    block[4096 - 512..].fill(0);
                }
                assert_eq!(is_unfinished_first(&block), expected || survivors & 1 == 0, "{survivors}");
            }
        }
        assert!(!is_unfinished_first(&[7; BLOCK_BYTES]));
    }

    #[test]
    fn a_resealed_slot_with_an_impossible_root_is_invalid() {
        let mut slot = sample();
        slot.data.height = HEIGHT_MAX + 1;
        assert!(matches!(decode(&encode(&slot, &format())), SlotState::Invalid(_)));
    }
}
