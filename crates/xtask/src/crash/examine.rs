//! Opens one disk that was found after a power cut, uses it, and checks that it behaves.

use super::script::Setup;
use super::state::{Change, State};
use super::timeline::{Disturbance, Moment, Session, Timeline, is_noted};
use crate::random::Random;
use cowslip::sim::SimDisk;
use cowslip::{Database, OpenNote};
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What was found on a disk, and the history of using it.
#[derive(Debug)]
pub(super) struct Examined {
    pub(super) id: u64,
    pub(super) state: State,
    /// Opening noticed something.
    pub(super) noted: bool,
    /// Recovery, one commit and closing, on a disk that held the image.
    pub(super) follow: Timeline,
}

/// One image in so many is closed without a commit first, and its slots decay then.
const IDLE_ONE_IN: u64 = 7;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Examines a disk; an error, or a panic of the store, is a violation.
pub(super) fn examine(disk: &SimDisk, setup: Setup, may_create: bool, salt: u64) -> Result<Examined, String> {
    let outcome = catch_unwind(AssertUnwindSafe(|| examine_unguarded(disk, setup, may_create, salt)));
    match outcome {
        Ok(outcome) => outcome.map_err(|error| error.to_string()),
        Err(_) => Err("the store panicked".to_owned()),
    }
}

fn examine_unguarded(disk: &SimDisk, setup: Setup, may_create: bool, salt: u64) -> Outcome<Examined> {
    let builder = setup.builder(200);
    let first = if may_create {
        builder.create_with_storage(disk.clone()).map_err(|error| format!("creating: {error}"))?
    } else {
        builder.open_with_storage(disk.clone()).map_err(|error| format!("opening: {error}"))?
    };
    let created = if may_create { disk.next_operation() } else { 0 };
    let noted = is_noted(first.open_notes());
    let session = |disk: &SimDisk, noted: bool| Session {
        opened: disk.next_operation(),
        closing: None,
        closed: None,
        began_clean: !noted,
    };
    let first_session = session(disk, noted);
    let (id, state) = State::of_database(&first).map_err(|error| format!("reading: {error}"))?;
    first.check_integrity().map_err(|error| format!("checking version {id}: {error}"))?;
    let disk = disk.restart_process();
    drop(first);

    let db = builder.open_with_storage(disk.clone()).map_err(|error| format!("opening again: {error}"))?;
    let mut second_session = session(&disk, is_noted(db.open_notes()));
    let (again, state_again) = State::of_database(&db)?;
    if (again, &state_again) != (id, &state) {
        return Err(format!("version {again} after version {id}: {}", state_again.difference(&state)).into());
    }
    if db.open_notes().iter().any(|note| matches!(note, OpenNote::HeaderDamaged { .. })) {
        db.repair_header()?;
    }
    let mut sessions = vec![first_session];
    let db = if salt.is_multiple_of(IDLE_ONE_IN) {
        second_session.closing = Some(disk.next_operation());
        db.close().map_err(|error| format!("closing without a commit: {error}"))?;
        second_session.closed = Some(disk.next_operation());
        sessions.push(second_session);
        expect_closed(&builder.open_with_storage(disk.clone())?, id, &state)?;
        examine_decayed_slots(&disk, setup, id, &state)?;
        let db = builder.open_with_storage(disk.clone())?;
        second_session = session(&disk, false);
        db
    } else {
        db
    };
    let begun = disk.next_operation();
    let (next_id, next_state) = commit(&db, &state, salt).map_err(|error| format!("a commit afterwards: {error}"))?;
    let acked = Some(disk.next_operation());
    db.check_integrity().map_err(|error| format!("checking after a commit: {error}"))?;
    second_session.closing = Some(disk.next_operation());
    db.close().map_err(|error| format!("closing: {error}"))?;
    second_session.closed = Some(disk.next_operation());
    sessions.push(second_session);

    expect_closed(&builder.open_with_storage(disk.clone())?, next_id, &next_state)?;
    let moments = vec![
        Moment { id, state: state.clone(), waits: true, begun: 0, seen: Some(0), acked: Some(0), withdrawn: None },
        Moment { id: next_id, state: next_state, waits: true, begun, seen: acked, acked, withdrawn: None },
    ];
    let follow = Timeline {
        label: String::new(),
        setup,
        disk,
        moments,
        sessions,
        created,
        first: 1,
        disturbance: Disturbance::None,
    };
    Ok(Examined { id, state, noted, follow })
}

/// A commit that reuses space and leaves most rows alone.
fn commit(db: &Database, state: &State, salt: u64) -> Outcome<(u64, State)> {
    let mut random = Random::at(salt, 0);
    let mut state = state.clone();
    let tx = db.begin_write()?;
    for row in 0..6 {
        let len = 40 + random.below(300);
        state
            .change(&tx, &Change::Put { table: row % 2 * 9, key: random.below_small(60), len, fill: random.next() })?;
    }
    state.change(&tx, &Change::Remove { table: 1, key: random.below_small(20) })?;
    let id = tx.id().get();
    let committed = tx.commit()?.get();
    if committed != id {
        return Err(format!("it returned version {committed}, not {id}").into());
    }
    let (found, found_state) = State::of_database(db)?;
    if (found, &found_state) != (id, &state) {
        return Err(format!("version {found}, expected {id}: {}", found_state.difference(&state)).into());
    }
    Ok((id, state))
}

/// The database was closed with this state.
fn expect_closed(db: &Database, id: u64, state: &State) -> Outcome<()> {
    if is_noted(db.open_notes()) {
        return Err(format!("a closed database opened with {:?}", db.open_notes()).into());
    }
    let (found, found_state) = State::of_database(db)?;
    let closed = Moment { id, state: state.clone(), waits: true, begun: 0, seen: None, acked: None, withdrawn: None };
    if !closed.is_shown_by(found, &found_state) {
        return Err(format!("closed at {id}, opened at {found}: {}", found_state.difference(state)).into());
    }
    db.check_integrity().map_err(|error| format!("checking after closing: {error}"))?;
    Ok(())
}

/// The database was closed. Without its newest slot it must be refused, and without the other one it must not matter.
fn examine_decayed_slots(disk: &SimDisk, setup: Setup, id: u64, state: &State) -> Outcome<()> {
    let mut refused = 0;
    for slot in 1..=2 {
        let decayed = SimDisk::from_bytes(&disk.image());
        decayed.flip_bit(slot * 4096 + 64, 1)?;
        match setup.builder(200).open_with_storage(decayed) {
            Err(_) => refused += 1,
            Ok(db) => {
                expect_closed(&db, id, state).map_err(|error| format!("slot {slot} decayed after closing: {error}"))?;
            }
        }
    }
    if refused == 1 {
        return Ok(());
    }
    Err(format!("closed, then either slot decayed: {refused} of the two were refused instead of the newest").into())
}

/// The newest slot decayed in a session that did not close: the commit before must serve, whole, unless its log or its pages
/// may be written over, when it may be refused, or what is read of it. After a clean close it must be refused.
pub(super) fn examine_rotten(
    disk: &SimDisk,
    setup: Setup,
    closed: bool,
    may_refuse: bool,
    before: &[Moment],
) -> Result<(), String> {
    let opened = catch_unwind(AssertUnwindSafe(|| setup.builder(200).open_with_storage(disk.clone())));
    let opened = opened.map_err(|_| "the store panicked".to_owned())?;
    let db = match (opened, closed) {
        (Err(_), true) => return Ok(()),
        (Err(error), false) if may_refuse && error.is_corruption() => {
            return Ok(());
        }
        (Ok(db), true) => return Err(format!("served {:?} with its newest slot decayed", db.open_notes())),
        (Err(error), false) => return Err(format!("did not serve the commit before: {error}")),
        (Ok(db), false) => db,
    };
    if !db.open_notes().iter().any(|note| matches!(note, OpenNote::ServedOlderSlot { .. })) {
        return Err(format!("the older slot serves, and the notes are {:?}", db.open_notes()));
    }
    let (id, state) = match State::of_database(&db) {
        // Opening verifies the space; a page of a table that was written over is noticed when it is read.
        Err(error) if may_refuse && error.is_corruption() => return Ok(()),
        read => read.map_err(|error| format!("reading the commit before: {error}"))?,
    };
    if !before.iter().any(|moment| moment.is_shown_by(id, &state)) {
        let [expected, ..] = before else { return Err("no commit is before".to_owned()) };
        return Err(format!("version {id}, expected {}: {}", expected.id, state.difference(&expected.state)));
    }
    match db.check_integrity() {
        Err(error) if may_refuse && error.is_corruption() => Ok(()),
        checked => checked.map(drop).map_err(|error| format!("checking the commit before: {error}")),
    }
}
