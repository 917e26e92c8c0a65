//! Commits that wait for a medium that fails, and storages that panic.
//!
//! Invariant: whatever the storage does, everybody who waits is told, nothing that was acknowledged is lost, and readers go
//! on.

use crate::fixture::{ROWS, assert_sound, rows, value};
use crate::gated::{
    Fate, NEVER, await_outcome, builder, change, commit, found, is_in_doubt, join, queue, started, with,
};
use cowslip::{CommitError, Durability};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn a_failed_write_puts_all_that_wait_in_doubt_and_reopening_keeps_what_was_acknowledged() {
    for fate in [Fate::Refused, Fate::DoneInDoubt, Fate::Panic] {
        let (disk, db, model) = started(&builder());
        commit(&db, Durability::Immediate, 50);
        disk.close();
        let first = change(&db, Durability::Immediate, 100).commit_async();
        disk.await_held();
        let threads: Vec<_> = (101..105).map(|key| queue(&db, Durability::Immediate, key)).collect();
        let buffered = queue(&db, Durability::Buffered, 105);
        let futures: Vec<_> = (106..109).map(|key| change(&db, Durability::Immediate, key).commit_async()).collect();
        let running = change(&db, Durability::Immediate, 109);
        disk.set_fate(fate);
        disk.open();
        let mut outcomes: Vec<_> = threads.into_iter().chain([buffered]).map(join).collect();
        outcomes.extend(futures.into_iter().chain([first]).map(await_outcome));
        assert!(outcomes.iter().all(is_in_doubt), "{fate:?}: {outcomes:?}");
        let told = outcomes.iter().filter(|outcome| format!("{outcome:?}").contains("the device is gone")).count();
        assert_eq!(told, usize::from(fate != Fate::Panic), "the first learns what happened");
        let late = running.commit().unwrap_err();
        assert!(matches!(late, CommitError::Aborted(_)), "{late:?}");
        assert!(rows(&db).unwrap() == with(&model, [50]), "readers go on");
        assert!(db.begin_write().is_err() && db.try_begin_write().is_err() && db.sync().is_err());
        assert_sound(&db);
        db.close().unwrap();
        let disk = disk.disk.restart_process();
        let expected = with(&model, if fate == Fate::DoneInDoubt { vec![50, 100] } else { vec![50] });
        assert!(found(disk) == expected, "{fate:?}");
    }
}

#[test]
fn a_group_that_fails_leaves_a_prefix_of_what_many_threads_committed() {
    for (round, fate) in [Fate::Refused, Fate::DoneInDoubt, Fate::Panic].into_iter().cycle().take(9).enumerate() {
        let (disk, db, model) = started(&builder());
        let writers: Vec<_> = (1..5_u64)
            .map(|writer| {
                let (disk, db) = (disk.clone(), db.clone());
                thread::spawn(move || {
                    // The ids that were acknowledged, and their keys; the last one perhaps was not.
                    let mut done = Vec::new();
                    for at in 0..40 {
                        if writer == 1 && at == round as u64 * 2 + 1 {
                            disk.set_fate(fate);
                        }
                        let key = writer * 1000 + at;
                        let Ok(tx) = db.begin_write() else { break };
                        let id = tx.id();
                        let inserted = tx.open_table(ROWS).unwrap().insert(key, &value(key, 1, 30)[..]).is_ok();
                        let acknowledged = inserted
                            && std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| tx.commit().is_ok()))
                                .unwrap_or(false);
                        done.push((id, key, acknowledged));
                        if !acknowledged {
                            break;
                        }
                    }
                    done
                })
            })
            .collect();
        let mut done: Vec<_> = writers.into_iter().flat_map(join).collect();
        done.sort_unstable();
        let acknowledged = done.iter().take_while(|(.., acknowledged)| *acknowledged).count();
        assert!(done[acknowledged..].iter().all(|(.., acknowledged)| !acknowledged), "one that builds on a lost one");
        assert!(rows(&db).unwrap() == with(&model, done[..acknowledged].iter().map(|(_, key, _)| *key)));
        assert_sound(&db);
        drop(db);
        let found = found(disk.disk.restart_process());
        // Aborted ones share their id with nobody who was queued, and are not found.
        let kept: Vec<_> = done.iter().filter(|(_, key, _)| found.contains_key(key)).collect();
        assert!(kept.len() >= acknowledged && found == with(&model, kept.iter().map(|(_, key, _)| *key)));
        assert!(done[..acknowledged].iter().all(|(_, key, _)| found.contains_key(key)), "{fate:?}: a commit is lost");
    }
}

#[test]
fn a_storage_that_panics_under_one_commit_leaves_nobody_waiting() {
    let (disk, db, model) = started(&builder());
    disk.close();
    let leader = queue(&db, Durability::Immediate, 100);
    disk.await_held();
    let follower = queue(&db, Durability::Immediate, 101);
    let synced = {
        let db = db.clone();
        thread::spawn(move || db.sync())
    };
    disk.set_fate(Fate::Panic);
    disk.open();
    assert!(is_in_doubt(&join(follower)));
    // Either it queued behind the panic or it came after it.
    assert!(join(synced).is_err());
    assert!(leader.join().is_err(), "whoever writes panics");
    assert!(rows(&db).unwrap() == model && db.begin_write().is_err());
    assert_sound(&db);
    drop(db);
    assert!(found(disk.disk.restart_process()) == model);
}

#[test]
fn r20_a_storage_that_panics_while_a_slot_is_written_ends_all_writing() {
    let (disk, db, model) = started(&builder());
    let mut tx = change(&db, Durability::Immediate, 100);
    tx.set_two_phase_commit(true);
    disk.set_sync_fate(Fate::Panic);
    assert!(is_in_doubt(&await_outcome(tx.commit_async())));
    disk.set_sync_fate(Fate::Done);
    assert!(db.begin_write().is_err(), "what the storage holds is not known any more");
    assert!(rows(&db).unwrap() == model);
    drop(db);
    let found = found(disk.disk.restart_process());
    assert!(found == model || found == with(&model, [100]));
}

#[test]
fn closing_says_that_buffered_commits_were_lost() {
    let (disk, db, model) = started(&builder().sync_delay_max(Duration::from_millis(1)));
    let before = disk.forced();
    disk.set_fate(Fate::Refused);
    commit(&db, Durability::Buffered, 100);
    let begin = Instant::now();
    while disk.forced() == before || db.begin_write().is_ok() {
        assert!(begin.elapsed() < NEVER, "nothing is written");
        thread::yield_now();
    }
    assert!(rows(&db).unwrap() == with(&model, [100]), "readers go on");
    let told = format!("{:?}", db.close().unwrap_err());
    assert!(told.contains("the device is gone"), "{told}");
    assert!(found(disk.disk.restart_process()) == model);
}

#[test]
fn a_database_that_a_panicking_thread_drops_is_closed_all_the_same() {
    let (disk, db, model) = started(&builder());
    let panicked = thread::spawn(move || {
        (100..105).for_each(|key| _ = commit(&db, Durability::Buffered, key));
        panic!("of the application, with the database on its stack");
    });
    assert!(panicked.join().is_err());
    let db = builder().open_with_storage(disk.crashed()).unwrap();
    assert!(db.open_notes().is_empty() && rows(&db).unwrap() == with(&model, 100..105));
}
