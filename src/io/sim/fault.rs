//! Faults that a simulated disk can be told to show.
//!
//! Invariant: whether an operation is hit depends on its number and the seed alone, never on timing.
//! Layer 1 (io).

use super::rng::SplitMix64;
use std::io::{self, ErrorKind};

/// One planned fault. Operations and syncs are numbered from 1, and so are reads, which have numbers of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The operation fails and changes nothing. Where it is a sync, it fails like [`Fault::FailSync`].
    FailOperation {
        /// Number of the operation.
        operation: u64,
        /// Kind of the error that it returns.
        kind: ErrorKind,
    },
    /// Half of the bytes of a write get in, then it fails.
    ShortWrite {
        /// Number of the operation.
        operation: u64,
    },
    /// A sync fails as Linux does it: what was unsynced stays readable, will never reach the medium, and the next
    /// sync succeeds.
    FailSync {
        /// Number of the sync among all syncs.
        sync: u64,
    },
    /// The same, but some of the unsynced writes had reached the medium already.
    FailSyncPartly {
        /// Number of the sync among all syncs.
        sync: u64,
        /// Decides which ones.
        seed: u64,
    },
    /// A write is acknowledged and never reaches the medium.
    LostWrite {
        /// Number of the operation.
        operation: u64,
    },
    /// A write is acknowledged and reaches the medium at another place.
    MisdirectedWrite {
        /// Number of the operation.
        operation: u64,
        /// Where the bytes land.
        offset: u64,
    },
    /// A read fails.
    FailRead {
        /// Number of the read.
        read: u64,
    },
}

/// How often faults come by themselves, each out of a million operations of its kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FaultRates {
    /// Writes and length changes that fail and change nothing.
    pub fail_operation: u32,
    /// Writes of which half get in.
    pub short_write: u32,
    /// Syncs that fail, like [`Fault::FailSync`].
    pub fail_sync: u32,
    /// Writes that are acknowledged and never reach the medium.
    pub lost_write: u32,
    /// Reads that fail.
    pub fail_read: u32,
}

/// The faults of one disk.
#[derive(Debug, Default)]
pub(super) struct Faults {
    planned: Vec<Fault>,
    rates: FaultRates,
    seed: u64,
}

/// What becomes of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WriteFate {
    Normal,
    Fail(ErrorKind),
    Short,
    Lost,
    Misdirected(u64),
}

/// How a sync fails.
#[derive(Debug, Clone, Copy)]
pub(super) struct FailedSync {
    pub(super) kind: ErrorKind,
    /// Decides which unsynced writes had reached the medium; none where it is absent.
    seed: Option<u64>,
}

impl FailedSync {
    /// Whether this unsynced write had reached the medium.
    pub(super) fn reaches_medium(self, operation: u64) -> bool {
        self.seed.is_some_and(|seed| SplitMix64::at(seed, 6, operation).below(2) == 1)
    }
}

pub(super) fn simulated(kind: ErrorKind) -> io::Error {
    io::Error::new(kind, "simulated fault")
}

impl Faults {
    pub(super) fn plan(&mut self, fault: Fault) {
        self.planned.push(fault);
    }

    pub(super) fn set_rates(&mut self, seed: u64, rates: FaultRates) {
        self.seed = seed;
        self.rates = rates;
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn drawn(&self, stream: u64, number: u64, rate: u32) -> bool {
        rate > 0 && SplitMix64::at(self.seed, stream, number).below(1_000_000) < u64::from(rate)
    }

    fn fails(&self, number: u64) -> Option<ErrorKind> {
        let planned = self.planned.iter().find_map(|fault| match fault {
            Fault::FailOperation { operation, kind } if *operation == number => Some(*kind),
            _ => None,
        });
        planned.or_else(|| self.drawn(1, number, self.rates.fail_operation).then_some(ErrorKind::Other))
    }

    pub(super) fn write(&self, number: u64) -> WriteFate {
        if let Some(kind) = self.fails(number) {
            return WriteFate::Fail(kind);
        }
        for fault in &self.planned {
            match fault {
                Fault::ShortWrite { operation } if *operation == number => return WriteFate::Short,
                Fault::LostWrite { operation } if *operation == number => return WriteFate::Lost,
                Fault::MisdirectedWrite { operation, offset } if *operation == number => {
                    return WriteFate::Misdirected(*offset);
                }
                _ => {}
            }
        }
        if self.drawn(2, number, self.rates.short_write) {
            WriteFate::Short
        } else if self.drawn(3, number, self.rates.lost_write) {
            WriteFate::Lost
        } else {
            WriteFate::Normal
        }
    }

    pub(super) fn length_change(&self, number: u64) -> Option<ErrorKind> {
        self.fails(number)
    }

    pub(super) fn sync(&self, number: u64, sync_number: u64) -> Option<FailedSync> {
        let planned = self.planned.iter().find_map(|fault| match fault {
            Fault::FailSync { sync } if *sync == sync_number => Some((ErrorKind::Other, None)),
            Fault::FailSyncPartly { sync, seed } if *sync == sync_number => Some((ErrorKind::Other, Some(*seed))),
            Fault::FailOperation { operation, kind } if *operation == number => Some((*kind, None)),
            _ => None,
        });
        planned
            .or_else(|| self.drawn(4, sync_number, self.rates.fail_sync).then_some((ErrorKind::Other, None)))
            .map(|(kind, seed)| FailedSync { kind, seed })
    }

    pub(super) fn read(&self, number: u64) -> bool {
        self.planned.contains(&Fault::FailRead { read: number }) || self.drawn(5, number, self.rates.fail_read)
    }
}
