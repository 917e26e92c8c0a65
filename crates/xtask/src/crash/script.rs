//! The workloads: scripts that each provoke one part of the protocol, and random ones.

use super::bulk::{Bulk, Burst, any_bulk};
use super::level::{Level, SYNC_DELAY_MAX, with_syncs};
use super::state::Change;
use super::together::{Work, writers};
use crate::random::Random;
use cowslip::{Builder, Clock};

/// One step of a workload.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// The level of the commit is drawn by [`Script::level`].
    Commit(Vec<Change>),
    /// Several threads write at once, each its part.
    Together(Vec<Vec<Work>>),
    /// Makes everything durable that is committed.
    Sync,
    Abort(Vec<Change>),
    /// Begins a snapshot that is compared when it ends.
    Pin,
    /// Ends the oldest snapshot.
    Unpin,
    /// Compacts, and ends it after so many steps.
    Compact {
        steps_max: usize,
    },
    /// Closes and opens again.
    Close,
    /// The process dies without closing, and the next one opens the database.
    Kill,
    /// The process dies, a bit of block 0 decays, and the next process repairs it.
    Decay,
}

/// Geometry and cache of a database.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setup {
    /// Unit, node and region; ordinary sizes where absent.
    pub(super) geometry: Option<(u32, u32, u32)>,
    pub(super) cache_bytes_max: usize,
}

/// A workload, made from its name and seed alone.
#[derive(Debug, Clone)]
pub(super) struct Script {
    pub(super) name: &'static str,
    pub(super) seed: u64,
    pub(super) setup: Setup,
    pub(super) steps: Vec<Step>,
}

impl Script {
    /// What the commit waits for that is this step.
    pub(super) fn level(&self, step: usize) -> Level {
        Level::any(&mut Random::at(self.seed ^ LEVEL_SEED, step as u64))
    }

    /// Whether threads take turns in an order that the seed does not decide.
    pub(super) fn is_concurrent(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Together(_)))
    }
}

/// Apart from what the workloads draw.
const LEVEL_SEED: u64 = 0x1E7_E100;

/// Time stands still, so that the same operations write the same bytes.
#[derive(Debug)]
struct StoppedClock;

impl Clock for StoppedClock {
    fn now_micros(&self) -> u64 {
        1_000_000
    }
}

impl Setup {
    const TINY: Self = Self { geometry: Some((512, 512, 64)), cache_bytes_max: 1 << 20 };

    pub(super) fn builder(self, session: u8) -> Builder {
        let mut identity = [0x5A; 16];
        identity[15] = session;
        let builder = Builder::new().cache_bytes_max(self.cache_bytes_max).clock(StoppedClock);
        let builder = builder.test_identity(identity).sync_delay_max(SYNC_DELAY_MAX);
        match self.geometry {
            Some((unit, node, region)) => builder.test_geometry(unit, node, region),
            None => builder.node_bytes(4096),
        }
    }
}

type Steps = fn(&mut Random) -> Vec<Step>;

const SCRIPTS: &[(&str, Setup, Steps)] = &[
    ("create", Setup::TINY, create),
    ("small", Setup::TINY, small),
    ("tables", Setup::TINY, tables),
    ("large", Setup { geometry: Some((512, 512, 64)), cache_bytes_max: 1 << 20 }, large),
    ("spill", Setup { geometry: Some((512, 512, 64)), cache_bytes_max: 16 << 10 }, spill),
    ("shrink", Setup::TINY, shrink),
    ("readers", Setup { geometry: Some((512, 512, 64)), cache_bytes_max: 0 }, readers),
    ("aborts", Setup { geometry: Some((512, 512, 32)), cache_bytes_max: 8 << 10 }, aborts),
    ("repair", Setup { geometry: Some((512, 1024, 64)), cache_bytes_max: 1 << 20 }, repair),
    ("ordinary", Setup { geometry: None, cache_bytes_max: 64 << 10 }, ordinary),
    ("compact", Setup { geometry: Some((512, 512, 64)), cache_bytes_max: 16 << 10 }, compact),
    ("compact-random", Setup { geometry: Some((512, 1024, 128)), cache_bytes_max: 8 << 10 }, compact_random),
    ("bursts", Setup { geometry: Some((512, 512, 64)), cache_bytes_max: 4 << 10 }, bursts),
    ("groups", Setup { geometry: Some((512, 1024, 64)), cache_bytes_max: 64 << 10 }, groups),
    ("writers", Setup { geometry: Some((512, 1024, 64)), cache_bytes_max: 64 << 10 }, writers),
    ("random", Setup::TINY, random),
    ("random-units", Setup { geometry: Some((4096, 4096, 64)), cache_bytes_max: 64 << 10 }, random),
    ("random-spill", Setup { geometry: Some((512, 512, 64)), cache_bytes_max: 4 << 10 }, random),
];

/// How many scripts there are.
pub(super) fn count() -> usize {
    SCRIPTS.len()
}

/// Script number `index` with this seed.
pub(super) fn script(index: usize, seed: u64) -> Script {
    let (name, setup, steps) = SCRIPTS[index];
    let mut random = Random::at(seed, index as u64);
    let steps = steps(&mut random);
    Script { name, seed, setup, steps: with_syncs(steps, &mut random) }
}

/// Names of all scripts.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    SCRIPTS.iter().map(|(name, ..)| *name)
}

fn put(random: &mut Random, tables: u32, keys: u32, len_max: u64) -> Change {
    let len = usize::try_from(random.below_wide(len_max + 1)).expect("values are small");
    Change::Put { table: random.below_small(tables), key: random.below_small(keys), len, fill: random.next() }
}

fn puts(random: &mut Random, count: usize, tables: u32, keys: u32, len_max: u64) -> Vec<Change> {
    (0..count).map(|_| put(random, tables, keys, len_max)).collect()
}

/// Rows with these keys and one length.
pub(super) fn fill(random: &mut Random, table: u32, keys: std::ops::Range<u32>, len: usize) -> Vec<Change> {
    keys.map(|key| Change::Put { table, key, len, fill: random.next() }).collect()
}

fn create(random: &mut Random) -> Vec<Step> {
    vec![
        Step::Close,
        Step::Commit(puts(random, 1, 1, 4, 40)),
        Step::Close,
        Step::Commit(puts(random, 2, 2, 4, 40)),
        Step::Commit(puts(random, 1, 1, 4, 40)),
        Step::Close,
    ]
}

fn small(random: &mut Random) -> Vec<Step> {
    let mut steps = Vec::new();
    for commit in 0..14 {
        let mut changes = puts(random, 1 + commit % 3, 2, 40, 120);
        changes.push(Change::Remove { table: 0, key: random.below_small(40) });
        steps.push(Step::Commit(changes));
        match commit {
            6 => steps.push(Step::Close),
            9 => steps.push(Step::Kill),
            _ => {}
        }
    }
    steps.push(Step::Close);
    steps
}

/// Commits so small that the log tells of nearly all, so that one write serves many.
fn groups(random: &mut Random) -> Vec<Step> {
    let mut steps = vec![Step::Commit(fill(random, 0, 0..30, 50)), Step::Commit(fill(random, 1, 0..30, 50))];
    for _ in 0..24 {
        steps.push(Step::Commit(puts(random, 1, 2, 30, 50)));
        match random.below(24) {
            0 => steps.push(Step::Close),
            1 => steps.push(Step::Kill),
            2 => steps.push(Step::Pin),
            3 => steps.push(Step::Unpin),
            4 => steps.push(COMPACT),
            5 => steps.push(Step::Abort(puts(random, 2, 2, 30, 50))),
            // Values of their own pages, which no record tells.
            6 => steps.push(Step::Commit(fill(random, 0, 28..30, 1_500))),
            _ => {}
        }
    }
    steps.push(Step::Close);
    steps
}

fn tables(random: &mut Random) -> Vec<Step> {
    let mut steps = Vec::new();
    for commit in 0..10_u32 {
        let mut changes = puts(random, 6, 5, 30, 200);
        match commit % 3 {
            0 => changes.push(Change::Rename { table: random.below_small(5), to: 5 + random.below_small(3) }),
            1 => changes.push(Change::Delete { table: random.below_small(8) }),
            _ => changes.insert(0, Change::Delete { table: random.below_small(5) }),
        }
        steps.push(Step::Commit(changes));
        if commit == 5 {
            steps.push(Step::Close);
        }
    }
    steps.push(Step::Close);
    steps
}

/// Values inside leaves, in single runs, in lists of runs, and long enough to be written at once.
fn large(random: &mut Random) -> Vec<Step> {
    let lens = [300, 3_000, 20_000, 70_000, 16_384, 16_385, 1_000];
    let mut steps = Vec::new();
    for commit in 0..8_usize {
        let len = lens[commit % lens.len()];
        let mut changes = vec![
            Change::Put { table: 0, key: random.below_small(4), len, fill: random.next() },
            put(random, 1, 6, 2_000),
        ];
        if commit % 3 == 2 {
            changes.push(Change::Remove { table: 0, key: random.below_small(4) });
        }
        steps.push(Step::Commit(changes));
        if commit == 4 {
            steps.push(Step::Close);
        }
    }
    steps.push(Step::Close);
    steps
}

/// Transactions larger than the cache.
fn spill(random: &mut Random) -> Vec<Step> {
    vec![
        Step::Commit(puts(random, 60, 2, 400, 200)),
        Step::Abort(puts(random, 60, 2, 400, 200)),
        Step::Commit(puts(random, 50, 1, 400, 200)),
        Step::Commit(vec![Change::Thin { table: 0, multiple: 3 }]),
        Step::Commit(puts(random, 50, 2, 400, 100)),
        Step::Close,
        Step::Commit(puts(random, 40, 2, 400, 200)),
    ]
}

/// Grows the file and then frees nearly all of it, so that commits and closing cut its end.
fn shrink(random: &mut Random) -> Vec<Step> {
    vec![
        Step::Commit(fill(random, 1, 0..10, 60)),
        Step::Commit(fill(random, 0, 0..12, 15_000)),
        Step::Commit(vec![Change::Delete { table: 0 }]),
        Step::Commit(fill(random, 1, 5..15, 60)),
        Step::Commit(fill(random, 1, 5..15, 90)),
        Step::Commit(fill(random, 2, 0..5, 9_000)),
        Step::Commit(vec![Change::Thin { table: 2, multiple: 1 }]),
        Step::Close,
        Step::Commit(fill(random, 1, 0..8, 70)),
        Step::Commit(fill(random, 1, 0..2, 70)),
        Step::Close,
        Step::Commit(fill(random, 0, 0..3, 15_000)),
    ]
}

fn readers(random: &mut Random) -> Vec<Step> {
    let mut steps = vec![Step::Commit(puts(random, 20, 2, 60, 150))];
    for commit in 0..10 {
        match commit % 4 {
            0 | 1 => steps.push(Step::Pin),
            3 => steps.push(Step::Unpin),
            _ => {}
        }
        steps.push(Step::Commit(puts(random, 4, 2, 60, 150)));
    }
    steps.extend([Step::Unpin, Step::Unpin, Step::Unpin, Step::Unpin]);
    steps.push(Step::Commit(puts(random, 4, 2, 60, 150)));
    steps.push(Step::Close);
    steps
}

fn aborts(random: &mut Random) -> Vec<Step> {
    let mut steps = Vec::new();
    for round in 0..6 {
        steps.push(Step::Commit(puts(random, 6, 2, 60, 300)));
        let mut changes = puts(random, 30, 3, 90, 300);
        if round == 3 {
            changes.push(Change::Put { table: 0, key: 1, len: 66_000, fill: 1 });
        }
        changes.push(Change::Delete { table: 0 });
        steps.push(Step::Abort(changes));
    }
    steps.push(Step::Close);
    steps
}

fn repair(random: &mut Random) -> Vec<Step> {
    vec![
        Step::Commit(puts(random, 4, 2, 20, 200)),
        Step::Decay,
        Step::Commit(puts(random, 4, 2, 20, 200)),
        Step::Close,
        Step::Decay,
        Step::Commit(puts(random, 4, 2, 20, 200)),
        Step::Commit(puts(random, 4, 2, 20, 200)),
        Step::Close,
    ]
}

/// Compaction that nobody ends early.
const COMPACT: Step = Step::Compact { steps_max: usize::MAX };

fn many(table: u32, bulk: Bulk) -> Change {
    Change::Many { table, bulk }
}

/// Rows of all sizes in three tables: inside of leaves, in single runs and in lists of runs.
fn all_sizes(random: &mut Random) -> Vec<Change> {
    let mut changes = fill(random, 0, 0..60, 120);
    changes.extend(puts(random, 20, 3, 90, 400));
    changes.extend(fill(random, 1, 100..105, 3_000));
    changes.extend(fill(random, 2, 50..52, 20_000));
    changes
}

/// Makes holes of all kinds and compacts: with and without readers, broken off, twice, and by several processes.
fn compact(random: &mut Random) -> Vec<Step> {
    let multiple = 2 + random.below(2);
    let mut steps = vec![
        Step::Commit(all_sizes(random)),
        Step::Commit(fill(random, 3, 0..20, 90)),
        Step::Commit(vec![Change::Thin { table: 0, multiple }, Change::Delete { table: 3 }]),
        COMPACT,
        COMPACT,
        Step::Commit(puts(random, 20, 3, 90, 200)),
        Step::Pin,
        Step::Commit(vec![many(0, Bulk::Retain { multiple: 2 }), many(1, Bulk::RemoveRange { keys: 0..103 })]),
        COMPACT,
        Step::Pin,
        Step::Commit(puts(random, 10, 3, 90, 200)),
        Step::Compact { steps_max: 1 + random.below(4) },
        Step::Unpin,
        Step::Unpin,
        COMPACT,
        Step::Close,
        Step::Commit(fill(random, 4, 0..3, 9_000)),
        Step::Commit(vec![Change::Thin { table: 1, multiple: 2 }, Change::Delete { table: 4 }]),
        Step::Compact { steps_max: 1 + random.below(6) },
        Step::Kill,
        COMPACT,
        Step::Commit(vec![many(2, Bulk::Pop { first: true, count: 5 })]),
    ];
    if random.below(2) == 0 {
        steps.push(Step::Decay);
    }
    steps.extend([COMPACT, Step::Close]);
    steps
}

/// Compaction between random transactions.
fn compact_random(random: &mut Random) -> Vec<Step> {
    let mut steps = vec![Step::Commit(all_sizes(random))];
    for _ in 0..6 {
        let table = random.below_small(3);
        steps.push(Step::Commit(match random.below(4) {
            0 => puts(random, 15, 3, 90, 900),
            1 => vec![Change::Delete { table }],
            2 => vec![Change::Thin { table, multiple: 1 + random.below(3) }],
            _ => vec![many(table, any_bulk(random, 90, 150))],
        }));
        match random.below(6) {
            0 => steps.push(Step::Pin),
            1 => steps.push(Step::Unpin),
            2 => steps.push(Step::Kill),
            3 => steps.push(Step::Close),
            _ => {}
        }
        steps.push(if random.below(3) == 0 { Step::Compact { steps_max: 1 + random.below(9) } } else { COMPACT });
    }
    steps.push(Step::Close);
    steps
}

/// Buffered changes of more than the cache holds, which are merged and written early, and passes over the leaves.
fn bursts(random: &mut Random) -> Vec<Step> {
    let mut steps = Vec::new();
    for round in 0..5 {
        let (keys, is_ascending) = (60 + random.below_small(150), round % 2 == 0);
        let burst = |random: &mut Random, count| {
            let burst = Burst { keys, count, len_max: 150, is_ascending, fill: random.next() };
            many(random.below_small(2), Bulk::Burst(burst))
        };
        steps.push(Step::Commit(vec![burst(random, 150), many(0, any_bulk(random, keys, 150)), burst(random, 30)]));
        let (table, bulk) = (random.below_small(2), any_bulk(random, keys, 900));
        match round {
            0 => steps.push(Step::Abort(vec![burst(random, 120), many(table, bulk)])),
            1 => steps.extend([Step::Pin, Step::Commit(vec![many(table, bulk)])]),
            2 => steps.extend([Step::Commit(vec![many(table, bulk)]), Step::Close]),
            3 => steps.extend([Step::Unpin, Step::Kill, Step::Commit(vec![many(table, bulk)])]),
            _ => steps.push(Step::Abort(vec![many(table, bulk), burst(random, 100)])),
        }
    }
    steps.push(Step::Close);
    steps
}

fn ordinary(random: &mut Random) -> Vec<Step> {
    vec![
        Step::Commit(puts(random, 8, 2, 60, 500)),
        Step::Commit(puts(random, 30, 2, 90, 3_000)),
        Step::Commit(puts(random, 3, 2, 90, 70_000)),
        Step::Kill,
        Step::Commit(vec![Change::Delete { table: 0 }]),
        Step::Close,
        Step::Commit(puts(random, 8, 2, 60, 500)),
        Step::Close,
    ]
}

fn random(random: &mut Random) -> Vec<Step> {
    let (tables, keys) = (1 + random.below_small(4), 10 + random.below_small(150));
    let len_max = [40, 200, 900, 6_000][random.below(4)];
    let most = 1 + random.below(25);
    let mut steps = Vec::new();
    for _ in 0..8 + random.below(8) {
        let mut changes = Vec::new();
        for _ in 0..=random.below(most) {
            changes.push(match random.below_wide(22) {
                0 => Change::Delete { table: random.below_small(tables) },
                1 => Change::Rename { table: random.below_small(tables), to: random.below_small(tables + 2) },
                2 => Change::Thin { table: random.below_small(tables), multiple: 1 + random.below(4) },
                3..=6 => Change::Remove { table: random.below_small(tables), key: random.below_small(keys) },
                7 | 8 => many(random.below_small(tables), any_bulk(random, keys, len_max)),
                _ => put(random, tables, keys, len_max),
            });
        }
        steps.push(match random.below_wide(18) {
            0 => Step::Close,
            1 => Step::Kill,
            2 | 3 => Step::Pin,
            4 => Step::Unpin,
            5 | 6 => Step::Abort(changes),
            7 if random.below_wide(3) == 0 => Step::Decay,
            8 => COMPACT,
            9 => Step::Compact { steps_max: 1 + random.below(6) },
            _ => Step::Commit(changes),
        });
    }
    steps.push(Step::Close);
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_mixes_all_levels() {
        for (index, (name, ..)) in SCRIPTS.iter().enumerate() {
            let mut drawn = Vec::new();
            let mut syncs = 0;
            for seed in 1..20 {
                let script = script(index, seed);
                let steps = script.steps.iter().enumerate();
                syncs += steps.clone().filter(|(_, step)| matches!(step, Step::Sync)).count();
                drawn.extend(
                    steps.filter(|(_, step)| matches!(step, Step::Commit(_))).map(|(number, _)| script.level(number)),
                );
            }
            assert!(syncs > 0, "{name} never syncs");
            for level in Level::ALL {
                assert!(drawn.contains(&level), "{name} never commits with {level:?}");
            }
        }
    }
}
