//! Verified values, rests of keys and extent lists in memory, by page number.
//!
//! Invariant: an entry is the current content of its run: it is dropped before the run can be handed out again.
//! Layer 2 (pages).

use crate::base::ids::PageId;
use crate::base::sync::{Arc, Mutex};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

/// Hashes page numbers, which are dense, by one multiplication.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct PageHasher(u64);

impl Hasher for PageHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}

/// A map keyed by page number.
pub(crate) type PageMap<V> = HashMap<PageId, V, BuildHasherDefault<PageHasher>>;

const SHARDS: usize = 16;

/// What an entry takes beside its bytes: in the map, in the ring with the names that are stale, and in the heap.
const ENTRY_BYTES: usize = 192;

/// A cache of immutable buffers under a byte budget, evicted by a clock.
#[derive(Debug)]
pub(crate) struct Cache {
    shards: Vec<Mutex<Shard>>,
    shard_bytes_max: usize,
}

#[derive(Debug, Default)]
struct Shard {
    entries: PageMap<Entry>,
    /// Clock order: pages, and the stamps that their entries had. Names whose entry is gone are skipped.
    ring: VecDeque<(PageId, u64)>,
    bytes: usize,
    /// Counts entries, so that a name tells one entry of a page from a later one.
    stamp: u64,
}

#[derive(Debug)]
struct Entry {
    bytes: Arc<[u8]>,
    stamp: u64,
    referenced: bool,
}

impl Cache {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::new(Shard::default())).collect(),
            shard_bytes_max: bytes_max / SHARDS,
        }
    }

    fn shard(&self, page: PageId) -> &Mutex<Shard> {
        let spread = page.get().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60;
        &self.shards[usize::try_from(spread).unwrap_or(0) % SHARDS]
    }

    /// What is cached of `page`.
    pub(crate) fn get(&self, page: PageId) -> Option<Arc<[u8]>> {
        let mut shard = self.shard(page).lock();
        let entry = shard.entries.get_mut(&page)?;
        entry.referenced = true;
        Some(Arc::clone(&entry.bytes))
    }

    pub(crate) fn contains(&self, page: PageId) -> bool {
        self.shard(page).lock().entries.contains_key(&page)
    }

    /// Keeps `bytes`, evicting others where the budget asks for it. What alone exceeds the budget is not kept.
    pub(crate) fn insert(&self, page: PageId, bytes: Arc<[u8]>) {
        if bytes.len() + ENTRY_BYTES > self.shard_bytes_max {
            return;
        }
        let mut shard = self.shard(page).lock();
        shard.remove(page);
        shard.stamp += 1;
        shard.bytes += bytes.len() + ENTRY_BYTES;
        let stamp = shard.stamp;
        shard.entries.insert(page, Entry { bytes, stamp, referenced: false });
        shard.ring.push_back((page, stamp));
        while shard.bytes > self.shard_bytes_max {
            shard.evict_one();
        }
    }

    pub(crate) fn remove(&self, page: PageId) {
        self.shard(page).lock().remove(page);
    }

    #[cfg(test)]
    /// Bytes held now, with what holding them takes.
    pub(crate) fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().bytes).sum()
    }
}

impl Shard {
    fn remove(&mut self, page: PageId) {
        let Some(entry) = self.entries.remove(&page) else { return };
        self.bytes -= entry.bytes.len() + ENTRY_BYTES;
        // The ring keeps the stale name. Dropping all of them once they outnumber the entries is cheap on average.
        if self.ring.len() > 2 * self.entries.len() + 64 {
            let Self { entries, ring, .. } = self;
            ring.retain(|(page, stamp)| entries.get(page).is_some_and(|entry| entry.stamp == *stamp));
        }
    }

    fn evict_one(&mut self) {
        let Some((page, stamp)) = self.ring.pop_front() else { return };
        let Some(entry) = self.entries.get_mut(&page).filter(|entry| entry.stamp == stamp) else { return };
        if entry.referenced {
            entry.referenced = false;
            self.ring.push_back((page, stamp));
        } else {
            self.bytes -= entry.bytes.len() + ENTRY_BYTES;
            self.entries.remove(&page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(number: u64) -> PageId {
        PageId::new(number).unwrap()
    }

    #[test]
    fn budget_holds_under_any_number_of_insertions() {
        let cache = Cache::new(SHARDS * 4096);
        for number in 1..5000 {
            cache.insert(page(number), vec![0; 1024].into());
            assert!(cache.bytes() <= SHARDS * 4096);
        }
        let entries: usize = cache.shards.iter().map(|shard| shard.lock().entries.len()).sum();
        assert_eq!(cache.bytes(), entries * (1024 + ENTRY_BYTES));
        assert_eq!(entries, SHARDS * (4096 / (1024 + ENTRY_BYTES)));
    }

    #[test]
    fn a_removed_page_is_gone_and_can_come_back() {
        let cache = Cache::new(1 << 20);
        for round in 0..300_u64 {
            let byte = u8::try_from(round % 251).unwrap();
            cache.insert(page(7), vec![byte; 16].into());
            assert_eq!(cache.get(page(7)).unwrap()[0], byte);
            cache.remove(page(7));
            assert!(!cache.contains(page(7)));
        }
        assert_eq!(cache.bytes(), 0);
    }

    #[test]
    fn names_of_gone_entries_are_dropped_all_at_once() {
        let cache = Cache::new(1 << 20);
        let longest = || cache.shards.iter().map(|shard| shard.lock().ring.len()).max().unwrap();
        for number in 1..=1600 {
            cache.insert(page(number), vec![0; 16].into());
        }
        let mut before = longest();
        let mut shrunk = 0;
        for round in 0..10 {
            for number in 1..=1600 {
                cache.remove(page(number));
                cache.insert(page(number), vec![round; 16].into());
                let now = longest();
                shrunk += u32::from(now < before);
                before = now;
            }
        }
        assert!(before <= 2 * 1600 / 8 + 65, "{before} names");
        assert!(shrunk < 400, "the names were searched {shrunk} times for gone entries");
        assert!((1..=1600).all(|number| cache.get(page(number)).is_some()));
    }
}
