//! Commits that wait for the medium together, on a disk whose forced writes are held back.
//!
//! Invariant: readers see no commit before it is as durable as was promised; commits become visible and durable in the order
//! of their ids.

use crate::fixture::{Model, ROWS, Random, assert_sound, rows, tiny, value};
use crate::gated::{
    NEVER, await_outcome, await_queued, builder, change, commit, found, is_pending, join, queue, started, with,
};
use cowslip::Durability;
use cowslip::sim::{CrashPlan, SimDisk};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn commits_that_wait_while_a_write_is_under_way_share_the_next_one() {
    let (disk, db, model) = started(&builder());
    let before = disk.forced();
    disk.close();
    let first = queue(&db, Durability::Immediate, 100);
    disk.await_held();
    let others: Vec<_> = (101..116).map(|key| queue(&db, Durability::Immediate, key)).collect();
    assert!(rows(&db).unwrap() == model);
    disk.open();
    let ids: Vec<_> = std::iter::once(first).chain(others).map(|waiting| join(waiting).unwrap()).collect();
    assert!(ids.is_sorted());
    assert_eq!(disk.forced() - before, 2, "sixteen commits");
    assert!(found(disk.crashed()) == with(&model, 100..116));
    assert_sound(&db);
}

#[test]
fn every_acknowledged_commit_of_many_threads_is_in_what_a_crash_leaves() {
    let (disk, db, model) = started(&builder());
    let writers: Vec<_> = (0..6_u64)
        .map(|writer| {
            let (disk, db) = (disk.clone(), db.clone());
            thread::spawn(move || {
                let mut random = Random::new(writer);
                for at in 0..30 {
                    let key = 1000 * writer + 1000 + at;
                    let waits = random.below(4) > 0;
                    commit(&db, if waits { Durability::Immediate } else { Durability::Buffered }, key);
                    assert!(rows(&db).unwrap().contains_key(&key), "{key} is not seen");
                    if waits && random.below(5) == 0 {
                        let found = found(disk.crashed());
                        // All that this thread had done before is there as well.
                        assert!((1000 * writer + 1000..=key).all(|key| found.contains_key(&key)), "{key} is lost");
                    }
                }
            })
        })
        .collect();
    writers.into_iter().for_each(join);
    db.sync().unwrap();
    let all = with(&model, (1..7).flat_map(|writer| 1000 * writer..1000 * writer + 30));
    assert!(rows(&db).unwrap() == all && found(disk.crashed()) == all);
    assert_sound(&db);
}

#[test]
fn r1_readers_do_not_see_a_commit_whose_write_is_held_back_and_the_next_writer_builds_on_it() {
    let (disk, db, model) = started(&builder());
    disk.close();
    let waiting = queue(&db, Durability::Immediate, 100);
    disk.await_held();
    assert!(rows(&db).unwrap() == model);
    let tx = db.begin_write().unwrap();
    let mut table = tx.open_table(ROWS).unwrap();
    assert_eq!(table.get(100).unwrap().unwrap().value(), value(100, 1, 30));
    table.remove(100).unwrap();
    drop(table);
    let id = tx.id();
    let next = thread::spawn(move || tx.commit());
    await_queued(&db, id);
    // What the older snapshots name stays while all this goes on.
    assert_sound(&db);
    assert!(rows(&db).unwrap() == model);
    disk.open();
    join(waiting).unwrap();
    join(next).unwrap();
    assert!(rows(&db).unwrap() == model && found(disk.crashed()) == model);
    assert_sound(&db);
}

#[test]
fn r3_pages_that_a_queued_version_frees_are_not_used_again_while_readers_see_them() {
    let (disk, db, model) = started(&builder());
    disk.close();
    let mut waiting = Vec::new();
    // Each replaces the leaves that the one before wrote.
    for round in 0..40 {
        let old = db.begin_read().unwrap();
        waiting.push(queue(&db, Durability::Immediate, round % 20));
        disk.await_held();
        assert_eq!(old.open_table(ROWS).unwrap().get(round % 20).unwrap().unwrap().value(), value(round % 20, 0, 30));
        assert!(rows(&db).unwrap() == model, "round {round}");
    }
    assert_sound(&db);
    disk.open();
    waiting.into_iter().for_each(|waiting| _ = join(waiting).unwrap());
    assert!(rows(&db).unwrap() == with(&model, 0..20));
    assert_sound(&db);
    assert_eq!(db.check_integrity().unwrap().pending_units, 0);
}

#[test]
fn r12_versions_appear_in_the_order_of_their_ids_and_none_is_left_out() {
    let (_disk, db, model) = started(&builder());
    let (base, ended) = (db.begin_write().unwrap().id().get(), Arc::new(AtomicBool::new(false)));
    let writers: Vec<_> = (0..4)
        .map(|seed| {
            let db = db.clone();
            thread::spawn(move || {
                let mut random = Random::new(seed);
                for _ in 0..50 {
                    let mut tx = db.begin_write().unwrap();
                    tx.set_durability([Durability::Immediate, Durability::Buffered, Durability::None][random.index(3)])
                        .unwrap();
                    tx.open_table(ROWS).unwrap().insert(tx.id().get() + 1000, &[1][..]).unwrap();
                    if random.below(4) == 0 { await_outcome(tx.commit_async()) } else { tx.commit() }.unwrap();
                }
            })
        })
        .collect();
    let reader = {
        let (db, ended) = (db.clone(), Arc::clone(&ended));
        thread::spawn(move || {
            let mut before = 0;
            while !ended.load(Ordering::SeqCst) {
                let found = rows(&db).unwrap();
                let seen: Vec<_> = found.range(1000..).map(|(key, _)| key - 1000).collect();
                let count = seen.len() as u64;
                assert!(seen == (base..base + count).collect::<Vec<_>>(), "a version is left out: {seen:?}");
                assert!(count >= before, "a version is gone again");
                before = count;
            }
        })
    };
    writers.into_iter().for_each(join);
    ended.store(true, Ordering::SeqCst);
    join(reader);
    assert_eq!(rows(&db).unwrap().len(), model.len() + 200);
    assert_sound(&db);
}

#[test]
fn a_commit_that_changed_nothing_waits_for_what_it_shows() {
    let (disk, db, model) = started(&builder());
    disk.close();
    let waiting = queue(&db, Durability::Immediate, 100);
    disk.await_held();
    let unchanged = db.begin_write().unwrap();
    assert!(unchanged.open_table(ROWS).unwrap().get(100).unwrap().is_some());
    let unchanged = {
        let db = db.clone();
        thread::spawn(move || {
            let id = unchanged.commit().unwrap();
            (id, rows(&db).unwrap())
        })
    };
    let mut future = db.begin_write().unwrap().commit_async();
    assert!(is_pending(&mut future) && !unchanged.is_finished());
    assert!(rows(&db).unwrap() == model);
    disk.open();
    let id = join(waiting).unwrap();
    let (shown, seen) = join(unchanged);
    assert!(shown == id && seen == with(&model, [100]));
    assert_eq!(await_outcome(future).unwrap(), id);
    assert_eq!(await_outcome(db.begin_write().unwrap().commit_async()).unwrap(), id);
}

#[test]
fn a_buffered_commit_is_seen_at_once_and_lost_by_a_crash_before_it_is_written() {
    let (disk, db, model) = started(&builder());
    let before = (disk.forced(), disk.disk.stats().syncs);
    disk.close();
    for key in 100..120 {
        commit(&db, Durability::Buffered, key);
        assert!(rows(&db).unwrap() == with(&model, 100..=key));
    }
    assert_eq!((disk.forced(), disk.disk.stats().syncs), before);
    assert!(found(disk.crashed()) == model);
    assert_sound(&db);
    disk.open();
}

#[test]
fn buffered_commits_are_durable_after_sync_by_one_write() {
    let (disk, db, model) = started(&builder());
    let before = disk.forced();
    (100..120).for_each(|key| _ = commit(&db, Durability::Buffered, key));
    db.sync().unwrap();
    assert_eq!(disk.forced() - before, 1);
    assert!(found(disk.crashed()) == with(&model, 100..120));
    db.sync().unwrap();
    assert_eq!(disk.forced() - before, 1, "where all is durable nothing is written");
}

#[test]
fn buffered_commits_are_durable_after_a_later_one_that_waits() {
    let (disk, db, model) = started(&builder());
    let before = disk.forced();
    (100..120).for_each(|key| _ = commit(&db, Durability::Buffered, key));
    commit(&db, Durability::Immediate, 120);
    assert_eq!(disk.forced() - before, 1);
    assert!(found(disk.crashed()) == with(&model, 100..=120));
    // By a slot just as well.
    commit(&db, Durability::Buffered, 121);
    let mut tx = change(&db, Durability::Buffered, 122);
    tx.set_two_phase_commit(true);
    tx.commit().unwrap();
    assert!(found(disk.crashed()) == with(&model, 100..=122));
}

#[test]
fn buffered_commits_are_durable_after_closing() {
    for closes in [true, false] {
        let (disk, db, model) = started(&builder());
        (100..120).for_each(|key| _ = commit(&db, Durability::Buffered, key));
        if closes {
            db.close().unwrap();
        } else {
            drop(db);
        }
        let db = builder().open_with_storage(disk.crashed()).unwrap();
        assert!(db.open_notes().is_empty() && rows(&db).unwrap() == with(&model, 100..120));
    }
}

#[test]
fn buffered_commits_are_durable_after_a_while_with_nobody_doing_anything() {
    let (disk, db, model) = started(&builder().sync_delay_max(Duration::from_millis(1)));
    for round in 0..3 {
        let keys = 100..110 + round * 10;
        keys.clone().for_each(|key| _ = commit(&db, Durability::Buffered, key));
        let begin = Instant::now();
        while found(disk.crashed()) != with(&model, keys.clone()) {
            assert!(begin.elapsed() < NEVER, "nothing is written");
        }
    }
}

#[test]
fn r12_nothing_behind_a_held_back_commit_is_shown_before_it() {
    for durability in [Durability::Buffered, Durability::None] {
        let (disk, db, model) = started(&builder());
        disk.close();
        let first = queue(&db, Durability::Immediate, 100);
        disk.await_held();
        let second = queue(&db, durability, 101);
        let third = queue(&db, durability, 102);
        assert!(rows(&db).unwrap() == model && !second.is_finished() && !third.is_finished());
        disk.open();
        for waiting in [first, second, third] {
            join(waiting).unwrap();
        }
        assert!(rows(&db).unwrap() == with(&model, 100..103));
        let safe = found(disk.crashed());
        assert!([100, 101, 103].iter().any(|end| safe == with(&model, 100..*end)), "{:?}", safe.keys());
        db.sync().unwrap();
        assert!(found(disk.crashed()) == with(&model, 100..103));
    }
}

#[test]
fn r12_a_crash_anywhere_keeps_a_prefix_of_commits_of_every_durability() {
    for seed in 0..4 {
        let mut random = Random::new(seed);
        let disk = SimDisk::new();
        let db = tiny().sync_delay_max(Duration::from_secs(3600)).create_with_storage(disk.clone()).unwrap();
        commit(&db, Durability::Immediate, 0);
        let mut model = with(&Model::new(), [0]);
        let from = disk.next_operation();
        // States with the operation from which on they are safe.
        let mut states = vec![(model.clone(), Some(from))];
        for key in 1..50 {
            let durability = [Durability::Immediate, Durability::Buffered, Durability::None][random.index(3)];
            let tx = change(&db, durability, key);
            if random.below(3) == 0 { await_outcome(tx.commit_async()) } else { tx.commit() }.unwrap();
            model = with(&model, [key]);
            let is_synced = random.below(8) == 0;
            if is_synced {
                db.sync().unwrap();
            }
            let is_safe = is_synced || durability == Durability::Immediate;
            states.push((model.clone(), is_safe.then(|| disk.next_operation())));
        }
        for at in from..disk.next_operation() {
            for plan in [CrashPlan::nothing(at), CrashPlan::everything(at), CrashPlan::seeded(at, seed)] {
                let found = rows(&tiny().open_with_storage(disk.crash_image(&plan)).unwrap()).unwrap();
                let least = states.iter().rposition(|(_, safe)| safe.is_some_and(|safe| safe <= at)).unwrap();
                assert!(states[least..].iter().any(|(state, _)| *state == found), "seed {seed}, operation {at}");
            }
        }
    }
}

#[test]
fn r12_a_commit_by_a_slot_waits_for_the_records_before_it() {
    let (disk, db, model) = started(&builder());
    disk.close();
    let records: Vec<_> = (100..103).map(|key| queue(&db, Durability::Immediate, key)).collect();
    disk.await_held();
    let buffered = queue(&db, Durability::Buffered, 103);
    let from = disk.disk.next_operation();
    let mut tx = change(&db, Durability::Immediate, 104);
    tx.set_two_phase_commit(true);
    let slot = thread::spawn(move || tx.commit());
    assert!(db.try_begin_write().unwrap().is_none(), "the turn is taken until the slot is written");
    assert!(db.begin_write_timeout(Duration::from_millis(20)).unwrap().is_none());
    assert_eq!(disk.disk.next_operation(), from, "nothing is written before the records");
    assert!(rows(&db).unwrap() == model && !slot.is_finished());
    disk.open();
    let ids: Vec<_> = records.into_iter().chain([buffered, slot]).map(|waiting| join(waiting).unwrap()).collect();
    assert!(ids.is_sorted());
    assert!(rows(&db).unwrap() == with(&model, 100..105) && found(disk.crashed()) == with(&model, 100..105));
    assert_sound(&db);
}

#[test]
fn beginning_can_be_tried_and_a_turn_that_was_not_had_is_not_kept() {
    let (_disk, db, _) = started(&builder());
    let tx = db.try_begin_write().unwrap().expect("nobody writes");
    assert!(db.try_begin_write().unwrap().is_none());
    let (begin, bound) = (Instant::now(), Duration::from_millis(50));
    assert!(db.begin_write_timeout(bound).unwrap().is_none());
    assert!(begin.elapsed() >= bound, "it gave up early");
    // Whoever waits longer gets it, behind others who gave up.
    let waiting: Vec<_> = [1, 2, 3, 30_000, 30_000]
        .map(|millis| {
            let db = db.clone();
            thread::spawn(move || db.begin_write_timeout(Duration::from_millis(millis)).unwrap().is_some())
        })
        .into();
    thread::sleep(Duration::from_millis(20));
    drop(tx);
    let had: Vec<_> = waiting.into_iter().map(join).collect();
    assert!(had[3] && had[4], "{had:?}");
    assert!(db.try_begin_write().unwrap().is_some());
    assert!(db.begin_write_timeout(Duration::MAX).unwrap().is_some());
    db.begin_write().unwrap().abort().unwrap();
}

#[test]
fn the_next_writer_can_begin_while_a_commit_waits_for_the_medium() {
    let (disk, db, _) = started(&builder());
    disk.close();
    let waiting = queue(&db, Durability::Immediate, 100);
    disk.await_held();
    assert!(db.try_begin_write().unwrap().is_some() && !waiting.is_finished());
    disk.open();
    join(waiting).unwrap();
}

#[test]
fn r18_buffered_commits_wait_once_too_much_waits_for_the_medium() {
    let (disk, db, model) = started(&builder().sync_delay_max(Duration::from_millis(1)));
    disk.close();
    let (done, stops) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let committer = {
        let (db, done, stops) = (db.clone(), Arc::clone(&done), Arc::clone(&stops));
        thread::spawn(move || {
            for key in 0..100_000 {
                if stops.load(Ordering::SeqCst) {
                    return key;
                }
                commit(&db, Durability::Buffered, 100 + key);
                done.fetch_add(1, Ordering::SeqCst);
            }
            100_000
        })
    };
    disk.await_held();
    let (mut before, mut since) = (u64::MAX, Instant::now());
    while since.elapsed() < Duration::from_millis(200) {
        let now = done.load(Ordering::SeqCst);
        if now != before {
            (before, since) = (now, Instant::now());
        }
        assert!(now < 5000, "commits go on while nothing is written");
        thread::sleep(Duration::from_millis(1));
    }
    stops.store(true, Ordering::SeqCst);
    disk.open();
    let count = join(committer);
    assert!(count < 100_000);
    db.sync().unwrap();
    assert!(found(disk.crashed()) == with(&model, 100..100 + count));
    assert_sound(&db);
}

#[test]
fn commits_are_as_durable_as_the_builder_says_unless_they_say_otherwise() {
    let (disk, db, model) = started(&builder().durability(Durability::Buffered));
    let safe = found(disk.crashed());
    assert!(safe == model, "tables are made durably");
    let insert = |key: u64| {
        let tx = db.begin_write().unwrap();
        tx.open_table(ROWS).unwrap().insert(key, &value(key, 1, 30)[..]).unwrap();
        tx
    };
    insert(100).commit().unwrap();
    assert!(rows(&db).unwrap() == with(&model, [100]) && found(disk.crashed()) == model);
    let mut tx = insert(101);
    tx.set_durability(Durability::Immediate).unwrap();
    tx.commit().unwrap();
    assert!(found(disk.crashed()) == with(&model, [100, 101]));
    db.close().unwrap();
    let db = builder().durability(Durability::None).open_with_storage(disk.clone()).unwrap();
    let from = disk.disk.next_operation();
    db.update(|tx| tx.open_table(ROWS)?.insert(102, &[1][..]).map(drop).map_err(cowslip::Error::from)).unwrap();
    let asked = disk.disk.operations().into_iter().filter(|done| done.number >= from);
    // The first commit of a session marks the file as open, whatever it waits for.
    use cowslip::sim::OperationKind;
    let marks = |kind| matches!(kind, OperationKind::Write { offset: 0, .. } | OperationKind::Sync { .. });
    let is_early = |kind| matches!(kind, OperationKind::Preallocate { .. }) || marks(kind);
    assert!(asked.map(|done| done.kind).all(is_early), "it waits for the disk");
    let from = disk.disk.next_operation();
    db.update(|tx| tx.open_table(ROWS)?.insert(103, &[1][..]).map(drop).map_err(cowslip::Error::from)).unwrap();
    let asked = disk.disk.operations().into_iter().filter(|done| done.number >= from);
    let is_growth = |kind| matches!(kind, OperationKind::Preallocate { .. });
    assert!(asked.map(|done| done.kind).all(is_growth), "the second asks for room at most");
}

#[test]
fn sync_does_nothing_where_nothing_may_be_written() {
    let (disk, db, model) = started(&builder());
    (100..105).for_each(|key| _ = commit(&db, Durability::Immediate, key));
    // One that has a log to apply, in memory alone.
    let db_read = builder().open_read_only_with_storage(disk.crashed()).unwrap();
    db_read.sync().unwrap();
    assert!(rows(&db_read).unwrap() == with(&model, 100..105));
    assert!(db_read.try_begin_write().is_err() && db_read.begin_write_timeout(NEVER).is_err());
    db.close().unwrap();
    let db = builder().open_read_only_with_storage(disk.disk.restart_process()).unwrap();
    db.sync().unwrap();
    db.close().unwrap();
}

#[test]
fn sync_takes_commits_along_that_have_no_record() {
    let (disk, db, model) = started(&builder());
    commit(&db, Durability::Buffered, 100);
    commit(&db, Durability::None, 101);
    assert!(found(disk.crashed()) == model);
    db.sync().unwrap();
    assert!(found(disk.crashed()) == with(&model, [100, 101]));
    let operation = disk.disk.next_operation();
    db.sync().unwrap();
    assert_eq!(disk.disk.next_operation(), operation);
}
