//! The redo log: what was committed and is not in the trees of the slot, as changes of rows.
//!
//! Uses no code of `src/` and follows design.md, "Redo log".

use super::blocks::Slot;
use super::bytes::{Result, all_zero, array, corrupted, digest, part, require, size, u16_at, u32_at, u64_at};
use std::collections::BTreeMap;
use std::ops::Range;
use xxhash_rust::xxh3::xxh3_128;

pub(crate) const GROUP_HEADER_BYTES: usize = 64;
const BODY_BYTES_MAX: usize = 2 << 20;
const RECORD_HEADER_BYTES: usize = 40;
const KEY_BYTES_MAX: u32 = 65536;
/// Stands for the length of a value where the row is removed.
const REMOVED: u32 = u32::MAX;

/// Stored keys and values of a table.
pub(crate) type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// The rows of a table's tree, which holds what records up to a transaction tell.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) folded: u64,
    pub(crate) rows: Rows,
}

/// Bytes 368..432 of a slot, where they name a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogReference {
    pub(crate) page: u64,
    pub(crate) units: usize,
    pub(crate) nonce: [u8; 16],
    /// Where the first group stands, unless that is the second unit.
    pub(crate) unit: usize,
    pub(crate) sequence: u64,
    pub(crate) chain: [u8; 16],
}

impl LogReference {
    /// Refuses what makes the slot invalid.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Option<Self>> {
        if all_zero(bytes) {
            return Ok(None);
        }
        let (page, units) = (u64_at(bytes, 0)?, u64_at(bytes, 8)?);
        require(page != 0 && page < 1 << 48, "a log without a page, or with bits above its number")?;
        require((2..1 << 32).contains(&units), "a log of an impossible length")?;
        let (unit, sequence) = (u64_at(bytes, 32)?, u64_at(bytes, 40)?);
        require((1..=units).contains(&unit) && sequence > 0, "a log begins at an impossible place")?;
        let (nonce, chain) = (array(bytes, 16)?, array(bytes, 48)?);
        Ok(Some(Self { page, units: size(units)?, nonce, unit: size(unit)?, sequence, chain }))
    }
}

/// A table's name, and its changes: stored key, and stored value unless the row is removed.
type TableChanges = (String, Vec<(Vec<u8>, Option<Vec<u8>>)>);

/// One transaction.
#[derive(Debug)]
struct Record {
    transaction: u64,
    previous: u64,
    commit_time_micros: u64,
    tables: Vec<TableChanges>,
}

/// All that the log of a slot tells.
#[derive(Debug)]
pub(crate) struct Log {
    records: Vec<Record>,
    /// The transaction of the slot: a record of a later one names no table that is missing.
    slot_transaction: u64,
    /// Where the groups stand in the segment, without their padding.
    pub(crate) groups: Vec<Range<usize>>,
    /// Bytes of the segment whose damage is detected: not those of the last group, without which the log ends earlier.
    pub(crate) covered: Vec<Range<usize>>,
}

/// The 16 bytes of a sum over some parts, one behind the other.
pub(crate) fn sum(parts: &[&[u8]]) -> [u8; 16] {
    xxh3_128(&parts.concat()).to_le_bytes()
}

/// A group whose own sum matches.
struct Group<'f> {
    sequence: u64,
    durable_through: u64,
    records: u32,
    own: [u8; 16],
    chain: [u8; 16],
    body: &'f [u8],
}

impl<'f> Group<'f> {
    /// Whether these bytes start like a group of this segment.
    fn may_begin(rest: &[u8], nonce: &[u8; 16]) -> bool {
        rest.starts_with(b"cwlg") && rest[4..].starts_with(&nonce[..4])
    }

    /// The group that begins at `at`, if one does.
    fn at(segment: &'f [u8], at: usize, nonce: &[u8; 16]) -> Result<Option<Self>> {
        let rest = segment.get(at..).unwrap_or_default();
        if !Self::may_begin(rest, nonce) {
            return Ok(None);
        }
        let body_bytes = size(u32_at(rest, 24)?)?;
        let Some(body) = rest[GROUP_HEADER_BYTES..].get(..body_bytes).filter(|_| body_bytes <= BODY_BYTES_MAX) else {
            return Ok(None);
        };
        let own = array(rest, 32)?;
        let group = Self {
            sequence: u64_at(rest, 8)?,
            durable_through: u64_at(rest, 16)?,
            records: u32_at(rest, 28)?,
            own,
            chain: array(rest, 48)?,
            body,
        };
        Ok((sum(&[nonce, &rest[..32], body]) == own).then_some(group))
    }

    fn length(&self) -> usize {
        GROUP_HEADER_BYTES + self.body.len()
    }
}

/// Takes the next `length` bytes off the front of `bytes`.
fn take<'b>(bytes: &mut &'b [u8], length: usize) -> Result<&'b [u8]> {
    let taken = part(bytes, 0, length)?;
    *bytes = &bytes[length..];
    Ok(taken)
}

fn take_u32(bytes: &mut &[u8]) -> Result<u32> {
    u32_at(take(bytes, 4)?, 0)
}

impl Record {
    fn take(body: &mut &[u8]) -> Result<Self> {
        let length = size(u32_at(body, 4)?)?;
        let mut rest = take(body, length)?;
        let header = take(&mut rest, RECORD_HEADER_BYTES)?;
        require(header[..2] == [1, 0] && u16_at(header, 2)? == 0, "a record of unknown kind")?;
        require(u32_at(header, 36)? == 0, "reserved bytes of a record are not zero")?;
        let mut tables = Vec::new();
        for _ in 0..u32_at(header, 32)? {
            tables.push(Self::take_table(&mut rest)?);
        }
        require(rest.is_empty(), "bytes follow a record's tables")?;
        Ok(Self {
            transaction: u64_at(header, 8)?,
            previous: u64_at(header, 16)?,
            commit_time_micros: u64_at(header, 24)?,
            tables,
        })
    }

    fn take_table(rest: &mut &[u8]) -> Result<TableChanges> {
        let (name_bytes, count, changes_bytes) = (take_u32(rest)?, take_u32(rest)?, take_u32(rest)?);
        let Ok(name) = std::str::from_utf8(take(rest, size(name_bytes)?)?) else {
            return corrupted("the log names a table that is not UTF-8");
        };
        let mut encoded = take(rest, size(changes_bytes)?)?;
        let mut changes = Vec::new();
        for _ in 0..count {
            let (key_bytes, value_bytes) = (take_u32(&mut encoded)?, take_u32(&mut encoded)?);
            require(key_bytes <= KEY_BYTES_MAX, "a key in the log is too long")?;
            let key = take(&mut encoded, size(key_bytes)?)?.to_vec();
            let value =
                if value_bytes == REMOVED { None } else { Some(take(&mut encoded, size(value_bytes)?)?.to_vec()) };
            changes.push((key, value));
        }
        require(encoded.is_empty(), "bytes follow a table's changes")?;
        Ok((name.to_owned(), changes))
    }
}

impl Log {
    /// Reads the log that the slot names, if it names one; `is_older` where the slot serves as a step back.
    pub(crate) fn read(file: &[u8], slot: &Slot, is_older: bool) -> Result<Option<Self>> {
        let Some(reference) = slot.log else { return Ok(None) };
        let unit_bytes = slot.layout.unit_bytes;
        let segment = slot.layout.run(file, reference.page, reference.units)?;
        let units = u64::try_from(reference.units).or_else(|_| corrupted("a log exceeds the memory"))?;
        let first = [b"cowlog\x01\0".as_slice(), &units.to_le_bytes(), &reference.nonce].concat();
        require(segment.starts_with(&first), "the log does not begin as the slot says")?;
        require(segment[32..64] == digest(&first), "the digest of a log's first unit does not match")?;
        let mut log =
            Self { records: Vec::new(), slot_transaction: slot.transaction, groups: Vec::new(), covered: Vec::new() };
        // Records may be older than the slot: of tables whose trees it did not make.
        let (mut next, mut last) = (reference.unit * unit_bytes, 0);
        let (mut sequence, mut chain) = (reference.sequence, reference.chain);
        loop {
            let mut found = None;
            for at in [next, unit_bytes] {
                let group = Group::at(segment, at, &reference.nonce)?;
                let follows =
                    |group: &Group<'_>| group.sequence == sequence && group.chain == sum(&[&chain, &group.own]);
                found = found.or(group.filter(follows).map(|group| (at, group)));
            }
            let Some((at, group)) = found else { break };
            let mut body = group.body;
            for _ in 0..group.records {
                let record = Record::take(&mut body)?;
                let newest = slot.transaction.max(last);
                if is_older && record.previous > newest {
                    return Ok(Some(log));
                }
                let is_after_slot = record.transaction > slot.transaction;
                let is_next = if is_after_slot { record.previous == newest } else { record.previous >= last };
                require(is_next && record.transaction > record.previous, "the log's ids do not follow")?;
                last = record.transaction;
                log.records.push(record);
            }
            require(body.is_empty(), "bytes follow the records of a group")?;
            log.groups.push(at..at + group.length());
            next = at + group.length().next_multiple_of(unit_bytes);
            chain = group.chain;
            sequence += 1;
        }
        let mut claimed_bytes = 0;
        for later in (unit_bytes..segment.len()).step_by(unit_bytes) {
            let rest = &segment[later..];
            if Group::may_begin(rest, &reference.nonce) && u64_at(rest, 16)? >= sequence {
                let length = size(u32_at(rest, 24)?)?;
                claimed_bytes += if length <= BODY_BYTES_MAX { length } else { 0 };
            }
            require(claimed_bytes <= 4 * segment.len(), "groups that overlap are claimed in the log")?;
            let claims = |group: Group<'_>| group.durable_through >= sequence;
            let is_damaged = Group::at(segment, later, &reference.nonce)?.is_some_and(claims);
            require(!is_damaged, "a group of the log is missing that was durable")?;
        }
        log.covered.push(0..64);
        log.covered.extend(log.groups.iter().rev().skip(1).cloned());
        Ok(Some(log))
    }

    /// Transactions that the log tells of.
    pub(crate) fn transactions(&self) -> usize {
        self.records.len()
    }

    /// Transactions later than the slot's that the log tells of.
    pub(crate) fn transactions_after_slot(&self) -> usize {
        self.records.iter().filter(|record| record.transaction > self.slot_transaction).count()
    }

    /// Id of the last transaction after the slot's, and the time of its commit in microseconds.
    pub(crate) fn last_commit(&self) -> Option<(u64, u64)> {
        let last = self.records.last().filter(|record| record.transaction > self.slot_transaction);
        last.map(|record| (record.transaction, record.commit_time_micros))
    }

    /// Makes the changes of all records to the rows of the slot's trees, as far as those lack them.
    pub(crate) fn apply(&self, tables: &mut BTreeMap<String, Stored>) -> Result<()> {
        for record in &self.records {
            for (name, changes) in &record.tables {
                let stored = tables.get_mut(name);
                let is_after_slot = record.transaction > self.slot_transaction;
                require(stored.is_some() || !is_after_slot, "the log names a table that is not there")?;
                let Some(stored) = stored.filter(|stored| record.transaction > stored.folded) else { continue };
                for (key, value) in changes {
                    match value {
                        Some(value) => stored.rows.insert(key.clone(), value.clone()),
                        None => stored.rows.remove(key),
                    };
                }
            }
        }
        Ok(())
    }
}
