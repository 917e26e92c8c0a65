//! Pages as they are handed out: borrowed, held, or kept together with the snapshot that they belong to.
//!
//! Invariant: a `PageRef` reads the same bytes as long as it lives.
//! Layer 2 (pages).

use super::frames::{FrameRef, Frames};
use super::store::PageStore;
use super::version::Pin;
use crate::base::sync::Arc;
use std::ops::Deref;

/// A pinned version and the store that holds its pages.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) store: Arc<PageStore>,
    pub(crate) pin: Pin,
}

/// A page that stays readable and unchanged as long as what it was borrowed from.
#[derive(Debug)]
pub(crate) struct PageRef<'p> {
    bytes: PageBytes<'p>,
}

#[derive(Debug)]
enum PageBytes<'p> {
    /// A dirty page of the writer.
    Dirty(&'p [u8]),
    /// A frame that an epoch protects.
    InEpoch(&'p Frames, FrameRef<'p>),
    /// A frame that is held.
    Held(&'p Frames, u32),
    /// A frame that is held, together with its snapshot.
    HeldWith(Arc<Snapshot>, u32),
    /// Bytes of its own, where no frame was to be had.
    Private(Arc<[u8]>),
    /// The same, together with its snapshot: what the row names out of line must stay too.
    PrivateWith { bytes: Arc<[u8]>, _snapshot: Arc<Snapshot> },
}

impl<'p> PageRef<'p> {
    pub(crate) fn dirty(bytes: &'p [u8]) -> Self {
        Self { bytes: PageBytes::Dirty(bytes) }
    }

    pub(super) fn in_epoch(frames: &'p Frames, frame: FrameRef<'p>) -> Self {
        Self { bytes: PageBytes::InEpoch(frames, frame) }
    }

    /// Takes over a hold.
    pub(super) fn held_by_borrow(frames: &'p Frames, index: u32) -> Self {
        Self { bytes: PageBytes::Held(frames, index) }
    }

    pub(super) fn private(bytes: Arc<[u8]>) -> Self {
        Self { bytes: PageBytes::Private(bytes) }
    }

    /// Makes the page independent of its epoch, but not of the store.
    pub(crate) fn hold(self, store: &PageStore) -> PageRef<'_> {
        match &self.bytes {
            PageBytes::InEpoch(frames, frame) if frames.hold(*frame) => {
                PageRef::held_by_borrow(store.frames(), frame.index)
            }
            PageBytes::Held(frames, index) => {
                frames.hold_again(*index);
                PageRef::held_by_borrow(store.frames(), *index)
            }
            _ => PageRef::private(Arc::from(&*self)),
        }
    }

    /// Makes the page independent of every borrow by keeping its snapshot alive with it. The writer's dirty pages never
    /// come here: their tree is borrowed as long as they are.
    pub(crate) fn keep(self, snapshot: &Arc<Snapshot>) -> PageRef<'static> {
        let index = match &self.bytes {
            PageBytes::InEpoch(frames, frame) if frames.hold(*frame) => Some(frame.index),
            PageBytes::Held(frames, index) => {
                // This hold ends with `self`; the new page needs one of its own.
                frames.hold_again(*index);
                Some(*index)
            }
            _ => None,
        };
        match index {
            Some(index) => PageRef { bytes: PageBytes::HeldWith(Arc::clone(snapshot), index) },
            None => {
                let bytes = PageBytes::PrivateWith { bytes: Arc::from(&*self), _snapshot: Arc::clone(snapshot) };
                PageRef { bytes }
            }
        }
    }
}

impl Deref for PageRef<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.bytes {
            PageBytes::Dirty(bytes) => bytes,
            PageBytes::InEpoch(_, frame) => frame.bytes,
            PageBytes::Held(frames, index) => frames.held_bytes(*index),
            PageBytes::HeldWith(snapshot, index) => snapshot.store.frames().held_bytes(*index),
            PageBytes::Private(bytes) | PageBytes::PrivateWith { bytes, .. } => bytes,
        }
    }
}

impl Clone for PageRef<'_> {
    fn clone(&self) -> Self {
        let bytes = match &self.bytes {
            PageBytes::Dirty(bytes) => PageBytes::Dirty(bytes),
            PageBytes::InEpoch(frames, frame) => PageBytes::InEpoch(frames, *frame),
            PageBytes::Held(frames, index) => {
                frames.hold_again(*index);
                PageBytes::Held(frames, *index)
            }
            PageBytes::HeldWith(snapshot, index) => {
                snapshot.store.frames().hold_again(*index);
                PageBytes::HeldWith(Arc::clone(snapshot), *index)
            }
            PageBytes::Private(bytes) => PageBytes::Private(Arc::clone(bytes)),
            PageBytes::PrivateWith { bytes, _snapshot: snapshot } => {
                PageBytes::PrivateWith { bytes: Arc::clone(bytes), _snapshot: Arc::clone(snapshot) }
            }
        };
        Self { bytes }
    }
}

impl Drop for PageRef<'_> {
    fn drop(&mut self) {
        match &self.bytes {
            PageBytes::Held(frames, index) => frames.release(*index),
            PageBytes::HeldWith(snapshot, index) => snapshot.store.frames().release(*index),
            PageBytes::Dirty(_) | PageBytes::InEpoch(..) | PageBytes::Private(_) | PageBytes::PrivateWith { .. } => {}
        }
    }
}
