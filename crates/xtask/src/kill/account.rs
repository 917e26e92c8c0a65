//! What a child tells over the pipe, and what the parent makes of it.
//!
//! Invariant: a line is written by one call and is shorter than a pipe takes whole, so a child that is killed has told
//! all of it or nothing. An acknowledgement is told after the commit returned, and read as one only in its order.

use super::plan::LANES;
use std::fmt;
use std::io::{self, Write};

/// One line of a child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    /// The process runs and opens the database.
    Opening,
    Opened,
    /// A write transaction was begun.
    Begin(usize, u64),
    /// Its changes are made and the commit is called.
    Commit(usize, u64),
    /// The commit returned.
    Ack(usize, u64),
    /// The transaction was given up, as planned.
    Abort(usize, u64),
    Compacting(usize, u64),
    Compacted(usize, u64),
    /// The store failed or panicked.
    Failed(String),
}

/// A transaction that was begun and not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pending {
    pub(super) number: u64,
    pub(super) committing: bool,
}

/// What one writer told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct LaneAccount {
    pub(super) acked: Vec<u64>,
    pub(super) pending: Option<Pending>,
}

/// Everything that a child told before it died.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) opened: bool,
    pub(super) lanes: [LaneAccount; LANES],
    pub(super) aborts: u64,
    pub(super) compactions: u64,
    pub(super) compacting: bool,
    pub(super) failed: Option<String>,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Opening => f.write_str("opening"),
            Self::Opened => f.write_str("opened"),
            Self::Begin(lane, number) => write!(f, "begin {lane} {number}"),
            Self::Commit(lane, number) => write!(f, "commit {lane} {number}"),
            Self::Ack(lane, number) => write!(f, "ack {lane} {number}"),
            Self::Abort(lane, number) => write!(f, "abort {lane} {number}"),
            Self::Compacting(lane, number) => write!(f, "compacting {lane} {number}"),
            Self::Compacted(lane, number) => write!(f, "compacted {lane} {number}"),
            Self::Failed(why) => write!(f, "failed {}", why.replace('\n', " ")),
        }
    }
}

impl Line {
    /// Writes the line at once.
    pub(super) fn say(&self) -> io::Result<()> {
        let mut output = io::stdout().lock();
        output.write_all(format!("{self}\n").as_bytes())?;
        output.flush()
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
        let made: fn(usize, u64) -> Self = match verb {
            "opening" => return Some(Self::Opening),
            "opened" => return Some(Self::Opened),
            "failed" => return Some(Self::Failed(rest.to_owned())),
            "begin" => Self::Begin,
            "commit" => Self::Commit,
            "ack" => Self::Ack,
            "abort" => Self::Abort,
            "compacting" => Self::Compacting,
            "compacted" => Self::Compacted,
            _ => return None,
        };
        let (lane, number) = rest.split_once(' ')?;
        let lane = lane.parse().ok().filter(|lane| *lane < LANES)?;
        Some(made(lane, number.parse().ok()?))
    }
}

impl Account {
    /// Reads all that a child told. The error is a line that no child may tell there.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let mut account = Self::default();
        for line in text.lines() {
            Line::parse(line).and_then(|line| account.hear(line)).ok_or_else(|| format!("the child said {line:?}"))?;
        }
        Ok(account)
    }

    fn hear(&mut self, line: Line) -> Option<()> {
        match line {
            Line::Opening => {}
            Line::Opened => self.opened = true,
            Line::Begin(lane, number) => {
                let told = &mut self.lanes[lane];
                let ascends = told.acked.last().is_none_or(|last| *last < number);
                if told.pending.is_some() || !ascends {
                    return None;
                }
                told.pending = Some(Pending { number, committing: false });
            }
            Line::Commit(lane, number) => {
                let pending = self.lanes[lane].pending.as_mut().filter(|pending| pending.number == number)?;
                pending.committing = true;
            }
            Line::Ack(lane, number) => {
                self.lanes[lane].pending.take_if(|pending| pending.number == number && pending.committing)?;
                self.lanes[lane].acked.push(number);
            }
            Line::Abort(lane, number) => {
                self.lanes[lane].pending.take_if(|pending| pending.number == number && !pending.committing)?;
                self.aborts += 1;
            }
            Line::Compacting(..) => self.compacting = true,
            Line::Compacted(..) => {
                self.compacting = false;
                self.compactions += 1;
            }
            Line::Failed(why) => self.failed = Some(why),
        }
        Some(())
    }

    pub(super) fn acks(&self) -> u64 {
        self.lanes.iter().map(|told| told.acked.len() as u64).sum()
    }

    pub(super) fn is_committing(&self) -> bool {
        self.lanes.iter().any(|told| told.pending.is_some_and(|pending| pending.committing))
    }

    pub(super) fn is_writing(&self) -> bool {
        self.lanes.iter().any(|told| told.pending.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_what_is_heard() {
        let lines = [
            Line::Opening,
            Line::Opened,
            Line::Begin(0, 7),
            Line::Commit(1, 8),
            Line::Ack(2, u64::MAX),
            Line::Abort(0, 0),
            Line::Compacting(1, 9),
            Line::Compacted(1, 9),
            Line::Failed("no space".into()),
        ];
        for line in lines {
            assert_eq!(Line::parse(&line.to_string()).unwrap(), line);
        }
        for text in ["", "ack", "ack 1", "ack 3 1", "ack one 1", "acked 1 1"] {
            assert_eq!(Line::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn only_an_acknowledgement_after_its_commit_counts() {
        let told = "opening\nopened\nbegin 0 1\nbegin 2 1\ncommit 0 1\nack 0 1\nabort 2 1\nbegin 0 2\ncommit 0 2\n";
        let account = Account::read(told).unwrap();
        let pending = Some(Pending { number: 2, committing: true });
        assert_eq!(account.lanes[0], LaneAccount { acked: vec![1], pending });
        assert_eq!((account.acks(), account.aborts, account.opened), (1, 1, true));
        assert!(account.is_committing() && !account.compacting);
        for told in ["ack 0 1\n", "begin 0 1\nack 0 1\n", "begin 0 1\nbegin 0 2\n", "begin 0 1\ncommit 0 2\n"] {
            assert!(Account::read(told).is_err(), "{told:?}");
        }
    }
}
