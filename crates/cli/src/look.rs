//! Commands that describe and verify a file.

use crate::escape::escape;
use crate::failure::Failure;
use crate::output::{Field, Printer};
use cowslip::{Builder, Database, DatabaseStats, OpenNote, RecoveryReport, TableHandle, UntypedTable};
use std::fs;
use std::io::{self, Write};
use std::path::Path;

/// Opens a file without ever writing to it.
pub(crate) fn open(file: &Path) -> Result<Database, Failure> {
    Ok(Builder::new().open_read_only(file)?)
}

/// Says on standard error what opening noticed, for commands whose output is data.
pub(crate) fn warn(database: &Database) {
    for note in database.open_notes() {
        // A note that cannot be written is no reason to withhold the data.
        writeln!(io::stderr(), "note: {}", escape(&note.to_string())).ok();
    }
}

fn notes(database: &Database) -> Vec<String> {
    database.open_notes().iter().map(ToString::to_string).collect()
}

fn print_notes(notes: &[String], out: &mut Printer<impl Write>) -> Result<(), Failure> {
    if notes.is_empty() {
        out.pair("opening", "clean")?;
    }
    for note in notes {
        out.pair("opening", note)?;
    }
    Ok(())
}

/// Prints path, size, notes of the opening, id of the last transaction, number of tables, and what depends on the log.
pub(crate) fn info(file: &Path, out: &mut Printer<impl Write>) -> Result<(), Failure> {
    let database = open(file)?;
    let size_bytes = fs::metadata(file).map_err(Failure::File)?.len();
    let (path, notes) = (file.to_string_lossy().into_owned(), notes(&database));
    out.pair("path", &path)?;
    out.line(format_args!("size: {size_bytes} bytes"))?;
    print_notes(&notes, out)?;
    let snapshot = database.begin_read()?;
    out.pair("transaction", snapshot.id())?;
    let tables = snapshot.list_tables()?.count() as u64;
    out.pair("tables", tables)?;
    let DatabaseStats { space, recovery, .. } = database.stats();
    print_recovery(&recovery, out)?;
    let (allocated, free) = (space.allocated_units, space.free_units);
    out.line(format_args!("space: {allocated} units of {} bytes allocated, {free} free", space.unit_bytes))?;
    let number = Field::Number;
    out.object(&[
        ("path", Field::Text(path)),
        ("size_bytes", number(size_bytes)),
        ("notes", Field::Texts(notes)),
        ("transaction", number(snapshot.id().get())),
        ("tables", number(tables)),
        ("checkpoint", number(recovery.checkpoint.get())),
        ("log_records", number(recovery.records)),
        ("log_changes", number(recovery.changes)),
        ("log_used_bytes", number(recovery.log_used_bytes)),
        ("log_capacity_bytes", number(recovery.log_capacity_bytes)),
        ("unit_bytes", number(space.unit_bytes)),
        ("allocated_units", number(allocated)),
        ("free_units", number(free)),
        ("opening_micros", number(u64::try_from(recovery.duration.as_micros()).unwrap_or(u64::MAX))),
    ])?;
    Ok(())
}

/// Says what only the redo log tells, which the next opening for writing brings to its place.
fn print_recovery(recovery: &RecoveryReport, out: &mut Printer<impl Write>) -> io::Result<()> {
    let RecoveryReport { checkpoint, records, changes, log_used_bytes, log_capacity_bytes, .. } = recovery;
    if *log_capacity_bytes == 0 {
        return out.line("log: none");
    }
    out.line(format_args!("log: {log_used_bytes} of {log_capacity_bytes} bytes used"))?;
    out.line(format_args!(
        "only in the log: {records} commits with {changes} changes of rows since transaction {checkpoint}"
    ))
}

/// Calls `visit` with every table, and so requires that all types are readable.
fn each_table(database: &Database, mut visit: impl FnMut(&UntypedTable) -> Result<(), Failure>) -> Result<(), Failure> {
    let snapshot = database.begin_read()?;
    for table in snapshot.list_tables()? {
        visit(&snapshot.open_untyped_table(table.name())?)?;
    }
    Ok(())
}

/// Prints name, types and number of rows of every table on a line of its own.
pub(crate) fn tables(file: &Path, out: &mut Printer<impl Write>) -> Result<(), Failure> {
    let database = open(file)?;
    warn(&database);
    each_table(&database, |table| {
        let (name, rows) = (table.name().to_owned(), table.len()?);
        let (key, value) = (table.key_type().to_string(), table.value_type().to_string());
        out.line(format_args!("{}\t{}\t{}\t{rows}", escape(&name), escape(&key), escape(&value)))?;
        out.object(&[
            ("name", Field::Text(name)),
            ("key_type", Field::Text(key)),
            ("value_type", Field::Text(value)),
            ("rows", Field::Number(rows)),
        ])?;
        Ok(())
    })
}

/// Verifies what describes the tables and prints what was counted.
pub(crate) fn verify_quick(file: &Path, out: &mut Printer<impl Write>) -> Result<(), Failure> {
    verify(file, "quick", out, |database| {
        let report = database.check_quick()?;
        Ok(vec![
            ("tables", report.tables),
            ("rows", report.rows),
            ("allocated_units", report.allocated_units),
            ("file_units", report.file_units),
        ])
    })
}

/// Verifies everything and prints what was counted.
pub(crate) fn verify_full(file: &Path, out: &mut Printer<impl Write>) -> Result<(), Failure> {
    verify(file, "full", out, |database| {
        let report = database.check_integrity()?;
        Ok(vec![
            ("tables", report.tables),
            ("rows", report.rows),
            ("nodes", report.nodes),
            ("stored_bytes", report.stored_bytes),
            ("reached_units", report.reached_units),
            ("pending_units", report.pending_units),
            ("file_units", report.file_units),
        ])
    })
}

type Counts = Vec<(&'static str, u64)>;

/// Damage that a copy stood in for is damage all the same.
fn verify(
    file: &Path,
    mode: &str,
    out: &mut Printer<impl Write>,
    check: impl FnOnce(&Database) -> Result<Counts, Failure>,
) -> Result<(), Failure> {
    let database = open(file)?;
    let notes = notes(&database);
    print_notes(&notes, out)?;
    let counts = check(&database)?;
    each_table(&database, |_| Ok(()))?;
    let damage = database.open_notes().iter().find(|note| is_damage(note)).map(ToString::to_string);
    let mut fields = vec![("mode", Field::Text(mode.to_owned())), ("notes", Field::Texts(notes))];
    for (name, count) in counts {
        out.pair(&name.replace('_', " "), count)?;
        fields.push((name, Field::Number(count)));
    }
    fields.push(("damage", damage.clone().map_or(Field::Json("null".to_owned()), Field::Text)));
    out.object(&fields)?;
    match damage {
        Some(damage) => Err(Failure::Damaged(damage)),
        None => Ok(out.line("no damage found")?),
    }
}

/// Whether no crash can leave what was noticed.
fn is_damage(note: &OpenNote) -> bool {
    matches!(note, OpenNote::OtherSlotInvalid { .. } | OpenNote::HeaderDamaged { .. })
}
