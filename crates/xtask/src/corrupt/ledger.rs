//! What all cases of a run came to, and how a worker process tells it.

use super::judge::{Outcome, Verdict};
use super::limits::Cost;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// Wrong answers that are told in full.
const TOLD_MAX: usize = 20;

/// Counts by kind of damage and outcome, and all that must not be.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ledger {
    pub(super) counts: BTreeMap<String, u64>,
    pub(super) panics: u64,
    pub(super) wrong: u64,
    pub(super) told: Vec<String>,
    pub(super) cost: Cost,
}

impl Ledger {
    pub(super) fn tell(&mut self, text: &str) {
        if self.told.len() < TOLD_MAX {
            self.told.push(text.replace('\n', " "));
        }
    }

    pub(super) fn panicked(&mut self, case: u64, text: &str) {
        self.panics += 1;
        self.tell(&format!("case {case}: panic: {text}"));
    }

    pub(super) fn enter(&mut self, case: u64, kind: &str, verdict: &Verdict) {
        let outcome = |outcome: &Outcome| match outcome {
            Outcome::Refused => "opening refused",
            Outcome::Unreadable => "a page refused",
            Outcome::Contradictory => "found by the check",
            Outcome::Altered => "altered rows",
            Outcome::Older => "older commit, reported",
            Outcome::Unrecorded => "without the last record",
            Outcome::Newest => "newest commit",
        };
        for found in &verdict.outcomes {
            *self.counts.entry(format!("{kind}: {}", outcome(found))).or_default() += 1;
        }
        self.cost.add(&verdict.cost);
        self.wrong += u64::from(!verdict.wrong.is_empty());
        if let Some(first) = verdict.wrong.first() {
            self.tell(&format!("case {case}: {first}"));
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        for (name, count) in other.counts {
            *self.counts.entry(name).or_default() += count;
        }
        self.panics += other.panics;
        self.wrong += other.wrong;
        other.told.into_iter().for_each(|text| self.tell(&text));
        self.cost.add(&other.cost);
    }

    /// One line for each number, which `parse` reads.
    pub(super) fn lines(&self) -> String {
        let mut out = String::new();
        let mut line = |name: &str, value: &str| writeln!(out, "{name}\t{value}").expect("a string takes all text");
        self.counts.iter().for_each(|(name, count)| line(name, &count.to_string()));
        self.told.iter().for_each(|text| line("told", text));
        line("panics", &self.panics.to_string());
        line("wrong", &self.wrong.to_string());
        line("micros", &self.cost.time.as_micros().to_string());
        line("bytes", &self.cost.bytes.to_string());
        out
    }

    /// `None` for text that no worker wrote, or that is cut off.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut ledger = Self::default();
        let mut is_whole = false;
        for line in text.lines() {
            let (name, value) = line.split_once('\t')?;
            match name {
                "told" => ledger.told.push(value.to_owned()),
                "panics" => ledger.panics = value.parse().ok()?,
                "wrong" => ledger.wrong = value.parse().ok()?,
                "micros" => ledger.cost.time = Duration::from_micros(value.parse().ok()?),
                "bytes" => {
                    ledger.cost.bytes = value.parse().ok()?;
                    is_whole = true;
                }
                _ => drop(ledger.counts.insert(name.to_owned(), value.parse().ok()?)),
            }
        }
        is_whole.then_some(ledger)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_survives_being_told_and_counts_what_is_wrong() {
        let mut ledger = Ledger::default();
        let mut verdict = Verdict { outcomes: vec![Outcome::Older, Outcome::Newest], ..Verdict::default() };
        ledger.enter(1, "cut", &verdict);
        verdict.wrong = vec!["one".into(), "other".into()];
        verdict.cost = Cost { time: Duration::from_micros(7), bytes: 9 };
        ledger.enter(2, "cut", &verdict);
        ledger.panicked(3, "a\nb");
        assert_eq!((ledger.wrong, ledger.panics, ledger.counts.len()), (1, 1, 2));
        assert_eq!(Ledger::parse(&ledger.lines()), Some(ledger));
        assert_eq!(Ledger::parse("panics\t0\n"), None);
    }
}
