//! What each command prints.

use crate::escape::escape;
use crate::failure::Failure;
use cowslip::{Builder, Database, OpenNote, TableHandle};
use std::fs;
use std::io::Write;
use std::path::Path;

fn open(file: &Path) -> Result<Database, Failure> {
    Ok(Builder::new().open_read_only(file)?)
}

/// Prints path, size, notes of the opening, id of the last transaction and number of tables.
pub(crate) fn info(file: &Path, out: &mut impl Write) -> Result<(), Failure> {
    let database = open(file)?;
    let size = fs::metadata(file).map_err(Failure::File)?.len();
    writeln!(out, "path: {}", escape(&file.to_string_lossy()))?;
    writeln!(out, "size: {size} bytes")?;
    print_notes(&database, out)?;
    let snapshot = database.begin_read()?;
    writeln!(out, "transaction: {}", snapshot.id())?;
    writeln!(out, "tables: {}", snapshot.list_tables()?.count())?;
    Ok(())
}

fn print_notes(database: &Database, out: &mut impl Write) -> Result<(), Failure> {
    let notes = database.open_notes();
    if notes.is_empty() {
        writeln!(out, "opening: clean")?;
    }
    for note in notes {
        writeln!(out, "opening: {}", escape(&note.to_string()))?;
    }
    Ok(())
}

/// Prints the name of every table on a line of its own.
pub(crate) fn tables(file: &Path, out: &mut impl Write) -> Result<(), Failure> {
    for table in open(file)?.begin_read()?.list_tables()? {
        writeln!(out, "{}", escape(table.name()))?;
    }
    Ok(())
}

/// Verifies everything and prints what was counted. Damage that a copy stood in for is damage all the same.
pub(crate) fn verify(file: &Path, out: &mut impl Write) -> Result<(), Failure> {
    let database = open(file)?;
    print_notes(&database, out)?;
    let report = database.check_integrity()?;
    let rows = [
        ("tables", report.tables),
        ("rows", report.rows),
        ("nodes", report.nodes),
        ("stored bytes", report.stored_bytes),
        ("reached units", report.reached_units),
        ("pending units", report.pending_units),
        ("file units", report.file_units),
    ];
    for (name, count) in rows {
        writeln!(out, "{name}: {count}")?;
    }
    match database.open_notes().iter().find(|note| is_damage(note)) {
        Some(note) => Err(Failure::Damaged(note.to_string())),
        None => {
            writeln!(out, "no damage found")?;
            Ok(())
        }
    }
}

/// Whether no crash can leave what was noticed.
fn is_damage(note: &OpenNote) -> bool {
    matches!(note, OpenNote::OtherSlotInvalid { .. } | OpenNote::HeaderDamaged { .. })
}
