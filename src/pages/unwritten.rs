//! Pages of published versions that are not on the storage yet.
//!
//! Invariant: such a page is found here, whatever the cache keeps of it, until it was written or its run is given back.
//! Layer 2 (pages). Rules: design.md, "Commit".

use super::account::{Account, Charge};
use super::behind::Sealed;
use super::cache::PageMap;
use crate::base::ids::PageId;
use crate::base::sync::atomic::{AtomicUsize, Ordering};
use crate::base::sync::{Arc, Mutex, RwLock};

/// What a page takes beside its bytes.
const ENTRY_BYTES: usize = 96;

/// The content of a page, shared with whoever writes it.
#[derive(Debug)]
pub(crate) struct Content(Box<[u8]>);

impl Content {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Pages by number.
#[derive(Debug)]
pub(crate) struct Unwritten {
    pages: RwLock<PageMap<Arc<Content>>>,
    /// Pages in the map, to be asked without a lock.
    count: AtomicUsize,
    charge: Mutex<Bytes>,
}

#[derive(Debug)]
struct Bytes {
    bytes: usize,
    charge: Charge,
}

impl Unwritten {
    pub(super) fn new(account: &Arc<Account>) -> Self {
        let charge = Mutex::new(Bytes { bytes: 0, charge: Charge::new(account) });
        Self { pages: RwLock::default(), count: AtomicUsize::new(0), charge }
    }

    /// Copies a page, or a part of it from its begin on, if it is here.
    pub(super) fn read(&self, page: PageId, out: &mut [u8]) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let pages = self.pages.read();
        let found = pages.get(&page).and_then(|content| content.bytes().get(..out.len()));
        found.map(|bytes| out.copy_from_slice(bytes)).is_some()
    }

    pub(super) fn contains(&self, page: PageId) -> bool {
        self.count.load(Ordering::Acquire) > 0 && self.pages.read().contains_key(&page)
    }

    pub(super) fn insert(&self, sealed: Vec<Sealed>) {
        let added: usize = sealed.iter().map(|sealed| sealed.bytes.len() + ENTRY_BYTES).sum();
        let mut pages = self.pages.write();
        for sealed in sealed {
            let before = pages.insert(sealed.page, Arc::new(Content(sealed.bytes)));
            assert!(before.is_none(), "a page is published once before its run is given back");
        }
        self.count.store(pages.len(), Ordering::Release);
        drop(pages);
        self.change_bytes(added, 0);
    }

    pub(super) fn remove(&self, page: PageId) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut pages = self.pages.write();
        let Some(content) = pages.remove(&page) else { return };
        self.count.store(pages.len(), Ordering::Release);
        drop(pages);
        self.change_bytes(0, content.bytes().len() + ENTRY_BYTES);
    }

    fn change_bytes(&self, added: usize, removed: usize) {
        let mut charge = self.charge.lock();
        charge.bytes = charge.bytes + added - removed;
        let bytes = charge.bytes;
        charge.charge.set(bytes);
    }

    /// Memory that the pages take.
    pub(crate) fn bytes(&self) -> usize {
        self.charge.lock().bytes
    }

    /// All pages, for whoever writes them.
    pub(crate) fn pages(&self) -> Vec<(PageId, Arc<Content>)> {
        self.pages.read().iter().map(|(page, content)| (*page, Arc::clone(content))).collect()
    }

    /// Forgets pages that are on the storage by now.
    pub(crate) fn written(&self, written: &[(PageId, Arc<Content>)]) {
        let mut removed = 0;
        let mut pages = self.pages.write();
        for (page, content) in written {
            // The run may have been given back and used again meanwhile.
            if pages.get(page).is_some_and(|now| Arc::ptr_eq(now, content)) {
                pages.remove(page);
                removed += content.bytes().len() + ENTRY_BYTES;
            }
        }
        self.count.store(pages.len(), Ordering::Release);
        drop(pages);
        self.change_bytes(0, removed);
    }
}
