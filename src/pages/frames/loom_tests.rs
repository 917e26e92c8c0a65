//! Frames under loom: every order of a few steps of two or three threads, as far as the bound of preemptions goes.
//!
//! Invariant: from when a reader gets a frame until it lets go, the frame holds the bytes of its page and nobody fills
//! it; afterwards every frame is linked, free, fresh or in limbo, once. Bytes are compared, which notices what is
//! written too early, and accesses are watched, which notices what merely is not ordered.
//! Layer 2 (pages).

use super::*;
use crate::base::ids::{TransactionId, TreeRoot};
use crate::io::memory::MemoryStorage;
use crate::pages::header::{Format, GodByte};
use crate::pages::snapshot::Snapshot;
use crate::pages::store::PageStore;
use crate::pages::version::{Pins, Trees, Version};
use loom::thread;
use std::convert::Infallible;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

/// Explores a model, and prints how many orders that were. `LOOM_MAX_PREEMPTIONS` sets another bound.
fn explore(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let (started, orders) = (Instant::now(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&orders);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        model();
    });
    println!("{} orders in {:.1} s", orders.load(Ordering::Relaxed), started.elapsed().as_secs_f64());
}

fn layout() -> Layout {
    Layout::new(512, 1, 32).unwrap()
}

fn page(number: u8) -> PageId {
    PageId::new(layout().region_start(0) + u64::from(layout().reserved_units()) + u64::from(number)).unwrap()
}

/// Frames whose states and words are there: who makes those is left to the standard library, which loom does not see.
fn frames(capacity: usize) -> Arc<Frames> {
    let frames = Frames::new(&layout(), capacity * 512).unwrap();
    prepare(&frames);
    Arc::new(frames)
}

fn prepare(frames: &Frames) {
    assert!(frames.translation.word_or_make(frames.place(page(0)).unwrap(), &frames.account).is_some());
    frames.chunk(0);
}

/// Reads a page from where it is kept, which the caller says is so.
fn load(frames: &Frames, number: u8) -> Option<Hold<'_>> {
    let fill = |bytes: &mut [u8]| {
        bytes.fill(number);
        Ok::<_, Infallible>(())
    };
    frames.load(page(number), frames.place(page(number)).unwrap(), false, fill).unwrap()
}

fn assert_is(bytes: &[u8], number: u8) {
    assert!(bytes.iter().all(|byte| *byte == number), "page {number} shows another page's bytes");
}

/// Reads a page in an epoch, and holds it beyond that.
fn visit(frames: &Frames, number: u8) {
    let epoch = frames.enter();
    let Some(frame) = frames.get(&epoch, frames.place(page(number)).unwrap()) else { return };
    assert_is(frame.bytes(), number);
    let held = frame.hold().map(|held| held.borrowed_from(frames));
    assert_is(frame.bytes(), number);
    drop(epoch);
    if let Some(held) = held {
        assert_is(&held, number);
        drop(held);
    }
}

/// What must be so when nobody is on the way any more.
fn assert_accounted(frames: &Frames) {
    let pool = frames.pool.lock();
    let mut seen: Vec<u32> = pool.free.iter().copied().chain(pool.limbo.iter().map(|(_, index)| *index)).collect();
    for index in &seen {
        assert_eq!(frames.state(*index).load(Ordering::Relaxed) & (RETIRED | HOLDS), RETIRED, "frame {index} is idle");
    }
    for number in 0..4 {
        let word = frames.translation.word(frames.place(page(number)).unwrap()).unwrap();
        let Some(index) = word.load(Ordering::Relaxed).checked_sub(1) else { continue };
        assert_eq!(frames.state(index).load(Ordering::Relaxed) & (RETIRED | HOLDS), 0, "frame {index} is linked");
        assert_eq!(frames.page_of(index).load(Ordering::Relaxed), page(number).get());
        seen.push(index);
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..pool.fresh).collect::<Vec<_>>(), "each frame is somewhere, once");
}

/// Reads a page as everybody does: from its frame or else from where it is kept, in an epoch all the while.
fn read(frames: &Frames, number: u8) {
    let epoch = frames.enter();
    let held = match frames.get(&epoch, frames.place(page(number)).unwrap()) {
        Some(frame) => {
            assert_is(frame.bytes(), number);
            frame.hold()
        }
        None => load(frames, number),
    };
    let held = held.map(|held| held.borrowed_from(frames));
    drop(epoch);
    if let Some(held) = held {
        assert_is(&held, number);
    }
}

fn spawn(frames: &Arc<Frames>, step: impl FnOnce(&Frames) + 'static) -> thread::JoinHandle<()> {
    let frames = Arc::clone(frames);
    thread::spawn(move || step(&frames))
}

#[test]
fn loom_of_two_loads_of_a_page_one_is_linked_and_both_read_it() {
    explore(6, || {
        let frames = frames(2);
        let other = spawn(&frames, |frames| read(frames, 1));
        read(&frames, 1);
        other.join().unwrap();
        assert!(frames.contains(page(1)));
        assert_accounted(&frames);
    });
}

#[test]
fn loom_a_page_that_is_evicted_stays_as_it_is_for_who_reads_it() {
    explore(6, || {
        let frames = frames(1);
        drop(load(&frames, 1).unwrap());
        let reader = spawn(&frames, |frames| visit(frames, 1));
        if let Some(held) = load(&frames, 2) {
            assert_is(&held, 2);
        }
        reader.join().unwrap();
        assert_accounted(&frames);
    });
}

#[test]
fn loom_pages_that_take_the_frame_from_each_other_show_their_own_bytes() {
    explore(3, || {
        let frames = frames(1);
        drop(load(&frames, 1).unwrap());
        let other = spawn(&frames, |frames| (0..2).for_each(|_| read(frames, 1)));
        (0..2).for_each(|_| read(&frames, 2));
        other.join().unwrap();
        assert_accounted(&frames);
    });
}

#[test]
fn loom_a_page_that_is_forgotten_stays_as_it_is_for_who_reads_it() {
    explore(6, || {
        let frames = frames(1);
        drop(load(&frames, 1).unwrap());
        let reader = spawn(&frames, |frames| visit(frames, 1));
        frames.forget(page(1));
        if let Some(held) = load(&frames, 2) {
            assert_is(&held, 2);
        }
        reader.join().unwrap();
        assert!(!frames.contains(page(1)));
        assert_accounted(&frames);
    });
}

#[test]
fn loom_a_page_that_is_evicted_while_it_is_forgotten_takes_no_other_with_it() {
    explore(6, || {
        let frames = frames(1);
        drop(load(&frames, 1).unwrap());
        let forgetting = spawn(&frames, |frames| frames.forget(page(1)));
        let loaded = [load(&frames, 2).is_some(), load(&frames, 2).is_some()];
        assert_eq!(frames.contains(page(2)), loaded.contains(&true));
        forgetting.join().unwrap();
        assert!(!frames.contains(page(1)));
        assert_eq!(frames.contains(page(2)), loaded.contains(&true));
        assert_accounted(&frames);
    });
}

#[test]
fn loom_a_retired_frame_is_sent_on_once_by_the_last_of_its_holders() {
    explore(5, || {
        let frames = frames(1);
        let held = load(&frames, 1).unwrap();
        std::mem::forget(held.try_clone().unwrap());
        std::mem::forget(held);
        // Each thread takes over one of the two holds.
        let release = |frames: &Frames| {
            let held = Hold::taken_over(frames, 0);
            assert_is(&held, 1);
            drop(held);
        };
        let others = [spawn(&frames, release), spawn(&frames, release)];
        frames.forget(page(1));
        if let Some(held) = load(&frames, 2) {
            assert_is(&held, 2);
        }
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_accounted(&frames);
    });
}

#[test]
fn loom_a_hold_that_comes_too_late_takes_no_other_away() {
    explore(4, || {
        let frames = frames(1);
        std::mem::forget(load(&frames, 1).unwrap());
        let reader = spawn(&frames, |frames| visit(frames, 1));
        let forgetting = spawn(&frames, |frames| {
            frames.forget(page(1));
            assert!(load(frames, 2).is_none_or(|held| held.iter().all(|byte| *byte == 2)));
        });
        let held = Hold::taken_over(&frames, 0);
        assert_is(&held, 1);
        drop(held);
        reader.join().unwrap();
        forgetting.join().unwrap();
        assert_accounted(&frames);
    });
}

/// A snapshot of a store in memory, as whoever reads keeps it.
fn snapshot() -> Arc<Snapshot> {
    let format = Format { layout: layout(), uuid: [1; 16], read_only_compatible: 0, compatible: 0 };
    let god = GodByte { primary: 0, recovery_required: false, ids_seen: false };
    let end_units = u64::from(layout().header_units());
    let store = PageStore::new(Arc::new(MemoryStorage::new()), format, god, end_units, 4096).unwrap();
    prepare(store.frames());
    let trees = Trees { made: TransactionId::new(1), data: TreeRoot::EMPTY, forward: TreeRoot::EMPTY };
    let version = Version::of_trees(trees, 0);
    Arc::new(Snapshot { store: Arc::new(store), pin: Pins::new(version).pin_published(), _owner: None })
}

#[test]
fn loom_the_last_page_that_is_kept_ends_the_frames_after_everybody_let_go() {
    explore(6, || {
        let snapshot = snapshot();
        let kept = load(snapshot.store.frames(), 1).unwrap().with_snapshot(&snapshot);
        let other = {
            let kept = kept.try_clone().unwrap();
            thread::spawn(move || assert_is(&kept, 1))
        };
        snapshot.store.frames().forget(page(1));
        // The database is closed, and the rows that were read from it are not.
        drop(snapshot);
        assert_is(&kept, 1);
        drop(kept);
        other.join().unwrap();
    });
}
