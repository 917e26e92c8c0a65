//! One transaction for what several threads change: each runs its closure on it, one after the other, and the last commits.
//!
//! Invariant: a closure that fails leaves nothing behind and takes nothing of the others with it, and each one that succeeded
//! returns once all of the transaction is as durable as was promised. Whoever leaves the transaction open has seen somebody
//! who waits to go on with it.
//! Layer 5 (txn).

use super::core::Core;
use super::error::{CommitError, TransactionError};
use super::staged::{ClosedRows, RowsMark, Staged};
use super::write::{RECORDED_BYTES_MAX, RECORDED_CHANGES_MAX, WriteTransaction};
use crate::base::error::StorageError;
use crate::base::sync::atomic::{AtomicUsize, Ordering};
use crate::base::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// So many closures share a transaction at most: those that come first do not wait for ever.
const SHARED_BY_MAX: usize = 256;

/// Closures of an open database that want to share a transaction.
#[derive(Debug, Default)]
pub(crate) struct Submissions {
    /// Threads that wait for the lock.
    waiting: AtomicUsize,
    open: Mutex<Option<Open>>,
}

/// A transaction that somebody else goes on with.
#[derive(Debug)]
struct Open {
    transaction: WriteTransaction,
    /// Closures that succeeded on it.
    shared_by: usize,
    end: Arc<End>,
}

/// What a shared transaction comes to, for those who wait for it.
#[derive(Debug, Default)]
struct End {
    state: Mutex<Option<Ended>>,
    told: Condvar,
}

#[derive(Debug, Clone, Copy)]
enum Ended {
    Committed,
    InDoubt,
    /// Nothing was committed, because of one closure or of all together: each tries again, with others or by itself.
    Undone {
        is_alone_next: bool,
    },
}

impl End {
    fn set(&self, ended: Ended) {
        self.state.lock().get_or_insert(ended);
        self.told.notify_all();
    }

    fn wait(&self) -> Ended {
        let mut state = self.state.lock();
        loop {
            match *state {
                Some(ended) => return ended,
                None => state = self.told.wait(state),
            }
        }
    }
}

/// Leaves the outcome in doubt where a storage panics under the commit.
struct Telling<'e>(&'e End);

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        self.0.set(Ended::InDoubt);
    }
}

impl Open {
    fn begin(core: &Arc<Core>) -> Result<Self, TransactionError> {
        let transaction = WriteTransaction::begin(core.take_turn()?)?;
        Ok(Self { transaction, shared_by: 0, end: Arc::default() })
    }

    /// Commits for all that share it. Where that failed for good, or for only one of them, whoever commits is told why.
    fn commit(self) -> Result<Ended, CommitError> {
        let Self { transaction, shared_by, end } = self;
        let store = Arc::clone(&transaction.parts().core().store);
        let telling = Telling(&end);
        let outcome = transaction.commit();
        let ended = match &outcome {
            Ok(_) => Ended::Committed,
            Err(CommitError::InDoubt(_)) => Ended::InDoubt,
            Err(_) => Ended::Undone { is_alone_next: true },
        };
        end.set(ended);
        drop(telling);
        match outcome {
            Err(error) if shared_by == 1 || store.is_poisoned() => Err(error),
            _ => Ok(ended),
        }
    }

    /// Gives up what all did.
    fn undo(self) {
        drop(self.transaction);
        self.end.set(Ended::Undone { is_alone_next: false });
    }
}

impl Submissions {
    /// Runs a closure in a transaction that it may share with others, and returns once that is committed.
    pub(crate) fn submit<T, E: From<TransactionError> + From<CommitError>>(
        &self,
        core: &Arc<Core>,
        mut write: impl FnMut(&WriteTransaction) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut is_alone = false;
        loop {
            let (value, ended) = self.take_part(core, &mut write, is_alone)?;
            match ended {
                Ended::Committed => return Ok(value),
                Ended::InDoubt => return Err(CommitError::InDoubt(Box::new(StorageError::Poisoned)).into()),
                Ended::Undone { is_alone_next } => is_alone = is_alone_next,
            }
        }
    }

    fn take_part<T, E: From<TransactionError> + From<CommitError>>(
        &self,
        core: &Arc<Core>,
        write: &mut impl FnMut(&WriteTransaction) -> Result<T, E>,
        is_alone: bool,
    ) -> Result<(T, Ended), E> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let mut slot = self.open.lock();
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        if is_alone && let Some(others) = slot.take() {
            // They are told; what they failed with is not this one's.
            drop(others.commit());
        }
        let mut open = match slot.take() {
            Some(open) => open,
            None => Open::begin(core)?,
        };
        let mark = open.transaction.mark();
        match catch_unwind(AssertUnwindSafe(|| write(&open.transaction))) {
            Ok(Ok(value)) if open.shared_by > 0 && !open.transaction.can_commit() => {
                // Alone it learns why.
                open.undo();
                Ok((value, Ended::Undone { is_alone_next: true }))
            }
            Ok(Ok(value)) => {
                open.shared_by += 1;
                let end = Arc::clone(&open.end);
                let is_full = is_alone || open.shared_by >= SHARED_BY_MAX || !open.transaction.can_grow();
                let ended = match self.go_on(slot, open, is_full)? {
                    Some(ended) => ended,
                    None => end.wait(),
                };
                Ok((value, ended))
            }
            failed => {
                self.leave(slot, open, mark);
                match failed {
                    Ok(failed) => failed.map(|value| (value, Ended::Committed)),
                    Err(panic) => resume_unwind(panic),
                }
            }
        }
    }

    /// Leaves the transaction to somebody who waits, or commits it.
    fn go_on(
        &self,
        mut slot: MutexGuard<'_, Option<Open>>,
        open: Open,
        is_full: bool,
    ) -> Result<Option<Ended>, CommitError> {
        if !is_full && self.waiting.load(Ordering::Relaxed) > 0 {
            *slot = Some(open);
            return Ok(None);
        }
        drop(slot);
        open.commit().map(Some)
    }

    /// Undoes what a closure did that failed, and goes on with what the others did.
    fn leave(&self, slot: MutexGuard<'_, Option<Open>>, open: Open, mark: Option<Mark>) {
        if !mark.is_some_and(|mark| open.transaction.roll_back_to(mark)) {
            return open.undo();
        }
        if open.shared_by > 0 {
            // Those who wait are told what comes of it.
            drop(self.go_on(slot, open, false));
        }
    }
}

/// How far a transaction has come.
struct Mark {
    tables: BTreeMap<String, RowsMark>,
    recorded: (usize, usize),
}

impl WriteTransaction {
    /// How far the transaction has come, as long as it changes no trees and no table is open.
    fn mark(&self) -> Option<Mark> {
        let parts = self.parts();
        if parts.trees().is_some() {
            return None;
        }
        let tables = parts.tables.lock();
        let marks = tables.iter().map(|(name, staged)| match staged {
            Staged::Closed(closed) => match &closed.rows {
                ClosedRows::Overlaid(rows) => Some((name.clone(), rows.mark())),
                ClosedRows::InTree(_) => None,
            },
            Staged::Open => None,
        });
        Some(Mark { tables: marks.collect::<Option<_>>()?, recorded: self.recorded() })
    }

    /// Undoes what was done since; says whether that could be done.
    fn roll_back_to(&self, mut mark: Mark) -> bool {
        let parts = self.parts();
        let mut tables = parts.tables.lock();
        if parts.trees().is_some() || self.is_poisoned() || tables.values().any(|it| matches!(it, Staged::Open)) {
            return false;
        }
        tables.retain(|name, staged| match (mark.tables.remove(name), staged) {
            (Some(mark), Staged::Closed(closed)) => match &mut closed.rows {
                ClosedRows::Overlaid(rows) => {
                    rows.roll_back_to(mark);
                    true
                }
                ClosedRows::InTree(_) => unreachable!("there are no trees"),
            },
            _ => false,
        });
        parts.recorded_changes.store(mark.recorded.0, Ordering::Relaxed);
        parts.recorded_bytes.store(mark.recorded.1, Ordering::Relaxed);
        true
    }

    /// Whether nothing is known yet that keeps it from being committed.
    fn can_commit(&self) -> bool {
        let is_open = |staged: &Staged| matches!(staged, Staged::Open);
        !self.is_poisoned() && !self.parts().tables.lock().values().any(is_open)
    }

    /// Whether more can be done in it, and undone by itself.
    fn can_grow(&self) -> bool {
        let (changes, bytes) = self.recorded();
        let is_small = changes < RECORDED_CHANGES_MAX / 2 && bytes < RECORDED_BYTES_MAX / 2;
        is_small && self.parts().trees().is_none() && self.can_commit()
    }

    /// Changes that are recorded, and their bytes.
    fn recorded(&self) -> (usize, usize) {
        let parts = self.parts();
        (parts.recorded_changes.load(Ordering::Relaxed), parts.recorded_bytes.load(Ordering::Relaxed))
    }
}
