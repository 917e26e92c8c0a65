//! What may become of a damaged file: an error, what was committed, or, where the checksums were forged, something else
//! that does not contradict itself unless the full check says so.

use super::bytes::Bytes;
use super::limits::{Cost, Watch};
use super::sample::{NUMBERS, Rows, Sample, State, TABLES, builder, read_state};
use cowslip::{Database, Error, OpenNote, ReadTransaction, TableHandle, UntypedTable};

/// More rows than any file of this size could hold, even with all its pointers at one node.
const ROWS_MAX: usize = 500_000;

/// What was found, from bad to good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    /// Opening failed.
    Refused,
    /// Opened, but a page could not be read.
    Unreadable,
    /// Everything could be read and contradicts itself, which the full check reports.
    Contradictory,
    /// Everything could be read, but no commit made it: only forged checksums allow that.
    Altered,
    /// The commit before, which opening reported.
    Older,
    /// The commit before, which nothing tells from the newest whose record was torn.
    Unrecorded,
    /// The newest commit.
    Newest,
}

/// How a file is used.
#[derive(Debug, Clone, Copy)]
pub(super) struct Use {
    /// The checksums fit, so rows may differ from what was committed.
    pub(super) resealed: bool,
    /// A transaction is written too.
    pub(super) write: bool,
}

/// What one file was found to be, and everything that must not be.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// Opened for reading only, then for writing.
    pub(super) outcomes: Vec<Outcome>,
    pub(super) wrong: Vec<String>,
    pub(super) cost: Cost,
}

/// What reading everything told.
#[derive(Default)]
struct Reading {
    state: State,
    /// Why a page could not be read.
    failed: Option<String>,
    /// Bytes that could be read are no such keys or values as the application's types have.
    untyped: bool,
    contradictions: Vec<String>,
}

/// Opens the file in both ways and requires that each answer is allowed.
pub(super) fn judge(bytes: &[u8], sample: &Sample, how: Use) -> Verdict {
    let mut verdict = Verdict::default();
    for read_only in [true, false] {
        let disk = Bytes::from(bytes.to_vec());
        let watch = Watch::start(bytes.len());
        let opened = if read_only {
            builder().open_read_only_with_storage(disk.clone())
        } else {
            builder().open_with_storage(disk.clone())
        };
        let Ok(database) = opened else {
            verdict.cost.add(&watch.stop(&mut verdict.wrong));
            verdict.outcomes.push(Outcome::Refused);
            continue;
        };
        let reading = read_all(&database);
        let cost = watch.stop(&mut verdict.wrong);
        verdict.cost.add(&cost);
        let sound = database.check_integrity().is_ok();
        let outcome = compare(&reading, database.open_notes(), sound, sample, how, &mut verdict.wrong);
        verdict.outcomes.push(outcome);
        if read_only {
            if disk.copy() != bytes {
                verdict.wrong.push("reading only wrote something".into());
            }
        } else if how.write {
            write(database, &disk, sound.then_some(reading.state), &mut verdict.wrong);
        }
    }
    verdict
}

/// Judges what was read.
fn compare(
    reading: &Reading,
    notes: &[OpenNote],
    sound: bool,
    sample: &Sample,
    how: Use,
    wrong: &mut Vec<String>,
) -> Outcome {
    if let Some(contradiction) = reading.contradictions.first()
        && (sound || !how.resealed)
    {
        let check = if sound { "and the check finds nothing" } else { "behind sound checksums" };
        wrong.push(format!("{contradiction}, {check}"));
    }
    if let Some(error) = reading.failed.as_ref().filter(|_| sound) {
        wrong.push(format!("the check finds nothing in a file that cannot be read: {error}"));
    }
    let stepped_back = notes.iter().any(|note| matches!(note, OpenNote::ServedOlderSlot { .. }));
    // With one slot damaged nobody knows which commit was the last, so a step back may lead to the newest as well.
    let candidates: Vec<(&State, Outcome)> = match (&sample.older, stepped_back) {
        (Some(older), true) => vec![(older, Outcome::Older), (&sample.newest, Outcome::Newest)],
        (None, true) => Vec::new(),
        (_, false) => {
            let unrecorded = sample.unrecorded.iter().map(|state| (state, Outcome::Unrecorded));
            [(&sample.newest, Outcome::Newest)].into_iter().chain(unrecorded).collect()
        }
    };
    if !how.resealed {
        if reading.untyped && reading.failed.is_none() {
            wrong.push("rows that were committed cannot be read by their types".into());
        }
        // What could be read at all must be right.
        let holds = |state: &State| reading.state.iter().all(|(name, rows)| state.get(name) == Some(rows));
        if !candidates.iter().any(|(state, _)| holds(state)) {
            let names: Vec<&String> = reading.state.keys().collect();
            wrong.push(format!("rows of {names:?} are of no commit that may serve, step back: {stepped_back}"));
        }
    }
    if reading.failed.is_some() {
        Outcome::Unreadable
    } else if let Some((_, outcome)) = candidates.iter().find(|(state, _)| **state == reading.state) {
        *outcome
    } else if !reading.contradictions.is_empty() {
        Outcome::Contradictory
    } else {
        if !how.resealed {
            wrong.push("tables are missing".into());
        }
        Outcome::Altered
    }
}

fn read_all(database: &Database) -> Reading {
    let mut reading = Reading::default();
    let outcome = database.begin_read().map_err(Error::from).and_then(|snapshot| {
        let names: Vec<String> = snapshot.list_tables()?.map(|handle| handle.name().to_owned()).collect();
        for name in &names {
            if let Err(error) = read_table(&snapshot, name, &mut reading) {
                reading.failed = Some(error.to_string());
            }
        }
        if !names.is_sorted_by(|one, next| one < next) {
            reading.contradictions.push("the names of tables are not in order".into());
        }
        Ok(())
    });
    if let Err(error) = outcome {
        reading.failed = Some(error.to_string());
    }
    reading
}

/// Reads a table in every way and compares what each says.
fn read_table(snapshot: &ReadTransaction, name: &str, reading: &mut Reading) -> Result<(), Error> {
    let table = snapshot.open_untyped_table(name)?;
    let rows = collect(table.iter()?)?;
    let mut contradict = |text: &str| reading.contradictions.push(format!("table {name:?}: {text}"));
    if rows.len() >= ROWS_MAX {
        contradict("rows without end");
        return Ok(());
    }
    if !rows.is_sorted_by(|one, next| one.0 < next.0) {
        contradict("rows out of order");
    }
    if table.len()? != rows.len() as u64 {
        contradict("another number of rows than it says");
    }
    let mut backwards = collect(table.iter()?.rev())?;
    backwards.reverse();
    if backwards != rows {
        contradict("other rows backwards than forwards");
    }
    for (key, value) in &rows {
        if table.get(key)?.is_none_or(|found| found.value() != value) {
            contradict("a row that is iterated is not found by its key");
            break;
        }
    }
    if !ranges_agree(&table, &rows)? {
        contradict("a range has other rows than the iteration");
    }
    // Typed reading may fail where the bytes are no such values, but not say anything else.
    let typed = TABLES.iter().find(|typed| typed.name() == name).map(|typed| typed.read(snapshot));
    match typed {
        Some(Ok(typed)) if typed != rows => contradict("typed rows differ from their bytes"),
        Some(Err(_)) => reading.untyped = true,
        _ => {}
    }
    reading.state.insert(name.to_owned(), rows);
    Ok(())
}

fn collect<'r>(
    range: impl Iterator<Item = Result<cowslip::Row<'r, &'static [u8], &'static [u8]>, cowslip::StorageError>>,
) -> Result<Rows, Error> {
    let mut rows = Rows::new();
    for row in range.take(ROWS_MAX) {
        let (key, value) = row?;
        rows.push((key.value().to_vec(), value.value().to_vec()));
    }
    Ok(rows)
}

/// Compares a few ranges with what the iteration found.
fn ranges_agree(table: &UntypedTable, rows: &Rows) -> Result<bool, Error> {
    if rows.is_empty() {
        return Ok(true);
    }
    let bounds = [(0, rows.len() / 2), (rows.len() / 3, rows.len() - 1), (rows.len() - 1, 0)];
    for (from, to) in bounds {
        let (low, high) = (&rows[from].0[..], &rows[to].0[..]);
        let found = collect(table.range(low..high)?)?;
        if found[..] != rows[from.min(to)..to] {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Changes rows all over the file, closes it and opens it again. `before` is what a sound file held.
fn write(database: Database, disk: &Bytes, before: Option<State>, wrong: &mut Vec<String>) {
    let changed = change(&database);
    let committed = changed.is_ok();
    let unsound = database.check_integrity().err();
    let closed = database.close().is_ok();
    let reopened = builder().open_with_storage(disk.clone());
    let after = reopened.map_err(Error::from).and_then(|database| {
        let sound = database.check_integrity().is_ok();
        let state = read_state(&database.begin_read()?);
        drop(database.close());
        Ok((sound, state?))
    });
    // Nothing is promised of what a file that contradicts itself becomes, but that all of this comes to an end.
    let Some(mut expected) = before else { return };
    if let Some(error) = unsound {
        wrong.push(format!("a transaction ({changed:?}) made a sound file unsound: {error}"));
    }
    if !committed {
        return;
    }
    let rows = expected.entry("numbers".into()).or_default();
    for number in 0..30_u64 {
        let key = (number * 50).to_be_bytes().to_vec();
        let place = rows.binary_search_by(|row| row.0.cmp(&key));
        match (number % 3, place) {
            (2, Ok(place)) => drop(rows.remove(place)),
            (2, Err(_)) => {}
            (_, Ok(place)) => rows[place].1 = new_value(number),
            (_, Err(place)) => rows.insert(place, (key, new_value(number))),
        }
    }
    match after {
        Ok((true, state)) if state == expected => {}
        Ok((true, _)) => wrong.push("a transaction was committed, but reopening finds other rows".into()),
        Ok((false, _)) => wrong.push("reopening finds a file unsound that was sound before".into()),
        Err(error) => wrong.push(format!("reopening a file that was sound fails (closed: {closed}): {error}")),
    }
}

fn new_value(number: u64) -> Vec<u8> {
    vec![number.to_le_bytes()[0]; if number.is_multiple_of(10) { 900 } else { 33 }]
}

/// Inserts and removes rows; the changes that `write` expects.
fn change(database: &Database) -> Result<(), Error> {
    database.repair_header()?;
    database.update(|tx| {
        let mut numbers = tx.open_table(NUMBERS)?;
        for number in 0..30 {
            if number % 3 == 2 {
                numbers.remove(number * 50)?;
            } else {
                numbers.insert(number * 50, &new_value(number)[..])?;
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::super::sample::samples;
    use super::*;

    #[test]
    fn an_undamaged_file_is_the_newest_commit_in_every_way() {
        for sample in samples().unwrap() {
            let verdict = judge(&sample.image, &sample, Use { resealed: false, write: true });
            assert!(verdict.wrong.is_empty(), "{:?}", verdict.wrong);
            assert_eq!(verdict.outcomes, [Outcome::Newest; 2], "{}", sample.name);
        }
    }

    #[test]
    fn rows_that_were_never_committed_are_a_wrong_answer_unless_checksums_were_forged() {
        let mut samples = samples().unwrap();
        let sample = &mut samples[0];
        sample.newest.get_mut("flags").unwrap()[3].1[0] ^= 1;
        let verdict = judge(&sample.image, sample, Use { resealed: false, write: false });
        assert!(verdict.wrong[0].contains("of no commit"), "{:?}", verdict.wrong);
        let verdict = judge(&sample.image, sample, Use { resealed: true, write: false });
        assert!(verdict.wrong.is_empty() && verdict.outcomes == [Outcome::Altered; 2], "{verdict:?}");
    }

    #[test]
    fn a_contradiction_is_a_wrong_answer_unless_the_check_reports_it() {
        let samples = samples().unwrap();
        let reading = Reading { contradictions: vec!["rows out of order".into()], ..Reading::default() };
        for (sound, resealed, expected) in [(true, true, 1), (false, true, 0), (false, false, 1)] {
            let mut wrong = Vec::new();
            compare(&reading, &[], sound, &samples[0], Use { resealed, write: false }, &mut wrong);
            wrong.retain(|text| text.contains("out of order"));
            assert_eq!(wrong.len(), expected, "{sound} {resealed}");
        }
    }
}
