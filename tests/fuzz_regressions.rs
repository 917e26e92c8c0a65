//! Replays the seeds and the inputs that fuzzing has found, and measures how far the fuzz targets reach.
//!
//! Invariant: no input makes the store panic, damage is never read as if it had been written, and each target gets
//! behind the checksums to the code that it aims at.

#[path = "../fuzz/src/lib.rs"]
pub mod targets;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use targets::image::{self, NOT_CLOSED, Outcome, READ_ONLY, RESEAL};
use targets::names::{CANARY, CANARY_MESSAGE, TARGETS};
use targets::node::Kind;
use targets::probe::{Reach, Stage};
use targets::{canary, header, keys, node, operations, space};

fn folder(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(path)
}

/// Seeds and regressions of a target, in the order of their names.
fn inputs(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folders = ["seeds", "regressions"].map(|kind| folder(kind).join(target));
    let entries = folders.iter().filter_map(|folder| folder.read_dir().ok()).flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("the folder can be read").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{target} has no inputs");
    paths.into_iter().map(|path| (path.clone(), fs::read(path).expect("the input can be read"))).collect()
}

/// How an input of the target is run.
fn body(target: &str) -> fn(&[u8]) {
    match target {
        "image" => |data| {
            image::run(data);
        },
        "header" => |data| {
            header::run(data);
        },
        "node" => |data| {
            node::run(data);
        },
        "space" => |data| {
            space::run(data);
        },
        "keys" => |data| {
            keys::run(data);
        },
        "operations" => |data| {
            operations::run(data);
        },
        CANARY => canary::run,
        other => panic!("nothing runs the inputs of {other}"),
    }
}

fn replay(target: &str) {
    for (path, data) in inputs(target) {
        println!("{}", path.display());
        body(target)(&data);
    }
}

#[test]
fn image_inputs_run_clean() {
    replay("image");
}

#[test]
fn operation_inputs_run_clean() {
    replay("operations");
}

#[test]
fn inputs_of_all_other_targets_run_clean() {
    TARGETS.iter().filter(|target| !["image", "operations"].contains(target)).for_each(|target| replay(target));
}

/// The list that is run and replayed is the list that is built, and every target of it has a body and inputs.
#[test]
fn pitfall_59_every_fuzz_target_is_built_run_and_replayed_and_so_is_the_canary() {
    let listed: BTreeSet<String> = TARGETS.into_iter().chain([CANARY]).map(str::to_owned).collect();
    assert_eq!(listed.len(), TARGETS.len() + 1);
    let manifest = fs::read_to_string(folder("Cargo.toml")).expect("the manifest can be read");
    let binaries = manifest.split("[[bin]]").skip(1);
    let names = binaries.filter_map(|binary| binary.split_once("name = \"")?.1.split('"').next());
    assert_eq!(names.map(str::to_owned).collect::<BTreeSet<_>>(), listed, "fuzz/Cargo.toml");
    let sources = folder("fuzz_targets").read_dir().expect("the folder can be read");
    let stems = sources.filter_map(|source| source.ok()?.path().file_stem()?.to_str().map(str::to_owned));
    assert_eq!(stems.collect::<BTreeSet<_>>(), listed, "fuzz/fuzz_targets");
    for target in &listed {
        let source = fs::read_to_string(folder(&format!("fuzz_targets/{target}.rs"))).expect("it can be read");
        assert!(source.contains(&format!("cowslip_fuzz::{target}::run(data)")), "{target} runs something else");
        body(target);
        assert!(!inputs(target).is_empty());
    }
    for kind in ["seeds", "regressions"] {
        for entry in folder(kind).read_dir().expect("the folder can be read") {
            let name = entry.expect("the folder can be read").file_name();
            assert!(listed.iter().any(|target| **target == *name), "{kind} of no target: {}", name.display());
        }
    }
}

#[test]
fn pitfall_59_the_canary_fails_on_its_inputs_and_on_nothing_that_checksums_stop() {
    for (path, data) in inputs(CANARY) {
        let failed = std::panic::catch_unwind(|| canary::run(&data)).expect_err(&format!("{}", path.display()));
        let message = failed.downcast_ref::<String>().cloned().unwrap_or_default();
        assert!(message.contains(CANARY_MESSAGE), "{message}");
        let unsealed = [&[data[0] | node::UNSEALED], &data[1..]].concat();
        canary::run(&unsealed);
    }
    canary::run(&[]);
}

#[test]
fn an_image_without_damage_is_read_as_it_was_written() {
    for flags in [0, NOT_CLOSED, READ_ONLY, NOT_CLOSED | READ_ONLY, RESEAL, RESEAL | NOT_CLOSED] {
        assert_eq!(image::run(&[flags]), Outcome::Committed, "flags {flags}");
    }
}

#[test]
fn files_without_damage_stand_every_use() {
    let all = [Stage::Done; 5];
    let stages = |reach: &Reach| [reach.opened, reach.read, reach.searched, reach.checked, reach.changed];
    for flags in [0, header::NOT_CLOSED, header::NOT_CLOSED | header::SEAL_SLOT_0 | header::SEAL_HEADER] {
        assert_eq!(stages(&header::run(&[flags])), all);
    }
    for flags in [0, node::NOT_CLOSED, node::FIT, node::UNSEALED] {
        for which in 0..=u8::MAX {
            let outcome = node::run(&[flags, which]);
            assert_eq!((stages(&outcome.reach), outcome.forged), (all, false), "flags {flags}, node {which}");
        }
    }
    for flags in [0, space::FIT, space::FIT | space::NOT_CLOSED, space::STEP_BACK | space::NOT_CLOSED] {
        assert_eq!(stages(&space::run(&[flags])), all, "flags {flags}");
    }
}

#[test]
fn a_reached_node_that_was_handed_out_again_is_damage_and_not_a_lost_dirty_node() {
    // The bitmap clears units that the tree reaches, so one of its nodes is allocated for the copy of another.
    let outcome = image::run(&[RESEAL, 0xbb, 0x00, 0xc2, 0x7c, 0xd0, 0xc0, 0x06, 0xc0]);
    assert_eq!(outcome, Outcome::Unreadable);
}

/// Inputs that invert one bit of each of the covered byte runs of the sample, at several places.
fn single_flips(flags: u8) -> impl Iterator<Item = [u8; 5]> {
    (0..=255).flat_map(move |run| [0, 5, 16, 40, 90].map(|place| [flags, 0xc0, run, place, 4]))
}

#[test]
fn damage_in_everything_that_a_checksum_covers_is_noticed() {
    let outcomes: Vec<Outcome> = single_flips(READ_ONLY).map(|input| image::run(&input)).collect();
    assert!(!outcomes.contains(&Outcome::Forged));
    assert!(outcomes.contains(&Outcome::Refused) && outcomes.contains(&Outcome::Unreadable));
}

#[test]
fn resealed_damage_gets_behind_the_checksums() {
    let outcomes: Vec<Outcome> = single_flips(RESEAL).map(|input| image::run(&input)).collect();
    let forged = outcomes.iter().filter(|outcome| **outcome == Outcome::Forged).count();
    assert!(forged > 10, "{forged} of {} inputs were read with other rows", outcomes.len());
}

/// How often each stage was the end, among inputs that a target was run on.
fn tally(stages: impl Iterator<Item = Stage>) -> BTreeMap<Stage, usize> {
    let mut counts = BTreeMap::new();
    stages.for_each(|stage| *counts.entry(stage).or_default() += 1);
    counts
}

/// Requires that a stage was the end at least so often.
fn assert_reaches(what: &str, counts: &BTreeMap<Stage, usize>, stage: Stage, least: usize) {
    println!("{what}: {counts:?}");
    assert!(counts.get(&stage).is_some_and(|count| *count >= least), "{what}: {counts:?}");
}

#[test]
fn header_damage_reaches_the_choice_of_slots_and_what_they_name() {
    // Each field of both slots, to a small number, to the largest and to another one of the file.
    let edits = || (8..432_u16).step_by(8).flat_map(|at| [(4, 3), (5, 255), (7, 30), (1, 1)].map(|edit| (at, edit)));
    let input = |flags: u8, (at, (how, value)): (u16, (u8, u8))| {
        let [low, high] = at.to_le_bytes();
        [flags, how | 0x40, low, high, value, how | 0x80, low, high, value]
    };
    let sealed = header::SEAL_SLOT_0 | header::SEAL_SLOT_1 | header::SEAL_TARGETS;
    let reaches: Vec<Reach> = edits().map(|edit| header::run(&input(sealed, edit))).collect();
    assert_reaches("opening", &tally(reaches.iter().map(|reach| reach.opened)), Stage::Refused, 50);
    assert_reaches("reading", &tally(reaches.iter().map(|reach| reach.read)), Stage::Refused, 3);
    assert_reaches("checking", &tally(reaches.iter().map(|reach| reach.checked)), Stage::Refused, 10);
    assert_reaches("changing", &tally(reaches.iter().map(|reach| reach.changed)), Stage::Done, 50);
    let inverted = edits().filter(|(_, edit)| *edit == (1, 1));
    let unsealed = tally(inverted.map(|edit| header::run(&input(0, edit)).opened));
    assert_eq!(unsealed.get(&Stage::Done), None, "without new digests nothing is opened: {unsealed:?}");
}

/// Inputs that edit every node of the sample at many places, in its header, arrays, heap and prefix.
fn node_edits(flags: u8) -> impl Iterator<Item = [u8; 6]> {
    (0..17).flat_map(move |which| {
        let places = (0..128_u16).step_by(9).chain((128..1024).step_by(23));
        places.flat_map(move |place| {
            let [low, high] = place.to_le_bytes();
            [1, 255].map(|value| [flags, which, 3, low, high, value])
        })
    })
}

#[test]
fn node_damage_gets_to_the_decoders_and_through_them_for_each_kind_of_node() {
    let outcomes: Vec<_> = node_edits(node::FIT).map(|input| node::run(&input)).collect();
    for kind in [Kind::Leaf, Kind::UniformLeaf, Kind::Branch] {
        let of_kind = || outcomes.iter().filter(|outcome| outcome.kind == kind);
        let what = format!("{kind:?}");
        let read = tally(of_kind().map(|outcome| outcome.reach.read));
        assert_reaches(&what, &read, Stage::Refused, 50);
        assert_reaches(&what, &read, Stage::Done, 50);
        // Past the decoders: other rows, or all of them although the full check knows better.
        let passed = of_kind().filter(|outcome| {
            outcome.forged || outcome.reach.read == Stage::Done && outcome.reach.checked == Stage::Refused
        });
        let passed = passed.count();
        println!("{what}: {passed} got through the decoders");
        assert!(passed >= if kind == Kind::Branch { 5 } else { 50 }, "{what}: {passed} got through the decoders");
        assert_reaches(&what, &tally(of_kind().map(|outcome| outcome.reach.changed)), Stage::Done, 50);
    }
}

#[test]
fn node_damage_without_new_checksums_never_reaches_a_decoder() {
    for input in node_edits(node::UNSEALED | node::READ_ONLY) {
        let outcome = node::run(&input);
        let stopped = [Stage::Checksum, Stage::Done, Stage::NotTried].contains(&outcome.reach.read);
        assert!(stopped && !outcome.forged, "{input:?}: {}", outcome.reach.reason);
    }
}

#[test]
fn space_damage_reaches_the_allocator_and_the_account_of_all_units() {
    let inputs = |flags: u8| {
        let bitmaps = (0..4_u8).flat_map(|which| (0..8).map(move |place| (which << 6 & 0x40, which >> 1, place)));
        let tables = (0..2_u8).flat_map(|which| (0..56).map(move |place| (0x80, which, place)));
        bitmaps.chain(tables).flat_map(move |(aim, which, place)| [1, 16].map(|bit| [flags, aim, which, place, bit]))
    };
    for (what, flags) in [("fitted", space::FIT), ("sealed", 0), ("stepped back", space::STEP_BACK | space::NOT_CLOSED)]
    {
        let reaches: Vec<Reach> = inputs(flags).map(|input| space::run(&input)).collect();
        // After a step back every bitmap is verified when the file is opened, otherwise when it is used.
        let verified =
            reaches.iter().map(|reach| if flags & space::STEP_BACK == 0 { reach.checked } else { reach.opened });
        assert_reaches(&format!("{what}, bitmaps"), &tally(verified), Stage::Refused, 20);
        assert_reaches(&format!("{what}, change"), &tally(reaches.iter().map(|reach| reach.changed)), Stage::Done, 100);
        let account =
            |reach: &&Reach| reach.reason.contains("nothing reaches") || reach.reason.contains("recorded as free");
        let accounts = reaches.iter().filter(account).count();
        println!("{what}: {accounts} got to the account");
        assert!(flags != space::FIT || accounts >= 20, "{what}: {accounts}");
    }
    for input in inputs(space::UNSEALED) {
        let reach = space::run(&input);
        let stages = [reach.opened, reach.checked, reach.changed];
        assert!(!stages.contains(&Stage::Refused), "{input:?}: {}", reach.reason);
    }
}

#[test]
fn every_key_type_decodes_keys_of_the_inputs() {
    let inputs = inputs("keys");
    let (mut seen, mut missing) = (BTreeSet::new(), BTreeSet::new());
    for which in 0..u8::try_from(keys::TYPES).expect("a byte chooses the type") {
        let tails = inputs.iter().filter_map(|(_, data)| data.get(2..));
        let all = tails.flat_map(|tail| [0, 1, 2].map(|form| [&[which, form], tail].concat()));
        let outcomes: Vec<_> = all.map(|input| keys::run(&input)).collect();
        let best = outcomes.iter().max_by_key(|outcome| outcome.decoded).expect("there are inputs");
        if best.decoded < 2 {
            missing.insert(format!("{which}: {}", best.descriptor));
        }
        seen.insert(best.descriptor.clone());
    }
    assert!(missing.is_empty(), "types without two keys: {missing:?}");
    assert!(seen.len() > 40, "{seen:?}");
}

#[test]
fn operation_inputs_meet_every_outcome_of_a_fault() {
    let outcomes: Vec<_> = inputs("operations").iter().map(|(_, data)| operations::run(data)).collect();
    let sum = |count: fn(&operations::Outcome) -> u32| outcomes.iter().map(count).sum::<u32>();
    let sums = [
        sum(|outcome| outcome.commits),
        sum(|outcome| outcome.failed),
        sum(|outcome| outcome.doubtful_kept),
        sum(|outcome| outcome.doubtful_lost),
        sum(|outcome| outcome.power_cuts),
        sum(|outcome| outcome.reopened),
    ];
    println!("commits, failed, doubtful kept, doubtful lost, power cuts, reopened: {sums:?}");
    assert!(sums.iter().all(|sum| *sum >= 1), "{sums:?}");
}
