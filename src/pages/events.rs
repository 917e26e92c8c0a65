//! Telling an observer: events wait in memory for a thread that calls it.
//!
//! Invariant: whoever tells holds the lock of the list for a moment and runs no code of the application; the thread runs it
//! and holds no lock. Events are told in the order in which they came.
//! Layer 2 (pages). Lock order: after all others.

use super::observer::{
    CheckpointBegunEvent, CheckpointEvent, CheckpointFailedEvent, CommitEvent, LogWriteEvent, Observer, PoisonedEvent,
    RecoveryReport, SyncEvent,
};
use crate::base::sync::atomic::{AtomicU64, Ordering};
use crate::base::sync::{Arc, Condvar, Mutex};
use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;

/// So many events wait at most; the documentation of `Observer` says the number.
const WAITING_MAX: usize = 1 << 14;

/// Something to tell.
#[derive(Debug)]
pub(super) enum Event {
    Opened(Box<RecoveryReport>),
    Committed(CommitEvent),
    LogWritten(LogWriteEvent),
    Synced(SyncEvent),
    CheckpointBegun(CheckpointBegunEvent),
    CheckpointFinished(CheckpointEvent),
    CheckpointFailed(CheckpointFailedEvent),
    Poisoned(PoisonedEvent),
}

impl Event {
    fn tell(&self, observer: &dyn Observer) {
        match self {
            Self::Opened(report) => observer.opened(report),
            Self::Committed(commit) => observer.committed(commit),
            Self::LogWritten(write) => observer.log_written(write),
            Self::Synced(sync) => observer.synced(sync),
            Self::CheckpointBegun(begun) => observer.checkpoint_begun(begun),
            Self::CheckpointFinished(checkpoint) => observer.checkpoint_finished(checkpoint),
            Self::CheckpointFailed(failure) => observer.checkpoint_failed(failure),
            Self::Poisoned(failure) => observer.poisoned(failure),
        }
    }
}

/// The observer of one database, and the thread that calls it.
#[derive(Debug)]
pub(super) struct Events {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    observer: Arc<dyn Observer>,
    state: Mutex<State>,
    /// Notified when something came into the empty list, and at the end.
    changed: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Event>,
    is_ended: bool,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("state", &self.state).field("dropped", &self.dropped).finish_non_exhaustive()
    }
}

impl Events {
    pub(super) fn new(observer: Arc<dyn Observer>) -> Self {
        let (state, changed, dropped) = (Mutex::default(), Condvar::default(), AtomicU64::new(0));
        let shared = Arc::new(Shared { observer, state, changed, dropped });
        let theirs = Arc::clone(&shared);
        let started = std::thread::Builder::new().name("cowslip-observer".into()).spawn(move || theirs.serve());
        let thread = started.inspect_err(|error| {
            log::warn!("no thread for the observer, which is told nothing: {error}");
            shared.state.lock().is_ended = true;
        });
        Self { thread: Mutex::new(thread.ok()), shared }
    }

    pub(super) fn send(&self, event: Event) {
        let mut state = self.shared.state.lock();
        if state.is_ended || state.waiting.len() >= WAITING_MAX {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        state.waiting.push_back(event);
        let is_first = state.waiting.len() == 1;
        drop(state);
        if is_first {
            self.shared.changed.notify_one();
        }
    }

    pub(super) fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Waits until everything is told, and ends the thread.
    pub(super) fn end(&self) {
        self.shared.state.lock().is_ended = true;
        self.shared.changed.notify_one();
        let thread = self.thread.lock().take();
        // An observer that drops the last handle of the database ends up here: its thread ends when that returns.
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id()) {
            // What panics in it is caught.
            drop(thread.join());
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn serve(&self) {
        loop {
            let mut state = self.state.lock();
            while state.waiting.is_empty() && !state.is_ended {
                state = self.changed.wait(state);
            }
            let told = std::mem::take(&mut state.waiting);
            drop(state);
            if told.is_empty() {
                return;
            }
            for event in told {
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| event.tell(&*self.observer))) {
                    log::error!("the observer of a database panicked");
                    // What a panic carries may panic again when it is dropped.
                    catch_unwind(AssertUnwindSafe(|| drop(panic))).unwrap_or_else(std::mem::forget);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Stays in its first call until the gate is opened.
    #[derive(Default)]
    struct Slow {
        is_open: Mutex<bool>,
        opened: Condvar,
        told: Mutex<Vec<u64>>,
    }

    impl Observer for Slow {
        fn log_written(&self, write: &LogWriteEvent) {
            let mut is_open = self.is_open.lock();
            while !*is_open {
                is_open = self.opened.wait(is_open);
            }
            self.told.lock().push(write.commits);
        }
    }

    fn event(commits: u64) -> Event {
        Event::LogWritten(LogWriteEvent { bytes: 1, commits, duration: Duration::ZERO })
    }

    #[test]
    fn a_slow_observer_is_told_in_order_and_what_exceeds_the_limit_is_counted() {
        let slow = Arc::new(Slow::default());
        let events = Events::new(Arc::clone(&slow) as _);
        let sent = 3 * WAITING_MAX as u64;
        (0..sent).for_each(|number| events.send(event(number)));
        assert!(events.dropped() >= sent - 2 * WAITING_MAX as u64, "{}", events.dropped());
        *slow.is_open.lock() = true;
        slow.opened.notify_all();
        events.end();
        let told = slow.told.lock().clone();
        assert!(told.is_sorted() && told.len() as u64 + events.dropped() == sent);
        events.send(event(sent));
        assert_eq!(told.len() as u64 + events.dropped(), sent + 1, "nobody is told after the end");
    }
}
