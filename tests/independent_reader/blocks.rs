//! The three fixed blocks: block 0, the two commit slots, and the choice between them.
//!
//! Uses no code of `src/` and follows design.md, "Block 0", "Commit slots" and "Opening".

use super::bytes::{Refusal, Result, all_zero, array, corrupted, digest, part, require, size, u32_at, u64_at};
use super::log::{Log, LogReference};
use std::fs::File;
use std::io::Read;
use std::path::Path;

pub(crate) const BLOCK_BYTES: usize = 4096;
const FIXED_BYTES: usize = 3 * BLOCK_BYTES;
const MAGIC: &[u8] = b"cowslip\x1A\x0A\xA9\x0D\x0A";
const SLOT_MAGIC: &[u8] = b"cowslot\x01";

/// The sizes of the file's parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) unit_bytes: usize,
    pub(crate) node_bytes: usize,
    pub(crate) region_units: usize,
}

impl Layout {
    /// Units of the three blocks, `H`.
    pub(crate) fn fixed_units(self) -> usize {
        FIXED_BYTES / self.unit_bytes
    }

    pub(crate) fn bitmap_bytes(self) -> usize {
        self.region_units / 8
    }

    /// Units of one copy of a bitmap, `B`.
    pub(crate) fn bitmap_units(self) -> usize {
        self.bitmap_bytes().div_ceil(self.unit_bytes)
    }

    /// Bytes of the longest run, `M`.
    pub(crate) fn run_bytes_max(self) -> usize {
        self.region_units / 2 * self.unit_bytes
    }

    /// The bytes of `units` units from `page`, a run, which must lie in the usable units of one region.
    pub(crate) fn run(self, file: &[u8], page: u64, units: usize) -> Result<&[u8]> {
        let page = size(page)?;
        require(units > 0 && units <= self.region_units / 2, "a run has an impossible length")?;
        require(page >= self.fixed_units(), "a run lies in the fixed blocks")?;
        let in_region = (page - self.fixed_units()) % self.region_units;
        require(in_region >= 2 * self.bitmap_units(), "a run lies in the bitmaps")?;
        require(in_region + units <= self.region_units, "a run leaves its region")?;
        part(file, page.saturating_mul(self.unit_bytes), units * self.unit_bytes)
    }

    fn is_allowed(self) -> bool {
        let Self { unit_bytes, node_bytes, region_units } = self;
        [512, 1024, 2048, 4096].contains(&unit_bytes)
            && node_bytes.is_power_of_two()
            && (unit_bytes..=65536).contains(&node_bytes)
            && region_units.is_power_of_two()
            && (32..=262_144).contains(&region_units)
            && 2 * self.bitmap_units() <= region_units / 4
            && node_bytes <= self.run_bytes_max()
    }
}

/// What the 128 immutable bytes say.
enum Immutable {
    Foreign,
    Damaged,
    Whole(Layout),
}

fn immutable(fields: &[u8]) -> Result<Immutable> {
    // The features at 32 and 40 forbid nothing to who only reads.
    if u32_at(fields, 0)? != 4 || u64_at(fields, 24)? != 0 {
        return Ok(Immutable::Foreign);
    }
    let layout = Layout {
        unit_bytes: size(u32_at(fields, 4)?)?,
        node_bytes: size(u32_at(fields, 8)?)?,
        region_units: size(u32_at(fields, 12)?)?,
    };
    // Checksum kind 1 with 8 bytes per child, no tail, no cipher, no key.
    let known = part(fields, 16, 8)? == [1, 8, 0, 0, 0, 0, 0, 0] && all_zero(&fields[64..]);
    let whole = known && layout.is_allowed();
    Ok(if whole { Immutable::Whole(layout) } else { Immutable::Damaged })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TreeRoot {
    pub(crate) page: u64,
    pub(crate) digest: [u8; 32],
    pub(crate) rows: u64,
    pub(crate) height: u8,
}

impl TreeRoot {
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let root =
            Self { page: u64_at(bytes, 0)?, digest: array(bytes, 8)?, rows: u64_at(bytes, 40)?, height: bytes[48] };
        require(root.page < 1 << 48, "a root has bits above its page number")?;
        require(root.height <= 48 && all_zero(&bytes[49..56]), "a root has an impossible height")?;
        require((root.page == 0) == (root.height == 0), "a root has a page without a height, or the reverse")?;
        require(root.page != 0 || all_zero(bytes), "the root of an empty tree has a digest or rows")?;
        Ok(root)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlobReference {
    pub(crate) page: u64,
    pub(crate) length: u64,
    pub(crate) digest: [u8; 32],
}

/// A valid commit slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) layout: Layout,
    pub(crate) generation: u64,
    pub(crate) transaction: u64,
    pub(crate) commit_time_micros: u64,
    pub(crate) data_root: TreeRoot,
    pub(crate) forward_root: TreeRoot,
    /// Absent while the file has no region.
    pub(crate) region_table: Option<BlobReference>,
    pub(crate) log: Option<LogReference>,
    pub(crate) reach: u64,
    immutable: [u8; 128],
}

#[expect(clippy::large_enum_variant, reason = "two of them exist, for the moment of choosing")]
enum Judged {
    Blank,
    Invalid,
    Foreign,
    Valid(Slot),
}

/// Judges the block of a slot by the five steps of "Commit slots".
fn judge(block: &[u8]) -> Result<Judged> {
    if all_zero(block) {
        return Ok(Judged::Blank);
    }
    if !block.starts_with(SLOT_MAGIC) || digest(&block[..4064]) != block[4064..] {
        return Ok(Judged::Invalid);
    }
    match immutable(&block[3936..4064])? {
        Immutable::Foreign => Ok(Judged::Foreign),
        Immutable::Damaged => Ok(Judged::Invalid),
        Immutable::Whole(layout) => Ok(slot(block, layout).map_or(Judged::Invalid, Judged::Valid)),
    }
}

/// Decodes the fields of a slot whose digest matches.
fn slot(block: &[u8], layout: Layout) -> Result<Slot> {
    let generation = u64_at(block, 8)?;
    require(generation > 0, "generation 0")?;
    require(all_zero(&block[48..64]), "a lineage")?;
    require(all_zero(&block[224..368]), "a blob reference that version 4 does not know")?;
    let table = BlobReference { page: u64_at(block, 176)?, length: u64_at(block, 184)?, digest: array(block, 192)? };
    Ok(Slot {
        layout,
        generation,
        transaction: u64_at(block, 16)?,
        commit_time_micros: u64_at(block, 24)?,
        data_root: TreeRoot::decode(&block[64..120])?,
        forward_root: TreeRoot::decode(&block[120..176])?,
        region_table: (!all_zero(&block[176..224])).then_some(table),
        log: LogReference::decode(&block[368..432])?,
        reach: u64_at(block, 432)?,
        immutable: array(block, 3936)?,
    })
}

/// The god byte of a usable block 0.
#[derive(Clone, Copy)]
struct God {
    primary: usize,
    recovery_required: bool,
}

/// Block 0 as far as it can be used: its immutable fields and its god byte.
fn header(block: &[u8]) -> Result<Option<(&[u8], God)>> {
    let god = block[12];
    let covered = [&block[..12], &block[16..144]].concat();
    let valid_god = god >> 6 == 0b10 && (god >> 3 & 7) == (!god & 7);
    if !block.starts_with(MAGIC) || digest(&covered) != block[144..176] || !valid_god {
        return Ok(None);
    }
    match immutable(&block[16..144])? {
        Immutable::Foreign => Err(Refusal::Foreign),
        Immutable::Damaged => Ok(None),
        Immutable::Whole(_) => {
            let god = God { primary: usize::from(god & 1), recovery_required: god & 2 != 0 };
            Ok(Some((&block[16..144], god)))
        }
    }
}

/// What opening reports although it serves the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Note {
    HeaderDamaged,
    OtherSlotDamaged,
    GodByteDisagrees,
    RecoveredAfterCrash,
    SteppedBack,
}

/// A file in memory, the slot that serves it, and what was noticed in choosing it.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) bytes: Vec<u8>,
    pub(crate) slot: Slot,
    /// What was committed on the slot's version, where the slot names a log.
    pub(crate) log: Option<Log>,
    pub(crate) notes: Vec<Note>,
}

impl Opened {
    /// Locks the file shared, reads it whole and chooses the slot.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let io = |error: &dyn std::error::Error| Refusal::Io(error.to_string());
        let mut file = File::open(path).map_err(|error| io(&error))?;
        file.try_lock_shared().map_err(|error| io(&error))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|error| io(&error))?;
        Self::new(bytes)
    }

    /// Id of the last transaction that is durable, and the time of its commit in microseconds.
    pub(crate) fn last_commit(&self) -> (u64, u64) {
        let of_slot = (self.slot.transaction, self.slot.commit_time_micros);
        self.log.as_ref().and_then(Log::last_commit).unwrap_or(of_slot)
    }

    pub(crate) fn new(bytes: Vec<u8>) -> Result<Self> {
        if bytes.len() < FIXED_BYTES {
            return Err(Refusal::NotADatabase);
        }
        let header = header(&bytes[..BLOCK_BYTES])?;
        let slots = [judge(&bytes[BLOCK_BYTES..2 * BLOCK_BYTES])?, judge(&bytes[2 * BLOCK_BYTES..FIXED_BYTES])?];
        let unfinished = bytes.len() == FIXED_BYTES
            && all_zero(&bytes[..BLOCK_BYTES])
            && matches!(
                &slots,
                [Judged::Blank, Judged::Blank] | [Judged::Valid(Slot { generation: 1, .. }), Judged::Blank]
            );
        if unfinished {
            return Err(Refusal::NotADatabase);
        }
        let mut notes = Vec::new();
        let slot = choose(header.map(|(_, god)| god), slots, &mut notes)?;
        match header {
            None => notes.push(Note::HeaderDamaged),
            Some((fields, god)) => {
                require(*fields == slot.immutable, "block 0 and the slot disagree on the immutable fields")?;
                if god.recovery_required && !notes.contains(&Note::SteppedBack) {
                    notes.push(Note::RecoveredAfterCrash);
                }
            }
        }
        let end_units = bytes.len() / slot.layout.unit_bytes;
        require(size(slot.reach)? <= end_units, "the file is shorter than the slot's reach")?;
        require(size(slot.reach)? >= slot.layout.fixed_units(), "the reach ends inside the fixed blocks")?;
        let log = Log::read(&bytes, &slot, notes.contains(&Note::SteppedBack))?;
        Ok(Self { bytes, slot, log, notes })
    }
}

/// The rules of "Choosing the slot"; `god` is absent where block 0 is damaged.
fn choose(god: Option<God>, slots: [Judged; 2], notes: &mut Vec<Note>) -> Result<Slot> {
    let (index, valid, other) = match slots {
        [Judged::Foreign, _] | [_, Judged::Foreign] => return Err(Refusal::Foreign),
        [Judged::Valid(first), Judged::Valid(second)] => {
            require(first.generation != second.generation, "both slots have one generation")?;
            require(first.immutable == second.immutable, "the slots disagree on the immutable fields")?;
            let newest = usize::from(second.generation > first.generation);
            if god.is_some_and(|god| god.primary != newest) {
                notes.push(Note::GodByteDisagrees);
            }
            return Ok(if newest == 1 { second } else { first });
        }
        [Judged::Valid(slot), other] => (0, slot, other),
        [other, Judged::Valid(slot)] => (1, slot, other),
        [_, _] if god.is_some() => return corrupted("no slot is valid"),
        [_, _] => return Err(Refusal::NotADatabase),
    };
    let Some(god) = god else { return corrupted("block 0 and a slot are damaged") };
    let names_valid = god.primary == index;
    if valid.generation == 1 && matches!(other, Judged::Blank) && names_valid {
        return Ok(valid);
    }
    match (god.recovery_required, names_valid) {
        (true, _) => notes.push(Note::SteppedBack),
        (false, true) => notes.push(Note::OtherSlotDamaged),
        (false, false) => return corrupted("the slot of the last commit is damaged"),
    }
    Ok(valid)
}
