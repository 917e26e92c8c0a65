//! The log of everything that changed a simulated disk, with snapshots of what was durable on the way.
//!
//! Invariant: event `i` has number `first + i`; everything before the start of an epoch that was going to reach the
//! medium is in the base of that epoch.
//! Layer 1 (io).

use super::content::{Content, Piece};
use crate::base::checksum;
use crate::io::storage::{SyncKind, WriteMode};

/// Events after which forced writes alone begin a new epoch, so that images stay cheap.
const EPOCH_EVENTS: u64 = 64;

/// One operation that a simulated disk was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// Its number; the first is 1.
    pub number: u64,
    /// What it was.
    pub kind: OperationKind,
    /// Whether it was acknowledged.
    pub succeeded: bool,
}

/// What an operation was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OperationKind {
    /// A write.
    Write {
        /// First byte.
        offset: u64,
        /// Bytes asked for, which may be more than got in.
        len: u64,
        /// How it was to be treated.
        mode: WriteMode,
    },
    /// A length set.
    SetLen {
        /// The new length.
        len: u64,
    },
    /// A reservation.
    Preallocate {
        /// The new length.
        len: u64,
    },
    /// A sync.
    Sync(SyncKind),
    /// Decay of the medium.
    FlipBit {
        /// The byte.
        offset: u64,
        /// The bit, 0 to 7.
        bit: u8,
    },
}

/// What a write put where.
#[derive(Debug, Clone)]
pub(super) struct Data {
    pub(super) cache: Vec<Piece>,
    /// What reaches the medium, where that differs.
    pub(super) platter: Option<Vec<Piece>>,
    pub(super) end: u64,
    pub(super) mode: WriteMode,
}

impl Data {
    pub(super) fn platter(&self) -> &[Piece] {
        self.platter.as_deref().unwrap_or(&self.cache)
    }
}

/// One operation and what it did.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) operation: Operation,
    pub(super) data: Option<Data>,
    /// The length that it set, where that differed.
    pub(super) new_len: Option<u64>,
    /// How a failed sync settled what becomes of the bytes of this write.
    pub(super) settled: Option<Settled>,
}

/// What a failed sync did with an unsynced write.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settled {
    /// Number of that sync.
    pub(super) sync: u64,
    /// Whether the bytes had reached the medium; else they never will.
    pub(super) reached: bool,
}

/// A stretch of events that begins with known bytes on the medium.
#[derive(Debug)]
pub(super) struct Epoch {
    /// Number of the first event that is not in `base`.
    pub(super) start: u64,
    pub(super) base: Content,
}

#[derive(Debug)]
pub(super) struct Log {
    first: u64,
    events: Vec<Event>,
    epochs: Vec<Epoch>,
    /// Whether anything since the last epoch began may still be lost.
    pending: bool,
    trace: u64,
    pub(super) keeps_history: bool,
}

impl Log {
    pub(super) fn new(base: Content) -> Self {
        let epochs = vec![Epoch { start: 1, base }];
        Self { first: 1, events: Vec::new(), epochs, pending: false, trace: 0, keeps_history: true }
    }

    /// Number that the next event gets.
    pub(super) fn next_number(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    pub(super) fn trace(&self) -> u64 {
        self.trace
    }

    pub(super) fn operations(&self) -> impl Iterator<Item = Operation> {
        self.events.iter().map(|event| event.operation)
    }

    /// Adds an event; `bytes` are those of a write.
    pub(super) fn push(&mut self, event: Event, bytes: &[u8]) {
        let operation = &event.operation;
        assert_eq!(operation.number, self.next_number(), "events are logged in the order of their numbers");
        let text = format!("{:?} {operation:?} {:?} {}", self.trace, event.new_len, checksum::child(bytes));
        self.trace = checksum::child(text.as_bytes());
        let forced = operation.succeeded && event.data.as_ref().is_some_and(|data| data.mode == WriteMode::Forced);
        self.pending |= !forced && (event.data.is_some() || event.new_len.is_some());
        self.events.push(event);
    }

    /// Events that power loss during operation `number` may concern, and the bytes before them.
    pub(super) fn stretch(&self, number: u64) -> (&Epoch, &[Event]) {
        assert!(number >= self.epochs[0].start, "the history up to operation {number} was not kept");
        let epoch = &self.epochs[self.epochs.partition_point(|epoch| epoch.start <= number) - 1];
        let place = |number: u64| usize::try_from(number - self.first).expect("events in memory fit an index");
        let end = (number + 1).min(self.next_number()).max(epoch.start);
        (epoch, &self.events[place(epoch.start)..place(end)])
    }

    /// Settles the unsynced writes that a failed sync leaves behind.
    pub(super) fn fail_unsynced(&mut self, sync: u64, reaches_medium: impl Fn(u64) -> bool) {
        let start = self.epochs.last().map_or(0, |epoch| epoch.start);
        for event in self.events.iter_mut().rev().take_while(|event| event.operation.number >= start) {
            let forced = event.data.as_ref().is_some_and(|data| data.mode == WriteMode::Forced);
            if event.data.is_some() && event.settled.is_none() && !(forced && event.operation.succeeded) {
                event.settled = Some(Settled { sync, reached: reaches_medium(event.operation.number) });
            }
        }
    }

    /// Whether forced writes have piled up with nothing that could be lost between them.
    pub(super) fn epoch_is_due(&self) -> bool {
        let start = self.epochs.last().map_or(0, |epoch| epoch.start);
        !self.pending && self.next_number() - start >= EPOCH_EVENTS
    }

    /// Begins an epoch: all that was logged is in `base`, or is never going to be.
    pub(super) fn begin_epoch(&mut self, base: Content) {
        self.pending = false;
        let start = self.next_number();
        if !self.keeps_history {
            self.events.clear();
            self.epochs.clear();
            self.first = start;
        }
        self.epochs.push(Epoch { start, base });
    }
}
