//! Commits that nobody waits for on a thread, and what their wakers may do.
//!
//! Invariant: a future is resolved once its commit is as durable as was promised, whoever writes it and whatever others do.

use crate::fixture::rows;
use crate::gated::{
    Gated, NEVER, await_outcome, builder, change, commit, found, is_pending, join, on_wake, started, with,
};
use cowslip::{Builder, Durability, TableDefinition};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

#[test]
fn a_commit_that_nobody_waits_for_resolves_by_record_and_by_slot() {
    let (disk, db, model) = started(&builder());
    let before = disk.forced();
    disk.close();
    let mut record = change(&db, Durability::Immediate, 100).commit_async();
    disk.await_held();
    let mut buffered = change(&db, Durability::Buffered, 101).commit_async();
    let tx = db.begin_write().unwrap();
    let (slot_id, table) = (tx.id(), TableDefinition::<u64, u64>::new("new"));
    tx.open_table(table).unwrap().insert(1, 1).unwrap();
    let mut slot = tx.commit_async();
    assert!([&mut record, &mut buffered, &mut slot].into_iter().all(is_pending));
    assert!(rows(&db).unwrap() == model);
    disk.open();
    assert_eq!(await_outcome(slot).unwrap(), slot_id);
    assert!(await_outcome(record).unwrap() < await_outcome(buffered).unwrap());
    assert!(disk.forced() > before);
    assert!(found(disk.crashed()) == with(&model, [100, 101]));
    assert!(builder().open_with_storage(disk.crashed()).unwrap().begin_read().unwrap().open_table(table).is_ok());
}

#[test]
fn commits_take_their_course_where_the_future_is_dropped() {
    let (disk, db, model) = started(&builder());
    for key in 100..110 {
        drop(change(&db, Durability::Immediate, key).commit_async());
    }
    let mut tx = change(&db, Durability::Immediate, 110);
    tx.set_two_phase_commit(true);
    drop(tx.commit_async());
    // Begins behind them.
    commit(&db, Durability::Immediate, 111);
    assert!(found(disk.crashed()) == with(&model, 100..112));
}

#[test]
fn records_that_nobody_waits_for_are_written_before_they_take_much_memory() {
    const ROWS: TableDefinition<u64, &[u8]> = TableDefinition::new("rows");
    let disk = Gated::new();
    let db = Builder::new().durability(Durability::None).create_with_storage(disk.clone()).unwrap();
    let put = |key: u64, len: usize| {
        let tx = db.begin_write().unwrap();
        tx.open_table(ROWS).unwrap().put(key, &vec![1; len][..]).unwrap();
        tx
    };
    // The log is an eighth of the file at most, and when it is half full a checkpoint writes what waits.
    disk.disk.keep_history(false);
    (0..20).for_each(|key| _ = put(key, 2 << 20).commit().unwrap());
    let mut durable = put(20, 50_000);
    durable.set_durability(Durability::Immediate).unwrap();
    durable.commit().unwrap();
    assert!(db.stats().log.capacity_bytes > 3 << 20, "{:?}", db.stats().log);
    let before = disk.forced();
    for key in 100..130 {
        await_outcome(put(key, 50_000).commit_async()).unwrap();
    }
    let begin = Instant::now();
    while disk.forced() == before {
        assert!(begin.elapsed() < NEVER, "{:?}", db.stats());
        thread::yield_now();
    }
}

#[test]
fn a_future_outlives_the_database() {
    for two_phase in [false, true] {
        let (disk, db, model) = started(&builder());
        disk.close();
        let earlier = change(&db, Durability::Immediate, 100).commit_async();
        disk.await_held();
        let mut tx = change(&db, Durability::Immediate, 101);
        tx.set_two_phase_commit(two_phase);
        let future = tx.commit_async();
        let dropped = thread::spawn(move || drop(db));
        disk.open();
        await_outcome(future).unwrap();
        await_outcome(earlier).unwrap();
        join(dropped);
        // A commit by a slot has a thread that closes the database before it tells.
        let db = builder().open_with_storage(disk.crashed()).unwrap();
        assert!(db.open_notes().is_empty() && rows(&db).unwrap() == with(&model, [100, 101]));
    }
}

#[test]
fn whoever_finds_a_future_resolved_can_close_the_database() {
    let (disk, mut db, _) = started(&builder());
    for key in 100..150 {
        let mut tx = change(&db, Durability::Immediate, key);
        tx.set_two_phase_commit(true);
        let mut future = tx.commit_async();
        // Without being woken.
        while is_pending(&mut future) {
            std::hint::spin_loop();
        }
        db.close().unwrap();
        db = builder().open_with_storage(disk.disk.restart_process()).unwrap();
        disk.disk.keep_history(false);
    }
}

#[test]
fn a_task_that_is_woken_may_own_the_last_handle() {
    let (disk, db, model) = started(&builder());
    disk.close();
    let mut future = change(&db, Durability::Immediate, 100).commit_async();
    disk.await_held();
    let (sender, closed) = mpsc::channel();
    on_wake(&mut future, move || {
        drop(db);
        sender.send(()).unwrap();
    });
    disk.open();
    closed.recv_timeout(NEVER).expect("closing hangs or panics");
    let db = builder().open_with_storage(disk.disk.restart_process()).unwrap();
    assert!(db.open_notes().is_empty() && rows(&db).unwrap() == with(&model, [100]));
}

#[test]
fn a_task_that_is_woken_may_begin_a_write_transaction() {
    let (disk, db, model) = started(&builder());
    disk.close();
    let mut first = change(&db, Durability::Immediate, 100).commit_async();
    disk.await_held();
    let mut second = change(&db, Durability::Immediate, 101).commit_async();
    let (go, went) = mpsc::channel();
    // Keeps the thread that writes for futures, so that it is the commit by a slot that writes the second record.
    on_wake(&mut first, move || _ = went.recv_timeout(NEVER));
    let (sender, woken) = mpsc::channel();
    let theirs = db.clone();
    on_wake(&mut second, move || sender.send(commit(&theirs, Durability::Buffered, 103)).unwrap());
    let mut tx = change(&db, Durability::Immediate, 102);
    tx.set_two_phase_commit(true);
    let slot = thread::spawn(move || tx.commit());
    disk.open();
    join(slot).unwrap();
    go.send(()).unwrap();
    woken.recv_timeout(NEVER).expect("a task is not woken");
    assert!(rows(&db).unwrap() == with(&model, 100..104));
    await_outcome(first).unwrap();
    await_outcome(second).unwrap();
}

#[test]
fn a_waker_that_panics_harms_nobody_else() {
    let (disk, db, model) = started(&builder());
    disk.close();
    let mut first = change(&db, Durability::Immediate, 100).commit_async();
    disk.await_held();
    let second = change(&db, Durability::Immediate, 101).commit_async();
    on_wake(&mut first, || panic!("of a runtime"));
    disk.open();
    await_outcome(second).unwrap();
    await_outcome(change(&db, Durability::Immediate, 102).commit_async()).unwrap();
    assert!(found(disk.crashed()) == with(&model, 100..103));
}
