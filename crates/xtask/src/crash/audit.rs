//! The order of operations that the protocol prescribes, read off the log of the disk.
//!
//! Some of it no crash image can show, because later syncs happen to cover for it.

use super::timeline::Timeline;
use cowslip::WriteMode;
use cowslip::sim::{Operation, OperationKind};

const BLOCK_BYTES: u64 = 4096;

pub(super) fn is_block_zero(kind: &OperationKind) -> bool {
    matches!(kind, OperationKind::Write { offset: 0, .. })
}

pub(super) fn is_slot(kind: &OperationKind) -> bool {
    matches!(kind, OperationKind::Write { offset, .. } if *offset == BLOCK_BYTES || *offset == 2 * BLOCK_BYTES)
}

pub(super) fn is_sync(kind: &OperationKind) -> bool {
    matches!(kind, OperationKind::Sync(_))
}

/// A group of records of the redo log.
pub(super) fn is_group(kind: &OperationKind) -> bool {
    matches!(kind, OperationKind::Write { mode: WriteMode::Forced, .. })
}

/// Checks an undisturbed history.
pub(super) fn audit(timeline: &Timeline) -> Result<(), String> {
    let operations = timeline.disk.operations();
    let at = |number: u64| -> Option<&Operation> {
        operations.get(usize::try_from(number.checked_sub(1)?).ok()?).filter(|done| done.number == number)
    };
    let is = |number: u64, test: fn(&OperationKind) -> bool| at(number).is_some_and(|done| test(&done.kind));
    for slot in operations.iter().filter(|done| done.number >= timeline.created && is_slot(&done.kind)) {
        let number = slot.number;
        if !is(number - 1, is_sync) {
            return Err(format!("operation {number} writes a slot, and what it names was not synced just before"));
        }
        if !is(number + 1, is_block_zero) || !is(number + 2, is_sync) {
            return Err(format!("slot and god byte are not synced together after operation {number}"));
        }
    }
    if let Some(header) = operations.iter().find(|done| is_block_zero(&done.kind) && !is(done.number + 1, is_sync)) {
        return Err(format!("operation {} writes block 0, and no sync follows at once", header.number));
    }
    for session in &timeline.sessions {
        let opened = session.opened;
        let wrote = at(opened).is_some_and(|done| !matches!(done.kind, OperationKind::FlipBit { .. }));
        if session.began_clean && wrote && !(is(opened, is_block_zero) && is(opened + 1, is_sync)) {
            return Err(format!("operation {opened} is not followed by a sync, or does not mark the session as open"));
        }
        if let (Some(closing), Some(closed)) = (session.closing, session.closed)
            && closed > closing
            && !(is(closed - 1, is_sync) && is(closed - 2, is_block_zero) && is(closed - 3, is_sync))
        {
            return Err(format!("closing before operation {closed} does not mark the end between two syncs"));
        }
    }
    Ok(())
}
