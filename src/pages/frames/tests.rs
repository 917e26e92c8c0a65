//! Frames as readers and loaders use them, alone and many at a time.
//!
//! Invariant: whoever holds a frame, or saw it in an epoch, keeps seeing the bytes of its page.
//! Layer 2 (pages).

use super::*;
use crate::pages::snapshot::PageRef;
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
        assert_eq!(frames.state(index).load(Ordering::Relaxed) & HOLDS, 0, "frame {index} is held");
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
fn a_page_whose_holds_are_counted_out_is_copied() {
    let frames = Frames::new(&layout(), 4 * 512).unwrap();
    let place = frames.place(page(3)).unwrap();
    let held = frames.load(page(3), place, false, fill(3)).unwrap().unwrap();
    let counted = frames.state(held.index).fetch_or(HOLDS, Ordering::Relaxed);
    assert!(held.try_clone().is_none());
    let index = held.index;
    let page_ref = PageRef::held(held);
    let copy = page_ref.clone();
    assert_ne!(copy.as_ptr(), page_ref.as_ptr());
    assert_is(&copy, 3);
    assert_eq!(frames.state(index).swap(counted, Ordering::Relaxed), counted | HOLDS);
    drop((page_ref, copy));
    assert_accounted(&frames);
}

#[test]
fn frames_that_were_forgotten_are_filled_again_before_fresh_ones() {
    let count = 2 * EVICT_BATCH as u64;
    let layout = Layout::new(512, 1, 1 << 12).unwrap();
    let frames = Frames::new(&layout, 16 * EVICT_BATCH * 512).unwrap();
    let load = |number: u64| {
        let page = PageId::new(26 + number).unwrap();
        let place = frames.place(page).unwrap();
        assert!(frames.load(page, place, false, fill(number % 200)).unwrap().is_some());
        page
    };
    let pages: Vec<_> = (0..count).map(load).collect();
    let touched = frames.pool.lock().fresh;
    for page in pages {
        frames.forget(page);
    }
    for number in count..2 * count {
        load(number);
    }
    assert_eq!(frames.pool.lock().fresh, touched);
}

#[test]
fn a_hold_that_is_refused_takes_no_other_away() {
    let frames = Frames::new(&layout(), 2 * 512).unwrap();
    let place = frames.place(page(3)).unwrap();
    let held = frames.load(page(3), place, false, fill(3)).unwrap().unwrap();
    let epoch = frames.enter();
    let seen = frames.get(&epoch, place).unwrap();
    frames.forget(page(3));
    let before = frames.state(seen.index).load(Ordering::Relaxed);
    assert!(seen.hold().is_none());
    assert_eq!(frames.state(seen.index).load(Ordering::Relaxed), before);
    drop(epoch);
    for number in 4..12 {
        frames.load(page(number), frames.place(page(number)).unwrap(), false, fill(number)).unwrap();
        assert_is(&held, 3);
    }
    drop(held);
    assert_accounted(&frames);
}

#[test]
fn with_every_frame_held_there_is_none_to_load_into() {
    let frames = Frames::new(&layout(), 2 * 512).unwrap();
    let load = |number| frames.load(page(number), frames.place(page(number)).unwrap(), false, fill(number)).unwrap();
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
        drop(held.try_clone().unwrap());
        assert_is(&held, number);
    }
}
