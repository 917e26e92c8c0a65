//! Page frames: verified nodes in one reserved range of memory, and the rules by which a frame is reused.
//!
//! Invariant: the bytes of a frame change only while it is retired, linked from nowhere, held by nobody, and every
//! reader that could have seen it linked has left its epoch. So a slice handed out under an epoch or a hold never
//! changes.
//! Layer 2 (pages). The only place of the crate with `unsafe`, beside system calls.
#![expect(unsafe_code, reason = "frames are cut out of one mapping and shared without locks; see each SAFETY note")]

mod limit;

use super::account::Account;
use super::epoch::{Epoch, Epochs};
use super::layout::Layout;
use super::snapshot::Snapshot;
use super::translation::{Place, Translation};
use crate::base::ids::PageId;
use crate::base::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use crate::base::sync::{Arc, Mutex};
use std::collections::VecDeque;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::sync::OnceLock;

/// State bit of a frame that is not linked: being filled, waiting in limbo, or free. The other bits count holds.
const RETIRED: u32 = 1 << 31;

/// Frames whose states are kept together, and made together.
const CHUNK: usize = 1024;

/// How many frames are evicted at once.
const EVICT_BATCH: usize = 32;

#[derive(Debug)]
struct State {
    /// Holds, and `RETIRED`.
    holds: AtomicU32,
    /// The page whose word names this frame, while one does.
    page: AtomicU64,
    /// Used since the clock passed.
    used: AtomicBool,
    /// Branches are evicted only when nothing else is left.
    is_branch: AtomicBool,
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
    memory: Memory,
    base: BasePointer,
    frame_bytes: usize,
    capacity: u32,
    states: Box<[OnceLock<Box<[State]>>]>,
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

/// A node in a frame, readable while the epoch lasts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FrameRef<'e> {
    frames: &'e Frames,
    bytes: &'e [u8],
    index: u32,
}

impl<'e> FrameRef<'e> {
    pub(crate) fn bytes(&self) -> &'e [u8] {
        self.bytes
    }

    /// Keeps the frame beyond the epoch; `None` where it is being retired, so that only the epoch protects it.
    pub(crate) fn hold(&self) -> Option<Hold<'e>> {
        let holds = &self.frames.state(self.index).holds;
        holds
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |holds| (holds & RETIRED == 0).then_some(holds + 1))
            .is_ok()
            .then_some(Hold { frames: self.frames, index: self.index })
    }
}

/// A held frame: its bytes stay as they are.
#[derive(Debug)]
pub(crate) struct Hold<'f> {
    frames: &'f Frames,
    index: u32,
}

impl Hold<'_> {
    /// The same hold, borrowed from the same frames by another way.
    pub(crate) fn borrowed_from(self, frames: &Frames) -> Hold<'_> {
        assert!(std::ptr::eq(self.frames, frames), "a frame is held in the frames that it belongs to");
        let index = ManuallyDrop::new(self).index;
        Hold { frames, index }
    }

    /// The same hold, together with a snapshot of the store that the frames belong to.
    pub(crate) fn with_snapshot(self, snapshot: &Arc<Snapshot>) -> SnapshotHold {
        assert!(std::ptr::eq(self.frames, snapshot.store.frames()), "a frame is kept with a snapshot of its store");
        let index = ManuallyDrop::new(self).index;
        SnapshotHold { snapshot: Arc::clone(snapshot), index }
    }
}

impl Deref for Hold<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the frame is held until `self` is dropped, and not filled before that.
        unsafe { self.frames.bytes(self.index) }
    }
}

impl Clone for Hold<'_> {
    fn clone(&self) -> Self {
        self.frames.state(self.index).holds.fetch_add(1, Ordering::Relaxed);
        Self { frames: self.frames, index: self.index }
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
}

impl SnapshotHold {
    fn frames(&self) -> &Frames {
        self.snapshot.store.frames()
    }
}

impl Deref for SnapshotHold {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the frame is held until `self` is dropped, and not filled before that; a snapshot never changes its
        // store, nor a store its frames.
        unsafe { self.frames().bytes(self.index) }
    }
}

impl Clone for SnapshotHold {
    fn clone(&self) -> Self {
        self.frames().state(self.index).holds.fetch_add(1, Ordering::Relaxed);
        Self { snapshot: Arc::clone(&self.snapshot), index: self.index }
    }
}

impl Drop for SnapshotHold {
    fn drop(&mut self) {
        self.frames().release(self.index);
    }
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
            states: (0..(capacity as usize).div_ceil(CHUNK)).map(|_| OnceLock::new()).collect(),
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

    pub(crate) fn place(&self, page: PageId) -> Option<Place> {
        self.translation.place(page)
    }

    /// The frame of a page, where it is in memory.
    pub(crate) fn get<'e>(&'e self, epoch: &'e Epoch<'_>, place: Place) -> Option<FrameRef<'e>> {
        assert!(epoch.is_of(&self.epochs), "an epoch protects the frames that it was entered for");
        let index = self.translation.word(place)?.load(Ordering::Acquire).checked_sub(1)?;
        let state = self.state(index);
        if !state.used.load(Ordering::Relaxed) {
            state.used.store(true, Ordering::Relaxed);
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
        if self.state(index).holds.fetch_sub(1, Ordering::AcqRel) == RETIRED | 1 {
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
        fill(bytes)?;
        let state = self.state(index);
        state.page.store(page.get(), Ordering::Relaxed);
        state.used.store(true, Ordering::Relaxed);
        state.is_branch.store(is_branch, Ordering::Relaxed);
        let word = self.translation.word_or_make(place, &self.account);
        state.holds.store(1, Ordering::Relaxed);
        // Whoever loads the word sees the bytes and the state.
        let link = |word: &AtomicU32| word.compare_exchange(0, index + 1, Ordering::AcqRel, Ordering::Relaxed);
        if word.is_none_or(|word| link(word).is_err()) {
            // Somebody else was faster with the same bytes, or there is no room for a word. This frame was never linked;
            // it stays private until its only holder releases it.
            state.holds.store(RETIRED | 1, Ordering::Relaxed);
        }
        std::mem::forget(taken);
        Ok(Some(Hold { frames: self, index }))
    }

    /// Unlinks a page, so that its run can be handed out again.
    pub(crate) fn forget(&self, page: PageId) {
        let Some(word) = self.place(page).and_then(|place| self.translation.word(place)) else { return };
        // Without the epoch the frame could be evicted and filled with another page before it is marked here.
        let _epoch = self.enter();
        let Some(index) = word.swap(0, Ordering::AcqRel).checked_sub(1) else { return };
        if self.state(index).holds.fetch_or(RETIRED, Ordering::AcqRel) == 0 {
            self.send_to_limbo(index);
        }
    }

    fn pointer(&self, index: u32) -> *mut u8 {
        assert!(index < self.capacity, "no frame has this number");
        // SAFETY: the index is below the capacity, so the offset stays inside the mapping.
        unsafe { self.base.0.add(index as usize * self.frame_bytes) }
    }

    /// The bytes of a frame.
    ///
    /// # Safety
    /// Nobody may fill the frame while the slice lives.
    unsafe fn bytes(&self, index: u32) -> &[u8] {
        // SAFETY: `pointer` stays inside the mapping, which is readable, initialised (zero or filled) and lives as
        // long as `self`; that nobody writes is the caller's promise.
        unsafe { std::slice::from_raw_parts(self.pointer(index), self.frame_bytes) }
    }

    fn state(&self, index: u32) -> &State {
        let chunk = self.states[index as usize / CHUNK].get_or_init(|| {
            let state = || State {
                holds: AtomicU32::new(RETIRED),
                page: AtomicU64::new(0),
                used: AtomicBool::new(false),
                is_branch: AtomicBool::new(false),
            };
            (0..CHUNK).map(|_| state()).collect()
        });
        &chunk[index as usize % CHUNK]
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
            pool.free.push(index);
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
            if state.holds.load(Ordering::Relaxed) != 0 {
                continue;
            }
            let spared = state.is_branch.load(Ordering::Relaxed) && step < 2 * u64::from(pool.fresh);
            if spared || state.used.swap(false, Ordering::Relaxed) {
                continue;
            }
            if self.retire(index, state) {
                pool.limbo.push_back((self.epochs.advance(), index));
                evicted += 1;
                if evicted == EVICT_BATCH {
                    break;
                }
            }
        }
    }

    /// Retires a linked frame that nobody holds; says whether it did.
    fn retire(&self, index: u32, state: &State) -> bool {
        if state.holds.compare_exchange(0, RETIRED, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return false;
        }
        let word = PageId::new(state.page.load(Ordering::Relaxed))
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    const PAGES: u64 = 30;
    const ROUNDS: u32 = if cfg!(miri) { 150 } else { 60_000 };

    fn layout() -> Layout {
        Layout::new(512, 1, 64).unwrap()
    }

    fn page(number: u64) -> PageId {
        PageId::new(26 + number).unwrap()
    }

    fn fill(number: u64) -> impl FnOnce(&mut [u8]) -> Result<(), Infallible> {
        move |bytes| {
            bytes.fill(u8::try_from(number).unwrap());
            Ok(())
        }
    }

    fn assert_is(bytes: &[u8], number: u64) {
        assert!(bytes.iter().all(|byte| u64::from(*byte) == number), "page {number} shows another page's bytes");
    }

    /// Every frame is linked, free, fresh or in limbo, once, and none is held.
    fn assert_accounted(frames: &Frames) {
        let pool = frames.pool.lock();
        let linked = (0..PAGES).filter(|number| frames.contains(page(*number))).count();
        let idle = pool.free.len() + pool.limbo.len() + (frames.capacity - pool.in_use()) as usize;
        assert_eq!(linked + idle, frames.capacity as usize);
        for index in 0..pool.fresh {
            assert_eq!(frames.state(index).holds.load(Ordering::Relaxed) & !RETIRED, 0, "frame {index} is held");
        }
    }

    #[test]
    fn a_page_is_found_until_it_is_forgotten_and_held_bytes_outlive_that() {
        let frames = Frames::new(&layout(), 4 * 512).unwrap();
        let place = frames.place(page(3)).unwrap();
        let held = frames.load(page(3), place, false, fill(3)).unwrap().unwrap();
        assert!(frames.contains(page(3)));
        frames.forget(page(3));
        assert!(!frames.contains(page(3)));
        for number in 4..12 {
            let loaded = frames.load(page(number), frames.place(page(number)).unwrap(), false, fill(number)).unwrap();
            assert!(loaded.is_some());
            assert_is(&held, 3);
        }
        drop(held);
        assert_accounted(&frames);
    }

    #[test]
    fn with_every_frame_held_there_is_none_to_load_into() {
        let frames = Frames::new(&layout(), 2 * 512).unwrap();
        let load =
            |number| frames.load(page(number), frames.place(page(number)).unwrap(), false, fill(number)).unwrap();
        let (first, second) = (load(1).unwrap(), load(2).unwrap());
        assert!(load(3).is_none());
        drop(first);
        let third = load(3).unwrap();
        assert_is(&second, 2);
        drop((second, third));
        assert_accounted(&frames);
    }

    #[test]
    fn a_failed_fill_links_nothing_and_loses_no_frame() {
        let frames = Frames::new(&layout(), 512).unwrap();
        let place = frames.place(page(1)).unwrap();
        for _ in 0..3 {
            assert_eq!(frames.load(page(1), place, false, |_| Err("damaged")).unwrap_err(), "damaged");
            assert!(!frames.contains(page(1)));
        }
        drop(frames.load(page(1), place, false, fill(1)).unwrap().unwrap());
        assert_accounted(&frames);
    }

    #[test]
    fn leaves_are_evicted_before_branches() {
        let frames = Frames::new(&layout(), 64 * 512).unwrap();
        let load = |number: u64, is_branch| {
            let loaded = frames.load(page(number), frames.place(page(number)).unwrap(), is_branch, fill(number % 256));
            assert!(loaded.unwrap().is_some());
        };
        (0..20).for_each(|number| load(number, true));
        (20..300).for_each(|number| load(number, false));
        assert!((0..20).all(|number| frames.contains(page(number))));
    }

    #[test]
    #[should_panic(expected = "an epoch protects the frames that it was entered for")]
    fn an_epoch_of_other_frames_is_refused() {
        let (frames, others) = (Frames::new(&layout(), 512).unwrap(), Frames::new(&layout(), 512).unwrap());
        let place = frames.place(page(1)).unwrap();
        let _ = frames.get(&others.enter(), place);
    }

    #[test]
    fn no_reader_ever_sees_a_frame_change() {
        let frames = Arc::new(Frames::new(&layout(), 8 * 512).unwrap());
        std::thread::scope(|scope| {
            for thread in 1..=3_u64 {
                let frames = Arc::clone(&frames);
                scope.spawn(move || {
                    let mut random = thread;
                    for _ in 0..ROUNDS {
                        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        visit(&frames, (random >> 33) % PAGES, (random >> 20) % 16);
                    }
                });
            }
        });
        assert_accounted(&frames);
    }

    /// One step of a thread: forgets a page, or reads it in one of the ways that there are.
    fn visit(frames: &Frames, number: u64, how: u64) {
        if how == 0 {
            frames.forget(page(number));
            return;
        }
        let place = frames.place(page(number)).unwrap();
        let epoch = frames.enter();
        let held = match frames.get(&epoch, place) {
            Some(frame) => {
                assert_is(frame.bytes(), number);
                let held = if how < 8 { None } else { frame.hold() };
                assert_is(frame.bytes(), number);
                held
            }
            None => frames.load(page(number), place, number < 2, fill(number)).unwrap(),
        };
        let held = held.map(|held| held.borrowed_from(frames));
        drop(epoch);
        if let Some(held) = held {
            drop(held.clone());
            assert_is(&held, number);
        }
    }
}
