//! Power cuts while rows are laid over trees: transactions of every kind after one another, and session after session on
//! one log.
//!
//! Invariant: what a crash leaves is one commit, none older than the last that was durable, each table as that commit left it.

use crate::fixture::{Random, assert_sound, tiny, value};
use crate::log::{is_logged, segment, without_records};
use crate::overlay::{Rows, State, any_durability, change, rearranged, state, table};
use cowslip::sim::{CrashPlan, SimDisk};
use cowslip::{Builder, Database, Durability, Error, WriteTransaction};
use std::collections::BTreeMap;

/// The three kinds of crash during an operation.
fn plans(operation: u64, seed: u64) -> [CrashPlan; 3] {
    [CrashPlan::nothing(operation), CrashPlan::everything(operation), CrashPlan::seeded(operation, seed)]
}

/// Names the tables and rows in which two states differ.
fn differences(found: &State, expected: &State) -> String {
    let mut differences = format!("{:?} instead of {:?};", found.keys(), expected.keys());
    for (name, rows) in expected {
        let Some(found) = found.get(name) else { continue };
        let keys: Vec<_> = found.keys().chain(rows.keys()).filter(|key| found.get(*key) != rows.get(*key)).collect();
        if !keys.is_empty() {
            differences += &format!(" {name} at {keys:?}");
        }
    }
    differences
}

/// Requires that a crash in any operation since `from` leaves the state before or, the only one once it is acknowledged,
/// the one after.
fn assert_crashes(builder: &Builder, disk: &SimDisk, from: u64, [before, after]: [&State; 2], what: &str) -> usize {
    let to = disk.next_operation();
    let step = ((to - from) / 24).max(1);
    let mut images = 0;
    for operation in (from..to).step_by(usize::try_from(step).unwrap()).chain([to]) {
        for plan in plans(operation, from) {
            let opened = builder.open_with_storage(disk.crash_image(&plan));
            let reopened = opened.unwrap_or_else(|error| panic!("{what}, {plan:?}: {error}"));
            let found = state(&reopened).unwrap();
            let is_right = found == *after || (found == *before && operation < to);
            assert!(is_right, "{what}, {plan:?} up to {to}: {}", differences(&found, after));
            assert_sound(&reopened);
            images += 1;
        }
    }
    images
}

#[test]
fn a_crash_at_any_operation_of_transactions_of_every_kind_loses_nothing() {
    for seed in 0..6 {
        let mut random = Random::new(seed);
        let lag = [1, 3, 30][random.index(3)];
        let builder = tiny().log_bytes_max(8 << 10).test_checkpoint_lag(lag);
        let disk = SimDisk::new();
        let db = builder.create_with_storage(disk.clone()).unwrap();
        let (mut now, mut images) = (State::new(), 0);
        for round in 0..90 {
            let from = disk.next_operation();
            let (tx, next) = rearranged(&db, &now, &mut random, round);
            tx.commit().unwrap();
            let what = format!("seed {seed}, lag {lag}, round {round}");
            images += assert_crashes(&builder, &disk, from, [&now, &next], &what);
            now = next;
            assert!(state(&db).unwrap() == now, "{what}");
        }
        assert!(images > 500, "{images}");
        db.close().unwrap();
        assert!(state(&builder.open_with_storage(disk.restart_process()).unwrap()).unwrap() == now);
    }
}

/// Changes of a step: in the transaction, and in the model.
type Step = fn(&mut WriteTransaction, &mut State);

fn set(tx: &WriteTransaction, state: &mut State, name: &str, keys: std::ops::Range<u64>, round: u64, len: usize) {
    let mut open = tx.open_table(table(name)).unwrap();
    let rows = state.entry(name.to_owned()).or_default();
    for number in keys {
        let (key, value) = (number.to_be_bytes(), value(number, round, len));
        open.put(&key[..], &value[..]).unwrap();
        rows.insert(key.to_vec(), value);
    }
}

fn rename(tx: &WriteTransaction, state: &mut State, from: &str, to: &str) {
    tx.rename_table(table(from), table(to)).unwrap();
    let rows = state.remove(from).unwrap();
    state.insert(to.to_owned(), rows);
}

fn delete(tx: &WriteTransaction, state: &mut State, name: &str) {
    assert!(tx.delete_table(table(name)).unwrap());
    state.remove(name).unwrap();
}

/// One after the other they bring records of tables that are renamed, replaced, deleted and made again by then.
const STEPS: [Step; 22] = [
    |tx, state| ["ash", "elm", "fir"].iter().for_each(|name| set(tx, state, name, 0..40, 0, 30)),
    |tx, state| set(tx, state, "fir", 0..1, 0, 10),
    |tx, state| set(tx, state, "ash", 3..6, 1, 20),
    |tx, state| set(tx, state, "fir", 3..6, 1, 20),
    // Rows laid over both, and only one of them becomes a tree.
    |tx, state| rename(tx, state, "ash", "oak"),
    |tx, state| set(tx, state, "oak", 3..5, 2, 20),
    |tx, state| set(tx, state, "ash", 0..3, 3, 20),
    |tx, state| set(tx, state, "ash", 3..6, 4, 20),
    |tx, state| set(tx, state, "fir", 4..7, 5, 20),
    |tx, state| {
        // A table under the old name of another, in one transaction, and rows of a third laid over it.
        rename(tx, state, "elm", "yew");
        set(tx, state, "elm", 0..2, 6, 20);
        set(tx, state, "fir", 5..6, 6, 25);
    },
    |tx, state| set(tx, state, "elm", 1..3, 7, 20),
    |tx, state| set(tx, state, "yew", 1..3, 8, 20),
    |tx, state| {
        delete(tx, state, "oak");
        set(tx, state, "oak", 3..4, 9, 15);
    },
    |tx, state| set(tx, state, "oak", 2..4, 10, 15),
    |tx, state| delete(tx, state, "fir"),
    |tx, state| set(tx, state, "fir", 4..5, 11, 15),
    |tx, state| set(tx, state, "fir", 5..6, 12, 15),
    |tx, state| {
        tx.set_two_phase_commit(true);
        set(tx, state, "fir", 5..7, 13, 15);
    },
    |tx, state| set(tx, state, "ash", 5..7, 13, 15),
    |tx, state| {
        // Names go round.
        rename(tx, state, "ash", "tmp");
        rename(tx, state, "yew", "ash");
        rename(tx, state, "tmp", "yew");
        set(tx, state, "elm", 0..1, 14, 5);
    },
    |tx, state| {
        set(tx, state, "ash", 0..1, 15, 70 << 10);
        set(tx, state, "yew", 0..1, 15, 7);
    },
    |tx, state| set(tx, state, "yew", 0..2, 16, 9),
];

#[test]
fn records_count_only_for_the_table_and_the_time_that_they_were_made_for() {
    for lag in [1, 2, 1000] {
        for first in 0..STEPS.len() {
            // A database that has been closed before some step has no older records.
            let builder = tiny().test_checkpoint_lag(lag);
            let disk = SimDisk::new();
            let mut db = builder.create_with_storage(disk.clone()).unwrap();
            let mut now = State::new();
            for (index, step) in STEPS.into_iter().enumerate() {
                if index == first {
                    db.close().unwrap();
                    db = builder.open_with_storage(disk.clone()).unwrap();
                }
                let (from, mut next) = (disk.next_operation(), now.clone());
                let mut tx = db.begin_write().unwrap();
                step(&mut tx, &mut next);
                tx.commit().unwrap();
                let what = format!("lag {lag}, closed before {first}, step {index}");
                assert_crashes(&builder, &disk, from, [&now, &next], &what);
                assert!(state(&db).unwrap() == next, "{what}");
                now = next;
            }
            assert_sound(&db);
        }
    }
}

/// An empty database that makes no checkpoint beside the transactions, and what commits a step in it: that says whether the
/// commit was recorded in the log, and what the database holds from then on.
fn committing() -> (Builder, SimDisk, impl FnMut(Step) -> (bool, State)) {
    let builder = tiny().test_checkpoint_lag(1000);
    let disk = SimDisk::new();
    let db = builder.create_with_storage(disk.clone()).unwrap();
    let (on, mut now) = (disk.clone(), State::new());
    let commit = move |step: Step| {
        let (from, mut tx) = (on.next_operation(), db.begin_write().unwrap());
        step(&mut tx, &mut now);
        tx.commit().unwrap();
        (is_logged(&on, from), now.clone())
    };
    (builder, disk, commit)
}

#[test]
fn a_slot_of_one_table_leaves_the_rows_over_others_to_the_log() {
    let (builder, disk, mut commit) = committing();
    commit(|tx, state| ["ash", "fir"].iter().for_each(|name| set(tx, state, name, 0..100, 0, 30)));
    let (_, before) = commit(|tx, state| set(tx, state, "ash", 0..1, 1, 30));
    assert!(commit(|tx, state| set(tx, state, "ash", 7..8, 2, 30)).0, "it is recorded");
    let log = segment(&disk.image()).unwrap();
    assert!(commit(|tx, state| set(tx, state, "fir", 7..8, 2, 30)).0, "it is recorded");
    let (is_recorded, after) = commit(|tx, state| {
        tx.set_two_phase_commit(true);
        set(tx, state, "ash", 7..9, 3, 30);
    });
    assert!(!is_recorded && segment(&disk.image()) == Some(log), "a slot that names the same log");
    let found = |image: &[u8]| state(&builder.open_with_storage(SimDisk::from_bytes(image)).unwrap()).unwrap();
    let image = disk.image();
    assert!(found(&image) == after);
    let without = found(&without_records(&image));
    assert!(without["ash"] == after["ash"], "nothing of it is left to the log");
    assert!(without["fir"] == before["fir"] && before["fir"] != after["fir"], "the log tells what is laid over it");
}

#[test]
fn a_crash_in_a_transaction_of_more_than_is_recorded_beside_small_ones_loses_nothing() {
    for lag in [1, 1000] {
        let builder = Builder::new().test_geometry(512, 2048, 4096).test_identity([7; 16]).test_checkpoint_lag(lag);
        let builder = builder.cache_bytes_max(if lag == 1 { 256 << 10 } else { 64 << 20 });
        let disk = SimDisk::new();
        let db = builder.create_with_storage(disk.clone()).unwrap();
        let mut now = State::new();
        for round in 0..9 {
            let (from, mut next) = (disk.next_operation(), now.clone());
            let tx = db.begin_write().unwrap();
            set(&tx, &mut next, "fir", round..round + 2, round, 40);
            if round % 3 == 0 {
                set(&tx, &mut next, "ash", round..round + 60, round, 20 << 10);
                set(&tx, &mut next, "fir", round + 1..round + 3, round, 50);
                tx.open_table(table("elm")).unwrap();
                next.entry("elm".to_owned()).or_default();
            }
            tx.commit().unwrap();
            let what = format!("lag {lag}, round {round}");
            assert_crashes(&builder, &disk, from, [&now, &next], &what);
            now = next;
            assert!(state(&db).unwrap() == now, "{what}");
        }
        assert_sound(&db);
    }
}

/// What is known of a history: the state of each id, and before which operation ids were seen, and durable.
struct Known {
    states: BTreeMap<u64, State>,
    seen: Vec<(u64, u64)>,
    durable: Vec<(u64, u64)>,
}

impl Known {
    fn id_max(&self) -> u64 {
        self.seen.iter().map(|(_, id)| *id).max().unwrap_or(0)
    }
}

/// Commits with every durability until chance ends it.
fn session(db: &Database, disk: &SimDisk, known: &mut Known, random: &mut Random, what: &str) {
    let mut now = known.states.last_key_value().unwrap().1.clone();
    for _ in 0..1 + random.below(40) {
        let (mut tx, next) = if random.below(15) == 0 {
            rearranged(db, &now, random, 1)
        } else {
            let (tx, mut next) = (db.begin_write().unwrap(), now.clone());
            for name in &["ash", "elm"][..1 + random.index(2)] {
                let mut open = tx.open_table(table(name)).unwrap();
                let rows: &mut Rows = next.entry((*name).to_owned()).or_default();
                (0..1 + random.below(3)).for_each(|_| change(&mut open, rows, random, 50, false));
            }
            (tx, next)
        };
        let (durability, id) = (any_durability(random), tx.id().get());
        tx.set_durability(durability).unwrap();
        assert!(id > known.id_max(), "{what}: {id} after {}", known.id_max());
        // Before its outcome is known it may be found already.
        known.states.insert(id, next.clone());
        let committed = tx.commit().unwrap().get();
        if committed != id {
            known.states.remove(&id);
            assert!(next == now, "{id} was not committed");
        }
        known.seen.push((disk.next_operation(), committed));
        // One that changed nothing makes nothing durable.
        if durability == Durability::Immediate && committed == id {
            known.durable.push((disk.next_operation(), committed));
        }
        if random.below(20) == 0 {
            db.sync().unwrap();
            known.durable.push((disk.next_operation(), committed));
        }
        now = next;
        let reader = db.begin_read().unwrap();
        assert_eq!(reader.id().get(), committed);
        assert!(crate::overlay::state_of(&reader).unwrap() == now, "at {committed}");
    }
}

#[test]
fn session_after_session_goes_on_with_the_log_that_a_crash_left() {
    for seed in 0..30 {
        let mut random = Random::new(seed);
        let lag = [1, 2, 9, 1000][random.index(4)];
        let builder = tiny().log_bytes_max(8 << 10).test_checkpoint_lag(lag);
        let mut disk = SimDisk::new();
        drop(builder.create_with_storage(disk.clone()).unwrap());
        let mut known = Known { states: BTreeMap::from([(0, State::new())]), seen: vec![], durable: vec![(0, 0)] };
        for number in 0..25 {
            let what = format!("seed {seed}, lag {lag}, session {number}");
            let db = builder.open_with_storage(disk.clone()).unwrap_or_else(|error| panic!("{what}: {error}"));
            let id = db.begin_read().unwrap().id().get();
            let found = state(&db).unwrap();
            let (_, expected) = known.states.range(..=id).next_back().unwrap();
            assert!(found == *expected, "{what}: at {id}");
            let least = known.durable.last().unwrap().1;
            assert!(id >= least, "{what}: {id} is older than {least}, which was durable");
            assert_sound(&db);
            // Later ones never were, but whoever saw them must not take others for them.
            known.states.split_off(&(id + 1));
            known.durable = vec![(0, id)];
            known.seen = vec![(0, id.max(known.id_max()))];
            let from = disk.next_operation();
            session(&db, &disk, &mut known, &mut random, &what);
            if random.below(6) == 0 {
                let committed = db.begin_read().unwrap().id().get();
                db.close().unwrap();
                known.durable.push((disk.next_operation(), committed));
                disk = disk.restart_process();
                continue;
            }
            let operation = from + random.below(disk.next_operation() - from + 1);
            let operation = if random.below(2) == 0 { disk.next_operation() } else { operation };
            known.durable.retain(|(since, _)| *since <= operation);
            known.seen.retain(|(since, _)| *since <= operation);
            disk = disk.crash_image(&plans(operation, seed)[random.index(3)]);
        }
    }
}

#[test]
fn an_empty_table_and_one_whose_rows_all_went_are_there_after_a_crash() {
    let builder = tiny().test_checkpoint_lag(1000);
    let disk = SimDisk::new();
    let db = builder.create_with_storage(disk.clone()).unwrap();
    let mut now = State::new();
    let tx = db.begin_write().unwrap();
    set(&tx, &mut now, "ash", 0..30, 0, 20);
    set(&tx, &mut now, "elm", 0..0, 0, 0);
    tx.commit().unwrap();
    for _ in 0..3 {
        db.update(|tx| {
            tx.open_table(table("ash"))?.retain(|_, _| false)?;
            Ok::<_, Error>(())
        })
        .unwrap();
        let before = now.clone();
        now.get_mut("ash").unwrap().clear();
        let crashed = builder.open_with_storage(disk.crash_image(&CrashPlan::nothing(disk.next_operation()))).unwrap();
        assert!(state(&crashed).unwrap() == now);
        assert_sound(&crashed);
        db.update(|tx| {
            let mut open = tx.open_table(table("ash"))?;
            before["ash"].iter().try_for_each(|(key, value)| open.put(&key[..], &value[..]))?;
            Ok::<_, Error>(())
        })
        .unwrap();
        now = before;
    }
    assert!(state(&db).unwrap() == now);
}

#[test]
fn ids_that_only_memory_knew_are_not_used_again() {
    for lag in [1, 1000] {
        for before in 0..3 {
            let builder = tiny().test_checkpoint_lag(lag);
            let mut disk = SimDisk::new();
            let db = builder.create_with_storage(disk.clone()).unwrap();
            let commit = |db: &Database, durability, round| {
                let mut tx = db.begin_write().unwrap();
                tx.set_durability(durability).unwrap();
                set(&tx, &mut State::new(), "ash", round..round + 2, round, 20);
                tx.commit().unwrap().get()
            };
            for round in 0..before {
                commit(&db, Durability::Immediate, round);
            }
            db.close().unwrap();
            let mut last = 0;
            for session in 0..4 {
                let db = builder.open_with_storage(disk.clone()).unwrap();
                for round in 0..3 {
                    let id = commit(&db, Durability::None, 10 * session + round);
                    assert!(id > last, "lag {lag}, {before} before, session {session}: {id} after {last}");
                    last = db.begin_read().unwrap().id().get();
                    assert_eq!(last, id, "a reader saw it");
                }
                disk = disk.crash_image(&CrashPlan::nothing(disk.next_operation()));
            }
        }
    }
}

#[test]
fn records_of_a_name_are_not_replayed_into_an_unchanged_table_that_takes_it() {
    let (builder, disk, mut commit) = committing();
    commit(|tx, state| ["ash", "fir", "yew"].iter().for_each(|name| set(tx, state, name, 0..100, 0, 30)));
    commit(|tx, state| set(tx, state, "ash", 0..1, 1, 30));
    assert!(commit(|tx, state| set(tx, state, "ash", 7..8, 2, 30)).0, "it is recorded");
    assert!(commit(|tx, state| set(tx, state, "fir", 7..8, 2, 30)).0, "it is recorded, and keeps the log");
    let (is_recorded, after) = commit(|tx, state| {
        rename(tx, state, "ash", "oak");
        rename(tx, state, "yew", "ash");
    });
    assert!(!is_recorded);
    let found = state(&builder.open_with_storage(disk.restart_process()).unwrap()).unwrap();
    assert!(found == after, "{}", differences(&found, &after));
}
