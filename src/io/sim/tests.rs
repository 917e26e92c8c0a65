//! Tests of the simulated disk: what it must keep, what it must be able to lose, and that it is honest about both.
//!
//! Invariant: a disk that kept too much would hide bugs, so every way to lose something is seen to happen.
//! Layer 1 (io).

use super::*;
use crate::io::storage::{LockMode, Storage, SyncKind, WriteMode};
use proptest::prelude::*;
use std::collections::HashSet;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};

const UNIT: usize = 4096;

fn write(disk: &SimDisk, unit: u64, fill: u8, mode: WriteMode) -> io::Result<()> {
    disk.write_at(unit * UNIT as u64, &[IoSlice::new(&[fill; UNIT])], mode)
}

fn plain(disk: &SimDisk, unit: u64, fill: u8) {
    write(disk, unit, fill, WriteMode::Plain).unwrap();
}

fn forced(disk: &SimDisk, unit: u64, fill: u8) {
    write(disk, unit, fill, WriteMode::Forced).unwrap();
}

fn sync(disk: &SimDisk) {
    disk.sync(SyncKind::Data).unwrap();
}

/// First byte of every unit.
fn units(disk: &SimDisk) -> Vec<u8> {
    disk.image().chunks(UNIT).map(|unit| unit[0]).collect()
}

/// Four units of ones, synced.
fn four_ones() -> SimDisk {
    let disk = SimDisk::new();
    (0..4).for_each(|unit| plain(&disk, unit, 1));
    sync(&disk);
    disk
}

fn after_nothing(disk: &SimDisk) -> Vec<u8> {
    units(&disk.crash_image(&CrashPlan::nothing(disk.next_operation())))
}

fn found(disk: &SimDisk, operation: u64) -> HashSet<Vec<u8>> {
    disk.crash_plans(operation).map(|plan| disk.crash_image(&plan).image()).collect()
}

#[test]
fn unsynced_write_can_be_lost_and_synced_one_cannot() {
    let disk = four_ones();
    plain(&disk, 2, 9);
    assert_eq!(units(&disk), [1, 1, 9, 1]);
    assert_eq!(after_nothing(&disk), [1, 1, 1, 1]);
    assert_eq!(units(&disk.crash_image(&CrashPlan::everything(disk.next_operation()))), [1, 1, 9, 1]);
    sync(&disk);
    assert!(disk.crash_plans(disk.next_operation()).all(|plan| units(&disk.crash_image(&plan)) == [1, 1, 9, 1]));
}

#[test]
fn sync_under_way_guarantees_nothing() {
    let disk = four_ones();
    plain(&disk, 0, 2);
    let sync_operation = disk.next_operation();
    sync(&disk);
    assert_eq!(units(&disk.crash_image(&CrashPlan::nothing(sync_operation))), [1, 1, 1, 1]);
    assert_eq!(units(&disk.crash_image(&CrashPlan::nothing(sync_operation + 1))), [2, 1, 1, 1]);
}

#[test]
fn forced_write_is_durable_while_an_earlier_plain_one_is_not() {
    let disk = four_ones();
    plain(&disk, 0, 7);
    let operation = disk.next_operation();
    forced(&disk, 1, 8);
    assert_eq!(after_nothing(&disk), [1, 8, 1, 1]);
    assert_eq!(units(&disk.crash_image(&CrashPlan::nothing(operation))), [1, 1, 1, 1]);
    let torn = CrashPlan::everything(operation).with_tear(1, Tear { sector: Sector::Bytes512, mask: 0b10 });
    let image = disk.crash_image(&torn).image();
    assert_eq!((image[UNIT], image[UNIT + 512], image[UNIT + 1024]), (1, 8, 1));
}

#[test]
fn surviving_early_write_never_undoes_a_later_one() {
    let disk = four_ones();
    plain(&disk, 0, 2);
    plain(&disk, 0, 3);
    forced(&disk, 1, 4);
    plain(&disk, 1, 5);
    let seen: HashSet<Vec<u8>> =
        (0..8).map(|mask| units(&disk.crash_image(&CrashPlan::new(8 + 2, Survivors::Mask(mask))))).collect();
    let expected = [[1, 4], [2, 4], [3, 4], [1, 5], [2, 5], [3, 5]].map(|[a, b]| vec![a, b, 1, 1]);
    assert_eq!(seen, HashSet::from(expected));
}

#[test]
fn earlier_write_that_survives_does_not_cover_a_forced_one() {
    let disk = four_ones();
    disk.write_at(0, &[IoSlice::new(&[2; 2 * UNIT])], WriteMode::Plain).unwrap();
    forced(&disk, 0, 3);
    let seen: HashSet<Vec<u8>> =
        [CrashPlan::nothing, CrashPlan::everything].map(|plan| units(&disk.crash_image(&plan(8)))).into();
    assert_eq!(seen, HashSet::from([vec![3, 1, 1, 1], vec![3, 2, 1, 1]]));
}

#[test]
fn torn_write_keeps_old_sectors_or_zeros_past_the_old_end() {
    let disk = four_ones();
    disk.write_at(3 * UNIT as u64, &[IoSlice::new(&[6; 2 * UNIT])], WriteMode::Plain).unwrap();
    let operation = disk.next_operation();
    let tear =
        |sector, mask| disk.crash_image(&CrashPlan::everything(operation).with_tear(0, Tear { sector, mask })).image();
    let image = tear(Sector::Bytes4096, 0b01);
    assert_eq!((image[3 * UNIT], image[4 * UNIT]), (6, 0));
    let image = tear(Sector::Bytes4096, 0b10);
    assert_eq!((image[3 * UNIT], image[4 * UNIT]), (1, 6));
    let image = tear(Sector::Bytes512, 0b10_0000_0001);
    let sectors: Vec<u8> = image[3 * UNIT..].chunks(512).map(|sector| sector[511]).collect();
    assert_eq!(sectors, [6, 1, 1, 1, 1, 1, 1, 1, 0, 6, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn growth_can_be_lost_whole_or_in_part() {
    let disk = four_ones();
    disk.preallocate(6 * UNIT as u64).unwrap();
    plain(&disk, 5, 9);
    let operation = disk.next_operation();
    let with = |length| units(&disk.crash_image(&CrashPlan::everything(operation).with_length(length)));
    assert_eq!(with(LengthSurvival::All), [1, 1, 1, 1, 0, 9]);
    assert_eq!(with(LengthSurvival::None), [1, 1, 1, 1]);
    let partly = CrashPlan::everything(operation).with_length(LengthSurvival::Partly { changes: 0, bytes: 512 });
    assert_eq!(disk.crash_image(&partly).image().len(), 4 * UNIT + 512);
    assert_eq!(units(&disk.crash_image(&CrashPlan::new(operation, Survivors::None))), [1, 1, 1, 1, 0, 0]);
    sync(&disk);
    assert_eq!(after_nothing(&disk), [1, 1, 1, 1, 0, 9]);
}

#[test]
fn shrink_can_be_lost_and_later_growth_cannot_survive_without_it() {
    let disk = four_ones();
    disk.set_len(UNIT as u64).unwrap();
    disk.set_len(3 * UNIT as u64).unwrap();
    let operation = disk.next_operation();
    let with = |changes| {
        units(&disk.crash_image(&CrashPlan::everything(operation).with_length(LengthSurvival::First(changes))))
    };
    assert_eq!(with(0), [1, 1, 1, 1]);
    assert_eq!(with(1), [1]);
    assert_eq!(with(2), [1, 0, 0]);
}

#[test]
fn forced_write_brings_the_length_that_it_needs() {
    let disk = four_ones();
    disk.preallocate(8 * UNIT as u64).unwrap();
    forced(&disk, 6, 5);
    assert_eq!(after_nothing(&disk), [1, 1, 1, 1, 0, 0, 5, 0]);
    let disk = four_ones();
    disk.preallocate(8 * UNIT as u64).unwrap();
    forced(&disk, 2, 5);
    assert_eq!(after_nothing(&disk), [1, 1, 5, 1]);
    forced(&disk, 9, 6);
    assert_eq!(after_nothing(&disk), [1, 1, 5, 1, 0, 0, 0, 0, 0, 6]);
    disk.set_len(UNIT as u64).unwrap();
    forced(&disk, 1, 7);
    assert_eq!(after_nothing(&disk), [1, 7]);
}

#[test]
fn failed_sync_leaves_bytes_readable_and_the_next_one_succeeds() {
    let disk = four_ones();
    plain(&disk, 0, 9);
    disk.inject(Fault::FailSync { sync: disk.next_sync() });
    disk.sync(SyncKind::Data).unwrap_err();
    assert_eq!(units(&disk), [9, 1, 1, 1]);
    plain(&disk, 1, 8);
    sync(&disk);
    let disk = disk.restart_process();
    assert_eq!(units(&disk), [9, 8, 1, 1]);
    assert_eq!(after_nothing(&disk), [1, 8, 1, 1]);
    assert_eq!(units(&disk.crash_image(&CrashPlan::everything(disk.next_operation()))), [1, 8, 1, 1]);
    disk.drop_cache().unwrap();
    assert_eq!(units(&disk), [1, 8, 1, 1]);
}

#[test]
fn sync_that_fails_partly_leaves_some_writes_on_the_medium() {
    let found: HashSet<Vec<u8>> = (0..64)
        .map(|seed| {
            let disk = four_ones();
            (0..3).for_each(|unit| plain(&disk, unit, 9));
            disk.inject(Fault::FailSyncPartly { sync: disk.next_sync(), seed });
            disk.sync(SyncKind::Data).unwrap_err();
            assert_eq!(units(&disk), [9, 9, 9, 1]);
            let kept = after_nothing(&disk);
            sync(&disk);
            assert_eq!(after_nothing(&disk), kept);
            disk.evict();
            assert_eq!(units(&disk), kept);
            kept
        })
        .collect();
    assert_eq!(found.len(), 8);
}

#[test]
fn plain_write_stays_open_however_many_forced_ones_follow() {
    let disk = four_ones();
    plain(&disk, 0, 9);
    (0..200).for_each(|_| forced(&disk, 1, 5));
    assert_eq!(after_nothing(&disk), [1, 5, 1, 1]);
    sync(&disk);
    disk.preallocate(5 * UNIT as u64).unwrap();
    (0..200).for_each(|_| forced(&disk, 1, 6));
    assert_eq!(after_nothing(&disk), [9, 6, 1, 1]);
}

#[test]
fn eviction_keeps_what_no_sync_has_covered() {
    let disk = four_ones();
    plain(&disk, 0, 9);
    disk.preallocate(5 * UNIT as u64).unwrap();
    disk.inject(Fault::FailOperation { operation: disk.next_operation(), kind: ErrorKind::Other });
    disk.sync(SyncKind::Full).unwrap_err();
    plain(&disk, 3, 7);
    disk.evict();
    assert_eq!(units(&disk), [1, 1, 1, 7, 0]);
    assert_eq!(after_nothing(&disk), [1, 1, 1, 1]);
}

#[test]
fn failed_and_short_writes_report_and_change_what_they_say() {
    let disk = four_ones();
    disk.inject(Fault::FailOperation { operation: 6, kind: ErrorKind::Other });
    disk.inject(Fault::ShortWrite { operation: 7 });
    disk.inject(Fault::FailOperation { operation: 8, kind: ErrorKind::QuotaExceeded });
    write(&disk, 0, 5, WriteMode::Plain).unwrap_err();
    assert_eq!(units(&disk), [1, 1, 1, 1]);
    disk.write_at(0, &[IoSlice::new(&[5; 2 * UNIT])], WriteMode::Forced).unwrap_err();
    assert_eq!(units(&disk), [5, 1, 1, 1]);
    assert_eq!(after_nothing(&disk), [1, 1, 1, 1]);
    assert_eq!(disk.preallocate(1 << 20).unwrap_err().kind(), ErrorKind::QuotaExceeded);
    assert_eq!(disk.len().unwrap(), 4 * UNIT as u64);
    let outcomes: Vec<bool> = disk.operations().iter().skip(5).map(|operation| operation.succeeded).collect();
    assert_eq!(outcomes, [false; 3]);
}

#[test]
fn full_device_fails_writes_and_reservations_only_past_its_capacity() {
    let disk = four_ones();
    disk.set_capacity_bytes(5 * UNIT as u64 + 100);
    assert_eq!(disk.preallocate(6 * UNIT as u64).unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(disk.len().unwrap(), 4 * UNIT as u64);
    plain(&disk, 4, 2);
    assert_eq!(write(&disk, 5, 3, WriteMode::Plain).unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(disk.len().unwrap(), 5 * UNIT as u64 + 100);
    disk.set_capacity_bytes(u64::MAX);
    plain(&disk, 5, 3);
}

#[test]
fn lost_and_misdirected_writes_show_once_the_cache_is_gone() {
    let disk = four_ones();
    disk.inject(Fault::LostWrite { operation: disk.next_operation() });
    plain(&disk, 0, 9);
    disk.inject(Fault::MisdirectedWrite { operation: disk.next_operation(), offset: 3 * UNIT as u64 });
    forced(&disk, 1, 8);
    sync(&disk);
    assert_eq!(units(&disk), [9, 8, 1, 1]);
    assert_eq!(after_nothing(&disk), [1, 1, 1, 8]);
    disk.evict();
    assert_eq!(units(&disk), [1, 1, 1, 8]);
}

#[test]
fn flipped_bit_shows_at_once_and_stays() {
    let disk = four_ones();
    disk.flip_bit(UNIT as u64, 3).unwrap();
    assert_eq!(units(&disk), [1, 9, 1, 1]);
    assert_eq!(after_nothing(&disk), [1, 9, 1, 1]);
    plain(&disk, 2, 0);
    disk.flip_bit(2 * UNIT as u64, 0).unwrap();
    sync(&disk);
    disk.evict();
    assert_eq!(units(&disk), [1, 9, 1, 1]);
    disk.flip_bit(4 * UNIT as u64, 0).unwrap_err();
    disk.flip_bit(0, 8).unwrap_err();
}

#[test]
fn power_cut_at_an_operation_stops_everything() {
    let disk = four_ones();
    let operation = disk.next_operation() + 1;
    disk.crash_at(operation);
    disk.lock(LockMode::Exclusive).unwrap();
    plain(&disk, 0, 2);
    write(&disk, 1, 3, WriteMode::Forced).unwrap_err();
    write(&disk, 2, 4, WriteMode::Forced).unwrap_err();
    disk.sync(SyncKind::Data).unwrap_err();
    disk.len().unwrap_err();
    disk.read_at(0, &mut [IoSliceMut::new(&mut [0])]).unwrap_err();
    assert!(!disk.is_powered());
    assert_eq!(disk.next_operation(), operation + 1);
    let whole: HashSet<Vec<u8>> =
        (0..4).map(|mask| units(&disk.crash_image(&CrashPlan::new(operation, Survivors::Mask(mask))))).collect();
    let expected = [[1, 1], [2, 1], [1, 3], [2, 3]].map(|[a, b]| vec![a, b, 1, 1]);
    assert_eq!(whole, HashSet::from(expected));
    let image = disk.crash_image(&CrashPlan::nothing(operation));
    image.lock(LockMode::Exclusive).unwrap();
    plain(&image, 0, 1);
}

#[test]
fn lock_belongs_to_a_handle() {
    let disk = SimDisk::new();
    let other = disk.clone();
    disk.lock(LockMode::Exclusive).unwrap();
    disk.lock(LockMode::Exclusive).unwrap();
    assert_eq!(other.lock(LockMode::Shared).unwrap_err().kind(), ErrorKind::WouldBlock);
    disk.lock(LockMode::Shared).unwrap();
    other.lock(LockMode::Shared).unwrap();
    assert_eq!(other.lock(LockMode::Exclusive).unwrap_err().kind(), ErrorKind::WouldBlock);
    drop(disk);
    other.lock(LockMode::Exclusive).unwrap();
    let restarted = other.restart_process();
    restarted.lock(LockMode::Exclusive).unwrap();
    other.len().unwrap_err();
    drop(other);
    let late = restarted.clone();
    assert_eq!(late.lock(LockMode::Shared).unwrap_err().kind(), ErrorKind::WouldBlock);
    restarted.unlock().unwrap();
    late.lock(LockMode::Shared).unwrap();
}

#[test]
fn statistics_count_since_the_reset() {
    let disk = four_ones();
    assert_eq!((disk.stats().writes, disk.stats().bytes_written, disk.stats().syncs), (4, 4 * UNIT as u64, 1));
    disk.reset_stats();
    let (mut a, mut b) = ([0; 100], [0; 50]);
    disk.read_at(10, &mut [IoSliceMut::new(&mut a), IoSliceMut::new(&mut b)]).unwrap();
    assert_eq!((a, b), ([1; 100], [1; 50]));
    assert_eq!(disk.stats(), DiskStats { reads: 1, bytes_read: 150, ..DiskStats::default() });
    disk.inject(Fault::FailRead { read: disk.next_read() });
    disk.read_at(0, &mut [IoSliceMut::new(&mut a)]).unwrap_err();
    disk.read_at(0, &mut [IoSliceMut::new(&mut a)]).unwrap();
    let error = disk.read_at(4 * UNIT as u64 - 50, &mut [IoSliceMut::new(&mut a)]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
}

#[test]
fn few_writes_are_enumerated_and_many_are_sampled() {
    let disk = SimDisk::from_bytes(&[0; 16 * UNIT]);
    (0..4).for_each(|unit| plain(&disk, unit, 1));
    let whole: HashSet<Vec<u8>> =
        disk.crash_plans(5).map(|plan| units(&disk.crash_image(&plan))).filter(|found| found.len() == 16).collect();
    let starts: HashSet<Vec<u8>> = whole.iter().map(|found| found[..4].to_vec()).collect();
    assert_eq!(starts.len(), 16);
    assert!(found(&disk, 5).len() > 16, "torn writes come on top");
    (4..14).for_each(|unit| plain(&disk, unit, 1));
    let many = found(&disk, disk.next_operation());
    assert!(many.len() > 100);
    for lost in 0..14 {
        let one_lost: Vec<u8> = (0..16).map(|unit| u8::from(unit < 14 && unit != lost)).collect();
        assert!(many.iter().any(|image| image.chunks(UNIT).map(|unit| unit[0]).eq(one_lost.iter().copied())));
    }
}

#[test]
fn history_that_is_not_kept_leaves_the_present_intact() {
    let disk = four_ones();
    disk.keep_history(false);
    for round in 0..100 {
        plain(&disk, 0, round);
        sync(&disk);
        assert!(disk.operations().is_empty());
    }
    plain(&disk, 1, 50);
    assert_eq!(after_nothing(&disk), [99, 1, 1, 1]);
    assert_eq!(disk.next_operation(), 207);
}

fn run_by_chance(seed: u64) -> (u64, SimDisk) {
    let disk = SimDisk::new();
    let rates = FaultRates {
        fail_operation: 50_000,
        short_write: 50_000,
        fail_sync: 200_000,
        lost_write: 20_000,
        fail_read: 100_000,
    };
    disk.set_fault_rates(seed, rates);
    let mut rng = rng::SplitMix64::at(seed, 9, 9);
    let mut errors = 0;
    for step in 0..300_u64 {
        let place = rng.below(32);
        let fill = u8::try_from(step % 251).unwrap();
        let result = match rng.below(10) {
            0 => disk.sync(SyncKind::Data),
            1 => disk.set_len(place * UNIT as u64),
            2 | 3 => write(&disk, place, fill, WriteMode::Forced),
            _ => write(&disk, place, fill, WriteMode::Plain),
        };
        errors += u64::from(result.is_err());
    }
    (errors, disk)
}

#[test]
fn same_seed_gives_the_same_trace_and_images() {
    let ((errors, one), (_, two), (_, other)) = (run_by_chance(1), run_by_chance(1), run_by_chance(2));
    assert!(errors > 0);
    assert_eq!(one.trace_hash(), two.trace_hash());
    assert_ne!(one.trace_hash(), other.trace_hash());
    assert_eq!(one.operations(), two.operations());
    for operation in [1, 50, 299, 301] {
        for seed in 0..20 {
            let plan = CrashPlan::seeded(operation, seed);
            assert!(one.crash_image(&plan).image() == two.crash_image(&plan).image());
        }
    }
}

#[test]
fn every_plan_of_a_faulty_run_gives_a_disk_that_works() {
    let (_, disk) = run_by_chance(3);
    for operation in 1..=disk.next_operation() {
        for plan in disk.crash_plans(operation).step_by(17) {
            let image = disk.crash_image(&plan);
            let bytes = image.image();
            assert_eq!(bytes.len() as u64, image.len().unwrap());
            image.evict();
            assert!(image.image() == bytes, "nothing of an image is in its cache only");
        }
    }
}

/// Per unit: the contents that may be found, by a model that knows nothing of logs or epochs.
struct Model {
    /// Values that one unit may hold after a power cut; the last is what reads see.
    possible: Vec<Vec<u8>>,
}

impl Model {
    fn step(&mut self, disk: &SimDisk, unit: u64, fill: u8, kind: u8) {
        let place = usize::try_from(unit).unwrap();
        match kind {
            0 => {
                sync(disk);
                for values in &mut self.possible {
                    values.drain(..values.len() - 1);
                }
            }
            1..3 => {
                forced(disk, unit, fill);
                self.possible[place] = vec![fill];
            }
            _ => {
                plain(disk, unit, fill);
                self.possible[place].push(fill);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn every_image_is_possible_and_loses_nothing_durable(
        steps in prop::collection::vec((0..8_u64, any::<u8>(), 0..12_u8), 1..150),
        seeds in prop::collection::vec(any::<u64>(), 8),
    ) {
        let disk = SimDisk::from_bytes(&[0; 8 * UNIT]);
        let mut model = Model { possible: vec![vec![0]; 8] };
        let mut possible_at = vec![model.possible.clone()];
        for (unit, fill, kind) in steps {
            model.step(&disk, unit, fill, kind);
            possible_at.push(model.possible.clone());
        }
        for (acknowledged, possible) in possible_at.iter().enumerate() {
            // The operation after the acknowledged ones is under way, and may have had its effect too.
            let next = possible_at.get(acknowledged + 1).unwrap_or(possible);
            for seed in &seeds {
                let image = disk.crash_image(&CrashPlan::seeded(acknowledged as u64 + 1, *seed)).image();
                for (unit, bytes) in image.chunks(UNIT).enumerate() {
                    for sector in bytes.chunks(512) {
                        prop_assert!(sector.iter().all(|byte| *byte == sector[0]));
                        prop_assert!(possible[unit].contains(&sector[0]) || next[unit].contains(&sector[0]));
                    }
                }
            }
            let nothing = units(&disk.crash_image(&CrashPlan::nothing(acknowledged as u64 + 1)));
            let expected: Vec<u8> = possible.iter().map(|values| values[0]).collect();
            prop_assert_eq!(nothing, expected);
        }
        disk.evict();
        let seen: Vec<u8> = model.possible.iter().map(|values| values[values.len() - 1]).collect();
        prop_assert_eq!(units(&disk), seen);
    }
}

#[test]
fn image_of_a_long_run_costs_no_replay_of_all_of_it() {
    let disk = SimDisk::from_bytes(&[0; 50 * UNIT]);
    for round in 0..4_000_u64 {
        let mode = if round % 3 == 0 { WriteMode::Plain } else { WriteMode::Forced };
        write(&disk, round % 50, u8::try_from(round % 256).unwrap(), mode).unwrap();
        if round % 40 == 0 {
            sync(&disk);
        }
    }
    (0..4_000).for_each(|round| forced(&disk, round % 50, 3));
    let started = std::time::Instant::now();
    let last = disk.next_operation();
    let mut lengths = 0;
    for number in 1..=last {
        lengths += disk.crash_image(&CrashPlan::seeded(number, number)).len().unwrap();
    }
    assert_eq!(lengths, last * 50 * UNIT as u64);
    assert!(started.elapsed().as_secs() < 60, "{:?} for {last} images", started.elapsed());
}
