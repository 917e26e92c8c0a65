//! The comparison itself: one stream, two stores, every answer.

use crate::Result;
use crate::operation::{Answer, KeyKind, Operation, Question, Store, View};
use crate::stream::Stream;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;

/// After this many differences the stores have gone apart and the rest says nothing.
const DIFFERENCES_MAX: usize = 10;

/// What was run and where the stores disagreed.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// How often each kind of operation was run.
    pub(crate) counts: BTreeMap<&'static str, u64>,
    /// Operations that both refused.
    pub(crate) refused: u64,
    /// Rows that both returned, from ranges and lookups.
    pub(crate) rows: u64,
    /// One line for each difference, with the number of the operation.
    pub(crate) differences: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, count) in &self.counts {
            writeln!(f, "{name:<16} {count:>10}")?;
        }
        writeln!(f, "{:<16} {:>10}", "refused by both", self.refused)?;
        writeln!(f, "{:<16} {:>10}", "rows compared", self.rows)?;
        for difference in &self.differences {
            writeln!(f, "{difference}")?;
        }
        write!(f, "{} differences", self.differences.len())
    }
}

/// Runs `ops` operations on both stores, then compares all rows of all tables after a last reopening.
pub(crate) fn run(ops: u64, seed: u64, left: &mut dyn Store, right: &mut dyn Store) -> Result<Report> {
    let mut stream = Stream::new(seed);
    let mut report = Report::default();
    for number in 0..ops {
        let operation = stream.next();
        let answer = step(number, &operation, left, right, &mut report)?;
        stream.note(&operation, &answer);
        if matches!(operation, Operation::Reopen) {
            left.verify()?;
        }
        if report.differences.len() >= DIFFERENCES_MAX {
            return Ok(report);
        }
    }
    for operation in [Operation::Commit, Operation::Reopen, Operation::ListTables { view: View::Committed }] {
        let answer = step(ops, &operation, left, right, &mut report)?;
        stream.note(&operation, &answer);
    }
    for (table, kind) in stream.committed() {
        let question =
            Question::Range { from: Bound::Unbounded, to: Bound::Unbounded, backwards: false, rows_max: usize::MAX };
        let operation = Operation::Ask { view: View::Committed, table: table.clone(), kind, question };
        step(ops, &operation, left, right, &mut report)?;
    }
    left.verify()?;
    right.verify()?;
    Ok(report)
}

/// Runs one operation on both stores and compares; returns the answer of the left one.
fn step(
    number: u64,
    operation: &Operation,
    left: &mut dyn Store,
    right: &mut dyn Store,
    report: &mut Report,
) -> Result<Answer> {
    let failed =
        |side: &str, error| format!("operation {number}: {}: {side} store failed: {error}", shorten(operation));
    let first = left.apply(operation).map_err(|error| failed("left", error))?;
    let second = right.apply(operation).map_err(|error| failed("right", error))?;
    *report.counts.entry(name(operation)).or_default() += 1;
    if first != second {
        report.differences.push(format!(
            "operation {number}: {}; left {}; right {}",
            shorten(operation),
            shorten(&first),
            shorten(&second)
        ));
    }
    match &first {
        Answer::Refused(_) => report.refused += 1,
        Answer::Rows(rows) => report.rows += rows.len() as u64,
        Answer::Value(Some(_)) => report.rows += 1,
        _ => {}
    }
    Ok(first)
}

/// The start of what is printed for debugging: values can be long.
fn shorten(what: &impl fmt::Debug) -> String {
    let mut text = format!("{what:?}");
    if let Some((at, _)) = text.char_indices().nth(200) {
        text.truncate(at);
        text.push_str("..");
    }
    text
}

fn name(operation: &Operation) -> &'static str {
    match operation {
        Operation::Insert { .. } => "insert",
        Operation::Remove { .. } => "remove",
        Operation::Ask { kind: KeyKind::Bytes, .. } => "read by bytes",
        Operation::Ask { kind: KeyKind::Signed, .. } => "read by integer",
        Operation::Ask { kind: KeyKind::Pair, .. } => "read by pair",
        Operation::ListTables { .. } => "list tables",
        Operation::DeleteTable { .. } => "delete table",
        Operation::RenameTable { .. } => "rename table",
        Operation::Commit => "commit",
        Operation::Abort => "abort",
        Operation::Hold => "hold snapshot",
        Operation::Reopen => "reopen",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::{cowslip::Cowslip, redb::Redb};

    /// Loses one insert out of two hundred.
    struct Lossy {
        store: Redb,
        inserts: u32,
    }

    impl Store for Lossy {
        fn apply(&mut self, operation: &Operation) -> Result<Answer> {
            if matches!(operation, Operation::Insert { .. }) {
                self.inserts += 1;
                if self.inserts.is_multiple_of(200) {
                    return Ok(Answer::Value(None));
                }
            }
            self.store.apply(operation)
        }

        fn verify(&mut self) -> Result<()> {
            self.store.verify()
        }
    }

    #[test]
    fn cowslip_and_redb_agree_about_20_000_operations() {
        let folder = tempfile::tempdir().unwrap();
        let mut left = Cowslip::create(&folder.path().join("left")).unwrap();
        let mut right = Redb::create(&folder.path().join("right")).unwrap();
        let report = run(20_000, 7, &mut left, &mut right).unwrap();
        assert!(report.differences.is_empty(), "{report}");
        assert!(report.counts.len() == 12 && report.refused > 20 && report.rows > 10_000, "{report}");
    }

    #[test]
    fn a_store_that_loses_rows_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let mut left = Cowslip::create(&folder.path().join("left")).unwrap();
        let store = Redb::create(&folder.path().join("right")).unwrap();
        let report = run(3000, 7, &mut left, &mut Lossy { store, inserts: 0 }).unwrap();
        assert!(!report.differences.is_empty(), "{report}");
    }
}
