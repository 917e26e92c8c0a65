//! Power cuts at every operation of small histories: the state found is exactly one commit, none older than the last
//! acknowledged one.

use crate::fixture::{Model, assert_sound, closed_tiny, put, put_by_slot, rows, set, tiny, unset, value};
use cowslip::sim::{CrashPlan, OperationKind, SimDisk};
use cowslip::{Database, DatabaseError, OpenNote};

/// Commits in order: the operation at which each was acknowledged, and what it left.
struct History {
    disk: SimDisk,
    commits: Vec<(u64, Model)>,
}

/// Runs commits on a fresh database, then closes it.
fn history(steps: &[fn(&Database, &mut Model)]) -> History {
    let disk = SimDisk::new();
    let mut model = Model::new();
    let db = tiny().create_with_storage(disk.clone()).unwrap();
    let mut commits = vec![(disk.next_operation(), model.clone())];
    for step in steps {
        step(&db, &mut model);
        commits.push((disk.next_operation(), model.clone()));
    }
    db.close().unwrap();
    History { disk, commits }
}

impl History {
    /// Requires that what is found after a power cut during `operation` is one commit, no older than acknowledged.
    fn assert_one_commit(&self, found: &Model, operation: u64, plan: &CrashPlan) {
        let acked = self.commits.partition_point(|(at, _)| *at <= operation).saturating_sub(1);
        let allowed = &self.commits[acked..(acked + 2).min(self.commits.len())];
        assert!(
            allowed.iter().any(|(_, model)| model == found),
            "operation {operation}, {plan:?}: {} rows",
            found.len()
        );
    }

    /// Tries plans of every operation from the first commit on; returns how many images there were.
    fn crash_everywhere(&self, plans_max: usize) -> usize {
        let mut images = 0;
        for operation in self.commits[0].0..=self.disk.next_operation() {
            let mut plans: Vec<_> = self.disk.crash_plans(operation).take(plans_max).collect();
            plans.extend((0..6).map(|seed| CrashPlan::seeded(operation, seed)));
            plans.push(CrashPlan::nothing(operation));
            plans.push(CrashPlan::everything(operation));
            for plan in plans {
                let image = self.disk.crash_image(&plan);
                let db = tiny().open_with_storage(image).unwrap_or_else(|error| panic!("{plan:?}: {error}"));
                self.assert_one_commit(&rows(&db).unwrap(), operation, &plan);
                assert_sound(&db);
                images += 1;
            }
        }
        images
    }
}

#[test]
fn pitfall_32_a_crash_at_every_step_of_file_growth_leaves_one_commit() {
    let history = history(&[
        |db, model| set(db, model, 0..10, 1, 30),
        |db, model| set(db, model, 10..60, 2, 100),
        |db, model| set(db, model, 60..64, 3, 5000),
    ]);
    let grown = history.disk.operations();
    assert!(grown.iter().filter(|operation| matches!(operation.kind, OperationKind::Preallocate { .. })).count() > 3);
    assert!(history.crash_everywhere(24) > 800);
}

#[test]
fn pitfall_33_a_crash_at_every_step_of_shrinking_leaves_one_commit() {
    let history = history(&[
        |db, model| set(db, model, 0..200, 1, 1000),
        |db, model| unset(db, model, 2..200),
        |db, model| set(db, model, 0..2, 2, 10),
        |db, model| set(db, model, 0..3, 3, 10),
        |db, model| set(db, model, 0..3, 4, 10),
    ]);
    let operations = history.disk.operations();
    let cut = |kind: &OperationKind| matches!(kind, OperationKind::SetLen { len } if *len > 0);
    assert!(operations.iter().any(|operation| cut(&operation.kind)));
    assert!(history.crash_everywhere(6) > 300);
}

#[test]
fn r17_the_file_is_cut_only_above_both_slots_and_pinned_pages() {
    let disk = SimDisk::new();
    let mut model = Model::new();
    let db = tiny().cache_bytes_max(0).create_with_storage(disk.clone()).unwrap();
    set(&db, &mut model, 0..400, 1, 1000);
    let large = model.clone();
    let reader = db.begin_read().unwrap();
    unset(&db, &mut model, 1..400);
    for round in 0..6 {
        set(&db, &mut model, 0..1, round, 10);
        let found: Model = (reader.open_table(crate::fixture::ROWS).unwrap().iter().unwrap())
            .map(|row| row.map(|(key, value)| (key.value(), value.value().to_vec())).unwrap())
            .collect();
        assert!(found == large, "pages of the pinned version stay in the file");
    }
    let pinned = disk.image().len();
    drop(reader);
    let mut cuts = 0;
    for round in 10..16 {
        let before = disk.next_operation();
        put_by_slot(&db, 0..1, round, 10);
        let cut = disk
            .operations()
            .iter()
            .any(|operation| operation.number >= before && matches!(operation.kind, OperationKind::SetLen { .. }));
        if cut {
            cuts += 1;
            // Either slot must still be servable: the older one after the newer was torn in a later commit.
            for slot in [4096, 8192] {
                let mut image = disk.image();
                let god = 12;
                assert_ne!(image[god] & 2, 0, "the session is open");
                image[slot + 700] ^= 1;
                let db = tiny().open_with_storage(SimDisk::from_bytes(&image)).unwrap();
                rows(&db).unwrap();
                assert_sound(&db);
            }
        }
    }
    assert!(cuts > 0 && disk.image().len() < pinned / 4, "{cuts} cuts, {pinned} -> {}", disk.image().len());
}

#[test]
fn r17_a_longer_file_than_its_slot_says_is_valid_after_a_crash() {
    let (disk, model) = closed_tiny();
    let db = tiny().open_with_storage(disk.clone()).unwrap();
    let tx = db.begin_write().unwrap();
    tx.open_table(crate::fixture::ROWS).unwrap().insert(1, &vec![7; 70_000][..]).unwrap();
    let grown = disk.crash_image(&CrashPlan::everything(disk.next_operation()));
    assert!(grown.image().len() > 70_000);
    let db = tiny().open_with_storage(grown.clone()).unwrap();
    assert_eq!(rows(&db).unwrap(), model);
    assert_sound(&db);
    put(&db, 0..1, 0, 3).unwrap();
    db.close().unwrap();
    assert!(grown.image().len() < 70_000, "closing gives the tail back");
}

#[test]
fn creation_that_was_cut_at_any_operation_is_taken_up_again() {
    let disk = SimDisk::new();
    drop(tiny().create_with_storage(disk.clone()).unwrap());
    let mut images = 0;
    for operation in 1..=disk.next_operation() {
        for plan in disk.crash_plans(operation).chain((0..40).map(|seed| CrashPlan::seeded(operation, seed))) {
            let image = disk.crash_image(&plan);
            let db = tiny().create_with_storage(image).unwrap_or_else(|error| panic!("{plan:?}: {error}"));
            put(&db, 0..3, 1, 10).unwrap();
            assert_eq!(rows(&db).unwrap().len(), 3);
            images += 1;
        }
    }
    assert!(images > 100, "{images}");
}

/// A disk whose newest slot is torn, and what the commit before it left.
fn torn() -> (Vec<u8>, Model) {
    let disk = SimDisk::new();
    let mut model = Model::new();
    let db = tiny().create_with_storage(disk.clone()).unwrap();
    for round in 0..3 {
        put_by_slot(&db, 0..20, round, 30);
    }
    model.extend((0..20).map(|key| (key, value(key, 2, 30))));
    let before = disk.next_operation();
    put_by_slot(&db, 0..20, 9, 30);
    let slot = disk.operations().iter().filter(|operation| operation.number >= before).find_map(|operation| {
        let OperationKind::Write { offset: offset @ (4096 | 8192), .. } = operation.kind else { return None };
        Some(offset)
    });
    let mut image = disk.image();
    let at = usize::try_from(slot.unwrap()).unwrap();
    image[at + 512..at + 4096].fill(0);
    (image, model)
}

#[test]
fn pitfall_30_a_torn_slot_is_never_rechecksummed_by_recovery_or_its_crashes() {
    let (image, model) = torn();
    let slots = |image: &[u8]| [image[4096..8192].to_vec(), image[8192..12_288].to_vec()];
    let torn_slot = usize::from(slots(&image)[0][512..].iter().any(|byte| *byte != 0));
    let recover = |disk: &SimDisk| {
        let db = tiny().open_with_storage(disk.clone())?;
        assert!(db.open_notes().iter().any(|note| matches!(note, OpenNote::ServedOlderSlot { .. })));
        assert_eq!(rows(&db).unwrap(), model);
        assert_sound(&db);
        db.close().unwrap();
        Ok::<_, DatabaseError>(())
    };
    let disk = SimDisk::from_bytes(&image);
    recover(&disk).unwrap();
    let valid = |block: &[u8]| xxhash_rust::xxh3::xxh3_128(&block[..4064]).to_le_bytes() == block[4064..4080];
    assert!(!valid(&slots(&disk.image())[torn_slot]), "only a later commit may overwrite it");
    // A crash at every write of recovery and closing: the same state again, and the torn slot never turns valid.
    for operation in 1..=disk.next_operation() {
        for plan in disk.crash_plans(operation).chain((0..20).map(|seed| CrashPlan::seeded(operation, seed))) {
            let again = disk.crash_image(&plan);
            let db = tiny().open_with_storage(again.clone()).unwrap_or_else(|error| panic!("{plan:?}: {error}"));
            assert_eq!(rows(&db).unwrap(), model, "{plan:?}");
            assert!(!valid(&slots(&again.image())[torn_slot]), "{plan:?}");
            put(&db, 0..1, 3, 3).unwrap();
            assert_sound(&db);
        }
    }
}

#[test]
fn pitfall_30_the_commit_after_a_torn_slot_survives_its_own_crashes() {
    let (image, mut model) = torn();
    let disk = SimDisk::from_bytes(&image);
    let db = tiny().open_with_storage(disk.clone()).unwrap();
    let before = model.clone();
    set(&db, &mut model, 50..60, 1, 100);
    let end = disk.next_operation();
    db.close().unwrap();
    for operation in 1..=disk.next_operation() {
        for plan in disk.crash_plans(operation).take(40).chain((0..10).map(|seed| CrashPlan::seeded(operation, seed))) {
            let db =
                tiny().open_with_storage(disk.crash_image(&plan)).unwrap_or_else(|error| panic!("{plan:?}: {error}"));
            let found = rows(&db).unwrap();
            assert!(found == model || (operation < end && found == before), "{plan:?}");
            assert_sound(&db);
        }
    }
}

#[test]
fn r13_a_slot_is_written_after_everything_it_names_is_synced_and_alone_with_block_0() {
    let (disk, _) = closed_tiny();
    let db = tiny().open_with_storage(disk.clone()).unwrap();
    put(&db, 0..2, 1, 10).unwrap();
    for round in 0..5 {
        let before = disk.next_operation();
        put(&db, 0..30, round, 200).unwrap();
        let operations: Vec<_> =
            disk.operations().into_iter().filter(|operation| operation.number >= before).map(|op| op.kind).collect();
        let is_slot = |kind: &OperationKind| matches!(kind, OperationKind::Write { offset: 4096 | 8192, .. });
        let slot = operations.iter().position(is_slot).unwrap();
        assert!(matches!(operations[slot - 1], OperationKind::Sync(_)), "{operations:?}");
        assert!(matches!(operations[slot + 1], OperationKind::Write { offset: 0, .. }));
        assert!(matches!(operations[slot + 2], OperationKind::Sync(_)));
        assert_eq!(operations.iter().filter(|kind| is_slot(kind)).count(), 1);
    }
}

#[test]
fn r13_the_live_slot_is_never_written() {
    let (disk, _) = closed_tiny();
    let db = tiny().open_with_storage(disk.clone()).unwrap();
    let from = disk.next_operation();
    for round in 0..8 {
        put_by_slot(&db, 0..5, round, 20);
    }
    let slots: Vec<u64> = (disk.operations().iter().filter(|operation| operation.number >= from))
        .filter_map(|operation| match operation.kind {
            OperationKind::Write { offset: offset @ (4096 | 8192), .. } => Some(offset),
            _ => None,
        })
        .collect();
    assert_eq!(slots.len(), 8);
    assert!(slots.windows(2).all(|pair| pair[0] != pair[1]), "{slots:?}");
}

#[test]
fn pitfall_31_transaction_ids_strictly_increase_over_aborts_crashes_and_reopening() {
    let mut disk = SimDisk::new();
    let mut last = 0;
    for round in 0..24 {
        let db = tiny().create_with_storage(disk.clone()).unwrap();
        assert!(db.begin_read().unwrap().id().get() >= last, "what was acknowledged is there");
        drop(db.begin_write().unwrap());
        let tx = db.begin_write().unwrap();
        tx.open_table(crate::fixture::ROWS).unwrap().insert(round, &b"x"[..]).unwrap();
        let id = tx.commit().unwrap().get();
        assert!(id > last, "{id} after {last}");
        last = id;
        if round % 3 == 0 {
            drop(db);
        } else {
            let image = disk.crash_image(&CrashPlan::nothing(disk.next_operation()));
            drop(db);
            disk = image;
        }
    }
}
