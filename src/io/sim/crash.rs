//! Power cuts: which of the unsynced changes survive, and the disk that is found afterwards.
//!
//! Invariant: what was synced or forced before the cut survives every plan; surviving writes never undo later ones;
//! length changes survive in the order in which they were made.
//! Layer 1 (io).

use super::content::{BLOCK_BYTES, Content, Piece};
use super::log::{Data, Event, Log, OperationKind};
use super::rng::SplitMix64;
use crate::io::storage::WriteMode;

/// Unsynced writes up to which every subset is tried.
const EXHAUSTIVE_WRITES_MAX: usize = 10;
/// Random plans where there are more.
const SAMPLED_PLANS: u64 = 256;

/// A power cut while one operation is under way.
///
/// That operation was issued and never acknowledged, so even a forced write may be lost or torn. Every earlier
/// acknowledged sync and forced write holds. Naming the number after the last operation cuts the power when
/// everything was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrashPlan {
    operation: u64,
    writes: Survivors,
    length: LengthSurvival,
    tears: Vec<(usize, Tear)>,
}

/// Which of the writes that were not yet durable survive. They are counted from 0, in the order of their operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survivors {
    /// All of them.
    All,
    /// None of them.
    None,
    /// Those whose bit is set; writes from the 64th on are lost.
    Mask(u64),
    /// All but one.
    AllBut(usize),
    /// Survivors, tears and the length all come from this seed.
    Seeded(u64),
}

/// Which of the length changes that were not yet durable survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LengthSurvival {
    /// All of them.
    All,
    /// None of them.
    None,
    /// So many of the first ones.
    First(usize),
    /// So many of the first ones, and the one after them by at most so many bytes, where it is a growth.
    Partly {
        /// Changes that survive whole.
        changes: usize,
        /// Bytes by which the next one grows the storage.
        bytes: u64,
    },
}

/// How much a device writes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sector {
    /// 512 bytes.
    Bytes512,
    /// 4096 bytes.
    Bytes4096,
}

/// A write of which some sectors survive; the others keep what they held, or are zero where the storage was shorter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tear {
    /// The unit that is whole or absent.
    pub sector: Sector,
    /// Sector `i` of the write survives where bit `i % 64` is set.
    pub mask: u64,
}

impl CrashPlan {
    /// Power is cut during this operation, with these survivors and all length changes.
    #[must_use]
    pub fn new(operation: u64, writes: Survivors) -> Self {
        Self { operation, writes, length: LengthSurvival::All, tears: Vec::new() }
    }

    /// Nothing survives but what had to.
    #[must_use]
    pub fn nothing(operation: u64) -> Self {
        Self::new(operation, Survivors::None).with_length(LengthSurvival::None)
    }

    /// Everything survives.
    #[must_use]
    pub fn everything(operation: u64) -> Self {
        Self::new(operation, Survivors::All)
    }

    /// Chance decides everything, the same way for the same seed.
    #[must_use]
    pub fn seeded(operation: u64, seed: u64) -> Self {
        Self::new(operation, Survivors::Seeded(seed))
    }

    /// The same plan with other survivors among the length changes. No effect on a seeded plan.
    #[must_use]
    pub fn with_length(mut self, length: LengthSurvival) -> Self {
        self.length = length;
        self
    }

    /// The same plan with one surviving write torn. No effect on a seeded plan.
    #[must_use]
    pub fn with_tear(mut self, write: usize, tear: Tear) -> Self {
        self.tears.push((write, tear));
        self
    }

    /// The operation during which power is cut.
    #[must_use]
    pub fn operation(&self) -> u64 {
        self.operation
    }

    /// Which writes survive.
    #[must_use]
    pub fn writes(&self) -> Survivors {
        self.writes
    }

    /// Which length changes survive, unless the plan is seeded.
    #[must_use]
    pub fn length(&self) -> LengthSurvival {
        self.length
    }

    /// Which writes are torn, unless the plan is seeded.
    #[must_use]
    pub fn tears(&self) -> &[(usize, Tear)] {
        &self.tears
    }
}

/// What becomes of one write.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Kept,
    Lost,
    Torn(Tear),
}

impl CrashPlan {
    fn fate(&self, index: usize) -> Fate {
        let survives = match self.writes {
            Survivors::All => true,
            Survivors::None => false,
            Survivors::Mask(mask) => index < 64 && mask >> index & 1 == 1,
            Survivors::AllBut(lost) => index != lost,
            Survivors::Seeded(seed) => return self.drawn_fate(seed, index),
        };
        match self.tears.iter().find(|(write, _)| *write == index) {
            Some((_, tear)) if survives => Fate::Torn(*tear),
            _ if survives => Fate::Kept,
            _ => Fate::Lost,
        }
    }

    /// Some seeds keep most, some half, some little: a fixed half would hardly ever lose just one of many.
    fn drawn_fate(&self, seed: u64, index: usize) -> Fate {
        let percent = match SplitMix64::at(seed, self.operation, 0).below(3) {
            0 => 10,
            1 => 50,
            _ => 90,
        };
        let mut rng = SplitMix64::at(seed, self.operation, 2 + index as u64);
        if rng.below(100) >= percent {
            return Fate::Lost;
        }
        match rng.below(8) {
            0 => Fate::Torn(Tear { sector: Sector::Bytes512, mask: rng.next() }),
            1 => Fate::Torn(Tear { sector: Sector::Bytes4096, mask: rng.next() }),
            _ => Fate::Kept,
        }
    }

    /// Length changes that survive out of `count`, and bytes of the next one.
    fn length_survivors(&self, count: usize) -> (usize, u64) {
        if let Survivors::Seeded(seed) = self.writes {
            let mut rng = SplitMix64::at(seed, self.operation, 1);
            let kept = usize::try_from(rng.below(count as u64 + 1)).unwrap_or(count);
            return match rng.below(4) {
                0 => (kept, 0),
                1 => (kept, rng.below(64) * 512),
                2 => (0, 0),
                _ => (count, 0),
            };
        }
        match self.length {
            LengthSurvival::All => (count, 0),
            LengthSurvival::None => (0, 0),
            LengthSurvival::First(changes) => (changes.min(count), 0),
            LengthSurvival::Partly { changes, bytes } => (changes.min(count), bytes),
        }
    }
}

/// What a replay is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose<'a> {
    /// What is found after a power cut.
    Crash(&'a CrashPlan),
    /// What a sync, now complete, leaves on the medium.
    Sync,
    /// What is read once the clean part of the cache was dropped: unsynced writes are still held by it.
    Evict,
}

/// What may become of the bytes of a write when power is cut during `operation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// They are on the medium.
    Durable,
    /// They may or may not be.
    Open,
    /// A failed sync gave them up.
    GivenUp,
}

fn standing(event: &Event, data: &Data, operation: u64) -> Standing {
    if let Some(settled) = event.settled.filter(|settled| settled.sync < operation) {
        if settled.reached { Standing::Durable } else { Standing::GivenUp }
    } else if data.mode == WriteMode::Forced && event.operation.succeeded && event.operation.number < operation {
        Standing::Durable
    } else {
        Standing::Open
    }
}

/// Counts the length changes, and how many of the first ones are durable because a forced write needs them.
fn length_changes(base_len: u64, events: &[Event], operation: u64) -> (usize, usize) {
    let (mut count, mut durable) = (0, 0);
    // The length that was set last, and the least one that could be found by now.
    let (mut current, mut shortest) = (base_len, base_len);
    for event in events {
        if let Some(len) = event.new_len {
            count += 1;
            current = len;
            shortest = shortest.min(len);
        }
        if let Some(data) = &event.data
            && standing(event, data, operation) == Standing::Durable
            && (event.new_len.is_some() || data.end > shortest)
        {
            durable = count;
            shortest = current;
        }
    }
    (count, durable)
}

/// Plays the log up to `operation` over the bytes that were durable before.
pub(super) fn replay(log: &Log, operation: u64, purpose: Purpose<'_>) -> Content {
    let (epoch, events) = log.stretch(operation);
    let mut content = epoch.base.clone();
    let (changes, durable_changes) = length_changes(content.len(), events, operation);
    let (kept_changes, partial_bytes) = match purpose {
        Purpose::Crash(plan) => plan.length_survivors(changes - durable_changes),
        Purpose::Sync | Purpose::Evict => (changes - durable_changes, 0),
    };
    let kept_changes = durable_changes + kept_changes;
    let (mut change, mut open_write) = (0, 0);
    for event in events {
        if let Some(len) = event.new_len {
            if change < kept_changes {
                content.set_len(len);
            } else if change == kept_changes && len > content.len() {
                content.set_len(len.min(content.len().saturating_add(partial_bytes)));
            }
            change += 1;
        }
        if let OperationKind::FlipBit { offset, bit } = event.operation.kind {
            content.flip_bit(offset, bit);
        }
        let Some(data) = &event.data else { continue };
        let fate = match (standing(event, data, operation), purpose) {
            (Standing::Durable, _) => Fate::Kept,
            (Standing::GivenUp, _) => Fate::Lost,
            (Standing::Open, Purpose::Sync | Purpose::Evict) => Fate::Kept,
            (Standing::Open, Purpose::Crash(plan)) => {
                open_write += 1;
                plan.fate(open_write - 1)
            }
        };
        let still_cached = matches!(purpose, Purpose::Evict) && standing(event, data, operation) == Standing::Open;
        let pieces = if still_cached { &data.cache } else { data.platter() };
        land(&mut content, pieces, fate);
    }
    content
}

fn land(content: &mut Content, pieces: &[Piece], fate: Fate) {
    match fate {
        Fate::Lost => {}
        Fate::Kept => pieces.iter().for_each(|piece| content.put(piece)),
        Fate::Torn(tear) => {
            let sector_bytes = match tear.sector {
                Sector::Bytes512 => 512,
                Sector::Bytes4096 => BLOCK_BYTES,
            };
            let mut sector = 0_u32;
            for piece in pieces {
                // Sectors are those of the device, so they are counted from the start of the first block touched.
                for start in (0..BLOCK_BYTES).step_by(sector_bytes) {
                    let range = start..start + sector_bytes;
                    if range.end <= piece.range.start || range.start >= piece.range.end {
                        continue;
                    }
                    if tear.mask >> (sector % 64) & 1 == 1 {
                        content.put_part(piece, range);
                    }
                    sector += 1;
                }
            }
        }
    }
}

/// Writes and length changes that are open when power is cut during `operation`.
fn open_changes(log: &Log, operation: u64) -> (usize, usize) {
    let (epoch, events) = log.stretch(operation);
    let is_open =
        |event: &&Event| event.data.as_ref().is_some_and(|data| standing(event, data, operation) == Standing::Open);
    let (changes, durable) = length_changes(epoch.base.len(), events, operation);
    (events.iter().filter(is_open).count(), changes - durable)
}

/// Plans for a power cut during `operation`: every subset of the open writes where they are few, else a sample, and
/// the same with length changes lost, one write torn, or a partial growth.
pub(super) fn plans(log: &Log, operation: u64) -> impl Iterator<Item = CrashPlan> + use<> {
    let (writes, changes) = open_changes(log, operation);
    let exhaustive = writes <= EXHAUSTIVE_WRITES_MAX;
    let masks = if exhaustive { 1_u64 << writes } else { 0 };
    let subsets = (0..masks).map(move |mask| CrashPlan::new(operation, Survivors::Mask(mask)));
    let singles = if exhaustive { 0 } else { writes };
    let edges = (!exhaustive).then_some([Survivors::All, Survivors::None]).into_iter().flatten();
    let samples = edges
        .chain((0..singles).map(Survivors::AllBut))
        .chain((0..if exhaustive { 0 } else { SAMPLED_PLANS }).map(Survivors::Seeded))
        .map(move |writes| CrashPlan::new(operation, writes));
    let without_length = (0..masks.min(if changes > 0 { u64::MAX } else { 0 }))
        .map(move |mask| CrashPlan::new(operation, Survivors::Mask(mask)).with_length(LengthSurvival::None));
    let lengths = (0..changes).flat_map(move |kept| {
        [
            LengthSurvival::First(kept),
            LengthSurvival::Partly { changes: kept, bytes: 512 },
            LengthSurvival::Partly { changes: kept, bytes: 4096 },
        ]
        .map(|length| CrashPlan::new(operation, Survivors::All).with_length(length))
    });
    let tears = (0..writes).flat_map(move |write| {
        let mask = SplitMix64::at(operation, 0, write as u64).next();
        [(Sector::Bytes512, 1), (Sector::Bytes512, mask), (Sector::Bytes4096, 1), (Sector::Bytes4096, !1)]
            .map(|(sector, mask)| CrashPlan::new(operation, Survivors::All).with_tear(write, Tear { sector, mask }))
    });
    subsets.chain(samples).chain(without_length).chain(lengths).chain(tears)
}
