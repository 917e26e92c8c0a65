//! Which slot serves after opening, and why.
//!
//! Invariant: the highest generation with a valid digest wins; the god byte confirms it and never chooses a lower
//! one. The older slot serves only where recovery was required.
//! Layer 2 (pages). Rules: design.md, "Opening".

use super::header::{Format, FormatError, GodByte, Header};
use super::slot::{Slot, SlotState};
use std::fmt;

/// What was noticed while opening; nothing of it is silent.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenNote {
    /// The last session did not close; its last durable commit is served.
    RecoveredAfterCrash,
    /// The newest slot was torn or damaged, and the session that wrote it did not close: the commit before serves.
    ServedOlderSlot {
        /// Index of the slot that could not be used.
        invalid_slot: u8,
        /// What was wrong with it.
        reason: String,
    },
    /// The slot that was not needed is damaged; the next commit overwrites it.
    OtherSlotInvalid {
        /// Index of the damaged slot.
        slot: u8,
        /// What was wrong with it.
        reason: String,
    },
    /// Block 0 is damaged; the copy of its fields in the slot serves. Writing is refused until it is repaired.
    HeaderDamaged {
        /// What was wrong with it.
        reason: String,
    },
    /// The god byte names another slot than the highest generation, which serves nevertheless.
    GodByteDisagrees,
}

impl fmt::Display for OpenNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RecoveredAfterCrash => f.write_str("the last session did not close; recovered its last commit"),
            Self::ServedOlderSlot { invalid_slot, reason } => {
                write!(f, "slot {invalid_slot} could not be used ({reason}), so the commit before it serves")
            }
            Self::OtherSlotInvalid { slot, reason } => write!(f, "the unused slot {slot} is damaged ({reason})"),
            Self::HeaderDamaged { reason } => write!(f, "block 0 is damaged ({reason}); a slot's copy serves"),
            Self::GodByteDisagrees => f.write_str("the god byte names another slot than the newest one"),
        }
    }
}

/// The slot that serves.
#[derive(Debug)]
pub(crate) struct Selection {
    pub(crate) index: u8,
    pub(crate) slot: Slot,
    pub(crate) format: Format,
    /// `None` where block 0 is damaged, so that nothing may be written before it is repaired.
    pub(crate) god: Option<GodByte>,
    /// The other slot, where it is valid: what it reaches must survive truncation.
    pub(crate) other: Option<Slot>,
    /// The chosen slot is older than one that could not be used: all that it names must be verified first.
    pub(crate) fell_back: bool,
    pub(crate) notes: Vec<OpenNote>,
}

/// Why no slot serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SelectError {
    /// Neither block 0 nor a slot says that this is a database.
    NotADatabase,
    /// Another format version or unknown features.
    Foreign(FormatError),
    /// A database, but the slot that must serve is damaged.
    Corrupted(String),
}

/// Chooses from what was read of block 0 and the two slots.
pub(crate) fn select(header: Option<Header>, slots: [SlotState; 2]) -> Result<Selection, SelectError> {
    let mut notes = Vec::new();
    for state in &slots {
        if let SlotState::Foreign(error) = state {
            return Err(SelectError::Foreign(error.clone()));
        }
    }
    let (header_format, god) = judge_header(header, &mut notes)?;
    let (index, fell_back) = choose(&slots, god, header_format.is_some(), &mut notes)?;
    let [first, second] = slots;
    let (chosen, other) = if index == 0 { (first, second) } else { (second, first) };
    let SlotState::Valid(slot, format) = chosen else { unreachable!("only valid slots are chosen") };
    if header_format.is_some_and(|found| found != format) {
        return Err(SelectError::Corrupted("block 0 and the newest slot disagree about the format".into()));
    }
    if god.is_some_and(|god| god.recovery_required) && !fell_back {
        notes.push(OpenNote::RecoveredAfterCrash);
    }
    let other = match other {
        SlotState::Valid(_, found) if found != format => {
            return Err(SelectError::Corrupted("the two commit slots disagree about the format".into()));
        }
        SlotState::Valid(slot, _) => Some(*slot),
        _ => None,
    };
    Ok(Selection { index, slot: *slot, format, god, other, fell_back, notes })
}

/// Block 0's fields and god byte, where the block can be trusted.
fn judge_header(
    header: Option<Header>,
    notes: &mut Vec<OpenNote>,
) -> Result<(Option<Format>, Option<GodByte>), SelectError> {
    let damaged = |notes: &mut Vec<OpenNote>, reason: String| {
        notes.push(OpenNote::HeaderDamaged { reason });
        Ok((None, None))
    };
    match header {
        None => damaged(notes, "the magic is not there".into()),
        Some(Header { format: Err(FormatError::Damaged(error)), .. }) => damaged(notes, error.to_string()),
        Some(Header { format: Err(foreign), .. }) => Err(SelectError::Foreign(foreign)),
        Some(Header { format: Ok(_), god: None }) => damaged(notes, "the god byte is damaged".into()),
        Some(Header { format: Ok(format), god: Some(god) }) => Ok((Some(format), Some(god))),
    }
}

/// Index of the slot that serves, and whether that is a step back.
fn choose(
    slots: &[SlotState; 2],
    god: Option<GodByte>,
    header_found: bool,
    notes: &mut Vec<OpenNote>,
) -> Result<(u8, bool), SelectError> {
    let generation = |state: &SlotState| match state {
        SlotState::Valid(slot, _) => Some(slot.generation),
        _ => None,
    };
    match (generation(&slots[0]), generation(&slots[1])) {
        (Some(a), Some(b)) if a == b => {
            Err(SelectError::Corrupted(format!("both slots carry generation {a}, which no commit can leave")))
        }
        (Some(a), Some(b)) => {
            let newest = u8::from(b > a);
            if god.is_some_and(|god| god.primary != newest) {
                notes.push(OpenNote::GodByteDisagrees);
            }
            Ok((newest, false))
        }
        (Some(generation), None) => choose_lone(0, generation, &slots[1], god, notes),
        (None, Some(generation)) => choose_lone(1, generation, &slots[0], god, notes),
        (None, None) if header_found => Err(SelectError::Corrupted("neither commit slot is valid".into())),
        (None, None) => Err(SelectError::NotADatabase),
    }
}

/// Only one slot is valid: either the other was never written, or was not needed, or the valid one is a step back.
fn choose_lone(
    valid: u8,
    generation: u64,
    other: &SlotState,
    god: Option<GodByte>,
    notes: &mut Vec<OpenNote>,
) -> Result<(u8, bool), SelectError> {
    let invalid = 1 - valid;
    // A fresh database has written one slot only; a god byte that names the blank one says that it was lost.
    let fresh = generation == 1 && god.is_some_and(|god| god.primary == valid);
    let reason = match other {
        SlotState::Blank if fresh => return Ok((valid, false)),
        SlotState::Blank => "every byte is zero".to_string(),
        SlotState::Invalid(error) => error.to_string(),
        SlotState::Valid(..) | SlotState::Foreign(_) => unreachable!("the caller found it invalid"),
    };
    match god {
        Some(god) if god.recovery_required => {
            notes.push(OpenNote::ServedOlderSlot { invalid_slot: invalid, reason });
            Ok((valid, true))
        }
        Some(god) if god.primary == valid => {
            notes.push(OpenNote::OtherSlotInvalid { slot: invalid, reason });
            Ok((valid, false))
        }
        Some(_) => Err(SelectError::Corrupted(format!(
            "the database was closed cleanly, but its newest commit slot {invalid} is damaged: {reason}"
        ))),
        None => Err(SelectError::Corrupted(format!(
            "block 0 and commit slot {invalid} are both damaged ({reason}), so it is not known which commit is the last"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::codec::DecodeError;
    use crate::base::ids::{TransactionId, TreeRoot};
    use crate::pages::layout::Layout;
    use crate::pages::slot::Blob;

    fn format() -> Format {
        Format { layout: Layout::new(4096, 2, 65536).unwrap(), uuid: [5; 16], read_only_compatible: 0, compatible: 0 }
    }

    fn valid(generation: u64) -> SlotState {
        let slot = Slot {
            generation,
            transaction: TransactionId::new(generation),
            commit_time_micros: 0,
            session: [0; 16],
            data: TreeRoot::EMPTY,
            forward: TreeRoot::EMPTY,
            region_table: Blob::NONE,
            log: None,
            reach_units: 3,
            application_id: 0,
            user_version: 0,
        };
        SlotState::Valid(Box::new(slot), format())
    }

    fn torn() -> SlotState {
        SlotState::Invalid(DecodeError::new("torn"))
    }

    fn header(primary: u8, recovery_required: bool) -> Option<Header> {
        Some(Header { format: Ok(format()), god: Some(GodByte { primary, recovery_required, ids_seen: false }) })
    }

    #[test]
    fn r13_highest_generation_wins_over_the_god_byte_which_is_reported() {
        let selection = select(header(0, true), [valid(4), valid(5)]).unwrap();
        assert_eq!((selection.index, selection.fell_back), (1, false));
        assert!(selection.notes.contains(&OpenNote::GodByteDisagrees));
    }

    #[test]
    fn r13_older_slot_serves_only_where_recovery_was_required() {
        let selection = select(header(1, true), [valid(4), torn()]).unwrap();
        assert_eq!((selection.index, selection.fell_back), (0, true));
        assert!(matches!(selection.notes[..], [OpenNote::ServedOlderSlot { invalid_slot: 1, .. }]));
        assert!(matches!(select(header(1, false), [valid(4), torn()]), Err(SelectError::Corrupted(_))));
    }

    #[test]
    fn r13_damage_to_the_unneeded_slot_of_a_closed_database_is_reported() {
        let selection = select(header(0, false), [valid(4), torn()]).unwrap();
        assert_eq!((selection.index, selection.fell_back), (0, false));
        assert!(matches!(selection.notes[..], [OpenNote::OtherSlotInvalid { slot: 1, .. }]));
    }

    #[test]
    fn damage_to_block_0_is_survived_when_both_slots_are_whole() {
        let selection = select(None, [valid(6), valid(5)]).unwrap();
        assert_eq!(selection.slot.generation, 6);
        assert!(selection.god.is_none());
        assert!(matches!(select(None, [valid(6), torn()]), Err(SelectError::Corrupted(_))));
    }

    #[test]
    fn a_fresh_database_has_one_blank_slot() {
        let selection = select(header(0, false), [valid(1), SlotState::Blank]).unwrap();
        assert!(selection.notes.is_empty() && !selection.fell_back);
        assert!(matches!(select(header(0, false), [SlotState::Blank, valid(2)]), Err(SelectError::Corrupted(_))));
        assert!(matches!(select(header(1, false), [valid(1), SlotState::Blank]), Err(SelectError::Corrupted(_))));
        let stepped_back = select(header(1, true), [valid(1), SlotState::Blank]).unwrap();
        assert!(matches!(stepped_back.notes[..], [OpenNote::ServedOlderSlot { invalid_slot: 1, .. }]));
    }

    #[test]
    fn foreign_bytes_are_not_a_database() {
        assert_eq!(select(None, [torn(), torn()]).unwrap_err(), SelectError::NotADatabase);
        assert!(matches!(select(header(0, true), [torn(), torn()]), Err(SelectError::Corrupted(_))));
    }
}
