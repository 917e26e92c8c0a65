//! Epochs: how a reader keeps frames from being reused while it is on its way through them.
//!
//! Invariant: whoever entered before something was unlinked is still entered with an epoch below the tag of the
//! unlinking, so what carries the tag is reused only once every entered epoch has reached it.
//! Layer 2 (pages). After Fraser, "Practical lock-freedom" (2004), with one slot per entry instead of one per thread.

use crate::base::sync::atomic::{AtomicU64, Ordering, fence};
use std::cell::Cell;
use std::sync::atomic::AtomicUsize;

const SLOTS: usize = 128;

/// A slot on a cache line of its own, so that entering writes nothing that another thread reads often.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Slot(AtomicU64);

/// Who is inside, and since when.
#[derive(Debug)]
pub(crate) struct Epochs {
    now: AtomicU64,
    slots: Box<[Slot]>,
}

static NEXT_HINT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Where this thread looks for a free slot first.
    static HINT: Cell<usize> = Cell::new(NEXT_HINT.fetch_add(1, Ordering::Relaxed) % SLOTS);
}

impl Epochs {
    pub(crate) fn new() -> Self {
        Self { now: AtomicU64::new(1), slots: (0..SLOTS).map(|_| Slot::default()).collect() }
    }

    /// Enters: what is linked from here on is not reused before the guard is dropped.
    pub(crate) fn enter(&self) -> Epoch<'_> {
        let hint = HINT.with(Cell::get);
        loop {
            for offset in 0..SLOTS {
                let slot = &self.slots[(hint + offset) % SLOTS].0;
                // The exchange is in the single order of all sequentially consistent operations, as is the scan in
                // `oldest`: a scan that misses it precedes it, and so does the unlinking before that scan.
                let now = self.now.load(Ordering::SeqCst);
                if slot.load(Ordering::Relaxed) == 0
                    && slot.compare_exchange(0, now, Ordering::SeqCst, Ordering::Relaxed).is_ok()
                {
                    return Epoch { epochs: self, slot };
                }
            }
            std::thread::yield_now();
        }
    }

    /// The tag for something that was just unlinked.
    pub(crate) fn advance(&self) -> u64 {
        self.now.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The oldest epoch that somebody is in; everything with a tag up to it may be reused.
    pub(crate) fn oldest(&self) -> u64 {
        fence(Ordering::SeqCst);
        let entered = self.slots.iter().map(|slot| slot.0.load(Ordering::SeqCst)).filter(|epoch| *epoch != 0);
        entered.min().unwrap_or(u64::MAX)
    }
}

/// Being inside.
#[derive(Debug)]
pub(crate) struct Epoch<'e> {
    epochs: &'e Epochs,
    slot: &'e AtomicU64,
}

impl Epoch<'_> {
    /// Whether these are the epochs that were entered.
    pub(crate) fn is_of(&self, epochs: &Epochs) -> bool {
        std::ptr::eq(self.epochs, epochs)
    }
}

impl Drop for Epoch<'_> {
    fn drop(&mut self) {
        self.slot.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_reached_only_once_everybody_who_was_inside_has_left() {
        let epochs = Epochs::new();
        let early = epochs.enter();
        let tag = epochs.advance();
        let late = epochs.enter();
        assert!(epochs.oldest() < tag);
        drop(early);
        assert!(epochs.oldest() >= tag);
        drop(late);
        assert_eq!(epochs.oldest(), u64::MAX);
    }

    #[test]
    fn one_thread_can_enter_as_often_as_there_are_slots() {
        let epochs = Epochs::new();
        let guards: Vec<_> = (0..SLOTS).map(|_| epochs.enter()).collect();
        assert!(epochs.slots.iter().all(|slot| slot.0.load(Ordering::Relaxed) != 0));
        drop(guards);
        assert_eq!(epochs.oldest(), u64::MAX);
    }
}
