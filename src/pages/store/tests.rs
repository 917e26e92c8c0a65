//! Tests of what needs to look inside the store.
//!
//! Invariant: a store that failed once writes no more.
//! Layer 2 (pages).

use super::*;
use crate::io::memory::MemoryStorage;

fn store() -> PageStore {
    let storage = MemoryStorage::new();
    storage.set_len(u64::from(Layout::FIXED_BYTES)).unwrap();
    let layout = Layout::new(512, 1, 64).unwrap();
    let format = Format { layout, uuid: [1; 16], read_only_compatible: 0, compatible: 0 };
    let god = GodByte { primary: 0, recovery_required: false, ids_seen: false };
    PageStore::new(Arc::new(storage), format, god, u64::from(layout.header_units()), 1 << 20).unwrap()
}

fn page(number: u64) -> PageId {
    PageId::new(number).unwrap()
}

#[test]
fn r20_a_poisoned_store_neither_writes_nor_grows() {
    let store = store();
    store.grow(40).unwrap();
    store.poisoned.store(true, Ordering::Release);
    let before = store.storage.len().unwrap();
    assert!(matches!(store.grow(80), Err(StorageError::Poisoned)));
    assert!(matches!(store.truncate(30), Err(StorageError::Poisoned)));
    assert!(matches!(store.write_pages(&mut [(page(30), &[1; 512])]), Err(StorageError::Poisoned)));
    assert_eq!((store.storage.len().unwrap(), store.end_units()), (before, 40));
}

#[test]
fn pages_in_any_order_and_of_any_length_land_at_their_addresses() {
    let store = store();
    store.grow(88).unwrap();
    let contents: Vec<(u64, Vec<u8>)> = [(40, 700), (26, 512), (42, 512), (27, 1), (60, 2048), (28, 513)]
        .map(|(at, len): (u64, usize)| (at, vec![u8::try_from(at).unwrap(); len]))
        .into();
    let mut pages: Vec<_> = contents.iter().map(|(at, bytes)| (page(*at), &bytes[..])).collect();
    store.write_pages(&mut pages).unwrap();
    for (at, bytes) in &contents {
        let units = u32::try_from(bytes.len().div_ceil(512)).unwrap();
        let found = store.load(Run::new(page(*at), units), bytes.len() as u64, Expected::Child(child_sum(bytes)));
        assert_eq!(found.unwrap()[..], bytes[..]);
    }
    let wrong = store.load(Run::new(page(26), 1), 512, Expected::Child(5));
    assert!(wrong.is_err_and(|error| error.is_corruption()));
}
