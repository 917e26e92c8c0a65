//! How many frames may be in use: as many as the account of memory leaves room for.
//!
//! Invariant: no frame gets memory while as many as the limit have some.
//! Layer 2 (pages).

use super::{EVICT_BATCH, Frames, Pool};
use crate::base::sync::Arc;
use crate::pages::account::Account;

/// What the state of a frame and the name of its page take.
const STATE_BYTES: usize = size_of::<u32>() + size_of::<u64>();

/// What a frame takes in the lists of the pool.
const POOL_BYTES: usize = 24;

/// What is given back by one call, in batches of frames.
const SHRINK_BATCHES_MAX: usize = 64;

impl Frames {
    /// The same frames, of which no more are used at a time than the account leaves room for.
    pub(crate) fn under(self, account: &Arc<Account>) -> Self {
        Self { account: Arc::clone(account), ..self }
    }

    /// Frames that may have memory now.
    pub(super) fn limit(&self) -> u32 {
        let cost = self.frame_bytes + STATE_BYTES + POOL_BYTES;
        u32::try_from(self.account.frames_bytes_max() / cost).map_or(self.capacity, |limit| limit.min(self.capacity))
    }

    /// Brings the frames in use down to the limit, as far as readers let go of them, and not much of it at a time: for
    /// whoever takes memory from the frames and loads none.
    pub(crate) fn keep_limit(&self) {
        let limit = self.limit();
        for _ in 0..SHRINK_BATCHES_MAX {
            let mut pool = self.pool.lock();
            if pool.in_use() <= limit {
                return;
            }
            self.shrink(&mut pool, limit);
        }
    }

    /// Brings the frames in use towards the limit: a batch, because what is evicted now is free only later.
    pub(super) fn shrink(&self, pool: &mut Pool, limit: u32) {
        self.drain_limbo(pool);
        if pool.free.len() < EVICT_BATCH {
            self.evict(pool);
        }
        for _ in 0..EVICT_BATCH.min((pool.in_use() - limit) as usize) {
            let Some(index) = pool.free.pop() else { break };
            self.return_memory(index);
            pool.returned.push(index);
        }
    }

    #[cfg(not(all(unix, not(miri))))]
    fn return_memory(&self, _index: u32) {}
}

impl Pool {
    /// Frames that have memory, or are about to.
    pub(super) fn in_use(&self) -> u32 {
        self.fresh - u32::try_from(self.returned.len()).expect("frames are counted in 32 bits")
    }
}
