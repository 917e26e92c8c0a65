//! Commits that wait for nothing, alone and between those that wait.
//!
//! Invariant: readers see every commit at once, and a crash keeps a prefix of them that holds all that were waited for.

use crate::fixture::{Model, ROWS, Random, assert_sound, rows, tiny, value};
use cowslip::sim::{CrashPlan, OperationKind, SimDisk};
use cowslip::{Builder, Database, Durability, Error};

fn set_as(db: &Database, durability: Durability, key: u64, round: u64, len: usize) -> u64 {
    let mut tx = db.begin_write().unwrap();
    tx.set_durability(durability).unwrap();
    tx.open_table(ROWS).unwrap().insert(key, &value(key, round, len)[..]).unwrap();
    tx.commit().unwrap().get()
}

fn started(builder: &Builder) -> (SimDisk, Database, Model) {
    let disk = SimDisk::new();
    let db = builder.create_with_storage(disk.clone()).unwrap();
    let mut model = Model::new();
    for key in 0..20 {
        set_as(&db, Durability::Immediate, key, 0, 30);
        model.insert(key, value(key, 0, 30));
    }
    (disk, db, model)
}

#[test]
fn a_commit_that_waits_for_nothing_is_seen_at_once_and_asks_nothing_of_the_disk() {
    let (disk, db, mut model) = started(&tiny());
    let before = db.begin_read().unwrap();
    for round in 1..60 {
        let from = disk.next_operation();
        set_as(&db, Durability::None, 5, round, 30);
        model.insert(5, value(5, round, 30));
        let asked: Vec<_> = disk.operations().into_iter().filter(|done| done.number >= from).collect();
        assert!(
            asked.iter().all(|done| matches!(done.kind, cowslip::sim::OperationKind::Preallocate { .. })),
            "{asked:?}"
        );
        assert!(rows(&db).unwrap() == model);
    }
    assert_sound(&db);
    assert_eq!(before.open_table(ROWS).unwrap().get(5).unwrap().unwrap().value(), value(5, 0, 30));
}

#[test]
fn r12_a_durable_commit_makes_those_before_it_durable_and_a_crash_in_between_loses_them_all() {
    let (disk, db, mut model) = started(&tiny());
    let safe = model.clone();
    for round in 1..10 {
        set_as(&db, Durability::None, round, round, 30);
        model.insert(round, value(round, round, 30));
    }
    let found = |plan: CrashPlan| rows(&tiny().open_with_storage(disk.crash_image(&plan)).unwrap()).unwrap();
    let next = disk.next_operation();
    assert!(found(CrashPlan::everything(next)) == safe);
    set_as(&db, Durability::Immediate, 15, 1, 30);
    model.insert(15, value(15, 1, 30));
    assert!(found(CrashPlan::nothing(disk.next_operation())) == model);
    // The next one is recorded on top of a slot that has them all.
    set_as(&db, Durability::Immediate, 16, 1, 30);
    model.insert(16, value(16, 1, 30));
    assert!(found(CrashPlan::nothing(disk.next_operation())) == model);
}

#[test]
fn closing_keeps_what_waited_for_nothing() {
    for alone in [false, true] {
        let (disk, db, mut model) = started(&tiny());
        let db = if alone {
            db.close().unwrap();
            tiny().open_with_storage(disk.clone()).unwrap()
        } else {
            db
        };
        set_as(&db, Durability::None, 3, 1, 30);
        model.insert(3, value(3, 1, 30));
        db.close().unwrap();
        let db = tiny().open_with_storage(disk.restart_process()).unwrap();
        assert!(db.open_notes().is_empty() && rows(&db).unwrap() == model);
        assert_sound(&db);
    }
}

#[test]
fn r15_ids_that_readers_saw_before_a_crash_come_back_to_nothing_else() {
    let (disk, db, _) = started(&tiny());
    let seen = (0..50).map(|round| set_as(&db, Durability::None, 1, round, 30)).max().unwrap();
    let disk = disk.crash_image(&CrashPlan::everything(disk.next_operation()));
    let db = tiny().open_with_storage(disk).unwrap();
    let next = set_as(&db, Durability::None, 1, 0, 30);
    assert!(next > seen, "{next} was given to another transaction before the crash, which gave up to {seen}");
}

#[test]
fn r15_ids_that_only_memory_knew_do_not_come_back_in_the_next_session() {
    let disk = SimDisk::new();
    let db = tiny().create_with_storage(disk.clone()).unwrap();
    (0..300).for_each(|key| _ = set_as(&db, Durability::Immediate, key, 0, 60));
    // The last leaf stays where it is and keeps the file long: what follows finds its room inside.
    db.update(|tx| Ok::<_, Error>(tx.open_table(ROWS)?.remove_range(..290)?)).unwrap();
    db.close().unwrap();
    let mut disk = disk.restart_process();
    let mut seen = 0;
    for session in 0..4 {
        let (db, from) = (tiny().open_with_storage(disk.clone()).unwrap(), disk.next_operation());
        for round in 0..3 {
            let id = set_as(&db, Durability::None, 299, round, 30);
            assert!(id > seen, "session {session}: {id} was seen as another, up to {seen}");
            seen = id;
        }
        let asked = disk.operations().into_iter().filter(|done| done.number >= from);
        assert!(!asked.clone().any(|done| matches!(done.kind, OperationKind::Preallocate { .. })), "there was room");
        disk = disk.crash_image(&CrashPlan::nothing(disk.next_operation()));
    }
}

#[test]
fn r15_ids_that_readers_saw_do_not_come_back_over_a_session_that_only_opens_and_closes() {
    let (disk, db, _) = started(&tiny());
    let seen = (0..50).map(|round| set_as(&db, Durability::None, 1, round, 30)).max().unwrap();
    let mut disk = disk.crash_image(&CrashPlan::nothing(disk.next_operation()));
    for _ in 0..3 {
        tiny().open_with_storage(disk.clone()).unwrap().close().unwrap();
        disk = disk.restart_process();
        let db = tiny().open_with_storage(disk.clone()).unwrap();
        assert_eq!(db.open_notes().len(), 0, "the file was closed");
        drop(db);
    }
    let db = tiny().open_with_storage(disk.clone()).unwrap();
    let next = set_as(&db, Durability::None, 1, 0, 30);
    assert!(next > seen, "{next} was given to another transaction before the crash, which gave up to {seen}");
    db.close().unwrap();
    let db = tiny().open_with_storage(disk.restart_process()).unwrap();
    assert_eq!(set_as(&db, Durability::None, 1, 0, 30), next + 1, "those that were seen are passed once");
}

#[test]
fn r15_the_first_id_after_a_crash_is_durable_before_it_is_seen_also_without_a_log() {
    let (mut disk, db, _) = started(&tiny());
    db.compact().unwrap();
    let mut seen = set_as(&db, Durability::None, 1, 0, 30);
    for round in 1..4 {
        disk = disk.crash_image(&CrashPlan::nothing(disk.next_operation()));
        let db = tiny().open_with_storage(disk.clone()).unwrap();
        let id = set_as(&db, Durability::None, 1, round, 30);
        assert!(id > seen, "{id} was given to another transaction before the crash, which gave up to {seen}");
        seen = id;
    }
}

#[test]
fn r18_what_waits_stays_within_its_share_of_the_budget() {
    let disk = SimDisk::new();
    let db = Builder::new().cache_bytes_max(4 << 20).create_with_storage(disk.clone()).unwrap();
    let mut model = Model::new();
    for key in 0..3000_u64 {
        let key = key * 7919 % 3001;
        set_as(&db, Durability::None, key, 1, 700);
        model.insert(key, value(key, 1, 700));
    }
    let stats = disk.stats();
    assert!((2..200).contains(&stats.syncs), "{stats:?}");
    assert!(rows(&db).unwrap() == model);
    assert_sound(&db);
}

#[test]
fn r12_a_crash_anywhere_keeps_a_prefix_with_all_that_was_waited_for() {
    for seed in 0..4 {
        let mut random = Random::new(seed);
        let (disk, db, mut model) = started(&tiny());
        // States with the operation from which on they are safe.
        let mut states = vec![(model.clone(), Some(disk.next_operation()))];
        let from = disk.next_operation();
        for round in 1..60 {
            let key = random.below(25);
            let waits = random.below(3) > 0;
            let durability = if waits { Durability::Immediate } else { Durability::None };
            set_as(&db, durability, key, round, 40);
            model.insert(key, value(key, round, 40));
            states.push((model.clone(), waits.then(|| disk.next_operation())));
        }
        for at in from..disk.next_operation() {
            for plan in [CrashPlan::nothing(at), CrashPlan::everything(at)] {
                let found = rows(&tiny().open_with_storage(disk.crash_image(&plan)).unwrap()).unwrap();
                let least = states.iter().rposition(|(_, safe)| safe.is_some_and(|safe| safe <= at)).unwrap();
                assert!(states[least..].iter().any(|(state, _)| *state == found), "seed {seed}, operation {at}");
            }
        }
    }
}
