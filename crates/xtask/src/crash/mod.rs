//! Crash harness: runs workloads on a simulated disk, cuts the power at every operation in every way, and requires
//! that what is found afterwards is exactly one commit, at or after the last acknowledged one.

mod audit;
mod bulk;
mod compact;
mod examine;
mod explore;
mod level;
mod mortal;
mod record;
mod script;
mod state;
mod timeline;
mod together;

use crate::Result;
use crate::random::Random;
use audit::{is_group, is_slot};
use clap::Args;
use cowslip::sim::{Operation, OperationKind};
use explore::Ledger;
use record::record;
use script::Script;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;
use timeline::{Disturbance, Timeline};

/// Options of the task.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    /// Distinct images to examine, at least.
    #[arg(long, default_value_t = 50_000)]
    images: usize,
    /// Decides workloads and plans; each further round of workloads takes the next seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs only the workload of this name.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
}

/// Returns whether there was no violation.
pub(crate) fn run(options: &Options) -> Result<bool> {
    if let Some(name) = &options.only
        && !script::names().any(|known| known == name)
    {
        let known: Vec<_> = script::names().collect();
        return Err(format!("no workload {name:?}; there are {}", known.join(", ")).into());
    }
    let started = Instant::now();
    let ledger = examine_all(options);
    for violation in &ledger.violations {
        println!("VIOLATION: {violation}");
    }
    if !ledger.violations.is_empty() {
        println!("again: cargo xtask crash --images {} --only WORKLOAD --seed SEED, as named above", options.images);
    }
    println!("seed {}, {} histories, {} s", options.seed, ledger.histories, started.elapsed().as_secs());
    for (kind, count) in &ledger.kinds {
        println!("{kind:<14} {count:>8}");
    }
    println!("{:<14} {:>8}", "(repeated)", ledger.repeated);
    for (workload, count) in &ledger.workloads {
        println!("workload {workload:<14} {count:>8}");
    }
    let violations = ledger.violations.len() as u64 + ledger.violations_dropped;
    println!("{} distinct images, {violations} violations", ledger.distinct());
    Ok(violations == 0)
}

fn examine_all(options: &Options) -> Ledger {
    let mut ledger = Ledger::default();
    let scripts: Vec<usize> = (0..script::count())
        .filter(|index| options.only.as_deref().is_none_or(|name| script::names().nth(*index) == Some(name)))
        .collect();
    // The same for all workloads together and for one alone, so that a violation is found again by its name and seed.
    let share = (options.images / script::count() / 2).clamp(20, 700);
    for round in 0.. {
        let before = ledger.distinct();
        for index in &scripts {
            let (script, known) = (script::script(*index, options.seed + round), ledger.distinct());
            examine_script(&mut ledger, &script, share);
            *ledger.workloads.entry(script.name).or_default() += ledger.distinct() - known;
            if ledger.distinct() >= options.images || ledger.violations_dropped > 1000 {
                return ledger;
            }
        }
        if ledger.distinct() == before {
            return ledger;
        }
    }
    ledger
}

/// Records a history; a panic of the store is a violation as well.
fn recorded(ledger: &mut Ledger, script: &Script, disturbance: Disturbance) -> Option<Timeline> {
    let outcome = catch_unwind(AssertUnwindSafe(|| record(script, disturbance)));
    let outcome = outcome
        .unwrap_or_else(|_| Err(format!("workload {} with seed {}, {disturbance:?}: panic", script.name, script.seed)));
    outcome.map_err(|text| ledger.violation(text)).ok()
}

/// One workload: undisturbed, then with processes killed, syncs failed and writes failed.
fn examine_script(ledger: &mut Ledger, script: &Script, share: usize) {
    let Some(timeline) = recorded(ledger, script, Disturbance::None) else { return };
    if let Err(text) = audit::audit(&timeline) {
        ledger.violation(format!("{}: {text}", timeline.describe()));
    }
    let mut random = Random::at(script.seed, 1);
    if !script.is_concurrent() {
        ledger.rot(&timeline, &mut random);
    }
    ledger.explore(&timeline, share * 45 / 100, None, script.seed);
    let mut kills = kills(&timeline, &mut random);
    if script.is_concurrent() {
        // Only slots may be lost so, and here each history has them at places of its own.
        kills.retain(|kill| matches!(kill, Disturbance::Kill(_)));
    }
    let groups = [
        (kills, share * 25 / 100, "killed"),
        (failed_syncs(&timeline, &mut random), share * 18 / 100, "failed sync"),
        (failed_writes(&timeline, &mut random), share * 8 / 100, "failed write"),
        (full_disks(&timeline, &mut random), share * 4 / 100, "full disk"),
    ];
    for (disturbances, share, kind) in groups {
        // Where one of several threads finds no space, the others go on from what nobody here knows.
        if script.is_concurrent() && kind == "full disk" {
            continue;
        }
        let goal = ledger.distinct() + share;
        let images_each = (share / 4).clamp(6, 24);
        for disturbance in disturbances {
            if let Some(timeline) = recorded(ledger, script, disturbance) {
                ledger.explore(&timeline, images_each, Some(kind), random.next());
            }
            if ledger.distinct() >= goal {
                break;
            }
        }
    }
}

/// Where to kill the process: before and after records are written, before the god byte and before the sync of a commit,
/// the latter with a lost slot too, and anywhere.
fn kills(timeline: &Timeline, random: &mut Random) -> Vec<Disturbance> {
    let operations = timeline.disk.operations();
    let numbers = |is: fn(&OperationKind) -> bool| {
        let operations = operations.iter().filter(move |done| done.number >= timeline.created && is(&done.kind));
        operations.map(|done| done.number)
    };
    let at_slot = |slot| [Disturbance::Kill(slot + 1), Disturbance::Kill(slot + 2), Disturbance::KillAfterLoss(slot)];
    let at_group = |group| [Disturbance::Kill(group), Disturbance::Kill(group + 1)];
    let decisive: Vec<Disturbance> =
        numbers(is_slot).flat_map(at_slot).chain(numbers(is_group).flat_map(at_group)).collect();
    let count = decisive.len();
    let decisive = random.sample(decisive, count);
    let anywhere = random.sample((1..timeline.disk.next_operation()).map(Disturbance::Kill).collect(), count);
    decisive.into_iter().zip(anywhere).flat_map(|(first, second)| [first, second]).collect()
}

fn failed_syncs(timeline: &Timeline, random: &mut Random) -> Vec<Disturbance> {
    let syncs: Vec<u64> = (1..timeline.disk.next_sync()).collect();
    let count = syncs.len();
    let syncs = random.sample(syncs, count);
    let fault = |sync| [Disturbance::FailSync(sync, None), Disturbance::FailSync(sync, Some(sync ^ timeline.first))];
    syncs.into_iter().flat_map(fault).collect()
}

fn full_disks(timeline: &Timeline, random: &mut Random) -> Vec<Disturbance> {
    let operations = timeline.disk.operations().into_iter();
    let grows =
        |done: &Operation| done.number >= timeline.created && matches!(done.kind, OperationKind::Preallocate { .. });
    let growths: Vec<_> = operations.filter(grows).map(|done| Disturbance::Full(done.number)).collect();
    let count = growths.len();
    random.sample(growths, count)
}

fn failed_writes(timeline: &Timeline, random: &mut Random) -> Vec<Disturbance> {
    let operations: Vec<u64> = (1..timeline.disk.next_operation()).collect();
    let count = operations.len();
    let operations = random.sample(operations, count);
    let fault = |operation: u64| {
        if operation.is_multiple_of(2) {
            Disturbance::FailOperation(operation)
        } else {
            Disturbance::ShortWrite(operation)
        }
    };
    operations.into_iter().map(fault).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_thousand_crash_images_show_no_violation() {
        let ledger = examine_all(&Options { images: 2_000, seed: 1, only: None });
        assert!(ledger.violations.is_empty(), "{}", ledger.violations.join("\n"));
        assert!(ledger.distinct() >= 2_000);
        let kinds = [
            "torn",
            "lost",
            "reordered",
            "length",
            "mixed",
            "double",
            "killed",
            "failed sync",
            "failed write",
            "full disk",
        ];
        for kind in kinds {
            assert!(ledger.kinds.get(kind).is_some_and(|count| *count > 0), "no image of kind {kind}");
        }
        for workload in script::names() {
            assert!(ledger.workloads.get(workload).is_some_and(|count| *count > 0), "no image of {workload}");
        }
    }

    #[test]
    fn the_same_seed_examines_the_same_images() {
        let counted = || {
            let ledger = examine_all(&Options { images: 150, seed: 7, only: Some("small".into()) });
            (ledger.distinct(), ledger.repeated, ledger.kinds)
        };
        assert_eq!(counted(), counted());
    }
}
