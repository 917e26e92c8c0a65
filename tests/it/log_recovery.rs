//! What opening does with a redo log: it recovers all of it or reports damage, and a crash, an error or a full disk on the
//! way changes nothing.

use crate::fixture::{Model, SharedBytes, assert_sound, put, rows, set, tiny};
use crate::log::{
    UNIT, cut, found_in, groups, is_logged, log_commits, logging, newest_slot, segment, u64_at, without_records,
};
use cowslip::sim::{CrashPlan, Fault, OperationKind, SimDisk};
use cowslip::{Builder, Clock, TransactionError};
use std::io::ErrorKind;

#[test]
fn r4_a_crash_at_every_operation_of_a_replay_leaves_the_same_rows() {
    let (disk, db, mut model) = logging(&tiny(), 0..60, 40);
    log_commits(&disk, &db, &mut model, 3);
    let image = cut(&disk).image();
    assert!(found_in(&without_records(&image)) != model, "the log matters");
    let disk = SimDisk::from_bytes(&image);
    let id = db.begin_read().unwrap().id();
    let recovered = tiny().open_with_storage(disk.clone()).unwrap();
    let writes = |kind| matches!(kind, OperationKind::Write { .. } | OperationKind::Preallocate { .. });
    assert!(!disk.operations().iter().any(|operation| writes(operation.kind)), "opening only reads");
    recovered.close().unwrap();
    let mut operations = 0;
    for operation in 1..=disk.next_operation() {
        operations += 1;
        let plans = disk.crash_plans(operation).take(40).chain((0..6).map(|seed| CrashPlan::seeded(operation, seed)));
        for plan in plans.chain([CrashPlan::nothing(operation), CrashPlan::everything(operation)]) {
            let again = disk.crash_image(&plan);
            let db = tiny().open_with_storage(again.clone()).unwrap_or_else(|error| panic!("{plan:?}: {error}"));
            assert!(rows(&db).unwrap() == model, "{plan:?}");
            assert_eq!(db.begin_read().unwrap().id(), id, "{plan:?}");
            assert_sound(&db);
        }
    }
    assert!(operations > 6, "{operations}");
}

#[test]
fn r4_an_opening_that_fails_on_its_way_leaves_the_log_to_the_next_one() {
    let (disk, db, mut model) = logging(&tiny(), 0..60, 40);
    log_commits(&disk, &db, &mut model, 3);
    let image = cut(&disk).image();
    let (mut failed, mut lost) = (0, Vec::new());
    for number in 1..60 {
        for fault in [
            Fault::FailRead { read: number },
            Fault::FailOperation { operation: number, kind: ErrorKind::Other },
            Fault::FailOperation { operation: number, kind: ErrorKind::StorageFull },
            Fault::FailSync { sync: number },
        ] {
            let disk = SimDisk::from_bytes(&image);
            disk.inject(fault);
            failed += usize::from(tiny().open_with_storage(disk.clone()).is_err());
            disk.clear_faults();
            for disk in [cut(&disk), disk.restart_process()] {
                let again = tiny().open_with_storage(disk).unwrap_or_else(|error| panic!("{fault:?}: {error}"));
                assert_sound(&again);
                if rows(&again).unwrap() != model {
                    lost.push(fault);
                }
            }
        }
    }
    assert!(failed > 5, "{failed}");
    assert!(lost.is_empty(), "acknowledged commits are lost after {lost:?}");
}

/// Options, and an unclosed database whose log holds twenty commits far from each other.
fn long_log() -> (Builder, Vec<u8>, Model) {
    let builder = tiny().test_geometry(512, 512, 256);
    let (disk, db, mut model) = logging(&builder, 0..400, 1000);
    let held = |image: &[u8]| groups(image, &segment(image).unwrap()).len();
    for round in 0..200 {
        if held(&disk.image()) == 20 {
            break;
        }
        let key = round * 37 % 400;
        set(&db, &mut model, key..key + 1, round, 50);
    }
    let image = cut(&disk).image();
    assert_eq!(held(&image), 20);
    (builder, image, model)
}

#[test]
fn r4_a_disk_on_which_nothing_more_fits_is_recovered() {
    for count in 60..100 {
        let (disk, db, mut model) = logging(&tiny(), 0..count, 40);
        db.compact().unwrap();
        db.close().unwrap();
        let db = tiny().open_with_storage(disk.clone()).unwrap();
        for round in 0..4 {
            set(&db, &mut model, round * 15..round * 15 + 1, round, 60);
        }
        // The growth of the file since the slot may be lost with the power.
        let mut image = cut(&disk).image();
        image.truncate(UNIT * usize::try_from(u64_at(&image, newest_slot(&image) + 432)).unwrap());
        let disk = SimDisk::from_bytes(&image);
        disk.set_capacity_bytes(image.len() as u64);
        let db = tiny().open_with_storage(disk.clone()).unwrap();
        assert!(rows(&db).unwrap() == model, "{count} rows");
        assert_sound(&db);
        drop(db);
        disk.set_capacity_bytes(u64::MAX);
        let again = tiny().open_with_storage(disk.restart_process()).unwrap();
        assert!(rows(&again).unwrap() == model, "{count} rows, after it could not be closed for want of room");
        assert_sound(&again);
    }
}

#[test]
fn r15_records_of_an_earlier_round_at_the_same_place_are_never_replayed() {
    let (disk, db, mut model) = logging(&tiny().log_bytes_max(8 << 10), 0..60, 40);
    let mut earlier: Vec<Vec<u8>> = Vec::new();
    let (mut slot_model, mut since_slot, mut tried) = (model.clone(), 0, 0);
    for round in 0..150 {
        let from = disk.next_operation();
        set(&db, &mut model, round % 50..round % 50 + 1, round, 30);
        since_slot += 1;
        if !is_logged(&disk, from) {
            (slot_model, since_slot) = (model.clone(), 0);
        }
        let image = disk.image();
        let now = segment(&image).unwrap();
        let live = groups(&image, &now);
        let olds = earlier[..earlier.len().saturating_sub(since_slot)].iter().rev().step_by(3).take(6);
        for old in olds.filter(|old| segment(old).unwrap() == now) {
            // All of an older round instead of the new groups, and only where none of those stands.
            for (keeps_new, expected) in [(false, &slot_model), (true, &model)] {
                let mut mixed = image.clone();
                for unit in (now.bytes.start + UNIT..now.bytes.end).step_by(UNIT) {
                    if !(keeps_new && live.iter().any(|group| group.start < unit + UNIT && unit < group.end)) {
                        mixed[unit..unit + UNIT].copy_from_slice(&old[unit..unit + UNIT]);
                    }
                }
                assert!(found_in(&mixed) == *expected, "round {round}, new groups {keeps_new}");
                tried += 1;
            }
        }
        earlier.push(image);
    }
    assert!(tried > 200, "{tried}");
}

#[test]
fn r15_damage_before_the_last_group_is_an_error_and_in_the_last_one_ends_the_log() {
    let (disk, db, mut model) = logging(&tiny(), 0..60, 40);
    log_commits(&disk, &db, &mut model, 2);
    let before = model.clone();
    let from = disk.next_operation();
    set(&db, &mut model, 33..34, 33, 30);
    assert!(is_logged(&disk, from));
    let image = cut(&disk).image();
    let segment = segment(&image).unwrap();
    let groups = groups(&image, &segment);
    assert_eq!(groups.len(), 3);
    let head = segment.bytes.start..segment.bytes.start + 64;
    for (index, place) in [head].into_iter().chain(groups).enumerate() {
        for at in place.clone() {
            let mut damaged = image.clone();
            damaged[at] ^= 1 << (at % 8);
            let disk = SharedBytes::of(damaged.clone());
            match tiny().open_with_storage(disk.clone()) {
                Ok(db) => {
                    assert_eq!(index, 3, "byte {} of group {index}", at - place.start);
                    assert!(rows(&db).unwrap() == before, "byte {}", at - place.start);
                }
                Err(error) => {
                    assert!(index < 3 && error.is_corruption(), "byte {} of group {index}: {error}", at - place.start);
                    assert!(
                        disk.image() == damaged,
                        "byte {} of group {index}: the file was written",
                        at - place.start
                    );
                }
            }
        }
    }
}

#[test]
fn r15_ids_after_an_unclean_opening_are_far_above_and_after_a_clean_one_follow() {
    let (disk, db, mut model) = logging(&tiny(), 0..20, 20);
    log_commits(&disk, &db, &mut model, 2);
    let last = db.begin_read().unwrap().id().get();
    let crashed = cut(&disk);
    let ids_of_a_session = || {
        let db = tiny().open_with_storage(crashed.clone()).unwrap();
        let mut ids = vec![db.begin_read().unwrap().id().get()];
        for round in 0..2 {
            put(&db, 0..1, round, 5).unwrap();
            ids.push(db.begin_read().unwrap().id().get());
        }
        db.close().unwrap();
        ids
    };
    let far = last + (1 << 24);
    let unclean = ids_of_a_session();
    assert!(unclean[0] == last && unclean[1] >= far && unclean[2] == unclean[1] + 1, "{unclean:?} after {last}");
    let clean = ids_of_a_session();
    assert_eq!(clean, [unclean[2], unclean[2] + 1, unclean[2] + 2]);
}

#[derive(Debug)]
struct Still(u64);

impl Clock for Still {
    fn now_micros(&self) -> u64 {
        self.0
    }
}

#[test]
fn r16_id_and_time_of_the_last_record_survive_the_replay() {
    let (disk, db, mut model) = logging(&tiny().clock(Still(5_000_000)), 0..20, 20);
    log_commits(&disk, &db, &mut model, 3);
    let image = cut(&disk).image();
    let (id, slot) = (db.begin_read().unwrap().id(), newest_slot(&image));
    let crashed = SimDisk::from_bytes(&image);
    let recovered = tiny().clock(Still(9_000_000)).open_with_storage(crashed.clone()).unwrap();
    assert_eq!(recovered.begin_read().unwrap().id(), id);
    recovered.close().unwrap();
    let image = [image, crashed.image()];
    let [old, new] = [slot, newest_slot(&image[1])].map(|slot| (slot + 16, slot + 24));
    assert_eq!(u64_at(&image[1], new.0), id.get());
    // Times of a clock that stands still ascend by one.
    assert_eq!(u64_at(&image[1], new.1), u64_at(&image[0], old.1) + 3);
}

#[test]
fn r19_a_read_only_opening_shows_the_last_commit_and_writes_nothing() {
    let (disk, db, mut model) = logging(&tiny(), 0..60, 40);
    log_commits(&disk, &db, &mut model, 3);
    let image = cut(&disk).image();
    let crashed = SimDisk::from_bytes(&image);
    for _ in 0..2 {
        let read_only = tiny().open_read_only_with_storage(crashed.clone()).unwrap();
        assert!(rows(&read_only).unwrap() == model);
        assert_eq!(read_only.begin_read().unwrap().id(), db.begin_read().unwrap().id());
        assert!(matches!(read_only.begin_write(), Err(TransactionError::ReadOnly)));
        assert!(!read_only.open_notes().is_empty());
        assert_sound(&read_only);
    }
    assert!(crashed.operations().is_empty(), "{:?}", crashed.operations());
    assert!(crashed.image() == image);
    assert!(found_in(&image) == model, "a writer still recovers it");
}

#[test]
fn r19_a_log_behind_a_damaged_header_is_shown_and_kept_until_the_header_is_repaired() {
    let (disk, db, mut model) = logging(&tiny(), 0..60, 40);
    log_commits(&disk, &db, &mut model, 3);
    let mut image = cut(&disk).image();
    image[20] ^= 1;
    let damaged = SimDisk::from_bytes(&image);
    for repairs in [false, true] {
        let db = tiny().open_with_storage(damaged.clone()).unwrap();
        assert!(rows(&db).unwrap() == model);
        assert!(matches!(db.begin_write(), Err(TransactionError::HeaderDamaged)));
        if repairs {
            db.repair_header().unwrap();
            assert!(found_in(&cut(&damaged).image()) == model);
            for round in 0..6 {
                set(&db, &mut model, round..round + 1, round, 60);
                assert!(found_in(&cut(&damaged).image()) == model, "commit {round} after the repair");
            }
        }
        drop(db);
        assert!(repairs || damaged.image() == image, "nothing is written before the repair");
    }
    assert!(found_in(&damaged.image()) == model);
}

#[test]
fn r19_a_long_log_is_shown_by_a_read_only_opening_with_any_budget() {
    let (builder, image, model) = long_log();
    for cache_bytes_max in [0, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20] {
        let crashed = SimDisk::from_bytes(&image);
        let opened = builder.clone().cache_bytes_max(cache_bytes_max).open_read_only_with_storage(crashed.clone());
        assert!(rows(&opened.unwrap()).unwrap() == model, "{cache_bytes_max}");
        assert!(crashed.operations().is_empty() && crashed.image() == image);
        let db = builder.clone().cache_bytes_max(cache_bytes_max).open_with_storage(crashed).unwrap();
        assert!(rows(&db).unwrap() == model, "a writer with {cache_bytes_max} bytes recovers it");
    }
}
