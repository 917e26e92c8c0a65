//! Tests of the allocator against a model of plain sets, and against damaged tables and bitmaps.
//!
//! Invariant: every operation leaves the allocator and the model with the same units, crash and reopening included.
//! Layer 2 (pages).

use super::allocator::{Allocator, BitmapSource, Frozen};
use super::layout::Layout;
use super::region_table::RegionTable;
use crate::base::error::Result;
use crate::base::ids::{PageId, Run};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Default, Clone)]
struct Disk(BTreeMap<u64, Vec<u8>>);

impl BitmapSource for Disk {
    fn read_bitmap(&self, run: Run, bytes_len: usize) -> Result<Vec<u8>> {
        let bytes = self.0.get(&run.page.get()).map_or(&[][..], Vec::as_slice);
        Ok(bytes[..bytes_len.min(bytes.len())].to_vec())
    }
}

impl Disk {
    fn write(&mut self, frozen: &Frozen) {
        for (run, bytes) in &frozen.bitmaps {
            self.0.insert(run.page.get(), bytes.clone());
        }
    }
}

fn tiny() -> Layout {
    Layout::new(512, 1, 32).unwrap()
}

fn run(page: u64, units: u32) -> Run {
    Run::new(PageId::from_allocator(page), units)
}

fn take(allocator: &mut Allocator, units: u32, disk: &Disk) -> Run {
    if let Some(run) = allocator.allocate(units, disk).unwrap() {
        return run;
    }
    let end = allocator.growth_for(units).unwrap();
    allocator.grow(end);
    allocator.allocate(units, disk).unwrap().expect("growth makes room")
}

fn reopen(layout: Layout, table: &[u8], end: u64) -> Result<Allocator> {
    Allocator::open(layout, &RegionTable::decode(table, layout.regions_for(end).unwrap())?, end)
}

#[derive(Debug, Clone, Default)]
struct State {
    allocated: BTreeSet<u64>,
    live: Vec<Run>,
    retired: Vec<Run>,
    born: Vec<Run>,
}

impl State {
    fn image(&self) -> BTreeSet<u64> {
        self.live.iter().chain(&self.born).flat_map(|run| run.page.get()..run.end()).collect()
    }
}

struct Model {
    layout: Layout,
    allocator: Allocator,
    disk: Disk,
    now: State,
    /// State at `begin`.
    before: Option<State>,
    durable: (Vec<u8>, u64, State),
    /// A freeze that waits for its slot.
    pending: Option<(Vec<u8>, u64, State)>,
}

impl Model {
    fn new(layout: Layout) -> Self {
        let allocator = Allocator::create(layout);
        let durable = (RegionTable::default().encode(), allocator.end(), State::default());
        let (disk, now) = (Disk::default(), State::default());
        Self { layout, allocator, disk, now, before: None, durable, pending: None }
    }

    fn expected_start(&self, units: u32) -> Option<u64> {
        let block = u64::from(units.next_power_of_two());
        let regions = self.layout.regions_for(self.allocator.end()).unwrap();
        (0..regions).find_map(|region| {
            let start = self.layout.region_start(region);
            let usable = start + u64::from(self.layout.reserved_units());
            let end = (start + u64::from(self.layout.region_units())).min(self.allocator.end());
            (start..end).step_by(usize::try_from(block).unwrap()).find(|&at| {
                at >= usable && at + block <= end && self.now.allocated.range(at..at + block).next().is_none()
            })
        })
    }

    fn allocate(&mut self, a: u32) {
        let units = a % self.layout.largest_run_units().min(1 << (a >> 8 & 7)) + 1;
        let mut found = self.allocator.allocate(units, &self.disk).unwrap();
        assert_eq!(found.map(|run| run.page.get()), self.expected_start(units));
        if found.is_none() {
            let end = self.allocator.growth_for(units).unwrap();
            self.allocator.grow(end);
            found = self.allocator.allocate(units, &self.disk).unwrap();
            assert_eq!(found.map(|run| run.page.get()), self.expected_start(units));
        }
        let found = found.unwrap();
        assert!(self.layout.contains(found, self.allocator.end()));
        self.now.allocated.extend(found.page.get()..found.end());
        self.now.born.push(found);
    }

    fn publish_model(&mut self) {
        let born = std::mem::take(&mut self.now.born);
        self.now.live.extend(born);
        self.before = None;
    }

    fn freeze(&mut self) {
        if self.pending.is_some() {
            return;
        }
        let frozen = self.allocator.freeze();
        assert_eq!(self.allocator.table_units(), u32::try_from(frozen.table.len().div_ceil(512)).unwrap());
        self.disk.write(&frozen);
        let mut state = self.now.clone();
        state.live.append(&mut state.born);
        state.retired.clear();
        state.allocated = state.image();
        self.pending = Some((frozen.table, self.allocator.end(), state));
    }

    fn commit(&mut self) {
        if let Some(pending) = self.pending.take() {
            self.durable = pending;
            self.allocator.commit();
        }
    }

    fn in_bracket(&mut self, op: u8, a: u32) {
        match op {
            0..6 => self.allocate(a),
            6..8 if !self.now.live.is_empty() => {
                let gone = self.now.live.swap_remove(a as usize % self.now.live.len());
                self.allocator.retire(gone, &self.disk).unwrap();
                let twice = self.allocator.retire(gone, &self.disk).unwrap_err();
                assert!(twice.is_corruption());
                self.now.retired.push(gone);
            }
            8 if !self.now.born.is_empty() => {
                let gone = self.now.born.swap_remove(a as usize % self.now.born.len());
                self.allocator.discard(gone, &self.disk).unwrap();
                assert!(self.allocator.discard(gone, &self.disk).unwrap_err().is_corruption());
                (gone.page.get()..gone.end()).for_each(|unit| assert!(self.now.allocated.remove(&unit)));
            }
            9 => {
                self.allocator.rollback();
                self.now = self.before.take().unwrap();
            }
            10 if self.pending.is_none() => {
                // A transaction that is its own checkpoint; half of them fail before the slot.
                self.freeze();
                if a.is_multiple_of(2) {
                    self.commit();
                    self.publish_model();
                } else {
                    self.allocator.rollback();
                    self.pending = None;
                    self.now = self.before.take().unwrap();
                }
            }
            11 => self.commit(),
            _ => {
                self.allocator.publish();
                self.publish_model();
            }
        }
    }

    fn between(&mut self, op: u8, a: u32) {
        match op {
            0..4 if !self.now.retired.is_empty() => {
                let gone = self.now.retired.swap_remove(a as usize % self.now.retired.len());
                self.allocator.release(gone);
                (gone.page.get()..gone.end()).for_each(|unit| assert!(self.now.allocated.remove(&unit)));
            }
            4 => self.freeze(),
            5 => self.commit(),
            6 => {
                let (table, end, state) = self.durable.clone();
                self.allocator = reopen(self.layout, &table, end).unwrap();
                self.pending = None;
                self.now = state;
            }
            7 if self.pending.is_none() => {
                let lowest = self.allocator.highest_allocated_end(&self.disk).unwrap();
                let above = self.now.allocated.last().map_or(u64::from(self.layout.header_units()), |unit| unit + 1);
                assert_eq!(lowest, above);
                let image_end = self.allocator.image_end(&self.disk).unwrap();
                assert_eq!(
                    image_end,
                    self.now.image().last().map_or(self.layout.header_units().into(), |unit| unit + 1)
                );
                self.allocator.truncate(lowest + u64::from(a) % (self.allocator.end() - lowest + 1));
            }
            _ => {
                self.allocator.begin();
                self.before = Some(self.now.clone());
            }
        }
    }

    fn step(&mut self, op: u8, a: u32) {
        if self.before.is_some() {
            self.in_bracket(op, a);
        } else {
            self.between(op, a);
        }
        assert_eq!(self.allocator.check(), Ok(()));
        assert_eq!(self.allocator.count_allocated(), self.now.allocated.len() as u64);
        if a.is_multiple_of(4) {
            let units: BTreeSet<u64> = self.allocator.allocated_units(&self.disk).unwrap().collect();
            assert_eq!(units, self.now.allocated);
            for run in self.now.live.iter().chain(&self.now.born) {
                assert!(self.allocator.is_in_image(*run, &self.disk).unwrap());
            }
            for run in &self.now.retired {
                assert!(self.allocator.is_allocated(*run, &self.disk).unwrap());
                assert!(!self.allocator.is_in_image(*run, &self.disk).unwrap());
            }
        }
        // Whatever happens, the durable state can be opened and is what was committed.
        if a.is_multiple_of(8) {
            let (table, end, state) = &self.durable;
            let mut opened = reopen(self.layout, table, *end).unwrap();
            let units: BTreeSet<u64> = opened.allocated_units(&self.disk).unwrap().collect();
            assert_eq!(units, state.allocated);
        }
    }
}

proptest! {
    #[test]
    fn allocator_agrees_with_sets_through_rollback_commit_crash_growth_and_truncation(
        wide in any::<bool>(), ops in prop::collection::vec((0_u8..13, any::<u32>()), 1..250)
    ) {
        let mut model = Model::new(if wide { Layout::new(512, 2, 128).unwrap() } else { tiny() });
        for (op, a) in ops {
            model.step(op, a);
        }
    }

    #[test]
    fn growth_makes_room_for_the_run_and_never_doubles_a_large_file(
        runs in prop::collection::vec(1_u32..17, 1..60)
    ) {
        let (mut allocator, disk) = (Allocator::create(tiny()), Disk::default());
        allocator.begin();
        for units in runs {
            let (before, needed) = (allocator.end(), u64::from(tiny().region_units()) + 16);
            take(&mut allocator, units, &disk);
            prop_assert!(allocator.end() <= before + needed.max(before / 16));
        }
    }

    #[test]
    fn flipped_bits_of_a_table_or_bitmap_never_panic(at in any::<u32>(), bit in 0_u32..8, which in 0_usize..4) {
        let (table, mut disk, end) = committed();
        let mut table = table;
        match disk.0.values_mut().nth(which) {
            Some(bytes) => bytes[at as usize % 4] ^= 1 << bit,
            None => { let len = table.len(); table[at as usize % len] ^= 1 << bit }
        }
        if let Ok(mut allocator) = reopen(tiny(), &table, end) {
            match allocator.load_all(&disk) {
                Ok(()) => {
                    allocator.begin();
                    take(&mut allocator, 3, &disk);
                }
                Err(error) => prop_assert!(error.is_corruption()),
            }
        }
    }
}

/// A table, its bitmaps and the file end, over several regions.
fn committed() -> (Vec<u8>, Disk, u64) {
    let (mut allocator, mut disk) = (Allocator::create(tiny()), Disk::default());
    allocator.begin();
    for _ in 0..9 {
        take(&mut allocator, 7, &disk);
    }
    let frozen = allocator.freeze();
    disk.write(&frozen);
    allocator.commit();
    (frozen.table, disk, allocator.end())
}

#[test]
fn every_damaged_bitmap_is_reported_with_its_region() {
    let (table, disk, end) = committed();
    for page in disk.0.keys() {
        let mut bad = disk.clone();
        bad.0.get_mut(page).unwrap()[3] ^= 0x80;
        let error = reopen(tiny(), &table, end).unwrap().load_all(&bad).unwrap_err();
        assert!(error.is_corruption() && error.to_string().contains("region"), "{error}");
    }
    let mut allocator = reopen(tiny(), &table, end).unwrap();
    assert!(allocator.load_all(&Disk::default()).is_err());
    assert!(allocator.load_all(&disk).is_ok());
}

#[test]
fn bitmaps_with_valid_digests_and_impossible_bits_are_refused() {
    let (table, disk, end) = committed();
    let layout = tiny();
    let good = RegionTable::decode(&table, layout.regions_for(end).unwrap()).unwrap();
    let (page, bytes) = disk.0.iter().next_back().unwrap();
    let index = layout.region_of(PageId::from_allocator(*page)).unwrap() as usize;
    for (byte, bit) in [(0, 1_u8), (3, 0x80)] {
        let mut bad = (good.clone(), disk.clone(), bytes.clone());
        bad.2[byte] ^= bit;
        bad.0.entries[index].digest = super::region_table::bitmap_digest(&bad.2[..4]);
        bad.1.0.insert(*page, bad.2);
        let cut = end.min(layout.region_start(u32::try_from(index).unwrap()) + 31);
        assert!(Allocator::open(layout, &bad.0, cut).unwrap().load_all(&bad.1).unwrap_err().is_corruption());
    }
    let mut bad = good.clone();
    bad.entries[0].free_units += 1;
    assert!(Allocator::open(layout, &bad, end).unwrap().load_all(&disk).is_err());
    bad.entries[0].free_units = 31;
    assert!(Allocator::open(layout, &bad, end).is_err());
    assert!(Allocator::open(layout, &good, end + 32).is_err());
    assert!(Allocator::open(layout, &good, u64::MAX).is_err());
}

#[test]
fn runs_from_damaged_pointers_are_corruption() {
    let (table, disk, end) = committed();
    let mut allocator = reopen(tiny(), &table, end).unwrap();
    allocator.begin();
    for bad in [run(0, 1), run(24, 1), run(26, 0), run(26, 8), run(end, 1), run(1 << 47, 16), run(26, u32::MAX)] {
        assert!(allocator.retire(bad, &disk).unwrap_err().is_corruption(), "{bad:?}");
        assert!(!bad.page.is_none() || !allocator.is_allocated(bad, &disk).unwrap());
    }
    assert_eq!(allocator.check(), Ok(()));
}

#[test]
fn cut_off_region_head_has_no_usable_unit() {
    let (mut allocator, disk) = (Allocator::create(tiny()), Disk::default());
    allocator.grow(24 + 1);
    allocator.begin();
    assert_eq!(allocator.allocate(1, &disk).unwrap(), None);
    allocator.grow(24 + 2);
    assert_eq!(allocator.allocate(1, &disk).unwrap(), None);
    allocator.grow(24 + 3);
    assert_eq!(allocator.allocate(1, &disk).unwrap(), Some(run(26, 1)));
    allocator.grow(24 + 33);
    assert_eq!(allocator.allocate(16, &disk).unwrap(), Some(run(40, 16)));
    assert_eq!(allocator.allocate(16, &disk).unwrap(), None);
    assert_eq!(allocator.growth_for(16), Some(24 + 64));
}

#[test]
#[should_panic(expected = "between transactions")]
fn release_inside_the_bracket_is_refused() {
    let (mut allocator, disk) = (Allocator::create(tiny()), Disk::default());
    allocator.begin();
    let run = take(&mut allocator, 1, &disk);
    allocator.release(run);
}

#[test]
fn a_hundred_thousand_allocations_are_quick() {
    let layout = Layout::new(4096, 2, 65536).unwrap();
    let (mut allocator, disk) = (Allocator::create(layout), Disk::default());
    let started = std::time::Instant::now();
    allocator.begin();
    let mut last = run(0, 1);
    for _ in 0..100_000 {
        last = take(&mut allocator, 2, &disk);
    }
    let frozen = allocator.freeze();
    allocator.commit();
    let elapsed = started.elapsed();
    assert_eq!(frozen.bitmaps.len(), 4);
    assert!(allocator.end() < last.end() + last.end() / 16 + 16);
    assert!(elapsed.as_secs() < 2, "{elapsed:?}");
    println!("{elapsed:?}");
}
