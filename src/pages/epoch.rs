//! Epochs: how a reader keeps frames from being reused while it is on its way through them.
//!
//! Invariant: whoever entered before something was unlinked is still entered with an epoch below the tag of the
//! unlinking, so what carries the tag is reused only once every entered epoch has reached it.
//! Layer 2 (pages). After Fraser, "Practical lock-freedom" (2004), with one slot per entry instead of one per thread.

use crate::base::sync::atomic::{AtomicU64, Ordering, fence};
use crate::base::sync::yield_now;
use std::cell::Cell;
use std::sync::atomic::AtomicUsize;

/// Loom checks every order of events, so there it has to be few.
const SLOTS: usize = if cfg!(loom) { 2 } else { 128 };

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
        // Loom needs every run to begin alike.
        let hint = if cfg!(loom) { 0 } else { HINT.with(Cell::get) };
        loop {
            for offset in 0..SLOTS {
                let slot = &self.slots[(hint + offset) % SLOTS].0;
                let now = self.now.load(Ordering::SeqCst);
                if slot.load(Ordering::Relaxed) == 0
                    && slot.compare_exchange(0, now, Ordering::SeqCst, Ordering::Relaxed).is_ok()
                {
                    // Pairs with the fence of `oldest`: a scan that misses this entry has its fence before this one, so
                    // what was unlinked before the scan is seen as unlinked from here on.
                    fence_after_exchange();
                    return Epoch { epochs: self, slot };
                }
            }
            yield_now();
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

/// A full fence behind an atomic exchange. On x86 the exchange is one already, and an instruction of its own would cost
/// more than all else of an entry; there only the compiler has to be held back.
fn fence_after_exchange() {
    if cfg!(all(target_arch = "x86_64", not(miri), not(loom))) {
        std::sync::atomic::compiler_fence(Ordering::SeqCst);
    } else {
        fence(Ordering::SeqCst);
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

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use crate::base::sync::Arc;
    use crate::base::sync::atomic::{AtomicBool, AtomicU32};

    /// A frame is unlinked and refilled once nobody who saw the link can be inside; a reader looks at it meanwhile.
    #[test]
    fn loom_nothing_is_reused_under_a_reader() {
        loom::model(|| {
            let epochs = Arc::new(Epochs::new());
            let link = Arc::new(AtomicU32::new(1));
            let refilled = Arc::new(AtomicBool::new(false));
            let reader = {
                let (epochs, link, refilled) = (Arc::clone(&epochs), Arc::clone(&link), Arc::clone(&refilled));
                loom::thread::spawn(move || {
                    let _epoch = epochs.enter();
                    if link.load(Ordering::Acquire) == 1 {
                        assert!(!refilled.load(Ordering::Relaxed), "the frame changed under a reader");
                    }
                })
            };
            link.store(0, Ordering::Release);
            let tag = epochs.advance();
            if epochs.oldest() >= tag {
                refilled.store(true, Ordering::Relaxed);
            }
            assert!(reader.join().is_ok());
        });
    }
}

#[cfg(all(test, not(loom)))]
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
