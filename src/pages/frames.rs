//! Page frames: verified nodes in one reserved range of memory, and the rules by which a frame is reused.
//!
//! Invariant: the bytes of a frame change only while it is retired, linked from nowhere, held by nobody, and every
//! reader that could have seen it linked has left its epoch. So a slice handed out under an epoch or a hold never
//! changes.
//! Layer 2 (pages). The only place of the crate with `unsafe`, beside system calls.
#![expect(unsafe_code, reason = "frames are cut out of one mapping and shared without locks; see each SAFETY note")]

mod hold;
mod limit;
#[cfg(test)]
mod limit_tests;
#[cfg(all(test, loom))]
mod loom_tests;
mod prefetch;
#[cfg(test)]
mod tests;
mod watch;

use hold::FrameBytes;
pub(crate) use hold::{FrameRef, Hold, SharedHold, SnapshotHold};
pub(crate) use prefetch::{prefetch, prefetch_line};

use super::account::Account;
use super::epoch::{Epoch, Epochs};
use super::layout::Layout;
use super::translation::{Place, Translation};
use crate::base::ids::PageId;
use crate::base::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::base::sync::{Arc, Mutex};
use std::collections::VecDeque;
use std::sync::OnceLock;

/// In the state of a frame: it is not linked, but being filled, waiting in limbo, or free.
const RETIRED: u32 = 1 << 31;

/// In the state of a frame: a branch, evicted only when nothing else is left.
const BRANCH: u32 = 1 << 30;

/// In the state of a frame: used since the clock passed.
const USED: u32 = 1 << 29;

/// In the state of a frame: how many hold it.
const HOLDS: u32 = USED - 1;

/// Frames whose states are kept together, and made together. Loom tracks each of them, so there they have to be few.
const CHUNK: usize = if cfg!(loom) { 2 } else { 1024 };

/// What a frame that waits for reuse is filled with in tests; no node begins like that.
const POISON: u8 = 0xDB;

/// How many frames are evicted at once.
const EVICT_BATCH: usize = match (cfg!(loom), cfg!(miri)) {
    (true, _) => 1,
    // Few frames are enough there, and a batch is a small part of them.
    (_, true) => 4,
    _ => 32,
};

/// States of neighbouring frames. One word each is all that a reader touches, so that they stay in the processor's
/// own caches.
#[derive(Debug)]
struct Chunk {
    states: Box<[AtomicU32]>,
    /// The pages whose words name the frames, while they do.
    pages: Box<[AtomicU64]>,
    /// Stand for the bytes of the frames where loom looks.
    #[cfg(loom)]
    watches: Box<[watch::Watch]>,
}

/// The range that frames are cut out of.
#[cfg(not(miri))]
type Memory = memmap2::MmapMut;

/// Miri knows no reserved mappings; a vector serves it.
#[cfg(miri)]
type Memory = Vec<u8>;

#[cfg(not(miri))]
fn reserve(len: usize) -> std::io::Result<Memory> {
    let memory = memmap2::MmapOptions::new().len(len).no_reserve_swap().map_anon()?;
    #[cfg(target_os = "linux")]
    if let Err(error) = memory.advise(memmap2::Advice::HugePage) {
        log::debug!("huge pages are not to be had for the page cache: {error}");
    }
    Ok(memory)
}

#[cfg(miri)]
fn reserve(len: usize) -> std::io::Result<Memory> {
    Ok(vec![0; len])
}

/// All frames of a database.
#[derive(Debug)]
pub(crate) struct Frames {
    /// Unmapped when the last reader is gone.
    #[cfg_attr(
        any(miri, not(unix)),
        expect(dead_code, reason = "owned for its end alone where none of it is given back")
    )]
    memory: Memory,
    base: BasePointer,
    frame_bytes: usize,
    capacity: u32,
    chunks: Box<[OnceLock<Chunk>]>,
    translation: Translation,
    epochs: Epochs,
    pool: Mutex<Pool>,
    account: Arc<Account>,
}

/// Start of the mapping.
#[derive(Debug, Clone, Copy)]
struct BasePointer(*mut u8);

// SAFETY: the pointer leads into a mapping that lives as long as `Frames`; who may read or write through it, and when,
// is settled by the states of the frames, not by threads.
unsafe impl Send for BasePointer {}
// SAFETY: as above.
unsafe impl Sync for BasePointer {}

// SAFETY: nothing is in the cell; that accesses to it exclude each other is what loom checks.
#[cfg(loom)]
unsafe impl Sync for watch::Watch {}

#[derive(Debug)]
struct Pool {
    free: Vec<u32>,
    /// Frames from here on were never used.
    fresh: u32,
    /// Free frames without memory.
    returned: Vec<u32>,
    /// Retired frames with the tag of their unlinking, oldest first.
    limbo: VecDeque<(u64, u32)>,
    hand: u32,
}

impl Frames {
    /// Reserves address space for as many frames as fit into `bytes_max`; memory is taken as frames are first used.
    pub(crate) fn new(layout: &Layout, bytes_max: usize) -> std::io::Result<Self> {
        let frame_bytes = layout.node_bytes() as usize;
        let capacity = u32::try_from(bytes_max / frame_bytes).unwrap_or(u32::MAX).min(RETIRED - 1);
        let len = (capacity as usize * frame_bytes).max(1);
        let mut memory = reserve(len)?;
        let base = BasePointer(memory.as_mut_ptr());
        Ok(Self {
            memory,
            base,
            frame_bytes,
            capacity,
            chunks: (0..(capacity as usize).div_ceil(CHUNK)).map(|_| OnceLock::new()).collect(),
            translation: Translation::new(layout),
            epochs: Epochs::new(),
            pool: Mutex::new(Pool {
                free: Vec::new(),
                fresh: 0,
                returned: Vec::new(),
                limbo: VecDeque::new(),
                hand: 0,
            }),
            account: Account::new(usize::MAX),
        })
    }

    /// Enters an epoch: frames seen from here on keep their bytes until the guard is dropped.
    pub(crate) fn enter(&self) -> Epoch<'_> {
        self.epochs.enter()
    }

    #[inline]
    pub(crate) fn place(&self, page: PageId) -> Option<Place> {
        self.translation.place(page)
    }

    /// The frame of a page, where it is in memory.
    #[inline]
    pub(crate) fn get<'e>(&'e self, epoch: &'e Epoch<'_>, place: Place) -> Option<FrameRef<'e>> {
        assert!(epoch.is_of(&self.epochs), "an epoch protects the frames that it was entered for");
        let index = self.translation.word(place)?.load(Ordering::Acquire).checked_sub(1)?;
        let state = self.state(index);
        if state.load(Ordering::Relaxed) & USED == 0 {
            state.fetch_or(USED, Ordering::Relaxed);
        }
        // SAFETY: the word named the frame while this thread is in an epoch, so the frame is not refilled before the
        // epoch ends; it was filled before it was linked, which the acquiring load of the word orders before this.
        Some(FrameRef { frames: self, bytes: unsafe { self.bytes(index) }, index })
    }

    pub(crate) fn contains(&self, page: PageId) -> bool {
        let word = self.place(page).and_then(|place| self.translation.word(place));
        word.is_some_and(|word| word.load(Ordering::Acquire) != 0)
    }

    /// Ends a hold.
    fn release(&self, index: u32) {
        if self.state(index).fetch_sub(1, Ordering::AcqRel) & (RETIRED | HOLDS) == RETIRED | 1 {
            // It was retired while it was held; the last holder sends it on.
            self.send_to_limbo(index);
        }
    }

    /// Fills a frame with a node and links it to its page. Returns the frame, held; `None` where every frame is in
    /// use. After an error of `fill` nothing is linked.
    pub(crate) fn load<E>(
        &self,
        page: PageId,
        place: Place,
        is_branch: bool,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Option<Hold<'_>>, E> {
        let Some(index) = self.take() else { return Ok(None) };
        let taken = Taken { frames: self, index };
        // SAFETY: a frame that was taken from the pool is retired, linked from nowhere and held by nobody, and all
        // epochs that saw it linked are over: this is the only reference to its bytes.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.pointer(index), self.frame_bytes) };
        self.watch_write(index);
        fill(bytes)?;
        let state = self.state(index);
        self.page_of(index).store(page.get(), Ordering::Relaxed);
        let word = self.translation.word_or_make(place, &self.account);
        state.store(1 | USED | if is_branch { BRANCH } else { 0 }, Ordering::Relaxed);
        // Whoever loads the word sees the bytes and the state.
        let link = |word: &AtomicU32| word.compare_exchange(0, index + 1, Ordering::AcqRel, Ordering::Relaxed);
        if word.is_none_or(|word| link(word).is_err()) {
            // Somebody else was faster with the same bytes, or there is no room for a word. This frame was never linked;
            // it stays private until its only holder releases it.
            state.store(RETIRED | 1, Ordering::Relaxed);
        }
        std::mem::forget(taken);
        // SAFETY: the frame is held from here on.
        let bytes = FrameBytes::of(unsafe { self.bytes(index) });
        Ok(Some(Hold { frames: self, index, bytes }))
    }

    /// Unlinks a page, so that its run can be handed out again.
    pub(crate) fn forget(&self, page: PageId) {
        let Some(word) = self.place(page).and_then(|place| self.translation.word(place)) else { return };
        // Without the epoch the frame could be evicted and filled with another page before it is marked here.
        let _epoch = self.enter();
        let Some(index) = word.swap(0, Ordering::AcqRel).checked_sub(1) else { return };
        if self.state(index).fetch_or(RETIRED, Ordering::AcqRel) & (RETIRED | HOLDS) == 0 {
            self.send_to_limbo(index);
        }
    }

    #[inline]
    fn pointer(&self, index: u32) -> *mut u8 {
        assert!(index < self.capacity, "no frame has this number");
        // SAFETY: the index is below the capacity, so the offset stays inside the mapping.
        unsafe { self.base.0.add(index as usize * self.frame_bytes) }
    }

    /// The bytes of a frame.
    ///
    /// # Safety
    /// Nobody may fill the frame while the slice lives.
    #[inline]
    unsafe fn bytes(&self, index: u32) -> &[u8] {
        self.watch_read(index);
        // SAFETY: `pointer` stays inside the mapping, which is readable, initialised (zero or filled) and lives as
        // long as `self`; that nobody writes is the caller's promise.
        unsafe { std::slice::from_raw_parts(self.pointer(index), self.frame_bytes) }
    }

    #[inline]
    fn chunk(&self, index: u32) -> &Chunk {
        self.chunks[index as usize / CHUNK].get_or_init(|| Chunk {
            states: (0..CHUNK).map(|_| AtomicU32::new(RETIRED)).collect(),
            pages: (0..CHUNK).map(|_| AtomicU64::new(0)).collect(),
            #[cfg(loom)]
            watches: (0..CHUNK).map(|_| watch::Watch::new()).collect(),
        })
    }

    #[inline]
    fn state(&self, index: u32) -> &AtomicU32 {
        &self.chunk(index).states[index as usize % CHUNK]
    }

    fn page_of(&self, index: u32) -> &AtomicU64 {
        &self.chunk(index).pages[index as usize % CHUNK]
    }

    fn send_to_limbo(&self, index: u32) {
        let tag = self.epochs.advance();
        self.pool.lock().limbo.push_back((tag, index));
    }

    /// Takes a frame that nobody can see: a free one, a fresh one, or an evicted one.
    fn take(&self) -> Option<u32> {
        let limit = self.limit();
        let mut pool = self.pool.lock();
        if pool.in_use() > limit {
            self.shrink(&mut pool, limit);
        }
        if pool.free.is_empty() && pool.limbo.len() >= EVICT_BATCH {
            // Memory that was touched before costs less than what the system has to give and clear.
            self.drain_limbo(&mut pool);
        }
        if let Some(index) = pool.free.pop() {
            return Some(index);
        }
        if pool.in_use() < limit {
            return Some(pool.returned.pop().unwrap_or_else(|| {
                pool.fresh += 1;
                pool.fresh - 1
            }));
        }
        self.drain_limbo(&mut pool);
        // The caller is in an epoch itself, so what is evicted now is for later: a batch always ages ahead of its use.
        self.evict(&mut pool);
        if pool.free.is_empty() {
            self.drain_limbo(&mut pool);
        }
        pool.free.pop()
    }

    /// Gives the memory of a free frame back to the system, where the frame is whole pages of the system.
    #[cfg(all(unix, not(miri)))]
    fn return_memory(&self, index: u32) {
        if self.frame_bytes.is_multiple_of(rustix::param::page_size()) {
            let (advice, offset) = (memmap2::UncheckedAdvice::DontNeed, index as usize * self.frame_bytes);
            // SAFETY: the frame was taken from the pool, so nobody refers to its bytes; they become zero, and whoever
            // takes the frame next fills it first. The range begins and ends with a page of the system.
            if let Err(error) = unsafe { self.memory.unchecked_advise_range(advice, offset, self.frame_bytes) } {
                log::debug!("memory of the page cache could not be given back: {error}");
            }
        }
    }

    /// Frees what was retired before the oldest epoch that somebody is in.
    fn drain_limbo(&self, pool: &mut Pool) {
        let oldest = self.epochs.oldest();
        while let Some((tag, index)) = pool.limbo.front().copied() {
            // A tag is given before its frame is queued, so a later entry can carry an earlier one; then it waits.
            if tag > oldest {
                break;
            }
            pool.limbo.pop_front();
            self.poison(index);
            pool.free.push(index);
        }
    }

    /// Makes whoever still reads a frame that is free for reuse notice, where debug assertions are on.
    fn poison(&self, index: u32) {
        if cfg!(debug_assertions) {
            self.watch_write(index);
            // SAFETY: the frame is retired, nobody holds it, and every epoch that saw it linked is over.
            unsafe { std::slice::from_raw_parts_mut(self.pointer(index), self.frame_bytes) }.fill(POISON);
        }
    }

    /// Retires a batch of frames that were not used lately: leaves first, branches only where no leaf is left.
    fn evict(&self, pool: &mut Pool) {
        if pool.limbo.len() >= EVICT_BATCH {
            return;
        }
        let mut evicted = 0;
        // Two rounds clear every mark of use; a third takes branches too.
        for step in 0..3 * u64::from(pool.fresh) {
            let index = pool.hand;
            pool.hand = (pool.hand + 1) % pool.fresh;
            let state = self.state(index);
            let seen = state.load(Ordering::Relaxed);
            let spared = seen & BRANCH != 0 && step < 2 * u64::from(pool.fresh);
            if seen & (RETIRED | HOLDS) != 0 || spared {
                continue;
            }
            if seen & USED != 0 {
                state.fetch_and(!USED, Ordering::Relaxed);
                continue;
            }
            if self.retire(index, seen) {
                pool.limbo.push_back((self.epochs.advance(), index));
                evicted += 1;
                if evicted == EVICT_BATCH {
                    break;
                }
            }
        }
    }

    /// Retires a linked frame in whose state nothing changed since it was seen unheld; says whether it did.
    fn retire(&self, index: u32, seen: u32) -> bool {
        let retired = self.state(index).compare_exchange(seen, seen | RETIRED, Ordering::AcqRel, Ordering::Relaxed);
        if retired.is_err() {
            return false;
        }
        let word = PageId::new(self.page_of(index).load(Ordering::Relaxed))
            .and_then(|page| self.place(page))
            .and_then(|place| self.translation.word(place));
        // `forget` may have unlinked the page meanwhile; then it found the frame retired and left it to this caller.
        if let Some(word) = word {
            let unlinked = word.compare_exchange(index + 1, 0, Ordering::AcqRel, Ordering::Relaxed);
            debug_assert!(unlinked.is_ok() || word.load(Ordering::Relaxed) != index + 1, "a retired frame is linked");
        }
        true
    }
}

/// A frame that is being filled; returned to the pool where filling fails or panics.
struct Taken<'f> {
    frames: &'f Frames,
    index: u32,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.frames.pool.lock().free.push(self.index);
    }
}
