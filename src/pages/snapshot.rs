//! Pages as they are handed out: borrowed, held, or kept together with the snapshot that they belong to.
//!
//! Invariant: a `PageRef` reads the same bytes as long as it lives.
//! Layer 2 (pages).

use super::frames::{FrameRef, Hold, SnapshotHold};
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
#[derive(Debug, Clone)]
pub(crate) struct PageRef<'p> {
    bytes: PageBytes<'p>,
}

#[derive(Debug, Clone)]
enum PageBytes<'p> {
    /// A dirty page of the writer.
    Dirty(&'p [u8]),
    /// A frame that an epoch protects.
    InEpoch(FrameRef<'p>),
    /// A frame that is held.
    Held(Hold<'p>),
    /// A frame that is held, together with its snapshot.
    HeldWith(SnapshotHold),
    /// The same, once for all the rows of a leaf that a scan hands out.
    Shared(Arc<SnapshotHold>),
    /// Bytes of its own, where no frame was to be had.
    Private(Arc<[u8]>),
    /// The same, together with its snapshot: what the row names out of line must stay too.
    PrivateWith { bytes: Arc<[u8]>, _snapshot: Arc<Snapshot> },
}

impl<'p> PageRef<'p> {
    pub(crate) fn dirty(bytes: &'p [u8]) -> Self {
        Self { bytes: PageBytes::Dirty(bytes) }
    }

    pub(super) fn in_epoch(frame: FrameRef<'p>) -> Self {
        Self { bytes: PageBytes::InEpoch(frame) }
    }

    pub(super) fn held(hold: Hold<'p>) -> Self {
        Self { bytes: PageBytes::Held(hold) }
    }

    pub(super) fn private(bytes: Arc<[u8]>) -> Self {
        Self { bytes: PageBytes::Private(bytes) }
    }

    /// The hold of a page in a frame; the bytes of any other, or of a frame that is being retired.
    fn into_hold(self) -> Result<Hold<'p>, Arc<[u8]>> {
        match self.bytes {
            PageBytes::InEpoch(frame) => frame.hold().ok_or_else(|| Arc::from(frame.bytes())),
            PageBytes::Held(hold) => Ok(hold),
            PageBytes::Private(bytes) | PageBytes::PrivateWith { bytes, .. } => Err(bytes),
            PageBytes::Dirty(bytes) => Err(Arc::from(bytes)),
            PageBytes::HeldWith(hold) => Err(Arc::from(&*hold)),
            PageBytes::Shared(hold) => Err(Arc::from(&**hold)),
        }
    }

    /// Makes the page independent of its epoch, but not of the store.
    pub(crate) fn hold(self, store: &PageStore) -> PageRef<'_> {
        match self.into_hold() {
            Ok(hold) => PageRef::held(hold.borrowed_from(store.frames())),
            Err(bytes) => PageRef::private(bytes),
        }
    }

    /// Makes the page independent of every borrow by keeping its snapshot alive with it. The writer's dirty pages never
    /// come here: their tree is borrowed as long as they are.
    pub(crate) fn keep(self, snapshot: &Arc<Snapshot>) -> PageRef<'static> {
        let bytes = match self.into_hold() {
            Ok(hold) => PageBytes::HeldWith(hold.with_snapshot(snapshot)),
            Err(bytes) => PageBytes::PrivateWith { bytes, _snapshot: Arc::clone(snapshot) },
        };
        PageRef { bytes }
    }

    /// As [`keep`](Self::keep), at the price of an allocation; clones of the page then cost less.
    pub(crate) fn keep_shared(self, snapshot: &Arc<Snapshot>) -> PageRef<'static> {
        let kept = self.keep(snapshot);
        match kept.bytes {
            PageBytes::HeldWith(hold) => PageRef { bytes: PageBytes::Shared(Arc::new(hold)) },
            bytes => PageRef { bytes },
        }
    }
}

impl Deref for PageRef<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.bytes {
            PageBytes::Dirty(bytes) => bytes,
            PageBytes::InEpoch(frame) => frame.bytes(),
            PageBytes::Held(hold) => hold,
            PageBytes::HeldWith(hold) => hold,
            PageBytes::Shared(hold) => hold,
            PageBytes::Private(bytes) | PageBytes::PrivateWith { bytes, .. } => bytes,
        }
    }
}
