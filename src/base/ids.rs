//! Newtyped ids: page numbers, transaction ids, runs of units, digests and tree roots.
//!
//! Invariant: a `PageId` fits in 48 bits, so it can share eight bytes with sixteen other bits.
//! Layer 0 (base). Bytes: design.md, "Ids and digests".

use std::fmt;

/// Number of an allocation unit, counted from the start of the file.
///
/// A node or a run is named by the number of its first unit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PageId(u64);

impl PageId {
    /// Stands for "no page": the header block lives there, so no node or run ever can.
    pub(crate) const NONE: PageId = PageId(0);
    /// Page numbers are stored in 48 bits.
    pub(crate) const LIMIT: u64 = 1 << 48;

    /// Returns `None` where `number` does not fit in 48 bits.
    pub(crate) fn new(number: u64) -> Option<Self> {
        (number < Self::LIMIT).then_some(Self(number))
    }

    /// For numbers that come out of the allocator, which never hands out more than 48 bits.
    pub(crate) fn from_allocator(number: u64) -> Self {
        assert!(number < Self::LIMIT, "page number {number} exceeds 48 bits");
        Self(number)
    }

    pub(crate) fn get(self) -> u64 {
        self.0
    }

    pub(crate) fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Debug for PageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page {}", self.0)
    }
}

impl fmt::Display for PageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page {}", self.0)
    }
}

/// Number of a transaction. Strictly increases, reopening included; zero is the empty database.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TransactionId(u64);

impl TransactionId {
    pub(crate) const ZERO: TransactionId = TransactionId(0);

    pub(crate) fn new(id: u64) -> Self {
        Self(id)
    }

    /// The id as a plain number.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }

    /// The id of the next transaction, or `None` once all 2^64 are used.
    pub(crate) fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A run of adjacent units: the thing that the allocator hands out and takes back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Run {
    pub(crate) page: PageId,
    pub(crate) units: u32,
}

impl Run {
    pub(crate) fn new(page: PageId, units: u32) -> Self {
        Self { page, units }
    }

    /// One past the last unit.
    pub(crate) fn end(self) -> u64 {
        self.page.get() + u64::from(self.units)
    }
}

/// A digest as roots, slots and tables store it: 32 bytes wide whatever the checksum kind, unused bytes zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Digest(pub(crate) [u8; Digest::LEN]);

impl Digest {
    pub(crate) const LEN: usize = 32;
    pub(crate) const ZERO: Digest = Digest([0; Self::LEN]);
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self.0[..16] {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// Where a tree starts, how to verify that page, how many rows it holds and how high it is.
///
/// An empty tree has no page: `page` is `PageId::NONE`, `rows` and `height` are zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TreeRoot {
    pub(crate) page: PageId,
    pub(crate) digest: Digest,
    pub(crate) rows: u64,
    /// Levels, the leaf level included; zero for an empty tree.
    pub(crate) height: u8,
}

impl TreeRoot {
    pub(crate) const EMPTY: TreeRoot = TreeRoot { page: PageId::NONE, digest: Digest::ZERO, rows: 0, height: 0 };
}
