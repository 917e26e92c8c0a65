//! The thread of the queue: it writes what nobody waits for, and wakes those whom nobody else may wake.
//!
//! Invariant: it is started when it is first needed, and ends with the session. Where the system has no thread to spare, whoever
//! commits next writes instead.
//! Layer 5 (txn).

use super::{CommitQueue, State, Wake, wake};
use crate::base::clock::Deadline;
use crate::base::sync::Arc;

impl State {
    /// When the next write is due that nobody waits for.
    fn due(&self) -> Option<Deadline> {
        let queued = self.waiting.iter().skip(self.in_flight);
        queued.filter_map(|waiting| waiting.due).min()
    }
}

impl CommitQueue {
    /// Whether a thread writes what is due, which is started where it is needed.
    pub(super) fn has_thread(self: &Arc<Self>) -> bool {
        let mut thread = self.thread.lock();
        if thread.is_none() {
            let queue = Arc::clone(self);
            let started = std::thread::Builder::new().name("cowslip-sync".into()).spawn(move || queue.serve());
            // Where the system has no thread to spare, whoever commits next, or closes, writes it.
            *thread = started.inspect_err(|error| log::warn!("no thread for late commits: {error}")).ok();
            self.state.lock().is_served = thread.is_some();
        }
        thread.is_some()
    }

    fn serve(&self) {
        let mut state = self.state.lock();
        loop {
            if !state.told.is_empty() {
                let told = std::mem::take(&mut state.told);
                drop(state);
                wake(told);
                state = self.state.lock();
                continue;
            }
            if state.is_ended {
                break;
            }
            let due = state.due().filter(|_| state.failure.is_none());
            state = match due {
                None => self.changed.wait(state),
                Some(due) if !due.is_over() => self.changed.wait_until(state, due),
                Some(_) if state.in_flight > 0 => self.changed.wait(state),
                Some(_) => self.lead(state, Wake::Here),
            };
        }
        state.is_served = false;
    }

    /// Ends the thread. What waits and is not durable by then stays so.
    pub(in crate::txn) fn end(&self) {
        self.state.lock().is_ended = true;
        self.changed.notify_all();
        let thread = self.thread.lock().take();
        // A task that it wakes may own the last handle of the database: then it ends when that returns.
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id()) {
            // Nothing in it panics but a storage, and that was told as a failure.
            drop(thread.join());
        }
    }
}
