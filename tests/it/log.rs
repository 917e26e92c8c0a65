//! The redo log: small commits as one forced write each, in every way that a session can end.

use crate::fixture::{Model, ROWS, SharedBytes, assert_sound, put, put_by_slot, rows, set, tiny, unset, value};
use cowslip::sim::{CrashPlan, Fault, OperationKind, SimDisk};
use cowslip::{Builder, CommitError, Database, Error, StorageError, TableDefinition, TransactionError, WriteMode};
use std::io::ErrorKind;
use std::ops::Range;

/// Bytes of a unit in a tiny database.
pub(crate) const UNIT: usize = 512;
/// Bytes of a group in front of its records.
const GROUP_HEADER: usize = 64;
/// Where a slot names the log.
const SLOT_LOG: usize = 368;
/// The key whose value is the number of the commit.
const NUMBER: u64 = 999;

/// A log segment as a slot names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) bytes: Range<usize>,
    pub(crate) nonce: Vec<u8>,
}

pub(crate) fn u64_at(image: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(image[at..at + 8].try_into().unwrap())
}

fn usize_at(image: &[u8], at: usize) -> usize {
    usize::try_from(u64_at(image, at)).unwrap()
}

/// Where the slot of the highest generation begins.
pub(crate) fn newest_slot(image: &[u8]) -> usize {
    if u64_at(image, 4096 + 8) > u64_at(image, 8192 + 8) { 4096 } else { 8192 }
}

/// The segment that the newest slot names.
pub(crate) fn segment(image: &[u8]) -> Option<Segment> {
    let at = newest_slot(image) + SLOT_LOG;
    let (page, units) = (usize_at(image, at), usize_at(image, at + 8));
    (page > 0).then(|| Segment { bytes: page * UNIT..(page + units) * UNIT, nonce: image[at + 16..at + 32].to_vec() })
}

/// Where the groups of the newest slot's log begin and how long they are without padding, as their headers say.
pub(crate) fn groups(image: &[u8], segment: &Segment) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let first = segment.bytes.start + UNIT;
    let start = newest_slot(image) + SLOT_LOG + 32;
    let (mut next, mut sequence) = (segment.bytes.start + UNIT * usize_at(image, start), u64_at(image, start + 8));
    let is_at = |at: usize, sequence| {
        at < segment.bytes.end && image[at..at + 4] == *b"cwlg" && u64_at(image, at + 8) == sequence
    };
    while let Some(at) = [next, first].into_iter().find(|at| is_at(*at, sequence)) {
        let len = GROUP_HEADER + u32::from_le_bytes(image[at + 24..at + 28].try_into().unwrap()) as usize;
        found.push(at..at + len);
        next = at + len.next_multiple_of(UNIT);
        sequence += 1;
    }
    found
}

/// The image as it would be if nothing had ever been logged after the slot.
pub(crate) fn without_records(image: &[u8]) -> Vec<u8> {
    let mut image = image.to_vec();
    if let Some(segment) = segment(&image) {
        image[segment.bytes.start + UNIT..segment.bytes.end].fill(0);
    }
    image
}

pub(crate) fn is_slot(kind: OperationKind) -> bool {
    matches!(kind, OperationKind::Write { offset: 4096 | 8192, .. })
}

/// What the disk was asked for from an operation on.
fn asked(disk: &SimDisk, from: u64) -> Vec<OperationKind> {
    disk.operations().iter().filter(|operation| operation.number >= from).map(|operation| operation.kind).collect()
}

/// Whether the commits since an operation were all by records.
pub(crate) fn is_logged(disk: &SimDisk, from: u64) -> bool {
    !asked(disk, from).into_iter().any(is_slot)
}

/// A session with a log that holds nothing yet.
pub(crate) fn logging(builder: &Builder, rows: Range<u64>, len: usize) -> (SimDisk, Database, Model) {
    let disk = SimDisk::new();
    let mut model = Model::new();
    let db = builder.create_with_storage(disk.clone()).unwrap();
    set(&db, &mut model, rows, 0, len);
    set(&db, &mut model, 0..1, 0, 20);
    assert!(segment(&disk.image()).is_some(), "the first small commit begins the log");
    (disk, db, model)
}

/// Small commits until `count` of them stand in the log that the newest slot names.
pub(crate) fn log_commits(disk: &SimDisk, db: &Database, model: &mut Model, count: usize) {
    for round in 0..1000 {
        let image = disk.image();
        if groups(&image, &segment(&image).unwrap()).len() == count {
            return;
        }
        set(db, model, round % 7..round % 7 + 1, round + 100, 20);
    }
    panic!("no log ever held {count} groups");
}

/// The disk as a power cut right now leaves it.
pub(crate) fn cut(disk: &SimDisk) -> SimDisk {
    disk.crash_image(&CrashPlan::nothing(disk.next_operation()))
}

/// What is found in an image, which must be sound.
pub(crate) fn found_in(image: &[u8]) -> Model {
    let db = tiny().open_with_storage(SharedBytes::of(image.to_vec())).unwrap();
    assert_sound(&db);
    rows(&db).unwrap()
}

#[test]
fn r14_a_logged_commit_is_one_forced_write_and_durable_when_it_returns() {
    let (disk, db, mut model) = logging(&tiny(), 0..40, 30);
    let mut logged = 0;
    for round in 0..20 {
        let (from, before) = (disk.next_operation(), model.clone());
        disk.reset_stats();
        set(&db, &mut model, round..round + 1, round + 1, 30);
        let asked = asked(&disk, from);
        if !asked.iter().copied().any(is_slot) {
            logged += 1;
            let one_unit = |kind| matches!(kind, OperationKind::Write { len: 512, mode: WriteMode::Forced, .. });
            // The file may grow ahead of what will be written later.
            let asked: Vec<_> =
                asked.into_iter().filter(|kind| !matches!(kind, OperationKind::Preallocate { .. })).collect();
            assert!(asked.len() == 1 && one_unit(asked[0]), "{asked:?}");
            assert_eq!((disk.stats().writes, disk.stats().syncs), (1, 0));
            let lost = disk.crash_image(&CrashPlan::nothing(from));
            assert_eq!(found_in(&lost.image()), before, "the write itself is the commit");
        }
        assert_eq!(found_in(&cut(&disk).image()), model, "what was forced is not lost");
    }
    assert!(logged > 10, "{logged}");
}

#[test]
fn r14_only_small_changes_of_rows_are_logged_and_everything_else_writes_a_slot() {
    const OTHER: TableDefinition<u64, &[u8]> = TableDefinition::new("other");
    const THIRD: TableDefinition<u64, &[u8]> = TableDefinition::new("third");
    let (disk, db, mut model) = logging(&tiny(), 0..40, 30);
    let direct: [fn(&Database); 5] = [
        |db| db.update(|tx| tx.open_table(OTHER).map(drop).map_err(Error::from)).unwrap(),
        |db| db.update(|tx| Ok::<_, Error>(tx.rename_table(OTHER, THIRD)?)).unwrap(),
        |db| assert!(db.update(|tx| Ok::<_, Error>(tx.delete_table(THIRD)?)).unwrap()),
        |db| put_by_slot(db, 5..6, 77, 10),
        |db| put(db, 80..81, 1, 70_000).unwrap(),
    ];
    for (index, step) in direct.iter().enumerate() {
        if index > 3 {
            log_commits(&disk, &db, &mut model, 1);
        } else {
            set(&db, &mut model, 3..4, 9, 20);
        }
        let from = disk.next_operation();
        step(&db);
        assert!(!is_logged(&disk, from), "step {index}");
        let image = disk.image();
        // The log goes on as long as it alone tells of some table.
        let held = groups(&image, &segment(&image).unwrap()).len();
        assert_eq!(held, if index < 3 { index + 1 } else { 0 }, "step {index}");
        let db = tiny().open_with_storage(cut(&disk)).unwrap();
        assert_eq!(
            db.begin_read().unwrap().list_tables().unwrap().count(),
            if index == 0 || index == 1 { 2 } else { 1 }
        );
        assert_sound(&db);
    }
    drop(db);
    let disk = disk.restart_process();
    let db = tiny().open_with_storage(disk.clone()).unwrap();
    for first in [true, false] {
        let from = disk.next_operation();
        put(&db, 1..2, u64::from(first), 9).unwrap();
        assert_eq!(is_logged(&disk, from), !first, "the first small commit of a session begins the log");
    }
}

#[test]
fn r3_pages_of_the_checkpointed_version_stay_while_only_the_log_tells_what_followed() {
    let (disk, db, mut model) = logging(&tiny().cache_bytes_max(64 << 10), 0..120, 60);
    let mut slot_model = model.clone();
    let (mut logged, mut early) = (0, 0);
    for round in 0..80 {
        let from = disk.next_operation();
        match round % 4 {
            0 => unset(&db, &mut model, round..round + 2),
            _ => set(&db, &mut model, (round * 17) % 110..(round * 17) % 110 + 1, round + 1, 40),
        }
        if is_logged(&disk, from) {
            logged += 1;
        } else {
            slot_model = model.clone();
        }
        // An abandoned transaction writes nodes early, into whatever units are free.
        disk.reset_stats();
        let tx = db.begin_write().unwrap();
        let mut table = tx.open_table(ROWS).unwrap();
        table.insert(999, &vec![0xee; 70_000][..]).unwrap();
        for key in 0..400 {
            table.put(key * 37 % 400, &[0xee; 60][..]).unwrap();
        }
        drop(table);
        tx.abort().unwrap();
        early += disk.stats().bytes_written;
        // All that was written early reaches the medium.
        let image = disk.image();
        assert!(found_in(&image) == model, "round {round}");
        assert!(found_in(&without_records(&image)) == slot_model, "round {round}: the slot's version is not whole");
    }
    assert!(logged > 35 && early > 80 * 4096, "{logged} logged, {early} bytes written early");
}

#[test]
fn r6_a_direct_commit_leaves_nothing_to_a_log_that_is_lost() {
    let (disk, db, mut model) = logging(&tiny(), 0..160, 40);
    let mut counts = [0; 4];
    for round in 0..24 {
        let count = usize::try_from(round % 4).unwrap();
        log_commits(&disk, &db, &mut model, count);
        let before = disk.image();
        let old = segment(&before).unwrap();
        counts[groups(&before, &old).len()] += 1;
        put_by_slot(&db, 10..11, round, 40);
        model.insert(10, value(10, round, 40));
        let mut image = without_records(&cut(&disk).image());
        if segment(&image).unwrap() != old {
            image[old.bytes].fill(0xa5);
        }
        assert!(found_in(&image) == model, "round {round}: {count} commits before were in the log alone");
    }
    assert_eq!(counts, [6; 4]);
}

#[test]
fn r11_records_go_on_behind_each_slot_and_never_over_what_it_needs() {
    let (disk, db, mut model) = logging(&tiny().log_bytes_max(8 << 10), 0..60, 40);
    let mut now = segment(&disk.image()).unwrap();
    let (mut next, mut needed) = (now.bytes.start + UNIT, Vec::<Range<usize>>::new());
    let (mut rounds, mut segments, mut slots) = (0, 1, 0);
    for round in 0..400_u64 {
        let from = disk.next_operation();
        if round % 9 < 2 {
            put_by_slot(&db, 3..4, round, 30);
            model.insert(3, value(3, round, 30));
        } else {
            set(&db, &mut model, round % 50..round % 50 + 1 + round % 3, round, 30);
        }
        for kind in asked(&disk, from) {
            if let OperationKind::Write { offset, len, mode: WriteMode::Forced } = kind {
                let (at, len) = (usize::try_from(offset).unwrap(), usize::try_from(len).unwrap());
                rounds += usize::from(at < next);
                let begin = now.bytes.start + UNIT;
                assert!(at == next || (at == begin && next + len > now.bytes.end), "{at} follows {next}");
                assert!(
                    at + len <= now.bytes.end && needed.iter().all(|group| group.end <= at || at + len <= group.start)
                );
                needed.push(at..at + len);
                next = at + len;
            }
        }
        let image = disk.image();
        let after = segment(&image).unwrap();
        if !is_logged(&disk, from) {
            slots += 1;
            needed.clear();
            let start = usize_at(&image, newest_slot(&image) + SLOT_LOG + 32) * UNIT;
            if after == now {
                assert_eq!(now.bytes.start + start, next, "the log goes on behind the last record");
            } else {
                segments += 1;
                assert!(after.nonce != now.nonce, "a segment has a number of its own");
                assert!(after.bytes.end <= now.bytes.start || now.bytes.end <= after.bytes.start);
                let blank = &image[after.bytes.start + UNIT..after.bytes.end];
                assert!(blank.iter().all(|byte| *byte == 0), "a segment is blank before its first record");
                (now, next) = (after, 0);
                next += now.bytes.start + UNIT;
            }
        }
        if round % 20 == 0 {
            assert_eq!(found_in(&cut(&disk).image()), model);
        }
    }
    assert!(rounds > 5 && slots > 80 && segments < 10, "{rounds} rounds, {slots} slots, {segments} segments");
}

/// Commits of both kinds, each of which stores its number. Returns the disk, where each commit was acknowledged, and
/// what each left.
fn mixed(rounds: u64) -> (SimDisk, Vec<(u64, Model)>) {
    let (disk, db, mut model) = logging(&tiny(), 0..60, 40);
    let mut commits = vec![(disk.next_operation(), model.clone())];
    let mut logged = 0;
    for round in 1..=rounds {
        let from = disk.next_operation();
        let mut tx = db.begin_write().unwrap();
        tx.set_two_phase_commit(round % 11 == 0);
        let mut table = tx.open_table(ROWS).unwrap();
        model.insert(NUMBER, round.to_le_bytes().to_vec());
        table.insert(NUMBER, &round.to_le_bytes()[..]).unwrap();
        // Some records take several units, some commits are too large for the log.
        let (count, len) = [(1, 30), (12, 30), (1, 400), (0, 0), (40, 60)][usize::try_from(round % 5).unwrap()];
        for at in 0..count {
            let key = (at * 5 + round) % 64;
            model.insert(key, value(key, round, len));
            table.put(key, &value(key, round, len)[..]).unwrap();
        }
        model.remove(&(round % 60));
        table.delete(round % 60).unwrap();
        drop(table);
        tx.commit().unwrap();
        commits.push((disk.next_operation(), model.clone()));
        logged += usize::from(is_logged(&disk, from));
        if round % 17 == 0 {
            db.compact().unwrap();
        }
    }
    db.close().unwrap();
    assert!(logged * 3 > commits.len() && logged + 8 < commits.len(), "{logged} of {}", commits.len());
    (disk, commits)
}

#[test]
fn r12_a_crash_at_any_operation_keeps_a_prefix_of_the_commits_of_both_kinds() {
    let (disk, commits) = mixed(40);
    let mut images = 0;
    for operation in commits[0].0..=disk.next_operation() {
        let acked = commits.partition_point(|(at, _)| *at <= operation) - 1;
        let mut plans: Vec<_> = disk.crash_plans(operation).take(4).collect();
        plans.extend((0..4).map(|seed| CrashPlan::seeded(operation, seed)));
        plans.push(CrashPlan::nothing(operation));
        plans.push(CrashPlan::everything(operation));
        for plan in plans {
            let db = tiny().open_with_storage(disk.crash_image(&plan)).unwrap_or_else(|e| panic!("{plan:?}: {e}"));
            let found = rows(&db).unwrap();
            let number = found.get(&NUMBER).map_or(0, |number| usize_at(number, 0));
            assert!(number == acked || number == acked + 1, "{plan:?}: {number} found, {acked} acknowledged");
            assert!(found == commits[number].1, "{plan:?}: the rows are not those of commit {number}");
            if images % 4 == 0 {
                assert_sound(&db);
            }
            images += 1;
        }
    }
    assert!(images > 2000, "{images}");
}

#[test]
fn r20_a_commit_whose_forced_write_failed_is_in_doubt_and_the_handle_writes_no_more() {
    let (disk, db, mut model) = logging(&tiny(), 0..60, 40);
    log_commits(&disk, &db, &mut model, 1);
    db.close().unwrap();
    let image = disk.image();
    let faults: [fn(u64) -> Fault; 3] = [
        |operation| Fault::FailOperation { operation, kind: ErrorKind::Other },
        |operation| Fault::FailOperation { operation, kind: ErrorKind::StorageFull },
        |operation| Fault::ShortWrite { operation },
    ];
    for fault in faults {
        // One that begins the log, one that uses it, and one that fails; all is the same in the second session.
        let begin = |disk: &SimDisk| {
            let db = tiny().open_with_storage(disk.clone()).unwrap();
            put(&db, 0..1, 0, 20).unwrap();
            put(&db, 1..2, 0, 20).unwrap();
            db
        };
        let disk = SimDisk::from_bytes(&image);
        let db = begin(&disk);
        let start = rows(&db).unwrap();
        put(&db, 7..8, 777, 40).unwrap();
        let after = rows(&db).unwrap();
        let last = *disk.operations().last().unwrap();
        assert!(matches!(last.kind, OperationKind::Write { mode: WriteMode::Forced, .. }), "{last:?}");
        let disk = SimDisk::from_bytes(&image);
        let db = begin(&disk);
        let failing = fault(last.number);
        disk.inject(failing);
        let outcome = put(&db, 7..8, 777, 40);
        assert!(matches!(outcome, Err(Error::Commit(CommitError::InDoubt(_)))), "{failing:?}: {outcome:?}");
        assert_eq!(rows(&db).unwrap(), start, "readers go on");
        let refused = db.begin_write();
        assert!(matches!(refused, Err(TransactionError::Storage(StorageError::Poisoned))), "{refused:?}");
        drop(refused);
        let operations = disk.next_operation();
        drop(db);
        assert_eq!(disk.next_operation(), operations, "a poisoned handle writes nothing, not even at close");
        disk.clear_faults();
        for disk in [cut(&disk), disk.restart_process()] {
            let db = tiny().open_with_storage(disk).unwrap();
            let found = rows(&db).unwrap();
            assert!(found == start || found == after, "{failing:?}");
            assert_sound(&db);
            put(&db, 0..1, 3, 3).unwrap();
        }
    }
}
