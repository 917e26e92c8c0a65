//! Pages as they are handed out: borrowed, held, or kept together with the snapshot that they belong to.
//!
//! Invariant: a `PageRef` reads the same bytes as long as it lives.
//! Layer 2 (pages).

use super::frames::{FrameRef, Hold, SharedHold, SnapshotHold};
use super::store::PageStore;
use super::version::Pin;
use crate::base::sync::Arc;
use std::any::Any;
use std::ops::{Deref, Range};

/// A pinned version and the store that holds its pages.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) store: Arc<PageStore>,
    pub(crate) pin: Pin,
    /// Whatever must live as long as pages of the snapshot are read, such as the lock on the file.
    pub(crate) _owner: Option<Arc<dyn Any + Send + Sync>>,
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
    InEpoch(FrameRef<'p>),
    /// A frame that is held.
    Held(Hold<'p>),
    /// A frame that is held, together with its snapshot.
    HeldWith(SnapshotHold),
    /// The same, once for all the rows of a leaf that a scan hands out.
    Shared(SharedHold),
    /// Bytes of its own, where no frame was to be had.
    Private(Arc<[u8]>, Part),
    /// The same, together with its snapshot: what the row names out of line must stay too.
    PrivateWith { bytes: Arc<[u8]>, part: Part, _snapshot: Arc<Snapshot> },
}

/// Which bytes of a page of its own are shown.
#[derive(Debug, Clone, Copy)]
struct Part {
    from: u32,
    to: u32,
}

impl Part {
    fn whole(bytes: &[u8]) -> Self {
        Self { from: 0, to: offset(bytes.len()) }
    }

    fn narrow(self, range: &Range<usize>) -> Self {
        assert!(range.end <= (self.to - self.from) as usize, "a part lies inside the whole");
        Self { from: self.from + offset(range.start), to: self.from + offset(range.end) }
    }

    fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.from as usize..self.to as usize]
    }
}

fn offset(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a node is at most 64 KiB")
}

impl PageBytes<'_> {
    fn private(bytes: Arc<[u8]>) -> Self {
        let part = Part::whole(&bytes);
        Self::Private(bytes, part)
    }

    fn private_with(bytes: Arc<[u8]>, snapshot: &Arc<Snapshot>) -> Self {
        Self::PrivateWith { part: Part::whole(&bytes), bytes, _snapshot: Arc::clone(snapshot) }
    }
}

impl Clone for PageRef<'_> {
    fn clone(&self) -> Self {
        let bytes = match &self.bytes {
            PageBytes::Dirty(bytes) => PageBytes::Dirty(bytes),
            PageBytes::InEpoch(frame) => PageBytes::InEpoch(*frame),
            PageBytes::Shared(hold) => PageBytes::Shared(hold.clone()),
            // A frame whose holds are all counted out is copied instead.
            PageBytes::Held(hold) => match hold.try_clone() {
                Some(hold) => PageBytes::Held(hold),
                None => PageBytes::private(Arc::from(&**hold)),
            },
            PageBytes::HeldWith(hold) => match hold.try_clone() {
                Some(hold) => PageBytes::HeldWith(hold),
                None => PageBytes::private_with(Arc::from(&**hold), hold.snapshot()),
            },
            PageBytes::Private(bytes, part) => PageBytes::Private(Arc::clone(bytes), *part),
            PageBytes::PrivateWith { bytes, part, _snapshot } => {
                PageBytes::PrivateWith { bytes: Arc::clone(bytes), part: *part, _snapshot: Arc::clone(_snapshot) }
            }
        };
        Self { bytes }
    }
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

    pub(crate) fn private(bytes: Arc<[u8]>) -> Self {
        Self { bytes: PageBytes::private(bytes) }
    }

    /// The hold of a page in a frame; the bytes of any other, or of a frame that is being retired.
    #[inline]
    fn into_hold(self) -> Result<Hold<'p>, Arc<[u8]>> {
        match self.bytes {
            PageBytes::InEpoch(frame) => frame.hold().ok_or_else(|| Arc::from(frame.bytes())),
            PageBytes::Held(hold) => Ok(hold),
            PageBytes::Private(bytes, part) | PageBytes::PrivateWith { bytes, part, .. } => {
                Err(if part.of(&bytes).len() == bytes.len() { bytes } else { Arc::from(part.of(&bytes)) })
            }
            PageBytes::Dirty(bytes) => Err(Arc::from(bytes)),
            PageBytes::HeldWith(hold) => Err(Arc::from(&*hold)),
            PageBytes::Shared(hold) => Err(Arc::from(&*hold)),
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
    #[inline]
    pub(crate) fn keep(self, snapshot: &Arc<Snapshot>) -> PageRef<'static> {
        let bytes = match self.into_hold() {
            Ok(hold) => PageBytes::HeldWith(hold.with_snapshot(snapshot)),
            Err(bytes) => PageBytes::private_with(bytes, snapshot),
        };
        PageRef { bytes }
    }

    /// A part of the page. For a page that is kept shared, the parts cost little.
    #[inline(always)]
    pub(crate) fn part(&self, range: Range<usize>) -> Self {
        match &self.bytes {
            PageBytes::Shared(hold) => Self { bytes: PageBytes::Shared(hold.part(range)) },
            _ => self.part_of_unshared(range),
        }
    }

    #[cold]
    fn part_of_unshared(&self, range: Range<usize>) -> Self {
        self.clone().narrow(range)
    }

    /// The same page, showing a part of what it showed.
    #[inline]
    pub(crate) fn narrow(self, range: Range<usize>) -> Self {
        let bytes = match self.bytes {
            PageBytes::Shared(hold) => PageBytes::Shared(hold.part(range)),
            PageBytes::HeldWith(hold) => PageBytes::HeldWith(hold.narrow(range)),
            PageBytes::InEpoch(frame) => PageBytes::InEpoch(frame.narrow(range)),
            PageBytes::Held(hold) => PageBytes::Held(hold.narrow(range)),
            PageBytes::Dirty(bytes) => PageBytes::Dirty(&bytes[range]),
            PageBytes::Private(bytes, part) => PageBytes::Private(bytes, part.narrow(&range)),
            PageBytes::PrivateWith { bytes, part, _snapshot } => {
                PageBytes::PrivateWith { bytes, part: part.narrow(&range), _snapshot }
            }
        };
        Self { bytes }
    }

    /// As [`keep`](Self::keep), at the price of an allocation; clones of the page then cost less.
    pub(crate) fn keep_shared(self, snapshot: &Arc<Snapshot>) -> PageRef<'static> {
        let kept = self.keep(snapshot);
        match kept.bytes {
            PageBytes::HeldWith(hold) => PageRef { bytes: PageBytes::Shared(SharedHold::new(hold)) },
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
            PageBytes::Private(bytes, part) | PageBytes::PrivateWith { bytes, part, .. } => part.of(bytes),
        }
    }
}
