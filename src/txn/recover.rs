//! Opening: which slot serves, and what it takes before it is trusted.
//!
//! Invariant: nothing is believed that the medium itself did not return, and no tree is walked.
//! Layer 5 (txn). Rules: design.md, "Opening".

use super::core::{Durable, Opened};
use super::create::{self, EMPTY_BYTES};
use super::error::DatabaseError;
use super::reclaim::Reclaim;
use super::room::FoldingRoom;
use crate::base::error::{Result, StorageError};
use crate::base::sync::{Arc, Mutex};
use crate::io::storage::{LockMode, Storage, SyncKind};
use crate::pages::account::Charge;
use crate::pages::allocator::Allocator;
use crate::pages::header::{self, BLOCK_BYTES, FORMAT_VERSION, Format, FormatError, GodByte, MAGIC};
use crate::pages::region_table::RegionTable;
use crate::pages::select::{SelectError, Selection, select};
use crate::pages::slot;
use crate::pages::store::PageStore;
use crate::pages::version::{Trees, Version};
use std::io::{self, IoSliceMut};

/// What opening may do.
#[derive(Debug, Clone)]
pub(crate) struct OpenOptions {
    pub(crate) read_only: bool,
    /// What an empty file becomes; `None` refuses it.
    pub(crate) create: Option<Format>,
    /// Accept the small units and regions that tests use.
    pub(crate) test_geometry: bool,
    pub(crate) cache_bytes_max: usize,
    /// Longest that the file may become.
    pub(crate) file_bytes_max: u64,
}

type Blocks = [[u8; BLOCK_BYTES]; 3];

/// Locks the storage, creates a database in it where it is empty and that is asked for, and opens it.
pub(crate) fn open(storage: Arc<dyn Storage>, options: &OpenOptions) -> Result<Opened, DatabaseError> {
    lock(&*storage, options.read_only)?;
    let mut selection = match read_selection(&*storage)? {
        Found::Database(selection) => *selection,
        Found::Nothing(why) => match options.create.as_ref().filter(|_| !options.read_only) {
            Some(format) => {
                create::check_limit(options.file_bytes_max)?;
                create::create(&*storage, format)?;
                expect_database(&*storage)?
            }
            None => return Err(DatabaseError::NotADatabase(why.into())),
        },
    };
    if selection.god.is_none_or(|god| god.recovery_required) && !options.read_only {
        // The process may have died between writing and syncing, with the bytes still in a cache: what is read now
        // must be what a power cut would leave.
        storage.sync(SyncKind::Full).map_err(StorageError::io("sync"))?;
        selection = expect_database(&*storage)?;
    }
    for note in &selection.notes {
        log::warn!("opening: {note}");
    }
    let layout = selection.format.layout;
    if selection.format.read_only_compatible != 0 && !options.read_only {
        return Err(DatabaseError::UnsupportedFeatures(selection.format.read_only_compatible));
    }
    if !options.test_geometry && !layout.is_ordinary() {
        let (unit_bytes, region_units) = (layout.unit_bytes(), layout.region_units());
        return Err(DatabaseError::TestGeometry { unit_bytes, region_units });
    }
    Ok(load(storage, selection, options)?)
}

fn lock(storage: &dyn Storage, read_only: bool) -> Result<(), DatabaseError> {
    let mode = if read_only { LockMode::Shared } else { LockMode::Exclusive };
    storage.lock(mode).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => DatabaseError::Locked(source.to_string().into()),
        _ => StorageError::io("lock")(source).into(),
    })
}

enum Found {
    Database(Box<Selection>),
    /// Nothing that could be lost: an empty file, or one whose creation never finished.
    Nothing(String),
}

fn expect_database(storage: &dyn Storage) -> Result<Selection, DatabaseError> {
    match read_selection(storage)? {
        Found::Database(selection) => Ok(*selection),
        Found::Nothing(why) => Err(DatabaseError::NotADatabase(why.into())),
    }
}

/// Reads the fixed blocks from the medium and selects a slot.
fn read_selection(storage: &dyn Storage) -> Result<Found, DatabaseError> {
    storage.drop_cache().map_err(StorageError::io("drop cache"))?;
    let len = storage.len().map_err(StorageError::io("read length"))?;
    if len == 0 {
        return Ok(Found::Nothing("the file is empty".into()));
    }
    let blocks = read_blocks(storage, len)?;
    let zero = |block: &[u8; BLOCK_BYTES]| block.iter().all(|byte| *byte == 0);
    let slots = [slot::decode(&blocks[1]), slot::decode(&blocks[2])];
    if len <= EMPTY_BYTES && zero(&blocks[0]) && zero(&blocks[2]) && slot::is_unfinished_first(&blocks[1]) {
        return Ok(Found::Nothing("the creation of the file was never finished".into()));
    }
    if len < EMPTY_BYTES {
        let what = format!("the file has {len} bytes, a database at least {EMPTY_BYTES}");
        return Err(if blocks[0].starts_with(&MAGIC) {
            StorageError::corrupted(format!("truncated: {what}")).into()
        } else {
            DatabaseError::NotADatabase(what.into())
        });
    }
    match select(header::decode(&blocks[0]), slots) {
        Ok(selection) => Ok(Found::Database(Box::new(selection))),
        Err(SelectError::NotADatabase) => Err(DatabaseError::NotADatabase(
            "neither the first block nor the two after it are those of a database".into(),
        )),
        Err(SelectError::Foreign(FormatError::Version(found))) => {
            Err(DatabaseError::UnsupportedVersion { found, supported: FORMAT_VERSION })
        }
        Err(SelectError::Foreign(FormatError::Features(bits))) => Err(DatabaseError::UnsupportedFeatures(bits)),
        Err(SelectError::Foreign(FormatError::Damaged(error))) => Err(StorageError::from(error).into()),
        Err(SelectError::Corrupted(reason)) => Err(StorageError::corrupted(reason).into()),
    }
}

/// The fixed blocks, zero where the file is shorter.
fn read_blocks(storage: &dyn Storage, len: u64) -> Result<Blocks> {
    let mut bytes = vec![0; 3 * BLOCK_BYTES];
    let present = usize::try_from(len.min(EMPTY_BYTES)).unwrap_or(bytes.len());
    storage.read_at(0, &mut [IoSliceMut::new(&mut bytes[..present])]).map_err(StorageError::io("read"))?;
    let mut blocks = [[0; BLOCK_BYTES]; 3];
    for (block, bytes) in blocks.iter_mut().zip(bytes.chunks_exact(BLOCK_BYTES)) {
        block.copy_from_slice(bytes);
    }
    Ok(blocks)
}

/// Takes over what the slot names: the region table, and all bitmaps where an older slot has to serve.
fn load(storage: Arc<dyn Storage>, selection: Selection, options: &OpenOptions) -> Result<Opened> {
    let layout = selection.format.layout;
    let len = storage.len().map_err(StorageError::io("read length"))?;
    let len_units = len / u64::from(layout.unit_bytes());
    let slot = selection.slot;
    if slot.reach_units > len_units {
        return Err(StorageError::corrupted(format!(
            "truncated: the file has {len_units} units, its last commit reaches {}",
            slot.reach_units
        )));
    }
    // A file can be extended to any length without cost; memory is taken for one region more than is in use at most.
    let reached = layout
        .regions_for(slot.reach_units)
        .ok_or_else(|| StorageError::corrupted(format!("no database reaches {} units", slot.reach_units)))?;
    let listed = RegionTable::regions_in(slot.region_table.len_bytes).unwrap_or(0);
    let end_units = len_units.min(layout.region_start(reached.saturating_add(1).max(listed)));
    // The god byte names the slot that serves from now on, even where a torn commit had already changed it. Without a
    // trusted one the session counts as one that did not close.
    let recovery_required = selection.god.is_none_or(|god| god.recovery_required);
    let god = GodByte { primary: selection.index, recovery_required, ids_seen: false };
    let store = PageStore::new(storage, selection.format, god, end_units, options.cache_bytes_max)?;
    let store = store.with_limit(options.file_bytes_max);
    if options.read_only || selection.god.is_none() {
        store.keep_silent(true);
    }
    let mut allocator = if slot.region_table.page.is_none() {
        let mut allocator = Allocator::create(layout);
        allocator.grow(end_units);
        allocator
    } else {
        let table = slot.region_table;
        let bytes = store.read_digested(table.page, table.len_bytes, table.digest)?;
        let regions = RegionTable::regions_in(table.len_bytes)
            .ok_or_else(|| StorageError::corrupted_page(table.page, "no region table has that length"))?;
        let mut decoded = RegionTable::decode(&bytes, regions)?;
        let present = layout
            .regions_for(end_units)
            .ok_or_else(|| StorageError::corrupted(format!("no database has {end_units} units")))?;
        decoded.resize(&layout, present)?;
        Allocator::open(layout, &decoded, end_units)?
    };
    if selection.fell_back {
        allocator.load_all(&store)?;
    }
    // An invalid other slot names nothing; a valid one may serve again, so what it reaches stays.
    let other_reach_units = selection.other.map_or(0, |other| other.reach_units);
    allocator.charge_to(store.account());
    let reclaim = Reclaim::new(store.account());
    let trees = Trees { made: slot.transaction, data: slot.data, forward: slot.forward };
    let head = Version::of_trees(trees, slot.commit_time_micros);
    let durable = Durable {
        head,
        unrecorded: slot.transaction,
        room: FoldingRoom::default(),
        charge: Charge::new(store.account()),
        is_folding: false,
        fill_failed: 0,
        passed_rows: 0,
        unneeded: Vec::new(),
        reserve: None,
        slot,
        index: selection.index,
        other_reach_units,
        reclaim,
    };
    let header_damaged = selection.god.is_none();
    let are_ids_seen = recovery_required || selection.god.is_some_and(|god| god.ids_seen);
    Ok(Opened { store, space: Mutex::new(allocator), durable, notes: selection.notes, header_damaged, are_ids_seen })
}
