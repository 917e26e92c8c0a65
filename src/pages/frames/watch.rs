//! Accesses to the bytes of frames, told to loom in model checks (`--cfg loom`) and to nobody otherwise.
//!
//! Invariant: whoever gets or writes the bytes of a frame says so here, so that loom refuses every order of events in
//! which a frame is filled while somebody may read it, or read without seeing how it was filled.
//! Layer 2 (pages).

use super::Frames;
#[cfg(loom)]
use super::{CHUNK, Chunk, HOLDS};
#[cfg(loom)]
use crate::base::sync::atomic::Ordering;

/// The bytes of a frame as far as loom is concerned.
#[cfg(loom)]
#[derive(Debug)]
pub(super) struct Watch(loom::cell::UnsafeCell<()>);

#[cfg(loom)]
impl Watch {
    pub(super) fn new() -> Self {
        Self(loom::cell::UnsafeCell::new(()))
    }
}

#[cfg(loom)]
impl Frames {
    pub(super) fn watch_read(&self, index: u32) {
        self.chunk(index).watches[index as usize % CHUNK].0.with(|_| ());
    }

    pub(super) fn watch_write(&self, index: u32) {
        self.chunk(index).watches[index as usize % CHUNK].0.with_mut(|_| ());
    }
}

#[cfg(not(loom))]
impl Frames {
    #[inline]
    pub(super) fn watch_read(&self, _index: u32) {}

    #[inline]
    pub(super) fn watch_write(&self, _index: u32) {}
}

/// The memory of frames ends with their states: by then nobody may hold them, and all that was read of them is read.
#[cfg(loom)]
impl Drop for Chunk {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        for (state, watch) in self.states.iter().zip(&self.watches) {
            // A change sees the newest state, where a load may see an older one.
            assert_eq!(state.fetch_or(0, Ordering::AcqRel) & HOLDS, 0, "a frame ends while it is held");
            watch.0.with_mut(|_| ());
        }
    }
}
