//! What can go wrong with the disk during one transaction of the `operations` target.

use cowslip::sim::{CrashPlan, Fault, SimDisk};
use cowslip::{Error, Storage, StorageError, TableError, TransactionError};
use std::io::ErrorKind;

/// One fault: what it is, when it strikes, and what decides the rest.
#[derive(Debug, Clone, Copy)]
pub struct Trouble {
    kind: Kind,
    /// Operations of the disk until then, counted from the first change or from the commit.
    distance: u64,
    seed: u64,
    /// Counted from the first change.
    early: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    None,
    FailRead,
    FailOperation(ErrorKind),
    ShortWrite,
    FailSync,
    FailSyncPartly,
    FullDisk,
    PowerCut,
}

impl Trouble {
    /// Reads the high half of a byte, and what stands behind it if that names a fault.
    pub fn new(how: u8, mut next: impl FnMut() -> Option<u8>) -> Self {
        let kind = match how >> 4 {
            1 => Kind::FailRead,
            2 => Kind::FailOperation(ErrorKind::Other),
            3 => Kind::FailOperation(ErrorKind::StorageFull),
            4 => Kind::ShortWrite,
            5 => Kind::FailSync,
            6 => Kind::FailSyncPartly,
            7 => Kind::FullDisk,
            8..=11 => Kind::PowerCut,
            _ => Kind::None,
        };
        let mut byte = || if kind == Kind::None { 0 } else { next().unwrap_or(0) };
        let (when, seed) = (byte(), byte());
        Self { kind, distance: u64::from(when >> 1) % 48, seed: u64::from(seed), early: when & 1 != 0 }
    }

    /// Whether anything was planned.
    pub fn is_planned(self) -> bool {
        self.kind != Kind::None
    }

    /// Whether it strikes only what is read from the disk.
    pub fn needs_cold_cache(self) -> bool {
        self.kind == Kind::FailRead
    }

    /// Whether the power is cut.
    pub fn cuts_power(self) -> bool {
        self.kind == Kind::PowerCut
    }

    /// Plans the fault, before the changes and again before the commit.
    pub fn arm(self, disk: &SimDisk, early: bool) {
        if early != self.early {
            return;
        }
        let operation = disk.next_operation() + self.distance;
        let sync = disk.next_sync() + self.distance % 3;
        match self.kind {
            Kind::None => {}
            Kind::FailRead => disk.inject(Fault::FailRead { read: disk.next_read() + self.distance }),
            Kind::FailOperation(kind) => disk.inject(Fault::FailOperation { operation, kind }),
            Kind::ShortWrite => disk.inject(Fault::ShortWrite { operation }),
            Kind::FailSync => disk.inject(Fault::FailSync { sync }),
            Kind::FailSyncPartly => disk.inject(Fault::FailSyncPartly { sync, seed: self.seed }),
            Kind::FullDisk => {
                let len = disk.len().expect("a disk with power has a length");
                disk.set_capacity_bytes(len + self.distance * 512);
            }
            Kind::PowerCut => disk.crash_at(operation),
        }
    }

    /// The disk that is found when the power is back.
    pub fn found(self, disk: &SimDisk) -> SimDisk {
        let next = disk.next_operation();
        let plan = match self.seed {
            0 => CrashPlan::nothing(next),
            1 => CrashPlan::everything(next),
            seed => CrashPlan::seeded(next, seed),
        };
        let found = disk.crash_image(&plan);
        found.keep_history(false);
        found
    }
}

/// Whether an error is one that a fault of the disk may cause.
pub fn is_excused(error: &Error) -> bool {
    let storage = match error {
        Error::Storage(error) | Error::Table(TableError::Storage(error)) => error,
        Error::Transaction(TransactionError::Storage(error)) => error,
        _ => return false,
    };
    matches!(
        storage,
        StorageError::Io(_)
            | StorageError::OutOfSpace { .. }
            | StorageError::Poisoned
            | StorageError::TransactionPoisoned
    )
}
