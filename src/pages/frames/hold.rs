//! Frames as they are handed out: seen in an epoch, held, or held together with a snapshot.
//!
//! Invariant: a hold counts once in the state of its frame, from when it is made until it is dropped.
//! Layer 2 (pages).

use super::{Frames, HOLDS, RETIRED};
use crate::base::sync::Arc;
use crate::base::sync::atomic::Ordering;
use crate::pages::snapshot::Snapshot;
use std::mem::ManuallyDrop;
use std::ops::{Deref, Range};
use std::ptr::NonNull;

/// A node in a frame, readable while the epoch lasts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FrameRef<'e> {
    pub(super) frames: &'e Frames,
    pub(super) bytes: &'e [u8],
    pub(super) index: u32,
}

impl<'e> FrameRef<'e> {
    pub(crate) fn bytes(&self) -> &'e [u8] {
        self.frames.watch_read(self.index);
        self.bytes
    }

    /// Keeps the frame beyond the epoch; `None` where it is being retired, so that only the epoch protects it, or
    /// where the count of holds is at its end.
    #[inline]
    pub(crate) fn hold(&self) -> Option<Hold<'e>> {
        let may_hold = |state| state & RETIRED == 0 && state & HOLDS < HOLDS;
        let counted = self
            .frames
            .state(self.index)
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |state| may_hold(state).then_some(state + 1));
        // A hold exists only once it is counted: dropping one that is not would end somebody else's.
        counted.ok().map(|_| Hold { frames: self.frames, index: self.index, bytes: FrameBytes::of(self.bytes) })
    }

    /// The same frame, showing a part of what it showed.
    #[inline]
    pub(crate) fn narrow(self, range: Range<usize>) -> Self {
        Self { bytes: &self.bytes[range], ..self }
    }
}

/// Bytes of a frame, or a part of them, found once. Whoever keeps them sees to it that the frame is held.
#[derive(Debug, Clone, Copy)]
pub(super) struct FrameBytes(NonNull<[u8]>);

// SAFETY: the bytes are only read while the frame is held, and then nobody writes to them.
unsafe impl Send for FrameBytes {}
// SAFETY: as above.
unsafe impl Sync for FrameBytes {}

impl FrameBytes {
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(NonNull::from(bytes))
    }

    /// # Safety
    /// The frame must be held, and its mapping exist, as long as the slice lives.
    #[inline]
    unsafe fn get<'h>(self) -> &'h [u8] {
        // SAFETY: the pointer came from a slice of a frame, which nobody fills and nobody unmaps, as the caller promises.
        unsafe { self.0.as_ref() }
    }
}

impl Frames {
    /// Counts a further hold of a frame that is held; says whether there was room in the count.
    fn count_hold(&self, index: u32) -> bool {
        let more = |state| (state & HOLDS < HOLDS).then_some(state + 1);
        self.state(index).fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }
}

/// A held frame: its bytes stay as they are.
#[derive(Debug)]
pub(crate) struct Hold<'f> {
    pub(super) frames: &'f Frames,
    pub(super) index: u32,
    pub(super) bytes: FrameBytes,
}

impl Hold<'_> {
    /// Another hold of the frame; `None` where the count of holds is at its end.
    pub(crate) fn try_clone(&self) -> Option<Self> {
        let counted = self.frames.count_hold(self.index);
        counted.then(|| Self { frames: self.frames, index: self.index, bytes: self.bytes })
    }

    /// The same hold, borrowed from the same frames by another way.
    pub(crate) fn borrowed_from(self, frames: &Frames) -> Hold<'_> {
        assert!(std::ptr::eq(self.frames, frames), "a frame is held in the frames that it belongs to");
        let Hold { index, bytes, .. } = *ManuallyDrop::new(self);
        Hold { frames, index, bytes }
    }

    /// The same hold, showing a part of what it showed.
    #[inline]
    pub(crate) fn narrow(mut self, range: Range<usize>) -> Self {
        self.bytes = FrameBytes::of(&self[range]);
        self
    }

    /// The same hold, together with a snapshot of the store that the frames belong to.
    #[inline]
    pub(crate) fn with_snapshot(self, snapshot: &Arc<Snapshot>) -> SnapshotHold {
        assert!(std::ptr::eq(self.frames, snapshot.store.frames()), "a frame is kept with a snapshot of its store");
        let Hold { index, bytes, .. } = *ManuallyDrop::new(self);
        SnapshotHold { snapshot: Arc::clone(snapshot), index, bytes }
    }
}

#[cfg(all(test, loom))]
impl<'f> Hold<'f> {
    /// A hold that was counted before and forgotten, on whatever thread.
    pub(super) fn taken_over(frames: &'f Frames, index: u32) -> Self {
        // SAFETY: the frame is held: the hold that is taken over was counted.
        let bytes = FrameBytes::of(unsafe { frames.bytes(index) });
        Self { frames, index, bytes }
    }
}

impl Deref for Hold<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the frame is held until `self` is dropped, and not filled before that; the borrow of the frames keeps the
        // mapping.
        unsafe { self.bytes.get() }
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.frames.release(self.index);
    }
}

/// A held frame and its snapshot.
#[derive(Debug)]
pub(crate) struct SnapshotHold {
    snapshot: Arc<Snapshot>,
    index: u32,
    bytes: FrameBytes,
}

impl SnapshotHold {
    /// Another hold of the frame; `None` where the count of holds is at its end.
    pub(crate) fn try_clone(&self) -> Option<Self> {
        let counted = self.frames().count_hold(self.index);
        counted.then(|| Self { snapshot: Arc::clone(&self.snapshot), index: self.index, bytes: self.bytes })
    }

    pub(crate) fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// The same hold, showing a part of what it showed.
    #[inline]
    pub(crate) fn narrow(mut self, range: Range<usize>) -> Self {
        self.bytes = FrameBytes::of(&self[range]);
        self
    }

    fn frames(&self) -> &Frames {
        self.snapshot.store.frames()
    }
}

impl Deref for SnapshotHold {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.frames().watch_read(self.index);
        // SAFETY: the frame is held until `self` is dropped, and not filled before that; the snapshot keeps the store
        // and with it the mapping alive.
        unsafe { self.bytes.get() }
    }
}

impl Drop for SnapshotHold {
    fn drop(&mut self) {
        self.frames().release(self.index);
    }
}

/// One hold for all the rows of a leaf that a scan hands out, showing a part of the leaf.
#[derive(Debug, Clone)]
pub(crate) struct SharedHold {
    hold: Arc<SnapshotHold>,
    bytes: FrameBytes,
}

impl SharedHold {
    pub(crate) fn new(hold: SnapshotHold) -> Self {
        let bytes = hold.bytes;
        Self { hold: Arc::new(hold), bytes }
    }

    /// Another share, showing a part of what this one shows.
    #[inline(always)]
    pub(crate) fn part(&self, range: Range<usize>) -> Self {
        Self { hold: Arc::clone(&self.hold), bytes: FrameBytes::of(&self[range]) }
    }
}

impl Deref for SharedHold {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.hold.frames().watch_read(self.hold.index);
        // SAFETY: the hold, of which these bytes are a part, lives as long as `self`.
        unsafe { self.bytes.get() }
    }
}
