//! Replays the inputs that fuzzing has found, and shows that the fuzz targets reach what they aim at.
//!
//! Invariant: no input makes the store panic, and damage is never read as if it had been written.

#[path = "../fuzz/src/lib.rs"]
pub mod targets;

use std::fs;
use std::path::Path;
use targets::image::{self, NOT_CLOSED, Outcome, READ_ONLY, RESEAL};
use targets::operations;

/// Runs every input of a target; there must be some.
fn replay(target: &str, run: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/regressions").join(target);
    let mut count = 0;
    for entry in folder.read_dir().expect("the target has a folder of inputs") {
        let path = entry.expect("the folder can be read").path();
        println!("{}", path.display());
        run(&fs::read(path).expect("the input can be read"));
        count += 1;
    }
    assert!(count > 0, "{} is empty", folder.display());
}

#[test]
fn image_inputs_run_clean() {
    replay("image", |data| {
        image::run(data);
    });
}

#[test]
fn operation_inputs_run_clean() {
    replay("operations", operations::run);
}

#[test]
fn an_image_without_damage_is_read_as_it_was_written() {
    for flags in [0, NOT_CLOSED, READ_ONLY, NOT_CLOSED | READ_ONLY, RESEAL, RESEAL | NOT_CLOSED] {
        assert_eq!(image::run(&[flags]), Outcome::Committed, "flags {flags}");
    }
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
