//! What a child tells over the pipe, and what the parent makes of it.
//!
//! Invariant: a line is written by one call and is shorter than a pipe takes whole, so a child that is killed has told
//! all of it or nothing. An acknowledgement is told after the commit returned, and read as one only in its order; so is what
//! was acknowledged before a sync began.

use super::plan::LANES;
use std::fmt;
use std::io::{self, Write};

/// One line of a child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    /// The process runs and opens the database.
    Opening,
    Opened,
    /// A write transaction was begun; the last is the id that its commit will have.
    Begin(usize, u64, u64),
    /// Its changes are made and the commit is called.
    Commit(usize, u64),
    /// The commit returned, or the future of its outcome did.
    Ack(usize, u64),
    Syncing(usize, u64),
    /// The sync returned.
    Synced(usize, u64),
    /// The transaction was given up, as planned.
    Abort(usize, u64),
    Compacting(usize, u64),
    Compacted(usize, u64),
    /// The store failed or panicked.
    Failed(String),
}

/// A transaction that was begun and not given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) lane: usize,
    pub(super) number: u64,
    pub(super) id: u64,
    pub(super) is_committing: bool,
    pub(super) is_acked: bool,
}

/// Everything that a child told before it died.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) opened: bool,
    /// In the order in which they were begun, as far as that of the lines tells.
    pub(super) transactions: Vec<Told>,
    /// The newest id that was acknowledged when the sync of a lane began.
    pub(super) syncing: [Option<Option<u64>>; LANES],
    /// Whatever has this id or a lower one is durable because of a sync.
    pub(super) synced_id: Option<u64>,
    pub(super) aborts: u64,
    pub(super) syncs: u64,
    pub(super) compactions: u64,
    pub(super) compacting: bool,
    pub(super) failed: Option<String>,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Opening => f.write_str("opening"),
            Self::Opened => f.write_str("opened"),
            Self::Begin(lane, number, id) => write!(f, "begin {lane} {number} {id}"),
            Self::Commit(lane, number) => write!(f, "commit {lane} {number}"),
            Self::Ack(lane, number) => write!(f, "ack {lane} {number}"),
            Self::Syncing(lane, number) => write!(f, "syncing {lane} {number}"),
            Self::Synced(lane, number) => write!(f, "synced {lane} {number}"),
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
        let lane_of = |text: &str| text.parse().ok().filter(|lane| *lane < LANES);
        let made: fn(usize, u64) -> Self = match verb {
            "opening" => return Some(Self::Opening),
            "opened" => return Some(Self::Opened),
            "failed" => return Some(Self::Failed(rest.to_owned())),
            "begin" => {
                let mut fields = rest.split(' ');
                let (lane, number, id) = (lane_of(fields.next()?)?, fields.next()?, fields.next()?);
                let is_all = fields.next().is_none();
                return is_all.then_some(Self::Begin(lane, number.parse().ok()?, id.parse().ok()?));
            }
            "commit" => Self::Commit,
            "syncing" => Self::Syncing,
            "synced" => Self::Synced,
            "ack" => Self::Ack,
            "abort" => Self::Abort,
            "compacting" => Self::Compacting,
            "compacted" => Self::Compacted,
            _ => return None,
        };
        let (lane, number) = rest.split_once(' ')?;
        Some(made(lane_of(lane)?, number.parse().ok()?))
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
            Line::Begin(lane, number, id) => {
                let mut of_lane = self.transactions.iter().filter(|told| told.lane == lane);
                if !of_lane.all(|told| told.is_committing && told.number < number) {
                    return None;
                }
                self.transactions.push(Told { lane, number, id, is_committing: false, is_acked: false });
            }
            Line::Commit(lane, number) => self.find(lane, number, |told| !told.is_committing)?.is_committing = true,
            Line::Ack(lane, number) => {
                self.find(lane, number, |told| told.is_committing && !told.is_acked)?.is_acked = true;
            }
            Line::Abort(lane, number) => {
                self.find(lane, number, |told| !told.is_committing)?;
                self.transactions.retain(|told| (told.lane, told.number) != (lane, number));
                self.aborts += 1;
            }
            Line::Syncing(lane, _) => {
                let acked = self.transactions.iter().filter(|told| told.is_acked);
                self.syncing[lane] = Some(acked.map(|told| told.id).max());
            }
            Line::Synced(lane, _) => {
                self.synced_id = self.synced_id.max(self.syncing[lane].take()?);
                self.syncs += 1;
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

    fn find(&mut self, lane: usize, number: u64, is_so: impl Fn(&Told) -> bool) -> Option<&mut Told> {
        self.transactions.iter_mut().find(|told| (told.lane, told.number) == (lane, number) && is_so(told))
    }

    /// Those whose commit was called, by their ids, which are the order of commits. `None` where two have the same.
    pub(super) fn committing(&self) -> Option<Vec<Told>> {
        let mut committing: Vec<Told> = self.transactions.iter().filter(|told| told.is_committing).copied().collect();
        committing.sort_unstable_by_key(|told| told.id);
        committing.is_sorted_by(|first, second| first.id < second.id).then_some(committing)
    }

    /// Forgets commits whose id came again: they were given up before anybody was told, as one may be that nobody awaits yet.
    /// That happens only where the storage fails.
    pub(super) fn forget_given_up(&mut self) {
        let told = self.transactions.clone();
        let mut place = 0;
        self.transactions.retain(|one| {
            place += 1;
            one.is_acked || !told[place..].iter().any(|later| later.id == one.id && later.is_committing)
        });
    }

    pub(super) fn acks(&self) -> u64 {
        self.transactions.iter().filter(|told| told.is_acked).count() as u64
    }

    pub(super) fn is_committing(&self) -> bool {
        self.transactions.iter().any(|told| told.is_committing && !told.is_acked)
    }

    pub(super) fn is_syncing(&self) -> bool {
        self.syncing.iter().any(Option::is_some)
    }

    pub(super) fn is_writing(&self) -> bool {
        self.transactions.iter().any(|told| !told.is_committing)
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
            Line::Begin(0, 7, 9),
            Line::Commit(1, 8),
            Line::Ack(2, u64::MAX),
            Line::Syncing(3, 1),
            Line::Synced(3, 1),
            Line::Abort(0, 0),
            Line::Compacting(1, 9),
            Line::Compacted(1, 9),
            Line::Failed("no space".into()),
        ];
        for line in lines {
            assert_eq!(Line::parse(&line.to_string()).unwrap(), line);
        }
        for text in ["", "ack", "ack 1", "ack 4 1", "ack one 1", "acked 1 1", "begin 0 1", "begin 0 1 2 3"] {
            assert_eq!(Line::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn only_an_acknowledgement_after_its_commit_counts() {
        let told =
            "opening\nopened\nbegin 0 1 5\nbegin 2 1 6\ncommit 0 1\nack 0 1\nabort 2 1\nbegin 0 2 6\ncommit 0 2\n";
        let account = Account::read(told).unwrap();
        let told = |number, id, is_acked| Told { lane: 0, number, id, is_committing: true, is_acked };
        assert_eq!(account.transactions, [told(1, 5, true), told(2, 6, false)]);
        assert_eq!((account.acks(), account.aborts, account.opened), (1, 1, true));
        assert!(account.is_committing() && !account.compacting && account.synced_id.is_none());
        for told in ["ack 0 1\n", "begin 0 1 5\nack 0 1\n", "begin 0 1 5\nbegin 0 2 6\n", "begin 0 1 5\ncommit 0 2\n"] {
            assert!(Account::read(told).is_err(), "{told:?}");
        }
        assert!(Account::read("synced 0 1\n").is_err());
    }

    #[test]
    fn a_sync_counts_for_what_was_acknowledged_before_it_began() {
        let begun = "begin 0 1 5\nbegin 1 1 6\nbegin 2 1 7\ncommit 0 1\ncommit 1 1\ncommit 2 1\nack 1 1\nack 0 1\n";
        let synced = |told: &str| Account::read(&format!("{begun}{told}")).unwrap().synced_id;
        assert_eq!(synced("syncing 3 1\nack 2 1\n"), None);
        assert_eq!(synced("syncing 3 1\nack 2 1\nsynced 3 1\n"), Some(6));
        assert_eq!(synced("syncing 3 1\nack 2 1\nsyncing 2 2\nsynced 2 2\nsynced 3 1\n"), Some(7));
    }

    #[test]
    fn commits_are_put_in_the_order_of_their_ids() {
        let told = "begin 0 1 5\ncommit 0 1\nbegin 2 1 7\nbegin 1 1 6\ncommit 2 1\ncommit 1 1\nbegin 3 1 8\n";
        let ids = |told: &str| Some(Account::read(told).unwrap().committing()?.iter().map(|told| told.id).collect());
        assert_eq!(ids(told), Some(vec![5, 6, 7]));
        let twice = "begin 0 1 5\ncommit 0 1\nbegin 1 1 5\ncommit 1 1\nbegin 2 1 6\ncommit 2 1\n";
        assert_eq!(ids(twice), None);
        let left = |told: &str| {
            let mut account = Account::read(told).unwrap();
            account.forget_given_up();
            Some(account.committing()?.iter().map(|told| (told.lane, told.id)).collect::<Vec<_>>())
        };
        assert_eq!(left(twice), Some(vec![(1, 5), (2, 6)]));
        assert_eq!(left(&format!("{twice}ack 0 1\n")), None, "one was acknowledged");
    }
}
