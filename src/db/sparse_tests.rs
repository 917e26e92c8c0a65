//! Databases of many gibibytes, of which only a few pages are really there.
//!
//! Invariant: page numbers and offsets are as wide as the format says, everywhere on the way to the storage.
//! Layer 8 (db).

use super::builder::Builder;
use super::database::Database;
use crate::base::checksum;
use crate::base::ids::PageId;
use crate::io::storage::{LockMode, Storage, SyncKind, WriteMode};
use crate::pages::header::BLOCK_BYTES;
use crate::pages::layout::Copy;
use crate::pages::region_table::{RegionEntry, RegionTable, bitmap_digest};
use crate::pages::slot::{self, Blob, Slot, SlotState};
use crate::pages::store::slot_offset;
use crate::table::definition::TableDefinition;
use crate::txn::error::Error;
use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::{Arc, Mutex};

const ROWS: TableDefinition<u64, &[u8]> = TableDefinition::new("rows");
const PAGE_BYTES: u64 = 4096;

#[derive(Debug, Default)]
struct Content {
    pages: BTreeMap<u64, Vec<u8>>,
    len: u64,
}

/// A storage that keeps only the pages that were written; all others are zero.
#[derive(Debug, Clone, Default)]
struct Sparse(Arc<Mutex<Content>>);

impl Sparse {
    fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.read_at(offset, &mut [IoSliceMut::new(&mut bytes)]).unwrap();
        bytes
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        self.write_at(offset, &[IoSlice::new(bytes)], WriteMode::Plain).unwrap();
    }

    /// Pages written at or above an offset.
    fn pages_above(&self, offset: u64) -> usize {
        self.0.lock().unwrap().pages.range(offset / PAGE_BYTES..).count()
    }
}

impl Storage for Sparse {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len)
    }
    fn read_at(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> io::Result<()> {
        let content = self.0.lock().unwrap();
        let mut at = offset;
        for byte in buffers.iter_mut().flat_map(|buffer| buffer.iter_mut()) {
            let within = usize::try_from(at % PAGE_BYTES).unwrap();
            *byte = content.pages.get(&(at / PAGE_BYTES)).map_or(0, |page| page[within]);
            at += 1;
        }
        if at > content.len { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
    fn write_at(&self, offset: u64, buffers: &[IoSlice<'_>], _: WriteMode) -> io::Result<()> {
        let mut content = self.0.lock().unwrap();
        let mut at = offset;
        for byte in buffers.iter().flat_map(|buffer| buffer.iter()) {
            let within = usize::try_from(at % PAGE_BYTES).unwrap();
            content.pages.entry(at / PAGE_BYTES).or_insert_with(|| vec![0; 4096])[within] = *byte;
            at += 1;
        }
        content.len = content.len.max(at);
        Ok(())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut content = self.0.lock().unwrap();
        content.pages.split_off(&len.div_ceil(PAGE_BYTES));
        content.len = len;
        Ok(())
    }
    fn preallocate(&self, len: u64) -> io::Result<()> {
        let mut content = self.0.lock().unwrap();
        content.len = content.len.max(len);
        Ok(())
    }
    fn sync(&self, _: SyncKind) -> io::Result<()> {
        Ok(())
    }
    fn lock(&self, _: LockMode) -> io::Result<()> {
        Ok(())
    }
    fn unlock(&self) -> io::Result<()> {
        Ok(())
    }
    fn drop_cache(&self) -> io::Result<()> {
        Ok(())
    }
}

fn builder() -> Builder {
    Builder::new().node_bytes(4096).cache_bytes_max(1 << 20).test_identity([9; 16])
}

fn put(db: &Database, keys: std::ops::Range<u64>, len: usize) {
    db.update(|tx| {
        let mut rows = tx.open_table(ROWS)?;
        for key in keys {
            rows.insert(key, &vec![key.to_le_bytes()[0]; len][..])?;
        }
        Ok::<_, Error>(())
    })
    .unwrap();
}

fn expect(db: &Database, rows: &[(u64, usize)]) {
    let table = db.begin_read().unwrap().open_table(ROWS).unwrap();
    let found: Vec<(u64, Vec<u8>)> = table
        .iter()
        .unwrap()
        .map(|row| row.map(|(key, value)| (key.value(), value.value().to_vec())).unwrap())
        .collect();
    let expected: Vec<_> = rows.iter().map(|(key, len)| (*key, vec![key.to_le_bytes()[0]; *len])).collect();
    assert!(found == expected);
}

/// A closed database whose first `regions` regions are full, so that every allocation lies behind them.
fn full_up_to(regions: u32) -> Sparse {
    let storage = Sparse::default();
    let db = builder().create_with_storage(storage.clone()).unwrap();
    put(&db, 0..5, 50);
    db.close().unwrap();
    let (index, newest, format) = (0..2)
        .filter_map(|index| match slot::decode(storage.read(slot_offset(index), BLOCK_BYTES)[..].try_into().unwrap()) {
            SlotState::Valid(slot, format) => Some((index, slot, format)),
            _ => None,
        })
        .max_by_key(|(_, slot, _)| slot.generation)
        .unwrap();
    let layout = format.layout;
    let bitmap = vec![0xFF; layout.bitmap_bytes() as usize];
    let full =
        RegionEntry { digest: bitmap_digest(&bitmap), free_units: 0, active: Some(Copy::A), free_order_max: None };
    for region in [0, regions - 1] {
        storage.write(layout.offset(layout.bitmap_run(region, Copy::A).page), &bitmap);
    }
    let table = RegionTable { entries: vec![full; regions as usize] }.encode();
    let page = PageId::new(layout.region_start(0) + 40_000).unwrap();
    storage.write(layout.offset(page), &table);
    let end = layout.region_start(regions);
    storage.set_len(end * PAGE_BYTES).unwrap();
    let region_table = Blob { page, len_bytes: table.len() as u64, digest: checksum::digest(&table) };
    let slot = Slot { region_table, reach_units: end, ..*newest };
    storage.write(slot_offset(index), &slot::encode(&slot, &format));
    storage
}

fn write_behind(regions: u32, offset: u64) {
    let storage = full_up_to(regions);
    assert!(storage.len().unwrap() >= offset);
    let before = storage.pages_above(offset);
    let db = builder().open_with_storage(storage.clone()).unwrap();
    expect(&db, &[0, 1, 2, 3, 4].map(|key| (key, 50)));
    // Inside leaves, in runs, and in runs that are written at once; enough for branches.
    put(&db, 100..104, 100_000);
    put(&db, 10..90, 200);
    let written = storage.pages_above(offset) - before;
    assert!(written > 100, "{written} pages were written behind the offset");
    let rows = |range: std::ops::Range<u64>, len: usize| range.map(move |key| (key, len));
    let expected: Vec<_> = rows(0..5, 50).chain(rows(10..90, 200)).chain(rows(100..104, 100_000)).collect();
    expect(&db, &expected);
    db.close().unwrap();
    // What was read came from the cache; now it comes from behind the offset.
    let db = builder().open_with_storage(storage.clone()).unwrap();
    assert!(db.open_notes().is_empty());
    expect(&db, &expected);
    put(&db, 100..104, 300);
    put(&db, 0..5, 60);
    db.close().unwrap();
    let expected: Vec<_> = rows(0..5, 60).chain(rows(10..90, 200)).chain(rows(100..104, 300)).collect();
    expect(&builder().open_read_only_with_storage(storage).unwrap(), &expected);
}

#[test]
fn pitfall_27_offsets_past_4_gib_are_written_and_read_back() {
    write_behind(17, 4 << 30);
}

#[test]
fn pitfall_27_offsets_past_4_tib_are_written_and_read_back() {
    write_behind(16_385, 4 << 40);
}
