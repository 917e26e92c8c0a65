//! Writing finished pages on a thread of its own while the transaction builds the next ones.
//!
//! Invariant: a page that was handed over and is not yet written is neither read nor given back: whoever wants to waits
//! for it first. After the first failure nothing more is written, and every call says so.
//! Layer 2 (pages). Rules: design.md, "Commit"; R10 in the protocol of pages: no I/O outlives the address it was for.

use super::cache::PageMap;
use super::store::PageStore;
use crate::base::error::{Result, StorageError};
use crate::base::ids::PageId;
use crate::base::sync::atomic::{AtomicUsize, Ordering};
use crate::base::sync::{Arc, Condvar, Mutex};
use std::collections::VecDeque;
use std::thread::JoinHandle;

/// A page that is ready to be written.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) page: PageId,
    pub(crate) bytes: Box<[u8]>,
    /// Of a node; bytes of a value have none.
    pub(crate) level: Option<u8>,
}

/// Pages are written together up to this size.
const RUN_BYTES: usize = 1 << 20;

/// So many bytes wait at most, beside those that are being written: whoever hands over more waits.
const WAITING_BYTES_MAX: usize = 3 << 20;

/// Memory of written nodes that is kept for new ones.
const SPARE_BYTES_MAX: usize = 2 << 20;

/// A budget that leaves less than this for dirty pages has no room for those that wait.
const DIRTY_BYTES_MIN: usize = 16 << 20;

/// The pages of one transaction that are on their way to the storage.
#[derive(Debug)]
pub(super) struct WriteBehind {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    store: Arc<PageStore>,
    /// Pages in `state`, to be asked without a lock.
    unwritten: AtomicUsize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Vec<Sealed>>,
    waiting_bytes: usize,
    /// All pages that were handed over and are not written, those under way included.
    unwritten: PageMap<()>,
    spare: Vec<Box<[u8]>>,
    failure: Option<Failure>,
    /// Nobody hands over anything any more.
    ended: bool,
}

#[derive(Debug)]
enum Failure {
    /// The first to ask learns what happened.
    Untold(StorageError),
    Told,
}

impl State {
    fn check(&mut self) -> Result<()> {
        match self.failure.as_mut() {
            None => Ok(()),
            Some(failure) => match std::mem::replace(failure, Failure::Told) {
                Failure::Untold(error) => Err(error),
                Failure::Told => Err(StorageError::TransactionPoisoned),
            },
        }
    }

    fn fail(&mut self, error: StorageError) {
        self.waiting.clear();
        self.failure = Some(Failure::Untold(error));
    }

    fn keep_spare(&mut self, run: Vec<Sealed>) {
        let mut kept: usize = self.spare.iter().map(|bytes| bytes.len()).sum();
        for sealed in run.into_iter().filter(|sealed| sealed.level.is_some()) {
            kept += sealed.bytes.len();
            if kept > SPARE_BYTES_MAX {
                return;
            }
            self.spare.push(sealed.bytes);
        }
    }
}

impl WriteBehind {
    pub(super) fn new(store: Arc<PageStore>) -> Self {
        let (unwritten, state, changed) = (AtomicUsize::new(0), Mutex::default(), Condvar::default());
        Self { shared: Arc::new(Shared { store, unwritten, state, changed }), thread: Mutex::new(None) }
    }

    /// Writes pages now or soon, and keeps the nodes among them in memory.
    pub(super) fn write(&self, pages: Vec<Sealed>) -> Result<()> {
        if pages.is_empty() {
            return Ok(());
        }
        if !self.has_thread() {
            let outcome = write_run(&self.shared.store, &pages);
            self.shared.state.lock().keep_spare(pages);
            return outcome;
        }
        let mut pages = pages.into_iter().peekable();
        while pages.peek().is_some() {
            let mut len_bytes = 0;
            let mut run = Vec::new();
            while let Some(sealed) =
                pages.next_if(|sealed| len_bytes == 0 || len_bytes + sealed.bytes.len() <= RUN_BYTES)
            {
                len_bytes += sealed.bytes.len();
                run.push(sealed);
            }
            self.hand_over(run, len_bytes)?;
        }
        Ok(())
    }

    fn hand_over(&self, run: Vec<Sealed>, len_bytes: usize) -> Result<()> {
        let mut state = self.shared.state.lock();
        while state.waiting_bytes > 0 && state.waiting_bytes + len_bytes > WAITING_BYTES_MAX && state.failure.is_none()
        {
            state = self.shared.changed.wait(state);
        }
        state.check()?;
        state.unwritten.extend(run.iter().map(|sealed| (sealed.page, ())));
        self.shared.unwritten.store(state.unwritten.len(), Ordering::Release);
        state.waiting_bytes += len_bytes;
        state.waiting.push_back(run);
        drop(state);
        self.shared.changed.notify_all();
        Ok(())
    }

    /// Whether pages are written by a thread of their own, which is started where it pays.
    fn has_thread(&self) -> bool {
        let store = &self.shared.store;
        if store.writes_at_once() < 2
            || store.account().dirty_bytes_max(store.layout().node_bytes() as usize) < DIRTY_BYTES_MIN
        {
            return false;
        }
        let mut thread = self.thread.lock();
        if thread.is_none() {
            let shared = Arc::clone(&self.shared);
            let started = std::thread::Builder::new().name("cowslip-write".into()).spawn(move || shared.serve());
            // Where the system has no thread to spare, the caller does the work.
            *thread = started.ok();
        }
        thread.is_some()
    }

    /// Waits until a page is written, if it was handed over.
    #[inline]
    pub(super) fn await_page(&self, page: PageId) -> Result<()> {
        if self.shared.unwritten.load(Ordering::Acquire) == 0 {
            Ok(())
        } else {
            self.await_while(|state| state.unwritten.contains_key(&page))
        }
    }

    /// Waits until everything is written that was handed over. Whoever makes it durable asks this first.
    pub(super) fn await_all(&self) -> Result<()> {
        self.await_while(|state| !state.unwritten.is_empty())
    }

    #[cold]
    fn await_while(&self, is_wanted: impl Fn(&State) -> bool) -> Result<()> {
        let mut state = self.shared.state.lock();
        while state.failure.is_none() && is_wanted(&state) {
            state = self.shared.changed.wait(state);
        }
        state.check()
    }

    /// Memory of nodes that were written.
    pub(super) fn take_spare(&self) -> Vec<Box<[u8]>> {
        std::mem::take(&mut self.shared.state.lock().spare)
    }

    /// Drops what nobody began to write and waits for the rest: afterwards no write is under way.
    pub(super) fn end(&self) {
        let mut state = self.shared.state.lock();
        state.ended = true;
        state.waiting.clear();
        drop(state);
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.lock().take() {
            // A panic of the thread was told by `failure`.
            drop(thread.join());
        }
        let mut state = self.shared.state.lock();
        state.unwritten.clear();
        self.shared.unwritten.store(0, Ordering::Release);
    }
}

impl Drop for WriteBehind {
    fn drop(&mut self) {
        self.end();
    }
}

/// Says that writing failed if the thread panics.
struct Panicking<'s>(&'s Shared);

impl Drop for Panicking<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.state.lock().fail(StorageError::TransactionPoisoned);
            self.0.changed.notify_all();
        }
    }
}

impl Shared {
    fn serve(&self) {
        let _panicking = Panicking(self);
        let mut state = self.state.lock();
        loop {
            let Some(run) = state.waiting.pop_front() else {
                if state.ended {
                    return;
                }
                state = self.changed.wait(state);
                continue;
            };
            state.waiting_bytes -= run.iter().map(|sealed| sealed.bytes.len()).sum::<usize>();
            drop(state);
            let outcome = write_run(&self.store, &run);
            state = self.state.lock();
            self.conclude(&mut state, run, outcome);
        }
    }

    fn conclude(&self, state: &mut State, run: Vec<Sealed>, outcome: Result<()>) {
        match outcome {
            Ok(()) => {
                for sealed in &run {
                    state.unwritten.remove(&sealed.page);
                }
                self.unwritten.store(state.unwritten.len(), Ordering::Release);
                state.keep_spare(run);
            }
            // The pages stay unwritten, so that whoever waits for one learns of it.
            Err(error) => state.fail(error),
        }
        self.changed.notify_all();
    }
}

fn write_run(store: &PageStore, run: &[Sealed]) -> Result<()> {
    let mut pages: Vec<_> = run.iter().map(|sealed| (sealed.page, &sealed.bytes[..])).collect();
    store.write_pages(&mut pages)?;
    store.install_sealed(run);
    Ok(())
}
