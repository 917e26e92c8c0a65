//! Giving free space at the end of the file back, and closing.
//!
//! Invariant: the file is cut only above every run that memory holds or that either slot reaches; a poisoned handle
//! writes nothing.
//! Layer 5 (txn). Rules: design.md, "Closing".

use super::checkpoint::LogAfter;
use super::core::{Core, Durable};
use super::room::FoldingRoom;
use crate::base::error::Result;
use crate::base::sync::atomic::Ordering;

/// A free tail is cut after a commit once it is longer than this share of the file, and than `TRIM_UNITS_MIN`.
const TRIM_SHARE: u64 = 4;

const TRIM_UNITS_MIN: u64 = 256;

impl Core {
    /// Cuts a free tail that has become long. A failure poisons the store; the commit before it stands.
    pub(crate) fn trim(&self, durable: &mut Durable) {
        // What is laid over trees must not lose the room that was found for it: others could take it meanwhile.
        if !durable.head.delta.is_empty() {
            return;
        }
        let outcome = self.cut_floor(durable).and_then(|floor| {
            let end = self.store.end_units();
            // Some room stays, so that the next transaction need not grow the file again.
            let target = floor + floor / 16;
            if end.saturating_sub(target) > (end / TRIM_SHARE).max(TRIM_UNITS_MIN) {
                self.cut(durable, target)
            } else {
                Ok(())
            }
        });
        if let Err(error) = outcome {
            log::warn!("the free end of the file could not be given back: {error}");
        }
    }

    /// The lowest length, in units, that the file may be cut to.
    fn cut_floor(&self, durable: &Durable) -> Result<u64> {
        let allocated = self.space.lock().highest_allocated_end(&*self.store)?;
        Ok(allocated.max(durable.slot.reach_units).max(durable.other_reach_units))
    }

    fn cut(&self, durable: &mut Durable, end_units: u64) -> Result<()> {
        durable.room = FoldingRoom::default();
        let mut space = self.space.lock();
        self.store.truncate(end_units)?;
        space.truncate(end_units);
        Ok(())
    }

    /// Cuts the whole free tail. The writer's turn is taken, or nobody uses the database any more.
    pub(crate) fn cut_tail(&self, durable: &mut Durable) -> Result<()> {
        self.finish_checkpoint(durable)?;
        self.sweep(durable);
        let floor = self.cut_floor(durable)?;
        if floor < self.store.end_units() {
            self.cut(durable, floor)?;
            // What others laid over trees meanwhile gets its room back.
            let delta = durable.head.delta.clone();
            if !delta.is_empty() {
                self.has_room_over_trees(durable, &delta)?;
            }
        }
        Ok(())
    }

    /// Writes what only the log tells, and gives its space back: the older slot has to let go of it as well.
    fn let_log_go(&self, durable: &mut Durable) -> Result<()> {
        if durable.slot.log.is_none() && durable.head.id == durable.slot.transaction {
            return Ok(());
        }
        self.checkpoint(durable, LogAfter::None)?;
        if durable.other_reach_units > self.cut_floor(durable)?.min(durable.slot.reach_units) {
            self.checkpoint(durable, LogAfter::None)?;
        }
        Ok(())
    }

    /// Concludes the session: cuts the free tail and marks the file as closed. Nobody else uses the database any more. Where
    /// nothing can be written it fails if something is lost that its application was told nothing else of.
    pub(crate) fn shut_down(&self) -> Result<()> {
        let may_write = self.is_recovered.load(Ordering::Acquire) && !self.is_read_only();
        let mut durable = self.durable.lock();
        if self.store.is_poisoned() {
            return self.queue.check_shown(durable.is_log_cut());
        }
        if may_write {
            self.come_to_rest(&mut durable)?;
        }
        if may_write && (self.store.is_marked_open() || durable.head.id != durable.slot.transaction) {
            self.let_log_go(&mut durable)?;
            self.cut_tail(&mut durable)?;
            // Without a commit of this session the ids that readers saw in one that was not closed have still to be passed.
            self.store.mark_closed(!self.is_beyond_seen(durable.head.id))?;
        }
        Ok(())
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.queue.end();
        self.checkpointer.end();
        if let Err(error) = self.shut_down() {
            log::error!("closing the database failed, the next opening recovers it: {error}");
        }
        if let Err(error) = self.store.unlock() {
            log::warn!("the lock could not be given back: {error}");
        }
        self.store.meter().end();
    }
}
