//! How often each operation came to each outcome.
//!
//! Invariant: every operation is counted once, under the outcome that it really had.

use std::collections::BTreeMap;

/// Counts per operation and outcome.
#[derive(Debug, Default)]
pub(super) struct Counts {
    rows: BTreeMap<(&'static str, &'static str), u64>,
    total: u64,
}

impl Counts {
    pub(super) fn add(&mut self, operation: &'static str, outcome: &'static str) {
        *self.rows.entry((operation, outcome)).or_default() += 1;
        self.total += 1;
    }

    /// All operations, whatever their outcome.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    #[cfg(test)]
    pub(super) fn of(&self, operation: &'static str, outcome: &'static str) -> u64 {
        self.rows.get(&(operation, outcome)).copied().unwrap_or(0)
    }

    pub(super) fn print(&self) {
        let width = |of: fn(&(&'static str, &'static str)) -> usize| self.rows.keys().map(of).max().unwrap_or(0);
        let (operation_width, outcome_width) = (width(|row| row.0.len()), width(|row| row.1.len()));
        for ((operation, outcome), count) in &self.rows {
            println!("{operation:<operation_width$}  {outcome:<outcome_width$}  {count:>9}");
        }
    }
}
