//! A commit that nobody waits for on a thread: its outcome, as a future of any runtime.
//!
//! Invariant: an outcome is set once, before its task is woken. Dropping the future changes nothing of the commit.
//! Layer 5 (txn).

use super::error::CommitError;
use crate::base::error::StorageError;
use crate::base::ids::TransactionId;
use crate::base::sync::{Arc, Mutex};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// What a commit came to, and who is to be woken then.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    is_set: bool,
    /// Until the future has returned it.
    outcome: Option<Result<TransactionId, CommitError>>,
    waker: Option<Waker>,
}

impl Outcome {
    pub(super) fn committed(&self, id: TransactionId) {
        self.set(Ok(id));
    }

    pub(super) fn in_doubt(&self, error: StorageError) {
        self.set(Err(CommitError::InDoubt(Box::new(error))));
    }

    /// Sets the outcome, unless there is one.
    pub(super) fn set(&self, outcome: Result<TransactionId, CommitError>) {
        let mut state = self.state.lock();
        if !state.is_set {
            state.is_set = true;
            state.outcome = Some(outcome);
        }
    }

    /// Runs code of the application: no lock may be held.
    pub(super) fn wake(&self) {
        let waker = self.state.lock().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// The outcome of [`WriteTransaction::commit_async`](crate::WriteTransaction::commit_async), to be awaited on any runtime.
///
/// The commit takes its course whether or not anybody awaits it.
#[derive(Debug)]
#[must_use = "whether the commit succeeded is known only when it was awaited"]
pub struct CommitFuture {
    outcome: Arc<Outcome>,
}

impl CommitFuture {
    pub(super) fn new(outcome: Arc<Outcome>) -> Self {
        Self { outcome }
    }
}

impl Future for CommitFuture {
    type Output = Result<TransactionId, CommitError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // Making and dropping wakers runs code of the application: no lock is held then.
        let waker = context.waker().clone();
        let mut state = self.outcome.state.lock();
        if let Some(outcome) = state.outcome.take() {
            return Poll::Ready(outcome);
        }
        let before = state.waker.replace(waker);
        drop(state);
        drop(before);
        Poll::Pending
    }
}
