//! Frames under an account: what others charge takes frames away, and gives them back.
//!
//! Invariant: pages that are linked never take more than the account leaves for frames, but for a batch on its way out.
//! Layer 2 (pages).

use super::Frames;
use crate::base::ids::PageId;
use crate::base::sync::Arc;
use crate::pages::account::{Account, Charge};
use crate::pages::layout::Layout;
use std::convert::Infallible;

const BATCH: usize = 64;

/// Frames of whole pages of the system, so that their memory is given back.
fn ordinary() -> Layout {
    Layout::new(4096, 2, 65536).unwrap()
}

fn frames(layout: &Layout, bytes_max: usize) -> (Frames, Arc<Account>) {
    let account = Account::new(bytes_max);
    let frames = Frames::new(layout, account.frames_bytes_max()).unwrap().under(&account);
    (frames, account)
}

/// The `index`-th node of a region.
fn page(layout: &Layout, region: u32, index: u64) -> PageId {
    let first = layout.region_start(region) + u64::from(layout.reserved_units().next_multiple_of(layout.node_units()));
    PageId::new(first + index * u64::from(layout.node_units())).unwrap()
}

/// Reads a page through the frames, and checks that it is that page.
fn visit(frames: &Frames, page: PageId) {
    let place = frames.place(page).unwrap();
    let number = page.get().to_le_bytes();
    let epoch = frames.enter();
    if let Some(frame) = frames.get(&epoch, place) {
        assert!(frame.bytes().chunks_exact(8).all(|word| word == number), "{page} shows another page's bytes");
        return;
    }
    let fill = |bytes: &mut [u8]| {
        bytes.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&number));
        Ok::<_, Infallible>(())
    };
    if let Some(held) = frames.load(page, place, false, fill).unwrap() {
        assert!(held.chunks_exact(8).all(|word| word == number));
    }
}

fn linked(frames: &Frames, pages: impl Iterator<Item = PageId>) -> usize {
    pages.filter(|page| frames.contains(*page)).count()
}

#[test]
fn frames_give_way_to_charges_and_come_back() {
    let (layout, count) = if cfg!(miri) { (Layout::new(512, 1, 1024).unwrap(), 200) } else { (ordinary(), 1000) };
    let node_bytes = layout.node_bytes() as usize;
    let (frames, account) = frames(&layout, count / 2 * node_bytes);
    let pages = || (0..count as u64 - 50).map(|index| page(&layout, 0, index));
    let rounds = || (0..if cfg!(miri) { 2 } else { 3 }).for_each(|_| pages().for_each(|page| visit(&frames, page)));
    rounds();
    let before = linked(&frames, pages());
    assert!(before * node_bytes <= account.frames_bytes_max() && before >= count / 4, "{before} of {count}");
    let mut charge = Charge::new(&account);
    charge.set(count / 4 * node_bytes);
    rounds();
    let during = linked(&frames, pages());
    assert!(during * node_bytes <= account.frames_bytes_max(), "{during} frames are linked");
    assert!(during < before * 2 / 3 && during > 0);
    drop(charge);
    rounds();
    assert!(linked(&frames, pages()) + BATCH >= before);
}

#[test]
fn words_for_many_regions_leave_room_for_fewer_frames_and_then_none_are_made() {
    let (layout, regions) = if cfg!(miri) { (Layout::new(512, 1, 4096).unwrap(), 40) } else { (ordinary(), 400) };
    let words_bytes = (layout.region_units() / layout.node_units()) as usize * 4;
    let (frames, account) = frames(&layout, regions as usize * words_bytes);
    // A few pages of each region, as a large sparse file has them.
    let pages = |region| (0..8).map(move |index| page(&layout, region, index));
    let before = account.frames_bytes_max();
    for region in 0..regions {
        pages(region).for_each(|page| visit(&frames, page));
        let all = linked(&frames, (0..=region).flat_map(pages));
        let limit = account.frames_bytes_max() / layout.node_bytes() as usize;
        assert!(all <= limit + BATCH, "{all} frames are linked after {region} regions, {limit} may be");
        assert!(account.charged() <= account.translation_bytes_max());
    }
    assert!(account.frames_bytes_max() < before * 2 / 3, "half of the budget is translation");
    assert!(account.charged() > account.translation_bytes_max() * 9 / 10);
    assert_eq!(linked(&frames, pages(regions - 1)), 0, "the last regions have no words");
    visit(&frames, page(&layout, 0, 0));
    assert!(frames.contains(page(&layout, 0, 0)), "the first have theirs");
}

#[test]
fn readers_see_whole_pages_while_frames_come_and_go() {
    let (layout, count) = if cfg!(miri) { (Layout::new(512, 1, 1024).unwrap(), 40) } else { (ordinary(), 400) };
    let (frames, account) = frames(&layout, count * layout.node_bytes() as usize);
    let rounds: usize = if cfg!(miri) { 3 } else { 200 };
    std::thread::scope(|scope| {
        for reader in 1..=2_u64 {
            let (frames, layout) = (&frames, &layout);
            scope.spawn(move || {
                for step in 0..(rounds * count) as u64 {
                    visit(frames, page(layout, 0, step.wrapping_mul(reader * 2_654_435_761) % count as u64));
                }
            });
        }
        for round in 0..rounds {
            let mut charge = Charge::new(&account);
            charge.set((round % 7) * count * layout.node_bytes() as usize / 8);
            std::thread::yield_now();
        }
    });
}

#[test]
fn frames_give_way_to_what_is_buffered_without_a_load() {
    let (layout, count) = if cfg!(miri) { (Layout::new(512, 1, 1024).unwrap(), 200) } else { (ordinary(), 1000) };
    let (frames, account) = frames(&layout, count * layout.node_bytes() as usize);
    for index in 0..count as u64 - 50 {
        visit(&frames, page(&layout, 0, index));
    }
    account.set_dirty(account.frames_bytes_max());
    let limit = frames.limit() as usize;
    for _ in 0..count {
        frames.keep_limit();
    }
    let left = linked(&frames, (0..count as u64).map(|index| page(&layout, 0, index)));
    assert!(left <= limit && frames.pool.lock().in_use() as usize <= limit, "{left} frames, {limit} allowed");
    visit(&frames, page(&layout, 0, 3));
}
