//! Hostile files: damage whose checksums were computed anew, all the way up to the slot.
//!
//! Invariant: whatever a file holds, the answer is an error or data; never a panic, and never memory without bound.
//! Layer 8 (db).

mod bulk;

use super::builder::Builder;
use super::database::Database;
use crate::base::checksum;
use crate::base::ids::{Digest, PageId, TransactionId, TreeRoot};
use crate::btree::inspect::inspect;
use crate::btree::leaf::{self, ValueCell};
use crate::btree::{branch, node};
use crate::catalog::record::TableRecord;
use crate::io::memory::MemoryStorage;
use crate::io::storage::{Storage, WriteMode};
use crate::pages::extent::Extent;
use crate::pages::header::{BLOCK_BYTES, Format};
use crate::pages::layout::{Copy, Layout};
use crate::pages::region_table::{RegionTable, bitmap_digest};
use crate::pages::slot::{self, Slot, SlotState};
use crate::pages::store::{child_sum, slot_offset};
use crate::table::definition::TableDefinition;
use crate::txn::error::Error;
use std::io::{IoSlice, IoSliceMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

const ROWS: TableDefinition<u64, &[u8]> = TableDefinition::new("rows");
const NAMES: TableDefinition<&str, u64> = TableDefinition::new("names");

fn builder() -> Builder {
    Builder::new().test_geometry(512, 512, 64).cache_bytes_max(1 << 20).test_identity([3; 16])
}

/// The bytes of a closed database, open for surgery.
#[derive(Clone)]
struct Image {
    bytes: Vec<u8>,
    layout: Layout,
    format: Format,
    slot: Slot,
    index: u8,
    /// Nodes that `reseal` came through, with their levels.
    nodes: Vec<(PageId, u8)>,
}

fn shared(storage: &Arc<MemoryStorage>) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(storage.len().unwrap()).unwrap()];
    storage.read_at(0, &mut [IoSliceMut::new(&mut bytes)]).unwrap();
    bytes
}

/// A storage that is shared with the test.
#[derive(Debug, Clone)]
struct Shared(Arc<MemoryStorage>);

impl Storage for Shared {
    fn len(&self) -> std::io::Result<u64> {
        self.0.len()
    }
    fn read_at(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> std::io::Result<()> {
        self.0.read_at(offset, buffers)
    }
    fn write_at(&self, offset: u64, buffers: &[IoSlice<'_>], mode: WriteMode) -> std::io::Result<()> {
        self.0.write_at(offset, buffers, mode)
    }
    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.set_len(len)
    }
    fn preallocate(&self, len: u64) -> std::io::Result<()> {
        self.0.preallocate(len)
    }
    fn sync(&self, kind: crate::io::storage::SyncKind) -> std::io::Result<()> {
        self.0.sync(kind)
    }
    fn lock(&self, mode: crate::io::storage::LockMode) -> std::io::Result<()> {
        self.0.lock(mode)
    }
    fn unlock(&self) -> std::io::Result<()> {
        self.0.unlock()
    }
    fn drop_cache(&self) -> std::io::Result<()> {
        self.0.drop_cache()
    }
}

fn fill(db: &Database) {
    db.update(|tx| {
        let mut rows = tx.open_table(ROWS)?;
        for key in 0..90 {
            let len = if key % 9 == 4 { 700 } else { 30 };
            rows.insert(key, &vec![key.to_le_bytes()[0]; len][..])?;
        }
        rows.insert(1000, &vec![5; 40_000][..])?;
        let mut names = tx.open_table(NAMES)?;
        for key in 0..30 {
            names.insert(&*format!("{}{key}", "long ".repeat(usize::from(key < 15) * 30)), key)?;
        }
        Ok::<_, Error>(())
    })
    .unwrap();
}

impl Image {
    fn sample() -> Self {
        let storage = Arc::new(MemoryStorage::new());
        let db = builder().create_with_storage(Shared(Arc::clone(&storage))).unwrap();
        fill(&db);
        db.check_integrity().unwrap();
        db.close().unwrap();
        let mut image = Self::of(shared(&storage));
        let before = image.bytes.clone();
        image.reseal();
        assert!(image.bytes == before && image.nodes.len() > 12, "resealing a sound image changes nothing");
        image
    }

    fn of(bytes: Vec<u8>) -> Self {
        let (index, slot, format) = (0..2)
            .filter_map(|index| {
                let at = usize::try_from(slot_offset(index)).unwrap();
                match slot::decode(bytes[at..at + BLOCK_BYTES].try_into().unwrap()) {
                    SlotState::Valid(slot, format) => Some((index, slot, format)),
                    _ => None,
                }
            })
            .max_by_key(|(_, slot, _)| slot.generation)
            .unwrap();
        Self { bytes, layout: format.layout, format, slot: *slot, index, nodes: Vec::new() }
    }

    fn range(&self, page: PageId, len: usize) -> Option<std::ops::Range<usize>> {
        let at = usize::try_from(self.layout.offset(page)).ok()?;
        (at.checked_add(len)? <= self.bytes.len()).then(|| at..at + len)
    }

    fn node(&self, page: PageId) -> &[u8] {
        &self.bytes[self.range(page, self.layout.node_bytes() as usize).unwrap()]
    }

    fn set_node(&mut self, page: PageId, bytes: &[u8]) {
        let range = self.range(page, bytes.len()).unwrap();
        self.bytes[range].copy_from_slice(bytes);
    }

    /// Computes every checksum anew, from the leaves up to the slot.
    fn reseal(&mut self) {
        self.nodes.clear();
        let mut slot = self.slot;
        for (root, is_catalog) in [(&mut slot.data, true), (&mut slot.forward, false)] {
            if let Some(digest) = self.reseal_root(*root, is_catalog) {
                root.digest = digest;
            }
        }
        let table = slot.region_table;
        if let Some(range) = self.range(table.page, usize::try_from(table.len_bytes).unwrap()) {
            slot.region_table.digest = checksum::digest(&self.bytes[range]);
        }
        self.set_slot(slot);
    }

    fn set_slot(&mut self, slot: Slot) {
        self.slot = slot;
        let at = usize::try_from(slot_offset(self.index)).unwrap();
        self.bytes[at..at + BLOCK_BYTES].copy_from_slice(&slot::encode(&slot, &self.format));
    }

    fn reseal_root(&mut self, root: TreeRoot, is_catalog: bool) -> Option<Digest> {
        if root.height == 0 {
            return None;
        }
        self.reseal_node(root.page, root.height, is_catalog).map(|bytes| checksum::digest(&bytes))
    }

    fn reseal_node(&mut self, page: PageId, level: u8, is_catalog: bool) -> Option<Vec<u8>> {
        let range = self.range(page, self.layout.node_bytes() as usize)?;
        let mut bytes = self.bytes[range].to_vec();
        if inspect(&bytes, &self.layout).is_err() || node::level(&bytes) != level {
            return Some(bytes);
        }
        self.nodes.push((page, level));
        for index in 0..node::count(&bytes) + usize::from(level > 1) {
            if level > 1 {
                let child = branch::child(&bytes, index);
                if let Some(found) = self.reseal_node(child.page, level - 1, is_catalog) {
                    branch::set_child(&mut bytes, index, branch::Child { page: child.page, sum: child_sum(&found) });
                }
            } else {
                self.reseal_row(&mut bytes, index, is_catalog);
            }
        }
        self.set_node(page, &bytes);
        Some(bytes)
    }

    fn reseal_row(&mut self, bytes: &mut [u8], index: usize, is_catalog: bool) {
        let at = leaf::value_offset(bytes, index);
        let new = match leaf::row(bytes, index).value {
            ValueCell::Extent(encoded) => {
                let Ok(extent) = Extent::decode(encoded, &self.layout) else { return };
                let Ok(len) = usize::try_from(extent.head_bytes(&self.layout)) else { return };
                let Some(range) = self.range(extent.page, len) else { return };
                Extent { sum: child_sum(&self.bytes[range]), ..extent }.encode(&self.layout).to_vec()
            }
            ValueCell::Inline(value) if is_catalog => {
                let Ok(mut record) = TableRecord::decode(value) else { return };
                let Some(digest) = self.reseal_root(record.root, false) else { return };
                record.root.digest = digest;
                record.encode()
            }
            ValueCell::Inline(_) => return,
        };
        bytes[at..at + new.len()].copy_from_slice(&new);
    }

    fn open(&self) -> Result<Database, Error> {
        let storage = MemoryStorage::new();
        storage.write_at(0, &[IoSlice::new(&self.bytes)], WriteMode::Plain).unwrap();
        Ok(builder().open_with_storage(storage)?)
    }

    /// Does everything that a database can do, with the file as it is; errors are fine.
    fn exercise(&self) -> Result<(), Error> {
        let db = self.open()?;
        let mut first = Ok(());
        let mut keep = |outcome: Result<(), Error>| {
            if first.is_ok() {
                first = outcome;
            }
        };
        keep(read_all(&db));
        keep(db.check_integrity().map(drop).map_err(Error::from));
        keep(db.update(|tx| {
            let mut rows = tx.open_table(ROWS)?;
            for key in (0..120).step_by(7) {
                rows.insert(key, &vec![9; 60][..])?;
            }
            Ok(())
        }));
        keep(db.update(|tx| {
            let mut rows = tx.open_table(ROWS)?;
            for key in 0..60 {
                rows.remove(key)?;
            }
            Ok(())
        }));
        keep(db.update(|tx| Ok(tx.delete_table(NAMES).map(|_| ())?)));
        keep(db.update(|tx| Ok(tx.delete_table(ROWS).map(|_| ())?)));
        keep(db.update(|tx| Ok(tx.open_table(NAMES)?.insert("a", 1).map(|_| ())?)));
        keep(db.check_integrity().map(drop).map_err(Error::from));
        first
    }
}

fn read_all(db: &Database) -> Result<(), Error> {
    let tx = db.begin_read()?;
    let (rows, names) = (tx.open_table(ROWS)?, tx.open_table(NAMES)?);
    let mut limit = 10_000;
    for row in rows.iter()?.rev() {
        row?;
        limit -= 1;
        assert!(limit > 0, "a small file yields rows without end");
    }
    for row in names.prefix("long")? {
        row?;
    }
    for key in 0..40 {
        drop(rows.get(key * 3)?);
    }
    Ok(())
}

/// A small generator of its own, so that every failure repeats.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        usize::try_from((self.0 >> 33) % limit as u64).unwrap()
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap()
    }
}

/// Damages a node in one of several ways.
fn damage(image: &mut Image, random: &mut Random) {
    let (page, level) = image.nodes[random.below(image.nodes.len())];
    let mut bytes = image.node(page).to_vec();
    match random.below(5) {
        0 => {
            let at = random.below(bytes.len());
            bytes[at] ^= 1 << random.below(8);
        }
        1 => {
            let at = random.below(80);
            bytes[at] = random.byte();
        }
        2 if level > 1 => {
            let index = random.below(node::count(&bytes) + 1);
            let other = image.nodes[random.below(image.nodes.len())].0.get();
            let wild = [other, 1, 24, 25, 26, other + 1, 1 << 40][random.below(7)];
            branch::set_child(&mut bytes, index, branch::Child { page: PageId::new(wild).unwrap(), sum: 77 });
        }
        3 => {
            let other = image.nodes[random.below(image.nodes.len())].0;
            bytes = image.node(other).to_vec();
        }
        _ => {
            // Any byte of what rows keep: extents, table records, values.
            let start = node::heap_start(&bytes).min(bytes.len() - 1);
            let at = start + random.below(bytes.len() - start);
            bytes[at] = [0, 1, 0xFF, random.byte()][random.below(4)];
        }
    }
    image.set_node(page, &bytes);
}

#[test]
fn no_resealed_damage_of_nodes_makes_anything_panic() {
    let sound = Image::sample();
    sound.exercise().unwrap();
    let (mut refused, mut harmless, mut random) = (0, 0, Random(11));
    for round in 0..2500 {
        let mut image = sound.clone();
        for _ in 0..=random.below(2) {
            damage(&mut image, &mut random);
        }
        image.reseal();
        match catch_unwind(AssertUnwindSafe(|| image.exercise())) {
            Ok(Ok(())) => harmless += 1,
            Ok(Err(_)) => refused += 1,
            Err(_) => panic!("round {round} panicked"),
        }
    }
    assert!(refused > 1000 && harmless > 20, "{refused} refused, {harmless} harmless");
}

/// Edits the region table and seals it.
fn edit_regions(image: &mut Image, edit: impl FnOnce(&mut RegionTable)) {
    let table = image.slot.region_table;
    let range = image.range(table.page, usize::try_from(table.len_bytes).unwrap()).unwrap();
    let count = RegionTable::regions_in(table.len_bytes).unwrap();
    let mut decoded = RegionTable::decode(&image.bytes[range.clone()], count).unwrap();
    edit(&mut decoded);
    image.bytes[range].copy_from_slice(&decoded.encode());
    image.reseal();
}

/// Marks a unit free or allocated in the durable bitmap, with digests and counts to match.
fn set_unit(image: &mut Image, unit: u64, allocated: bool) {
    let layout = image.layout;
    let region = layout.region_of(PageId::new(unit).unwrap()).unwrap();
    let bit = usize::try_from(unit - layout.region_start(region)).unwrap();
    let copy = image.active_copy(region);
    let range = image.range(layout.bitmap_run(region, copy).page, layout.bitmap_bytes() as usize).unwrap();
    let byte = range.start + bit / 8;
    let was = image.bytes[byte] >> (bit % 8) & 1 == 1;
    assert_ne!(was, allocated, "the edit changes something");
    image.bytes[byte] ^= 1 << (bit % 8);
    let digest = bitmap_digest(&image.bytes[range]);
    edit_regions(image, |table| {
        let entry = &mut table.entries[region as usize];
        entry.digest = digest;
        entry.free_units = if allocated { entry.free_units - 1 } else { entry.free_units + 1 };
    });
}

impl Image {
    fn active_copy(&self, region: u32) -> Copy {
        let table = self.slot.region_table;
        let range = self.range(table.page, usize::try_from(table.len_bytes).unwrap()).unwrap();
        let count = RegionTable::regions_in(table.len_bytes).unwrap();
        RegionTable::decode(&self.bytes[range], count).unwrap().entries[region as usize].active.unwrap()
    }
}

#[test]
fn pitfall_49_a_bitmap_that_calls_a_reached_unit_free_is_an_error_and_never_a_panic() {
    let sound = Image::sample();
    for (page, _) in sound.nodes.clone() {
        let mut image = sound.clone();
        set_unit(&mut image, page.get(), false);
        let error = image.open().unwrap().check_integrity().unwrap_err();
        assert!(error.to_string().contains("recorded as free"), "{error}");
        let outcome = catch_unwind(AssertUnwindSafe(|| image.exercise()));
        assert!(outcome.expect("no panic").is_err(), "{page}");
    }
}

#[test]
fn pitfall_49_a_bitmap_that_calls_a_free_unit_allocated_is_found_by_the_check() {
    let sound = Image::sample();
    let end = sound.bytes.len() as u64 / 512;
    let mut found = 0;
    for unit in 26..end {
        let mut image = sound.clone();
        let edited = catch_unwind(AssertUnwindSafe(|| set_unit(&mut image, unit, true))).is_ok();
        if edited {
            let error = image.open().unwrap().check_integrity().unwrap_err();
            assert!(error.to_string().contains("nothing reaches it"), "{error}");
            assert!(catch_unwind(AssertUnwindSafe(|| image.exercise())).is_ok(), "unit {unit}");
            found += 1;
        }
    }
    assert!(found > 0, "the image has a hole");
}

#[test]
fn pitfall_49_a_region_table_that_lies_is_refused() {
    let sound = Image::sample();
    let edits: [fn(&mut RegionTable); 6] = [
        |table| table.entries[0].free_units += 1,
        |table| table.entries[0].free_units = u32::MAX,
        |table| table.entries[0].free_order_max = Some(31),
        |table| table.entries[0].active = table.entries[0].active.map(Copy::other),
        |table| table.entries[0].digest[3] ^= 1,
        |table| table.entries[0].active = None,
    ];
    for (index, edit) in edits.into_iter().enumerate() {
        let mut image = sound.clone();
        edit_regions(&mut image, edit);
        let outcome = catch_unwind(AssertUnwindSafe(|| image.exercise())).expect("no panic");
        assert!(outcome.as_ref().is_err_and(Error::is_corruption), "edit {index}: {outcome:?}");
    }
}

#[test]
fn pitfall_49_a_hint_that_hides_free_blocks_is_found_by_the_first_check_whatever_region_it_is_of() {
    let sound = Image::sample();
    let count = RegionTable::regions_in(sound.slot.region_table.len_bytes).unwrap() as usize;
    let mut edited = 0;
    for region in 0..count {
        let mut image = sound.clone();
        let mut hides = false;
        edit_regions(&mut image, |table| {
            let entry = &mut table.entries[region];
            hides = entry.active.is_some() && entry.free_order_max > Some(0);
            entry.free_order_max = if hides { Some(0) } else { entry.free_order_max };
        });
        if hides {
            let error = image.open().unwrap().check_integrity().unwrap_err();
            assert!(error.to_string().contains("the hint hides free blocks"), "region {region}: {error}");
            edited += 1;
        }
    }
    assert!(edited > 0, "a region has free blocks");
}

#[test]
fn pitfall_48_a_page_that_two_parents_name_is_freed_once_and_then_an_error() {
    let mut image = Image::sample();
    let (page, _) = *image.nodes.iter().find(|(_, level)| *level > 1).unwrap();
    let mut bytes = image.node(page).to_vec();
    let child = branch::child(&bytes, 0);
    branch::set_child(&mut bytes, 1, child);
    image.set_node(page, &bytes);
    image.reseal();
    let db = image.open().unwrap();
    let error = db.check_integrity().unwrap_err();
    assert!(matches!(&error, crate::txn::error::TransactionError::Storage(error) if error.is_corruption()), "{error}");
    for name in ["rows", "names"] {
        let outcome = db.update(|tx| Ok::<_, Error>(tx.delete_table(TableDefinition::<u64, u64>::new(name))?));
        if let Err(error) = outcome {
            assert!(error.is_corruption(), "{error}");
            return;
        }
    }
    panic!("one of the two tables frees a page twice");
}

/// Replaces the bytes of the first table's type descriptors, their lengths kept, and seals the catalog.
fn edit_types(image: &mut Image, edit: fn(&mut TableRecord)) {
    let page = image.slot.data.page;
    let mut bytes = image.node(page).to_vec();
    let ValueCell::Inline(value) = leaf::row(&bytes, 0).value else { panic!("a short record is inline") };
    let mut record = TableRecord::decode(value).unwrap();
    edit(&mut record);
    let (at, new) = (leaf::value_offset(&bytes, 0), record.encode());
    bytes[at..at + new.len()].copy_from_slice(&new);
    image.set_node(page, &bytes);
    image.reseal();
}

#[test]
fn a_stored_type_that_is_no_descriptor_is_found_by_both_checks_and_names_its_table() {
    let sound = Image::sample();
    let edits: [fn(&mut TableRecord); 2] = [|record| record.key_type[0] = 0xEE, |record| record.value_type[0] = 0x42];
    for edit in edits {
        let mut image = sound.clone();
        edit_types(&mut image, edit);
        let db = image.open().unwrap();
        for error in [db.check_integrity().map(drop).unwrap_err(), db.check_quick().map(drop).unwrap_err()] {
            assert!(error.is_corruption() && error.to_string().contains("table \"names\": the"), "{error}");
        }
        let error = db.begin_read().unwrap().open_untyped_table("names").unwrap_err();
        assert!(error.is_corruption() && error.to_string().contains("table \"names\": the"), "{error}");
    }
}

#[test]
fn pitfall_51_a_slot_that_reaches_past_the_file_is_truncation() {
    let mut image = Image::sample();
    let slot = Slot { reach_units: image.bytes.len() as u64 / 512 + 1, ..image.slot };
    image.set_slot(slot);
    let error = image.open().unwrap_err();
    assert!(error.is_corruption() && error.to_string().contains("truncated"), "{error}");
}

#[test]
fn a_counter_at_its_end_aborts_the_commit_and_the_last_one_stays() {
    for (generation, transaction) in [(u64::MAX, 9), (9, u64::MAX)] {
        let mut image = Image::sample();
        let slot = Slot { generation, transaction: TransactionId::new(transaction), ..image.slot };
        image.set_slot(slot);
        let db = image.open().unwrap();
        let error = db.update(|tx| Ok::<_, Error>(tx.delete_table(ROWS)?)).unwrap_err();
        assert!(error.is_corruption() && error.to_string().contains("overflows"), "{error}");
        db.check_integrity().unwrap();
        db.close().unwrap();
        read_all(&image.open().unwrap()).unwrap();
    }
}

#[test]
fn pitfall_47_wild_roots_and_tables_are_corrupted_without_a_large_allocation() {
    let sound = Image::sample();
    let wild = |page: u64| PageId::new(page).unwrap();
    for page in [1, 2, 23, 24, 25, 1 << 20, PageId::LIMIT - 1] {
        for which in 0..3 {
            let mut image = sound.clone();
            let mut slot = image.slot;
            match which {
                0 => slot.data.page = wild(page),
                1 => slot.forward.page = wild(page),
                _ => slot.region_table.page = wild(page),
            }
            image.set_slot(slot);
            let outcome = catch_unwind(AssertUnwindSafe(|| image.exercise())).expect("no panic");
            assert!(outcome.as_ref().is_err_and(Error::is_corruption), "{page} {which}: {outcome:?}");
        }
    }
    for len_bytes in [0, 7, 33, 1 << 20, 1 << 40, u64::MAX] {
        let mut image = sound.clone();
        let mut slot = image.slot;
        slot.region_table.len_bytes = len_bytes;
        image.set_slot(slot);
        let outcome = catch_unwind(AssertUnwindSafe(|| image.exercise())).expect("no panic");
        assert!(outcome.as_ref().is_err_and(Error::is_corruption), "{len_bytes}: {outcome:?}");
    }
    for (height, rows) in [(0, 5), (1, u64::MAX), (47, 3), (2, 0)] {
        let mut image = sound.clone();
        let mut slot = image.slot;
        (slot.data.height, slot.data.rows) = (height, rows);
        image.set_slot(slot);
        let outcome = catch_unwind(AssertUnwindSafe(|| image.exercise())).expect("no panic");
        assert!(outcome.is_err(), "{height} {rows}");
    }
}
